#include "diffusion/cluster/model.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

namespace mote::cluster {
namespace {

using Json = nlohmann::ordered_json;

const ModelConfig& validated(const ModelConfig& config) {
  config.validate();
  return config;
}

/// Calls visit(key, member) for every field but the UNet's, so that writing and reading cannot disagree.
template <class Config, class Visit>
void for_fields(Config& config, const Visit& visit) {
  visit("size", config.net.size);
  visit("channels", config.net.channels);
  visit("width", config.net.width);
  visit("latent", config.net.latent);
  visit("batch_norm", config.net.batch_norm);
  visit("schedule", config.schedule);
  visit("T", config.T);
}

}  // namespace

void ModelConfig::validate() const {
  net.validate();
  if (unet) {
    unet->validate();
    if (unet->size != net.size || unet->channels != net.channels || unet->classes != 0)
      fail(Error::Kind::usage, "cluster model: the UNet must be for images of ", net.size, " x ", net.size, " x ",
           net.channels, " without classes, it is for ", unet->size, " x ", unet->size, " x ", unet->channels, ", ",
           unet->classes, " classes");
  }
  cluster_schedule(schedule, T);
}

std::string to_json(const ModelConfig& config) {
  Json object;
  for_fields(config, [&](const char* key, const auto& value) { object[key] = value; });
  object["unet"] = config.unet ? Json::parse(nn::to_json(*config.unet)) : Json();
  return object.dump();
}

ModelConfig model_config_from_json(const std::string& text) {
  ModelConfig config;
  try {
    Json object = Json::parse(text);
    for_fields(config, [&](const char* key, auto& value) {
      object.at(key).get_to(value);
      object.erase(key);
    });
    if (Json unet = object.at("unet"); !unet.is_null()) config.unet = nn::unet_config_from_json(unet.dump());
    object.erase("unet");
    if (!object.empty()) fail(Error::Kind::checkpoint, "unknown key '", object.begin().key(), "'");
    config.validate();
  } catch (const std::exception& error) {
    fail(Error::Kind::checkpoint, "cluster model: ", error.what());
  }
  return config;
}

Schedule cluster_schedule(const std::string& name, int64_t T) {
  if (name == "paper") return Schedule::linear(T + 1, 1e-4, 0.02);
  const std::vector<std::string>& names = cluster_schedule_names();
  if (std::find(names.begin(), names.end(), name) == names.end())
    fail(Error::Kind::usage, "schedule '", name, "' is not known; there are cosine, linear and paper");
  return Schedule::named(name, T);
}

const std::vector<std::string>& cluster_schedule_names() {
  static const std::vector<std::string> names = {"cosine", "linear", "paper"};
  return names;
}

Model::Model(const ModelConfig& config, uint64_t seed)
    : config_(validated(config)),
      schedule_(cluster_schedule(config.schedule, config.T)),
      encoder_(config.net, nn::Init(seed).at("encoder")),
      // At first the origin, the paper's token: training moves it away from where codes may lie.
      null_code_(add_parameter("null_code", zeros({1, config.net.latent}))) {
  nn::Init init(seed);
  add_child("encoder", encoder_);
  if (config.unet) {
    unet_ = std::make_unique<nn::UNet>(*config.unet, seed);
    code_embedding_ = std::make_unique<nn::Linear>(config.net.latent, 4 * config.unet->base, init.at("code_embedding"));
    add_child("denoiser", *unet_);
    add_child("code_embedding", *code_embedding_);
  } else {
    gated_ = std::make_unique<nn::ClusterUNet>(config.net, init.at("denoiser"));
    add_child("denoiser", *gated_);
  }
}

Codes Model::encode(const Tensor& x) {
  check(x.defined() && is_floating(x.dtype()), "Model::encode: x must be floating images, got ", describe(x));
  auto [mean, log_variance] = encoder_.forward(x.dtype() == DType::f32 ? cast(x, precision_) : x);
  return {mean, log_variance};
}

Tensor Model::denoise(const Tensor& x, const Tensor& t, const Tensor& code) {
  if (unet_) return unet_->forward(x, t, {}, code_embedding_->forward(code));
  check(x.defined() && is_floating(x.dtype()), "Model::denoise: x must be floating images, got ", describe(x));
  Tensor time = affine(t, 1 / double(std::max<int64_t>(schedule_.steps() - 1, 1)), 0);
  return cast(gated_->forward(x.dtype() == DType::f32 ? cast(x, precision_) : x, time, code), x.dtype());
}

Tensor Model::hide(const Tensor& code, const std::vector<bool>& hidden) const {
  check(code.defined() && code.ndim() == 2 && int64_t(hidden.size()) == code.size(0), "Model::hide: needs one mark an image: ",
        hidden.size(), " marks, codes ", describe(code));
  std::vector<double> marks(hidden.begin(), hidden.end());
  Tensor mark = from(marks, {code.size(0), 1}, code.dtype()).to(code.device());
  return code * affine(mark, -1, 1) + null_code_.in(code.dtype()) * mark;
}

Tensor Model::null_codes(int64_t count) const {
  return broadcast_to(null_code_.value, {count, config_.net.latent});
}

Generator& Model::generator() { return unet_ ? unet_->generator() : generator_; }

void Model::set_precision(DType dtype) {
  check(dtype == DType::f32 || dtype == DType::bf16, "Model::set_precision: f32 or bf16 needed, got ", dtype);
  precision_ = dtype;
  if (unet_) unet_->set_precision(dtype);
}

Network coded_network(Model& model, const Tensor& codes, double w) {
  if (!std::isfinite(w)) fail(Error::Kind::usage, "guidance weight must be finite, got ", w);
  return [&model, codes, w](const Tensor& x, double t) {
    check(x.size(0) == codes.size(0), "coded_network: there are ", codes.size(0), " codes, but x is ", describe(x));
    Tensor times = full({x.size(0)}, t, DType::f32, x.device());
    Tensor coded = model.denoise(x, times, codes);
    if (w == 0) return coded;
    return (1 + w) * coded - w * model.denoise(x, times, model.null_codes(x.size(0)));
  };
}

}  // namespace mote::cluster
