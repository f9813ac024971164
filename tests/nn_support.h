// nn_support.h - what the network tests share: parameter values by a formula, a small network, golden files.
#pragma once
#include <omp.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "nn/unet.h"
#include "tests/support.h"

namespace mote::test {

/// Element i of stream k, in [-1/8, 1/8): a multiple of 2^-18, so exact in f32. golden/unet_torch.py has the same.
inline double formula(uint64_t i, uint64_t k) {
  uint64_t h = (i * 2654435761u + k * 40503 + 12345) & 0xffffffff;
  h ^= h >> 15;
  h = (h * 2246822519u) & 0xffffffff;
  h ^= h >> 13;
  return (double(h >> 16) - 32768) / 262144;
}

inline Tensor formula_tensor(const Shape& shape, uint64_t k, double scale = 1, double shift = 0,
                             DType dtype = DType::f32) {
  std::vector<double> values(shape.numel());
  for (size_t i = 0; i < values.size(); ++i) values[i] = scale * formula(i, k) + shift;
  return from(values, shape, dtype);
}

/// Parameters by formula: stream k for the k-th name in sorted order, 1 added to the scale of a GroupNorm.
inline void set_by_formula(nn::Module& module) {
  nn::NamedTensors parameters = module.parameters();
  std::sort(parameters.begin(), parameters.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (size_t k = 0; k < parameters.size(); ++k) {
    auto& [name, value] = parameters[k];
    std::string owner = name.substr(0, name.rfind('.'));
    bool is_scale = owner.find("norm", owner.rfind('.') + 1) != std::string::npos && name.ends_with(".weight");
    value.copy_(formula_tensor(value.shape(), k, 1, is_scale ? 1 : 0, value.dtype()));
  }
}

/// The tiny preset on 8x8 images: every kind of layer, a few milliseconds a pass.
inline nn::UNetConfig small_config() { return nn::UNetConfig::preset("tiny").fit(8, 2); }

/// The same with everything that published networks do otherwise than Ho 2020.
inline nn::UNetConfig published_config() {
  nn::UNetConfig config = small_config();
  config.head_width = 8;
  config.norm_groups = 8;
  config.norm_eps = 1e-5;
  config.pad_evenly = true;
  config.cos_first = true;
  config.freq_shift = 0;
  return config;
}

inline nlohmann::json golden(const std::string& name) {
  std::ifstream file(std::string(MOTE_TESTS_DIR) + "/golden/" + name);
  REQUIRE(file.good());
  return nlohmann::json::parse(file);
}

/// The message of the Error that fn throws; the test fails if it throws none.
template <class Fn>
std::string error_of(Fn&& fn, Error::Kind kind = Error::Kind::argument) {
  try {
    fn();
  } catch (const Error& error) {
    CHECK(int(error.kind()) == int(kind));
    return error.what();
  }
  FAIL("no Error was thrown");
  return "";
}

}  // namespace mote::test
