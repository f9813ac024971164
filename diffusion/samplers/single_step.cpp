// single_step.cpp - the trajectory of ddpm and ddim: one network call, one affine map, no history.
#include "diffusion/samplers/method.h"

namespace mote {

namespace {

class SingleStep : public Trajectory {
 public:
  SingleStep(const Schedule& schedule, std::vector<StepPlan> plan) : schedule_(schedule), plan_(std::move(plan)) {}

  Stepped step(int64_t k, const Tensor& x, const Evaluate& evaluate, const Draw& draw) override {
    const StepPlan& move = plan_[k];
    Denoised both = evaluate(x, schedule_.level(move.step.t));
    std::vector<Term> terms;   // a factor of 0 is left out: 0 * eps would cost a read
    if (move.keep != 0) terms.push_back({move.keep, x});
    if (move.from_x0 != 0) terms.push_back({move.from_x0, both.x0});
    if (move.from_eps != 0) terms.push_back({move.from_eps, both.eps});
    if (move.noise != 0) terms.push_back({move.noise, draw()});
    Tensor next = empty_like(x);
    kernel::combine(next, terms);
    return {next, both.x0};
  }

 private:
  const Schedule& schedule_;   // outlives the run
  std::vector<StepPlan> plan_;
};

}  // namespace

std::unique_ptr<Trajectory> start_single_step(const Schedule& schedule, std::vector<StepPlan> plan) {
  return std::make_unique<SingleStep>(schedule, std::move(plan));
}

}  // namespace mote
