// segment_loop.h - the loop that both trainings of `mote segment` share: steps, log, validation, checkpoints, resuming.
// What is trained is a SegmentTask. Used by segment_e2e.cpp and segment_ddpm.cpp.
#pragma once
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "apps/run_dir.h"
#include "apps/segment_checkpoint.h"
#include "apps/segment_trainer.h"
#include "apps/signals.h"

namespace mote::apps {

class SegmentTask {
 public:
  virtual ~SegmentTask() = default;
  virtual nn::Module& module() = 0;
  virtual Generator& random() = 0;                 // of dropout
  /// The loss of step `step`, from 0, a pure function of it and the weights.
  virtual Tensor loss(int64_t step) = 0;
  /// Validates the weights that are in the module, the averaged ones where there are some: numbers for the log, "score"
  /// among them (null: none). `say` shows progress. Throws Stopped at a signal if the validation may be left out.
  virtual nlohmann::ordered_json validate(int64_t step, const RunDir& run,
                                          const std::function<void(const std::string&)>& say) = 0;
  /// Fills in what the loop does not know: kind, net, data, prior, best weights.
  virtual void describe(SegmentCheckpoint& checkpoint) const = 0;
  /// Takes up what describe() wrote.
  virtual void restore(const SegmentCheckpoint& checkpoint) = 0;
  virtual void finish(SegmentResult& result) const = 0;
  virtual std::string plan() const = 0;            // lines for stderr
};

struct LoopOptions {
  std::string name;          // in front of the progress
  std::string config_toml, config_json, data_hash;
  nn::OptimizerOptions optimizer;
  int64_t steps = 0, batch = 0, log_every = 1, save_every = 0, validate_every = 0;
  uint64_t seed = 0;
  bool quiet = false, overwrite = false;
  bool keep_current = true;   // false: the run goes on from another file than the newest
};

/// Trains to the last step; `from` is where it goes on.
SegmentResult run_loop(SegmentTask& task, RunDir& run, const LoopOptions& options, Device device,
                       const SegmentCheckpoint* from);

/// What the two jobs share: checks the flags, opens the folder, loads what is resumed; then run(device, folder, config,
/// from).
template <class Config, class Run>
SegmentResult run_job(const SegmentJob<Config>& job, const char* what, const std::string& kind, const Run& run) {
  RunDir::Open how = opening_of(job);
  if (job.out.empty()) fail(Error::Kind::usage, "--out: the run folder is missing");
  if (!job.resume) validate(job.config);
  Device device = start(job.common);
  RunDir folder(job.out, how);
  if (!job.resume) return run(device, folder, job.config, static_cast<const SegmentCheckpoint*>(nullptr));
  SegmentCheckpoint from = job.ckpt.empty()
                               ? load_newest(job.out, "to continue from it, add --ckpt {}", load_segment_checkpoint)
                               : load_segment_checkpoint(job.ckpt);
  if (from.kind != kind)
    fail(Error::Kind::checkpoint, "--resume: ", from.path, " is a run of mote segment train-", from.kind,
         ", not of train-", kind);
  Config config = merge_keys(keys_from_json<Config>(what, from.train), job.config, job.given);
  validate(config);
  return run(device, folder, config, static_cast<const SegmentCheckpoint*>(&from));
}

/// Error(data) unless a resumed run has the data it was begun with.
void require_same_data(const SegmentCheckpoint* from, const Pairs& data);

}  // namespace mote::apps
