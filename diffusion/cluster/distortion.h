// distortion.h - small affine maps of images: turned, slanted, stretched and moved a little, an image shows the same thing.
#pragma once
#include "tensor/random.h"
#include "tensor/tensor.h"

namespace mote::cluster {

/// A map of the plane around the middle of an image. The default leaves images as they are.
struct Distortion {
  double turn = 0;                  // radians
  double slant = 0;                 // x += slant y
  double stretch_x = 1, stretch_y = 1;
  double move_x = 0, move_y = 0;    // pixels
};

/// The largest of each; a draw is uniform in [-most, most], the logarithms of stretches likewise.
struct DistortionRange {
  double turn = 0.25, slant = 0.4, stretch = 0.2, move = 1;
};
Distortion draw_distortion(const DistortionRange& range, Generator& generator);

/// Each image under the map: out(p) = image(A^-1 (p - move)), A = turn slant stretch, read bilinearly; what comes from
/// beyond the edges has the value of the nearest pixel.
///   images  f32 [N, H, W, C] on the CPU
Tensor distorted(const Tensor& images, const Distortion& distortion);

}  // namespace mote::cluster
