// rows.h - what k-means, mixtures and the pictures share: how the rows of a matrix are cut into pieces. Pieces follow
// from sizes alone, never from the number of threads, and what they add up is folded in their order.
#pragma once
#include <algorithm>
#include <cstdint>

#include "tensor/cpu/parallel.h"
#include "tensor/tensor.h"

namespace mote::cluster {

/// Rows of one matrix product: a block and what is computed from it stay in the L2 cache.
inline constexpr int64_t kBlockRows = 256;

/// Rows 0..count-1 in at most `most` chunks of whole blocks. Each chunk has sums of its own.
struct Chunks {
  int64_t count, length;
  explicit Chunks(int64_t rows, int64_t most = 64)
      : count(rows), length((rows + most * kBlockRows - 1) / (most * kBlockRows) * kBlockRows) {}
  int64_t number() const { return (count + length - 1) / length; }

  /// fn(chunk, begin, end) for every block of every chunk; one thread has all blocks of a chunk, in order.
  template <class Fn>
  void each_block(Fn&& fn) const {
    cpu::parallel_for(number(), 1, [&](int64_t first, int64_t last) {
      for (int64_t chunk = first; chunk < last; ++chunk)
        for (int64_t begin = chunk * length; begin < std::min(count, (chunk + 1) * length); begin += kBlockRows)
          fn(chunk, begin, std::min({count, (chunk + 1) * length, begin + kBlockRows}));
    });
  }
};

/// |a - b|^2, in lanes of T folded in double: equal rows are exactly 0 apart.
template <class T>
double squared_distance(const T* a, const T* b, int64_t width) {
  constexpr int64_t kLanes = 16;
  T lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      T difference = a[i + lane] - b[i + lane];
      lanes[lane] += difference * difference;
    }
  double sum = 0;
  for (T lane : lanes) sum += double(lane);
  for (; i < width; ++i) sum += double(a[i] - b[i]) * double(a[i] - b[i]);
  return sum;
}

/// The mean of every column of x, f32 or f64 [N, D], with rows weighted by weight f64 [N] unless it is undefined: f64 [D].
Tensor column_means(const Tensor& x, const Tensor& weight = {});

}  // namespace mote::cluster
