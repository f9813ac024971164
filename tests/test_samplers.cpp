// test_samplers.cpp - ddpm, ddim and guidance against closed forms and printed goldens; the network is a formula.
#include "diffusion/samplers/sampler.h"

#include <array>

#include "diffusion/analytic.h"
#include "diffusion/guidance.h"
#include "tests/diffusion_support.h"

namespace mote {
namespace {

using test::apart;
using test::caught;

const Gaussian kData{0.5, 0.5};
const Prediction kPredictions[] = {Prediction::eps, Prediction::x0, Prediction::v};

SamplerOptions ddim(int64_t steps, double eta = 0) {
  return {.name = "ddim", .steps = steps, .eta = eta, .clip = false};
}
SamplerOptions ddpm(int64_t steps, const std::string& variance) {
  return {.name = "ddpm", .steps = steps, .variance = variance, .clip = false};
}

Tensor number(double value) { return full({1}, value, DType::f64); }

/// The factor of a source in the last update of a step: what a step of ddpm or ddim does with x, x0, eps and noise.
double factor(const StepPlan& step, Source source) {
  double sum = 0;
  for (const PlanTerm& term : step.stages.back().terms)
    if (term.source == source) sum += term.factor;
  return sum;
}
double keep(const StepPlan& step) { return factor(step, Source::state); }
double from_x0(const StepPlan& step) { return factor(step, Source::x0); }
double from_eps(const StepPlan& step) { return factor(step, Source::eps); }
double noise(const StepPlan& step) { return factor(step, Source::noise); }

const std::vector<std::string> kSingleStep = {"ddpm", "ddim"};

// ---- The plan ------------------------------------------------------------------------------------------------------

TEST_CASE("the small variance has the published values", "[samplers]") {
  std::vector<StepPlan> plan = plan_sampler(Schedule::linear(), ddpm(1000, "small"));
  auto beta_tilde = [&](int64_t n) { return noise(plan[999 - n]) * noise(plan[999 - n]); };
  CHECK(beta_tilde(0) == 0);
  CHECK(apart(beta_tilde(487), 0.00979, 1e-5) == "");
  CHECK(apart(beta_tilde(999), 0.02, 1e-5) == "");
  CHECK(beta_tilde(1) > 0);
}

TEST_CASE("the large variance is the beta of the jump", "[samplers]") {
  Schedule schedule = Schedule::linear();
  std::vector<StepPlan> plan = plan_sampler(schedule, ddpm(1000, "large"));
  for (const StepPlan& move : plan) {
    double expected = move.from.t == 0 ? 0 : schedule.beta(int64_t(move.from.t));
    REQUIRE(apart(noise(move) * noise(move), expected, 0, 1e-12) == "");   // beta recovered from the abar table
  }
}

TEST_CASE("a ddim step is the transfer of the pseudo numerical methods", "[samplers]") {
  // phi(x, eps) = sqrt(abar'/abar) x - (abar' - abar) / (sqrt(abar) (sqrt((1-abar') abar) + sqrt((1-abar) abar'))) eps
  //                                                                                               [Liu 2022, eq. 9]
  for (const Schedule& schedule : {Schedule::linear(), Schedule::cosine()})
    for (int64_t steps : {4, 10, 50, 1000})
      for (const StepPlan& move : plan_sampler(schedule, ddim(steps))) {
        double from = schedule.abar(int64_t(move.from.t)), to = schedule.abar(int64_t(move.to.t));
        double from_var = schedule.variance(int64_t(move.from.t)), to_var = schedule.variance(int64_t(move.to.t));
        double of_x = std::sqrt(to / from);
        double of_eps = -(to - from) / (std::sqrt(from) * (std::sqrt(to_var * from) + std::sqrt(from_var * to)));
        double a = schedule.a(int64_t(move.from.t)), sigma = schedule.sigma(int64_t(move.from.t));
        INFO(schedule.name() << " " << steps << " steps, from " << move.from.t);
        REQUIRE(keep(move) == 0);
        REQUIRE(noise(move) == 0);
        REQUIRE(apart(from_x0(move) / a, of_x, 0, 1e-12) == "");
        REQUIRE(apart(from_eps(move) - from_x0(move) * sigma / a, of_eps, 1e-12, 1e-12) == "");
      }
}

TEST_CASE("ddim with eta 1 plans the same step as ddpm with the small variance", "[samplers]") {
  for (const Schedule& schedule : {Schedule::linear(), Schedule::cosine()})
    for (int64_t steps : {1, 10, 30, 1000}) {
      std::vector<StepPlan> implicit = plan_sampler(schedule, ddim(steps, 1));
      std::vector<StepPlan> ancestral = plan_sampler(schedule, ddpm(steps, "small"));
      REQUIRE(implicit.size() == ancestral.size());
      for (size_t k = 0; k < implicit.size(); ++k) {
        // put x = a x0 + sigma eps into the ancestral step: both are then maps of x0, eps and z
        double a = schedule.a(int64_t(implicit[k].from.t)), sigma = schedule.sigma(int64_t(implicit[k].from.t));
        INFO(schedule.name() << " " << steps << " steps, from " << implicit[k].from.t);
        REQUIRE(implicit[k].from.t == ancestral[k].from.t);
        REQUIRE(apart(from_x0(implicit[k]), keep(ancestral[k]) * a + from_x0(ancestral[k]), 1e-12) == "");
        REQUIRE(apart(from_eps(implicit[k]), keep(ancestral[k]) * sigma, 1e-12) == "");
        REQUIRE(apart(noise(implicit[k]), noise(ancestral[k]), 1e-12) == "");
      }
    }
}

TEST_CASE("every step keeps the variance of perfectly predicted noise", "[samplers]") {
  // from the true x0, ddim must land on sigma': from_eps^2 + noise^2 = sigma'^2 for every eta          [Song 2021a, B]
  Schedule schedule = Schedule::linear();
  for (double eta : {0.0, 0.3, 1.0})
    for (const StepPlan& move : plan_sampler(schedule, ddim(50, eta)))
      REQUIRE(apart(from_eps(move) * from_eps(move) + noise(move) * noise(move), schedule.variance(int64_t(move.to.t)),
                    1e-15, 1e-13) == "");
}

TEST_CASE("the last step adds no noise and returns the predicted image", "[samplers]") {
  for (const SamplerOptions& options : {ddim(10), ddim(10, 1), ddpm(10, "small"), ddpm(10, "large")})
    for (const std::string& grid : grid_names()) {
      SamplerOptions with_grid = options;
      with_grid.grid = grid;
      StepPlan last = plan_sampler(Schedule::linear(), with_grid).back();
      CHECK(last.to.t == -1);
      CHECK(noise(last) == 0);
      CHECK(keep(last) == 0);
      CHECK(from_eps(last) == 0);
      CHECK(from_x0(last) == 1);
    }
}

TEST_CASE("a plan follows its grid", "[samplers]") {
  for (const std::string& name : kSingleStep)
    for (const std::string& grid : grid_names()) {
      std::vector<TimeStep> steps = timesteps(1000, 30, grid);
      std::vector<StepPlan> plan = plan_sampler(Schedule::linear(), {.name = name, .steps = 30, .grid = grid});
      REQUIRE(plan.size() == steps.size());
      for (size_t k = 0; k < plan.size(); ++k) {
        CHECK(plan[k].from.t == double(steps[k].t));
        CHECK(plan[k].to.t == double(steps[k].t_prev));
        CHECK(plan[k].calls == std::vector<double>{double(steps[k].t)});
      }
    }
}

TEST_CASE("bad sampler options are refused with what would be right", "[samplers]") {
  Schedule schedule = Schedule::linear(100);
  auto plan = [&](const SamplerOptions& options) { return caught([&] { plan_sampler(schedule, options); }); };
  auto unknown = plan({.name = "ddmp"});
  CHECK(unknown.kind == Error::Kind::usage);
  CHECK(unknown.says("'ddmp'"));
  for (const std::string& name : sampler_names()) CHECK(unknown.says(name));
  CHECK(plan({.name = "ddpm", .variance = "medium"}).kind == Error::Kind::usage);
  CHECK(plan({.name = "ddpm", .variance = "medium"}).says("large or small"));
  CHECK(plan({.name = "ddpm", .eta = 0.5}).kind == Error::Kind::usage);
  CHECK(plan({.name = "ddim", .eta = 1.5}).says("0..1"));
  CHECK(plan({.name = "ddim", .eta = -0.1}).kind == Error::Kind::usage);
  CHECK(plan({.name = "ddim", .eta = std::nan("")}).kind == Error::Kind::usage);
  CHECK(plan({.name = "ddim", .steps = 101}).says("1 to T = 100"));
  CHECK(plan({.name = "ddim", .steps = 0}).kind == Error::Kind::usage);
  CHECK(plan({.name = "ddim", .grid = "log"}).says("trailing"));
  CHECK(sampler_names() ==
        std::vector<std::string>{"ddpm", "ddim", "s-pndm", "f-pndm", "plms", "ipndm", "fon", "pf-euler", "pf-rk45", "heun",
                                 "dpmpp-2m", "dpmpp-3m", "dpmpp-sde-2m", "unipc", "deis", "langevin"});
}

// ---- Deterministic runs --------------------------------------------------------------------------------------------

TEST_CASE("ddim on Gaussian data ends at the values computed elsewhere", "[samplers]") {
  Schedule schedule = Schedule::linear();
  struct Row { int64_t steps; double expected; };
  const Row rows[] = {
      {10, 0.9832918712}, {20, 1.0616215238}, {50, 1.1123558334}, {100, 1.1300847671}, {250, 1.1409532251}};
  Network network = exact_network(kData, schedule);
  for (Row row : rows) {
    double got = run_sampler(schedule, ddim(row.steps), network, number(1.3), Generator{}).item();
    INFO(row.steps << " steps");
    CHECK(apart(got, row.expected, 1e-9) == "");
  }
}

TEST_CASE("ddim on a two-peaked mixture ends at the values computed elsewhere", "[samplers]") {
  Schedule schedule = Schedule::linear();
  Mixture data = {{0.3, 0.7}, {{-1}, {0.8}}, {0.3, 0.4}};
  struct Row { int64_t steps; double expected; };
  for (Row row : {Row{10, 1.0853304004}, {20, 1.1552406379}, {50, 1.2013199760}}) {
    double got = run_sampler(schedule, ddim(row.steps), exact_network(data, schedule), number(1.3), Generator{}).item();
    CHECK(apart(got, row.expected, 1e-9) == "");
  }
}

TEST_CASE("ddim approaches the exact flow to first order", "[samplers]") {
  Schedule schedule = Schedule::linear();
  auto error = [&](int64_t steps) {
    SamplerOptions options = ddim(steps);
    options.grid = "linspace";   // every N starts at level 999
    double got = run_sampler(schedule, options, exact_network(kData, schedule), number(1.3), Generator{}).item();
    return std::abs(got - exact_flow(kData, number(1.3), schedule.level(999), {}).item());
  };
  double coarse = error(50), fine = error(100);
  INFO("errors " << coarse << " and " << fine);
  CHECK(apart(std::log2(coarse / fine), 1, 0.1) == "");
}

TEST_CASE("the toy network gives the sums that a widely used implementation tests for", "[samplers]") {
  // eps (or v) = x t / (t + 1) on the 768 numbers i / 768; 10 steps, clipped, ending at abar = 1. The sums are printed
  // with four decimals and were computed in f32, where the linear schedule differs by 1e-6.
  Tensor x = empty({1, 8, 8, 12}, DType::f64);
  for (int64_t i = 0; i < 768; ++i) x.data<double>()[i] = double(i) / 768;
  Network toy = [](const Tensor& state, double t) { return affine(state, t / (t + 1), 0); };
  auto sum_of = [&](const Schedule& schedule, Prediction prediction) {
    SamplerOptions options = {.name = "ddim", .steps = 10, .prediction = prediction, .clip = true};
    double sum = 0;
    for (double value : run_sampler(schedule, options, toy, x, Generator{}).to_vector()) sum += std::abs(value);
    return sum;
  };
  CHECK(apart(sum_of(Schedule::linear(), Prediction::eps), 172.0067, 1e-2) == "");
  CHECK(apart(sum_of(Schedule::linear(), Prediction::v), 52.5302, 1e-2) == "");
  CHECK(apart(sum_of(Schedule::linear(1000, 0.01, 0.02), Prediction::eps), 149.8295, 1e-2) == "");
}

TEST_CASE("ddim carries a point mass exactly through every level", "[samplers]") {
  // the exact noise is then constant along the path: x = a mean + sigma eps at every level        [Liu 2022, prop. 3.1]
  Gaussian point{0.37, 0};
  for (const Schedule& schedule : {Schedule::linear(), Schedule::cosine()})
    for (int64_t steps : {4, 10, 50})
      for (const std::string& grid : grid_names()) {
        SamplerOptions options = ddim(steps);
        options.grid = grid;
        std::vector<StepPlan> plan = plan_sampler(schedule, options);
        Tensor x = from({1.3, -0.8, 0.2}, {3}, DType::f64);
        Level start = plan[0].from;
        Tensor eps = affine(x, 1 / start.sigma(), -start.a() * point.mean / start.sigma());
        // predicting x0 divides the rounding of x by a: 0.006 at the end of the linear schedule, 5e-5 of the cosine one
        double tolerance = 1e-14 + 1e-15 / start.a();
        int64_t seen = 0;
        Tensor last = run_sampler(schedule, options, exact_network(point, schedule), x, Generator{},
                                  [&](const Tensor& state, const Tensor& x0, int64_t done, int64_t) {
                                    Level level = plan[done - 1].to;
                                    INFO(schedule.name() << " " << grid << " step " << done << " of " << steps);
                                    Tensor exact = affine(eps, level.sigma(), level.a() * point.mean);
                                    CHECK_CLOSE(state, exact, tolerance, 0);
                                    CHECK_CLOSE(x0, full({3}, 0.37, DType::f64), tolerance, 0);
                                    ++seen;
                                  });
        CHECK(seen == steps);
        CHECK_CLOSE(last, full({3}, 0.37, DType::f64), 1e-13, 0);
      }
}

TEST_CASE("ddpm ends exactly on a point mass, whatever noise it drew", "[samplers]") {
  Gaussian point{-0.61, 0};
  Schedule schedule = Schedule::linear();
  for (int64_t steps : {4, 10, 50})
    for (const char* variance : {"small", "large"}) {
      Tensor x = normal({64}, DType::f64, Generator{1});
      Tensor last = run_sampler(schedule, ddpm(steps, variance), exact_network(point, schedule), x, Generator{2});
      CHECK_CLOSE(last, full({64}, -0.61, DType::f64), 1e-13, 0);
    }
}

TEST_CASE("the three kinds of the same network give the same samples", "[samplers]") {
  Schedule schedule = Schedule::linear();
  Tensor x = normal({2, 4, 4, 1}, DType::f64, Generator{21});
  for (SamplerOptions options : {ddim(20), ddim(20, 0.5), ddpm(20, "small"), ddpm(20, "large")})
    for (bool clip : {false, true}) {
      options.clip = clip;
      std::vector<Tensor> ends;
      for (Prediction prediction : kPredictions) {
        options.prediction = prediction;
        ends.push_back(run_sampler(schedule, options, exact_network(kData, schedule, prediction), x, Generator{22}));
      }
      INFO(options.name << " eta " << options.eta << " variance " << options.variance << " clip " << clip);
      CHECK_CLOSE(ends[1], ends[0], 1e-10, 0);
      CHECK_CLOSE(ends[2], ends[0], 1e-10, 0);
    }
}

TEST_CASE("clipping keeps every predicted image in range and changes the result", "[samplers]") {
  Schedule schedule = Schedule::linear();
  Tensor x = affine(normal({32}, DType::f64, Generator{23}), 2, 0);
  SamplerOptions clipped = ddim(10);
  clipped.clip = true;
  bool in_range = true;
  Network network = exact_network(Gaussian{0.5, 1.5}, schedule);
  Observer watch = [&](const Tensor&, const Tensor& x0, int64_t, int64_t) {
    for (double value : x0.to_vector()) in_range = in_range && std::abs(value) <= 1;
  };
  Tensor end = run_sampler(schedule, clipped, network, x, Generator{}, watch);
  CHECK(in_range);
  for (double value : end.to_vector()) CHECK(std::abs(value) <= 1);   // the last step returns x0
  CHECK(test::difference(end, run_sampler(schedule, ddim(10), network, x, Generator{}), 1e-3, 0) != "");
}

TEST_CASE("f32 states give the f64 samples to f32 rounding", "[samplers]") {
  Schedule schedule = Schedule::linear();
  Tensor x = normal({256}, DType::f32, Generator{24});
  // a step multiplies what came before by a'/a, 157 in all; 1e-4 is 157 roundings of values of order 5
  Tensor wide = run_sampler(schedule, ddim(50), exact_network(kData, schedule), x.to(DType::f64), Generator{});
  Tensor narrow = run_sampler(schedule, ddim(50), exact_network(kData, schedule), x, Generator{});
  CHECK(narrow.dtype() == DType::f32);
  CHECK_CLOSE(narrow, wide.to(DType::f32), 1e-4, 0);
}

// ---- Stochastic runs -----------------------------------------------------------------------------------------------

struct Moments { double mean, std; };

// On Gaussian data the exact predictions are affine in x, so each planned step is x' = k x + d + noise z and the final
// mean and spread of N(0, 1) starts are exact numbers.
Moments final_moments(const Schedule& schedule, const SamplerOptions& options) {
  double mean = 0, variance = 1, s2 = kData.std * kData.std;
  for (const StepPlan& move : plan_sampler(schedule, options)) {
    Level level = move.from;
    double a = level.a(), sigma = level.sigma(), v = level.abar * s2 + level.variance;
    double k = keep(move) + from_x0(move) * a * s2 / v + from_eps(move) * sigma / v;
    double d = (from_x0(move) * level.variance - from_eps(move) * sigma * a) * kData.mean / v;
    mean = k * mean + d;
    variance = k * k * variance + noise(move) * noise(move);
  }
  return {mean, std::sqrt(variance)};
}

TEST_CASE("the final spread on Gaussian data is the tabulated one for every variance", "[samplers]") {
  struct Row { int64_t steps; std::array<double, 4> std; };   // small, large, eta 0, eta 0.5
  const Row rows[] = {
      {1000, {0.4961100799, 0.5007515102, 0.4984952830, 0.4979767143}},
      {250, {0.4858376371, 0.5033162823, 0.4942857976, 0.4924805573}},
      {100, {0.4682558755, 0.5084898257, 0.4859805673, 0.4822616768}},
      {50, {0.4441228580, 0.5172291656, 0.4724391130, 0.4666514696}},
      {20, {0.3914644532, 0.5440630793, 0.4337344222, 0.4256797578}},
      {10, {0.3332631135, 0.5890254080, 0.3741284938, 0.3670833576}},
  };
  Schedule schedule = Schedule::linear();
  for (const Row& row : rows) {
    INFO(row.steps << " steps");
    CHECK(apart(final_moments(schedule, ddpm(row.steps, "small")).std, row.std[0], 1e-9) == "");
    CHECK(apart(final_moments(schedule, ddpm(row.steps, "large")).std, row.std[1], 1e-9) == "");
    CHECK(apart(final_moments(schedule, ddim(row.steps, 0)).std, row.std[2], 1e-9) == "");
    CHECK(apart(final_moments(schedule, ddim(row.steps, 0.5)).std, row.std[3], 1e-9) == "");
    CHECK(apart(final_moments(schedule, ddim(row.steps, 1)).std, row.std[0], 1e-9) == "");
  }
}

TEST_CASE("the final means on Gaussian data are the tabulated ones", "[samplers]") {
  Schedule schedule = Schedule::linear();
  CHECK(apart(final_moments(schedule, ddpm(1000, "small")).mean, 0.49999496, 5e-9) == "");
  CHECK(apart(final_moments(schedule, ddim(1000)).mean, 0.49841658, 5e-9) == "");
}

TEST_CASE("drawn samples have the exact moments", "[samplers]") {
  constexpr int64_t kSamples = 100000;
  Schedule schedule = Schedule::linear();
  for (const SamplerOptions& options : {ddpm(10, "small"), ddpm(10, "large"), ddim(20, 0.5)}) {
    Moments exact = final_moments(schedule, options);
    Tensor x = normal({kSamples}, DType::f64, Generator{31});
    Tensor end = run_sampler(schedule, options, exact_network(kData, schedule), x, Generator{32});
    std::vector<double> samples = end.to_vector();
    double mean = 0, square = 0;
    for (double value : samples) mean += value / kSamples;
    for (double value : samples) square += (value - mean) * (value - mean) / kSamples;
    INFO(options.name << " " << options.variance << " eta " << options.eta << ", seeds 31 and 32");
    CHECK(apart(mean, exact.mean, 4 * exact.std / std::sqrt(double(kSamples))) == "");
    CHECK(apart(std::sqrt(square), exact.std, 4 * exact.std / std::sqrt(2.0 * kSamples)) == "");
  }
}

TEST_CASE("ddim with eta 1 draws the samples of ddpm with the small variance", "[samplers]") {
  Schedule schedule = Schedule::linear();
  Tensor x = normal({100}, DType::f64, Generator{33});
  Tensor implicit = run_sampler(schedule, ddim(50, 1), exact_network(kData, schedule), x, Generator{34});
  Tensor ancestral = run_sampler(schedule, ddpm(50, "small"), exact_network(kData, schedule), x, Generator{34});
  CHECK_CLOSE(implicit, ancestral, 1e-12, 0);
}

TEST_CASE("the noise of step k is the fork k of the generator", "[samplers]") {
  // a network that predicts x0 = 0: each state is keep x + noise z
  Schedule schedule = Schedule::linear();
  SamplerOptions options = ddpm(3, "large");
  options.prediction = Prediction::x0;
  std::vector<StepPlan> plan = plan_sampler(schedule, options);
  Tensor x = normal({5, 4}, DType::f64, Generator{35}), before = x;
  run_sampler(schedule, options, [](const Tensor& state, double) { return zeros_like(state); }, x, Generator{36},
              [&](const Tensor& state, const Tensor&, int64_t done, int64_t) {
                const StepPlan& move = plan[done - 1];
                Tensor z = normal({5, 4}, DType::f64, Generator{36}.fork(uint64_t(done - 1)));
                CHECK_CLOSE(state, keep(move) * before + noise(move) * z, 1e-15, 1e-15);
                before = state;
              });
}

TEST_CASE("an image gets the same noise in any batch", "[samplers]") {
  Schedule schedule = Schedule::linear();
  for (DType dtype : {DType::f32, DType::f64})
    for (const Shape& shape : {Shape{6}, Shape{6, 3}, Shape{6, 2, 2, 1}, Shape{6, 3, 3, 1}}) {   // odd and even blocks
      Tensor x = normal(shape, dtype, Generator{38});
      Network network = exact_network(kData, schedule);
      Tensor whole = run_sampler(schedule, ddpm(4, "large"), network, x, Generator{39});
      for (int64_t cut : {1, 2, 5}) {
        INFO(dtype << shape << " cut at " << cut);
        CHECK_SAME(run_sampler(schedule, ddpm(4, "large"), network, x.rows(0, cut), Generator{39}), whole.rows(0, cut));
        CHECK_SAME(run_sampler(schedule, ddpm(4, "large"), network, x.rows(cut, 6), Generator{39}, {}, cut),
                   whole.rows(cut, 6));
      }
      Tensor again = run_sampler(schedule, ddpm(4, "large"), network, x.rows(1, 2), Generator{39});
      CHECK(test::difference(again, whole.rows(1, 2), 1e-3, 0) != "");   // as image 0 it gets other noise
    }
}

TEST_CASE("image noise is standard normal and refuses a negative image number", "[samplers]") {
  Tensor z = image_noise({20000, 3}, DType::f32, Generator{40}, 7);
  double mean = 0, square = 0;
  for (double value : z.to_vector()) mean += value / 60000, square += value * value / 60000;
  CHECK(apart(mean, 0, 4 / std::sqrt(60000.0)) == "");
  CHECK(apart(std::sqrt(square), 1, 4 / std::sqrt(2 * 60000.0)) == "");
  CHECK(caught([] { image_noise({2, 3}, DType::f32, Generator{}, -1); }).kind == Error::Kind::argument);
}

TEST_CASE("a seed repeats its samples and another seed does not", "[samplers]") {
  Schedule schedule = Schedule::linear();
  Tensor x = normal({20}, DType::f32, Generator{37});
  auto run = [&](uint64_t seed) {
    return run_sampler(schedule, ddpm(10, "large"), exact_network(kData, schedule), x, Generator{seed});
  };
  CHECK_SAME(run(1), run(1));
  CHECK(test::difference(run(1), run(2), 1e-3, 0) != "");
}

TEST_CASE("samples have the same bits with 1, 2, 3 and 7 threads", "[samplers]") {
  Schedule schedule = Schedule::linear();
  Mixture data = {{0.3, 0.7}, {std::vector<double>(30, -1.0), std::vector<double>(30, 0.8)}, {0.3, 0.4}};
  Tensor x = normal({1001, 5, 3, 2}, DType::f32, Generator{38});   // 30030 elements: a multiple of no tile
  for (const SamplerOptions& options : {ddpm(5, "large"), ddim(5, 0.7)}) {
    Tensor expected;
    for (int count : {1, 2, 3, 7}) {
      test::Threads threads(count);
      Tensor got = run_sampler(schedule, options, exact_network(data, schedule), x, Generator{39});
      if (!expected.defined()) expected = got;
      INFO(count << " threads");
      CHECK_SAME(got, expected);
    }
  }
}

// ---- The loop ------------------------------------------------------------------------------------------------------

TEST_CASE("the network is called as often, and at the times, that the plan says", "[samplers]") {
  Schedule schedule = Schedule::linear();
  for (const std::string& name : kSingleStep)
    for (int64_t steps : {1, 10, 50}) {
      SamplerOptions options = {.name = name, .steps = steps};
      std::vector<double> planned, called;
      std::vector<StepPlan> plan = plan_sampler(schedule, options);
      for (const StepPlan& move : plan) planned.insert(planned.end(), move.calls.begin(), move.calls.end());
      Network counting = [&](const Tensor& x, double t) {
        called.push_back(t);
        return exact_denoise(kData, x, schedule.level(int64_t(t))).eps;
      };
      run_sampler(schedule, options, counting, number(0.3), Generator{});
      INFO(name << " " << steps << " steps");
      CHECK(called == planned);
      CHECK(network_calls(plan) == steps);
    }
}

TEST_CASE("the observer sees every step and the last state is the result", "[samplers]") {
  Schedule schedule = Schedule::linear();
  std::vector<int64_t> done_list;
  Tensor seen;
  Tensor end = run_sampler(schedule, ddim(7), exact_network(kData, schedule), number(0.3), Generator{},
                           [&](const Tensor& x, const Tensor& x0, int64_t done, int64_t total) {
                             done_list.push_back(done);
                             CHECK(total == 7);
                             CHECK(x0.shape() == x.shape());
                             seen = x;
                           });
  CHECK(done_list == std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7});
  CHECK_SAME(end, seen);
}

TEST_CASE("sampling leaves the given noise as it is and records nothing", "[samplers]") {
  Schedule schedule = Schedule::linear();
  Tensor x = from({0.4, -1}, {2}, DType::f64).requires_grad();
  Tensor weight = from({0.5}, {1}, DType::f64).requires_grad();
  bool recorded = false;
  Network network = [&](const Tensor& state, double) {
    Tensor output = state * weight;
    recorded = recorded || output.needs_grad();
    return output;
  };
  Tensor end = run_sampler(schedule, ddpm(5, "large"), network, x, Generator{});
  CHECK_FALSE(recorded);
  CHECK_FALSE(end.needs_grad());
  CHECK_SAME(x, from({0.4, -1}, {2}, DType::f64));
  CHECK_FALSE(NoGrad::active());
}

TEST_CASE("an empty batch samples to an empty batch", "[samplers]") {
  Schedule schedule = Schedule::linear();
  Tensor none = empty({0, 4, 4, 1});
  Tensor end = run_sampler(schedule, ddpm(3, "large"), exact_network(kData, schedule), none, Generator{});
  CHECK(end.shape() == none.shape());
}

TEST_CASE("a state that stops being finite is an error that names the step", "[samplers]") {
  Schedule schedule = Schedule::linear();
  for (const std::string& name : kSingleStep) {
    SamplerOptions options = {.name = name, .steps = 10};
    auto failure = caught([&] {
      run_sampler(schedule, options, [](const Tensor& x, double t) {
        return affine(x, t == 400 ? std::nan("") : 0.5, 0);
      }, zeros({2, 2}), Generator{});
    });
    CHECK(failure.kind == Error::Kind::numeric);
    CHECK(failure.says(name + " step 6 of 10"));
    CHECK(failure.says("t 400 to 300"));
  }
  CHECK_FALSE(NoGrad::active());   // the error has unwound it
}

TEST_CASE("run_sampler refuses what it cannot run", "[samplers]") {
  Schedule schedule = Schedule::linear();
  Network network = exact_network(kData, schedule);
  CHECK(caught([&] { run_sampler(schedule, ddim(5), network, zeros({2}, DType::bf16), Generator{}); }).says("bf16[2]"));
  CHECK(caught([&] { run_sampler(schedule, ddim(5), {}, zeros({2}), Generator{}); }).kind == Error::Kind::argument);
  auto unknown = caught([&] { run_sampler(schedule, {.name = "euler"}, network, zeros({2}), Generator{}); });
  CHECK(unknown.kind == Error::Kind::usage);
  auto wide = caught([&] {
    run_sampler(schedule, ddim(5), [](const Tensor&, double) { return zeros({2, 2}); }, zeros({2}), Generator{});
  });
  CHECK(wide.kind == Error::Kind::argument);
  CHECK(wide.says("f32[2, 2]"));
}

// ---- Guidance ------------------------------------------------------------------------------------------------------

// A conditional network that tells x, t and the class apart, and counts its calls.
struct Conditional {
  int64_t calls = 0, rows = 0;
  Tensor operator()(const Tensor& x, double t, const Tensor& ids) {
    ++calls;
    rows += x.size(0);
    std::vector<double> values = x.to_vector(), classes = ids.to_vector();
    int64_t D = x.numel() / x.size(0);
    for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(values[i] + 0.01 * t) * (1 + classes[i / D]);
    return from(values, x.shape(), x.dtype());
  }
};

TEST_CASE("guidance 1 is the conditional network and 0 the unconditional one, at one half each", "[guidance]") {
  Tensor x = normal({3, 4}, DType::f64, Generator{41}), ids = from({2, 0, 1}, {3}, DType::i64);
  Tensor null_ids = full({3}, 10, DType::i64);
  Conditional plain, counted;
  auto network = [&](const Tensor& state, double t, const Tensor& classes) { return counted(state, t, classes); };
  CHECK_SAME(guided(network, ids, 10, 1)(x, 5), plain(x, 5, ids));
  CHECK(counted.rows == 3);
  CHECK_SAME(guided(network, ids, 10, 0)(x, 5), plain(x, 5, null_ids));
  CHECK(counted.rows == 6);
}

TEST_CASE("guidance is linear in its weight and asks for both halves in one call", "[guidance]") {
  Tensor x = normal({3, 4}, DType::f64, Generator{42}), ids = from({2, 0, 1}, {3}, DType::i64);
  Conditional plain, counted;
  auto network = [&](const Tensor& state, double t, const Tensor& classes) { return counted(state, t, classes); };
  Tensor with_class = plain(x, 5, ids), without = plain(x, 5, full({3}, 10, DType::i64));
  for (double w : {-0.5, 0.5, 2.0, 7.5}) {
    counted = {};
    CHECK_CLOSE(guided(network, ids, 10, w)(x, 5), without + w * (with_class - without), 1e-13, 0);
    CHECK(counted.calls == 1);
    CHECK(counted.rows == 6);
  }
}

TEST_CASE("sampling under guidance 1 equals sampling the conditional network", "[guidance]") {
  Schedule schedule = Schedule::linear();
  Tensor x = normal({2, 3}, DType::f64, Generator{43}), ids = from({1, 0}, {2}, DType::i64);
  Conditional network;
  Tensor direct = run_sampler(schedule, ddim(5), [&](const Tensor& state, double t) { return network(state, t, ids); },
                              x, Generator{});
  CHECK_SAME(run_sampler(schedule, ddim(5), guided(network, ids, 10, 1), x, Generator{}), direct);
  Tensor stronger = run_sampler(schedule, ddim(5), guided(network, ids, 10, 2), x, Generator{});
  CHECK(test::difference(stronger, direct, 1e-3, 0) != "");
}

TEST_CASE("guidance refuses ids and batches that do not fit", "[guidance]") {
  Conditional network;
  Tensor ids = from({1, 0}, {2}, DType::i64);
  CHECK(caught([&] { guided(network, zeros({2}), 10, 2); }).says("f32[2]"));
  CHECK(caught([&] { guided(network, ids, 10, std::nan("")); }).kind == Error::Kind::usage);
  CHECK(caught([&] { guided({}, ids, 10, 2); }).kind == Error::Kind::argument);
  for (double w : {0.0, 1.0, 2.0})
    CHECK(caught([&] { guided(network, ids, 10, w)(zeros({3, 1}), 0); }).says("f32[3, 1]"));
}

}  // namespace
}  // namespace mote
