#include "diffusion/metrics/mixture.h"

#include <algorithm>
#include <cmath>

#include "tensor/error.h"

namespace mote::metrics {

std::vector<double> mode_mixture(const Tensor& probabilities, const std::vector<double>& taus) {
  check(probabilities.defined() && probabilities.ndim() == 2 && probabilities.size(0) >= 1 &&
            probabilities.size(1) >= 2 &&
            (probabilities.dtype() == DType::f32 || probabilities.dtype() == DType::f64) && !probabilities.is_cuda(),
        "mode_mixture: needs probabilities f32 or f64 [N, K] on the CPU, N >= 1, K >= 2, got ",
        describe(probabilities));
  for (double tau : taus) check(tau > 0 && tau <= 0.5, "mode_mixture: tau = ", tau, ", needs 0 < tau <= 0.5");
  int64_t N = probabilities.size(0), K = probabilities.size(1);
  std::vector<double> values = probabilities.to_vector(), shares(taus.size(), 0);
  for (int64_t row = 0; row < N; ++row) {
    double first = -1, second = -1, sum = 0;  // largest and second largest
    for (int64_t k = 0; k < K; ++k) {
      double p = values[size_t(row * K + k)];
      if (!(p >= 0 && p <= 1))
        fail(Error::Kind::data, "mode_mixture: row ", row, ", class ", k, " has the probability ", p);
      sum += p;
      second = std::max(second, std::min(first, p));
      first = std::max(first, p);
    }
    if (!(std::abs(sum - 1) <= 1e-3))
      fail(Error::Kind::data, "mode_mixture: row ", row, " sums to ", sum, ", a distribution sums to 1");
    for (size_t i = 0; i < taus.size(); ++i) shares[i] += second >= taus[i];
  }
  for (double& share : shares) share /= double(N);
  return shares;
}

const std::vector<double>& mixture_taus() {
  static const std::vector<double> taus = {0.1, 0.11, 0.115, 0.13, 0.16, 0.2, 0.3, 0.4};
  return taus;
}

}  // namespace mote::metrics
