#include "nn/denoiser.h"

#include <nlohmann/json.hpp>

namespace mote::nn {

// ---- Config ---------------------------------------------------------------------------------------------------------

DenoiserConfig DenoiserConfig::preset(const std::string& name) {
  struct Row {
    const char* name;
    int64_t size, channels, image_channels, fold, base;
    std::vector<int64_t> multipliers, attention;   // attention: at these sizes inside
  };
  static const std::vector<Row> rows = {
      {"tiny", 16, 1, 1, 1, 8, {1, 2}, {8}},
      {"d28-cpu", 28, 1, 1, 1, 16, {1, 2, 2}, {7}},
      {"d28", 28, 1, 1, 1, 32, {1, 2, 2}, {7}},
      {"d32-rgb-cpu", 32, 3, 3, 1, 16, {1, 2, 2}, {8}},
      {"d64-cpu", 64, 1, 3, 1, 16, {1, 2, 2, 4}, {8}},
      {"d64-s2d", 64, 1, 3, 2, 24, {1, 2, 4}, {8}},
      {"d64-gpu", 64, 1, 3, 1, 64, {1, 2, 2, 4}, {8}},
      {"d128-gpu", 128, 1, 3, 1, 64, {1, 1, 2, 2, 4}, {16, 8}},
  };
  std::string names;
  for (const Row& row : rows) {
    names += (names.empty() ? "" : ", ") + std::string(row.name);
    if (name != row.name) continue;
    DenoiserConfig config;
    config.fold = row.fold;
    config.unet.size = row.size / row.fold;
    config.unet.base = row.base;
    config.unet.multipliers = row.multipliers;
    config.unet.blocks = 1;
    config.unet.attention = row.attention;
    config.unet.dropout = 0;
    config.unet.norm_most = 8;
    return config.fit(row.size, row.channels, row.image_channels, false);
  }
  fail(Error::Kind::usage, "denoiser '", name, "' is not known; there are ", names);
}

DenoiserConfig& DenoiserConfig::fit(int64_t new_size, int64_t new_channels, int64_t new_image_channels, bool prior) {
  auto require = [](bool holds, const auto&... parts) {
    if (!holds) fail(Error::Kind::usage, "denoiser: ", parts...);
  };
  require(condition == "concat" || condition == "sum", "condition must be concat or sum, got '", condition, "'");
  require(fold >= 1 && fold <= 16, "fold must be 1 to 16, got ", fold);
  require(rrdb >= 1 && rrdb <= 64, "rrdb must be 1 to 64 blocks, got ", rrdb);
  require(new_size >= fold && new_size % fold == 0, "images of ", new_size, " pixels do not divide by ", fold);
  require(new_channels >= 1 && new_channels <= 256 && new_image_channels >= 1 && new_image_channels <= 256,
          "channels must be 1 to 256, got ", new_channels, " and ", new_image_channels, " of the image");
  size = new_size;
  channels = new_channels;
  image_channels = new_image_channels;
  with_prior = prior;
  int64_t seen = channels + (with_prior ? channels : 0) + (condition == "concat" ? image_channels : 0);
  unet.in_channels = 0;
  unet.fit(size / fold, channels * fold * fold);
  unet.in_channels = seen * fold * fold;
  unet.validate();
  return *this;
}

std::string to_json(const DenoiserConfig& c) {
  nlohmann::ordered_json object = {{"size", c.size}, {"channels", c.channels}, {"image_channels", c.image_channels},
                                   {"with_prior", c.with_prior}, {"condition", c.condition}, {"rrdb", c.rrdb},
                                   {"fold", c.fold}, {"unet", nlohmann::ordered_json::parse(to_json(c.unet))}};
  return object.dump();
}

DenoiserConfig denoiser_config_from_json(const std::string& text) {
  DenoiserConfig c;
  try {
    nlohmann::json object = nlohmann::json::parse(text);
    object.at("condition").get_to(c.condition);
    object.at("rrdb").get_to(c.rrdb);
    object.at("fold").get_to(c.fold);
    c.unet = unet_config_from_json(object.at("unet").dump());
    UNetConfig stored = c.unet;
    c.fit(object.at("size").get<int64_t>(), object.at("channels").get<int64_t>(),
          object.at("image_channels").get<int64_t>(), object.at("with_prior").get<bool>());
    if (!(c.unet == stored)) fail(Error::Kind::checkpoint, "denoiser: its UNet is of another size than its images");
  } catch (const std::exception& error) {
    fail(Error::Kind::checkpoint, "denoiser config: ", error.what());
  }
  return c;
}

// ---- Encoder --------------------------------------------------------------------------------------------------------

namespace {

constexpr int64_t kWidth = 64, kGrowth = 32, kDenseConvs = 5, kDenseBlocks = 3;
constexpr double kScale = 0.2, kSlope = 0.2;

Tensor leaky_relu(const Tensor& x) { return maximum(x, affine(x, kSlope, 0)); }

}  // namespace

Rrdb::Rrdb(int64_t in, int64_t out, int64_t blocks, const Init& init)
    : first_(in, kWidth, 3, init.at("first")),
      trunk_(kWidth, kWidth, 3, init.at("trunk")),
      last1_(kWidth, out, 3, init.at("last1")),
      last2_(out, out, 3, init.at("last2")) {
  add_child("first", first_);
  for (int64_t i = 0; i < blocks * kDenseBlocks; ++i)
    for (int64_t j = 0; j < kDenseConvs; ++j) {
      std::string name = concat_text("blocks.", i / kDenseBlocks, ".dense.", i % kDenseBlocks, ".conv", j + 1);
      int64_t width = kWidth + j * kGrowth;
      add_child(name, dense_.emplace_back(width, j + 1 < kDenseConvs ? kGrowth : kWidth, 3, init.at(name)));
    }
  add_child("trunk", trunk_);
  add_child("last1", last1_);
  add_child("last2", last2_);
}

Tensor Rrdb::forward(const Tensor& x) const {
  Scope scope(name());
  Tensor first = first_.forward(x), h = first;
  for (size_t i = 0; i < dense_.size();) {
    Tensor outer = h;
    for (int64_t dense = 0; dense < kDenseBlocks; ++dense) {
      Tensor joined = h;
      for (int64_t j = 0; j + 1 < kDenseConvs; ++j)
        joined = concat({joined, leaky_relu(dense_[i++].forward(joined))}, 3);
      h = h + affine(dense_[i++].forward(joined), kScale, 0);
    }
    h = outer + affine(h, kScale, 0);
  }
  h = first + trunk_.forward(h);
  return last2_.forward(leaky_relu(last1_.forward(h)));
}

// ---- The denoiser ---------------------------------------------------------------------------------------------------

namespace {

DenoiserConfig fitted(DenoiserConfig c) {
  DenoiserConfig copy = c;
  copy.fit(c.size, c.channels, c.image_channels, c.with_prior);
  if (!(copy == c)) fail(Error::Kind::usage, "denoiser: its UNet does not belong to its images; call fit()");
  return copy;
}

}  // namespace

Denoiser::Denoiser(const DenoiserConfig& config, uint64_t seed)
    : Module("denoiser"), config_(fitted(config)), unet_(config_.unet, seed) {
  add_child("unet", unet_);
  if (config_.condition == "sum") {
    rrdb_ = std::make_unique<Rrdb>(config_.image_channels * config_.fold * config_.fold, config_.unet.base,
                                   config_.rrdb, Init(seed).at("encoder"));
    add_child("encoder", *rrdb_);
  }
}

Denoiser::Condition Denoiser::Condition::rows(const std::vector<int64_t>& picked) const {
  NoGrad no_grad;
  bool all = int64_t(picked.size()) == count();
  for (size_t i = 0; all && i < picked.size(); ++i) all = picked[i] == int64_t(i);
  auto rows_of = [&](const Tensor& x) {
    if (!x.defined() || all) return x.defined() ? x.detach() : x;
    Tensor ids = empty({int64_t(picked.size())}, DType::i64);
    std::copy(picked.begin(), picked.end(), ids.data<int64_t>());
    Tensor flat = embedding(x.detach().view({x.size(0), -1}), ids.to(x.device()));
    return flat.view(x.shape().with(0, int64_t(picked.size())));
  };
  return {rows_of(input), rows_of(encoding)};
}

Denoiser::Condition Denoiser::encode(const Tensor& image, const Tensor& f) const {
  Scope scope(name());
  int64_t size = config_.size;
  auto require = [&](const char* what, const Tensor& x, int64_t channels) {
    check(x.defined() && x.ndim() == 4 && is_floating(x.dtype()) && x.shape() == Shape{x.size(0), size, size, channels},
          "Denoiser: ", what, " must be a floating [N, ", size, ", ", size, ", ", channels, "], got ", describe(x));
  };
  require("the image", image, config_.image_channels);
  std::vector<Tensor> joined;
  if (!rrdb_) joined.push_back(image);
  if (config_.with_prior) {
    require("the prior", f, config_.channels);
    joined.push_back(f);
  }
  Condition condition;
  if (!joined.empty())
    condition.input = space_to_depth(joined.size() == 1 ? joined[0] : concat(joined, 3), config_.fold);
  if (rrdb_) {
    condition.encoding = rrdb_->forward(space_to_depth(image, config_.fold));
    encodings_ += image.size(0);
  }
  return condition;
}

Tensor Denoiser::forward(const Tensor& x, const Tensor& t, const Condition& condition) {
  Scope scope(name());
  check(x.defined() && x.ndim() == 4 && x.size(3) == config_.channels && x.size(0) == condition.count(),
        "Denoiser: a state [N, ", config_.size, ", ", config_.size, ", ", config_.channels,
        "] and a condition for each needed, got ", describe(x), " and ", condition.count());
  Tensor inside = space_to_depth(x, config_.fold);
  if (condition.input.defined()) inside = concat({inside, condition.input}, 3);
  return depth_to_space(unet_.forward(inside, t, {}, {}, condition.encoding), config_.fold);
}

Tensor Denoiser::forward(const Tensor& x, const Tensor& t, const Tensor& image, const Tensor& f) {
  return forward(x, t, encode(image, f));
}

// ---- Folding pixels into channels -----------------------------------------------------------------------------------

Tensor space_to_depth(const Tensor& x, int64_t factor) {
  if (factor == 1) return x;
  check(x.defined() && x.ndim() == 4 && factor >= 1 && x.size(1) % factor == 0 && x.size(2) % factor == 0,
        "space_to_depth: [N, H, W, C] with H and W multiples of ", factor, " needed, got ", describe(x));
  int64_t N = x.size(0), H = x.size(1) / factor, W = x.size(2) / factor, C = x.size(3);
  Tensor cut = reshape(x, Shape{N, H, factor, W, factor, C});
  return reshape(permute(cut, {0, 1, 3, 2, 4, 5}), Shape{N, H, W, factor * factor * C});
}

Tensor depth_to_space(const Tensor& x, int64_t factor) {
  if (factor == 1) return x;
  check(x.defined() && x.ndim() == 4 && factor >= 1 && x.size(3) % (factor * factor) == 0,
        "depth_to_space: [N, H, W, C] with C a multiple of ", factor * factor, " needed, got ", describe(x));
  int64_t N = x.size(0), H = x.size(1), W = x.size(2), C = x.size(3) / (factor * factor);
  Tensor cut = reshape(x, Shape{N, H, W, factor, factor, C});
  return reshape(permute(cut, {0, 1, 3, 2, 4, 5}), Shape{N, H * factor, W * factor, C});
}

}  // namespace mote::nn
