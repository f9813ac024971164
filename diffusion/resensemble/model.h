// model.h - the conditional denoiser of ResEnsemble-DDPM and its training loss. The network itself is nn/denoiser.h;
// here it meets target, schedule and process.
#pragma once
#include "diffusion/process.h"
#include "diffusion/resensemble/ensemble.h"
#include "nn/denoiser.h"

namespace mote::resensemble {

/// Everything about a trained model but its weights; json in checkpoints.
struct ModelConfig {
  nn::DenoiserConfig net;
  std::string target = "residual";   // target_named, or "resfusion"
  double scale = 1;                  // target_scale: xbar is divided by it
  std::string schedule = "paper";    // schedule_named; resfusion has its own
  int64_t T = 1000;
  Prediction prediction = Prediction::eps;   // eps for resfusion
  bool is_resfusion() const { return target == "resfusion"; }
  /// Throws Error(usage) naming what does not fit.
  void validate() const;
  Target map() const { return over(target_named(target), scale); }
  Schedule levels() const;
  bool operator==(const ModelConfig&) const = default;
};
std::string to_json(const ModelConfig& config);
ModelConfig model_config_from_json(const std::string& text);   // Error(checkpoint)

/// Mean over the counted pixels of (target - network)^2.                              [Shi 2023, alg. 1, corrected]
///   image [N, H, W, Ci], x0, f [N, H, W, C] in [-1, 1]; step i64 [N] below levels().steps(); noise like x0
///   weight [N, H, W, 1]: of each pixel (0: ignored), or undefined
Tensor training_loss(nn::Denoiser& net, const ModelConfig& config, const Schedule& schedule, const Tensor& image,
                     const Tensor& x0, const Tensor& f, const Tensor& step, const Tensor& noise,
                     const Tensor& weight = {});

/// K samples of xbar (of x0 for resfusion) [K, N, H, W, C] for images and priors. The image encoding of a network that
/// has one is computed once an image. The network is in evaluation mode meanwhile.
Tensor sample_model(nn::Denoiser& net, const ModelConfig& config, const Schedule& schedule,
                    const EnsembleOptions& options, const Tensor& image, const Tensor& f);
/// The target whose estimates() belong to what sample_model returns: map(), or plain for resfusion.
Target sampled_target(const ModelConfig& config);

}  // namespace mote::resensemble
