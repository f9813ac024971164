// cmd_restore.h - the subcommands of `mote restore`, each in a file of its own, and the flags they share.
#pragma once
#include <string>
#include <vector>

#include "apps/common.h"
#include "apps/restore_checkpoint.h"
#include "apps/restore_config.h"
#include "apps/restore_draw.h"

namespace mote::apps {

void add_restore_command(CLI::App& app);
void add_eval_restore_command(CLI::App& eval);   // `mote eval restore`
void add_restore_train(CLI::App& restore);   // cmd_restore.cpp
void add_restore_apply(CLI::App& restore);   // cmd_restore_apply.cpp
void add_restore_eval(CLI::App& restore);    // cmd_restore_eval.cpp

/// How pictures are restored.
struct RestoreFlags {
  std::string sampler = "ddim", blend = "steps", weights = "ema";
  int64_t steps = 50, overlap = -1, tiles = 32;
  double eta = 0;
  void add_flags(CLI::App& command);
  /// For the run of this checkpoint: what the sampler cannot do is Error(usage). `samples` and `seed` as they are.
  RestoreDraw draw(const RestoreCheckpoint& checkpoint, int64_t samples, uint64_t seed) const;
};

/// A run ready to restore.
struct LoadedRestorer {
  RestoreCheckpoint checkpoint;
  RestoreConfig train;
  RestoreNets nets;
  Device device;
  Restorer restorer() const {
    return {checkpoint.config, nets.denoiser.get(), nets.e2e.get(), precision_named(train.precision), device};
  }
  resensemble::Degradation degradation() const { return degradation_of(train, checkpoint.config.net.size); }
};
/// The newest checkpoint of a run, or a checkpoint file. Error(checkpoint) if it cannot be used.
LoadedRestorer load_restorer(const std::string& path, const std::string& weights, Device device);

/// y of the first K samples of xbar, averaged: pictures f32 [N, H, W, C] in [-1, 1].
Tensor restored_mean(const LoadedRestorer& run, const Tensor& xbar, const Tensor& prior, int64_t K);

/// One of N pictures f32 [N, H, W, C], clamped to [-1, 1] and rounded, as u8 [H, W, C].
Tensor picture_bytes(const Tensor& pictures, int64_t n);

}  // namespace mote::apps
