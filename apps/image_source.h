// image_source.h - what can be scored: images from a data set, a folder or an array, and features computed elsewhere.
// Images are 8-bit here whatever they came as: a sample scores the same from an array as from the PNG it is saved to.
#pragma once
#include <string>

#include "apps/dataset.h"

namespace mote::apps {

/// Images named by one word: FILE.npy (f32 or f64 [N, H, W, 1 or 3] in [-1, 1], as `mote sample --npy` writes them, or
/// u8), an existing folder (as folder:DIR), or a data SPEC. `options` holds split, size, channels and limit; its spec
/// is ignored. Values are rounded to the 256 levels of a picture, those outside [-1, 1] clamped, as image_grid does.
/// Throws as load_dataset does; Error(data) for an array of another shape or dtype, with a NaN, or on another scale.
Dataset load_images(const std::string& source, const DataOptions& options);

/// f32 [N, H, W, C] in [-1, 1] as u8.
Tensor to_bytes(const Tensor& images);

/// Whether the word is a data SPEC, so that it may have a test split: no array and no folder.
bool is_data_spec(const std::string& source);

/// A matrix [N, D] of f32 or f64 from FILE.npy or FILE.safetensors; of the latter the tensor `features`, or its only
/// one. Throws Error(data) or Error(checkpoint) naming the file, Error(usage) for another ending.
Tensor load_features(const std::string& path);

/// `count` of the rows 0..rows-1 in ascending order, chosen by (seed, rows) without replacement; all if there are no
/// more.
std::vector<int64_t> choose_rows(int64_t rows, int64_t count, uint64_t seed);

/// Two disjoint choices of `count` rows each, in ascending order; rows / 2 if there are not enough.
std::pair<std::vector<int64_t>, std::vector<int64_t>> choose_halves(int64_t rows, int64_t count, uint64_t seed);

/// These rows of x, in this order, as a fresh tensor.
Tensor take_rows(const Tensor& x, const std::vector<int64_t>& rows);

}  // namespace mote::apps
