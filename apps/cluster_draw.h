// cluster_draw.h - the codes of a data set, and images for codes: what `mote cluster train` does between passes and the
// other subcommands do afterwards. Image i depends on (seed, i) and its code only, not on batches or threads.
#pragma once
#include <functional>
#include <vector>

#include "apps/draw.h"
#include "diffusion/cluster/em.h"

namespace mote::apps {

/// Codes f32 [N, latent] of u8 images [N, H, W, C], on the CPU, with the model in evaluation mode. `done`, if set, is
/// called with the number of images so far. Throws Error(numeric) if a code is not finite.
cluster::Codes encode_images(cluster::Model& model, const Tensor& images, Device device,
                             const std::function<void(int64_t)>& done = {});

struct CodedDraw {
  SamplerOptions sampler;
  uint64_t seed = 0;
  int64_t batch = 64;
  double guidance = 0;   // w of cluster::coded_network
  std::function<void(int64_t done, int64_t total)> on_step = {};   // steps over all batches
};
/// One image a row of `codes` [N, latent]: f32 [N, size, size, channels] on the CPU, clamped to [-1, 1].
Tensor draw_coded(cluster::Model& model, const Tensor& codes, const CodedDraw& options, Device device);

/// `each` codes of every component in `components`, one component after another: f32 [components each, latent].
Tensor component_codes(const cluster::Mixture& mixture, const std::vector<int64_t>& components, int64_t each,
                       uint64_t seed);

}  // namespace mote::apps
