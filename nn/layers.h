// layers.h - the layers a UNet is built from. Each is a Module with a forward.
// Activations decide the precision: a layer reads its f32 master weights in the dtype of its input (Parameter::in), so
// bf16 images give a bf16 forward pass whose weight gradients arrive in f32. Initial values come from an Init given in.
#pragma once
#include <algorithm>
#include <optional>
#include <string_view>

#include "autograd/ops.h"
#include "nn/module.h"

namespace mote::nn {

/// Where initial parameters are drawn from: a stream keyed by the place in the module tree, so that adding a layer
/// leaves the draws of all others as they were. `init.at("conv1")` is the stream of the child or parameter conv1.
class Init {
 public:
  explicit Init(uint64_t seed) : stream_{seed, 0} {}
  Init(Generator& generator) : stream_(generator.fork(generator.offset++)) {}   // each call takes a stream of its own
  Init at(std::string_view name) const;

  /// U(-b, b), b = sqrt(3 scale / fan_avg), fan_avg = (fan_in + fan_out) / 2; scale 0 means 1e-10.     [Ho 2020, code]
  Tensor variance_scaling(const Shape& shape, int64_t fan_in, int64_t fan_out, double scale) const;
  Tensor normal(const Shape& shape) const;   // N(0, 1)
  Generator generator() const { return stream_; }

 private:
  Generator stream_;
};

// ---- Layers of one op ----------------------------------------------------------------------------------------------

/// y = x w + b over the last axis; weight [C, K], bias [K].
class Linear : public Module {
 public:
  Linear(int64_t in, int64_t out, const Init& init, double scale = 1.0);
  Tensor forward(const Tensor& x) const;
  const Parameter& weight() const { return weight_; }
  const Parameter& bias() const { return bias_; }

 private:
  Parameter &weight_, &bias_;
};

/// weight [k, k, Cin, Cout], bias [Cout]; padded to keep the size unless a spec is given.
class Conv2d : public Module {
 public:
  Conv2d(int64_t in, int64_t out, int64_t kernel, const Init& init, double scale = 1.0);
  Conv2d(int64_t in, int64_t out, int64_t kernel, const Conv2dSpec& spec, const Init& init, double scale = 1.0);
  /// shift [N, Cout] is added to every pixel, residual to the output; both may be undefined.
  Tensor forward(const Tensor& x, const Tensor& shift = {}, const Tensor& residual = {}) const;

 private:
  Conv2dSpec spec_;
  Parameter &weight_, &bias_;
};

/// How all norms of a network are set.
struct NormSpec {
  int64_t groups = 0;   // 0: min(most, width / 4) for a width of channels
  double eps = 1e-6;
  int64_t most = 32;
  int64_t groups_for(int64_t width) const { return groups > 0 ? groups : std::min(most, width / 4); }
  bool operator==(const NormSpec&) const = default;
};

/// gamma = 1, beta = 0 at the start; named weight and bias.
class GroupNorm : public Module {
 public:
  GroupNorm(int64_t channels, int64_t groups, double eps = 1e-6);
  GroupNorm(int64_t channels, const NormSpec& spec) : GroupNorm(channels, spec.groups_for(channels), spec.eps) {}
  /// Groups that the networks here use for `width` channels unless they are told otherwise: min(32, width / 4).
  static int64_t groups_for(int64_t width) { return NormSpec{}.groups_for(width); }
  Tensor forward(const Tensor& x, bool silu = false) const;

 private:
  int64_t groups_;
  double eps_;
  Parameter &weight_, &bias_;
};

/// y = gamma (x - mean) / sqrt(var + eps) + beta for every channel of x [N, H, W, C]. In training mode mean and var are
/// those of the batch, and the buffers running_mean, running_var [C] (f32, at first 0 and 1) move towards them by
/// `momentum`, var with Bessel's correction; in evaluation mode the buffers are used.          [Ioffe 2015, alg. 1, 2]
class BatchNorm : public Module {
 public:
  explicit BatchNorm(int64_t channels, double eps = 1e-5, double momentum = 0.1);
  Tensor forward(const Tensor& x) const;

 private:
  int64_t channels_;
  double eps_, momentum_;
  Parameter &weight_, &bias_;
  Tensor &running_mean_, &running_var_;
};

/// Every pixel becomes factor x factor pixels: contract of conv2d_transposed; weight [Cin, factor, factor, Cout].
class ConvTransposed2d : public Module {
 public:
  ConvTransposed2d(int64_t in, int64_t out, int64_t factor, const Init& init, double scale = 1.0);
  Tensor forward(const Tensor& x) const;

 private:
  Parameter &weight_, &bias_;
};

/// Active in training mode only.
class Dropout : public Module {
 public:
  explicit Dropout(double p);   // 0 <= p < 1
  Tensor forward(const Tensor& x, Generator& generator) const;

 private:
  double p_;
};

/// Rows of weight [V, D] ~ N(0, 1), in the dtype asked for.
class Embedding : public Module {
 public:
  Embedding(int64_t count, int64_t width, const Init& init);
  Tensor forward(const Tensor& ids, DType dtype = DType::f32) const;

 private:
  Parameter& weight_;
};

// ---- Blocks --------------------------------------------------------------------------------------------------------

/// x + proj(attention(qkv(norm(x)))) over the H W tokens of x [N, H, W, C]. q, k, v are separate Linear layers, so that
/// the parameters are those of the published networks; one product computes all three.
class AttentionBlock : public Module {
 public:
  AttentionBlock(int64_t channels, int64_t heads, const Init& init, const NormSpec& norm = {});
  Tensor forward(const Tensor& x) const;

 private:
  int64_t heads_;
  GroupNorm norm_;
  Linear q_, k_, v_, proj_;
};

/// h = conv1(silu(norm1(x))) + time_proj(time); y = shortcut(x) + conv2(dropout(silu(norm2(h)))).
///   x [N, H, W, Cin]; time [N, D] = silu of the time embedding, computed once for all blocks; y [N, H, W, Cout]
/// The shortcut is a 1x1 convolution where Cin and Cout differ. conv2 starts at about 0, so the block as its shortcut.
class ResBlock : public Module {
 public:
  ResBlock(int64_t in, int64_t out, int64_t time_width, double dropout, const Init& init, const NormSpec& norm = {});
  Tensor forward(const Tensor& x, const Tensor& time, Generator& generator) const;

 private:
  GroupNorm norm1_;
  Conv2d conv1_;
  Linear time_proj_;
  GroupNorm norm2_;
  Dropout dropout_;
  Conv2d conv2_;
  std::optional<Conv2d> shortcut_;
};

}  // namespace mote::nn
