// denoiser.h - a UNet that is told an image (and a prior) besides the noisy state: joined to the input, or encoded once
// by an RRDB network and added behind the first convolution [SegDiff, Amit 2021].
#pragma once
#include <deque>
#include <memory>

#include "nn/unet.h"

namespace mote::nn {

struct DenoiserConfig {
  int64_t size = 28;              // height and width of state and image
  int64_t channels = 1;           // of the state (mask)
  int64_t image_channels = 1;
  bool with_prior = false;        // the network sees f (`channels` of them) too
  std::string condition = "concat";   // or "sum": first convolution of the state (and f) + encoding of the image
  int64_t rrdb = 1;               // sum: blocks of the encoder
  int64_t fold = 1;               // 2: every 2 x 2 pixels of all inputs are one pixel of four times the channels
  UNetConfig unet;                // what presets choose; size, channels and in_channels follow from the above

  /// d28-cpu, d28, d32-rgb-cpu, d64-cpu, d64-s2d, d64-gpu, d128-gpu at their size, or `tiny` for tests: base 8, (1, 2).
  /// Throws Error(usage) listing the names otherwise.
  static DenoiserConfig preset(const std::string& name);
  /// Fills in what follows and checks: Error(usage). Returns *this.
  DenoiserConfig& fit(int64_t size, int64_t channels, int64_t image_channels, bool with_prior);
  bool operator==(const DenoiserConfig&) const = default;
};
std::string to_json(const DenoiserConfig& config);
DenoiserConfig denoiser_config_from_json(const std::string& text);   // Error(checkpoint)

/// Image encoder of SegDiff: 3x3 convolution to 64, `blocks` of three dense blocks (five convolutions, growth 32,
/// LeakyReLU 0.2, residual scale 0.2 inside and outside), a convolution around them all, two more to `out` channels.
class Rrdb : public Module {
 public:
  Rrdb(int64_t in, int64_t out, int64_t blocks, const Init& init);
  Tensor forward(const Tensor& x) const;   // [N, H, W, in] -> [N, H, W, out]

 private:
  Conv2d first_, trunk_, last1_, last2_;
  std::deque<Conv2d> dense_;   // blocks * 3 * 5
};

class Denoiser : public Module {
 public:
  Denoiser(const DenoiserConfig& config, uint64_t seed);
  /// What is computed once an image: the image itself (concat, joined with f if it is seen), or its encoding (sum).
  struct Condition {
    Tensor input;      // joined to the state; undefined if there is nothing to join
    Tensor encoding;   // sum: [N, H, W, base]
    int64_t count() const { return input.defined() ? input.size(0) : encoding.size(0); }
    Condition rows(const std::vector<int64_t>& rows) const;   // picked and repeated; detached
  };
  /// image [N, H, W, image_channels], f [N, H, W, channels] (not read unless with_prior), in [-1, 1].
  Condition encode(const Tensor& image, const Tensor& f) const;
  /// Output for states x [N, H, W, channels] at times t f32 [N]; differentiated, through the condition too.
  Tensor forward(const Tensor& x, const Tensor& t, const Condition& condition);
  Tensor forward(const Tensor& x, const Tensor& t, const Tensor& image, const Tensor& f);

  const DenoiserConfig& config() const { return config_; }
  UNet& unet() { return unet_; }
  int64_t encodings() const { return encodings_; }   // images that the encoder has seen

 private:
  DenoiserConfig config_;
  UNet unet_;
  std::unique_ptr<Rrdb> rrdb_;
  mutable int64_t encodings_ = 0;
};

/// x [N, H, W, C] -> [N, H / f, W / f, f f C], channels of a pixel in the order (row, column, channel); and back.
Tensor space_to_depth(const Tensor& x, int64_t factor);
Tensor depth_to_space(const Tensor& x, int64_t factor);

}  // namespace mote::nn
