// config_keys.h - what a configuration gets for listing its keys in one function for_each_key (train_config.h,
// cluster_config.h): the record in the checkpoint, config.toml, the comparison on --resume. Its flags are made in
// config_flags.h, which needs CLI11.
#pragma once
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <type_traits>
#include <vector>

#include "apps/common.h"
#include "nn/optim.h"
#include "tensor/error.h"

namespace mote::apps {

/// What a change of a key on --resume would do.
enum class Key {
  numbers,   // other weights: refused
  data,      // may name another place; the hash of the data decides
  steps,     // may grow
  custom,    // as numbers; only means something with --unet custom
  free,      // changes no weight
};

inline constexpr const char* kCommonSection = "Common";   // of flags that every command has

namespace config_keys {

template <class T>
void require(bool holds, const char* flag, const T& value, const char* rule) {
  if (!holds) fail(Error::Kind::usage, "--", flag, ": must be ", rule, ", got ", value);
}

inline std::string text_of(const std::string& value) { return value; }
inline std::string text_of(bool value) { return value ? "true" : "false"; }
inline std::string text_of(int64_t value) { return std::to_string(value); }
inline std::string text_of(double value) { return number_text(value); }

inline std::string toml_string(const std::string& text) {
  std::string quoted = "\"";
  for (char letter : text) {
    if (letter == '"' || letter == '\\') quoted += '\\';
    quoted += letter;
  }
  return quoted + "\"";
}

inline std::string toml_value(const std::string& name, const std::string& value) {
  if (name != "mult" && name != "attention") return toml_string(value);
  std::string list;
  for (char letter : value) list += letter == ',' ? std::string(", ") : std::string(1, letter);
  return "[" + list + "]";
}
template <class T>
std::string toml_value(const std::string&, const T& value) {
  return text_of(value);
}

/// What every training is told about optimisation and output.
template <class Config>
void require_training(const Config& c) {
  require(c.batch >= 1 && c.batch <= 65536, "batch", c.batch, "1 to 65536");
  require(std::isfinite(c.lr) && c.lr > 0, "lr", c.lr, "a positive number");
  require(c.warmup >= 0, "warmup", c.warmup, "0 or more");
  require(c.lr_schedule == "constant" || c.lr_schedule == "cosine", "lr-schedule", c.lr_schedule, "constant or cosine");
  require(std::isfinite(c.weight_decay) && c.weight_decay >= 0, "weight-decay", c.weight_decay, "0 or more");
  require(std::isfinite(c.clip) && c.clip >= 0, "clip", c.clip, "0 (no clipping) or more");
  precision_named(c.precision);
  require(c.log_every >= 1, "log-every", c.log_every, "1 or more");
  require(c.save_every >= 0, "save-every", c.save_every, "0 (only at the end) or more");
}

/// The same, with what those on images are told about data and diffusion.
template <class Config>
void require_common(const Config& c) {
  require(c.size >= 0 && c.size <= 4096, "size", c.size, "0 (as it is) to 4096");
  require(c.channels == 0 || c.channels == 1 || c.channels == 3, "channels", c.channels, "0 (as it is), 1 or 3");
  require(c.limit >= 0, "limit", c.limit, "0 (all) or more");
  require(c.T >= 1 && c.T <= 100000, "T", c.T, "1 to 100000");
  require_training(c);
  require(c.ema >= 0 && c.ema < 1, "ema", c.ema, "0 (none) or more, and below 1");
  require(c.sample_every >= 0, "sample-every", c.sample_every, "0 (only at the end) or more");
}

/// The optimiser that those keys ask for.
template <class Config>
nn::OptimizerOptions optimizer_of(const Config& c, double lr, int64_t steps) {
  nn::OptimizerOptions options;
  options.lr = lr;
  options.weight_decay = c.weight_decay;
  options.clip = c.clip;
  options.warmup = c.warmup;
  options.schedule = c.lr_schedule;
  options.total_steps = steps;
  options.ema = c.ema;
  return options;
}

}  // namespace config_keys

template <class Config>
std::string keys_to_json(const Config& config) {
  nlohmann::ordered_json json;
  for_each_key(config, [&](const char* name, const auto& value, Key, const char*, const char*) { json[name] = value; });
  json["seed"] = std::to_string(config.seed);   // as text: JSON readers may round 64-bit numbers
  return json.dump();
}

/// `absent` has the values of keys that older files may lack. Error(checkpoint) naming `what` on text that is not JSON,
/// on unknown and on missing keys.
template <class Config>
Config keys_from_json(const char* what, const std::string& text, const nlohmann::ordered_json& absent = {}) {
  Config config;
  std::set<std::string> known{"seed"};
  try {
    nlohmann::ordered_json json = nlohmann::ordered_json::parse(text);
    for (const auto& [name, value] : absent.items())
      if (!json.contains(name)) json[name] = value;
    for_each_key(config, [&](const char* name, auto& value, Key, const char*, const char*) {
      json.at(name).get_to(value);
      known.insert(name);
    });
    config.seed = std::stoull(json.at("seed").template get<std::string>());
    for (const auto& [name, value] : json.items())
      if (!known.count(name)) fail(Error::Kind::checkpoint, what, ": unknown key '", name, "'");
  } catch (const std::exception& error) {
    if (dynamic_cast<const Error*>(&error)) throw;
    fail(Error::Kind::checkpoint, what, ": ", error.what());
  }
  return config;
}

/// config.toml: reads back with `mote COMMAND --config`. Keys for which skips(Key) are left out.
template <class Config, class Skips>
std::string keys_to_toml(const std::string& command, const Config& config, const Skips& skips) {
  std::string text = "# The resolved configuration of this run. Read it back with: mote " + command + " --config FILE --out DIR\n";
  std::string section;
  for_each_key(config, [&](const char* name, const auto& value, Key key, const char*, const char* in) {
    if (skips(key)) return;
    if (section != in) text += std::string("\n# ") + (section = in) + "\n";
    text += std::string(name) + " = " + config_keys::toml_value(name, value) + "\n";
  });
  return text + "seed = " + std::to_string(config.seed) + "\n";
}

/// The config to resume with: `saved`, with the keys in `given` (flag names without "--") taken from `asked` where they
/// may change. Error(usage) listing every flag that would train something else. A Config has a seed and an lr_schedule.
template <class Config>
Config merge_keys(const Config& saved, const Config& asked, const std::vector<std::string>& given) {
  auto is_given = [&](const std::string& name) { return std::find(given.begin(), given.end(), name) != given.end(); };
  Config merged = saved;
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
        bool grows = key == Key::steps && wanted > value;
        if (grows && saved.lr_schedule == "cosine")
          conflicts.push_back("--" + name + " cannot grow with --lr-schedule cosine: every step so far had the rate for " +
                              config_keys::text_of(value) + " " + name);
        else if (grows || key == Key::free || key == Key::data)
          value = wanted;
        else
          conflict(name, config_keys::text_of(value), config_keys::text_of(wanted));
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
