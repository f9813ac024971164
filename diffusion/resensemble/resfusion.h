// resfusion.h - the follow-up process Resfusion [Shi 2024], a baseline: the residual R = f - x0 is faded in with the
// noise:
//   x_t = sqrt(abar_t) x0 + (1 - sqrt(abar_t)) R + sqrt(1 - abar_t) eps
// Where sqrt(abar) = 1/2 the signal is f / 2, known without x0: sampling begins there, after a few steps.
#pragma once
#include "diffusion/resensemble/ensemble.h"

namespace mote::resensemble {

/// The linear schedule times 1000 / T up to the level T' whose sqrt(abar) is nearest to 1/2, counted from 1. The first
/// value below 1/2 is replaced by 1/2 if it is more than 0.01 lower. T = 12: T' = 5. The result has T' steps.
/// Throws Error(usage) for T < 12.
Schedule resfusion_schedule(int64_t T);

/// x_t at steps [N] of i64 (0 is the least noisy); x0, f, eps [N, ...] of one shape and dtype.
Tensor resfusion_sample(const Schedule& schedule, const Tensor& x0, const Tensor& f, const Tensor& step,
                        const Tensor& eps);
/// What the network is trained to give, the "resnoise": eps + (1 - sqrt(alpha_t)) sqrt(1 - abar_t) / beta_t R.
/// Put in place of eps into the ordinary step it leads to x0.
Tensor resfusion_target(const Schedule& schedule, const Tensor& x0, const Tensor& f, const Tensor& step,
                        const Tensor& eps);

/// K samples [K, N, H, W, C] of x0: all T' steps of ddpm with the small variance from f / 2 + sqrt(3) / 2 noise.
/// options.sampler is not read.
Tensor resfusion_ensemble(const Schedule& schedule, const EnsembleOptions& options, const EnsembleNetwork& network,
                          const Tensor& f);

}  // namespace mote::resensemble
