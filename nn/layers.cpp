#include "nn/layers.h"

#include <cmath>

namespace mote::nn {

// ---- Initial values ------------------------------------------------------------------------------------------------

Init Init::at(std::string_view name) const {
  uint64_t key = 14695981039346656037ull;   // FNV-1a, 64 bits
  for (unsigned char letter : name) key = (key ^ letter) * 1099511628211ull;
  Init child = *this;
  child.stream_ = stream_.fork(key);
  return child;
}

Tensor Init::variance_scaling(const Shape& shape, int64_t fan_in, int64_t fan_out, double scale) const {
  check(fan_in > 0 && fan_out > 0 && scale >= 0, "variance_scaling: fans must be positive and scale not negative: ",
        fan_in, ", ", fan_out, ", ", scale);
  double bound = std::sqrt(3 * (scale == 0 ? 1e-10 : scale) / (double(fan_in + fan_out) / 2));
  Tensor draw = uniform(shape, DType::f32, Generator(stream_));
  Tensor value = empty_like(draw);
  kernel::combine(value, {{2 * bound, draw}, {-bound, full(shape, 1)}});
  return value;
}

Tensor Init::normal(const Shape& shape) const { return mote::normal(shape, DType::f32, Generator(stream_)); }

// ---- Layers of one op ----------------------------------------------------------------------------------------------

Linear::Linear(int64_t in, int64_t out, const Init& init, double scale)
    : weight_(add_parameter("weight", init.at("weight").variance_scaling({in, out}, in, out, scale))),
      bias_(add_parameter("bias", zeros({out}))) {}

Tensor Linear::forward(const Tensor& x) const {
  Scope scope(name());
  return linear(x, weight_.in(x.dtype()), bias_.in(x.dtype()));
}

Conv2d::Conv2d(int64_t in, int64_t out, int64_t kernel, const Init& init, double scale)
    : Conv2d(in, out, kernel, Conv2dSpec::same(kernel), init, scale) {}

Conv2d::Conv2d(int64_t in, int64_t out, int64_t kernel, const Conv2dSpec& spec, const Init& init, double scale)
    : spec_(spec),
      weight_(add_parameter("weight",
                            init.at("weight").variance_scaling({kernel, kernel, in, out}, kernel * kernel * in,
                                                               kernel * kernel * out, scale))),
      bias_(add_parameter("bias", zeros({out}))) {}

Tensor Conv2d::forward(const Tensor& x, const Tensor& shift, const Tensor& residual) const {
  Scope scope(name());
  return conv2d(x, weight_.in(x.dtype()), bias_.in(x.dtype()), spec_, shift, residual);
}

GroupNorm::GroupNorm(int64_t channels, int64_t groups, double eps)
    : groups_(groups),
      eps_(eps),
      weight_(add_parameter("weight", full({channels}, 1))),
      bias_(add_parameter("bias", zeros({channels}))) {
  check(groups > 0 && channels % groups == 0, "GroupNorm: groups must divide the channels: ", groups, " groups of ",
        channels, " channels");
}

Tensor GroupNorm::forward(const Tensor& x, bool silu) const {
  Scope scope(name());
  return group_norm(x, weight_.in(x.dtype()), bias_.in(x.dtype()), groups_, eps_, silu);
}

BatchNorm::BatchNorm(int64_t channels, double eps, double momentum)
    : channels_(channels),
      eps_(eps),
      momentum_(momentum),
      weight_(add_parameter("weight", full({channels}, 1))),
      bias_(add_parameter("bias", zeros({channels}))),
      running_mean_(add_buffer("running_mean", zeros({channels}))),
      running_var_(add_buffer("running_var", full({channels}, 1))) {}

Tensor BatchNorm::forward(const Tensor& x) const {
  Scope scope(name());
  check(x.defined() && x.ndim() == 4 && x.size(3) == channels_, "BatchNorm: x must be [N, H, W, ", channels_, "], got ",
        describe(x));
  DType dtype = x.dtype();
  Tensor gamma = weight_.in(dtype), beta = bias_.in(dtype);
  if (!is_training()) {
    Tensor rstd = reciprocal(sqrt(affine(running_var_, 1, eps_)));   // buffers record nothing
    return (x - cast(running_mean_, dtype)) * (gamma * cast(rstd, dtype)) + beta;
  }
  int64_t pixels = x.size(0) * x.size(1) * x.size(2);
  check(pixels > 1, "BatchNorm: one value a channel has no variance; x is ", describe(x));
  {
    NoGrad no_grad;
    Tensor wide = cast(x, dtype == DType::f64 ? dtype : DType::f32), batch_mean = mean(wide, {0, 1, 2});
    Tensor batch_var = mean(square(wide - batch_mean), {0, 1, 2});
    double bessel = double(pixels) / double(pixels - 1);
    kernel::combine(running_mean_, {{1 - momentum_, running_mean_}, {momentum_, batch_mean.to(DType::f32)}});
    kernel::combine(running_var_, {{1 - momentum_, running_var_}, {momentum_ * bessel, batch_var.to(DType::f32)}});
  }
  // One image whose rows are all pixels, with a group a channel: its statistics are those of the batch.
  Tensor rows = reshape(x, Shape{1, x.size(0) * x.size(1), x.size(2), channels_});
  return reshape(group_norm(rows, gamma, beta, channels_, eps_), x.shape());
}

ConvTransposed2d::ConvTransposed2d(int64_t in, int64_t out, int64_t factor, const Init& init, double scale)
    : weight_(add_parameter("weight", init.at("weight").variance_scaling({in, factor, factor, out},
                                                                         factor * factor * in, factor * factor * out,
                                                                         scale))),
      bias_(add_parameter("bias", zeros({out}))) {}

Tensor ConvTransposed2d::forward(const Tensor& x) const {
  Scope scope(name());
  return conv2d_transposed(x, weight_.in(x.dtype()), bias_.in(x.dtype()));
}

Dropout::Dropout(double p) : p_(p) { check(p >= 0 && p < 1, "Dropout: the rate must be in [0, 1), got ", p); }

Tensor Dropout::forward(const Tensor& x, Generator& generator) const {
  Scope scope(name());
  return is_training() && p_ > 0 ? dropout(x, p_, generator) : x;
}

Embedding::Embedding(int64_t count, int64_t width, const Init& init)
    : weight_(add_parameter("weight", init.at("weight").normal({count, width}))) {}

Tensor Embedding::forward(const Tensor& ids, DType dtype) const {
  Scope scope(name());
  Tensor rows = embedding(weight_.value, ids);   // a few rows: cast after the lookup
  return rows.dtype() == dtype ? rows : cast(rows, dtype);
}

// ---- Blocks --------------------------------------------------------------------------------------------------------

AttentionBlock::AttentionBlock(int64_t channels, int64_t heads, const Init& init, const NormSpec& norm)
    : heads_(heads),
      norm_(channels, norm),
      q_(channels, channels, init.at("to_q")),
      k_(channels, channels, init.at("to_k")),
      v_(channels, channels, init.at("to_v")),
      proj_(channels, channels, init.at("to_out.0"), 0) {
  check(heads > 0 && channels % heads == 0, "AttentionBlock: heads must divide the channels: ", heads, " heads of ",
        channels, " channels");
  add_child("group_norm", norm_);
  add_child("to_q", q_);
  add_child("to_k", k_);
  add_child("to_v", v_);
  add_child("to_out.0", proj_);
}

Tensor AttentionBlock::forward(const Tensor& x) const {
  Scope scope(name());
  int64_t images = x.size(0), tokens = x.size(1) * x.size(2), channels = x.size(3);
  Tensor h = reshape(norm_.forward(x), {images, tokens, channels});
  // One product for q, k and v: joining the weights copies 3 C^2 numbers, the product reads images * tokens rows once.
  DType dtype = x.dtype();
  Tensor weight = concat({q_.weight().in(dtype), k_.weight().in(dtype), v_.weight().in(dtype)}, 1);
  Tensor bias = concat({q_.bias().in(dtype), k_.bias().in(dtype), v_.bias().in(dtype)}, 0);
  h = attention(linear(h, weight, bias), heads_);
  // The projection as a 1x1 convolution: the same product, whose epilogue adds x without another pass over memory.
  Tensor proj = reshape(proj_.weight().in(dtype), {1, 1, channels, channels});
  return conv2d(reshape(h, x.shape()), proj, proj_.bias().in(dtype), Conv2dSpec{}, {}, x);
}

ResBlock::ResBlock(int64_t in, int64_t out, int64_t time_width, double dropout, const Init& init, const NormSpec& norm)
    : norm1_(in, norm),
      conv1_(in, out, 3, init.at("conv1")),
      time_proj_(time_width, out, init.at("time_emb_proj")),
      norm2_(out, norm),
      dropout_(dropout),
      conv2_(out, out, 3, init.at("conv2"), 0) {
  add_child("norm1", norm1_);
  add_child("conv1", conv1_);
  add_child("time_emb_proj", time_proj_);
  add_child("norm2", norm2_);
  add_child("dropout", dropout_);
  add_child("conv2", conv2_);
  if (in != out) add_child("conv_shortcut", shortcut_.emplace(in, out, 1, init.at("conv_shortcut")));
}

Tensor ResBlock::forward(const Tensor& x, const Tensor& time, Generator& generator) const {
  Scope scope(name());
  Tensor h = conv1_.forward(norm1_.forward(x, true), time_proj_.forward(time));
  h = dropout_.forward(norm2_.forward(h, true), generator);
  return conv2_.forward(h, {}, shortcut_ ? shortcut_->forward(x) : x);
}

}  // namespace mote::nn
