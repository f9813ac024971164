#include "diffusion/resensemble/toy.h"

#include <cmath>

#include "tensor/error.h"

namespace mote::resensemble {
namespace {

constexpr double kTruthMean = 0.8, kPrior = 0.5, kVariance = 0.36;   // E[x0 | I] / I, f / I, V

/// The ancestral step at level n: x' = keep x + pull mu + noise, and what an error in eps adds, 
/// -beta / (sigma sqrt(alpha)).
struct Step {
  double keep, pull, noise_small, noise_large, of_error;
};

Step step_at(const Schedule& schedule, double v, int64_t n) {
  Level from = schedule.level(n), to = schedule.level(n - 1);
  double beta = schedule.beta(n), alpha = 1 - beta, g = beta / (from.abar * v + from.variance);
  double small = beta * to.variance / from.variance;
  return {(1 - g) / std::sqrt(alpha), g * to.a(), small, n == 0 ? 0 : beta, -beta / (from.sigma() * std::sqrt(alpha))};
}

}  // namespace

ToyResult toy_ancestral(const Schedule& schedule, double v, bool large) {
  ToyResult x{0, 1};
  for (int64_t n = schedule.steps() - 1; n >= 0; --n) {
    Step step = step_at(schedule, v, n);
    x.gain = step.keep * x.gain + step.pull;
    x.variance = step.keep * step.keep * x.variance + (large ? step.noise_large : step.noise_small);
  }
  return x;
}

ToyResult toy_ddim(const Schedule& schedule, double v, int64_t steps) {
  ToyResult x{0, 1};
  for (const TimeStep& step : timesteps(schedule.steps(), steps)) {
    Level from = schedule.level(step.t), to = schedule.level(step.t_prev);
    double ratio = to.a() / from.a(), of_eps = to.sigma() - ratio * from.sigma();
    double slope = from.sigma() / (from.abar * v + from.variance);   // eps* = slope (x - a mu)
    double keep = ratio + of_eps * slope;
    x.gain = keep * x.gain - of_eps * slope * from.a();
    x.variance *= keep * keep;
  }
  return x;
}

ToyResult toy_misprint(const Schedule& schedule, double v) {
  ToyResult x{0, 1};
  for (int64_t n = schedule.steps() - 1; n >= 0; --n) {
    double beta = schedule.beta(n), alpha = 1 - beta, sigma = schedule.sigma(n);
    double slope = std::sqrt(beta) / (alpha * v + beta);             // of the net that saw alpha in place of abar
    double keep = (1 - beta / sigma * slope) / std::sqrt(alpha);
    x.gain = keep * x.gain + beta / sigma * slope;                   // times sqrt(alpha) mu / sqrt(alpha)
    x.variance = keep * keep * x.variance + step_at(schedule, v, n).noise_small;
  }
  return x;
}

double toy_mse(const ToyResult& residual, int64_t K) {
  check(K >= 1, "toy_mse: K = ", K, " samples, needs 1 or more");
  double bias = ((2 * kTruthMean - kPrior) * residual.gain + kPrior) / 2 - kTruthMean;
  return bias * bias + residual.variance / (4 * double(K)) + kVariance;
}

double toy_loss(const Schedule& schedule, double v) {
  double sum = 0;
  for (int64_t n = 0; n < schedule.steps(); ++n) {
    Level level = schedule.level(n);
    sum += level.abar * v / (level.abar * v + level.variance);
  }
  return sum / double(schedule.steps());
}

ErrorGain toy_error_gain(const Schedule& schedule, double lambda) {
  double scale = 1 + lambda, v = scale * scale * kVariance, constant = 0, squares = 0;
  for (int64_t n = schedule.steps() - 1; n >= 0; --n) {
    Step step = step_at(schedule, v, n);
    constant = step.keep * constant + step.of_error;
    squares = step.keep * step.keep * squares + step.of_error * step.of_error;
  }
  return {std::abs(constant) / scale, std::sqrt(squares) / scale};
}

Ideal ideal_errors(double V, double D, int64_t K) {
  check(K >= 1 && V >= 0 && D >= 0, "ideal_errors: needs V, D >= 0 and K >= 1, got ", V, ", ", D, ", ", K);
  double spread = V / double(K);
  Ideal e;
  e.e2e = V + D;
  e.plain = e.residual = V + spread;
  e.naive = V + spread / 4 + D / 4;
  e.best_weight = D + spread > 0 ? 0.5 * D / (D + spread) : 0.5;
  e.weighted = V + (D + spread > 0 ? D * spread / (D + spread) : 0);
  return e;
}

WienerToy wiener_toy(double sigma) {
  double s = sigma * sigma;
  return {(1 - s) / (1 + s), 4 * s / (1 + s), 2 * s / (1 + s), s / (1 + s)};
}

}  // namespace mote::resensemble
