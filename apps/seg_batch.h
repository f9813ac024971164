// seg_batch.h - batches of images with masks and the flips, turns, shifts and crops that move image, truth and the
// end-to-end model's output together. All of it is a function of (seed, step, element): resuming needs no replay.
#pragma once
#include <vector>

#include "apps/pairs.h"

namespace mote::apps {

/// How a picture is moved: mirrored left to right, then turned counter-clockwise, then shifted.
struct Move {
  bool mirror = false;
  int turns = 0;                 // quarter turns, 0..3
  int64_t down = 0, right = 0;   // pixels; what comes in is the edge, repeated
  bool operator==(const Move&) const = default;
};

/// x [N, H, W, C] or [N, H, W], u8 or f32, moved; a fresh tensor. An odd turn swaps H and W.
Tensor moved(const Tensor& x, const Move& move);
/// The move that undoes one without a shift. Throws Error(argument) if there is a shift, which cannot be undone.
Move inverse(const Move& move);
/// The symmetries of an H x W picture, the identity first: 8 of a square, 4 (none with an odd turn) of another. A
/// prediction over all of them is the mean of moved(predict(moved(x, m)), inverse(m)): test-time augmentation.
std::vector<Move> symmetries(int64_t height, int64_t width);

struct BatchOptions {
  int64_t batch = 32;
  bool mirror = true, turn = true;   // turn: any quarter turn of squares, half turns of others
  int64_t shift = 0;                 // up to so many pixels in both directions
  int64_t crop = 0;                  // side of a random square; 0: whole pictures
  double crop_foreground = 0.01;     // share of pixels not of class 0 wished for in the first half of a batch's crops
};

struct PairBatch {
  Tensor images;                // f32 [B, H, W, C] in [-1, 1]: v / 127.5 - 1
  Tensor masks;                 // u8 [B, H, W]
  Tensor guess;                 // f32 [B, H, W, K] or undefined, moved like the images
  std::vector<int64_t> index;   // of each image in `data`
};

/// The move of element `element` of batch `step`, for pictures of height x width.
Move draw_move(const BatchOptions& options, int64_t height, int64_t width, uint64_t seed, int64_t step,
               int64_t element);

/// Batch number `step` of training, in the order of BatchLoader: every epoch is a permutation by (seed, epoch).
///   guess  f32 [N, H, W, K], what an end-to-end model says of each image of `data`; or undefined
/// A crop is drawn up to 16 times until it has the foreground wished for; the one with the most is taken.
/// Throws Error(argument) for a batch < 1, a negative step, a guess of another shape or dtype, a crop larger than the
/// pictures.
PairBatch pair_batch(const Pairs& data, const Tensor& guess, const BatchOptions& options, uint64_t seed, int64_t step);

/// Images `begin` to `end` - 1 in order, unmoved, as a batch: for validation and prediction.
PairBatch pair_rows(const Pairs& data, const Tensor& guess, int64_t begin, int64_t end);

}  // namespace mote::apps
