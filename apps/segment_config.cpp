#include "apps/segment_config.h"

#include <charconv>
#include <cmath>

namespace mote::apps {
using config_keys::require;
using config_keys::require_training;

namespace {

template <class Config>
void require_shared(const Config& c) {
  require(c.size >= 0 && c.size <= 4096, "size", c.size, "0 (as they are) to 4096");
  require(c.channels == 0 || c.channels == 1 || c.channels == 3, "channels", c.channels, "0 (as they are), 1 or 3");
  require(c.limit >= 0, "limit", c.limit, "0 (all) or more");
  require(c.classes == 0 || (c.classes >= 2 && c.classes <= 255), "classes", c.classes,
          "0 (as the data say) or 2 to 255");
  require(c.ignore >= -1 && c.ignore <= 255, "ignore", c.ignore, "-1 (none) to 255");
  require(c.shift >= 0 && c.shift <= 1024, "shift", c.shift, "0 to 1024");
  require_training(c);
  if (!is_pair_spec(c.data))
    fail(Error::Kind::usage, "--data: '", c.data, "' has no masks; pairs:DIR or synthetic:NAME is needed");
}

}  // namespace

void validate(const E2EConfig& c) {
  require_shared(c);
  nn::E2ENetConfig::preset(c.net);
  require(c.folds == 0 || (c.folds >= 2 && c.folds <= 100), "folds", c.folds, "0 (none) or 2 to 100");
  require(c.fold >= 0 && (c.folds == 0 ? c.fold == 0 : c.fold < c.folds), "fold", c.fold, "0 to --folds less 1");
  require(c.crop >= 0 && c.crop <= 4096, "crop", c.crop, "0 (whole pictures) to 4096");
  require(c.epochs >= 1, "epochs", c.epochs, "1 or more");
  require(c.precision == "f32", "precision", c.precision, "f32 for end-to-end models");
}

void validate(const DdpmConfig& c) {
  require_shared(c);
  require(c.T >= 1 && c.T <= 100000, "T", c.T, "1 to 100000");
  require(c.steps >= 1, "steps", c.steps, "1 or more");
  require(c.ema >= 0 && c.ema < 1, "ema", c.ema, "0 (none) or more, and below 1");
  require(std::isfinite(c.foreground) && c.foreground >= 0, "foreground", c.foreground, "0 or more");
  require(c.sample_every >= 0, "sample-every", c.sample_every, "0 (only at the end) or more");
  require(c.sample_steps >= 1, "sample-steps", c.sample_steps, "1 or more");
  require(c.sample_count >= 0, "sample-count", c.sample_count, "0 (none) or more");
  prediction_named(c.prediction);
  if (c.coding != "auto") resensemble::coding_named(c.coding);
  if (int(!c.e2e.empty()) + int(!c.f.empty()) + int(!c.f_dir.empty()) > 1)
    fail(Error::Kind::usage, "--e2e, --f and --f-dir name the same thing, the prior; give one of them");
  bool plain = c.target != "resfusion" && resensemble::target_named(c.target).prior == 0;
  if (c.e2e.empty() && c.f.empty() && c.f_dir.empty() && (!plain || c.see_f))
    fail(Error::Kind::usage, "--target ", c.target, c.see_f ? " with --see-f" : "",
         " needs a prior: give --e2e RUN, --f FILE or --f-dir DIR");
}

PairOptions pair_options(const SegmentData& data, const std::string& split) {
  PairOptions options;
  options.spec = data.data;
  options.split = split;
  options.height = options.width = data.size;
  options.channels = data.channels;
  options.limit = data.limit;
  options.classes = data.classes;
  options.ignore = data.ignore;
  options.colours = data.colours;
  return options;
}

nn::E2ENetConfig e2e_net_config(const E2EConfig& config, const Pairs& data) {
  nn::E2ENetConfig net = nn::E2ENetConfig::preset(config.net);
  net.channels_in = data.images.size(3);
  net.channels_out = data.classes == 2 ? 1 : data.classes;
  net.validate();
  return net;
}

resensemble::Coding coding_of(const DdpmConfig& config, int64_t classes) {
  constexpr int64_t kMostOneHot = 12;
  if (config.coding != "auto") return resensemble::coding_named(config.coding);
  return classes == 2              ? resensemble::Coding::binary
         : classes <= kMostOneHot ? resensemble::Coding::one_hot
                                   : resensemble::Coding::bits;
}

resensemble::ModelConfig model_config(const DdpmConfig& config, const Pairs& data) {
  int64_t height = data.images.size(1), width = data.images.size(2);
  if (height != width)
    fail(Error::Kind::usage, "--data: the denoiser takes squares, these images are ", height, " x ", width,
         "; give --size");
  resensemble::ModelConfig model;
  model.net = nn::DenoiserConfig::preset(config.net);
  model.net.condition = config.condition;
  model.net.rrdb = config.rrdb;
  int64_t channels = resensemble::channels_of(coding_of(config, data.classes), data.classes);
  model.net.fit(height, channels, data.images.size(3), config.see_f);
  model.target = config.target;
  model.schedule = config.schedule;
  model.T = config.T;
  model.prediction = prediction_named(config.prediction);
  if (config.target_scale != "auto") {
    const char *begin = config.target_scale.data(), *end = begin + config.target_scale.size();
    auto [stop, error] = std::from_chars(begin, end, model.scale);
    require(error == std::errc() && stop == end && model.scale > 0 && std::isfinite(model.scale), "target-scale",
            config.target_scale, "a positive number or auto");
  }
  model.validate();
  return model;
}

Tensor class_ids(const Tensor& masks) { return masks.to(DType::i64); }

}  // namespace mote::apps
