// cluster_config.h - everything `mote cluster train` can be told, in one list (config_keys.h).
#pragma once
#include <string>
#include <vector>

#include "apps/config_keys.h"
#include "diffusion/cluster/em.h"
#include "nn/optim.h"

namespace mote::apps {

struct ClusterConfig {
  // data
  std::string data = "fashion-mnist";
  int64_t size = 0, channels = 0, limit = 0;
  // networks
  std::string net = "gated";      // or a preset of nn::UNetConfig, told the code beside the time
  int64_t width = 64, latent = 32;
  bool paper_norm = false;
  // diffusion
  std::string schedule = "cosine";
  int64_t T = 1000;
  // clusters
  std::string k = "10";           // or "auto"
  int64_t k_max = 20;
  std::string loss = "closed-form";
  bool detach = false;
  double lambda = 0.1, lambda_warmup = 5, pretrain_kl = 0.01, code_dropout = 0.1;
  std::string view = "uncertain";
  int64_t e_every = 1, starts = 20, e_iterations = 100;
  double damping = 0.5;
  // optimisation
  int64_t pretrain = 10, epochs = 30, batch = 128;
  double pretrain_lr = 1e-3, lr = 5e-4;
  int64_t warmup = 100;
  std::string lr_schedule = "constant";
  double weight_decay = 0, clip = 1, ema = 0.999;
  std::string precision = "f32";
  uint64_t seed = 0;
  // what is written and when
  int64_t log_every = 10, save_every = 500, sample_every = 5, sample_steps = 25;
};

/// Calls fn(name, member, Key, help, section) for every key, in the order of --help.
template <class Config, class Fn>
  requires std::is_same_v<std::remove_const_t<Config>, ClusterConfig>
void for_each_key(Config& c, Fn&& fn) {
  const char* data = "Data";
  fn("data", c.data, Key::data, "fashion-mnist, idx:DIR, cifar10:DIR, folder:DIR, csv:FILE, synthetic:NAME", data);
  fn("size", c.size, Key::numbers, "resize images to this height and width (0: as they are)", data);
  fn("channels", c.channels, Key::numbers, "1 or 3 (0: as they are)", data);
  fn("limit", c.limit, Key::numbers, "only the first N images (0: all)", data);
  const char* network = "Network";
  fn("net", c.net, Key::numbers, "denoiser: gated (the paper's), or tiny, fmnist, cifar10 (as mote train, told the code)",
     network);
  fn("width", c.width, Key::numbers, "channels of encoder and gated denoiser at full resolution", network);
  fn("latent", c.latent, Key::numbers, "numbers of a code", network);
  fn("paper-norm", c.paper_norm, Key::numbers, "BatchNorm in place of GroupNorm, as in the paper's code", network);
  const char* diffusion = "Diffusion";
  fn("schedule", c.schedule, Key::numbers, "cosine, linear, or paper: linear betas at levels 0 to T", diffusion);
  fn("T", c.T, Key::numbers, "diffusion steps (the paper's schedule has 400)", diffusion);
  const char* clusters = "Clusters";
  fn("k", c.k, Key::numbers, "clusters, or auto: the least BIC of 2 to --k-max after pretraining, which is a guess",
     clusters);
  fn("k-max", c.k_max, Key::numbers, "with --k auto: the most clusters to try", clusters);
  fn("loss", c.loss, Key::numbers, "closed-form, softmax, or official (the paper's code)", clusters);
  fn("detach", c.detach, Key::numbers, "softmax and official: no gradient through the responsibilities", clusters);
  fn("lambda", c.lambda, Key::numbers, "weight of the matching loss, for 784 pixels", clusters);
  fn("lambda-warmup", c.lambda_warmup, Key::numbers, "epochs over which lambda grows from 0", clusters);
  fn("pretrain-kl", c.pretrain_kl, Key::numbers, "weight of KL(q || N(0, 1)) in pretraining, for 784 pixels", clusters);
  fn("code-dropout", c.code_dropout, Key::numbers, "share of codes hidden from the denoiser", clusters);
  fn("view", c.view, Key::numbers, "what the mixture is fitted to: uncertain (means and variances), mean, or sampled",
     clusters);
  fn("e-every", c.e_every, Key::numbers, "epochs between E-steps", clusters);
  fn("starts", c.starts, Key::numbers, "k-means++ starts of the first fit; the likeliest is kept", clusters);
  fn("e-iterations", c.e_iterations, Key::numbers, "most EM iterations of an E-step", clusters);
  fn("damping", c.damping, Key::numbers, "share of the new statistics in an EM iteration of a later E-step", clusters);
  const char* optimisation = "Optimisation";
  fn("pretrain", c.pretrain, Key::numbers, "epochs without a mixture", optimisation);
  fn("epochs", c.epochs, Key::steps, "epochs with it; may grow with --resume", optimisation);
  fn("batch", c.batch, Key::numbers, "images a step", optimisation);
  fn("pretrain-lr", c.pretrain_lr, Key::numbers, "learning rate of pretraining", optimisation);
  fn("lr", c.lr, Key::numbers, "learning rate afterwards", optimisation);
  fn("warmup", c.warmup, Key::numbers, "steps over which each rate grows from 0", optimisation);
  fn("lr-schedule", c.lr_schedule, Key::numbers, "constant, or cosine: to 0 at the end of each phase", optimisation);
  fn("weight-decay", c.weight_decay, Key::numbers, "AdamW weight decay", optimisation);
  fn("clip", c.clip, Key::numbers, "largest gradient norm (0: no clipping)", optimisation);
  fn("ema", c.ema, Key::numbers, "decay of the averaged weights, which encode and sample (0: none)", optimisation);
  const char* output = "Output";
  fn("log-every", c.log_every, Key::free, "steps between records of log.jsonl", output);
  fn("save-every", c.save_every, Key::free, "steps between checkpoints (0: only at the end)", output);
  fn("sample-every", c.sample_every, Key::free, "epochs between grids with a row a cluster (0: only at the end)", output);
  fn("sample-steps", c.sample_steps, Key::free, "ddim steps of a grid (0: no grids)", output);
  fn("precision", c.precision, Key::numbers, "", kCommonSection);
}

/// Error(usage) naming the flag for every value outside its range.
void validate(const ClusterConfig& config);

/// The number that --k names, 0 for auto. Error(usage) unless it is a whole number of 1 or more.
int64_t cluster_count(const ClusterConfig& config);

/// Error(usage) if images of this size do not fit the networks.
cluster::ModelConfig model_config(const ClusterConfig& config, int64_t size, int64_t channels);
/// Of pretraining, or of the phase with a mixture; `steps` is the length of the phase.
nn::OptimizerOptions optimizer_options(const ClusterConfig& config, bool pretraining, int64_t steps);
/// Of the first fit, or of a later one, which is damped.
cluster::MixtureOptions mixture_options(const ClusterConfig& config, int64_t components, bool first);

std::string to_json(const ClusterConfig& config);
/// Error(checkpoint) on text that is not JSON, on unknown and on missing keys.
ClusterConfig cluster_config_from_json(const std::string& text);
std::string to_toml(const ClusterConfig& config);

}  // namespace mote::apps
