// ddpm.cpp - ancestral sampling on any subset of the levels.                                      [Ho 2020, eq. 6, 7]
#include "diffusion/samplers/method.h"

#include <cmath>

namespace mote {

// With alpha = abar / abar', beta = 1 - alpha (' = the level stepped to):
//   mean = sqrt(abar') beta / (1 - abar) x0 + sqrt(alpha) (1 - abar') / (1 - abar) x
//   variance = beta ("large") or beta (1 - abar') / (1 - abar) ("small", beta tilde); none at the last step
// Written in x0 and x, not in eps: that is the posterior mean, which stays right when x0 has been clipped.
static std::vector<StepPlan> plan_ddpm(const Path& path, const SamplerOptions& options) {
  if (options.variance != "large" && options.variance != "small")
    fail(Error::Kind::usage, "ddpm: variance '", options.variance, "' is unknown: choose large or small");
  bool is_large = options.variance == "large";
  Planner plan;
  for (int64_t k = 0; k < path.steps(); ++k) {
    const Level &from = path.nodes[k], &to = path.nodes[k + 1];
    double beta = jump_beta(from, to), alpha = from.abar / to.abar;
    double shrink = to.variance / from.variance;   // (1 - abar') / (1 - abar), 0 at the last step
    double noise = to.t < 0 ? 0 : std::sqrt(is_large ? beta : beta * shrink);
    plan.begin_step(from, to);
    int64_t e = plan.call(from);
    plan.move({{std::sqrt(alpha) * shrink, Source::state},
               {to.a() * beta / from.variance, Source::x0, e},
               {noise, Source::noise}});
  }
  return plan.take();
}

const Method kDdpm = {"ddpm", Family::ancestral, 1, plan_ddpm, kTakesVariance};

}  // namespace mote
