// em.h - the alternation of ClusterDDPM as coordinate descent on
//   F_lambda = E_x [ sum over pixels |eps - eps_hat|^2 + lambda KL_mix ],  KL_mix = E_q [ ln q(z | x) - ln p_psi(z) ]
// M-step: a pass of training with the mixture psi fixed (step_losses); E-step: psi is fitted to the codes (fit_codes).
// The loop, its saves and its log are in apps/cluster_trainer.cpp.
#pragma once
#include <string>
#include <vector>

#include "diffusion/cluster/model.h"

namespace mote::cluster {

/// What one training step draws, each a tensor of N images.
struct StepDraws {
  Tensor t;                     // i64 [N], levels
  Tensor noise;                 // like the images
  Tensor code_noise;            // [N, latent]
  std::vector<bool> hidden;     // whose code is hidden from the denoiser
};

/// lambda is given for 784 pixels, the paper's; the losses here are means over pixels, so that its weight is the same
/// number for every size of image: lambda / 784.
inline constexpr double kPaperPixels = 784;

struct StepOptions {
  const MixtureTerms* mixture = nullptr;   // null: pretraining, no mixture yet
  MatchingLoss matching = MatchingLoss::closed_form;
  bool attached = true;                    // gradients through the responsibilities
  double lambda = 0.1;                     // weight of the matching loss, or in pretraining of KL(q || N(0, I))
};

struct StepLosses {
  Tensor total;      // noise + lambda / 784 * matching, scalar
  Tensor noise;      // mean over images and pixels of |eps - eps_hat|^2
  Tensor matching;   // nats an image: matching_loss, or standard_normal_kl in pretraining
};

/// The losses of one step. One pass of the encoder serves both: z is drawn once, told to the denoiser, hidden where
/// asked, and measured against the mixture.
///   images  f32 [N, H, W, C] in [-1, 1]
StepLosses step_losses(Model& model, const Tensor& images, const StepDraws& draws, const StepOptions& options);

// ---- E-step --------------------------------------------------------------------------------------------------------

/// How a mixture sees the codes.
enum class CodeView {
  uncertain,   // means and variances: E_q in place of a draw, so that nothing is left to chance
  mean,        // means alone
  sampled,     // one draw an image, as in the paper's code
};
CodeView code_view_named(const std::string& name);   // "uncertain", "mean", "sampled"; Error(usage) otherwise
const char* name_of(CodeView view);

/// The codes of a data set as points of a mixture; eps [N, J] is read by `sampled` only.
Points code_points(const Codes& codes, CodeView view, const Tensor& eps = {});

/// Which cluster each code belongs to under a mixture that was fitted in this view. A draw would make labels noisy: where
/// draws were fitted, the means are asked about.
Posterior label_codes(const Mixture& mixture, const Codes& codes, CodeView view);

/// k-means++ starts and EM where `previous` is null, else EM from it.
/// Throws Error(data) if there are fewer images than components, Error(numeric) if the codes are not finite.
MixtureFit fit_codes(const Points& points, const Mixture* previous, const MixtureOptions& options);

// ---- F_lambda ------------------------------------------------------------------------------------------------------

/// mean_n [ln q(z_n | x_n) - ln p(z_n)] at given draws z, in f64: KL_mix, whose psi-dependent part an E-step lowers.
double sampled_matching(const Codes& codes, const Tensor& z, const Mixture& mixture);

/// F_lambda from a noise loss that is a mean over pixels: pixels noise + lambda pixels / 784 matching.
double free_energy(double noise, double matching, double lambda, int64_t pixels);

}  // namespace mote::cluster
