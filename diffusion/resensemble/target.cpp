#include "diffusion/resensemble/target.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "autograd/engine.h"
#include "autograd/ops.h"

namespace mote::resensemble {

// ---- The members ----------------------------------------------------------------------------------------------------

Target target_named(const std::string& name) {
  std::string kind = name.substr(0, name.find(':'));
  double value = kind == "plain" ? 1 : kind == "residual" ? 1 : 0;
  bool known = kind == "residual" || kind == "plain" || kind == "scaled";
  if (name.size() > kind.size()) {
    const char *begin = name.data() + kind.size() + 1, *end = name.data() + name.size();
    auto [stop, error] = std::from_chars(begin, end, value);
    known = known && error == std::errc() && stop == end && std::isfinite(value);
  }
  if (!known || !(kind == "residual" ? value >= 0 : value > 0))
    fail(Error::Kind::usage, "target '", name, "' is unknown: choose residual, residual:LAMBDA (LAMBDA >= 0), scaled:S "
         "(S > 0), plain or plain:S (S > 0)");
  if (kind == "residual") return {1 + value, value == 0 ? 0 : -value};
  if (kind == "scaled") return {value, -value};
  return {value, 0};
}

Target over(const Target& target, double scale) {
  if (!(scale > 0 && std::isfinite(scale))) fail(Error::Kind::usage, "target scale: needs to be positive, got ", scale);
  return {target.truth / scale, target.prior / scale};
}

namespace {

Tensor mixed(const char* op, double of_a, const Tensor& a, double of_b, const Tensor& b) {
  check(a.defined() && b.defined() && is_floating(a.dtype()) && a.shape() == b.shape() && a.dtype() == b.dtype(), op,
        ": two floating tensors of one shape needed, got ", describe(a), " and ", describe(b));
  Tensor y = empty_like(a);
  if (of_b == 0) kernel::combine(y, {{of_a, a}});
  else kernel::combine(y, {{of_a, a}, {of_b, b}});
  return y;
}

}  // namespace

Tensor target_of(const Target& target, const Tensor& x0, const Tensor& f) {
  return mixed("resensemble::target_of", target.truth, x0, target.prior, f);
}

Tensor estimate_of(const Target& target, const Tensor& xbar, const Tensor& f) {
  return mixed("resensemble::estimate_of", 1 / target.truth, xbar, -target.prior / target.truth, f);
}

Tensor fused(const Tensor& xbar, const Tensor& f, double w) {
  NoGrad no_grad;
  return clamp(mixed("resensemble::fused", w, xbar, 1 - w, f), -1, 1);
}

double best_weight(const Tensor& xbar, const Tensor& f, const Tensor& x0) {
  check(xbar.shape() == f.shape() && x0.shape() == f.shape(), "best_weight: shapes differ: xbar is ", describe(xbar),
        ", f is ", describe(f), ", x0 is ", describe(x0));
  std::vector<double> x = xbar.to_vector(), prior = f.to_vector(), truth = x0.to_vector();
  double above = 0, below = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    above += (truth[i] - prior[i]) * (x[i] - prior[i]);
    below += (x[i] - prior[i]) * (x[i] - prior[i]);
  }
  return below > 0 ? std::clamp(above / below, 0.0, 1.0) : 0.5;
}

Tensor clip(const Target& target, const Tensor& xbar, const Tensor& f) {
  NoGrad no_grad;
  return minimum(maximum(xbar, affine(f, target.prior, -target.truth)), affine(f, target.prior, target.truth));
}

double target_rms(const Target& target, const Tensor& x0, const Tensor& f) {
  Tensor xbar = target_of(target, x0, f), squares = empty(Shape{1}, DType::f64, x0.device());
  check(xbar.numel() > 0, "target_rms: no values");
  kernel::sum_squares(squares, xbar);
  return std::sqrt(squares.item() / double(xbar.numel()));
}

// ---- Schedules ------------------------------------------------------------------------------------------------------

Schedule schedule_named(const std::string& name, int64_t T) {
  if (name == "paper") return Schedule::linear(T);
  if (name == "cosine") return Schedule::cosine(T);
  if (name != "scaled") fail(Error::Kind::usage, "schedule '", name, "' is unknown: choose paper, scaled or cosine");
  constexpr int64_t kFewest = 25;
  if (T < kFewest)
    fail(Error::Kind::usage, "schedule scaled: T = ", T, " steps, needs ", kFewest,
         " or more: its last beta is 20 / T");
  return Schedule::linear(T, 1e-4 * 1000 / double(T), 0.02 * 1000 / double(T));
}

std::string start_warning(const Schedule& schedule) {
  constexpr double kMost = 0.02;
  double kept = schedule.a(schedule.steps() - 1);
  if (kept < kMost) return "";
  return concat_text("the schedule keeps ", kept, " of the signal at its last level (T = ", schedule.steps(),
                     "), but sampling starts from noise alone: samples will be shrunk; below ", kMost,
                     " is safe, which paper reaches at T = 1000, scaled and cosine at any T");
}

}  // namespace mote::resensemble
