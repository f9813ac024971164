// Convolutions over [N, H, W, C]: forward, input gradient, weight gradient. No im2col matrix is ever stored.
//
// Forward and dx share one driver. A band of input rows is copied once with its zero halo, so that the pixels of an
// output row are rows of a matrix with a constant stride: the tile of tile.h reads them in place, tap after tap, while
// its sums stay in registers. The weights are packed in panels [tap, Cin, kPanel]. dw needs no halo: a tap's valid
// pixels are a run in each row, over which a tile of [Cin, Cout] sums x^T dy. Where bf16 goes through AMX, the tiles of
// amx_kernel.h take the place of that tile, and dw has a way of its own.
#include "tensor/cpu/gemm.h"
#include "tensor/cpu/winograd.h"
#include "tensor/kernels.h"

#include <optional>

namespace mote::cpu {
namespace {

struct Tap {
  int64_t dy, dx;        // input position relative to the output position times the stride
  int64_t weight;        // index p Q + q in the weights
};

/// Output (m, l) lies at (y0 + m step, x0 + l step) of the output image and reads input (origin_y + m stride + tap.dy,
/// origin_x + l stride + tap.dx), which is zero outside the image.
struct Plan {
  int64_t images, in_height, in_width, in_channels;
  int64_t out_height, out_width, out_channels;   // of the whole output image
  int64_t rows, columns;                         // outputs of this plan
  int64_t stride = 1, origin_y = 0, origin_x = 0;
  int64_t step = 1, y0 = 0, x0 = 0;
  std::vector<Tap> taps;
};

constexpr int64_t kBandBytes = 512 << 10;   // a padded band of input stays in L2

/// to[i] = from[i]. Of one type they are moved whole: GCC walks elements of bf16 one by one.
template <class To, class From>
MOTE_INLINE void copy_as(To* to, const From* from, int64_t count) {
  if constexpr (std::is_same_v<To, From>) std::copy_n(from, count, to);
  else for (int64_t i = 0; i < count; ++i) to[i] = To(from[i]);
}

/// [rows, K] of T as [rows, padded] of C.
template <class C, class T>
void pad_rows(C* to, const T* from, int64_t rows, int64_t columns, int64_t padded) {
  auto pad = [&](auto width) {   // a constant width saves two calls of memmove a row
    for (int64_t row = 0; row < rows; ++row) {
      copy_as(to + row * padded, from + row * columns, width);
      std::fill(to + row * padded + width, to + (row + 1) * padded, C(0.0f));
    }
  };
  if (columns == 16 && padded == 32) pad(std::integral_constant<int64_t, 16>{});
  else pad(columns);
}

/// Adds what outputs start from to the tile of image n whose first output is y[at] and lies in column k of K.
template <class T, class C, int M, int V>
MOTE_INLINE void begin_tile(Tile<C, M, V>& tile, const Start<T, C>& start, int64_t n, int64_t padded, int64_t k, int64_t at,
                            int64_t ld, int64_t columns) {
  if (start.bias) tile.add_from(start.bias + k, 0, tile.kWidth);
  if (start.shift) tile.add_from(start.shift + n * padded + k, 0, tile.kWidth);
  if (start.residual) tile.add_from(start.residual + at, ld, columns);
}

/// y = sum over taps, in C, stored as T; the tile multiplies E. `panels`: [panel][tap][packed_k(Cin)][kPanel], in pairs of
/// Cin if E is bf16.
template <class E, class T, class C>
void convolve(T* y, const T* x, const E* panels, const Start<T, C>& start, const Plan& plan) {
  if (plan.rows <= 0 || plan.columns <= 0 || plan.images == 0) return;
  int64_t channels = plan.in_channels, out_channels = plan.out_channels, count = int64_t(plan.taps.size());
  int64_t depth = packed_k<E>(channels);   // of a pixel of the band
  int64_t low_y = 0, high_y = 0, low_x = 0, high_x = 0;
  for (const Tap& tap : plan.taps) {
    low_y = std::min(low_y, tap.dy), high_y = std::max(high_y, tap.dy);
    low_x = std::min(low_x, tap.dx), high_x = std::max(high_x, tap.dx);
  }
  // The band covers input columns left .. left + width - 1, rows likewise.
  int64_t left = plan.origin_x + low_x, width = (plan.columns - 1) * plan.stride + 1 + high_x - low_x;
  int64_t top = plan.origin_y + low_y, height = (plan.rows - 1) * plan.stride + 1 + high_y - low_y;
  bool in_place = std::is_same_v<T, E> && depth == channels && left >= 0 && top >= 0 && left + width <= plan.in_width &&
                  top + height <= plan.in_height;
  int64_t row_bytes = width * depth * int64_t(sizeof(E)) * plan.stride;
  int64_t band_rows = std::min(plan.rows, std::max<int64_t>(kBandBytes / std::max<int64_t>(row_bytes, 1), 4));
  int64_t bands = (plan.rows + band_rows - 1) / band_rows;
  if (plan.images * bands < omp_get_max_threads()) {   // few images: smaller bands feed all threads
    bands = std::min<int64_t>(plan.rows, (omp_get_max_threads() + plan.images - 1) / plan.images);
    band_rows = (plan.rows + bands - 1) / bands;
    bands = (plan.rows + band_rows - 1) / band_rows;
  }
  int64_t padded = panels_of<C>(out_channels) * kPanel<C>;
  int64_t tile_step = tile_rows(plan.columns);
  int64_t work = plan.rows * plan.columns * count * channels * out_channels / bands;

  int64_t band_height = (band_rows - 1) * plan.stride + 1 + high_y - low_y;
  ThreadScratch<E> bands_scratch(in_place ? 0 : band_height * width * depth);
  parallel_for(plan.images * bands, (int64_t(1) << 17) / std::max<int64_t>(work, 1), [&](int64_t first, int64_t last) {
    E* band = bands_scratch.mine();
    std::vector<int64_t> tap_offset(plan.taps.size());
    std::optional<AmxRegion> region;
    if (std::is_same_v<E, bf16> && amx_enabled()) region.emplace();
    for (int64_t item = first; item < last; ++item) {
      int64_t n = item / bands, row0 = item % bands * band_rows, rows = std::min(band_rows, plan.rows - row0);
      const T* image = x + n * plan.in_height * plan.in_width * channels;
      const E* source;        // input (top + row0 stride, left)
      int64_t source_width;   // in pixels
      if (in_place) {
        source = reinterpret_cast<const E*>(image) + ((top + row0 * plan.stride) * plan.in_width + left) * channels;
        source_width = plan.in_width;
      } else {
        int64_t copied_from = std::clamp<int64_t>(-left, 0, width);
        int64_t copied_to = std::clamp<int64_t>(plan.in_width - left, copied_from, width);
        for (int64_t i = 0; i < (rows - 1) * plan.stride + 1 + high_y - low_y; ++i) {
          E* to = band + i * width * depth;
          int64_t iy = top + row0 * plan.stride + i;
          bool inside = iy >= 0 && iy < plan.in_height;
          int64_t begin = inside ? copied_from : width, end = inside ? copied_to : width;
          std::fill(to, to + begin * depth, E(0.0f));
          const T* from = image + (iy * plan.in_width + left) * channels;
          if (depth == channels)
            copy_as(to + begin * depth, from + begin * depth, (end - begin) * depth);
          else
            pad_rows(to + begin * depth, from + begin * channels, end - begin, channels, depth);
          std::fill(to + end * depth, to + width * depth, E(0.0f));
        }
        source = band;
        source_width = width;
      }
      // Pixels l, l + 1, ... of output row `row` of the band are rows of A that far apart, tap by tap.
      int64_t lda = plan.stride * depth, ld = plan.step * out_channels;
      auto input_of = [&](int64_t row, int64_t l) { return source + (row * source_width + l) * lda; };
      auto output_of = [&](int64_t row, int64_t l) {
        int64_t oy = plan.y0 + (row0 + row) * plan.step, ox = plan.x0 + l * plan.step;
        return ((n * plan.out_height + oy) * plan.out_width + ox) * out_channels;
      };
      for (int64_t t = 0; t < count; ++t)
        tap_offset[size_t(t)] = ((plan.taps[size_t(t)].dy - low_y) * source_width + plan.taps[size_t(t)].dx - low_x) * depth;

      for (int64_t panel = 0; panel < panels_of<C>(out_channels); ++panel) {
        const E* weights = panels + panel * kPanel<C> * count * depth;
        int64_t k = panel * kPanel<C>, columns = std::min<int64_t>(kPanel<C>, out_channels - k);
        if constexpr (std::is_same_v<E, bf16>) {
          if (region) {
            // A tile holds pixels of one row; the two of a product may lie in different rows.
            int64_t step = amx_rows(plan.columns), per_row = (plan.columns + step - 1) / step;
            for (int64_t segment = 0; segment < rows * per_row; segment += 2) {
              int64_t row[2] = {}, l[2] = {}, length[2] = {};   // an odd one out leaves length[1] = 0
              for (int64_t i = 0; i < std::min<int64_t>(2, rows * per_row - segment); ++i) {
                row[i] = (segment + i) / per_row, l[i] = (segment + i) % per_row * step;
                length[i] = std::min(step, plan.columns - l[i]);
              }
              const E* a[2] = {input_of(row[0], l[0]), input_of(row[1], l[1])};
              int64_t at[2] = {output_of(row[0], l[0]) + k, output_of(row[1], l[1]) + k};
              region->run(length[0], length[1], columns, [&](auto sums) {
                for (int64_t t = 0; t < count; ++t) {
                  int64_t offset = tap_offset[size_t(t)];
                  sums.add(depth, a[0] + offset, a[1] + offset, lda, weights + t * depth * kPanel<C>);
                }
              }, [&](int64_t pixel, bool second, auto tile) {
                int64_t to = at[second] + pixel * ld;
                begin_tile(tile, start, n, padded, k, to, ld, columns);
                tile.store(y + to, ld, columns);
              });
            }
            continue;
          }
        }
        for (int64_t row = 0; row < rows; ++row) {
          for (int64_t l = 0; l < plan.columns; l += tile_step) {
            const E* a = input_of(row, l);
            int64_t at = output_of(row, l) + k;
            for_rows(std::min(tile_step, plan.columns - l), [&](auto m) {
              auto run = [&](auto vectors) {
                Tile<C, m(), vectors()> tile;
                tile.clear();
                begin_tile(tile, start, n, padded, k, at, ld, columns);
                const E* b = weights;
                for (int64_t t = 0; t < count; ++t) {
                  tile.add_rows(depth, a + tap_offset[size_t(t)], lda, b, kPanel<C>);
                  b += depth * kPanel<C>;
                }
                tile.store(y + at, ld, columns);
              };
              if (tile_vectors<C>(columns) == 1) run(std::integral_constant<int, 1>{});
              else run(std::integral_constant<int, kTileVectors>{});
            });
          }
        }
      }
    }
  });
}

/// Panels [panel][tap][Cin][kPanel] of weights [P Q, C, K], as they are (forward) or with C and K exchanged (dx).
template <class E, class T>
void pack_weights(E* panels, const T* w, const std::vector<Tap>& taps, int64_t channels, int64_t out_channels,
                  bool exchanged) {
  int64_t in = exchanged ? out_channels : channels, out = exchanged ? channels : out_channels;
  int64_t count = int64_t(taps.size()), per_tap = packed_k<E>(in) * kPanel<compute_t<E>>;
  parallel_for(panels_of<compute_t<E>>(out) * count, std::max<int64_t>(kGrain / std::max<int64_t>(per_tap, 1), 1), [&](int64_t first, int64_t last) {
    for (int64_t item = first; item < last; ++item) {
      Matrix<T> tap{w + taps[size_t(item % count)].weight * channels * out_channels, out_channels, exchanged};
      pack_panel(panels + item * per_tap, tap, in, out, item / count);
    }
  });
}

/// Calls fn with an element of what the tile multiplies: pixels with an odd number of channels hold no whole pairs, unless
/// they are filled up to whole tiles.
template <class T, class Fn>
void with_operand(int64_t channels, Fn&& fn) {
  if (channels % 2 == 0 || amx_enabled()) fn(operand_t<T>{});
  else fn(compute_t<T>{});
}

bool is_winograd(const Tensor& w, const Conv2dSpec& spec) {
  return w.size(0) == 3 && w.size(1) == 3 && spec.stride == 1;
}

WinogradShape winograd_shape(const Tensor& x, const Tensor& y, const Conv2dSpec& spec) {
  return {x.size(0), x.size(1), x.size(2), x.size(3), y.size(1), y.size(2), y.size(3), spec.top, spec.left};
}

}  // namespace

void conv2d(Tensor& y, const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& shift,
            const Tensor& residual, const Conv2dSpec& spec) {
  for_floating("conv2d", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    Plan plan{x.size(0), x.size(1), x.size(2), x.size(3), y.size(1), y.size(2), y.size(3), y.size(1), y.size(2), spec.stride, 0, 0, 1, 0, 0, {}};
    for (int64_t p = 0; p < w.size(0); ++p)
      for (int64_t q = 0; q < w.size(1); ++q) plan.taps.push_back({p - spec.top, q - spec.left, p * w.size(1) + q});
    int64_t K = y.size(3), padded = panels_of<C>(K) * kPanel<C>;
    Scratch<C> wide_bias(bias.defined() ? padded : 0), wide_shift(shift.defined() ? x.size(0) * padded : 0);
    Start<T, C> start;
    if (bias.defined()) {
      pad_rows(wide_bias.data(), bias.data<T>(), 1, K, padded);
      start.bias = wide_bias.data();
    }
    if (shift.defined()) {
      pad_rows(wide_shift.data(), shift.data<T>(), x.size(0), K, padded);
      start.shift = wide_shift.data();
    }
    if (residual.defined()) start.residual = residual.data<T>();
    if constexpr (std::is_same_v<C, float>) {
      WinogradShape shape = winograd_shape(x, y, spec);
      if (is_winograd(w, spec) && shape.pays<T>()) return winograd_conv(y.data<T>(), x.data<T>(), w.data<T>(), false, start, shape);
    }
    with_operand<T>(x.size(3), [&](auto operand) {
      using E = decltype(operand);
      Scratch<E> panels(int64_t(plan.taps.size()) * packed_size<E>(x.size(3), K));
      pack_weights(panels.data(), w.data<T>(), plan.taps, x.size(3), K, false);
      convolve(y.data<T>(), x.data<T>(), static_cast<const E*>(panels.data()), start, plan);
    });
  });
}

void conv2d_dx(Tensor& dx, const Tensor& dy, const Tensor& w, const Conv2dSpec& spec) {
  for_floating("conv2d_dx", dx.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    int64_t P = w.size(0), Q = w.size(1), channels = w.size(2), K = w.size(3), s = spec.stride;
    if constexpr (std::is_same_v<C, float>) {
      // dx is a convolution of dy with the kernel turned by half a circle; what was padded by n is now padded by 2 - n.
      WinogradShape shape = winograd_shape(dy, dx, {1, 2 - spec.top, 0, 2 - spec.left, 0});
      if (is_winograd(w, spec) && shape.pays<T>()) return winograd_conv(dx.data<T>(), dy.data<T>(), w.data<T>(), true, Start<T, C>{}, shape);
    }
    // dx[iy] = sum over p with s | iy + top - p of dy[(iy + top - p) / s] w[p]. The iy of one residue ry of iy + top
    // form a plan of their own: iy = s m + ry - top reads dy[m - (p - ry) / s] for p = ry, ry + s, ...
    for (int64_t ry = 0; ry < s; ++ry) {
      for (int64_t rx = 0; rx < s; ++rx) {
        auto first = [s](int64_t residue, int64_t before) {   // smallest m with s m + residue - before >= 0
          int64_t need = before - residue;
          return need >= 0 ? (need + s - 1) / s : -((-need) / s);
        };
        Plan plan{dy.size(0), dy.size(1), dy.size(2), K, dx.size(1), dx.size(2), channels, 0, 0, 1, first(ry, spec.top), first(rx, spec.left), s, 0, 0, {}};
        plan.y0 = s * plan.origin_y + ry - spec.top;
        plan.x0 = s * plan.origin_x + rx - spec.left;
        if (plan.y0 >= dx.size(1) || plan.x0 >= dx.size(2)) continue;
        plan.rows = (dx.size(1) - plan.y0 + s - 1) / s;
        plan.columns = (dx.size(2) - plan.x0 + s - 1) / s;
        for (int64_t p = ry; p < P; p += s)
          for (int64_t q = rx; q < Q; q += s) plan.taps.push_back({-((p - ry) / s), -((q - rx) / s), p * Q + q});
        with_operand<T>(K, [&](auto operand) {
          using E = decltype(operand);
          Scratch<E> panels(int64_t(plan.taps.size()) * packed_size<E>(K, channels));
          pack_weights(panels.data(), w.data<T>(), plan.taps, channels, K, true);
          convolve(dx.data<T>(), dy.data<T>(), static_cast<const E*>(panels.data()), Start<T, C>{}, plan);
        });
      }
    }
  });
}

// ---- Weight gradient -----------------------------------------------------------------------------------------------

namespace {

/// The run of output positions o in 0..out-1 whose input o stride + offset lies in 0..in-1.
struct Run {
  int64_t begin, end;
  Run(int64_t out, int64_t in, int64_t stride, int64_t offset) {
    begin = offset >= 0 ? 0 : (-offset + stride - 1) / stride;
    end = std::min(out, in - 1 - offset < 0 ? 0 : (in - 1 - offset) / stride + 1);
    begin = std::min(begin, end);
  }
};

/// to[row][k] = sum over chunks, in their order, of partial[chunk][row][k]: rows of K, padded in the latter.
template <class T, class C>
void fold_chunks(T* to, const C* partial, int64_t chunks, int64_t rows, int64_t K, int64_t padded) {
  parallel_for(rows, kGrain / std::max<int64_t>(chunks * K, 1), [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      C total[kPanel<C>];
      for (int64_t k0 = 0; k0 < K; k0 += kPanel<C>) {
        int64_t columns = std::min<int64_t>(kPanel<C>, K - k0);
        std::fill(total, total + kPanel<C>, C(0));
        for (int64_t chunk = 0; chunk < chunks; ++chunk)
          for (int64_t k = 0; k < columns; ++k) total[k] += partial[(chunk * rows + row) * padded + k0 + k];
        for (int64_t k = 0; k < columns; ++k) to[row * K + k0 + k] = T(total[k]);
      }
    }
  });
}

/// conv2d_dw in tiles of AMX. An image of dy becomes one long run of pixels, its rows filled up with zeros, and x^T rows
/// that a tap shifts against it: with a stride s, x is first taken apart into s x s phases, [Ho + ..][Wo + ..] pixels each,
/// so that every tap reads one of them without gaps. What a shift moves over an edge of x meets a zero of dy.
/// Not used in builds that widen bf16.
[[maybe_unused]] void conv2d_dw_amx(Tensor& dw, const Tensor& x, const Tensor& dy, const Conv2dSpec& spec) {
  int64_t images = x.size(0), H = x.size(1), W = x.size(2), channels = x.size(3), s = spec.stride;
  int64_t Ho = dy.size(1), Wo = dy.size(2), K = dy.size(3), P = dw.size(0), Q = dw.size(1);
  int64_t phases_y = std::min(s, P), phases_x = std::min(s, Q), phases = phases_y * phases_x;
  int64_t width = Wo + (Q - 1) / s, height = Ho + (P - 1) / s, length = packed_k<bf16>(Ho * width);
  // A row of x^T reaches as far as the last tap reads, in zeros where the image has ended.
  int64_t ld = packed_k<bf16>(length + (P - 1) / s * width + (Q - 1) / s) + kBlockGap<bf16>;
  int64_t x_image = phases * channels * ld, dy_image = packed_size<bf16>(length, K);
  int64_t panels = panels_of<float>(K), padded = panels * kPanel<float>, sums = P * Q * channels * padded;

  // Images are cut into chunks and groups as in conv2d_dw: how many depends on shapes only.
  int64_t bytes = std::max<int64_t>(sums * int64_t(sizeof(float)), 1);
  int64_t chunks = std::clamp<int64_t>((int64_t(8) << 20) / bytes, 2, 8);
  chunks = std::clamp<int64_t>(images, 1, chunks);
  int64_t image_bytes = std::max<int64_t>((x_image + dy_image) * int64_t(sizeof(bf16)), 1);
  int64_t group = std::max<int64_t>((int64_t(1) << 20) / image_bytes, 1);
  group = std::min(group, (images + chunks - 1) / chunks);
  // A product takes two tiles of channels.
  int64_t step = amx_rows(channels), pairs = (channels + 2 * step - 1) / (2 * step), items = P * Q * pairs;
  int64_t shares = std::min<int64_t>((omp_get_max_threads() + chunks - 1) / chunks, items);
  Scratch<float> partial(chunks * sums);
  ThreadScratch<bf16> x_scratch(group * x_image), dy_scratch(group * dy_image);
  ThreadScratch<bf16> rows_scratch(std::max(ld * channels, length * K));
  parallel_for(chunks * shares, 1, [&](int64_t first_item, int64_t last_item) {
    bf16 *xt = x_scratch.mine(), *gradients = dy_scratch.mine(), *rows = rows_scratch.mine();
    AmxRegion region;
    for (int64_t item = first_item; item < last_item; ++item) {
      int64_t chunk = item / shares, share = item % shares, image_end = images * (chunk + 1) / chunks;
      float* out = partial.data() + chunk * sums;
      bool fresh = true;
      for (int64_t n0 = images * chunk / chunks; n0 < image_end || fresh; n0 += group) {
        int64_t count = std::clamp<int64_t>(image_end - n0, 0, group);
        for (int64_t n = 0; n < count; ++n) {
          const bf16* image = x.data<bf16>() + (n0 + n) * H * W * channels;
          const bf16* gradient = dy.data<bf16>() + (n0 + n) * Ho * Wo * K;
          for (int64_t phase = 0; phase < phases; ++phase) {
            std::fill(rows, rows + ld * channels, bf16());
            for (int64_t i = 0; i < height; ++i) {
              int64_t iy = i * s + phase / phases_x - spec.top, left = phase % phases_x - spec.left;
              if (iy < 0 || iy >= H) continue;
              Run run(width, W, s, left);
              const bf16* from = image + (iy * W + run.begin * s + left) * channels;
              for (int64_t j = run.begin; j < run.end; ++j, from += s * channels)
                std::copy_n(from, channels, rows + (i * width + j) * channels);
            }
            transpose(xt + n * x_image + phase * channels * ld, ld, rows, channels, channels, ld);
          }
          std::fill(rows, rows + length * K, bf16());
          for (int64_t i = 0; i < Ho; ++i) std::copy_n(gradient + i * Wo * K, Wo * K, rows + i * width * K);
          pack_panels(gradients + n * dy_image, Matrix<bf16>{rows, K}, length, K);
        }
        for (int64_t at = items * share / shares; at < items * (share + 1) / shares; ++at) {
          int64_t tap = at / pairs, p = tap / Q, q = tap % Q, c = at % pairs * 2 * step;
          const bf16* a = xt + (p % s * phases_x + q % s) * channels * ld + c * ld + p / s * width + q / s;
          for (int64_t panel = 0; panel < panels; ++panel) {
            const bf16* b = gradients + panel * length * kPanel<float>;
            int64_t k = panel * kPanel<float>;
            int64_t first = std::min(step, channels - c), second = std::clamp<int64_t>(channels - c - step, 0, step);
            region.run(first, second, K - k, [&](auto product) {
              for (int64_t n = 0; n < count; ++n)
                product.add(length, a + n * x_image, a + n * x_image + step * ld, ld, b + n * dy_image);
            }, [&](int64_t row, bool in_second, auto tile) {
              float* to = out + (tap * channels + c + in_second * step + row) * padded + k;
              if (!fresh) tile.add_from(to, padded, tile.kWidth);
              tile.store(to, padded, tile.kWidth);
            });
          }
        }
        fresh = false;
      }
    }
  });
  fold_chunks(dw.data<bf16>(), partial.data(), chunks, P * Q * channels, K, padded);
}

/// dw of a 1x1 convolution, x^T dy over all pixels: one product, cut into chunks of pixels with sums of their own.
template <class T>
void pixels_dw(T* dw, const T* x, const T* dy, int64_t pixels, int64_t channels, int64_t K) {
  using C = compute_t<T>;
  using E = operand_t<T>;
  constexpr int64_t kChunk = 2048;   // pixels whose packed dy stays in L2 for the usual widths
  int64_t chunks = std::clamp<int64_t>(pixels / kChunk, 1, 16);
  int64_t longest = std::min(kChunk, (pixels + chunks - 1) / chunks);
  Scratch<C> partial(chunks * channels * K);
  ThreadScratch<E> work(packed_size<E>(longest, K) + kBlockElements<E>);
  parallel_for(chunks, 1, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      int64_t begin = pixels * chunk / chunks, end = pixels * (chunk + 1) / chunks;
      for (int64_t p = begin; p < end || p == begin; p += longest)
        gemm_serial(channels, K, std::min(longest, end - p), Matrix<T>{x + p * channels, channels, true},
                    Matrix<T>{dy + p * K, K}, partial.data() + chunk * channels * K, K, p > begin, work.mine());
    }
  });
  fold_chunks(dw, partial.data(), chunks, channels, K, K);
}

}  // namespace

void conv2d_dw(Tensor& dw, const Tensor& x, const Tensor& dy, const Conv2dSpec& spec) {
  int64_t images = x.size(0), H = x.size(1), W = x.size(2), channels = x.size(3);
  int64_t Ho = dy.size(1), Wo = dy.size(2), K = dy.size(3), P = dw.size(0), Q = dw.size(1);
  for_floating("conv2d_dw", dw.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    if constexpr (std::is_same_v<operand_t<T>, bf16>) {
      if (amx_enabled()) return conv2d_dw_amx(dw, x, dy, spec);
    }
    if constexpr (std::is_same_v<C, float>) {
      WinogradShape shape = winograd_shape(x, dy, spec);
      if (is_winograd(dw, spec) && shape.pays<T>()) return winograd_dw(dw.data<T>(), x.data<T>(), dy.data<T>(), shape);
    }
    // Pairs have to be packed anyway; f32 is read in place below.
    if (std::is_same_v<operand_t<T>, bf16> && P * Q == 1 && spec.stride == 1 && Ho == H && Wo == W)
      return pixels_dw(dw.data<T>(), x.data<T>(), dy.data<T>(), images * H * W, channels, K);
    // dy is read in whole vectors: columns are padded to a multiple of a vector, in a copy if need be.
    int64_t padded = (K + kLanes<C> - 1) / kLanes<C> * kLanes<C>;
    bool copy_x = !std::is_same_v<T, C>, copy_dy = copy_x || padded != K;
    int64_t x_image = H * W * channels, dy_image = Ho * Wo * padded, sums = P * Q * channels * padded;

    // Images are cut into chunks with sums of their own, folded in order at the end. How many depends on shapes only.
    // Within a chunk, as many images as fit in L2 are visited under one tile of sums.
    int64_t bytes = std::max<int64_t>(sums * int64_t(sizeof(C)), 1);
    int64_t chunks = std::clamp<int64_t>((int64_t(4) << 20) / bytes, 1, std::clamp<int64_t>(images, 1, 16));
    int64_t group = std::max<int64_t>((int64_t(1) << 20) / std::max<int64_t>((x_image + dy_image) * int64_t(sizeof(C)), 1), 1);
    group = std::min(group, (images + chunks - 1) / chunks);
    int64_t tile_step = tile_rows(channels), tiles = (channels + tile_step - 1) / tile_step;
    // Chunks alone may be too few for the threads: then each is shared by threads that own different sums.
    int64_t shares = std::min<int64_t>((omp_get_max_threads() + chunks - 1) / chunks, P * Q * tiles);
    Scratch<C> partial(chunks * sums);

    ThreadScratch<C> wide_x_scratch(copy_x ? group * x_image : 0), wide_dy_scratch(copy_dy ? group * dy_image : 0);
    parallel_for(chunks * shares, 1, [&](int64_t first, int64_t last) {
      C *wide_x = wide_x_scratch.mine(), *wide_dy = wide_dy_scratch.mine();
      for (int64_t item = first; item < last; ++item) {
        int64_t chunk = item / shares, share = item % shares;
        int64_t image_end = images * (chunk + 1) / chunks;
        C* out = partial.data() + chunk * sums;
        bool fresh = true;
        for (int64_t n0 = images * chunk / chunks; n0 < image_end || fresh; n0 += group) {
          int64_t count = std::clamp<int64_t>(image_end - n0, 0, group);
          const C* px;
          const C* pdy;
          if (copy_x) {
            const T* from = x.data<T>() + n0 * x_image;
            for (int64_t i = 0; i < count * x_image; ++i) wide_x[i] = C(from[i]);
            px = wide_x;
          } else {
            px = static_cast<const C*>(x.raw()) + n0 * x_image;
          }
          if (copy_dy) {
            pad_rows(wide_dy, dy.data<T>() + n0 * Ho * Wo * K, count * Ho * Wo, K, padded);
            pdy = wide_dy;
          } else {
            pdy = static_cast<const C*>(dy.raw()) + n0 * dy_image;
          }
          for (int64_t at = P * Q * tiles * share / shares; at < P * Q * tiles * (share + 1) / shares; ++at) {
            int64_t tap = at / tiles, c = at % tiles * tile_step;
            Run ys(Ho, H, spec.stride, tap / Q - spec.top), xs(Wo, W, spec.stride, tap % Q - spec.left);
            int64_t iy = ys.begin * spec.stride + tap / Q - spec.top, ix = xs.begin * spec.stride + tap % Q - spec.left;
            for (int64_t k = 0; k < padded; k += kPanel<C>) {
              for_rows(std::min(tile_step, channels - c), [&](auto m) {
                auto run = [&](auto vectors) {
                  constexpr int64_t kColumns = vectors() * kLanes<C>;
                  C* to = out + (tap * channels + c) * padded + k;
                  Tile<C, m(), vectors()> tile;
                  tile.clear();
                  if (!fresh) tile.add_from(to, padded, kColumns);
                  for (int64_t n = 0; n < count; ++n) {
                    const C* a = px + ((n * H + iy) * W + ix) * channels + c;
                    const C* b = pdy + ((n * Ho + ys.begin) * Wo + xs.begin) * padded + k;
                    for (int64_t row = ys.begin; row < ys.end; ++row) {
                      tile.add_columns(xs.end - xs.begin, a, spec.stride * channels, b, padded);
                      a += spec.stride * W * channels;
                      b += Wo * padded;
                    }
                  }
                  tile.store(to, padded, kColumns);
                };
                if (tile_vectors<C>(padded - k) == 1) run(std::integral_constant<int, 1>{});
                else run(std::integral_constant<int, kTileVectors>{});
              });
            }
          }
          fresh = false;
        }
      }
    });

    fold_chunks(dw.data<T>(), partial.data(), chunks, P * Q * channels, K, padded);
  });
}

}  // namespace mote::cpu
