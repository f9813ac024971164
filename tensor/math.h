// math.h - the scalar functions that functors call. A bare exp(x) on a float is computed in double on the host and in
// float on the device; math::exp keeps the type. Float exp is a branch-free polynomial, so that loops vectorise.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define MOTE_HD __host__ __device__ __forceinline__
#else
#define MOTE_HD inline __attribute__((always_inline))
#endif

namespace mote::math {

/// a b + c, rounded once where the processor has the instruction. The compiler fuses nothing on its own in the files
/// of tensor/cpu that call functors (CMakeLists.txt): it would fuse differently in a vector loop and in its remainder.
MOTE_HD float fma(float a, float b, float c) {
#if defined(__CUDA_ARCH__) || defined(__FP_FAST_FMAF)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}
MOTE_HD double fma(double a, double b, double c) {
#if defined(__CUDA_ARCH__) || defined(__FP_FAST_FMA)
  return __builtin_fma(a, b, c);
#else
  return a * b + c;
#endif
}

#ifndef __CUDA_ARCH__
/// x limited to [low, high], low < 0 < high; NaN becomes a bound. By bit patterns, which are ordered as signed integers
/// from zero up and as unsigned ones from zero down: from two float comparisons GCC makes a branch, or mask arithmetic
/// that is slow in vectors.
MOTE_HD float limit(float x, float low, float high) {
  int32_t bits = std::min(std::bit_cast<int32_t>(x), std::bit_cast<int32_t>(high));
  return std::bit_cast<float>(std::min(uint32_t(bits), std::bit_cast<uint32_t>(low)));
}

/// e^x = fraction * 2^exponent with the fraction in [0.7, 1.42], for |x| <= 104.
struct ScaledExp {
  float fraction;
  int32_t exponent;
};
MOTE_HD ScaledExp scaled_exp(float x) {
  // x = n ln2 + r with |r| <= ln2/2. ln2 is split in two so that r is exact to the last bit; e^r is a polynomial of
  // degree 6 whose relative error, 4e-9, is the smallest for that interval with 1 + r fixed (Remez).
  float n = fma(x, 1.44269504088896341f, 12582912.0f);   // 1.5 * 2^23: the addition rounds to an integer
  int32_t exponent = std::bit_cast<int32_t>(n) - 0x4b400000;
  n -= 12582912.0f;
  float r = fma(n, 2.12194440e-4f, fma(n, -0.693359375f, x));
  float p = 1.38145406e-3f;
  p = fma(p, r, 8.36874545e-3f);
  p = fma(p, r, 4.16683890e-2f);
  p = fma(p, r, 0.166665211f);
  p = fma(p, r, 0.499999940f);
  return {fma(p, r * r, r) + 1.0f, exponent};
}
#endif

/// e^x within 1.5 ulp for x in [-87, 88]; 0 below -104, inf above 88.72; NaN stays NaN.
MOTE_HD float exp(float x) {
#ifdef __CUDA_ARCH__
  return ::expf(x);
#else
  // 2^n is multiplied in two halves, so that neither overflows before the product does.
  ScaledExp e = scaled_exp(limit(x, -104.0f, 89.0f));
  int32_t half = e.exponent >> 1;
  float low = std::bit_cast<float>((half + 127) << 23);
  float high = std::bit_cast<float>((e.exponent - half + 127) << 23);
  float y = e.fraction * low * high;
  return x == x ? y : x;
#endif
}
MOTE_HD double exp(double x) { return ::exp(x); }

MOTE_HD float log(float x) { return ::logf(x); }
MOTE_HD double log(double x) { return ::log(x); }
MOTE_HD float log1p(float x) { return ::log1pf(x); }
MOTE_HD double log1p(double x) { return ::log1p(x); }
MOTE_HD float sqrt(float x) { return ::sqrtf(x); }
MOTE_HD double sqrt(double x) { return ::sqrt(x); }
MOTE_HD float sin(float x) { return ::sinf(x); }
MOTE_HD double sin(double x) { return ::sin(x); }
MOTE_HD float cos(float x) { return ::cosf(x); }
MOTE_HD double cos(double x) { return ::cos(x); }
MOTE_HD float tanh(float x) { return ::tanhf(x); }
MOTE_HD double tanh(double x) { return ::tanh(x); }
MOTE_HD float pow(float x, float y) { return ::powf(x, y); }
MOTE_HD double pow(double x, double y) { return ::pow(x, y); }
MOTE_HD float abs(float x) { return ::fabsf(x); }
MOTE_HD double abs(double x) { return ::fabs(x); }

/// NaN in either argument gives NaN, as the tests on non-finite input require.
template <class T> MOTE_HD T max(T a, T b) { return (a > b || a != a) ? a : b; }
template <class T> MOTE_HD T min(T a, T b) { return (a < b || a != a) ? a : b; }

/// 1 / (1 + e^-x) within 3 ulp for x >= -87; less than 2e-38 below, 0 below -89; NaN stays NaN.
MOTE_HD float sigmoid(float x) {
#ifdef __CUDA_ARCH__
  return 1.0f / (1.0f + exp(-x));
#else
  // Within these limits 2^n is one float: 0 for n = -127, infinite for n = 128, which are the limits of the formula.
  ScaledExp e = scaled_exp(limit(-x, -88.0f, 89.0f));
  float y = 1.0f / fma(e.fraction, std::bit_cast<float>((e.exponent + 127) << 23), 1.0f);
  return x == x ? y : x;
#endif
}
MOTE_HD double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

/// The derivative of u sigmoid(u).
template <class T> MOTE_HD T silu_slope(T u) {
  T s = sigmoid(u);
  return s * fma(u, T(1) - s, T(1));
}

/// Probability that a standard normal number is below x: (1 + erf(x / sqrt 2)) / 2, within 2e-7, and within 1e-6 of
/// itself down to x = -5; NaN stays NaN. From the tail on the side of x, so that nothing cancels where x is negative.
MOTE_HD float normal_cdf(float x) {
  // The tail beyond a = |x| is e^(-a^2/2) t P(t) with t = 1 / (1 + 0.27 a); P of degree 8 has the smallest largest
  // relative error, 2.4e-8, for a in [0, 14] (Lawson's weights on Chebyshev nodes).
  float a = abs(x), t = 1.0f / fma(0.27f, a, 1.0f);
  float p = 0.0289153963f;
  p = fma(p, t, -0.126255854f);
  p = fma(p, t, 0.169292612f);
  p = fma(p, t, -0.0686223409f);
  p = fma(p, t, 0.107400358f);
  p = fma(p, t, 0.0722399032f);
  p = fma(p, t, 0.101759262f);
  p = fma(p, t, 0.107550493f);
  p = fma(p, t, 0.107720182f);
  float tail = exp(-0.5f * a * a) * t * p;
  return x > 0.0f ? 1.0f - tail : tail;
}
MOTE_HD double normal_cdf(double x) { return 0.5 * ::erfc(-0.70710678118654752440 * x); }

}  // namespace mote::math
