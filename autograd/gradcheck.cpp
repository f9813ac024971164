#include "autograd/gradcheck.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "autograd/engine.h"

namespace mote {
namespace {

double dot(const Tensor& a, const std::vector<double>& b) {
  std::vector<double> values = a.to_vector();
  double total = 0;
  for (size_t i = 0; i < values.size(); ++i) total += values[i] * b[i];
  return total;
}

/// `input` with `change` added to one element.
Tensor moved(const Tensor& input, int64_t element, double change) {
  Tensor host = input.to(Device{}).clone();
  host.data<double>()[element] += change;
  return host.to(input.device());
}

}  // namespace

GradReport gradcheck(const std::function<Tensor(In)>& fn, const std::vector<Tensor>& inputs, double step, int64_t limit,
                     uint64_t seed) {
  check(step > 0 && limit > 0, "gradcheck: step and limit must be positive, got ", step, " and ", limit);
  std::vector<Tensor> leaves;
  for (const Tensor& input : inputs) {
    check(input.defined() && input.dtype() == DType::f64, "gradcheck: inputs must be f64, got ", describe(input));
    leaves.push_back(input.clone().requires_grad());
  }
  Tensor y = fn(leaves);
  check(y.defined() && y.dtype() == DType::f64, "gradcheck: the function must give f64, got ", describe(y));
  check(y.needs_grad(), "gradcheck: the result has no record: the function is not differentiable");
  Tensor cotangent = normal(y.shape(), DType::f64, Generator{seed}).to(y.device());
  std::vector<double> weights = cotangent.to_vector();
  backward(y, cotangent);

  NoGrad no_grad;
  std::vector<Tensor> points;
  for (const Tensor& input : inputs) points.push_back(input.clone());
  auto value_at = [&](size_t which, int64_t element, double change) {
    Tensor here = std::exchange(points[which], moved(inputs[which], element, change));
    double value = dot(fn(points), weights);
    points[which] = here;
    return value;
  };

  GradReport report;
  double worst = -1;
  for (size_t which = 0; which < inputs.size(); ++which) {
    int64_t numel = inputs[which].numel(), count = std::min(numel, limit);
    Tensor gradient = leaves[which].grad();
    std::vector<double> got = gradient.defined() ? gradient.to_vector() : std::vector<double>(numel, 0.0);
    for (int64_t k = 0; k < count; ++k) {
      int64_t element = k * numel / count;
      double expected = (value_at(which, element, step) - value_at(which, element, -step)) / (2 * step);
      double scale = std::max({1.0, std::abs(got[element]), std::abs(expected)});
      double relative = std::abs(got[element] - expected) / scale;
      if (std::isnan(relative)) relative = std::numeric_limits<double>::infinity();
      ++report.checked;
      if (relative > worst) {
        worst = relative;
        report.worst_relative = relative;
        report.where = concat_text("input ", which, ", element ", element, ": backward ", got[element],
                                   ", central difference ", expected);
      }
    }
  }
  return report;
}

}  // namespace mote
