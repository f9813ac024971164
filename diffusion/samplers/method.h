// method.h - what a sampler implements: a plan, and the state of one trajectory. The loop around it is in sampler.cpp.
// A method with a history (pseudo linear multistep, predictor-corrector) keeps it in its Trajectory, which lives for
// one run; one with several network calls a step (Runge-Kutta) calls evaluate() as often as its plan says.
#pragma once
#include <memory>

#include "diffusion/samplers/sampler.h"

namespace mote {

/// Both predictions at (x, level): the network is called at level.t, and its output is converted with this very x and
/// level, so that what a history holds means the same thing for every parametrisation.
using Evaluate = std::function<Denoised(const Tensor& x, const Level& level)>;

/// N(0, 1) like x, the noise of the current step: every call within a step gives the same numbers.
using Draw = std::function<Tensor()>;

class Trajectory {
 public:
  struct Stepped {
    Tensor x;    // fresh; the state before the step is left as it is
    Tensor x0;   // the prediction, for the observer
  };
  virtual ~Trajectory() = default;
  /// Moves x over step k of the plan. Steps come once each, in order from 0.
  virtual Stepped step(int64_t k, const Tensor& x, const Evaluate& evaluate, const Draw& draw) = 0;
};

struct Method {
  const char* name;
  /// Throws Error(usage) for an option value that this method does not take.
  std::vector<StepPlan> (*plan)(const Schedule& schedule, const SamplerOptions& options);
  std::unique_ptr<Trajectory> (*start)(const Schedule& schedule, const SamplerOptions& options);
};

extern const Method kDdpm, kDdim;

/// The trajectory of every method whose step is one network call and the affine map of its StepPlan.
std::unique_ptr<Trajectory> start_single_step(const Schedule& schedule, std::vector<StepPlan> plan);

}  // namespace mote
