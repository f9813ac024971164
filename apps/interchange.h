// interchange.h - `mote ckpt import`, and the part of `mote ckpt export` that writes for other programs: a checkpoint
// made of their files, and their files made of a checkpoint. Names and layouts are in foreign_weights.h, configs in
// diffusers_config.h.
#pragma once
#include <string>
#include <vector>

#include "apps/checkpoint.h"
#include "apps/foreign_weights.h"

namespace mote::apps {

struct ImportRequest {
  std::string file = "";           // weights, or the folder that diffusers keeps them in
  std::string naming = "";         // diffusers or ddim; empty: as the names are
  std::string config_json = "";    // empty: config.json beside the weights, if it is needed
  std::string unet = "";           // a preset, or "ddpm": widths from the shapes, all else as Ho 2020 has it
  int64_t size = 0;           // of the images; 0: as the config has it
  bool null_class = false;    // the last class embedding means none
  std::string schedule = "", prediction = "";   // empty, and T = 0: as scheduler_config.json or the file has it
  int64_t T = 0;
};

/// A checkpoint whose averaged weights are those of a file of another program, ready for save_checkpoint. The network
/// is, in this order, that of config_json, that of `unet`, what `mote ckpt export` wrote into the file, that of a
/// config.json beside the weights (diffusers names only), or what the shapes tell (ddim names only: that program has
/// constants where diffusers has options). The noise is, key by key, as asked for here, as a scheduler_config.json
/// beside the weights has it, as the file has it, or linear, T = 1000, eps. Checkpoint::source says in words which.
/// Throws Error(usage) for a request that names too much or too little, Error(checkpoint) if the files are wrong.
Checkpoint import_weights(const ImportRequest& request);

struct ExportRequest {
  std::string out = "";             // diffusers: a folder; ddim: a file
  Naming naming = Naming::diffusers;
  bool weights_only = false;   // the names alone, where the other program would compute something else
  bool overwrite = false;
};

/// Writes the weights of a checkpoint for another program, each file atomically, and returns the paths: for diffusers
/// diffusion_pytorch_model.safetensors, config.json, scheduler_config.json and model_index.json, with weights_only the
/// first alone; for ddim the file. The metadata of the weights keeps what import_weights needs.
///   weights: the model's or the averaged ones
/// Throws Error(usage) if `out` exists and may not be replaced, or, unless weights_only, if the other program would not
/// compute what this network computes: every difference is named.
std::vector<std::string> export_weights(const Checkpoint& checkpoint, const nn::NamedTensors& weights,
                                        const ExportRequest& request);

}  // namespace mote::apps
