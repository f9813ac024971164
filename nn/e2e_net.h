// e2e_net.h - end-to-end networks from an image to a mask or a restored image: a plain U-Net, and a coarse FCN that is
// weak on purpose. Their frozen output is the prior of diffusion/resensemble. Losses are in segmentation_losses.h.
#pragma once
#include <deque>
#include <optional>

#include "nn/layers.h"

namespace mote::nn {

struct E2ENetConfig {
  std::string kind = "unet";              // or "fcn": stride-8 encoder, 1x1 classifier, 8-fold bilinear upsampling
  int64_t channels_in = 1, channels_out = 1;
  std::vector<int64_t> widths = {16, 32, 64};   // a level each
  bool residual = false;                  // the output is the input plus what the network gives (restoration)

  /// "e-28" (16,32,64), "e-64" (16..128), "e-128" (32..512), "e-weak" (fcn 16,32,64).
  /// Throws Error(usage) listing the names otherwise.
  static E2ENetConfig preset(const std::string& name);
  /// The multiple that height and width are brought to inside.
  int64_t stride() const;
  void validate() const;   // Error(usage)
  bool operator==(const E2ENetConfig&) const = default;
};
std::string to_json(const E2ENetConfig& config);
E2ENetConfig e2e_net_config_from_json(const std::string& text);   // Error(checkpoint)

/// unet: per level two times 3x3 convolution, GroupNorm, ReLU; max pooling down, nearest neighbours up, skips joined;
/// a 1x1 convolution to the output. fcn: the same levels on the way down only.
class E2ENet : public Module {
 public:
  E2ENet(const E2ENetConfig& config, uint64_t seed);
  /// x [N, H, W, channels_in] in [-1, 1] of any size; logits or image [N, H, W, channels_out] of its dtype. Where H or
  /// W is no multiple of stride(), zeros are added below and on the right, and cut off again.
  Tensor forward(const Tensor& x) const;
  const E2ENetConfig& config() const { return config_; }

 private:
  struct Block {
    std::deque<Conv2d> convs;
    std::deque<GroupNorm> norms;
  };
  void fill(Block& block, const std::string& name, int64_t in, int64_t out, const Init& init);
  static Tensor run(const Block& block, Tensor x);
  E2ENetConfig config_;
  std::deque<Block> down_, up_;
  std::optional<Conv2d> out_;
};

/// Bilinear enlargement of x [N, H, W, C] by a whole factor, pixel centres at halves, edges repeated; differentiated.
Tensor upsample_bilinear(const Tensor& x, int64_t factor);

}  // namespace mote::nn
