// sampler.h - one interface for all samplers: a list of steps, a state, and the network as a callback.
// Coefficients are f64 on the host; each update is one kernel::combine over the state. Which levels are visited is in
// path.h, what a sampler has to implement in method.h; ddpm.cpp, ddim.cpp and pndm.cpp are the ones to read first.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "diffusion/process.h"
#include "diffusion/samplers/path.h"

namespace mote {

/// Raw output of the network at state x [N, H, W, C] and time t (fractional is legal).
using Network = std::function<Tensor(const Tensor& x, double t)>;

/// An option that the sampler does not take must keep its default; the sampler's file says what it means.
struct SamplerOptions {
  std::string name = "ddim";         // sampler_names()
  int64_t steps = 50;                // N; pf-rk45 chooses its own steps and does not read it
  std::string grid = "";             // path.h; empty: karras for heun, else uniform, or trailing with a start
  double eta = 0;                    // ddim, in [0, 1]: 0 deterministic, 1 = ddpm with the small variance
  std::string variance = "large";    // ddpm: "large" (beta) or "small" (beta tilde)
  Prediction prediction = Prediction::eps;
  bool clip = true;                  // clamp the predicted x0 to [-1, 1]; methods that step with eps alone never clip
  /// If set, in place of clip: what a predicted x0 is replaced by. eps follows, (x - a x0) / sigma, so that methods which
  /// step with eps alone heed it too.
  std::function<Tensor(const Tensor& x0)> project = {};
  std::string convention = "ours";   // path.h
  std::string end = "";              // path.h: "clean" or "first" (level 0); empty: the convention's
  int64_t offset = 0;                // path.h: added to every level; convention diffusers
  int64_t start = -1;                // path.h: the level at which the state is given; -1: the noisiest
  int64_t order = 0;                 // unipc 1..3, deis 1..4; 0: 2 and 3
  std::string solver = "bh2";        // unipc: "bh1" or "bh2"
  std::string basis = "u";           // deis: extrapolates eps by polynomials in "u" or in "log-u"
  double third = 2;                  // dpmpp-3m: 2 is exact to third order, 1 is what is commonly shipped
  std::optional<bool> lower_order_end = {};   // fewer past values near the end; unset: dpmpp-* and unipc yes, deis no
  double tolerance = 1e-5;           // pf-rk45: relative and absolute error of a step
  double rate = 0.5;                 // langevin, in (0, 1]: length of a step over sigma^2
};

/// What a term of an update multiplies. `state` is the state at the beginning of the step; the others belong to one
/// network call: the state it was made at, and its output as x0 and as eps.
enum class Source { state, input, x0, eps, noise };
struct PlanTerm {
  double factor;
  Source source;
  int64_t call = -1;   // number of the network call within the run, from 0; -1 for state and noise
};

/// Calls the network with the current state (if `call` is set), then replaces it by the sum of the terms.
struct Stage {
  std::optional<Level> call;
  std::vector<PlanTerm> terms = {};
};

/// One step from a level to the next, with exact coefficients. `calls` are the times at which it calls the network.
/// A step of pf-rk45 has no stages: what it calls depends on the state.
struct StepPlan {
  Level from, to;
  std::vector<Stage> stages = {};
  std::vector<double> calls = {};
};

/// The plan of all steps: what `mote sample --dry-run` prints. Throws Error(usage) listing the names if `name` is
/// unknown, or if an option has a bad value or one that this sampler does not take.
std::vector<StepPlan> plan_sampler(const Schedule& schedule, const SamplerOptions& options);
/// The same on a path of one's own; the options that make a path (steps, grid, convention, end, offset) are not read.
std::vector<StepPlan> plan_sampler(const Path& path, const SamplerOptions& options);

/// The options with what is left open (an empty grid, order 0 where one is taken) filled in. Throws Error(usage) for an
/// option that the sampler does not take; the values are checked by plan_sampler.
SamplerOptions resolved(const SamplerOptions& options);

/// How often the network is called over the whole plan; 0 for pf-rk45, whose calls are known afterwards only.
int64_t network_calls(const std::vector<StepPlan>& plan);

/// The options with the largest number of steps that calls the network exactly `calls` times: N for most samplers,
/// N + 1 for s-pndm, N + 9 for f-pndm, 2 N - 1 for heun. Throws Error(usage) if there is none.
SamplerOptions with_network_calls(const Schedule& schedule, SamplerOptions options, int64_t calls);

/// Called after each step with the new state, the predicted x0, and how many steps are done of how many.
using Observer = std::function<void(const Tensor& x, const Tensor& x0, int64_t done, int64_t total)>;

/// N(0, 1) for the images first, first + 1, ... of a row that shares `generator`. Image i gets the same numbers however
/// the row is split into batches: its draw begins at block i of the row, whatever stands in front of it.
///   shape [N, ...]; dtype f32 or f64
Tensor image_noise(const Shape& shape, DType dtype, Generator generator, int64_t first, Device device = {});

/// Runs the sampler from x (the state at the first, noisiest step; N(0, 1) noise, unless options.start says that it is
/// a state of another level) to the clean image. Noise of step k
/// is image_noise of noise.fork(k), and `first` is the number of the first image in x: a result does not depend on how
/// the images are split into batches. Records no gradients.
///   x f32 or f64, any shape, left as it is; the result is like x. The network is called with such a state, and its
///   output, of the same shape, may be of another floating dtype.
/// pf-rk45 holds the error of all of x together under its tolerance, as its published form does: there alone an image
/// depends, within the tolerance, on what else is in x.
/// Throws Error(numeric) naming the step if the state is not finite, or pf-rk45's step vanishes.
Tensor run_sampler(const Schedule& schedule, const SamplerOptions& options, const Network& network, Tensor x,
                   Generator noise, const Observer& observer = {}, int64_t first = 0);
Tensor run_sampler(const Path& path, const SamplerOptions& options, const Network& network, Tensor x, Generator noise,
                   const Observer& observer = {}, int64_t first = 0);

/// The same with noise of one's own, like x, for step k = 0, 1, ..: a step asks once or more and must get the same each
/// time. (Several draws for one image, a canvas that tiles are cut from.)
using StepNoise = std::function<Tensor(int64_t k)>;
Tensor run_sampler_with(const Path& path, const SamplerOptions& options, const Network& network, Tensor x,
                        const StepNoise& noise, const Observer& observer = {});

/// The path that run_sampler takes over a schedule. Throws as plan_sampler does.
Path sampler_path(const Schedule& schedule, const SamplerOptions& options);

/// All sampler names, for messages and --help.
const std::vector<std::string>& sampler_names();

}  // namespace mote
