// test_schedule.cpp - tables against printed values, timestep lists against literal ones.
#include "diffusion/schedule.h"

#include "tests/diffusion_support.h"

namespace mote {
namespace {

using test::apart;
using test::caught;

std::vector<int64_t> levels_of(const std::vector<TimeStep>& steps) {
  std::vector<int64_t> levels;
  for (const TimeStep& step : steps) levels.push_back(step.t);
  return levels;
}

std::vector<int64_t> descending(int64_t first, int64_t last, int64_t stride) {
  std::vector<int64_t> list;
  for (int64_t n = first; n >= last; n -= stride) list.push_back(n);
  return list;
}

// ---- Tables --------------------------------------------------------------------------------------------------------

TEST_CASE("the linear schedule has the published abar values", "[schedule]") {
  Schedule schedule = Schedule::linear();
  CHECK(schedule.steps() == 1000);
  CHECK(schedule.name() == "linear");
  CHECK(schedule.beta(0) == 1e-4);
  CHECK(apart(schedule.beta(999), 0.02, 0, 1e-15) == "");
  CHECK(apart(schedule.abar(0), 0.9999, 0, 1e-15) == "");
  CHECK(apart(schedule.abar(499), 0.0785872429, 5e-11) == "");       // as printed: ten digits
  CHECK(apart(schedule.abar(999), 4.0358297654e-5, 5e-16) == "");    // as printed: eleven digits
}

TEST_CASE("the cosine schedule has the published values and caps only its last beta", "[schedule]") {
  Schedule schedule = Schedule::cosine();
  CHECK(apart(schedule.beta(0), 4.1284225e-5, 5e-13) == "");
  CHECK(apart(schedule.beta(998), 0.749999393, 5e-10) == "");
  CHECK(schedule.beta(999) == 0.999);
  CHECK(apart(schedule.abar(499), 0.4938435904, 5e-11) == "");
  CHECK(apart(schedule.abar(998), 2.42876691e-6, 5e-15) == "");
  CHECK(apart(schedule.abar(999), 2.42876691e-9, 5e-18) == "");
  int capped = 0;
  for (int64_t n = 0; n < 1000; ++n) capped += schedule.beta(n) >= 0.999;
  CHECK(capped == 1);
}

TEST_CASE("the cosine abar is the ratio of squared cosines it is defined by", "[schedule]") {
  Schedule schedule = Schedule::cosine();
  auto f = [](long double t) {
    long double c = std::cos((t + 0.008L) / 1.008L * std::acos(-1.0L) / 2);
    return c * c;
  };
  for (int64_t n : {0, 1, 10, 499, 900, 990})   // beyond, f itself is rounded
    CHECK(apart(schedule.abar(n), double(f((n + 1) / 1000.0L) / f(0)), 0, 1e-12) == "");
}

TEST_CASE("the tables agree with a product in long double to the last digits", "[schedule]") {
  for (const Schedule& schedule : {Schedule::linear(), Schedule::cosine(), Schedule::linear(50, 1e-6, 0.3)}) {
    long double abar = 1;
    for (int64_t n = 0; n < schedule.steps(); ++n) {
      abar *= 1 - (long double)schedule.beta(n);
      INFO(schedule.name() << " level " << n);
      REQUIRE(apart(schedule.abar(n), double(abar), 0, 1e-13) == "");         // 1000 roundings of 1e-16
      REQUIRE(apart(schedule.variance(n), double(1 - abar), 0, 1e-13) == "");
      REQUIRE(apart(schedule.a(n) * schedule.a(n) + schedule.sigma(n) * schedule.sigma(n), 1, 1e-13) == "");
    }
  }
}

TEST_CASE("the variance of the first level is its beta, not a rounded difference", "[schedule]") {
  Schedule schedule = Schedule::linear();
  CHECK(schedule.variance(0) == schedule.beta(0));   // 1 - abar(0) would be off by 1e-13 of it
  CHECK(Schedule::linear(10, 1e-14, 0.1).variance(0) == 1e-14);
}

TEST_CASE("level -1 is the clean image", "[schedule]") {
  Schedule schedule = Schedule::linear();
  CHECK(schedule.abar(-1) == 1);
  CHECK(schedule.a(-1) == 1);
  CHECK(schedule.sigma(-1) == 0);
  CHECK(schedule.level(-1).t == -1);
  CHECK(schedule.level(7).t == 7);
}

TEST_CASE("the linear end points are taken as given for every length", "[schedule]") {
  for (int64_t T : {1, 2, 50, 4000}) {
    Schedule schedule = Schedule::linear(T, 0.001, 0.03);
    CHECK(schedule.steps() == T);
    CHECK(schedule.beta(0) == 0.001);
    if (T > 1) CHECK(apart(schedule.beta(T - 1), 0.03, 0, 1e-15) == "");
  }
}

TEST_CASE("the beta of a jump is that of the product of its steps", "[schedule]") {
  for (const Schedule& schedule : {Schedule::linear(), Schedule::cosine()}) {
    for (TimeStep jump : {TimeStep{999, 998}, {999, 900}, {500, 499}, {1, 0}, {0, -1}, {20, -1}}) {
      long double kept = 1;
      for (int64_t n = jump.t; n > jump.t_prev; --n) kept *= 1 - (long double)schedule.beta(n);
      INFO(schedule.name() << " " << jump.t << " to " << jump.t_prev);
      // the roundings of up to 1000 factors; 1 - abar(t) / abar(t_prev) would lose 1e-16 / beta, four digits more
      CHECK(apart(jump_beta(schedule.level(jump.t), schedule.level(jump.t_prev)), double(1 - kept), 0, 1e-12) == "");
    }
  }
}

TEST_CASE("a bad schedule is refused with what would be right", "[schedule]") {
  auto unknown = caught([] { Schedule::named("sigmoid"); });
  CHECK(unknown.kind == Error::Kind::usage);
  CHECK(unknown.says("'sigmoid'"));
  CHECK(unknown.says("linear"));
  CHECK(unknown.says("cosine"));
  CHECK(caught([] { Schedule::linear(0); }).kind == Error::Kind::usage);
  CHECK(caught([] { Schedule::cosine(-3); }).kind == Error::Kind::usage);
  CHECK(caught([] { Schedule::cosine(Schedule::kMaxSteps + 1); }).kind == Error::Kind::usage);
  CHECK(caught([] { Schedule::linear(1000, 0, 0.02); }).kind == Error::Kind::usage);
  CHECK(caught([] { Schedule::linear(1000, 0.02, 1e-4); }).kind == Error::Kind::usage);
  CHECK(caught([] { Schedule::linear(1000, 1e-4, 1); }).kind == Error::Kind::usage);
  CHECK(caught([] { Schedule::linear(1000, std::nan(""), 0.5); }).kind == Error::Kind::usage);
  CHECK(Schedule::named("cosine", 10).name() == "cosine");
  CHECK(Schedule::named("linear", 10).steps() == 10);
  for (const char* name : {"linear:", "linear:1e-4", "linear:1e-4,", "linear:1e-4;0.02", "linear:1e-4,0.02x"}) {
    INFO(name);
    auto malformed = caught([&] { Schedule::named(name); });
    CHECK(malformed.kind == Error::Kind::usage);
    CHECK(malformed.says("linear:0.0001,0.02"));
  }
  CHECK(caught([] { Schedule::named("linear:0.5,0.02"); }).says("0 < b0 <= b1 < 1"));
}

TEST_CASE("a linear schedule can be named with the ends of its betas", "[schedule]") {
  Schedule given = Schedule::named("linear:0.00085,0.012", 500), made = Schedule::linear(500, 0.00085, 0.012);
  CHECK(given.name() == "linear");
  CHECK(given.beta(0) == 0.00085);
  CHECK(apart(given.beta(499), 0.012, 0, 1e-15) == "");
  for (int64_t n = 0; n < 500; ++n) CHECK(given.abar(n) == made.abar(n));
  CHECK(Schedule::named("linear:1e-4,0.02").abar(999) == Schedule::named("linear").abar(999));
}

TEST_CASE("a level outside the schedule is an error", "[schedule]") {
  Schedule schedule = Schedule::linear(10);
  CHECK(caught([&] { schedule.abar(10); }).kind == Error::Kind::argument);
  CHECK(caught([&] { schedule.level(-2); }).kind == Error::Kind::argument);
  CHECK(caught([&] { schedule.beta(-1); }).kind == Error::Kind::argument);
}

// ---- Timesteps -----------------------------------------------------------------------------------------------------

TEST_CASE("the uniform grid is a stride of T / N rounded down, with exactly N steps", "[schedule]") {
  CHECK(levels_of(timesteps(1000, 10)) == std::vector<int64_t>{900, 800, 700, 600, 500, 400, 300, 200, 100, 0});
  CHECK(levels_of(timesteps(1000, 50)) == descending(980, 0, 20));
  CHECK(levels_of(timesteps(1000, 30)) == descending(957, 0, 33));   // range(0, 1000, 33) would have 31 entries
  CHECK(levels_of(timesteps(1000, 1000)) == descending(999, 0, 1));
  CHECK(levels_of(timesteps(1000, 999)) == descending(998, 0, 1));
}

TEST_CASE("the trailing grid starts at the last level", "[schedule]") {
  CHECK(levels_of(timesteps(1000, 10, "trailing")) == descending(999, 99, 100));
  CHECK(levels_of(timesteps(1000, 50, "trailing")) == descending(999, 19, 20));
  CHECK(levels_of(timesteps(1000, 30, "trailing")) ==
        std::vector<int64_t>{999, 966, 932, 899, 866, 832, 799, 766, 732, 699, 666, 632, 599, 566, 532,
                             499, 466, 432, 399, 366, 332, 299, 266, 232, 199, 166, 132, 99,  66,  32});
}

TEST_CASE("the linspace grid holds both ends", "[schedule]") {
  CHECK(levels_of(timesteps(1000, 10, "linspace")) == descending(999, 0, 111));
  CHECK(levels_of(timesteps(1000, 30, "linspace")) ==
        std::vector<int64_t>{999, 965, 930, 896, 861, 827, 792, 758, 723, 689, 655, 620, 586, 551, 517,
                             482, 448, 413, 379, 344, 310, 276, 241, 207, 172, 138, 103, 69,  34,  0});
  CHECK(levels_of(timesteps(1000, 50, "linspace")) ==
        std::vector<int64_t>{999, 979, 958, 938, 917, 897, 877, 856, 836, 816, 795, 775, 754, 734, 714, 693, 673,
                             652, 632, 612, 591, 571, 550, 530, 510, 489, 469, 449, 428, 408, 387, 367, 347, 326,
                             306, 285, 265, 245, 224, 204, 183, 163, 143, 122, 102, 82,  61,  41,  20,  0});
}

TEST_CASE("the quadratic grid is dense at the clean end and starts at 0.8 T", "[schedule]") {
  CHECK(levels_of(timesteps(1000, 10, "quadratic")) ==
        std::vector<int64_t>{800, 632, 483, 355, 246, 158, 88, 39, 9, 0});
  CHECK(levels_of(timesteps(1000, 20, "quadratic")) ==
        std::vector<int64_t>{800, 718, 640, 567, 498, 434, 374, 319, 268, 221,
                             179, 141, 108, 79,  55,  35,  19,  8,   2,   0});
}

TEST_CASE("duplicates of the quadratic grid move up", "[schedule]") {
  // the squares of N = 50 begin 0, 0, 1, 2, 5, 8; those of N = 30 begin 0, 0, 3
  std::vector<int64_t> fifty = levels_of(timesteps(1000, 50, "quadratic"));
  CHECK(std::vector<int64_t>(fifty.end() - 6, fifty.end()) == std::vector<int64_t>{8, 5, 3, 2, 1, 0});
  std::vector<int64_t> thirty = levels_of(timesteps(1000, 30, "quadratic"));
  CHECK(std::vector<int64_t>(thirty.end() - 4, thirty.end()) == std::vector<int64_t>{8, 3, 1, 0});
  CHECK(fifty.front() == 800);
}

TEST_CASE("every grid gives N falling levels and finds each predecessor in the list", "[schedule]") {
  for (const std::string& grid : grid_names())
    for (int64_t T : {1, 2, 5, 37, 100})
      for (int64_t N = 1; N <= T; ++N) {
        INFO(grid << " T = " << T << " N = " << N);
        std::vector<TimeStep> steps = timesteps(T, N, grid);
        REQUIRE(int64_t(steps.size()) == N);
        REQUIRE(steps.front().t <= T - 1);
        REQUIRE(steps.back().t_prev == -1);
        for (int64_t k = 0; k < N; ++k) {
          REQUIRE(steps[k].t > steps[k].t_prev);
          if (k + 1 < N) REQUIRE(steps[k].t_prev == steps[k + 1].t);
        }
      }
}

TEST_CASE("a single step starts at the noisiest level on every grid", "[schedule]") {
  for (const std::string& grid : grid_names()) CHECK(timesteps(1000, 1, grid) == std::vector<TimeStep>{{999, -1}});
}

TEST_CASE("the largest schedule does not overflow the quadratic grid", "[schedule]") {
  std::vector<TimeStep> steps = timesteps(Schedule::kMaxSteps, Schedule::kMaxSteps, "quadratic");
  CHECK(steps.front() == TimeStep{999999, 999998});
  CHECK(timesteps(Schedule::kMaxSteps, 1001, "quadratic").front().t == 800000);
}

TEST_CASE("a bad timestep request is refused with what would be right", "[schedule]") {
  auto unknown = caught([] { timesteps(1000, 10, "karras"); });
  CHECK(unknown.kind == Error::Kind::usage);
  for (const std::string& grid : grid_names()) CHECK(unknown.says(grid));
  auto many = caught([] { timesteps(100, 101); });
  CHECK(many.kind == Error::Kind::usage);
  CHECK(many.says("101"));
  CHECK(many.says("1 to T = 100"));
  CHECK(caught([] { timesteps(100, 0); }).kind == Error::Kind::usage);
  CHECK(caught([] { timesteps(0, 1); }).kind == Error::Kind::usage);
}

}  // namespace
}  // namespace mote
