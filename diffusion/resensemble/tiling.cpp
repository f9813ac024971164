#include "diffusion/resensemble/tiling.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "autograd/ops.h"
#include "tensor/error.h"

namespace mote::resensemble {

void TilingOptions::validate() const {
  if (tile < 1) fail(Error::Kind::usage, "tiling: a tile of 1 pixel or more is needed, got ", tile);
  if (batch < 1) fail(Error::Kind::usage, "tiling: 1 tile or more at a time is needed, got ", batch);
  if (overlap < 0 || overlap > tile / 2)
    fail(Error::Kind::usage, "--overlap: tiles of ", tile, " pixels can overlap by 0 to ", tile / 2, ", got ", overlap);
  if (margin < 0 || 2 * margin > overlap)
    fail(Error::Kind::usage, "tiling: the margin must be 0 to half of the overlap of ", overlap, ", got ", margin);
}

std::vector<int64_t> tile_starts(int64_t n, const TilingOptions& options) {
  options.validate();
  check(n >= options.tile, "tile_starts: ", n, " pixels are fewer than a tile of ", options.tile);
  std::vector<int64_t> starts;
  int64_t last = n - options.tile, stride = options.tile - options.overlap;
  for (int64_t start = 0; start < last; start += stride) starts.push_back(start);
  starts.push_back(last);
  return starts;
}

std::vector<std::vector<double>> tile_weights(int64_t n, const TilingOptions& options) {
  std::vector<int64_t> starts = tile_starts(n, options);
  int64_t tile = options.tile, ramp = options.overlap - 2 * options.margin;
  // Weight at `inside` whole pixels from the edge towards a neighbour.
  auto rising = [&](int64_t inside) {
    int64_t place = inside - options.margin;
    if (place < 0) return 0.0;
    if (place >= ramp) return 1.0;
    return 0.5 - 0.5 * std::cos(std::numbers::pi * (double(place) + 0.5) / double(ramp));
  };
  std::vector<std::vector<double>> weights;
  std::vector<double> total(static_cast<size_t>(n));
  for (size_t k = 0; k < starts.size(); ++k) {
    std::vector<double> weight(size_t(tile), 1.0);
    for (int64_t i = 0; i < tile; ++i) {
      if (k > 0) weight[size_t(i)] = std::min(weight[size_t(i)], rising(i));
      if (k + 1 < starts.size()) weight[size_t(i)] = std::min(weight[size_t(i)], rising(tile - 1 - i));
      total[size_t(starts[k] + i)] += weight[size_t(i)];
    }
    weights.push_back(std::move(weight));
  }
  for (size_t k = 0; k < starts.size(); ++k)
    for (int64_t i = 0; i < tile; ++i) weights[k][size_t(i)] /= total[size_t(starts[k] + i)];
  return weights;
}

Tensor cut_tiles(const Tensor& canvas, const std::vector<TilePlace>& places, int64_t tile) {
  check(canvas.defined() && canvas.ndim() == 4 && !places.empty(),
        "cut_tiles: needs a canvas [N, H, W, C] and a place");
  Tensor tiles = empty({int64_t(places.size()), tile, tile, canvas.size(3)}, canvas.dtype(), canvas.device());
  for (size_t i = 0; i < places.size(); ++i) {
    auto [image, top, left] = places[i];
    check(image >= 0 && image < canvas.size(0) && top >= 0 && top + tile <= canvas.size(1) && left >= 0 &&
              left + tile <= canvas.size(2),
          "cut_tiles: the tile at ", top, ", ", left, " of picture ", image, " lies outside ", canvas.shape());
    Tensor one = tiles.rows(int64_t(i), int64_t(i) + 1);
    kernel::get_box(one, canvas, {image, top, left, 0});
  }
  return tiles;
}

Tensor over_tiles(const Tensor& canvas, const TilingOptions& options, const TileFunction& fn) {
  check(canvas.defined() && canvas.ndim() == 4 && canvas.numel() > 0,
        "over_tiles: a canvas [N, H, W, C] is needed, got ", canvas.defined() ? concat_text(describe(canvas)) : "none");
  NoGrad no_grad;
  int64_t N = canvas.size(0), H = canvas.size(1), W = canvas.size(2), tile = options.tile;
  check(H >= tile && W >= tile, "over_tiles: the canvas ", canvas.shape(), " is smaller than a tile of ", tile);
  std::vector<int64_t> tops = tile_starts(H, options), lefts = tile_starts(W, options);
  std::vector<std::vector<double>> down = tile_weights(H, options), right = tile_weights(W, options);
  struct Tile {
    TilePlace place;
    size_t row, column;
  };
  std::vector<Tile> all;
  for (int64_t n = 0; n < N; ++n)
    for (size_t row = 0; row < tops.size(); ++row)
      for (size_t column = 0; column < lefts.size(); ++column)
        all.push_back({{n, tops[row], lefts[column]}, row, column});

  bool blends = tops.size() * lefts.size() > 1;
  Tensor blended;
  for (size_t first = 0; first < all.size(); first += size_t(options.batch)) {
    size_t end = std::min(all.size(), first + size_t(options.batch));
    std::vector<TilePlace> places;
    for (size_t i = first; i < end; ++i) places.push_back(all[i].place);
    Tensor results = fn(cut_tiles(canvas, places, tile), places);
    check(results.defined() && results.ndim() == 4 && is_floating(results.dtype()) &&
              results.shape() == Shape{int64_t(places.size()), tile, tile, results.size(3)},
          "over_tiles: floating results [", places.size(), ", ", tile, ", ", tile, ", K] are needed, got ",
          results.defined() ? concat_text(describe(results)) : "none");
    if (!blended.defined()) blended = zeros({N, H, W, results.size(3)}, results.dtype(), results.device());
    for (size_t i = first; i < end; ++i) {
      auto [image, top, left] = all[i].place;
      std::vector<int64_t> start = {image, top, left, 0};
      Tensor result = results.rows(int64_t(i - first), int64_t(i - first) + 1);
      if (blends) {
        std::vector<double> weight;
        for (double of_row : down[all[i].row])
          for (double of_column : right[all[i].column]) weight.push_back(of_row * of_column);
        Tensor so_far = empty_like(result);
        kernel::get_box(so_far, blended, start);
        result = so_far + result * from(weight, {1, tile, tile, 1}, result.dtype()).to(result.device());
      }
      kernel::put_box(blended, result, start);
    }
  }
  return blended;
}

Tensor reflect_to(const Tensor& x, int64_t height, int64_t width) {
  check(x.defined() && x.ndim() == 4 && x.numel() > 0, "reflect_to: pictures [N, H, W, C] are needed");
  Tensor result = x;
  for (auto [axis, wanted] : {std::pair{1, height}, {2, width}}) {
    int64_t n = result.size(axis);
    if (n >= wanted) continue;
    Tensor longer = empty(result.shape().with(axis, wanted), x.dtype(), x.device());
    Tensor line = empty(result.shape().with(axis, 1), x.dtype(), x.device());
    for (int64_t i = 0; i < wanted; ++i) {
      int64_t period = std::max<int64_t>(1, 2 * n - 2), place = i % period;
      std::vector<int64_t> start(4);
      start[size_t(axis)] = place < n ? place : period - place;
      kernel::get_box(line, result, start);
      start[size_t(axis)] = i;
      kernel::put_box(longer, line, start);
    }
    result = longer;
  }
  return result;
}

}  // namespace mote::resensemble
