// The damage that restoration undoes: its formulas at picked numbers, its statistics, and what it depends on.
#include <cmath>

#include "diffusion/resensemble/degradation.h"
#include "diffusion/resensemble/filters.h"
#include "tensor/random.h"
#include "tests/diffusion_support.h"

using namespace mote;
using namespace mote::resensemble;
using namespace mote::test;

namespace {

Tensor smooth_picture(int64_t H = 24, int64_t W = 20, int64_t C = 1) {
  Tensor x = empty({H, W, C});
  for (int64_t i = 0; i < x.numel(); ++i) {
    double row = double(i / C / W), column = double(i / C % W), shift = double(i % C);
    x.data<float>()[i] = float(0.6 * std::sin(0.3 * row + shift) * std::cos(0.25 * column));
  }
  return x;
}

struct Moments {
  double mean = 0, variance = 0, third = 0;
};
Moments moments_of_difference(const Tensor& a, const Tensor& b) {
  Moments m;
  auto n = double(a.numel());
  for (int64_t i = 0; i < a.numel(); ++i) m.mean += (double(a.data<float>()[i]) - b.data<float>()[i]) / n;
  for (int64_t i = 0; i < a.numel(); ++i) {
    double d = double(a.data<float>()[i]) - b.data<float>()[i] - m.mean;
    m.variance += d * d / n;
    m.third += d * d * d / n;
  }
  return m;
}

double mean_of(const Tensor& x) {
  double total = 0;
  for (double value : x.to_vector()) total += value / double(x.numel());
  return total;
}

}  // namespace

TEST_CASE("every damage is a function of seed, picture and options alone", "[degradation]") {
  Tensor pictures = empty({4, 24, 20, 3});
  for (int64_t n = 0; n < 4; ++n) pictures.rows(n, n + 1).copy_(smooth_picture(24, 20, 3).view({1, 24, 20, 3}));
  for (const std::string& task : restoration_tasks()) {
    INFO(task);
    Degradation degradation{.damage = damage_of(task)};
    Tensor all = degraded_batch(pictures, degradation, 5, 10);
    CHECK_SAME(degraded_batch(pictures.rows(2, 4), degradation, 5, 12), all.rows(2, 4));
    CHECK_SAME(degraded(smooth_picture(24, 20, 3), degradation, 5, 11).view({1, 24, 20, 3}), all.rows(1, 2));
    CHECK(difference(all.rows(0, 1), pictures.rows(0, 1), 1e-3, 0) != "");
    bool random = task != "sr2" && task != "sr4";
    CHECK((difference(all.rows(0, 1), all.rows(1, 2), 0, 0) != "") == random);
    CHECK((difference(degraded_batch(pictures, degradation, 6, 10), all, 0, 0) != "") == random);
    Threads three(3);
    CHECK_SAME(degraded_batch(pictures, degradation, 5, 10), all);
  }
}

TEST_CASE("Gaussian noise has the asked deviation in grey levels, fixed or from a range", "[degradation]") {
  Tensor clean = full({200, 200, 1}, 0.2);
  for (double sigma : {15.0, 25.0, 50.0}) {
    Degradation noise{.sigma_low = sigma, .sigma_high = sigma};
    Moments m = moments_of_difference(degraded(clean, noise, 1, 0), clean);
    double expected = 2 * sigma / 255;
    CHECK(std::abs(m.mean) < 4 * expected / 200);                                  // 40,000 pixels
    CHECK(std::sqrt(m.variance) == Approx(expected).epsilon(4 / std::sqrt(80000.0)));
  }
  double low = 1e9, high = 0;
  for (int64_t image = 0; image < 40; ++image) {
    Tensor x = full({50, 50, 1}, 0.0);
    Tensor noisy = degraded(x, {.sigma_low = 5, .sigma_high = 55}, 1, image);
    double level = 127.5 * std::sqrt(moments_of_difference(noisy, x).variance);
    low = std::min(low, level), high = std::max(high, level);
  }
  CHECK(low > 4.5);
  CHECK(low < 15);
  CHECK(high < 58);
  CHECK(high > 45);
}

TEST_CASE("photon noise is Poisson: whole counts, variance and skewness as of the mean", "[degradation]") {
  Tensor clean = full({200, 200, 1}, 0.2);   // 0.6 of white
  for (double photons : {10.0, 50.0}) {
    Tensor x = degraded(clean, {.poisson = photons}, 2, 0);
    for (int64_t i = 0; i < 100; ++i) {
      double count = (double(x.data<float>()[i]) + 1) / 2 * photons;
      CHECK(std::abs(count - std::round(count)) < 1e-4);
    }
    Moments m = moments_of_difference(x, clean);
    double mean = 0.6 * photons, unit = 2 / photons;
    CHECK(std::abs(m.mean) < 4 * unit * std::sqrt(mean) / 200);
    CHECK(m.variance == Approx(mean * unit * unit).epsilon(0.04));
    CHECK(m.third == Approx(mean * unit * unit * unit).epsilon(0.5));
  }
  CHECK_SAME(degraded(full({3, 3, 1}, -1.0), {.poisson = 10}, 1, 0), full({3, 3, 1}, -1.0));   // black has no photons
}

TEST_CASE("a blurred picture is the Gaussian blur of it within noise of five levels", "[degradation]") {
  Tensor clean = smooth_picture(100, 100);
  Tensor x = degraded(clean, {.damage = Damage::blur}, 3, 0);
  double nearest = 1e9;
  for (double s = 0.8; s < 2.01; s += 0.05)
    nearest = std::min(nearest, moments_of_difference(x, gaussian_blur(clean, s)).variance);
  CHECK(std::sqrt(nearest) == Approx(10.0 / 255).epsilon(0.03));
}

TEST_CASE("holes are grey squares that cover a quarter, and a square at most beyond it", "[degradation]") {
  for (auto [H, W] : {std::pair{28, 28}, {50, 37}, {3, 5}, {1, 1}}) {
    Tensor clean = full({H, W, 3}, 0.5);
    Tensor x = degraded(clean, {.damage = Damage::holes, .side = 28}, 4, H);
    int64_t grey = 0;
    for (int64_t i = 0; i < H * W; ++i) {
      float value = x.data<float>()[3 * i];
      CHECK((value == 0 || value == 0.5f));
      CHECK(x.data<float>()[3 * i + 2] == value);
      grey += value == 0;
    }
    CHECK(4 * grey >= H * W);
    CHECK(grey <= (H * W + 3) / 4 - 1 + std::min(7, H) * std::min(7, W));
  }
}

TEST_CASE("coarse sampling keeps what is smooth and loses what is fine", "[degradation]") {
  Tensor clean = smooth_picture(25, 30);
  Tensor half = degraded(clean, {.damage = Damage::halved}, 1, 0);
  Tensor quarter = degraded(clean, {.damage = Damage::quartered}, 1, 0);
  CHECK(moments_of_difference(half, clean).variance < moments_of_difference(quarter, clean).variance / 4);
  CHECK(moments_of_difference(quarter, clean).variance < 0.005);
  Tensor checks = empty({16, 16, 1});
  for (int64_t i = 0; i < 256; ++i) checks.data<float>()[i] = (i + i / 16) % 2 ? 1.0f : -1.0f;
  for (double value : degraded(checks, {.damage = Damage::halved}, 1, 0).to_vector()) CHECK(std::abs(value) < 0.2);
}

TEST_CASE("haze mixes every pixel with one air light, more so towards the bottom", "[degradation]") {
  // Pictures of one number get the same haze, x tau + A (1 - tau): tau and A follow from a black and a white one.
  Tensor white = degraded(full({40, 30, 3}, 1.0), {.damage = Damage::haze}, 5, 2);
  Tensor black = degraded(full({40, 30, 3}, -1.0), {.damage = Damage::haze}, 5, 2);
  double air = NAN, top = 0, bottom = 0;
  for (int64_t i = 0; i < white.numel(); ++i) {
    double w = (white.data<float>()[i] + 1) / 2, b = (black.data<float>()[i] + 1) / 2, seen = w - b;
    double here = b / (1 - seen), depth = -std::log(seen);   // times b of 0.6 to 1.8
    if (std::isnan(air)) air = here;
    CHECK(here == Approx(air).margin(1e-4));
    CHECK(depth > 0.6 * 0.3 - 1e-4);
    CHECK(depth < 1.8 * 1.3 + 1e-4);
    (i < white.numel() / 2 ? top : bottom) += depth;
  }
  CHECK(air >= 0.7);
  CHECK(air <= 1);
  CHECK(bottom > 1.3 * top);
}

TEST_CASE("rain only brightens, in streaks near the vertical", "[degradation]") {
  Tensor dark = full({60, 60, 1}, -1.0);
  double along = 0, across = 0;
  for (int64_t image = 0; image < 8; ++image) {
    Tensor x = degraded(dark, {.damage = Damage::rain}, 6, image);
    CHECK(mean_of(x) > -0.99);
    const float* v = x.data<float>();
    for (int64_t y = 0; y + 2 < 60; ++y)
      for (int64_t c = 0; c + 2 < 60; ++c) {
        along += std::abs(v[(y + 2) * 60 + c] - v[y * 60 + c]);
        across += std::abs(v[y * 60 + c + 2] - v[y * 60 + c]);
      }
    Tensor grey = full({60, 60, 1}, 0.9), wet = degraded(grey, {.damage = Damage::rain}, 6, image);
    Tensor screened = degraded(grey, {.damage = Damage::rain, .screen = true}, 6, image);
    for (int64_t i = 0; i < 3600; ++i) {
      CHECK(wet.data<float>()[i] >= 0.9f - 1e-6f);
      CHECK(wet.data<float>()[i] <= 1);
      CHECK(screened.data<float>()[i] <= wet.data<float>()[i] + 1e-6f);
    }
  }
  CHECK(across > 1.3 * along);
}

TEST_CASE("long streaks fall on pictures that are trained on at 64 pixels or more", "[degradation]") {
  // The mean light grows with the length of the lines: at least 9 instead of at most 9 pixels.
  Tensor dark = full({80, 80, 1}, -1.0);
  for (int64_t image = 0; image < 4; ++image)
    CHECK(mean_of(degraded(dark, {.damage = Damage::rain, .side = 64}, 7, image)) >
          mean_of(degraded(dark, {.damage = Damage::rain, .side = 63}, 7, image)));
}

TEST_CASE("what damage cannot be is refused with the flag that asked for it", "[degradation]") {
  CHECK_THROWS_WITH(damage_of("sharpen"), Catch::Contains("denoise, deblur, inpaint, sr2, sr4, haze, rain"));
  CHECK_THROWS_WITH((Degradation{.sigma_low = 30, .sigma_high = 20}).validate(), Catch::Contains("--sigma"));
  CHECK_THROWS_WITH((Degradation{.sigma_high = 300}).validate(), Catch::Contains("--sigma"));
  CHECK_THROWS_WITH((Degradation{.poisson = -1}).validate(), Catch::Contains("--poisson"));
  CHECK_THROWS_WITH((Degradation{.damage = Damage::rain, .poisson = 10}).validate(), Catch::Contains("denoise"));
  CHECK_THROWS_WITH((Degradation{.screen = true}).validate(), Catch::Contains("rain"));
  CHECK_THROWS_WITH(degraded(zeros({2, 2}), {}, 1, 0), Catch::Contains("[H, W, C]"));
}
