// segmentation_losses.h - losses of end-to-end models: masks (cross entropy and soft Dice) and images (L1,
// Charbonnier), and the temperature that makes their probabilities honest afterwards. Scalars, f32 (f64 for f64).
#pragma once
#include "autograd/ops.h"

namespace mote::nn {

/// Mean over counted pixels of max(z, 0) - z g + log(1 + e^-|z|), plus the mean over images of the soft Dice loss
///   1 - (2 sum p g + 1) / (sum p + sum g + 1), p = sigmoid(z).
///   logits, truth [N, H, W, 1], truth in {0, 1}; weight [N, H, W, 1] of 0 and 1, or undefined: all count
Tensor bce_dice_loss(const Tensor& logits, const Tensor& truth, const Tensor& weight = {});

/// Mean over counted pixels of -log softmax(logits)[class], plus the mean over images and classes of that Dice loss.
///   logits [N, H, W, C]; ids i64 [N, H, W]; pixels of id `ignore` (-1: none) do not count
/// Throws Error(data) for an id outside 0 .. C - 1.
Tensor class_dice_loss(const Tensor& logits, const Tensor& ids, int64_t ignore = -1);

Tensor l1_loss(const Tensor& x, const Tensor& target);                                   // mean |x - target|
Tensor charbonnier_loss(const Tensor& x, const Tensor& target, double eps = 1e-6);   // mean sqrt((x - target)^2 + eps)

/// The tau > 0 that minimises the mean negative log-likelihood of logits / tau, in [1/20, 20], to 1e-4.  [Guo 2017]
///   logits [N, H, W, 1 or C], ids i64 [N, H, W] (0 and 1 for one channel), `ignore` as above
double fit_temperature(const Tensor& logits, const Tensor& ids, int64_t ignore = -1);

/// sigmoid(z / tau) of one channel, softmax(z / tau) of more.
Tensor probabilities(const Tensor& logits, double temperature = 1);

}  // namespace mote::nn
