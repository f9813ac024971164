// random_math.h - Philox4x32-10 and the maps from its bits to uniform and normal numbers, for CPU and CUDA alike.
// Only operations that IEEE 754 rounds exactly (+ - * / sqrt, conversions) are used and no product is fused with a
// sum, so both devices give the same bits: the CPU file is compiled with -ffp-contract=off, the GPU's with
// -fmad=false. Branch-free, so that loops over blocks vectorise.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

#include "tensor/math.h"

namespace mote::philox {

struct Block {
  uint32_t word[4];
};

/// Ten rounds of Philox4x32 at counter (low, high, 0, 0) under `seed`.                       [Salmon 2011, sec. 3.3]
MOTE_HD Block block(uint64_t seed, uint64_t counter) {
  uint32_t c0 = uint32_t(counter), c1 = uint32_t(counter >> 32), c2 = 0, c3 = 0;
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    uint64_t p0 = uint64_t(0xD2511F53u) * c0;
    uint64_t p1 = uint64_t(0xCD9E8D57u) * c2;
    uint32_t n0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
    uint32_t n2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c1 = uint32_t(p1);
    c3 = uint32_t(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;   // the golden ratio and sqrt(3) - 1
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

MOTE_HD float uniform(uint32_t bits) { return float(bits >> 8) * 0x1p-24f; }                // [0, 1)
MOTE_HD double uniform(uint32_t high, uint32_t low) {
  return double((uint64_t(high) << 32 | low) >> 11) * 0x1p-53;
}

/// A number in 0..range-1: the upper half of the product of 64 random bits with range.
MOTE_HD uint64_t below(uint64_t range, uint32_t high, uint32_t low) {
  __extension__ using Wide = unsigned __int128;
  return uint64_t((Wide(uint64_t(high) << 32 | low) * range) >> 64);
}

/// uniform(bits) >= float(p) is bits >> 8 >= threshold: both sides are multiplied by 2^24.
inline uint32_t dropout_threshold(double p) { return uint32_t(std::ceil(double(float(p)) * 0x1p24)); }

/// ln(u) for u in [2^-60, 1]. u = 2^e m with m in [sqrt(1/2), sqrt(2)); ln m = 2 atanh(s), s = (m - 1) / (m + 1), by
/// the series 2 (s + s^3/3 + ...). |s| <= 0.1716, so six terms leave 1e-11 (float), twelve 1e-20 (double).
MOTE_HD float log_unit(float u) {
  int32_t bits = std::bit_cast<int32_t>(u);
  int32_t e = (bits - 0x3f3504f3) >> 23;   // 0x3f3504f3 is sqrt(1/2)
  float m = std::bit_cast<float>(bits - (e << 23));
  float s = (m - 1.0f) / (m + 1.0f);
  float q = s * s;
  float p = 2.0f / 11.0f;
  p = p * q + 2.0f / 9.0f;
  p = p * q + 2.0f / 7.0f;
  p = p * q + 2.0f / 5.0f;
  p = p * q + 2.0f / 3.0f;
  p = p * q + 2.0f;
  return float(e) * 0.693147180559945f + p * s;
}
MOTE_HD double log_unit(double u) {
  int64_t bits = std::bit_cast<int64_t>(u);
  int64_t e = (bits - 0x3fe6a09e667f3bcd) >> 52;
  double m = std::bit_cast<double>(bits - (e << 52));
  double s = (m - 1.0) / (m + 1.0);
  double q = s * s;
  double p = 2.0 / 23.0;
  for (int k = 21; k >= 1; k -= 2) p = p * q + 2.0 / double(k);
  return double(e) * 0.69314718055994530942 + p * s;
}

template <class T>
struct SinCos {
  T sin, cos;
};

/// sin and cos of 2 pi bits / 2^32: the top three bits choose the octant, the rest is an angle of at most pi/4 given
/// to the Taylor series (remainder below 1e-9 in float after x^9 and x^8, 1e-16 in double).
template <class T, int kTerms>
MOTE_HD SinCos<T> sincos_turn(uint32_t bits) {
  uint32_t octant = bits >> 29;
  uint32_t within = bits & 0x1fffffffu;
  uint32_t mirrored = (octant & 1) ? 0x20000000u - within : within;
  T x = T(int32_t(mirrored)) * T(1.46291807926715968e-9);   // pi/4 / 2^29
  T q = x * x;
  T s = T(1), c = T(1);
  for (int k = kTerms; k >= 1; --k) {   // nested Taylor series
    s = T(1) - s * q * T(1.0 / ((2 * k) * (2 * k + 1)));
    c = T(1) - c * q * T(1.0 / ((2 * k - 1) * (2 * k)));
  }
  s = s * x;
  bool swap = ((octant + 1) & 2) != 0;   // octants 1, 2, 5, 6
  T sine = swap ? c : s, cosine = swap ? s : c;
  sine = (octant & 4) ? -sine : sine;
  cosine = ((octant + 2) & 4) ? -cosine : cosine;
  return {sine, cosine};
}

/// Two normals from two words: r = sqrt(-2 ln u1), r cos(2 pi u2) and r sin(2 pi u2); u1 in (0, 1].   [Box & Muller 1958]
MOTE_HD SinCos<float> normal_pair(uint32_t radius, uint32_t angle) {
  float u = float(radius) * 0x1p-32f + 0x1p-33f;
  float r = math::sqrt(-2.0f * log_unit(u));
  SinCos<float> turn = sincos_turn<float, 4>(angle);
  return {r * turn.sin, r * turn.cos};
}
MOTE_HD SinCos<double> normal_pair64(uint32_t radius_high, uint32_t radius_low, uint32_t angle) {
  double u = uniform(radius_high, radius_low) + 0x1p-54;
  double r = math::sqrt(-2.0 * log_unit(u));
  SinCos<double> turn = sincos_turn<double, 8>(angle);
  return {r * turn.sin, r * turn.cos};
}

}  // namespace mote::philox
