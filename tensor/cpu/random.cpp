// Random draws, and dropout, which is one: element i is word i % 4 of Philox block offset + i / 4 (f64 and i64: half a block an element).
// Compiled with -ffp-contract=off (CMakeLists.txt): see random_math.h.
#include "tensor/random_math.h"

#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "tensor/cpu/parallel.h"
#include "tensor/kernels.h"

namespace mote::cpu {
namespace {

constexpr int64_t kBlocks = 64;   // blocks a round, so that the loops over them vectorise

typedef uint64_t Lanes __attribute__((vector_size(64)));   // a number of 32 bits each; what lies above is ignored

/// The product of the lower halves of a with b, in 64 bits.
inline Lanes product(Lanes a, uint32_t b) {
#ifdef __AVX512F__
  // GCC finds only the product of all 64 bits by itself, and warns of what it does inside the form without a mask.
  return Lanes(_mm512_maskz_mul_epu32(0xff, __m512i(a), _mm512_set1_epi64(b)));
#else
  return (a & 0xffffffffu) * uint64_t(b);
#endif
}

/// words[4 k + w] = word w of philox::block(seed, counter + k), eight blocks a vector.
void fill_words(uint32_t (&words)[4 * kBlocks], uint64_t seed, uint64_t counter) {
  constexpr int kVectors = 4;   // side by side, because each round waits for the products of the one before
  for (int64_t first = 0; first < kBlocks; first += 8 * kVectors) {
    Lanes c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      c0[v] = Lanes{0, 1, 2, 3, 4, 5, 6, 7} + (counter + uint64_t(first + 8 * v));
      c1[v] = c0[v] >> 32;
      c2[v] = c3[v] = Lanes{};
    }
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        Lanes p0 = product(c0[v], 0xD2511F53u), p1 = product(c2[v], 0xCD9E8D57u);
        c0[v] = p1 >> 32 ^ c1[v] ^ uint64_t(k0);
        c2[v] = p0 >> 32 ^ c3[v] ^ uint64_t(k1);
        c1[v] = p1;
        c3[v] = p0;
      }
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    for (int v = 0; v < kVectors; ++v) {
      Lanes even = (c0[v] & 0xffffffffu) | c1[v] << 32, odd = (c2[v] & 0xffffffffu) | c3[v] << 32;
      Lanes low = __builtin_shuffle(even, odd, Lanes{0, 8, 1, 9, 2, 10, 3, 11});
      Lanes high = __builtin_shuffle(even, odd, Lanes{4, 12, 5, 13, 6, 14, 7, 15});
      std::memcpy(words + 4 * (first + 8 * v), &low, sizeof low);
      std::memcpy(words + 4 * (first + 8 * v) + 16, &high, sizeof high);
    }
  }
}

/// Calls use(first element, words[4 kBlocks]) for each group of kBlocks blocks that y's elements need.
template <class Use>
void for_blocks(int64_t numel, int64_t per_block, uint64_t seed, uint64_t offset, Use&& use) {
  int64_t group_size = kBlocks * per_block;
  parallel_for((numel + group_size - 1) / group_size, 8, [&](int64_t first, int64_t last) {
    uint32_t words[4 * kBlocks];
    for (int64_t group = first; group < last; ++group) {
      fill_words(words, seed, offset + uint64_t(group * kBlocks));
      use(group * group_size, words);
    }
  });
}

}  // namespace

void random_uniform(Tensor& y, uint64_t seed, uint64_t offset) {
  int64_t n = y.numel();
  for_floating("random_uniform", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* out = y.data<T>();
    if constexpr (std::is_same_v<T, double>) {
      for_blocks(n, 2, seed, offset, [&](int64_t base, const uint32_t* words) {
        for (int64_t i = 0; i < std::min(2 * kBlocks, n - base); ++i)
          out[base + i] = philox::uniform(words[2 * i], words[2 * i + 1]);
      });
    } else {
      for_blocks(n, 4, seed, offset, [&](int64_t base, const uint32_t* words) {
        for (int64_t i = 0; i < std::min(4 * kBlocks, n - base); ++i)
          out[base + i] = T(philox::uniform(words[i]));
      });
    }
  });
}

void random_normal(Tensor& y, uint64_t seed, uint64_t offset) {
  int64_t n = y.numel();
  for_floating("random_normal", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* out = y.data<T>();
    if constexpr (std::is_same_v<T, double>) {
      for_blocks(n, 2, seed, offset, [&](int64_t base, const uint32_t* words) {
        double values[kBlocks][2];
        for (int64_t k = 0; k < kBlocks; ++k) {
          auto pair = philox::normal_pair64(words[4 * k], words[4 * k + 1], words[4 * k + 2]);
          values[k][0] = pair.cos;
          values[k][1] = pair.sin;
        }
        for (int64_t i = 0; i < std::min(2 * kBlocks, n - base); ++i) out[base + i] = values[i >> 1][i & 1];
      });
    } else {
      for_blocks(n, 4, seed, offset, [&](int64_t base, const uint32_t* words) {
        float values[kBlocks][4];
        for (int64_t k = 0; k < kBlocks; ++k) {
          auto first = philox::normal_pair(words[4 * k], words[4 * k + 1]);
          auto second = philox::normal_pair(words[4 * k + 2], words[4 * k + 3]);
          values[k][0] = first.cos;
          values[k][1] = first.sin;
          values[k][2] = second.cos;
          values[k][3] = second.sin;
        }
        for (int64_t i = 0; i < std::min(4 * kBlocks, n - base); ++i) out[base + i] = T(values[i >> 2][i & 3]);
      });
    }
  });
}

void random_int(Tensor& y, int64_t low, int64_t high, uint64_t seed, uint64_t offset) {
  int64_t* out = y.data<int64_t>();
  int64_t n = y.numel();
  uint64_t range = uint64_t(high) - uint64_t(low);
  for_blocks(n, 2, seed, offset, [&](int64_t base, const uint32_t* words) {
    for (int64_t i = 0; i < std::min(2 * kBlocks, n - base); ++i)
      out[base + i] = int64_t(uint64_t(low) + philox::below(range, words[2 * i], words[2 * i + 1]));
  });
}

void dropout(Tensor& y, const Tensor& x, double p, uint64_t seed, uint64_t offset) {
  int64_t n = y.numel();
  for_floating("dropout", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    T* out = y.data<T>();
    const T* in = x.data<T>();
    C scale = C(1 / (1 - p));
    uint32_t threshold = philox::dropout_threshold(p);
    for_blocks(n, 4, seed, offset, [=](int64_t base, const uint32_t* words) {
      T* to = out + base;
      const T* from = in + base;
      int64_t count = std::min(4 * kBlocks, n - base), ahead = 8 * kBlocks;
      // While words are drawn memory is idle, and the bursts between them are too short for the hardware to run ahead.
      for (int64_t i = ahead; i < std::min(ahead + count, n - base); i += int64_t(64 / sizeof(T))) {
        __builtin_prefetch(from + i);
        __builtin_prefetch(to + i, 1);
      }
#pragma GCC ivdep
      for (int64_t i = 0; i < count; ++i) {
        C kept = scale * C(from[i]);
        to[i] = T(words[i] >> 8 >= threshold ? kept : C(0));
      }
    });
  });
}

}  // namespace mote::cpu
