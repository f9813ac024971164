// pndm.cpp - the pseudo numerical methods: a classical gradient part, and phi as the transfer.         [Liu 2022]
// Every transfer within a step starts from the state at the step's beginning, never from a stage. The history holds one
// eps a step, the one predicted at the step's own level. Their weights are right for steps of even length in t only; on
// other grids the methods fall back to lower order, and deis is the one to use.
// A start that calls the network c times in a step multiplies roundings by (a'/a)^c. From the last level of the cosine
// schedule, a = 5e-5, Runge-Kutta so loses every digit: start f-pndm below it, as the uniform grid does.
#include "diffusion/samplers/method.h"

#include <algorithm>

namespace mote {
namespace {

/// e = (e1 + e2) / 2, e2 at the end of the step; returns the call of e1.                           [Liu 2022]
int64_t pseudo_improved_euler(Planner& plan, const Level& from, const Level& to) {
  int64_t e1 = plan.call(from);
  plan.move(phi(from, to, {{Weighted{1, e1}}}));
  int64_t e2 = plan.call(to);
  plan.move(phi(from, to, {{Weighted{0.5, e1}, Weighted{0.5, e2}}}));
  return e1;
}

/// e = (e1 + 2 e2 + 2 e3 + e4) / 6; returns the call of e1.                                          [Liu 2022]
int64_t pseudo_runge_kutta(Planner& plan, const Level& from, const Level& middle, const Level& to) {
  int64_t e1 = plan.call(from);
  plan.move(phi(from, middle, {{Weighted{1, e1}}}));
  int64_t e2 = plan.call(middle);
  plan.move(phi(from, middle, {{Weighted{1, e2}}}));
  int64_t e3 = plan.call(middle);
  plan.move(phi(from, to, {{Weighted{1, e3}}}));
  int64_t e4 = plan.call(to);
  plan.move(phi(from, to, {{Weighted{1. / 6, e1}, Weighted{2. / 6, e2}, Weighted{2. / 6, e3}, Weighted{1. / 6, e4}}}));
  return e1;
}

enum class Start { multistep, improved_euler, runge_kutta };

/// Steps of the start's kind, then linear multistep over the last `order` values, or as many as there are.
std::vector<StepPlan> plan_multistep(const Path& path, Start start, int64_t order) {
  Planner plan;
  std::vector<int64_t> history;
  for (int64_t k = 0; k < path.steps(); ++k) {
    const Level &from = path.nodes[k], &to = path.nodes[k + 1];
    plan.begin_step(from, to);
    if (start == Start::runge_kutta && k < 3) {
      history.push_back(pseudo_runge_kutta(plan, from, path.halfway(from, to), to));
    } else if (start == Start::improved_euler && k == 0) {
      history.push_back(pseudo_improved_euler(plan, from, to));
    } else {
      history.push_back(plan.call(from));
      plan.move(phi(from, to, newest_first(history, adams_bashforth(std::min(order, k + 1)))));
    }
  }
  return plan.take();
}

std::vector<StepPlan> plan_s_pndm(const Path& path, const SamplerOptions&) {
  return plan_multistep(path, Start::improved_euler, 2);
}
std::vector<StepPlan> plan_f_pndm(const Path& path, const SamplerOptions&) {
  return plan_multistep(path, Start::runge_kutta, 4);
}
std::vector<StepPlan> plan_plms(const Path& path, const SamplerOptions&) {
  return plan_multistep(path, Start::improved_euler, 4);
}
std::vector<StepPlan> plan_ipndm(const Path& path, const SamplerOptions&) {
  return plan_multistep(path, Start::multistep, 4);
}

}  // namespace

// The second call of a start needs a noisy level to be made at: with N = 1 (of f-pndm: 3) it would be the clean image.
const Method kSPndm = {"s-pndm", Family::pseudo, 2, plan_s_pndm};
const Method kFPndm = {"f-pndm", Family::pseudo, 4, plan_f_pndm};
const Method kPlms = {"plms", Family::pseudo, 2, plan_plms};      // Stable Diffusion's form of f-pndm, N + 1 calls
const Method kIpndm = {"ipndm", Family::pseudo, 1, plan_ipndm};   // [Zhang 2023]

}  // namespace mote
