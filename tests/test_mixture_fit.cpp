// EM from start to end: what it finds, what it never does, what it does with bad data.
#include <algorithm>
#include <numeric>

#include "diffusion/cluster/scores.h"
#include "tests/mixture_support.h"
#include "tests/sanitized.h"

using namespace mote;
using namespace mote::cluster;
using namespace mote::test;

namespace {

double accuracy_of(const Mixture& mixture, const Tensor& x, const Tensor& truth) {
  return accuracy(contingency(posterior(mixture, {x}).labels, truth));
}

double largest_fall(const std::vector<double>& history) {
  double fall = 0;
  for (size_t i = 1; i < history.size(); ++i) fall = std::max(fall, history[i - 1] - history[i]);
  return fall;
}

bool is_finite(const Mixture& mixture) {
  for (const Tensor& t : {mixture.weights, mixture.means, mixture.covariances})
    for (double value : t.to_vector())
      if (!std::isfinite(value)) return false;
  return true;
}

void check_same(const Mixture& a, const Mixture& b) {
  CHECK_SAME(a.weights, b.weights);
  CHECK_SAME(a.means, b.means);
  CHECK_SAME(a.covariances, b.covariances);
}

}  // namespace

TEST_CASE("EM finds three separated Gaussians of 20000 points", "[cluster][mixture]") {
  int64_t each = kSanitized ? 700 : 6667;
  Tensor x = separated(3, each, 2, 8, 1), truth = separated_labels(3, each);
  for (Covariance covariance : kCovariances) {
    MixtureOptions options = plain_options(3, covariance);
    options.restarts = 2;
    MixtureFit fit = fit_mixture({x}, options);
    CHECK(fit.converged);
    CHECK(accuracy_of(fit.mixture, x, truth) >= 0.995);
    // In some order the means are (8, 0), (0, 8), (16, 0): their standard error is 0.012.
    for (auto [mx, my] : {std::pair<double, double>{8, 0}, {0, 8}, {16, 0}}) {
      double nearest = INFINITY;
      for (int64_t k = 0; k < 3; ++k) {
        const double* mean = fit.mixture.means.data<double>() + 2 * k;
        nearest = std::min(nearest, std::max(std::abs(mean[0] - mx), std::abs(mean[1] - my)));
      }
      CHECK(nearest < (kSanitized ? 0.15 : 0.05));
    }
    for (double weight : fit.mixture.weights.to_vector()) CHECK(weight == Approx(1.0 / 3).margin(1e-3));
    CHECK(std::accumulate(fit.mixture.weights.data<double>(), fit.mixture.weights.data<double>() + 3, 0.0) == Approx(1).epsilon(1e-13));
    CHECK(largest_fall(fit.history) < 1e-9);
  }
}

TEST_CASE("EM never lowers its objective, be the points exact, uncertain, weighted or damped", "[cluster][mixture]") {
  Generator generator{3};
  Tensor x = sample_mixture(random_mixture(Covariance::full, 5, 6, 2, 1.5), 900, generator).x;
  Tensor variance = uniform(x.shape(), DType::f64, Generator{4}), weight = uniform({900}, DType::f64, Generator{5});
  for (Covariance covariance : kCovariances)
    for (const Points& points : {Points{x}, Points{x, variance}, Points{x, {}, weight}, Points{x, variance, weight}})
      for (double damping : {1.0, 0.5}) {
        MixtureOptions options = plain_options(7, covariance);
        options.damping = damping;
        options.tolerance = 0;
        options.max_iterations = 40;
        MixtureFit fit = fit_mixture(points, options);
        CHECK(fit.history.size() == 40);
        CHECK(fit.history.back() > fit.history.front());
        CHECK(largest_fall(fit.history) < 1e-9);
        CHECK(fit.mean_log_likelihood == Approx(mean_log_likelihood(fit.mixture, points)).epsilon(1e-12));
      }
}

TEST_CASE("a variance of the points is taken off the data's, not off the mixture's", "[cluster][mixture]") {
  // One component: m = mean, C = covariance of the means + mean of s^2, exactly, in one step.
  Tensor x = normal({501, 3}, DType::f64, Generator{6}), variance = uniform({501, 3}, DType::f64, Generator{7});
  for (Covariance covariance : kCovariances) {
    Mixture with = fit_mixture({x, variance}, plain_options(1, covariance)).mixture;
    Mixture without = fit_mixture({x}, plain_options(1, covariance)).mixture;
    for (int64_t i = 0; i < 3; ++i) {
      double mean = 0;
      for (int64_t n = 0; n < 501; ++n) mean += variance.data<double>()[3 * n + i] / 501;
      for (int64_t j = 0; j < 3; ++j)
        CHECK(covariance_at(with, 0, i, j) == Approx(covariance_at(without, 0, i, j) + (i == j ? mean : 0)).margin(1e-12));
    }
  }
}

TEST_CASE("a point of weight 3 is three points", "[cluster][mixture]") {
  Tensor x = separated(3, 40, 4, 2, 8), weight = empty({120}, DType::f64);
  std::vector<double> repeated;
  for (int64_t n = 0; n < 120; ++n) {
    weight.data<double>()[n] = double(n % 4);
    for (int64_t copy = 0; copy < n % 4; ++copy)
      repeated.insert(repeated.end(), x.data<double>() + 4 * n, x.data<double>() + 4 * n + 4);
  }
  Tensor copies = from(repeated, {int64_t(repeated.size()) / 4, 4}, DType::f64);
  for (Covariance covariance : kCovariances) {
    Mixture start = random_mixture(covariance, 3, 4, 9, 1);
    MixtureOptions options = plain_options(3, covariance);
    options.max_iterations = 10;
    options.tolerance = 0;
    options.weight_prior = 2;
    MixtureFit once = fit_mixture_from({x, {}, weight}, start, options), many = fit_mixture_from({copies}, start, options);
    CHECK(once.mean_log_likelihood == Approx(many.mean_log_likelihood).epsilon(1e-11));
    CHECK_CLOSE(once.mixture.means, many.mixture.means, 1e-10, 0);
    CHECK_CLOSE(once.mixture.weights, many.mixture.weights, 1e-12, 0);
  }
}

TEST_CASE("a fit has the same bits for any number of threads", "[cluster][mixture]") {
  Tensor x = separated(4, 803, 9, 2, 10).to(DType::f32), variance = uniform(x.shape(), DType::f32, Generator{11});
  for (Covariance covariance : kCovariances)
    for (int64_t batch : {0, 500}) {
      MixtureOptions options = plain_options(5, covariance);
      options.max_iterations = 4;
      options.tolerance = 0;
      options.batch = batch;
      auto run = [&](int threads) {
        Threads count(threads);
        return fit_mixture({x, variance}, options);
      };
      MixtureFit one = run(1);
      for (int threads : {2, 3, 7}) {
        MixtureFit many = run(threads);
        check_same(many.mixture, one.mixture);
        CHECK(many.history == one.history);
        CHECK(many.mean_log_likelihood == one.mean_log_likelihood);
      }
    }
}

TEST_CASE("the order of the points does not matter from a given start", "[cluster][mixture]") {
  int64_t N = 777, D = 5;
  Tensor x = normal({N, D}, DType::f64, Generator{12}), turned = empty_like(x);
  for (int64_t n = 0; n < N; ++n)   // 500 and 777 have no common factor
    std::copy_n(x.data<double>() + n * 500 % N * D, D, turned.data<double>() + n * D);
  for (Covariance covariance : kCovariances) {
    Mixture start = random_mixture(covariance, 4, D, 13, 1);
    MixtureOptions options = plain_options(4, covariance);
    options.max_iterations = 20;
    options.tolerance = 0;
    MixtureFit a = fit_mixture_from({x}, start, options), b = fit_mixture_from({turned}, start, options);
    CHECK(a.mean_log_likelihood == Approx(b.mean_log_likelihood).epsilon(1e-12));
    CHECK_CLOSE(a.mixture.means, b.mixture.means, 1e-9, 0);
    CHECK_CLOSE(a.mixture.covariances, b.mixture.covariances, 1e-9, 0);
    Tensor ra = posterior(a.mixture, {x}).probabilities, rb = posterior(a.mixture, {turned}).probabilities;
    for (int64_t n = 0; n < N; n += 50) CHECK_CLOSE(rb.rows(n, n + 1), ra.rows(n * 500 % N, n * 500 % N + 1), 1e-13, 0);
  }
}

TEST_CASE("restarts are ranked by likelihood, and a warm start goes on", "[cluster][mixture]") {
  Tensor x = separated(6, 60, 3, 4, 14);
  MixtureOptions options = plain_options(6, Covariance::full);
  options.restarts = 6;
  options.seed = 3;
  MixtureFit best = fit_mixture({x}, options);
  CHECK(best.restarts.size() == 6);
  CHECK(best.mean_log_likelihood == *std::max_element(best.restarts.begin(), best.restarts.end()));
  options.restarts = 1;
  CHECK(fit_mixture({x}, options).mean_log_likelihood == best.restarts[0]);
  MixtureFit warm = fit_mixture_from({x}, best.mixture, options);
  CHECK(warm.iterations <= 2);
  CHECK(warm.mean_log_likelihood >= best.mean_log_likelihood - 1e-12);
}

TEST_CASE("stepwise EM comes close to plain EM", "[cluster][mixture]") {
  int64_t each = kSanitized ? 100 : 1000;
  Tensor x = separated(4, each, 3, 5, 15);
  for (Covariance covariance : kCovariances) {
    MixtureOptions options = plain_options(4, covariance);
    Mixture start = fit_mixture({x}, options).mixture;
    // Away from the optimum: the means a standard deviation off, all weights equal.
    for (int64_t i = 0; i < start.means.numel(); ++i) start.means.data<double>()[i] += i % 2 ? 1 : -1;
    double before = mean_log_likelihood(start, {x}), plain = fit_mixture_from({x}, start, options).mean_log_likelihood;
    options.batch = each / 10;
    options.max_iterations = 10;
    MixtureFit fit = fit_mixture_from({x}, start, options);
    CHECK(plain - before > 0.3);
    CHECK(plain - fit.mean_log_likelihood < 0.02);
    CHECK(plain - fit.mean_log_likelihood > -1e-4);
  }
}

TEST_CASE("the prior of the weights is that of Dirichlet", "[cluster][mixture]") {
  Tensor x = separated(2, 30, 2, 20, 16);
  MixtureOptions options = plain_options(3);
  options.weight_prior = 5;
  Mixture start{Covariance::diagonal, from({0.4, 0.4, 0.2}, {3}, DType::f64), from({20, 0, 0, 20, 300, 300}, {3, 2}, DType::f64),
                full({3, 2}, 1, DType::f64)};
  MixtureFit fit = fit_mixture_from({x}, start, options);
  CHECK_CLOSE(fit.mixture.weights, from({35.0 / 75, 35.0 / 75, 5.0 / 75}, {3}, DType::f64), 1e-12, 0);
  CHECK(fit.mixture.means.data<double>()[4] == 300);   // no point has come near it
}

TEST_CASE("a dead component is given half of the heaviest one", "[cluster][mixture]") {
  Tensor x = separated(3, 200, 2, 10, 17), truth = separated_labels(3, 200);
  for (Covariance covariance : kCovariances) {
    // One component has the clusters at (10, 0) and (20, 0), one is far from everything.
    Mixture start = random_mixture(covariance, 3, 2, 18);
    start.means = from({15, 0, 0, 10, 900, 900}, {3, 2}, DType::f64);
    MixtureOptions options = plain_options(3, covariance);
    CHECK(accuracy_of(fit_mixture_from({x}, start, options).mixture, x, truth) < 0.7);
    options.dead_share = 0.01;
    MixtureFit fit = fit_mixture_from({x}, start, options);
    CHECK(fit.repaired == 1);
    CHECK(accuracy_of(fit.mixture, x, truth) == 1);
  }
}

TEST_CASE("variances stand at their floors and no lower", "[cluster][mixture]") {
  // The third coordinate is constant, the fourth the sum of the first two: full covariances are singular.
  Tensor x = separated(3, 100, 4, 6, 19);
  for (int64_t n = 0; n < 300; ++n) {
    double* row = x.data<double>() + 4 * n;
    row[2] = 7;
    row[3] = row[0] + row[1];
  }
  for (Covariance covariance : kCovariances) {
    MixtureOptions options;
    options.components = 3;
    options.covariance = covariance;
    double floor = variance_floor_of({x}, options);
    CHECK(floor > 1e-3);   // a thousandth of the mean variance, which is above 1
    MixtureFit fit = fit_mixture({x}, options);
    CHECK(is_finite(fit.mixture));
    CHECK(fit.floored == 3);
    for (int64_t k = 0; k < 3; ++k) CHECK(covariance_at(fit.mixture, k, 2, 2) == Approx(floor).epsilon(1e-6));
    options.relative_floor = 0;
    options.variance_floor = 0.5;
    CHECK(variance_floor_of({x}, options) == 0.5);
  }
}

TEST_CASE("duplicates and too few distinct points give numbers", "[cluster][mixture]") {
  for (Covariance covariance : kCovariances) {
    MixtureOptions options;
    options.components = 5;
    options.covariance = covariance;
    MixtureFit two = fit_mixture({from({1, 1, 1, 2, 2, 2, 1, 2}, {8, 1}, DType::f32)}, options);
    CHECK(is_finite(two.mixture));
    CHECK(two.floored == 5);
    MixtureFit all_equal = fit_mixture({full({6, 2}, 3, DType::f64)}, options);
    CHECK(is_finite(all_equal.mixture));
    CHECK(std::isfinite(all_equal.mean_log_likelihood));
    MixtureOptions one_each = options;
    one_each.components = 6;
    CHECK(is_finite(fit_mixture({normal({6, 3}, DType::f64, Generator{20})}, one_each).mixture));
  }
}

TEST_CASE("BIC finds how many separated Gaussians there are", "[cluster][mixture]") {
  int seeds = kSanitized ? 1 : 10;
  for (int64_t K : {3, 5, 8}) {
    int right = 0;
    for (int seed = 0; seed < seeds; ++seed) {
      MixtureOptions options;
      options.restarts = 4;
      options.seed = uint64_t(seed);
      std::vector<int64_t> orders(static_cast<size_t>(K + 3));
      std::iota(orders.begin(), orders.end(), int64_t(1));
      std::vector<OrderFit> fits = fit_orders({separated(K, 60, 4, 8, uint64_t(100 * K + seed))}, orders, options);
      REQUIRE(fits.size() == orders.size());
      right += fits[best_order(fits)].components == K;
    }
    INFO(K << " Gaussians: right in " << right << " of " << seeds);
    CHECK(right * 10 >= seeds * 9);
  }
}

TEST_CASE("a fit can be watched and ended", "[cluster][mixture]") {
  Tensor x = separated(3, 50, 2, 2, 21);
  MixtureOptions options = plain_options(3);
  options.restarts = 5;
  options.tolerance = 0;
  std::vector<double> seen;
  options.progress = [&](int restart, int iteration, double log_likelihood) {
    CHECK(restart == 0);
    CHECK(iteration == int(seen.size()));
    seen.push_back(log_likelihood);
    return seen.size() < 4;
  };
  MixtureFit fit = fit_mixture({x}, options);
  CHECK(fit.history == seen);
  CHECK(seen.size() == 4);
  CHECK(fit.iterations == 3);
  CHECK(!fit.converged);
}

TEST_CASE("a fit that cannot be is refused", "[cluster][mixture]") {
  Tensor x = normal({6, 2}, DType::f64, Generator{22});
  auto with = [](auto change) {
    MixtureOptions options;
    options.components = 2;
    change(options);
    return options;
  };
  CHECK_FAILS(Error::Kind::data, fit_mixture({x}, with([](auto& o) { o.components = 7; })), "7 components for 6 points");
  CHECK_FAILS(Error::Kind::data, fit_mixture({x}, with([](auto& o) { o.components = 0; })), "0 components");
  CHECK_FAILS(Error::Kind::argument, fit_mixture({x}, with([](auto& o) { o.step_power = 0.5; })), "step_power", "0.5");
  CHECK_FAILS(Error::Kind::argument, fit_mixture({x}, with([](auto& o) { o.damping = 0; })), "damping");
  CHECK_FAILS(Error::Kind::argument, fit_mixture({x}, with([](auto& o) { o.restarts = 0; })), "restarts");
  CHECK_FAILS(Error::Kind::data, fit_mixture_from({x}, random_mixture(Covariance::full, 2, 3, 23), {}), "widths differ");
  Tensor huge = full({6, 2}, 1e200, DType::f64);
  huge.data<double>()[0] = -1e200;
  CHECK_FAILS(Error::Kind::numeric, fit_mixture_from({huge}, random_mixture(Covariance::diagonal, 2, 2, 24), {}), "log-likelihood");
  x.data<double>()[5] = INFINITY;
  CHECK_FAILS(Error::Kind::data, fit_mixture({x}, with([](auto&) {})), "not finite", "row 2");
}
