#include "nn/classifier.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace mote::nn {
namespace {

constexpr int64_t kKernel = 5, kSmallest = 8;  // pixels

int64_t channels_of(int64_t stage) { return std::min<int64_t>(64, int64_t(16) << stage); }  // after the stage

int64_t padded(int64_t side, int64_t stages) {
  int64_t factor = int64_t(1) << stages;
  return (side + factor - 1) / factor * factor;
}

/// Inputs of the hidden layer.
int64_t flat_size(const ClassifierConfig& config) {
  int64_t stages = config.stages();
  return (padded(config.height, stages) >> stages) * (padded(config.width, stages) >> stages) * channels_of(stages - 1);
}

const ClassifierConfig& validated(const ClassifierConfig& config) {
  config.validate();
  return config;
}

/// Calls visit(key, member) for every field, so that writing and reading cannot disagree.
template <class Config, class Visit>
void for_fields(Config& config, const Visit& visit) {
  visit("height", config.height);
  visit("width", config.width);
  visit("channels", config.channels);
  visit("classes", config.classes);
  visit("features", config.features);
}

}  // namespace

// ---- Config --------------------------------------------------------------------------------------------------------

int64_t ClassifierConfig::stages() const {
  int64_t stages = 2;
  while (padded(std::max(height, width), stages) >> stages > kSmallest) ++stages;
  return stages;
}

void ClassifierConfig::validate() const {
  auto require = [](bool holds, const auto&... parts) {
    if (!holds) fail(Error::Kind::usage, "classifier config: ", parts...);
  };
  require(height >= 1 && height <= 1024 && width >= 1 && width <= 1024, "images must be 1 to 1024 pixels a side, got ",
          height, " x ", width);
  require(channels >= 1 && channels <= 64, "channels must be 1 to 64, got ", channels);
  require(classes >= 2 && classes <= 100000, "classes must be 2 to 100000, got ", classes);
  require(features >= 1 && features <= 4096, "features must be 1 to 4096, got ", features);
}

std::string to_json(const ClassifierConfig& config) {
  nlohmann::ordered_json object;
  for_fields(config, [&](const char* key, const auto& value) { object[key] = value; });
  return object.dump();
}

ClassifierConfig classifier_config_from_json(const std::string& text) {
  nlohmann::json object = nlohmann::json::parse(text, nullptr, false);
  if (!object.is_object()) fail(Error::Kind::checkpoint, "classifier config: not a json object: ", text.substr(0, 80));
  ClassifierConfig config;
  for_fields(config, [&](const char* key, int64_t& value) {
    auto found = object.find(key);
    if (found == object.end() || !found->is_number_integer())
      fail(Error::Kind::checkpoint, "classifier config: key '", key, "' is missing or no whole number");
    value = found->get<int64_t>();
    object.erase(found);
  });
  if (!object.empty()) fail(Error::Kind::checkpoint, "classifier config: unknown key '", object.begin().key(), "'");
  try {
    config.validate();
  } catch (const Error& error) {
    fail(Error::Kind::checkpoint, error.what());
  }
  return config;
}

// ---- The network ---------------------------------------------------------------------------------------------------

Classifier::Classifier(const ClassifierConfig& config, uint64_t seed)
    : config_(validated(config)),
      padded_height_(padded(config.height, config.stages())),
      padded_width_(padded(config.width, config.stages())),
      hidden_(flat_size(config), config.features, Init(seed).at("hidden")),
      out_(config.features, config.classes, Init(seed).at("out")) {
  for (int64_t stage = 0; stage < config.stages(); ++stage) {
    std::string name = concat_text("conv.", stage);
    int64_t in = stage == 0 ? config.channels : channels_of(stage - 1);
    add_child(name, convs_.emplace_back(in, channels_of(stage), kKernel, Init(seed).at(name)));
  }
  add_child("hidden", hidden_);
  add_child("out", out_);
}

Tensor Classifier::features(const Tensor& x) const {
  check(x.defined() && x.ndim() == 4 && x.shape().without(0) == Shape{config_.height, config_.width, config_.channels},
        "Classifier: needs images [N, ", config_.height, ", ", config_.width, ", ", config_.channels, "], got ",
        describe(x));
  int64_t below = padded_height_ - config_.height, beside = padded_width_ - config_.width;
  Tensor h = below + beside > 0 ? pad(x, {0, 0, 0, 0}, {0, below, beside, 0}, -1) : x;
  for (const Conv2d& conv : convs_) h = avg_pool(silu(conv.forward(h)), 2);
  return silu(hidden_.forward(reshape(h, {x.size(0), -1})));
}

Tensor Classifier::logits(const Tensor& features) const { return out_.forward(features); }

}  // namespace mote::nn
