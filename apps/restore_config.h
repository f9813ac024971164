// restore_config.h - everything `mote restore train` can be told, in one list (config_keys.h), and what follows.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "apps/config_keys.h"
#include "diffusion/resensemble/degradation.h"
#include "diffusion/resensemble/model.h"
#include "nn/e2e_net.h"
#include "nn/optim.h"

namespace mote::apps {

struct RestoreConfig {
  // data
  std::string data = "fashion-mnist";
  int64_t size = 0, channels = 0, limit = 0;
  bool flip = false;
  // damage
  std::string task = "denoise", sigma = "25";
  double poisson = 0;
  bool screen = false;
  // end-to-end network
  int64_t e2e_steps = 0;
  std::string e2e_net = "auto", e2e_loss = "l1";
  double e2e_lr = 1e-3;
  // diffusion
  std::string method = "resensemble", net = "auto";
  bool with_prior = false;
  std::string schedule = "paper";
  int64_t T = 1000;
  std::string prediction = "eps";
  // optimisation
  int64_t steps = 10000, batch = 32;
  double lr = 2e-4;
  int64_t warmup = 100;
  std::string lr_schedule = "constant";
  double weight_decay = 0, clip = 1, ema = 0.999;
  std::string precision = "f32";
  uint64_t seed = 0;
  // what is written and when
  int64_t log_every = 10, save_every = 500, sample_every = 500;
  int64_t sample_count = 8, sample_steps = 20;
};

/// Calls fn(name, member, Key, help, section) for every key, in the order of --help.
template <class Config, class Fn>
  requires std::is_same_v<std::remove_const_t<Config>, RestoreConfig>
void for_each_key(Config& c, Fn&& fn) {
  const char* data = "Data";
  fn("data", c.data, Key::data,
     "clean images: fashion-mnist, idx:DIR, cifar10:DIR, folder:DIR, csv:FILE, synthetic:NAME", data);
  fn("size", c.size, Key::numbers, "side of the squares trained on, cut out at random places (0: whole images)", data);
  fn("channels", c.channels, Key::numbers, "1 or 3 (0: as they are)", data);
  fn("limit", c.limit, Key::numbers, "only the first N images (0: all)", data);
  fn("flip", c.flip, Key::numbers, "flip half of the squares left to right", data);
  const char* damage = "Damage";
  fn("task", c.task, Key::numbers, "denoise, deblur, inpaint, sr2, sr4, haze or rain", damage);
  fn("sigma", c.sigma, Key::numbers, "denoise: deviation of the noise in levels of 255, or LOW:HIGH", damage);
  fn("poisson", c.poisson, Key::numbers, "denoise: photons that white stands for, instead of --sigma (0: Gaussian)",
     damage);
  fn("screen", c.screen, Key::numbers, "rain: blended as a screen instead of added", damage);
  const char* e2e = "End-to-end network";
  fn("e2e-steps", c.e2e_steps, Key::numbers,
     "steps of training an end-to-end U-Net first; its output is the prior (0: the damaged image is)", e2e);
  fn("e2e-net", c.e2e_net, Key::numbers, "e-28, e-64, e-128, e-weak, or auto: by the size", e2e);
  fn("e2e-loss", c.e2e_loss, Key::numbers, "l1 or charbonnier", e2e);
  fn("e2e-lr", c.e2e_lr, Key::numbers, "its learning rate, which falls to 0 as a cosine", e2e);
  const char* diffusion = "Diffusion";
  fn("method", c.method, Key::numbers, "resensemble, plain (a conditional DDPM) or resfusion", diffusion);
  fn("net", c.net, Key::numbers,
     "d28-cpu, d28, d32-rgb-cpu, d64-cpu, d64-s2d, d64-gpu, d128-gpu, tiny, or auto: by size and channels", diffusion);
  fn("with-prior", c.with_prior, Key::numbers, "with --e2e-steps: the denoiser sees the prior beside the image",
     diffusion);
  fn("schedule", c.schedule, Key::numbers, "paper (linear), scaled (its ends times 1000 / T) or cosine", diffusion);
  fn("T", c.T, Key::numbers, "diffusion steps (resfusion: of the schedule that is cut off)", diffusion);
  fn("prediction", c.prediction, Key::numbers, "what the denoiser predicts: eps, x0 or v", diffusion);
  const char* optimisation = "Optimisation";
  fn("steps", c.steps, Key::steps, "steps of training the diffusion; may grow with --resume", optimisation);
  fn("batch", c.batch, Key::numbers, "images a step", optimisation);
  fn("lr", c.lr, Key::numbers, "learning rate of the diffusion", optimisation);
  fn("warmup", c.warmup, Key::numbers, "steps over which each rate grows from 0", optimisation);
  fn("lr-schedule", c.lr_schedule, Key::numbers, "constant, or cosine: to 0 at --steps", optimisation);
  fn("weight-decay", c.weight_decay, Key::numbers, "AdamW weight decay", optimisation);
  fn("clip", c.clip, Key::numbers, "largest gradient norm (0: no clipping)", optimisation);
  fn("ema", c.ema, Key::numbers, "decay of the averaged weights, which restore (0: none)", optimisation);
  const char* output = "Output";
  fn("log-every", c.log_every, Key::free, "steps between records of log.jsonl", output);
  fn("save-every", c.save_every, Key::free, "steps between checkpoints (0: only at the end)", output);
  fn("sample-every", c.sample_every, Key::free, "steps between grids (0: only at the end)", output);
  fn("sample-count", c.sample_count, Key::free, "images in a grid (0: no grids)", output);
  fn("sample-steps", c.sample_steps, Key::free, "ddim steps of a grid", output);
  fn("precision", c.precision, Key::numbers, "", kCommonSection);
}

/// Error(usage) naming the flag for every value outside its range.
void validate(const RestoreConfig& config);

/// What is done to squares of this side. Error(usage) for a --sigma that is no number and no LOW:HIGH.
resensemble::Degradation degradation_of(const RestoreConfig& config, int64_t size);
/// --sigma and --poisson as Degradation has them, from the words of the flags.
void set_noise(resensemble::Degradation& degradation, const std::string& sigma, double poisson);

/// The diffusion for squares of this size; Error(usage) if its network does not fit them.
resensemble::ModelConfig model_config(const RestoreConfig& config, int64_t size, int64_t channels);
/// The end-to-end network; none if --e2e-steps is 0. Error(usage) likewise.
std::optional<nn::E2ENetConfig> e2e_config(const RestoreConfig& config, int64_t size, int64_t channels);

/// Of the diffusion, or of the end-to-end network.
nn::OptimizerOptions optimizer_options(const RestoreConfig& config, bool is_e2e);

std::string to_json(const RestoreConfig& config);
/// Error(checkpoint) on text that is not JSON, on unknown and on missing keys.
RestoreConfig restore_config_from_json(const std::string& text);
/// config.toml: reads back with `mote restore train --config`.
std::string to_toml(const RestoreConfig& config);

}  // namespace mote::apps
