// unipc.cpp - a predictor and a corrector of one order more on x0, at one network call a step.             [Zhao 2023]
#include "diffusion/samplers/method.h"

#include <algorithm>
#include <cmath>

namespace mote {
namespace {

using Row = std::vector<double>;

/// rho with sum over m of r[m]^(k-1) rho[m] = b[k-1], k = 1..n: Gauss with the largest pivot; n <= 3 distinct r.
Row solve_powers(const Row& r, Row b) {
  size_t n = r.size();
  std::vector<Row> R(n, Row(n));
  for (size_t k = 0; k < n; ++k)
    for (size_t m = 0; m < n; ++m) R[k][m] = k == 0 ? 1 : R[k - 1][m] * r[m];
  for (size_t column = 0; column < n; ++column) {
    size_t pivot = column;
    for (size_t row = column + 1; row < n; ++row)
      if (std::abs(R[row][column]) > std::abs(R[pivot][column])) pivot = row;
    std::swap(R[column], R[pivot]);
    std::swap(b[column], b[pivot]);
    for (size_t row = column + 1; row < n; ++row) {
      double factor = R[row][column] / R[column][column];
      for (size_t m = column; m < n; ++m) R[row][m] -= factor * R[column][m];
      b[row] -= factor * b[column];
    }
  }
  for (size_t row = n; row-- > 0;) {
    for (size_t m = row + 1; m < n; ++m) b[row] -= R[row][m] * b[m];
    b[row] /= R[row][row];
  }
  return b;
}

/// One step from node k at order p: both formulas are  x' = (sigma' / sigma) x - a' phi1 m_k - a' B sum rho_j D_j
/// with H = -h, phi1 = expm1(H), B = H (bh1) or expm1(H) (bh2), D_j = (m_{k-j} - m_k) / r_j,
/// r_j = (lambda_{k-j} - lambda_k) / h.
///                                                                                           [Zhao 2023]
class UniStep {
 public:
  UniStep(const Path& path, int64_t k, int64_t p, bool is_bh2) : path_(path), k_(k), p_(p) {
    H_ = path.nodes[k].lambda() - path.nodes[k + 1].lambda();
    phi1_ = std::expm1(H_);
    B_ = is_bh2 ? phi1_ : H_;
    for (int64_t j = 1; j < p; ++j) r_.push_back((path.nodes[k].lambda() - path.nodes[k - j].lambda()) / H_);
    double g = phi1_ / H_ - 1, factorial = 1;   // g_1; g_{i+1} = g_i / H - 1 / (i + 1)!
    for (int64_t i = 1; i <= p; ++i) {
      b_.push_back(g * factorial / B_);         // b_i = g_i i! / B
      factorial *= double(i + 1);
      g = g / H_ - 1 / factorial;
    }
  }

  Terms predict() const {
    Row rho;
    if (p_ == 2) rho = {0.5};   // of the right order for both B, and what makes bh2 equal to dpmpp-2m
    if (p_ > 2) rho = solve_powers(r_, Row(b_.begin(), b_.end() - 1));
    return terms(rho, 0);
  }

  /// Once m_{k+1} has been predicted, at r = 1.
  Terms correct() const {
    Row r = r_, rho = {0.5};
    r.push_back(1);
    if (p_ > 1) rho = solve_powers(r, b_);
    double of_new = rho.back();
    rho.pop_back();
    return terms(rho, of_new);
  }

 private:
  Terms terms(const Row& rho, double of_new) const {
    const Level &from = path_.nodes[k_], &to = path_.nodes[k_ + 1];
    double scale = -to.a() * B_, of_m = -to.a() * phi1_ - scale * of_new;
    Terms list = {{to.sigma() / from.sigma(), Source::state}};
    for (size_t j = 0; j < rho.size(); ++j) {
      of_m -= scale * rho[j] / r_[j];
      list.push_back({scale * rho[j] / r_[j], Source::x0, k_ - 1 - int64_t(j)});   // call i is made at node i
    }
    list.push_back({of_m, Source::x0, k_});
    if (of_new != 0) list.push_back({scale * of_new, Source::x0, k_ + 1});
    return list;
  }

  const Path& path_;
  int64_t k_, p_;
  double H_, phi1_, B_;
  Row r_, b_;
};

// A step ends with the network call at its own end and the correction there: the corrected state and the x0 of the
// predicted one go on together. So the first step makes two calls and the last one, which is not corrected, none.
std::vector<StepPlan> plan_unipc(const Path& path, const SamplerOptions& options) {
  if (options.order < 1 || options.order > 3)
    fail(Error::Kind::usage, "unipc: order ", options.order, " asked for, needs 1 to 3");
  if (options.solver != "bh1" && options.solver != "bh2")
    fail(Error::Kind::usage, "unipc: solver '", options.solver, "' is unknown: choose bh1 or bh2");
  Planner plan;
  for (int64_t k = 0, N = path.steps(); k < N; ++k) {
    const Level &from = path.nodes[k], &to = path.nodes[k + 1];
    plan.begin_step(from, to);
    if (k == 0) plan.call(from);
    if (to.variance == 0) {   // h is infinite: x' = m
      plan.move({{1, Source::x0, k}});
      continue;
    }
    int64_t p = std::min(options.order, k + 1);
    if (options.lower_order_end.value_or(true)) p = std::min(p, N - k);
    UniStep step(path, k, p, options.solver == "bh2");
    plan.move(step.predict());
    if (k == N - 1) continue;
    plan.call(to);
    plan.move(step.correct());
  }
  return plan.take();
}

}  // namespace

const Method kUnipc = {"unipc", Family::exponential, 1, plan_unipc,
                       kTakesOrder | kTakesSolver | kTakesLowerOrderEnd};

}  // namespace mote
