// losses.h - what pulls the codes of an encoder towards a Gaussian mixture: three forms of KL(q(z, c | x) || p(z, c)).
// They differ in who q(c | x) is. All are in nats, means over the images, differentiable in the encoder's outputs and
// in z; the mixture is fixed while networks are trained (em.h fits it). Papers: docs/equations.md.
#pragma once
#include <string>

#include "autograd/ops.h"
#include "diffusion/cluster/mixture.h"

namespace mote::cluster {

/// q(z | x) of N images: means and log variances, [N, J] of f32 or f64.
struct Codes {
  Tensor mean, log_variance;
};

/// z = mean + s eps with s = e^(log_variance / 2); eps like mean.
Tensor draw_codes(const Codes& codes, const Tensor& eps);

/// A diagonal mixture in the dtype of the codes, as the losses read it: ln pi [1, K], mu [1, K, J], ln sigma^2 and
/// 1 / sigma^2 [1, K, J]. A weight below 1e-8 counts as 1e-8, so that a dead component is far away and not infinite.
struct MixtureTerms {
  Tensor log_weight, mean, log_variance, precision;
  /// Throws Error(argument) unless the mixture is diagonal.
  MixtureTerms(const Mixture& mixture, DType dtype, Device device = {});
  int64_t components() const { return log_weight.size(1); }
  int64_t width() const { return mean.size(2); }
};

/// KL(q(z | x_n) || N(mu_c, sigma_c^2)) = 1/2 sum_j [ln sigma^2_cj - ln s^2_nj + (s^2_nj + (m_nj - mu_cj)^2) / sigma^2_cj - 1]
///   [N, K]. Throws Error(argument) if the widths differ.
Tensor kl_to_components(const Codes& codes, const MixtureTerms& mixture);

/// ln pi_c + ln N(z_n; mu_c, sigma_c^2), [N, K].
Tensor log_joint_of(const Tensor& z, const MixtureTerms& mixture);

/// ln sum over the last axis of e^x, [N, K] -> [N], without overflow.
Tensor log_sum_exp(const Tensor& x);

enum class MatchingLoss {
  official,      // eta = (pi_c N(z; c) + 1e-10) / sum, the floor added to densities, as in the paper's code
  softmax,       // eta = softmax_c(ln pi_c + ln N(z; c)): the same without the floor, in the log domain
  closed_form,   // the best eta for the whole Gaussian q(z | x), softmax_c(ln pi_c - KL_c): needs no draw
};
/// "official", "softmax" or "closed-form"; Error(usage) otherwise.
MatchingLoss matching_named(const std::string& name);
const char* name_of(MatchingLoss matching);

/// The matching loss, a scalar:
///   official, softmax   mean_n sum_c eta_nc [KL_nc + ln(eta_nc / pi_c)]     (official: ln((eta_nc + 1e-10) / pi_c))
///   closed_form         mean_n -ln sum_c pi_c e^(-KL_nc), the least value that the sum can have over eta
///   z  [N, J], a draw of q(z | x); not read by the closed form, may be undefined there
///   attached  whether gradients flow through eta as well (official, softmax)
/// Throws Error(argument) if shapes do not fit together.
Tensor matching_loss(MatchingLoss matching, const Codes& codes, const Tensor& z, const MixtureTerms& mixture,
                     bool attached = true);

/// mean_n KL(q(z | x_n) || N(0, 1)), a scalar.                                                  [Kingma 2014, app. B]
Tensor standard_normal_kl(const Codes& codes);

}  // namespace mote::cluster
