#include "apps/network_features.h"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "apps/draw.h"
#include "autograd/ops.h"
#include "diffusion/process.h"
#include "tensor/error.h"

namespace mote::apps {
namespace {

constexpr int64_t kBatch = 64;
constexpr uint64_t kNoise = 0x6665617475726573;   // "features": key of the stream that noise is drawn from

}  // namespace

void FeatureOptions::add_options(CLI::App& sub) {
  sub.add_option("--weights", weights, "ema (averaged) or model")->group("Network")->capture_default_str();
  const char* group = "Features";
  sub.add_option("--level", levels, "noise levels of the images, 0 to T - 1; the vectors of several, such as 50,300, stand "
                                    "side by side (default: T / 20)")->group(group);
  sub.add_option("--pool", pool, "mean over pixels, or none: of every pixel of the 7x7 (or so) that the network has there")
      ->group(group)
      ->capture_default_str();
  sub.add_option("--draws", draws, "draws of the noise that a vector is the mean of")->group(group)->capture_default_str();
}

void FeatureOptions::check() const {
  auto require = [](bool holds, const auto&... rule) {
    if (!holds) fail(Error::Kind::usage, rule...);
  };
  require_weights(weights);
  require(pool == "mean" || pool == "none", "--pool: '", pool, "' is not known; mean and none are");
  require(draws >= 1, "--draws: must be 1 or more, got ", draws);
  if (!levels.empty()) int_list("--level", levels);
}

NetworkFeatures::NetworkFeatures(const Checkpoint& checkpoint, const FeatureOptions& options, const CommonOptions& common,
                                 Device device)
    : options_(options),
      seed_(common.seed),
      device_(device),
      schedule_(Schedule::named(checkpoint.schedule, checkpoint.T)),
      unet_(checkpoint.unet, 0),
      levels_(options.levels.empty() ? std::vector{checkpoint.T / 20} : int_list("--level", options.levels)) {
  options.check();
  for (int64_t level : levels_)
    if (level < 0 || level >= checkpoint.T)
      fail(Error::Kind::usage, "--level: must be 0 to ", checkpoint.T - 1, ", got ", level);
  if (checkpoint.unet.classes > 0)
    fail(Error::Kind::usage, checkpoint.path, ": this network is told classes; features are of one that is not");
  unet_.load_state(as_map(weights_of(checkpoint, options.weights)));
  unet_.to(device);
  unet_.set_precision(precision_named(common.precision));
}

Tensor NetworkFeatures::operator()(const Tensor& images, const std::function<void(int64_t)>& done) {
  EvaluationMode mode(unet_);
  int64_t N = images.size(0);
  Tensor all;
  for (int64_t first = 0; first < N; first += kBatch) {
    int64_t end = std::min(N, first + kBatch);
    Tensor x0 = images.rows(first, end).clone().to(device_);
    std::vector<Tensor> parts;
    for (int64_t level : levels_) {
      Tensor step = full({end - first}, double(level), DType::i64), t = step.to(DType::f32).to(device_), sum;
      for (int64_t draw = 0; draw < options_.draws; ++draw) {
        Generator noise = Generator{seed_}.fork(kNoise).fork(uint64_t(draw));
        Tensor x = q_sample(schedule_, x0, step, image_noise(x0.shape(), DType::f32, noise, first, device_));
        Tensor map = unet_.represent(x, t);
        Tensor one = options_.pool == "mean" ? mean(map, {1, 2}) : map.view({end - first, -1});
        sum = sum.defined() ? sum + one : one;
      }
      parts.push_back(affine(sum, 1 / double(options_.draws), 0));
    }
    Tensor rows = concat(parts, 1);
    if (!all.defined()) all = empty({N, rows.size(1)});
    all.rows(first, end).copy_(rows);
    done(end);
  }
  require_finite("features", {{"features", all}});
  return all;
}

}  // namespace mote::apps
