#include "diffusion/cluster/losses.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace mote::cluster {
namespace {

constexpr double kLeastWeight = 1e-8;     // of a component, under the logarithm
constexpr double kDensityFloor = 1e-10;   // of the paper's code

void check_codes(const char* op, const Codes& codes) {
  check(codes.mean.defined() && codes.log_variance.defined() && codes.mean.ndim() == 2 &&
            codes.mean.shape() == codes.log_variance.shape() && codes.mean.dtype() == codes.log_variance.dtype(),
        op, ": codes need means and log variances [N, J] of one dtype, got ", describe(codes.mean), " and ",
        describe(codes.log_variance));
}

void check_width(const char* op, const Tensor& z, const MixtureTerms& mixture) {
  check(z.defined() && z.ndim() == 2 && z.size(1) == mixture.width(), op, ": the mixture is of width ",
        mixture.width(), ", the codes are ", describe(z));
}

/// a [N, J] against the components: [N, 1, J].
Tensor beside_components(const Tensor& a) { return reshape(a, Shape{a.size(0), 1, a.size(1)}); }

}  // namespace

Tensor draw_codes(const Codes& codes, const Tensor& eps) {
  check_codes("draw_codes", codes);
  return codes.mean + exp(0.5 * codes.log_variance) * eps;
}

MixtureTerms::MixtureTerms(const Mixture& mixture, DType dtype, Device device) {
  check(mixture.covariance == Covariance::diagonal, "MixtureTerms: the matching losses need a diagonal mixture, got ",
        name_of(mixture.covariance));
  int64_t K = mixture.components(), J = mixture.width();
  auto placed = [&](const std::vector<double>& values, const Shape& shape) {
    return from(values, shape, dtype).to(device);
  };
  std::vector<double> log_weights = mixture.weights.to_vector(), variances = mixture.covariances.to_vector(),
                      log_variances = variances, precisions = variances;
  for (double& weight : log_weights) weight = std::log(std::max(weight, kLeastWeight));
  for (double& variance : log_variances) variance = std::log(variance);
  for (double& variance : precisions) variance = 1 / variance;
  log_weight = placed(log_weights, {1, K});
  mean = placed(mixture.means.to_vector(), {1, K, J});
  log_variance = placed(log_variances, {1, K, J});
  precision = placed(precisions, {1, K, J});
}

Tensor kl_to_components(const Codes& codes, const MixtureTerms& mixture) {
  check_codes("kl_to_components", codes);
  check_width("kl_to_components", codes.mean, mixture);
  Tensor log_s2 = beside_components(codes.log_variance);
  Tensor apart = square(beside_components(codes.mean) - mixture.mean);
  Tensor each = mixture.log_variance - log_s2 + (exp(log_s2) + apart) * mixture.precision;
  return affine(sum(each, {2}), 0.5, -0.5 * double(mixture.width()));
}

Tensor log_joint_of(const Tensor& z, const MixtureTerms& mixture) {
  check_width("log_joint_of", z, mixture);
  Tensor apart = square(beside_components(z) - mixture.mean);
  Tensor density = affine(sum(mixture.log_variance + apart * mixture.precision, {2}), -0.5,
                          -0.5 * double(mixture.width()) * std::log(2 * std::numbers::pi));
  return density + mixture.log_weight;
}

Tensor log_sum_exp(const Tensor& x) {
  Tensor most = reshape(max(x, 1).detach(), Shape{x.size(0), 1});   // any constant would do: it cancels
  return reshape(log(sum(exp(x - most), {1}, true)) + most, Shape{x.size(0)});
}

MatchingLoss matching_named(const std::string& name) {
  for (MatchingLoss matching : {MatchingLoss::official, MatchingLoss::softmax, MatchingLoss::closed_form})
    if (name == name_of(matching)) return matching;
  fail(Error::Kind::usage, "loss '", name, "' is not known; there are closed-form, softmax and official");
}

const char* name_of(MatchingLoss matching) {
  switch (matching) {
    case MatchingLoss::official: return "official";
    case MatchingLoss::softmax: return "softmax";
    case MatchingLoss::closed_form: break;
  }
  return "closed-form";
}

Tensor matching_loss(MatchingLoss matching, const Codes& codes, const Tensor& z, const MixtureTerms& mixture,
                     bool attached) {
  Tensor kl = kl_to_components(codes, mixture);
  if (matching == MatchingLoss::closed_form) return -mean(log_sum_exp(mixture.log_weight - kl));
  check(z.defined() && z.shape() == codes.mean.shape(), "matching_loss: ", name_of(matching),
        " needs a drawn z for each code: codes are ", describe(codes.mean), ", z is ", describe(z));
  Tensor joint = log_joint_of(attached ? z : z.detach(), mixture), eta, log_eta;
  if (matching == MatchingLoss::softmax) {
    log_eta = log_softmax(joint);
    eta = exp(log_eta);
  } else {
    Tensor floored = affine(exp(joint), 1, kDensityFloor);
    eta = floored / sum(floored, {1}, true);
    log_eta = log(affine(eta, 1, kDensityFloor));
  }
  return mean(sum(eta * (kl + log_eta - mixture.log_weight), {1}));
}

Tensor standard_normal_kl(const Codes& codes) {
  check_codes("standard_normal_kl", codes);
  Tensor each = exp(codes.log_variance) + square(codes.mean) - codes.log_variance;
  return 0.5 * mean(sum(affine(each, 1, -1), {1}));
}

}  // namespace mote::cluster
