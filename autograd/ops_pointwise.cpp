// ops_pointwise.cpp - elementwise ops. The formulas and their derivatives are in tensor/functors.h.
#include <cmath>

#include "autograd/checks.h"
#include "autograd/ops.h"

namespace mote {
namespace {

// ---- Of one tensor -------------------------------------------------------------------------------------------------

Keep keep_of(const Unary& function) {
  Keep keep = Keep::nothing;
  visit(function, [&](auto functor) { keep = decltype(functor)::keep; });
  return keep;
}

Tensor unary(const char* op, const Tensor& x, const Unary& function) {
  check_floating(op, {"x", x});
  Tensor y = empty_like(x);
  kernel::unary(y, x, function);
  if (!x.needs_grad()) return y;
  Keep keep = keep_of(function);
  Saved kept = keep == Keep::input ? Saved(x) : keep == Keep::output ? Saved(y) : Saved();
  return record(op, y, {x}, [kept, function](const Tensor& dy) -> Grads {
    Tensor dx = empty_like(dy);
    kernel::unary_backward(dx, kept.get(), dy, function);
    return {dx};
  });
}

// ---- Of two tensors, with broadcasting -----------------------------------------------------------------------------

/// The gradient of an argument that was stretched: summed over the axes it was stretched along.
Tensor unbroadcast(const Tensor& gradient, const Shape& shape) {
  if (!gradient.defined() || gradient.shape() == shape) return gradient;
  Tensor summed = empty(shape, gradient.dtype(), gradient.device());
  kernel::sum_to(summed, gradient);
  return summed;
}

Tensor binary_output(const char* op, const Tensor& a, const Tensor& b, Binary function, const char* name_a,
                     const char* name_b) {
  check_defined(op, {name_b, b});
  check_floating(op, {name_a, a}, {{name_b, b}});
  Tensor y = empty(broadcast_shape(op, a.shape(), b.shape()), a.dtype(), a.device());
  kernel::binary(y, a, b, function);
  return y;
}

/// y = function(a, b) where the backward of each argument reads both.
Tensor binary(const char* op, const Tensor& a, const Tensor& b, Binary function, const char* name_a = "a",
              const char* name_b = "b") {
  Tensor y = binary_output(op, a, b, function, name_a, name_b);
  bool need_a = a.needs_grad(), need_b = b.needs_grad();
  if (!need_a && !need_b) return y;
  return record(op, y, {a, b}, [=, a_ = Saved(a), b_ = Saved(b)](const Tensor& dy) -> Grads {
    const Tensor &a = a_.get(), &b = b_.get();
    Tensor da, db;
    if (need_a) da = empty_like(dy);
    if (need_b) db = empty_like(dy);
    kernel::binary_backward(dy, da, db, a, b, function);
    return {unbroadcast(da, a.shape()), unbroadcast(db, b.shape())};
  });
}

Tensor binary_of(const Tensor& a, const Tensor& b, Binary function) {
  Tensor y = empty(broadcast_shape("binary", a.shape(), b.shape()), a.dtype(), a.device());
  kernel::binary(y, a, b, function);
  return y;
}

Tensor scaled(const Tensor& x, double factor) {
  Tensor y = empty_like(x);
  kernel::combine(y, {{factor, x}});
  return y;
}

}  // namespace

Tensor affine(const Tensor& x, double scale, double shift) { return unary("affine", x, {Unary::affine, scale, shift}); }
Tensor neg(const Tensor& x) { return unary("neg", x, {Unary::affine, -1, 0}); }
Tensor exp(const Tensor& x) { return unary("exp", x, {Unary::exp}); }
Tensor log(const Tensor& x) { return unary("log", x, {Unary::log}); }
Tensor sqrt(const Tensor& x) { return unary("sqrt", x, {Unary::sqrt}); }
Tensor square(const Tensor& x) { return unary("square", x, {Unary::square}); }
Tensor reciprocal(const Tensor& x) { return unary("reciprocal", x, {Unary::reciprocal}); }
Tensor abs(const Tensor& x) { return unary("abs", x, {Unary::abs}); }
Tensor sin(const Tensor& x) { return unary("sin", x, {Unary::sin}); }
Tensor cos(const Tensor& x) { return unary("cos", x, {Unary::cos}); }
Tensor sigmoid(const Tensor& x) { return unary("sigmoid", x, {Unary::sigmoid}); }
Tensor gelu(const Tensor& x) { return unary("gelu", x, {Unary::gelu}); }
Tensor silu(const Tensor& x) { return unary("silu", x, {Unary::silu}); }
Tensor tanh(const Tensor& x) { return unary("tanh", x, {Unary::tanh}); }
Tensor relu(const Tensor& x) { return unary("relu", x, {Unary::relu}); }
Tensor softplus(const Tensor& x) { return unary("softplus", x, {Unary::softplus}); }

Tensor clamp(const Tensor& x, double low, double high) {
  check(low <= high, "clamp: low must not be above high, got low = ", low, ", high = ", high);
  return unary("clamp", x, {Unary::clamp, low, high});
}

Tensor pow(const Tensor& x, double exponent) {
  check(std::isfinite(exponent), "pow: the exponent must be finite, got ", exponent);
  return unary("pow", x, {Unary::pow, exponent});
}

Tensor cast(const Tensor& x, DType dtype) {
  check_floating("cast", {"x", x});
  check(is_floating(dtype), "cast: the target must be floating (f32, bf16 or f64), got ", dtype,
        "; Tensor::to converts to integers");
  if (dtype == x.dtype()) return x;
  Tensor y = empty(x.shape(), dtype, x.device());
  kernel::convert(y, x);
  return record("cast", y, {x}, [from = x.dtype()](const Tensor& dy) -> Grads {
    Tensor dx = empty(dy.shape(), from, dy.device());
    kernel::convert(dx, dy);
    return {dx};
  });
}

// ---- Binary --------------------------------------------------------------------------------------------------------

Tensor add(const Tensor& a, const Tensor& b) {
  Tensor y = binary_output("add", a, b, Binary::add, "a", "b");
  bool need_a = a.needs_grad(), need_b = b.needs_grad();
  return record("add", y, {a, b}, [=, shape_a = a.shape(), shape_b = b.shape()](const Tensor& dy) -> Grads {
    return {need_a ? unbroadcast(dy, shape_a) : Tensor(), need_b ? unbroadcast(dy, shape_b) : Tensor()};
  });
}

Tensor sub(const Tensor& a, const Tensor& b) {
  Tensor y = binary_output("sub", a, b, Binary::sub, "a", "b");
  bool need_a = a.needs_grad(), need_b = b.needs_grad();
  return record("sub", y, {a, b}, [=, shape_a = a.shape(), shape_b = b.shape()](const Tensor& dy) -> Grads {
    return {need_a ? unbroadcast(dy, shape_a) : Tensor(),
            need_b ? scaled(unbroadcast(dy, shape_b), -1) : Tensor()};   // the sum first: it is the smaller tensor
  });
}

Tensor mul(const Tensor& a, const Tensor& b) {
  if (a.needs_grad() && b.needs_grad()) return binary("mul", a, b, Binary::mul);
  // With one gradient to compute, only the other factor is kept.
  Tensor y = binary_output("mul", a, b, Binary::mul, "a", "b");
  if (!a.needs_grad() && !b.needs_grad()) return y;
  bool need_a = a.needs_grad();
  const Tensor &differentiated = need_a ? a : b, &other = need_a ? b : a;
  return record("mul", y, {differentiated}, [other_ = Saved(other), shape = differentiated.shape()](const Tensor& dy) {
    return Grads{unbroadcast(binary_of(dy, other_.get(), Binary::mul), shape)};
  });
}

Tensor div(const Tensor& a, const Tensor& b) {
  if (b.needs_grad()) return binary("div", a, b, Binary::div);
  Tensor y = binary_output("div", a, b, Binary::div, "a", "b");
  if (!a.needs_grad()) return y;
  return record("div", y, {a}, [b_ = Saved(b), shape = a.shape()](const Tensor& dy) -> Grads {
    return {unbroadcast(binary_of(dy, b_.get(), Binary::div), shape)};
  });
}

Tensor maximum(const Tensor& a, const Tensor& b) { return binary("maximum", a, b, Binary::maximum); }
Tensor minimum(const Tensor& a, const Tensor& b) { return binary("minimum", a, b, Binary::minimum); }

Tensor bce_with_logits(const Tensor& x, const Tensor& target) {
  return binary("bce_with_logits", x, target, Binary::bce_with_logits, "x", "target");
}

// ---- Others --------------------------------------------------------------------------------------------------------

Tensor combine_rows(const Tensor& x, const Tensor& e, const Tensor& a, const Tensor& b) {
  check_defined("combine_rows", {"e", e});
  check_floating("combine_rows", {"x", x}, {{"e", e}});
  check_same_shape("combine_rows", {"x", x}, {"e", e});
  check(x.ndim() >= 1, "combine_rows: x must have a first axis, got ", describe(x));
  for (const Argument& factor : {Argument{"a", a}, Argument{"b", b}}) {
    check_defined("combine_rows", factor);
    check(factor.tensor.dtype() == DType::f64 && factor.tensor.shape() == Shape{x.size(0)}, "combine_rows: ",
          factor.name, " must hold one f64 factor a row: x is ", describe(x), ", ", factor.name, " is ",
          describe(factor.tensor));
    check_same_device("combine_rows", {"x", x}, factor);
  }
  Tensor y = empty_like(x);
  kernel::combine_rows(y, x, e, a, b);
  bool need_x = x.needs_grad(), need_e = e.needs_grad();
  if (!need_x && !need_e) return y;
  Saved a_ = need_x ? Saved(a) : Saved(), b_ = need_e ? Saved(b) : Saved();
  return record("combine_rows", y, {x, e}, [=](const Tensor& dy) -> Grads {
    auto rows_times = [&](const Tensor& factor) {   // factor[n] dy[n, ...], as the same kernel with a second factor of 0
      Tensor scaled = empty_like(dy);
      kernel::combine_rows(scaled, dy, dy, factor, zeros_like(factor));
      return scaled;
    };
    return {need_x ? rows_times(a_.get()) : Tensor(), need_e ? rows_times(b_.get()) : Tensor()};
  });
}

Tensor dropout(const Tensor& x, double p, Generator& generator) {
  check_floating("dropout", {"x", x});
  check(p >= 0 && p < 1, "dropout: p must lie in [0, 1), got ", p);
  if (p == 0) return x;
  uint64_t seed = generator.seed, offset = generator.offset;
  Tensor y = empty_like(x);
  kernel::dropout(y, x, p, seed, offset);
  generator.offset += uint64_t(x.numel() + 3) / 4;
  auto masked = [p, seed, offset](const Tensor& x) {
    Tensor y = empty_like(x);
    kernel::dropout(y, x, p, seed, offset);
    return y;
  };
  y = record("dropout", y, {x}, [masked](const Tensor& dy) -> Grads { return {masked(dy)}; });
  return remade(y, x, [masked, x_ = Saved(x)] { return masked(x_.get()); });
}

}  // namespace mote
