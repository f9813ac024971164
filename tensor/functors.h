// functors.h - every scalar formula once: forward and derivative, called by the CPU loop and by the CUDA kernel.
// Unary functors see x (or y, if keep says so) in the derivative; binary ones see both arguments.
#pragma once
#include "tensor/math.h"

namespace mote {

/// What the backward of a unary function reads: its input, its output, or only dy.
enum class Keep { input, output, nothing };

/// A unary function with up to two constants (affine, clamp, pow use them).
struct Unary {
  enum Kind { affine, exp, log, sqrt, square, reciprocal, abs, sin, cos, sigmoid, silu, gelu, tanh, relu, softplus, clamp, pow };
  Kind kind;
  double a = 0, b = 0;
};

enum class Binary { add, sub, mul, div, maximum, minimum, bce_with_logits };

namespace functor {

struct Affine {            // y = a x + b
  static constexpr Keep keep = Keep::nothing;
  double a, b;
  template <class T> MOTE_HD T fwd(T x) const { return T(a) * x + T(b); }
  template <class T> MOTE_HD T bwd(T, T dy) const { return T(a) * dy; }
};
struct Exp {
  static constexpr Keep keep = Keep::output;
  template <class T> MOTE_HD T fwd(T x) const { return math::exp(x); }
  template <class T> MOTE_HD T bwd(T y, T dy) const { return dy * y; }
};
struct Log {
  static constexpr Keep keep = Keep::input;
  template <class T> MOTE_HD T fwd(T x) const { return math::log(x); }
  template <class T> MOTE_HD T bwd(T x, T dy) const { return dy / x; }
};
struct Sqrt {
  static constexpr Keep keep = Keep::output;
  template <class T> MOTE_HD T fwd(T x) const { return math::sqrt(x); }
  template <class T> MOTE_HD T bwd(T y, T dy) const { return dy / (T(2) * y); }
};
struct Square {
  static constexpr Keep keep = Keep::input;
  template <class T> MOTE_HD T fwd(T x) const { return x * x; }
  template <class T> MOTE_HD T bwd(T x, T dy) const { return T(2) * x * dy; }
};
struct Reciprocal {
  static constexpr Keep keep = Keep::output;
  template <class T> MOTE_HD T fwd(T x) const { return T(1) / x; }
  template <class T> MOTE_HD T bwd(T y, T dy) const { return -dy * y * y; }
};
struct Abs {               // the derivative at 0 is 0
  static constexpr Keep keep = Keep::input;
  template <class T> MOTE_HD T fwd(T x) const { return math::abs(x); }
  template <class T> MOTE_HD T bwd(T x, T dy) const { return x > T(0) ? dy : x < T(0) ? -dy : T(0); }
};
struct Sin {
  static constexpr Keep keep = Keep::input;
  template <class T> MOTE_HD T fwd(T x) const { return math::sin(x); }
  template <class T> MOTE_HD T bwd(T x, T dy) const { return dy * math::cos(x); }
};
struct Cos {
  static constexpr Keep keep = Keep::input;
  template <class T> MOTE_HD T fwd(T x) const { return math::cos(x); }
  template <class T> MOTE_HD T bwd(T x, T dy) const { return -dy * math::sin(x); }
};
struct Sigmoid {
  static constexpr Keep keep = Keep::output;
  template <class T> MOTE_HD T fwd(T x) const { return math::sigmoid(x); }
  template <class T> MOTE_HD T bwd(T y, T dy) const { return dy * y * (T(1) - y); }
};
struct Silu {              // y = x sigmoid(x)
  static constexpr Keep keep = Keep::input;
  template <class T> MOTE_HD T fwd(T x) const { return x * math::sigmoid(x); }
  template <class T> MOTE_HD T bwd(T x, T dy) const {
    T s = math::sigmoid(x);
    return dy * s * (T(1) + x * (T(1) - s));
  }
};
struct Gelu {              // y = x P(a standard normal number < x), not its tanh approximation   [Hendrycks 2016, eq. 1]
  static constexpr Keep keep = Keep::input;
  template <class T> MOTE_HD T fwd(T x) const { return x * math::normal_cdf(x); }
  template <class T> MOTE_HD T bwd(T x, T dy) const {
    T density = T(0.39894228040143267794) * math::exp(T(-0.5) * x * x);
    return dy * (math::normal_cdf(x) + x * density);
  }
};
struct Tanh {
  static constexpr Keep keep = Keep::output;
  template <class T> MOTE_HD T fwd(T x) const { return math::tanh(x); }
  template <class T> MOTE_HD T bwd(T y, T dy) const { return dy * (T(1) - y * y); }
};
struct Relu {              // the derivative at 0 is 0
  static constexpr Keep keep = Keep::input;
  template <class T> MOTE_HD T fwd(T x) const { return math::max(x, T(0)); }
  template <class T> MOTE_HD T bwd(T x, T dy) const { return x > T(0) ? dy : T(0); }
};
struct Softplus {          // y = log(1 + e^x), written so that neither end overflows or cancels
  static constexpr Keep keep = Keep::input;
  template <class T> MOTE_HD T fwd(T x) const { return math::max(x, T(0)) + math::log1p(math::exp(-math::abs(x))); }
  template <class T> MOTE_HD T bwd(T x, T dy) const { return dy * math::sigmoid(x); }
};
struct Clamp {             // y = min(max(x, a), b); the derivative is 1 on the closed interval, else 0
  static constexpr Keep keep = Keep::input;
  double a, b;
  template <class T> MOTE_HD T fwd(T x) const { return math::min(math::max(x, T(a)), T(b)); }
  template <class T> MOTE_HD T bwd(T x, T dy) const { return x >= T(a) && x <= T(b) ? dy : T(0); }
};
struct Pow {               // y = x^a
  static constexpr Keep keep = Keep::input;
  double a;
  template <class T> MOTE_HD T fwd(T x) const { return math::pow(x, T(a)); }
  template <class T> MOTE_HD T bwd(T x, T dy) const {   // x^0 is 1 everywhere, also at 0 where x^-1 is not finite
    return a == 0 ? T(0) : dy * T(a) * math::pow(x, T(a - 1));
  }
};

struct Add {
  template <class T> MOTE_HD T fwd(T a, T b) const { return a + b; }
  template <class T> MOTE_HD T bwd_a(T, T, T dy) const { return dy; }
  template <class T> MOTE_HD T bwd_b(T, T, T dy) const { return dy; }
};
struct Sub {
  template <class T> MOTE_HD T fwd(T a, T b) const { return a - b; }
  template <class T> MOTE_HD T bwd_a(T, T, T dy) const { return dy; }
  template <class T> MOTE_HD T bwd_b(T, T, T dy) const { return -dy; }
};
struct Mul {
  template <class T> MOTE_HD T fwd(T a, T b) const { return a * b; }
  template <class T> MOTE_HD T bwd_a(T, T b, T dy) const { return dy * b; }
  template <class T> MOTE_HD T bwd_b(T a, T, T dy) const { return dy * a; }
};
struct Div {
  template <class T> MOTE_HD T fwd(T a, T b) const { return a / b; }
  template <class T> MOTE_HD T bwd_a(T, T b, T dy) const { return dy / b; }
  template <class T> MOTE_HD T bwd_b(T a, T b, T dy) const { return -dy * a / (b * b); }
};
struct Maximum {           // a tie gives half of dy to each
  template <class T> MOTE_HD T fwd(T a, T b) const { return math::max(a, b); }
  template <class T> MOTE_HD T bwd_a(T a, T b, T dy) const { return a > b ? dy : a == b ? dy * T(0.5) : T(0); }
  template <class T> MOTE_HD T bwd_b(T a, T b, T dy) const { return b > a ? dy : a == b ? dy * T(0.5) : T(0); }
};
struct Minimum {
  template <class T> MOTE_HD T fwd(T a, T b) const { return math::min(a, b); }
  template <class T> MOTE_HD T bwd_a(T a, T b, T dy) const { return a < b ? dy : a == b ? dy * T(0.5) : T(0); }
  template <class T> MOTE_HD T bwd_b(T a, T b, T dy) const { return b < a ? dy : a == b ? dy * T(0.5) : T(0); }
};
struct BceWithLogits {     // -(t log p + (1-t) log(1-p)) with p = sigmoid(x), a = x, b = t; no overflow at either end
  template <class T> MOTE_HD T fwd(T x, T t) const {
    return math::max(x, T(0)) - x * t + math::log1p(math::exp(-math::abs(x)));
  }
  template <class T> MOTE_HD T bwd_a(T x, T t, T dy) const { return dy * (math::sigmoid(x) - t); }
  template <class T> MOTE_HD T bwd_b(T x, T, T dy) const { return -dy * x; }
};

/// The angle t w_i of a time embedding, w_i = exp(-ln(10000) i / (half - shift)). In double: sin of an angle near 999
/// would lose three digits in float.                                                              [Ho 2020; papers: 8.2]
MOTE_HD double time_angle(float t, int64_t i, int64_t half, double shift) {
  return double(t) * math::exp(-math::log(10000.0) * double(i) / (double(half) - shift));
}

}  // namespace functor

/// Calls fn with the functor of `op`: the one place that lists them.
template <class Fn>
MOTE_HD void visit(const Unary& op, Fn&& fn) {
  switch (op.kind) {
    case Unary::affine: return fn(functor::Affine{op.a, op.b});
    case Unary::exp: return fn(functor::Exp{});
    case Unary::log: return fn(functor::Log{});
    case Unary::sqrt: return fn(functor::Sqrt{});
    case Unary::square: return fn(functor::Square{});
    case Unary::reciprocal: return fn(functor::Reciprocal{});
    case Unary::abs: return fn(functor::Abs{});
    case Unary::sin: return fn(functor::Sin{});
    case Unary::cos: return fn(functor::Cos{});
    case Unary::sigmoid: return fn(functor::Sigmoid{});
    case Unary::silu: return fn(functor::Silu{});
    case Unary::gelu: return fn(functor::Gelu{});
    case Unary::tanh: return fn(functor::Tanh{});
    case Unary::relu: return fn(functor::Relu{});
    case Unary::softplus: return fn(functor::Softplus{});
    case Unary::clamp: return fn(functor::Clamp{op.a, op.b});
    case Unary::pow: return fn(functor::Pow{op.a});
  }
}
template <class Fn>
MOTE_HD void visit(Binary op, Fn&& fn) {
  switch (op) {
    case Binary::add: return fn(functor::Add{});
    case Binary::sub: return fn(functor::Sub{});
    case Binary::mul: return fn(functor::Mul{});
    case Binary::div: return fn(functor::Div{});
    case Binary::maximum: return fn(functor::Maximum{});
    case Binary::minimum: return fn(functor::Minimum{});
    case Binary::bce_with_logits: return fn(functor::BceWithLogits{});
  }
}

}  // namespace mote
