// segment_trainer.h - the training runs of `mote segment`: an end-to-end model, or a residual DDPM on its frozen
// output. As in trainer.h every draw is a pure function of (seed, step), so that a resumed run is the
// uninterrupted one.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "apps/segment_config.h"

namespace mote::apps {

template <class Config>
struct SegmentJob {
  CommonOptions common;
  Config config;
  std::string out;
  std::string ckpt;                  // with resume: this file instead of the newest checkpoint
  bool resume = false, overwrite = false;
  std::vector<std::string> given;    // names of the flags that were typed or came from --config
};

struct SegmentResult {
  std::string run, checkpoint, checkpoint_hash, report;
  int64_t step = 0, images = 0, parameters = 0;
  double loss = 0, seconds = 0, images_per_s = 0;
  double score = 0;   // e2e: Dice (mean IoU of more classes) of the best validation; ddpm: of the last one; NaN: none
  int64_t best_step = -1;       // e2e
  double temperature = 1;       // e2e
  int signal = 0;               // that ended the run early
};

/// Trains and writes the run folder; the best weights on the validation part are kept beside the newest. A signal ends
/// it after the step that runs, saved. Throws Error(numeric) naming what is not finite; the last checkpoint stays.
SegmentResult train_e2e(const SegmentJob<E2EConfig>& job);

/// The same for the denoiser; the end-to-end model is only read.
SegmentResult train_segment_ddpm(const SegmentJob<DdpmConfig>& job);

/// The part of `data` with these numbers, its hash told by theirs.
Pairs pairs_at(const Pairs& data, const std::vector<int64_t>& numbers);
/// The fold of every training image of a SPEC: images of one group (index.csv) fall into one. The same for every seed.
std::vector<int64_t> folds_of(const Pairs& data, const std::string& spec, int64_t folds);

/// Mean Dice over images of decisions against masks (2 classes), or the mean IoU over classes. predicted u8 [N, H, W].
double segment_score(const Tensor& predicted, const Tensor& masks, int64_t classes);

/// A row an image: image, truth, f, estimate, |R| and deviation, as one picture u8.
///   images u8 [N, H, W, C]; masks u8; f, mean, residual, variance f32 [N, H, W, K] in [-1, 1] 
Tensor segment_picture(const Tensor& images, const Tensor& masks, int64_t classes, const Tensor& f, const Tensor& mean,
                       const Tensor& residual, const Tensor& variance, resensemble::Coding coding);

}  // namespace mote::apps
