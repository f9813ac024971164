#include "apps/cluster_config.h"

#include <charconv>
#include <cmath>

namespace mote::apps {
using config_keys::require;

void validate(const ClusterConfig& c) {
  config_keys::require_common(c);
  require(c.k_max >= 2 && c.k_max <= 1000, "k-max", c.k_max, "2 to 1000");
  cluster::matching_named(c.loss);
  cluster::code_view_named(c.view);
  require(std::isfinite(c.lambda) && c.lambda >= 0, "lambda", c.lambda, "0 or more");
  require(std::isfinite(c.lambda_warmup) && c.lambda_warmup >= 0, "lambda-warmup", c.lambda_warmup, "0 or more");
  require(std::isfinite(c.pretrain_kl) && c.pretrain_kl >= 0, "pretrain-kl", c.pretrain_kl, "0 or more");
  require(c.code_dropout >= 0 && c.code_dropout <= 1, "code-dropout", c.code_dropout, "0 to 1");
  require(c.e_every >= 1, "e-every", c.e_every, "1 or more");
  require(c.starts >= 1 && c.starts <= 10000, "starts", c.starts, "1 to 10000");
  require(c.e_iterations >= 1, "e-iterations", c.e_iterations, "1 or more");
  require(c.damping > 0 && c.damping <= 1, "damping", c.damping, "more than 0, at most 1 (none)");
  require(c.pretrain >= 0, "pretrain", c.pretrain, "0 or more");
  require(c.epochs >= 0, "epochs", c.epochs, "0 or more");
  require(c.pretrain + c.epochs >= 1, "epochs", c.epochs, "1 or more, or --pretrain must be");
  require(std::isfinite(c.pretrain_lr) && c.pretrain_lr > 0, "pretrain-lr", c.pretrain_lr, "a positive number");
  require(c.sample_steps >= 0, "sample-steps", c.sample_steps, "0 (no grids) or more");
  cluster::cluster_schedule(c.schedule, c.T);
  cluster_count(c);
}

int64_t cluster_count(const ClusterConfig& config) {
  if (config.k == "auto") return 0;
  int64_t k = 0;
  const char* end = config.k.data() + config.k.size();
  auto [stop, error] = std::from_chars(config.k.data(), end, k);
  require(error == std::errc() && stop == end && k >= 1, "k", config.k, "a whole number of 1 or more, or auto");
  return k;
}

cluster::ModelConfig model_config(const ClusterConfig& config, int64_t size, int64_t channels) {
  cluster::ModelConfig model;
  model.net = {size, channels, config.width, config.latent, config.paper_norm};
  model.schedule = config.schedule;
  model.T = config.T;
  if (size % 4 != 0) {
    int64_t below = size / 4 * 4;
    fail(Error::Kind::usage, "images are ", size, "x", size, ", and the encoder halves them twice; give --size ",
         below + 4, below > 0 ? concat_text(" or --size ", below) : std::string());
  }
  if (config.net != "gated") model.unet = nn::UNetConfig::preset(config.net).fit(size, channels);
  model.validate();
  return model;
}

nn::OptimizerOptions optimizer_options(const ClusterConfig& config, bool pretraining, int64_t steps) {
  return config_keys::optimizer_of(config, pretraining ? config.pretrain_lr : config.lr, steps);
}

cluster::MixtureOptions mixture_options(const ClusterConfig& config, int64_t components, bool first) {
  cluster::MixtureOptions options;
  options.components = components;
  options.max_iterations = int(config.e_iterations);
  options.seed = config.seed;
  if (first) options.restarts = int(config.starts);
  else options.damping = config.damping;
  return options;
}

std::string to_json(const ClusterConfig& config) { return keys_to_json(config); }

ClusterConfig cluster_config_from_json(const std::string& text) {
  return keys_from_json<ClusterConfig>("cluster configuration", text);
}

std::string to_toml(const ClusterConfig& config) {
  return keys_to_toml("cluster train", config, [](Key) { return false; });
}

}  // namespace mote::apps
