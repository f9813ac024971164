// training_meter.h - what a training knows of its own pace and loss: sums since the last record of log.jsonl, totals since
// it was started, and a smoothed loss to show.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>

namespace mote::apps {

class TrainingMeter {
 public:
  /// One step: its loss, and seconds in all, of which `waited` for data.
  void add(double loss, double waited, double seconds) {
    ++window_steps_;
    ++total_steps_;
    window_loss_ += loss;
    window_wait_ += waited;
    window_seconds_ += seconds;
    total_seconds_ += seconds;
    shown_loss_ = std::isnan(shown_loss_) ? loss : 0.98 * shown_loss_ + 0.02 * loss;
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
