// ensemble.h - K samples of xbar for every prior, through any sampler of the project, and what they say together.
// Sample k of image i depends on (seed, k, i) alone: neither K nor the batch changes it. The target is in target.h.
#pragma once
#include <functional>

#include "diffusion/resensemble/target.h"
#include "diffusion/samplers/sampler.h"

namespace mote::resensemble {

struct EnsembleOptions {
  SamplerOptions sampler;          // clip and project are set by clip_x0 below
  int64_t samples = 1;             // K
  uint64_t seed = 0;
  bool clip_x0 = true;             // every predicted xbar0 per pixel to where y lies in [-1, 1]
  bool correct_start = true;       // start from noise + sqrt(abar) prior f of the first level instead of noise
  bool plane = false;              // one-hot coding: every prediction moved to where the classes of y sum to 2 - C
  int64_t batch = 64;              // states in the network at a time
  int64_t first = 0;               // number of the first image, for its noise
  Observer observer = {};          // steps done over all batches
};

/// Raw output for states xbar [B, H, W, C] at time t. rows[b] is the image (row of f) that state b belongs to: what a
/// network is conditioned on is to be taken from there, so that it is computed once an image.
using EnsembleNetwork = std::function<Tensor(const Tensor& xbar, double t, const std::vector<int64_t>& rows)>;

/// xbar of K samples [K, N, H, W, C] for priors f [N, H, W, C], f32 or f64; ideally distributed as xbar given the
/// image. Throws Error(usage) for K or batch < 1, and what run_sampler throws.
Tensor sample_ensemble(const Schedule& schedule, const Target& target, const EnsembleOptions& options,
                       const EnsembleNetwork& network, const Tensor& f);
/// The same on a path of one's own. It begins from `start` [K, N, ...] if that is defined.
Tensor sample_ensemble(const Path& path, const Target& target, const EnsembleOptions& options,
                       const EnsembleNetwork& network, const Tensor& f, const Tensor& start = {});

/// N(0, 1) of samples first_sample .. first_sample + K - 1 of images first .. first + N - 1, [K, N, H, W, C]: step -1
/// is the start, 0, 1, .. the steps of the sampler.
Tensor ensemble_noise(const Shape& samples_by_images, DType dtype, uint64_t seed, int64_t step, int64_t first,
                      int64_t first_sample = 0, Device device = {});

/// What K samples say of every pixel and channel, each [N, H, W, C] of f's dtype.
struct Estimates {
  Tensor mean;          // of y = (xbar - prior f) / truth over the samples, in [-1, 1]
  Tensor probability;   // (K p + a) / (K + 2 a), p the share of samples with y > 0, a = 1/2
  Tensor variance;      // of y over the samples; 4 p (1 - p) if y is 1 or -1
  Tensor residual;      // |f - mean y|: how wrong f is thought to be; |f - mean xbar| / 2 for the paper's target
  Tensor range;         // largest y less smallest
};

/// Estimates of the first K of xbar [K.., N, H, W, C]; K = 0: of all. With a weight in [0, 1], y is the weighted fusion
/// w xbar + (1 - w) f; below 0: the target's own. Each y is clipped to [-1, 1] before it counts.
Estimates estimates(const Target& target, const Tensor& xbar, const Tensor& f, int64_t K = 0, double weight = -1);

/// -p ln p - (1 - p) ln (1 - p), 0 at the ends.
Tensor entropy(const Tensor& probability);

}  // namespace mote::resensemble
