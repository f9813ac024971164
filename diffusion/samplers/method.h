// method.h - what a sampler implements: a plan. planned.cpp carries out any plan, with its history; the loop around it
// is in sampler.cpp. Only a method whose steps depend on the state (pf-rk45) brings a Trajectory of its own.
#pragma once
#include <memory>
#include <span>

#include "diffusion/samplers/sampler.h"

namespace mote {

// ---- Writing a plan ------------------------------------------------------------------------------------------------

using Terms = std::vector<PlanTerm>;

/// Writes a plan down in the order in which it happens.
class Planner {
 public:
  void begin_step(const Level& from, const Level& to);
  /// The network is called with the current state at this level; returns the number of the call.
  int64_t call(const Level& level);
  /// The current state becomes the sum of the terms. Terms of one tensor become one, and those of factor 0 are left
  /// out: each would cost a read.
  void move(const Terms& terms);
  std::vector<StepPlan> take() { return std::move(plan_); }

 private:
  std::vector<StepPlan> plan_;
  int64_t calls_ = 0;
};

/// A weighted network call; a gradient part is a list of them.
struct Weighted {
  double weight;
  int64_t call;
};

/// phi(x, e, from, to) = sqrt(abar'/abar) x
///                       - (abar' - abar) / (sqrt(abar) (sqrt((1-abar') abar) + sqrt((1-abar) abar'))) e
/// with e = sum of weight * eps[call] and x the state at the beginning of the step.             [Liu 2022, eq. 9]
/// Equals a' (x / a + (u' - u) e) = a' x0 + sigma' e, without the difference u' - u.
Terms phi(const Level& from, const Level& to, std::span<const Weighted> e);

/// weight[j] of the call history[last - j]: newest first, as multistep formulas are printed.
std::vector<Weighted> newest_first(std::span<const int64_t> history, std::span<const double> weights);

/// The classical Adams-Bashforth weights of 1 to 4 values at even distances, newest first.
std::span<const double> adams_bashforth(int64_t order);

/// With fewer than 15 steps, no more values than steps that are left: 2 at the last but one, 1 at the last.
/// (DPM-Solver's authors do so below 10.)
int64_t lowered_at_end(int64_t order, int64_t k, int64_t steps);

// ---- Carrying it out -----------------------------------------------------------------------------------------------

/// Both predictions at (x, level): the network is called at level.t, and its output is converted with this very x and
/// level, so that what a history holds means the same thing for every parametrisation.
using Evaluate = std::function<Denoised(const Tensor& x, const Level& level)>;

/// N(0, 1) like x, the noise of the current step: every call within a step gives the same numbers.
using Draw = std::function<Tensor()>;

class Trajectory {
 public:
  struct Stepped {
    Tensor x;    // fresh; the state before the step is left as it is
    Tensor x0;   // the newest prediction, for the observer
  };
  virtual ~Trajectory() = default;
  /// Moves x over step k of the plan. Steps come once each, in order from 0.
  virtual Stepped step(int64_t k, const Tensor& x, const Evaluate& evaluate, const Draw& draw) = 0;
};

/// The trajectory of every method whose plan says all.
std::unique_ptr<Trajectory> start_planned(std::vector<StepPlan> plan);

// ---- A method ------------------------------------------------------------------------------------------------------

/// Options of SamplerOptions that only some methods take.
enum Takes : unsigned { kTakesEta = 1, kTakesVariance = 2, kTakesOrder = 4, kTakesSolver = 8, kTakesThird = 16,
                        kTakesLowerOrderEnd = 32, kTakesTolerance = 64, kTakesBasis = 128, kTakesRate = 256 };

struct Method {
  const char* name;
  Family family;
  int64_t fewest_steps;
  /// Throws Error(usage) for an option value that is out of range.
  std::vector<StepPlan> (*plan)(const Path& path, const SamplerOptions& options);
  unsigned takes = 0;
  std::unique_ptr<Trajectory> (*start)(const Path& path, const SamplerOptions& options) = nullptr;   // null: planned
};

extern const Method kDdpm, kDdim, kSPndm, kFPndm, kPlms, kIpndm, kFon, kPfEuler, kPfRk45, kHeun, kDpmpp2m, kDpmpp3m,
    kDpmppSde2m, kUnipc, kDeis, kLangevin;

}  // namespace mote
