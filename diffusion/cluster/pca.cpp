#include "diffusion/cluster/pca.h"

#include <algorithm>
#include <cmath>

#include "diffusion/cluster/rows.h"
#include "diffusion/metrics/eigen.h"
#include "diffusion/metrics/features.h"
#include "tensor/error.h"
#include "tensor/kernels.h"

namespace mote::cluster {
namespace {

constexpr int64_t kRows = 4096;   // of x in f64 at a time

/// Rows begin..end-1 of x less the mean, f64.
Tensor centred(const Tensor& x, const Tensor& mean, int64_t begin, int64_t end) {
  Tensor rows = x.rows(begin, end).to(DType::f64);
  if (x.dtype() == DType::f64) rows = rows.clone();
  int64_t D = x.size(1);
  double* value = rows.data<double>();
  cpu::parallel_for(end - begin, std::max<int64_t>(1, cpu::kGrain / D), [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
      for (int64_t d = 0; d < D; ++d) value[row * D + d] -= mean.data<double>()[d];
  });
  return rows;
}

}  // namespace

Pca principal_components(const Tensor& x, int64_t components) {
  metrics::require_features("principal_components", "x", x);
  int64_t N = x.size(0), D = x.size(1);
  check(components >= 1 && components <= D, "principal_components: needs 1 <= components <= ", D, ", got ", components);
  Pca pca{column_means(x), empty({components, D}, DType::f64), empty({components}, DType::f64)};
  Tensor covariance = zeros({D, D}, DType::f64), part = empty({D, D}, DType::f64);
  for (int64_t begin = 0; begin < N; begin += kRows) {
    Tensor rows = centred(x, pca.mean, begin, std::min(N, begin + kRows));
    kernel::matmul(part, rows, rows, true, false, {});
    kernel::accumulate(covariance, part);
  }
  for (int64_t i = 0; i < D * D; ++i) covariance.data<double>()[i] /= double(N);
  metrics::SymmetricEigen eigen = metrics::symmetric_eigen(covariance);
  for (double value : eigen.values.to_vector()) pca.total += std::max(0.0, value);
  for (int64_t j = 0; j < components; ++j) {
    int64_t from = D - 1 - j;   // eigenvalues are ascending
    const double* axis = eigen.vectors.data<double>() + from * D;
    double largest = *std::max_element(axis, axis + D, [](double a, double b) { return std::abs(a) < std::abs(b); });
    for (int64_t d = 0; d < D; ++d) pca.axes.data<double>()[j * D + d] = largest < 0 ? -axis[d] : axis[d];
    pca.variances.data<double>()[j] = std::max(0.0, eigen.values.data<double>()[from]);
  }
  return pca;
}

Tensor project(const Pca& pca, const Tensor& x) {
  metrics::require_features("project", "x", x);
  if (x.size(1) != pca.axes.size(1))
    fail(Error::Kind::data, "project: the widths differ: x is ", describe(x), ", the axes are ", describe(pca.axes));
  Tensor y = empty({x.size(0), pca.axes.size(0)}, DType::f64);
  for (int64_t begin = 0; begin < x.size(0); begin += kRows) {
    Tensor part = y.rows(begin, std::min(x.size(0), begin + kRows));
    kernel::matmul(part, centred(x, pca.mean, begin, begin + part.size(0)), pca.axes, false, true, {});
  }
  return y;
}

}  // namespace mote::cluster
