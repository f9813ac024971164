// read_points.h - vectors for `mote ot`: rows of numbers from NumPy arrays and from text.
#pragma once
#include <string>

#include "tensor/tensor.h"

namespace mote::apps {

/// f32 [N, D]: FILE.npy with f32, f64, i32, i64 or u8 [N, D] or [N, ...] (D = numel / N; [N] is N points on a line), or
/// FILE.csv with one point a line, numbers separated by commas, and perhaps one line of names above.
/// Throws Error(data) naming file, line and column of what is wrong, Error(usage) for another ending.
Tensor load_points(const std::string& path);

}  // namespace mote::apps
