// cmd_ckpt.cpp - `mote ckpt info|verify|export`: what a checkpoint holds, whether it is whole, and a small file to share.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/checkpoint.h"
#include "apps/commands.h"
#include "apps/common.h"

namespace mote::apps {
namespace {

using Json = nlohmann::ordered_json;

struct CkptOptions {
  CommonOptions common;
  std::string file, out, weights = "ema";
  bool overwrite = false;
};

std::string chosen(const CkptOptions& o) {
  if (o.file.empty())
    fail(Error::Kind::usage, "the checkpoint is missing; give a file or a run folder, for instance runs/first");
  return checkpoint_path(o.file);
}

Json describe_checkpoint(const CheckpointSummary& summary) {
  const Checkpoint& c = summary.checkpoint;
  Json parts = Json::object();
  for (const auto& [part, count] : summary.tensors)
    parts[part] = {{"tensors", count}, {"elements", summary.elements.at(part)}};
  return {{"file", c.path},
          {"bytes", summary.bytes},
          {"hash", c.hash},
          {"step", c.step},
          {"images", c.images},
          {"seed", c.seed},
          {"unet", Json::parse(nn::to_json(c.unet))},
          {"schedule", c.schedule},
          {"T", c.T},
          {"prediction", name_of(c.prediction)},
          {"data", c.data},
          {"data_hash", c.data_hash},
          {"data_count", c.data_count},
          {"class_names", c.class_names},
          {"train", c.train.empty() ? Json() : Json::parse(c.train, nullptr, false)},
          {"parts", parts}};
}

void run_info(const CkptOptions& o) {
  Json json = describe_checkpoint(read_checkpoint_summary(chosen(o)));
  if (o.common.json) {
    std::cout << json.dump(2) << "\n";
    return;
  }
  for (const auto& [key, value] : json.items()) {
    if (key == "parts" || key == "train") continue;
    std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    if (key == "bytes") text += " (" + bytes_text(value.get<int64_t>()) + ")";
    if (key == "class_names" && value.empty()) continue;
    std::printf("%-12s %s\n", key.c_str(), text.c_str());
  }
  for (const auto& [part, counts] : json["parts"].items())
    std::printf("%-12s %lld tensors, %s elements\n", part.c_str(), counts["tensors"].get<long long>(),
                count_text(counts["elements"].get<int64_t>()).c_str());
  if (json["train"].is_object()) {
    std::printf("trained with\n");
    for (const auto& [key, value] : json["train"].items())
      std::printf("  %-14s %s\n", key.c_str(), value.is_string() ? value.get<std::string>().c_str() : value.dump().c_str());
  } else {
    std::printf("exported weights: good for sampling, not for --resume\n");
  }
}

void run_verify(const CkptOptions& o) {
  Checkpoint c = load_checkpoint(chosen(o));
  size_t tensors = c.model.size() + c.ema.size() + c.m.size() + c.v.size();
  if (o.common.json)
    std::cout << Json{{"file", c.path}, {"whole", true}, {"step", c.step}, {"tensors", tensors}, {"hash", c.hash}}.dump(2)
              << "\n";
  else
    std::cout << c.path << ": whole; step " << c.step << ", " << tensors << " tensors, hash " << c.hash << "\n";
}

void run_export(const CkptOptions& o) {
  std::string from = chosen(o);
  if (o.weights != "ema" && o.weights != "model")
    fail(Error::Kind::usage, "--weights: '", o.weights, "' is not known; ema and model are");
  if (o.out.empty()) fail(Error::Kind::usage, "--out: the name of the new file is missing");
  if (std::filesystem::is_directory(o.out)) fail(Error::Kind::usage, "--out: ", o.out, " is a folder; a file name is needed");
  if (std::filesystem::exists(o.out) && !o.overwrite)
    fail(Error::Kind::usage, "--out: ", o.out, " exists; give --overwrite or another name");
  Checkpoint c = load_checkpoint(from);
  bool ema = o.weights == "ema";
  if ((ema ? c.ema : c.model).empty())
    fail(Error::Kind::checkpoint, c.path, ": holds no ", ema ? "averaged" : "plain", " weights; give --weights ",
         ema ? "model" : "ema");
  (ema ? c.model : c.ema).clear();
  c.m.clear();
  c.v.clear();
  c.train.clear();
  save_checkpoint(o.out, c);
  auto bytes = int64_t(std::filesystem::file_size(o.out));
  if (o.common.json)
    std::cout << Json{{"file", o.out}, {"weights", o.weights}, {"bytes", bytes}, {"hash", c.hash}}.dump(2) << "\n";
  else
    std::cout << o.out << ": " << (ema ? "averaged" : "plain") << " weights of step " << c.step << ", " << bytes_text(bytes)
              << ", hash " << c.hash << "\n";
}

}  // namespace

void add_ckpt_command(CLI::App& app) {
  CLI::App& group = *app.add_subcommand("ckpt", "Look at, check and export checkpoints");
  group.require_subcommand(1);
  auto add = [&](const char* name, const char* what, const char* example, void (*run)(const CkptOptions&)) {
    auto o = std::make_shared<CkptOptions>();
    CLI::App& command = add_command(group, name, what, example, o->common, [o, run] { run(*o); });
    command.add_option("file", o->file, "checkpoint file or run folder");
    return std::pair<CLI::App&, std::shared_ptr<CkptOptions>>(command, o);
  };
  add("info", "What a checkpoint holds", "mote ckpt info runs/first", run_info);
  add("verify", "Read all of a checkpoint and check hashes, names, shapes and values", "mote ckpt verify runs/first",
      run_verify);
  auto [command, o] = add("export", "Write the averaged weights alone to a new file that mote sample takes",
                          "mote ckpt export runs/first --out first.safetensors", run_export);
  command.add_option("--out", o->out, "the new file");
  command.add_option("--weights", o->weights, "ema (averaged) or model")->capture_default_str();
  command.add_flag("--overwrite", o->overwrite, "replace --out");
}

}  // namespace mote::apps
