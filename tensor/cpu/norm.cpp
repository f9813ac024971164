// GroupNorm over [N, H, W, C], optionally followed by SiLU; forward and backward.
// An image is walked in runs of whole pixels, so that the inner loops are long even where channels are few. What
// belongs to a channel is laid out over the places of a run, and every place has sums of its own: in C over kRuns runs,
// then in double. Places are folded into channels and channels into groups at the end. One image of a UNet fits in L2,
// so the second walk does not come from memory.
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/scratch.h"
#include "tensor/kernels.h"
#include "tensor/walk.h"

namespace mote::cpu {
namespace {

constexpr int64_t kRuns = NormOrder::kRuns;

/// The channels of an image that a thread works on: `count` of `channels`, `repeat` pixels a run.
struct Walk {
  int64_t pixels, channels, count, repeat;

  int64_t places() const { return repeat * count; }

  /// Calls fn(at, place, length) for each piece of the runs of pixels first..last-1 that lies together in memory:
  /// `length` elements from offset `at`, which belong to the places from `place` on. A run has one piece if the thread
  /// works on all channels; what a place gets, and in which order, is the same if it does not.
  template <class Fn>
  void runs(int64_t first, int64_t last, Fn&& fn) const {
    for (int64_t pixel = first; pixel < last; pixel += repeat) {
      int64_t rows = std::min(repeat, last - pixel);
      if (count == channels) {
        fn(pixel * channels, int64_t(0), rows * count);
      } else {
        for (int64_t row = 0; row < rows; ++row) fn((pixel + row) * channels, row * count, count);
      }
    }
  }

  /// Repeats the numbers of the first `count` places over all places.
  template <class C>
  void repeat_over_run(C* values) const {
    for (int64_t row = 1; row < repeat; ++row) std::copy_n(values, count, values + row * count);
  }

  /// total_a[c], total_b[c] = two sums a channel over all pixels; add(at, place, length) adds a piece to a and b.
  template <class C, class Add>
  void sum_both(double* total_a, double* total_b, C* a, C* b, Add&& add) const {
    std::fill(total_a, total_a + places(), 0.0);
    std::fill(total_b, total_b + places(), 0.0);
    for (int64_t first = 0; first < pixels; first += kRuns * repeat) {
      std::fill(a, a + places(), C(0));
      std::fill(b, b + places(), C(0));
      runs(first, std::min(pixels, first + kRuns * repeat), add);
      for (int64_t place = 0; place < places(); ++place) {
        total_a[place] += double(a[place]);
        total_b[place] += double(b[place]);
      }
    }
    for (int64_t row = 1; row < repeat; ++row) {
      for (int64_t c = 0; c < count; ++c) {
        total_a[c] += total_a[row * count + c];
        total_b[c] += total_b[row * count + c];
      }
    }
  }
};

/// Splits images, or with few images also groups, over threads: fn(image, first group, last group). Sums of a group
/// never leave its range, so the split does not change a bit.
template <class Fn>
void for_images(int64_t images, int64_t groups, int64_t elements, Fn&& fn) {
  int64_t parts = images >= omp_get_max_threads() ? 1 : std::min<int64_t>(groups, omp_get_max_threads());
  parallel_for(images * parts, kGrain * parts / std::max<int64_t>(elements, 1), [&](int64_t first, int64_t last) {
    for (int64_t item = first; item < last; ++item) {
      int64_t part = item % parts;
      fn(item / parts, groups * part / parts, groups * (part + 1) / parts);
    }
  });
}

/// Where the results of a piece are computed: in place, or in `buffer` if they are stored as another type. Rounding to
/// bf16 in the loop that computes would make it work on two vectors of C at once; a loop of its own is faster.
template <class C, class T>
C* computed_in(T* to, C* buffer) {
  if constexpr (std::is_same_v<T, C>) return to;
  else return buffer;
}
template <class C, class T>
void store(T* to, const C* from, int64_t length) {
  if constexpr (!std::is_same_v<T, C>) {
#pragma GCC ivdep
    for (int64_t i = 0; i < length; ++i) to[i] = T(from[i]);
  }
}

}  // namespace

void group_norm(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x, const Tensor& gamma, const Tensor& beta,
                int64_t groups, double eps, bool silu) {
  int64_t images = x.size(0), pixels = x.size(1) * x.size(2), channels = x.size(3), width = channels / groups;
  int64_t repeat = NormOrder::repeat(channels);
  for_floating("group_norm", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    ThreadScratch<C> scratch(6 * repeat * channels);
    ThreadScratch<double> totals(2 * repeat * channels);
    for_images(images, groups, pixels * channels, [&](int64_t n, int64_t g0, int64_t g1) {
      int64_t c0 = g0 * width, count = (g1 - g0) * width;
      Walk walk{pixels, channels, count, repeat};
      const T* in = x.data<T>() + n * pixels * channels + c0;
      T* out = y.data<T>() + n * pixels * channels + c0;

      // Deviations from the first pixel: a large common offset costs no digits.
      int64_t places = walk.places();
      C *pivot = scratch.mine(), *sum = pivot + places, *square = sum + places, *middle = square + places,
        *scale = middle + places, *shift = scale + places;
      double *total = totals.mine(), *total_square = total + places;
      for (int64_t c = 0; c < count; ++c) pivot[c] = pixels ? C(in[c]) : C(0);
      walk.repeat_over_run(pivot);
      walk.sum_both(total, total_square, sum, square, [=](int64_t at, int64_t place, int64_t length) {
        const T* row = in + at;
        const C* from = pivot + place;
        C *s = sum + place, *q = square + place;
#pragma GCC ivdep
        for (int64_t i = 0; i < length; ++i) {
          C deviation = C(row[i]) - from[i];
          s[i] += deviation;
          q[i] = math::fma(deviation, deviation, q[i]);
        }
      });
      // Channel means and squares about them, folded into the group's.
      double share = 1 / double(pixels);   // infinite without pixels: the mean of nothing is NaN
      for (int64_t g = g0; g < g1; ++g) {
        int64_t begin = (g - g0) * width;
        double group_mean = 0, about = 0;
        for (int64_t c = begin; c < begin + width; ++c) group_mean += double(pivot[c]) + total[c] * share;
        group_mean /= double(width);
        for (int64_t c = begin; c < begin + width; ++c) {
          double own = total[c] * share, apart = double(pivot[c]) + own - group_mean;
          about += total_square[c] - total[c] * own + double(pixels) * apart * apart;
        }
        double variance = about / double(pixels * width);
        double group_rstd = 1 / std::sqrt((variance < 0 ? 0 : variance) + eps);
        mean.data<C>()[n * groups + g] = C(group_mean);
        rstd.data<C>()[n * groups + g] = C(group_rstd);
        for (int64_t c = begin; c < begin + width; ++c) {
          middle[c] = C(group_mean);
          scale[c] = C(gamma.data<T>()[c0 + c]) * C(group_rstd);
          shift[c] = C(beta.data<T>()[c0 + c]);
        }
      }
      for (C* values : {middle, scale, shift}) walk.repeat_over_run(values);
      C* buffer = sum;
      walk.runs(0, pixels, [=](int64_t at, int64_t place, int64_t length) {
        const T* row = in + at;
        C* to = computed_in(out + at, buffer);
        const C *m = middle + place, *a = scale + place, *b = shift + place;
        if (silu) {
#pragma GCC ivdep
          for (int64_t i = 0; i < length; ++i) {
            C u = math::fma(C(row[i]) - m[i], a[i], b[i]);
            to[i] = u * math::sigmoid(u);
          }
        } else {
#pragma GCC ivdep
          for (int64_t i = 0; i < length; ++i) to[i] = math::fma(C(row[i]) - m[i], a[i], b[i]);
        }
        store(out + at, to, length);
      });
    });
  });
}

void group_norm_backward(Tensor& dx, Tensor& dgamma, Tensor& dbeta, const Tensor& dy, const Tensor& x,
                         const Tensor& mean, const Tensor& rstd, const Tensor& gamma, const Tensor& beta,
                         int64_t groups, bool silu) {
  // With z = (x - mean) rstd and u = gamma z + beta:  du = dy act'(u),  dgamma = sum du z,  dbeta = sum du,
  // dx = rstd (gamma du - m1 - z m2), m1 and m2 the group means of gamma du and gamma du z.
  int64_t images = x.size(0), pixels = x.size(1) * x.size(2), channels = x.size(3), width = channels / groups;
  int64_t repeat = NormOrder::repeat(channels);
  for_floating("group_norm_backward", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    // du is needed twice. In the compute type it waits in dx; rounded to bf16 it would lose digits.
    bool waits_in_dx = std::is_same_v<T, C> && dx.defined();
    ThreadScratch<C> waiting(silu && !waits_in_dx ? pixels * channels : 0);
    Scratch<double> sum_du_(images * channels), sum_duz_(images * channels);   // per image and channel
    ThreadScratch<C> scratch(7 * repeat * channels);
    ThreadScratch<double> totals(2 * repeat * channels);
    for_images(images, groups, pixels * channels, [&](int64_t n, int64_t g0, int64_t g1) {
      int64_t c0 = g0 * width, count = (g1 - g0) * width;
      Walk walk{pixels, channels, count, repeat};
      const T* in = x.data<T>() + n * pixels * channels + c0;
      const T* dout = dy.data<T>() + n * pixels * channels + c0;
      T* out = dx.defined() ? dx.data<T>() + n * pixels * channels + c0 : nullptr;
      C* kept = waiting.mine();
      if constexpr (std::is_same_v<T, C>) kept = out ? out : kept;

      int64_t places = walk.places();
      C *middle = scratch.mine(), *scale = middle + places, *shift = scale + places, *sum_du = shift + places,
        *sum_dud = sum_du + places, *tilt = sum_dud + places, *offset = tilt + places;
      double *total_du = totals.mine(), *total_dud = total_du + places;
      const C *mu = mean.data<C>() + n * groups, *rs = rstd.data<C>() + n * groups;
      for (int64_t g = g0; g < g1; ++g)
        for (int64_t c = (g - g0) * width; c < (g - g0 + 1) * width; ++c) {
          middle[c] = mu[g];
          scale[c] = C(gamma.data<T>()[c0 + c]) * rs[g];
          shift[c] = C(beta.data<T>()[c0 + c]);
        }
      for (C* values : {middle, scale, shift}) walk.repeat_over_run(values);
      walk.sum_both(total_du, total_dud, sum_du, sum_dud, [=](int64_t at, int64_t place, int64_t length) {
        const T *row = in + at, *drow = dout + at;
        const C *m = middle + place, *a = scale + place, *b = shift + place;
        C *s = sum_du + place, *q = sum_dud + place;
        if (silu) {
          C* keep = kept + at;
#pragma GCC ivdep
          for (int64_t i = 0; i < length; ++i) {
            C deviation = C(row[i]) - m[i];
            C du = C(drow[i]) * math::silu_slope(math::fma(deviation, a[i], b[i]));
            keep[i] = du;
            s[i] += du;
            q[i] = math::fma(du, deviation, q[i]);
          }
        } else {
#pragma GCC ivdep
          for (int64_t i = 0; i < length; ++i) {
            C du = C(drow[i]);
            s[i] += du;
            q[i] = math::fma(du, C(row[i]) - m[i], q[i]);
          }
        }
      });
      for (int64_t g = g0; g < g1; ++g) {
        int64_t begin = (g - g0) * width;
        double first = 0, second = 0;
        for (int64_t c = begin; c < begin + width; ++c) {
          double own = pixels ? double(rs[g]) * total_dud[c] : 0, weight = double(gamma.data<T>()[c0 + c]);
          sum_du_.data()[n * channels + c0 + c] = total_du[c];
          sum_duz_.data()[n * channels + c0 + c] = own;
          first += weight * total_du[c];
          second += weight * own;
        }
        double share = double(rs[g]) / double(pixels * width);
        for (int64_t c = begin; c < begin + width; ++c) {   // dx = scale du + (x - mean) tilt + offset
          tilt[c] = C(-share * second * double(rs[g]));
          offset[c] = C(-share * first);
        }
      }
      if (!out) return;
      for (C* values : {tilt, offset}) walk.repeat_over_run(values);
      auto walk_back = [&](const auto* du) {
        walk.runs(0, pixels, [=](int64_t at, int64_t place, int64_t length) {
          const T* row = in + at;
          const auto* drow = du + at;
          T* to = out + at;
          const C *m = middle + place, *a = scale + place, *t = tilt + place, *o = offset + place;
#pragma GCC ivdep
          for (int64_t i = 0; i < length; ++i)
            to[i] = T(math::fma(a[i], C(drow[i]), math::fma(C(row[i]) - m[i], t[i], o[i])));
        });
      };
      if (silu) walk_back(static_cast<const C*>(kept));
      else walk_back(dout);
    });
    auto fold = [&](Tensor& into, const double* per_image) {
      if (!into.defined()) return;
      T* out = into.data<T>();
      for (int64_t c = 0; c < channels; ++c) {
        double total = 0;
        for (int64_t n = 0; n < images; ++n) total += per_image[n * channels + c];
        out[c] = T(C(total));
      }
    };
    fold(dgamma, sum_duz_.data());
    fold(dbeta, sum_du_.data());
  });
}

}  // namespace mote::cpu
