// trainer.h - one training run: from flags or a checkpoint to the last step, with its log, grids and saves.
// The random draws of step s (timesteps, noise, hidden labels) are a pure function of (seed, s), the batch of (seed, s)
// too, and the state of dropout is in the checkpoint: a resumed run is the uninterrupted one.
#pragma once
#include <string>
#include <vector>

#include "apps/checkpoint.h"
#include "apps/common.h"
#include "apps/train_config.h"

namespace mote::apps {

struct TrainJob {
  CommonOptions common;
  TrainConfig config;
  std::string out;
  std::string ckpt;                  // with resume: this file instead of the newest checkpoint
  bool resume = false, overwrite = false;
  std::vector<std::string> given;    // names of the flags that were typed or came from --config
};

struct TrainResult {
  std::string run, checkpoint, checkpoint_hash, report, precision;
  int64_t step = 0, images = 0, parameters = 0;
  int64_t peak_bytes = 0;                           // of tensors, in the whole run
  int64_t plan_bytes = 0, step_bytes = 0;           // the planned and the measured peak of a step; 0 if there was none
  double loss = 0, seconds = 0, images_per_s = 0;   // loss: mean since the last log record
  int signal = 0;                                   // that ended the run early
};

/// Trains and writes the run folder. A signal ends it after the step that runs, saved. Throws Error(numeric) naming the
/// first tensor that is not finite; the last checkpoint stays.
TrainResult train(const TrainJob& job);

/// What step s of a run draws: levels t i64 [N], noise f32 like images, and which labels are hidden.
struct StepDraws {
  Tensor t, noise;
  std::vector<bool> hidden;
};
StepDraws draw_step(uint64_t seed, int64_t step, const Shape& images, int64_t T, double label_dropout);

}  // namespace mote::apps
