// optim.h - the flat parameter arena, AdamW over it, EMA, and learning-rate schedules.
// Parameters, gradients, moments and EMA lie in equally laid f32 arenas: zeroing, the global norm and the update are
// one pass over memory each, not one a tensor.
#pragma once
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "nn/module.h"
#include "tensor/kernels.h"

namespace mote::nn {

/// Moves a module's parameters into one flat f32 tensor. Afterwards each parameter is a view into values(), and its
/// grad a view into grads(). Each parameter starts at a multiple of 16 elements; the gaps stay zero. What layers read in
/// bf16 is one working copy of values(), made when the first of them asks for it and in one pass after every change.
/// Throws Error unless all parameters are f32 on one device and in no other living Arena.
class Arena {
 public:
  explicit Arena(Module& module);
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  Tensor& values() { return values_; }
  Tensor& grads() { return grads_; }
  void zero_grad() { grads_.fill_(0); }
  /// sqrt of the sum of squares of all gradients, in f64.
  double grad_norm() const;
  /// Every parameter as a named view of `flat`, a tensor laid out like values().
  NamedTensors views(const Tensor& flat) const;
  Tensor like() const { return zeros_like(values_); }   // zeros of the size of values()

 private:
  Tensor values_, grads_;
  std::vector<std::string> names_;
  std::vector<Shape> shapes_;
  std::vector<int64_t> offsets_;
  std::shared_ptr<const void> alive_;   // what the parameters watch (Module::to)
};

struct OptimizerOptions {
  double lr = 2e-4;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double weight_decay = 0;
  double clip = 1.0;          // global gradient norm; 0: no clipping
  int64_t warmup = 0;         // steps of linear growth from 0
  std::string schedule = "constant";   // or "cosine": to 0 at total_steps
  int64_t total_steps = 0;
  double ema = 0.9999;        // decay; 0: no EMA
  /// Throws Error(usage) listing every value outside its range.
  void validate() const;
};

/// Learning rate of step s (from 0): lr min((s + 1) / warmup, 1), times (1 + cos(pi s / total_steps)) / 2 if the
/// schedule is cosine.
double learning_rate(const OptimizerOptions& options, int64_t step);

/// EMA decay of step s (from 0): the first update copies the parameters, then min(ema, (1 + s) / (10 + s)), so that
/// short runs are not held at the initial weights.
double ema_decay(const OptimizerOptions& options, int64_t step);

/// What a step found.
struct StepOutcome {
  double loss = 0;        // 0 if the step was not told its loss
  double grad_norm = 0;   // before clipping
  bool is_finite() const { return std::isfinite(loss) && std::isfinite(grad_norm); }
};

/// AdamW with clipping, warm-up and EMA: one pass over the arena a step.
class Optimizer {
 public:
  Optimizer(Arena& arena, const OptimizerOptions& options);
  /// Clips, updates, counts. Throws Error(numeric) naming the loss ([1], may be undefined) or the first parameter whose
  /// gradient is not finite, changing nothing. On a GPU it waits for the device, once.
  StepOutcome step(const Tensor& loss);
  double step() { return step({}).grad_norm; }

  /// The same in two halves, so that a GPU need not be waited for at each step. `queue` returns at once; after a step
  /// that was not finite it and all later ones change nothing. `read` gives the outcomes of the queued steps, oldest
  /// first, and ends with the first that is not finite: steps() is its number then. At most kMostQueued may be unread.
  static constexpr int64_t kMostQueued = 64;
  void queue(const Tensor& loss);
  std::vector<StepOutcome> read();
  int64_t queued() const { return queued_; }
  /// The name of the first parameter whose gradient is not finite, or "".
  std::string bad_gradient() const;

  int64_t steps() const { return steps_; }   // those queued among them
  void set_steps(int64_t steps);
  double lr() const { return learning_rate(options_, steps_); }   // of the next step
  Tensor& m() { return m_; }
  Tensor& v() { return v_; }
  Tensor& ema() { return ema_; }   // undefined if options.ema is 0; the parameters themselves before the first step
  const OptimizerOptions& options() const { return options_; }

 private:
  Arena& arena_;
  OptimizerOptions options_;
  Tensor m_, v_, ema_;
  Tensor outcomes_;   // f64 [2 kMostQueued]: loss and squared norm of each queued step
  Tensor scale_;      // f32 [1]: the clip factor of the newest, NaN from the first that is not finite on
  int64_t steps_ = 0, queued_ = 0;
};

}  // namespace mote::nn
