// deis.cpp - Adams-Bashforth with the weights of the steps that are really taken, in u = sigma / a.    [Zhang 2023]
#include "diffusion/samplers/method.h"

#include <algorithm>
#include <cmath>

namespace mote {
namespace {

/// The mean of the polynomial of degree n - 1 that is 1 at s[j] and 0 at the other n - 1 places, where moments[m] is
/// the mean of s^m.
double lagrange_mean(const std::vector<double>& s, size_t j, const std::vector<double>& moments) {
  std::vector<double> coefficients = {1};   // of s^0, s^1, ..
  for (size_t m = 0; m < s.size(); ++m) {
    if (m == j) continue;
    std::vector<double> product(coefficients.size() + 1, 0);   // times (s - s[m]) / (s[j] - s[m])
    for (size_t power = 0; power < coefficients.size(); ++power) {
      product[power + 1] += coefficients[power] / (s[j] - s[m]);
      product[power] -= coefficients[power] * s[m] / (s[j] - s[m]);
    }
    coefficients = product;
  }
  double mean = 0;
  for (size_t power = 0; power < coefficients.size(); ++power) mean += coefficients[power] * moments[power];
  return mean;
}

/// Integral of s^m e^s from 0 to L < 0, which may be -infinity.
double exponential_moment(int64_t m, double L) {
  if (L > -1) {   // sum of L^(m+1+i) / (i! (m+1+i)): the recurrence below would cancel to nothing
    double sum = 0, power = std::pow(L, double(m + 1));
    for (int64_t i = 0; i < 24; ++i) {
      sum += power / double(m + 1 + i);
      power *= L / double(i + 1);
    }
    return sum;
  }
  double integral = std::expm1(L), edge = std::exp(L);
  for (int64_t i = 1; i <= m; ++i) {
    edge = std::isinf(L) ? 0 : edge * L;
    integral = edge - double(i) * integral;
  }
  return integral;
}

// y' = y + sum_j eps[k-j] integral of l_j over [u, u'], l_j the Lagrange basis over the last `order` nodes, as
// polynomials in u (the paper's rho-AB) or in ln u; both integrals are exact. phi moves by (u' - u) e, so e is the sum
// of eps times the means of the l_j over the step, and a weight is such a mean.
std::vector<StepPlan> plan_deis(const Path& path, const SamplerOptions& options) {
  if (options.order < 1 || options.order > 4)
    fail(Error::Kind::usage, "deis: order ", options.order, " asked for, needs 1 to 4");
  if (options.basis != "u" && options.basis != "log-u")
    fail(Error::Kind::usage, "deis: basis '", options.basis, "' is unknown: choose u or log-u");
  bool is_log = options.basis == "log-u";
  Planner plan;
  std::vector<int64_t> history;
  for (int64_t k = 0; k < path.steps(); ++k) {
    const Level &from = path.nodes[k], &to = path.nodes[k + 1];
    plan.begin_step(from, to);
    history.push_back(plan.call(from));
    int64_t order = std::min(options.order, k + 1);
    if (options.lower_order_end.value_or(false)) order = lowered_at_end(order, k, path.steps());
    std::vector<double> s, moments, weights;   // places of the nodes: node k is 0; in u, node k + 1 is 1
    double L = from.lambda() - to.lambda();    // ln(u' / u)
    for (int64_t j = 0; j < order; ++j) {
      const Level& node = path.nodes[k - j];
      s.push_back(is_log ? from.lambda() - node.lambda() : (node.u() - from.u()) / (to.u() - from.u()));
      moments.push_back(is_log ? exponential_moment(j, L) / exponential_moment(0, L) : 1 / double(j + 1));
    }
    for (size_t j = 0; j < s.size(); ++j) weights.push_back(lagrange_mean(s, j, moments));
    plan.move(phi(from, to, newest_first(history, weights)));
  }
  return plan.take();
}

}  // namespace

const Method kDeis = {"deis", Family::exponential, 1, plan_deis, kTakesOrder | kTakesBasis | kTakesLowerOrderEnd};

}  // namespace mote
