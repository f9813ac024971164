// test_process.cpp - the forward process, the conversions between predictions, and the closed forms of analytic.h.
#include "diffusion/process.h"

#include "diffusion/analytic.h"
#include "tests/diffusion_support.h"

namespace mote {
namespace {

using test::apart;
using test::caught;

const Prediction kPredictions[] = {Prediction::eps, Prediction::x0, Prediction::v};

Tensor steps_of(const std::vector<double>& steps) { return from(steps, Shape{int64_t(steps.size())}, DType::i64); }

// A level of the continuous process with beta(t) = 0.1 + 19.9 t: ln a = -t^2 19.9 / 4 - 0.05 t.    [Song 2021b, app. C]
Level continuous_level(double t) {
  double log_abar = -t * t * 19.9 / 2 - 0.1 * t;
  return {.t = 999 * t, .abar = std::exp(log_abar), .variance = -std::expm1(log_abar)};
}

// ---- Forward process -----------------------------------------------------------------------------------------------

TEST_CASE("q_sample mixes image and noise by the level of each sample", "[process]") {
  Schedule schedule = Schedule::linear();
  Tensor x0 = from({1, 2, 3, 4, 5, 6}, {3, 1, 2, 1}, DType::f64);
  Tensor eps = from({-1, 0.5, 2, 0, 1, -3}, {3, 1, 2, 1}, DType::f64);
  std::vector<double> steps = {0, 499, 999};
  Tensor x = q_sample(schedule, x0, steps_of(steps), eps);
  REQUIRE(x.shape() == x0.shape());
  std::vector<double> got = x.to_vector(), image = x0.to_vector(), noise = eps.to_vector();
  for (size_t i = 0; i < got.size(); ++i) {
    int64_t n = int64_t(steps[i / 2]);
    CHECK(apart(got[i], schedule.a(n) * image[i] + schedule.sigma(n) * noise[i], 1e-15, 1e-15) == "");
  }
}

TEST_CASE("q_sample has mean a x0 and standard deviation sigma", "[process]") {
  Schedule schedule = Schedule::cosine();
  constexpr int64_t kSamples = 40000;
  for (double n : {3.0, 300.0, 800.0}) {
    Tensor x = q_sample(schedule, full({1, kSamples, 1, 1}, 0.7, DType::f64), steps_of({n}),
                        normal({1, kSamples, 1, 1}, DType::f64, Generator{11}));
    double mean = 0, square = 0;
    for (double value : x.to_vector()) mean += value / kSamples;
    for (double value : x.to_vector()) square += (value - mean) * (value - mean) / kSamples;
    double sigma = schedule.sigma(int64_t(n));
    INFO("level " << n << ", seed 11");
    CHECK(apart(mean, 0.7 * schedule.a(int64_t(n)), 4 * sigma / std::sqrt(double(kSamples))) == "");
    CHECK(apart(std::sqrt(square), sigma, 4 * sigma / std::sqrt(2.0 * kSamples)) == "");
  }
}

TEST_CASE("q_sample in f32 agrees with f64 to f32 rounding", "[process]") {
  Schedule schedule = Schedule::linear();
  Tensor x0 = uniform({4, 3, 3, 2}, DType::f32, Generator{1}), eps = normal({4, 3, 3, 2}, DType::f32, Generator{2});
  Tensor step = steps_of({0, 10, 500, 999});
  Tensor wide = q_sample(schedule, x0.to(DType::f64), step, eps.to(DType::f64));
  CHECK(q_sample(schedule, x0, step, eps).dtype() == DType::f32);
  CHECK_CLOSE(q_sample(schedule, x0, step, eps), wide, 5e-7, 2e-7);
}

TEST_CASE("q_sample takes an empty batch", "[process]") {
  Tensor none = empty({0, 2, 2, 1});
  CHECK(q_sample(Schedule::linear(), none, empty({0}, DType::i64), none).shape() == none.shape());
}

TEST_CASE("q_sample refuses steps and shapes that do not fit", "[process]") {
  Schedule schedule = Schedule::linear(10);
  Tensor x = zeros({2, 4});
  auto late = caught([&] { q_sample(schedule, x, steps_of({0, 10}), x); });
  CHECK(late.kind == Error::Kind::argument);
  CHECK(late.says("step 10 lies outside 0..9"));
  CHECK(caught([&] { q_sample(schedule, x, steps_of({-1, 0}), x); }).says("-1"));
  CHECK(caught([&] { q_sample(schedule, x, steps_of({0}), x); }).says("i64[2]"));
  CHECK(caught([&] { q_sample(schedule, x, zeros({2}), x); }).kind == Error::Kind::argument);
  CHECK(caught([&] { q_sample(schedule, x, steps_of({0, 1}), zeros({2, 3})); }).says("f32[2, 3]"));
  CHECK(caught([&] { q_sample(schedule, x, steps_of({0, 1}), zeros({2, 4}, DType::f64)); }).says("f64[2, 4]"));
}

// ---- Predictions ---------------------------------------------------------------------------------------------------

TEST_CASE("a perfect output of any kind gives back the noise and the image", "[process]") {
  Schedule schedule = Schedule::linear();
  Tensor x0 = uniform({2, 3, 3, 1}, DType::f64, Generator{5}), eps = normal({2, 3, 3, 1}, DType::f64, Generator{6});
  for (Prediction prediction : kPredictions)
    for (int64_t n : {0, 1, 250, 999}) {
      Tensor step = steps_of({double(n), double(n)});
      Tensor x = q_sample(schedule, x0, step, eps);
      Denoised both = denoise(schedule, prediction, training_target(schedule, prediction, x0, step, eps), x, n, false);
      INFO(name_of(prediction) << " at level " << n);
      // an eps-model divides by a (0.006 at 999), an x0-model by sigma (0.01 at 0): two digits of 1e-16 are lost
      CHECK_CLOSE(both.x0, x0, 1e-13, 0);
      CHECK_CLOSE(both.eps, eps, 1e-13, 0);
    }
}

TEST_CASE("the velocity is a eps - sigma x0", "[process]") {
  Schedule schedule = Schedule::linear();
  Tensor x0 = from({0.5, -1}, {2, 1}, DType::f64), eps = from({2, 3}, {2, 1}, DType::f64);
  std::vector<double> v = training_target(schedule, Prediction::v, x0, steps_of({0, 700}), eps).to_vector();
  CHECK(apart(v[0], schedule.a(0) * 2 - schedule.sigma(0) * 0.5, 1e-15) == "");
  CHECK(apart(v[1], schedule.a(700) * 3 + schedule.sigma(700), 1e-15) == "");
}

TEST_CASE("the targets of eps and x0 models are the noise and the image themselves", "[process]") {
  Tensor x0 = from({0.5, -1}, {2, 1}), eps = from({2, 3}, {2, 1});
  CHECK_SAME(training_target(Schedule::linear(), Prediction::eps, x0, steps_of({0, 7}), eps), eps);
  CHECK_SAME(training_target(Schedule::linear(), Prediction::x0, x0, steps_of({0, 7}), eps), x0);
  CHECK(caught([&] { training_target(Schedule::linear(), Prediction::eps, x0, steps_of({0, 1000}), eps); }).kind ==
        Error::Kind::argument);
}

TEST_CASE("one output read as three kinds converts to consistent pairs", "[process]") {
  // whatever the network said, x = a x0 + sigma eps must hold for what is made of it
  Schedule schedule = Schedule::cosine();
  Tensor x = normal({7}, DType::f64, Generator{3}), output = normal({7}, DType::f64, Generator{4});
  for (Prediction prediction : kPredictions)
    for (int64_t n : {0, 400, 998}) {
      Denoised both = denoise(schedule, prediction, output, x, n, false);
      INFO(name_of(prediction) << " at level " << n);
      CHECK_CLOSE(schedule.a(n) * both.x0 + schedule.sigma(n) * both.eps, x, 1e-13, 0);
    }
}

TEST_CASE("clipping clamps x0 and leaves the noise raw", "[process]") {
  Schedule schedule = Schedule::linear();
  Tensor x = from({3, -3, 0.1}, {3}, DType::f64), output = from({0.2, 0.4, -0.1}, {3}, DType::f64);
  for (Prediction prediction : kPredictions) {
    Denoised raw = denoise(schedule, prediction, output, x, 300, false);
    Denoised clipped = denoise(schedule, prediction, output, x, 300, true);
    CHECK_SAME(clipped.eps, raw.eps);
    CHECK_SAME(clipped.x0, clamp(raw.x0, -1, 1));
  }
  // 3 / a is beyond 1, so the clamp was exercised
  CHECK(denoise(schedule, Prediction::eps, output, x, 300, true).x0.to_vector()[0] == 1);
  CHECK(denoise(schedule, Prediction::eps, output, x, 300, true).x0.to_vector()[1] == -1);
}

TEST_CASE("denoise leaves the state and the output as they were", "[process]") {
  Tensor x = from({3, -3}, {2}), output = from({5, 0.4}, {2});
  for (Prediction prediction : kPredictions) denoise(Schedule::linear(), prediction, output, x, 300, true);
  CHECK_SAME(x, from({3, -3}, {2}));
  CHECK_SAME(output, from({5, 0.4}, {2}));
}

TEST_CASE("an output in another floating dtype is converted to that of the state", "[process]") {
  Tensor x = from({0.25, -2}, {2}, DType::f64);
  Denoised both = denoise(Schedule::linear(), Prediction::eps, from({0.5, 1}, {2}, DType::bf16), x, 10, false);
  CHECK(both.x0.dtype() == DType::f64);
  CHECK_SAME(both.eps, from({0.5, 1}, {2}, DType::f64));
}

TEST_CASE("denoise refuses other shapes, the clean level, and gradients", "[process]") {
  Schedule schedule = Schedule::linear();
  Tensor x = zeros({2, 3});
  auto shapes = caught([&] { denoise(schedule, Prediction::eps, zeros({2, 6}), x, 0, false); });
  CHECK(shapes.kind == Error::Kind::argument);
  CHECK(shapes.says("f32[2, 6]"));
  CHECK(caught([&] { denoise(schedule, Prediction::eps, x, x, -1, false); }).kind == Error::Kind::argument);
  CHECK(caught([&] { denoise(schedule, Prediction::eps, x, x, 1000, false); }).kind == Error::Kind::argument);
  Tensor leaf = zeros({2, 3}).requires_grad();
  CHECK(caught([&] { denoise(schedule, Prediction::eps, leaf, x, 0, false); }).says("NoGrad"));
  NoGrad no_grad;
  CHECK(denoise(schedule, Prediction::eps, leaf, x, 0, false).x0.defined());
}

TEST_CASE("predictions are named and an unknown name lists them", "[process]") {
  for (Prediction prediction : kPredictions) CHECK(prediction_named(name_of(prediction)) == prediction);
  auto unknown = caught([] { prediction_named("noise"); });
  CHECK(unknown.kind == Error::Kind::usage);
  CHECK(unknown.says("eps, x0 or v"));
}

// ---- Closed forms --------------------------------------------------------------------------------------------------

const Mixture kTwoPeaks = {{0.3, 0.7}, {{-1}, {0.8}}, {0.3, 0.4}};

TEST_CASE("the exact networks have the values computed elsewhere", "[analytic]") {
  auto mixture_eps = [](double x, double t) {
    return exact_denoise(kTwoPeaks, from({x}, {1}, DType::f64), continuous_level(t)).eps.item();
  };
  CHECK(apart(mixture_eps(0.9, 1), 0.898278984933644, 2e-15) == "");
  CHECK(apart(mixture_eps(0.9, 0.5), 0.802332047609245, 2e-15) == "");
  CHECK(apart(mixture_eps(-0.2, 0.1), -0.197954162948799, 2e-15) == "");
  Denoised gaussian = exact_denoise(Gaussian{0.5, 0.5}, from({1.3}, {1}, DType::f64), continuous_level(0.5));
  CHECK(apart(gaussian.eps.item(), 1.182766837709722, 2e-15) == "");
}

TEST_CASE("the exact pair explains x: a x0 + sigma eps", "[analytic]") {
  Tensor x = normal({50}, DType::f64, Generator{8});
  for (double t : {0.001, 0.1, 0.5, 1.0}) {
    Level level = continuous_level(t);
    Denoised one = exact_denoise(Gaussian{0.5, 0.5}, x, level), two = exact_denoise(kTwoPeaks, x, level);
    CHECK_CLOSE(level.a() * one.x0 + level.sigma() * one.eps, x, 1e-13, 0);
    CHECK_CLOSE(level.a() * two.x0 + level.sigma() * two.eps, x, 1e-13, 0);
  }
}

TEST_CASE("the exact noise is minus sigma times the slope of the log density", "[analytic]") {
  auto log_density = [](double x, const Level& level) {
    double density = 0;
    for (size_t k = 0; k < 2; ++k) {
      double v = level.abar * kTwoPeaks.stds[k] * kTwoPeaks.stds[k] + level.variance;
      double offset = x - level.a() * kTwoPeaks.means[k][0];
      density += kTwoPeaks.weights[k] / std::sqrt(v) * std::exp(-offset * offset / (2 * v));
    }
    return std::log(density);
  };
  constexpr double kStep = 1e-5;   // truncation about 1e-10, rounding about 1e-11
  for (double t : {0.05, 0.3, 0.9})
    for (double x : {-1.4, -0.2, 0.0, 0.6, 2.0}) {
      Level level = continuous_level(t);
      double slope = (log_density(x + kStep, level) - log_density(x - kStep, level)) / (2 * kStep);
      double eps = exact_denoise(kTwoPeaks, from({x}, {1}, DType::f64), level).eps.item();
      CHECK(apart(eps, -level.sigma() * slope, 1e-8) == "");
    }
}

TEST_CASE("a mixture of one component is the Gaussian in any dimension", "[analytic]") {
  Tensor x = normal({6, 2, 2, 1}, DType::f64, Generator{9});
  Level level = Schedule::linear().level(300);
  Denoised gaussian = exact_denoise(Gaussian{-0.4, 0.7}, x, level);
  Denoised mixture = exact_denoise(Mixture{{2}, {{-0.4, -0.4, -0.4, -0.4}}, {0.7}}, x, level);
  CHECK_CLOSE(mixture.eps, gaussian.eps, 1e-14, 0);
  CHECK_CLOSE(mixture.x0, gaussian.x0, 1e-14, 0);
}

TEST_CASE("the components of a mixture compete by distance in all coordinates", "[analytic]") {
  // equal spreads: gamma_1 / gamma_0 = exp((|x - a m_0|^2 - |x - a m_1|^2) / (2 v)), the volume factor cancels
  Mixture data = {{1, 1}, {{1, 0, -1}, {0, 1, 1}}, {0.2, 0.2}};
  Level level = Schedule::linear().level(400);
  double a = level.a(), v = level.abar * 0.04 + level.variance;
  std::vector<double> x = {0.4, -0.3, 0.2};
  double square[2] = {0, 0};
  for (int k = 0; k < 2; ++k)
    for (int d = 0; d < 3; ++d) square[k] += (x[d] - a * data.means[k][d]) * (x[d] - a * data.means[k][d]);
  double ratio = std::exp((square[0] - square[1]) / (2 * v)), share = ratio / (1 + ratio);
  std::vector<double> eps = exact_denoise(data, from(x, {1, 3}, DType::f64), level).eps.to_vector();
  for (int d = 0; d < 3; ++d) {
    double mean = (1 - share) * data.means[0][d] + share * data.means[1][d];
    CHECK(apart(eps[d], level.sigma() * (x[d] - a * mean) / v, 1e-14) == "");
  }
}

TEST_CASE("a narrow component counts for the volume it fills", "[analytic]") {
  // both means at 0: gamma_k ~ v_k^(-D/2) at x = 0, so x0 near 0 follows the narrow one more in higher dimension
  Level level = Schedule::linear().level(100);
  for (int64_t D : {1, 2, 5}) {
    Mixture data = {{1, 1}, {std::vector<double>(D, 0.0), std::vector<double>(D, 0.0)}, {0.1, 1.0}};
    double v[2];
    for (int k = 0; k < 2; ++k) v[k] = level.abar * data.stds[k] * data.stds[k] + level.variance;
    double narrow = 1 / (1 + std::pow(v[1] / v[0], -0.5 * double(D)));
    Tensor x = full({1, D}, 1e-9, DType::f64);   // so close to 0 that the exponents are below 1e-16
    double x0 = exact_denoise(data, x, level).x0.to_vector()[0] / 1e-9;
    CHECK(apart(x0, level.a() * (narrow * 0.01 / v[0] + (1 - narrow) / v[1]), 1e-12) == "");
  }
}

TEST_CASE("far from all components the mixture stays finite", "[analytic]") {
  // every density underflows to 0 there; only their ratio counts
  Tensor x = from({-1e4, 1e4}, {2, 1}, DType::f64);
  Level level = Schedule::linear().level(0);
  Denoised exact = exact_denoise(kTwoPeaks, x, level);
  // the wider component wins on both sides
  double a = level.a(), v = level.abar * 0.16 + level.variance;
  CHECK_CLOSE(exact.eps, from({level.sigma() * (-1e4 - a * 0.8) / v, level.sigma() * (1e4 - a * 0.8) / v}, {2, 1},
                              DType::f64), 0, 1e-13);
}

TEST_CASE("the exact denoisers work in f32", "[analytic]") {
  Tensor x = normal({20}, DType::f32, Generator{10});
  Level level = Schedule::linear().level(500);
  Tensor wide = x.to(DType::f64);
  CHECK_CLOSE(exact_denoise(kTwoPeaks, x, level).eps, exact_denoise(kTwoPeaks, wide, level).eps.to(DType::f32), 1e-7,
              1e-7);   // f64 inside, rounded once
  CHECK_CLOSE(exact_denoise(Gaussian{0.5, 0.5}, x, level).x0,
              exact_denoise(Gaussian{0.5, 0.5}, wide, level).x0.to(DType::f32), 1e-6, 1e-6);
}

TEST_CASE("the flow of a Gaussian maps marginals to marginals and back", "[analytic]") {
  Gaussian data{0.5, 0.5};
  Schedule schedule = Schedule::linear();
  Level from_level = schedule.level(999), clean;
  Tensor x = normal({9}, DType::f64, Generator{12});
  CHECK_CLOSE(exact_flow(data, exact_flow(data, x, from_level, clean), clean, from_level), x, 1e-13, 0);
  // one standard deviation above the mean stays one standard deviation above the mean
  double spread = std::sqrt(from_level.abar * 0.25 + from_level.variance);
  Tensor above = from({0.5 * from_level.a() + spread}, {1}, DType::f64);
  CHECK(apart(exact_flow(data, above, from_level, clean).item(), 1.0, 1e-14) == "");
  // of N(0, 1) noise, which is not quite the marginal of level 999, it makes the mean and spread computed elsewhere
  double zero = exact_flow(data, full({1}, 0, DType::f64), from_level, clean).item();
  double one = exact_flow(data, full({1}, 1, DType::f64), from_level, clean).item();
  CHECK(apart(zero, 0.4984117714, 5e-11) == "");
  CHECK(apart(one - zero, 0.5000075674, 5e-11) == "");
}

TEST_CASE("the flow follows the probability-flow ODE", "[analytic]") {
  // in y = x / a and u = sigma / a the ODE is dy/du = eps; over a short jump the midpoint rule is good to du^3
  Gaussian data{-0.3, 0.8};
  Schedule schedule = Schedule::linear();
  Level now = schedule.level(500), next = schedule.level(499), mid;
  double u = (now.sigma() / now.a() + next.sigma() / next.a()) / 2;
  mid.abar = 1 / (1 + u * u), mid.variance = u * u * mid.abar;
  Tensor x = from({0.9}, {1}, DType::f64);
  double eps = exact_denoise(data, exact_flow(data, x, now, mid), mid).eps.item();
  double moved = exact_flow(data, x, now, next).item() / next.a() - x.item() / now.a();
  double du = next.sigma() / next.a() - now.sigma() / now.a();
  CHECK(apart(moved, du * eps, 1e-2 * std::abs(du * du * du)) == "");
}

TEST_CASE("bad analytic data is refused", "[analytic]") {
  Tensor x = zeros({2, 3}, DType::f64);
  Level level = Schedule::linear().level(10);
  CHECK(caught([&] { exact_denoise(Gaussian{0, -1}, x, level); }).kind == Error::Kind::argument);
  CHECK(caught([&] { exact_denoise(Gaussian{0, 0}, x, Level{}); }).kind == Error::Kind::argument);
  CHECK(caught([&] { exact_denoise(Mixture{}, x, level); }).kind == Error::Kind::argument);
  CHECK(caught([&] { exact_denoise(Mixture{{1}, {{0, 0}}, {1}}, x, level); }).says("a point of x has 3"));
  CHECK(caught([&] { exact_denoise(Mixture{{0}, {{0, 0, 0}}, {1}}, x, level); }).says("weight > 0"));
  CHECK(caught([&] { exact_denoise(Mixture{{1}, {{0, 0, 0}}, {}}, x, level); }).says("0 stds"));
  Network network = exact_network(Gaussian{}, Schedule::linear());
  CHECK(caught([&] { network(x, 999.5); }).says("999.5"));   // between levels is legal, beyond them is not
  CHECK(!caught([&] { network(x, 0.5); }).kind);
}

}  // namespace
}  // namespace mote
