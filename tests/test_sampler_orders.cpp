// test_sampler_orders.cpp - how fast each sampler approaches the exact flow, in continuous time and f64, on data whose
// perfect network is a formula. Errors and values beside the asserted orders were computed by an independent program.
#include "diffusion/analytic.h"
#include "diffusion/samplers/sampler.h"
#include "tests/diffusion_support.h"

namespace mote {
namespace {

using test::apart;

const Gaussian kData{0.5, 0.5};
const Mixture kTwoPeaks = {{0.3, 0.7}, {{-1}, {0.8}}, {0.3, 0.4}};
const VpSchedule kVp;
constexpr double kFirst = 999, kLast = 0.999;   // s = 1 and 1e-3

Tensor number(double value) { return full({1}, value, DType::f64); }

/// Multistep methods keep their order to the end: falling back to first order there hides the order of the rest.
SamplerOptions method(const std::string& name, int64_t order = 0, double third = 2) {
  SamplerOptions options = {.name = name, .clip = false, .order = order, .third = third};
  if (name == "unipc" || name == "deis" || name.starts_with("dpmpp")) options.lower_order_end = false;
  return options;
}

double end_of(const SamplerOptions& options, const Network& network, double start, const Path& path) {
  return run_sampler(path, options, network, number(start), Generator{}).item();
}

struct Problem {
  Network network;
  double start, exact;
};
const Problem kSmooth = {exact_network(kData, kVp), 1.3, 1.148447034140259};
const Problem kPeaked = {exact_network(kTwoPeaks, kVp), 0.9, 1.0529535944836};

double error(const SamplerOptions& options, const Problem& problem, int64_t N, const std::string& grid) {
  Path path = continuous_path(kVp, kFirst, kLast, N, grid);
  return std::abs(end_of(options, problem.network, problem.start, path) - problem.exact);
}

double slope(const SamplerOptions& options, const Problem& problem, const std::string& grid) {
  return std::log2(error(options, problem, 160, grid) / error(options, problem, 320, grid));
}

TEST_CASE("the exact networks have the published spot values", "[orders]") {
  auto eps_at = [](const auto& data, double x, double s) {
    return exact_denoise(data, number(x), kVp.at(999 * s)).eps.item();
  };
  CHECK(apart(eps_at(kTwoPeaks, 0.9, 1), 0.898278984933644, 1e-14) == "");
  CHECK(apart(eps_at(kTwoPeaks, 0.9, 0.5), 0.802332047609245, 1e-14) == "");
  CHECK(apart(eps_at(kTwoPeaks, -0.2, 0.1), -0.197954162948799, 1e-14) == "");
  CHECK(apart(eps_at(kData, 1.3, 0.5), 1.182766837709722, 1e-14) == "");
}

TEST_CASE("the exact flow of a Gaussian is the published number, and a fine Runge-Kutta solution agrees", "[orders]") {
  double exact = exact_flow(kData, number(1.3), kVp.at(kFirst), kVp.at(kLast)).item();
  CHECK(apart(exact, kSmooth.exact, 1e-14) == "");
  auto reference = [](const auto& data, double y, double s_first, double s_last) {   // classical RK4 on dy/d ln u = u eps
    double begin = -kVp.at(999 * s_first).lambda(), end = -kVp.at(999 * s_last).lambda();
    int64_t steps = 4000;
    double h = (end - begin) / double(steps);
    y /= kVp.at(999 * s_first).a();
    auto f = [&](double at, double y) {
      Level level = Level::of_lambda(0, -at);
      return level.u() * exact_denoise(data, number(y * level.a()), level).eps.item();
    };
    for (int64_t i = 0; i < steps; ++i) {
      double at = begin + h * double(i);
      double k1 = f(at, y), k2 = f(at + h / 2, y + h / 2 * k1);
      double k3 = f(at + h / 2, y + h / 2 * k2), k4 = f(at + h, y + h * k3);
      y += h / 6 * (k1 + 2 * k2 + 2 * k3 + k4);
    }
    return y * kVp.at(999 * s_last).a();
  };
  CHECK(apart(reference(kData, 1.3, 1, 1e-3), exact, 1e-9) == "");
  CHECK(apart(reference(kTwoPeaks, 0.9, 1, 1e-3), kPeaked.exact, 1e-9) == "");
  CHECK(apart(reference(kTwoPeaks, 0.9, 0.5, 1e-2), 1.022227297526581, 1e-9) == "");
  CHECK(apart(exact_flow(kData, number(1.3), kVp.at(499.5), kVp.at(9.99)).item(), 1.09898178387005, 1e-13) == "");
}

TEST_CASE("every sampler converges at its order on steps even in lambda", "[orders]") {
  struct Row { SamplerOptions options; double order; };
  const Row rows[] = {
      {method("ddim"), 1},      {method("s-pndm"), 2},      {method("f-pndm"), 2},       {method("plms"), 2},
      {method("ipndm"), 2},     {method("fon"), 2},         {method("pf-euler"), 1},     {method("heun"), 2},
      {method("dpmpp-2m"), 2},  {method("dpmpp-3m", 0, 1), 2}, {method("dpmpp-3m"), 4},  {method("unipc", 1), 2},
      {method("unipc", 2), 3},  {method("unipc", 3), 4},    {method("deis", 1), 1},      {method("deis", 2), 2},
      {method("deis", 3), 3},   {method("deis", 4), 4},
  };   // dpmpp-3m gains an order on Gaussian data; the two-peaked mixture below shows its own
  for (const Row& row : rows) {
    double measured = slope(row.options, kSmooth, "lambda-uniform");
    INFO(row.options.name << " order " << row.options.order << " third " << row.options.third << ": " << measured);
    CHECK(apart(measured, row.order, 0.15) == "");
  }
}

TEST_CASE("two peaks show the third order of dpmpp-3m, and the second of the form commonly shipped", "[orders]") {
  CHECK(apart(slope(method("dpmpp-3m"), kPeaked, "lambda-uniform"), 3, 0.15) == "");
  CHECK(apart(slope(method("dpmpp-3m", 0, 1), kPeaked, "lambda-uniform"), 2, 0.15) == "");
}

TEST_CASE("the classical fourth order reaches its order on even steps in t only", "[orders]") {
  CHECK(apart(slope(method("fon"), kSmooth, "uniform"), 4, 0.15) == "");
  CHECK(apart(slope(method("fon"), kSmooth, "lambda-uniform"), 2, 0.15) == "");
}

TEST_CASE("steps even in u make f-pndm fourth order, and leave s-pndm at second", "[orders]") {
  // the multistep weights average eps evenly over the step, which is what dy/du = eps asks for in u
  auto errors = [](const char* name) {
    std::vector<double> list;
    for (int64_t N : {80, 160, 320, 640})
      list.push_back(std::abs(end_of(method(name), kSmooth.network, 1.3,
                                     continuous_path(kVp, 499.5, 9.99, N, "karras", 1)) - 1.09898178387005));
    return list;
  };
  std::vector<double> fourth = errors("f-pndm"), second = errors("s-pndm");
  for (size_t i = 0; i + 1 < fourth.size(); ++i) {
    INFO("halving number " << i << ": " << fourth[i] << " to " << fourth[i + 1]);
    CHECK(apart(std::log2(fourth[i] / fourth[i + 1]), 4, i == 0 ? 0.3 : 0.15) == "");
    CHECK(apart(std::log2(second[i] / second[i + 1]), 2, 0.15) == "");
  }
}

TEST_CASE("the errors at 20, 80 and 320 steps are the tabulated ones", "[orders]") {
  struct Row { SamplerOptions options; const char* grid; double error[3]; };
  const Row rows[] = {
      {method("ddim"), "lambda-uniform", {7.3e-2, 1.9e-2, 4.8e-3}},
      {method("ddim"), "uniform", {8.6e-2, 2.2e-2, 5.7e-3}},
      {method("s-pndm"), "lambda-uniform", {8.9e-3, 5.8e-4, 3.6e-5}},
      {method("s-pndm"), "uniform", {2.2e-2, 1.7e-3, 1.5e-4}},
      {method("f-pndm"), "lambda-uniform", {7.0e-3, 3.9e-4, 2.4e-5}},
      {method("f-pndm"), "uniform", {4.7e-4, 2.0e-4, 3.2e-5}},
      {method("fon"), "lambda-uniform", {4.8e-4, 2.2e-5, 1.1e-6}},
      {method("fon"), "uniform", {8.4e-4, 2.1e-5, 9.3e-8}},
      {method("pf-euler"), "lambda-uniform", {2.7e-2, 6.3e-3, 1.5e-3}},
      {method("pf-euler"), "uniform", {4.3e-3, 1.6e-3, 4.2e-4}},
      {method("heun"), "lambda-uniform", {2.1e-2, 1.2e-3, 7.3e-5}},
      {method("heun"), "uniform", {1.2e-2, 7.4e-4, 4.6e-5}},
      {method("dpmpp-2m"), "lambda-uniform", {8.4e-3, 5.8e-4, 3.6e-5}},
      {method("dpmpp-2m"), "uniform", {1.5e-1, 1.4e-2, 8.4e-4}},
      {method("dpmpp-3m", 0, 1), "lambda-uniform", {4.9e-3, 2.1e-4, 1.2e-5}},
      {method("dpmpp-3m"), "lambda-uniform", {1.9e-3, 7.3e-6, 2.9e-8}},
      {method("unipc", 2), "lambda-uniform", {5.3e-3, 9.2e-5, 1.5e-6}},
      {method("unipc", 2), "uniform", {1.5e-1, 1.1e-2, 4.6e-4}},
      {method("unipc", 3), "lambda-uniform", {1.3e-4, 4.4e-6, 2.2e-8}},
      {method("unipc", 3), "uniform", {2.3e-1, 2.9e-2, 5.7e-4}},
      {method("deis", 4), "lambda-uniform", {1.6e-2, 1.8e-4, 9.4e-7}},
      {method("deis", 4), "uniform", {2.2e-3, 8.6e-6, 3.1e-8}},
  };
  for (const Row& row : rows)
    for (int i = 0; i < 3; ++i) {
      int64_t N = 20 << (2 * i);
      double unit = std::pow(10, std::floor(std::log10(row.error[i])) - 1);   // of the second printed digit
      INFO(row.options.name << " order " << row.options.order << " third " << row.options.third << ", " << row.grid
           << ", N = " << N);
      CHECK(apart(error(row.options, kSmooth, N, row.grid), row.error[i], 0.56 * unit) == "");   // printed rounded
    }
}

TEST_CASE("twenty steps end at the values computed elsewhere", "[orders]") {
  struct Row { SamplerOptions options; const char* grid; double expected; };
  const Row rows[] = {
      {method("ddim"), "uniform", 1.062670735519},      {method("s-pndm"), "uniform", 1.126216082091},
      {method("f-pndm"), "uniform", 1.148913933356},    {method("plms"), "uniform", 1.148911029872},
      {method("ipndm"), "uniform", 1.148909420948},     {method("dpmpp-2m"), "uniform", 1.293318205266},
      {method("unipc", 2), "uniform", 1.294701197101},  {method("ddim"), "lambda-uniform", 1.075272716481},
      {method("s-pndm"), "lambda-uniform", 1.139590378352}, {method("f-pndm"), "lambda-uniform", 1.155445504369},
      {method("heun"), "lambda-uniform", 1.169561944233},   {method("dpmpp-2m"), "lambda-uniform", 1.156891735863},
      {method("unipc", 2), "lambda-uniform", 1.153714735839}, {method("unipc", 3), "lambda-uniform", 1.148572043800},
  };
  for (const Row& row : rows) {
    INFO(row.options.name << " order " << row.options.order << ", " << row.grid);
    double got = end_of(row.options, kSmooth.network, 1.3, continuous_path(kVp, kFirst, kLast, 20, row.grid));
    CHECK(apart(got, row.expected, 1e-10) == "");
  }
}

TEST_CASE("a lower-order end costs unipc little with even lambda", "[orders]") {
  auto with_end = [](int64_t order) {
    SamplerOptions options = method("unipc", order);
    options.lower_order_end = true;
    return options;
  };
  CHECK(apart(slope(with_end(2), kSmooth, "lambda-uniform"), 3, 0.15) == "");
  double third = slope(with_end(3), kSmooth, "lambda-uniform");
  CHECK(third > 2.4);
  CHECK(third < 3.0);
  // printed as 2.4e-2, against 1.5e-1 without it; 2.45e-2 here
  CHECK(apart(error(with_end(2), kSmooth, 20, "uniform"), 2.4e-2, 0.06e-2) == "");
}

TEST_CASE("pf-rk45 keeps to its tolerance and works harder for a smaller one", "[orders]") {
  double before = 1;
  int64_t calls_before = 0;
  for (double tolerance : {1e-3, 1e-5, 1e-7, 1e-9}) {
    SamplerOptions options = method("pf-rk45");
    options.tolerance = tolerance;
    for (const Problem& problem : {kSmooth, kPeaked}) {
      int64_t calls = 0;
      Network counting = [&](const Tensor& x, double t) {
        ++calls;
        return problem.network(x, t);
      };
      double got = end_of(options, counting, problem.start, continuous_path(kVp, kFirst, kLast, 1, "uniform"));
      double off = std::abs(got - problem.exact);
      INFO("tolerance " << tolerance << ": error " << off << ", " << calls << " calls");
      CHECK(off < 10 * tolerance);   // it holds for a step, and the errors of some ten steps add up
      CHECK((calls - 2) % 6 == 0);   // two to find a first step, then six a step
      if (problem.start != kSmooth.start) continue;
      CHECK(off < before);
      CHECK(calls > calls_before);
      before = off;
      calls_before = calls;
    }
  }
}

}  // namespace
}  // namespace mote
