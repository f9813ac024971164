// restore_data.h - squares of clean pictures and their damaged versions, as training takes them: a pure function of
// (seed, index of the batch), so that resuming needs no replay.
#pragma once
#include "apps/epoch_order.h"
#include "apps/pictures.h"
#include "diffusion/resensemble/degradation.h"

namespace mote::apps {

struct RestoreBatch {
  Tensor clean, damaged;   // f32 [B, S, S, C], clean in [-1, 1]
};

/// The side of the squares for these pictures: `size`, or that of the pictures for 0. Error(usage) if they are not all
/// squares of one size then, Error(data) naming the first picture that is smaller than `size`.
int64_t square_side(const PictureSet& pictures, int64_t size);

/// The middle square of side `side` of a u8 picture that is as large, as f32 [side, side, C] in [-1, 1].
Tensor middle_square(const Tensor& picture, int64_t side);

class RestoreBatches {
 public:
  /// Batch number `first_index` comes first. `flip`: half of the squares are mirrored.
  RestoreBatches(const PictureSet& pictures, int64_t side, int64_t batch, uint64_t seed, bool flip,
                 const resensemble::Degradation& degradation, int64_t first_index);
  RestoreBatch next();

 private:
  const PictureSet& pictures_;
  int64_t side_, batch_;
  uint64_t seed_;
  bool flip_;
  resensemble::Degradation degradation_;
  int64_t index_;
  EpochOrder order_;
};

}  // namespace mote::apps
