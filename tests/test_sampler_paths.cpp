// test_sampler_paths.cpp - fractional levels, continuous time, grids and index conventions: which levels samplers visit.
#include "diffusion/samplers/path.h"

#include "diffusion/samplers/sampler.h"
#include "tests/diffusion_support.h"

namespace mote {
namespace {

using test::apart;
using test::caught;

std::vector<double> descending(double first, double last, double stride) {
  std::vector<double> list;
  for (double t = first; t >= last; t -= stride) list.push_back(t);
  return list;
}

/// The network times at the beginning of each step.
std::vector<double> starts(const SamplerOptions& options, const Schedule& schedule = Schedule::linear()) {
  std::vector<double> list;
  for (const StepPlan& step : plan_sampler(schedule, options)) list.push_back(step.from.t);
  return list;
}

std::vector<double> calls(const SamplerOptions& options) {
  std::vector<double> list;
  for (const StepPlan& step : plan_sampler(Schedule::linear(), options))
    list.insert(list.end(), step.calls.begin(), step.calls.end());
  return list;
}

SamplerOptions options_of(const std::string& name, int64_t steps, const std::string& convention,
                          const std::string& grid = "uniform", const std::string& end = "") {
  return {.name = name, .steps = steps, .grid = grid, .convention = convention, .end = end};
}

// ---- Fractional levels ---------------------------------------------------------------------------------------------

TEST_CASE("a fractional level lies between its neighbours, linear in lambda", "[paths]") {
  for (const Schedule& schedule : {Schedule::linear(), Schedule::cosine()})
    for (double t : {0.25, 1.5, 499.75, 962.5, 998.9}) {
      int64_t below = int64_t(t);
      double low = schedule.level(below).lambda(), high = schedule.level(below + 1).lambda();
      Level level = schedule.at(t);
      INFO(schedule.name() << " t = " << t);
      CHECK(level.t == t);
      CHECK(apart(level.lambda(), low + (t - double(below)) * (high - low), 1e-12, 1e-13) == "");
      CHECK(apart(level.abar + level.variance, 1, 1e-15) == "");
    }
}

TEST_CASE("whole levels are read from the table as they are", "[paths]") {
  Schedule schedule = Schedule::linear();
  for (int64_t n : {-1, 0, 1, 500, 999}) {
    CHECK(schedule.at(double(n)).abar == schedule.abar(n));
    CHECK(schedule.at(double(n)).variance == schedule.variance(n));
  }
  for (double t : {-0.5, -2.0, 999.5, std::nan("")})
    CHECK(caught([&] { schedule.at(t); }).kind == Error::Kind::argument);
}

TEST_CASE("the level of a lambda is the inverse of the lambda of a level", "[paths]") {
  for (const Schedule& schedule : {Schedule::linear(), Schedule::cosine(), Schedule::linear(2)})
    for (double t = 0; t <= double(schedule.steps() - 1); t += 0.37) {
      Level level = schedule.at_lambda(schedule.at(t).lambda());
      INFO(schedule.name() << " t = " << t);
      REQUIRE(apart(level.t, t, 1e-9) == "");   // lambda changes by 0.005 a level, and is rounded at 1e-15
      REQUIRE(apart(level.abar, schedule.at(t).abar, 0, 1e-12) == "");
    }
  Schedule schedule = Schedule::linear();
  CHECK(caught([&] { schedule.at_lambda(schedule.level(0).lambda() + 1e-6); }).kind == Error::Kind::argument);
  CHECK(caught([&] { schedule.at_lambda(-6); }).kind == Error::Kind::argument);
}

TEST_CASE("continuous time has the published closed form", "[paths]") {
  VpSchedule vp;
  for (double s : {1e-3, 0.1, 0.5, 1.0}) {
    Level level = vp.at(999 * s);
    double log_a = -s * s * (20 - 0.1) / 4 - s * 0.1 / 2;
    CHECK(apart(level.a(), std::exp(log_a), 0, 1e-14) == "");
    CHECK(apart(level.variance, -std::expm1(2 * log_a), 0, 1e-14) == "");
    CHECK(apart(vp.at_lambda(level.lambda()).t, 999 * s, 0, 1e-12) == "");
    CHECK(apart(vp.rate(999 * s), (0.1 + s * 19.9) / 2 / 999, 0, 1e-14) == "");
  }
}

TEST_CASE("the rate of continuous time is the derivative of ln a", "[paths]") {
  VpSchedule vp;
  for (double t : {5.0, 300.0, 998.0}) {
    double difference = (std::log(vp.at(t + 1e-3).a()) - std::log(vp.at(t - 1e-3).a())) / 2e-3;
    CHECK(apart(vp.rate(t), -difference, 0, 1e-8) == "");   // rounding 1e-16 |ln a| / 1e-3
  }
}

TEST_CASE("the continuous limit of the linear schedule has its betas", "[paths]") {
  VpSchedule limit = VpSchedule::limit_of(Schedule::linear()), vp;
  for (double t : {1.0, 500.0, 999.0}) CHECK(apart(limit.at(t).abar, vp.at(t).abar, 0, 1e-13) == "");
  CHECK(caught([] { VpSchedule::limit_of(Schedule::cosine()); }).says("cosine"));
  CHECK(caught([] { VpSchedule::limit_of(Schedule::linear(1)); }).kind == Error::Kind::usage);
  CHECK(caught([] { VpSchedule(0, 1); }).kind == Error::Kind::usage);
  CHECK(caught([] { VpSchedule().at(0); }).kind == Error::Kind::argument);
  CHECK(caught([] { VpSchedule().at(1000); }).kind == Error::Kind::argument);
  CHECK(caught([] { VpSchedule().at_lambda(-7); }).kind == Error::Kind::argument);
}

// ---- Grids ---------------------------------------------------------------------------------------------------------

TEST_CASE("each grid is even in its own variable and takes half steps in it", "[paths]") {
  using Variable = double (*)(const Level&);
  struct Row { const char* grid; Variable variable; };
  const Row rows[] = {{"lambda-uniform", [](const Level& level) { return level.lambda(); }},
                      {"karras", [](const Level& level) { return std::pow(level.u(), 1 / 7.0); }}};
  VpSchedule vp;
  for (Row row : rows) {
    Path discrete = path_of(Schedule::linear(), Family::exponential, options_of("ddim", 12, "ours", row.grid, "first"));
    for (const Path& path : {discrete, continuous_path(vp, 999, 0.999, 12, row.grid)}) {
      REQUIRE(path.steps() == 12);
      double stride = row.variable(path.nodes[1]) - row.variable(path.nodes[0]);
      for (int64_t k = 0; k < 12; ++k) {
        double from = row.variable(path.nodes[k]), to = row.variable(path.nodes[k + 1]);
        INFO(row.grid << " step " << k);
        CHECK(apart(to - from, stride, 1e-12) == "");
        CHECK(apart(row.variable(path.halfway(path.nodes[k], path.nodes[k + 1])), (from + to) / 2, 1e-12) == "");
      }
    }
    CHECK(discrete.nodes.front().t == 999);
    CHECK(discrete.nodes.back().t == 0);
  }
  Path even = continuous_path(vp, 900, 100, 8, "uniform");
  for (int64_t k = 0; k <= 8; ++k) CHECK(apart(even.nodes[k].t, 900 - 100.0 * double(k), 1e-10) == "");
}

TEST_CASE("lambda grids leave out the levels with hardly any image in them", "[paths]") {
  for (const char* grid : {"lambda-uniform", "karras"}) {
    Level first = path_of(Schedule::cosine(), Family::exponential, options_of("dpmpp-2m", 10, "ours", grid)).nodes[0];
    CHECK(apart(first.lambda(), -5.1, 1e-12) == "");   // level 999 has lambda -9.9
    CHECK(first.t < 998);
  }
}

TEST_CASE("a grid to the clean image has N noisy levels, one to the first level N + 1", "[paths]") {
  for (const std::string& grid : path_grid_names())
    for (int64_t T : {2, 3, 37, 1000})
      for (int64_t N : {1, 2, 10, 30, 36})
        for (const char* end : {"clean", "first"}) {
          bool is_first = end == std::string("first");
          if (N > T - is_first) continue;
          INFO(grid << " T = " << T << " N = " << N << " end " << end);
          auto refused = caught([&] {
            Path path = path_of(Schedule::linear(T), Family::pseudo, options_of("ddim", N, "ours", grid, end));
            REQUIRE(path.steps() == N);
            REQUIRE(path.nodes.back().t == (is_first ? 0 : -1));
            for (int64_t k = 0; k < N; ++k) REQUIRE(path.nodes[k].t > path.nodes[k + 1].t);
          });
          if (refused.kind) {   // trailing levels may already hold level 0
            CHECK(is_first);
            CHECK(refused.says("T / N >= 1.5"));
            CHECK(3 * N > 2 * T);
          }
        }
}

// ---- Lists, literally ----------------------------------------------------------------------------------------------

TEST_CASE("our lists start where the grid does and end at the clean image", "[paths]") {
  CHECK(starts(options_of("f-pndm", 10, "ours")) == descending(900, 0, 100));
  CHECK(starts(options_of("f-pndm", 50, "ours")) == descending(980, 0, 20));
  CHECK(starts(options_of("f-pndm", 30, "ours")) == descending(957, 0, 33));
  CHECK(starts(options_of("dpmpp-2m", 10, "ours", "linspace", "first")) ==
        std::vector<double>{999, 899, 799, 699, 599, 500, 400, 300, 200, 100});
}

TEST_CASE("the authors' list is every r-th level, which may be more than N", "[paths]") {
  CHECK(starts(options_of("f-pndm", 10, "pndm-repo")) == descending(900, 0, 100));
  CHECK(starts(options_of("f-pndm", 50, "pndm-repo")) == descending(980, 0, 20));
  CHECK(starts(options_of("f-pndm", 30, "pndm-repo")) == descending(990, 0, 33));   // 31 steps
}

TEST_CASE("the lists of diffusers are spaced as that library spaces them", "[paths]") {
  for (const char* name : {"ddim", "ddpm", "f-pndm", "plms"}) {
    CHECK(starts(options_of(name, 10, "diffusers")) == descending(900, 0, 100));
    CHECK(starts(options_of(name, 50, "diffusers")) == descending(980, 0, 20));
    CHECK(starts(options_of(name, 30, "diffusers")) == descending(957, 0, 33));
    CHECK(starts(options_of(name, 10, "diffusers", "trailing")) == descending(999, 99, 100));
    CHECK(starts(options_of(name, 10, "diffusers", "linspace")) == descending(999, 0, 111));
  }
  for (const char* name : {"dpmpp-2m", "dpmpp-3m", "unipc", "deis"}) {
    CHECK(starts(options_of(name, 10, "diffusers")) == descending(900, 90, 90));
    CHECK(starts(options_of(name, 30, "diffusers")) == descending(960, 32, 32));
    CHECK(starts(options_of(name, 50, "diffusers")) == descending(950, 19, 19));
    CHECK(starts(options_of(name, 10, "diffusers", "linspace")) ==
          std::vector<double>{999, 899, 799, 699, 599, 500, 400, 300, 200, 100});
    CHECK(starts(options_of(name, 10, "diffusers", "trailing")) == descending(999, 99, 100));
  }
}

TEST_CASE("the network times of f-pndm are three Runge-Kutta steps, then every level", "[paths]") {
  SamplerOptions shifted = options_of("f-pndm", 10, "diffusers");
  shifted.offset = 1;
  CHECK(calls(shifted) == std::vector<double>{901, 851, 851, 801, 801, 751, 751, 701, 701, 651,
                                              651, 601, 601, 501, 401, 301, 201, 101, 1});
  CHECK(calls(options_of("f-pndm", 10, "ours")) == std::vector<double>{900, 850, 850, 800, 800, 750, 750, 700, 700, 650,
                                                                       650, 600, 600, 500, 400, 300, 200, 100, 0});
  // r = 33: our half steps are fractional, those of diffusers t - 16
  std::vector<double> ours = calls(options_of("f-pndm", 30, "ours"));
  std::vector<double> theirs = calls(options_of("f-pndm", 30, "diffusers"));
  CHECK(std::vector<double>(ours.begin(), ours.begin() + 5) == std::vector<double>{957, 940.5, 940.5, 924, 924});
  CHECK(std::vector<double>(theirs.begin(), theirs.begin() + 5) == std::vector<double>{957, 941, 941, 924, 924});
}

TEST_CASE("plms and s-pndm call the network at their second level twice", "[paths]") {
  for (const char* name : {"plms", "s-pndm"})
    CHECK(calls(options_of(name, 10, "ours")) ==
          std::vector<double>{900, 800, 800, 700, 600, 500, 400, 300, 200, 100, 0});
}

// ---- Which abar ----------------------------------------------------------------------------------------------------

TEST_CASE("the conventions differ in the abar of a network time and in the end", "[paths]") {
  Schedule schedule = Schedule::linear();
  Path ours = path_of(schedule, Family::pseudo, options_of("f-pndm", 30, "ours"));
  Path repo = path_of(schedule, Family::pseudo, options_of("f-pndm", 30, "pndm-repo"));
  Path theirs = path_of(schedule, Family::pseudo, options_of("f-pndm", 30, "diffusers"));
  for (int64_t k = 0; k < 30; ++k) {
    CHECK(ours.nodes[k].abar == schedule.abar(int64_t(ours.nodes[k].t)));
    CHECK(theirs.nodes[k].abar == schedule.abar(int64_t(theirs.nodes[k].t)));
    CHECK(repo.nodes[k].abar == schedule.abar(int64_t(repo.nodes[k].t) + 1));
  }
  CHECK(ours.nodes.back().abar == 1);
  CHECK(repo.nodes.back().abar == schedule.abar(0));
  CHECK(theirs.nodes.back().abar == schedule.abar(0));
  Level half = repo.halfway(repo.nodes[0], repo.nodes[1]);   // of 990 and 957
  CHECK(half.t == 973.5);
  CHECK(half.abar == schedule.abar(974));
  for (const char* name : {"ddim", "dpmpp-2m", "ddpm", "heun"})
    CHECK(plan_sampler(schedule, options_of(name, 10, "diffusers")).back().to.abar == 1);
  for (const char* convention : {"ours", "pndm-repo", "diffusers"}) {
    CHECK(plan_sampler(schedule, options_of("ddim", 10, convention, "uniform", "clean")).back().to.abar == 1);
    CHECK(plan_sampler(schedule, options_of("ddim", 10, convention, "uniform", "first")).back().to.abar ==
          schedule.abar(0));
  }
}

TEST_CASE("the last step of the default pndm of diffusers changes nothing", "[paths]") {
  StepPlan last = plan_sampler(Schedule::linear(), options_of("f-pndm", 10, "diffusers")).back();
  REQUIRE(last.stages.size() == 1);
  REQUIRE(last.stages[0].terms.size() == 1);
  CHECK(last.stages[0].terms[0].source == Source::state);
  CHECK(last.stages[0].terms[0].factor == 1);
}

// ---- Refusals ------------------------------------------------------------------------------------------------------

TEST_CASE("every sampler takes each N from its fewest steps to T and no other", "[paths]") {
  Schedule schedule = Schedule::linear(40);
  for (const std::string& name : sampler_names()) {
    if (name == "pf-rk45") continue;   // has no N
    int64_t fewest = name == "f-pndm" ? 4 : name == "s-pndm" || name == "plms" ? 2 : 1;
    for (int64_t N = -1; N <= 42; ++N) {
      INFO(name << " N = " << N);
      int64_t planned = -1;
      auto refused = caught([&] { planned = int64_t(plan_sampler(schedule, options_of(name, N, "ours", "")).size()); });
      bool is_legal = N >= fewest && N <= 40;
      REQUIRE(refused.kind.has_value() == !is_legal);
      if (is_legal) {
        CHECK(planned == N);
        continue;
      }
      CHECK(refused.kind == Error::Kind::usage);
      CHECK(refused.says(concat_text("needs ", fewest, " to T = 40")));
    }
  }
}

TEST_CASE("steps that would read outside the table are refused with a number that does not", "[paths]") {
  Schedule schedule = Schedule::linear();
  auto refusal = [&](SamplerOptions options, int64_t offset = 0) {
    options.offset = offset;
    return caught([&] { plan_sampler(schedule, options); });
  };
  for (int64_t N : {1000, 501, 300, 27, 37, 999}) {   // T - 1 = 999 is a multiple of T / N
    bool is_legal = 999 % (1000 / N) != 0;
    INFO("N = " << N);
    CHECK(refusal(options_of("f-pndm", N, "pndm-repo")).kind.has_value() == !is_legal);
  }
  CHECK(refusal(options_of("f-pndm", 1000, "pndm-repo")).says("such as 500"));
  CHECK(!refusal(options_of("f-pndm", 500, "pndm-repo")).kind);
  CHECK(refusal(options_of("plms", 1000, "diffusers"), 1).says("reach level 1000"));
  CHECK(refusal(options_of("plms", 1000, "diffusers"), 1).says("such as 999"));
  CHECK(!refusal(options_of("plms", 999, "diffusers"), 1).kind);
  CHECK(refusal(options_of("f-pndm", 501, "diffusers")).says("T / 2 = 500"));
  CHECK(!refusal(options_of("f-pndm", 500, "diffusers")).kind);
  CHECK(refusal(options_of("unipc", 1000, "diffusers")).says("T - 1 = 999"));
  CHECK(refusal(options_of("ddim", 1000, "ours", "uniform", "first")).says("T - 1 = 999"));
}

TEST_CASE("unknown names and combinations without a meaning are refused", "[paths]") {
  auto refusal = [&](const SamplerOptions& options, const Schedule& schedule = Schedule::linear()) {
    auto error = caught([&] { plan_sampler(schedule, options); });
    CHECK(error.kind == Error::Kind::usage);
    return error;
  };
  for (const std::string& name : convention_names()) CHECK(refusal(options_of("ddim", 10, "theirs")).says(name));
  for (const std::string& name : path_grid_names()) CHECK(refusal(options_of("ddim", 10, "ours", "log")).says(name));
  CHECK(refusal(options_of("ddim", 10, "ours", "uniform", "middle")).says("clean, first"));
  CHECK(refusal(options_of("unipc", 10, "pndm-repo")).says("f-pndm"));
  CHECK(refusal(options_of("ddim", 10, "pndm-repo", "quadratic")).says("needs uniform"));
  CHECK(refusal(options_of("ddim", 10, "diffusers", "karras")).says("needs uniform, linspace or trailing"));
  CHECK(refusal(options_of("fon", 10, "diffusers")).says("needs convention ours"));
  CHECK(refusal(options_of("fon", 10, "ours", "trailing")).says("whole levels"));
  CHECK(refusal(options_of("pf-euler", 10, "ours", "uniform", "clean")).says("0.001"));
  CHECK(refusal(options_of("pf-rk45", 10, "ours"), Schedule::cosine()).says("cosine"));
  SamplerOptions v = options_of("ddim", 10, "pndm-repo");
  v.prediction = Prediction::v;
  CHECK(refusal(v).says("predict eps"));
  SamplerOptions shifted = options_of("ddim", 10, "ours");
  shifted.offset = 1;
  CHECK(refusal(shifted).says("offset = 1"));
  shifted = options_of("ddim", 10, "diffusers");
  shifted.offset = -1;
  CHECK(refusal(shifted).says("needs 0 to T - 1 = 999"));
  shifted.offset = 1000;
  CHECK(refusal(shifted).says("needs 0 to T - 1 = 999"));
  CHECK(refusal(options_of("dpmpp-3m", 1000, "diffusers", "trailing", "first")).says("level 0 to level 0"));
}

TEST_CASE("resolving options fills in what was left open, once", "[paths]") {
  for (const std::string& name : sampler_names()) {
    SamplerOptions full = resolved({.name = name}), again = resolved(full);
    INFO(name);
    CHECK(full.grid == (name == "heun" ? "karras" : "uniform"));
    CHECK(full.order == (name == "unipc" ? 2 : name == "deis" ? 3 : 0));
    CHECK(again.grid == full.grid);
    CHECK(again.order == full.order);
  }
  CHECK(resolved({.name = "heun", .convention = "diffusers"}).grid == "uniform");
  CHECK(resolved({.name = "heun", .start = 300}).grid == "karras");
  CHECK(resolved({.name = "ddim", .start = 300}).grid == "trailing");   // uniform does not begin at the start
}

TEST_CASE("an option that a sampler does not take is refused, naming those that do", "[paths]") {
  Schedule schedule = Schedule::linear();
  struct Row { const char* what; SamplerOptions with; std::vector<std::string> takers; };
  const Row rows[] = {
      {"eta", {.eta = 0.5}, {"ddim"}},
      {"variance", {.variance = "small"}, {"ddpm"}},
      {"order", {.order = 1}, {"unipc", "deis"}},
      {"solver", {.solver = "bh1"}, {"unipc"}},
      {"basis", {.basis = "log-u"}, {"deis"}},
      {"third", {.third = 1}, {"dpmpp-3m"}},
      {"lower_order_end", {.lower_order_end = false}, {"dpmpp-2m", "dpmpp-3m", "dpmpp-sde-2m", "unipc", "deis"}},
      {"tolerance", {.tolerance = 1e-3}, {"pf-rk45"}},
      {"rate", {.rate = 0.3}, {"langevin"}},
  };
  for (const Row& row : rows)
    for (const std::string& name : sampler_names()) {
      SamplerOptions options = row.with;
      options.name = name;
      bool is_taken = std::find(row.takers.begin(), row.takers.end(), name) != row.takers.end();
      INFO(name << " with " << row.what);
      auto refused = caught([&] { plan_sampler(schedule, options); });
      REQUIRE(refused.kind.has_value() == !is_taken);
      if (is_taken) continue;
      CHECK(refused.kind == Error::Kind::usage);
      CHECK(refused.says(row.what));
      for (const std::string& taker : row.takers) CHECK(refused.says(taker));
    }
  auto refusal = [&](const SamplerOptions& options) { return caught([&] { plan_sampler(schedule, options); }); };
  CHECK(refusal({.name = "unipc", .order = 4}).says("needs 1 to 3"));
  CHECK(refusal({.name = "deis", .order = 5}).says("needs 1 to 4"));
  CHECK(refusal({.name = "unipc", .solver = "bh3"}).says("bh1 or bh2"));
  CHECK(refusal({.name = "deis", .basis = "t"}).says("u or log-u"));
  CHECK(refusal({.name = "dpmpp-3m", .third = 3}).kind == Error::Kind::usage);
  for (double tolerance : {0.0, -1.0, 2.0, std::nan("")})
    CHECK(refusal({.name = "pf-rk45", .tolerance = tolerance}).says("0 < tolerance <= 1"));
}

}  // namespace
}  // namespace mote
