// conv.cu - conv2d, conv2d_dx and conv2d_dw: the shapes of the products of conv.cuh.
#include "tensor/cuda/conv_wgmma.cuh"

#include <cmath>
#include <utility>
#include <vector>

#include "tensor/kernels.h"
#include "tensor/random.h"

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

/// One launch of conv_wgmma.cuh with tiles of 128 channels where they fit, else of 64.
template <bool kTurned>
void launch_warpgroups(const char* op, const Tensor& in, const Tensor& w, const Pixels<bf16>& out, int64_t height,
                       int64_t width, int64_t inner, int64_t outer, int64_t origin_y, int64_t origin_x) {
  auto launch = [&]<int kN>(std::integral_constant<int, kN>) {
    using Kernel = ConvWarpgroups<kN, kTurned>;
    Boxes boxes = Boxes::cut(in.size(0), height, width, 128);
    Kernel kernel{image_map(op, in, boxes), weight_map(op, w, kTurned ? kN : 64), out, boxes, int(origin_y), int(origin_x),
                  kTurned ? -1 : 1, int(w.size(0)), int(w.size(1)), int(inner), int(outer)};
    hw::launch(op, {boxes.count() * (outer / kN), Kernel::kThreads, Kernel::Core::kShared}, kernel);
  };
  if (outer % 128 == 0) launch(std::integral_constant<int, 128>{});
  else launch(std::integral_constant<int, 64>{});
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
    if constexpr (std::is_same_v<T, bf16>)
      if (a.aligned && b.aligned && warpgroups_can(x, C, K, spec))
        return launch_warpgroups<false>("conv2d", x, w, out, Ho, Wo, C, K, -spec.top, -spec.left);
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
    if constexpr (std::is_same_v<T, bf16>)
      if (is_aligned(dy, K) && is_aligned(w, K) && warpgroups_can(dy, K, C, spec))
        return launch_warpgroups<true>("conv2d_dx", dy, w, pixels<T>(dx, dx.size(1), dx.size(2)), dx.size(1), dx.size(2), K,
                                       C, spec.top, spec.left);
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
    auto in_splits = [&](int64_t stages, auto&& run) {
      int64_t tiles = (rows + 127) / 128 * ((K + 127) / 128);
      int64_t splits = std::max<int64_t>(std::min(256 / tiles, stages / 8), 1), per_split = (stages + splits - 1) / splits;
      if (splits == 1) return run(Dense<T>{hw::ptr<T>(dw), nullptr, rows, K, is_aligned(dw, K)}, splits, per_split);
      Tensor partial = empty({splits, rows, K}, dtype_of<Sum>, dw.device());
      run(Dense<Sum>{hw::ptr<Sum>(partial), nullptr, rows, K, is_aligned(partial, K)}, splits, per_split);
      hw::launch("conv2d_dw", {hw::blocks_for(dw.numel(), FoldSplits<T>::kThreads), FoldSplits<T>::kThreads},
                 FoldSplits<T>{hw::ptr<T>(dw), hw::ptr<Sum>(std::as_const(partial)), dw.numel(), int(splits)});
    };
    if constexpr (std::is_same_v<T, bf16>) {
      if (is_aligned(x, C) && b.aligned && dy.numel() > 0 && warpgroups_can(x, C, K, spec)) {
        Boxes boxes = Boxes::cut(dy.size(0), Ho, Wo, 64);
        return in_splits(boxes.count(), [&](const auto& out, int64_t splits, int64_t per_split) {
          auto launch = [&]<int kN>(std::integral_constant<int, kN>) {
            using Kernel = ConvWeightWarpgroups<kN, std::remove_cvref_t<decltype(out)>>;
            hw::launch("conv2d_dw", {{(rows + 127) / 128 * (K / kN), splits}, Kernel::kThreads, Kernel::Core::kShared},
                       Kernel{image_map("conv2d_dw", x, boxes), image_map("conv2d_dw", dy, boxes), out, boxes,
                              int(-spec.top), int(-spec.left), int(P), int(Q), int(C), int(K), per_split});
          };
          if (K % 128 == 0) launch(std::integral_constant<int, 128>{});
          else launch(std::integral_constant<int, 64>{});
        });
      }
    }
    in_splits((count + kDepth<T> - 1) / kDepth<T>, [&](const auto& out, int64_t splits, int64_t per_split) {
      product<T, true>("conv2d_dw", a, b, out, Extent{rows, K, count, 1, splits, per_split * kDepth<T>});
    });
  });
}

#ifdef MOTE_CUDA_HOST
bool warpgroups_agree() { return true; }
#else
/// Once a device: forward, dx and dw of a small case by both kinds of kernels, compared on the host. wgmma has no second
/// implementation to fall back on in silence, so a device where it computes anything else does not get it.
bool warpgroups_agree() {
  enum State { unknown, busy_with_products, busy_with_warpgroups, no, yes };
  static State states[64] = {};
  State& state = states[current().index];
  if (state != unknown) return state == yes || state == busy_with_warpgroups;
  if (recording()) return false;
  Device device{Device::cuda, int8_t(current().index)};
  Conv2dSpec spec = Conv2dSpec::same(3);
  Shape x_shape{3, 9, 12, 128}, y_shape{3, 9, 12, 192}, w_shape{3, 3, 128, 192};
  Tensor x = normal(x_shape, DType::bf16, Generator{1}, device), dy = normal(y_shape, DType::bf16, Generator{2}, device);
  Tensor w = normal(w_shape, DType::bf16, Generator{3}, device);
  auto results = [&](State way) {
    state = way;
    Tensor y = empty(y_shape, DType::bf16, device), dx = empty(x_shape, DType::bf16, device);
    Tensor dw = empty(w_shape, DType::bf16, device);
    conv2d(y, x, w, {}, {}, {}, spec);
    conv2d_dx(dx, dy, w, spec);
    conv2d_dw(dw, x, dy, spec);
    return std::vector<std::vector<double>>{y.to_vector(), dx.to_vector(), dw.to_vector()};
  };
  auto expected = results(busy_with_products), got = results(busy_with_warpgroups);
  state = yes;
  for (size_t i = 0; i < got.size(); ++i)
    for (size_t j = 0; j < got[i].size(); ++j)   // sums of some 1000 products of size 1, rounded to bf16 once
      if (!(std::abs(got[i][j] - expected[i][j]) <= 0.02 + 0.01 * std::abs(expected[i][j]))) state = no;
  return state == yes;
}
#endif

}  // namespace mote::MOTE_CUDA_NAMESPACE
