// cluster_checkpoint.h - the file a clustering run is kept in: as checkpoint.h, with the networks of cluster::Model, their
// buffers and the mixture (mixture.*) in place of a UNet.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "apps/checkpoint.h"
#include "diffusion/cluster/model.h"

namespace mote::apps {

struct ClusterCheckpoint {
  int64_t step = 0, images = 0;        // done so far
  int64_t pretrain_steps = 0;          // after how many of them the phase with a mixture begins
  int64_t fitted_step = -1;            // when the mixture was fitted last; -1: there is none yet
  double noise = 0, matching = 0, free_energy = 0;   // measured when it was
  uint64_t seed = 0;
  Generator random;                    // where dropout goes on
  cluster::ModelConfig config;
  std::string data, data_hash;         // the SPEC and the hash of its images and labels
  int64_t data_count = 0;
  std::vector<std::string> class_names;
  std::string train;                   // ClusterConfig as JSON
  nn::NamedTensors model, ema, m, v, buffers;   // by name; ema may be empty
  std::optional<cluster::Mixture> mixture;

  std::string hash;                    // over everything above; set by save and load
  std::string path;                    // where it was loaded from
};

inline constexpr const char* kClusterFormat = "mote-cluster";   // in the metadata, as 'format'

/// Writes one file, atomically, and sets checkpoint.hash. Throws Error(numeric) naming the first weight that is not
/// finite, Error(resource) if it cannot be written.
void save_cluster_checkpoint(const std::string& path, ClusterCheckpoint& checkpoint);

/// Everything read and checked, the mixture's width against the codes' too. Throws Error(checkpoint) naming file and cause.
ClusterCheckpoint load_cluster_checkpoint(const std::string& path);

/// The model with the averaged weights ("ema"; the plain ones if training kept no average) or the plain ones ("model"), in
/// evaluation mode. Error(usage) for another word.
std::unique_ptr<cluster::Model> model_of(const ClusterCheckpoint& checkpoint, const std::string& weights = "ema");
/// The mixture; Error(checkpoint) if the run is still in its pretraining.
const cluster::Mixture& mixture_of(const ClusterCheckpoint& checkpoint);

}  // namespace mote::apps
