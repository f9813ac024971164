// tiling.h - a network for small squares applied to pictures of any size: overlapping tiles whose results are blended.
// Blending the network's output at every step of a sampler keeps the tiles of one picture together: as the weights of a
// pixel sum to 1 and x0 is linear in eps, blending eps and blending x0 is the same, and the sampler sees one canvas,
// with one noise. Blending finished results alone is cheaper in memory; there tiles should share their noise.
#pragma once
#include <functional>
#include <vector>

#include "tensor/tensor.h"

namespace mote::resensemble {

struct TilingOptions {
  int64_t tile = 32;      // side of a tile, the network's
  int64_t overlap = 8;    // of neighbours, at least; the last tile of a row overlaps more where the picture asks for it
  int64_t margin = 0;     // pixels at an inner edge that are not used: a network pads there
  int64_t batch = 16;     // tiles at a time
  /// Throws Error(usage) unless tile and batch are 1 or more, 0 <= overlap <= tile / 2 and 0 <= 2 margin <= overlap.
  void validate() const;
};

/// Where tiles begin along an axis of n pixels, n >= tile: every tile - overlap pixels, the last one at n - tile.
std::vector<int64_t> tile_starts(int64_t n, const TilingOptions& options);

/// How much each pixel of each of these tiles counts; what falls on one pixel sums to 1. Towards a neighbour a weight
/// falls as a raised cosine over the overlap, to 0 at the margin; an edge of the picture is no edge for it.
std::vector<std::vector<double>> tile_weights(int64_t n, const TilingOptions& options);

/// Which tile: number of the picture, first row and column.
struct TilePlace {
  int64_t image, top, left;
};

/// The tiles at these places of canvas [N, H, W, C] as [B, tile, tile, C].
Tensor cut_tiles(const Tensor& canvas, const std::vector<TilePlace>& places, int64_t tile);

/// Output [B, tile, tile, K] for tiles [B, tile, tile, C] cut at these places; floating.
using TileFunction = std::function<Tensor(const Tensor& tiles, const std::vector<TilePlace>& places)>;

/// [N, H, W, K]: fn over all tiles of canvas [N, H, W, C], at most options.batch at a time, blended. Where a picture is
/// one tile the result is fn's. Records no gradients. Throws Error(argument) if a side of the canvas is shorter than a
/// tile (reflect_to makes it long enough) or fn returns another shape.
Tensor over_tiles(const Tensor& canvas, const TilingOptions& options, const TileFunction& fn);

/// x [N, H, W, C] with rows and columns added below and to the right until it has `height` x `width` or more: the
/// picture reflected at its last row and column, as often as needed.
Tensor reflect_to(const Tensor& x, int64_t height, int64_t width);

}  // namespace mote::resensemble
