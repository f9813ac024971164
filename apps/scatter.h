// scatter.h - points of the plane as a picture, coloured by class.
#pragma once
#include "tensor/tensor.h"

namespace mote::apps {

/// u8 [side, side, 3]: a dot for each row of `points` [N, 2] (f32 or f64, finite), the axes scaled alike so that all fit,
/// the first to the right and the second up. Colours follow labels i64 [N]; 20 are told apart, then they repeat.
/// Without labels all dots are of one colour. Where dots overlap the later one is on top.
Tensor scatter_picture(const Tensor& points, const Tensor& labels, int64_t side = 640);

}  // namespace mote::apps
