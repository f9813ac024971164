// What chi2 says about heights: no bias, an interval that covers, counts as they should be, and duality.
#include <algorithm>
#include <limits>
#include <utility>

#include "diffusion/ot/map.h"
#include "diffusion/ot/method.h"
#include "diffusion/ot/normal.h"
#include "tests/ot_support.h"

using namespace mote;
using namespace mote::ot;
using namespace mote::test;

TEST_CASE("at exact heights chi2 has mean 0 and the spread of its interval, and the counts have theirs",
          "[ot][quality]") {
  // One dimension, four equal masses.
  Targets targets = plain_targets(f32({-3, -1, 0, 2}, {4, 1}));
  double q = upper_quantile(0.25);
  Tensor h = f32({0, 2 * q, 2 * q, 0}, {4});
  int64_t runs = int64_t(kFewer * 400), n = 500, inside = 0;
  double sum = 0, squares = 0, pearson = 0;
  for (int64_t run = 0; run < runs; ++run) {
    Quality quality = measure(targets, h, source_of(targets), uint64_t(run), n);
    sum += quality.chi2;
    squares += quality.chi2 * quality.chi2;
    inside += quality.low <= 0 && 0 <= quality.high;
    for (int64_t count : quality.counts) {
      pearson += std::pow(double(count) - double(n) / 4, 2) / (double(n) / 4);
      CHECK(std::abs(double(count) / double(n) - 0.25) <= 5 * std::sqrt(0.25 / double(n)));
    }
  }
  double sd = std::sqrt(2.0 * 3) / double(n);  // chi-square with 3 degrees of freedom
  CHECK(std::abs(sum / double(runs)) < 5 * sd / std::sqrt(double(runs)));
  CHECK(apart(std::sqrt(squares / double(runs)), sd, 0, kLooser * 0.25) == "");
  CHECK(apart(pearson / double(runs), 3, 5 * std::sqrt(6.0 / double(runs))) == "");
  CHECK(inside > int64_t(0.9 * double(runs)));
}

TEST_CASE("away from the solution chi2 is unbiased and its interval holds the truth", "[ot][quality]") {
  Targets targets = plain_targets(f32({-1, 1}, {2, 1}));
  Tensor h = f32({0.25, -0.25}, {2});  // on rows +-1: w_1 = Phi(.25)
  double w = 0.5 * std::erfc(-0.25 / std::sqrt(2.0)), truth = 4 * (w - 0.5) * (w - 0.5) * 2 / 2;
  int64_t runs = 300, inside = 0;
  double sum = 0, squares = 0;
  for (int64_t run = 0; run < runs; ++run) {
    Quality quality = measure(targets, h, source_of(targets), uint64_t(run), 2000);
    sum += quality.chi2;
    squares += quality.chi2 * quality.chi2;
    inside += quality.low <= truth && truth <= quality.high;
  }
  double mean = sum / double(runs), sd = std::sqrt(squares / double(runs) - mean * mean);
  CHECK(std::abs(mean - truth) < 5 * sd / std::sqrt(double(runs)));
  CHECK(inside > int64_t(0.9 * double(runs)));
}

TEST_CASE("chi2, empty cells and the largest excess of given counts", "[ot][quality]") {
  Quality quality = quality_of({3, 0, 1}, {0.5, 0.25, 0.25});
  CHECK(apart(quality.chi2, (6 / 0.5) / 12 - 1, 1e-15) == "");
  CHECK(quality.samples == 4);
  CHECK(quality.empty == 1);
  CHECK(apart(quality.largest, 1.5, 1e-15) == "");
  CHECK(caught([] { quality_of({1, 0}, {0.5, 0.5}); }).says("needs 2 samples"));
  CHECK(caught([] { quality_of({1}, {0.5, 0.5}); }).kind == Error::Kind::argument);
}

TEST_CASE("what heights account for is at most the cost of any assignment of the same samples", "[ot][quality]") {
  // Six samples, three targets twice each: D(h) = mean min_i(|x - y_i|^2 / 2 - psi_i) + mean psi, psi_i = h_i + |y_i|^2
  // / 2, is a lower bound for every h, and the best h reach the best of the 90 assignments.
  int64_t S = 6, N = 3;
  Targets targets = plain_targets(draw({N, 2}, 1));
  Tensor x = draw({S, 2}, 2), y = targets.rows(0, N);
  auto cost = [&](int64_t s, int64_t i) {
    double sum = 0;
    for (int64_t d = 0; d < 2; ++d)
      sum += std::pow(double(x.data<float>()[2 * s + d]) - double(y.data<float>()[2 * i + d]), 2) / 2;
    return sum;
  };
  std::vector<int64_t> to = {0, 0, 1, 1, 2, 2};
  double least = std::numeric_limits<double>::infinity();
  std::vector<int64_t> best;
  do {
    double sum = 0;
    for (int64_t s = 0; s < S; ++s) sum += cost(s, to[size_t(s)]) / double(S);
    if (sum < least) least = sum, best = to;
  } while (std::next_permutation(to.begin(), to.end()));
  auto dual = [&](const Tensor& h) {
    Planes planes = top_planes(targets, h, x, 1);
    double sum = 0;
    for (int64_t s = 0; s < S; ++s)
      for (int64_t d = 0; d < 2; ++d) sum += std::pow(double(x.data<float>()[2 * s + d]), 2) / 2 / double(S);
    for (int64_t s = 0; s < S; ++s) sum -= double(planes.score.data<float>()[s]) / double(S);
    for (int64_t i = 0; i < N; ++i)
      sum += (double(h.data<float>()[i]) + std::pow(targets.score_std()[size_t(i)], 2) / 2) / double(N);
    return sum;
  };
  double highest = -std::numeric_limits<double>::infinity();
  for (uint64_t seed = 0; seed < 50; ++seed) CHECK(dual(draw({N}, 100 + seed)) <= least + 1e-6);
  // Ascent by the subgradient nu - counts on the same samples, in falling steps.
  Tensor h = zeros({N});
  for (int64_t step = 0; step < 2000; ++step) {
    highest = std::max(highest, dual(h));
    Tensor index = assign(targets, h, x);
    std::vector<double> counts(size_t(N), 0.0);
    for (int64_t s = 0; s < S; ++s) counts[size_t(index.data<int64_t>()[s])] += 1.0 / double(S);
    for (int64_t i = 0; i < N; ++i)
      h.data<float>()[i] += float((1.0 / double(N) - counts[size_t(i)]) * 3 / (10 + double(step)));
  }
  CHECK(highest <= least + 1e-6);
  CHECK(highest > least - 2e-3);
}
