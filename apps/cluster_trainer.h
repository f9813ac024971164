// cluster_trainer.h - one clustering run: pretraining, then a pass of training (M-step) and a fit of the mixture (E-step)
// in turn. As in trainer.h every draw is a pure function of (seed, step), and the checkpoint holds networks, moments,
// averages and the mixture: a run resumed at any step is the uninterrupted one. (A run that stopped where --epochs ended
// has an E-step there; with --e-every above 1 and more --epochs it goes on from that one.)
// Labels, where the data have them, are read for the log alone.
#pragma once
#include <string>
#include <vector>

#include "apps/cluster_checkpoint.h"
#include "apps/cluster_config.h"

namespace mote::apps {

struct ClusterJob {
  CommonOptions common;
  ClusterConfig config;
  std::string out;
  std::string ckpt;                  // with resume: this file instead of the newest checkpoint
  bool resume = false, overwrite = false;
  std::vector<std::string> given;    // names of the flags that were typed or came from --config
};

struct ClusterResult {
  std::string run, checkpoint, checkpoint_hash, report, precision;
  int64_t step = 0, images = 0, parameters = 0, components = 0;   // components: 0 before the first E-step
  double loss = 0, seconds = 0, images_per_s = 0;
  double free_energy = 0, noise = 0, matching = 0;   // of the last E-step; NaN before the first
  double accuracy = 0, nmi = 0, ari = 0;             // NaN without labels
  int signal = 0;                                    // that ended the run early
};

/// Trains and writes the run folder. A signal ends it after the step that runs, saved. Throws Error(numeric) naming what
/// is not finite; the last checkpoint stays.
ClusterResult train_clusters(const ClusterJob& job);

/// Scores of labels against known ones; NaN where there are none.
struct ClusterScores {
  double accuracy, nmi, ari;
};
ClusterScores score_labels(const Tensor& predicted, const Tensor& truth);

}  // namespace mote::apps
