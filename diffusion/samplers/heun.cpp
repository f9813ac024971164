// heun.cpp - Heun's method on dy/du = eps, y = x / a, u = sigma / a.                          [Karras 2022, alg. 1]
#include "diffusion/samplers/method.h"

namespace mote {

// In x a step is the transfer phi with the mean of the two gradients. A step to an end without a network call (the
// clean image) is left uncorrected, so that N steps cost 2 N - 1 calls. The paper's D(y; u) is our x0, its
// d = (y - D) / u our eps.
static std::vector<StepPlan> plan_heun(const Path& path, const SamplerOptions&) {
  Planner plan;
  for (int64_t k = 0; k < path.steps(); ++k) {
    const Level &from = path.nodes[k], &to = path.nodes[k + 1];
    plan.begin_step(from, to);
    int64_t e1 = plan.call(from);
    plan.move(phi(from, to, {{Weighted{1, e1}}}));
    if (to.t < 0) continue;
    int64_t e2 = plan.call(to);
    plan.move(phi(from, to, {{Weighted{0.5, e1}, Weighted{0.5, e2}}}));
  }
  return plan.take();
}

const Method kHeun = {"heun", Family::exponential, 1, plan_heun};

}  // namespace mote
