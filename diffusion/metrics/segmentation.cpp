#include "diffusion/metrics/segmentation.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tensor/error.h"

namespace mote::metrics {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

void require_masks(const char* op, const Tensor& a, const Tensor& b) {
  check(a.defined() && b.defined() && a.dtype() == DType::u8 && b.dtype() == DType::u8 && a.shape() == b.shape() &&
            !a.is_cuda() && !b.is_cuda(),
        op, ": needs two masks u8 of one shape on the CPU, got ", describe(a), " and ", describe(b));
}

void require_map(const char* op, const Tensor& probability, const Tensor& truth) {
  check(probability.defined() && truth.defined() && probability.dtype() == DType::f32 &&
            truth.dtype() == DType::u8 && probability.ndim() == 2 && probability.numel() > 0 &&
            probability.shape() == truth.shape() && !probability.is_cuda() && !truth.is_cuda(),
        op, ": needs a map f32 [H, W] and a mask u8 of its shape on the CPU, got ", describe(probability), " and ",
        describe(truth));
  const float* p = probability.data<float>();
  const uint8_t* g = truth.data<uint8_t>();
  int64_t W = probability.size(1);
  for (int64_t i = 0; i < probability.numel(); ++i) {
    if (!(p[i] >= 0 && p[i] <= 1))
      fail(Error::Kind::data, op, ": the probability in row ", i / W, ", column ", i % W, " is ", p[i],
           ", outside [0, 1]");
    check(g[i] <= 1 || g[i] == kIgnoredPixel, op, ": the truth in row ", i / W, ", column ", i % W, " is ", int(g[i]),
          "; 0, 1 and ", int(kIgnoredPixel), " (ignored) are known");
  }
}

double ratio(double part, double whole, double without) { return whole > 0 ? part / whole : without; }

}  // namespace

// ---- Overlap -------------------------------------------------------------------------------------------------------

Counts& Counts::operator+=(const Counts& other) {
  tp += other.tp;
  fp += other.fp;
  fn += other.fn;
  tn += other.tn;
  return *this;
}

Counts count_pixels(const Tensor& predicted, const Tensor& truth, uint8_t positive) {
  require_masks("count_pixels", predicted, truth);
  const uint8_t *p = predicted.data<uint8_t>(), *g = truth.data<uint8_t>();
  Counts counts;
  for (int64_t i = 0; i < truth.numel(); ++i) {
    if (g[i] == kIgnoredPixel) continue;
    bool found = p[i] == positive, there = g[i] == positive;
    ++(found ? (there ? counts.tp : counts.fp) : (there ? counts.fn : counts.tn));
  }
  return counts;
}

double iou(const Counts& c) { return ratio(double(c.tp), double(c.tp + c.fp + c.fn), 1); }

double dice(const Counts& c) { return ratio(2 * double(c.tp), double(2 * c.tp + c.fp + c.fn), 1); }

double pixel_accuracy(const Counts& c) {
  return ratio(double(c.tp + c.tn), double(c.tp + c.fp + c.fn + c.tn), 1);
}

double balanced_accuracy(const Counts& c) {
  double positive = ratio(double(c.tp), double(c.tp + c.fn), kNan);
  double negative = ratio(double(c.tn), double(c.tn + c.fp), kNan);
  if (std::isnan(positive)) return std::isnan(negative) ? 1 : negative;
  return std::isnan(negative) ? positive : (positive + negative) / 2;
}

double f_beta(const Counts& c, double beta2) {
  if (c.tp == 0) return 0;
  double precision = double(c.tp) / double(c.tp + c.fp), recall = double(c.tp) / double(c.tp + c.fn);
  return (1 + beta2) * precision * recall / (beta2 * precision + recall);
}

ClassScores class_scores(const Tensor& predicted, const Tensor& truth, int64_t classes) {
  require_masks("class_scores", predicted, truth);
  check(classes >= 2 && classes <= kIgnoredPixel, "class_scores: needs 2 to ", int(kIgnoredPixel), " classes, got ",
        classes);
  auto K = size_t(classes);
  std::vector<int64_t> found(K, 0), there(K, 0), both(K, 0);
  const uint8_t *p = predicted.data<uint8_t>(), *g = truth.data<uint8_t>();
  int64_t right = 0, total = 0;
  for (int64_t i = 0; i < truth.numel(); ++i) {
    if (g[i] == kIgnoredPixel) continue;
    if (p[i] >= K || g[i] >= K)
      fail(Error::Kind::data, "class_scores: pixel ", i, " is ", int(p[i]), " in the prediction and ", int(g[i]),
           " in the truth; there are classes 0..", classes - 1);
    ++found[p[i]];
    ++there[g[i]];
    if (p[i] == g[i]) {
      ++both[g[i]];
      ++right;
    }
    ++total;
  }
  ClassScores scores;
  double ious = 0, recalls = 0;
  int64_t present = 0, in_truth = 0;
  for (size_t k = 0; k < K; ++k) {
    int64_t either = found[k] + there[k] - both[k];
    scores.iou.push_back(ratio(double(both[k]), double(either), kNan));
    if (either > 0) {
      ious += scores.iou.back();
      ++present;
    }
    if (there[k] > 0) {
      recalls += double(both[k]) / double(there[k]);
      ++in_truth;
    }
  }
  scores.mean_iou = ratio(ious, double(present), 1);
  scores.accuracy = ratio(double(right), double(total), 1);
  scores.mean_class_accuracy = ratio(recalls, double(in_truth), 1);
  return scores;
}

// ---- Soft maps -----------------------------------------------------------------------------------------------------

FCurve f_curve(const Tensor& probability, const Tensor& truth, double beta2) {
  require_map("f_curve", probability, truth);
  std::array<int64_t, 256> positive{}, negative{};   // pixels at each level
  const float* p = probability.data<float>();
  const uint8_t* g = truth.data<uint8_t>();
  Counts counts;
  for (int64_t i = 0; i < truth.numel(); ++i) {
    if (g[i] == kIgnoredPixel) continue;
    ++(g[i] == 1 ? positive : negative)[size_t(std::lround(255 * p[i]))];
    ++(g[i] == 1 ? counts.fn : counts.tn);
  }
  FCurve curve;
  for (size_t level = 256; level-- > 0;) {   // from the highest threshold down, pixels pass over to the prediction
    counts.tp += positive[level];
    counts.fn -= positive[level];
    counts.fp += negative[level];
    counts.tn -= negative[level];
    curve[level] = f_beta(counts, beta2);
  }
  return curve;
}

double adaptive_f(const Tensor& probability, const Tensor& truth, double beta2) {
  require_map("adaptive_f", probability, truth);
  const float* p = probability.data<float>();
  const uint8_t* g = truth.data<uint8_t>();
  double sum = 0, pixels = 0;
  for (int64_t i = 0; i < truth.numel(); ++i) {
    if (g[i] == kIgnoredPixel) continue;
    sum += p[i];
    ++pixels;
  }
  double threshold = std::min(2 * ratio(sum, pixels, 0), 1.0);
  Tensor mask = empty(truth.shape(), DType::u8);
  std::transform(p, p + truth.numel(), mask.data<uint8_t>(), [&](float v) { return uint8_t(v >= threshold); });
  return f_beta(count_pixels(mask, truth), beta2);
}

namespace {

/// O(v) = 2 m / (m^2 + 1 + s) of p, or of 1 - p, where the truth is `side`.
double object_score(const Tensor& probability, const Tensor& truth, uint8_t side) {
  const float* p = probability.data<float>();
  const uint8_t* g = truth.data<uint8_t>();
  auto value = [&](int64_t i) { return side == 1 ? double(p[i]) : 1 - double(p[i]); };
  double sum = 0, count = 0, squares = 0;
  for (int64_t i = 0; i < truth.numel(); ++i)
    if (g[i] == side) sum += value(i), ++count;
  double mean = sum / count;
  for (int64_t i = 0; i < truth.numel(); ++i)
    if (g[i] == side) squares += (value(i) - mean) * (value(i) - mean);
  double deviation = count > 1 ? std::sqrt(squares / (count - 1)) : 0;
  return 2 * mean / (mean * mean + 1 + deviation);
}

/// q = 4 m_p m_g c / ((m_p^2 + m_g^2) (v_p + v_g)) of rows top..bottom-1, columns left..right-1, which hold a pixel.
double block_score(const Tensor& probability, const Tensor& truth, int64_t top, int64_t bottom, int64_t left,
                   int64_t right) {
  const float* p = probability.data<float>();
  const uint8_t* g = truth.data<uint8_t>();
  int64_t W = truth.size(1);
  auto over_block = [&](auto&& term) {
    double sum = 0;
    for (int64_t y = top; y < bottom; ++y)
      for (int64_t x = left; x < right; ++x) sum += term(double(p[y * W + x]), double(g[y * W + x]));
    return sum;
  };
  double count = double((bottom - top) * (right - left)), degrees = std::max(count - 1, 1.0);
  double mean_p = over_block([](double a, double) { return a; }) / count;
  double mean_g = over_block([](double, double b) { return b; }) / count;
  double spread = over_block([&](double a, double b) {
    return (a - mean_p) * (a - mean_p) + (b - mean_g) * (b - mean_g);
  });
  double common = over_block([&](double a, double b) { return (a - mean_p) * (b - mean_g); });
  double above = 4 * mean_p * mean_g * common / degrees;
  double below = (mean_p * mean_p + mean_g * mean_g) * spread / degrees;
  if (above == 0) return below == 0 ? 1 : 0;
  return above / below;
}

}  // namespace

SMeasure s_measure(const Tensor& probability, const Tensor& truth) {
  require_map("s_measure", probability, truth);
  int64_t H = truth.size(0), W = truth.size(1);
  const float* p = probability.data<float>();
  const uint8_t* g = truth.data<uint8_t>();
  double all = double(H * W), sum = 0, foreground = 0, rows = 0, columns = 0;
  for (int64_t i = 0; i < H * W; ++i) {
    check(g[i] <= 1, "s_measure: the truth has ignored pixels, for which it is not defined");
    sum += p[i];
    if (g[i] == 1) {
      ++foreground;
      rows += double(i / W);
      columns += double(i % W);
    }
  }
  if (foreground == 0) return {1 - sum / all, 0, 0};
  if (foreground == all) return {sum / all, 0, 0};
  SMeasure result;
  double share = foreground / all;
  result.object = share * object_score(probability, truth, 1) + (1 - share) * object_score(probability, truth, 0);

  // nearbyint rounds halves to even, as the mode of floating-point arithmetic is by default
  int64_t y = int64_t(std::nearbyint(rows / foreground)) + 1, x = int64_t(std::nearbyint(columns / foreground)) + 1;
  for (auto [top, bottom] : {std::pair<int64_t, int64_t>{0, y}, {y, H}}) {
    for (auto [left, right] : {std::pair<int64_t, int64_t>{0, x}, {x, W}}) {
      double area = double((bottom - top) * (right - left));
      if (area > 0) result.region += area / all * block_score(probability, truth, top, bottom, left, right);
    }
  }
  result.s = std::max(0.0, (result.object + result.region) / 2);
  return result;
}

// ---- A whole set of two-class masks --------------------------------------------------------------------------------

ImageScores score_image(const Tensor& probability, const Tensor& truth, double threshold) {
  require_map("score_image", probability, truth);
  Tensor mask = empty(truth.shape(), DType::u8), known = truth.clone();
  const float* p = probability.data<float>();
  bool ignores = false;
  for (int64_t i = 0; i < truth.numel(); ++i) {
    bool ignored = truth.data<uint8_t>()[i] == kIgnoredPixel;
    mask.data<uint8_t>()[i] = !ignored && p[i] > threshold;
    if (ignored) known.data<uint8_t>()[i] = 0;
    ignores |= ignored;
  }
  ImageScores scores;
  scores.counts = count_pixels(mask, truth);
  scores.iou = iou(scores.counts);
  scores.dice = dice(scores.counts);
  scores.accuracy = pixel_accuracy(scores.counts);
  scores.balanced = balanced_accuracy(scores.counts);
  scores.boundary_f = boundary_f(mask, known);
  scores.hd95 = hd95(mask, known);
  scores.s = ignores ? kNan : s_measure(probability, truth).s;
  scores.adaptive_f = adaptive_f(probability, truth);
  scores.f = f_curve(probability, truth);
  return scores;
}

SetScores summarize(const std::vector<ImageScores>& images) {
  check(!images.empty(), "summarize: needs the scores of an image or more");
  SetScores set;
  set.images = int64_t(images.size());
  FCurve curve{};
  auto mean = [&](auto&& value) {   // of the images where it is defined
    double sum = 0, count = 0;
    for (const ImageScores& image : images)
      if (double v = value(image); !std::isnan(v)) sum += v, ++count;
    return ratio(sum, count, kNan);
  };
  for (const ImageScores& image : images) {
    set.pooled += image.counts;
    set.hd95_missing += std::isnan(image.hd95);
    for (size_t level = 0; level < curve.size(); ++level) curve[level] += image.f[level] / double(images.size());
  }
  const Counts& c = set.pooled;
  set.iou = mean([](const ImageScores& image) { return image.iou; });
  set.dice = mean([](const ImageScores& image) { return image.dice; });
  set.pooled_iou = iou(c);
  set.pooled_dice = dice(c);
  set.background_iou = iou(Counts{c.tn, c.fn, c.fp, c.tp});
  bool has_foreground = c.tp + c.fp + c.fn > 0, has_background = c.tn + c.fp + c.fn > 0;
  set.mean_iou = !has_foreground   ? set.background_iou
                 : !has_background ? set.pooled_iou
                                   : (set.pooled_iou + set.background_iou) / 2;
  set.accuracy = pixel_accuracy(c);
  set.balanced = balanced_accuracy(c);
  set.max_f = *std::max_element(curve.begin(), curve.end());
  for (double value : curve) set.mean_f += value / double(curve.size());
  set.adaptive_f = mean([](const ImageScores& image) { return image.adaptive_f; });
  set.s = mean([](const ImageScores& image) { return image.s; });
  set.boundary_f = mean([](const ImageScores& image) { return image.boundary_f; });
  set.hd95 = mean([](const ImageScores& image) { return image.hd95; });
  return set;
}

// ---- Floor ---------------------------------------------------------------------------------------------------------

int otsu_threshold(const Tensor& grey) {
  check(grey.defined() && grey.dtype() == DType::u8 && grey.numel() > 0 && !grey.is_cuda(),
        "otsu_threshold: needs a picture u8 on the CPU, got ", describe(grey));
  std::array<int64_t, 256> pixels{};
  const uint8_t* value = grey.data<uint8_t>();
  for (int64_t i = 0; i < grey.numel(); ++i) ++pixels[value[i]];
  double total = double(grey.numel()), sum = 0;
  for (size_t level = 0; level < 256; ++level) sum += double(level) * double(pixels[level]);
  double below = 0, sum_below = 0, best = -1;
  int threshold = 0;
  for (int level = 0; level < 256; ++level) {
    below += double(pixels[size_t(level)]);
    sum_below += level * double(pixels[size_t(level)]);
    if (below == 0 || below == total) continue;
    double apart = sum_below / below - (sum - sum_below) / (total - below);
    double between = below * (total - below) * apart * apart;
    if (between > best) {
      best = between;
      threshold = level;
    }
  }
  return threshold;
}

Tensor otsu_mask(const Tensor& grey) {
  int threshold = otsu_threshold(grey);
  Tensor mask = empty(grey.shape(), DType::u8);
  const uint8_t* from = grey.data<uint8_t>();
  uint8_t* to = mask.data<uint8_t>();
  int64_t bright = std::count_if(from, from + grey.numel(), [&](uint8_t v) { return v > threshold; });
  bool turned = 2 * bright > grey.numel();
  std::transform(from, from + grey.numel(), to, [&](uint8_t v) { return uint8_t((v > threshold) != turned); });
  return mask;
}

}  // namespace mote::metrics
