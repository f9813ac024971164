#include "apps/image_source.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "tensor/error.h"
#include "tensor/io/image.h"
#include "tensor/io/npy.h"
#include "tensor/io/safetensors.h"
#include "tensor/random.h"

namespace mote::apps {
namespace {

constexpr uint64_t kChoiceKey = 0x726f7773;  // "rows"
constexpr double kWildest = 4;  // samples leave [-1, 1] by a little; values of 0..255 have a mean size far above this

bool is_npy(const std::string& source) { return source.ends_with(".npy"); }

bool is_folder(const std::string& source) {
  std::error_code ignored;
  return std::filesystem::is_directory(source, ignored);
}

template <class T>
Tensor rounded(const std::string& path, const Tensor& images) {
  Tensor bytes = empty(images.shape(), DType::u8);
  const T* from = images.data<T>();
  double size = 0;
  for (int64_t i = 0; i < images.numel(); ++i) {
    if (std::isnan(from[i]))
      fail(Error::Kind::data, path, ": image ", i / (images.numel() / images.size(0)), " of ", images.size(0),
           " contains a NaN");
    size += std::min(std::abs(double(from[i])), 1e6);
    bytes.data<uint8_t>()[i] = uint8_t(std::lround((std::clamp(from[i], T(-1), T(1)) + 1) * T(127.5)));
  }
  if (size > kWildest * double(images.numel()))
    fail(Error::Kind::data, path, ": the values are ", size / double(images.numel()),
         " in size on average; images of floats are needed in [-1, 1], those of 0..255 as uint8");
  return bytes;
}

Dataset load_array(const std::string& path, const DataOptions& options) {
  Tensor array = io::load_npy(path);
  if (array.ndim() != 4 || array.numel() == 0 || (array.size(3) != 1 && array.size(3) != 3) ||
      (array.dtype() != DType::f32 && array.dtype() != DType::f64 && array.dtype() != DType::u8))
    fail(Error::Kind::data, path, ": images are needed as float or uint8 [N, H, W, 1 or 3], the array is ",
         describe(array));
  Dataset data;
  data.name = path;
  data.images = array.dtype() == DType::u8    ? array
                : array.dtype() == DType::f32 ? rounded<float>(path, array)
                                              : rounded<double>(path, array);
  return fit_dataset(std::move(data), options);
}

}  // namespace

Dataset load_images(const std::string& source, const DataOptions& options) {
  if (is_npy(source)) return load_array(source, options);
  DataOptions part = options;
  part.spec = is_folder(source) ? "folder:" + source : source;
  return load_dataset(part);
}

Tensor to_bytes(const Tensor& images) { return rounded<float>("to_bytes", images); }

bool is_data_spec(const std::string& source) { return !is_npy(source) && !is_folder(source); }

Tensor load_features(const std::string& path) {
  Tensor features;
  if (path.ends_with(".safetensors")) {
    io::Safetensors file = io::load_safetensors(path);
    auto found = file.tensors.size() == 1 ? file.tensors.begin() : file.tensors.find("features");
    if (found == file.tensors.end())
      fail(Error::Kind::data, path, ": holds ", file.tensors.size(), " tensors, none of them called 'features'");
    features = found->second;
  } else if (is_npy(path)) {
    features = io::load_npy(path);
  } else {
    fail(Error::Kind::usage, "--features: ", path, " is neither .npy nor .safetensors");
  }
  if (features.ndim() != 2 || features.numel() == 0 ||
      (features.dtype() != DType::f32 && features.dtype() != DType::f64))
    fail(Error::Kind::data, path, ": features are needed as float32 or float64 [N, D], these are ", describe(features));
  return features;
}

// ---- Choosing rows -------------------------------------------------------------------------------------------------

namespace {

/// The first `count` of a shuffle of 0..rows-1.                                                  [Durstenfeld 1964]
std::vector<int64_t> shuffled(int64_t rows, int64_t count, uint64_t seed) {
  std::vector<int64_t> order(static_cast<size_t>(rows));
  std::iota(order.begin(), order.end(), int64_t(0));
  Generator generator = Generator{seed}.fork(kChoiceKey);
  for (int64_t i = 0; i < count; ++i) {
    auto left = static_cast<unsigned __int128>(rows - i);
    std::swap(order[size_t(i)], order[size_t(i + int64_t(left * random_bits(generator, uint64_t(i)) >> 64))]);
  }
  order.resize(size_t(count));
  return order;
}

}  // namespace

std::vector<int64_t> choose_rows(int64_t rows, int64_t count, uint64_t seed) {
  std::vector<int64_t> chosen = shuffled(rows, std::min(rows, count), seed);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

std::pair<std::vector<int64_t>, std::vector<int64_t>> choose_halves(int64_t rows, int64_t count, uint64_t seed) {
  int64_t each = std::min(count, rows / 2);
  std::vector<int64_t> both = shuffled(rows, 2 * each, seed);
  std::vector<int64_t> one(both.begin(), both.begin() + each), other(both.begin() + each, both.end());
  std::sort(one.begin(), one.end());
  std::sort(other.begin(), other.end());
  return {one, other};
}

Tensor take_rows(const Tensor& x, const std::vector<int64_t>& rows) {
  Tensor taken = empty(x.shape().with(0, int64_t(rows.size())), x.dtype());
  int64_t bytes = x.nbytes() / x.size(0);
  for (size_t i = 0; i < rows.size(); ++i)
    std::copy_n(static_cast<const char*>(x.raw()) + rows[i] * bytes, bytes,
                static_cast<char*>(taken.raw()) + int64_t(i) * bytes);
  return taken;
}

}  // namespace mote::apps
