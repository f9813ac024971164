// resample.cu - nearest up-sampling, average and maximum pooling, row lookup, time embedding.
#include "tensor/cuda/pack.cuh"

namespace mote::MOTE_CUDA_NAMESPACE {
namespace {

/// Packs of the channels of each pixel of a [N, h, w, C] tensor, the smaller of two; `large` is [N, h f, w f, C].
template <class T>
struct Pixels {
  static constexpr int V = kPack<T>;
  int64_t width, channels, per_pixel, factor;   // width: of the small one
  bool aligned;

  template <class... Tensors>
  Pixels(const Tensor& small, int64_t factor, const Tensors&... others)
      : width(small.size(2)), channels(small.size(3)), per_pixel(packs(channels, V)), factor(factor),
        aligned(channels % V == 0 && is_aligned(small, others...)) {}

  /// Element of `large` where pixel (u, v) of the window of the small tensor's pixel number `pixel` begins.
  MOTE_DEVICE int64_t window(int64_t pixel, int64_t u, int64_t v) const {
    int64_t row = quotient(pixel, width), column = pixel - row * width;   // row: n h + i
    return ((row * factor + u) * width * factor + column * factor + v) * channels;
  }
  /// Pixel number of the small tensor that pixel number `pixel` of the large one lies in.
  MOTE_DEVICE int64_t above(int64_t pixel) const {
    int64_t row = quotient(pixel, width * factor), column = pixel - row * width * factor;
    return quotient(row, factor) * width + quotient(column, factor);
  }
};

/// large[n, i, j] = scale small[n, i / factor, j / factor].
template <class T>
struct Spread {
  static constexpr int V = kPack<T>;
  hw::Ptr<T> large;
  hw::Ptr<const T> small;
  Pixels<T> pixels;
  compute_t<T> scale;
  MOTE_DEVICE void operator()(int64_t item) const {
    int64_t pixel = quotient(item, pixels.per_pixel), c = (item - pixel * pixels.per_pixel) * V;
    compute_t<T> pack[V];
    load_pack(pack, small + pixels.above(pixel) * pixels.channels, c, pixels.channels, pixels.aligned);
    for (int k = 0; k < V; ++k) pack[k] = scale * pack[k];
    store_pack(large + pixel * pixels.channels, c, pixels.channels, pixels.aligned, pack);
  }
};

/// small = scale times the sum of large over its window.
template <class T>
struct GatherWindows {
  static constexpr int V = kPack<T>;
  hw::Ptr<T> small;
  hw::Ptr<const T> large;
  Pixels<T> pixels;
  compute_t<T> scale;
  MOTE_DEVICE void operator()(int64_t item) const {
    int64_t pixel = quotient(item, pixels.per_pixel), c = (item - pixel * pixels.per_pixel) * V;
    compute_t<T> sum[V] = {}, next[V];
    for (int64_t u = 0; u < pixels.factor; ++u)
      for (int64_t v = 0; v < pixels.factor; ++v) {
        load_pack(next, large + pixels.window(pixel, u, v), c, pixels.channels, pixels.aligned);
        for (int k = 0; k < V; ++k) sum[k] = sum[k] + next[k];
      }
    for (int k = 0; k < V; ++k) sum[k] = scale * sum[k];
    store_pack(small + pixel * pixels.channels, c, pixels.channels, pixels.aligned, sum);
  }
};

template <class T>
int64_t items_of(const Tensor& x) { return x.numel() ? x.numel() / x.size(3) * packs(x.size(3), kPack<T>) : 0; }

void spread(const char* op, Tensor& large, const Tensor& small, int64_t factor, double scale) {
  for_floating(op, large.dtype(), [&](auto zero) {
    using T = decltype(zero);
    for_each(op, items_of<T>(large),
             Spread<T>{hw::ptr<T>(large), hw::ptr<T>(small), Pixels<T>(small, factor, large), compute_t<T>(scale)});
  });
}
void gather_windows(const char* op, Tensor& small, const Tensor& large, int64_t factor, double scale) {
  for_floating(op, small.dtype(), [&](auto zero) {
    using T = decltype(zero);
    for_each(op, items_of<T>(small),
             GatherWindows<T>{hw::ptr<T>(small), hw::ptr<T>(large), Pixels<T>(small, factor, large),
                              compute_t<T>(scale)});
  });
}

}  // namespace

void upsample_nearest(Tensor& y, const Tensor& x, int64_t factor) { spread("upsample_nearest", y, x, factor, 1); }
void upsample_nearest_backward(Tensor& dx, const Tensor& dy, int64_t factor) {
  gather_windows("upsample_nearest_backward", dx, dy, factor, 1);
}
void avg_pool(Tensor& y, const Tensor& x, int64_t factor) {
  gather_windows("avg_pool", y, x, factor, 1 / double(factor * factor));
}
void avg_pool_backward(Tensor& dx, const Tensor& dy, int64_t factor) {
  spread("avg_pool_backward", dx, dy, factor, 1 / double(factor * factor));
}

// ---- Maximum pooling -----------------------------------------------------------------------------------------------

namespace {

/// The largest of each window; NaN wins.
template <class T>
MOTE_DEVICE void max_of_window(compute_t<T> (&best)[kPack<T>], hw::Ptr<const T> x, const Pixels<T>& pixels,
                               int64_t pixel, int64_t c) {
  compute_t<T> next[kPack<T>];
  load_pack(best, x + pixels.window(pixel, 0, 0), c, pixels.channels, pixels.aligned);
  for (int64_t u = 0; u < pixels.factor; ++u)
    for (int64_t v = 0; v < pixels.factor; ++v) {
      load_pack(next, x + pixels.window(pixel, u, v), c, pixels.channels, pixels.aligned);
      for (int k = 0; k < kPack<T>; ++k) best[k] = math::max(best[k], next[k]);
    }
}

template <class T>
struct MaxPool {
  static constexpr int V = kPack<T>;
  hw::Ptr<T> y;
  hw::Ptr<const T> x;
  Pixels<T> pixels;
  MOTE_DEVICE void operator()(int64_t item) const {
    int64_t pixel = quotient(item, pixels.per_pixel), c = (item - pixel * pixels.per_pixel) * V;
    compute_t<T> best[V];
    max_of_window<T>(best, x, pixels, pixel, c);
    store_pack(y + pixel * pixels.channels, c, pixels.channels, pixels.aligned, best);
  }
};

template <class T>
struct MaxPoolBackward {
  static constexpr int V = kPack<T>;
  hw::Ptr<T> dx;
  hw::Ptr<const T> dy, x;
  Pixels<T> pixels;
  MOTE_DEVICE void operator()(int64_t item) const {
    int64_t pixel = quotient(item, pixels.per_pixel), c = (item - pixel * pixels.per_pixel) * V;
    compute_t<T> best[V], value[V];
    T left[V], given[V];   // `left`: what no element has been given yet, copied and never rounded
    max_of_window<T>(best, x, pixels, pixel, c);
    load_pack(left, dy + pixel * pixels.channels, c, pixels.channels, pixels.aligned);
    for (int64_t u = 0; u < pixels.factor; ++u)
      for (int64_t v = 0; v < pixels.factor; ++v) {
        int64_t at = pixels.window(pixel, u, v);
        load_pack(value, x + at, c, pixels.channels, pixels.aligned);
        for (int k = 0; k < V; ++k) {
          bool is_best = value[k] == best[k] || (value[k] != value[k] && best[k] != best[k]);
          given[k] = is_best ? left[k] : T(0.0f);
          left[k] = is_best ? T(0.0f) : left[k];
        }
        store_pack(dx + at, c, pixels.channels, pixels.aligned, given);
      }
  }
};

}  // namespace

void max_pool(Tensor& y, const Tensor& x, int64_t factor) {
  for_floating("max_pool", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    for_each("max_pool", items_of<T>(y), MaxPool<T>{hw::ptr<T>(y), hw::ptr<T>(x), Pixels<T>(y, factor, x)});
  });
}

void max_pool_backward(Tensor& dx, const Tensor& dy, const Tensor& x, int64_t factor) {
  for_floating("max_pool_backward", dx.dtype(), [&](auto zero) {
    using T = decltype(zero);
    for_each("max_pool_backward", items_of<T>(dy),
             MaxPoolBackward<T>{hw::ptr<T>(dx), hw::ptr<T>(dy), hw::ptr<T>(x), Pixels<T>(dy, factor, dx, x)});
  });
}

// ---- Lookup --------------------------------------------------------------------------------------------------------

namespace {

/// Elements of an unsigned type of their size.
template <class Unit>
struct GatherRows {
  static constexpr int V = kPack<Unit>;
  hw::Ptr<Unit> y;
  hw::Ptr<const Unit> table;
  hw::Ptr<const int64_t> ids;
  int64_t width, per_row;
  bool aligned;
  MOTE_DEVICE void operator()(int64_t item) const {
    int64_t row = quotient(item, per_row), column = (item - row * per_row) * V;
    Unit pack[V];
    load_pack(pack, table + ids[row] * width, column, width, aligned);
    store_pack(y + row * width, column, width, aligned, pack);
  }
};

/// A thread an element of the table: it reads all ids and adds the rows that are its own, in the order of the ids.
template <class T>
struct GatherRowsBackward {
  hw::Ptr<T> dtable;
  hw::Ptr<const int64_t> ids;
  hw::Ptr<const T> dy;
  int64_t width, count;
  MOTE_DEVICE void operator()(int64_t item) const {
    int64_t row = quotient(item, width), column = item - row * width;
    compute_t<T> sum = 0;
    for (int64_t i = 0; i < count; ++i)
      if (ids[i] == row) sum = sum + compute_t<T>(T(dy[i * width + column]));
    dtable[item] = T(sum);
  }
};

}  // namespace

void gather_rows(Tensor& y, const Tensor& table, const Tensor& ids) {
  for_element_size(y.dtype(), [&](auto zero) {
    using Unit = decltype(zero);
    int64_t width = table.size(1), per_row = packs(width, kPack<Unit>);
    bool aligned = width % kPack<Unit> == 0 && is_aligned(y, table);
    for_each("gather_rows", ids.numel() * per_row,
             GatherRows<Unit>{units<Unit>(y), units<Unit>(table), hw::ptr<int64_t>(ids), width, per_row, aligned});
  });
}

void gather_rows_backward(Tensor& dtable, const Tensor& ids, const Tensor& dy) {
  for_floating("gather_rows_backward", dtable.dtype(), [&](auto zero) {
    using T = decltype(zero);
    for_each("gather_rows_backward", dtable.numel(),
             GatherRowsBackward<T>{hw::ptr<T>(dtable), hw::ptr<int64_t>(ids), hw::ptr<T>(dy), dtable.size(1),
                                   ids.numel()});
  });
}

namespace {

template <class T>
struct TimestepEmbedding {
  hw::Ptr<T> y;
  hw::Ptr<const float> t;
  int64_t half, width;
  TimeEmbedding kind;
  MOTE_DEVICE void operator()(int64_t item) const {
    int64_t n = quotient(item, half), i = item - n * half;
    int64_t sines = kind.cos_first ? half : 0, cosines = half - sines;
    double angle = functor::time_angle(t[n], i, half, kind.shift);
    y[n * width + sines + i] = T(compute_t<T>(math::sin(angle)));
    y[n * width + cosines + i] = T(compute_t<T>(math::cos(angle)));
  }
};

}  // namespace

void timestep_embedding(Tensor& y, const Tensor& t, const TimeEmbedding& kind) {
  for_floating("timestep_embedding", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    int64_t width = y.size(1), half = width / 2;
    for_each("timestep_embedding", y.size(0) * half,
             TimestepEmbedding<T>{hw::ptr<T>(y), hw::ptr<float>(t), half, width, kind});
  });
}

}  // namespace mote::MOTE_CUDA_NAMESPACE
