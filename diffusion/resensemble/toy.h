// toy.h - a scalar problem in which everything about ResEnsemble-DDPM is a closed form or an exact recursion:
//   I ~ N(0, 1), x0 = 0.8 I + 0.6 n, f = 0.5 I, so xbar | I ~ N(1.1 I, 1.44) and x0 | I ~ N(0.8 I, 0.36).
// V = 0.36 is the variance of the truth given the image, D = 0.09 the squared error of f. For tests and
// `mote segment theory`.
#pragma once
#include <string>
#include <vector>

#include "diffusion/schedule.h"

namespace mote::resensemble {

/// What a sampler with the exact network makes of a target N(mu, v): samples ~ N(gain mu, variance).
struct ToyResult {
  double gain, variance;
};
/// Ancestral sampling over all levels; `large` takes beta for the variance of a step, else beta tilde. With g = beta /
/// (abar v + 1 - abar): k <- (1 - g) / sqrt(alpha) k + g sqrt(abar'), 
/// variance <- ((1 - g) / sqrt(alpha))^2 variance + noise.
ToyResult toy_ancestral(const Schedule& schedule, double v, bool large = false);
/// Deterministic DDIM over `steps` levels 0, r, 2r, .. with r = T / steps.
ToyResult toy_ddim(const Schedule& schedule, double v, int64_t steps);
/// What is left if the forward process is trained with alpha_t where abar_t belongs (the misprint of eq. 17) and
/// sampled as printed.
ToyResult toy_misprint(const Schedule& schedule, double v);

/// Mean squared error of y averaged over K samples of xbar: ((1.1 k + 0.5) / 2 - 0.8)^2 + variance / (4 K) + 0.36.
double toy_mse(const ToyResult& residual, int64_t K);
/// The smallest loss that a network for targets of variance v can reach at a level: abar v / (abar v + 1 - abar); its
/// mean over all levels.
double toy_loss(const Schedule& schedule, double v);

/// How much an error in the network's eps moves the final estimate of x0: the same error at every step, and an
/// independent one of unit variance at every step (root mean square). lambda of the target (1 + lambda) x0 - lambda f.
struct ErrorGain {
  double constant, white;
};
ErrorGain toy_error_gain(const Schedule& schedule, double lambda);

/// Errors with a perfect sampler.                                                        [bias and variance, V and D]
struct Ideal {
  double e2e, plain, residual, naive, best_weight, weighted;
};
Ideal ideal_errors(double V, double D, int64_t K);

/// Denoising without an end-to-end model: x0 ~ N(0, 1), I = f = x0 + sigma n. xbar | I ~ N(gain I, variance).
struct WienerToy {
  double gain, variance;           // (1 - s) / (1 + s), 4 s / (1 + s); s = sigma^2
  double single_mse, limit_mse;    // 2 s / (1 + s), s / (1 + s)
};
WienerToy wiener_toy(double sigma);

}  // namespace mote::resensemble
