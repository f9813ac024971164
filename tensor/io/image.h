// image.h - decoding and encoding pictures: u8 tensors [H, W, C] with C = 1 or 3. The PNG codec is in png.h, JPEG and BMP
// are decoded by stb_image (stb.h) after their structure has been checked here.
#pragma once
#include <string>

#include "tensor/io/file.h"
#include "tensor/io/png.h"
#include "tensor/tensor.h"

namespace mote::io {

inline constexpr int64_t kMaxImageSide = 16384;              // pixels
inline constexpr int64_t kMaxImageFile = int64_t(64) << 20;   // bytes

/// Images with a class each, as the loaders of data sets return them (idx.h, cifar.h, csv.h).
struct LabelledImages {
  Tensor images;   // u8 [N, H, W, C]
  Tensor labels;   // i64 [N]
};

/// Decodes PNG, JPEG, BMP or binary PNM by content, not by name. channels: 1 or 3 to convert (grey = luma), 0 to keep 1 or 3
/// (alpha is dropped). Throws Error(data) naming the file: too large (64 MiB, 16384 pixels a side), truncated, a wrong
/// PNG checksum, an unknown format. PNG data is inflated through zlib with the size its header allows.
Tensor load_image(const std::string& path, int channels = 0);
/// The same from memory; `name` stands for the file in messages.
Tensor decode_image(const Bytes& file, const std::string& name, int channels = 0);

/// u8 [..., 1 or 3] with `channels` channels: grey is repeated, colour becomes luma 0.299 R + 0.587 G + 0.114 B, rounded.
Tensor convert_channels(const Tensor& images, int64_t channels);

/// u8 [H, W, 1 or 3] as PNG, written atomically. Throws Error(resource) if that fails.
void save_png(const std::string& path, const Tensor& image);

/// Images f32 [N, H, W, C] in [-1, 1] (clamped) as one u8 picture of ceil(N / columns) rows, `gap` white pixels between.
/// Fewer than `columns` images give a row of N. Throws Error(numeric) on a NaN, which is no colour.
Tensor image_grid(const Tensor& images, int64_t columns, int64_t gap = 2);

/// Bilinear resize of u8 [H, W, C] with pixel centres at halves; area average when shrinking. Each axis goes by itself.
Tensor resize_image(const Tensor& image, int64_t height, int64_t width);

}  // namespace mote::io
