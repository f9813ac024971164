#include "nn/e2e_net.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace mote::nn {

// ---- Config ---------------------------------------------------------------------------------------------------------

E2ENetConfig E2ENetConfig::preset(const std::string& name) {
  E2ENetConfig config;
  if (name == "e-28") return config;
  if (name == "e-64") config.widths = {16, 32, 64, 128};
  else if (name == "e-128") config.widths = {32, 64, 128, 256, 512};
  else if (name == "e-weak") config.kind = "fcn";
  else fail(Error::Kind::usage, "end-to-end network '", name, "' is not known; there are e-28, e-64, e-128, e-weak");
  return config;
}

int64_t E2ENetConfig::stride() const {
  int64_t levels = int64_t(widths.size());
  return int64_t(1) << (kind == "fcn" ? levels : levels - 1);
}

void E2ENetConfig::validate() const {
  auto require = [](bool holds, const auto&... parts) {
    if (!holds) fail(Error::Kind::usage, "end-to-end network: ", parts...);
  };
  require(kind == "unet" || kind == "fcn", "kind must be unet or fcn, got '", kind, "'");
  require(channels_in >= 1 && channels_in <= 4096 && channels_out >= 1 && channels_out <= 4096,
          "channels must be 1 to 4096, got ", channels_in, " in and ", channels_out, " out");
  require(widths.size() >= 1 && widths.size() <= 8, "1 to 8 levels needed, got ", widths.size());
  for (int64_t width : widths)
    require(width >= 4 && width <= 4096 && width % 4 == 0, "widths must be 4 to 4096 in steps of 4, got ", width);
  for (int64_t width : widths)
    require(width % std::min<int64_t>(8, width / 4) == 0, "a width of ", width, " does not divide into ",
            std::min<int64_t>(8, width / 4), " groups");
  require(!residual || channels_in == channels_out, "residual needs as many channels in as out, got ", channels_in,
          " and ", channels_out);
}

namespace {

template <class Config, class Visit>
void for_fields(Config& config, const Visit& visit) {
  visit("kind", config.kind);
  visit("channels_in", config.channels_in);
  visit("channels_out", config.channels_out);
  visit("widths", config.widths);
  visit("residual", config.residual);
}

const E2ENetConfig& validated(const E2ENetConfig& config) {
  config.validate();
  return config;
}

}  // namespace

std::string to_json(const E2ENetConfig& config) {
  nlohmann::ordered_json object;
  for_fields(config, [&](const char* key, const auto& value) { object[key] = value; });
  return object.dump();
}

E2ENetConfig e2e_net_config_from_json(const std::string& text) {
  E2ENetConfig config;
  try {
    nlohmann::json object = nlohmann::json::parse(text);
    for_fields(config, [&](const char* key, auto& value) {
      object.at(key).get_to(value);
      object.erase(key);
    });
    if (!object.empty())
      fail(Error::Kind::checkpoint, "end-to-end network: unknown key '", object.begin().key(), "'");
    config.validate();
  } catch (const std::exception& error) {
    fail(Error::Kind::checkpoint, error.what());
  }
  return config;
}

// ---- The network ----------------------------------------------------------------------------------------------------

E2ENet::E2ENet(const E2ENetConfig& config, uint64_t seed) : Module("e2e"), config_(validated(config)) {
  Init init(seed);
  const std::vector<int64_t>& widths = config_.widths;
  int64_t width = config_.channels_in, levels = int64_t(widths.size());
  for (int64_t level = 0; level < levels; ++level) {
    fill(down_.emplace_back(), concat_text("down.", level), width, widths[size_t(level)], init);
    width = widths[size_t(level)];
  }
  for (int64_t level = levels - 2; config_.kind == "unet" && level >= 0; --level) {
    int64_t skip = widths[size_t(level)];
    fill(up_.emplace_back(), concat_text("up.", level), width + skip, skip, init);
    width = skip;
  }
  // A restoring network starts as the identity, a segmenting one without an opinion that differs from pixel to pixel.
  add_child("out", out_.emplace(width, config_.channels_out, 1, init.at("out"), config_.residual ? 0.0 : 1.0));
}

void E2ENet::fill(Block& block, const std::string& name, int64_t in, int64_t out, const Init& init) {
  for (int i = 0; i < 2; ++i) {
    std::string conv = concat_text(name, ".conv", i + 1), norm = concat_text(name, ".norm", i + 1);
    add_child(conv, block.convs.emplace_back(i == 0 ? in : out, out, 3, init.at(conv)));
    add_child(norm, block.norms.emplace_back(out, NormSpec{.most = 8}));
  }
}

Tensor E2ENet::run(const Block& block, Tensor x) {
  for (size_t i = 0; i < block.convs.size(); ++i) x = relu(block.norms[i].forward(block.convs[i].forward(x)));
  return x;
}

Tensor E2ENet::forward(const Tensor& x) const {
  Scope scope(name());
  check(x.defined() && x.ndim() == 4 && is_floating(x.dtype()) && x.size(3) == config_.channels_in,
        "E2ENet: x must be a floating [N, H, W, ", config_.channels_in, "], got ", describe(x));
  int64_t height = x.size(1), width = x.size(2), stride = config_.stride();
  int64_t below = (stride - height % stride) % stride, beside = (stride - width % stride) % stride;
  Tensor h = below + beside > 0 ? pad(x, {0, 0, 0, 0}, {0, below, beside, 0}) : x;
  std::vector<Tensor> skips;
  for (size_t level = 0; level < down_.size(); ++level) {
    h = run(down_[level], h);
    if (config_.kind == "fcn" || level + 1 < down_.size()) {
      skips.push_back(h);
      h = max_pool(h, 2);
    }
  }
  for (size_t i = 0; i < up_.size(); ++i) h = run(up_[i], concat({upsample_nearest(h), skips[up_.size() - 1 - i]}, 3));
  h = out_->forward(h);
  if (config_.kind == "fcn") h = upsample_bilinear(h, stride);
  if (below + beside > 0) h = narrow(narrow(h, 1, 0, height), 2, 0, width);
  return config_.residual ? x + h : h;
}

Tensor upsample_bilinear(const Tensor& x, int64_t factor) {
  check(x.defined() && x.ndim() == 4 && is_floating(x.dtype()) && factor >= 1,
        "upsample_bilinear: a floating [N, H, W, C] and a factor of 1 or more needed, got ", describe(x), " and ",
        factor);
  auto matrix = [&](int64_t size) {   // [size, size factor]: what each new pixel takes of the old ones
    std::vector<double> weights(size_t(size * size * factor), 0);
    for (int64_t j = 0; j < size * factor; ++j) {
      double at = std::clamp((double(j) + 0.5) / double(factor) - 0.5, 0.0, double(size - 1));
      int64_t left = std::min(int64_t(at), size - 1), right = std::min(left + 1, size - 1);
      weights[size_t(left * size * factor + j)] += 1 - (at - double(left));
      weights[size_t(right * size * factor + j)] += at - double(left);
    }
    return from(weights, {size, size * factor}, x.dtype()).to(x.device());
  };
  Tensor wide = transpose(linear(transpose(x, 2, 3), matrix(x.size(2)), {}), 2, 3);
  return transpose(linear(transpose(wide, 1, 3), matrix(x.size(1)), {}), 1, 3);
}

}  // namespace mote::nn
