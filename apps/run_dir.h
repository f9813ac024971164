// run_dir.h - the folder of one training run: config.toml, checkpoints, log.jsonl, samples/, report.html.
// Only one process may train in it: a lock on runs/NAME/.lock, which the kernel drops when the process ends, however.
#pragma once
#include <string>
#include <vector>

#include "tensor/error.h"

namespace mote::apps {

class RunDir {
 public:
  enum class Open { fresh, overwrite, resume };
  /// Makes, checks and locks the folder. fresh: it must be missing or empty; overwrite: it may hold a run, which stays
  /// until clear(); resume: it must hold a checkpoint (either of the two).
  /// Throws Error(usage) if it is not empty or another training holds it, Error(checkpoint) if there is nothing to
  /// resume, Error(resource) if it cannot be written.
  RunDir(const std::string& path, Open how);
  /// Unlocks. A folder that was made here and has stayed empty is removed again.
  ~RunDir();
  RunDir(const RunDir&) = delete;
  RunDir& operator=(const RunDir&) = delete;

  /// Removes what an earlier run wrote; other files stay. Called when all that can be wrong has been checked.
  void clear() const;

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  std::string sample_file(int64_t step) const;   // samples/step_000500.png

  /// Drops the records of log.jsonl after `step` and a last line that was cut off.
  void truncate_log(int64_t step) const;
  /// One line of JSON at the end of log.jsonl. Throws Error(resource).
  void append_log(const std::string& json) const;

 private:
  void prepare(Open how);
  void lock();
  void release();
  std::string path_;
  bool created_ = false;
  int lock_ = -1;
};

/// How a training job with the flags --resume, --overwrite and --ckpt opens its folder. Throws Error(usage) if they
/// contradict each other.
template <class Job>
RunDir::Open opening_of(const Job& job) {
  if (job.resume && job.overwrite)
    fail(Error::Kind::usage, "--resume continues a run and --overwrite throws it away; give one of them");
  if (!job.ckpt.empty() && !job.resume) fail(Error::Kind::usage, "--ckpt: only together with --resume");
  return job.resume ? RunDir::Open::resume : job.overwrite ? RunDir::Open::overwrite : RunDir::Open::fresh;
}

}  // namespace mote::apps
