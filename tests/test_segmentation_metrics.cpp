#include <algorithm>
#include <cmath>
#include <limits>

#include "diffusion/metrics/bootstrap.h"
#include "diffusion/metrics/calibration.h"
#include "diffusion/metrics/segmentation.h"
#include "tensor/random.h"
#include "tests/io_support.h"

using namespace mote;
using namespace mote::metrics;
using namespace mote::test;

namespace {

/// u8 [H, W], 1 in rows top..bottom and columns left..right, both ends among them.
Tensor box(int64_t H, int64_t W, int64_t top, int64_t bottom, int64_t left, int64_t right) {
  Tensor mask = zeros({H, W}, DType::u8);
  for (int64_t y = top; y <= bottom; ++y)
    for (int64_t x = left; x <= right; ++x) mask.data<uint8_t>()[y * W + x] = 1;
  return mask;
}
Tensor bytes(const std::vector<double>& values, const Shape& shape) { return from(values, shape, DType::u8); }

/// The pair of the specification: truth rows 2-4 and columns 3-5 of 8 x 8, the prediction one column to the right.
Tensor golden_truth() { return box(8, 8, 2, 4, 3, 5); }
Tensor golden_prediction() { return box(8, 8, 2, 4, 4, 6); }

/// 0.8 where the mask is, 0.1 elsewhere.
Tensor soft(const Tensor& mask) {
  Tensor map = empty(mask.shape());
  for (int64_t i = 0; i < map.numel(); ++i) map.data<float>()[i] = mask.data<uint8_t>()[i] ? 0.8f : 0.1f;
  return map;
}

Tensor random_mask(int64_t H, int64_t W, double share, uint64_t seed) {
  Tensor draws = uniform({H, W}, DType::f32, Generator{seed}), mask = empty({H, W}, DType::u8);
  for (int64_t i = 0; i < H * W; ++i) mask.data<uint8_t>()[i] = draws.data<float>()[i] < share;
  return mask;
}

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

}  // namespace

// ---- Overlap -------------------------------------------------------------------------------------------------------

TEST_CASE("a mask shifted by one column scores what the specification says", "[segmetrics]") {
  Tensor truth = golden_truth(), predicted = golden_prediction();
  Counts c = count_pixels(predicted, truth);
  CHECK(c == Counts{6, 3, 3, 52});
  CHECK(iou(c) == 0.5);
  CHECK(dice(c) == Approx(0.6666667).margin(5e-8));
  CHECK(pixel_accuracy(c) == 0.90625);
  CHECK(balanced_accuracy(c) == Approx((6.0 / 9 + 52.0 / 55) / 2));
  CHECK(f_beta(c) == Approx(2.0 / 3));   // P = R = 2/3, so every beta gives it
  CHECK(iou(count_pixels(predicted, truth, 0)) == Approx(0.8965517).margin(5e-8));
  CHECK(class_scores(predicted, truth, 2).mean_iou == Approx((0.5 + 0.8965517) / 2).margin(5e-8));
}

TEST_CASE("empty masks follow the conventions: both 1, one of them 0", "[segmetrics]") {
  Tensor none = zeros({4, 4}, DType::u8), some = box(4, 4, 1, 2, 1, 2);
  for (auto [a, b, value] : {std::tuple{none, none, 1.0}, {none, some, 0.0}, {some, none, 0.0}, {some, some, 1.0}}) {
    Counts c = count_pixels(a, b);
    CHECK(iou(c) == value);
    CHECK(dice(c) == value);
    CHECK(boundary_f(a, b) == value);
    CHECK(area_ratio(a, b) == value);
  }
  CHECK(f_beta(count_pixels(none, none)) == 0);   // precision and recall are 0 without a true positive
  CHECK(balanced_accuracy(count_pixels(some, none)) == 0.75);   // the background alone: 12 of 16
  CHECK(hd95(none, none) == 0);
  CHECK(std::isnan(hd95(none, some)));
  CHECK(std::isnan(hd95(some, none)));
}

TEST_CASE("F-beta weighs precision against recall", "[segmetrics]") {
  Counts c{2, 2, 6, 10};   // P = 1/2, R = 1/4
  CHECK(f_beta(c, 0.3) == Approx(1.3 * 0.125 / (0.3 * 0.5 + 0.25)));
  CHECK(f_beta(c, 1) == Approx(dice(c)));
}

TEST_CASE("ignored pixels count on no side", "[segmetrics]") {
  Tensor truth = golden_truth(), predicted = golden_prediction();
  for (int64_t y = 2; y <= 4; ++y) truth.data<uint8_t>()[y * 8 + 6] = kIgnoredPixel;   // all false positives
  CHECK(count_pixels(predicted, truth) == Counts{6, 0, 3, 52});
  ClassScores scores = class_scores(predicted, truth, 2);
  CHECK(scores.accuracy == Approx(58.0 / 61));
  CHECK(scores.iou[1] == Approx(6.0 / 9));
  ImageScores image = score_image(soft(predicted), truth);
  CHECK(image.counts == Counts{6, 0, 3, 52});
  CHECK(std::isnan(image.s));
  CHECK(image.hd95 == 1);   // columns 4-5 against 3-5
}

TEST_CASE("class scores skip a class that neither side has", "[segmetrics]") {
  Tensor truth = bytes({0, 0, 1, 1, 1, 3}, {2, 3}), predicted = bytes({0, 1, 1, 1, 0, 0}, {2, 3});
  ClassScores scores = class_scores(predicted, truth, 5);
  CHECK(scores.iou[0] == Approx(1.0 / 4));
  CHECK(scores.iou[1] == Approx(2.0 / 4));
  CHECK(std::isnan(scores.iou[2]));
  CHECK(scores.iou[3] == 0);   // in the truth only
  CHECK(std::isnan(scores.iou[4]));
  CHECK(scores.mean_iou == Approx(0.25));
  CHECK(scores.accuracy == 0.5);
  CHECK(scores.mean_class_accuracy == Approx((1.0 / 2 + 2.0 / 3 + 0) / 3));
  CHECK_FAILS(Error::Kind::data, class_scores(predicted, truth, 3), "pixel 5 is 0 in the prediction and 3", "0..2");
  CHECK_FAILS(Error::Kind::argument, class_scores(predicted, truth.to(DType::i32), 4), "u8 of one shape", "i32[2, 3]");
  CHECK_FAILS(Error::Kind::argument, count_pixels(predicted, golden_truth()), "u8[2, 3] and u8[8, 8]");
}

// ---- Soft maps -----------------------------------------------------------------------------------------------------

TEST_CASE("the S-measure has the numbers of the specification", "[segmetrics]") {
  Tensor truth = golden_truth();
  SMeasure s = s_measure(golden_prediction().to(DType::f32), truth);
  CHECK(s.s == Approx(0.6872743).margin(1e-7));
  CHECK(s.object == Approx(0.8618303).margin(1e-7));
  CHECK(s.region == Approx(0.5127182).margin(1e-7));
  CHECK(s_measure(soft(truth), truth).s == Approx(0.9263854).margin(1e-7));
  CHECK(s_measure(full({8, 8}, 0.5), truth).s == Approx(0.4).margin(1e-12));
  CHECK(s_measure(truth.to(DType::f32), truth).s == Approx(1).margin(1e-12));
  Tensor map = full({8, 8}, 0.25);
  CHECK(s_measure(map, zeros({8, 8}, DType::u8)).s == 0.75);
  CHECK(s_measure(map, box(8, 8, 0, 7, 0, 7)).s == 0.25);
}

TEST_CASE("the S-measure skips empty blocks and rounds half centroids to even", "[segmetrics]") {
  Tensor corner = box(4, 4, 3, 3, 3, 3);   // centroid in the last row and column: three blocks are empty
  CHECK(s_measure(corner.to(DType::f32), corner).s == Approx(1).margin(1e-12));
  // Rows 0-1 have the mean 0.5, which becomes 0: the upper blocks are one row high. 1.5 becomes 2. A map that is right
  // above and constant below then has a region score of its share of the area.
  Tensor truth = box(4, 4, 0, 1, 0, 3), map = full({4, 4}, 0.5);
  std::fill_n(map.data<float>(), 4, 1.0f);
  // blocks: row 0 is equal (1 each, no variance on either side: q = 1); rows 1-3 have truth 1, 0, 0 and a flat map: 0
  CHECK(s_measure(map, truth).region == Approx(0.25).margin(1e-12));
  Tensor ignored = truth.clone();
  ignored.data<uint8_t>()[0] = kIgnoredPixel;
  CHECK_FAILS(Error::Kind::argument, s_measure(map, ignored), "ignored");
}

TEST_CASE("the F curve follows the threshold and its adaptive point twice the mean", "[segmetrics]") {
  Tensor truth = bytes({1, 1, 0, 0}, {2, 2}), map = from({1.0, 0.4, 0.6, 0.0}, {2, 2});
  FCurve f = f_curve(map, truth);
  CHECK(f[0] == Approx(f_beta({2, 2, 0, 0})));
  CHECK(f[1] == Approx(f_beta({2, 1, 0, 1})));
  CHECK(f[102] == Approx(f_beta({2, 1, 0, 1})));   // 0.4 is level 102
  CHECK(f[103] == Approx(f_beta({1, 1, 1, 1})));
  CHECK(f[153] == Approx(f_beta({1, 1, 1, 1})));
  CHECK(f[154] == Approx(f_beta({1, 0, 1, 2})));
  CHECK(f[255] == Approx(f_beta({1, 0, 1, 2})));
  CHECK(adaptive_f(map, truth) == Approx(f_beta({1, 0, 1, 2})));   // the mean is 0.5, the threshold 1
  Tensor dark = from({0.6, 0.3, 0.2, 0.0}, {2, 2});
  CHECK(adaptive_f(dark, truth) == Approx(f_beta({1, 0, 1, 2})));   // threshold 0.55
  CHECK_FAILS(Error::Kind::data, f_curve(from({0, 2, 0, 0}, {2, 2}), truth), "row 0, column 1 is 2");
  CHECK_FAILS(Error::Kind::data, f_curve(from({0, 0, kNan, 0}, {2, 2}), truth), "row 1, column 0");
  CHECK_FAILS(Error::Kind::argument, f_curve(map, bytes({0, 1, 2, 0}, {2, 2})), "row 1, column 0 is 2");
}

// ---- Boundaries ----------------------------------------------------------------------------------------------------

TEST_CASE("squared distances equal a search over all pixels", "[segmetrics]") {
  for (auto [H, W, share] : {std::tuple<int64_t, int64_t, double>{13, 17, 0.05}, {1, 9, 0.3}, {8, 1, 0.3}, {1, 1, 1}}) {
    Tensor mask = random_mask(H, W, share, uint64_t(H));
    const uint8_t* m = mask.data<uint8_t>();
    Tensor expected = full({H, W}, std::numeric_limits<double>::infinity(), DType::f64);
    for (int64_t i = 0; i < H * W; ++i)
      for (int64_t j = 0; j < H * W; ++j)
        if (m[j]) {
          double dy = double(i / W - j / W), dx = double(i % W - j % W);
          expected.data<double>()[i] = std::min(expected.data<double>()[i], dy * dy + dx * dx);
        }
    CHECK_SAME(squared_distances(mask), expected);
  }
  Tensor none = squared_distances(zeros({3, 3}, DType::u8));
  CHECK_SAME(none, full({3, 3}, std::numeric_limits<double>::infinity(), DType::f64));
}

TEST_CASE("a boundary is the pixels with a neighbour outside", "[segmetrics]") {
  CHECK_SAME(boundary(box(5, 5, 0, 3, 1, 3)), bytes({0, 1, 1, 1, 0,  //
                                                     0, 1, 0, 1, 0,  //
                                                     0, 1, 0, 1, 0,  //
                                                     0, 1, 1, 1, 0,  //
                                                     0, 0, 0, 0, 0},
                                                    {5, 5}));
}

TEST_CASE("boundary F matches within one to five pixels", "[segmetrics]") {
  Tensor line = box(9, 9, 0, 8, 1, 1);
  CHECK(boundary_f(line, line) == 1);
  CHECK(boundary_f(box(9, 9, 0, 8, 2, 2), line) == 1);                 // one pixel away: matched by every radius
  CHECK(boundary_f(box(9, 9, 0, 8, 4, 4), line) == Approx(3.0 / 5));   // three away: radii 3, 4, 5
  CHECK(boundary_f(box(9, 9, 0, 8, 7, 7), line) == 0);                 // six away
  // Half of the prediction far off: precision 1/2, recall 1 at each radius
  Tensor two = box(9, 9, 0, 8, 1, 1);
  for (int64_t y = 0; y < 9; ++y) two.data<uint8_t>()[y * 9 + 8] = 1;
  CHECK(boundary_f(two, line) == Approx(2.0 / 3));
  CHECK(boundary_f(golden_prediction(), golden_truth()) == 1);
  CHECK(hd95(golden_prediction(), golden_truth()) == 1);
}

TEST_CASE("HD95 is the larger of both directions, at the 95 % quantile", "[segmetrics]") {
  // truth: a line of 20 pixels; prediction: the same and one pixel 10 away. 21 distances, 20 zeros and one 10: the
  // quantile's place is 0.95 * 20 = 19, a zero. With 18 in the line it is 0.95 * 18 = 17.1, between a zero and the 10.
  Tensor truth = box(30, 30, 0, 19, 0, 0), predicted = truth.clone();
  predicted.data<uint8_t>()[10] = 1;
  CHECK(hd95(predicted, truth) == 0);
  Tensor shorter = box(30, 30, 0, 17, 0, 0), other = shorter.clone();
  other.data<uint8_t>()[10] = 1;
  CHECK(hd95(other, shorter) == Approx(1));   // 0.1 of the way from 0 to 10
  CHECK(hd95(shorter, other) == hd95(other, shorter));
  CHECK(hd95(box(9, 9, 0, 8, 7, 7), box(9, 9, 0, 8, 1, 1)) == 6);
}

// ---- A set ---------------------------------------------------------------------------------------------------------

TEST_CASE("a set reports the mean over images beside the pooled pixels", "[segmetrics]") {
  Tensor truth = golden_truth(), none = zeros({8, 8}, DType::u8);
  std::vector<ImageScores> images = {score_image(soft(golden_prediction()), truth), score_image(soft(none), none),
                                     score_image(soft(none), truth)};
  SetScores set = summarize(images);
  CHECK(set.images == 3);
  CHECK(set.iou == Approx((0.5 + 1 + 0) / 3));
  CHECK(set.dice == Approx((2.0 / 3 + 1 + 0) / 3));
  CHECK(set.pooled == Counts{6, 3, 12, 171});
  CHECK(set.pooled_iou == Approx(6.0 / 21));
  CHECK(set.pooled_dice == Approx(12.0 / 27));
  CHECK(set.background_iou == Approx(171.0 / 186));
  CHECK(set.mean_iou == Approx((6.0 / 21 + 171.0 / 186) / 2));
  CHECK(set.accuracy == Approx(177.0 / 192));
  CHECK(set.balanced == Approx((6.0 / 18 + 171.0 / 174) / 2));
  CHECK(set.hd95 == Approx(0.5));   // 1 and 0
  CHECK(set.hd95_missing == 1);
  CHECK(set.boundary_f == Approx(2.0 / 3));
  CHECK(set.max_f == Approx((2.0 / 3) / 3));   // above level 26 only the first has a true positive
  CHECK(set.s == Approx((images[0].s + images[1].s + images[2].s) / 3));
  CHECK(images[1].s == Approx(0.9));   // all background: 1 - 0.1
  CHECK_FAILS(Error::Kind::argument, summarize({}), "an image or more");

  SetScores empty_set = summarize({images[1]});   // the foreground is on neither side: it is no class of the mean
  CHECK(empty_set.mean_iou == 1);
  CHECK(empty_set.iou == 1);
}

TEST_CASE("the threshold is passed, not reached", "[segmetrics]") {
  Tensor truth = bytes({1, 1}, {1, 2}), map = from({0.5, 0.75}, {1, 2});
  CHECK(score_image(map, truth).counts == Counts{1, 0, 1, 0});   // y > 0 in the coding of +-1
  CHECK(score_image(map, truth, 0.25).counts == Counts{2, 0, 0, 0});
  CHECK(score_image(map, truth, 0.75).counts == Counts{0, 0, 2, 0});
}

TEST_CASE("Otsu's threshold separates two modes and a bright picture is turned round", "[segmetrics]") {
  Tensor grey = bytes({10, 12, 11, 10, 200, 210, 10, 12, 11}, {3, 3});
  CHECK(otsu_threshold(grey) == 12);
  CHECK_SAME(otsu_mask(grey), bytes({0, 0, 0, 0, 1, 1, 0, 0, 0}, {3, 3}));
  Tensor bright = bytes({210, 12, 205, 210, 200, 210, 10, 212, 211}, {3, 3});
  CHECK_SAME(otsu_mask(bright), bytes({0, 1, 0, 0, 0, 0, 1, 0, 0}, {3, 3}));
  CHECK_SAME(otsu_mask(full({2, 2}, 7, DType::u8)), full({2, 2}, 0, DType::u8));   // v > t nowhere or everywhere
  // A reference that sums each side of every threshold anew
  Tensor noise = empty({9, 11}, DType::u8), draws = uniform({9, 11}, DType::f32, Generator{3});
  for (int64_t i = 0; i < 99; ++i) noise.data<uint8_t>()[i] = uint8_t(255 * draws.data<float>()[i]);
  double best = -1;
  int expected = 0;
  for (int t = 0; t < 256; ++t) {
    double n[2] = {}, sum[2] = {};
    for (int64_t i = 0; i < 99; ++i) {
      int v = noise.data<uint8_t>()[i];
      ++n[v > t];
      sum[v > t] += v;
    }
    if (n[0] == 0 || n[1] == 0) continue;
    double between = n[0] * n[1] * std::pow(sum[0] / n[0] - sum[1] / n[1], 2);
    if (between > best * (1 + 1e-12)) best = between, expected = t;
  }
  CHECK(otsu_threshold(noise) == expected);
}

// ---- Calibration ---------------------------------------------------------------------------------------------------

TEST_CASE("ECE, Brier and NLL of a few pixels", "[segmetrics]") {
  Tensor truth = bytes({1, 0, 1, 0, kIgnoredPixel}, {5}), map = from({0.9, 0.1, 0.25, 0.25, 0.5}, {5});
  Calibration c = calibration(map, truth, 10);
  // bins 9, 1 and 2: |0.9 - 1| / 4 + |0.1 - 0| / 4 + |0.25 - 0.5| / 2
  CHECK(c.ece == Approx(0.175));
  CHECK(c.brier == Approx((0.01 + 0.01 + 0.5625 + 0.0625) / 4));
  CHECK(c.nll == Approx(-(2 * std::log(0.9) + std::log(0.25) + std::log(0.75)) / 4));
  CHECK(c.bins[2].count == 2);
  CHECK(c.bins[2].frequency == 0.5);
  CHECK(c.bins[5].count == 0);
  Calibration sure = calibration(from({1, 0}, {2}), bytes({1, 1}, {2}));
  CHECK(sure.bins.size() == 15);
  CHECK(sure.bins[14].count == 1);   // p = 1 is in the last bin
  CHECK(sure.ece == 0.5);
  CHECK(sure.nll == Approx(-std::log(1e-7) / 2).epsilon(1e-6));   // the sure and wrong one is bounded
  CHECK_FAILS(Error::Kind::data, calibration(from({1.5}, {1}), bytes({1}, {1})), "pixel 0 is 1.5");
  CHECK_FAILS(Error::Kind::argument, calibration(from({0.5}, {1}), bytes({255}, {1})), "not ignored");
}

TEST_CASE("probabilities that are right have a calibration error near 0", "[segmetrics]") {
  constexpr int64_t kPixels = 20000;
  Tensor p = uniform({kPixels}, DType::f32, Generator{1}), u = uniform({kPixels}, DType::f32, Generator{2});
  Tensor truth = empty({kPixels}, DType::u8);
  for (int64_t i = 0; i < kPixels; ++i) truth.data<uint8_t>()[i] = u.data<float>()[i] < p.data<float>()[i];
  CHECK(calibration(p, truth).ece < 0.015);   // about sqrt(p (1 - p) / 1333) a bin
  std::transform(p.data<float>(), p.data<float>() + kPixels, p.data<float>(), [](float v) { return v * v; });
  CHECK(calibration(p, truth).ece > 0.1);   // mean of |p - p^2| is 1/6
}

TEST_CASE("GED of equal distributions is 0 and of two single masks twice their distance", "[segmetrics]") {
  auto stack = [](const std::vector<Tensor>& masks) {
    Tensor all = empty({int64_t(masks.size()), 8, 8}, DType::u8);
    for (size_t k = 0; k < masks.size(); ++k) all.rows(int64_t(k), int64_t(k) + 1).view({8, 8}).copy_(masks[k]);
    return all;
  };
  Tensor a = golden_truth(), b = golden_prediction(), none = zeros({8, 8}, DType::u8);
  CHECK(ged2(stack({a, b}), stack({b, a})) == 0);
  CHECK(ged2(stack({a}), stack({b})) == 1);   // 2 (1 - IoU)
  CHECK(ged2(stack({none}), stack({none})) == 0);
  // S = {a, b}, Y = {a}: 2 * (0 + 1/2) / 2 - (0 + 1/2 + 1/2 + 0) / 4 - 0
  CHECK(ged2(stack({a, b}), stack({a})) == 0.25);
  CHECK_FAILS(Error::Kind::argument, ged2(stack({a}), a), "[K, H, W]");
}

TEST_CASE("AUROC counts pairs and halves ties", "[segmetrics]") {
  auto area = [](const std::vector<double>& scores, const std::vector<double>& positive) {
    return auroc(from(scores, {int64_t(scores.size())}), bytes(positive, {int64_t(positive.size())}));
  };
  CHECK(area({0.1, 0.2, 0.3}, {0, 0, 1}) == 1);
  CHECK(area({0.3, 0.2, 0.1}, {0, 0, 1}) == 0);
  CHECK(area({0.2, 0.2, 0.1}, {0, 1, 0}) == 0.75);
  CHECK(area({0.5, 0.5, 0.5, 0.5}, {0, 1, 0, 1}) == 0.5);
  CHECK(area({0.9, 0.1, 0.2}, {255, 0, 1}) == 1);
  CHECK(std::isnan(area({0.1, 0.2}, {1, 1})));
  CHECK(std::isnan(area({0.1, 0.2}, {0, 0})));
}

TEST_CASE("dropping the uncertain pixels raises Dice where uncertainty finds the errors", "[segmetrics]") {
  Tensor truth = bytes({1, 1, 0, 0, 255}, {5}), predicted = bytes({1, 0, 0, 1, 1}, {5});
  Tensor knows = from({0.1, 0.9, 0.2, 0.8, 0.0}, {5});
  CHECK(abstention_dice(predicted, truth, knows, {0.25, 0.5, 0.75, 1}) ==
        std::vector<double>{1, 1, 2.0 / 3, 0.5});   // the ignored pixel is not among the four
  CHECK_FAILS(Error::Kind::argument, abstention_dice(predicted, truth, knows, {0}), "(0, 1]");
  Tensor samples = bytes({1, 0, 1, 0, 1, 1}, {3, 2});
  CHECK_CLOSE(smoothed_frequency(samples), from({3.5 / 4, 1.5 / 4}, {2}), 1e-7, 0);
}

// ---- Intervals -----------------------------------------------------------------------------------------------------

TEST_CASE("quantiles lie between neighbours as NumPy's do", "[segmetrics]") {
  CHECK(linear_quantile({3, 1, 2, 4}, 0.5) == 2.5);
  CHECK(linear_quantile({3, 1, 2, 4}, 0.95) == Approx(3.85));
  CHECK(linear_quantile({3, 1, 2, 4}, 1) == 4);
  CHECK(linear_quantile({7}, 0.3) == 7);
  CHECK_FAILS(Error::Kind::argument, linear_quantile({}, 0.5), "needs values");
}

TEST_CASE("a bootstrap interval is as wide as the mean's standard error says", "[segmetrics]") {
  Tensor draws = normal({400}, DType::f64, Generator{5});
  std::vector<double> a(draws.data<double>(), draws.data<double>() + 400), b(400, 0.0);
  double mean = 0, squares = 0;
  for (double v : a) mean += v / 400;
  for (double v : a) squares += (v - mean) * (v - mean);
  double error = std::sqrt(squares / 400 / 400);
  Interval interval = bootstrap(a, 1, kSanitized ? 1000 : 10000);
  CHECK(interval.mean == Approx(mean));
  double margin = kSanitized ? 0.2 : 0.1;   // of a standard error; the quantile's own is 0.027 of one at 10,000
  CHECK(interval.low == Approx(mean - 1.96 * error).margin(margin * error));
  CHECK(interval.high == Approx(mean + 1.96 * error).margin(margin * error));

  Interval same = paired_bootstrap(a, b, 1, 500), again = paired_bootstrap(a, b, 1, 500);
  CHECK(same.low == again.low);
  CHECK(paired_bootstrap(a, b, 2, 500).low != same.low);
  CHECK(paired_bootstrap(a, a, 1, 500).high == 0);   // the same images on both sides
  for (int threads : {1, 3}) {
    Threads limited(threads);
    CHECK(paired_bootstrap(a, b, 1, 500).low == same.low);
  }
  b[7] = kNan;
  CHECK(!std::isnan(paired_bootstrap(a, b, 1, 500).mean));
  CHECK_FAILS(Error::Kind::argument, paired_bootstrap(a, {1}, 1), "got 400 and 1");
  CHECK_FAILS(Error::Kind::argument, bootstrap({kNan}, 1), "got none of 1");
}
