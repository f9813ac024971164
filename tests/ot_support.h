// ot_support.h - what the optimal-transport tests share: small sets of targets, plain scores in f64.
#pragma once
#include <vector>

#include "diffusion/ot/solver.h"
#include "tensor/random.h"
#include "tests/diffusion_support.h"
#include "tests/sanitized.h"

namespace mote::test {

/// Builds with sanitizers run some twenty times slower: tests that draw many samples draw a tenth of them there, and
/// allow sqrt(10) times the error.
inline constexpr double kFewer = kSanitized ? 0.1 : 1, kLooser = kSanitized ? 3.2 : 1;

inline Tensor draw(const Shape& shape, uint64_t seed, DType dtype = DType::f32) {
  return normal(shape, DType::f32, Generator{seed}).to(dtype);
}

inline Tensor f32(const std::vector<double>& values, const Shape& shape) { return from(values, shape, DType::f32); }

/// sum_d x[s, d] y[i, d] + h[i] in f64, [s][i].
inline std::vector<std::vector<double>> plain_scores(const Tensor& x, const Tensor& y, const Tensor& h) {
  std::vector<double> a = x.to_vector(), b = y.to_vector(), heights = h.to_vector();
  int64_t S = x.size(0), N = y.size(0), D = x.size(1);
  std::vector<std::vector<double>> scores(static_cast<size_t>(S));
  for (int64_t s = 0; s < S; ++s)
    for (int64_t i = 0; i < N; ++i) {
      double sum = heights[size_t(i)];
      for (int64_t d = 0; d < D; ++d) sum += a[size_t(s * D + d)] * b[size_t(i * D + d)];
      scores[size_t(s)].push_back(sum);
    }
  return scores;
}

/// Points as they are: neither centred nor scaled.
inline ot::Targets plain_targets(const Tensor& y, const std::vector<double>& weights = {}, DType dtype = DType::f32) {
  ot::TargetOptions options;
  options.centre = options.scale = false;
  options.weights = weights;
  options.dtype = dtype;
  return ot::Targets::in_memory(y, options);
}

inline ot::Source source_of(const ot::Targets& targets, ot::Source::Kind kind = ot::Source::Kind::gaussian) {
  ot::Source source;
  source.kind = kind;
  source.width = targets.width();
  return source;
}

/// heights - heights[0], in f64.
inline std::vector<double> from_first(const Tensor& heights) {
  std::vector<double> values = heights.to_vector();
  double first = values[0];
  for (double& value : values) value -= first;
  return values;
}

}  // namespace mote::test
