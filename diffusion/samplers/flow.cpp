// flow.cpp - classical solvers of the probability-flow ODE in continuous time: what pseudo methods are compared with.
//   dx/dt = rate(t) (eps / sigma - x),  rate = -d ln a / dt                                       [Song 2021b, eq. 13]
// None of them knows the transfer phi: 1 / sigma varies strongly near the clean end, where they lose their accuracy.
#include "diffusion/samplers/method.h"

#include <algorithm>
#include <cmath>

namespace mote {
namespace {

struct Slope {
  Level level;
  int64_t call;
};

/// terms += factor dx/dt at the state and the level of the call.
void add_slope(Terms& terms, double factor, const VpSchedule& curve, const Slope& slope) {
  double rate = curve.rate(slope.level.t);
  terms.push_back({-factor * rate, Source::input, slope.call});
  terms.push_back({factor * rate / slope.level.sigma(), Source::eps, slope.call});
}

// x' = x + (t' - t) dx/dt
std::vector<StepPlan> plan_pf_euler(const Path& path, const SamplerOptions&) {
  Planner plan;
  for (int64_t k = 0; k < path.steps(); ++k) {
    const Level &from = path.nodes[k], &to = path.nodes[k + 1];
    double rate = path.curve->rate(from.t), length = to.t - from.t;
    plan.begin_step(from, to);
    int64_t e = plan.call(from);
    plan.move({{1 - length * rate, Source::state}, {length * rate / from.sigma(), Source::eps, e}});
  }
  return plan.take();
}

// Textbook fourth order: three steps of Runge-Kutta, then Adams-Bashforth on the slopes of the last four steps.
std::vector<StepPlan> plan_fon(const Path& path, const SamplerOptions&) {
  const VpSchedule& curve = *path.curve;
  Planner plan;
  std::vector<Slope> history;
  for (int64_t k = 0; k < path.steps(); ++k) {
    const Level &from = path.nodes[k], &to = path.nodes[k + 1];
    double length = to.t - from.t;
    plan.begin_step(from, to);
    Slope first = {from, plan.call(from)};
    history.push_back(first);
    auto move = [&](const std::vector<std::pair<double, Slope>>& slopes) {
      Terms terms = {{1, Source::input, first.call}};   // the state, by the name that the slopes give it
      for (const auto& [weight, slope] : slopes) add_slope(terms, weight * length, curve, slope);
      plan.move(terms);
    };
    if (k < 3) {
      Level middle = curve.at((from.t + to.t) / 2);   // the equation is in t, whatever the grid is even in
      move({{0.5, first}});
      Slope second = {middle, plan.call(middle)};
      move({{0.5, second}});
      Slope third = {middle, plan.call(middle)};
      move({{1, third}});
      Slope fourth = {to, plan.call(to)};
      move({{1. / 6, first}, {2. / 6, second}, {2. / 6, third}, {1. / 6, fourth}});
    } else {
      std::vector<std::pair<double, Slope>> slopes;
      for (double weight : adams_bashforth(4)) slopes.push_back({weight, history[size_t(k) - slopes.size()]});
      move(slopes);
    }
  }
  return plan.take();
}

// ---- Adaptive: Dormand-Prince 5(4) ---------------------------------------------------------------------------------

// Butcher's table, one row a stage; the seventh stage sits at the new state and is the next step's first.
//                                                                                      [Dormand & Prince 1980]
constexpr int kStages = 7;
constexpr double kNode[kStages] = {0, 1. / 5, 3. / 10, 4. / 5, 8. / 9, 1, 1};
constexpr double kStage[kStages][kStages - 1] = {
    {},
    {1. / 5},
    {3. / 40, 9. / 40},
    {44. / 45, -56. / 15, 32. / 9},
    {19372. / 6561, -25360. / 2187, 64448. / 6561, -212. / 729},
    {9017. / 3168, -355. / 33, 46732. / 5247, 49. / 176, -5103. / 18656},
    {35. / 384, 0, 500. / 1113, 125. / 192, -2187. / 6784, 11. / 84},
};
// Fifth minus fourth order.
constexpr double kError[kStages] = {71. / 57600, 0, -71. / 16695, 71. / 1920, -17253. / 339200, 22. / 525, -1. / 40};

/// Steps are accepted when the root mean square of error / (tolerance (1 + max(|x|, |x'|))) over all elements is at
/// most 1; the next length aims at that with a safety of 0.9, within a factor of 0.2 to 10 (to 1 after a rejection).
///                                                                              [Hairer, Norsett & Wanner 1993, II.4]
class Adaptive : public Trajectory {
 public:
  Adaptive(const Path& path, double tolerance)
      : curve_(*path.curve), begin_(path.nodes.front().t), end_(path.nodes.back().t), tolerance_(tolerance) {}

  Stepped step(int64_t, const Tensor& start, const Evaluate& evaluate, const Draw&) override {
    Tensor x = start, x0;
    auto slope_at = [&](const Tensor& state, double t) {
      Level level = curve_.at(t);
      Denoised both = evaluate(state, level);
      x0 = both.x0;
      double rate = curve_.rate(t);
      return sum({{-rate, state}, {rate / level.sigma(), both.eps}});
    };
    double t = begin_;
    std::vector<Tensor> slopes(kStages);
    slopes[0] = slope_at(x, t);
    double length = first_length(x, slopes[0], slope_at);
    bool has_failed = false;   // this step has been rejected before
    while (t > end_) {
      check_length(length, t);
      bool is_last = length >= t - end_;
      if (is_last) length = t - end_;
      double t_next = is_last ? end_ : t - length;
      Tensor next;
      for (int stage = 1; stage < kStages; ++stage) {
        std::vector<Term> terms = {{1, x}};
        for (int j = 0; j < stage; ++j)
          if (kStage[stage][j] != 0) terms.push_back({-length * kStage[stage][j], slopes[j]});
        next = sum(terms);
        slopes[stage] = slope_at(next, kNode[stage] == 1 ? t_next : t - kNode[stage] * length);
      }
      std::vector<Term> terms;
      for (int j = 0; j < kStages; ++j)
        if (kError[j] != 0) terms.push_back({length * kError[j], slopes[j]});
      double error = norm(sum(terms), maximum(abs(x), abs(next)));
      double factor = error == 0 ? 10 : 0.9 * std::pow(error, -0.2);
      if (error <= 1) {
        t = t_next;
        x = next;
        slopes[0] = slopes[kStages - 1];
        length *= std::clamp(factor, 0.2, has_failed ? 1.0 : 10.0);
        has_failed = false;
      } else {
        if (!std::isfinite(error)) fail_at(t, "gave a state that is not finite");
        length *= std::max(factor, 0.2);
        has_failed = true;
      }
    }
    return {x, x0};
  }

 private:
  static Tensor sum(const std::vector<Term>& terms) {
    Tensor y = empty_like(terms[0].tensor);
    kernel::combine(y, terms);
    return y;
  }

  /// Root mean square of d / (tolerance (1 + size)).
  double norm(const Tensor& d, const Tensor& size) const {
    if (d.numel() == 0) return 0;
    Tensor squares = empty(Shape{1}, DType::f64, d.device());
    kernel::sum_squares(squares, div(d, affine(size, tolerance_, tolerance_)));
    return std::sqrt(squares.item() / double(d.numel()));
  }

  /// A length at which an explicit Euler step and the change of slope along it stay small.
  ///                                                                          [Hairer, Norsett & Wanner 1993, II.4]
  template <class SlopeAt>
  double first_length(const Tensor& x, const Tensor& slope, const SlopeAt& slope_at) const {
    Tensor size = abs(x);
    double d0 = norm(x, size), d1 = norm(slope, size), whole = begin_ - end_;
    if (!std::isfinite(d0) || !std::isfinite(d1)) fail_at(begin_, "gave a state that is not finite");
    double h0 = std::min(d0 < 1e-5 || d1 < 1e-5 ? 1e-6 : 0.01 * d0 / d1, whole);
    Tensor moved = slope_at(sum({{1, x}, {-h0, slope}}), begin_ - h0);
    double d2 = norm(sum({{1, moved}, {-1, slope}}), size) / h0;
    double steepest = std::max(d1, d2);
    double h1 = steepest <= 1e-15 ? std::max(1e-6, h0 * 1e-3) : std::pow(0.01 / steepest, 0.2);
    return std::min({100 * h0, h1, whole});
  }

  void check_length(double length, double t) const {
    if (!(length > 1e-13 * begin_)) fail_at(t, "needs a step that vanishes; a larger tolerance may do");
  }
  [[noreturn]] void fail_at(double t, const char* what) const {
    fail(Error::Kind::numeric, "run_sampler: pf-rk45 at t = ", t, " with tolerance ", tolerance_, " ", what);
  }

  VpSchedule curve_;
  double begin_, end_, tolerance_;
};

/// One step over the whole way, without stages.
std::vector<StepPlan> plan_pf_rk45(const Path& path, const SamplerOptions& options) {
  if (!(options.tolerance > 0 && options.tolerance <= 1))
    fail(Error::Kind::usage, "pf-rk45: tolerance = ", options.tolerance, ", needs 0 < tolerance <= 1");
  Planner plan;
  plan.begin_step(path.nodes.front(), path.nodes.back());
  return plan.take();
}

std::unique_ptr<Trajectory> start_pf_rk45(const Path& path, const SamplerOptions& options) {
  return std::make_unique<Adaptive>(path, options.tolerance);
}

}  // namespace

const Method kPfEuler = {"pf-euler", Family::flow, 1, plan_pf_euler};
const Method kFon = {"fon", Family::flow, 1, plan_fon};
const Method kPfRk45 = {"pf-rk45", Family::flow, 1, plan_pf_rk45, kTakesTolerance, start_pf_rk45};

}  // namespace mote
