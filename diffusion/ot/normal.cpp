#include "diffusion/ot/normal.h"

#include <cmath>
#include <numbers>

#include "tensor/error.h"

namespace mote::ot {

double normal_density(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi); }

double normal_cdf(double x) { return std::erfc(-x / std::numbers::sqrt2) / 2; }

double normal_quantile(double p) {
  check(p > 0 && p < 1, "normal_quantile: needs 0 < p < 1, got ", p);
  if (p > 0.5) return -normal_quantile(1 - p);  // 1 - p is exact there
  double x = -std::sqrt(-2 * std::log(2 * p));  // below the result: Phi(x) <= exp(-x^2 / 2) / 2 for x <= 0
  for (int step = 0; step < 64; ++step) {
    double value = normal_cdf(x), change = (std::log(p) - std::log(value)) * value / normal_density(x);
    x += change;
    if (std::abs(change) <= 1e-15 * std::abs(x)) break;
  }
  return x;
}

}  // namespace mote::ot
