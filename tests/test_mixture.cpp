// Gaussian mixtures asked and taken apart: densities, responsibilities, the two halves of EM, draws, files.
#include <algorithm>
#include <numeric>

#include "tensor/io/safetensors.h"

#include "tests/mixture_support.h"

using namespace mote;
using namespace mote::cluster;
using namespace mote::test;

namespace {

/// The points of table 6.4 of the specification and its start.
Tensor eight_points() {
  return from({-2, 0, -1, .5, -1.5, -.5, -2.5, .25, 2, 1, 1, 0, 1.5, 1.5, 3, .5}, {8, 2}, DType::f64);
}
Mixture two_circles() {
  return {Covariance::diagonal, full({2}, 0.5, DType::f64), from({-1, 0, 1, 0}, {2, 2}, DType::f64),
          full({2, 2}, 1, DType::f64)};
}

double at(const Tensor& x, int64_t i) { return x.data<double>()[i]; }

}  // namespace

TEST_CASE("EM on eight points goes through the published numbers", "[cluster][mixture]") {
  auto is = [](double expected, double margin) { return Approx(expected).epsilon(0).margin(margin); };
  MixtureOptions options;
  options.variance_added = 1e-6;
  options.max_iterations = 6;
  options.tolerance = 0;
  Points points{eight_points()};
  Posterior first = posterior(two_circles(), points);
  const double expected[] = {.98201379, .88079708, .95257413, .99330715, .01798621, .11920292, .04742587, .00247262};
  for (int64_t i = 0; i < 8; ++i) CHECK(at(first.probabilities, 2 * i) == is(expected[i], 5e-9));

  MixtureFit fit = fit_mixture_from(points, two_circles(), options);
  const double history[] = {-3.282240295132, -2.404848210791, -2.306570836621,
                            -2.300953486717, -2.300951490566, -2.300951488921};
  REQUIRE(fit.history.size() == 6);
  for (size_t i = 0; i < 6; ++i) CHECK(fit.history[i] == is(history[i], 6e-13));
  const double means[] = {-1.75019045, .06236715, 1.87413656, .74993292},
               variances[] = {.31252354, .13670116, .54922455, .31242330};
  for (int64_t i = 0; i < 4; ++i) {
    CHECK(at(fit.mixture.means, i) == is(means[i], 6e-9));
    CHECK(at(fit.mixture.covariances, i) == is(variances[i], 6e-9));
  }
  CHECK(at(fit.mixture.weights, 0) == is(.49985461, 6e-9));
  Criteria of = criteria(fit.mixture, points);
  CHECK(of.bic == is(55.5301976979, 6e-10));
  CHECK(of.aic == is(54.8152238227, 6e-10));

  options.max_iterations = 1;
  Mixture once = fit_mixture_from(points, two_circles(), options).mixture;
  const double means_once[] = {-1.63252783, .07577985, 1.75395490, .73602355},
               variances_once[] = {.70851910, .15586318, .98675057, .31156079};
  for (int64_t i = 0; i < 4; ++i) {
    CHECK(at(once.means, i) == is(means_once[i], 6e-9));
    CHECK(at(once.covariances, i) == is(variances_once[i], 1e-8));  // 0.155863186 is cut to .15586318 in the table
  }
  CHECK(at(once.weights, 0) == is(.49947247, 6e-9));
}

TEST_CASE("a mixture has as many parameters as it is counted for BIC", "[cluster][mixture]") {
  CHECK(random_mixture(Covariance::diagonal, 10, 32, 1).parameters() == 649);
  CHECK(random_mixture(Covariance::full, 10, 32, 1).parameters() == 5609);
  CHECK(random_mixture(Covariance::tied, 10, 32, 1).parameters() == 9 + 320 + 528);
}

TEST_CASE("log densities are those of the formula, with and without a variance of the points", "[cluster][mixture]") {
  for (Covariance covariance : kCovariances)
    for (DType dtype : {DType::f32, DType::f64})
      for (auto [N, K, D] : {std::array<int64_t, 3>{1, 1, 1}, {5, 3, 2}, {17, 2, 15}, {300, 17, 9}, {23, 4, 33}}) {
        INFO(name_of(covariance) << " " << name_of(dtype) << " " << N << " " << K << " " << D);
        Mixture mixture = random_mixture(covariance, K, D, 3);
        Points points{normal({N, D}, dtype, Generator{4}), uniform({N, D}, dtype, Generator{5})};
        CHECK_CLOSE(log_joint(mixture, points), plain_log_joint(mixture, points), 1e-11, 1e-11);
        points.variance = {};
        Tensor expected = plain_log_joint(mixture, points);
        CHECK_CLOSE(log_joint(mixture, points), expected, 1e-11, 1e-11);

        Posterior answer = posterior(mixture, points);
        double mean = 0;
        for (int64_t n = 0; n < N; ++n) {
          const double *joint = expected.data<double>() + n * K, *r = answer.probabilities.data<double>() + n * K;
          double largest = *std::max_element(joint, joint + K), sum = 0;
          for (int64_t k = 0; k < K; ++k) sum += std::exp(joint[k] - largest);
          for (int64_t k = 0; k < K; ++k)
            CHECK(r[k] == Approx(std::exp(joint[k] - largest) / sum).epsilon(1e-10).margin(1e-300));
          CHECK(at(answer.log_likelihood, n) == Approx(largest + std::log(sum)).epsilon(1e-11));
          CHECK(r[answer.labels.data<int64_t>()[n]] == *std::max_element(r, r + K));
          mean += (largest + std::log(sum)) / double(N);
        }
        CHECK(answer.mean_log_likelihood == Approx(mean).epsilon(1e-11));
        CHECK(mean_log_likelihood(mixture, points) == answer.mean_log_likelihood);
      }
}

TEST_CASE("a full covariance in 150 dimensions is right though its axes differ by 10^7", "[cluster][mixture]") {
  // x = mu + L z with a known L: the density is that of z over det L, whatever the condition of C = L L^T.
  int64_t D = 150, N = 40;
  Tensor l = normal({D, D}, DType::f64, Generator{6}), z = normal({N, D}, DType::f64, Generator{7});
  Mixture mixture{Covariance::full, full({1}, 1, DType::f64), full({1, D}, 2, DType::f64),
                  zeros({1, D, D}, DType::f64)};
  double log_det = 0;
  for (int64_t i = 0; i < D; ++i) {
    double scale = std::pow(10, -3.5 * double(i) / double(D - 1));  // of the standard deviations
    for (int64_t j = 0; j < D; ++j) {
      double& value = l.data<double>()[i * D + j];
      value = j > i ? 0 : j == i ? scale : 0.05 * scale * value;
    }
    log_det += 2 * std::log(scale);
  }
  for (int64_t i = 0; i < D; ++i)
    for (int64_t j = 0; j < D; ++j)
      for (int64_t k = 0; k <= std::min(i, j); ++k)
        mixture.covariances.data<double>()[i * D + j] += at(l, i * D + k) * at(l, j * D + k);
  Tensor x = full({N, D}, 2, DType::f64), expected = empty({N, 1}, DType::f64);
  for (int64_t n = 0; n < N; ++n) {
    double square = 0;
    for (int64_t i = 0; i < D; ++i) {
      square += at(z, n * D + i) * at(z, n * D + i);
      for (int64_t j = 0; j <= i; ++j) x.data<double>()[n * D + i] += at(l, i * D + j) * at(z, n * D + j);
    }
    expected.data<double>()[n] = -0.5 * (double(D) * std::log(2 * std::numbers::pi) + log_det + square);
  }
  // x itself is rounded to 2^-52 of 2, which is 10^-12 of the shortest axis.
  CHECK_CLOSE(log_joint(mixture, {x}), expected, 1e-8, 1e-10);
}

TEST_CASE("784 dimensions with variances of 10^-4 stay finite", "[cluster][mixture]") {
  int64_t D = 784;
  Mixture mixture{Covariance::diagonal, full({2}, 0.5, DType::f64), zeros({2, D}, DType::f64),
                  full({2, D}, 1e-4, DType::f64)};
  for (int64_t d = 0; d < D; ++d) mixture.means.data<double>()[D + d] = 1;
  Posterior answer = posterior(mixture, {uniform({20, D}, DType::f32, Generator{8})});
  for (double value : answer.log_likelihood.to_vector()) CHECK(std::isfinite(value));
  for (double value : answer.probabilities.to_vector()) CHECK((value >= 0 && value <= 1));
  // exp of these log densities is 0 in f64: only the log domain can tell the components apart.
  for (double value : log_joint(mixture, {full({1, D}, 0.5, DType::f64)}).to_vector()) CHECK(value < -900000);
  for (double value : posterior(mixture, {full({1, D}, 0.5, DType::f64)}).probabilities.to_vector())
    CHECK(value == Approx(0.5).epsilon(1e-6));
}

TEST_CASE("a component of weight 0 takes nothing and spoils nothing", "[cluster][mixture]") {
  Mixture mixture = random_mixture(Covariance::full, 3, 4, 9);
  mixture.weights = from({0.25, 0, 0.75}, {3}, DType::f64);
  Posterior answer = posterior(mixture, {normal({30, 4}, DType::f64, Generator{10})});
  for (int64_t n = 0; n < 30; ++n) {
    CHECK(at(answer.probabilities, 3 * n + 1) == 0);
    CHECK(at(answer.probabilities, 3 * n) + at(answer.probabilities, 3 * n + 2) == Approx(1).epsilon(1e-14));
  }
}

TEST_CASE("the E-step sums what the loops sum", "[cluster][mixture]") {
  for (Covariance covariance : kCovariances)
    for (auto [N, K, D] : {std::array<int64_t, 3>{1, 1, 1}, {40, 3, 5}, {700, 16, 17}, {300, 2, 35}}) {
      INFO(name_of(covariance) << " " << N << " " << K << " " << D);
      Mixture mixture = random_mixture(covariance, K, D, 11, 1);
      Points points{normal({N, D}, DType::f64, Generator{12}), uniform({N, D}, DType::f64, Generator{13}),
                    uniform({N}, DType::f64, Generator{14})};
      Tensor shift = normal({D}, DType::f64, Generator{15});
      Statistics got = e_step(mixture, points, shift);
      Tensor r = posterior(mixture, points).probabilities;
      Tensor counts = zeros({K}, DType::f64), sums = zeros({K, D}, DType::f64),
             squares = zeros(got.squares.shape(), DType::f64);
      double total = 0, log_likelihood = 0;
      Tensor each = posterior(mixture, points).log_likelihood;
      for (int64_t n = 0; n < N; ++n) {
        double w = at(points.weight, n);
        total += w;
        log_likelihood += w * at(each, n);
        for (int64_t k = 0; k < K; ++k) {
          double rw = w * at(r, n * K + k);
          counts.data<double>()[k] += rw;
          double* to = squares.data<double>() + (covariance == Covariance::tied ? 0 : k * squares.size(1));
          for (int64_t i = 0; i < D; ++i) {
            double xi = at(points.mean, n * D + i) - at(shift, i), s2 = at(points.variance, n * D + i);
            sums.data<double>()[k * D + i] += rw * xi;
            if (covariance == Covariance::diagonal) to[i] += rw * (xi * xi + s2);
            else
              for (int64_t j = i; j < D; ++j)
                *to++ += rw * (xi * (at(points.mean, n * D + j) - at(shift, j)) + (i == j ? s2 : 0));
          }
        }
      }
      for (Tensor* t : {&counts, &sums, &squares})
        for (int64_t i = 0; i < t->numel(); ++i) t->data<double>()[i] /= total;
      CHECK(got.weight == Approx(total).epsilon(1e-12));
      CHECK(got.mean_log_likelihood == Approx(log_likelihood / total).epsilon(1e-11));
      CHECK_CLOSE(got.counts, counts, 1e-13, 1e-11);
      CHECK_CLOSE(got.sums, sums, 1e-12, 1e-11);
      CHECK_CLOSE(got.squares, squares, 1e-12, 1e-11);
    }
}

TEST_CASE("the M-step gives back the mixture that its statistics are of", "[cluster][mixture]") {
  for (Covariance covariance : kCovariances) {
    Mixture mixture = random_mixture(covariance, 4, 6, 16);
    for (const Tensor& shift : {Tensor(), normal({6}, DType::f64, Generator{17})}) {
      Mixture back =
          m_step(statistics_of(mixture, shift), random_mixture(covariance, 4, 6, 18), plain_options(4), 1e-9);
      CHECK_CLOSE(back.weights, mixture.weights, 1e-14, 0);
      CHECK_CLOSE(back.means, mixture.means, 1e-12, 0);
      CHECK_CLOSE(back.covariances, mixture.covariances, 1e-11, 0);
    }
  }
}

TEST_CASE("statistics blend linearly and only with their like", "[cluster][mixture]") {
  Tensor shift = zeros({3}, DType::f64);
  Mixture mixture = random_mixture(Covariance::full, 2, 3, 19);
  Statistics a = statistics_of(mixture, shift),
             b = e_step(mixture, {normal({20, 3}, DType::f64, Generator{20})}, shift);
  CHECK_SAME(blend(a, b, 1).squares, b.squares);
  CHECK_SAME(blend(a, b, 0).squares, a.squares);
  CHECK(at(blend(a, b, 0.25).sums, 1) == Approx(0.75 * at(a.sums, 1) + 0.25 * at(b.sums, 1)));
  CHECK(blend(a, b, 0.25).weight == 20);
  CHECK_FAILS(Error::Kind::argument, blend(a, b, 1.5), "share must lie in [0, 1]");
  CHECK_FAILS(Error::Kind::argument, blend(a, statistics_of(mixture, full({3}, 1, DType::f64)), 0.5),
              "different points");
  CHECK_FAILS(Error::Kind::argument, blend(a, statistics_of(random_mixture(Covariance::tied, 2, 3, 19), shift), 0.5),
              "differ in kind");
}

TEST_CASE("a shift of data and mixture together changes no likelihood", "[cluster][mixture]") {
  for (Covariance covariance : kCovariances) {
    Mixture mixture = random_mixture(covariance, 3, 5, 21);
    Tensor x = normal({200, 5}, DType::f64, Generator{22});
    Tensor scale = from({2, -3, 0.5, 10, 1}, {5}, DType::f64), shift = from({1, 2, 3, 4, 1000}, {5}, DType::f64),
           moved = x.clone();
    for (int64_t i = 0; i < x.numel(); ++i) moved.data<double>()[i] = at(scale, i % 5) * at(x, i) + at(shift, i % 5);
    Posterior before = posterior(mixture, {x}), after = posterior(rescaled(mixture, scale, shift), {moved});
    CHECK(after.mean_log_likelihood == Approx(before.mean_log_likelihood - std::log(30)).epsilon(1e-9));
    CHECK_CLOSE(after.probabilities, before.probabilities, 1e-8, 0);
  }
}

TEST_CASE("draws have the component's mean and covariance", "[cluster][mixture]") {
  for (Covariance covariance : kCovariances) {
    Mixture mixture = random_mixture(covariance, 3, 3, 23);
    int64_t N = 20000;
    Generator generator{24};
    Tensor x = sample_component(mixture, 2, N, generator);
    // One component fitted to the draws; standard errors are 0.01.
    Mixture fit = fit_mixture({x}, plain_options(1, Covariance::full)).mixture;
    for (int64_t i = 0; i < 3; ++i) {
      CHECK(at(fit.means, i) == Approx(at(mixture.means, 6 + i)).margin(0.05));
      for (int64_t j = 0; j < 3; ++j)
        CHECK(covariance_at(fit, 0, i, j) == Approx(covariance_at(mixture, 2, i, j)).margin(0.08));
    }
    MixtureSample all = sample_mixture(mixture, N, generator);
    for (int64_t k = 0; k < 3; ++k) {
      int64_t* begin = all.labels.data<int64_t>();
      CHECK(double(std::count(begin, begin + N, k)) / double(N) == Approx(at(mixture.weights, k)).margin(0.02));
    }
    CHECK(sample_component(mixture, 0, 0, generator).numel() == 0);
    CHECK_FAILS(Error::Kind::argument, sample_component(mixture, 3, 1, generator), "no component 3 in a mixture of 3");
  }
}

TEST_CASE("the entropy in ICL is that of the responsibilities", "[cluster][mixture]") {
  Mixture mixture = random_mixture(Covariance::tied, 4, 3, 25, 1);
  Points points{normal({50, 3}, DType::f64, Generator{26})};
  double entropy = 0;
  for (double r : posterior(mixture, points).probabilities.to_vector()) entropy -= r > 0 ? r * std::log(r) : 0;
  Criteria of = criteria(mixture, points);
  CHECK(entropy > 1);
  CHECK(of.icl - of.bic == Approx(2 * entropy));
  CHECK(of.bic - of.aic == Approx(double(mixture.parameters()) * (std::log(50) - 2)));
}

TEST_CASE("a mixture comes back from its file bit for bit", "[cluster][mixture]") {
  ScratchFolder folder;
  for (Covariance covariance : kCovariances) {
    Mixture mixture = random_mixture(covariance, 3, 4, 27);
    save_mixture(folder.path("m.safetensors"), mixture, {{"seed", "7"}});
    std::map<std::string, std::string> metadata;
    Mixture back = load_mixture(folder.path("m.safetensors"), &metadata);
    CHECK(back.covariance == covariance);
    CHECK_SAME(back.weights, mixture.weights);
    CHECK_SAME(back.means, mixture.means);
    CHECK_SAME(back.covariances, mixture.covariances);
    CHECK(metadata["seed"] == "7");
  }
}

TEST_CASE("a file that is no mixture is refused", "[cluster][mixture]") {
  ScratchFolder folder;
  std::string path = folder.path("m.safetensors");
  CHECK_FAILS(Error::Kind::data, load_mixture(path), "m.safetensors");
  io::save_safetensors(path, {{"weights", full({1}, 1, DType::f64)}}, {});
  CHECK_FAILS(Error::Kind::checkpoint, load_mixture(path), "is no mixture");
  Mixture mixture = random_mixture(Covariance::full, 2, 2, 28);
  auto save = [&](const Tensor& weights, const Tensor& covariances, const std::string& kind) {
    io::save_safetensors(path, {{"weights", weights}, {"means", mixture.means}, {"covariances", covariances}},
                         {{"mixture.covariance", kind}});
  };
  save(from({0.5, 0.6}, {2}, DType::f64), mixture.covariances, "full");
  CHECK_FAILS(Error::Kind::checkpoint, load_mixture(path), "sum to 1.1");
  save(from({1.5, -0.5}, {2}, DType::f64), mixture.covariances, "full");
  CHECK_FAILS(Error::Kind::checkpoint, load_mixture(path), "negative");
  save(mixture.weights, from({1, 2, 2, 1, 1, 0, 0, 1}, {2, 2, 2}, DType::f64), "full");
  CHECK_FAILS(Error::Kind::checkpoint, load_mixture(path), "component 0 is not positive definite");
  save(mixture.weights, mixture.covariances, "diag");
  CHECK_FAILS(Error::Kind::checkpoint, load_mixture(path), "covariances must be f64[2, 2]");
  save(mixture.weights, mixture.covariances, "round");
  CHECK_FAILS(Error::Kind::checkpoint, load_mixture(path), "'round' is not known");
}

TEST_CASE("points that a mixture cannot be asked about are refused", "[cluster][mixture]") {
  Mixture mixture = random_mixture(Covariance::diagonal, 2, 3, 29);
  Tensor x = normal({4, 3}, DType::f64, Generator{30});
  CHECK_FAILS(Error::Kind::data, posterior(mixture, {zeros({4, 5}, DType::f64)}), "widths differ", "width 3");
  CHECK_FAILS(Error::Kind::argument, posterior(mixture, {x, zeros({4, 3}, DType::f32)}), "must be alike");
  CHECK_FAILS(Error::Kind::data, posterior(mixture, {x, full({4, 3}, -1, DType::f64)}), "variance is negative",
              "(0, 0)");
  CHECK_FAILS(Error::Kind::argument, posterior(mixture, {x, {}, zeros({3}, DType::f64)}), "weight must be f64 [4]");
  CHECK_FAILS(Error::Kind::data, posterior(mixture, {x, {}, zeros({4}, DType::f64)}), "all weights are 0");
  x.data<double>()[7] = NAN;
  CHECK_FAILS(Error::Kind::data, posterior(mixture, {x}), "row 2");
  mixture.covariances.data<double>()[1] = 0;
  CHECK_FAILS(Error::Kind::numeric, posterior(mixture, {zeros({4, 3}, DType::f64)}),
              "variance of component 0, coordinate 1");
  mixture.covariance = Covariance::full;
  CHECK_FAILS(Error::Kind::argument, posterior(mixture, {zeros({4, 3}, DType::f64)}),
              "covariances must be f64[2, 3, 3]");
}

TEST_CASE("components are joined where that costs least, by weight and distance", "[cluster][mixture]") {
  // On a line at 0, 1, 3 and 10, with weights .1 .1 .4 .4: pairs cost .05, .32, .28 (0 and 3: .72), 9.8 ...
  Mixture mixture{Covariance::diagonal, from({0.1, 0.1, 0.4, 0.4}, {4}, DType::f64), from({0, 1, 3, 10}, {4, 1}, DType::f64),
                  full({4, 1}, 1, DType::f64)};
  CHECK(join_components(mixture, 4).to_vector() == std::vector<double>{0, 1, 2, 3});
  CHECK(join_components(mixture, 3).to_vector() == std::vector<double>{0, 0, 1, 2});
  CHECK(join_components(mixture, 2).to_vector() == std::vector<double>{0, 0, 0, 1});   // .2 .4 / .6 2.5^2 = .83 < 9.8
  CHECK(join_components(mixture, 1).to_vector() == std::vector<double>{0, 0, 0, 0});
  // A light one joins what is farther off but lighter.
  Mixture light{Covariance::diagonal, from({0.8, 0.1, 0.1}, {3}, DType::f64), from({0, 2, 4.2}, {3, 1}, DType::f64),
                full({3, 1}, 1, DType::f64)};
  CHECK(join_components(light, 2).to_vector() == std::vector<double>{0, 1, 1});
  CHECK_FAILS(Error::Kind::argument, join_components(mixture, 5), "1 <= groups <= 4");
  Posterior answer = posterior(mixture, {from({2.2}, {1, 1}, DType::f64)});
  CHECK(answer.labels.data<int64_t>()[0] == 2);
  Posterior groups = joined(answer, from({0, 1, 0, 1}, {4}, DType::i64));
  CHECK(groups.probabilities.data<double>()[0] ==
        Approx(answer.probabilities.data<double>()[0] + answer.probabilities.data<double>()[2]));
  CHECK(groups.probabilities.data<double>()[0] + groups.probabilities.data<double>()[1] == Approx(1));
  CHECK(groups.labels.data<int64_t>()[0] == 0);
  CHECK(groups.mean_log_likelihood == answer.mean_log_likelihood);
}
