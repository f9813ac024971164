// cmd_cluster.h - the subcommands of `mote cluster`, each in a file of its own, and how they name a run.
#pragma once
#include <memory>
#include <string>

#include "apps/cluster_checkpoint.h"
#include "apps/common.h"
#include "apps/dataset.h"
#include "diffusion/cluster/em.h"

namespace mote::apps {

void add_cluster_train(CLI::App& cluster);    // cmd_cluster.cpp
void add_cluster_assign(CLI::App& cluster);   // cmd_cluster_assign.cpp
void add_cluster_sample(CLI::App& cluster);   // cmd_cluster_sample.cpp
void add_cluster_eval(CLI::App& cluster);     // cmd_cluster_eval.cpp
void add_cluster_features(CLI::App& cluster); // cmd_cluster_features.cpp
void add_cluster_spectral(CLI::App& cluster); // cmd_cluster_spectral.cpp
void add_cluster_judge(CLI::App& cluster);    // cmd_cluster_judge.cpp

/// Which run, and which of its weights.
struct ClusterSource {
  CommonOptions common;
  std::string run, ckpt, weights = "ema";
  void add_flags(CLI::App& command);
  /// Error(usage) unless one of the two is given, Error(checkpoint).
  ClusterCheckpoint load() const;
};

/// The view of the codes that the run's mixture was fitted in.
cluster::CodeView view_of(const ClusterCheckpoint& checkpoint);

/// Which images: those of the run unless --data names others. Error(data) if the networks are for other images.
struct ClusterImages {
  std::string data, split = "train";
  int64_t limit = -1;   // the run's
  void add_flags(CLI::App& command);
  DataOptions options(const ClusterCheckpoint& checkpoint) const;
  Dataset load(const ClusterCheckpoint& checkpoint) const;
};

}  // namespace mote::apps
