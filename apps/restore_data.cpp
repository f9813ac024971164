#include "apps/restore_data.h"

#include <algorithm>

#include "tensor/error.h"
#include "tensor/random.h"

namespace mote::apps {
namespace {

constexpr uint64_t kCrop = 0x63726f70, kDamage = 0x64616d;   // "crop", "dam": keys of streams of the seed

/// A square of u8 [H, W, C] as f32 in [-1, 1], mirrored if asked.
void copy_square(const Tensor& picture, int64_t top, int64_t left, int64_t side, bool mirrored, float* to) {
  int64_t W = picture.size(1), C = picture.size(2);
  const uint8_t* from = picture.data<uint8_t>();
  for (int64_t y = 0; y < side; ++y)
    for (int64_t x = 0; x < side; ++x)
      for (int64_t c = 0; c < C; ++c)
        *to++ = float(from[((top + y) * W + left + (mirrored ? side - 1 - x : x)) * C + c]) / 127.5f - 1;
}

}  // namespace

int64_t square_side(const PictureSet& pictures, int64_t size) {
  for (int64_t n = 0; n < pictures.count(); ++n) {
    const Tensor& picture = pictures.images[size_t(n)];
    int64_t H = picture.size(0), W = picture.size(1);
    if (size == 0 && (H != W || H != pictures.images[0].size(0)))
      fail(Error::Kind::usage, "--data ", pictures.name, ": ", pictures.names[size_t(n)], " is ", H, " x ", W,
           ", and training needs squares of one size; give --size N to cut them out");
    if (size > std::min(H, W))
      fail(Error::Kind::data, "--data ", pictures.name, ": ", pictures.names[size_t(n)], " is ", H, " x ", W,
           ", too small to cut ", size, " x ", size, " out of it; give a smaller --size");
  }
  return size > 0 ? size : pictures.images[0].size(0);
}

Tensor middle_square(const Tensor& picture, int64_t side) {
  Tensor square = empty({side, side, picture.size(2)});
  copy_square(picture, (picture.size(0) - side) / 2, (picture.size(1) - side) / 2, side, false, square.data<float>());
  return square;
}

RestoreBatches::RestoreBatches(const PictureSet& pictures, int64_t side, int64_t batch, uint64_t seed, bool flip,
                               const resensemble::Degradation& degradation, int64_t first_index)
    : pictures_(pictures), side_(side), batch_(batch), seed_(seed), flip_(flip), degradation_(degradation),
      index_(first_index), order_(seed, pictures.count()) {}

RestoreBatch RestoreBatches::next() {
  int64_t C = pictures_.images[0].size(2), position = index_ * batch_;
  RestoreBatch made{empty({batch_, side_, side_, C}), {}};
  Generator crops = Generator{seed_}.fork(kCrop);
  for (int64_t n = 0; n < batch_; ++n) {
    const Tensor& picture = pictures_.images[size_t(order_.at(position + n))];
    Generator here = crops.fork(uint64_t(position + n));
    auto below = [&](uint64_t which, int64_t count) { return bounded(random_bits(here, which), count); };
    copy_square(picture, below(0, picture.size(0) - side_ + 1), below(1, picture.size(1) - side_ + 1), side_,
                flip_ && below(2, 2) == 1, made.clean.data<float>() + n * side_ * side_ * C);
  }
  made.damaged = degraded_batch(made.clean, degradation_, Generator{seed_}.fork(kDamage).seed, position);
  ++index_;
  return made;
}

}  // namespace mote::apps
