// cmd_cluster_features.cpp - `mote cluster features`: vectors of images out of an unconditional diffusion network, for
// `mote gmm` to find clusters in.
#include <CLI/CLI.hpp>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/cmd_cluster.h"
#include "apps/commands.h"
#include "apps/draw.h"
#include "apps/ot_commands.h"
#include "apps/progress.h"
#include "apps/signals.h"
#include "diffusion/process.h"
#include "tensor/io/npy.h"

namespace mote::apps {
namespace {

constexpr int64_t kBatch = 64;
constexpr uint64_t kNoise = 0x6665617475726573;   // "features": key of the stream that noise is drawn from

struct FeatureOptions {
  CommonOptions common;
  std::string run, ckpt, weights = "ema", data, split = "train", out, labels;
  int64_t level = -1, draws = 1, limit = 0;
};

/// f32 [N, C]: UNet::represent of noisy images, a mean over draws of the noise. Image i depends on (seed, i) alone.
Tensor features_of(nn::UNet& unet, const Schedule& schedule, const FeatureOptions& o, const Tensor& images, Device device) {
  EvaluationMode mode(unet);
  int64_t N = images.size(0);
  Tensor all;
  Progress progress("features", 0, N, "image", o.common.quiet);
  for (int64_t first = 0; first < N; first += kBatch) {
    exit_if_stopped();
    int64_t end = std::min(N, first + kBatch);
    Tensor x0 = to_unit(images.rows(first, end)).to(device), sum;
    Tensor step = full({end - first}, double(o.level), DType::i64), t = step.to(DType::f32).to(device);
    for (int64_t draw = 0; draw < o.draws; ++draw) {
      Generator noise = Generator{o.common.seed}.fork(kNoise).fork(uint64_t(draw));
      Tensor x = q_sample(schedule, x0, step, image_noise(x0.shape(), DType::f32, noise, first, device));
      Tensor one = unet.represent(x, t);
      sum = sum.defined() ? sum + one : one;
    }
    if (!all.defined()) all = empty({N, sum.size(1)});
    all.rows(first, end).copy_(affine(sum, 1 / double(o.draws), 0));
    progress.update(end);
  }
  progress.finish();
  require_finite("features", {{"features", all}});
  return all;
}

void run_features(FeatureOptions o) {
  auto require = [](bool holds, const auto&... rule) {
    if (!holds) fail(Error::Kind::usage, rule...);
  };
  require(!o.out.empty(), "--out: name the file for the features, FILE.npy");
  require(o.weights == "ema" || o.weights == "model", "--weights: '", o.weights, "' is not known; ema and model are");
  require(o.draws >= 1, "--draws: must be 1 or more, got ", o.draws);
  require(o.limit >= 0, "--limit: must be 0 (all) or more, got ", o.limit);
  Device device = start(o.common);
  Checkpoint checkpoint = checkpoint_of(o.run, o.ckpt);
  require(checkpoint.unet.classes == 0, checkpoint.path, ": this network is told classes; features are of one that is not");
  if (o.level < 0) o.level = checkpoint.T / 20;
  require(o.level < checkpoint.T, "--level: must be 0 to ", checkpoint.T - 1, ", got ", o.level);
  Dataset data = network_data(checkpoint, o.data, o.split);
  require(o.labels.empty() || data.labels.defined(), "--labels: the images of ", data.name, " have no labels");
  int64_t count = o.limit > 0 ? std::min(o.limit, data.count()) : data.count();
  nn::UNet unet(checkpoint.unet, 0);
  unet.load_state(as_map(weights_of(checkpoint, o.weights)));
  unet.to(device);
  unet.set_precision(precision_named(o.common.precision));
  watch_signals("\nmote: stopping\n");
  Tensor features =
      features_of(unet, Schedule::named(checkpoint.schedule, checkpoint.T), o, data.images.rows(0, count), device);
  io::save_npy(o.out, features);
  if (!o.labels.empty()) io::save_npy(o.labels, data.labels.rows(0, count));
  if (o.common.json) {
    nlohmann::ordered_json json = {{"file", o.out}, {"images", count}, {"width", features.size(1)}, {"level", o.level},
                                   {"draws", o.draws}, {"data", data.name}, {"checkpoint", checkpoint.path},
                                   {"checkpoint_hash", checkpoint.hash}};
    std::cout << json.dump(2) << "\n";
    return;
  }
  std::cout << o.out << ": " << count_text(count) << " images of " << data.name << ", " << features.size(1)
            << " numbers each, at level " << o.level << " of " << checkpoint.T << "\n";
}

}  // namespace

void add_cluster_features(CLI::App& cluster) {
  auto o = std::make_shared<FeatureOptions>();
  CLI::App& sub = add_command(cluster, "features", "Vectors of images out of a trained diffusion network, for mote gmm",
                              "mote cluster features --run runs/first --limit 20000 --out f.npy --labels labels.npy\n"
                              "  mote gmm fit f.npy --k 10 --covariance full --standardize --restarts 10 --out mixture.safetensors \\\n"
                              "    --assignments clusters.csv\n"
                              "  mote eval cluster --pred clusters.csv --truth labels.npy",
                              o->common, [o] { run_features(*o); });
  sub.add_option("--run", o->run, "run folder of mote train; its newest checkpoint is used")->group("Network");
  sub.add_option("--ckpt", o->ckpt, "checkpoint file, instead of --run")->group("Network");
  sub.add_option("--weights", o->weights, "ema (averaged) or model")->group("Network")->capture_default_str();
  sub.add_option("--data", o->data, "images (default: those of the run)")->group("Data");
  sub.add_option("--split", o->split, "train or test")->group("Data")->capture_default_str();
  sub.add_option("--limit", o->limit, "only the first N images (0: all)")->group("Data")->capture_default_str();
  sub.add_option("--level", o->level, "noise level of the images, 0 to T - 1 (default: T / 20)")->group("Features");
  sub.add_option("--draws", o->draws, "draws of the noise that a vector is the mean of")->group("Features")->capture_default_str();
  sub.add_option("--out", o->out, "FILE.npy, f32 [images, width]")->group("Output");
  sub.add_option("--labels", o->labels, "FILE.npy for the labels of the images, for mote eval cluster")->group("Output");
}

}  // namespace mote::apps
