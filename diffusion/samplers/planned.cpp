// planned.cpp - writing a plan down, and carrying it out: the one trajectory of all samplers whose plan says all.
#include <algorithm>
#include <map>

#include "diffusion/samplers/method.h"

namespace mote {

// ---- Planner -------------------------------------------------------------------------------------------------------

void Planner::begin_step(const Level& from, const Level& to) { plan_.push_back({.from = from, .to = to}); }

int64_t Planner::call(const Level& level) {
  plan_.back().stages.push_back({.call = level});
  plan_.back().calls.push_back(level.t);
  return calls_++;
}

void Planner::move(const Terms& terms) {
  std::vector<Stage>& stages = plan_.back().stages;
  if (stages.empty() || !stages.back().terms.empty()) stages.emplace_back();   // moves on without a call
  Terms& kept = stages.back().terms;
  for (const PlanTerm& term : terms) {
    auto same = std::find_if(kept.begin(), kept.end(), [&](const PlanTerm& other) {
      return other.source == term.source && other.call == term.call;
    });
    if (same != kept.end()) same->factor += term.factor;
    else if (term.factor != 0) kept.push_back(term);
  }
  check(!kept.empty(), "Planner: an update without terms");
}

// ---- Pieces that several methods share -----------------------------------------------------------------------------

Terms phi(const Level& from, const Level& to, std::span<const Weighted> e) {
  double gain = jump_beta(from, to) * to.abar;   // abar' - abar
  double of_eps = -gain / (from.a() * (std::sqrt(to.variance * from.abar) + std::sqrt(from.variance * to.abar)));
  Terms terms = {{std::sqrt(to.abar / from.abar), Source::state}};
  for (const Weighted& part : e) terms.push_back({part.weight * of_eps, Source::eps, part.call});
  return terms;
}

std::vector<Weighted> newest_first(std::span<const int64_t> history, std::span<const double> weights) {
  std::vector<Weighted> parts;
  for (size_t j = 0; j < weights.size(); ++j) parts.push_back({weights[j], history[history.size() - 1 - j]});
  return parts;
}

std::span<const double> adams_bashforth(int64_t order) {
  static const std::vector<double> weights[] = {
      {1},
      {3.0 / 2, -1.0 / 2},
      {23.0 / 12, -16.0 / 12, 5.0 / 12},
      {55.0 / 24, -59.0 / 24, 37.0 / 24, -9.0 / 24},
  };
  return weights[order - 1];
}

int64_t lowered_at_end(int64_t order, int64_t k, int64_t steps) {
  constexpr int64_t kFewSteps = 15;
  return steps < kFewSteps ? std::min(order, steps - k) : order;
}

// ---- The trajectory ------------------------------------------------------------------------------------------------

namespace {

class Planned : public Trajectory {
 public:
  explicit Planned(std::vector<StepPlan> plan) : plan_(std::move(plan)) {
    for (size_t k = 0; k < plan_.size(); ++k)
      for (const Stage& stage : plan_[k].stages)
        for (const PlanTerm& term : stage.terms) last_use_[term.call] = int64_t(k);
  }

  Stepped step(int64_t k, const Tensor& x, const Evaluate& evaluate, const Draw& draw) override {
    Tensor state = x;
    for (const Stage& stage : plan_[k].stages) {
      if (stage.call) {
        Denoised both = evaluate(state, *stage.call);
        newest_x0_ = both.x0;
        history_[calls_++] = {state, both};
      }
      std::vector<Term> terms;
      for (const PlanTerm& term : stage.terms) terms.push_back({term.factor, tensor_of(term, x, draw)});
      Tensor next = empty_like(x);
      kernel::combine(next, terms);
      state = next;
    }
    std::erase_if(history_, [&](const auto& entry) { return last_use_[entry.first] <= k; });
    return {state, newest_x0_};
  }

 private:
  struct Output {
    Tensor input;
    Denoised both;
  };

  Tensor tensor_of(const PlanTerm& term, const Tensor& x, const Draw& draw) const {
    switch (term.source) {
      case Source::state: return x;
      case Source::noise: return draw();
      case Source::input: return history_.at(term.call).input;
      case Source::x0: return history_.at(term.call).both.x0;
      case Source::eps: break;
    }
    return history_.at(term.call).both.eps;
  }

  std::vector<StepPlan> plan_;
  std::map<int64_t, int64_t> last_use_;   // of each call: the last step that reads it
  std::map<int64_t, Output> history_;     // the calls that a later step reads
  int64_t calls_ = 0;
  Tensor newest_x0_;
};

}  // namespace

std::unique_ptr<Trajectory> start_planned(std::vector<StepPlan> plan) {
  return std::make_unique<Planned>(std::move(plan));
}

}  // namespace mote
