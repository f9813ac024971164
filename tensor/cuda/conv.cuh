// conv.cuh - convolutions over [N, H, W, C] as products whose operand is read out of the images, patch by patch
// (implicit GEMM): no patch matrix is ever stored.
//   forward   y [pixels, K]        = patches of x [pixels, taps C]    times weights [taps C, K]
//   dx        dx [pixels, C]       = patches of dy [pixels, taps K]   times weights turned over [taps K, C]
//   dw        dw [taps C, K]       = patches of x, transposed         times dy [pixels, K]
// With a stride s, the pixels of dx fall into s x s classes that see different taps; each class is a product of its
// own. dw has few outputs and long sums: pixels are cut into splits with sums of their own, folded in order by a
// second kernel, so bits do not depend on what ran when.
#pragma once
#include "tensor/cuda/product.cuh"

namespace mote::MOTE_CUDA_NAMESPACE {

/// The taps of a kernel and the channels under each, as one axis: (i, j, c) with c fastest.
struct Taps {
  int rows, columns, channels;

  struct At {
    int i, j, c;
  };
  MOTE_DEVICE At at(int64_t index) const {
    int tap = int(index / channels);
    return {tap / columns, tap % columns, int(index % channels)};
  }
  MOTE_DEVICE void advance(At& at, int count) const {
    at.c += count;
    while (at.c >= channels) {
      at.c -= channels;
      if (++at.j == columns) at.j = 0, ++at.i;
    }
  }
};

/// Lines are outputs, places (tap, channel): output (y, x) of an image sees, at tap (i, j), input (y stride + origin_y
/// + tap_step i, x stride + origin_x + tap_step j), which is zero outside the image.
template <class T, Fast kFast_>
struct Patches {
  using Element = T;
  static constexpr Fast kFast = kFast_;
  hw::Ptr<const T> base;
  bool aligned;
  int images, height, width;      // of the input
  int rows, columns;              // outputs of an image
  int stride, origin_y, origin_x;
  int tap_step;
  Taps taps;
  int step_image, step_y, step_x;   // kDepth<T> outputs on

  struct Line {
    int64_t offset;      // of channel 0 of the input at tap (0, 0)
    int image, y, x;     // that input
  };
  using Place = Taps::At;
  MOTE_DEVICE void begin(int64_t) {}
  MOTE_DEVICE int64_t offset_of(const Line& line) const {
    return (int64_t(line.image) * height + line.y) * width * taps.channels + int64_t(line.x) * taps.channels;
  }
  MOTE_DEVICE Line line(int64_t index) const {
    int per_image = rows * columns, image = int(index / per_image), rest = int(index % per_image);
    Line line{0, image, rest / columns * stride + origin_y, rest % columns * stride + origin_x};
    line.offset = offset_of(line);
    return line;
  }
  MOTE_DEVICE void advance_line(Line& line) const {
    line.x += step_x * stride;
    if (line.x >= columns * stride + origin_x) line.x -= columns * stride, line.y += stride;
    line.y += step_y * stride;
    if (line.y >= rows * stride + origin_y) line.y -= rows * stride, ++line.image;
    line.image += step_image;
    line.offset = offset_of(line);
  }
  MOTE_DEVICE Place place(int64_t index) const { return taps.at(index); }
  MOTE_DEVICE void advance_place(Place& place, int count) const { taps.advance(place, count); }
  MOTE_DEVICE int64_t offset(const Line& line, const Place& place) const {
    int dy = tap_step * place.i, dx = tap_step * place.j;
    bool inside = unsigned(line.y + dy) < unsigned(height) && unsigned(line.x + dx) < unsigned(width) &&
                  place.i < taps.rows && line.image < images;
    return inside ? line.offset + int64_t(dy * width + dx) * taps.channels + place.c : -1;
  }
};

/// Weights [P, Q, C, K] for dx: lines are c, places (tap, k). Tap (i, j) of the product is (first_p + i step, first_q
/// + j step).
template <class T>
struct TurnedWeights {
  using Element = T;
  static constexpr Fast kFast = Fast::k;
  hw::Ptr<const T> base;
  bool aligned;
  int columns, channels;   // Q, C
  int first_p, first_q, step;
  Taps taps;               // channels of these are K

  using Line = int64_t;
  using Place = Taps::At;
  MOTE_DEVICE void begin(int64_t) {}
  MOTE_DEVICE Line line(int64_t index) const { return index; }
  MOTE_DEVICE void advance_line(Line&) const {}
  MOTE_DEVICE Place place(int64_t index) const { return taps.at(index); }
  MOTE_DEVICE void advance_place(Place& place, int count) const { taps.advance(place, count); }
  MOTE_DEVICE int64_t offset(Line line, const Place& place) const {
    int tap = (first_p + place.i * step) * columns + first_q + place.j * step;
    bool inside = line < channels && place.i < taps.rows;
    return inside ? (int64_t(tap) * channels + line) * taps.channels + place.c : -1;
  }
};

/// Outputs of an image class: (y, x) of rows x columns goes to (y0 + y step, x0 + x step) of images [height, width,
/// channels], and what the output starts from is added.
template <class T>
struct Pixels {
  hw::Ptr<T> y;
  hw::Ptr<const T> bias, shift, residual;   // [K], [N, K], like y
  bool aligned;
  int rows, columns, height, width, channels;
  int y0, x0, step;

  struct Line {
    int64_t offset, shift;
  };
  MOTE_DEVICE void begin(int64_t) {}
  MOTE_DEVICE Line line(int64_t index) const {
    int per_image = rows * columns, image = int(index / per_image), rest = int(index % per_image);
    int row = y0 + rest / columns * step, column = x0 + rest % columns * step;
    return {((int64_t(image) * height + row) * width + column) * channels, int64_t(image) * channels};
  }
  template <class C, int kCount>
  MOTE_DEVICE void put(const Line& line, int64_t column, C (&sums)[kCount]) const {
    auto add = [&](hw::Ptr<const T> from) {
      if (aligned) {
        auto vector = hw::load<kCount>(from);
        MOTE_UNROLL
        for (int i = 0; i < kCount; ++i) sums[i] += C(vector[i]);
      } else {
        MOTE_UNROLL
        for (int i = 0; i < kCount; ++i)
          if (column + i < channels) sums[i] += C(from[i]);
      }
    };
    if (bias) add(bias + column);
    if (shift) add(shift + (line.shift + column));
    if (residual) add(residual + (line.offset + column));
    store_sums<T>(y + (line.offset + column), sums, channels - column, aligned);
  }
};

/// y[i] = sum over splits, in order, of partial[split][i].
template <class T>
struct FoldSplits {
  static constexpr int kThreads = 256;
  hw::Ptr<T> y;
  hw::Ptr<const compute_t<T>> partial;
  int64_t count;
  int splits;

  MOTE_DEVICE void operator()() const {
    for (int64_t i = hw::global_thread(); i < count; i += hw::global_threads()) {
      compute_t<T> sum = 0;
      MOTE_UNROLL_BY(8)   // the loads go out together
      for (int split = 0; split < splits; ++split) sum += partial[split * count + i];
      y[i] = T(sum);
    }
  }
};

}  // namespace mote::MOTE_CUDA_NAMESPACE
