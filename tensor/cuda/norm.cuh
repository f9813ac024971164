// norm.cuh - what the kernels of GroupNorm share: the order of its sums, and the part of an image that a block holds.
// A block takes the groups of one image that are `span` channels wide into shared memory, and memory is read and
// written once. Where a group does not fit, sums, statistics and results are kernels of their own. Either way sums have the
// order of tensor/cpu/norm.cpp (NormOrder), whose places and chunks are work for threads here.
#pragma once
#include "tensor/cuda/pack.cuh"

namespace mote::MOTE_CUDA_NAMESPACE {

struct Norm {
  int64_t images, pixels, channels, groups, width, repeat, chunks, parts;   // width: channels of a group

  Norm(const Tensor& x, int64_t groups)
      : images(x.size(0)), pixels(x.size(1) * x.size(2)), channels(x.size(3)), groups(groups), width(channels / groups),
        repeat(NormOrder::repeat(channels)), chunks(packs(pixels, int(NormOrder::kRuns * repeat))),
        parts(chunks * repeat) {}

  /// Calls add(pixel) for the pixels of part `part`, place part % repeat of a run in chunk part / repeat.
  template <class Add>
  MOTE_DEVICE void for_pixels(int64_t part, Add&& add) const {
    int64_t chunk = quotient(part, repeat), first = chunk * NormOrder::kRuns * repeat;
    int64_t end = first + NormOrder::kRuns * repeat;
    if (end > pixels) end = pixels;
    MOTE_UNROLL(4)
    for (int64_t pixel = first + part - chunk * repeat; pixel < end; pixel += repeat) add(pixel);
  }

  /// The sum of a channel out of its parts, which lie `stride` elements apart.
  template <class C>
  MOTE_DEVICE double fold(hw::Ptr<const C> partial, int64_t stride) const {
    double total = 0;
    for (int64_t place = 0; place < repeat; ++place) {
      double sum = 0;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) sum += double(C(partial[(chunk * repeat + place) * stride]));
      total = place == 0 ? sum : total + sum;
    }
    return total;
  }
};

/// total [2][N][C] = the sums of a and of b.
template <class C>
struct NormFold {
  hw::Ptr<double> total;
  hw::Ptr<const C> a, b;
  Norm norm;
  MOTE_DEVICE void operator()(int64_t item) const {
    int64_t half = norm.images * norm.channels, at = item < half ? item : item - half;
    int64_t n = quotient(at, norm.channels), from = n * norm.parts * norm.channels + at - n * norm.channels;
    total[item] = norm.template fold<C>((item < half ? a : b) + from, norm.channels);
  }
};

/// What a channel needs for u = (x - mean) scale + shift.
template <class C>
struct Affine {
  C mean, scale, shift;
  MOTE_DEVICE C operator()(C x) const { return math::fma(x - mean, scale, shift); }
};

/// Shared memory of a block that holds whole groups.
struct Span {
  int64_t channels = 0;   // of the block; 0: a group does not fit
  size_t bytes = 0;

  /// tiles: how many tensors of elements of `element` bytes are held; compute: bytes of the compute type.
  Span(const Norm& norm, int tiles, int64_t element, int64_t compute) {
    auto need = [&](int64_t span) {
      return size_t(tiles * tile_bytes(norm.pixels * span, element) + 2 * (norm.parts + 8) * span * compute +
                    2 * span * int64_t(sizeof(double)) + 64);
    };
    // Memory comes in sectors of 32 bytes, best in two; more groups than that only leave room for fewer blocks.
    size_t most = std::min<size_t>(hw::shared_limit(), 96 * 1024), few = std::min<size_t>(most, 48 * 1024);
    int64_t span = norm.width;
    while (span * element < 64 && norm.channels % (2 * span) == 0 &&
           need(2 * span) <= (span * element < 32 ? most : few))
      span *= 2;
    if (need(span) > most) return;
    channels = span;
    bytes = need(span);
  }
  MOTE_HD static int64_t tile_bytes(int64_t elements, int64_t element) { return (elements * element + 15) / 16 * 16; }
};

/// The channels of an image that a block works on, and its shared memory: tiles of T, then doubles, then C.
template <class T>
struct Tile {
  static constexpr int V = kPack<T>;
  using C = compute_t<T>;
  const Norm& norm;
  int64_t span, image, first;   // first: channel
  bool aligned;

  MOTE_DEVICE Tile(const Norm& norm, int64_t span, bool aligned)
      : norm(norm), span(span), image(quotient(hw::block().x, quotient(norm.channels, span))),
        first((hw::block().x - image * quotient(norm.channels, span)) * span), aligned(aligned) {}

  MOTE_DEVICE hw::Ptr<T> tile(int which) const { return hw::dynamic_shared<T>(size_t(which * bytes())); }
  MOTE_DEVICE hw::Ptr<double> totals(int tiles) const { return hw::dynamic_shared<double>(size_t(tiles * bytes())); }
  MOTE_DEVICE hw::Ptr<C> numbers(int tiles) const {
    return hw::dynamic_shared<C>(size_t(tiles * bytes() + 2 * span * int64_t(sizeof(double))));
  }
  MOTE_DEVICE int64_t bytes() const { return Span::tile_bytes(norm.pixels * span, sizeof(T)); }
  /// Element of the whole tensor where the span begins in the first pixel.
  MOTE_DEVICE int64_t base() const { return image * norm.pixels * norm.channels + first; }

  MOTE_DEVICE void load(int which, hw::Ptr<const T> x) const {
    hw::Ptr<T> to = tile(which);
    each_pack([&](int64_t pixel, int64_t c) {
      T pack[V];
      load_pack(pack, x + (base() + pixel * norm.channels), c, span, aligned);
      store_pack(to + pixel * span, c, span, aligned, pack);
    });
  }
  /// Calls fn(pixel, c) for the packs of this thread.
  template <class Fn>
  MOTE_DEVICE void each_pack(Fn&& fn) const {
    int64_t per_pixel = (span + V - 1) / V, count = norm.pixels * per_pixel;
    for (int64_t item = hw::thread(); item < count; item += hw::threads()) {
      int64_t pixel = quotient(item, per_pixel);
      fn(pixel, (item - pixel * per_pixel) * V);
    }
  }
  /// a[part][c], b[part][c] = sums(part, c, a, b).
  template <class Sums>
  MOTE_DEVICE void each_part(hw::Ptr<C> a, hw::Ptr<C> b, Sums&& sums) const {
    for (int64_t item = hw::thread(); item < norm.parts * span; item += hw::threads()) {
      int64_t part = quotient(item, span);
      C sum, other;
      sums(part, item - part * span, sum, other);
      a[item] = sum;
      b[item] = other;
    }
  }
  MOTE_DEVICE void fold(hw::Ptr<double> total, hw::Ptr<const C> a, hw::Ptr<const C> b) const {
    for (int64_t item = hw::thread(); item < 2 * span; item += hw::threads())
      total[item] = norm.template fold<C>(item < span ? a + item : b + (item - span), span);
  }
};

}  // namespace mote::MOTE_CUDA_NAMESPACE
