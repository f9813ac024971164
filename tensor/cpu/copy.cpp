// Kernels that move elements without looking at them: any dtype, by element size.
#include <cstring>

#include "tensor/cpu/parallel.h"
#include "tensor/kernels.h"
#include "tensor/walk.h"

namespace mote::cpu {
namespace {

/// Copies `rows` runs of `run` bytes. A call of memcpy takes as long as a run of a few vectors, which a loop copies.
void copy_rows(char* to, int64_t to_step, const char* from, int64_t from_step, int64_t rows, int64_t run) {
  constexpr int64_t kBlock = 64, kFew = 16;
  bool few = run % kBlock == 0 && run <= kFew * kBlock;
  for (int64_t row = 0; row < rows; ++row, to += to_step, from += from_step) {
    if (few) {
      for (int64_t byte = 0; byte < run; byte += kBlock) std::memcpy(to + byte, from + byte, kBlock);
    } else {
      std::memcpy(to, from, size_t(run));
    }
  }
}

/// Copies between `small` and the box of `large` that starts at `start`, row by row of the innermost axes that are
/// contiguous in both.
enum class Direction { into_large, out_of_large };
template <Direction direction>
void copy_box(char* destination, const char* source, const Shape& large, const Shape& small, int64_t element,
              const std::vector<int64_t>& start) {
  if (small.numel() == 0) return;
  BoxWalk walk(large, small, element, start);
  int64_t run = walk.run, inner = walk.size[walk.ndim - 1], step = walk.step[walk.ndim - 1];
  parallel_for(walk.rows, 4 * kGrain / run, [&](int64_t first, int64_t last) {
    while (first < last) {
      int64_t offset = walk.offset(first), count = std::min(inner - first % inner, last - first);
      if constexpr (direction == Direction::into_large)
        copy_rows(destination + offset, step, source + first * run, run, count, run);
      else
        copy_rows(destination + first * run, run, source + offset, step, count, run);
      first += count;
    }
  });
}

}  // namespace

void put_box(Tensor& y, const Tensor& x, const std::vector<int64_t>& start) {
  copy_box<Direction::into_large>(static_cast<char*>(y.raw()), static_cast<const char*>(x.raw()), y.shape(), x.shape(),
                                  size_of(y.dtype()), start);
}

void get_box(Tensor& y, const Tensor& x, const std::vector<int64_t>& start) {
  copy_box<Direction::out_of_large>(static_cast<char*>(y.raw()), static_cast<const char*>(x.raw()), x.shape(),
                                    y.shape(), size_of(y.dtype()), start);
}

void permute(Tensor& y, const Tensor& x, const Axes& axes) {
  if (y.numel() == 0) return;
  int ndim = y.ndim();
  if (ndim == 0) {
    std::memcpy(y.raw(), x.raw(), size_t(y.nbytes()));
    return;
  }
  int64_t stride[kMaxAxes];   // of x, along each axis of y
  for (int axis = 0; axis < ndim; ++axis) stride[axis] = x.shape().stride(axes[size_t(axis)]);
  int64_t inner = y.shape()[ndim - 1], step = stride[ndim - 1];
  for_element_size(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* out = static_cast<T*>(y.raw());
    const T* in = static_cast<const T*>(x.raw());
    parallel_for(y.numel() / inner, kGrain / inner, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        int64_t rest = row, from = 0;
        for (int axis = ndim - 2; axis >= 0; --axis) {
          from += rest % y.shape()[axis] * stride[axis];
          rest /= y.shape()[axis];
        }
        for (int64_t i = 0; i < inner; ++i) out[row * inner + i] = in[from + i * step];
      }
    });
  });
}

}  // namespace mote::cpu
