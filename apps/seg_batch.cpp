#include "apps/seg_batch.h"

#include <algorithm>

#include "apps/epoch_order.h"
#include "tensor/error.h"

namespace mote::apps {
namespace {

constexpr uint64_t kMoveKey = 0x6d6f7665, kCropKey = 0x63726f70;   // "move", "crop": streams of the training seed

/// Streams of one element of a batch.
Generator element_stream(uint64_t seed, uint64_t key, int64_t step, int64_t element) {
  return Generator{seed}.fork(key).fork(uint64_t(step)).fork(uint64_t(element));
}

/// x[n, y, x, c] of an image of height H and width W at the place that a move brings to (y, x) of the result.
struct Place {
  int64_t y, x;
};
Place source_of(const Move& move, int64_t H, int64_t W, int64_t y, int64_t x) {
  bool is_odd = move.turns % 2 == 1;
  int64_t rows = is_odd ? W : H, columns = is_odd ? H : W;   // of the result
  y = std::clamp<int64_t>(y - move.down, 0, rows - 1);
  x = std::clamp<int64_t>(x - move.right, 0, columns - 1);
  Place place{y, x};
  switch (move.turns) {   // a counter-clockwise turn takes (y, x) to (W - 1 - x, y)
    case 1: place = {x, W - 1 - y}; break;
    case 2: place = {H - 1 - y, W - 1 - x}; break;
    case 3: place = {H - 1 - x, y}; break;
  }
  if (move.mirror) place.x = W - 1 - place.x;
  return place;
}

template <class T>
void move_into(Tensor& y, const Tensor& x, const Move& move) {
  int64_t N = x.size(0), H = x.size(1), W = x.size(2), C = x.ndim() == 4 ? x.size(3) : 1;
  int64_t rows = y.size(1), columns = y.size(2);
  const T* from = x.data<T>();
  T* to = y.data<T>();
  for (int64_t n = 0; n < N; ++n, from += H * W * C)
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t column = 0; column < columns; ++column, to += C) {
        Place place = source_of(move, H, W, row, column);
        std::copy_n(from + (place.y * W + place.x) * C, C, to);
      }
}

/// The window of side `side` at (top, left) of x [1, H, W] or [1, H, W, C].
template <class T>
Tensor window_of(const Tensor& x, int64_t top, int64_t left, int64_t side) {
  int64_t W = x.size(2), C = x.ndim() == 4 ? x.size(3) : 1;
  Tensor part = empty(x.shape().with(1, side).with(2, side), x.dtype());
  for (int64_t row = 0; row < side; ++row)
    std::copy_n(x.data<T>() + ((top + row) * W + left) * C, side * C, part.data<T>() + row * side * C);
  return part;
}

/// Where the crop of one element lies. `mask` is u8 [1, H, W].
Place draw_crop(const BatchOptions& o, const Tensor& mask, uint64_t seed, int64_t step, int64_t element) {
  constexpr uint64_t kTries = 16;
  int64_t H = mask.size(1), W = mask.size(2), side = o.crop;
  bool wants_foreground = element < (o.batch + 1) / 2 && o.crop_foreground > 0;
  Generator generator = element_stream(seed, kCropKey, step, element);
  Place best{0, 0};
  int64_t most = -1;
  for (uint64_t attempt = 0; attempt < kTries; ++attempt) {
    Place place{bounded(random_bits(generator, 2 * attempt), H - side + 1),
                bounded(random_bits(generator, 2 * attempt + 1), W - side + 1)};
    if (!wants_foreground) return place;
    int64_t foreground = 0;
    for (int64_t row = 0; row < side; ++row)
      for (int64_t column = 0; column < side; ++column) {
        uint8_t label = mask.data<uint8_t>()[(place.y + row) * W + place.x + column];
        foreground += label != 0 && label != kIgnored;
      }
    if (foreground > most) {
      best = place;
      most = foreground;
    }
    if (double(foreground) >= o.crop_foreground * double(side * side)) break;
  }
  return best;
}

void require_pairs(const char* op, const Pairs& data, const Tensor& guess) {
  check(data.images.defined() && data.images.ndim() == 4 && data.images.dtype() == DType::u8 && data.count() > 0 &&
            data.masks.defined() && data.masks.dtype() == DType::u8 &&
            data.masks.shape() == Shape{data.count(), data.images.size(1), data.images.size(2)},
        op, ": needs images u8 [N, H, W, C] and masks u8 [N, H, W], got ", describe(data.images), " and ",
        describe(data.masks));
  check(!guess.defined() || (guess.dtype() == DType::f32 && guess.ndim() == 4 && !guess.is_cuda() &&
                             guess.size(0) == data.count() && guess.size(1) == data.images.size(1) &&
                             guess.size(2) == data.images.size(2)),
        op, ": needs a guess f32 [N, H, W, K] for the images ", describe(data.images), ", got ", describe(guess));
}

}  // namespace

Tensor moved(const Tensor& x, const Move& move) {
  check(x.defined() && (x.ndim() == 3 || x.ndim() == 4) && (x.dtype() == DType::u8 || x.dtype() == DType::f32) &&
            !x.is_cuda() && move.turns >= 0 && move.turns <= 3,
        "moved: needs u8 or f32 [N, H, W(, C)] on the CPU and 0 to 3 turns, got ", describe(x), " and ", move.turns);
  Shape shape = x.shape();
  if (move.turns % 2 == 1) shape = shape.with(1, x.size(2)).with(2, x.size(1));
  Tensor y = empty(shape, x.dtype());
  if (x.numel() == 0) return y;
  if (x.dtype() == DType::u8) move_into<uint8_t>(y, x, move);
  else move_into<float>(y, x, move);
  return y;
}

Move inverse(const Move& move) {
  check(move.down == 0 && move.right == 0, "inverse: a shift by ", move.down, ", ", move.right,
        " loses pixels and cannot be undone");
  // A mirror turns the other way round: mirror and then turns is its own inverse.
  return {move.mirror, move.mirror ? move.turns : (4 - move.turns) % 4, 0, 0};
}

std::vector<Move> symmetries(int64_t height, int64_t width) {
  std::vector<Move> all;
  for (bool mirror : {false, true})
    for (int turns = 0; turns < 4; turns += height == width ? 1 : 2) all.push_back({mirror, turns, 0, 0});
  return all;
}

Move draw_move(const BatchOptions& options, int64_t height, int64_t width, uint64_t seed, int64_t step,
               int64_t element) {
  Generator generator = element_stream(seed, kMoveKey, step, element);
  uint64_t bits = random_bits(generator, 0);
  Move move;
  move.mirror = options.mirror && (bits & 1);
  if (options.turn) move.turns = height == width ? int(bits >> 1 & 3) : int(bits & 2);
  if (options.shift > 0) {
    move.down = bounded(random_bits(generator, 1), 2 * options.shift + 1) - options.shift;
    move.right = bounded(random_bits(generator, 2), 2 * options.shift + 1) - options.shift;
  }
  return move;
}

PairBatch pair_batch(const Pairs& data, const Tensor& guess, const BatchOptions& options, uint64_t seed, int64_t step) {
  require_pairs("pair_batch", data, guess);
  int64_t B = options.batch, H = data.images.size(1), W = data.images.size(2), C = data.images.size(3);
  int64_t end;
  check(B >= 1 && step >= 0 && !__builtin_mul_overflow(step + 1, B, &end) && options.shift >= 0,
        "pair_batch: needs a batch of 1 or more, a step and a shift of 0 or more, got ", B, ", ", step, " and ",
        options.shift);
  check(options.crop >= 0 && options.crop <= std::min(H, W), "pair_batch: a crop of ", options.crop,
        " does not fit into images of ", H, " x ", W);
  int64_t rows = options.crop > 0 ? options.crop : H, columns = options.crop > 0 ? options.crop : W;
  PairBatch batch{empty({B, rows, columns, C}), empty({B, rows, columns}, DType::u8), {}, {}};
  if (guess.defined()) batch.guess = empty({B, rows, columns, guess.size(3)});
  EpochOrder order(seed, data.count());
  for (int64_t element = 0; element < B; ++element) {
    int64_t n = order.at(step * B + element);
    batch.index.push_back(n);
    Tensor image = data.images.rows(n, n + 1), mask = data.masks.rows(n, n + 1);
    Tensor said = guess.defined() ? guess.rows(n, n + 1) : Tensor{};
    if (options.crop > 0) {
      Place at = draw_crop(options, mask, seed, step, element);
      image = window_of<uint8_t>(image, at.y, at.x, options.crop);
      mask = window_of<uint8_t>(mask, at.y, at.x, options.crop);
      if (said.defined()) said = window_of<float>(said, at.y, at.x, options.crop);
    }
    Move move = draw_move(options, rows, columns, seed, step, element);
    batch.images.rows(element, element + 1).copy_(to_unit(moved(image, move)));
    batch.masks.rows(element, element + 1).copy_(moved(mask, move));
    if (said.defined()) batch.guess.rows(element, element + 1).copy_(moved(said, move));
  }
  return batch;
}

PairBatch pair_rows(const Pairs& data, const Tensor& guess, int64_t begin, int64_t end) {
  require_pairs("pair_rows", data, guess);
  check(begin >= 0 && begin < end && end <= data.count(), "pair_rows: images ", begin, " to ", end - 1,
        " are not all there; there are ", data.count());
  PairBatch batch{to_unit(data.images.rows(begin, end)), data.masks.rows(begin, end).clone(), {}, {}};
  if (guess.defined()) batch.guess = guess.rows(begin, end).clone();
  for (int64_t n = begin; n < end; ++n) batch.index.push_back(n);
  return batch;
}

}  // namespace mote::apps
