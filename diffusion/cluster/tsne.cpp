#include "diffusion/cluster/tsne.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "diffusion/cluster/rows.h"
#include "diffusion/metrics/features.h"
#include "tensor/error.h"
#include "tensor/math.h"
#include "tensor/random.h"

namespace mote::cluster {
namespace {

constexpr int64_t kLanes = 16;

/// Threads share rows of pairs; a row is summed in lanes, and rows are folded in order.
template <class Fn>
void each_row(int64_t n, Fn&& fn) {
  cpu::parallel_for(n, std::max<int64_t>(1, cpu::kGrain / n), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) fn(row);
  });
}

/// Sums of term(j, sums) over j: term adds to `count` floats.
template <int count, class Term>
std::array<double, count> lane_sums(int64_t n, Term&& term) {
  float lanes[count][kLanes] = {};
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      std::array<float, count> values = term(j + lane);
      for (int s = 0; s < count; ++s) lanes[s][lane] += values[s];
    }
  std::array<double, count> sums{};
  for (int s = 0; s < count; ++s)
    for (float lane : lanes[s]) sums[s] += double(lane);
  for (; j < n; ++j) {
    std::array<float, count> values = term(j);
    for (int s = 0; s < count; ++s) sums[s] += double(values[s]);
  }
  return sums;
}

void require_pair_matrix(const char* op, const Tensor& p, const Tensor& y) {
  check(p.defined() && y.defined() && p.dtype() == DType::f32 && y.dtype() == DType::f32 && y.ndim() == 2 &&
            y.size(1) == 2 && y.size(0) > 0 && p.shape() == Shape{y.size(0), y.size(0)} && !p.is_cuda() && !y.is_cuda(),
        op, ": needs p f32 [N, N] and y f32 [N, 2] on the CPU, got ", describe(p), " and ", describe(y));
}

/// The two coordinates apart, so that a loop over points reads runs of memory.
struct Plane {
  std::vector<float> a, b;
  explicit Plane(const Tensor& y) : a(size_t(y.size(0))), b(a) {
    for (size_t i = 0; i < a.size(); ++i) {
      a[i] = y.data<float>()[2 * i];
      b[i] = y.data<float>()[2 * i + 1];
    }
  }
};

/// Squared distances become p_.|i: beta by bisection, from the nearest point's distance so that nothing underflows.
void condition_row(float* row, int64_t n, int64_t self, double perplexity) {
  row[self] = std::numeric_limits<float>::infinity();
  float nearest = *std::min_element(row, row + n);
  row[self] = nearest;
  double beta = 1, low = 0, high = std::numeric_limits<double>::infinity(), sum = 1;
  // The first guess takes the mean distance for the scale; 64 halvings reach any other.
  double mean = lane_sums<1>(n, [&](int64_t j) { return std::array<float, 1>{row[j] - nearest}; })[0] / double(n);
  if (mean > 0) beta = 1 / mean;
  for (int step = 0; step < 64; ++step) {
    float b = float(beta);
    auto [total, moment] = lane_sums<2>(n, [&](int64_t j) {
      float d = row[j] - nearest, e = math::exp(-b * d);
      return std::array<float, 2>{e, d * e};
    });
    sum = total - 1;   // the point itself was counted as exp(0)
    double entropy = std::log(sum) + beta * moment / sum;
    if (std::abs(entropy - std::log(perplexity)) < 1e-5) break;
    if (entropy > std::log(perplexity)) low = beta;
    else high = beta;
    beta = std::isinf(high) ? 2 * beta : 0.5 * (low + high);
    if (beta > 1e30) break;   // more points than the perplexity at one place: they share alike
  }
  for (int64_t j = 0; j < n; ++j) row[j] = math::exp(-float(beta) * (row[j] - nearest)) / float(sum);
  row[self] = 0;
}

}  // namespace

Tensor tsne_affinities(const Tensor& x, double perplexity) {
  metrics::require_features("tsne", "x", x);
  int64_t N = x.size(0), D = x.size(1);
  if (N < 4 || N > kMostTsnePoints)
    fail(Error::Kind::data, "tsne: needs 4 to ", kMostTsnePoints, " points, got ", N, "; of more, take a sample");
  if (!(perplexity > 1 && 3 * perplexity <= double(N - 1)))
    fail(Error::Kind::data, "tsne: needs 1 < perplexity <= (points - 1) / 3, got perplexity ", perplexity, " for ", N, " points");
  Tensor p = empty({N, N});
  auto fill = [&](auto zero) {
    using T = decltype(zero);
    const T* rows = x.data<T>();
    each_row(N, [&](int64_t i) {
      float* row = p.data<float>() + i * N;
      for (int64_t j = 0; j < N; ++j) row[j] = float(squared_distance(rows + i * D, rows + j * D, D));
      condition_row(row, N, i, perplexity);
    });
  };
  if (x.dtype() == DType::f32) fill(0.0f);
  else fill(0.0);
  float scale = float(0.5 / double(N));
  each_row(N, [&](int64_t i) {   // the pair (i, j) belongs to the smaller one
    float* all = p.data<float>();
    for (int64_t j = i + 1; j < N; ++j) all[i * N + j] = all[j * N + i] = scale * (all[i * N + j] + all[j * N + i]);
  });
  return p;
}

double tsne_divergence(const Tensor& p, const Tensor& y) {
  require_pair_matrix("tsne_divergence", p, y);
  int64_t N = y.size(0);
  Plane at(y);
  std::vector<double> costs(size_t(N), 0.0), weights(costs);
  each_row(N, [&](int64_t i) {
    const float* row = p.data<float>() + i * N;
    for (int64_t j = 0; j < N; ++j) {
      if (j == i) continue;
      float da = at.a[size_t(i)] - at.a[size_t(j)], db = at.b[size_t(i)] - at.b[size_t(j)], distance = 1 + da * da + db * db;
      weights[size_t(i)] += double(1 / distance);
      if (row[j] > 0) costs[size_t(i)] += double(row[j]) * double(math::log(row[j] * distance));
    }
  });
  double cost = 0, weight = 0, mass = 0;
  for (size_t i = 0; i < size_t(N); ++i) {
    cost += costs[i];
    weight += weights[i];
    for (int64_t j = 0; j < N; ++j) mass += double(p.data<float>()[int64_t(i) * N + j]);
  }
  return cost + mass * std::log(weight);
}

Tensor tsne_gradient(const Tensor& p, const Tensor& y, double exaggeration) {
  require_pair_matrix("tsne_gradient", p, y);
  int64_t N = y.size(0);
  Plane at(y);
  std::vector<std::array<double, 5>> sums(static_cast<size_t>(N));   // attraction (2), repulsion (2), weights
  each_row(N, [&](int64_t i) {
    const float* row = p.data<float>() + i * N;
    float a = at.a[size_t(i)], b = at.b[size_t(i)];
    const float *pa = at.a.data(), *pb = at.b.data();
    sums[size_t(i)] = lane_sums<5>(N, [=](int64_t j) {
      float da = a - pa[j], db = b - pb[j], w = 1 / (1 + da * da + db * db), pull = row[j] * w, push = w * w;
      return std::array<float, 5>{pull * da, pull * db, push * da, push * db, w};
    });
  });
  double total = -double(N);   // every point has met itself with weight 1
  for (const auto& sum : sums) total += sum[4];
  Tensor gradient = empty({N, 2});
  for (size_t i = 0; i < size_t(N); ++i)
    for (size_t c = 0; c < 2; ++c)
      gradient.data<float>()[2 * i + c] = float(4 * (exaggeration * sums[i][c] - sums[i][2 + c] / total));
  return gradient;
}

Tsne tsne(const Tensor& x, const TsneOptions& options) {
  check(options.iterations >= 1, "tsne: iterations must be 1 or more, got ", options.iterations);
  check(options.exaggeration >= 1 && options.exaggerated_iterations >= 0 && options.learning_rate >= 0,
        "tsne: exaggeration must be 1 or more, exaggerated_iterations and learning_rate 0 or more, got ", options.exaggeration,
        ", ", options.exaggerated_iterations, ", ", options.learning_rate);
  constexpr int kReport = 50;
  constexpr float kLeastGain = 0.01f;
  Tensor p = tsne_affinities(x, options.perplexity);
  int64_t N = x.size(0);
  Tsne result{normal({N, 2}, DType::f32, Generator{options.seed})};
  float* y = result.y.data<float>();
  for (int64_t i = 0; i < 2 * N; ++i) y[i] *= 1e-4f;
  float rate = float(options.learning_rate > 0 ? options.learning_rate
                                               : std::max(double(N) / (4 * options.exaggeration), 50.0));
  std::vector<float> velocity(size_t(2 * N), 0.0f), gain(size_t(2 * N), 1.0f);
  for (int iteration = 0; iteration < options.iterations; ++iteration) {
    bool is_early = iteration < options.exaggerated_iterations;
    Tensor gradient = tsne_gradient(p, result.y, is_early ? options.exaggeration : 1);
    double mean[2] = {};
    for (size_t i = 0; i < size_t(2 * N); ++i) {
      float g = gradient.data<float>()[i];
      // A coordinate that keeps its direction is sped up, one that turns is slowed down.
      gain[i] = (g > 0) != (velocity[i] > 0) ? gain[i] + 0.2f : std::max(kLeastGain, 0.8f * gain[i]);
      velocity[i] = (is_early ? 0.5f : 0.8f) * velocity[i] - rate * gain[i] * g;
      y[i] += velocity[i];
      mean[i % 2] += double(y[i]) / double(N);
    }
    for (size_t i = 0; i < size_t(2 * N); ++i) y[i] -= float(mean[i % 2]);
    if (iteration % kReport == kReport - 1) {
      result.history.push_back(tsne_divergence(p, result.y));
      if (options.progress && !options.progress(iteration + 1, result.history.back())) break;
    }
  }
  result.divergence = tsne_divergence(p, result.y);
  return result;
}

}  // namespace mote::cluster
