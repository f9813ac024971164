// train_config.h - everything `mote train` can be told, in one list: the flags, the resolved config.toml, the record in
// the checkpoint and the comparison on --resume all walk for_each_key, so that none of them can forget a key.
#pragma once
#include <string>
#include <vector>

#include "apps/config_keys.h"
#include "nn/optim.h"
#include "nn/unet.h"

namespace mote::apps {

struct TrainConfig {
  // data
  std::string data = "fashion-mnist";
  int64_t size = 0, channels = 0, limit = 0;
  std::string labels;
  bool flip = false;
  // network
  std::string unet = "fmnist";
  int64_t base = 32;
  std::string mult = "1,2,2";
  int64_t blocks = 2;
  std::string attention = "14";
  int64_t heads = 1;
  int64_t groups = 0;
  double dropout = -1;            // below 0: as the preset has it
  bool recompute = false;
  bool class_cond = false;
  double label_dropout = 0.1;
  // diffusion
  std::string schedule = "linear";
  int64_t T = 1000;
  std::string prediction = "eps";
  // optimisation
  int64_t steps = 10000, batch = 64;
  double lr = 2e-4;
  int64_t warmup = 0;
  std::string lr_schedule = "constant";
  double weight_decay = 0, clip = 1, ema = 0.9999;
  std::string precision = "f32";  // --precision, a common flag
  uint64_t seed = 0;              // --seed, a common flag
  // what is written and when; 0: only at the end (samples, saves)
  int64_t log_every = 10, save_every = 500, sample_every = 500;
  int64_t sample_count = 16, sample_steps = 50;
};

/// Calls fn(name, member, Key, help, section) for every key, in the order of --help. The name is the flag without "--".
template <class Config, class Fn>
  requires std::is_same_v<std::remove_const_t<Config>, TrainConfig>
void for_each_key(Config& c, Fn&& fn) {
  const char* data = "Data";
  fn("data", c.data, Key::data, "fashion-mnist, idx:DIR, cifar10:DIR, folder:DIR, csv:FILE, synthetic:NAME", data);
  fn("size", c.size, Key::numbers, "resize images to this height and width (0: as they are)", data);
  fn("channels", c.channels, Key::numbers, "1 or 3 (0: as they are)", data);
  fn("limit", c.limit, Key::numbers, "only the first N images (0: all)", data);
  fn("labels", c.labels, Key::data, "labels in place of the set's own, such as the clusters of `mote gmm fit --assignments`",
     data);
  fn("flip", c.flip, Key::numbers, "flip half of the images left to right", data);
  const char* network = "Network";
  fn("unet", c.unet, Key::numbers, "tiny, fmnist, cifar10, or custom with the six flags below", network);
  fn("base", c.base, Key::custom, "custom: channels at full resolution", network);
  fn("mult", c.mult, Key::custom, "custom: channel multipliers, one a level", network);
  fn("blocks", c.blocks, Key::custom, "custom: residual blocks a level", network);
  fn("attention", c.attention, Key::custom, "custom: resolutions with attention, such as 14,7", network);
  fn("heads", c.heads, Key::custom, "custom: attention heads", network);
  fn("groups", c.groups, Key::custom, "custom: groups of every norm, for diffusers (0: min(32, width / 4))", network);
  fn("dropout", c.dropout, Key::numbers, "dropout in residual blocks (default: as the preset has it)", network);
  fn("recompute", c.recompute, Key::free, "recompute activations in backward: less memory, more time", network);
  fn("class-cond", c.class_cond, Key::numbers, "train with the labels, for --class and --guidance", network);
  fn("label-dropout", c.label_dropout, Key::numbers, "with --class-cond: share of labels hidden", network);
  const char* diffusion = "Diffusion";
  fn("schedule", c.schedule, Key::numbers, "noise schedule: linear or cosine", diffusion);
  fn("T", c.T, Key::numbers, "diffusion steps", diffusion);
  fn("prediction", c.prediction, Key::numbers, "what the network predicts: eps, x0 or v", diffusion);
  const char* optimisation = "Optimisation";
  fn("steps", c.steps, Key::steps, "training steps in all; may grow with --resume", optimisation);
  fn("batch", c.batch, Key::numbers, "images a step", optimisation);
  fn("lr", c.lr, Key::numbers, "learning rate", optimisation);
  fn("warmup", c.warmup, Key::numbers, "steps over which the learning rate grows from 0", optimisation);
  fn("lr-schedule", c.lr_schedule, Key::numbers, "constant, or cosine: to 0 at --steps", optimisation);
  fn("weight-decay", c.weight_decay, Key::numbers, "AdamW weight decay", optimisation);
  fn("clip", c.clip, Key::numbers, "largest gradient norm (0: no clipping)", optimisation);
  fn("ema", c.ema, Key::numbers, "decay of the averaged weights (0: none)", optimisation);
  const char* output = "Output";
  fn("log-every", c.log_every, Key::free, "steps between records of log.jsonl", output);
  fn("save-every", c.save_every, Key::free, "steps between checkpoints (0: only at the end)", output);
  fn("sample-every", c.sample_every, Key::free, "steps between sample grids (0: only at the end)", output);
  fn("sample-count", c.sample_count, Key::free, "images in a sample grid (0: no grids)", output);
  fn("sample-steps", c.sample_steps, Key::free, "ddim steps of a sample grid", output);
  fn("precision", c.precision, Key::numbers, "", kCommonSection);
}

/// Error(usage) naming the flag for every value outside its range.
void validate(const TrainConfig& config);

/// The network for images of this size: the preset fitted to it, or the custom flags. Error(usage) naming --size if the
/// size does not divide. `classes` is 0 for an unconditional one.
nn::UNetConfig unet_config(const TrainConfig& config, int64_t size, int64_t channels, int64_t classes);
nn::OptimizerOptions optimizer_options(const TrainConfig& config);

std::string to_json(const TrainConfig& config);
/// Error(checkpoint) on text that is not JSON, on unknown and on missing keys.
TrainConfig train_config_from_json(const std::string& text);
/// config.toml: reads back with `mote train --config`.
std::string to_toml(const TrainConfig& config);

/// The config to resume with: `saved`, with the keys in `given` (flag names without "--") taken from `asked` where they
/// may change. Error(usage) listing every flag that would train something else.
TrainConfig merge_for_resume(const TrainConfig& saved, const TrainConfig& asked, const std::vector<std::string>& given);

}  // namespace mote::apps
