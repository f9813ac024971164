#include "apps/pixel_distance.h"

#include <algorithm>
#include <cmath>

#include "tensor/error.h"

namespace mote::apps {
namespace {

/// u8 images as rows of 0..255: squared differences are whole numbers, and their sums exact in f32 up to 4128 values.
Tensor pixel_rows(const Tensor& images) {
  return images.view({images.size(0), images.numel() / images.size(0)}).to(DType::f32);
}

}  // namespace

PixelDistances nearest_images(const Tensor& samples, const Tensor& reference) {
  Tensor rows = pixel_rows(samples);
  metrics::Nearest nearest = metrics::nearest_rows(rows, pixel_rows(reference));
  PixelDistances result{std::move(nearest.index), {}};
  for (double squared : nearest.distance) result.distance.push_back(std::sqrt(squared / double(rows.size(1))));
  return result;
}

double quantile(std::vector<double> values, double part) {
  check(!values.empty(), "quantile: needs a value or more");
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, size_t(part * double(values.size())))];
}

}  // namespace mote::apps
