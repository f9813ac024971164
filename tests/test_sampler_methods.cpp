// test_sampler_methods.cpp - what every sampler must do on a discrete schedule: call counts, exactness, goldens.
#include <algorithm>
#include <array>

#include "diffusion/analytic.h"
#include "diffusion/samplers/method.h"
#include "tests/diffusion_support.h"

namespace mote {
namespace {

using test::apart;
using test::caught;

const Gaussian kData{0.5, 0.5};

Tensor number(double value) { return full({1}, value, DType::f64); }

/// Every sampler once, and those with several forms in all of them; without clipping.
std::vector<SamplerOptions> all_forms(int64_t steps) {
  std::vector<SamplerOptions> forms;
  for (const std::string& name : sampler_names()) forms.push_back({.name = name, .steps = steps, .clip = false});
  forms.push_back({.name = "ddpm", .steps = steps, .variance = "small", .clip = false});
  forms.push_back({.name = "ddim", .steps = steps, .eta = 0.5, .clip = false});
  forms.push_back({.name = "dpmpp-3m", .steps = steps, .clip = false, .third = 1});
  for (int64_t order : {1, 3})
    for (const char* solver : {"bh1", "bh2"})
      forms.push_back({.name = "unipc", .steps = steps, .clip = false, .order = order, .solver = solver});
  for (int64_t order : {1, 2, 4}) forms.push_back({.name = "deis", .steps = steps, .clip = false, .order = order});
  forms.push_back({.name = "deis", .steps = steps, .clip = false, .basis = "log-u"});
  return forms;
}

bool is_flow(const std::string& name) { return name == "fon" || name == "pf-euler" || name == "pf-rk45"; }
bool is_stochastic(const SamplerOptions& options) {
  return options.name == "ddpm" || options.eta > 0 || options.name == "dpmpp-sde-2m" || options.name == "langevin";
}

std::string told(const SamplerOptions& o) {
  return concat_text(o.name, " N ", o.steps, " grid ", o.grid, " order ", o.order, " ", o.solver, " ", o.basis, " third ",
                     o.third, " eta ", o.eta, " ", o.variance, " convention ", o.convention, " end ", o.end);
}

/// The exact network where the sampler calls it: continuous time for the flow, the table for the others.
template <class Data>
Network network_for(const SamplerOptions& options, const Data& data, const Schedule& schedule,
                    Prediction prediction = Prediction::eps) {
  if (is_flow(options.name)) return exact_network(data, VpSchedule::limit_of(schedule), prediction);
  return exact_network(data, schedule, prediction);
}

// ---- The transfer phi ----------------------------------------------------------------------------------------------

TEST_CASE("phi is a' x0 + sigma' eps, for levels of every distance", "[samplers]") {
  for (const Schedule& schedule : {Schedule::linear(), Schedule::cosine()})
    for (int64_t from : {1, 7, 500, 900, 998})
      for (int64_t to : {int64_t(-1), int64_t(0), from / 2, from - 1}) {
        Level x = schedule.level(from), y = schedule.level(to);
        Terms terms = phi(x, y, {{Weighted{1, 0}}});
        // a' (x - sigma e) / a + sigma' e, in long double: the difference sigma' - a' sigma / a cancels
        long double a = std::sqrt((long double)x.abar), sigma = std::sqrt((long double)x.variance);
        long double a_to = std::sqrt((long double)y.abar), sigma_to = std::sqrt((long double)y.variance);
        INFO(schedule.name() << " from " << from << " to " << to);
        CHECK(terms[0].source == Source::state);
        CHECK(apart(terms[0].factor, double(a_to / a), 0, 1e-12) == "");
        CHECK(terms[1].source == Source::eps);
        CHECK(apart(terms[1].factor, double(sigma_to - a_to * sigma / a), 1e-12, 1e-12) == "");
      }
}

TEST_CASE("phi carries a noisy image along its own noise exactly", "[samplers]") {
  Schedule schedule = Schedule::linear();
  double x0 = 0.37, eps = -1.21;
  for (int64_t from : {999, 500, 20})
    for (int64_t to : {int64_t(-1), int64_t(3), from - 1}) {
      Level x = schedule.level(from), y = schedule.level(to);
      Terms terms = phi(x, y, {{Weighted{1, 0}}});
      double got = terms[0].factor * (x.a() * x0 + x.sigma() * eps) + terms[1].factor * eps;
      CHECK(apart(got, y.a() * x0 + y.sigma() * eps, 1e-12) == "");                       // [Liu 2022, prop. 3.1]
    }
}

// ---- Network calls -------------------------------------------------------------------------------------------------

TEST_CASE("each sampler calls the network as often as published, at the times that its plan says", "[samplers]") {
  Schedule schedule = Schedule::linear();
  auto published = [](const std::string& name, int64_t N) {
    if (name == "s-pndm" || name == "plms" || name == "langevin") return N + 1;
    if (name == "f-pndm" || name == "fon") return N + 9;
    if (name == "heun") return 2 * N - 1;
    return N;
  };
  for (int64_t steps : {4, 10, 50})
    for (const SamplerOptions& options : all_forms(steps)) {
      if (options.name == "pf-rk45") continue;
      std::vector<double> planned, called;
      std::vector<StepPlan> plan = plan_sampler(schedule, options);
      for (const StepPlan& step : plan) planned.insert(planned.end(), step.calls.begin(), step.calls.end());
      Network network = network_for(options, kData, schedule);
      run_sampler(schedule, options, [&](const Tensor& x, double t) {
        called.push_back(t);
        return network(x, t);
      }, number(0.3), Generator{});
      INFO(told(options));
      CHECK(called == planned);
      CHECK(network_calls(plan) == int64_t(called.size()));
      CHECK(int64_t(called.size()) == published(options.name, steps));
    }
}

TEST_CASE("the smallest legal number of steps samples too", "[samplers]") {
  Schedule schedule = Schedule::linear();
  for (SamplerOptions options : all_forms(1)) {
    if (options.name == "f-pndm") options.steps = 4;
    if (options.name == "s-pndm" || options.name == "plms") options.steps = 2;
    for (const std::string& grid : path_grid_names()) {
      if (is_flow(options.name) && grid != "uniform" && grid != "lambda-uniform" && grid != "karras") continue;
      options.grid = grid;
      INFO(told(options));
      Network network = network_for(options, kData, schedule);
      double end = run_sampler(schedule, options, network, number(0.3), Generator{}).item();
      CHECK(std::isfinite(end));
      // from pure noise one look at the data gives hardly more than its mean; fewer than four classical steps do not
      if (!is_flow(options.name) && options.steps == 1) CHECK(apart(end, 0.5, 0.01) == "");
    }
  }
}

// ---- What a plan says ----------------------------------------------------------------------------------------------

/// The calls whose eps the last update of a step reads.
std::vector<int64_t> eps_calls(const StepPlan& step) {
  std::vector<int64_t> calls;
  for (const PlanTerm& term : step.stages.back().terms)
    if (term.source == Source::eps) calls.push_back(term.call);
  return calls;
}

TEST_CASE("the history of the pseudo methods holds one eps a step, never that of a stage", "[samplers]") {
  auto plan = [](const char* name) { return plan_sampler(Schedule::linear(), {.name = name, .steps = 10}); };
  std::vector<StepPlan> s_pndm = plan("s-pndm");
  CHECK(eps_calls(s_pndm[0]) == std::vector<int64_t>{0, 1});
  CHECK(eps_calls(s_pndm[1]) == std::vector<int64_t>{2, 0});
  CHECK(eps_calls(s_pndm[2]) == std::vector<int64_t>{3, 2});
  std::vector<StepPlan> f_pndm = plan("f-pndm");
  CHECK(eps_calls(f_pndm[2]) == std::vector<int64_t>{8, 9, 10, 11});
  CHECK(eps_calls(f_pndm[3]) == std::vector<int64_t>{12, 8, 4, 0});
  CHECK(eps_calls(f_pndm[5]) == std::vector<int64_t>{14, 13, 12, 8});
  std::vector<StepPlan> plms = plan("plms");
  CHECK(eps_calls(plms[1]) == std::vector<int64_t>{2, 0});
  CHECK(eps_calls(plms[2]) == std::vector<int64_t>{3, 2, 0});
  CHECK(eps_calls(plms[4]) == std::vector<int64_t>{5, 4, 3, 2});
  std::vector<StepPlan> ipndm = plan("ipndm");
  CHECK(eps_calls(ipndm[0]) == std::vector<int64_t>{0});
  CHECK(eps_calls(ipndm[2]) == std::vector<int64_t>{2, 1, 0});
  CHECK(eps_calls(ipndm[9]) == std::vector<int64_t>{9, 8, 7, 6});
}

TEST_CASE("the weights of every gradient part add up to one transfer", "[samplers]") {
  // a constant eps must be carried exactly, so the factors of a step's eps sum to that of phi with one eps
  Schedule schedule = Schedule::linear();
  for (const char* name : {"s-pndm", "f-pndm", "plms", "ipndm", "heun", "deis"})
    for (const StepPlan& step : plan_sampler(schedule, {.name = name, .steps = 20}))
      for (const Stage& stage : step.stages) {
        double of_state = 0, of_eps = 0;
        for (const PlanTerm& term : stage.terms) (term.source == Source::state ? of_state : of_eps) += term.factor;
        if (&stage != &step.stages.back()) continue;   // stages may go half way only
        Terms whole = phi(step.from, step.to, {{Weighted{1, 0}}});
        INFO(name << " from " << step.from.t);
        CHECK(apart(of_state, whole[0].factor, 0, 1e-14) == "");
        CHECK(apart(of_eps, whole[1].factor, 1e-14, 1e-12) == "");
      }
}

TEST_CASE("the second-order predictor of unipc bh2 is dpmpp-2m", "[samplers]") {
  Schedule schedule = Schedule::linear();
  std::vector<StepPlan> unipc = plan_sampler(schedule, {.name = "unipc", .steps = 20});
  std::vector<StepPlan> multistep = plan_sampler(schedule, {.name = "dpmpp-2m", .steps = 20});
  for (size_t k = 1; k + 1 < unipc.size(); ++k) {
    std::array<double, 3> predicted{}, stepped{};   // of the state, the newest x0 and the one before
    auto place = [&](const PlanTerm& term) { return term.source == Source::state ? 0 : 1 + int64_t(k) - term.call; };
    for (const PlanTerm& term : unipc[k].stages[0].terms) predicted[place(term)] += term.factor;
    for (const PlanTerm& term : multistep[k].stages[0].terms) stepped[place(term)] += term.factor;
    INFO("step " << k);
    for (int i = 0; i < 3; ++i) CHECK(apart(predicted[i], stepped[i], 1e-12) == "");
  }
}

TEST_CASE("unipc corrects with the call that the next prediction starts from, and not the last step", "[samplers]") {
  std::vector<StepPlan> plan = plan_sampler(Schedule::linear(), {.name = "unipc", .steps = 5});
  CHECK(plan[0].calls.size() == 2);
  for (size_t k = 1; k < 4; ++k) {
    REQUIRE(plan[k].stages.size() == 2);
    CHECK(!plan[k].stages[0].call);
    CHECK(plan[k].calls == std::vector<double>{plan[k + 1].from.t});
  }
  CHECK(plan[4].calls.empty());
  REQUIRE(plan[4].stages.size() == 1);
  REQUIRE(plan[4].stages[0].terms.size() == 1);   // to the clean image: x' = the last x0
  CHECK(plan[4].stages[0].terms[0].call == 4);
  CHECK(plan[4].stages[0].terms[0].factor == 1);
}

TEST_CASE("deis on steps even in u has the classical weights", "[samplers]") {
  Path path = continuous_path(VpSchedule(), 499.5, 9.99, 8, "karras", 1);
  for (int64_t order : {1, 2, 3, 4}) {
    StepPlan step = plan_sampler(path, {.name = "deis", .order = order})[5];
    double whole = phi(step.from, step.to, {{Weighted{1, 0}}})[1].factor;
    std::span<const double> classical = adams_bashforth(order);
    REQUIRE(step.stages[0].terms.size() == size_t(order) + 1);
    for (int64_t j = 0; j < order; ++j)
      CHECK(apart(step.stages[0].terms[j + 1].factor / whole, classical[j], 1e-9) == "");
  }
}

TEST_CASE("the weights of deis are the means of the Lagrange polynomials over the step", "[samplers]") {
  Path path = continuous_path(VpSchedule(), 999, 0.999, 12, "uniform");
  for (const char* basis : {"u", "log-u"})
    for (int64_t k : {3, 7, 11}) {
      StepPlan step = plan_sampler(path, {.name = "deis", .order = 4, .basis = basis})[k];
      double whole = phi(step.from, step.to, {{Weighted{1, 0}}})[1].factor, u = step.from.u(), u_to = step.to.u();
      auto place = [&](double v) { return basis == std::string("u") ? v : std::log(v); };
      auto node = [&](int64_t j) { return place(path.nodes[k - j].u()); };
      for (int64_t j = 0; j < 4; ++j) {
        auto lagrange = [&](double v) {
          double product = 1;
          for (int64_t m = 0; m < 4; ++m)
            if (m != j) product *= (place(v) - node(m)) / (node(j) - node(m));
          return product;
        };
        // Simpson's rule on 2000 intervals that are even in ln u
        double L = std::log(u_to / u), sum = 0;
        constexpr int kIntervals = 2000;
        for (int i = 0; i <= kIntervals; ++i) {
          double v = u * std::exp(L * i / kIntervals);
          sum += (i == 0 || i == kIntervals ? 1 : i % 2 ? 4 : 2) * lagrange(v) * v;
        }
        double mean = sum * L / (3 * kIntervals) / (u_to - u);
        INFO(basis << " step " << k << " weight " << j);
        CHECK(apart(step.stages[0].terms[j + 1].factor / whole, mean, 1e-8, 1e-8) == "");
      }
    }
}

// ---- Exactness -----------------------------------------------------------------------------------------------------

TEST_CASE("every sampler but the classical solvers carries a point mass exactly", "[samplers]") {
  Gaussian point{0.37, 0};
  for (const Schedule& schedule : {Schedule::linear(), Schedule::cosine()})
    for (int64_t steps : {4, 10, 50})
      for (SamplerOptions options : all_forms(steps))
        for (const std::string& grid : path_grid_names()) {
          if (is_flow(options.name)) continue;
          options.grid = grid;
          std::vector<StepPlan> plan = plan_sampler(schedule, options);
          Tensor x = from({1.3, -0.8, 0.2}, {3}, DType::f64);
          Level start = plan[0].from;
          Tensor eps = affine(x, 1 / start.sigma(), -start.a() * point.mean / start.sigma());
          // Predicting x0 divides roundings by a. Each call within a first step multiplies those before it by a'/a, so
          // that Runge-Kutta from the last level of the cosine schedule, a = 5e-5, keeps no digit to be compared.
          double growth = std::pow(plan[0].to.a() / start.a(), double(plan[0].calls.size()));
          double tolerance = 1e-13 + 1e-14 / start.a() + 1e-15 * growth;
          if (tolerance > 1e-6) {
            INFO(told(options) << ", " << schedule.name() << ", a'/a grows to " << growth);
            REQUIRE(schedule.name() == "cosine");
            REQUIRE(options.name == "f-pndm");
            REQUIRE((grid == "trailing" || grid == "linspace"));
            continue;
          }
          INFO(told(options) << ", " << schedule.name());
          Tensor end = run_sampler(schedule, options, exact_network(point, schedule), x, Generator{7},
                                   [&](const Tensor& state, const Tensor&, int64_t done, int64_t) {
                                     if (is_stochastic(options)) return;   // these leave the path until its end
                                     Level level = plan[done - 1].to;
                                     Tensor exact = affine(eps, level.sigma(), level.a() * point.mean);
                                     REQUIRE(test::difference(state, exact, tolerance, 0) == "");
                                   });
          REQUIRE(test::difference(end, full({3}, 0.37, DType::f64), tolerance, 0) == "");
        }
}

TEST_CASE("the classical solvers do not know where a point mass lies, and approach it", "[samplers]") {
  Gaussian point{0.37, 0};
  Schedule schedule = Schedule::linear();
  VpSchedule curve = VpSchedule::limit_of(schedule);
  double exact = exact_flow(point, number(1.3), curve.at(999), curve.at(0.999)).item();
  auto error = [&](const SamplerOptions& options) {
    return std::abs(run_sampler(schedule, options, exact_network(point, curve), number(1.3), Generator{}).item() - exact);
  };
  for (const char* name : {"fon", "pf-euler"}) {
    double coarse = error({.name = name, .steps = 50, .clip = false});
    double fine = error({.name = name, .steps = 800, .clip = false});
    INFO(name << ": " << coarse << " and " << fine);
    CHECK(coarse > 1e-6);
    CHECK(fine < coarse / 4);
  }
  CHECK(error({.name = "pf-rk45", .clip = false, .tolerance = 1e-8}) < 1e-6);
}

TEST_CASE("the three kinds of the same network give the same samples in every sampler", "[samplers]") {
  Schedule schedule = Schedule::linear();
  Tensor x = normal({2, 4, 4, 1}, DType::f64, Generator{21});
  for (SamplerOptions options : all_forms(20))
    for (bool clip : {false, true}) {
      options.clip = clip;
      std::vector<Tensor> ends;
      for (Prediction prediction : {Prediction::eps, Prediction::x0, Prediction::v}) {
        options.prediction = prediction;
        Network network = network_for(options, kData, schedule, prediction);
        ends.push_back(run_sampler(schedule, options, network, x, Generator{22}));
      }
      INFO(told(options) << " clip " << clip);
      CHECK_CLOSE(ends[1], ends[0], 1e-10, 0);
      CHECK_CLOSE(ends[2], ends[0], 1e-10, 0);
    }
}

TEST_CASE("methods that step with eps alone do not clip", "[samplers]") {
  Schedule schedule = Schedule::linear();
  Gaussian wide{0.5, 1.5};
  Tensor x = affine(normal({32}, DType::f64, Generator{23}), 2, 0);
  for (const std::string& name : sampler_names()) {
    SamplerOptions options = {.name = name, .steps = 10};
    auto run = [&](bool clip) {
      options.clip = clip;
      return run_sampler(schedule, options, network_for(options, wide, schedule), x, Generator{24});
    };
    bool steps_with_x0 = name == "ddpm" || name == "ddim" || name == "unipc" || name == "langevin" ||
                         name.starts_with("dpmpp");
    INFO(name);
    CHECK((test::difference(run(true), run(false), 1e-3, 0) != "") == steps_with_x0);
    if (steps_with_x0)
      for (double value : run(true).to_vector()) CHECK(std::abs(value) <= 1);
  }
}

// ---- A slow reference of every plan --------------------------------------------------------------------------------

// On Gaussian data every prediction is affine in the state, so each state of a run is an affine function of the start
// and of the noises: a row of factors, of 1, of x_T and of each z.
using Row = std::vector<double>;

Row last_row(const std::vector<StepPlan>& plan, const std::function<Level(double)>& network_level) {
  size_t width = 2 + plan.size();
  auto unit = [&](size_t i) { Row row(width, 0); row[i] = 1; return row; };
  auto mix = [&](double p, const Row& a, double q, const Row& b) {
    Row sum(width);
    for (size_t i = 0; i < width; ++i) sum[i] = p * a[i] + q * b[i];
    return sum;
  };
  struct Call { Row input, x0, eps; };
  std::vector<Call> calls;
  Row state = unit(1);
  for (size_t k = 0; k < plan.size(); ++k) {
    Row base = state;
    for (const Stage& stage : plan[k].stages) {
      if (stage.call) {
        Level at = network_level(stage.call->t), used = *stage.call;
        double v = at.abar * kData.std * kData.std + at.variance;
        Row eps = mix(at.sigma() / v, state, -at.sigma() * at.a() * kData.mean / v, unit(0));
        calls.push_back({state, mix(1 / used.a(), state, -used.sigma() / used.a(), eps), eps});
      }
      Row sum(width, 0);
      for (const PlanTerm& term : stage.terms) {
        const Row noise = unit(2 + k);
        const Row& operand = term.source == Source::state ? base
                             : term.source == Source::noise ? noise
                             : term.source == Source::input ? calls[term.call].input
                             : term.source == Source::x0    ? calls[term.call].x0
                                                            : calls[term.call].eps;
        sum = mix(1, sum, term.factor, operand);
      }
      state = sum;
    }
  }
  return state;
}

TEST_CASE("a run does what its plan says, noise and all", "[samplers]") {
  Schedule schedule = Schedule::linear();
  VpSchedule curve = VpSchedule::limit_of(schedule);
  Generator noise{51};
  for (int64_t steps : {4, 10, 30})
    for (SamplerOptions options : all_forms(steps))
      for (const char* convention : {"ours", "pndm-repo", "diffusers"}) {
        options.convention = convention;
        if (options.name == "pf-rk45" || caught([&] { plan_sampler(schedule, options); }).kind) continue;
        std::vector<StepPlan> plan = plan_sampler(schedule, options);
        Row row = last_row(plan, [&](double t) { return is_flow(options.name) ? curve.at(t) : schedule.at(t); });
        double expected = row[0] + 1.3 * row[1];
        for (size_t k = 0; k < plan.size(); ++k)
          expected += row[2 + k] * image_noise({1}, DType::f64, noise.fork(k), 0).item();
        double got = run_sampler(schedule, options, network_for(options, kData, schedule), number(1.3), noise).item();
        INFO(told(options));
        CHECK(apart(got, expected, 1e-11, 1e-11) == "");
      }
}

TEST_CASE("dpmpp-sde-2m draws the spread that its plan has, which tends to that of the data", "[samplers]") {
  Schedule schedule = Schedule::linear();
  auto moments = [&](int64_t steps) {
    SamplerOptions options = {.name = "dpmpp-sde-2m", .steps = steps, .grid = "lambda-uniform", .clip = false};
    Row row = last_row(plan_sampler(schedule, options), [&](double t) { return schedule.at(t); });
    double variance = 0;
    for (size_t i = 1; i < row.size(); ++i) variance += row[i] * row[i];
    return std::pair{row[0], std::sqrt(variance)};
  };
  double coarse = std::abs(moments(40).second - 0.5), fine = std::abs(moments(160).second - 0.5);
  INFO("the spread is off by " << coarse << " and " << fine);
  CHECK(fine < 2e-3);
  CHECK(fine < coarse / 4);
  CHECK(apart(moments(160).first, 0.5, 2e-3) == "");

  constexpr int64_t kSamples = 100000;
  SamplerOptions options = {.name = "dpmpp-sde-2m", .steps = 10, .grid = "lambda-uniform", .clip = false};
  auto [exact_mean, exact_std] = moments(10);
  std::vector<double> samples = run_sampler(schedule, options, exact_network(kData, schedule),
                                            normal({kSamples}, DType::f64, Generator{31}), Generator{32}).to_vector();
  double mean = 0, square = 0;
  for (double value : samples) mean += value / kSamples;
  for (double value : samples) square += (value - mean) * (value - mean) / kSamples;
  CHECK(apart(mean, exact_mean, 4 * exact_std / std::sqrt(double(kSamples))) == "");
  CHECK(apart(std::sqrt(square), exact_std, 4 * exact_std / std::sqrt(2.0 * kSamples)) == "");
}

// ---- Goldens -------------------------------------------------------------------------------------------------------

TEST_CASE("all conventions end at the values computed elsewhere", "[samplers]") {
  struct Golden { const char *convention, *end, *name; std::array<double, 5> ends; };
  const int64_t steps[] = {10, 20, 50, 100, 250};
  const Golden goldens[] = {
      {"ours", "clean", "ddim", {0.9832918712, 1.0616215238, 1.1123558334, 1.1300847671, 1.1409532251}},
      {"ours", "clean", "s-pndm", {1.0758206649, 1.1272357299, 1.1447958492, 1.1474877165, 1.1482383346}},
      {"ours", "clean", "f-pndm", {1.1393831365, 1.1504793663, 1.1488141419, 1.1485692777, 1.1484646777}},
      {"ours", "clean", "plms", {1.1391069519, 1.1504738241, 1.1488140638, 1.1485692724, 1.1484646775}},
      {"pndm-repo", "", "ddim", {0.9876152279, 1.0656010565, 1.1160891885, 1.1337308964, 1.1445484904}},
      {"pndm-repo", "", "s-pndm", {1.0780284033, 1.1299986143, 1.1479977665, 1.1508521514, 1.1517087635}},
      {"pndm-repo", "", "f-pndm", {1.1404786110, 1.1530442070, 1.1519676581, 1.1518924341, 1.1519093782}},
      {"diffusers", "first", "ddim", {0.9834360318, 1.0617931013, 1.1125451688, 1.1302803080, 1.1411525702}},
      {"diffusers", "", "f-pndm", {1.1340163066, 1.1482116201, 1.1480012815, 1.1482062583, 1.1484039915}},
      {"diffusers", "", "plms", {1.1337429921, 1.1482061010, 1.1480012035, 1.1482062531, 1.1484039913}},
  };
  Schedule schedule = Schedule::linear();
  for (const Golden& golden : goldens)
    for (size_t i = 0; i < 5; ++i) {
      SamplerOptions options = {.name = golden.name, .steps = steps[i], .clip = false, .convention = golden.convention,
                                .end = golden.end};
      INFO(told(options));
      double got = run_sampler(schedule, options, exact_network(kData, schedule), number(1.3), Generator{}).item();
      CHECK(apart(got, golden.ends[i], 1e-9) == "");
    }
}

TEST_CASE("the exact flow ends at the values computed elsewhere", "[samplers]") {
  Schedule schedule = Schedule::linear();
  struct Golden { int64_t steps; double end; };
  const Golden goldens[] = {
      {10, 1.1459556867}, {20, 1.1474513315}, {50, 1.1480934515}, {100, 1.1482730369}, {250, 1.1483734050}};
  for (Golden golden : goldens) {
    Level start = schedule.level((golden.steps - 1) * (1000 / golden.steps));
    CHECK(apart(exact_flow(kData, number(1.3), start, {}).item(), golden.end, 1e-9) == "");
  }
}

TEST_CASE("the exact flow carries pure noise to the tabulated mean and spread", "[samplers]") {
  Level start = Schedule::linear().level(999);
  double mean = exact_flow(kData, number(0), start, {}).item();   // an affine map: of 0, and the length of its unit step
  CHECK(apart(mean, 0.4984117714, 1e-9) == "");
  CHECK(apart(exact_flow(kData, number(1), start, {}).item() - mean, 0.5000075674, 1e-9) == "");
}

TEST_CASE("f-pndm on two peaks ends at the values computed elsewhere", "[samplers]") {
  Schedule schedule = Schedule::linear();
  Mixture data = {{0.3, 0.7}, {{-1}, {0.8}}, {0.3, 0.4}};
  struct Golden { int64_t steps; double end; };
  for (Golden golden : {Golden{10, 1.2176787436}, {20, 1.2362615910}, {50, 1.2351491451}}) {
    SamplerOptions options = {.name = "f-pndm", .steps = golden.steps, .clip = false};
    double got = run_sampler(schedule, options, exact_network(data, schedule), number(1.3), Generator{}).item();
    CHECK(apart(got, golden.end, 1e-9) == "");
  }
}

TEST_CASE("the toy network gives the numbers that a widely used implementation prints", "[samplers]") {
  // eps (or v) = x t / (t + 1) on the 768 numbers i / 768, 10 steps. Their tables are built in f32 (1e-6 of a beta); they
  // print sums of |x| to 1e-2 and means to 1e-3, with fewer past values at the end for unipc and deis only.
  Tensor x = empty({768}, DType::f64);
  for (int64_t i = 0; i < 768; ++i) x.data<double>()[i] = double(i) / 768;
  Network toy = [](const Tensor& state, double t) { return affine(state, t / (t + 1), 0); };
  auto sum_of = [&](SamplerOptions options, const Schedule& schedule) {
    options.steps = 10;
    options.convention = "diffusers";
    double sum = 0;
    for (double value : run_sampler(schedule, options, toy, x, Generator{}).to_vector()) sum += std::abs(value);
    return sum;
  };
  Schedule usual = Schedule::linear(), steep = Schedule::linear(1000, 0.01, 0.02);
  CHECK(apart(sum_of({.name = "f-pndm"}, usual), 198.1318, 1e-2) == "");
  CHECK(apart(sum_of({.name = "f-pndm", .end = "clean"}, steep), 230.0399, 1e-2) == "");
  CHECK(apart(sum_of({.name = "f-pndm"}, steep), 186.9482, 1e-2) == "");
  CHECK(apart(sum_of({.name = "f-pndm", .end = "clean"}, steep), 230.0369, 5.1e-5) == "");   // the two in f64
  CHECK(apart(sum_of({.name = "f-pndm"}, steep), 186.9448, 5.1e-5) == "");
  CHECK(apart(sum_of({.name = "plms"}, usual), 197.715575, 1e-2) == "");
  CHECK(apart(sum_of({.name = "ddim"}, usual), 172.0067, 1e-2) == "");
  CHECK(apart(sum_of({.name = "ddim", .prediction = Prediction::v}, usual), 52.5302, 1e-2) == "");
  CHECK(apart(sum_of({.name = "ddim"}, steep), 149.8295, 1e-2) == "");
  CHECK(apart(sum_of({.name = "ddim", .end = "first"}, steep), 149.0784, 1e-2) == "");

  auto mean_of = [&](SamplerOptions options) {
    options.grid = "linspace";
    options.clip = false;
    if (options.end.empty()) options.end = "first";
    return sum_of(options, usual) / 768;
  };
  SamplerOptions second = {.name = "dpmpp-2m", .lower_order_end = false}, second_v = second, to_clean = second;
  second_v.prediction = Prediction::v;
  to_clean.end = "clean";
  CHECK(apart(mean_of(second), 0.33014505, 1e-5) == "");
  CHECK(apart(mean_of(second_v), 0.2251, 1e-3) == "");
  CHECK(apart(mean_of(to_clean), 0.24090018, 1e-5) == "");
  CHECK(apart(mean_of({.name = "dpmpp-3m", .third = 1, .lower_order_end = false}), 0.23042358, 1e-5) == "");
  CHECK(apart(mean_of({.name = "unipc"}), 0.24639561, 1e-5) == "");
  CHECK(apart(mean_of({.name = "unipc", .prediction = Prediction::v}), 0.1014, 1e-3) == "");
  CHECK(apart(mean_of({.name = "unipc", .solver = "bh1"}), 0.25205147, 1e-5) == "");
  CHECK(apart(mean_of({.name = "unipc", .order = 3}), 0.24736058, 1e-5) == "");
  CHECK(apart(mean_of({.name = "deis", .order = 2, .basis = "log-u", .lower_order_end = true}), 0.23916, 1e-3) == "");
}

// ---- The run -------------------------------------------------------------------------------------------------------

TEST_CASE("every sampler has the same bits with 1, 2, 3 and 7 threads", "[samplers]") {
  Schedule schedule = Schedule::linear();
  Tensor x = normal({1001, 5, 3, 2}, DType::f32, Generator{38});   // 30030 elements: a multiple of no tile
  for (const SamplerOptions& options : all_forms(5)) {
    Network network = network_for(options, kData, schedule);
    Tensor expected;
    for (int count : {1, 2, 3, 7}) {
      test::Threads threads(count);
      Tensor got = run_sampler(schedule, options, network, x, Generator{39});
      if (!expected.defined()) expected = got;
      INFO(told(options) << ", " << count << " threads");
      CHECK_SAME(got, expected);
    }
  }
}

TEST_CASE("a run leaves no history behind", "[samplers]") {
  Schedule schedule = Schedule::linear();
  Tensor x = normal({17}, DType::f64, Generator{40});
  for (const SamplerOptions& options : all_forms(8)) {
    auto run = [&] { return run_sampler(schedule, options, network_for(options, kData, schedule), x, Generator{41}); };
    Tensor first = run();
    INFO(told(options));
    CHECK_SAME(run(), first);
  }
}

TEST_CASE("an image is sampled alike in any batch by every sampler with planned steps", "[samplers]") {
  Schedule schedule = Schedule::linear();
  Tensor x = normal({6, 3}, DType::f32, Generator{42});
  for (const SamplerOptions& options : all_forms(6)) {
    if (options.name == "pf-rk45") continue;   // its step length is one for the whole batch
    Network network = network_for(options, kData, schedule);
    Tensor whole = run_sampler(schedule, options, network, x, Generator{43});
    INFO(told(options));
    CHECK_SAME(run_sampler(schedule, options, network, x.rows(2, 6), Generator{43}, {}, 2), whole.rows(2, 6));
  }
}

TEST_CASE("a network that gives NaN stops every sampler with an error that names it", "[samplers]") {
  Schedule schedule = Schedule::linear();
  for (const std::string& name : sampler_names()) {
    auto failure = caught([&] {
      run_sampler(schedule, {.name = name, .steps = 10}, [](const Tensor& x, double t) {
        return affine(x, t < 450 ? std::nan("") : 0.5, 0);
      }, zeros({2, 2}), Generator{});
    });
    INFO(name);
    CHECK(failure.kind == Error::Kind::numeric);
    CHECK(failure.says(name));
    CHECK(failure.says("not finite"));
  }
  CHECK_FALSE(NoGrad::active());
}

TEST_CASE("every sampler takes an empty batch", "[samplers]") {
  Schedule schedule = Schedule::linear();
  Tensor none = empty({0, 4, 4, 1});
  for (const SamplerOptions& options : all_forms(5)) {
    INFO(told(options));
    Tensor end = run_sampler(schedule, options, network_for(options, kData, schedule), none, Generator{});
    CHECK(end.shape() == none.shape());
  }
}

}  // namespace
}  // namespace mote
