// dpm_solver.cpp - DPM-Solver++: exponential multistep on x0, in h = lambda' - lambda.                    [Lu 2022b]
#include "diffusion/samplers/method.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace mote {
namespace {

int64_t order_at(const Path& path, int64_t k, int64_t order, const SamplerOptions& options) {
  if (path.nodes[k + 1].variance == 0) return 1;   // h is infinite: only x' = m is left
  order = std::min(order, k + 1);
  return options.lower_order_end.value_or(true) ? lowered_at_end(order, k, path.steps()) : order;
}

/// Factors of m_k, m_{k-1}, m_{k-2}, where m_i is the x0 predicted at node i.
using Factors = std::array<double, 3>;

Terms on_x0(double of_state, const Factors& factors, int64_t k) {   // one call a step: call k belongs to node k
  Terms terms = {{of_state, Source::state}};
  for (int64_t j = 0; j < 3 && factors[j] != 0; ++j) terms.push_back({factors[j], Source::x0, k - j});
  return terms;
}

/// D = (m_k - m_{k-1}) / r, r = (lambda_k - lambda_{k-1}) / h: the change of x0 over the coming step, times `factor`.
Factors first_difference(const Path& path, int64_t k, double h, double factor) {
  double over_r = h / (path.nodes[k].lambda() - path.nodes[k - 1].lambda());
  return {factor * over_r, -factor * over_r, 0};
}

/// of_x0 (m_k + D / 2), or of_x0 m_k where only the first order can be had: the midpoint rule.
Factors midpoint(const Path& path, int64_t k, double h, double of_x0, int64_t order) {
  Factors factors = {0, 0, 0};
  if (order == 2) factors = first_difference(path, k, h, of_x0 / 2);
  factors[0] += of_x0;
  return factors;
}

// x' = (sigma' / sigma) x - a' E (m_k + D / 2),  E = expm1(-h)                                     [Lu 2022b, alg. 2]
std::vector<StepPlan> plan_2m(const Path& path, const SamplerOptions& options) {
  Planner plan;
  for (int64_t k = 0; k < path.steps(); ++k) {
    const Level &from = path.nodes[k], &to = path.nodes[k + 1];
    double h = to.lambda() - from.lambda(), of_x0 = -to.a() * std::expm1(-h);
    Factors factors = midpoint(path, k, h, of_x0, order_at(path, k, 2, options));
    plan.begin_step(from, to);
    plan.call(from);
    plan.move(on_x0(to.sigma() / from.sigma(), factors, k));
  }
  return plan.take();
}

// With A = (m_k - m_{k-1}) / r0, B = (m_{k-1} - m_{k-2}) / r1, slope and curvature of x0 at node k:
//   D1 = A + r0 (A - B) / (r0 + r1),   D2 = c (A - B) / (r0 + r1)
//   x' = (sigma' / sigma) x - a' E m_k + a' (E / h + 1) D1 - a' ((E + h) / h^2 - 1/2) D2
// c = 2 makes D2 the second derivative that the expansion has there. The commonly shipped code has c = 1, which is
// of order 2.                                                                              [Lu 2022b, expanded]
std::vector<StepPlan> plan_3m(const Path& path, const SamplerOptions& options) {
  if (options.third != 1 && options.third != 2)
    fail(Error::Kind::usage, "dpmpp-3m: third = ", options.third, ", needs 2 (exact) or 1 (as commonly shipped)");
  Planner plan;
  for (int64_t k = 0; k < path.steps(); ++k) {
    const Level &from = path.nodes[k], &to = path.nodes[k + 1];
    double h = to.lambda() - from.lambda(), E = std::expm1(-h);
    int64_t order = order_at(path, k, 3, options);
    Factors factors = midpoint(path, k, h, -to.a() * E, order);
    if (order == 3) {
      double r0 = (from.lambda() - path.nodes[k - 1].lambda()) / h;
      double r1 = (path.nodes[k - 1].lambda() - path.nodes[k - 2].lambda()) / h;
      Factors A = {1 / r0, -1 / r0, 0}, B = {0, 1 / r1, -1 / r1};
      double of_slope = to.a() * (E / h + 1), of_curve = -to.a() * ((E + h) / (h * h) - 0.5);
      for (int j = 0; j < 3; ++j) {
        double bend = (A[j] - B[j]) / (r0 + r1);
        factors[j] += of_slope * (A[j] + r0 * bend) + of_curve * options.third * bend;
      }
    }
    plan.begin_step(from, to);
    plan.call(from);
    plan.move(on_x0(to.sigma() / from.sigma(), factors, k));
  }
  return plan.take();
}

// x' = (sigma' / sigma) e^-h x + a' (1 - e^-2h) (m_k + D / 2) + sigma' sqrt(1 - e^-2h) z         [Lu 2022b]
std::vector<StepPlan> plan_sde_2m(const Path& path, const SamplerOptions& options) {
  Planner plan;
  for (int64_t k = 0; k < path.steps(); ++k) {
    const Level &from = path.nodes[k], &to = path.nodes[k + 1];
    double h = to.lambda() - from.lambda(), renewed = -std::expm1(-2 * h), of_x0 = to.a() * renewed;
    Factors factors = midpoint(path, k, h, of_x0, order_at(path, k, 2, options));
    plan.begin_step(from, to);
    plan.call(from);
    Terms terms = on_x0(to.sigma() / from.sigma() * std::exp(-h), factors, k);
    terms.push_back({to.sigma() * std::sqrt(renewed), Source::noise});
    plan.move(terms);
  }
  return plan.take();
}

}  // namespace

const Method kDpmpp2m = {"dpmpp-2m", Family::exponential, 1, plan_2m, kTakesLowerOrderEnd};
const Method kDpmpp3m = {"dpmpp-3m", Family::exponential, 1, plan_3m, kTakesLowerOrderEnd | kTakesThird};
const Method kDpmppSde2m = {"dpmpp-sde-2m", Family::exponential, 1, plan_sde_2m, kTakesLowerOrderEnd};

}  // namespace mote
