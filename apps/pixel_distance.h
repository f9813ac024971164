// pixel_distance.h - how far images are from a set of images, pixel by pixel: is a sample a copy?
#pragma once
#include <vector>

#include "diffusion/metrics/neighbours.h"

namespace mote::apps {

/// The nearest image of `reference` to each sample; distances are root mean square differences of the pixels, in levels
/// of 255, so a copy is exactly 0 away.
///   samples, reference  u8 [N, H, W, C] of equal H, W, C
struct PixelDistances {
  std::vector<int64_t> index;
  std::vector<double> distance;
};
PixelDistances nearest_images(const Tensor& samples, const Tensor& reference);

/// The value below which a share `part` of the values lie; values not empty.
double quantile(std::vector<double> values, double part);

}  // namespace mote::apps
