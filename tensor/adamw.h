// adamw.h - the optimiser's step: its options, and its arithmetic for one element, called by the loops of both devices.
#pragma once
#include <cmath>

#include "tensor/math.h"

namespace mote {

/// AdamW [Loshchilov 2019], one step over flat f32 arenas; `step` counts from 1.
struct AdamW {
  double lr = 2e-4, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0;
  int64_t step = 1;
  double ema_decay = 1;    // ema <- decay ema + (1 - decay) parameter; unused when ema is undefined
};

/// The factor on gradients of squared norm `squares`: min(1, max_norm / |g|), or 1 if max_norm is 0. NaN if `before` is
/// (a step before has failed), or if the norm or the loss is not finite.
MOTE_HD float clip_factor(float before, double squares, double loss, double max_norm) {
  double none = 0 * squares + 0 * loss + 0 * double(before);   // 0, or NaN
  if (none != 0) return float(none);
  double norm = math::sqrt(squares);
  return max_norm > 0 && norm > max_norm ? float(max_norm / norm) : 1.0f;
}

/// m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  p <- p - lr (m / c1 / (sqrt(v / c2) + eps) + wd p),
/// c1 = 1 - b1^step, c2 = 1 - b2^step                                                [Loshchilov 2019, algorithm 2]
struct AdamWStep {
  float beta1, beta2, rest1, rest2, eps, lr, decay, inverse1, inverse2, keep, take;

  explicit AdamWStep(const AdamW& options)
      : beta1(float(options.beta1)), beta2(float(options.beta2)), rest1(float(1 - options.beta1)),
        rest2(float(1 - options.beta2)), eps(float(options.eps)), lr(float(options.lr)),
        decay(float(options.lr * options.weight_decay)),
        inverse1(float(1 / (1 - std::pow(options.beta1, double(options.step))))),
        inverse2(float(1 / (1 - std::pow(options.beta2, double(options.step))))), keep(float(options.ema_decay)),
        take(float(1 - options.ema_decay)) {}

  MOTE_HD void update(float& p, float& m, float& v, float gradient) const {
    m = beta1 * m + rest1 * gradient;
    v = beta2 * v + rest2 * gradient * gradient;
    p -= lr * (m * inverse1) / (math::sqrt(v * inverse2) + eps) + decay * p;
  }
  MOTE_HD float average(float ema, float p) const { return keep * ema + take * p; }
};

}  // namespace mote
