// ops_matrix.cpp - products: matmul, linear, conv2d. Each backward is again a product, and only those that a gradient
// is asked of are computed; an input is kept only if another's gradient reads it.
#include "autograd/checks.h"
#include "autograd/ops.h"

namespace mote {
namespace {

Tensor sum_to(const Tensor& x, const Shape& shape) {
  Tensor y = empty(shape, x.dtype(), x.device());
  kernel::sum_to(y, x);
  return y;
}

Tensor product(const Shape& shape, const Tensor& a, const Tensor& b, bool trans_a, bool trans_b) {
  Tensor y = empty(shape, a.dtype(), a.device());
  kernel::matmul(y, a, b, trans_a, trans_b, {});
  return y;
}

}  // namespace

// ---- matmul --------------------------------------------------------------------------------------------------------

Tensor matmul(const Tensor& a, const Tensor& b, bool trans_a, bool trans_b) {
  check_defined("matmul", {"b", b});
  check_floating("matmul", {"a", a}, {{"b", b}});
  check((a.ndim() == 2 || a.ndim() == 3) && a.ndim() == b.ndim(),
        "matmul: needs two matrices or two batches of matrices: a is ", describe(a), ", b is ", describe(b));
  bool batched = a.ndim() == 3;
  check(!batched || a.size(0) == b.size(0), "matmul: batch sizes differ: a is ", describe(a), ", b is ", describe(b));
  int64_t rows = a.size(trans_a ? -1 : -2), inner = a.size(trans_a ? -2 : -1);
  int64_t inner_b = b.size(trans_b ? -1 : -2), columns = b.size(trans_b ? -2 : -1);
  check(inner == inner_b, "matmul: inner sizes differ: a is ", describe(a), trans_a ? " transposed" : "", " (", inner,
        "), b is ", describe(b), trans_b ? " transposed" : "", " (", inner_b, ")");
  Tensor y = product(batched ? Shape{a.size(0), rows, columns} : Shape{rows, columns}, a, b, trans_a, trans_b);

  bool need_a = a.needs_grad(), need_b = b.needs_grad();
  if (!need_a && !need_b) return y;
  Saved a_ = need_b ? Saved(a) : Saved(), b_ = need_a ? Saved(b) : Saved();
  return record("matmul", y, {a, b}, [=, shape_a = a.shape(), shape_b = b.shape()](const Tensor& dy) -> Grads {
    // With A = op(a), B = op(b):  dA = dy B^T,  dB = A^T dy; a transposed argument takes the transpose of that.
    Tensor da, db;
    if (need_a && !trans_a) da = product(shape_a, dy, b_.get(), false, !trans_b);
    if (need_a && trans_a) da = product(shape_a, b_.get(), dy, trans_b, true);
    if (need_b && !trans_b) db = product(shape_b, a_.get(), dy, !trans_a, false);
    if (need_b && trans_b) db = product(shape_b, dy, a_.get(), true, trans_a);
    return {da, db};
  });
}

// ---- linear --------------------------------------------------------------------------------------------------------

Tensor linear(const Tensor& x, const Tensor& w, const Tensor& bias) {
  check_defined("linear", {"w", w});
  check_floating("linear", {"x", x}, {{"w", w}, {"bias", bias}});
  check_axes("linear", {"w", w}, 2, "[C, K]");
  check(x.ndim() >= 1 && x.size(-1) == w.size(0), "linear: input channels do not match: x is ", describe(x), ", w is ",
        describe(w), " (expects C = ", w.size(0), ")");
  int64_t in = w.size(0), out = w.size(1), rows = x.shape().with(-1, 1).numel();
  check(!bias.defined() || bias.shape() == Shape{out}, "linear: bias must be [K]: w is ", describe(w), " (K = ", out,
        "), bias is ", describe(bias));
  Tensor y = empty(Shape{rows, out}, x.dtype(), x.device());
  kernel::matmul(y, x.view({rows, in}), w, false, false, bias);
  y = y.view(x.shape().with(-1, out));

  bool need_x = x.needs_grad(), need_w = w.needs_grad(), need_bias = bias.needs_grad();
  if (!need_x && !need_w && !need_bias) return y;
  Saved x_ = need_w ? Saved(x) : Saved(), w_ = need_x ? Saved(w) : Saved();
  return record("linear", y, {x, w, bias}, [=, shape = x.shape()](const Tensor& dy) -> Grads {
    Tensor dy_rows = dy.view({rows, out}), dx, dw, dbias;
    if (need_x) dx = product({rows, in}, dy_rows, w_.get(), false, true).view(shape);
    if (need_w && shape.ndim() == 3) {
      // x^T dy over many rows is the weight gradient of a 1x1 convolution, which reads both in place, image by image.
      Tensor dw_conv = empty({1, 1, in, out}, dy.dtype(), dy.device());
      kernel::conv2d_dw(dw_conv, x_.get().view({shape[0], 1, shape[1], in}), dy.view({shape[0], 1, shape[1], out}), {});
      dw = dw_conv.view({in, out});
    } else if (need_w) {
      dw = product({in, out}, x_.get().view({rows, in}), dy_rows, true, false);
    }
    if (need_bias) dbias = sum_to(dy_rows, {out});
    return {dx, dw, dbias};
  });
}

// ---- conv2d --------------------------------------------------------------------------------------------------------

Tensor conv2d(const Tensor& x, const Tensor& w, const Tensor& bias, const Conv2dSpec& spec, const Tensor& shift,
              const Tensor& residual) {
  check_defined("conv2d", {"weight", w});
  check_floating("conv2d", {"x", x}, {{"weight", w}, {"bias", bias}, {"shift", shift}, {"residual", residual}});
  check_axes("conv2d", {"x", x}, 4, "[N, H, W, C]");
  check_axes("conv2d", {"weight", w}, 4, "[P, Q, C, K]");
  check(x.size(3) == w.size(2), "conv2d: input channels do not match: x is ", describe(x), " (C = ", x.size(3),
        "), weight is ", describe(w), " (expects C = ", w.size(2), ")");
  check(w.size(0) > 0 && w.size(1) > 0, "conv2d: the kernel has no extent: weight is ", describe(w));
  check(spec.stride >= 1, "conv2d: stride must be at least 1, got ", spec.stride);
  check(spec.top >= 0 && spec.bottom >= 0 && spec.left >= 0 && spec.right >= 0,
        "conv2d: padding cannot be negative, got top ", spec.top, ", bottom ", spec.bottom, ", left ", spec.left,
        ", right ", spec.right);
  int64_t padded_height = x.size(1) + spec.top + spec.bottom, padded_width = x.size(2) + spec.left + spec.right;
  check(padded_height >= w.size(0) && padded_width >= w.size(1), "conv2d: the kernel is larger than the padded image: ",
        "x is ", describe(x), " (", padded_height, " x ", padded_width, " with padding), weight is ", describe(w));
  int64_t images = x.size(0), channels = w.size(3);
  Shape shape{images, (padded_height - w.size(0)) / spec.stride + 1, (padded_width - w.size(1)) / spec.stride + 1,
              channels};
  check(!bias.defined() || bias.shape() == Shape{channels}, "conv2d: bias must be [K]: weight is ", describe(w),
        " (K = ", channels, "), bias is ", describe(bias));
  check(!shift.defined() || shift.shape() == Shape{images, channels}, "conv2d: shift must be [N, K] = ",
        Shape{images, channels}, ", got ", describe(shift));
  check(!residual.defined() || residual.shape() == shape, "conv2d: residual must have the shape of the output, ", shape,
        ", got ", describe(residual));

  Tensor y = empty(shape, x.dtype(), x.device());
  kernel::conv2d(y, x, w, bias, shift, residual, spec);

  bool need_x = x.needs_grad(), need_w = w.needs_grad(), need_bias = bias.needs_grad(),
       need_shift = shift.needs_grad(), need_residual = residual.needs_grad();
  if (!need_x && !need_w && !need_bias && !need_shift && !need_residual) return y;
  Saved x_ = need_w ? Saved(x) : Saved(), w_ = need_x ? Saved(w) : Saved();
  return record("conv2d", y, {x, w, bias, shift, residual},
                [=, shape_x = x.shape(), shape_w = w.shape()](const Tensor& dy) -> Grads {
                  Tensor dx, dw, dbias, dshift, dresidual;
                  if (need_w) {   // first: an x that is made again is gone before dx is made
                    dw = empty(shape_w, dy.dtype(), dy.device());
                    kernel::conv2d_dw(dw, x_.get(), dy, spec);
                  }
                  if (need_x) {
                    dx = empty(shape_x, dy.dtype(), dy.device());
                    kernel::conv2d_dx(dx, dy, w_.get(), spec);
                  }
                  if (need_bias) dbias = sum_to(dy, {channels});
                  if (need_shift) dshift = sum_to(dy, {images, 1, 1, channels}).view({images, channels});
                  if (need_residual) dresidual = dy;
                  return {dx, dw, dbias, dshift, dresidual};
                });
}

Tensor conv2d_transposed(const Tensor& x, const Tensor& w, const Tensor& bias) {
  check_defined("conv2d_transposed", {"weight", w});
  check_floating("conv2d_transposed", {"x", x}, {{"weight", w}, {"bias", bias}});
  check_axes("conv2d_transposed", {"x", x}, 4, "[N, H, W, C]");
  check_axes("conv2d_transposed", {"weight", w}, 4, "[C, f, f, K]");
  check(x.size(3) == w.size(0), "conv2d_transposed: input channels do not match: x is ", describe(x), " (C = ",
        x.size(3), "), weight is ", describe(w), " (expects C = ", w.size(0), ")");
  int64_t factor = w.size(1), channels = w.size(3);
  check(factor >= 1 && w.size(2) == factor, "conv2d_transposed: the kernel must be square, [C, f, f, K] with f >= 1: weight is ",
        describe(w));
  check(!bias.defined() || bias.shape() == Shape{channels}, "conv2d_transposed: bias must be [K]: weight is ",
        describe(w), " (K = ", channels, "), bias is ", describe(bias));
  int64_t images = x.size(0), height = x.size(1), width = x.size(2), columns = factor * factor * channels;
  Tensor each;   // the bias of every column
  if (bias.defined()) each = reshape(broadcast_to(bias, {factor * factor, channels}), Shape{columns});
  Tensor y = linear(x, reshape(w, Shape{x.size(3), columns}), each);
  y = permute(reshape(y, Shape{images, height, width, factor, factor, channels}), {0, 1, 3, 2, 4, 5});
  return reshape(y, Shape{images, height * factor, width * factor, channels});
}

}  // namespace mote
