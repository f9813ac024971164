// GroupNorm over [N, H, W, C], optionally followed by SiLU; forward and backward.
// An image is walked pixel by pixel, all channels of a thread's range side by side: sums are per channel, in C over
// kPixels pixels, then in double, and channels are folded into groups at the end. One image fits in L2, so the second
// walk does not come from memory.
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/scratch.h"
#include "tensor/kernels.h"

namespace mote::cpu {
namespace {

constexpr int64_t kPixels = 64;   // summed in C before the sum moves to double

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

template <class C>
MOTE_HD C silu_slope(C u) {
  C s = math::sigmoid(u);
  return s * math::fma(u, C(1) - s, C(1));
}

}  // namespace

void group_norm(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x, const Tensor& gamma, const Tensor& beta,
                int64_t groups, double eps, bool silu) {
  int64_t images = x.size(0), pixels = x.size(1) * x.size(2), channels = x.size(3), width = channels / groups;
  for_floating("group_norm", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    ThreadScratch<C> scratch(6 * channels);
    ThreadScratch<double> totals(2 * channels);
    for_images(images, groups, pixels * channels, [&](int64_t n, int64_t g0, int64_t g1) {
      int64_t c0 = g0 * width, count = (g1 - g0) * width;
      const T* in = x.data<T>() + n * pixels * channels + c0;
      T* out = y.data<T>() + n * pixels * channels + c0;

      // Deviations from the first pixel: a large common offset costs no digits.
      C *pivot = scratch.mine(), *sum = pivot + channels, *square = sum + channels, *middle = square + channels,
        *scale = middle + channels, *shift = scale + channels;
      double *total = totals.mine(), *total_square = total + channels;
      for (int64_t c = 0; c < count; ++c) {
        pivot[c] = pixels ? C(in[c]) : C(0);
        total[c] = total_square[c] = 0;
      }
      for (int64_t p0 = 0; p0 < pixels; p0 += kPixels) {
        std::fill(sum, sum + count, C(0));
        std::fill(square, square + count, C(0));
        for (int64_t p = p0; p < std::min(pixels, p0 + kPixels); ++p) {
          const T* row = in + p * channels;
#pragma omp simd
          for (int64_t c = 0; c < count; ++c) {
            C deviation = C(row[c]) - pivot[c];
            sum[c] += deviation;
            square[c] = math::fma(deviation, deviation, square[c]);
          }
        }
        for (int64_t c = 0; c < count; ++c) {
          total[c] += double(sum[c]);
          total_square[c] += double(square[c]);
        }
      }
      // Channel means and squares about them, folded into the group's.
      for (int64_t g = g0; g < g1; ++g) {
        int64_t begin = (g - g0) * width;
        double group_mean = 0, about = 0;
        for (int64_t c = begin; c < begin + width; ++c) group_mean += double(pivot[c]) + total[c] / double(pixels);
        group_mean /= double(width);
        for (int64_t c = begin; c < begin + width; ++c) {
          double own = total[c] / double(pixels), apart = double(pivot[c]) + own - group_mean;
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
      for (int64_t p = 0; p < pixels; ++p) {
        const T* row = in + p * channels;
        T* to = out + p * channels;
        if (silu) {
#pragma omp simd
          for (int64_t c = 0; c < count; ++c) {
            C u = math::fma(C(row[c]) - middle[c], scale[c], shift[c]);
            to[c] = T(u * math::sigmoid(u));
          }
        } else {
#pragma omp simd
          for (int64_t c = 0; c < count; ++c) to[c] = T(math::fma(C(row[c]) - middle[c], scale[c], shift[c]));
        }
      }
    });
  });
}

void group_norm_backward(Tensor& dx, Tensor& dgamma, Tensor& dbeta, const Tensor& dy, const Tensor& x,
                         const Tensor& mean, const Tensor& rstd, const Tensor& gamma, const Tensor& beta,
                         int64_t groups, bool silu) {
  // With z = (x - mean) rstd and u = gamma z + beta:  du = dy act'(u),  dgamma = sum du z,  dbeta = sum du,
  // dx = rstd (gamma du - m1 - z m2), m1 and m2 the group means of gamma du and gamma du z.
  int64_t images = x.size(0), pixels = x.size(1) * x.size(2), channels = x.size(3), width = channels / groups;
  for_floating("group_norm_backward", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    Scratch<double> sum_du_(images * channels), sum_duz_(images * channels);   // per image and channel
    ThreadScratch<C> scratch(8 * channels);
    for_images(images, groups, pixels * channels, [&](int64_t n, int64_t g0, int64_t g1) {
      int64_t c0 = g0 * width, count = (g1 - g0) * width;
      const T* in = x.data<T>() + n * pixels * channels + c0;
      const T* dout = dy.data<T>() + n * pixels * channels + c0;
      T* out = dx.defined() ? dx.data<T>() + n * pixels * channels + c0 : nullptr;
      // du is needed twice. In the compute type it waits in dx, which is in L2; rounded to bf16 it would lose digits.
      bool keeps_du = silu && out && std::is_same_v<T, C>;
      C *mu = scratch.mine(), *rs = mu + channels, *ga = rs + channels, *be = ga + channels, *m1 = be + channels,
        *m2 = m1 + channels, *sum_du = m2 + channels, *sum_duz = sum_du + channels;
      double *total_du = sum_du_.data() + n * channels + c0, *total_duz = sum_duz_.data() + n * channels + c0;
      for (int64_t c = 0; c < count; ++c) {
        int64_t g = n * groups + (c0 + c) / width;
        mu[c] = mean.data<C>()[g];
        rs[c] = rstd.data<C>()[g];
        ga[c] = C(gamma.data<T>()[c0 + c]);
        be[c] = C(beta.data<T>()[c0 + c]);
        total_du[c] = total_duz[c] = 0;
      }
      for (int64_t p0 = 0; p0 < pixels; p0 += kPixels) {
        std::fill(sum_du, sum_du + count, C(0));
        std::fill(sum_duz, sum_duz + count, C(0));
        for (int64_t p = p0; p < std::min(pixels, p0 + kPixels); ++p) {
          const T *row = in + p * channels, *drow = dout + p * channels;
          if (keeps_du) {
            T* du_row = out + p * channels;
#pragma omp simd
            for (int64_t c = 0; c < count; ++c) {
              C z = (C(row[c]) - mu[c]) * rs[c];
              C du = C(drow[c]) * silu_slope(math::fma(ga[c], z, be[c]));
              du_row[c] = T(du);
              sum_du[c] += du;
              sum_duz[c] = math::fma(du, z, sum_duz[c]);
            }
          } else if (silu) {
#pragma omp simd
            for (int64_t c = 0; c < count; ++c) {
              C z = (C(row[c]) - mu[c]) * rs[c];
              C du = C(drow[c]) * silu_slope(math::fma(ga[c], z, be[c]));
              sum_du[c] += du;
              sum_duz[c] = math::fma(du, z, sum_duz[c]);
            }
          } else {
#pragma omp simd
            for (int64_t c = 0; c < count; ++c) {
              C z = (C(row[c]) - mu[c]) * rs[c];
              sum_du[c] += C(drow[c]);
              sum_duz[c] = math::fma(C(drow[c]), z, sum_duz[c]);
            }
          }
        }
        for (int64_t c = 0; c < count; ++c) {
          total_du[c] += double(sum_du[c]);
          total_duz[c] += double(sum_duz[c]);
        }
      }
      if (!out) return;
      for (int64_t begin = 0; begin < count; begin += width) {
        double first = 0, second = 0;
        for (int64_t c = begin; c < begin + width; ++c) {
          first += double(ga[c]) * total_du[c];
          second += double(ga[c]) * total_duz[c];
        }
        for (int64_t c = begin; c < begin + width; ++c) {
          m1[c] = C(first / double(pixels * width));
          m2[c] = C(second / double(pixels * width));
        }
      }
      for (int64_t p = 0; p < pixels; ++p) {
        const T* row = in + p * channels;
        T* to = out + p * channels;
        const T* drow = keeps_du ? to : dout + p * channels;
        if (silu && !keeps_du) {
#pragma omp simd
          for (int64_t c = 0; c < count; ++c) {
            C z = (C(row[c]) - mu[c]) * rs[c];
            C du = C(drow[c]) * silu_slope(math::fma(ga[c], z, be[c]));
            to[c] = T(rs[c] * math::fma(-z, m2[c], math::fma(ga[c], du, -m1[c])));
          }
        } else {
#pragma omp simd
          for (int64_t c = 0; c < count; ++c) {
            C z = (C(row[c]) - mu[c]) * rs[c];
            to[c] = T(rs[c] * math::fma(-z, m2[c], math::fma(ga[c], C(drow[c]), -m1[c])));
          }
        }
      }
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
