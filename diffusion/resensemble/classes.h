// classes.h - masks of several classes as channels in [-1, 1], and back: one-hot, or the bits of the class number.
// A pixel of the ignored label (void) has no truth: there the truth is taken to be f, and losses leave it out.
#pragma once
#include "tensor/tensor.h"

namespace mote::resensemble {

enum class Coding {
  binary,    // 1 channel, class 1 is 1, class 0 is -1; C = 2
  one_hot,   // C channels, 1 at the class, -1 elsewhere
  bits,      // ceil(log2 C) channels, the lowest bit first                            [analog bits, Chen 2022]
};
Coding coding_named(const std::string& name);   // binary, one-hot, bits; Error(usage) otherwise
const char* name_of(Coding coding);
/// Channels of a mask of C classes. Throws Error(usage) unless 2 <= C <= 256, or C = 2 for binary.
int64_t channels_of(Coding coding, int64_t classes);

/// Ids i64 [N, H, W] as f32 [N, H, W, channels]. `ignore` (-1: none) gives 0 everywhere.
/// Throws Error(data) naming the first id that is neither below C nor `ignore`.
Tensor encode(Coding coding, const Tensor& ids, int64_t classes, int64_t ignore = -1);
/// The prior f in the same coding from class probabilities [N, H, W, C] (or [N, H, W, 1], P(class 1), for binary):
/// 2 p - 1, and for bits 2 P(bit = 1) - 1.
Tensor encode_probabilities(Coding coding, const Tensor& probabilities);
/// Class ids i64 [N, H, W] of an estimate y in that coding: y > 0, the largest channel (the first of equals), or the
/// signs of the bits; a code of C or more goes to the valid code with the least sum |y_bit - code_bit|.
Tensor decode(Coding coding, const Tensor& y, int64_t classes);

/// x0 with f where ids are `ignore`: R = 0 there.
Tensor fill_ignored(const Tensor& x0, const Tensor& f, const Tensor& ids, int64_t ignore);
/// 1 where ids are a class, 0 where they are `ignore`: f32 [N, H, W, 1].
Tensor counted(const Tensor& ids, int64_t ignore);

/// One-hot y moved to where its channels sum to 2 - C: the mean error is subtracted from each.
Tensor to_plane(const Tensor& y);

/// Share of samples in each class, smoothed as Estimates::probability is: (count + a) / (K + C a), a = 1/2.
///   ys [K, N, H, W, channels]; f32 [N, H, W, C]
Tensor class_probabilities(Coding coding, const Tensor& ys, int64_t classes);

}  // namespace mote::resensemble
