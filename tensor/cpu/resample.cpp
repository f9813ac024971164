// Nearest up-sampling, average and maximum pooling, row lookup, time embedding.
#include "tensor/cpu/parallel.h"
#include "tensor/kernels.h"

namespace mote::cpu {

// ---- Resampling ----------------------------------------------------------------------------------------------------

namespace {

/// large[n, i, j] = scale small[n, i / factor, j / factor].
template <class T>
void spread(Tensor& large, const Tensor& small, int64_t factor, double scale) {
  int64_t h = small.size(1), w = small.size(2), channels = small.size(3), width = w * factor * channels;
  using C = compute_t<T>;
  parallel_for(small.size(0) * h, kGrain / std::max<int64_t>(width * factor, 1), [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const T* from = small.data<T>() + row * w * channels;
      T* to = large.data<T>() + row * factor * width;   // row n h + i becomes `factor` equal rows from here on
      for (int64_t j = 0; j < w * factor; ++j) {
        const T* pixel = from + j / factor * channels;
#pragma GCC ivdep
        for (int64_t c = 0; c < channels; ++c) to[j * channels + c] = T(C(scale) * C(pixel[c]));
      }
      for (int64_t u = 1; u < factor; ++u) std::copy_n(to, width, to + u * width);
    }
  });
}

/// small = scale times the sum of large over its window. Factor is int64_t or, for loops that vectorise, a constant.
template <class T, class Factor>
void gather_windows_by(Tensor& small, const Tensor& large, Factor factor, double scale) {
  int64_t h = small.size(1), w = small.size(2), channels = small.size(3);
  using C = compute_t<T>;
  parallel_for(small.size(0) * h, kGrain / std::max<int64_t>(w * factor * factor * channels, 1), [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      const T* from = large.data<T>() + row * factor * factor * w * channels;   // row n h + i starts its windows here
      T* to = small.data<T>() + row * w * channels;
      for (int64_t j = 0; j < w; ++j)
#pragma GCC ivdep
        for (int64_t c = 0; c < channels; ++c) {
          C sum = C(0);
          for (int64_t u = 0; u < factor; ++u)
            for (int64_t v = 0; v < factor; ++v) sum += C(from[((u * w + j) * factor + v) * channels + c]);
          to[j * channels + c] = T(C(scale) * sum);
        }
    }
  });
}

template <class T>
void gather_windows(Tensor& small, const Tensor& large, int64_t factor, double scale) {
  if (factor == 2) gather_windows_by<T>(small, large, std::integral_constant<int64_t, 2>{}, scale);
  else gather_windows_by<T>(small, large, factor, scale);
}

}  // namespace

void upsample_nearest(Tensor& y, const Tensor& x, int64_t factor) {
  for_floating("upsample_nearest", y.dtype(), [&](auto zero) { spread<decltype(zero)>(y, x, factor, 1); });
}
void upsample_nearest_backward(Tensor& dx, const Tensor& dy, int64_t factor) {
  for_floating("upsample_nearest_backward", dx.dtype(), [&](auto zero) { gather_windows<decltype(zero)>(dx, dy, factor, 1); });
}
void avg_pool(Tensor& y, const Tensor& x, int64_t factor) {
  for_floating("avg_pool", y.dtype(), [&](auto zero) { gather_windows<decltype(zero)>(y, x, factor, 1 / double(factor * factor)); });
}
void avg_pool_backward(Tensor& dx, const Tensor& dy, int64_t factor) {
  for_floating("avg_pool_backward", dx.dtype(), [&](auto zero) { spread<decltype(zero)>(dx, dy, factor, 1 / double(factor * factor)); });
}

namespace {

/// Calls fn(window, at) for each window, all channels at once: `window` is where it begins in the small tensor, `at` in
/// the large one.
template <class Fn>
void for_windows(const Tensor& small, int64_t factor, Fn&& fn) {
  int64_t h = small.size(1), w = small.size(2), channels = small.size(3), width = w * channels;
  parallel_for(small.size(0) * h, kGrain / std::max<int64_t>(width * factor * factor, 1), [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
      for (int64_t j = 0; j < w; ++j)
        fn(row * width + j * channels, row * factor * factor * width + j * factor * channels);
  });
}

/// Factor is int64_t or, for loops that vectorise, a constant; so in max_pool_backward_by.
template <class T, class Factor>
void max_pool_by(Tensor& y, const Tensor& x, Factor factor) {
  int64_t channels = y.size(3), below = y.size(2) * factor * channels;   // from a pixel of x to the one under it
  using C = compute_t<T>;
  for_windows(y, factor, [&](int64_t window, int64_t at) {
    const T* in = x.data<T>() + at;
    T* out = y.data<T>() + window;
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) {
      C best = C(in[c]);
      for (int64_t u = 0; u < factor; ++u)
        for (int64_t v = 0; v < factor; ++v) best = math::max(best, C(in[u * below + v * channels + c]));
      out[c] = T(best);
    }
  });
}

template <class T, class Factor>
void max_pool_backward_by(Tensor& dx, const Tensor& dy, const Tensor& x, Factor factor) {
  int64_t channels = dy.size(3), below = dy.size(2) * factor * channels;
  using C = compute_t<T>;
  for_windows(dy, factor, [&](int64_t window, int64_t at) {
    const T *in = x.data<T>() + at, *dout = dy.data<T>() + window;
    T* out = dx.data<T>() + at;
#pragma GCC ivdep
    for (int64_t c = 0; c < channels; ++c) {
      C best = C(in[c]);
      T left = dout[c], none{};   // `left`: what no element has been given yet, copied and never rounded
      for (int64_t u = 0; u < factor; ++u)
        for (int64_t v = 0; v < factor; ++v) best = math::max(best, C(in[u * below + v * channels + c]));
      for (int64_t u = 0; u < factor; ++u)
        for (int64_t v = 0; v < factor; ++v) {
          C value = C(in[u * below + v * channels + c]);
          bool is_best = value == best || (value != value && best != best);
          out[u * below + v * channels + c] = is_best ? left : none;
          left = is_best ? none : left;
        }
    }
  });
}

}  // namespace

void max_pool(Tensor& y, const Tensor& x, int64_t factor) {
  for_floating("max_pool", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if (factor == 2) max_pool_by<T>(y, x, std::integral_constant<int64_t, 2>{});
    else max_pool_by<T>(y, x, factor);
  });
}

void max_pool_backward(Tensor& dx, const Tensor& dy, const Tensor& x, int64_t factor) {
  for_floating("max_pool_backward", dx.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if (factor == 2) max_pool_backward_by<T>(dx, dy, x, std::integral_constant<int64_t, 2>{});
    else max_pool_backward_by<T>(dx, dy, x, factor);
  });
}

// ---- Lookup --------------------------------------------------------------------------------------------------------

void gather_rows(Tensor& y, const Tensor& table, const Tensor& ids) {
  int64_t width = table.size(1);
  const int64_t* id = ids.data<int64_t>();
  for_floating("gather_rows", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    parallel_for(ids.numel(), kGrain / std::max<int64_t>(width, 1), [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i)
        std::copy_n(table.data<T>() + id[i] * width, width, y.data<T>() + i * width);
    });
  });
}

void gather_rows_backward(Tensor& dtable, const Tensor& ids, const Tensor& dy) {
  int64_t rows = dtable.size(0), width = dtable.size(1);
  const int64_t* id = ids.data<int64_t>();
  for_floating("gather_rows_backward", dtable.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    // Columns are divided over threads, so the order in which rows are added is that of the ids.
    std::vector<C> sums(size_t(rows * width), C(0));
    parallel_for(width, kGrain / std::max<int64_t>(ids.numel() + rows, 1), [&](int64_t first, int64_t last) {
      for (int64_t i = 0; i < ids.numel(); ++i)
        for (int64_t d = first; d < last; ++d) sums[size_t(id[i] * width + d)] += C(dy.data<T>()[i * width + d]);
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t d = first; d < last; ++d) dtable.data<T>()[row * width + d] = T(sums[size_t(row * width + d)]);
    });
  });
}

void timestep_embedding(Tensor& y, const Tensor& t, const TimeEmbedding& kind) {
  int64_t width = y.size(1), half = width / 2;
  int64_t sines = kind.cos_first ? half : 0, cosines = half - sines;
  for_floating("timestep_embedding", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    for (int64_t n = 0; n < y.size(0); ++n)
      for (int64_t i = 0; i < half; ++i) {
        double angle = functor::time_angle(t.data<float>()[n], i, half, kind.shift);
        y.data<T>()[n * width + sines + i] = T(compute_t<T>(math::sin(angle)));
        y.data<T>()[n * width + cosines + i] = T(compute_t<T>(math::cos(angle)));
      }
  });
}

}  // namespace mote::cpu
