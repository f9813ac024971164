// process.h - the forward process and what a network may predict: noise (eps), the image (x0) or the velocity (v).
// The reverse direction is in samplers/sampler.h; the closed forms that both are tested against in analytic.h.
#pragma once
#include "autograd/ops.h"
#include "diffusion/schedule.h"

namespace mote {

enum class Prediction { eps, x0, v };
Prediction prediction_named(const std::string& name);   // Error(usage) otherwise
const char* name_of(Prediction prediction);

/// x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps                                                     [Ho 2020, eq. 4]
///   x0, eps [N, ...], same shape and dtype; step [N] of i64, 0 <= step < T. Returns a fresh tensor like x0.
/// Throws Error if shapes differ or a step lies outside.
Tensor q_sample(const Schedule& schedule, const Tensor& x0, const Tensor& step, const Tensor& eps);

/// What a network of this kind is trained to give at (x0, step, eps): eps, x0, or v = a eps - sigma x0.
///                                                                                            [Salimans 2022, sec. 4]
Tensor training_target(const Schedule& schedule, Prediction prediction, const Tensor& x0, const Tensor& step,
                       const Tensor& eps);

struct Denoised {
  Tensor eps, x0;
};
/// Both predictions from one raw output at a level: an eps-model gives x0 = (x - sigma eps) / a, an x0-model
/// eps = (x - a x0) / sigma, a v-model x0 = a x - sigma v and eps = a v + sigma x.
/// clip: x0 is clamped to [-1, 1] and eps stays raw.
/// A multistep or Runge-Kutta sampler converts each output with the x and the level it was computed at, then combines.
///   output, x: same shape; an output in another floating dtype is converted to x's; the raw one may be returned
/// No gradient is recorded: throws Error if one would have to be, or at the clean level, where sigma = 0.
Denoised denoise(Prediction prediction, const Tensor& output, const Tensor& x, const Level& level, bool clip);
Denoised denoise(const Schedule& schedule, Prediction prediction, const Tensor& output, const Tensor& x, int64_t n,
                 bool clip);

}  // namespace mote
