#include "apps/train_config.h"

#include <algorithm>
#include <cmath>

#include "apps/common.h"
#include "diffusion/process.h"

namespace mote::apps {
using config_keys::require;

void validate(const TrainConfig& c) {
  config_keys::require_common(c);
  require(c.dropout < 1, "dropout", c.dropout, "at least 0 and below 1");
  require(c.label_dropout >= 0 && c.label_dropout <= 1, "label-dropout", c.label_dropout, "0 to 1");
  require(c.schedule == "linear" || c.schedule == "cosine", "schedule", c.schedule, "linear or cosine");
  require(c.prediction == "eps" || c.prediction == "x0" || c.prediction == "v", "prediction", c.prediction,
          "eps, x0 or v");
  require(c.steps >= 1, "steps", c.steps, "1 or more");
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
  return config_keys::optimizer_of(config, config.lr, config.steps);
}

std::string to_json(const TrainConfig& config) { return keys_to_json(config); }

TrainConfig train_config_from_json(const std::string& text) {
  // Files from before there was a choice do not have these.
  return keys_from_json<TrainConfig>("training configuration", text, {{"precision", "f32"}, {"groups", 0}, {"labels", ""}});
}

std::string to_toml(const TrainConfig& config) {
  return keys_to_toml("train", config, [&](Key key) { return key == Key::custom && config.unet != "custom"; });
}

TrainConfig merge_for_resume(const TrainConfig& saved, const TrainConfig& asked, const std::vector<std::string>& given) {
  return merge_keys(saved, asked, given);
}

}  // namespace mote::apps
