// Tiles over pictures of any size: they cover, their weights sum to 1, and blended they give what one tile gives.
#include <cmath>

#include "autograd/ops.h"
#include "diffusion/resensemble/tiling.h"
#include "diffusion/samplers/sampler.h"
#include "tests/diffusion_support.h"

using namespace mote;
using namespace mote::resensemble;
using namespace mote::test;

namespace {

Tensor noise_of(const Shape& shape, uint64_t seed) { return normal(shape, DType::f32, Generator{seed}); }

/// Two convolutions of 3 x 3 and something that is not linear between: what a pixel becomes depends on the 5 x 5
/// around it, and on the padding within 2 pixels of an edge.
Tensor small_net(const Tensor& x) {
  Tensor first = noise_of({3, 3, 2, 4}, 1), second = noise_of({3, 3, 4, 1}, 2);
  return conv2d(tanh(conv2d(x, first, {}, Conv2dSpec::same(3))), second, {}, Conv2dSpec::same(3));
}

}  // namespace

TEST_CASE("tiles cover every pixel, overlap as asked, and end with the picture", "[tiling]") {
  for (int64_t n : {8, 9, 11, 12, 16, 23, 100})
    for (int64_t overlap : {0, 2, 4}) {
      INFO(n << " pixels, overlap " << overlap);
      TilingOptions options{.tile = 8, .overlap = overlap};
      std::vector<int64_t> starts = tile_starts(n, options);
      CHECK(starts.front() == 0);
      CHECK(starts.back() == n - 8);
      for (size_t k = 0; k + 1 < starts.size(); ++k) {
        CHECK(starts[k + 1] > starts[k]);
        CHECK(starts[k] + 8 - starts[k + 1] >= overlap);
      }
    }
}

TEST_CASE("weights sum to 1 at every pixel, fall towards neighbours and not towards the picture's edge", "[tiling]") {
  for (int64_t margin : {0, 1, 2})
    for (int64_t n : {8, 9, 10, 13, 20, 41}) {
      TilingOptions options{.tile = 8, .overlap = 4, .margin = margin};
      std::vector<int64_t> starts = tile_starts(n, options);
      std::vector<std::vector<double>> weights = tile_weights(n, options);
      std::vector<double> total(size_t(n), 0.0);
      for (size_t k = 0; k < starts.size(); ++k) {
        for (size_t i = 0; i < 8; ++i) {
          total[size_t(starts[k]) + i] += weights[k][i];
          CHECK(weights[k][i] >= 0);
        }
        for (int64_t i = 0; i < margin; ++i) {
          if (k > 0) CHECK(weights[k][size_t(i)] == 0);
          if (k + 1 < starts.size()) CHECK(weights[k][size_t(7 - i)] == 0);
        }
      }
      for (double sum : total) CHECK(sum == Approx(1).epsilon(1e-12));
      CHECK(weights.front().front() == Approx(1));
      CHECK(weights.back().back() == Approx(1));
    }
  // One overlap of four pixels: (1 - cos(pi (i + 1/2) / 4)) / 2
  std::vector<std::vector<double>> pair = tile_weights(12, {.tile = 8, .overlap = 4});
  for (int i = 0; i < 4; ++i)
    CHECK(pair[1][size_t(i)] == Approx(0.5 - 0.5 * std::cos(M_PI * (i + 0.5) / 4)).epsilon(1e-12));
}

TEST_CASE("a translation-equivariant network gives the same picture in one tile and in many", "[tiling]") {
  Tensor canvas = noise_of({2, 37, 29, 2}, 3), whole = small_net(canvas);
  int64_t most = 0, calls = 0;
  for (auto [tile, overlap, batch] : {std::tuple{16, 8, 3}, {16, 4, 100}, {29, 4, 1}, {13, 5, 4}}) {
    INFO("tiles of " << tile << ", overlap " << overlap);
    TilingOptions options{.tile = tile, .overlap = overlap, .margin = 2, .batch = batch};
    Tensor tiled = over_tiles(canvas, options, [&](const Tensor& tiles, const std::vector<TilePlace>& places) {
      CHECK(tiles.size(0) <= batch);
      CHECK(int64_t(places.size()) == tiles.size(0));
      most = std::max(most, tiles.size(0)), ++calls;
      return small_net(tiles);
    });
    CHECK_CLOSE(tiled, whole, 1e-5, 1e-5);   // the picture's edges too: there both pad alike
  }
  CHECK(most > 1);
  CHECK(calls > 4);
}

TEST_CASE("without a margin the padding of the network is seen, inside alone", "[tiling]") {
  Tensor canvas = noise_of({1, 40, 40, 2}, 4), whole = small_net(canvas);
  auto net = [](const Tensor& tiles, const std::vector<TilePlace>&) { return small_net(tiles); };
  CHECK(difference(over_tiles(canvas, {.tile = 16, .overlap = 8}, net), whole, 1e-3, 0) != "");
  auto pointwise = [](const Tensor& tiles, const std::vector<TilePlace>&) { return tanh(tiles); };
  CHECK_CLOSE(over_tiles(canvas, {.tile = 16, .overlap = 8}, pointwise), tanh(canvas), 1e-6, 0);
}

TEST_CASE("a sampler over blended tiles draws what it draws on the whole canvas, and so do tiles that share noise",
          "[tiling]") {
  // Consistent: the output is blended at every step. Cheap: each tile is sampled by itself with the canvas' noise;
  // there what a tile pads with comes 2 pixels further in at every step.
  Schedule schedule = Schedule::linear(50, 2e-3, 0.4);
  Tensor start = noise_of({1, 33, 27, 1}, 5), image = noise_of({1, 33, 27, 1}, 6);
  auto net = [](const Tensor& both) { return affine(tanh(affine(small_net(both), 0.05, 0)), 0.5, 0); };
  for (const char* sampler : {"ddim", "ddpm"}) {
    INFO(sampler);
    SamplerOptions options{.name = sampler, .steps = 3, .clip = false};
    Generator steps{9};
    auto draw = [&](const Tensor& x, const Network& network, const StepNoise& noise) {
      return run_sampler_with(sampler_path(schedule, options), options, network, x, noise);
    };
    StepNoise canvas_noise = [&](int64_t k) {
      return image_noise(start.shape(), DType::f32, steps.fork(uint64_t(k)), 0);
    };
    Tensor whole = draw(start, [&](const Tensor& x, double) { return net(concat({x, image}, 3)); }, canvas_noise);

    TilingOptions narrow_margin{.tile = 16, .overlap = 6, .margin = 2, .batch = 2};
    Network blended = [&](const Tensor& x, double) {
      return over_tiles(concat({x, image}, 3), narrow_margin,
                        [&](const Tensor& tiles, const std::vector<TilePlace>&) { return net(tiles); });
    };
    CHECK_CLOSE(draw(start, blended, canvas_noise), whole, 1e-4, 1e-4);

    // Fewer pixels of margin than the 6 that padding has reached after 3 steps: near, not equal. Noise of the tiles'
    // own in its place is seen at once.
    TilingOptions wide_margin{.tile = 20, .overlap = 10, .margin = 5, .batch = 3};
    auto apart = [&](bool shared) {
      Tensor drawn = over_tiles(
          concat({start, image}, 3), wide_margin, [&](const Tensor& tiles, const std::vector<TilePlace>& places) {
            Tensor x = narrow(tiles, 3, 0, 1), here = narrow(tiles, 3, 1, 1);
            return draw(x, [&](const Tensor& state, double) { return net(concat({state, here}, 3)); },
                        [&](int64_t k) {
                          uint64_t seed = 90 + uint64_t(k);
                          return shared ? cut_tiles(canvas_noise(k), places, 20) : noise_of(x.shape(), seed);
                        });
          });
      double worst = 0;
      for (double value : sub(drawn, whole).to_vector()) worst = std::max(worst, std::abs(value));
      return worst;
    };
    CHECK(apart(true) < 0.05);
    if (options.name == "ddpm") CHECK(apart(false) > 0.5);
  }
}

TEST_CASE("pictures smaller than a tile are reflected up to it, as often as needed", "[tiling]") {
  Tensor x = from({1, 2, 3, 4, 5, 6}, {1, 2, 3, 1});
  Tensor expected = from({1, 2, 3, 2, 1, 2, 3, 4, 5, 6, 5, 4, 5, 6, 1, 2, 3, 2, 1, 2, 3, 4, 5, 6, 5, 4, 5, 6},
                         {1, 4, 7, 1});
  CHECK_SAME(reflect_to(x, 4, 7), expected);
  CHECK_SAME(reflect_to(x, 1, 2), x);
  CHECK_SAME(reflect_to(full({2, 1, 1, 3}, 0.5), 3, 2), full({2, 3, 2, 3}, 0.5));
}

TEST_CASE("a picture of exactly one tile goes through the network untouched", "[tiling]") {
  Tensor canvas = noise_of({3, 16, 16, 2}, 7);
  Tensor tiled = over_tiles(canvas, {.tile = 16, .overlap = 8, .batch = 2},
                            [](const Tensor& tiles, const std::vector<TilePlace>&) { return small_net(tiles); });
  CHECK_CLOSE(tiled, small_net(canvas), 1e-6, 1e-6);   // other batches
}

TEST_CASE("tiling refuses what cannot be tiled", "[tiling]") {
  auto same = [](const Tensor& tiles, const std::vector<TilePlace>&) { return tiles; };
  TilingOptions eight{.tile = 8, .overlap = 0};
  CHECK_THROWS_WITH(over_tiles(zeros({1, 8, 7, 1}), eight, same), Catch::Contains("smaller than a tile"));
  CHECK_THROWS_WITH((TilingOptions{.tile = 8, .overlap = 5}).validate(), Catch::Contains("0 to 4"));
  CHECK_THROWS_WITH((TilingOptions{.tile = 8, .overlap = 4, .margin = 3}).validate(), Catch::Contains("margin"));
  CHECK_THROWS_WITH((TilingOptions{.tile = 8, .overlap = 4, .batch = 0}).validate(), Catch::Contains("1 tile"));
  auto shorter = [](const Tensor& tiles, const std::vector<TilePlace>&) { return tiles.rows(0, 1); };
  CHECK_THROWS_WITH(over_tiles(zeros({2, 8, 8, 1}), eight, shorter), Catch::Contains("[2, 8, 8, K]"));
  CHECK_THROWS_WITH(cut_tiles(zeros({1, 8, 8, 1}), {{0, 1, 0}}, 8), Catch::Contains("lies outside"));
}
