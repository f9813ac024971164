// calibration.h - whether probabilities mean what they say, and whether samples differ as annotators do. Masks and the
// ignored value are those of segmentation.h.
#pragma once
#include <vector>

#include "tensor/tensor.h"

namespace mote::metrics {

struct ReliabilityBin {
  int64_t count = 0;
  double confidence = 0, frequency = 0;   // mean p and share of foreground of its pixels; 0 if it has none
};
struct Calibration {
  double ece = 0;     // sum over bins of count / N |confidence - frequency|
  double brier = 0;   // mean (p - g)^2
  double nll = 0;     // -mean log of the probability of what was true, p kept within [1e-7, 1 - 1e-7]; nats
  std::vector<ReliabilityBin> bins;   // of equal width; p = 1 is in the last
};
/// Of the foreground's probability in all pixels.   p f32, truth u8 of 0 and 1, equal shape, any number of axes
/// Throws Error(argument) for other shapes, dtypes or bins < 1, Error(data) for p outside [0, 1] or NaN.
Calibration calibration(const Tensor& probability, const Tensor& truth, int64_t bins = 15);

/// Generalised energy distance, squared: 2 mean d(S, Y) - mean d(S, S') - mean d(Y, Y'), d = 1 - IoU (0 if both are
/// empty), over all pairs, a mask with itself among them.   [Kohl 2018]
///   samples u8 [K, H, W], truths u8 [M, H, W], of 0 and 1
double ged2(const Tensor& samples, const Tensor& truths);

/// Probability that a positive has the larger score, ties counted half; NaN if there are only positives or none.
///   score f32, positive u8 of 0 and 1 (kIgnoredPixel is left out), equal shape
double auroc(const Tensor& score, const Tensor& positive);

/// Dice of the pixels of lowest uncertainty, pooled, for each share kept.
///   predicted, truth u8, uncertainty f32, equal shape; keep in (0, 1]. Ties go by position.
std::vector<double> abstention_dice(const Tensor& predicted, const Tensor& truth, const Tensor& uncertainty,
                                    const std::vector<double>& keep);

/// Frequency of foreground among K samples, smoothed: (K f + a) / (K + 2 a).   samples u8 [K, ...] -> f32 [...]
Tensor smoothed_frequency(const Tensor& samples, double a = 0.5);

}  // namespace mote::metrics
