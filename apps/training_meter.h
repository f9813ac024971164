// training_meter.h - what a training knows of its own pace and loss: sums since the last record of log.jsonl, totals since
// it was started, and a smoothed loss to show.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>

#include "apps/common.h"
#include "nn/optim.h"

namespace mote::apps {

/// Step `step` (from 0) of a training: the optimizer's, on the gradients of `loss`. If they are not finite the training
/// ends: Error(numeric) "NAME step N: what the optimizer found", with the checkpoint that is kept, and `advice`.
inline nn::StepOutcome step_or_end(nn::Optimizer& optimizer, const Tensor& loss, const char* name, int64_t step,
                                   int64_t saved_step, const std::string& advice) {
  try {
    return optimizer.step(loss);
  } catch (const Error& error) {
    if (error.kind() != Error::Kind::numeric) throw;
    fail(Error::Kind::numeric, name, " step ", step + 1, ": ", error.what(), "\n  ",
         saved_step > 0 ? concat_text("the checkpoint of step ", saved_step, " is kept")
                        : std::string("no checkpoint had been written yet"),
         "; ", advice);
  }
}

class TrainingMeter {
 public:
  /// One step: its loss, and seconds in all, of which `waited` for data.
  void add(double loss, double waited, double seconds) {
    add_loss(loss);
    add_time(waited, seconds);
  }
  /// The same where losses are read later than steps are done.
  void add_loss(double loss) {
    ++window_steps_;
    ++total_steps_;
    window_loss_ += loss;
    shown_loss_ = std::isnan(shown_loss_) ? loss : 0.98 * shown_loss_ + 0.02 * loss;
  }
  void add_time(double waited, double seconds) {
    window_wait_ += waited;
    window_seconds_ += seconds;
    total_seconds_ += seconds;
  }

  /// Since clear_window, or the start: steps, means of a step, images a second for steps of `batch`.
  int64_t steps() const { return window_steps_; }
  double loss() const { return window_loss_ / double(window_steps_); }
  double data_ms() const { return 1000 * window_wait_ / double(window_steps_); }
  double images_per_s(int64_t batch) const { return double(window_steps_ * batch) / window_seconds_; }
  void clear_window() {
    window_steps_ = 0;
    window_loss_ = window_wait_ = window_seconds_ = 0;
  }

  /// Since the start; 0 images a second if there was no step.
  double total_seconds() const { return total_seconds_; }
  double total_images_per_s(int64_t batch) const {
    return total_steps_ > 0 ? double(total_steps_ * batch) / total_seconds_ : 0;
  }

  /// The exponential mean of the losses, NAN before the first; in words for the progress, "" then.
  double shown_loss() const { return shown_loss_; }
  std::string loss_text(const char* phase = "") const {
    char text[64];
    std::snprintf(text, sizeof text, "loss %.4f%s", shown_loss_, phase);
    return std::isfinite(shown_loss_) ? text : "";
  }
  /// Another loss is minimised from here on.
  void forget_loss() { shown_loss_ = NAN; }

 private:
  int64_t window_steps_ = 0, total_steps_ = 0;
  double window_loss_ = 0, window_wait_ = 0, window_seconds_ = 0, total_seconds_ = 0, shown_loss_ = NAN;
};

}  // namespace mote::apps
