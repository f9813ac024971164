// ddpm.cpp - ancestral sampling on any subset of the levels.                                      [Ho 2020, eq. 6, 7]
#include "diffusion/samplers/method.h"

#include <cmath>

namespace mote {

// With alpha = abar / abar', beta = 1 - alpha (' = the level stepped to):
//   mean = sqrt(abar') beta / (1 - abar) x0 + sqrt(alpha) (1 - abar') / (1 - abar) x
//   variance = beta ("large") or beta (1 - abar') / (1 - abar) ("small", beta tilde); none at the last step
// Written in x0 and x, not in eps: that is the posterior mean, which stays right when x0 has been clipped.
static std::vector<StepPlan> plan_ddpm(const Schedule& schedule, const SamplerOptions& options) {
  if (options.variance != "large" && options.variance != "small")
    fail(Error::Kind::usage, "ddpm: variance '", options.variance, "' is unknown: choose large or small");
  if (options.eta != 0)
    fail(Error::Kind::usage, "ddpm: eta = ", options.eta,
         " belongs to ddim; choose the noise of ddpm with variance large or small");
  bool is_large = options.variance == "large";
  std::vector<StepPlan> plan;
  for (const TimeStep& step : timesteps(schedule.steps(), options.steps, options.grid)) {
    Level from = schedule.level(step.t), to = schedule.level(step.t_prev);
    double beta = jump_beta(from, to), alpha = from.abar / to.abar;
    double shrink = to.variance / from.variance;   // (1 - abar') / (1 - abar), 0 at the last step
    StepPlan move{.step = step, .calls = {double(step.t)}};
    move.keep = std::sqrt(alpha) * shrink;
    move.from_x0 = to.a() * beta / from.variance;
    if (step.t_prev >= 0) move.noise = std::sqrt(is_large ? beta : beta * shrink);
    plan.push_back(move);
  }
  return plan;
}

static std::unique_ptr<Trajectory> start_ddpm(const Schedule& schedule, const SamplerOptions& options) {
  return start_single_step(schedule, plan_ddpm(schedule, options));
}

const Method kDdpm = {"ddpm", plan_ddpm, start_ddpm};

}  // namespace mote
