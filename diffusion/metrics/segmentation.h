// segmentation.h - how well masks agree: overlap, boundaries, structure; per image and for a whole set. Calibration
// and sample diversity are in calibration.h, intervals in bootstrap.h. Masks are u8 class numbers; a pixel that is
// kIgnoredPixel in the truth is left out.
#pragma once
#include <array>
#include <vector>

#include "tensor/tensor.h"

namespace mote::metrics {

inline constexpr uint8_t kIgnoredPixel = 255;

// ---- Overlap -------------------------------------------------------------------------------------------------------

struct Counts {
  int64_t tp = 0, fp = 0, fn = 0, tn = 0;
  Counts& operator+=(const Counts& other);
  bool operator==(const Counts&) const = default;
};

/// Pixels of class `positive` against all others.   predicted, truth  u8 of equal shape, any number of axes
/// Throws Error(argument) for other dtypes or shapes.
Counts count_pixels(const Tensor& predicted, const Tensor& truth, uint8_t positive = 1);

double iou(const Counts& c);                 // TP / (TP + FP + FN); both masks empty: 1, one of them: 0
double dice(const Counts& c);                // 2 TP / (2 TP + FP + FN); likewise
double pixel_accuracy(const Counts& c);      // (TP + TN) / all; 1 without pixels
double balanced_accuracy(const Counts& c);   // mean of TP / (TP + FN) and TN / (TN + FP), without 0 / 0
double f_beta(const Counts& c, double beta2 = 0.3);   // (1 + b^2) P R / (b^2 P + R); 0 if TP = 0

/// Of several classes, from counts of the whole set: IoU of each class, absent (NaN) where neither side has it, and the
/// mean over the classes present; share of right pixels; mean share of right pixels over the classes of the truth.
struct ClassScores {
  std::vector<double> iou;   // NaN: in neither prediction nor truth
  double mean_iou = 0, accuracy = 0, mean_class_accuracy = 0;
};
///   predicted, truth  u8 of equal shape, values < classes (truth: or kIgnoredPixel)
/// Throws Error(argument) for other shapes or dtypes, Error(data) for a larger value.
ClassScores class_scores(const Tensor& predicted, const Tensor& truth, int64_t classes);

// ---- Soft maps -----------------------------------------------------------------------------------------------------

/// F-beta of round(255 p) >= k against the truth, k = 0..255.   p f32 [H, W] in [0, 1], truth u8 [H, W] of 0 and 1
using FCurve = std::array<double, 256>;
FCurve f_curve(const Tensor& probability, const Tensor& truth, double beta2 = 0.3);
/// F-beta of p >= min(2 mean(p), 1).
double adaptive_f(const Tensor& probability, const Tensor& truth, double beta2 = 0.3);

/// S = max(0, (So + Sr) / 2), object and region parts.                                                 [Fan 2017]
/// Truth all background: 1 - mean(p), all foreground: mean(p). So = mu O(p | fg) + (1 - mu) O(1 - p | bg), mu the share
/// of foreground, O(v) = 2 m / (m^2 + 1 + s), s the deviation with n - 1 (0 of one pixel). Sr: four blocks that meet at
/// the truth's centroid, the mean row and column rounded half to even (NumPy's rule; MATLAB's differs) plus one;
/// moments with n - 1; an empty block is skipped. Ignored pixels are not supported: Error(argument).
struct SMeasure {
  double s = 0, object = 0, region = 0;   // the parts are 0 where truth has one class only
};
SMeasure s_measure(const Tensor& probability, const Tensor& truth);

// ---- Boundaries ----------------------------------------------------------------------------------------------------

/// Squared distance of every pixel to the nearest nonzero one of a u8 [H, W], exact, f64 [H, W]; infinite without one.
///                                                                                  [Felzenszwalb, Huttenlocher 2012]
Tensor squared_distances(const Tensor& mask);
/// Pixels of the mask (u8 [H, W] of 0 and 1) with one of the four neighbours outside it or outside the picture.
Tensor boundary(const Tensor& mask);
/// F1 of the boundaries, a pixel matched within distance r, mean over r = 1..radii. Both empty: 1, one: 0.
double boundary_f(const Tensor& predicted, const Tensor& truth, int radii = 5);
/// The larger of the two directed 95 % quantiles (linear_quantile) of distances between boundaries, in pixels. Both
/// masks empty: 0; one: NaN, to be counted apart.
double hd95(const Tensor& predicted, const Tensor& truth);
/// min(area) / max(area), called WCov in published code; both empty: 1.
double area_ratio(const Tensor& predicted, const Tensor& truth);

// ---- A whole set of two-class masks --------------------------------------------------------------------------------

struct ImageScores {
  Counts counts;
  double iou = 0, dice = 0, accuracy = 0, balanced = 0, boundary_f = 0, hd95 = 0, s = 0, adaptive_f = 0;
  FCurve f{};
};
/// One image: probability f32 [H, W] in [0, 1], mask p > threshold (as y > 0 in the coding of +-1). With ignored pixels
/// both sides are taken as background there and s is NaN.
ImageScores score_image(const Tensor& probability, const Tensor& truth, double threshold = 0.5);

struct SetScores {
  int64_t images = 0, hd95_missing = 0;   // images of which one mask is empty: left out of hd95
  Counts pooled;
  double iou = 0, dice = 0;               // means over images
  double pooled_iou = 0, pooled_dice = 0, background_iou = 0, mean_iou = 0;   // of pooled counts; mean of both classes
  double accuracy = 0, balanced = 0;      // pooled
  double max_f = 0, mean_f = 0, adaptive_f = 0;   // of the curve's mean over images
  double s = 0, boundary_f = 0, hd95 = 0;         // means over images
};
SetScores summarize(const std::vector<ImageScores>& images);

// ---- Floor ------------------------------------------------------------------------------------------

/// The grey level t of the largest variance between {v <= t} and {v > t}; the smallest of equals.     [Otsu 1979]
///   grey  u8, any shape, not empty
int otsu_threshold(const Tensor& grey);
/// The mask v > t of a picture u8 [H, W], turned round where it covers more than half.
Tensor otsu_mask(const Tensor& grey);

}  // namespace mote::metrics
