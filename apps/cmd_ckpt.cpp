// cmd_ckpt.cpp - `mote ckpt info|verify|export|import`: what a checkpoint holds, whether it is whole, a small file to
// share, and weights to and from other programs (interchange.h).
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/checkpoint.h"
#include "apps/commands.h"
#include "apps/common.h"
#include "apps/interchange.h"

namespace mote::apps {
namespace {

using Json = nlohmann::ordered_json;

struct CkptOptions {
  CommonOptions common;
  std::string file, out;
  // export
  std::string weights, naming = "mote";
  bool ema = false, model = false, legacy = false, weights_only = false, overwrite = false;
  ImportRequest request;   // import
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
          {"source", c.source},
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
    if (key == "source" && text.empty()) continue;
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
    std::printf("%s weights: good for sampling, not for --resume\n", json["source"] == "" ? "exported" : "imported");
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

/// The weights that were asked for: by default the averaged ones where there are any.
bool wants_ema(const CkptOptions& o, const Checkpoint& c) {
  if (!o.weights.empty()) require_weights(o.weights);
  bool ema = o.ema || o.weights == "ema", model = o.model || o.weights == "model";
  if (ema && model) fail(Error::Kind::usage, "ema and model weights are asked for; one of them can be exported");
  if ((ema && c.ema.empty()) || (model && c.model.empty()))
    fail(Error::Kind::checkpoint, c.path, ": holds no ", ema ? "averaged" : "plain", " weights; give --weights ",
         ema ? "model" : "ema");
  return ema || (!model && !c.ema.empty());
}

void require_free_file(const CkptOptions& o) {
  if (o.out.empty()) fail(Error::Kind::usage, "--out: the name of the new file is missing");
  if (std::filesystem::is_directory(o.out))
    fail(Error::Kind::usage, "--out: ", o.out, " is a folder; a file name is needed");
  if (std::filesystem::exists(o.out) && !o.overwrite)
    fail(Error::Kind::usage, "--out: ", o.out, " exists; give --overwrite or another name");
}

/// Says what was written.
void tell(const CkptOptions& o, Json json, const std::string& sentence) {
  if (o.common.json) std::cout << json.dump(2) << "\n";
  else std::cout << sentence << "\n";
}

void export_for_mote(const CkptOptions& o, Checkpoint c, bool ema) {
  (ema ? c.model : c.ema).clear();
  c.m.clear();
  c.v.clear();
  c.train.clear();
  save_checkpoint(o.out, c);
  auto bytes = int64_t(std::filesystem::file_size(o.out));
  tell(o, {{"file", o.out}, {"weights", ema ? "ema" : "model"}, {"bytes", bytes}, {"hash", c.hash}},
       concat_text(o.out, ": ", ema ? "averaged" : "plain", " weights of step ", c.step, ", ", bytes_text(bytes),
                   ", hash ", c.hash));
}

void run_export(const CkptOptions& o) {
  std::string from = chosen(o);
  ExportRequest request{.out = o.out, .weights_only = o.weights_only, .overwrite = o.overwrite};
  bool is_ours = o.naming == "mote";
  if (o.naming == "ddim") request.naming = Naming::ddim;
  else if (o.naming == "diffusers") request.naming = o.legacy ? Naming::diffusers_legacy : Naming::diffusers;
  else if (!is_ours) fail(Error::Kind::usage, "--naming: '", o.naming, "' is not known; mote, diffusers and ddim are");
  if (o.legacy && o.naming != "diffusers") fail(Error::Kind::usage, "--legacy works only with --naming diffusers");
  if (o.weights_only && is_ours) fail(Error::Kind::usage, "--weights-only works only with another --naming than mote");
  if (is_ours) require_free_file(o);
  Checkpoint c = load_checkpoint(from);
  bool ema = wants_ema(o, c);
  if (is_ours) return export_for_mote(o, std::move(c), ema);
  std::vector<std::string> files = export_weights(c, ema ? c.ema : c.model, request);
  tell(o, {{"files", files}, {"naming", name_of(request.naming)}, {"weights", ema ? "ema" : "model"}},
       concat_text(joined(files), ": ", ema ? "averaged" : "plain", " weights of step ", c.step, " under ",
                   name_of(request.naming), " names"));
}

void run_import(const CkptOptions& o) {
  if (o.file.empty())
    fail(Error::Kind::usage, "the weights are missing; give a .safetensors file, or a folder that diffusers wrote");
  require_free_file(o);
  ImportRequest request = o.request;
  request.file = o.file;
  if (request.size < 0 || request.size > 16384)
    fail(Error::Kind::usage, "--size: must be 1 to 16384, got ", request.size);
  if (request.T < 0 || request.T > Schedule::kMaxSteps)
    fail(Error::Kind::usage, "--T: must be 1 to ", Schedule::kMaxSteps, ", got ", request.T);
  Checkpoint c = import_weights(request);
  save_checkpoint(o.out, c);
  int64_t elements = 0;
  for (const auto& [name, tensor] : c.ema) elements += tensor.numel();
  tell(o,
       {{"file", o.out}, {"tensors", c.ema.size()}, {"elements", elements}, {"source", c.source}, {"hash", c.hash}},
       concat_text(o.out, ": ", c.ema.size(), " tensors, ", count_text(elements), " parameters\nfrom ", c.source));
}

}  // namespace

void add_ckpt_command(CLI::App& app) {
  CLI::App& group = *app.add_subcommand("ckpt", "Look at, check, export and import checkpoints");
  group.require_subcommand(1);
  using Added = std::pair<CLI::App&, std::shared_ptr<CkptOptions>>;
  auto add = [&](const char* name, const char* what, const char* example, void (*run)(const CkptOptions&)) {
    auto o = std::make_shared<CkptOptions>();
    CLI::App& command = add_command(group, name, what, example, o->common, [o, run] { run(*o); });
    command.add_option("file", o->file, "checkpoint file or run folder");
    return Added(command, o);
  };
  add("info", "What a checkpoint holds", "mote ckpt info runs/first", run_info);
  add("verify", "Read all of a checkpoint and check hashes, names, shapes and values", "mote ckpt verify runs/first",
      run_verify);
  auto [exports, e] = add("export", "Write the weights alone, for mote sample or for other programs",
                          "mote ckpt export runs/first --out first.safetensors\n"
                          "  mote ckpt export runs/first --naming diffusers --out first-diffusers",
                          run_export);
  exports.add_option("--out", e->out, "the new file; with --naming diffusers the new folder");
  exports.add_flag("--overwrite", e->overwrite, "replace --out");
  exports.add_option("--weights", e->weights, "ema (averaged) or model (default: ema where there is one)");
  exports.add_flag("--ema", e->ema, "as --weights ema");
  exports.add_flag("--model", e->model, "as --weights model");
  exports.add_option("--naming", e->naming,
                     "mote; diffusers: a folder for UNet2DModel.from_pretrained, with config.json and "
                     "scheduler_config.json; ddim: the names of the PyTorch ports of DDIM and PNDM")
      ->capture_default_str();
  exports.add_flag("--legacy", e->legacy, "diffusers: the older names of attention (query, proj_attn)");
  exports.add_flag("--weights-only", e->weights_only,
                   "write the weights even if the other program would compute something else with them");

  auto [imports, i] = add("import", "Make a checkpoint of UNet weights that another program saved as safetensors",
                          "mote ckpt import ddpm-cifar10-32 --out cifar10.safetensors\n"
                          "  mote sample --ckpt cifar10.safetensors --sampler f-pndm --steps 50 --out cifar10.png",
                          run_import);
  imports.get_option("file")->description(
      "weights (.safetensors), or a folder with diffusion_pytorch_model.safetensors and config.json");
  imports.add_option("--out", i->out, "the new checkpoint");
  imports.add_flag("--overwrite", i->overwrite, "replace --out");
  ImportRequest& request = i->request;
  imports.add_option("--naming", request.naming, "diffusers or ddim (default: as the tensors are named)");
  imports.add_option("--config-json", request.config_json, "config.json of diffusers (default: the one beside the weights)");
  imports.add_option("--unet", request.unet,
                     "the network, if no file tells: tiny, fmnist, cifar10, or ddpm: widths from the shapes of the "
                     "tensors, all else as Ho 2020 has it (default for ddim names)");
  imports.add_option("--size", request.size, "height and width of the images, if no file tells, or other than it tells");
  imports.add_flag("--null-class", request.null_class, "the last class embedding means none, as guidance needs it");
  imports.add_option("--schedule", request.schedule,
                     "noise schedule: linear, linear:B0,B1 or cosine (default: scheduler_config.json's, else linear)");
  imports.add_option("--T", request.T, "diffusion steps (default: scheduler_config.json's, else 1000)");
  imports.add_option("--prediction", request.prediction,
                     "what the network predicts: eps, x0 or v (default: scheduler_config.json's, else eps)");
}

}  // namespace mote::apps
