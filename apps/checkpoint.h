// checkpoint.h - the one file a run is kept in (safetensors): weights model.*, averaged weights ema.*, moments opt.m.*
// and opt.v.*, and in its metadata everything else that resuming and sampling need. The hash that io::save_safetensors
// puts over all of it finds a flipped bit.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "diffusion/process.h"
#include "nn/module.h"
#include "nn/unet.h"
#include "tensor/random.h"

namespace mote::apps {

struct Checkpoint {
  int64_t step = 0, images = 0;        // done so far
  uint64_t seed = 0;
  Generator random;                    // where dropout goes on
  nn::UNetConfig unet;
  std::string schedule = "linear";
  int64_t T = 1000;
  Prediction prediction = Prediction::eps;
  std::string data, data_hash;         // the SPEC and the hash of its images and labels
  int64_t data_count = 0;
  std::vector<std::string> class_names;
  std::string train;                   // TrainConfig as JSON; empty in an exported file
  std::string source;                  // where imported weights came from; empty if they were trained here
  nn::NamedTensors model, ema, m, v;   // by parameter name; ema, m and v may be empty

  std::string hash;                    // over everything above; set by save and load
  std::string path;                    // where it was loaded from
};

/// Throws Error(usage) naming --weights unless it is "ema" or "model".
void require_weights(const std::string& which);
/// The averaged weights ("ema") or the plain ones ("model"). Throws Error(checkpoint) if the file has none of them.
const nn::NamedTensors& weights_of(const Checkpoint& checkpoint, const std::string& which);

inline constexpr const char* kCheckpointFile = "checkpoint.safetensors";
inline constexpr const char* kPreviousFile = "checkpoint.prev.safetensors";

/// Writes one file, atomically, and sets checkpoint.hash. Throws Error(numeric) naming the first weight that is not
/// finite, Error(resource) if it cannot be written; a file that was there stays as it was then.
void save_checkpoint(const std::string& path, Checkpoint& checkpoint);

/// save(path) writes a new checkpoint of a run folder: the new file is whole before checkpoint.prev.safetensors is replaced
/// by the one so far, and checkpoint.safetensors is a whole checkpoint at every moment. keep_current: false leaves the
/// previous one as it is.
void replace_in_run(const std::string& folder, const std::function<void(const std::string& path)>& save,
                    bool keep_current = true);

/// save_checkpoint in a run folder (replace_in_run).
void save_in_run(const std::string& folder, Checkpoint& checkpoint, bool keep_current = true);

/// Everything read and checked: metadata complete, hash right, tensors those of the UNet that the metadata describes,
/// weights finite. Throws Error(checkpoint) naming file and cause.
Checkpoint load_checkpoint(const std::string& path);

/// The metadata and tensor list only; the data is not read and the hash not compared. `tensors` are counts by part (model, ema, opt.m, opt.v).
struct CheckpointSummary {
  Checkpoint checkpoint;               // without tensors
  std::map<std::string, int64_t> tensors, elements;
  int64_t bytes = 0;
};
CheckpointSummary read_checkpoint_summary(const std::string& path);

/// load(path) of a run's newest file. If that fails and the previous one is whole, the message says so and how to use
/// it: nothing falls back by itself. `use` is the advice, with {} for the path. What is loaded has a `step`.
template <class Load>
auto load_newest(const std::string& folder, std::string use, const Load& load) {
  try {
    return load(folder + "/" + kCheckpointFile);
  } catch (const Error& newest) {
    std::string previous = folder + "/" + kPreviousFile;
    int64_t step = 0;
    try {
      step = load(previous).step;
    } catch (const Error&) {
      throw newest;
    }
    if (size_t at = use.find("{}"); at != std::string::npos) use.replace(at, 2, previous);
    fail(newest.kind(), newest.what(), "\n  the checkpoint before it (", previous, ", step ", step, ") is whole; ", use);
  }
}

/// load_newest of load_checkpoint.
Checkpoint load_from_run(const std::string& folder, const std::string& use);

/// `given` itself, or the newest checkpoint in it if it is a run folder.
std::string checkpoint_path(const std::string& given);

std::map<std::string, Tensor> as_map(const nn::NamedTensors& tensors);

/// Throws Error(numeric) naming the first of `tensors` with a value that is not finite, which one, and how many.
void require_finite(const std::string& what, const nn::NamedTensors& tensors);

}  // namespace mote::apps
