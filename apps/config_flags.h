// config_flags.h - a flag for every key of a configuration (config_keys.h).
#pragma once
#include <CLI/CLI.hpp>
#include <utility>
#include <vector>

#include "apps/config_keys.h"

namespace mote::apps {

using FlagNames = std::vector<std::pair<std::string, CLI::Option*>>;

/// Adds the flags to `command` and lists them, with those that every command has, in `names`.
template <class Config>
void add_key_flags(CLI::App& command, Config& config, FlagNames& names) {
  names.emplace_back("seed", command.get_option("--seed"));
  for_each_key(config, [&](const std::string& name, auto& member, Key, const char* help, const char* section) {
    CLI::Option* option = nullptr;
    if (section == kCommonSection) {
      option = command.get_option("--" + name);
    } else if constexpr (std::is_same_v<std::decay_t<decltype(member)>, bool>) {
      option = command.add_flag("--" + name, member, help)->group(section);
    } else {
      option = command.add_option("--" + name, member, help)->group(section);
      if (name != "dropout") option->capture_default_str();
    }
    names.emplace_back(name, option);
  });
}

/// The flags that were typed or came from --config, for --resume.
inline std::vector<std::string> given_flags(const FlagNames& names) {
  std::vector<std::string> given;
  for (const auto& [name, option] : names)
    if (option->count() > 0) given.push_back(name);
  return given;
}

}  // namespace mote::apps
