// image.h - decoding and encoding pictures: u8 tensors [H, W, C] with C = 1 or 3.
#pragma once
#include <string>

#include "tensor/io/file.h"
#include "tensor/tensor.h"

namespace mote::io {

/// Decodes PNG, JPEG, BMP or PNM by content, not by name. channels: 1 or 3 to convert (grey = luma), 0 to keep 1 or 3
/// (alpha is dropped). Throws Error(data) naming the file: too large (64 MiB, 16384 pixels a side), truncated, a wrong
/// PNG checksum, an unknown format. PNG data is first inflated through zlib with the size its header allows.
Tensor load_image(const std::string& path, int channels = 0);

/// u8 [H, W, 1 or 3] as PNG, written atomically. Throws Error(resource) if that fails.
void save_png(const std::string& path, const Tensor& image);
Bytes encode_png(const Tensor& image);

/// Images f32 [N, H, W, C] in [-1, 1] (clamped) as one u8 picture of ceil(N / columns) rows, `gap` pixels between.
Tensor image_grid(const Tensor& images, int64_t columns, int64_t gap = 2);

/// Bilinear resize of u8 [H, W, C]; area average when shrinking.
Tensor resize_image(const Tensor& image, int64_t height, int64_t width);

}  // namespace mote::io
