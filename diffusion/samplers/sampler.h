// sampler.h - one interface for all samplers: a list of steps, a state, and the network as a callback.
// Coefficients are f64 on the host; each step is one kernel::combine over the state. What a sampler has to implement is
// in method.h; ddpm.cpp and ddim.cpp are the two to read first.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "diffusion/process.h"

namespace mote {

/// Raw output of the network at state x [N, H, W, C] and time t (fractional is legal).
using Network = std::function<Tensor(const Tensor& x, double t)>;

struct SamplerOptions {
  std::string name = "ddim";         // sampler_names()
  int64_t steps = 50;
  std::string grid = "uniform";      // schedule.h, timesteps()
  double eta = 0;                    // ddim, in [0, 1]: 0 deterministic, 1 = ddpm with the small variance
  std::string variance = "large";    // ddpm: "large" (beta) or "small" (beta tilde)
  Prediction prediction = Prediction::eps;
  bool clip = true;                  // clamp the predicted x0 to [-1, 1]
};

/// x' = keep x + from_x0 x0 + from_eps eps + noise z: what a step of ddpm or ddim does, with exact coefficients.
struct StepPlan {
  TimeStep step;
  double keep = 0, from_x0 = 0, from_eps = 0, noise = 0;
  std::vector<double> calls;   // the times at which the step calls the network, in order
};

/// The plan of all steps: what `mote sample --dry-run` prints. Throws Error(usage) listing the names if `name` is
/// unknown, or a bad option value is given.
std::vector<StepPlan> plan_sampler(const Schedule& schedule, const SamplerOptions& options);

/// How often the network is called over the whole plan.
int64_t network_calls(const std::vector<StepPlan>& plan);

/// Called after each step with the new state, the predicted x0, and how many steps are done of how many.
using Observer = std::function<void(const Tensor& x, const Tensor& x0, int64_t done, int64_t total)>;

/// N(0, 1) for the images first, first + 1, ... of a row that shares `generator`. Image i gets the same numbers however
/// the row is split into batches: its draw begins at block i of the row, whatever stands in front of it.
///   shape [N, ...]; dtype f32 or f64
Tensor image_noise(const Shape& shape, DType dtype, Generator generator, int64_t first, Device device = {});

/// Runs the sampler from x (the state at the first, noisiest step; N(0, 1) noise) to the clean image. Noise of step k
/// is image_noise of noise.fork(k), and `first` is the number of the first image in x: a result does not depend on how
/// the images are split into batches. Records no gradients.
///   x f32 or f64, any shape, left as it is; the result is like x. The network is called with such a state, and its
///   output, of the same shape, may be of another floating dtype.
/// Throws Error(numeric) naming the step if the state is not finite.
Tensor run_sampler(const Schedule& schedule, const SamplerOptions& options, const Network& network, Tensor x,
                   Generator noise, const Observer& observer = {}, int64_t first = 0);

/// All sampler names, for messages and --help.
const std::vector<std::string>& sampler_names();

}  // namespace mote
