// segment_config.h - all that `mote segment train-e2e` and `train-ddpm` can be told, each as one list of keys (the idea
// is in train_config.h): what is asked of the data, and the settings of the end-to-end model and of the residual DDPM.
#pragma once
#include "apps/config_keys.h"
#include "apps/pairs.h"
#include "apps/seg_batch.h"
#include "diffusion/resensemble/classes.h"
#include "diffusion/resensemble/model.h"
#include "nn/e2e_net.h"
#include "nn/optim.h"

namespace mote::apps {

/// What both are told of the data; a run keeps it, and everything that uses the run loads the same.
struct SegmentData {
  std::string data = "synthetic:fashionseg28";
  int64_t size = 0, channels = 0, limit = 0, classes = 0, ignore = -1;
  std::string colours{};
};

template <class Config, class Fn>
void for_each_data_key(Config& c, Fn&& fn) {
  const char* data = "Data";
  fn("data", c.data, Key::data,
     "images with masks: pairs:DIR, or synthetic: fashionseg28, fashionseg64, discs28, digits64", data);
  fn("size", c.size, Key::numbers, "resize to this height and width (0: as they are)", data);
  fn("channels", c.channels, Key::numbers, "1 or 3 (0: as they are)", data);
  fn("limit", c.limit, Key::numbers, "only N images of each part (0: all)", data);
  fn("classes", c.classes, Key::numbers, "classes of the masks (0: as the data say)", data);
  fn("ignore", c.ignore, Key::numbers, "a mask value that belongs to no class (-1: as the data say)", data);
  fn("colours", c.colours, Key::data, "colour file, for masks with a palette or in colour", data);
}

struct E2EConfig : SegmentData {
  std::string net = "e-28";
  int64_t folds = 0, fold = 0;
  bool mirror = true, turn = false;
  int64_t shift = 2, crop = 0;
  int64_t epochs = 30, batch = 32, warmup = 0;
  double lr = 1e-3, weight_decay = 1e-4, clip = 1;
  static constexpr double ema = 0;   // the weights of the best validation are kept instead of averages
  std::string lr_schedule = "cosine";
  std::string precision = "f32";
  uint64_t seed = 0;
  int64_t log_every = 10, save_every = 500;
};

template <class Config, class Fn>
  requires std::is_same_v<std::remove_const_t<Config>, E2EConfig>
void for_each_key(Config& c, Fn&& fn) {
  for_each_data_key(c, fn);
  const char* network = "Network";
  fn("net", c.net, Key::numbers, "e-28, e-64, e-128, or e-weak (coarse on purpose)", network);
  const char* folds = "Cross-fitting";
  fn("folds", c.folds, Key::numbers, "cut the training part into this many folds (0: none)", folds);
  fn("fold", c.fold, Key::numbers, "the fold that is left out, from 0", folds);
  const char* moves = "Augmentation";
  fn("mirror", c.mirror, Key::numbers, "mirror half of the images left to right (--mirror=false: none)", moves);
  fn("turn", c.turn, Key::numbers, "turn by quarters", moves);
  fn("shift", c.shift, Key::numbers, "shift by up to so many pixels", moves);
  fn("crop", c.crop, Key::numbers, "train on random squares of this side (0: whole pictures)", moves);
  const char* optimisation = "Optimisation";
  fn("epochs", c.epochs, Key::steps, "passes over the training part", optimisation);
  fn("batch", c.batch, Key::numbers, "images a step", optimisation);
  fn("lr", c.lr, Key::numbers, "learning rate", optimisation);
  fn("warmup", c.warmup, Key::numbers, "steps over which it grows from 0", optimisation);
  fn("lr-schedule", c.lr_schedule, Key::numbers, "constant, or cosine: to 0 at the end", optimisation);
  fn("weight-decay", c.weight_decay, Key::numbers, "AdamW weight decay", optimisation);
  fn("clip", c.clip, Key::numbers, "largest gradient norm (0: no clipping)", optimisation);
  const char* output = "Output";
  fn("log-every", c.log_every, Key::free, "steps between records of log.jsonl", output);
  fn("save-every", c.save_every, Key::free, "steps between checkpoints (0: only at the end)", output);
}

struct DdpmConfig : SegmentData {
  std::string e2e, f, f_dir;   // where the prior comes from
  std::string net = "d28-cpu", condition = "concat";
  int64_t rrdb = 1;
  bool see_f = false, hard_f = false;
  std::string target = "residual", target_scale = "1", schedule = "paper", prediction = "eps", coding = "auto";
  int64_t T = 1000;
  double foreground = 0;
  bool mirror = true, turn = false;
  int64_t shift = 2;
  int64_t steps = 5000, batch = 32, warmup = 100;
  double lr = 2e-4, weight_decay = 0, clip = 1, ema = 0.999;
  std::string lr_schedule = "constant";
  std::string precision = "f32";
  uint64_t seed = 0;
  int64_t log_every = 20, save_every = 500, sample_every = 1000, sample_steps = 20, sample_count = 64;
};

template <class Config, class Fn>
  requires std::is_same_v<std::remove_const_t<Config>, DdpmConfig>
void for_each_key(Config& c, Fn&& fn) {
  for_each_data_key(c, fn);
  const char* prior = "Prior";
  fn("e2e", c.e2e, Key::data, "run of train-e2e whose output is f", prior);
  fn("f", c.f, Key::data, "file of cache-f (cross-fitted f), instead of --e2e", prior);
  fn("f-dir", c.f_dir, Key::data, "a folder with a probability map (png, npy) for each image, instead of --e2e", prior);
  fn("hard-f", c.hard_f, Key::numbers, "f is the decision, not the probability", prior);
  const char* network = "Network";
  fn("net", c.net, Key::numbers, "d28-cpu, d28, d32-rgb-cpu, d64-cpu, d64-s2d, d64-gpu, d128-gpu, tiny", network);
  fn("condition", c.condition, Key::numbers, "concat: the image joins the input; sum: an encoding of it is added",
     network);
  fn("rrdb", c.rrdb, Key::numbers, "with --condition sum: blocks of the image encoder", network);
  fn("see-f", c.see_f, Key::numbers, "the network sees f too (ours; the paper conditions on the image alone)", network);
  const char* diffusion = "Diffusion";
  fn("target", c.target, Key::numbers, "residual (the paper), residual:LAMBDA, scaled:S, plain, plain:S, or resfusion",
     diffusion);
  fn("target-scale", c.target_scale, Key::numbers, "the target is divided by this, or auto: its root mean square",
     diffusion);
  fn("schedule", c.schedule, Key::numbers, "paper, scaled, or cosine", diffusion);
  fn("T", c.T, Key::numbers, "diffusion steps", diffusion);
  fn("prediction", c.prediction, Key::numbers, "what the network predicts: eps, x0, or v", diffusion);
  fn("coding", c.coding, Key::numbers,
     "masks as binary, one-hot or bits (auto: binary for 2 classes, one-hot up to 12)", diffusion);
  fn("foreground", c.foreground, Key::numbers, "additional weight of foreground pixels in the loss", diffusion);
  const char* moves = "Augmentation";
  fn("mirror", c.mirror, Key::numbers, "mirror half of the images left to right (--mirror=false: none)", moves);
  fn("turn", c.turn, Key::numbers, "turn by quarters", moves);
  fn("shift", c.shift, Key::numbers, "shift by up to so many pixels", moves);
  const char* optimisation = "Optimisation";
  fn("steps", c.steps, Key::steps, "training steps; may grow with --resume", optimisation);
  fn("batch", c.batch, Key::numbers, "images a step", optimisation);
  fn("lr", c.lr, Key::numbers, "learning rate", optimisation);
  fn("warmup", c.warmup, Key::numbers, "steps over which it grows from 0", optimisation);
  fn("lr-schedule", c.lr_schedule, Key::numbers, "constant, or cosine: to 0 at --steps", optimisation);
  fn("weight-decay", c.weight_decay, Key::numbers, "AdamW weight decay", optimisation);
  fn("clip", c.clip, Key::numbers, "largest gradient norm (0: no clipping)", optimisation);
  fn("ema", c.ema, Key::numbers, "decay of the averaged weights, which sample (0: none)", optimisation);
  const char* output = "Output";
  fn("log-every", c.log_every, Key::free, "steps between records of log.jsonl", output);
  fn("save-every", c.save_every, Key::free, "steps between checkpoints (0: only at the end)", output);
  fn("sample-every", c.sample_every, Key::free, "steps between validations by sampling (0: only at the end)", output);
  fn("sample-steps", c.sample_steps, Key::free, "ddim steps of such a validation", output);
  fn("sample-count", c.sample_count, Key::free, "validation images that are sampled, 3 times each (0: none)", output);
  fn("precision", c.precision, Key::numbers, "", kCommonSection);
}

/// Error(usage) naming the flag for every value outside its range.
void validate(const E2EConfig& config);
void validate(const DdpmConfig& config);

/// What of the data is loaded: part `split`.
PairOptions pair_options(const SegmentData& data, const std::string& split);

/// The network for these data: one logit for two classes, else one a class.
nn::E2ENetConfig e2e_net_config(const E2EConfig& config, const Pairs& data);
resensemble::Coding coding_of(const DdpmConfig& config, int64_t classes);
/// The model for these data, its scale 1 if it is to be measured ("auto"). Error(usage) if they do not fit the network.
resensemble::ModelConfig model_config(const DdpmConfig& config, const Pairs& data);

/// Masks u8 as class numbers i64, kIgnored among them.
Tensor class_ids(const Tensor& masks);

}  // namespace mote::apps
