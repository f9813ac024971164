// csv.h - small images as text: the layout of the 8x8 digits, packed with gzip or not.
#pragma once
#include <string>

#include "tensor/io/image.h"

namespace mote::io {

/// Lines of 65 integers with commas between: 64 pixels 0..16 row by row, then the label 0..9. Pixels become
/// round(255 v / 16): u8 [N, 8, 8, 1]. Throws Error(data) naming file, line and column of what is wrong.
LabelledImages load_digits_csv(const std::string& path);

}  // namespace mote::io
