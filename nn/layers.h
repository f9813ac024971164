// layers.h - the layers a UNet is built from. Each is a Module with a forward; draws come from a Generator given in.
#pragma once
#include "autograd/ops.h"
#include "nn/module.h"

namespace mote::nn {

/// Weights ~ U(-b, b), b = sqrt(3 scale / fan_avg), fan_avg = (fan_in + fan_out) / 2 (DDPM); scale 0 means 1e-10.
Tensor variance_scaling(const Shape& shape, int64_t fan_in, int64_t fan_out, double scale, Generator& generator);

/// y = x w + b; weight [C, K], bias [K].
class Linear : public Module {
 public:
  Linear(int64_t in, int64_t out, Generator& generator, double scale = 1.0);
  Tensor forward(const Tensor& x) const { return linear(x, weight_, bias_); }

 private:
  Tensor &weight_, &bias_;
};

/// weight [k, k, Cin, Cout], bias [Cout].
class Conv2d : public Module {
 public:
  Conv2d(int64_t in, int64_t out, int64_t kernel, Generator& generator, double scale = 1.0);
  Conv2d(int64_t in, int64_t out, int64_t kernel, const Conv2dSpec& spec, Generator& generator, double scale = 1.0);
  /// shift [N, Cout] is added to every pixel, residual to the output; both may be undefined.
  Tensor forward(const Tensor& x, const Tensor& shift = {}, const Tensor& residual = {}) const {
    return conv2d(x, weight_, bias_, spec_, shift, residual);
  }

 private:
  Conv2dSpec spec_;
  Tensor &weight_, &bias_;
};

/// gamma = 1, beta = 0 at the start; named weight and bias.
class GroupNorm : public Module {
 public:
  GroupNorm(int64_t channels, int64_t groups, double eps = 1e-6);
  Tensor forward(const Tensor& x, bool silu = false) const { return group_norm(x, weight_, bias_, groups_, eps_, silu); }

 private:
  int64_t groups_;
  double eps_;
  Tensor &weight_, &bias_;
};

/// Active in training mode only.
class Dropout : public Module {
 public:
  explicit Dropout(double p);
  Tensor forward(const Tensor& x, Generator& generator) const { return is_training() ? dropout(x, p_, generator) : x; }

 private:
  double p_;
};

/// weight [V, D] ~ N(0, 1).
class Embedding : public Module {
 public:
  Embedding(int64_t count, int64_t width, Generator& generator);
  Tensor forward(const Tensor& ids) const { return embedding(weight_, ids); }

 private:
  Tensor& weight_;
};

/// x + proj(attention(qkv(norm(x)))) over the H W tokens of x [N, H, W, C]. Separate q, k, v Linear layers, so that the
/// parameters are those of the published networks (papers/pndm.md 8.7); one product computes all three.
class AttentionBlock : public Module {
 public:
  AttentionBlock(int64_t channels, int64_t groups, int64_t heads, Generator& generator);
  Tensor forward(const Tensor& x) const;
};

/// h = conv1(silu(norm1(x))) + time(silu(temb)); out = shortcut(x) + conv2(dropout(silu(norm2(h)))).
class ResBlock : public Module {
 public:
  ResBlock(int64_t in, int64_t out, int64_t time_width, double dropout, Generator& generator);
};

}  // namespace mote::nn
