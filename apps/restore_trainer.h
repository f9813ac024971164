// restore_trainer.h - one restoration run: the end-to-end network first, if one is asked for, then the diffusion with
// that network frozen. As in trainer.h every draw is a pure function of (seed, step), and the checkpoint holds
// networks, moments and averages: a run resumed at any step is the uninterrupted one.
#pragma once
#include <string>
#include <vector>

#include "apps/restore_checkpoint.h"
#include "apps/restore_config.h"

namespace mote::apps {

struct RestoreJob {
  CommonOptions common;
  RestoreConfig config;
  std::string out;
  std::string ckpt;                  // with resume: this file instead of the newest checkpoint
  bool resume = false, overwrite = false;
  std::vector<std::string> given;    // names of the flags that were typed or came from --config
};

struct RestoreResult {
  std::string run, checkpoint, checkpoint_hash, report, precision;
  int64_t step = 0, images = 0, parameters = 0, e2e_parameters = 0;
  double loss = 0, seconds = 0, images_per_s = 0;
  int signal = 0;                    // that ended the run early
};

/// Trains and writes the run folder. A signal ends it after the step that runs, saved. Throws Error(numeric) naming
/// what is not finite; the last checkpoint stays.
RestoreResult train_restoration(const RestoreJob& job);

}  // namespace mote::apps
