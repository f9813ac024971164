// segment_checkpoint.h - the file a segmentation run is kept in: as checkpoint.h, for an end-to-end model or a residual
// DDPM. The network's configuration stands in it as JSON.
#pragma once
#include <string>
#include <vector>

#include "apps/checkpoint.h"

namespace mote::apps {

struct SegmentCheckpoint {
  std::string kind;                    // "e2e" or "ddpm"
  std::string net;                     // nn::E2ENetConfig, or resensemble::ModelConfig, as JSON
  std::string train;                   // E2EConfig or DdpmConfig as JSON
  std::string data, data_hash;         // the SPEC and the hash of the training part
  std::string coding;                  // ddpm: of the masks
  std::string prior, prior_hash;       // ddpm: where f came from, and its values
  std::vector<std::string> class_names;
  int64_t step = 0, images = 0, data_count = 0, classes = 2;
  int64_t height = 0, width = 0, channels = 1;   // of the images
  uint64_t seed = 0;
  Generator random;                    // where dropout goes on
  double temperature = 1;              // e2e: of the best weights
  double best_score = -1;              // e2e: Dice (mean IoU of classes) of them on the validation part
  int64_t best_step = -1;
  nn::NamedTensors model, ema, m, v, best;   // by name; ema and best may be empty

  std::string hash;                    // over everything above; set by save and load
  std::string path;                    // where it was loaded from
};

inline constexpr const char* kSegmentFormat = "mote-segment";   // in the metadata, as 'format'

/// Writes one file, atomically, and sets checkpoint.hash. Throws Error(numeric) naming the first weight that is not
/// finite, Error(resource) if it cannot be written.
void save_segment_checkpoint(const std::string& path, SegmentCheckpoint& checkpoint);

/// Everything read and checked, tensors against the network of the metadata. Throws Error(checkpoint) naming file
/// and cause.
SegmentCheckpoint load_segment_checkpoint(const std::string& path);

/// The checkpoint of a run folder, or a file. Error(checkpoint) unless it is of this kind ("" : any).
SegmentCheckpoint load_segment(const std::string& flag, const std::string& run_or_file, const std::string& kind);

/// Whether the folder's checkpoint is of this format.
bool is_segment_run(const std::string& folder);

}  // namespace mote::apps
