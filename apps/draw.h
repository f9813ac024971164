// draw.h - drawing images with a trained network, in batches; shared by `mote sample` and the grids of `mote train`.
// Image i depends only on (seed, i, class): neither the batch size nor the number of threads changes it.
#pragma once
#include <string>

#include "autograd/engine.h"
#include "diffusion/samplers/sampler.h"
#include "nn/unet.h"

namespace CLI {
class App;
}

namespace mote::apps {

/// While it lives the module is in evaluation mode and nothing is recorded.
class EvaluationMode {
 public:
  explicit EvaluationMode(nn::Module& module) : module_(module), before_(module.is_training()) { module_.train(false); }
  ~EvaluationMode() { module_.train(before_); }
  EvaluationMode(const EvaluationMode&) = delete;
  EvaluationMode& operator=(const EvaluationMode&) = delete;

 private:
  nn::Module& module_;
  bool before_;
  NoGrad no_grad_;
};

/// --clip: whether the image that the network predicts at a step is clamped to [-1, 1].
///   off   not at all
///   x0    the predicted image alone; a step that reads eps too (ddim) then has two that contradict each other, and hundreds of
///         such steps ruin an image; methods that step with eps alone see nothing of it
///   both  eps follows: (x - a x0) / sigma
/// Unless it is given: both for ddim, x0 for the others.
struct ClipChoice {
  std::string given = {};

  /// --clip and, for off, --no-clip.
  void add_options(CLI::App& sub, const char* group);
  std::string mode(const std::string& sampler) const { return !given.empty() ? given : sampler == "ddim" ? "both" : "x0"; }
  SamplerOptions applied(SamplerOptions options) const;
};

/// Called after each sampler step of each batch: the images from row `first` of the result on, how many steps are done
/// in all of how many.
using DrawObserver = std::function<void(int64_t first, const Tensor& x, int64_t done, int64_t total)>;

struct DrawOptions {
  SamplerOptions sampler;
  int64_t first = 0;         // images first to first + count of the seed are drawn
  int64_t count = 1;
  int64_t batch = 64;
  uint64_t seed = 0;
  Tensor class_ids;          // i64 [count]; undefined for an unconditional network
  double guidance = 1;       // weight of classifier-free guidance
  /// States of the level sampler.start for the images first .. first + count - 1; unset: noise of start_stream.
  std::function<Tensor(int64_t first, int64_t count)> start = {};
  DrawObserver on_x0 = {};             // if set, called like the observer, just before it, with the predicted x0
  std::function<void()> on_call = {};  // if set, called before each call of the network
};

/// f32 [count, H, W, C] on the CPU, clamped to [-1, 1]. The network is put into evaluation mode and back. Throws
/// Error(numeric) naming the sampler step if samples are not finite.
Tensor draw_images(nn::UNet& unet, const Schedule& schedule, const DrawOptions& options, Device device,
                   const DrawObserver& observer = {});

/// The starting noise of image i is image_noise of the first generator, the noise of the steps comes from the second.
Generator start_stream(uint64_t seed);
Generator step_stream(uint64_t seed);

/// Row after row, as square as can be: the columns of a grid of `count` images.
int64_t grid_columns(int64_t count);

}  // namespace mote::apps
