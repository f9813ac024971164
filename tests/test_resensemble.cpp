// The residual target, its schedules, samplers and ensembles against closed forms: an exact denoiser stands in for the
// network wherever a sampler is tested.
#include <cmath>
#include <numeric>

#include "diffusion/analytic.h"
#include "diffusion/resensemble/ensemble.h"
#include "diffusion/resensemble/resfusion.h"
#include "diffusion/resensemble/toy.h"
#include "tests/diffusion_support.h"

using namespace mote;
using namespace mote::test;
using namespace mote::resensemble;

namespace {

double beta_tilde(const Schedule& schedule, int64_t t) {   // t from 1
  return schedule.beta(t - 1) * schedule.variance(t - 2) / schedule.variance(t - 1);
}

/// x0 of the two-point posterior P(+1) = p at a state: -f + 2 tanh(1/2 (logit p + 4 a (x + a f) / (1 - abar))).
EnsembleNetwork two_point(const Schedule& schedule, double p, double f) {
  return [=](const Tensor& x, double t, const std::vector<int64_t>&) {
    Level level = schedule.at(t);
    double logit = std::log(p / (1 - p)), slope = 4 * level.a() / level.variance;
    return affine(tanh(affine(x, slope / 2, (logit + slope * level.a() * f) / 2)), 2, -f);
  };
}

EnsembleOptions ancestral(int64_t T, uint64_t seed) {
  EnsembleOptions options;
  options.sampler = {.name = "ddpm", .steps = T, .variance = "small", .prediction = Prediction::x0};
  options.seed = seed;
  return options;
}

double share_above_zero(const Tensor& y) {
  std::vector<double> values = y.to_vector();
  return double(std::count_if(values.begin(), values.end(), [](double v) { return v > 0; })) / double(values.size());
}

}  // namespace

TEST_CASE("the named schedules have the published levels", "[resensemble]") {
  struct Row {
    const char* name;
    int64_t T;
    double first, last, middle, end, end_relative;
  };
  const Row rows[] = {
      {"paper", 1000, 1e-4, 0.02, 0.0785872428818, 4.03582976538e-5, 1e-10},
      {"scaled", 1000, 1e-4, 0.02, 0.0785872428818, 4.03582976538e-5, 1e-10},
      {"paper", 100, 1e-4, 0.02, 0.77718008, 0.3635632481, 1e-8},
      {"scaled", 100, 1e-3, 0.2, 0.074196997, 2.039008976e-5, 1e-8},
      {"scaled", 250, 4e-4, 0.08, 0.077144347, 3.264409e-5, 2e-7},
      {"scaled", 50, 2e-3, 0.4, 0.069088983, 7.744766e-6, 2e-7},
      {"cosine", 1000, 4.12842e-5, 0.999, 0.49384359, 2.428767e-9, 2e-6}};   // as many digits as printed
  for (const Row& row : rows) {
    INFO(row.name << " " << row.T);
    Schedule schedule = schedule_named(row.name, row.T);
    CHECK(apart(schedule.beta(0), row.first, 0, 2e-6) == "");
    CHECK(apart(schedule.beta(row.T - 1), row.last, 0, 1e-12) == "");
    CHECK(apart(schedule.abar(row.T / 2 - 1), row.middle, 0, 2e-8) == "");
    CHECK(apart(schedule.abar(row.T - 1), row.end, 0, row.end_relative) == "");
  }
  Schedule paper = schedule_named("paper", 1000);
  CHECK(beta_tilde(paper, 1) == 0);
  CHECK(apart(beta_tilde(paper, 100), 0.002034596259, 0, 1e-9) == "");
  CHECK(apart(beta_tilde(paper, 1000), 0.01999998353, 0, 1e-9) == "");
}

TEST_CASE("the two weights of an ancestral step preserve the signal", "[resensemble]") {
  Schedule schedule = schedule_named("scaled", 100);
  std::vector<StepPlan> plan = plan_sampler(schedule, {.name = "ddpm", .steps = 100, .variance = "small"});
  for (const StepPlan& step : plan) {
    double of_state = 0, of_x0 = 0;
    for (const PlanTerm& term : step.stages[0].terms) {
      if (term.source == Source::state) of_state = term.factor;
      if (term.source == Source::x0) of_x0 = term.factor;
    }
    CHECK(apart(of_x0 + of_state * step.from.a(), step.to.a(), 1e-14) == "");
  }
}

TEST_CASE("a schedule that keeps signal at its end is told, one that cannot be is refused", "[resensemble]") {
  CHECK(start_warning(schedule_named("paper", 1000)) == "");
  CHECK(start_warning(schedule_named("scaled", 25)) == "");
  CHECK(start_warning(schedule_named("cosine", 50)) == "");
  CHECK(contains(start_warning(schedule_named("paper", 100)), "keeps 0.602962 of the signal"));
  Caught few = caught([] { schedule_named("scaled", 24); });
  CHECK(few.kind == Error::Kind::usage);
  CHECK(few.says("T = 24 steps, needs 25 or more"));
  CHECK(caught([] { schedule_named("linear", 100); }).kind == Error::Kind::usage);
  CHECK(caught([] { schedule_named("paper", 0); }).kind == Error::Kind::usage);
}

TEST_CASE("target and estimate are the printed numbers and undo each other", "[resensemble]") {
  Target paper = target_named("residual");
  Tensor x0 = from({1, -1, 1}, {3}), f = from({0.5, 1, -1}, {3});
  Tensor xbar = target_of(paper, x0, f);
  CHECK_SAME(xbar, from({1.5, -3, 3}, {3}));
  CHECK_SAME(estimate_of(paper, xbar, f), x0);
  Tensor wide = uniform({1000}, DType::f32, Generator{3}), prior = uniform({1000}, DType::f32, Generator{4});
  for (const char* name : {"residual", "residual:0.5", "residual:4", "scaled:2", "plain", "plain:2"}) {
    Target target = over(target_named(name), 1.7);
    CHECK_CLOSE(estimate_of(target, target_of(target, wide, prior), prior), wide, 1e-6, 0);
  }
  CHECK(target_named("residual:0") == target_named("plain"));
  CHECK(target_named("residual:1") == target_named("residual"));
  CHECK_SAME(target_of(target_named("scaled:2"), x0, f), from({1, -4, 4}, {3}));
  CHECK(apart(target_rms(paper, x0, f), std::sqrt((2.25 + 9 + 9) / 3), 1e-12) == "");
  for (const char* name : {"", "residua", "residual:", "residual:-1", "residual:x", "scaled", "scaled:0", "plain:-2",
                           "plain:nan", "residual:1e999"}) {
    INFO(name);
    CHECK(caught([&] { target_named(name); }).kind == Error::Kind::usage);
  }
  CHECK(caught([&] { over(paper, 0); }).kind == Error::Kind::usage);
  CHECK(caught([&] { target_of(paper, x0, from({1}, {1})); }).kind == Error::Kind::argument);
}

TEST_CASE("the clip of a target is where the estimate lies in [-1, 1]", "[resensemble]") {
  Tensor f = from({-1, -0.2, 0.8, 1}, {4});
  for (const char* name : {"residual", "residual:3", "scaled:2", "plain:2"}) {
    Target target = target_named(name);
    CHECK_CLOSE(estimate_of(target, clip(target, full({4}, 100), f), f), full({4}, 1), 1e-6, 0);
    CHECK_CLOSE(estimate_of(target, clip(target, full({4}, -100), f), f), full({4}, -1), 1e-6, 0);
  }
  CHECK_CLOSE(clip(target_named("residual"), full({4}, -9), f), from({-1, -1.8, -2.8, -3}, {4}), 1e-6, 0);
}

TEST_CASE("noised targets have the mean and variance of abar, not of alpha", "[resensemble]") {
  Schedule schedule = schedule_named("paper", 1000);
  int64_t N = kSanitized ? 10000 : 100000;
  for (int64_t n : {99, 499, 999}) {
    Tensor step = empty({N}, DType::i64);
    std::fill_n(step.data<int64_t>(), N, n);
    Tensor x = q_sample(schedule, full({N}, 3, DType::f64), step, normal({N}, DType::f64, Generator{uint64_t(n)}));
    std::vector<double> values = x.to_vector();
    double m = std::accumulate(values.begin(), values.end(), 0.0) / double(N), v = 0;
    for (double value : values) v += (value - m) * (value - m) / double(N - 1);
    double variance = schedule.variance(n);
    CHECK(apart(m, 3 * schedule.a(n), 4 * std::sqrt(variance / double(N))) == "");
    CHECK(apart(v, variance, 4 * variance * std::sqrt(2 / double(N))) == "");
  }
  CHECK(apart(3 * schedule.a(999), 0.019058, 1e-6) == "");   // with alpha it would be 2.9698
}

// ---- The scalar toy -------------------------------------------------------------------------------------------------

namespace {

struct Golden {
  const char* schedule;
  int64_t T;
  const char* sampler;   // small, large or ddim
  double gain, variance, mse1, mse4, mse16, plain_gain, plain_variance;
};
const Golden kGolden[] = {
    {"paper", 1000, "small", 0.999941885083, 1.428542204459, 0.7171355521, 0.4492838888, 0.3823209730, 0.999985470638,
     0.355235868990},
    {"paper", 1000, "large", 0.999941885083, 1.438907274179, 0.7197268196, 0.4499317057, 0.3824829272, 0.999985470638,
     0.360748990062},
    {"paper", 1000, "ddim", 0.992389850737, 1.435005319139, 0.7187688489, 0.4497053515, 0.3824394772, 0.996198200937,
     0.358133939096},
    {"scaled", 100, "small", 0.999970638534, 1.336111109378, 0.6940277776, 0.4435069446, 0.3808767363, 0.999992659472,
     0.320897025298},
    {"paper", 100, "small", 0.548667588836, 1.320072433232, 0.7516376443, 0.5041240631, 0.4422456677, 0.829428594378,
     0.364810817904},
    {"cosine", 1000, "small", 0.999999996503, 1.433476389262, 0.7183690973, 0.4495922743, 0.3823980686, 0.999999999126,
     0.357519819252}};

ToyResult toy_of(const Golden& row, double v) {
  Schedule schedule = schedule_named(row.schedule, row.T);
  if (std::string(row.sampler) == "ddim") return toy_ddim(schedule, v, row.T);
  return toy_ancestral(schedule, v, std::string(row.sampler) == "large");
}

SamplerOptions sampler_of(const Golden& row) {
  if (std::string(row.sampler) == "ddim") return {.name = "ddim", .steps = row.T, .clip = false};
  return {.name = "ddpm", .steps = row.T, .variance = row.sampler, .clip = false};
}

}  // namespace

TEST_CASE("the toy recursions give the printed table", "[resensemble]") {
  for (const Golden& row : kGolden) {
    INFO(row.schedule << " " << row.T << " " << row.sampler);
    ToyResult residual = toy_of(row, 1.44), plain = toy_of(row, 0.36);
    CHECK(apart(residual.gain, row.gain, 1e-9) == "");
    CHECK(apart(residual.variance, row.variance, 1e-9) == "");
    CHECK(apart(plain.gain, row.plain_gain, 1e-9) == "");
    CHECK(apart(plain.variance, row.plain_variance, 1e-9) == "");
    CHECK(apart(toy_mse(residual, 1), row.mse1, 1e-9) == "");
    CHECK(apart(toy_mse(residual, 4), row.mse4, 1e-9) == "");
    CHECK(apart(toy_mse(residual, 16), row.mse16, 1e-9) == "");
  }
  Schedule paper = schedule_named("paper", 1000);
  CHECK(apart(toy_loss(paper, 1.44), 0.306004605538, 1e-9) == "");
  CHECK(apart(toy_loss(paper, 0.36), 0.197526314719, 1e-9) == "");
  // Few deterministic steps give too little spread even with a perfect network.
  const double shares[][3] = {{10, 0.711, 0.983}, {20, 0.844, 0.989}, {50, 0.934, 0.991}};
  for (auto [steps, variance, gain] : shares) {
    ToyResult ddim = toy_ddim(paper, 1.44, int64_t(steps));
    CHECK(apart(ddim.variance / 1.44, variance, 5e-4) == "");
    CHECK(apart(ddim.gain, gain, 5e-4) == "");
  }
  ToyResult misprint = toy_misprint(paper, 1.44);   // alpha in place of abar: the erratum that destroys sampling
  CHECK(apart(misprint.gain, 14.87, 5e-3) == "");
  CHECK(apart(misprint.variance, 1.01e4, 50) == "");
}

TEST_CASE("the samplers do what the toy recursions say", "[resensemble]") {
  for (const Golden& row : kGolden) {
    if (kSanitized && row.T > 100) continue;   // the same code as with fewer steps
    INFO(row.schedule << " " << row.T << " " << row.sampler);
    Schedule schedule = schedule_named(row.schedule, row.T);
    // the gain: from 0, without noise, mu = 1
    Path path = sampler_path(schedule, sampler_of(row));
    auto none = [](int64_t) { return zeros({1, 1}, DType::f64); };
    Tensor gain = run_sampler_with(path, sampler_of(row), exact_network(Gaussian{1, 1.2}, schedule),
                                   zeros({1, 1}, DType::f64), none);
    CHECK(apart(gain.item(), row.gain, 1e-9) == "");
    // the variance: chain j gets a unit of noise at draw j alone (0 is the start); squares of the responses add up
    auto unit = [&](int64_t draw) {
      Tensor noise = zeros({row.T + 1, 1}, DType::f64);
      if (draw <= row.T) noise.data<double>()[draw] = 1;
      return noise;
    };
    Tensor responses = run_sampler_with(path, sampler_of(row), exact_network(Gaussian{0, 1.2}, schedule), unit(0),
                                        [&](int64_t k) { return unit(k + 1); });
    double variance = 0;
    for (double response : responses.to_vector()) variance += response * response;
    CHECK(apart(variance, row.variance, 1e-9) == "");
  }
}

TEST_CASE("sampled chains have the variance of the recursion", "[resensemble]") {
  int64_t N = kSanitized ? 5000 : 100000;
  double tolerance = kSanitized ? 0.06 : 0.015;   // 3.3 deviations of a variance's estimate
  Schedule schedule = schedule_named("scaled", 100);
  Tensor x =
      run_sampler(schedule, {.name = "ddpm", .steps = 100, .variance = "small", .clip = false},
                  exact_network(Gaussian{1.1, 1.2}, schedule), normal({N, 1}, DType::f64, Generator{5}), Generator{6});
  std::vector<double> values = x.to_vector();
  double m = std::accumulate(values.begin(), values.end(), 0.0) / double(N), v = 0;
  for (double value : values) v += (value - m) * (value - m) / double(N - 1);
  CHECK(apart(m, 1.1 * 0.999970638534, 4 * std::sqrt(1.34 / double(N))) == "");
  CHECK(apart(v, 1.336111109378, 0, tolerance) == "");
}

TEST_CASE("an error in the network moves the estimate as the recursion says, and halving gains little",
          "[resensemble]") {
  Schedule paper = schedule_named("paper", 1000);
  ErrorGain residual = toy_error_gain(paper, 1), plain = toy_error_gain(paper, 0);
  CHECK(apart(residual.constant, 1.8659, 5e-5) == "");
  CHECK(apart(plain.constant, 1.8611, 5e-5) == "");
  const double white[][2] = {{0, 0.0841}, {0.5, 0.0743}, {1, 0.0697}, {2, 0.0662}, {4, 0.0653}, {8, 0.0672}};
  for (auto [lambda, expected] : white) CHECK(apart(toy_error_gain(paper, lambda).white, expected, 5e-5) == "");
  // A real sampler whose network is off by eta everywhere: linear, so the gain is exact.
  Schedule schedule = schedule_named("scaled", 100);
  double eta = 0.01;
  Network exact = exact_network(Gaussian{1.1, 1.2}, schedule);
  SamplerOptions options{.name = "ddpm", .steps = 100, .variance = "small", .clip = false};
  Tensor start = zeros({1, 1}, DType::f64);
  auto none = [](int64_t) { return zeros({1, 1}, DType::f64); };
  Path path = sampler_path(schedule, options);
  double clean = run_sampler_with(path, options, exact, start, none).item();
  double moved = run_sampler_with(
                     path, options, [&](const Tensor& x, double t) { return affine(exact(x, t), 1, eta); }, start, none)
                     .item();
  CHECK(apart(std::abs(moved - clean) / 2 / eta, toy_error_gain(schedule, 1).constant, 1e-6) == "");
}

TEST_CASE("errors of perfect samplers: residual equals plain, weights help", "[resensemble]") {
  const double table[][6] = {
      {1, 0.72, 0.4725, 0.1, 0.432}, {4, 0.45, 0.405, 0.25, 0.405}, {16, 0.3825, 0.388125, 0.4, 0.378}};
  for (const auto& row : table) {
    Ideal ideal = ideal_errors(0.36, 0.09, int64_t(row[0]));
    CHECK(apart(ideal.e2e, 0.45, 1e-12) == "");
    CHECK(apart(ideal.residual, row[1], 1e-12) == "");
    CHECK(ideal.plain == ideal.residual);
    CHECK(apart(ideal.naive, row[2], 1e-12) == "");
    CHECK(apart(ideal.best_weight, row[3], 1e-12) == "");
    CHECK(apart(ideal.weighted, row[4], 1e-12) == "");
  }
  WienerToy one = wiener_toy(1);
  CHECK(one.gain == 0);
  CHECK(one.variance == 2);
  CHECK(one.single_mse == 1);
  CHECK(one.limit_mse == 0.5);
}

// ---- The prior must not matter to a perfect sampler -----------------------------------------------------------------

TEST_CASE("with the corrected start a perfect sampler gives the same estimate for every prior", "[resensemble]") {
  int64_t T = kSanitized ? 100 : 1000, chains = 300;
  Schedule schedule = schedule_named(kSanitized ? "scaled" : "paper", T);
  Target target = target_named("residual");
  Tensor first;
  for (double value : {-1.0, -0.2, 0.8}) {
    Tensor f = full({1, chains, 1, 1}, value, DType::f64);
    EnsembleOptions options = ancestral(T, 11);
    options.clip_x0 = false;
    Tensor xbar = sample_ensemble(schedule, target, options, two_point(schedule, 0.3, value), f);
    Tensor y = estimate_of(target, xbar.view(f.shape()), f);
    if (!first.defined()) first = y;
    CHECK_CLOSE(y, first, 1e-12, 0);
    CHECK_CLOSE(abs(y), full(y.shape(), 1, DType::f64), 1e-12, 0);
  }
  CHECK(share_above_zero(first) > 0.2);
  CHECK(share_above_zero(first) < 0.4);
}

TEST_CASE("from plain noise a perfect sampler still gives the right frequency, and the usual clip does not",
          "[resensemble]") {
  int64_t T = 100, chains = kSanitized ? 2000 : 20000;
  double p = 0.3, four_sigma = 4 * std::sqrt(p * (1 - p) / double(chains));
  Schedule schedule = schedule_named("scaled", T);
  Target target = target_named("residual");
  for (double value : {-1.0, -0.2, 0.8}) {
    INFO("f = " << value);
    Tensor f = full({1, chains, 1, 1}, value, DType::f64);
    EnsembleOptions options = ancestral(T, 12);
    options.correct_start = false;
    options.clip_x0 = false;
    EnsembleNetwork network = two_point(schedule, p, value);
    Tensor free = sample_ensemble(schedule, target, options, network, f);
    Tensor y = estimate_of(target, free.view(f.shape()), f);
    CHECK(apart(share_above_zero(y), p, four_sigma) == "");
    CHECK_CLOSE(abs(y), full(y.shape(), 1, DType::f64), 1e-12, 0);
    options.clip_x0 = true;   // per pixel: never touches a prediction that is right
    CHECK_SAME(sample_ensemble(schedule, target, options, network, f), free);
    SamplerOptions usual = options.sampler;   // to [-1, 1]: the samples repeat f
    usual.clip = true;
    Tensor echoed = run_sampler(schedule, usual, [&](const Tensor& x, double t) { return network(x, t, {}); },
                                normal(f.shape(), DType::f64, Generator{13}), Generator{14});
    double share = share_above_zero(estimate_of(target, echoed, f));
    if (value == -1) CHECK(share < 0.02);
    if (value == 0.8) CHECK(share > 0.7);
  }
}

TEST_CASE("every sampler keeps the estimate within its bounds", "[resensemble]") {
  // A network that always says 5: only the clip keeps the sample from running away.
  Schedule schedule = schedule_named("scaled", 50);
  Target target = target_named("residual");
  Tensor f = from({-0.5, 0, 0.25, 1}, {1, 2, 2, 1}, DType::f64);
  for (const std::string& name : sampler_names()) {
    if (name == "pf-rk45" || name == "pf-euler" || name == "fon" || name == "langevin") continue;   // end above level 0
    INFO(name);
    EnsembleOptions options;
    options.sampler = {.name = name, .steps = 20, .prediction = Prediction::x0};
    Tensor xbar = sample_ensemble(schedule, target, options,
                                  [](const Tensor& x, double, const std::vector<int64_t>&) {
                                    return full(x.shape(), 5, DType::f64);
                                  }, f);
    CHECK_CLOSE(estimate_of(target, xbar.view(f.shape()), f), full(f.shape(), 1, DType::f64), 0.02, 0);
  }
}

// ---- Ensembles ------------------------------------------------------------------------------------------------------

namespace {

/// Something that depends on the state, the time and the image.
EnsembleNetwork image_network(const Tensor& f) {
  return [f](const Tensor& x, double t, const std::vector<int64_t>& rows) {
    Tensor prior = empty_like(x);
    for (size_t b = 0; b < rows.size(); ++b)
      prior.rows(int64_t(b), int64_t(b) + 1).copy_(f.rows(rows[b], rows[b] + 1));
    return affine(sin(x + prior), 0.5, 1e-3 * t);
  };
}

}  // namespace

TEST_CASE("a sample depends on seed, image and its number alone, not on how the work is cut", "[resensemble]") {
  Schedule schedule = schedule_named("scaled", 30);
  Target target = target_named("residual");
  Tensor f = affine(uniform({3, 2, 2, 1}, DType::f32, Generator{7}), 2, -1);
  EnsembleOptions options;
  options.sampler = {.name = "ddpm", .steps = 10, .variance = "small"};
  options.samples = 4;
  options.seed = 9;
  Tensor all = sample_ensemble(schedule, target, options, image_network(f), f);
  CHECK(all.shape() == Shape{4, 3, 2, 2, 1});
  for (int64_t batch : {1, 3, 5}) {
    options.batch = batch;
    CHECK_SAME(sample_ensemble(schedule, target, options, image_network(f), f), all);
  }
  options.samples = 2;
  CHECK_SAME(sample_ensemble(schedule, target, options, image_network(f), f), all.rows(0, 2));
  options.samples = 4;
  options.first = 2;
  Tensor last = f.rows(2, 3), alone = sample_ensemble(schedule, target, options, image_network(last), last);
  for (int64_t k = 0; k < 4; ++k)
    CHECK_SAME(alone.rows(k, k + 1).view({1, 2, 2, 1}), all.rows(k, k + 1).view({3, 2, 2, 1}).rows(2, 3));
  CHECK(difference(all.rows(0, 1), all.rows(1, 2), 0, 0) != "");
  options.first = 0;
  options.seed = 10;
  CHECK(difference(sample_ensemble(schedule, target, options, image_network(f), f), all, 0, 0) != "");
}

TEST_CASE("estimates are the mean, share, variance, residual and range of the samples", "[resensemble]") {
  Target target = target_named("residual");
  Tensor f = from({0.5, -1}, {1, 1, 2, 1});
  Tensor xbar = from({1.5, 3, 0.5, -1, 2.5, -5, -1.5, 3}, {4, 1, 1, 2, 1});   // y: 1 .5 1(1.5) -.5 | 1 -1 -1(-3) 1
  Estimates e = estimates(target, xbar, f);
  CHECK_CLOSE(e.mean, from({0.5, 0}, {1, 1, 2, 1}), 1e-6, 0);
  CHECK_CLOSE(e.probability, from({3.5 / 5, 2.5 / 5}, {1, 1, 2, 1}), 1e-6, 0);
  CHECK_CLOSE(e.variance, from({(0.25 + 0 + 0.25 + 1) / 4, 1}, {1, 1, 2, 1}), 1e-6, 0);
  CHECK_CLOSE(e.residual, from({0, 1}, {1, 1, 2, 1}), 1e-6, 0);
  CHECK_CLOSE(e.range, from({1.5, 2}, {1, 1, 2, 1}), 1e-6, 0);
  CHECK_CLOSE(estimates(target, xbar, f, 1).mean, from({1, 1}, {1, 1, 2, 1}), 1e-6, 0);
  CHECK_CLOSE(estimates(target, xbar, f, 0, 0).mean, f, 1e-6, 0);   // weight 0: the prior alone
  CHECK_CLOSE(estimates(target, xbar, f, 1, 0.25).mean, from({0.75, 0}, {1, 1, 2, 1}), 1e-6, 0);
  CHECK_CLOSE(estimates(target, xbar, f, 1, 0.25).mean,
              fused(xbar.rows(0, 1).view(f.shape()), f, 0.25), 1e-6, 0);
  CHECK_CLOSE(entropy(from({0, 0.5, 1}, {3})), from({0, std::log(2), 0}, {3}), 1e-7, 0);
  CHECK(caught([&] { estimates(target, xbar, f, 5); }).says("the first 5 samples asked for, there are 4"));
}

TEST_CASE("the best weight is that of the toy", "[resensemble]") {
  int64_t N = kSanitized ? 20000 : 400000;
  Generator draw{21};
  auto noise = [&] { return normal({N}, DType::f64, draw); };
  Tensor image = noise(), x0 = affine(image, 0.8, 0) + affine(noise(), 0.6, 0), f = affine(image, 0.5, 0);
  for (int64_t K : {1, 4, 16}) {
    Tensor spread = affine(noise(), 1.2 / std::sqrt(double(K)), 0), xbar = affine(image, 1.1, 0) + spread;
    CHECK(apart(best_weight(xbar, f, x0), ideal_errors(0.36, 0.09, K).best_weight, kSanitized ? 0.03 : 0.006) == "");
  }
  CHECK(best_weight(f, f, x0) == 0.5);
  CHECK(best_weight(x0, f, x0) == 1);
}

// ---- Resfusion ------------------------------------------------------------------------------------------------------

TEST_CASE("the resfusion schedule ends where the signal is half of the prior", "[resensemble]") {
  Schedule twelve = resfusion_schedule(12);
  const double a[] = {0.995825, 0.913182, 0.758629, 0.557163, 0.5},
               alpha[] = {0.991667, 0.840909, 0.690152, 0.539394, 0.805332};
  REQUIRE(twelve.steps() == 5);
  for (int64_t n = 0; n < 5; ++n) {
    CHECK(apart(twelve.a(n), a[n], 1e-6) == "");
    CHECK(apart(1 - twelve.beta(n), alpha[n], 1e-6) == "");
  }
  const int64_t lengths[][2] = {{20, 8}, {50, 19}, {100, 37}, {273, 100}, {1000, 368}};
  for (auto [T, length] : lengths) CHECK(resfusion_schedule(T).steps() == length);
  CHECK(caught([] { resfusion_schedule(11); }).kind == Error::Kind::usage);
}

TEST_CASE("resfusion with the true resnoise ends at the truth", "[resensemble]") {
  Schedule schedule = resfusion_schedule(12);
  Tensor x0 = from({1, -1, 0.5}, {1, 1, 3, 1}, DType::f64), f = from({0.2, 0.9, -1}, {1, 1, 3, 1}, DType::f64);
  EnsembleOptions options;
  options.samples = 2;
  // eps = (x_t - a x0 - (1 - a) R) / sigma is what x_t is made of, whatever it is
  EnsembleNetwork network = [&](const Tensor& x, double t, const std::vector<int64_t>& rows) {
    int64_t n = int64_t(t);
    Level level = schedule.level(n);
    CHECK(rows.size() == size_t(x.size(0)));
    double share = (1 - std::sqrt(1 - schedule.beta(n))) * level.sigma() / schedule.beta(n);
    Tensor residual = f - x0;
    Tensor eps = affine(x - affine(x0, level.a(), 0) - affine(residual, 1 - level.a(), 0), 1 / level.sigma(), 0);
    return eps + affine(residual, share, 0);
  };
  Tensor xs = resfusion_ensemble(schedule, options, network, f);
  for (int64_t k = 0; k < 2; ++k) CHECK_CLOSE(xs.rows(k, k + 1).view(x0.shape()), x0, 1e-12, 0);
  // The process itself at its last level: f / 2 and sqrt(3) / 2 noise, without x0.
  Tensor last = from({4}, {1}, DType::i64), eps = from({0.1, -0.7, 1.5}, {1, 1, 3, 1}, DType::f64);
  CHECK_CLOSE(resfusion_sample(schedule, x0, f, last, eps), affine(f, 0.5, 0) + affine(eps, std::sqrt(0.75), 0), 1e-12,
              0);
}
