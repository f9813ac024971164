// network_features.h - vectors of images out of a trained unconditional diffusion network, for the commands that look for
// clusters in them.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "apps/checkpoint.h"
#include "apps/common.h"
#include "diffusion/schedule.h"
#include "nn/unet.h"

namespace CLI {
class App;
}

namespace mote::apps {

struct FeatureOptions {
  std::string weights = "ema", levels, pool = "mean";   // levels: a list, T / 20 if empty
  int64_t draws = 1;

  /// --weights, --level, --pool, --draws.
  void add_options(CLI::App& sub);
  /// Throws Error(usage) for what no network takes.
  void check() const;
};

class NetworkFeatures {
 public:
  /// Throws Error(usage) for options that are not known or do not fit the network, and for one that is told classes.
  NetworkFeatures(const Checkpoint& checkpoint, const FeatureOptions& options, const CommonOptions& common, Device device);

  /// f32 [N, width]: UNet::represent of the images after noise of each level, a mean over draws of the noise, over pixels
  /// or pixel after pixel, one level beside the other. Row i depends on (seed, i) alone.
  ///   images  f32 [N, H, W, C] in [-1, 1]; done(n): n of them are done
  Tensor operator()(const Tensor& images, const std::function<void(int64_t)>& done);

  const std::vector<int64_t>& levels() const { return levels_; }

 private:
  FeatureOptions options_;
  uint64_t seed_;
  Device device_;
  Schedule schedule_;
  nn::UNet unet_;
  std::vector<int64_t> levels_;
};

}  // namespace mote::apps
