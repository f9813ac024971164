// math.h - the scalar functions that functors call. A bare exp(x) on a float is computed in double on the host and in
// float on the device; math::exp keeps the type. Float exp is a branch-free polynomial, so that loops vectorise.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define MOTE_HD __host__ __device__ __forceinline__
#else
#define MOTE_HD inline __attribute__((always_inline))
#endif

namespace mote::math {

/// x, such that the compiler does not fuse the product it came from with a sum that the caller makes of it. GCC decides
/// that anew for the vector body of a loop and for its scalar rest, so an element's bits would depend on where the
/// loop was cut, that is on the number of threads. What ends in a product and a NaN test returns through here.
MOTE_HD float unfused(float x) {
#if defined(__CUDA_ARCH__)
  return x;   // one element a thread: there is no rest
#elif defined(__has_builtin) && __has_builtin(__builtin_assoc_barrier)
  return __builtin_assoc_barrier(x);
#elif defined(__has_builtin) && __has_builtin(__arithmetic_fence)
  return __arithmetic_fence(x);
#else
  return x;
#endif
}

/// e^x within 1.5 ulp for x in [-87, 88]; 0 below -87.3, inf above 88.72; NaN stays NaN.
MOTE_HD float exp(float x) {
#ifdef __CUDA_ARCH__
  return ::expf(x);
#else
  // x = n ln2 + r with |r| <= ln2/2. ln2 is split in two so that r is exact to the last bit; e^r is its Taylor
  // polynomial of degree 7 (remainder 2^-28 of the value); 2^n is put into the exponent in two halves, so that
  // neither overflows before the product does.
  float bounded = x < -104.0f ? -104.0f : x;
  bounded = bounded > 89.0f ? 89.0f : bounded;
  float n = bounded * 1.44269504088896341f + 12582912.0f;   // 1.5 * 2^23: the addition rounds to an integer
  int32_t exponent = std::bit_cast<int32_t>(n) - 0x4b400000;
  n -= 12582912.0f;
  float r = bounded - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.0f / 5040.0f;
  p = p * r + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * (r * r) + r + 1.0f;
  int32_t half = exponent >> 1;
  float low = std::bit_cast<float>((half + 127) << 23);
  float high = std::bit_cast<float>((exponent - half + 127) << 23);
  float y = p * low * high;
  return unfused(x == x ? y : x);
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

/// 1 / (1 + e^-x) within 3 ulp for x >= -87; below, where it is less than 2e-38, it stays at that value.
MOTE_HD float sigmoid(float x) {
#ifdef __CUDA_ARCH__
  return 1.0f / (1.0f + exp(-x));
#else
  // A vector division takes as long as the whole exponential. The denominator lies in [1, 2^126]: an integer
  // subtraction gives its reciprocal within 12 %, three Newton steps r <- r (2 - d r) square that error thrice.
  float d = 1.0f + exp(x < -87.0f ? 87.0f : -x);
  float r = std::bit_cast<float>(0x7ef311c7 - std::bit_cast<int32_t>(d));
  r = r * (2.0f - d * r);
  r = r * (2.0f - d * r);
  r = r + r * (1.0f - d * r);   // the same step, rounded near r and not near 2: sigmoid(100) is 1
  return unfused(x == x ? r : x);
#endif
}
MOTE_HD double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

}  // namespace mote::math
