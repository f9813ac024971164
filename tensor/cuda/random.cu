// random.cu - random draws, and dropout, which is one: element i is word i % 4 of Philox block offset + i / 4 (f64 and
// i64: half a block an element). Compiled with -fmad=false: the same bits as on the CPU (random_math.h).
#include "tensor/random_math.h"

#include "tensor/cuda/pack.cuh"

namespace mote::MOTE_CUDA_NAMESPACE {
namespace {

/// What a thread draws: the elements of one block of words.
template <class T> inline constexpr int kOfBlock = sizeof(T) == 8 ? 2 : 4;

/// The blocks of a draw. A recorded graph draws further on at each replay: by what stands in `shift` (Backend).
struct Stream {
  uint64_t seed, offset;
  hw::Ptr<const uint64_t> shift;
  Stream(uint64_t seed, uint64_t offset) : seed(seed), offset(offset), shift(hw::random_shift()) {}
  MOTE_DEVICE philox::Block block(int64_t item) const { return philox::block(seed, offset + shift[0] + uint64_t(item)); }
};

template <class T>
struct RandomUniform {
  static constexpr int V = kOfBlock<T>;
  hw::Ptr<T> y;
  int64_t n;
  bool aligned;
  Stream stream;
  MOTE_DEVICE void operator()(int64_t item) const {
    philox::Block words = stream.block(item);
    compute_t<T> pack[V];
    if constexpr (std::is_same_v<T, double>) {
      for (int k = 0; k < V; ++k) pack[k] = philox::uniform(words.word[2 * k], words.word[2 * k + 1]);
    } else {
      for (int k = 0; k < V; ++k) pack[k] = philox::uniform(words.word[k]);
    }
    store_pack(y, item * V, n, aligned, pack);
  }
};

template <class T>
struct RandomNormal {
  static constexpr int V = kOfBlock<T>;
  hw::Ptr<T> y;
  int64_t n;
  bool aligned;
  Stream stream;
  MOTE_DEVICE void operator()(int64_t item) const {
    philox::Block words = stream.block(item);
    compute_t<T> pack[V];
    if constexpr (std::is_same_v<T, double>) {
      auto pair = philox::normal_pair64(words.word[0], words.word[1], words.word[2]);
      pack[0] = pair.cos;
      pack[1] = pair.sin;
    } else {
      for (int k = 0; k < V; k += 2) {
        auto pair = philox::normal_pair(words.word[k], words.word[k + 1]);
        pack[k] = pair.cos;
        pack[k + 1] = pair.sin;
      }
    }
    store_pack(y, item * V, n, aligned, pack);
  }
};

struct RandomInt {
  static constexpr int V = 2;
  hw::Ptr<int64_t> y;
  int64_t n;
  bool aligned;
  uint64_t low, range;
  Stream stream;
  MOTE_DEVICE void operator()(int64_t item) const {
    philox::Block words = stream.block(item);
    int64_t pack[V];
    for (int k = 0; k < V; ++k)
      pack[k] = int64_t(low + philox::below(range, words.word[2 * k], words.word[2 * k + 1]));
    store_pack(y, item * V, n, aligned, pack);
  }
};

template <class T>
struct Dropout {
  static constexpr int V = 4;
  hw::Ptr<T> y;
  hw::Ptr<const T> x;
  int64_t n;
  bool aligned;
  compute_t<T> scale;
  uint32_t threshold;
  Stream stream;
  MOTE_DEVICE void operator()(int64_t item) const {
    philox::Block words = stream.block(item);
    compute_t<T> pack[V];
    load_pack(pack, x, item * V, n, aligned);
    for (int k = 0; k < V; ++k) {
      compute_t<T> kept = scale * pack[k];
      pack[k] = words.word[k] >> 8 >= threshold ? kept : compute_t<T>(0);
    }
    store_pack(y, item * V, n, aligned, pack);
  }
};

}  // namespace

void random_uniform(Tensor& y, uint64_t seed, uint64_t offset) {
  for_floating("random_uniform", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    for_each("random_uniform", packs(y.numel(), kOfBlock<T>),
             RandomUniform<T>{hw::ptr<T>(y), y.numel(), is_aligned(y), Stream(seed, offset)});
  });
}

void random_normal(Tensor& y, uint64_t seed, uint64_t offset) {
  for_floating("random_normal", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    for_each("random_normal", packs(y.numel(), kOfBlock<T>),
             RandomNormal<T>{hw::ptr<T>(y), y.numel(), is_aligned(y), Stream(seed, offset)});
  });
}

void random_int(Tensor& y, int64_t low, int64_t high, uint64_t seed, uint64_t offset) {
  for_each("random_int", packs(y.numel(), RandomInt::V),
           RandomInt{hw::ptr<int64_t>(y), y.numel(), is_aligned(y), uint64_t(low), uint64_t(high) - uint64_t(low),
                     Stream(seed, offset)});
}

void dropout(Tensor& y, const Tensor& x, double p, uint64_t seed, uint64_t offset) {
  for_floating("dropout", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    for_each("dropout", packs(y.numel(), Dropout<T>::V),
             Dropout<T>{hw::ptr<T>(y), hw::ptr<T>(x), y.numel(), is_aligned(y, x), compute_t<T>(1 / (1 - p)),
                        philox::dropout_threshold(p), Stream(seed, offset)});
  });
}

}  // namespace mote::MOTE_CUDA_NAMESPACE
