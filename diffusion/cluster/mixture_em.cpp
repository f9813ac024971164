// The two halves of EM. What runs them is mixture_fit.cpp.
#include <algorithm>
#include <cmath>

#include "diffusion/cluster/cholesky.h"
#include "diffusion/cluster/mixture.h"
#include "diffusion/cluster/mixture_pass.h"
#include "diffusion/cluster/mixture_sums.h"
#include "diffusion/metrics/eigen.h"
#include "tensor/error.h"

namespace mote::cluster {
namespace {

/// The mean of a mixture: f64 [D].
Tensor mean_of(const Mixture& mixture) {
  Tensor mean = zeros({mixture.width()}, DType::f64);
  for (int64_t i = 0; i < mixture.means.numel(); ++i)
    mean.data<double>()[i % mixture.width()] +=
        mixture.weights.data<double>()[i / mixture.width()] * mixture.means.data<double>()[i];
  return mean;
}

Tensor checked_shift(const char* op, const Tensor& shift, const Mixture& mixture) {
  if (!shift.defined()) return mean_of(mixture);
  check(shift.dtype() == DType::f64 && shift.shape() == Shape{mixture.width()}, op, ": shift must be f64 [",
        mixture.width(), "], got ", describe(shift));
  return shift;
}

/// No eigenvalue of the covariance [D, D] is below floor afterwards. Whether one is shows in the factor of C - floor I.
void raise_eigenvalues(double* covariance, int64_t D, double floor) {
  std::vector<double> lowered(covariance, covariance + D * D);
  for (int64_t d = 0; d < D; ++d) lowered[size_t(d * D + d)] -= floor;
  if (cholesky(lowered.data(), D)) return;
  Tensor copy = empty({D, D}, DType::f64);
  std::copy_n(covariance, D * D, copy.data<double>());
  metrics::SymmetricEigen eigen = metrics::symmetric_eigen(copy);
  std::fill_n(covariance, D * D, 0.0);
  for (int64_t e = 0; e < D; ++e) {
    double value = std::max(floor, eigen.values.data<double>()[e]);
    const double* v = eigen.vectors.data<double>() + e * D;
    for (int64_t i = 0; i < D; ++i)
      for (int64_t j = 0; j < D; ++j) covariance[i * D + j] += value * v[i] * v[j];
  }
}

}  // namespace

// ---- E-step --------------------------------------------------------------------------------------------------------

Statistics e_step_unchecked(const Mixture& mixture, const Points& points, const Tensor& shift) {
  Densities densities(mixture, shift);
  Sums sums(mixture.covariance, mixture.components(), mixture.width());
  Chunks chunks(points.count(), sums.most_chunks());
  sums.start(chunks.number());
  std::vector<double> log_likelihood(size_t(chunks.number()), 0.0);
  densities.each_block(points, chunks, [&](int64_t chunk, Block& block) {
    softmax(block, mixture.components());
    for (int64_t i = 0; i < block.count; ++i)
      if (double weight = block.weight ? block.weight[i] : 1; weight > 0)
        log_likelihood[size_t(chunk)] += weight * block.row_work[i];
    sums.add(chunk, block);
  });
  Statistics statistics = sums.finish();
  statistics.shift = shift;
  for (double sum : log_likelihood) statistics.mean_log_likelihood += sum;
  statistics.mean_log_likelihood /= statistics.weight;
  return statistics;
}

Statistics e_step(const Mixture& mixture, const Points& points, const Tensor& shift) {
  require_mixture("e_step", mixture);
  require_points("e_step", points);
  if (points.width() != mixture.width())
    fail(Error::Kind::data, "e_step: the widths differ: the points are ", describe(points.mean), ", the mixture has ",
         mixture.components(), " components of width ", mixture.width());
  return e_step_unchecked(mixture, points, checked_shift("e_step", shift, mixture));
}

Statistics statistics_of(const Mixture& mixture, const Tensor& given_shift) {
  require_mixture("statistics_of", mixture);
  int64_t K = mixture.components(), D = mixture.width();
  Tensor shift = checked_shift("statistics_of", given_shift, mixture);
  bool is_diagonal = mixture.covariance == Covariance::diagonal, is_tied = mixture.covariance == Covariance::tied;
  Statistics statistics{mixture.covariance, shift, mixture.weights.clone(), empty({K, D}, DType::f64),
                        zeros({is_tied ? 1 : K, is_diagonal ? D : D * (D + 1) / 2}, DType::f64), 1};
  const double* covariances = mixture.covariances.data<double>();
  for (int64_t k = 0; k < K; ++k) {
    double weight = mixture.weights.data<double>()[k];
    std::vector<double> mean = mixture.means.rows(k, k + 1).to_vector();
    for (int64_t d = 0; d < D; ++d) {
      mean[size_t(d)] -= shift.data<double>()[d];
      statistics.sums.data<double>()[k * D + d] = weight * mean[size_t(d)];
    }
    double* squares = statistics.squares.data<double>() + (is_tied ? 0 : k * statistics.squares.size(1));
    const double* covariance = covariances + (is_tied ? 0 : k * (is_diagonal ? D : D * D));
    for (int64_t i = 0; i < D; ++i)
      for (int64_t j = i; j < (is_diagonal ? i + 1 : D); ++j)
        squares[is_diagonal ? i : triangle_index(i, j, D)] +=
            weight * (covariance[is_diagonal ? i : i * D + j] + mean[size_t(i)] * mean[size_t(j)]);
  }
  return statistics;
}

Statistics blend(const Statistics& a, const Statistics& b, double share) {
  check(share >= 0 && share <= 1, "blend: share must lie in [0, 1], got ", share);
  check(a.covariance == b.covariance && a.sums.shape() == b.sums.shape() && a.squares.shape() == b.squares.shape(),
        "blend: the statistics differ in kind: sums ", describe(a.sums), " and ", describe(b.sums), ", squares ",
        describe(a.squares), " and ", describe(b.squares));
  check(a.shift.to_vector() == b.shift.to_vector(), "blend: the statistics are taken around different points");
  Statistics result = b;
  auto mix = [&](const Tensor& left, const Tensor& right) {
    Tensor mixed = empty_like(left);
    for (int64_t i = 0; i < mixed.numel(); ++i)
      mixed.data<double>()[i] = (1 - share) * left.data<double>()[i] + share * right.data<double>()[i];
    return mixed;
  };
  result.counts = mix(a.counts, b.counts);
  result.sums = mix(a.sums, b.sums);
  result.squares = mix(a.squares, b.squares);
  return result;
}

// ---- M-step --------------------------------------------------------------------------------------------------------

Mixture m_step(const Statistics& statistics, const Mixture& previous, const MixtureOptions& options, double floor) {
  require_mixture("m_step", previous);
  check(previous.covariance == statistics.covariance && previous.means.shape() == statistics.sums.shape(),
        "m_step: the statistics are not of such a mixture: sums ", describe(statistics.sums), ", means ",
        describe(previous.means));
  constexpr double kNothing = 1e-12;   // of all weight: no mean or covariance can be read off so little
  int64_t K = previous.components(), D = previous.width();
  Mixture result{previous.covariance, empty({K}, DType::f64), empty({K, D}, DType::f64), previous.covariances.clone()};
  const double *counts = statistics.counts.data<double>(), *squares = statistics.squares.data<double>();
  double *means = result.means.data<double>(), *covariances = result.covariances.data<double>();
  double a = options.weight_prior, total = statistics.weight;
  for (int64_t k = 0; k < K; ++k) {
    result.weights.data<double>()[k] = (counts[k] * total + a) / (total + double(K) * a);
    for (int64_t d = 0; d < D; ++d)   // around the shift until the covariances are there
      means[k * D + d] = counts[k] > kNothing ? statistics.sums.data<double>()[k * D + d] / counts[k]
                                              : previous.means.data<double>()[k * D + d] - statistics.shift.data<double>()[d];
  }
  if (result.covariance == Covariance::diagonal) {
    for (int64_t k = 0; k < K; ++k)
      for (int64_t i = k * D; i < (k + 1) * D && counts[k] > kNothing; ++i)
        covariances[i] = std::max(floor, squares[i] / counts[k] - means[i] * means[i] + options.variance_added);
  } else {
    bool is_tied = result.covariance == Covariance::tied;
    for (int64_t f = 0; f < (is_tied ? 1 : K); ++f) {
      if (!is_tied && counts[f] <= kNothing) continue;
      double *covariance = covariances + f * D * D, share = is_tied ? 1 : 1 / counts[f];
      for (int64_t i = 0; i < D; ++i)
        for (int64_t j = i; j < D; ++j) {
          double value = share * squares[f * statistics.squares.size(1) + triangle_index(i, j, D)];
          if (is_tied) for (int64_t k = 0; k < K; ++k) value -= counts[k] * means[k * D + i] * means[k * D + j];
          else value -= means[f * D + i] * means[f * D + j];
          covariance[i * D + j] = covariance[j * D + i] = value + (i == j ? options.variance_added : 0);
        }
      raise_eigenvalues(covariance, D, floor);
    }
  }
  for (int64_t i = 0; i < K * D; ++i) means[i] += statistics.shift.data<double>()[i % D];
  return result;
}

double variance_floor_of(const Points& points, const MixtureOptions& options) {
  require_points("variance_floor_of", points);
  // One standard Gaussian sees every point in full, so that its statistics are those of the data.
  int64_t D = points.width();
  Tensor shift = column_means(points.mean, points.weight);
  Mixture one{Covariance::diagonal, full({1}, 1, DType::f64), shift.view({1, D}), full({1, D}, 1, DType::f64)};
  double variance = 0;
  for (double square : e_step(one, points, shift).squares.to_vector()) variance += square / double(D);
  return std::max(options.variance_floor, options.relative_floor * variance);
}

}  // namespace mote::cluster
