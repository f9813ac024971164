// restore_draw.h - restoring pictures of any size with trained networks, in tiles; shared by the subcommands of
// `mote restore` and the grids of its training.
#pragma once
#include <functional>
#include <string>

#include "diffusion/resensemble/model.h"
#include "diffusion/resensemble/tiling.h"
#include "nn/e2e_net.h"

namespace mote::apps {

/// Where and with what: the end-to-end network may be missing, then the prior is the picture itself.
struct Restorer {
  const resensemble::ModelConfig& config;
  nn::Denoiser* denoiser;
  const nn::E2ENet* e2e;
  DType precision;     // of the end-to-end network; the denoiser has its own
  Device device;
};

struct RestoreDraw {
  SamplerOptions sampler;                // resfusion has its own and does not read it
  int64_t samples = 1;                   // K
  uint64_t seed = 0;
  int64_t first = 0;                     // number of the first picture, for its noise
  int64_t overlap = -1;                  // of tiles, in pixels; -1: a third of a tile
  int64_t batch = 16;                    // tiles in a network at a time
  bool blend_steps = true;               // blend the tiles at every step; else each is sampled by itself, with the
                                         // noise of the whole picture, and the results are blended
  std::function<void(int64_t done, int64_t total)> on_step = {};
};

/// How pictures are cut for these networks. Error(usage) naming --overlap or --tiles.
resensemble::TilingOptions tiling_of(const Restorer& restorer, const RestoreDraw& draw);

/// The prior f of damaged pictures f32 [N, H, W, C] of any size: the output of the end-to-end network in tiles, or they
/// themselves.
Tensor prior_of(const Restorer& restorer, const Tensor& damaged, const RestoreDraw& draw);

/// Samples of xbar [K, N, H, W, C] for damaged pictures and their priors, on the CPU; resensemble::estimates() with
/// sampled_target() makes pictures of them. Sample k of picture i depends on (seed, k, i) and the picture's size.
Tensor draw_restored(const Restorer& restorer, const Tensor& damaged, const Tensor& prior, const RestoreDraw& draw);

}  // namespace mote::apps
