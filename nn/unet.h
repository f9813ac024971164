// unet.h - the DDPM UNet [Ho 2020]: residual blocks with a time embedding, attention at chosen resolutions, skips.
// Layout and initialisation: papers/pndm.md section 8 (docs/equations.md here). Input and output are [N, H, W, C].
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "nn/layers.h"

namespace mote::nn {

struct UNetConfig {
  int64_t size = 28;                      // height and width of an image
  int64_t channels = 1;                   // in and out
  int64_t base = 32;                      // width at full resolution
  std::vector<int64_t> multipliers = {1, 2, 2};
  int64_t blocks = 2;                     // residual blocks a level on the way down (one more on the way up)
  std::vector<int64_t> attention = {14};  // resolutions with attention; the middle always has it
  int64_t heads = 1;
  double dropout = 0.1;
  int64_t classes = 0;                    // 0: unconditional; else classes + one null class for guidance

  /// "tiny" (base 16), "fmnist" (base 32; 1,2,2; attention 14), "cifar10" (base 128; 1,2,2,2; attention 16;
  /// 328 tensors, 35,746,307 parameters). Throws Error(usage) listing the names otherwise.
  static UNetConfig preset(const std::string& name);
  /// Throws Error(usage) unless size divides by 2^(levels - 1), widths by their groups and so on.
  void validate() const;
  /// Groups of a GroupNorm over `width` channels: min(32, width / 4).
  static int64_t groups(int64_t width);
  bool operator==(const UNetConfig&) const = default;
};

/// Json text of a config, for checkpoints, and back. Throws Error(checkpoint) on a missing or unknown key.
std::string to_json(const UNetConfig& config);
UNetConfig unet_config_from_json(const std::string& text);

class UNet : public Module {
 public:
  /// Parameters are drawn from `seed` (DDPM's fan-average uniform; the last conv of each block starts at ~0).
  UNet(const UNetConfig& config, uint64_t seed);

  /// Output of the network for x [N, H, W, C], at times t f32 [N] (fractional is legal) and, for a conditional
  /// network, class ids i64 [N] (config.classes = the null class). Same shape as x.
  Tensor forward(const Tensor& x, const Tensor& t, const Tensor& class_ids = {});

  const UNetConfig& config() const { return config_; }
  /// Where dropout draws from; put it in a checkpoint and back for an exact resume.
  Generator& generator() { return generator_; }
  /// Recompute every residual block in backward instead of keeping its activations.
  void set_recompute(bool on) { recompute_ = on; }

 private:
  struct Level;
  UNetConfig config_;
  Generator generator_;
  bool recompute_ = false;
  // (layers follow in unet.cpp's constructor order)
  struct Layers;
  std::shared_ptr<Layers> layers_;
};

}  // namespace mote::nn
