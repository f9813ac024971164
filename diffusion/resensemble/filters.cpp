#include "diffusion/resensemble/filters.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tensor/cpu/parallel.h"
#include "tensor/error.h"

namespace mote::resensemble {
namespace {

constexpr int64_t kRows = 4;   // of a picture that are worth a thread

void require_picture(const char* op, const Tensor& picture) {
  check(picture.defined() && picture.dtype() == DType::f32 && picture.ndim() == 3 && picture.numel() > 0 &&
            !picture.is_cuda(),
        op, ": a picture f32 [H, W, C] on the CPU is needed, got ",
        picture.defined() ? concat_text(describe(picture)) : "none");
}

/// The pixel that stands at `index` of a row of n: ... 1 0 0 1 .. n-1 n-1 n-2 ...
int64_t mirrored(int64_t index, int64_t n) {
  int64_t place = index % (2 * n);
  if (place < 0) place += 2 * n;
  return place < n ? place : 2 * n - 1 - place;
}

// ---- One axis at a time --------------------------------------------------------------------------------------------

/// An output pixel is the sum of weights[k] times the input pixel first + k, mirrored.
struct Taps {
  int64_t first;
  std::vector<double> weights;
};

void normalise(Taps& taps) {
  double total = 0;
  for (double weight : taps.weights) total += weight;
  for (double& weight : taps.weights) weight /= total;
}

/// Axis 0 or 1 of the picture replaced by as many pixels as there are taps.
Tensor along(const Tensor& picture, int axis, const std::vector<Taps>& taps) {
  int64_t H = picture.size(0), W = picture.size(1), C = picture.size(2), n = picture.size(axis);
  int64_t rows = axis == 0 ? int64_t(taps.size()) : H, columns = axis == 1 ? int64_t(taps.size()) : W;
  Tensor result = empty({rows, columns, C});
  const float* from = picture.data<float>();
  float* to = result.data<float>();
  cpu::parallel_for(rows, kRows, [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y)
      for (int64_t x = 0; x < columns; ++x) {
        const Taps& tap = taps[size_t(axis == 0 ? y : x)];
        for (int64_t c = 0; c < C; ++c) {
          double sum = 0;
          for (size_t k = 0; k < tap.weights.size(); ++k) {
            int64_t at = mirrored(tap.first + int64_t(k), n);
            sum += tap.weights[k] * double(from[((axis == 0 ? at : y) * W + (axis == 1 ? at : x)) * C + c]);
          }
          to[(y * columns + x) * C + c] = float(sum);
        }
      }
  });
  return result;
}

/// Keys' kernel with a = -0.5.
double cubic(double x) {
  x = std::abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2) return ((-0.5 * x + 2.5) * x - 4) * x + 2;
  return 0;
}

std::vector<Taps> cubic_taps(int64_t from, int64_t to) {
  double scale = double(from) / double(to), widened = std::max(scale, 1.0);
  std::vector<Taps> all;
  for (int64_t pixel = 0; pixel < to; ++pixel) {
    double centre = (double(pixel) + 0.5) * scale - 0.5;
    Taps taps{int64_t(std::ceil(centre - 2 * widened)), {}};
    for (int64_t at = taps.first; double(at) <= centre + 2 * widened; ++at)
      taps.weights.push_back(cubic((double(at) - centre) / widened));
    normalise(taps);
    all.push_back(std::move(taps));
  }
  return all;
}

}  // namespace

Tensor resize_bicubic(const Tensor& picture, int64_t height, int64_t width) {
  require_picture("resize_bicubic", picture);
  check(height >= 1 && width >= 1, "resize_bicubic: sides of 1 pixel or more are needed, got ", height, " x ", width);
  Tensor resized = picture;
  if (height != picture.size(0)) resized = along(resized, 0, cubic_taps(picture.size(0), height));
  if (width != picture.size(1)) resized = along(resized, 1, cubic_taps(picture.size(1), width));
  return resized;
}

Tensor gaussian_blur(const Tensor& picture, double sigma) {
  require_picture("gaussian_blur", picture);
  check(sigma > 0 && sigma < 1e4, "gaussian_blur: sigma must be above 0, got ", sigma);
  auto reach = int64_t(std::ceil(4 * sigma));
  Taps taps{-reach, {}};
  for (int64_t at = -reach; at <= reach; ++at)
    taps.weights.push_back(std::exp(-0.5 * double(at * at) / (sigma * sigma)));
  normalise(taps);
  Tensor blurred = picture;
  for (int axis : {0, 1}) {
    std::vector<Taps> all(size_t(picture.size(axis)), taps);
    for (size_t pixel = 0; pixel < all.size(); ++pixel) all[pixel].first += int64_t(pixel);
    blurred = along(blurred, axis, all);
  }
  return blurred;
}

// ---- Windows -------------------------------------------------------------------------------------------------------

namespace {

/// The picture whose pixels are fn(here, window), the window being the side x side values around, row by row.
template <class Fn>
Tensor over_windows(const char* op, const Tensor& picture, int64_t side, const Fn& fn) {
  require_picture(op, picture);
  check(side >= 1 && side <= 99 && side % 2 == 1, op, ": the side of the window must be odd, 1 to 99, got ", side);
  int64_t H = picture.size(0), W = picture.size(1), C = picture.size(2), reach = side / 2;
  Tensor result = empty_like(picture);
  const float* from = picture.data<float>();
  float* to = result.data<float>();
  cpu::parallel_for(H, kRows, [&](int64_t begin, int64_t end) {
    std::vector<float> window(static_cast<size_t>(side * side));
    for (int64_t y = begin; y < end; ++y)
      for (int64_t x = 0; x < W; ++x)
        for (int64_t c = 0; c < C; ++c) {
          float* next = window.data();
          for (int64_t v = y - reach; v <= y + reach; ++v)
            for (int64_t u = x - reach; u <= x + reach; ++u)
              *next++ = from[(mirrored(v, H) * W + mirrored(u, W)) * C + c];
          to[(y * W + x) * C + c] = fn(from[(y * W + x) * C + c], window);
        }
  });
  return result;
}

}  // namespace

Tensor median_filter(const Tensor& picture, int64_t side) {
  return over_windows("median_filter", picture, side, [](float, std::vector<float>& window) {
    auto middle = window.begin() + int64_t(window.size() / 2);
    std::nth_element(window.begin(), middle, window.end());
    return *middle;
  });
}

Tensor wiener_filter(const Tensor& picture, double sigma, int64_t side) {
  check(sigma > 0, "wiener_filter: sigma must be above 0, got ", sigma);
  return over_windows("wiener_filter", picture, side, [&](float here, const std::vector<float>& window) {
    double mean = 0, squares = 0;
    for (float value : window) mean += double(value);
    mean /= double(window.size());
    for (float value : window) squares += (double(value) - mean) * (double(value) - mean);
    double variance = squares / double(window.size()), noise = sigma * sigma;
    return float(mean + std::max(variance - noise, 0.0) / std::max(variance, noise) * (double(here) - mean));
  });
}

}  // namespace mote::resensemble
