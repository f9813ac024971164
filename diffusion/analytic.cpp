#include "diffusion/analytic.h"

#include <algorithm>
#include <cmath>

namespace mote {

// ---- Gaussian ------------------------------------------------------------------------------------------------------

namespace {

double variance_at(const Gaussian& data, const Level& level) {
  check(std::isfinite(data.mean) && std::isfinite(data.std) && data.std >= 0,
        "Gaussian: needs a finite mean and std >= 0, got mean = ", data.mean, ", std = ", data.std);
  double v = level.abar * data.std * data.std + level.variance;
  check(v > 0, "Gaussian: x has no spread at level t = ", level.t, " with std = ", data.std);
  return v;
}

Tensor affine_of(const Tensor& x, double scale, double shift) {
  Tensor y = empty_like(x);
  kernel::unary(y, x, {Unary::affine, scale, shift});
  return y;
}

}  // namespace

Denoised exact_denoise(const Gaussian& data, const Tensor& x, const Level& level) {
  double v = variance_at(data, level);
  double a = level.a(), sigma = level.sigma();
  return {.eps = affine_of(x, sigma / v, -sigma * a * data.mean / v),
          .x0 = affine_of(x, a * data.std * data.std / v, level.variance * data.mean / v)};
}

Tensor exact_flow(const Gaussian& data, const Tensor& x, const Level& from, const Level& to) {
  double scale = std::sqrt((to.abar * data.std * data.std + to.variance) / variance_at(data, from));
  return affine_of(x, scale, (to.a() - scale * from.a()) * data.mean);
}

// ---- Mixture -------------------------------------------------------------------------------------------------------

namespace {

void validate(const Mixture& data, const Tensor& x) {
  size_t K = data.weights.size();
  check(K > 0 && data.means.size() == K && data.stds.size() == K,
        "Mixture: one weight, mean and std a component: there are ", K, " weights, ", data.means.size(), " means, ",
        data.stds.size(), " stds");
  check(!x.is_cuda() && is_floating(x.dtype()) && x.ndim() >= 1 && x.numel() > 0,
        "Mixture: x must be a floating tensor [N, ...] on the cpu, got ", describe(x), " on ", x.device());
  int64_t D = x.numel() / x.size(0);
  for (size_t k = 0; k < K; ++k) {
    check(std::isfinite(data.weights[k]) && data.weights[k] > 0 && std::isfinite(data.stds[k]) && data.stds[k] >= 0,
          "Mixture: component ", k, " needs weight > 0 and std >= 0, got weight = ", data.weights[k],
          ", std = ", data.stds[k]);
    check(int64_t(data.means[k].size()) == D, "Mixture: mean ", k, " has ", data.means[k].size(),
          " coordinates, a point of x has ", D);
  }
}

}  // namespace

Denoised exact_denoise(const Mixture& data, const Tensor& x, const Level& level) {
  validate(data, x);
  int64_t N = x.size(0), D = x.numel() / N, K = int64_t(data.weights.size());
  double a = level.a(), sigma = level.sigma();
  std::vector<double> v(K), log_factor(K);   // of component k: variance of x; log(weight v^(-D/2))
  for (int64_t k = 0; k < K; ++k) {
    v[k] = level.abar * data.stds[k] * data.stds[k] + level.variance;
    check(v[k] > 0, "Mixture: component ", k, " has no spread at level t = ", level.t);
    log_factor[k] = std::log(data.weights[k]) - 0.5 * double(D) * std::log(v[k]);
  }

  Denoised exact{empty_like(x), empty_like(x)};
  for_floating("exact_denoise", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* points = x.data<T>();
    T* eps = exact.eps.template data<T>();
    T* x0 = exact.x0.template data<T>();
#pragma omp parallel for schedule(static)
    for (int64_t row = 0; row < N; ++row) {
      std::vector<double> gamma(K);   // log of the unnormalised share first, then the share itself
      for (int64_t k = 0; k < K; ++k) {
        double square = 0;
        for (int64_t d = 0; d < D; ++d) {
          double offset = double(points[row * D + d]) - a * data.means[k][d];
          square += offset * offset;
        }
        gamma[k] = log_factor[k] - square / (2 * v[k]);
      }
      double largest = *std::max_element(gamma.begin(), gamma.end()), total = 0;
      for (double& g : gamma) total += g = std::exp(g - largest);   // far from all means every exp(g) alone is 0
      for (int64_t d = 0; d < D; ++d) {
        double point = double(points[row * D + d]), of_eps = 0, of_x0 = 0;
        for (int64_t k = 0; k < K; ++k) {
          double share = gamma[k] / total / v[k];
          of_eps += share * (point - a * data.means[k][d]);
          of_x0 += share * (a * data.stds[k] * data.stds[k] * point + level.variance * data.means[k][d]);
        }
        eps[row * D + d] = T(compute_t<T>(sigma * of_eps));
        x0[row * D + d] = T(compute_t<T>(of_x0));
      }
    }
  });
  return exact;
}

// ---- As networks ---------------------------------------------------------------------------------------------------

Tensor raw_output(Prediction prediction, const Denoised& exact, const Level& level) {
  switch (prediction) {
    case Prediction::eps: return exact.eps;
    case Prediction::x0: return exact.x0;
    case Prediction::v: break;
  }
  Tensor v = empty_like(exact.eps);
  kernel::combine(v, {{level.a(), exact.eps}, {-level.sigma(), exact.x0}});
  return v;
}

namespace {

template <class Data, class AnySchedule>
Network network_of(const Data& data, const AnySchedule& schedule, Prediction prediction) {
  return [data, schedule, prediction](const Tensor& x, double t) {
    Level level = schedule.at(t);
    return raw_output(prediction, exact_denoise(data, x, level), level);
  };
}

}  // namespace

Network exact_network(const Gaussian& data, const Schedule& schedule, Prediction prediction) {
  return network_of(data, schedule, prediction);
}
Network exact_network(const Mixture& data, const Schedule& schedule, Prediction prediction) {
  return network_of(data, schedule, prediction);
}
Network exact_network(const Gaussian& data, const VpSchedule& schedule, Prediction prediction) {
  return network_of(data, schedule, prediction);
}
Network exact_network(const Mixture& data, const VpSchedule& schedule, Prediction prediction) {
  return network_of(data, schedule, prediction);
}

}  // namespace mote
