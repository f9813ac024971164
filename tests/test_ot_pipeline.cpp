// DPM-OT with exact networks: states of a level from a map, samplers that begin at a level, annealed Langevin dynamics,
// and what comes out at the end: the right law, no points between the modes, and how near it is to the targets.
#include <algorithm>
#include <numeric>
#include <set>

#include "diffusion/metrics/mixture.h"
#include "diffusion/metrics/neighbours.h"
#include "diffusion/ot/pipeline.h"
#include "diffusion/ot/power_cells.h"
#include "diffusion/ot/solver.h"
#include "diffusion/ot/toys.h"
#include "tests/ot_support.h"

namespace mote::ot {  // Source is the measure here, not the sampler's term

using test::apart;
using test::caught;

namespace {

using Numbers = std::vector<double>;

const std::vector<std::string> kFinishes = {"ddpm",     "ddim",     "s-pndm",       "f-pndm", "plms", "ipndm",   "heun",
                                            "dpmpp-2m", "dpmpp-3m", "dpmpp-sde-2m", "unipc",  "deis", "langevin"};

struct Spread {
  double mean = 0, variance = 0;
};
Spread spread(const Tensor& x) {
  Numbers values = x.to_vector();
  Spread s;
  for (double value : values) s.mean += value / double(values.size());
  for (double value : values) s.variance += (value - s.mean) * (value - s.mean) / double(values.size() - 1);
  return s;
}

}  // namespace

// ---- Samplers that begin at a level --------------------------------------------------------------------------------

TEST_CASE("a sampler with a start begins there, whatever the grid, and ends at the clean image", "[ot][paths]") {
  for (const Schedule& schedule : {Schedule::linear(), Schedule::cosine()})
    for (const char* grid : {"", "trailing", "linspace", "lambda-uniform", "karras"})
      for (int64_t start : {13, 300, 999})
        for (const std::string& name : kFinishes) {
          SamplerOptions options = {.name = name, .steps = 7, .grid = grid, .start = start};
          std::vector<StepPlan> plan = plan_sampler(schedule, options);
          INFO(name << " from " << start << " on grid '" << grid << "'");
          CHECK(plan.front().from.t == double(start));
          CHECK(plan.front().from.abar == schedule.abar(start));
          CHECK(plan.back().to.t == -1);
          CHECK(plan.size() == 7);
          for (size_t k = 0; k + 1 < plan.size(); ++k) CHECK(plan[k].to.t == plan[k + 1].from.t);
          for (const StepPlan& step : plan) CHECK(step.from.abar < step.to.abar);
        }
  CHECK(plan_sampler(Schedule::linear(), {.steps = 1, .start = 0}).size() == 1);
}

TEST_CASE("a start that a sampler cannot begin at is refused", "[ot][paths]") {
  Schedule schedule = Schedule::linear();
  auto refusal = [&](const SamplerOptions& options) { return caught([&] { plan_sampler(schedule, options); }); };
  CHECK(refusal({.steps = 5, .start = 1000}).says("start at level 1000, needs 0 to T - 1 = 999"));
  CHECK(refusal({.steps = 5, .start = -2}).says("start at level -2"));
  CHECK(refusal({.steps = 5, .start = 3}).says("5 sampling steps asked for, needs 1 to start + 1 = 4"));
  CHECK(refusal({.steps = 5, .grid = "uniform", .start = 300}).says("does not begin at the start"));
  CHECK(refusal({.steps = 5, .grid = "quadratic", .start = 300}).says("needs trailing"));
  CHECK(refusal({.steps = 5, .convention = "diffusers", .start = 300}).says("belongs to convention ours"));
  CHECK(refusal({.name = "fon", .steps = 5, .grid = "karras", .start = 300}).says("the flow begins at s = 1"));
  CHECK(refusal({.steps = 5, .start = 1000}).kind == Error::Kind::usage);
  CHECK(refusal({.name = "langevin", .steps = 5, .rate = 0}).says("0 < rate <= 1"));
  CHECK(refusal({.name = "langevin", .steps = 5, .rate = 1.5}).says("0 < rate <= 1"));
}

TEST_CASE("as many network calls are made as were asked for, or none can be", "[ot][paths]") {
  Schedule schedule = Schedule::cosine();
  struct Row {
    const char* name;
    int64_t calls, steps;
  };
  for (Row row : {Row{"ddim", 10, 10},
                  {"dpmpp-2m", 5, 5},
                  {"s-pndm", 10, 9},
                  {"f-pndm", 20, 11},
                  {"f-pndm", 13, 4},
                  {"heun", 9, 5},
                  {"langevin", 11, 10},
                  {"unipc", 5, 5},
                  {"ddim", 1, 1}}) {
    SamplerOptions options = with_network_calls(schedule, {.name = row.name, .start = 400}, row.calls);
    INFO(row.name << " with " << row.calls << " calls");
    CHECK(options.steps == row.steps);
    CHECK(network_calls(plan_sampler(schedule, options)) == row.calls);
  }
  auto refusal = [&](const char* name, int64_t calls, int64_t start) {
    return caught([&] { with_network_calls(schedule, {.name = name, .start = start}, calls); });
  };
  CHECK(refusal("heun", 10, 400).says("no number of steps calls the network exactly 10 times from level 400"));
  CHECK(refusal("f-pndm", 5, 400).kind == Error::Kind::usage);
  CHECK(refusal("ddim", 20, 10).kind == Error::Kind::usage);  // there are 11 levels
  CHECK(refusal("ddim", 0, 10).kind == Error::Kind::usage);
  CHECK(refusal("pf-rk45", 20, -1).says("depend on the state"));
}

namespace {

/// Standard deviation at the end of a Langevin chain from the law of its first level, by the recursion of the variance.
double langevin_std(const Schedule& schedule, const SamplerOptions& options, const Gaussian& data) {
  double variance = 0, s2 = data.std * data.std;
  for (const StepPlan& step : plan_sampler(schedule, options)) {
    const Level &from = step.from, &to = step.to;
    double law = from.abar * s2 + from.variance, c = options.rate * from.variance / law;
    if (variance == 0) variance = law;
    variance = (1 - c) * (1 - c) * variance + 2 * options.rate * from.variance;
    variance *= to.t < 0 ? std::pow(from.a() * s2 / law, 2) : to.abar / from.abar;  // the image seen in the state
  }
  return std::sqrt(variance);
}

}  // namespace

TEST_CASE("from a state of its level every sampler carries Gaussian data to their law", "[ot][samplers]") {
  constexpr int64_t kPoints = 20000;
  Gaussian data{0.3, 0.4};
  Schedule schedule = Schedule::cosine();
  Level level = schedule.level(400);
  Tensor clean = affine(normal({kPoints, 1}, DType::f64, Generator{1}), data.std, data.mean), x = empty_like(clean);
  kernel::combine(x, {{level.a(), clean}, {level.sigma(), normal({kPoints, 1}, DType::f64, Generator{2})}});
  for (const std::string& name : kFinishes) {
    SamplerOptions options = {.name = name, .steps = 60, .clip = false, .start = 400};
    Tensor end = run_sampler(schedule, options, exact_network(data, schedule), x, Generator{3});
    Spread s = spread(end);
    INFO(name);
    CHECK(apart(s.mean, data.mean, 5 * data.std / std::sqrt(double(kPoints))) == "");
    double tolerance = name == "ddpm" ? 0.06 : 0.02;  // its large variance is too large by a little
    double std = name == "langevin" ? langevin_std(schedule, options, data) : data.std;
    CHECK(apart(std::sqrt(s.variance), std, tolerance * data.std) == "");
    if (name == "ddim" || name == "heun") {
      double worst = 0;
      Numbers got = end.to_vector(), exact = exact_flow(data, x, level, {}).to_vector();
      for (size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - exact[i]));
      CHECK(worst < (name == "heun" ? 2e-3 : 3e-2));
    }
  }
}

TEST_CASE("a Langevin step keeps the law of its level but for the known excess", "[ot][samplers]") {
  // On Gaussian data a step is y' = (1 - c) y + sqrt(2 rate) sigma z with c = rate sigma^2 / v: the variance of the law
  // that it keeps is 2 rate sigma^2 / (1 - (1 - c)^2) = v / (1 - c / 2).
  const auto kPoints = int64_t(100000 * test::kFewer);
  Schedule schedule = Schedule::cosine();
  Level level = schedule.level(300);
  Gaussian data{0, 0.2};
  double v = level.abar * 0.04 + level.variance;
  for (double rate : {0.05, 0.5}) {
    Path path{.nodes = std::vector<Level>(40, level), .halfway = {}, .curve = {}};
    path.nodes.push_back({.t = -1, .abar = level.abar, .variance = level.variance});  // the end keeps the noise
    SamplerOptions options = {.name = "langevin", .prediction = Prediction::eps, .clip = false, .rate = rate};
    std::vector<StepPlan> plan = plan_sampler(path, options);
    CHECK(network_calls(plan) == 41);
    double c = rate * level.variance / v, variance = v, noise = 2 * rate * level.variance;
    for (int k = 0; k < 40; ++k) variance = (1 - c) * (1 - c) * variance + noise;
    Tensor x = affine(normal({kPoints, 1}, DType::f64, Generator{4}), std::sqrt(v), 0);
    Tensor end = run_sampler(path, options, exact_network(data, schedule), x, Generator{5});
    INFO("rate " << rate);
    // a x0 + sigma eps of the last call is the state it was made at.
    CHECK(apart(spread(end).variance, variance, 5 * variance * std::sqrt(2.0 / double(kPoints))) == "");
    if (rate == 0.5) CHECK(apart(variance, v / (1 - c / 2), 1e-6) == "");
  }
}

// ---- States of a level ---------------------------------------------------------------------------------------------

TEST_CASE("noise is added with the coefficients of the level, and an image's does not depend on the batch", "[ot]") {
  Schedule schedule = Schedule::linear();
  Tensor images = uniform({9, 5, 3, 1}, DType::f32, Generator{1});
  Generator noise{7};
  for (int64_t n : {0, 400, 999}) {
    Level level = schedule.level(n);
    Tensor whole = noised(level, images, noise), eps = image_noise(images.shape(), DType::f32, noise, 0);
    Numbers x = images.to_vector(), e = eps.to_vector(), y;
    for (size_t i = 0; i < x.size(); ++i) y.push_back(level.a() * x[i] + level.sigma() * e[i]);
    CHECK_CLOSE(whole, from(y, images.shape()), 1e-6, 0);
    CHECK_SAME(noised(level, images.rows(4, 9), noise, 4), whole.rows(4, 9));
  }
  CHECK_SAME(stored_states(schedule.level(9), images, 3), stored_states(schedule.level(9), images, 3));
  CHECK(test::difference(stored_states(schedule.level(9), images, 3), stored_states(schedule.level(9), images, 4), 1e-3,
                         0) != "");
  CHECK(caught([&] { noised(schedule.level(0), images.to(DType::f64), noise); }).says("needs f32"));
}

TEST_CASE("a variance exploding level is the preserving one divided by a", "[ot]") {
  for (double u : {0.014, 0.5, 3.0, 50.0}) {
    Level level = level_of_u(u);
    CHECK(apart(level.u(), u, 0, 1e-12) == "");
    CHECK(apart(level.abar + level.variance, 1, 1e-15) == "");
  }
  CHECK(caught([] { level_of_u(0); }).says("needs a positive number"));
}

TEST_CASE("start states are the chosen targets, stored or with fresh noise, the same for any batch", "[ot]") {
  Schedule schedule = Schedule::cosine();
  Level level = schedule.level(250);
  Tensor points = uniform({11, 2, 2, 1}, DType::f32, Generator{1});
  Targets targets = Targets::in_memory(points);
  Tensor heights = zeros({11});
  for (Source::Kind kind : {Source::Kind::gaussian, Source::Kind::cube}) {
    Source source{.kind = kind, .width = 4};
    Start stored = start_states(targets, heights, source, Latents::stored, level, 5, 0, 40);
    CHECK(stored.x.shape() == Shape{40, 2, 2, 1});
    CHECK_SAME(stored.x.view({40, 4}), targets.points(stored.index));
    CHECK_SAME(stored.index, chosen_targets(targets, heights, source, 5, 0, 40));
    Start fresh = start_states(targets, heights, source, Latents::fresh, level, 5, 0, 40);
    CHECK_SAME(fresh.index, stored.index);
    double square = 0;  // of (x - a y) / sigma, which is N(0, 1)
    Numbers x = fresh.x.to_vector(), y = stored.x.to_vector();
    for (size_t i = 0; i < x.size(); ++i) square += std::pow((x[i] - level.a() * y[i]) / level.sigma(), 2);
    CHECK(apart(square / double(x.size()), 1, 5 * std::sqrt(2.0 / double(x.size()))) == "");
    for (Latents latents : {Latents::fresh, Latents::stored}) {
      Start whole = start_states(targets, heights, source, latents, level, 5, 0, 40);
      Start part = start_states(targets, heights, source, latents, level, 5, 17, 9);
      CHECK_SAME(part.x, whole.x.rows(17, 26));
      CHECK_SAME(part.index, whole.index.rows(17, 26));
      for (int threads : {1, 2, 3, 7}) {
        test::Threads set(threads);
        CHECK_SAME(start_states(targets, heights, source, latents, level, 5, 0, 40).x, whole.x);
      }
    }
    CHECK(test::difference(chosen_targets(targets, heights, source, 6, 0, 40), fresh.index, 0, 0) != "");
  }
  CHECK(latents_named("fresh") == Latents::fresh);
  CHECK(std::string(name_of(latents_named("stored"))) == "stored");
  CHECK(caught([] { latents_named("new"); }).kind == Error::Kind::usage);
}

// ---- Sampled heights against exact ones ----------------------------------------------------------------------------

TEST_CASE("a million samples find the exact heights of the unit square", "[ot]") {
  struct Case {
    std::vector<Point> targets;
    Numbers weights;
  };
  const std::vector<Case> cases = {{{{.2, .3}, {.7, .2}, {.5, .8}}, {.2, .3, .5}},
                                   {{{.1, .1}, {.9, .2}, {.5, .5}, {.2, .8}, {.8, .9}}, {.1, .15, .4, .05, .3}}};
  for (const Case& known : cases) {
    size_t N = known.targets.size();
    Numbers flat;
    for (Point y : known.targets) flat.insert(flat.end(), {y.x, y.y});
    Targets targets = Targets::in_memory(from(flat, {int64_t(N), 2}), {.weights = known.weights});
    Source source{.kind = Source::Kind::cube, .width = 2};
    double samples = 1e6 * test::kFewer;
    Solver solver(targets, source, {.chi2 = 1e-9, .max_samples = samples / double(N), .seed = 1});
    SolverResult result = solver.run();
    CHECK(double(result.samples) <= 1.1 * samples);
    // The cube is sqrt(12) (x - 1/2) and a row (y - mean) / scale, so <x, y> + h = scale / sqrt(12) (<z, row> + h_row)
    // + (a constant) + <1/2, y> - <1/2, mean>: heights of the square are those of the rows, scaled, less <1/2, y>.
    Numbers exact = solve_exact(known.targets, known.weights).heights, rows = result.heights.to_vector(), got;
    for (size_t i = 0; i < N; ++i)
      got.push_back(targets.scale() / std::sqrt(12) * rows[i] - (known.targets[i].x + known.targets[i].y) / 2);
    double mean = std::accumulate(got.begin(), got.end(), 0.0) / double(N);
    for (size_t i = 0; i < N; ++i) {
      INFO("height " << i << " of " << N);
      CHECK(apart(got[i] - mean, exact[i], 5e-3 * test::kLooser) == "");
    }
  }
}

// ---- From end to end -----------------------------------------------------------------------------------------------

namespace {

/// A map from the cube to 512 points of a toy, by exact heights: no error of a solver.
struct ToyMap {
  Mixture data;
  Targets targets;
  Tensor heights;
  Source source{.kind = Source::Kind::cube, .width = 2};
};

ToyMap toy_map(const std::string& name) {
  Mixture data = toy_named(name);
  Targets targets = Targets::in_memory(draw_mixture(data, 512, 3));
  Numbers rows = targets.rows(0, 512).to_vector();
  std::vector<Point> points;
  for (size_t i = 0; i < rows.size(); i += 2) points.push_back({rows[i], rows[i + 1]});
  double side = std::sqrt(3.0);
  Numbers heights = solve_exact(points, targets.weights(), rectangle({-side, -side}, {side, side})).heights;
  return {data, targets, from(heights, {512})};
}

/// Targets of the toy, each chosen as often as the others but for chance.
Tensor drawn(const ToyMap& map, const Schedule& schedule, int64_t level, const std::string& finish, int64_t calls,
             int64_t count) {
  SamplerOptions options = with_network_calls(schedule, {.name = finish, .start = level}, calls);
  Start start = start_states(map.targets, map.heights, map.source, Latents::fresh, schedule.level(level), 1, 0, count);
  return run_sampler(schedule, options, exact_network(map.data, schedule), start.x, Generator{2});
}

/// Median distance to the nearest row.
double nearness(const Tensor& x, const Tensor& reference) {
  Numbers squared = metrics::nearest_rows(x, reference).distance;
  std::nth_element(squared.begin(), squared.begin() + int64_t(squared.size() / 2), squared.end());
  return std::sqrt(squared[squared.size() / 2]);
}

}  // namespace

TEST_CASE("DPM-OT leaves no point between eight modes where few-step DDIM leaves many", "[ot]") {
  constexpr int64_t kCount = 1500, kCalls = 5;
  ToyMap map = toy_map("8-gaussians");
  Schedule schedule = Schedule::cosine();
  Tensor noise = image_noise({kCount, 2}, DType::f32, Generator{4}, 0);
  Tensor ddim = run_sampler(schedule, {.steps = kCalls, .grid = "trailing"}, exact_network(map.data, schedule), noise,
                            Generator{2});
  int64_t of_ddim = modes_of(map.data, ddim).mixed;
  CHECK(of_ddim > kCount / 20);
  Numbers mean_targets(8, 0);
  for (int64_t mode : modes_of(map.data, map.targets.points(arange(512))).nearest)
    mean_targets[size_t(mode)] += 1. / 512;
  int64_t before = 0;
  for (int64_t level : {20, 90, 400, 900}) {  // sigma / a of 0.04, 0.15, 0.73, 6.3
    Modes modes = modes_of(map.data, drawn(map, schedule, level, "ddim", kCalls, kCount));
    INFO("level " << level);
    if (level <= 90) {
      CHECK(modes.mixed == 0);
      // The law: modes have the shares of the targets, within five standard deviations of the draw.
      Numbers shares(8, 0);
      for (int64_t mode : modes.nearest) shares[size_t(mode)] += 1. / kCount;
      for (size_t k = 0; k < 8; ++k)
        CHECK(apart(shares[k], mean_targets[k], 5 * std::sqrt(mean_targets[k] / kCount)) == "");
    }
    CHECK(modes.mixed >= before);  // the noisier the level, the more is left to a few steps
    before = modes.mixed;
  }
  CHECK(before > 0);
  for (const char* finish : {"heun", "dpmpp-2m", "langevin", "unipc"}) {
    INFO(finish);
    CHECK(modes_of(map.data, drawn(map, schedule, 90, finish, kCalls, kCount)).mixed <= kCount / 100);
  }

  // A blend of two targets has no home: where two cells of different modes meet it lies between them.
  Planes planes = top_planes(map.targets, map.heights, map.source.samples(0, 0, kCount), 2);
  Tensor weights = softmax_weights(planes, plane_angles(map.targets, planes), M_PI, 0.1);
  CHECK(modes_of(map.data, blend(map.targets, planes, weights)).mixed > 0);
}

TEST_CASE("annealed Langevin dynamics in variance exploding levels ends in the modes of the map", "[ot]") {
  constexpr int64_t kCount = 1000, kLevels = 20;
  ToyMap map = toy_map("8-gaussians");
  Path path;
  for (int64_t k = 0; k < kLevels; ++k)
    path.nodes.push_back(level_of_u(0.06 * std::pow(0.01 / 0.06, double(k) / (kLevels - 1)), double(k)));
  path.nodes.push_back({});
  Network network = [&](const Tensor& x, double t) {
    return exact_denoise(map.data, x, path.nodes[size_t(t)]).eps;
  };
  SamplerOptions options = {.name = "langevin"};
  CHECK(network_calls(plan_sampler(path, options)) == kLevels + 1);
  Start start = start_states(map.targets, map.heights, map.source, Latents::fresh, path.nodes[0], 1, 0, kCount);
  double square = 0;  // of x / a - y, the noise of the exploding process
  Numbers x = start.x.to_vector(), y = map.targets.points(start.index).to_vector();
  for (size_t i = 0; i < x.size(); ++i) square += std::pow(x[i] / path.nodes[0].a() - y[i], 2) / double(x.size());
  CHECK(apart(std::sqrt(square), 0.06, 5 * 0.06 / std::sqrt(2.0 * double(x.size()))) == "");
  Modes modes = modes_of(map.data, run_sampler(path, options, network, start.x, Generator{2}));
  CHECK(modes.mixed <= kCount / 50);
  Modes chosen = modes_of(map.data, map.targets.points(start.index));
  int64_t stayed = 0;
  for (size_t i = 0; i < size_t(kCount); ++i) stayed += modes.nearest[i] == chosen.nearest[i];
  CHECK(stayed == kCount);  // noise of 0.06 does not reach half way to the next mode, 0.31
}

TEST_CASE("within a mode DPM-OT has the spread of the data", "[ot]") {
  constexpr int64_t kCount = 4000;
  ToyMap map = toy_map("8-gaussians");
  Schedule schedule = Schedule::cosine();
  Tensor x = drawn(map, schedule, 90, "dpmpp-2m", 20, kCount);
  Modes modes = modes_of(map.data, x);
  Numbers values = x.to_vector();
  double square = 0;
  for (int64_t i = 0; i < kCount; ++i)
    for (size_t d = 0; d < 2; ++d)
      square += std::pow(values[size_t(2 * i) + d] - map.data.means[size_t(modes.nearest[size_t(i)])][d], 2);
  // 512 targets have the variance 0.03^2 within sqrt(2 / 1024); the sampler's own error is below 5 %.
  CHECK(apart(std::sqrt(square / (2 * kCount)), 0.03, 0.004) == "");
}

TEST_CASE("the nearer the level is to the data, the more the images are copies of targets", "[ot]") {
  constexpr int64_t kCount = 600;
  ToyMap map = toy_map("swiss-roll");
  Schedule schedule = Schedule::cosine();
  Tensor targets = map.targets.points(arange(512));
  Tensor chosen = chosen_targets(map.targets, map.heights, map.source, 1, 0, kCount);
  Tensor copies = map.targets.points(chosen);
  CHECK(nearness(copies, targets) == 0);                                  // the baseline: targets handed out
  double others = nearness(draw_mixture(map.data, kCount, 99), targets);  // what new points of the law are apart
  std::vector<double> apart_by;
  for (int64_t level : {0, 10, 300})
    apart_by.push_back(nearness(drawn(map, schedule, level, "ddim", 1, kCount), targets));
  CHECK(apart_by[0] > 0);
  CHECK(apart_by[0] < 0.7 * others);
  CHECK(std::is_sorted(apart_by.begin(), apart_by.end()));
  double fresh = nearness(drawn(map, schedule, 300, "dpmpp-2m", 20, kCount), targets);  // sigma / a = 0.52
  CHECK(apart(fresh, others, 0.25 * others) == "");                                     // as new as new points are

  const int64_t* first = chosen.data<int64_t>();
  std::set<int64_t> hit(first, first + kCount);
  double expected = 512 * (1 - std::exp(-double(kCount) / 512));  // of equally likely targets
  CHECK(apart(double(hit.size()), expected, 40) == "");
}

TEST_CASE("heights that have converged give every target its share of the samples", "[ot]") {
  ToyMap map = toy_map("25-gaussians");
  constexpr int64_t kCount = 200000;
  Tensor chosen = chosen_targets(map.targets, map.heights, map.source, 7, 0, kCount);
  Numbers counts(512, 0);
  for (int64_t i = 0; i < kCount; ++i) counts[size_t(chosen.data<int64_t>()[i])] += 1;
  double chi2 = 0, worst = 0;
  for (double count : counts) {
    double expected = kCount / 512.0;
    chi2 += (count - expected) * (count - expected) / expected;
    worst = std::max(worst, std::abs(count - expected) / std::sqrt(expected));
  }
  CHECK(std::abs(chi2 - 511) <= 5 * std::sqrt(2 * 511.0));  // chi-square with N - 1 degrees of freedom
  CHECK(worst < 5);
}

// ---- Mode mixture of a classifier ----------------------------------------------------------------------------------

TEST_CASE("an image is mixed where two classes reach tau", "[metrics]") {
  Tensor p = from({0.95, 0.05, 0.0,  //
                   0.5, 0.5, 0.0,    //
                   0.6, 0.3, 0.1,    //
                   0.34, 0.33, 0.33},
                  {4, 3}, DType::f64);
  CHECK(metrics::mode_mixture(p, {0.05, 0.1, 0.3, 0.31, 0.33, 0.4, 0.5}) ==
        Numbers{1, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25});
  CHECK(metrics::mode_mixture(p.to(DType::f32), metrics::mixture_taus()) ==
        metrics::mode_mixture(p, metrics::mixture_taus()));
  auto refusal = [](const Tensor& x, double tau) { return caught([&] { metrics::mode_mixture(x, {tau}); }); };
  CHECK(refusal(p, 0).says("0 < tau <= 0.5"));
  CHECK(refusal(p, 0.6).says("0 < tau <= 0.5"));
  CHECK(refusal(from({1, 2}, {1, 2}), 0.2).says("class 1 has the probability 2"));
  CHECK(refusal(from({0.5, 0.4}, {1, 2}), 0.2).says("row 0 sums to 0.9"));
  CHECK(refusal(from({NAN, 1}, {1, 2}), 0.2).kind == Error::Kind::data);
  CHECK(refusal(from({1}, {1, 1}), 0.2).says("K >= 2"));
  CHECK(refusal(Tensor(), 0.2).kind == Error::Kind::argument);
}

TEST_CASE("toys are what they say", "[ot]") {
  for (const std::string& name : toy_names()) {
    Mixture toy = toy_named(name);
    Tensor points = draw_mixture(toy, 4000, 1);
    CHECK_SAME(draw_mixture(toy, 100, 1), points.rows(0, 100));
    for (double value : points.to_vector()) CHECK(std::abs(value) < 1);
    CHECK(modes_of(toy, points).mixed <= 4);  // beyond 4 sigma: e^-8 = 1 in 3000
    CHECK(modes_of(toy, points, 0.5).mixed > 400);
  }
  CHECK(caught([] { toy_named("9-gaussians"); }).says("8-gaussians, 25-gaussians, swiss-roll"));
  Mixture uneven{{1, 3}, {{-1}, {1}}, {0.1, 0.2}};
  Numbers values = draw_mixture(uneven, 20000, 2).to_vector();
  double right = double(std::count_if(values.begin(), values.end(), [](double x) { return x > 0; })) / 20000;
  CHECK(apart(right, 0.75, 5 * std::sqrt(0.75 * 0.25 / 20000)) == "");
}

}  // namespace mote::ot
