// target.h - what a ResEnsemble-DDPM diffuses [Shi 2023]: an affine map of truth and prior, and the way back to the
// truth. The prior f is the output of a frozen end-to-end model (or the degraded image itself), in the space and on the
// scale of the truth x0: masks and images in [-1, 1]. Everything else is an ordinary diffusion of the variable xbar, so
// every sampler serves. Sampling and averaging are in ensemble.h, the follow-up process Resfusion in resfusion.h.
#pragma once
#include <string>

#include "diffusion/schedule.h"
#include "tensor/tensor.h"

namespace mote::resensemble {

/// xbar = truth x0 + prior f. The members:
///   residual          2 x0 - f, the paper: x0 - R with R = f - x0                            [Shi 2023, eq. 12, 13]
///   residual:LAMBDA   (1 + lambda) x0 - lambda f, lambda >= 0; 0 is plain
///   scaled:S          S (x0 - f), S > 0: centred only
///   plain             x0, a conditional DDPM
///   plain:S           S x0, S > 0; S = 2 has the signal-to-noise ratio of `residual` without its prior
struct Target {
  double truth = 2, prior = -1;
  bool operator==(const Target&) const = default;
};

/// The member with that name. Throws Error(usage) naming the members.
Target target_named(const std::string& name);
/// The same target on a smaller scale: xbar / scale. Throws Error(usage) unless scale > 0.
Target over(const Target& target, double scale);

/// xbar = truth x0 + prior f, what is diffused; x0, f of one shape and dtype. Never clipped.
Tensor target_of(const Target& target, const Tensor& x0, const Tensor& f);

/// y = (xbar - prior f) / truth: the estimate of x0 from one xbar; (xbar + f) / 2 for the paper.    [Shi 2023, eq. 15]
/// Not clipped.
Tensor estimate_of(const Target& target, const Tensor& xbar, const Tensor& f);

/// y_w = w xbar + (1 - w) f, clipped to [-1, 1]: the weighted fusion; w = 1/2 is the paper's for its own target and the
/// naive average for a plain one.
Tensor fused(const Tensor& xbar, const Tensor& f, double w);

/// The weight that minimises sum (x0 - y_w)^2 before clipping, from validation data:
///   w = sum (x0 - f)(xbar - f) / sum (xbar - f)^2, the (2r - c) / (a + 4r - 4c) of a = |e|^2, r = |R|^2, c = e R
/// moved into [0, 1]; 1/2 if xbar = f everywhere. xbar is the mean over as many samples as will be averaged.
double best_weight(const Tensor& xbar, const Tensor& f, const Tensor& x0);

/// Limits xbar at every pixel to where y lies in [-1, 1]: [-2 - f, 2 - f] for the paper's target. Clipping it to
/// [-1, 1] instead, as is usual for images, makes the samples repeat f.
Tensor clip(const Target& target, const Tensor& xbar, const Tensor& f);

/// Root mean square of xbar: the scale s of over() that gives the diffusion a target of variance 1.
double target_rms(const Target& target, const Tensor& x0, const Tensor& f);

/// "paper" (linear 1e-4 to 0.02), "scaled" (both ends times 1000 / T) or "cosine".
/// Throws Error(usage) for another name, T < 1, or T < 25 with scaled, whose last beta is 20 / T.
Schedule schedule_named(const std::string& name, int64_t T);
/// What is wrong with starting from N(0, 1) at the last level, in words: sqrt(abar_T) is 0.02 or more, so that sampling
/// shrinks what it draws. Empty if all is well.
std::string start_warning(const Schedule& schedule);

}  // namespace mote::resensemble
