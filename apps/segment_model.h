// segment_model.h - a trained residual DDPM as `mote segment predict` and `eval` use it: loading, the flags that say
// how to sample, and sampling a whole set of images in chunks.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "apps/segment_prior.h"
#include "diffusion/resensemble/model.h"

namespace CLI {
class App;
}

namespace mote::apps {

struct DdpmModel {
  SegmentCheckpoint checkpoint;   // without tensors
  DdpmConfig config;
  resensemble::ModelConfig model;
  resensemble::Coding coding = resensemble::Coding::binary;
  Schedule schedule;
  std::unique_ptr<nn::Denoiser> net;   // in evaluation mode
  resensemble::Target target() const { return resensemble::sampled_target(model); }
};
/// Of a run folder or a checkpoint file; weights "ema" (the plain ones if there are none) or "model".
/// Error(checkpoint), Error(usage) naming `flag`.
DdpmModel load_ddpm(const std::string& flag, const std::string& run, const std::string& weights, Device device);
/// Error(checkpoint) naming both sizes unless the model is for images of this size, channels and classes.
void require_fits(const DdpmModel& model, const Tensor& images, int64_t classes);

/// --sampler, --sampling-steps and so on.
struct SamplingFlags {
  std::string sampler = "ddim", grid, weights = "ema", clip = "pixel", start = "corrected";
  int64_t steps = 20, batch = 64, warm = -1;
  double eta = 0;
  std::string variance = "small";
  void add_flags(CLI::App& command);
  /// Throws Error(usage) for a bad word; the sampler checks its own.
  resensemble::EnsembleOptions options(const DdpmModel& model, int64_t samples, uint64_t seed) const;
  std::string text() const;   // "ddim, 20 steps"
};

/// Called with xbar [K, n, H, W, C] and f of images first .. first + n - 1, chunk after chunk.
using OnChunk = std::function<void(int64_t first, const Tensor& xbar, const Tensor& f)>;

/// Samples every image. images u8 [N, H, W, C]; probability is the prior's. Returns the seconds that sampling took.
/// Progress is shown as `what`; a signal ends the program.
double sample_images(DdpmModel& model, const Tensor& images, const Tensor& probability, int64_t classes,
                     const resensemble::EnsembleOptions& options, Device device, const std::string& what, bool quiet,
                     const OnChunk& on_chunk);

}  // namespace mote::apps
