#include "apps/train_config.h"

#include <algorithm>
#include <cmath>

#include "apps/common.h"
#include "diffusion/process.h"

namespace mote::apps {
using config_keys::require;

void validate(const TrainConfig& c) {
  require(c.size >= 0 && c.size <= 4096, "size", c.size, "0 (as it is) to 4096");
  require(c.channels == 0 || c.channels == 1 || c.channels == 3, "channels", c.channels, "0 (as it is), 1 or 3");
  require(c.limit >= 0, "limit", c.limit, "0 (all) or more");
  require(c.dropout < 1, "dropout", c.dropout, "at least 0 and below 1");
  require(c.label_dropout >= 0 && c.label_dropout <= 1, "label-dropout", c.label_dropout, "0 to 1");
  require(c.schedule == "linear" || c.schedule == "cosine", "schedule", c.schedule, "linear or cosine");
  require(c.T >= 1 && c.T <= 100000, "T", c.T, "1 to 100000");
  require(c.prediction == "eps" || c.prediction == "x0" || c.prediction == "v", "prediction", c.prediction,
          "eps, x0 or v");
  require(c.steps >= 1, "steps", c.steps, "1 or more");
  require(c.batch >= 1 && c.batch <= 65536, "batch", c.batch, "1 to 65536");
  require(std::isfinite(c.lr) && c.lr > 0, "lr", c.lr, "a positive number");
  require(c.warmup >= 0, "warmup", c.warmup, "0 or more");
  require(c.lr_schedule == "constant" || c.lr_schedule == "cosine", "lr-schedule", c.lr_schedule, "constant or cosine");
  require(std::isfinite(c.weight_decay) && c.weight_decay >= 0, "weight-decay", c.weight_decay, "0 or more");
  require(std::isfinite(c.clip) && c.clip >= 0, "clip", c.clip, "0 (no clipping) or more");
  require(c.ema >= 0 && c.ema < 1, "ema", c.ema, "0 (none) or more, and below 1");
  precision_named(c.precision);
  require(c.log_every >= 1, "log-every", c.log_every, "1 or more");
  require(c.save_every >= 0, "save-every", c.save_every, "0 (only at the end) or more");
  require(c.sample_every >= 0, "sample-every", c.sample_every, "0 (only at the end) or more");
  require(c.sample_count >= 0 && c.sample_count <= 4096, "sample-count", c.sample_count, "0 (no grids) to 4096");
  require(c.sample_steps >= 1, "sample-steps", c.sample_steps, "1 or more");
}

nn::UNetConfig unet_config(const TrainConfig& config, int64_t size, int64_t channels, int64_t classes) {
  nn::UNetConfig unet;
  if (config.unet == "custom") {
    unet.base = config.base;
    unet.multipliers = int_list("--mult", config.mult);
    unet.blocks = config.blocks;
    unet.attention = int_list("--attention", config.attention);
    unet.heads = config.heads;
    unet.norm_groups = config.groups;
  } else {
    unet = nn::UNetConfig::preset(config.unet);
  }
  auto halvings = int64_t(unet.multipliers.size()) - 1;
  int64_t factor = int64_t(1) << std::clamp<int64_t>(halvings, 0, 30);
  if (size % factor != 0) {
    int64_t below = size / factor * factor, above = below + factor;
    fail(Error::Kind::usage, "images are ", size, "x", size, ", and --unet ", config.unet, " halves them ", halvings,
         " times, so their size must divide by ", factor, "; give --size ", above,
         below > 0 ? concat_text(" or --size ", below) : std::string());
  }
  if (config.unet == "custom") {
    unet.size = size;
    unet.channels = channels;
  } else {
    unet.fit(size, channels);
  }
  if (config.dropout >= 0) unet.dropout = config.dropout;
  unet.classes = classes;
  unet.validate();
  return unet;
}

nn::OptimizerOptions optimizer_options(const TrainConfig& config) {
  nn::OptimizerOptions options;
  options.lr = config.lr;
  options.weight_decay = config.weight_decay;
  options.clip = config.clip;
  options.warmup = config.warmup;
  options.schedule = config.lr_schedule;
  options.total_steps = config.steps;
  options.ema = config.ema;
  return options;
}

std::string to_json(const TrainConfig& config) { return keys_to_json(config); }

TrainConfig train_config_from_json(const std::string& text) {
  // Files from before there was a choice do not have these two.
  return keys_from_json<TrainConfig>("training configuration", text, {{"precision", "f32"}, {"groups", 0}});
}

std::string to_toml(const TrainConfig& config) {
  return keys_to_toml("train", config, [&](Key key) { return key == Key::custom && config.unet != "custom"; });
}

TrainConfig merge_for_resume(const TrainConfig& saved, const TrainConfig& asked, const std::vector<std::string>& given) {
  return merge_keys(saved, asked, given);
}

}  // namespace mote::apps
