// png.h - the PNG codec: chunks, filters and interlacing here, deflate from zlib. image.h is the front of it.
// Written from the specification [W3C PNG, third edition]; every size is checked before memory is made for it.
#pragma once
#include <string>

#include "tensor/io/file.h"
#include "tensor/tensor.h"

namespace mote::io {

bool is_png(const Bytes& file);

/// u8 [H, W, C]: C = 1 for grey, 3 for colour and palettes. Alpha and transparency are dropped, 16-bit samples are
/// rounded to 8, smaller ones are scaled up. Every chunk's CRC is checked, and the pixel data must unpack to exactly the
/// size that the header gives. What follows the IEND chunk is not looked at. Throws Error(data) naming `name` and byte.
Tensor decode_png(const Bytes& file, const std::string& name);

/// u8 [H, W, 1 or 3]; the same picture gives the same bytes.
Bytes encode_png(const Tensor& image);

}  // namespace mote::io
