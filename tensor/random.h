// random.h - counter-based random numbers, the same on every device and thread count.
// Element i of a draw depends only on (seed, offset, i); nothing here reads a thread index or a clock.
// Philox4x32-10 [Salmon 2011]; the scalar functions that CPU and CUDA share are in random_math.h.
#pragma once
#include <cstdint>

#include "tensor/tensor.h"

namespace mote {

/// A position in the stream of a seed. A draw of n elements advances offset by ceil(n / 4) Philox blocks
/// (ceil(n / 2) for f64), so two draws never share a block. Saving both numbers saves the random state.
struct Generator {
  uint64_t seed = 0;
  uint64_t offset = 0;
  bool operator==(const Generator&) const = default;
  /// An independent stream: the same seed and `key` always give the same one.
  Generator fork(uint64_t key) const;
};

/// uniform: [0, 1), multiples of 2^-24 (2^-53 for f64).   normal: N(0, 1) by Box-Muller; |z| < 6.8 (8.7 for f64).
/// bf16 draws are the f32 draws, rounded. Each call advances `generator`.
Tensor uniform(const Shape& shape, DType dtype, Generator& generator, Device device = {});
Tensor normal(const Shape& shape, DType dtype, Generator& generator, Device device = {});
Tensor uniform(const Shape& shape, DType dtype, Generator&& generator, Device device = {});
Tensor normal(const Shape& shape, DType dtype, Generator&& generator, Device device = {});
/// i64 in [low, high), by multiplication with 64 random bits (bias below (high - low) / 2^64). Throws if high <= low.
Tensor randint(int64_t low, int64_t high, const Shape& shape, Generator& generator, Device device = {});

/// One draw on the host, for shuffles and augmentation: 64 bits at (generator, index), which does not advance it.
uint64_t random_bits(const Generator& generator, uint64_t index);

}  // namespace mote
