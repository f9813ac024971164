// model.h - the two networks of ClusterDDPM under one roof: an encoder q(z | x) and a denoiser eps(x_t, z, t) that is told
// z, with a learned code that means "no code". Their layers are in nn/; what they are trained for is in losses.h and
// em.h; images are drawn with any sampler through coded_network.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "diffusion/cluster/losses.h"
#include "diffusion/process.h"
#include "diffusion/samplers/sampler.h"
#include "nn/cluster_net.h"
#include "nn/unet.h"

namespace mote::cluster {

struct ModelConfig {
  nn::ClusterNetConfig net;             // the encoder, and the gated UNet unless there is a `unet`
  std::optional<nn::UNetConfig> unet;   // the denoiser is this one, told z beside the time
  std::string schedule = "cosine";      // cluster_schedule
  int64_t T = 1000;
  /// Throws Error(usage).
  void validate() const;
  bool operator==(const ModelConfig&) const = default;
};

/// Json text, and back. Throws Error(checkpoint) on a missing or unknown key, a value of the wrong type, or a config that
/// does not validate.
std::string to_json(const ModelConfig& config);
ModelConfig model_config_from_json(const std::string& text);

/// "linear", "cosine" (Schedule::named), or "paper": beta_t = 1e-4 + (0.02 - 1e-4) t / T for t = 0..T, T + 1 levels whose
/// last one is far from noise for T = 400: abar_400 = 0.0173. Error(usage) for another name.
Schedule cluster_schedule(const std::string& name, int64_t T);
const std::vector<std::string>& cluster_schedule_names();

class Model : public nn::Module {
 public:
  Model(const ModelConfig& config, uint64_t seed);

  /// x [N, size, size, channels] in [-1, 1] -> means and log variances [N, latent]. An f32 x is computed in precision().
  Codes encode(const Tensor& x);
  /// The noise in x [N, ...] at levels t f32 [N] (fractional is legal), given codes [N, latent]. Shape and dtype of x.
  Tensor denoise(const Tensor& x, const Tensor& t, const Tensor& code);
  /// The codes with the rows that `hidden` marks (one 0 or 1 an image) replaced by the null code. [Ho & Salimans 2022]
  Tensor hide(const Tensor& code, const std::vector<bool>& hidden) const;
  /// N rows of the null code.
  Tensor null_codes(int64_t count) const;

  const ModelConfig& config() const { return config_; }
  const Schedule& schedule() const { return schedule_; }
  /// Where the dropout of a general UNet draws from.
  Generator& generator();
  void set_precision(DType dtype);   // f32 or bf16, as nn::UNet::set_precision

 private:
  ModelConfig config_;
  Schedule schedule_;
  DType precision_ = DType::f32;
  Generator generator_;   // of the gated UNet, which has no dropout: never drawn from
  nn::ClusterEncoder encoder_;
  std::unique_ptr<nn::ClusterUNet> gated_;   // one of these two
  std::unique_ptr<nn::UNet> unet_;
  std::unique_ptr<nn::Linear> code_embedding_;
  nn::Parameter& null_code_;
};

/// The denoiser of a model for a sampler: codes [N, latent] of the images in order, guided by
///   eps = (1 + w) eps(x, z, t) - w eps(x, null, t)                            [Ho & Salimans 2022, eq. 6]
/// w = 0 costs one half of the calls. The model and the codes must outlive the Network.
Network coded_network(Model& model, const Tensor& codes, double w = 0);

}  // namespace mote::cluster
