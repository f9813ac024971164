// langevin.cpp - annealed Langevin dynamics: at each level one noisy step along the score, and at the end the image
// that the network sees in the state. It starts from a state of its first level: from pure noise it needs thousands of
// levels.
#include "diffusion/samplers/method.h"

#include <cmath>

namespace mote {

// In y = x / a, whose noise has the standard deviation u, the score is -eps / u. A step of length rate u^2 is
//   y <- y - rate u eps + sqrt(2 rate) u z,                           [Song & Ermon 2019, alg. 1; Song & Ermon 2020]
// in x the same with sigma for u; going to the next level leaves y as it is. The last call, at the level of the last
// step, gives the x0 at which the run ends: N steps cost N + 1 calls. At an end that keeps noise, that is put back.
// Published chains have thousands of close levels and rates of 0.01 to 0.06. A chain of a few calls lags behind its
// levels unless its rate is about one half: of 2000 points of the toy 8-gaussians (ot/toys.h), 381 end in no mode after
// 20 calls from level 90 with the rate 0.1, 10 with 0.5.
static std::vector<StepPlan> plan_langevin(const Path& path, const SamplerOptions& options) {
  double rate = options.rate;
  if (!(rate > 0 && rate <= 1)) fail(Error::Kind::usage, "langevin: rate = ", rate, ", needs 0 < rate <= 1");
  Planner plan;
  for (int64_t k = 0; k < path.steps(); ++k) {
    const Level &from = path.nodes[k], &to = path.nodes[k + 1];
    bool is_last = k + 1 == path.steps();
    double scale = is_last ? 1 : to.a() / from.a(), sigma = scale * from.sigma();
    plan.begin_step(from, to);
    int64_t e = plan.call(from);
    plan.move({{scale, Source::state}, {-rate * sigma, Source::eps, e}, {std::sqrt(2 * rate) * sigma, Source::noise}});
    if (!is_last) continue;
    int64_t end = plan.call(from);
    plan.move({{to.a(), Source::x0, end}, {to.sigma(), Source::eps, end}});
  }
  return plan.take();
}

const Method kLangevin = {"langevin", Family::exponential, 1, plan_langevin, kTakesRate};

}  // namespace mote
