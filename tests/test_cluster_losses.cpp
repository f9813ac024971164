// The matching losses: known Gaussians, the worked mixture of the paper's notes, gradients with the responsibilities
// attached and detached.
#include "diffusion/cluster/losses.h"

#include "autograd/gradcheck.h"
#include "diffusion/cluster/em.h"
#include "tests/nn_support.h"

using namespace mote;
using namespace mote::cluster;
using namespace mote::test;

namespace {

/// Rows of numbers as f64 [rows, columns].
Tensor rows_of(const std::vector<double>& values, int64_t columns) {
  return from(values, {int64_t(values.size()) / columns, columns}, DType::f64);
}

Codes codes_of(const std::vector<double>& mean, const std::vector<double>& variance, int64_t width) {
  return {rows_of(mean, width), log(rows_of(variance, width))};
}

Mixture mixture_of(const std::vector<double>& weights, const std::vector<double>& means,
                   const std::vector<double>& variances) {
  auto K = int64_t(weights.size()), J = int64_t(means.size()) / K;
  return {Covariance::diagonal, from(weights, {K}, DType::f64), rows_of(means, J), rows_of(variances, J)};
}

/// Mixture and code of the worked example.
Mixture example_mixture() { return mixture_of({0.3, 0.7}, {-1, 0, 2, 1}, {1, 0.5, 0.25, 2}); }
Codes example_code() { return codes_of({0.5, 0.25}, {0.1, 0.4}, 2); }

double kl_of(const std::vector<double>& mean, const std::vector<double>& variance, const std::vector<double>& to_mean,
             const std::vector<double>& to_variance) {
  auto width = int64_t(mean.size());
  MixtureTerms to(mixture_of({1}, to_mean, to_variance), DType::f64);
  return kl_to_components(codes_of(mean, variance, width), to).item();
}

/// A mixture of K components of width J and N codes, all drawn.
struct Drawn {
  Mixture mixture;
  Tensor mean, log_variance, eps;
  Drawn(int64_t N, int64_t K, int64_t J, uint64_t seed) {
    Generator generator{seed};
    mixture.weights = full({K}, 1 / double(K), DType::f64);
    mixture.means = normal({K, J}, DType::f64, generator);
    mixture.covariances = exp(affine(normal({K, J}, DType::f64, generator), 0.5, -0.5));
    mean = normal({N, J}, DType::f64, generator);
    log_variance = affine(normal({N, J}, DType::f64, generator), 0.5, -1);
    eps = normal({N, J}, DType::f64, generator);
  }
};

const MatchingLoss kAll[] = {MatchingLoss::official, MatchingLoss::softmax, MatchingLoss::closed_form};

}  // namespace

TEST_CASE("KL between diagonal Gaussians has its known values", "[cluster][losses]") {
  CHECK(kl_of({1, -2}, {0.5, 3}, {1, -2}, {0.5, 3}) == Approx(0).margin(1e-15));
  CHECK(kl_of({1, -2}, {1, 1}, {0, 0}, {1, 1}) == Approx(2.5).epsilon(1e-14));
  CHECK(kl_of({0}, {4}, {0}, {1}) == Approx(0.8068528194400547).epsilon(1e-14));   // 3/2 - ln 2
  CHECK(kl_of({0.5, -1}, {0.25, 2}, {0, 1}, {1, 0.5}) == Approx(5.25).epsilon(1e-14));
  CHECK(standard_normal_kl(codes_of({1, -2}, {1, 1}, 2)).item() == Approx(2.5).epsilon(1e-14));
  CHECK(standard_normal_kl(codes_of({0, 1, 0, -2}, {4, 1, 1, 1}, 2)).item() ==
        Approx((0.8068528194400547 + 0.5 + 2) / 2).epsilon(1e-14));   // the mean of two codes
}

TEST_CASE("the worked mixture gives the printed divergences, responsibilities and losses", "[cluster][losses]") {
  Codes code = example_code();
  MixtureTerms mixture(example_mixture(), DType::f64);
  Tensor kl = kl_to_components(code, mixture);
  CHECK_CLOSE(kl, rows_of({1.90036432, 5.20348932}, 2), 1e-8, 0);
  CHECK_CLOSE(softmax(mixture.log_weight - kl), rows_of({0.92098654, 0.07901346}, 2), 1e-8, 0);
  CHECK(matching_loss(MatchingLoss::closed_form, code, {}, mixture).item() == Approx(3.0220272640).epsilon(1e-10));
  auto with = [&](const std::vector<double>& eta) {
    Tensor weights = rows_of(eta, 2);
    return sum(weights * (kl + log(weights) - mixture.log_weight)).item();
  };
  CHECK(with({0.3, 0.7}) == Approx(4.2125518222).epsilon(1e-10));
  CHECK(with({0.5, 0.5}) == Approx(3.6391035157).epsilon(1e-10));
}

TEST_CASE("a drawn z costs more than the closed form, and the true divergence is below both", "[cluster][losses]") {
  // 40,000 draws of the worked example; the means of 4 million are 3.3039 and 2.7570.
  constexpr int64_t kDraws = 40000;
  Codes one = example_code();
  Codes codes{broadcast_to(one.mean, {kDraws, 2}), broadcast_to(one.log_variance, {kDraws, 2})};
  Tensor z = draw_codes(codes, normal({kDraws, 2}, DType::f64, Generator{3}));
  MixtureTerms mixture(example_mixture(), DType::f64);
  double estimate = matching_loss(MatchingLoss::softmax, codes, z, mixture).item();
  double official = matching_loss(MatchingLoss::official, codes, z, mixture).item();
  double closed = matching_loss(MatchingLoss::closed_form, codes, {}, mixture).item();
  double truth = sampled_matching(codes, z, example_mixture());
  INFO("softmax " << estimate << ", official " << official << ", closed form " << closed << ", true " << truth);
  CHECK(std::abs(estimate - 3.3039) < 0.02);   // the spread of the mean is 0.003
  CHECK(std::abs(official - estimate) < 1e-6);   // in two dimensions no density is near the floor
  CHECK(std::abs(truth - 2.7570) < 0.03);        // and here 0.005
  CHECK(truth < closed);
  CHECK(closed < estimate);
}

TEST_CASE("gradients of every matching loss match differences, responsibilities attached or not", "[cluster][losses][grad]") {
  Drawn drawn(5, 3, 4, 11);
  MixtureTerms mixture(drawn.mixture, DType::f64);
  for (MatchingLoss matching : kAll) {
    INFO(name_of(matching));
    GradReport attached = gradcheck([&](In x) {
      Codes codes{x[0], x[1]};
      return matching_loss(matching, codes, draw_codes(codes, drawn.eps), mixture);
    }, {drawn.mean, drawn.log_variance});
    INFO(attached.where);
    CHECK(attached.checked == 40);
    CHECK(attached.worst_relative < 1e-7);
    if (matching == MatchingLoss::closed_form) continue;
    // Detached, z is a constant of the loss: the same gradient as with a z that was drawn elsewhere.
    Tensor fixed_z = draw_codes({drawn.mean, drawn.log_variance}, drawn.eps);
    GradReport detached = gradcheck([&](In x) { return matching_loss(matching, {x[0], x[1]}, fixed_z, mixture); },
                                    {drawn.mean, drawn.log_variance});
    CHECK(detached.worst_relative < 1e-7);
    auto gradient = [&](bool is_attached, bool fixed) {
      Tensor mean = drawn.mean.clone(), log_variance = drawn.log_variance.clone();
      Codes codes{mean.requires_grad(), log_variance.requires_grad()};
      Tensor z = fixed ? fixed_z : draw_codes(codes, drawn.eps);
      backward(matching_loss(matching, codes, z, mixture, is_attached));
      return concat({mean.grad(), log_variance.grad()}, 0);
    };
    CHECK_CLOSE(gradient(false, false), gradient(true, true), 1e-12, 1e-12);
    CHECK_FALSE(difference(gradient(true, false), gradient(false, false), 1e-3, 0).empty());
  }
}

TEST_CASE("the closed form and softmax stay finite in 784 dimensions and far from every component", "[cluster][losses]") {
  Drawn drawn(3, 4, 784, 12);
  drawn.mixture.covariances = full({4, 784}, 1e-4, DType::f64);
  Tensor mean = affine(drawn.mean, 30, 0).to(DType::f32), log_variance = full({3, 784}, -9);
  Codes codes{mean.requires_grad(), log_variance.requires_grad()};
  MixtureTerms mixture(drawn.mixture, DType::f32);
  for (MatchingLoss matching : {MatchingLoss::softmax, MatchingLoss::closed_form}) {
    Tensor loss = matching_loss(matching, codes, draw_codes(codes, normal({3, 784}, DType::f32, Generator{1})), mixture);
    backward(loss);
    INFO(name_of(matching));
    CHECK(std::isfinite(loss.item()));
    for (double slope : mean.grad().to_vector()) REQUIRE(std::isfinite(slope));
  }
}

TEST_CASE("in 32 dimensions the floor of the official form makes responsibilities uniform, the log domain does not",
          "[cluster][losses]") {
  // Codes at a component's own mean and unit variance: the density there, e^-29.4, lies below 1e-10.
  Mixture mixture = mixture_of({0.5, 0.5}, std::vector<double>(64, 0), std::vector<double>(64, 1));
  for (int64_t j = 0; j < 32; ++j) mixture.means.data<double>()[32 + j] = 3;
  MixtureTerms terms(mixture, DType::f64);
  Codes at{zeros({1, 32}, DType::f64), zeros({1, 32}, DType::f64)};
  Tensor z = zeros({1, 32}, DType::f64);
  double official = matching_loss(MatchingLoss::official, at, z, terms).item();
  double softmax = matching_loss(MatchingLoss::softmax, at, z, terms).item();
  CHECK(softmax == Approx(std::log(2)).epsilon(1e-10));   // KL 0 to the right one, whose weight is a half
  CHECK(official > 50);                                   // half of the other one's KL of 144
}

TEST_CASE("a component whose weight is zero stays finite and out of the way", "[cluster][losses]") {
  Codes code = example_code();
  Mixture two = mixture_of({1, 0}, {-1, 0, 2, 1}, {1, 0.5, 0.25, 2}), one = mixture_of({1}, {-1, 0}, {1, 0.5});
  double with = matching_loss(MatchingLoss::closed_form, code, {}, MixtureTerms(two, DType::f64)).item();
  double without = matching_loss(MatchingLoss::closed_form, code, {}, MixtureTerms(one, DType::f64)).item();
  CHECK(with == Approx(without).epsilon(1e-7));
}

TEST_CASE("log_sum_exp is exact where exp would overflow", "[cluster][losses]") {
  CHECK_CLOSE(log_sum_exp(rows_of({1000, 1000, -1000, -1000.5}, 2)),
              from({1000 + std::log(2), -1000 + std::log(1 + std::exp(-0.5))}, {2}, DType::f64), 1e-10, 0);
}

TEST_CASE("the matching losses refuse what does not fit together", "[cluster][losses]") {
  MixtureTerms mixture(example_mixture(), DType::f64);
  Codes three = codes_of({0, 0, 0}, {1, 1, 1}, 3);
  CHECK(contains(error_of([&] { kl_to_components(three, mixture); }), "width 2, the codes are f64[1, 3]"));
  CHECK(contains(error_of([&] { matching_loss(MatchingLoss::softmax, example_code(), {}, mixture); }), "drawn z"));
  CHECK(contains(error_of([&] { kl_to_components({three.mean, {}}, mixture); }), "means and log variances"));
  Mixture tied = example_mixture();
  tied.covariance = Covariance::tied;
  CHECK(contains(error_of([&] { MixtureTerms terms(tied, DType::f64); }), "diagonal"));
  CHECK(contains(error_of([] { matching_named("best"); }, Error::Kind::usage), "closed-form, softmax and official"));
  for (MatchingLoss matching : kAll) CHECK(matching_named(name_of(matching)) == matching);
}
