// gradcheck.h - compares backward() with central differences, in f64 and under a random cotangent.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace mote {

using In = const std::vector<Tensor>&;

struct GradReport {
  double worst_relative = 0;   // largest |got - expected| / max(1, |got|, |expected|) over all checked elements
  int64_t checked = 0;
  std::string where;           // input, index, both values of the worst element
};

/// d dot(fn(inputs), c) / d input against (f(x + h) - f(x - h)) / (2 h), with c ~ N(0, 1) drawn from `seed` (a constant
/// cotangent accepts wrong backwards: sum(softmax) has no gradient at all). Inputs must be f64. All of them are
/// checked, each at all elements, or at `limit` evenly spaced ones. Truncation is about h^2, rounding about 1e-16 / h.
GradReport gradcheck(const std::function<Tensor(In)>& fn, const std::vector<Tensor>& inputs, double step = 1e-5,
                     int64_t limit = 200, uint64_t seed = 1);

}  // namespace mote
