// npy.h - arrays for NumPy: format 1.0, little-endian, C order.
#pragma once
#include <string>

#include "tensor/tensor.h"

namespace mote::io {

/// Writes f32, f64, i32, i64 or u8 of any shape, atomically; numpy.load(path) gives it back. A cuda tensor is copied
/// first. Throws Error(argument) for bf16, which NumPy does not know, Error(resource) on an I/O failure.
void save_npy(const std::string& path, const Tensor& tensor);

}  // namespace mote::io
