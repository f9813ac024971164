#include "nn/cluster_net.h"

namespace mote::nn {
namespace {

constexpr int64_t kPlainGroups = 8;   // of the two norms of the decoder that are GroupNorm in the paper's code too

/// The scale of Init::variance_scaling that draws from U(-1, 1) / sqrt(fan_in), the start of the paper's code.
double fan_in_scale(int64_t in, int64_t out) { return double(in + out) / (6.0 * double(in)); }

const ClusterNetConfig& validated(const ClusterNetConfig& config) {
  config.validate();
  return config;
}

/// a [N, C] over the pixels of an image.
Tensor over_pixels(const Tensor& a) { return reshape(a, Shape{a.size(0), 1, 1, a.size(1)}); }

}  // namespace

void ClusterNetConfig::validate() const {
  std::string problems;
  auto require = [&](bool holds, const auto&... parts) {
    if (!holds) problems += concat_text("\n  ", parts...);
  };
  require(size >= 4 && size <= 1024 && size % 4 == 0, "size must be 4 to 1024 in steps of 4, got ", size);
  require(channels >= 1 && channels <= 64, "channels must be 1 to 64, got ", channels);
  require(width >= 8 && width <= 1024 && width % 8 == 0, "width must be 8 to 1024 in steps of 8, got ", width);
  require(latent >= 1 && latent <= 4096, "latent must be 1 to 4096, got ", latent);
  if (!problems.empty()) fail(Error::Kind::usage, "cluster network:", problems);
}

// ---- Blocks --------------------------------------------------------------------------------------------------------

ConvBlock::Half::Half(int64_t in, int64_t out, bool batch_norm, const Init& init)
    : conv(in, out, 3, init.at("conv"), fan_in_scale(in, out)) {
  if (batch_norm) batch.emplace(out);
  else group.emplace(out, GroupNorm::groups_for(out), 1e-5);
}

Tensor ConvBlock::Half::forward(const Tensor& x) const {
  Tensor h = conv.forward(x);
  return gelu(batch ? batch->forward(h) : group->forward(h));
}

ConvBlock::ConvBlock(int64_t in, int64_t out, bool residual, bool batch_norm, const Init& init)
    : residual_(residual),
      same_width_(in == out),
      first_(in, out, batch_norm, init.at("1")),
      second_(out, out, batch_norm, init.at("2")) {
  adopt_half("1", first_);
  adopt_half("2", second_);
}

void ConvBlock::adopt_half(const std::string& number, Half& half) {
  add_child("conv" + number, half.conv);
  if (half.batch) add_child("norm" + number, *half.batch);
  else add_child("norm" + number, *half.group);
}

Tensor ConvBlock::forward(const Tensor& x) const {
  Scope scope(name());
  Tensor first = first_.forward(x), second = second_.forward(first);
  if (!residual_) return second;
  return affine((same_width_ ? x : first) + second, 1 / 1.414, 0);   // 1.414, not sqrt 2, as published
}

GateEmbedding::GateEmbedding(int64_t in, int64_t out, const Init& init)
    : first_(in, out, init.at("1"), fan_in_scale(in, out)), second_(out, out, init.at("2"), fan_in_scale(out, out)) {
  add_child("linear1", first_);
  add_child("linear2", second_);
}

Tensor GateEmbedding::forward(const Tensor& x) const { return second_.forward(gelu(first_.forward(x))); }

// ---- Encoder -------------------------------------------------------------------------------------------------------

ClusterEncoder::ClusterEncoder(const ClusterNetConfig& config, const Init& init)
    : config_(validated(config)),
      init_(config.channels, config.width, true, config.batch_norm, init.at("init")),
      down1_(config.width, config.width, false, config.batch_norm, init.at("down1")),
      down2_(config.width, 2 * config.width, false, config.batch_norm, init.at("down2")),
      mean_(2 * config.width, config.latent, init.at("mean"), fan_in_scale(2 * config.width, config.latent)),
      log_variance_(2 * config.width, config.latent, init.at("log_variance"),
                    fan_in_scale(2 * config.width, config.latent)) {
  add_child("init", init_);
  add_child("down1", down1_);
  add_child("down2", down2_);
  add_child("mean", mean_);
  add_child("log_variance", log_variance_);
}

std::pair<Tensor, Tensor> ClusterEncoder::forward(const Tensor& x) const {
  Scope scope(name());
  check(x.defined() && x.ndim() == 4 && x.shape().without(0) == Shape{config_.size, config_.size, config_.channels},
        "ClusterEncoder: x must be [N, ", config_.size, ", ", config_.size, ", ", config_.channels, "], got ",
        describe(x));
  Tensor h = max_pool(down1_.forward(init_.forward(x)), 2);
  h = max_pool(down2_.forward(h), 2);
  // From here on a few numbers an image: in f32, so that codes and their variances are not rounded to bf16.
  h = gelu(mean(cast(h, x.dtype() == DType::f64 ? DType::f64 : DType::f32), {1, 2}));
  return {mean_.forward(h), log_variance_.forward(h)};
}

// ---- UNet ----------------------------------------------------------------------------------------------------------

ClusterUNet::Up::Up(int64_t in, int64_t out, bool batch_norm, const Init& init)
    : grow(in, out, 2, init.at("grow"), fan_in_scale(in, out)),
      first(out, out, false, batch_norm, init.at("block1")),
      second(out, out, false, batch_norm, init.at("block2")) {}

Tensor ClusterUNet::Up::forward(const Tensor& h, const Tensor& skip) const {
  return second.forward(first.forward(grow.forward(concat({h, skip}, 3))));
}

void ClusterUNet::adopt_up(const std::string& name, Up& up) {
  add_child(name + ".grow", up.grow);
  add_child(name + ".block1", up.first);
  add_child(name + ".block2", up.second);
}

ClusterUNet::ClusterUNet(const ClusterNetConfig& config, const Init& init)
    : config_(validated(config)),
      init_(config.channels, config.width, true, config.batch_norm, init.at("init")),
      down1_(config.width, config.width, false, config.batch_norm, init.at("down1")),
      down2_(config.width, 2 * config.width, false, config.batch_norm, init.at("down2")),
      up0_(2 * config.width, 2 * config.width, config.size / 4, init.at("up0"), 1.0 / 3),
      up0_norm_(2 * config.width, kPlainGroups, 1e-5),
      code1_(config.latent, 2 * config.width, init.at("code1")),
      time1_(1, 2 * config.width, init.at("time1")),
      code2_(config.latent, config.width, init.at("code2")),
      time2_(1, config.width, init.at("time2")),
      up1_(4 * config.width, config.width, config.batch_norm, init.at("up1")),
      up2_(2 * config.width, config.width, config.batch_norm, init.at("up2")),
      out1_(2 * config.width, config.width, 3, init.at("out1"), fan_in_scale(2 * config.width, config.width)),
      out_norm_(config.width, kPlainGroups, 1e-5),
      out2_(config.width, config.channels, 3, init.at("out2"), fan_in_scale(config.width, config.channels)) {
  add_child("init", init_);
  add_child("down1", down1_);
  add_child("down2", down2_);
  add_child("up0", up0_);
  add_child("up0_norm", up0_norm_);
  add_child("code1", code1_);
  add_child("time1", time1_);
  add_child("code2", code2_);
  add_child("time2", time2_);
  adopt_up("up1", up1_);
  adopt_up("up2", up2_);
  add_child("out1", out1_);
  add_child("out_norm", out_norm_);
  add_child("out2", out2_);
}

Tensor ClusterUNet::forward(const Tensor& x, const Tensor& time, const Tensor& code) const {
  Scope scope(name());
  DType dtype = x.dtype(), wide = dtype == DType::f64 ? DType::f64 : DType::f32;
  check(x.defined() && x.ndim() == 4 && x.shape().without(0) == Shape{config_.size, config_.size, config_.channels},
        "ClusterUNet: x must be [N, ", config_.size, ", ", config_.size, ", ", config_.channels, "], got ", describe(x));
  check(time.defined() && time.shape() == Shape{x.size(0)} && time.dtype() == DType::f32,
        "ClusterUNet: time must be one f32 number an image: x is ", describe(x), ", time is ", describe(time));
  check(code.defined() && code.shape() == Shape{x.size(0), config_.latent} && code.dtype() == wide,
        "ClusterUNet: code must be [N, ", config_.latent, "] of ", wide, ": x is ", describe(x), ", code is ",
        describe(code));
  Tensor t = reshape(cast(time, wide), Shape{x.size(0), 1});
  auto gated = [&](const Tensor& h, const GateEmbedding& of_code, const GateEmbedding& of_time) {
    return h * over_pixels(cast(of_code.forward(code), dtype)) + over_pixels(cast(of_time.forward(t), dtype));
  };
  Tensor full = init_.forward(x);
  Tensor half = max_pool(down1_.forward(full), 2);
  Tensor quarter = max_pool(down2_.forward(half), 2);
  Tensor h = gelu(reshape(mean(quarter, {1, 2}), Shape{x.size(0), 1, 1, 2 * config_.width}));
  h = relu(up0_norm_.forward(up0_.forward(h)));
  h = up1_.forward(gated(h, code1_, time1_), quarter);
  h = up2_.forward(gated(h, code2_, time2_), half);
  return out2_.forward(relu(out_norm_.forward(out1_.forward(concat({h, full}, 3)))));
}

}  // namespace mote::nn
