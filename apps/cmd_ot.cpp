// cmd_ot.cpp - `mote ot`: semi-discrete optimal transport, and DPM-OT, which draws images with it. One file a group of
// actions: cmd_ot_fit.cpp, cmd_ot_sample.cpp, cmd_ot_demo.cpp.
#include <CLI/CLI.hpp>
#include <filesystem>

#include "apps/commands.h"
#include "apps/ot_commands.h"
#include "apps/train_config.h"

namespace mote::apps {

Checkpoint checkpoint_of(const std::string& run, const std::string& ckpt) {
  if (run.empty() == ckpt.empty()) fail(Error::Kind::usage, "give --run DIR or --ckpt FILE, one of them");
  if (run.empty()) return load_checkpoint(ckpt);
  if (!std::filesystem::is_directory(run)) fail(Error::Kind::checkpoint, "--run: there is no run at ", run);
  return load_from_run(run, "to use it, give --ckpt {} instead of --run");
}

Dataset network_data(const Checkpoint& checkpoint, const std::string& spec, const std::string& split) {
  DataOptions options{.spec = spec.empty() ? checkpoint.data : spec,
                      .split = split,
                      .size = checkpoint.unet.size,
                      .channels = checkpoint.unet.channels,
                      .limit = 0};
  if (options.channels != 1 && options.channels != 3) options.channels = 0;
  bool is_own = spec.empty() && split == "train";
  if (is_own && !checkpoint.train.empty()) {
    TrainConfig config = train_config_from_json(checkpoint.train);
    options.size = config.size;
    options.channels = config.channels;
    options.limit = config.limit;
    options.labels = config.labels;
  }
  Dataset data = load_dataset(options);
  if (is_own && data.hash != checkpoint.data_hash)
    fail(Error::Kind::data, "the data of '", checkpoint.data, "' are not what this run was trained on: their hash is ",
         data.hash, ", the run has ", checkpoint.data_hash, "; --data SPEC names other images");
  return data;
}

void add_ot_command(CLI::App& app) {
  CLI::App* ot = app.add_subcommand("ot", "Optimal transport from noise to images or points, and DPM-OT");
  ot->require_subcommand(1);
  ot->footer(
      "Example:\n  mote ot demo --out ot-demo\n"
      "  mote ot fit --run runs/first --targets 10000 --level 300 --out map.safetensors\n"
      "  mote ot sample --run runs/first --map map.safetensors --calls 10 --out a.png");
  add_ot_fit(*ot);
  add_ot_apply(*ot);
  add_ot_sample(*ot);
  add_ot_eval(*ot);
  add_ot_demo(*ot);
}

}  // namespace mote::apps
