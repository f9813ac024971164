#include "apps/restore_config.h"

#include <charconv>
#include <cmath>

namespace mote::apps {
using config_keys::require;

namespace {

/// The whole text as a number, or NaN.
double number_in(const std::string& text) {
  double value = 0;
  const char* end = text.data() + text.size();
  auto [stop, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && stop == end ? value : NAN;
}

const char* target_of_method(const std::string& method) {
  if (method == "resensemble") return "residual";
  if (method == "plain") return "plain";
  if (method == "resfusion") return "resfusion";
  fail(Error::Kind::usage, "--method: '", method, "' is not known; resensemble, plain and resfusion are");
}

/// Images must divide by `factor`; `of` says whose halvings ask for it.
void require_multiple(int64_t size, int64_t factor, const std::string& of) {
  if (size % factor == 0) return;
  int64_t below = size / factor * factor;
  fail(Error::Kind::usage, "squares are ", size, "x", size, ", and ", of, " needs sides that divide by ", factor,
       "; give --size ", below > 0 ? below : factor);
}

}  // namespace

void validate(const RestoreConfig& c) {
  config_keys::require_common(c);
  require(c.e2e_steps >= 0, "e2e-steps", c.e2e_steps, "0 (no end-to-end network) or more");
  require(c.steps >= 0, "steps", c.steps, "0 or more");
  require(c.steps + c.e2e_steps >= 1, "steps", c.steps, "1 or more, or --e2e-steps must be");
  require(c.e2e_loss == "l1" || c.e2e_loss == "charbonnier", "e2e-loss", c.e2e_loss, "l1 or charbonnier");
  require(std::isfinite(c.e2e_lr) && c.e2e_lr > 0, "e2e-lr", c.e2e_lr, "a positive number");
  require(c.sample_count >= 0 && c.sample_count <= 256, "sample-count", c.sample_count, "0 (no grids) to 256");
  require(c.sample_steps >= 1, "sample-steps", c.sample_steps, "1 or more");
  if (c.with_prior && c.e2e_steps == 0)
    fail(Error::Kind::usage, "--with-prior: only with --e2e-steps; without them the prior is the image itself");
  target_of_method(c.method);
  if (c.method == "resfusion" && c.prediction != "eps")
    fail(Error::Kind::usage, "--prediction: resfusion predicts its own kind of noise; leave it at eps");
  prediction_named(c.prediction);
  degradation_of(c, std::max<int64_t>(1, c.size)).validate();
}

void set_noise(resensemble::Degradation& degradation, const std::string& sigma, double poisson) {
  size_t colon = sigma.find(':');
  degradation.sigma_low = number_in(sigma.substr(0, colon));
  degradation.sigma_high = colon == std::string::npos ? degradation.sigma_low : number_in(sigma.substr(colon + 1));
  if (std::isnan(degradation.sigma_low) || std::isnan(degradation.sigma_high))
    fail(Error::Kind::usage, "--sigma: '", sigma, "' is neither a number such as 25 nor a range such as 15:50");
  degradation.poisson = poisson;
  degradation.validate();
}

resensemble::Degradation degradation_of(const RestoreConfig& config, int64_t size) {
  resensemble::Degradation degradation{.damage = resensemble::damage_of(config.task), .screen = config.screen,
                                       .side = size};
  set_noise(degradation, config.sigma, config.poisson);
  return degradation;
}

resensemble::ModelConfig model_config(const RestoreConfig& config, int64_t size, int64_t channels) {
  std::string name = config.net;
  if (name == "auto") name = size > 32 ? "d64-cpu" : channels == 1 ? "d28-cpu" : "d32-rgb-cpu";
  resensemble::ModelConfig model;
  model.net = nn::DenoiserConfig::preset(name);
  int64_t halvings = int64_t(model.net.unet.multipliers.size()) - 1;
  require_multiple(size, model.net.fold << halvings, "--net " + name);
  model.net.fit(size, channels, channels, config.with_prior);
  model.target = target_of_method(config.method);
  model.schedule = config.schedule;
  model.T = config.T;
  model.prediction = prediction_named(config.prediction);
  model.validate();
  return model;
}

std::optional<nn::E2ENetConfig> e2e_config(const RestoreConfig& config, int64_t size, int64_t channels) {
  if (config.e2e_steps == 0) return {};
  std::string name = config.e2e_net == "auto" ? (size < 64 ? "e-28" : "e-64") : config.e2e_net;
  nn::E2ENetConfig net = nn::E2ENetConfig::preset(name);
  net.channels_in = net.channels_out = channels;
  net.residual = true;
  net.validate();
  require_multiple(size, net.stride(), "--e2e-net " + name);
  return net;
}

nn::OptimizerOptions optimizer_options(const RestoreConfig& config, bool is_e2e) {
  if (!is_e2e) return config_keys::optimizer_of(config, config.lr, std::max<int64_t>(1, config.steps));
  nn::OptimizerOptions options = config_keys::optimizer_of(config, config.e2e_lr, config.e2e_steps);
  options.schedule = "cosine";
  return options;
}

std::string to_json(const RestoreConfig& config) { return keys_to_json(config); }

RestoreConfig restore_config_from_json(const std::string& text) {
  return keys_from_json<RestoreConfig>("restore configuration", text);
}

std::string to_toml(const RestoreConfig& config) {
  return keys_to_toml("restore train", config, [](Key) { return false; });
}

}  // namespace mote::apps
