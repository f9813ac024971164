#include "diffusion/cluster/em.h"

#include <cmath>
#include <numbers>

namespace mote::cluster {

StepLosses step_losses(Model& model, const Tensor& images, const StepDraws& draws, const StepOptions& options) {
  Codes codes = model.encode(images);
  Tensor z = draw_codes(codes, draws.code_noise);
  Tensor x = q_sample(model.schedule(), images, draws.t, draws.noise);
  Tensor predicted = model.denoise(x, draws.t.to(DType::f32), model.hide(z, draws.hidden));
  StepLosses losses;
  losses.noise = mse_loss(predicted, draws.noise);
  losses.matching = options.mixture ? matching_loss(options.matching, codes, z, *options.mixture, options.attached)
                                    : standard_normal_kl(codes);
  losses.total = options.lambda > 0 ? losses.noise + (options.lambda / kPaperPixels) * losses.matching : losses.noise;
  return losses;
}

// ---- E-step --------------------------------------------------------------------------------------------------------

CodeView code_view_named(const std::string& name) {
  for (CodeView view : {CodeView::uncertain, CodeView::mean, CodeView::sampled})
    if (name == name_of(view)) return view;
  fail(Error::Kind::usage, "view of the codes '", name, "' is not known; there are uncertain, mean and sampled");
}

const char* name_of(CodeView view) {
  switch (view) {
    case CodeView::mean: return "mean";
    case CodeView::sampled: return "sampled";
    case CodeView::uncertain: break;
  }
  return "uncertain";
}

Points code_points(const Codes& codes, CodeView view, const Tensor& eps) {
  NoGrad no_grad;
  if (view == CodeView::sampled) return {draw_codes(codes, eps), {}, {}};
  if (view == CodeView::mean) return {codes.mean.detach(), {}, {}};
  return {codes.mean.detach(), exp(codes.log_variance), {}};
}

Posterior label_codes(const Mixture& mixture, const Codes& codes, CodeView view) {
  return posterior(mixture, code_points(codes, view == CodeView::sampled ? CodeView::mean : view));
}

MixtureFit fit_codes(const Points& points, const Mixture* previous, const MixtureOptions& options) {
  if (points.count() < options.components)
    fail(Error::Kind::data, "there are ", options.components, " clusters to find, but only ", points.count(), " images");
  return previous ? fit_mixture_from(points, *previous, options) : fit_mixture(points, options);
}

// ---- F_lambda ------------------------------------------------------------------------------------------------------

double sampled_matching(const Codes& codes, const Tensor& z, const Mixture& mixture) {
  check(z.defined() && z.shape() == codes.mean.shape(), "sampled_matching: z must be like the codes, ",
        describe(codes.mean), ", got ", describe(z));
  std::vector<double> mean = codes.mean.to_vector(), log_variance = codes.log_variance.to_vector(), at = z.to_vector();
  double log_q = 0;
  for (size_t i = 0; i < mean.size(); ++i) {
    double apart = at[i] - mean[i];
    log_q -= 0.5 * (std::log(2 * std::numbers::pi) + log_variance[i] + apart * apart * std::exp(-log_variance[i]));
  }
  return log_q / double(z.size(0)) - mean_log_likelihood(mixture, {z, {}, {}});
}

double free_energy(double noise, double matching, double lambda, int64_t pixels) {
  return double(pixels) * (noise + lambda / kPaperPixels * matching);
}

}  // namespace mote::cluster
