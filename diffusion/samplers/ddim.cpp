// ddim.cpp - implicit sampling: no noise for eta = 0, the small variance of ddpm for eta = 1.     [Song 2021a, eq. 12]
#include "diffusion/samplers/method.h"

#include <cmath>

namespace mote {

// With alpha = abar / abar', beta = 1 - alpha (' = the level stepped to):
//   x' = sqrt(abar') x0 + sqrt(1 - abar' - s^2) eps + s z,   s^2 = eta^2 (1 - abar') / (1 - abar) beta     [eq. 12, 16]
// A clipped x0 goes with the raw eps, as in the authors' code. At the last step 1 - abar' = 0, so x' = x0.
static std::vector<StepPlan> plan_ddim(const Path& path, const SamplerOptions& options) {
  double eta = options.eta;
  if (!(eta >= 0 && eta <= 1)) fail(Error::Kind::usage, "ddim: eta = ", eta, " lies outside 0..1");
  Planner plan;
  for (int64_t k = 0; k < path.steps(); ++k) {
    const Level &from = path.nodes[k], &to = path.nodes[k + 1];
    double beta = jump_beta(from, to), alpha = from.abar / to.abar;
    double shrink = to.variance / from.variance;
    // 1 - abar' - s^2 = (1 - abar') (1 - eta^2 beta / (1 - abar)), and beta / (1 - abar) = 1 - alpha shrink:
    // two positive terms instead of a difference that vanishes for eta = 1 and small levels
    double of_eps = std::sqrt(to.variance * ((1 - eta) * (1 + eta) + eta * eta * alpha * shrink));
    plan.begin_step(from, to);
    int64_t e = plan.call(from);
    plan.move({{to.a(), Source::x0, e}, {of_eps, Source::eps, e}, {eta * std::sqrt(shrink * beta), Source::noise}});
  }
  return plan.take();
}

const Method kDdim = {"ddim", Family::pseudo, 1, plan_ddim, kTakesEta};

}  // namespace mote
