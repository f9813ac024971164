// read_npy.h - arrays that NumPy wrote, for samples and features computed elsewhere. Writing them is tensor/io/npy.h.
#pragma once
#include <string>

#include "tensor/tensor.h"

namespace mote::apps {

/// The array of a .npy file, format 1.0, 2.0 or 3.0: f32, f64, i32, i64 or u8, little-endian, C order, any shape of up
/// to four axes. Throws Error(data) naming the file and what is wrong if it cannot be read, is no such array, or is
/// longer or shorter than its header says.
Tensor load_npy(const std::string& path);

}  // namespace mote::apps
