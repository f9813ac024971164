// cluster_net.h - the two networks of ClusterDDPM: an encoder that turns an image into a Gaussian over codes, and a UNet
// that predicts noise and is told the code through multiplicative gates. Layout and sizes: the paper's code, whose
// BatchNorm is GroupNorm here unless asked for: statistics over a batch mix images of different noise levels.
// What they are trained for is in diffusion/cluster/.
#pragma once
#include <deque>
#include <optional>
#include <utility>

#include "nn/layers.h"

namespace mote::nn {

struct ClusterNetConfig {
  int64_t size = 28;          // height and width of an image, a multiple of 4
  int64_t channels = 1;
  int64_t width = 64;         // n, a multiple of 8: channels at full resolution
  int64_t latent = 32;        // J, numbers of a code
  bool batch_norm = false;    // as in the paper's code
  /// Throws Error(usage) listing every problem.
  void validate() const;
  bool operator==(const ClusterNetConfig&) const = default;
};

/// Two halves of gelu(norm(conv3x3(x))). As a residual block the output is (x + second) / 1.414, where the channels
/// change (first + second) / 1.414.
class ConvBlock : public Module {
 public:
  ConvBlock(int64_t in, int64_t out, bool residual, bool batch_norm, const Init& init);
  Tensor forward(const Tensor& x) const;   // [N, H, W, in] -> [N, H, W, out]

 private:
  /// A convolution and the norm behind it, of whichever kind.
  struct Half {
    Half(int64_t in, int64_t out, bool batch_norm, const Init& init);
    Tensor forward(const Tensor& x) const;
    Conv2d conv;
    std::optional<GroupNorm> group;
    std::optional<BatchNorm> batch;
  };
  void adopt_half(const std::string& number, Half& half);

  bool residual_, same_width_;
  Half first_, second_;
};

/// Linear, gelu, linear: what a gate's factors and shifts are made with.
class GateEmbedding : public Module {
 public:
  GateEmbedding(int64_t in, int64_t out, const Init& init);
  Tensor forward(const Tensor& x) const;   // [N, in] -> [N, out]

 private:
  Linear first_, second_;
};

/// q(z | x) = N(mean, diag e^log_variance) for each image.
class ClusterEncoder : public Module {
 public:
  ClusterEncoder(const ClusterNetConfig& config, const Init& init);
  /// x [N, size, size, channels] in f32, bf16 or f64 -> mean and log variance [N, latent], in f32 (f64 of f64).
  /// The image is halved twice, averaged over what is left, and read out by two linear layers.
  std::pair<Tensor, Tensor> forward(const Tensor& x) const;

 private:
  ClusterNetConfig config_;
  ConvBlock init_, down1_, down2_;
  Linear mean_, log_variance_;
};

/// Noise prediction eps(x_t, z, t): a UNet of two halvings whose two decoder entries are gated,
///   h <- a(z) * h + b(t)   a channel, first on the smallest map, then on the one above it
/// with small networks a and b. t is a number in [0, 1], level / T.
class ClusterUNet : public Module {
 public:
  ClusterUNet(const ClusterNetConfig& config, const Init& init);
  /// x [N, size, size, channels]; time f32 [N]; code [N, latent] of f32 (f64 of f64). Shape and dtype of x.
  Tensor forward(const Tensor& x, const Tensor& time, const Tensor& code) const;

 private:
  struct Up {   // joins, doubles the size, two blocks
    Up(int64_t in, int64_t out, bool batch_norm, const Init& init);
    Tensor forward(const Tensor& h, const Tensor& skip) const;
    ConvTransposed2d grow;
    ConvBlock first, second;
  };
  void adopt_up(const std::string& name, Up& up);

  ClusterNetConfig config_;
  ConvBlock init_, down1_, down2_;
  ConvTransposed2d up0_;
  GroupNorm up0_norm_;
  GateEmbedding code1_, time1_, code2_, time2_;
  Up up1_, up2_;
  Conv2d out1_;
  GroupNorm out_norm_;
  Conv2d out2_;
};

}  // namespace mote::nn
