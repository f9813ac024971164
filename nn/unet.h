// unet.h - the DDPM UNet [Ho 2020]: residual blocks with a time embedding, attention at chosen resolutions, skips.
// Input and output are [N, H, W, C]. Tensors are named as in the published PyTorch files (down_blocks.0.resnets.0...).
#pragma once
#include <deque>
#include <optional>
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

  // What published networks do otherwise than Ho 2020; in json only where it differs from the value here.
  int64_t head_width = 0;                 // above 0: heads of this width instead of `heads` heads
  int64_t norm_groups = 0;                // 0: min(norm_most, C / 4) groups in a GroupNorm over C channels
  double norm_eps = 1e-6;
  bool pad_evenly = false;                // the halving convolutions are padded on all sides, not only right and below
  bool cos_first = false;                 // the time embedding is [cos, sin]
  double freq_shift = 1;                  // its frequencies are 10000^(-i / (D/2 - freq_shift))
  int64_t norm_most = 32;
  int64_t in_channels = 0;                // 0: `channels`; more, where an input is joined to the image

  /// "tiny" (base 16; 1,2; one block; attention 14), "fmnist" (base 32; 1,2,2; attention 14), "cifar10" (base 128;
  /// 1,2,2,2; attention 16; 328 tensors, 35,746,307 parameters). Throws Error(usage) listing the names otherwise.
  static UNetConfig preset(const std::string& name);
  /// Sets the image size and channels and moves each attention resolution to the same level: attention at 14 of 28
  /// becomes 16 of 32. Throws Error(usage) if the result does not validate. Returns *this.
  UNetConfig& fit(int64_t new_size, int64_t new_channels);
  /// Throws Error(usage) listing every problem unless size divides by 2^(levels - 1), widths by their groups and so on.
  void validate() const;
  int64_t levels() const { return int64_t(multipliers.size()); }
  int64_t width(int64_t level) const { return base * multipliers[size_t(level)]; }   // level 0 is the full resolution
  bool attends(int64_t level) const;
  int64_t inputs() const { return in_channels > 0 ? in_channels : channels; }   // channels of what goes in
  int64_t heads_of(int64_t width) const { return head_width > 0 ? width / head_width : heads; }
  NormSpec norm() const { return {norm_groups, norm_eps, norm_most}; }
  /// Every number of channels that one of the GroupNorms sees, in ascending order.
  std::vector<int64_t> norm_widths() const;
  bool operator==(const UNetConfig&) const = default;
};

/// Json text of a config, for checkpoints, and back; the keys of what differs from Ho 2020 may be missing. Throws
/// Error(checkpoint) on a missing or unknown key, a value of the wrong type, or a config that does not validate.
std::string to_json(const UNetConfig& config);
UNetConfig unet_config_from_json(const std::string& text);

class UNet : public Module {
 public:
  /// Parameters are drawn from `seed` (DDPM's fan-average uniform; the last conv of each block starts at ~0).
  UNet(const UNetConfig& config, uint64_t seed);

  /// Output [N, size, size, channels] of the network for x [N, size, size, inputs()], at times t f32 [N] (fractional is
  /// legal) and, for a conditional network, class ids i64 [N] (config.classes = the null class). Dtype of x.
  /// `shift` [N, 4 base], if defined, is added to the embedding of the time: whatever else the network is to know. It is
  /// differentiated, and of the dtype that the embedding has (f64 in an f64 network, else f32).
  /// Not const: dropout advances generator().
  /// `features` [N, size, size, base], if defined, is added behind the first convolution;
  /// it is differentiated, and converted to the dtype that the network computes in.
  Tensor forward(const Tensor& x, const Tensor& t, const Tensor& class_ids = {}, const Tensor& shift = {},
                 const Tensor& features = {});

  /// What the network has made of x where the resolution is lowest: the output of the first block on the way up,
  /// [N, h, w, width of the last level] of the dtype of x. Of a trained denoiser, at a low t, images of one kind lie
  /// together there.                                                                       [DiEC, arXiv 2512.20905]
  Tensor represent(const Tensor& x, const Tensor& t, const Tensor& class_ids = {});

  const UNetConfig& config() const { return config_; }
  /// Where dropout draws from; put it in a checkpoint and back for an exact resume.
  Generator& generator() { return generator_; }
  /// What an f32 x is computed in: f32, or bf16: x is rounded at the door and the output widened at the end, activations
  /// and the working copy of the weights are bf16 between. Sums of products, statistics, the embedding of the time and
  /// the weights stay f32; a weight's gradient leaves its kernel in bf16 and is added up in f32. An x of another dtype is
  /// computed in its own.
  void set_precision(DType dtype);
  DType precision() const { return precision_; }
  /// Recompute every residual and attention block in backward instead of keeping its activations.
  void set_recompute(bool on) { recompute_ = on; }

 private:
  /// All blocks of one resolution on the way down or up; deque, because modules cannot move.
  struct Level {
    std::deque<ResBlock> resnets;
    std::deque<AttentionBlock> attentions;   // one a resnet, or none
    std::optional<Conv2d> resample;          // to the next level; none at the last
  };

  void build(const Init& init);
  void fill(Level& level, const std::string& name, const std::vector<int64_t>& widths_in, int64_t width, bool attends,
            const Init& init);
  void add_attention(Level& level, const std::string& name, int64_t width, const Init& init);
  Tensor embed(const Tensor& t, const Tensor& class_ids, const Tensor& shift, DType inside) const;
  Tensor run(const ResBlock& block, std::vector<Tensor> parts, const Tensor& time);
  Tensor run(const AttentionBlock& block, const Tensor& x);
  void check_input(const Tensor& x, const Tensor& t, const Tensor& class_ids) const;
  /// The way down and the middle: what leaves it, and what the way up will join to it, the last first.
  Tensor descend(const Tensor& x, const Tensor& time, const Tensor& features, std::vector<Tensor>& skips);
  /// Block i of a level on the way up.
  Tensor ascend(const Level& level, size_t i, const Tensor& h, const Tensor& time, std::vector<Tensor>& skips);

  UNetConfig config_;
  Generator generator_;
  DType precision_ = DType::f32;
  bool recompute_ = false;
  Conv2d conv_in_;
  Linear time1_, time2_;
  std::optional<Embedding> class_embedding_;
  std::deque<Level> down_;   // from the full resolution to the lowest
  Level middle_;             // two resnets around one attention
  std::deque<Level> up_;     // from the lowest resolution to the full
  GroupNorm norm_out_;
  Conv2d conv_out_;
};

}  // namespace mote::nn
