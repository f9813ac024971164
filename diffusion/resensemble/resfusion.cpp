#include "diffusion/resensemble/resfusion.h"

#include <cmath>

#include "autograd/engine.h"

namespace mote::resensemble {

Schedule resfusion_schedule(int64_t T) {
  constexpr int64_t kFewest = 12;
  constexpr double kHalf = 0.5, kNear = 0.01;
  if (T < kFewest || T > Schedule::kMaxSteps)
    fail(Error::Kind::usage, "resfusion schedule: T = ", T, " steps, needs ", kFewest, " to ", Schedule::kMaxSteps);
  std::vector<double> betas;
  double abar = 1, b0 = 1e-4 * 1000 / double(T), b1 = 0.02 * 1000 / double(T);
  for (int64_t n = 0; n < T; ++n) {
    double beta = b0 + (b1 - b0) * double(n) / double(T - 1), next = abar * (1 - beta);
    bool is_last = next < kHalf * kHalf;
    if (is_last && (next <= 0 || std::sqrt(next) < kHalf - kNear)) beta = 1 - kHalf * kHalf / abar;
    betas.push_back(beta);
    if (is_last) {
      double last = abar * (1 - beta);   // the level before may be the nearer one
      if (std::abs(std::sqrt(abar) - kHalf) < std::abs(std::sqrt(last) - kHalf)) betas.pop_back();
      break;
    }
    abar = next;
  }
  return Schedule::of_betas("resfusion", std::move(betas));
}

namespace {

/// scale(step of each row) as f64 [N], after the checks.
template <class Scale>
Tensor per_row(const char* op, const Schedule& schedule, const Tensor& x0, const Tensor& f, const Tensor& step,
               const Tensor& eps, const Scale& scale) {
  check(x0.defined() && x0.shape() == f.shape() && x0.shape() == eps.shape() && x0.dtype() == f.dtype() &&
            x0.dtype() == eps.dtype(),
        op, ": x0, f and eps must have one shape [N, ...] and dtype: x0 is ", describe(x0), ", f is ", describe(f),
        ", eps is ", describe(eps));
  check(step.defined() && step.dtype() == DType::i64 && step.shape() == Shape{x0.size(0)}, op,
        ": one step a sample, i64[", x0.size(0), "], needed: step is ", describe(step));
  std::vector<double> values;
  for (double n : step.to_vector()) values.push_back(scale(int64_t(n), schedule.level(int64_t(n))));
  return from(values, step.shape(), DType::f64).to(x0.device());
}

Tensor minus(const Tensor& a, const Tensor& b) {
  Tensor y = empty_like(a);
  kernel::combine(y, {{1, a}, {-1, b}});
  return y;
}

}  // namespace

Tensor resfusion_sample(const Schedule& schedule, const Tensor& x0, const Tensor& f, const Tensor& step,
                        const Tensor& eps) {
  const char* op = "resfusion_sample";
  NoGrad no_grad;
  Tensor a = per_row(op, schedule, x0, f, step, eps, [](int64_t, const Level& level) { return level.a(); });
  Tensor rest = per_row(op, schedule, x0, f, step, eps, [](int64_t, const Level& level) { return 1 - level.a(); });
  Tensor sigma = per_row(op, schedule, x0, f, step, eps, [](int64_t, const Level& level) { return level.sigma(); });
  Tensor signal = combine_rows(x0, minus(f, x0), a, rest);
  Tensor one = full(step.shape(), 1, DType::f64).to(x0.device());
  return combine_rows(signal, eps, one, sigma);
}

Tensor resfusion_target(const Schedule& schedule, const Tensor& x0, const Tensor& f, const Tensor& step,
                        const Tensor& eps) {
  NoGrad no_grad;
  Tensor share = per_row("resfusion_target", schedule, x0, f, step, eps, [&](int64_t n, const Level& level) {
    double beta = schedule.beta(n);
    return (1 - std::sqrt(1 - beta)) * level.sigma() / beta;
  });
  Tensor one = full(step.shape(), 1, DType::f64).to(x0.device());
  return combine_rows(eps, minus(f, x0), one, share);
}

Tensor resfusion_ensemble(const Schedule& schedule, const EnsembleOptions& options, const EnsembleNetwork& network,
                          const Tensor& f) {
  NoGrad no_grad;
  check(f.defined() && f.ndim() >= 2, "resfusion_ensemble: f must be [N, ..., C], got ", describe(f));
  EnsembleOptions own = options;
  own.sampler = {.name = "ddpm", .steps = schedule.steps(), .variance = "small"};
  own.clip_x0 = own.plane = false;   // the network's "x0" is not one before the last step
  Path path = sampler_path(schedule, own.sampler);
  Tensor noise = ensemble_noise(f.shape().inserted(0, options.samples), f.dtype(), options.seed, -1, options.first, 0,
                                f.device());
  Tensor start = affine(noise, std::sqrt(0.75), 0) + affine(f, 0.5, 0);
  return sample_ensemble(path, Target{1, 0}, own, network, f, start);
}

}  // namespace mote::resensemble
