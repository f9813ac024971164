// walk.h - how kernels that broadcast, reduce or cut boxes walk memory: shapes turned into few axes with strides, on
// the host; the loops of both devices read them.
#pragma once
#include <algorithm>
#include <vector>

#include "tensor/dtype.h"
#include "tensor/math.h"
#include "tensor/shape.h"

namespace mote {

/// Calls fn with an unsigned integer of the size of one element: for kernels that only move elements.
template <class Fn>
void for_element_size(DType dtype, Fn&& fn) {
  switch (size_of(dtype)) {
    case 1: return fn(uint8_t{});
    case 2: return fn(uint16_t{});
    case 4: return fn(uint32_t{});
    default: return fn(uint64_t{});
  }
}

/// a / b for a >= 0, b > 0. A GPU divides 64-bit numbers by a long sequence, 32-bit ones by a short one.
MOTE_HD int64_t quotient(int64_t a, int64_t b) {
#ifdef __CUDA_ARCH__
  if (((a | b) >> 32) == 0) return int64_t(uint32_t(a) / uint32_t(b));
#endif
  return a / b;
}

/// How y = f(a, b) walks memory: axes of y from the outermost, neighbours merged where all three run on contiguously.
/// A stride is 0 where the operand is stretched.
struct BroadcastWalk {
  int ndim = 0;
  int64_t size[kMaxAxes + 1], stride_a[kMaxAxes + 1], stride_b[kMaxAxes + 1];

  BroadcastWalk(const Shape& y, const Shape& a, const Shape& b) {
    for (int axis = 0; axis < y.ndim(); ++axis) {
      if (y[axis] == 1) continue;
      int64_t step_a = stretched_stride(y, a, axis), step_b = stretched_stride(y, b, axis);
      bool merges = ndim > 0 && stride_a[ndim - 1] == step_a * y[axis] && stride_b[ndim - 1] == step_b * y[axis];
      if (!merges) size[ndim++] = 1;
      size[ndim - 1] *= y[axis];
      stride_a[ndim - 1] = step_a;
      stride_b[ndim - 1] = step_b;
    }
    if (ndim == 0) {
      size[0] = 1;
      stride_a[0] = stride_b[0] = 0;
      ndim = 1;
    }
  }

  static int64_t stretched_stride(const Shape& y, const Shape& operand, int axis) {
    int own = axis - (y.ndim() - operand.ndim());
    return own < 0 || operand[own] == 1 ? 0 : operand.stride(own);
  }

  /// Where the operands of row `row` begin, a row being one run of the innermost axis.
  MOTE_HD void offsets(int64_t row, int64_t& a, int64_t& b) const {
    a = b = 0;
    for (int axis = ndim - 2; axis >= 0; --axis) {
      int64_t above = quotient(row, size[axis]), index = row - above * size[axis];
      row = above;
      a += index * stride_a[axis];
      b += index * stride_b[axis];
    }
  }
};

/// The box of a tensor `large` that starts at index `start` and has the shape `small`, as runs of bytes that are
/// contiguous in both.
struct BoxWalk {
  int64_t run, rows, base = 0;   // bytes of a run, how many runs, bytes before the first one in `large`
  // The axes that number the runs, outermost first, with the bytes between their runs in `large`; neighbours that the
  // box fills are one axis.
  int ndim = 1;
  int64_t size[kMaxAxes + 1] = {1}, step[kMaxAxes + 1] = {0};

  /// small.numel() > 0; element: bytes of one.
  BoxWalk(const Shape& large, const Shape& small, int64_t element, const std::vector<int64_t>& start) : run(element) {
    int split = small.ndim();   // axes from `split` on are one contiguous run
    while (split > 0) {
      --split;
      run *= small[split];
      if (small[split] != large[split]) break;
    }
    rows = small.numel() * element / run;
    for (int axis = 0; axis < small.ndim(); ++axis) base += start[size_t(axis)] * large.stride(axis) * element;
    for (int axis = 0; axis < split; ++axis) {
      int64_t stride = large.stride(axis) * element;
      if (small[axis] == 1) continue;
      if (step[ndim - 1] != stride * small[axis] && size[ndim - 1] != 1) size[ndim++] = 1;
      size[ndim - 1] *= small[axis];
      step[ndim - 1] = stride;
    }
  }

  /// Bytes before run `row` in `large`.
  MOTE_HD int64_t offset(int64_t row) const {
    int64_t bytes = base;
    for (int axis = ndim - 1; axis >= 0; --axis) {
      int64_t above = quotient(row, size[axis]);
      bytes += (row - above * size[axis]) * step[axis];
      row = above;
    }
    return bytes;
  }
};

/// Neighbouring axes of x that are all summed, or all kept, as one, when x is summed to the shape of y.
struct AxisRun {
  int64_t size;
  bool summed;
};
inline std::vector<AxisRun> axis_runs(const Shape& x, const Shape& y) {
  std::vector<AxisRun> runs;
  for (int axis = 0; axis < x.ndim(); ++axis) {
    int own = axis - (x.ndim() - y.ndim());
    bool summed = own < 0 || (y[own] == 1 && x[axis] != 1);
    if (x[axis] == 1) continue;
    if (runs.empty() || runs.back().summed != summed) runs.push_back({1, summed});
    runs.back().size *= x[axis];
  }
  return runs;
}

/// How group norm sums over the pixels of an image, so that both devices give the same bits: `repeat` pixels are a
/// run, and a channel has a sum for each of the places it has in a run. A sum goes over kRuns runs, a chunk, in the
/// compute type; the chunks of a place are added in order in double, then the places of a channel.
struct NormOrder {
  static constexpr int64_t kRun = 256;   // elements of a run, at most, unless a pixel has more
  static constexpr int64_t kRuns = 64;
  static int64_t repeat(int64_t channels) { return std::max<int64_t>(kRun / std::max<int64_t>(channels, 1), 1); }
};

}  // namespace mote
