#include "apps/segment_eval.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "apps/run_log.h"
#include "tensor/error.h"

namespace mote::apps {
namespace {

using Json = nlohmann::ordered_json;

std::string fixed(double value, int digits = 4) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return std::isfinite(value) ? text : "-";
}

Tensor image_of(const Tensor& x, int64_t i) { return x.rows(i, i + 1).view(x.shape().without(0)); }

/// Values of the pixels that count, as a flat pair.
std::pair<Tensor, Tensor> counted_values(const Tensor& values, const Tensor& masks) {
  std::vector<double> kept, truth;
  for (int64_t i = 0; i < masks.numel(); ++i) {
    if (masks.data<uint8_t>()[i] == kIgnored) continue;
    kept.push_back(values.data<float>()[i]);
    truth.push_back(masks.data<uint8_t>()[i] == 1);
  }
  Shape shape{int64_t(kept.size())};
  return {from(kept, shape), from(truth, shape, DType::u8)};
}

metrics::Counts counts_at(const Tensor& soft, const Tensor& mask, double threshold) {
  Tensor predicted = empty(mask.shape(), DType::u8);
  for (int64_t i = 0; i < mask.numel(); ++i) predicted.data<uint8_t>()[i] = soft.data<float>()[i] > threshold;
  return metrics::count_pixels(predicted, mask);
}

}  // namespace

// ---- Scores ---------------------------------------------------------------------------------------------------------

SegmentRow score_guess(const std::string& name, const Guess& guess, const Pairs& data, const Tensor& f_wrong) {
  SegmentRow row;
  row.name = name;
  row.tuned_dice = row.tuned_iou = row.probability_rmse = row.auroc = row.ece = row.brier = row.nll = row.mse = NAN;
  int64_t N = data.count();
  if (data.classes > 2) {
    row.classes = metrics::class_scores(guess.predicted, data.masks, data.classes);
    for (int64_t i = 0; i < N; ++i) {
      double mean =
          metrics::class_scores(guess.predicted.rows(i, i + 1), data.masks.rows(i, i + 1), data.classes).mean_iou;
      row.iou.push_back(mean);
      row.dice.push_back(2 * mean / (1 + mean));
    }
    return row;
  }
  std::vector<metrics::ImageScores> images;
  for (int64_t i = 0; i < N; ++i) {
    images.push_back(metrics::score_image(image_of(guess.soft, i), image_of(data.masks, i)));
    row.iou.push_back(images.back().iou);
    row.dice.push_back(images.back().dice);
  }
  row.set = metrics::summarize(images);
  auto [soft, truth] = counted_values(guess.soft, data.masks);
  double squares = 0;
  for (int64_t i = 0; i < soft.numel(); ++i) {
    double d = 2 * (double(soft.data<float>()[i]) - double(truth.data<uint8_t>()[i]));   // y - x0, both in [-1, 1]
    squares += d * d;
  }
  row.mse = squares / double(std::max<int64_t>(1, soft.numel()));
  if (guess.probability.defined()) {
    metrics::Calibration c = metrics::calibration(counted_values(guess.probability, data.masks).first, truth);
    row.ece = c.ece;
    row.brier = c.brier;
    row.nll = c.nll;
    if (data.probability.defined()) {
      double error = 0;
      for (int64_t i = 0; i < data.probability.numel(); ++i) {
        double d = double(guess.probability.data<float>()[i]) - double(data.probability.data<float>()[i]);
        error += d * d;
      }
      row.probability_rmse = std::sqrt(error / double(data.probability.numel()));
    }
  }
  if (guess.residual.defined() && f_wrong.defined()) row.auroc = metrics::auroc(guess.residual, f_wrong);
  return row;
}

double best_threshold(const Tensor& soft, const Tensor& masks) {
  constexpr int kGrid = 99;
  double best = 0.5, best_dice = -1;
  for (int k = 1; k <= kGrid; ++k) {
    double threshold = double(k) / (kGrid + 1), sum = 0;
    for (int64_t i = 0; i < masks.size(0); ++i)
      sum += metrics::dice(counts_at(image_of(soft, i), image_of(masks, i), threshold));
    bool nearer = sum == best_dice && std::abs(threshold - 0.5) < std::abs(best - 0.5);
    if (sum > best_dice || nearer) {
      best_dice = sum;
      best = threshold;
    }
  }
  return best;
}

void score_at(SegmentRow& row, const Tensor& soft, const Tensor& masks, double threshold) {
  double dice = 0, iou = 0;
  int64_t N = masks.size(0);
  for (int64_t i = 0; i < N; ++i) {
    metrics::Counts c = counts_at(image_of(soft, i), image_of(masks, i), threshold);
    dice += metrics::dice(c) / double(N);
    iou += metrics::iou(c) / double(N);
  }
  row.threshold = threshold;
  row.tuned_dice = dice;
  row.tuned_iou = iou;
}

// ---- Comparisons ----------------------------------------------------------------------------------------------------

std::vector<Comparison> compare_rows(const std::vector<SegmentRow>& rows, uint64_t seed) {
  std::vector<Comparison> all;
  for (const SegmentRow& row : rows) {
    if (row.family != "residual" && row.family != "weighted") continue;
    for (const SegmentRow& other : rows) {
      bool deterministic = other.family == "e2e" || other.family == "tta" || other.family == "ensemble";
      bool sampled = (other.family == "plain" || other.family == "naive") && other.samples == row.samples;
      if (!deterministic && !sampled) continue;
      all.push_back({row.name, other.name, row.samples, metrics::paired_bootstrap(row.dice, other.dice, seed),
                     metrics::paired_bootstrap(row.iou, other.iou, seed)});
    }
  }
  return all;
}

// ---- Tables ---------------------------------------------------------------------------------------------------------

std::vector<std::vector<std::string>> table_of(const std::vector<SegmentRow>& rows, int64_t classes) {
  std::vector<std::vector<std::string>> table;
  if (classes > 2) {
    table.push_back({"row", "K", "mIoU", "pixel acc", "class acc", "ms/img"});
    for (const SegmentRow& r : rows)
      table.push_back({r.name, r.samples > 0 ? std::to_string(r.samples) : "-", fixed(r.classes.mean_iou),
                       fixed(r.classes.accuracy), fixed(r.classes.mean_class_accuracy), fixed(r.ms, 1)});
    return table;
  }
  bool exact =
      std::any_of(rows.begin(), rows.end(), [](const SegmentRow& r) { return std::isfinite(r.probability_rmse); });
  table.push_back({"row", "K", "IoU", "Dice", "S", "maxF", "HD95", "ECE", "Brier", "MSE", "Dice tuned", "AUROC |R|"});
  if (exact) table[0].push_back("RMSE p");
  table[0].push_back("ms/img");
  for (const SegmentRow& r : rows) {
    table.push_back({r.name, r.samples > 0 ? std::to_string(r.samples) : "-", fixed(r.set.iou), fixed(r.set.dice),
                     fixed(r.set.s), fixed(r.set.max_f), fixed(r.set.hd95, 2), fixed(r.ece), fixed(r.brier),
                     fixed(r.mse), fixed(r.tuned_dice), fixed(r.auroc)});
    if (exact) table.back().push_back(fixed(r.probability_rmse));
    table.back().push_back(fixed(r.ms, 1));
  }
  return table;
}

std::vector<std::vector<std::string>> table_of(const std::vector<Comparison>& comparisons) {
  std::vector<std::vector<std::string>> table{{"row", "less", "K", "Dice", "95 %", "IoU", "95 %", "better"}};
  for (const Comparison& c : comparisons) {
    auto span = [](const metrics::Interval& i) { return fixed(i.low) + " to " + fixed(i.high); };
    table.push_back({c.row, c.against, std::to_string(c.samples), fixed(c.dice.mean), span(c.dice), fixed(c.iou.mean),
                     span(c.iou), c.dice.low > 0 ? "yes" : c.dice.high < 0 ? "no" : "open"});
  }
  return table;
}

Json json_of(const std::vector<SegmentRow>& rows, int64_t classes) {
  Json list = Json::array();
  for (const SegmentRow& r : rows) {
    Json row = {{"name", r.name}, {"family", r.family}, {"samples", r.samples}, {"ms_per_image", r.ms}};
    if (r.weight >= 0) row["weight"] = r.weight;
    if (r.samples > 0) {
      row["sample_variance"] = number_json(r.variance);
      row["distance_to_f"] = number_json(r.distance);
    }
    if (classes > 2) {
      Json ious = Json::array();
      for (double v : r.classes.iou) ious.push_back(number_json(v));
      row.update({{"mean_iou", number_json(r.classes.mean_iou)}, {"accuracy", r.classes.accuracy},
                  {"mean_class_accuracy", number_json(r.classes.mean_class_accuracy)}, {"iou", ious}});
    } else {
      row.update({{"iou", r.set.iou}, {"dice", r.set.dice}, {"pooled_iou", r.set.pooled_iou},
                  {"pooled_dice", r.set.pooled_dice}, {"mean_iou", r.set.mean_iou}, {"accuracy", r.set.accuracy},
                  {"s", number_json(r.set.s)}, {"max_f", r.set.max_f}, {"hd95", number_json(r.set.hd95)},
                  {"hd95_missing", r.set.hd95_missing}, {"boundary_f", r.set.boundary_f}, {"ece", number_json(r.ece)},
                  {"brier", number_json(r.brier)}, {"nll", number_json(r.nll)}, {"mse", number_json(r.mse)},
                  {"tuned_threshold", std::isfinite(r.tuned_dice) ? Json(r.threshold) : Json()},
                  {"tuned_dice", number_json(r.tuned_dice)}, {"tuned_iou", number_json(r.tuned_iou)},
                  {"probability_rmse", number_json(r.probability_rmse)}, {"auroc_residual", number_json(r.auroc)}});
    }
    list.push_back(row);
  }
  return list;
}

Json json_of(const std::vector<Comparison>& comparisons) {
  Json list = Json::array();
  auto interval = [](const metrics::Interval& i) { return Json{{"mean", i.mean}, {"low", i.low}, {"high", i.high}}; };
  for (const Comparison& c : comparisons)
    list.push_back({{"row", c.row}, {"against", c.against}, {"samples", c.samples}, {"dice", interval(c.dice)},
                    {"iou", interval(c.iou)}});
  return list;
}

std::string text_of(const std::vector<std::vector<std::string>>& table) {
  std::vector<size_t> widths;
  for (const auto& row : table)
    for (size_t c = 0; c < row.size(); ++c) {
      if (widths.size() <= c) widths.push_back(0);
      widths[c] = std::max(widths[c], row[c].size());
    }
  std::string text;
  for (const auto& row : table) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      std::string pad(widths[c] - row[c].size(), ' ');
      line += c == 0 ? row[c] + pad : "  " + pad + row[c];
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

}  // namespace mote::apps
