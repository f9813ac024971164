// op_checks.h - running a row of the op table and holding the result against another: what the generic checks on the
// CPU (test_ops.cpp) and on GPUs (test_cuda_ops.cpp) share.
#pragma once
#include <cmath>

#include "tests/op_table.h"
#include "tests/support.h"

namespace mote::test {

inline std::vector<Tensor> converted(const std::vector<Tensor>& tensors, DType dtype) {
  std::vector<Tensor> result;
  for (const Tensor& tensor : tensors) result.push_back(tensor.to(dtype));
  return result;
}

inline Arrays arrays(const std::vector<Tensor>& tensors) { return Arrays(tensors.begin(), tensors.end()); }

struct Result {
  Tensor y;
  std::vector<Tensor> gradients;
};

/// Runs a row on `inputs` as they lie in memory, forward and (unless it has no gradient) backward. The cotangent is
/// drawn and rounded to bf16, so that it is the same for every dtype.
inline Result run_row(const Row& row, std::vector<Tensor> inputs, const std::vector<Tensor>& fixed) {
  if (!row.no_gradient.empty()) return {row.run(inputs, fixed), {}};
  for (Tensor& input : inputs) input.requires_grad();
  Result result;
  result.y = row.run(inputs, fixed);
  REQUIRE(result.y.needs_grad());
  Tensor cotangent = normal(result.y.shape(), DType::bf16, Generator{row.seed() + 1}).to(result.y.dtype());
  backward(result.y, cotangent.to(result.y.device()));
  result.y = result.y.detach();
  for (const Tensor& input : inputs) {
    REQUIRE(input.grad().defined());
    result.gradients.push_back(input.grad());
  }
  return result;
}

inline double largest(const Tensor& x) {
  double most = 0;
  for (double value : x.to_vector())
    if (std::isfinite(value)) most = std::max(most, std::abs(value));
  return most;
}

inline double forward_tolerance(const Row& row, DType dtype) {
  return dtype == DType::f64 ? 1e-12 : dtype == DType::f32 ? row.f32_tolerance : row.bf16_tolerance;
}

/// Empty if every element is within `tolerance` of itself and of the largest element. What is zero by the formula is
/// rounding of terms near 1 that cancel: the last summand lets that through.
inline std::string compare(const Tensor& got, const Tensor& expected, double tolerance) {
  double rest = got.dtype() == DType::f64 ? 1e-15 : 1e-9;
  return difference(got, expected, tolerance * largest(expected) + rest, tolerance);
}

inline void check_same_bits(const Result& got, const Result& expected) {
  CHECK(same_bits(got.y, expected.y));
  REQUIRE(got.gradients.size() == expected.gradients.size());
  for (size_t i = 0; i < got.gradients.size(); ++i) {
    INFO("gradient of input " << i);
    CHECK(same_bits(got.gradients[i], expected.gradients[i]));
  }
}

}  // namespace mote::test
