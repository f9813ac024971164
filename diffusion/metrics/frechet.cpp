#include "diffusion/metrics/frechet.h"

#include <algorithm>
#include <cmath>

#include "diffusion/metrics/eigen.h"
#include "diffusion/metrics/features.h"
#include "tensor/error.h"
#include "tensor/kernels.h"

namespace mote::metrics {
namespace {

constexpr int64_t kRows = 4096;  // a block of 4096 x 2048 is 64 MiB: sets larger than memory for f64 copies still pass

double trace(const Tensor& matrix) {
  double sum = 0;
  for (int64_t i = 0; i < matrix.size(0); ++i) sum += matrix.data<double>()[i * matrix.size(0) + i];
  return sum;
}

Tensor product(const Tensor& a, const Tensor& b) {
  Tensor y = empty({a.size(0), b.size(1)}, DType::f64);
  kernel::matmul(y, a, b, false, false, {});
  return y;
}

}  // namespace

Moments moments(const Tensor& features) {
  require_features("moments", "features", features);
  int64_t N = features.size(0), D = features.size(1);
  check(N >= 2, "moments: a covariance needs 2 or more rows, got ", describe(features));
  Moments result{zeros({D}, DType::f64), zeros({D, D}, DType::f64), N};
  double* mean = result.mean.data<double>();
  for (int64_t first = 0; first < N; first += kRows) {
    Tensor block = features.rows(first, std::min(N, first + kRows)).to(DType::f64);
    const double* value = block.data<double>();
    for (int64_t row = 0; row < block.size(0); ++row)
      for (int64_t i = 0; i < D; ++i) mean[i] += *value++;
  }
  for (int64_t i = 0; i < D; ++i) mean[i] /= double(N);

  Tensor part = empty({D, D}, DType::f64);
  for (int64_t first = 0; first < N; first += kRows) {
    Tensor block = features.rows(first, std::min(N, first + kRows)).clone().to(DType::f64);
    double* value = block.data<double>();
    for (int64_t row = 0; row < block.size(0); ++row)
      for (int64_t i = 0; i < D; ++i) *value++ -= mean[i];
    kernel::matmul(part, block, block, true, false, {});
    kernel::accumulate(result.covariance, part);
  }
  double* covariance = result.covariance.data<double>();
  for (int64_t i = 0; i < D * D; ++i) covariance[i] /= double(N - 1);
  return result;
}

double frechet_distance(const Moments& a, const Moments& b) {
  int64_t D = a.mean.numel();
  check(a.mean.shape() == b.mean.shape() && a.covariance.shape() == Shape{D, D} && b.covariance.shape() == Shape{D, D},
        "frechet_distance: moments of other widths: means ", describe(a.mean), " and ", describe(b.mean),
        ", covariances ", describe(a.covariance), " and ", describe(b.covariance));
  int64_t fewest = std::min(a.count, b.count);
  if (fewest <= D)
    fail(Error::Kind::data, "frechet_distance: needs more images than features: got ", a.count, " and ", b.count,
         " images with ", D, " features each; give ", D + 1, " images or more a side");
  double means = 0;
  for (int64_t i = 0; i < D; ++i) {
    double difference = a.mean.data<double>()[i] - b.mean.data<double>()[i];
    means += difference * difference;
  }
  Tensor root = symmetric_sqrt(a.covariance);
  Tensor eigenvalues = symmetric_eigen(product(root, product(b.covariance, root)), false).values;
  double roots = 0;
  for (int64_t i = 0; i < D; ++i) roots += std::sqrt(std::max(0.0, eigenvalues.data<double>()[i]));
  return std::max(0.0, means + (trace(a.covariance) + trace(b.covariance) - 2 * roots));
}

double frechet_distance(const Tensor& x, const Tensor& y) {
  require_pair("frechet_distance", x, y);
  int64_t fewest = std::min(x.size(0), y.size(0));
  if (fewest < 2)  // moments() would speak of one side only
    fail(Error::Kind::data, "frechet_distance: needs more images than features: x is ", describe(x), ", y is ",
         describe(y));
  return frechet_distance(moments(x), moments(y));
}

}  // namespace mote::metrics
