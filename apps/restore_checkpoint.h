// restore_checkpoint.h - the file a restoration run is kept in: as checkpoint.h, with a denoiser that is told the
// damaged image in place of a UNet and, where there is one, the end-to-end network whose output is the prior.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "apps/checkpoint.h"
#include "diffusion/resensemble/model.h"
#include "nn/e2e_net.h"

namespace mote::apps {

/// A run trains the end-to-end network first, if it has one, then the denoiser; the moments are those of the network
/// that is in training. The denoiser's weights are there once the end-to-end network is done; e2e holds that network as
/// it stands or, from then on, as it is used.
struct RestoreCheckpoint {
  int64_t step = 0, images = 0;        // done so far, of both networks
  int64_t e2e_steps = 0;               // after how many the diffusion begins
  uint64_t seed = 0;
  Generator random;                    // where dropout goes on
  resensemble::ModelConfig config;
  std::optional<nn::E2ENetConfig> e2e_config;
  std::string data, data_hash;         // the SPEC and the hash of its pictures
  int64_t data_count = 0;
  std::string train;                   // RestoreConfig as JSON
  nn::NamedTensors e2e, e2e_ema, model, ema, m, v;   // by name; averages may be empty

  std::string hash;                    // over everything above; set by save and load
  std::string path;                    // where it was loaded from

  bool trains_e2e() const { return step < e2e_steps; }
};

inline constexpr const char* kRestoreFormat = "mote-restore";   // in the metadata, as 'format'

/// Writes one file, atomically, and sets checkpoint.hash. Throws Error(numeric) naming the first weight that is not
/// finite, Error(resource) if it cannot be written.
void save_restore_checkpoint(const std::string& path, RestoreCheckpoint& checkpoint);

/// Everything read and checked. Throws Error(checkpoint) naming file and cause.
RestoreCheckpoint load_restore_checkpoint(const std::string& path);

/// Whether the folder's checkpoint is of this kind.
bool is_restore_run(const std::string& folder);

/// Networks in evaluation mode with the averaged weights ("ema"; the plain ones if training kept no average) or the
/// plain ones ("model"). The denoiser is missing while its training has not begun, the end-to-end network if there is
/// none. Error(usage) for another word.
struct RestoreNets {
  std::unique_ptr<nn::Denoiser> denoiser;
  std::unique_ptr<nn::E2ENet> e2e;
};
RestoreNets nets_of(const RestoreCheckpoint& checkpoint, const std::string& weights, Device device);

/// Writes report.html of a restoration run and returns its path; throws as write_report does.
std::string write_restore_report(const std::string& folder);

}  // namespace mote::apps
