#include "apps/train_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "apps/common.h"
#include "diffusion/process.h"

namespace mote::apps {
namespace {

using Json = nlohmann::ordered_json;

template <class T>
void require(bool holds, const char* flag, const T& value, const char* rule) {
  if (!holds) fail(Error::Kind::usage, "--", flag, ": must be ", rule, ", got ", value);
}

std::string text_of(const std::string& value) { return value; }
std::string text_of(bool value) { return value ? "true" : "false"; }
std::string text_of(int64_t value) { return std::to_string(value); }
std::string text_of(double value) { return number_text(value); }

std::string toml_string(const std::string& text) {
  std::string quoted = "\"";
  for (char letter : text) {
    if (letter == '"' || letter == '\\') quoted += '\\';
    quoted += letter;
  }
  return quoted + "\"";
}

std::string toml_value(const std::string& name, const std::string& value) {
  if (name != "mult" && name != "attention") return toml_string(value);
  std::string list;
  for (char letter : value) list += letter == ',' ? std::string(", ") : std::string(1, letter);
  return "[" + list + "]";
}
template <class T>
std::string toml_value(const std::string&, const T& value) {
  return text_of(value);
}

}  // namespace

void validate(const TrainConfig& c) {
  require(c.size >= 0 && c.size <= 4096, "size", c.size, "0 (as it is) to 4096");
  require(c.channels == 0 || c.channels == 1 || c.channels == 3, "channels", c.channels, "0 (as it is), 1 or 3");
  require(c.limit >= 0, "limit", c.limit, "0 (all) or more");
  require(c.dropout < 1, "dropout", c.dropout, "at least 0 and below 1");
  require(c.label_dropout >= 0 && c.label_dropout <= 1, "label-dropout", c.label_dropout, "0 to 1");
  require(c.schedule == "linear" || c.schedule == "cosine", "schedule", c.schedule, "linear or cosine");
  require(c.T >= 1 && c.T <= 100000, "T", c.T, "1 to 100000");
  require(c.prediction == "eps" || c.prediction == "x0" || c.prediction == "v", "prediction", c.prediction,
          "eps, x0 or v");
  require(c.steps >= 1, "steps", c.steps, "1 or more");
  require(c.batch >= 1 && c.batch <= 65536, "batch", c.batch, "1 to 65536");
  require(std::isfinite(c.lr) && c.lr > 0, "lr", c.lr, "a positive number");
  require(c.warmup >= 0, "warmup", c.warmup, "0 or more");
  require(c.lr_schedule == "constant" || c.lr_schedule == "cosine", "lr-schedule", c.lr_schedule, "constant or cosine");
  require(std::isfinite(c.weight_decay) && c.weight_decay >= 0, "weight-decay", c.weight_decay, "0 or more");
  require(std::isfinite(c.clip) && c.clip >= 0, "clip", c.clip, "0 (no clipping) or more");
  require(c.ema >= 0 && c.ema < 1, "ema", c.ema, "0 (none) or more, and below 1");
  precision_named(c.precision);
  require(c.log_every >= 1, "log-every", c.log_every, "1 or more");
  require(c.save_every >= 0, "save-every", c.save_every, "0 (only at the end) or more");
  require(c.sample_every >= 0, "sample-every", c.sample_every, "0 (only at the end) or more");
  require(c.sample_count >= 0 && c.sample_count <= 4096, "sample-count", c.sample_count, "0 (no grids) to 4096");
  require(c.sample_steps >= 1, "sample-steps", c.sample_steps, "1 or more");
}

nn::UNetConfig unet_config(const TrainConfig& config, int64_t size, int64_t channels, int64_t classes) {
  nn::UNetConfig unet;
  if (config.unet == "custom") {
    unet.base = config.base;
    unet.multipliers = int_list("--mult", config.mult);
    unet.blocks = config.blocks;
    unet.attention = int_list("--attention", config.attention);
    unet.heads = config.heads;
    unet.norm_groups = config.groups;
  } else {
    unet = nn::UNetConfig::preset(config.unet);
  }
  auto halvings = int64_t(unet.multipliers.size()) - 1;
  int64_t factor = int64_t(1) << std::clamp<int64_t>(halvings, 0, 30);
  if (size % factor != 0) {
    int64_t below = size / factor * factor, above = below + factor;
    fail(Error::Kind::usage, "images are ", size, "x", size, ", and --unet ", config.unet, " halves them ", halvings,
         " times, so their size must divide by ", factor, "; give --size ", above,
         below > 0 ? concat_text(" or --size ", below) : std::string());
  }
  if (config.unet == "custom") {
    unet.size = size;
    unet.channels = channels;
  } else {
    unet.fit(size, channels);
  }
  if (config.dropout >= 0) unet.dropout = config.dropout;
  unet.classes = classes;
  unet.validate();
  return unet;
}

nn::OptimizerOptions optimizer_options(const TrainConfig& config) {
  nn::OptimizerOptions options;
  options.lr = config.lr;
  options.weight_decay = config.weight_decay;
  options.clip = config.clip;
  options.warmup = config.warmup;
  options.schedule = config.lr_schedule;
  options.total_steps = config.steps;
  options.ema = config.ema;
  return options;
}

std::string to_json(const TrainConfig& config) {
  Json json;
  for_each_key(config, [&](const char* name, const auto& value, Key, const char*, const char*) { json[name] = value; });
  json["seed"] = std::to_string(config.seed);   // as text: JSON readers may round 64-bit numbers
  return json.dump();
}

TrainConfig train_config_from_json(const std::string& text) {
  TrainConfig config;
  std::set<std::string> known{"seed"};
  try {
    Json json = Json::parse(text);
    json.emplace("precision", "f32");   // files from before there was a choice do not have these two
    json.emplace("groups", 0);
    for_each_key(config, [&](const char* name, auto& value, Key, const char*, const char*) {
      json.at(name).get_to(value);
      known.insert(name);
    });
    config.seed = std::stoull(json.at("seed").get<std::string>());
    for (const auto& [name, value] : json.items())
      if (!known.count(name)) fail(Error::Kind::checkpoint, "training configuration: unknown key '", name, "'");
  } catch (const std::exception& error) {
    if (dynamic_cast<const Error*>(&error)) throw;
    fail(Error::Kind::checkpoint, "training configuration: ", error.what());
  }
  return config;
}

std::string to_toml(const TrainConfig& config) {
  std::string text = "# The resolved configuration of this run. Read it back with: mote train --config FILE --out DIR\n";
  std::string section;
  for_each_key(config, [&](const char* name, const auto& value, Key key, const char*, const char* in) {
    if (key == Key::custom && config.unet != "custom") return;
    if (section != in) text += std::string("\n# ") + (section = in) + "\n";
    text += std::string(name) + " = " + toml_value(name, value) + "\n";
  });
  return text + "seed = " + std::to_string(config.seed) + "\n";
}

TrainConfig merge_for_resume(const TrainConfig& saved, const TrainConfig& asked, const std::vector<std::string>& given) {
  auto is_given = [&](const std::string& name) { return std::find(given.begin(), given.end(), name) != given.end(); };
  TrainConfig merged = saved;
  std::vector<std::string> conflicts;
  auto conflict = [&](const std::string& name, const std::string& before, const std::string& now) {
    conflicts.push_back("--" + name + " is " + before + " in this run, " + now + " was given");
  };
  // Two walks in step: the values of `asked` by name, then the members of `merged`.
  for_each_key(merged, [&](const std::string& name, auto& value, Key key, const char*, const char*) {
    if (!is_given(name)) return;
    for_each_key(asked, [&](const std::string& other, const auto& wanted, Key, const char*, const char*) {
      if constexpr (std::is_same_v<std::decay_t<decltype(wanted)>, std::decay_t<decltype(value)>>) {
        if (other != name || wanted == value) return;
        bool grows = key == Key::steps && text_of(wanted) != text_of(value) && asked.steps > saved.steps;
        if (grows && saved.lr_schedule == "cosine")
          conflicts.push_back("--steps cannot grow with --lr-schedule cosine: every step so far had the rate for " +
                              text_of(value) + " steps");
        else if (grows || key == Key::free || key == Key::data)
          value = wanted;
        else
          conflict(name, text_of(value), text_of(wanted));
      }
    });
  });
  if (is_given("seed") && asked.seed != saved.seed)
    conflict("seed", std::to_string(saved.seed), std::to_string(asked.seed));
  if (!conflicts.empty())
    fail(Error::Kind::usage, "--resume continues a run as it was begun:\n  ", joined(conflicts, "\n  "),
         "\n  leave these flags out, or start another run with another --out");
  return merged;
}

}  // namespace mote::apps
