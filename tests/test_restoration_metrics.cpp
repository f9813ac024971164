// PSNR, SSIM and sharpness against closed forms, and the filters that restoration is compared with.
#include <cmath>

#include "diffusion/metrics/restoration.h"
#include "diffusion/resensemble/filters.h"
#include "tensor/random.h"
#include "tests/diffusion_support.h"

using namespace mote;
using namespace mote::metrics;
using namespace mote::resensemble;
using namespace mote::test;

namespace {

Tensor flat(double level, const Shape& shape = {16, 12, 1}) { return full(shape, level, DType::u8); }

Tensor noisy_levels(const Shape& shape, double mean, double sigma, uint64_t seed) {
  Tensor noise = normal(shape, DType::f64, Generator{seed}), levels = empty(shape, DType::u8);
  for (int64_t i = 0; i < noise.numel(); ++i) {
    double level = std::clamp(std::round(mean + sigma * noise.data<double>()[i]), 0.0, 255.0);
    levels.data<uint8_t>()[i] = uint8_t(level);
  }
  return levels;
}

/// SSIM at one position by its definition: weights of the 121 pixels, then moments around the means.
double plain_ssim(const Tensor& a, const Tensor& b, int64_t top, int64_t left, int64_t channel) {
  double weights[121], total = 0;
  for (int i = 0; i < 121; ++i) {
    double dy = i / 11 - 5, dx = i % 11 - 5;
    total += weights[i] = std::exp(-(dx * dx + dy * dy) / (2 * 1.5 * 1.5));
  }
  auto value = [&](const Tensor& x, int i) {
    return double(x.data<uint8_t>()[((top + i / 11) * x.size(1) + left + i % 11) * x.size(2) + channel]);
  };
  double m = 0, n = 0, v = 0, w = 0, c = 0;
  for (int i = 0; i < 121; ++i) m += weights[i] / total * value(a, i), n += weights[i] / total * value(b, i);
  for (int i = 0; i < 121; ++i) {
    double p = value(a, i) - m, q = value(b, i) - n, share = weights[i] / total;
    v += share * p * p, w += share * q * q, c += share * p * q;
  }
  double c1 = 6.5025, c2 = 58.5225;
  return (2 * m * n + c1) * (2 * c + c2) / ((m * m + n * n + c1) * (v + w + c2));
}

/// A picture with one channel from rows of values.
Tensor picture(const std::vector<double>& values, int64_t H, int64_t W) { return from(values, {H, W, 1}); }

}  // namespace

TEST_CASE("PSNR of a constant offset is that of the offset", "[restmetrics]") {
  CHECK(psnr(flat(100), flat(101)) == Approx(48.1308).margin(5e-5));
  CHECK(psnr(flat(105), flat(100)) == Approx(34.1514).margin(5e-5));
  CHECK(psnr(flat(100), flat(110)) == Approx(28.1308).margin(5e-5));
  CHECK(std::isinf(psnr(flat(7), flat(7))));
  Tensor truth = flat(50, {4, 4, 3}), off = truth.clone();
  off.data<uint8_t>()[0] = 60;   // one value of 48
  CHECK(psnr(off, truth) == Approx(10 * std::log10(255.0 * 255 * 48 / 100)).epsilon(1e-12));
}

TEST_CASE("PSNR of Gaussian noise is 20 log10(255 / sigma)", "[restmetrics]") {
  // 120,000 pixels: the standard error of the MSE is 0.4 %, 0.018 dB; rounding to levels adds 1/12 to sigma^2
  for (auto [sigma, expected] : {std::pair{15.0, 24.609}, {25.0, 20.172}}) {
    INFO("sigma " << sigma);
    CHECK(psnr(noisy_levels({300, 400, 1}, 128, sigma, 3), flat(128, {300, 400, 1})) == Approx(expected).margin(0.07));
  }
}

TEST_CASE("luma of pure colours has the levels of television", "[restmetrics]") {
  auto y_of = [](int r, int g, int b) {   // against black, whose luma is 16
    Tensor colour = from({double(r), double(g), double(b)}, {1, 1, 3}, DType::u8);
    double mse = 255 * 255 / std::pow(10, psnr(colour, zeros({1, 1, 3}, DType::u8), Channels::luma) / 10);
    return 16 + std::sqrt(mse);
  };
  CHECK(y_of(255, 0, 0) == Approx(81.481).epsilon(1e-9));
  CHECK(y_of(0, 255, 0) == Approx(144.553).epsilon(1e-9));
  CHECK(y_of(0, 0, 255) == Approx(40.966).epsilon(1e-9));
  CHECK(y_of(255, 255, 255) == Approx(235).epsilon(1e-9));
  CHECK(psnr(flat(10), flat(30), Channels::luma) ==
        Approx(psnr(flat(10, {16, 12, 3}), flat(30, {16, 12, 3}), Channels::luma)).epsilon(1e-12));
}

TEST_CASE("SSIM of flat pictures compares their levels alone", "[restmetrics]") {
  CHECK(ssim(flat(100), flat(120)) == Approx(0.98361092).epsilon(1e-8));
  CHECK(ssim(flat(0), flat(255)) == Approx(9.9990e-5).epsilon(1e-4));
  Tensor noise = noisy_levels({11, 11, 3}, 100, 40, 5);
  CHECK(ssim(noise, noise) == Approx(1).epsilon(1e-12));
}

TEST_CASE("SSIM is the mean over whole windows and channels, with any number of threads", "[restmetrics]") {
  Tensor a = noisy_levels({14, 13, 3}, 100, 30, 6), b = noisy_levels({14, 13, 3}, 110, 50, 7);
  double expected = 0;
  for (int64_t channel = 0; channel < 3; ++channel)
    for (int64_t top = 0; top < 4; ++top)
      for (int64_t left = 0; left < 3; ++left) expected += plain_ssim(a, b, top, left, channel) / 36;
  CHECK(ssim(a, b) == Approx(expected).epsilon(1e-9));   // moments from sums of squares: 1e-16 * 255^2 / variance
  double alone = 0;
  {
    Threads one(1);
    alone = ssim(a, b);
  }
  Threads three(3);
  CHECK(ssim(a, b) == alone);
}

TEST_CASE("a blurred picture is less sharp than the truth, a noisy one sharper", "[restmetrics]") {
  Tensor ramp = empty({5, 4, 1}, DType::u8);
  for (int64_t i = 0; i < 20; ++i) ramp.data<uint8_t>()[i] = uint8_t(3 * (i % 4) + 4 * (i / 4));
  CHECK(gradient_magnitude(ramp) == Approx(5).epsilon(1e-12));   // 3 to the right and 4 down, everywhere
  Tensor half = empty({5, 4, 1}, DType::u8);
  for (int64_t i = 0; i < 20; ++i) half.data<uint8_t>()[i] = uint8_t(6 * (i % 4) + 8 * (i / 4));
  RestorationMeans means = restoration_means({restoration_score(ramp, half)});
  CHECK(means.sharpness == Approx(0.5).epsilon(1e-12));
  CHECK(std::isnan(means.ssim));   // no window fits
}

TEST_CASE("means leave out identical pictures from PSNR and say how many they were", "[restmetrics]") {
  std::vector<RestorationScore> scores = {restoration_score(flat(9), flat(9)), restoration_score(flat(100), flat(101)),
                                          restoration_score(flat(100), flat(110))};
  RestorationMeans means = restoration_means(scores);
  CHECK(means.count == 3);
  CHECK(means.identical == 1);
  CHECK(means.psnr == Approx((48.1308036 + 28.1308036) / 2).epsilon(1e-8));   // of dB, not of the errors
  CHECK(std::isnan(means.sharpness));
  CHECK(std::isinf(restoration_means({scores[0]}).psnr));
  CHECK_THROWS_AS(restoration_means({}), Error);
}

TEST_CASE("scores refuse pictures that cannot be compared", "[restmetrics]") {
  CHECK_THROWS_WITH(psnr(flat(1), flat(1, {12, 16, 1})), Catch::Contains("[16, 12, 1] and [12, 16, 1]"));
  CHECK_THROWS_WITH(psnr(zeros({4, 4, 1}), flat(1, {4, 4, 1})), Catch::Contains("u8 [H, W, 1 or 3]"));
  CHECK_THROWS_WITH(ssim(flat(1, {10, 40, 1}), flat(1, {10, 40, 1})), Catch::Contains("10 x 40"));
  CHECK_THROWS_WITH(gradient_magnitude(flat(1, {1, 9, 1})), Catch::Contains("1 x 9"));
}

// ---- Filters -------------------------------------------------------------------------------------------------------

TEST_CASE("bicubic enlargement has Keys' weights", "[restmetrics]") {
  // Twice as wide: outputs lie a quarter pixel off. At 1/4 the weights of Keys' kernel are -9, 111, 29, -3 of 128.
  Tensor impulse = picture({0, 0, 0, 128, 0, 0, 0, 0}, 1, 8), wide = resize_bicubic(impulse, 1, 16);
  std::vector<double> expected(16);
  const double weights[8] = {-3, -9, 29, 111, 111, 29, -9, -3};
  for (int i = 0; i < 8; ++i) expected[size_t(i + 3)] = weights[i];
  CHECK_CLOSE(wide, picture(expected, 1, 16), 1e-5, 0);
}

TEST_CASE("bicubic resizing keeps what is flat, inner ramps, and pictures of the same size", "[restmetrics]") {
  Tensor level = full({9, 7, 3}, 0.3);
  for (auto [h, w] : {std::pair{18, 14}, {5, 4}, {1, 1}, {3, 21}})
    CHECK_CLOSE(resize_bicubic(level, h, w), full({h, w, 3}, double(0.3f)), 1e-6, 0);
  Tensor ramp = empty({1, 40, 1});
  for (int64_t i = 0; i < 40; ++i) ramp.data<float>()[i] = float(i);
  Tensor half = resize_bicubic(ramp, 1, 20);
  for (int64_t i = 4; i < 16; ++i) CHECK(half.data<float>()[i] == Approx(2 * i + 0.5).margin(1e-5));
  CHECK_SAME(resize_bicubic(ramp, 1, 40), ramp);
}

TEST_CASE("shrinking averages away what is too fine, where plain sampling would alias", "[restmetrics]") {
  Tensor stripes = empty({4, 64, 1});
  for (int64_t i = 0; i < stripes.numel(); ++i) stripes.data<float>()[i] = i % 2 ? 1.0f : -1.0f;
  Tensor small = resize_bicubic(stripes, 4, 16);
  for (int64_t i = 0; i < small.numel(); ++i)   // the mirrored edge breaks the stripes within 8 pixels, 2 of the result
    if (i % 16 >= 2 && i % 16 < 14) CHECK(std::abs(small.data<float>()[i]) < 1e-5);
}

TEST_CASE("a Gaussian blur spreads an impulse as its kernel, and mirrors at the edges", "[restmetrics]") {
  Tensor impulse = zeros({21, 21, 1});
  impulse.data<float>()[10 * 21 + 10] = 1;
  Tensor blurred = gaussian_blur(impulse, 1.2);
  double total = 0, spread = 0;
  for (int64_t i = 0; i < 441; ++i) {
    double value = blurred.data<float>()[i], dx = double(i % 21 - 10);
    total += value, spread += value * dx * dx;
  }
  CHECK(total == Approx(1).epsilon(1e-6));
  CHECK(spread == Approx(1.44).epsilon(2e-3));   // cut off at 4 sigma
  CHECK_CLOSE(gaussian_blur(full({3, 2, 1}, 0.7), 2), full({3, 2, 1}, double(0.7f)), 1e-6, 0);
}

TEST_CASE("the median drops single spikes and keeps edges", "[restmetrics]") {
  std::vector<double> edge;
  for (int i = 0; i < 35; ++i) edge.push_back(i % 7 < 3 ? 0 : 1);
  Tensor clean = picture(edge, 5, 7), spiked = clean.clone();
  spiked.data<float>()[2 * 7 + 5] = -9;
  spiked.data<float>()[0] = 9;
  CHECK_SAME(median_filter(spiked), clean);
}

TEST_CASE("the local Wiener filter averages flat noise, keeps strong edges, and lowers the error", "[restmetrics]") {
  Shape shape{40, 40, 1};
  Tensor noise = normal(shape, DType::f32, Generator{4}), clean = empty(shape), noisy = empty(shape);
  for (int64_t i = 0; i < 1600; ++i) {
    clean.data<float>()[i] = i % 40 < 20 ? -0.5f : 0.5f;
    noisy.data<float>()[i] = clean.data<float>()[i] + 0.1f * noise.data<float>()[i];
  }
  auto error = [&](const Tensor& x) {
    double squares = 0;
    for (int64_t i = 0; i < 1600; ++i) squares += std::pow(double(x.data<float>()[i]) - clean.data<float>()[i], 2);
    return squares / 1600;
  };
  double before = error(noisy), after = error(wiener_filter(noisy, 0.1));
  CHECK(before == Approx(0.01).epsilon(0.1));
  CHECK(after < before / 2);
  CHECK(error(median_filter(noisy)) < before / 2);
  CHECK_CLOSE(wiener_filter(clean, 1e-3), clean, 1e-4, 0);   // no noise: left as it is
  CHECK_THROWS_AS(wiener_filter(clean, 0), Error);
  CHECK_THROWS_WITH(median_filter(clean, 4), Catch::Contains("odd"));
}
