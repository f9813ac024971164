// ddim.cpp - implicit sampling: no noise for eta = 0, the small variance of ddpm for eta = 1.     [Song 2021a, eq. 12]
#include "diffusion/samplers/method.h"

#include <cmath>

namespace mote {

// With alpha = abar / abar', beta = 1 - alpha (' = the level stepped to):
//   x' = sqrt(abar') x0 + sqrt(1 - abar' - s^2) eps + s z,   s^2 = eta^2 (1 - abar') / (1 - abar) beta     [eq. 12, 16]
// A clipped x0 goes with the raw eps, as in the authors' code. At the last step 1 - abar' = 0, so x' = x0.
static std::vector<StepPlan> plan_ddim(const Schedule& schedule, const SamplerOptions& options) {
  double eta = options.eta;
  if (!(eta >= 0 && eta <= 1)) fail(Error::Kind::usage, "ddim: eta = ", eta, " lies outside 0..1");
  std::vector<StepPlan> plan;
  for (const TimeStep& step : timesteps(schedule.steps(), options.steps, options.grid)) {
    Level from = schedule.level(step.t), to = schedule.level(step.t_prev);
    double beta = jump_beta(from, to), alpha = from.abar / to.abar;
    double shrink = to.variance / from.variance;
    StepPlan move{.step = step, .calls = {double(step.t)}};
    move.from_x0 = to.a();
    // 1 - abar' - s^2 = (1 - abar') (1 - eta^2 beta / (1 - abar)), and beta / (1 - abar) = 1 - alpha shrink:
    // two positive terms instead of a difference that vanishes for eta = 1 and small levels
    move.from_eps = std::sqrt(to.variance * ((1 - eta) * (1 + eta) + eta * eta * alpha * shrink));
    move.noise = eta * std::sqrt(shrink * beta);
    plan.push_back(move);
  }
  return plan;
}

static std::unique_ptr<Trajectory> start_ddim(const Schedule& schedule, const SamplerOptions& options) {
  return start_single_step(schedule, plan_ddim(schedule, options));
}

const Method kDdim = {"ddim", plan_ddim, start_ddim};

}  // namespace mote
