// Random draws, and dropout, which is one: element i is word i % 4 of Philox block offset + i / 4 (f64 and i64: half a block an element).
// Compiled with -ffp-contract=off (CMakeLists.txt): see random_math.h.
#include "tensor/random_math.h"

#include "tensor/cpu/parallel.h"
#include "tensor/kernels.h"

namespace mote::cpu {
namespace {

constexpr int64_t kBlocks = 64;   // blocks a round, so that the loops over them vectorise

/// Calls use(first element, words[4 kBlocks]) for each group of kBlocks blocks that y's elements need.
template <class Use>
void for_blocks(int64_t numel, int64_t per_block, uint64_t seed, uint64_t offset, Use&& use) {
  int64_t group_size = kBlocks * per_block;
  parallel_for((numel + group_size - 1) / group_size, 8, [&](int64_t first, int64_t last) {
    uint32_t words[4 * kBlocks];
    for (int64_t group = first; group < last; ++group) {
      philox::fill_words<kBlocks>(words, seed, offset + uint64_t(group * kBlocks));
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
    for (int64_t i = 0; i < std::min(2 * kBlocks, n - base); ++i) {
      uint64_t bits = uint64_t(words[2 * i]) << 32 | words[2 * i + 1];
      __extension__ using Wide = unsigned __int128;
      out[base + i] = int64_t(uint64_t(low) + uint64_t((Wide(bits) * range) >> 64));
    }
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
    float threshold = float(p);
    for_blocks(n, 4, seed, offset, [=](int64_t base, const uint32_t* words) {
      for (int64_t i = 0; i < std::min(4 * kBlocks, n - base); ++i) {
        C kept = scale * C(in[base + i]);
        out[base + i] = T(philox::uniform(words[i]) >= threshold ? kept : C(0));
      }
    });
  });
}

}  // namespace mote::cpu
