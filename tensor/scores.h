// scores.h - keys of scores, and what the kernels on scores of samples against targets share (kernels.h).
// A key holds a score and the number of its target in 64 bits whose order as a signed integer is the order wanted: the
// larger score first, and of equal scores the smaller number. Merging the results of parts is then max, in any order.
#pragma once
#include <bit>
#include <cstdint>
#include <limits>

#include "tensor/math.h"

namespace mote {

/// Below every key: no score was found.
inline constexpr int64_t kNoKey = std::numeric_limits<int64_t>::min();

/// Floats as signed integers of the same order: negative ones are stored as a magnitude, so theirs is turned round.
MOTE_HD int32_t ordered_bits(float value) {
  int32_t bits = std::bit_cast<int32_t>(value);
  return bits >= 0 ? bits : bits ^ 0x7fffffff;
}

/// score: neither NaN nor -0, which is not less than 0 but would be ordered so;  0 <= target < 2^32
MOTE_HD int64_t score_key(float score, int64_t target) {
  return int64_t(uint64_t(uint32_t(ordered_bits(score))) << 32 | (0xffffffffu - uint64_t(target)));
}
MOTE_HD int64_t target_of_key(int64_t key) { return int64_t(0xffffffffu - (uint64_t(key) & 0xffffffffu)); }
MOTE_HD float score_of_key(int64_t key) {
  int32_t bits = int32_t(key >> 32);
  return std::bit_cast<float>(bits >= 0 ? bits : bits ^ 0x7fffffff);
}

/// Sums over targets are folded in blocks of so many; parts of the targets that start at multiples of it give the same
/// bits as all at once.
inline constexpr int64_t kScoreRows = 224;

/// What score_softmax does: the sums of each sample, or the shares of each target from sums that are complete.
enum class SoftmaxPass : uint8_t { sums, shares, both };

/// The most planes that score_top keeps.
inline constexpr int64_t kMaxTop = 64;

}  // namespace mote
