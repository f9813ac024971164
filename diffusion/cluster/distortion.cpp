#include "diffusion/cluster/distortion.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tensor/cpu/parallel.h"
#include "tensor/error.h"

namespace mote::cluster {

Distortion draw_distortion(const DistortionRange& range, Generator& generator) {
  std::vector<double> u = uniform({6}, DType::f64, generator).to_vector();
  auto within = [&](size_t i, double most) { return most * (2 * u[i] - 1); };
  return {within(0, range.turn),
          within(1, range.slant),
          std::exp(within(2, range.stretch)),
          std::exp(within(3, range.stretch)),
          within(4, range.move),
          within(5, range.move)};
}

Tensor distorted(const Tensor& images, const Distortion& d) {
  check(images.defined() && images.dtype() == DType::f32 && images.ndim() == 4 && !images.is_cuda(),
        "distorted: images must be f32 [N, H, W, C] on the CPU, got ", describe(images));
  check(d.stretch_x > 0 && d.stretch_y > 0, "distorted: stretches must be above 0");
  int64_t N = images.size(0), H = images.size(1), W = images.size(2), C = images.size(3);
  // A = [cos -sin; sin cos] [1 slant; 0 1] diag(stretch_x, stretch_y), and its inverse.
  double c = std::cos(d.turn), s = std::sin(d.turn);
  double a = c * d.stretch_x, b = (c * d.slant - s) * d.stretch_y, e = s * d.stretch_x, f = (s * d.slant + c) * d.stretch_y;
  double det = a * f - b * e;
  struct Tap {
    int64_t from[4];
    float weight[4];
  };
  std::vector<Tap> taps(size_t(H * W));
  for (int64_t y = 0; y < H; ++y)
    for (int64_t x = 0; x < W; ++x) {
      double px = double(x) - double(W - 1) / 2 - d.move_x, py = double(y) - double(H - 1) / 2 - d.move_y;
      double qx = std::clamp((f * px - b * py) / det + double(W - 1) / 2, 0.0, double(W - 1));
      double qy = std::clamp((a * py - e * px) / det + double(H - 1) / 2, 0.0, double(H - 1));
      auto x0 = int64_t(qx), y0 = int64_t(qy);
      int64_t x1 = std::min(x0 + 1, W - 1), y1 = std::min(y0 + 1, H - 1);
      auto u = float(qx - double(x0)), v = float(qy - double(y0));
      taps[size_t(y * W + x)] = {{(y0 * W + x0) * C, (y0 * W + x1) * C, (y1 * W + x0) * C, (y1 * W + x1) * C},
                                 {(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v}};
    }
  Tensor result = empty_like(images);
  cpu::parallel_for(N, 8, [&](int64_t first, int64_t last) {
    for (int64_t n = first; n < last; ++n) {
      const float* from = images.data<float>() + n * H * W * C;
      float* to = result.data<float>() + n * H * W * C;
      for (const Tap& tap : taps)
        for (int64_t channel = 0; channel < C; ++channel, ++to) {
          *to = 0;
          for (int corner = 0; corner < 4; ++corner) *to += tap.weight[corner] * from[tap.from[corner] + channel];
        }
    }
  });
  return result;
}

}  // namespace mote::cluster
