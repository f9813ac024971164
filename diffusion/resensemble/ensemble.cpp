#include "diffusion/resensemble/ensemble.h"

#include <algorithm>
#include <cmath>

#include "autograd/engine.h"

namespace mote::resensemble {

// ---- Noise ----------------------------------------------------------------------------------------------------------

Tensor ensemble_noise(const Shape& shape, DType dtype, uint64_t seed, int64_t step, int64_t first, int64_t first_sample,
                      Device device) {
  constexpr uint64_t kEnsemble = 0x656e73;   // "ens"
  check(shape.ndim() >= 2, "ensemble_noise: needs a shape [K, N, ...], got ", shape);
  Tensor noise = empty(shape, dtype, device);
  Shape images = shape.without(0);
  for (int64_t k = 0; k < shape[0]; ++k) {
    Generator stream = Generator{seed}.fork(kEnsemble).fork(uint64_t(first_sample + k)).fork(uint64_t(step + 1));
    noise.rows(k, k + 1).view(images).copy_(image_noise(images, dtype, stream, first, device));
  }
  return noise;
}

// ---- Sampling -------------------------------------------------------------------------------------------------------

namespace {

/// The limits of xbar for the images of a chunk, and where the sum over its channels must lie.
struct Bounds {
  Tensor low, high, channel_mean;

  Bounds(const Target& target, const EnsembleOptions& options, const Tensor& f) {
    if (options.clip_x0) {
      low = affine(f, target.prior, -target.truth);
      high = affine(f, target.prior, target.truth);
    }
    if (options.plane) {
      double channels = double(f.size(-1));
      channel_mean = affine(mean(f, {f.ndim() - 1}, true), target.prior, target.truth * (2 - channels) / channels);
    }
  }

  /// x [K n, ...] of n images.
  Tensor applied(const Tensor& states, const Shape& samples_by_images) const {
    Tensor x = states.view(samples_by_images);
    if (channel_mean.defined()) x = x - mean(x, {x.ndim() - 1}, true) + channel_mean;
    if (low.defined()) x = minimum(maximum(x, low), high);
    return x.view(states.shape());
  }
};

}  // namespace

Tensor sample_ensemble(const Schedule& schedule, const Target& target, const EnsembleOptions& options,
                       const EnsembleNetwork& network, const Tensor& f) {
  return sample_ensemble(sampler_path(schedule, options.sampler), target, options, network, f);
}

Tensor sample_ensemble(const Path& path, const Target& target, const EnsembleOptions& options,
                       const EnsembleNetwork& network, const Tensor& f, const Tensor& start) {
  if (options.samples < 1) fail(Error::Kind::usage, "ensemble: K = ", options.samples, " samples, needs 1 or more");
  if (options.batch < 1) fail(Error::Kind::usage, "ensemble: a batch of ", options.batch, ", needs 1 or more");
  check(f.defined() && f.ndim() >= 2 && (f.dtype() == DType::f32 || f.dtype() == DType::f64),
        "sample_ensemble: f must be f32 or f64 [N, ..., C], got ", describe(f));
  NoGrad no_grad;
  int64_t K = options.samples, N = f.size(0);
  Shape all = f.shape().inserted(0, K);
  check(!start.defined() || start.shape() == all, "sample_ensemble: start must be ", all, ", got ", describe(start));
  Tensor result = empty(all, f.dtype(), f.device());
  int64_t samples = std::min(K, options.batch), images = std::max<int64_t>(1, options.batch / K);
  int64_t chunks = ((N + images - 1) / images) * ((K + samples - 1) / samples), chunk = 0;
  Level first_level = path.nodes.front();
  for (int64_t image = 0; image < N; image += images) {
    Tensor prior = f.rows(image, std::min(N, image + images));
    Bounds bounds(target, options, prior);
    for (int64_t k = 0; k < K; k += samples, ++chunk) {
      Shape part = prior.shape().inserted(0, std::min(samples, K - k));
      Shape states = prior.shape().with(0, part[0] * part[1]);
      auto noise = [&](int64_t step) {
        return ensemble_noise(part, f.dtype(), options.seed, step, options.first + image, k, f.device());
      };
      std::vector<int64_t> corner(size_t(all.ndim()), 0);
      corner[0] = k;
      corner[1] = image;
      Tensor x;
      if (start.defined()) {
        x = empty(part, f.dtype(), f.device());
        kernel::get_box(x, start, corner);
      } else if (options.sampler.start >= 0) {   // a warm start, from where xbar would be if f were right
        x = affine(noise(-1), first_level.sigma(), 0) +
            affine(prior, first_level.a() * (target.truth + target.prior), 0);
      } else {
        x = noise(-1);
        if (options.correct_start && target.prior != 0) x = x + affine(prior, first_level.a() * target.prior, 0);
      }
      std::vector<int64_t> rows;
      for (int64_t b = 0; b < states[0]; ++b) rows.push_back(image + b % part[1]);
      SamplerOptions sampler = options.sampler;
      sampler.clip = false;
      if (options.clip_x0 || options.plane)
        sampler.project = [&](const Tensor& x0) { return bounds.applied(x0, part); };
      Observer observer;
      if (options.observer)
        observer = [&](const Tensor& now, const Tensor& x0, int64_t done, int64_t total) {
          options.observer(now, x0, chunk * total + done, chunks * total);
        };
      Tensor xbar = run_sampler_with(
          path, sampler, [&](const Tensor& state, double t) { return network(state, t, rows); }, x.view(states),
          [&](int64_t step) { return noise(step).view(states); }, observer);
      kernel::put_box(result, xbar.view(part), corner);
    }
  }
  return result;
}

// ---- What the samples say -------------------------------------------------------------------------------------------

namespace {

template <class T>
Estimates estimates_of(const Target& target, const Tensor& xbar, const Tensor& f, int64_t K, double weight) {
  Estimates e{empty_like(f), empty_like(f), empty_like(f), empty_like(f), empty_like(f)};
  const T *x = xbar.data<T>(), *prior = f.data<T>();
  double of_xbar = weight < 0 ? 1 / target.truth : weight;
  double of_prior = weight < 0 ? -target.prior / target.truth : 1 - weight;
  constexpr double kSmooth = 0.5;
  int64_t pixels = f.numel();
  for (int64_t i = 0; i < pixels; ++i) {
    double sum = 0, low = 1, high = -1;
    int64_t positive = 0;
    auto y_of = [&](int64_t k) {
      return std::clamp(of_xbar * double(x[k * pixels + i]) + of_prior * double(prior[i]), -1.0, 1.0);
    };
    for (int64_t k = 0; k < K; ++k) {
      double y = y_of(k);
      sum += y;
      positive += y > 0;
      low = std::min(low, y);
      high = std::max(high, y);
    }
    double mean = sum / double(K), squares = 0;
    for (int64_t k = 0; k < K; ++k) squares += (y_of(k) - mean) * (y_of(k) - mean);
    e.mean.data<T>()[i] = T(mean);
    e.probability.data<T>()[i] = T((double(positive) + kSmooth) / (double(K) + 2 * kSmooth));
    e.variance.data<T>()[i] = T(squares / double(K));
    e.residual.data<T>()[i] = T(std::abs(double(prior[i]) - mean));
    e.range.data<T>()[i] = T(high - low);
  }
  return e;
}

}  // namespace

Estimates estimates(const Target& target, const Tensor& xbar, const Tensor& f, int64_t K, double weight) {
  check(xbar.defined() && f.defined() && xbar.ndim() == f.ndim() + 1 && xbar.shape().without(0) == f.shape() &&
            xbar.dtype() == f.dtype(),
        "estimates: xbar must be [K, ...] of f: xbar is ", describe(xbar), ", f is ", describe(f));
  if (K == 0) K = xbar.size(0);
  check(K >= 1 && K <= xbar.size(0), "estimates: the first ", K, " samples asked for, there are ", xbar.size(0));
  check(weight <= 1, "estimates: the weight must be at most 1, got ", weight);
  check(f.dtype() == DType::f32 || f.dtype() == DType::f64, "estimates: f32 or f64 needed, got ", describe(f));
  Tensor samples = xbar.to(Device{}), prior = f.to(Device{});
  return f.dtype() == DType::f32 ? estimates_of<float>(target, samples, prior, K, weight)
                                 : estimates_of<double>(target, samples, prior, K, weight);
}

Tensor entropy(const Tensor& probability) {
  std::vector<double> values = probability.to_vector();
  for (double& p : values) {
    auto part = [](double q) { return q > 0 ? -q * std::log(q) : 0.0; };
    p = part(p) + part(1 - p);
  }
  return from(values, probability.shape(), probability.dtype());
}

}  // namespace mote::resensemble
