// source.h - the measure that is transported: standard normal noise, or the unit-variance cube. A sample depends only
// on (seed, iteration, number of the sample, dimension), so any part of a batch can be made anywhere and again.
// What it is transported to is in targets.h, the heights that do it are found in solver.h.
#pragma once
#include <cstdint>
#include <string>

#include "tensor/tensor.h"

namespace mote::ot {

/// N(0, I), or the cube (u - 1/2) sqrt(12) with u uniform in [0, 1)^D. Both have mean 0 and variance 1, so a score
/// <x, y> has the standard deviation |y| for either.
struct Source {
  enum class Kind : uint8_t { gaussian, cube };

  Kind kind = Kind::gaussian;
  int64_t width = 0;         // D
  uint64_t seed = 0;
  bool antithetic = false;   // sample 2 j + 1 is the negative of sample 2 j

  /// Samples first .. first + count - 1 of an iteration.                                     f32 or bf16 [count, D]
  /// bf16 samples are the f32 ones, rounded. Sample i begins at Philox block i ceil(D / 4) of the iteration's stream.
  /// Throws Error(argument) if width < 1, first < 0, count < 0, or dtype is neither f32 nor bf16.
  Tensor samples(uint64_t iteration, int64_t first, int64_t count, DType dtype = DType::f32) const;
};

/// "gaussian" or "cube"; Error(usage) otherwise.
Source::Kind source_named(const std::string& name);
std::string name_of(Source::Kind kind);

}  // namespace mote::ot
