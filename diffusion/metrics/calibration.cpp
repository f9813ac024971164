#include "diffusion/metrics/calibration.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "diffusion/metrics/segmentation.h"
#include "tensor/error.h"

namespace mote::metrics {
namespace {

/// f32 against u8 of the same shape, on the CPU.
void require_scores(const char* op, const Tensor& scores, const Tensor& masks) {
  check(scores.defined() && masks.defined() && scores.dtype() == DType::f32 && masks.dtype() == DType::u8 &&
            scores.shape() == masks.shape() && !scores.is_cuda() && !masks.is_cuda(),
        op, ": needs scores f32 and masks u8 of one shape on the CPU, got ", describe(scores), " and ",
        describe(masks));
}

/// Whether pixel i counts, and is 0 or 1.
bool is_known(const char* op, const Tensor& masks, int64_t i) {
  uint8_t value = masks.data<uint8_t>()[i];
  check(value <= 1 || value == kIgnoredPixel, op, ": pixel ", i, " of the masks is ", int(value), "; 0, 1 and ",
        int(kIgnoredPixel), " (ignored) are known");
  return value != kIgnoredPixel;
}

}  // namespace

Calibration calibration(const Tensor& probability, const Tensor& truth, int64_t bins) {
  require_scores("calibration", probability, truth);
  check(bins >= 1, "calibration: needs 1 bin or more, got ", bins);
  constexpr double kLeast = 1e-7;   // a sure and wrong pixel must not make the whole sum infinite
  Calibration result;
  result.bins.resize(size_t(bins));
  int64_t total = 0;
  for (int64_t i = 0; i < truth.numel(); ++i) {
    if (!is_known("calibration", truth, i)) continue;
    double p = probability.data<float>()[i], g = truth.data<uint8_t>()[i];
    if (!(p >= 0 && p <= 1))
      fail(Error::Kind::data, "calibration: the probability of pixel ", i, " is ", p, ", outside [0, 1]");
    ReliabilityBin& bin = result.bins[size_t(std::min(bins - 1, int64_t(p * double(bins))))];
    ++bin.count;
    bin.confidence += p;
    bin.frequency += g;
    result.brier += (p - g) * (p - g);
    result.nll -= std::log(std::clamp(g == 1 ? p : 1 - p, kLeast, 1 - kLeast));
    ++total;
  }
  check(total > 0, "calibration: there is no pixel that is not ignored");
  for (ReliabilityBin& bin : result.bins) {
    if (bin.count == 0) continue;
    bin.confidence /= double(bin.count);
    bin.frequency /= double(bin.count);
    result.ece += double(bin.count) / double(total) * std::abs(bin.confidence - bin.frequency);
  }
  result.brier /= double(total);
  result.nll /= double(total);
  return result;
}

double ged2(const Tensor& samples, const Tensor& truths) {
  auto is_stack = [](const Tensor& x) {
    return x.defined() && x.dtype() == DType::u8 && x.ndim() == 3 && x.numel() > 0 && !x.is_cuda();
  };
  check(is_stack(samples) && is_stack(truths) && samples.shape().without(0) == truths.shape().without(0),
        "ged2: needs masks u8 [K, H, W] and [M, H, W] on the CPU, got ", describe(samples), " and ", describe(truths));
  for (int64_t i = 0; i < truths.numel(); ++i)
    check(truths.data<uint8_t>()[i] <= 1, "ged2: element ", i, " of the truths is ",
          int(truths.data<uint8_t>()[i]), "; 0 and 1 are known");
  auto mean_distance = [](const Tensor& a, const Tensor& b) {
    double sum = 0;
    for (int64_t i = 0; i < a.size(0); ++i)
      for (int64_t j = 0; j < b.size(0); ++j) sum += 1 - iou(count_pixels(a.rows(i, i + 1), b.rows(j, j + 1)));
    return sum / double(a.size(0) * b.size(0));
  };
  return 2 * mean_distance(samples, truths) - mean_distance(samples, samples) - mean_distance(truths, truths);
}

double auroc(const Tensor& score, const Tensor& positive) {
  require_scores("auroc", score, positive);
  std::vector<std::pair<float, bool>> pixels;
  for (int64_t i = 0; i < score.numel(); ++i) {
    if (!is_known("auroc", positive, i)) continue;
    float value = score.data<float>()[i];
    if (std::isnan(value)) fail(Error::Kind::data, "auroc: the score of pixel ", i, " is NaN");
    pixels.emplace_back(value, positive.data<uint8_t>()[i] == 1);
  }
  std::sort(pixels.begin(), pixels.end());
  double won = 0, negatives = 0, positives = 0;   // won: pairs in which the positive is above, in halves where equal
  for (size_t begin = 0; begin < pixels.size();) {
    size_t end = begin;
    double tied_negatives = 0, tied_positives = 0;
    for (; end < pixels.size() && pixels[end].first == pixels[begin].first; ++end)
      ++(pixels[end].second ? tied_positives : tied_negatives);
    won += tied_positives * (negatives + tied_negatives / 2);
    negatives += tied_negatives;
    positives += tied_positives;
    begin = end;
  }
  double pairs = negatives * positives;
  return pairs > 0 ? won / pairs : std::numeric_limits<double>::quiet_NaN();
}

std::vector<double> abstention_dice(const Tensor& predicted, const Tensor& truth, const Tensor& uncertainty,
                                    const std::vector<double>& keep) {
  require_scores("abstention_dice", uncertainty, truth);
  check(predicted.defined() && predicted.dtype() == DType::u8 && predicted.shape() == truth.shape() &&
            !predicted.is_cuda(),
        "abstention_dice: needs a prediction like the truth, got ", describe(predicted), " and ", describe(truth));
  std::vector<int64_t> order;
  for (int64_t i = 0; i < truth.numel(); ++i) {
    if (!is_known("abstention_dice", truth, i)) continue;
    if (std::isnan(uncertainty.data<float>()[i]))
      fail(Error::Kind::data, "abstention_dice: the uncertainty of pixel ", i, " is NaN");
    order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return uncertainty.data<float>()[a] < uncertainty.data<float>()[b];
  });
  std::vector<double> curve;
  for (double share : keep) {
    check(share > 0 && share <= 1, "abstention_dice: a share to keep lies in (0, 1], got ", share);
    Counts counts;
    for (size_t k = 0; k < size_t(std::lround(share * double(order.size()))); ++k) {
      bool found = predicted.data<uint8_t>()[order[k]] == 1, there = truth.data<uint8_t>()[order[k]] == 1;
      ++(found ? (there ? counts.tp : counts.fp) : (there ? counts.fn : counts.tn));
    }
    curve.push_back(dice(counts));
  }
  return curve;
}

Tensor smoothed_frequency(const Tensor& samples, double a) {
  check(samples.defined() && samples.dtype() == DType::u8 && samples.ndim() >= 2 && samples.size(0) >= 1 &&
            !samples.is_cuda() && a >= 0,
        "smoothed_frequency: needs masks u8 [K, ...] on the CPU, K >= 1, and a >= 0, got ", describe(samples), " and ",
        a);
  int64_t K = samples.size(0), numel = samples.numel() / K;
  Tensor result = empty(samples.shape().without(0));
  for (int64_t i = 0; i < numel; ++i) {
    int64_t found = 0;
    for (int64_t k = 0; k < K; ++k) found += samples.data<uint8_t>()[k * numel + i] == 1;
    result.data<float>()[i] = float((double(found) + a) / (double(K) + 2 * a));
  }
  return result;
}

}  // namespace mote::metrics
