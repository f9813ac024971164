// mixture_support.h - what the tests of Gaussian mixtures share: plain formulas to compare with, data to fit.
#pragma once
#include <cmath>
#include <numbers>
#include <vector>

#include "diffusion/cluster/mixture.h"
#include "tensor/random.h"
#include "tests/io_support.h"

namespace mote::test {

using cluster::Covariance;
using cluster::Mixture;
using cluster::Points;

inline const std::vector<Covariance> kCovariances = {Covariance::diagonal, Covariance::tied, Covariance::full};

/// Element (i, j) of the covariance of component k.
inline double covariance_at(const Mixture& mixture, int64_t k, int64_t i, int64_t j) {
  int64_t D = mixture.width();
  const double* c = mixture.covariances.data<double>();
  if (mixture.covariance == Covariance::diagonal) return i == j ? c[k * D + i] : 0;
  return c[((mixture.covariance == Covariance::full ? k * D : 0) + i) * D + j];
}

/// A mixture with random weights, means of size about `spread` and well conditioned covariances.
inline Mixture random_mixture(Covariance covariance, int64_t K, int64_t D, uint64_t seed, double spread = 3) {
  Generator generator{seed};
  Mixture mixture{covariance, empty({K}, DType::f64), normal({K, D}, DType::f64, generator), {}};
  Tensor u = uniform({K}, DType::f64, generator);
  double sum = 0;
  for (int64_t k = 0; k < K; ++k) sum += mixture.weights.data<double>()[k] = 0.5 + u.data<double>()[k];
  for (int64_t k = 0; k < K; ++k) mixture.weights.data<double>()[k] /= sum;
  for (int64_t i = 0; i < K * D; ++i) mixture.means.data<double>()[i] *= spread;
  if (covariance == Covariance::diagonal) {
    mixture.covariances = uniform({K, D}, DType::f64, generator);
    for (int64_t i = 0; i < K * D; ++i) mixture.covariances.data<double>()[i] += 0.3;
    return mixture;
  }
  int64_t count = covariance == Covariance::tied ? 1 : K;
  mixture.covariances = empty(covariance == Covariance::tied ? Shape{D, D} : Shape{K, D, D}, DType::f64);
  for (int64_t c = 0; c < count; ++c) {   // B B^T / D + I / 2
    Tensor b = normal({D, D}, DType::f64, generator);
    for (int64_t i = 0; i < D; ++i)
      for (int64_t j = 0; j < D; ++j) {
        double dot = i == j ? 0.5 : 0;
        for (int64_t l = 0; l < D; ++l) dot += b.data<double>()[i * D + l] * b.data<double>()[j * D + l] / double(D);
        mixture.covariances.data<double>()[(c * D + i) * D + j] = dot;
      }
  }
  return mixture;
}

/// Solves C y = right by elimination; returns ln det C. C is positive definite, so no pivoting is needed.
inline double eliminate(std::vector<double> c, std::vector<double>& right) {
  size_t n = right.size();
  double log_det = 0;
  for (size_t p = 0; p < n; ++p) {
    log_det += std::log(c[p * n + p]);
    for (size_t r = p + 1; r < n; ++r) {
      double factor = c[r * n + p] / c[p * n + p];
      for (size_t j = p; j < n; ++j) c[r * n + j] -= factor * c[p * n + j];
      right[r] -= factor * right[p];
    }
  }
  for (size_t p = n; p-- > 0;) {
    for (size_t j = p + 1; j < n; ++j) right[p] -= c[p * n + j] * right[j];
    right[p] /= c[p * n + p];
  }
  return log_det;
}

/// log_joint by its formula, a component and a point at a time.
inline Tensor plain_log_joint(const Mixture& mixture, const Points& points) {
  int64_t N = points.count(), K = mixture.components(), D = mixture.width();
  std::vector<double> x = points.mean.to_vector(), spread(x.size(), 0.0);
  if (points.variance.defined()) spread = points.variance.to_vector();
  Tensor joint = empty({N, K}, DType::f64);
  for (int64_t k = 0; k < K; ++k) {
    std::vector<double> c(size_t(D * D));
    for (int64_t i = 0; i < D * D; ++i) c[size_t(i)] = covariance_at(mixture, k, i / D, i % D);
    std::vector<double> precision(static_cast<size_t>(D));   // its diagonal
    for (size_t d = 0; d < size_t(D); ++d) {
      std::vector<double> unit(size_t(D), 0.0);
      unit[d] = 1;
      eliminate(c, unit);
      precision[d] = unit[d];
    }
    for (int64_t n = 0; n < N; ++n) {
      std::vector<double> difference(static_cast<size_t>(D));
      for (int64_t d = 0; d < D; ++d) difference[size_t(d)] = x[size_t(n * D + d)] - mixture.means.data<double>()[k * D + d];
      std::vector<double> solved = difference;
      double total = double(D) * std::log(2 * std::numbers::pi) + eliminate(c, solved);
      for (int64_t d = 0; d < D; ++d)
        total += difference[size_t(d)] * solved[size_t(d)] + spread[size_t(n * D + d)] * precision[size_t(d)];
      joint.data<double>()[n * K + k] = std::log(mixture.weights.data<double>()[k]) - 0.5 * total;
    }
  }
  return joint;
}

/// K unit Gaussians in D dimensions, centre k at `apart` (1 + k / D) along axis k % D; row i belongs to i % K.
inline Tensor separated(int64_t K, int64_t each, int64_t D, double apart, uint64_t seed) {
  Tensor x = normal({K * each, D}, DType::f64, Generator{seed});
  for (int64_t i = 0; i < K * each; ++i)
    x.data<double>()[i * D + i % K % D] += apart * double(1 + i % K / D);
  return x;
}
inline Tensor separated_labels(int64_t K, int64_t each) {
  Tensor t = empty({K * each}, DType::i64);
  for (int64_t i = 0; i < t.numel(); ++i) t.data<int64_t>()[i] = i % K;
  return t;
}

/// Nothing added, raised or repaired: EM as in the books.
inline cluster::MixtureOptions plain_options(int64_t K, Covariance covariance = Covariance::diagonal) {
  cluster::MixtureOptions options;
  options.components = K;
  options.covariance = covariance;
  options.variance_floor = 1e-300;
  options.relative_floor = 0;
  options.dead_share = 0;
  return options;
}

}  // namespace mote::test
