// config_flags.h - a flag for every key of a configuration (config_keys.h), and commands that train with one.
#pragma once
#include <CLI/CLI.hpp>
#include <memory>
#include <utility>
#include <vector>

#include "apps/common.h"
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

/// Adds a command that trains in a run folder: the flags of the folder and one for every key of Job's configuration.
/// When it is chosen, train(job) trains, shows the result and returns the signal that ended it, 0 if none did.
template <class Job, class Train>
void add_training_command(CLI::App& parent, const std::string& name, const std::string& what, const std::string& example,
                          const Train& train) {
  auto job = std::make_shared<Job>();
  auto names = std::make_shared<FlagNames>();
  CLI::App& command = add_command(parent, name, what, example, job->common, [=] {
    job->given = given_flags(*names);
    job->config.seed = job->common.seed;
    job->config.precision = job->common.precision;
    if (int signal = train(*job)) throw Exit{128 + signal};
  });
  command.add_option("--out", job->out, "run folder: checkpoints, log, samples, report")->group("Run");
  command.add_flag("--resume", job->resume,
                   "continue the run in --out, exactly where its checkpoint is; data, networks and rates are its own")
      ->group("Run");
  command.add_option("--ckpt", job->ckpt, "with --resume: this checkpoint instead of the newest")->group("Run");
  command.add_flag("--overwrite", job->overwrite, "replace the run in --out")->group("Run");
  add_key_flags(command, job->config, *names);
}

}  // namespace mote::apps
