// segment_eval.h - the rows of `mote segment eval`: what scores a soft map and a probability get, how they compare, and
// how they are shown. Who predicts is in cmd_segment_eval.cpp.
#pragma once
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/pairs.h"
#include "diffusion/metrics/bootstrap.h"
#include "diffusion/metrics/calibration.h"
#include "diffusion/metrics/segmentation.h"

namespace mote::apps {

/// What one method says of a set of images, all f32.
struct Guess {
  Tensor soft;          // [N, H, W]: (y + 1) / 2, decisions are soft > threshold; [N, H, W, C] of more classes
  Tensor probability;   // [N, H, W]: of the foreground, for calibration; undefined if there is none
  Tensor residual;      // [N, H, W]: predicted error of f; undefined if there is none
  Tensor predicted;     // u8 [N, H, W]: of more than two classes
};

struct SegmentRow {
  std::string name;
  int64_t samples = 0;                   // K; 0: no samples
  std::string family;   // e2e, tta, ensemble, plain, naive, residual, weighted, scaled, resfusion, otsu
  double ms = 0;                         // an image
  double weight = -1, threshold = 0.5;   // that were tuned; -1: none
  std::vector<double> iou, dice;         // of each image, at 1/2
  metrics::SetScores set;                // two classes
  metrics::ClassScores classes;
  double ece = 0, brier = 0, nll = 0, mse = 0;
  double tuned_dice = 0, tuned_iou = 0;  // at `threshold`; NaN without validation
  double probability_rmse = 0;           // against the exact probability, where the data have one
  double auroc = 0;                      // of the predicted error for wrong pixels of f
  double variance = NAN, distance = NAN; // means over pixels: of y over the samples, and of (f - mean y)^2
};

/// All scores of a guess. `f_wrong` u8 [N, H, W], 1 where the end-to-end decision is wrong (for auroc), or undefined.
SegmentRow score_guess(const std::string& name, const Guess& guess, const Pairs& data, const Tensor& f_wrong);

/// The threshold of 0.01 .. 0.99 with the best mean Dice (two classes).
double best_threshold(const Tensor& soft, const Tensor& masks);
/// Mean Dice and IoU over images at a threshold, into the row.
void score_at(SegmentRow& row, const Tensor& soft, const Tensor& masks, double threshold);

/// Differences of a row to others over the same images, with intervals.
struct Comparison {
  std::string row, against;
  int64_t samples = 0;
  metrics::Interval dice, iou;
};
/// Every row of the families residual and weighted against e2e, tta and ensemble, and against plain and naive of its K.
std::vector<Comparison> compare_rows(const std::vector<SegmentRow>& rows, uint64_t seed);

std::vector<std::vector<std::string>> table_of(const std::vector<SegmentRow>& rows, int64_t classes);
std::vector<std::vector<std::string>> table_of(const std::vector<Comparison>& comparisons);
nlohmann::ordered_json json_of(const std::vector<SegmentRow>& rows, int64_t classes);
nlohmann::ordered_json json_of(const std::vector<Comparison>& comparisons);

/// A table for a terminal, columns aligned.
std::string text_of(const std::vector<std::vector<std::string>>& table);

}  // namespace mote::apps
