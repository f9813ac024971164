// conv.cu - conv2d, conv2d_dx and conv2d_dw: the shapes of the products of conv.cuh.
#include "tensor/cuda/conv.cuh"

#include <utility>

#include "tensor/kernels.h"

namespace mote::MOTE_CUDA_NAMESPACE {
namespace {

/// Sizes that kernels keep in 32 bits.
int narrow(const char* op, int64_t size) {
  check(size <= 0x7fffffff, op,
        ": on a GPU an image may have at most 2^31 - 1 pixels, and a batch as many images; got ", size);
  return int(size);
}

/// The outputs of `rows` x `columns` of an image of x, as lines; taps of `tap_rows` x `tap_columns`.
template <class T, Fast kFast>
Patches<T, kFast> patches(const char* op, const Tensor& x, int64_t rows, int64_t columns, int64_t tap_rows,
                          int64_t tap_columns) {
  narrow(op, x.size(1) * x.size(2));
  narrow(op, rows * columns);
  Patches<T, kFast> p{};
  p.base = hw::ptr<T>(x);
  p.aligned = is_aligned(x, x.size(3));
  p.images = narrow(op, x.size(0)), p.height = int(x.size(1)), p.width = int(x.size(2));
  p.rows = int(rows), p.columns = int(columns);
  p.stride = 1, p.tap_step = 1;
  p.taps = {int(tap_rows), int(tap_columns), int(x.size(3))};
  p.step_x = int(kDepth<T> % columns);
  p.step_y = int(kDepth<T> / columns % rows);
  p.step_image = int(kDepth<T> / columns / rows);
  return p;
}

template <class T>
Pixels<T> pixels(Tensor& y, int64_t rows, int64_t columns) {
  Pixels<T> p{};
  p.y = hw::ptr<T>(y);
  p.aligned = is_aligned(y, y.size(3));
  p.rows = int(rows), p.columns = int(columns);
  p.height = int(y.size(1)), p.width = int(y.size(2)), p.channels = int(y.size(3));
  p.step = 1;
  return p;
}

}  // namespace

void conv2d(Tensor& y, const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& shift,
            const Tensor& residual, const Conv2dSpec& spec) {
  if (y.numel() == 0) return;
  int64_t P = w.size(0), Q = w.size(1), C = w.size(2), K = w.size(3), Ho = y.size(1), Wo = y.size(2);
  for_floating("conv2d", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    auto a = patches<T, Fast::k>("conv2d", x, Ho, Wo, P, Q);
    a.stride = int(spec.stride), a.origin_y = int(-spec.top), a.origin_x = int(-spec.left);
    Matrix<T, Fast::other> b{hw::ptr<T>(w), P * Q * C, K, 0, is_aligned(w, K)};
    auto out = pixels<T>(y, Ho, Wo);
    out.bias = hw::ptr<T>(bias), out.shift = hw::ptr<T>(shift), out.residual = hw::ptr<T>(residual);
    for (const Tensor* start : {&bias, &shift, &residual})
      if (start->defined()) out.aligned = out.aligned && is_aligned(*start, K);
    product<T, true>("conv2d", a, b, out, {y.numel() / K, K, P * Q * C});
  });
}

void conv2d_dx(Tensor& dx, const Tensor& dy, const Tensor& w, const Conv2dSpec& spec) {
  if (dx.numel() == 0) return;
  int64_t P = w.size(0), Q = w.size(1), C = w.size(2), K = w.size(3), s = spec.stride;
  // dx[iy] = sum over p with s | iy + top - p of dy[(iy + top - p) / s] w[p]. The iy of one residue r of iy + top form
  // a class: iy = s m + r - top reads dy[m - i] under tap p = r + s i; m begins where iy is not negative.
  struct Axis {
    int64_t first, start, count, taps;   // m and iy of the first, how many iy, taps they see
  };
  auto axis = [s](int64_t residue, int64_t before, int64_t size, int64_t taps) {
    int64_t need = before - residue, first = need >= 0 ? (need + s - 1) / s : -(-need / s);
    int64_t start = s * first + residue - before;
    return Axis{first, start, start < size ? (size - start + s - 1) / s : 0,
                residue < taps ? (taps - residue + s - 1) / s : 0};
  };
  for_floating("conv2d_dx", dx.dtype(), [&](auto zero) {
    using T = decltype(zero);
    for (int64_t ry = 0; ry < s; ++ry) {
      for (int64_t rx = 0; rx < s; ++rx) {
        Axis rows = axis(ry, spec.top, dx.size(1), P), columns = axis(rx, spec.left, dx.size(2), Q);
        if (rows.count == 0 || columns.count == 0) continue;
        auto a = patches<T, Fast::k>("conv2d_dx", dy, rows.count, columns.count, rows.taps, columns.taps);
        a.origin_y = int(rows.first), a.origin_x = int(columns.first), a.tap_step = -1;
        TurnedWeights<T> b{hw::ptr<T>(w), is_aligned(w, K), int(Q), int(C), int(ry), int(rx), int(s), a.taps};
        auto out = pixels<T>(dx, rows.count, columns.count);
        out.y0 = int(rows.start), out.x0 = int(columns.start), out.step = int(s);
        product<T, true>("conv2d_dx", a, b, out,
                         {dx.size(0) * rows.count * columns.count, C, rows.taps * columns.taps * K});
      }
    }
  });
}

void conv2d_dw(Tensor& dw, const Tensor& x, const Tensor& dy, const Conv2dSpec& spec) {
  if (dw.numel() == 0) return;
  int64_t P = dw.size(0), Q = dw.size(1), C = dw.size(2), K = dw.size(3), Ho = dy.size(1), Wo = dy.size(2);
  int64_t rows = P * Q * C, count = dy.size(0) * Ho * Wo;
  for_floating("conv2d_dw", dw.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using Sum = compute_t<T>;
    auto a = patches<T, Fast::other>("conv2d_dw", x, Ho, Wo, P, Q);
    a.stride = int(spec.stride), a.origin_y = int(-spec.top), a.origin_x = int(-spec.left);
    Matrix<T, Fast::other> b{hw::ptr<T>(dy), count, K, 0, is_aligned(dy, K)};
    // As many splits as give some 256 large tiles, each of at least 8 stages; how many depends on shapes only.
    int64_t tiles = (rows + 127) / 128 * ((K + 127) / 128), stages = (count + kDepth<T> - 1) / kDepth<T>;
    int64_t splits = std::max<int64_t>(std::min(256 / tiles, stages / 8), 1);
    int64_t per_split = (stages + splits - 1) / splits * kDepth<T>;
    Extent extent{rows, K, count, 1, splits, per_split};
    if (splits == 1) {
      Dense<T> out{hw::ptr<T>(dw), nullptr, rows, K, is_aligned(dw, K)};
      return product<T, true>("conv2d_dw", a, b, out, extent);
    }
    Tensor partial = empty({splits, rows, K}, dtype_of<Sum>, dw.device());
    Dense<Sum> out{hw::ptr<Sum>(partial), nullptr, rows, K, is_aligned(partial, K)};
    product<T, true>("conv2d_dw", a, b, out, extent);
    hw::launch("conv2d_dw", {hw::blocks_for(dw.numel(), FoldSplits<T>::kThreads), FoldSplits<T>::kThreads},
               FoldSplits<T>{hw::ptr<T>(dw), hw::ptr<Sum>(std::as_const(partial)), dw.numel(), int(splits)});
  });
}

}  // namespace mote::MOTE_CUDA_NAMESPACE
