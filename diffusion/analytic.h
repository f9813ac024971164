// analytic.h - data whose best possible network is known in closed form: what samplers are measured against.
// For data drawn from p, the network that minimises the training loss gives the mean of eps (or x0, or v) given x; for
// Gaussian data and mixtures of them that mean is a formula, and no training error hides the error of a sampler.
#pragma once
#include <vector>

#include "diffusion/samplers/sampler.h"

namespace mote {

/// Every coordinate ~ N(mean, std^2); std = 0 is a single image of one grey level.
struct Gaussian {
  double mean = 0, std = 1;
};

/// A point x in R^D ~ sum_k weights[k] N(means[k], stds[k]^2 I). Weights are positive and are normalised on use.
struct Mixture {
  std::vector<double> weights;
  std::vector<std::vector<double>> means;   // [K][D]
  std::vector<double> stds;                 // [K], >= 0
};

/// The exact predictions at x. With v = abar std^2 + 1 - abar, the variance of x (v_k for component k):
///   Gaussian: eps = sigma (x - a mean) / v,   x0 = (a std^2 x + sigma^2 mean) / v
///   Mixture:  the same for each component k, averaged with shares proportional to
///             weights_k v_k^(-D/2) exp(-|x - a mean_k|^2 / (2 v_k))
///   x [N, ...] floating, D = numel / N for the Mixture, which runs on the CPU and in f64 inside
/// Throws Error if v = 0 (std = 0 at the clean level), or the mixture's sizes disagree with each other or with D.
Denoised exact_denoise(const Gaussian& data, const Tensor& x, const Level& level);
Denoised exact_denoise(const Mixture& data, const Tensor& x, const Level& level);

/// eps, x0, or v = a eps - sigma x0 of `exact`.
Tensor raw_output(Prediction prediction, const Denoised& exact, const Level& level);

/// The exact network of the data, called at any t that the schedule's at() takes.
Network exact_network(const Gaussian& data, const Schedule& schedule, Prediction prediction = Prediction::eps);
Network exact_network(const Mixture& data, const Schedule& schedule, Prediction prediction = Prediction::eps);
Network exact_network(const Gaussian& data, const VpSchedule& schedule, Prediction prediction = Prediction::eps);
Network exact_network(const Mixture& data, const VpSchedule& schedule, Prediction prediction = Prediction::eps);

/// Where the probability-flow ODE of the exact network carries x from one level to another:
///   x' = a' mean + sqrt(v' / v) (x - a mean)                                        [Song 2021b, eq. 13, solved for p]
/// A deterministic sampler with ever more steps tends to this map. Throws Error if v = 0.
Tensor exact_flow(const Gaussian& data, const Tensor& x, const Level& from, const Level& to);

}  // namespace mote
