// npy.h - arrays for and from NumPy: little-endian, C order.
#pragma once
#include <string>

#include "tensor/tensor.h"

namespace mote::io {

/// Writes f32, f64, i32, i64 or u8 of any shape in format 1.0, atomically; numpy.load(path) gives it back. A cuda
/// tensor is copied first. Throws Error(argument) for bf16, which NumPy does not know, Error(resource) on an I/O failure.
void save_npy(const std::string& path, const Tensor& tensor);

/// The array of a .npy file, format 1.0, 2.0 or 3.0: f32, f64, i32, i64 or u8, little-endian, C order, any shape of up
/// to four axes. Throws Error(data) naming the file and what is wrong if it cannot be read, is no such array, or is
/// longer or shorter than its header says.
Tensor load_npy(const std::string& path);

}  // namespace mote::io
