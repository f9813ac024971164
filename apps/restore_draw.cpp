#include "apps/restore_draw.h"

#include <algorithm>
#include <cmath>

#include "diffusion/resensemble/resfusion.h"
#include "tensor/error.h"

namespace mote::apps {
namespace {

using namespace resensemble;

constexpr int64_t kWidestMargin = 2;   // pixels beside a tile's inner edges that are left to its neighbour

/// These pictures of x, in this order.
Tensor picked(const Tensor& x, const std::vector<int64_t>& rows) {
  bool all = int64_t(rows.size()) == x.size(0);
  for (size_t i = 0; all && i < rows.size(); ++i) all = rows[i] == int64_t(i);
  if (all) return x;
  std::vector<Tensor> parts;
  for (int64_t row : rows) parts.push_back(x.rows(row, row + 1));
  return concat(parts, 0);
}

/// The upper left height x width pixels.
Tensor cropped(const Tensor& x, int64_t height, int64_t width) {
  return narrow(narrow(x, 1, 0, height), 2, 0, width);
}

/// The denoiser on tiles [state, image, prior] joined in their channels.
Tensor denoised_tiles(const Restorer& restorer, const Tensor& tiles, const Tensor& state, double t) {
  int64_t C = restorer.config.net.channels;
  Tensor times = full({tiles.size(0)}, t, DType::f32, tiles.device());
  return restorer.denoiser->forward(state, times, narrow(tiles, 3, C, C), narrow(tiles, 3, 2 * C, C));
}

// ---- The two ways of sampling a canvas that is larger than the network ---------------------------------------------

Tensor draw_blended(const Restorer& restorer, const Tensor& image, const Tensor& prior, const TilingOptions& tiling,
                    const RestoreDraw& draw) {
  int64_t C = restorer.config.net.channels;
  Schedule schedule = restorer.config.levels();
  EnsembleOptions options{.sampler = draw.sampler, .samples = draw.samples, .seed = draw.seed, .first = draw.first};
  options.sampler.prediction = restorer.config.prediction;
  int64_t tiles = int64_t(tile_starts(image.size(1), tiling).size() * tile_starts(image.size(2), tiling).size());
  options.batch = std::max<int64_t>(1, tiling.batch / tiles);
  if (draw.on_step)
    options.observer = [&](const Tensor&, const Tensor&, int64_t done, int64_t total) { draw.on_step(done, total); };
  EnsembleNetwork network = [&](const Tensor& state, double t, const std::vector<int64_t>& rows) {
    return over_tiles(concat({state, picked(image, rows), picked(prior, rows)}, 3), tiling,
                      [&](const Tensor& cut, const std::vector<TilePlace>&) {
                        return denoised_tiles(restorer, cut, narrow(cut, 3, 0, C), t);
                      });
  };
  if (restorer.config.is_resfusion()) return resfusion_ensemble(schedule, options, network, prior);
  return sample_ensemble(schedule, restorer.config.map(), options, network, prior);
}

/// Each tile by itself, from the canvas' noise; what is blended is the finished xbar.
Tensor draw_apart(const Restorer& restorer, const Tensor& image, const Tensor& prior, const TilingOptions& tiling,
                  const RestoreDraw& draw) {
  int64_t C = restorer.config.net.channels;
  Schedule schedule = restorer.config.levels();
  Target target = sampled_target(restorer.config);
  bool fades = restorer.config.is_resfusion();   // the prior fades in: it is half of where sampling begins
  SamplerOptions sampler = draw.sampler;
  if (fades) sampler = {.name = "ddpm", .steps = schedule.steps(), .variance = "small"};
  sampler.prediction = restorer.config.prediction;
  sampler.clip = false;
  Path path = sampler_path(schedule, sampler);
  Level first = path.nodes.front();
  double of_noise = fades ? std::sqrt(0.75) : 1, of_prior = fades ? 0.5 : first.a() * target.prior;
  Shape all = prior.shape().inserted(0, draw.samples);
  Tensor drawn = empty(all, DType::f32, prior.device());
  for (int64_t k = 0; k < draw.samples; ++k) {
    auto noise = [&](int64_t step) {
      Shape one = all.with(0, 1);
      return ensemble_noise(one, DType::f32, draw.seed, step, draw.first, k, prior.device()).view(prior.shape());
    };
    Tensor start = affine(noise(-1), of_noise, 0) + affine(prior, of_prior, 0);
    Tensor xbar = over_tiles(
        concat({start, image, prior}, 3), tiling, [&](const Tensor& cut, const std::vector<TilePlace>& places) {
          Tensor f = narrow(cut, 3, 2 * C, C);
          SamplerOptions own = sampler;
          if (!fades) own.project = [&](const Tensor& x0) { return clip(target, x0, f); };
          Observer observer;
          if (draw.on_step)
            observer = [&](const Tensor&, const Tensor&, int64_t done, int64_t total) { draw.on_step(done, total); };
          return run_sampler_with(
              path, own, [&](const Tensor& state, double t) { return denoised_tiles(restorer, cut, state, t); },
              narrow(cut, 3, 0, C), [&](int64_t step) { return cut_tiles(noise(step), places, tiling.tile); },
              observer);
        });
    drawn.rows(k, k + 1).view(prior.shape()).copy_(xbar);
  }
  return drawn;
}

void require_pictures(const Restorer& restorer, const Tensor& damaged) {
  int64_t C = restorer.config.net.channels;
  check(damaged.defined() && damaged.ndim() == 4 && damaged.dtype() == DType::f32 && damaged.numel() > 0 &&
            damaged.size(3) == C,
        "restore: pictures f32 [N, H, W, ", C, "] are needed, got ",
        damaged.defined() ? concat_text(describe(damaged)) : "none");
}

}  // namespace

TilingOptions tiling_of(const Restorer& restorer, const RestoreDraw& draw) {
  TilingOptions tiling;
  tiling.tile = restorer.config.net.size;
  tiling.overlap = draw.overlap >= 0 ? draw.overlap : tiling.tile / 3;
  tiling.margin = std::min(kWidestMargin, tiling.overlap / 4);
  tiling.batch = draw.batch;
  if (draw.batch < 1) fail(Error::Kind::usage, "--tiles: must be 1 or more, got ", draw.batch);
  tiling.validate();
  return tiling;
}

Tensor prior_of(const Restorer& restorer, const Tensor& damaged, const RestoreDraw& draw) {
  require_pictures(restorer, damaged);
  if (!restorer.e2e) return damaged;
  NoGrad no_grad;
  TilingOptions tiling = tiling_of(restorer, draw);
  Tensor canvas = reflect_to(damaged, tiling.tile, tiling.tile).to(restorer.device);
  Tensor f = over_tiles(canvas, tiling, [&](const Tensor& tiles, const std::vector<TilePlace>&) {
    return cast(restorer.e2e->forward(cast(tiles, restorer.precision)), DType::f32);
  });
  return cropped(f, damaged.size(1), damaged.size(2)).to(Device{});
}

Tensor draw_restored(const Restorer& restorer, const Tensor& damaged, const Tensor& prior, const RestoreDraw& draw) {
  require_pictures(restorer, damaged);
  check(restorer.denoiser != nullptr, "draw_restored: there is no denoiser");
  check(prior.defined() && prior.shape() == damaged.shape(), "draw_restored: a prior for each picture is needed");
  NoGrad no_grad;
  TilingOptions tiling = tiling_of(restorer, draw);
  Tensor image = reflect_to(damaged, tiling.tile, tiling.tile).to(restorer.device);
  Tensor f = reflect_to(prior, tiling.tile, tiling.tile).to(restorer.device);
  Tensor xbar = draw.blend_steps ? draw_blended(restorer, image, f, tiling, draw)
                                 : draw_apart(restorer, image, f, tiling, draw);
  Shape canvases = f.shape().with(0, xbar.size(0) * xbar.size(1));
  Tensor cut = cropped(xbar.view(canvases), damaged.size(1), damaged.size(2));
  return cut.view(damaged.shape().inserted(0, draw.samples)).to(Device{});
}

}  // namespace mote::apps
