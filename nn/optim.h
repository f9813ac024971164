// optim.h - the flat parameter arena, AdamW over it, EMA, and learning-rate schedules.
// Parameters, gradients, moments and EMA lie in equally laid f32 arenas: zeroing, the global norm and the update are
// one pass over memory each, not one a tensor.
#pragma once
#include <string>

#include "nn/module.h"
#include "tensor/kernels.h"

namespace mote::nn {

/// Moves a module's parameters into one flat f32 tensor. Afterwards each parameter is a view into values(), and its
/// grad a view into grads(). Each parameter starts at a multiple of 16 elements; the gaps stay zero.
class Arena {
 public:
  explicit Arena(Module& module);
  Tensor& values() { return values_; }
  Tensor& grads() { return grads_; }
  void zero_grad();
  /// sqrt of the sum of squares of all gradients, in f64.
  double grad_norm() const;
  /// A tensor laid out like values(), with every parameter as a named view of it.
  NamedTensors views(const Tensor& flat) const;
  Tensor like() const;   // zeros of the size of values()

 private:
  Tensor values_, grads_;
  std::vector<std::string> names_;
  std::vector<Shape> shapes_;
  std::vector<int64_t> offsets_;
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
};

/// Learning rate of step s (from 0): lr min((s + 1) / warmup, 1), times the cosine factor if asked.
double learning_rate(const OptimizerOptions& options, int64_t step);

/// AdamW with clipping, warm-up and EMA: one pass over the arena a step. The first EMA update copies the parameters;
/// the decay grows as min(ema, (1 + s) / (10 + s)) so that short runs are not held at the initial weights.
class Optimizer {
 public:
  Optimizer(Arena& arena, const OptimizerOptions& options);
  /// Clips, updates, counts. Returns the gradient norm before clipping. Throws Error(numeric) if it is not finite,
  /// changing nothing.
  double step();
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }
  double lr() const { return learning_rate(options_, steps_); }
  Tensor& m() { return m_; }
  Tensor& v() { return v_; }
  Tensor& ema() { return ema_; }   // undefined if options.ema is 0
  const OptimizerOptions& options() const { return options_; }

 private:
  Arena& arena_;
  OptimizerOptions options_;
  Tensor m_, v_, ema_;
  int64_t steps_ = 0;
};

}  // namespace mote::nn
