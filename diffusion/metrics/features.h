// features.h - what every metric asks of a feature matrix: one row an image, f32 or f64 [N, D].
#pragma once
#include "tensor/tensor.h"

namespace mote::metrics {

/// Throws Error(argument) unless x is f32 or f64 [N, D] on the CPU with N >= 1 and D >= 1; Error(data) naming row and
/// column if a value is not finite. `op` and `name` stand in the message.
void require_features(const char* op, const char* name, const Tensor& x);

/// require_features of both; Error(data) if they have other widths.
void require_pair(const char* op, const Tensor& x, const Tensor& y);

}  // namespace mote::metrics
