#include "diffusion/process.h"

namespace mote {

// ---- What a network predicts ---------------------------------------------------------------------------------------

Prediction prediction_named(const std::string& name) {
  if (name == "eps") return Prediction::eps;
  if (name == "x0") return Prediction::x0;
  if (name == "v") return Prediction::v;
  fail(Error::Kind::usage, "prediction '", name, "' is unknown: choose eps, x0 or v");
}

const char* name_of(Prediction prediction) {
  switch (prediction) {
    case Prediction::eps: return "eps";
    case Prediction::x0: return "x0";
    case Prediction::v: return "v";
  }
  return "?";
}

// ---- Forward process -----------------------------------------------------------------------------------------------

namespace {

// a and sigma of every sample as f64 [N], after the checks that q_sample and training_target share.
struct Weights {
  Tensor a, sigma, minus_sigma;
};

Weights weights_at(const char* op, const Schedule& schedule, const Tensor& x0, const Tensor& step, const Tensor& eps) {
  check(x0.defined() && step.defined() && eps.defined(), op, ": x0, step and eps must be defined");
  check(x0.shape() == eps.shape() && x0.dtype() == eps.dtype() && x0.ndim() >= 1, op,
        ": x0 and eps must have one shape [N, ...] and dtype: x0 is ", describe(x0), ", eps is ", describe(eps));
  check(step.dtype() == DType::i64 && step.shape() == Shape{x0.size(0)}, op, ": one step a sample, i64[", x0.size(0),
        "], needed: step is ", describe(step));
  std::vector<double> a, sigma, minus_sigma;
  for (double n : step.to_vector()) {
    check(n >= 0 && n < double(schedule.steps()), op, ": step ", n, " lies outside 0..", schedule.steps() - 1);
    Level level = schedule.level(int64_t(n));
    a.push_back(level.a());
    sigma.push_back(level.sigma());
    minus_sigma.push_back(-level.sigma());
  }
  Shape shape = step.shape();
  Device device = x0.device();
  return {from(a, shape, DType::f64).to(device), from(sigma, shape, DType::f64).to(device),
          from(minus_sigma, shape, DType::f64).to(device)};
}

}  // namespace

Tensor q_sample(const Schedule& schedule, const Tensor& x0, const Tensor& step, const Tensor& eps) {
  Weights weights = weights_at("q_sample", schedule, x0, step, eps);
  return combine_rows(x0, eps, weights.a, weights.sigma);
}

Tensor training_target(const Schedule& schedule, Prediction prediction, const Tensor& x0, const Tensor& step,
                       const Tensor& eps) {
  Weights weights = weights_at("training_target", schedule, x0, step, eps);
  switch (prediction) {
    case Prediction::eps: return eps;
    case Prediction::x0: return x0;
    case Prediction::v: break;
  }
  return combine_rows(eps, x0, weights.a, weights.minus_sigma);
}

// ---- Back to x0 and eps --------------------------------------------------------------------------------------------

namespace {

Tensor combined(const Tensor& x, double of_x, const Tensor& y, double of_y) {
  Tensor sum = empty_like(x);
  kernel::combine(sum, {{of_x, x}, {of_y, y}});
  return sum;
}

}  // namespace

Denoised denoise(Prediction prediction, const Tensor& raw, const Tensor& x, const Level& level, bool clip) {
  check(raw.defined() && x.defined() && raw.shape() == x.shape() && is_floating(raw.dtype()) && is_floating(x.dtype()),
        "denoise: the network's output must be floating and have the shape of the state: output is ", describe(raw),
        ", x is ", describe(x));
  check(NoGrad::active() || !(raw.needs_grad() || x.needs_grad()),
        "denoise: gradients are not recorded here: call it under NoGrad or on detached tensors");
  check(level.abar > 0 && level.variance > 0,
        "denoise: needs a level with image and noise in it: t is ", level.t, ", abar is ", level.abar);
  Tensor output = raw.to(x.dtype());
  double a = level.a(), sigma = level.sigma();
  Denoised both;
  switch (prediction) {
    case Prediction::eps:
      both = {output, combined(x, 1 / a, output, -sigma / a)};
      break;
    case Prediction::x0:
      both = {combined(x, 1 / sigma, output, -a / sigma), output};
      break;
    case Prediction::v:
      both = {combined(output, a, x, sigma), combined(x, a, output, -sigma)};
      break;
  }
  if (clip) {
    Tensor clamped = empty_like(both.x0);
    kernel::unary(clamped, both.x0, {Unary::clamp, -1, 1});
    both.x0 = clamped;
  }
  return both;
}

Denoised denoise(const Schedule& schedule, Prediction prediction, const Tensor& output, const Tensor& x, int64_t n,
                 bool clip) {
  return denoise(prediction, output, x, schedule.level(n), clip);
}

}  // namespace mote
