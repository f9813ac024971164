#include "tensor/cpu/winograd.h"

#include <array>

#include "tensor/cpu/gemm.h"

namespace mote::cpu {
namespace {

using V = Vector<float>;
constexpr int64_t kWide = kLanes<float>;
constexpr int64_t kPoints = 36;

// ---- The transforms ------------------------------------------------------------------------------------------------
//
// y = A^T [(G g G^T) * (B^T d B)] A for a kernel g [3, 3] and an input d [6, 6], * elementwise. The six interpolation
// points are 0, +-a, +-b and infinity. With a = 3/4, b = 3/2 every constant of A and B is exact in f32 and the error is
// half that of the customary 1 and 2.
constexpr float a1 = 0.75f, b1 = 1.5f, a2 = a1 * a1, b2 = b1 * b1;

/// B^T of a column: the values at the points of the polynomial whose coefficients are d, times what G leaves out.
MOTE_INLINE void transform_input(V* out, const V& d0, const V& d1, const V& d2, const V& d3, const V& d4, const V& d5) {
  V even = d4 - b2 * d2, odd = d3 - b2 * d1;
  out[0] = d4 - (a2 + b2) * d2 + a2 * b2 * d0;
  out[1] = even + a1 * odd;
  out[2] = even - a1 * odd;
  even = d4 - a2 * d2, odd = d3 - a2 * d1;
  out[3] = even + b1 * odd;
  out[4] = even - b1 * odd;
  out[5] = d5 - (a2 + b2) * d3 + a2 * b2 * d1;
}

/// A^T of a column: 6 -> 4.
MOTE_INLINE void transform_output(V* out, const V& m0, const V& m1, const V& m2, const V& m3, const V& m4, const V& m5) {
  V even_a = m1 + m2, odd_a = m1 - m2, even_b = m3 + m4, odd_b = m3 - m4;
  out[0] = m0 + even_a + even_b;
  out[1] = a1 * odd_a + b1 * odd_b;
  out[2] = a2 * even_a + b2 * even_b;
  out[3] = a1 * a2 * odd_a + (b1 * b2 * odd_b + m5);
}

/// A of a column, the transpose of transform_output: 4 -> 6.
MOTE_INLINE void transform_gradient(V* out, const V& y0, const V& y1, const V& y2, const V& y3) {
  V even = y0 + a2 * y2, odd = a1 * (y1 + a2 * y3);
  out[0] = y0;
  out[1] = even + odd;
  out[2] = even - odd;
  even = y0 + b2 * y2, odd = b1 * (y1 + b2 * y3);
  out[3] = even + odd;
  out[4] = even - odd;
  out[5] = y3;
}

// Rows of G are [1, x, x^2] / (product of x - x_j over the other finite points), the last one [0, 0, 1].
constexpr float g0 = 1 / (a2 * b2), ga = 1 / (2 * a2 * (a2 - b2)), gb = 1 / (2 * b2 * (b2 - a2));

/// G of a column: 3 -> 6.
MOTE_INLINE void transform_kernel(V* out, const V& k0, const V& k1, const V& k2) {
  out[0] = g0 * k0;
  V even = ga * (k0 + a2 * k2), odd = ga * a1 * k1;
  out[1] = even + odd;
  out[2] = even - odd;
  even = gb * (k0 + b2 * k2), odd = gb * b1 * k1;
  out[3] = even + odd;
  out[4] = even - odd;
  out[5] = k2;
}

/// G^T of a column, the transpose of transform_kernel: 6 -> 3.
MOTE_INLINE void transform_kernel_gradient(V* out, const V& u0, const V& u1, const V& u2, const V& u3, const V& u4,
                                           const V& u5) {
  V even_a = ga * (u1 + u2), even_b = gb * (u3 + u4);
  out[0] = g0 * u0 + even_a + even_b;
  out[1] = ga * a1 * (u1 - u2) + gb * b1 * (u3 - u4);
  out[2] = a2 * even_a + b2 * even_b + u5;
}

// ---- Rows of tiles -------------------------------------------------------------------------------------------------
//
// Tiles are transformed a row of them at a time, vertically along whole rows of pixels and then horizontally tile by
// tile, through half [6][columns][channels]: memory is read and written in few long streams, which the processor
// prefetches, and a column that two tiles share is transformed once.

/// Rows first..first+count-1 of the tiles of all images, each of tile_columns() tiles.
struct TileRows {
  int64_t first, count;
};

/// Pixel (n, row, 0) of [N, height, width, C], or zeros where the image has no such row.
template <class T>
const T* pixel_row(const T* x, int64_t n, int64_t height, int64_t width, int64_t C, int64_t row, const T* zeros) {
  return row >= 0 && row < height ? x + (n * height + row) * width * C : zeros;
}

/// to[i ldto + e] = column of from[i][e] for e < length: a vertical transform along Rows rows.
template <int Rows, int Points, class T, class Column>
MOTE_INLINE void transform_rows(float* to, int64_t ldto, const std::array<const T*, Rows>& from, int64_t length,
                                Column&& column) {
  for (int64_t e = 0; e < length; e += kWide) {
    V in[Rows], out[Points];
#pragma GCC unroll 6
    for (int i = 0; i < Rows; ++i) in[i] = load_vector_as<float>(from[size_t(i)] + e);
    column(out, in);
#pragma GCC unroll 6
    for (int i = 0; i < Points; ++i) store_vector(to + i * ldto + e, out[i]);
  }
}

/// to[j ldto + c] = column of from[j ldfrom + c] for c < C: a horizontal transform of one row of a tile.
template <int Columns, int Points, class Column>
MOTE_INLINE void transform_pixels(float* to, int64_t ldto, const float* from, int64_t ldfrom, int64_t C, Column&& column) {
  for (int64_t c = 0; c < C; c += kWide) {
    V in[Columns], out[Points];
#pragma GCC unroll 6
    for (int j = 0; j < Columns; ++j) in[j] = load_vector(from + j * ldfrom + c);
    column(out, in);
#pragma GCC unroll 6
    for (int j = 0; j < Points; ++j) store_vector(to + j * ldto + c, out[j]);
  }
}

constexpr auto kInput = [](V* out, const V* in) MOTE_INLINE_LAMBDA {
  transform_input(out, in[0], in[1], in[2], in[3], in[4], in[5]);
};
constexpr auto kOutput = [](V* out, const V* in) MOTE_INLINE_LAMBDA {
  transform_output(out, in[0], in[1], in[2], in[3], in[4], in[5]);
};
constexpr auto kGradient = [](V* out, const V* in) MOTE_INLINE_LAMBDA {
  transform_gradient(out, in[0], in[1], in[2], in[3]);
};

/// Floats between the matrices of two points: off the multiples of a page, or all 36 streams of a transform would meet
/// in the same cache sets.
int64_t point_stride(int64_t elements) { return (elements + 1023) / 1024 * 1024 + 16; }

/// Rows of tiles handled at once: both matrices in L2 if the channels allow it.
int64_t block_rows(const WinogradShape& shape) {
  int64_t bytes_a_tile = kPoints * (shape.in_channels + shape.out_channels) * int64_t(sizeof(float));
  int64_t tiles = std::clamp<int64_t>((int64_t(1) << 19) / bytes_a_tile, 56, 112);
  return std::max<int64_t>(tiles / shape.tile_columns(), 1);
}

/// Elements of a row of pixels of x or y.
int64_t longest_row(const WinogradShape& shape) {
  return std::max(shape.in_width * shape.in_channels, shape.out_width * shape.out_channels);
}

/// Floats that `half` holds: six rows of pixels of whole tiles and their margin, and a row of zeros for both tensors.
int64_t half_elements(const WinogradShape& shape) {
  int64_t channels = std::max(shape.in_channels, shape.out_channels), columns = 4 * shape.tile_columns() + 2;
  return 6 * (columns * channels + kWide) + longest_row(shape);
}

/// The zeros behind `half`.
template <class T>
T* zero_row(float* half, const WinogradShape& shape) {
  int64_t length = longest_row(shape);
  T* zeros = reinterpret_cast<T*>(half + half_elements(shape) - length);
  std::fill(zeros, zeros + length, T(0.0f));
  return zeros;
}

/// v[point][t][c] = B^T d B for the tiles of these rows.
template <class T>
void input_tiles(float* v, int64_t stride, const T* x, const WinogradShape& shape, TileRows rows, float* half,
                 const T* zeros) {
  int64_t C = shape.in_channels, columns = 4 * shape.tile_columns() + 2, ld = columns * C + kWide;
  int64_t begin = std::clamp<int64_t>(shape.left, 0, columns);
  int64_t end = std::clamp<int64_t>(shape.left + shape.in_width, begin, columns);
  for (int64_t i = 0; i < 6; ++i) {   // left and right of the image
    std::fill(half + i * ld, half + i * ld + begin * C, 0.0f);
    std::fill(half + i * ld + end * C, half + (i + 1) * ld, 0.0f);
  }
  for (int64_t row = 0; row < rows.count; ++row) {
    int64_t n = (rows.first + row) / shape.tile_rows(), top = (rows.first + row) % shape.tile_rows() * 4 - shape.top;
    std::array<const T*, 6> from;
    for (int64_t i = 0; i < 6; ++i)
      from[size_t(i)] = pixel_row(x, n, shape.in_height, shape.in_width, C, top + i, zeros) + (begin - shape.left) * C;
    transform_rows<6, 6>(half + begin * C, ld, from, (end - begin) * C, kInput);
    float* to = v + row * shape.tile_columns() * C;
    for (int64_t i = 0; i < 6; ++i)
      for (int64_t t = 0; t < shape.tile_columns(); ++t)
        transform_pixels<6, 6>(to + i * 6 * stride + t * C, stride, half + i * ld + 4 * t * C, C, C, kInput);
  }
}

/// y = start + A^T m A, clipped to the image, for m[point][t][padded].
template <class T>
void output_tiles(T* y, const float* m, int64_t stride, const Start<T, float>& start, const WinogradShape& shape,
                  int64_t padded, TileRows rows, float* half) {
  int64_t K = shape.out_channels, ld = 4 * shape.tile_columns() * K + kWide;
  for (int64_t row = 0; row < rows.count; ++row) {
    int64_t n = (rows.first + row) / shape.tile_rows(), top = (rows.first + row) % shape.tile_rows() * 4;
    for (int64_t i = 0; i < 6; ++i)
      for (int64_t t = 0; t < shape.tile_columns(); ++t) {
        const float* from = m + i * 6 * stride + (row * shape.tile_columns() + t) * padded;
        transform_pixels<6, 4>(half + i * ld + 4 * t * K, K, from, stride, K, kOutput);
      }
    T* to = y + (n * shape.out_height + top) * shape.out_width * K;
    int64_t height = std::min<int64_t>(4, shape.out_height - top), pitch = shape.out_width * K;
    for (int64_t j = 0; j < shape.out_width; ++j) {
      for (int64_t k = 0; k < K; k += kWide) {
        V in[6], out[4], base = V{};
        if (start.bias) base += load_vector(start.bias + k);
        if (start.shift) base += load_vector(start.shift + n * padded + k);
#pragma GCC unroll 6
        for (int i = 0; i < 6; ++i) in[i] = load_vector(half + i * ld + j * K + k);
        transform_output(out, in[0], in[1], in[2], in[3], in[4], in[5]);
#pragma GCC unroll 4
        for (int64_t i = 0; i < 4; ++i) {
          if (i >= height) break;
          V value = out[i] + base;
          if (start.residual) value += load_vector_as<float>(start.residual + (to - y) + i * pitch + j * K + k);
          store_vector_as<float>(to + i * pitch + j * K + k, value);
        }
      }
    }
  }
}

/// g[point][t][padded] = A dy A^T; pixels outside the image count as zero.
template <class T>
void gradient_tiles(float* g, int64_t stride, const T* dy, const WinogradShape& shape, int64_t padded, TileRows rows,
                    float* half, const T* zeros) {
  int64_t K = shape.out_channels, ld = 4 * shape.tile_columns() * K + kWide, length = shape.out_width * K;
  for (int64_t i = 0; i < 6; ++i) std::fill(half + i * ld + length, half + (i + 1) * ld, 0.0f);
  for (int64_t row = 0; row < rows.count; ++row) {
    int64_t n = (rows.first + row) / shape.tile_rows(), top = (rows.first + row) % shape.tile_rows() * 4;
    std::array<const T*, 4> from;
    for (int64_t i = 0; i < 4; ++i) from[size_t(i)] = pixel_row(dy, n, shape.out_height, shape.out_width, K, top + i, zeros);
    transform_rows<4, 6>(half, ld, from, length, kGradient);
    float* to = g + row * shape.tile_columns() * padded;
    for (int64_t i = 0; i < 6; ++i)
      for (int64_t t = 0; t < shape.tile_columns(); ++t)
        transform_pixels<4, 6>(to + i * 6 * stride + t * padded, stride, half + i * ld + 4 * t * K, K, K, kGradient);
  }
}

// ---- Weights -------------------------------------------------------------------------------------------------------

/// u[point][panel][c][kPanel] = G g G^T. Columns past K are zero. C and K are multiples of 16.
template <class T>
void kernel_tiles(float* u, int64_t stride, const T* w, bool exchanged, int64_t C, int64_t K) {
  constexpr int64_t kColumns = kPanel<float>;
  int64_t panels = panels_of<float>(K), groups = C / kWide;
  int64_t grain = std::max<int64_t>(kGrain / (kPoints * kColumns * kWide), 1);
  parallel_for(panels * groups, grain, [&](int64_t first, int64_t last) {
    alignas(64) float g[9][kWide * kWide];   // [tap][c][k] of a square of channels
    for (int64_t item = first; item < last; ++item) {
      int64_t panel = item / groups, c0 = item % groups * kWide;
      for (int64_t column = 0; column < kColumns; column += kWide) {
        int64_t k = panel * kColumns + column;
        for (int64_t tap = 0; tap < 9; ++tap) {
          if (k >= K) {
            std::fill(g[tap], g[tap] + kWide * kWide, 0.0f);
          } else if (exchanged) {   // w is [3, 3, K, C], turned by half a circle
            transpose_square<float>(g[tap], kWide, w + ((8 - tap) * K + k) * C + c0, C);
          } else {
            for (int64_t c = 0; c < kWide; ++c)
              store_vector(g[tap] + c * kWide, load_vector_as<float>(w + (tap * C + c0 + c) * K + k));
          }
        }
        for (int64_t c = 0; c < kWide; ++c) {
          V tap[9], half[3][6], out[6];
          for (int i = 0; i < 9; ++i) tap[i] = load_vector(g[i] + c * kWide);
          for (int j = 0; j < 3; ++j) transform_kernel(half[j], tap[j], tap[3 + j], tap[6 + j]);
          float* to = u + (panel * C + c0 + c) * kColumns + column;
          for (int i = 0; i < 6; ++i) {
            transform_kernel(out, half[0][i], half[1][i], half[2][i]);
            for (int j = 0; j < 6; ++j) store_vector(to + (i * 6 + j) * stride, out[j]);
          }
        }
      }
    }
  });
}

}  // namespace

bool WinogradShape::pays_in_f32() const {
  // Small images leave the transform of the weights little to save. How many images there are must not count: an image
  // keeps its bits whatever batch it is in.
  return images > 0 && in_channels > 0 && in_channels % 16 == 0 && out_channels % 16 == 0 && out_height >= 4 &&
         out_width >= 4 && out_height * out_width >= 49;
}

template <class T>
void winograd_conv(T* y, const T* x, const T* w, bool exchanged, const Start<T, float>& start, const WinogradShape& shape) {
  constexpr int64_t kColumns = kPanel<float>;
  int64_t C = shape.in_channels, K = shape.out_channels, panels = panels_of<float>(K), padded = panels * kColumns;
  int64_t u_stride = point_stride(panels * C * kColumns);
  Scratch<float> u(kPoints * u_stride);
  kernel_tiles(u.data(), u_stride, w, exchanged, C, K);

  int64_t block = block_rows(shape), all_rows = shape.images * shape.tile_rows(), blocks = (all_rows + block - 1) / block;
  int64_t tiles = block * shape.tile_columns(), v_stride = point_stride(tiles * C), m_stride = point_stride(tiles * padded);
  ThreadScratch<float> scratch(kPoints * (v_stride + m_stride) + half_elements(shape));
  parallel_for(blocks, 1, [&](int64_t first_block, int64_t last_block) {
    float *v = scratch.mine(), *m = v + kPoints * v_stride, *half = m + kPoints * m_stride;
    T* zeros = zero_row<T>(half, shape);
    for (int64_t b = first_block; b < last_block; ++b) {
      TileRows rows{b * block, std::min(block, all_rows - b * block)};
      int64_t count = rows.count * shape.tile_columns(), step = tile_rows(count);
      input_tiles(v, v_stride, x, shape, rows, half, static_cast<const T*>(zeros));
      for (int64_t point = 0; point < kPoints; ++point) {
        for (int64_t panel = 0; panel < panels; ++panel) {
          const float* weights = u.data() + point * u_stride + panel * C * kColumns;
          for (int64_t row = 0; row < count; row += step) {
            for_rows(std::min(step, count - row), [&](auto height) {
              auto run = [&](auto vectors) {
                Tile<float, height(), vectors()> tile;
                tile.clear();
                tile.add_rows(C, v + point * v_stride + row * C, C, weights, kColumns);
                tile.store(m + point * m_stride + row * padded + panel * kColumns, padded, vectors() * kWide);
              };
              if (tile_vectors<float>(K - panel * kColumns) == 1) run(std::integral_constant<int, 1>{});
              else run(std::integral_constant<int, kTileVectors>{});
            });
          }
        }
      }
      output_tiles(y, m, m_stride, start, shape, padded, rows, half);
    }
  });
}

template <class T>
void winograd_dw(T* dw, const T* x, const T* dy, const WinogradShape& shape) {
  constexpr int64_t kColumns = kPanel<float>;
  int64_t C = shape.in_channels, K = shape.out_channels, padded = panels_of<float>(K) * kColumns;
  int64_t w_stride = point_stride(C * padded), sums = kPoints * w_stride;
  int64_t block = block_rows(shape), all_rows = shape.images * shape.tile_rows(), blocks = (all_rows + block - 1) / block;
  int64_t tiles = block * shape.tile_columns();
  // Blocks are cut into chunks with sums of their own, folded in order at the end; how many depends on shapes only.
  int64_t chunks = std::clamp<int64_t>((int64_t(8) << 20) / (sums * int64_t(sizeof(float))), 1, 8);
  chunks = std::min(chunks, blocks);
  // Chunks alone may be too few for the threads: then each is shared by threads that own different columns.
  int64_t panels = panels_of<float>(K), shares = std::min<int64_t>((omp_get_max_threads() + chunks - 1) / chunks, panels);
  bool far = sums * int64_t(sizeof(float)) > (int64_t(1) << 20);   // more than L2 holds
  int64_t v_stride = point_stride(tiles * C), g_stride = point_stride(tiles * padded);
  Scratch<float> partial(chunks * sums);
  ThreadScratch<float> scratch(kPoints * (v_stride + g_stride) + half_elements(shape));
  parallel_for(chunks * shares, 1, [&](int64_t first_item, int64_t last_item) {
    float *v = scratch.mine(), *g = v + kPoints * v_stride, *half = g + kPoints * g_stride;
    T* zeros = zero_row<T>(half, shape);
    for (int64_t item = first_item; item < last_item; ++item) {
      int64_t chunk = item / shares, share = item % shares, chunk_begin = blocks * chunk / chunks;
      float* out = partial.data() + chunk * sums;
      for (int64_t b = chunk_begin; b < blocks * (chunk + 1) / chunks; ++b) {
        TileRows rows{b * block, std::min(block, all_rows - b * block)};
        int64_t count = rows.count * shape.tile_columns(), step = tile_rows(C);
        input_tiles(v, v_stride, x, shape, rows, half, static_cast<const T*>(zeros));
        gradient_tiles(g, g_stride, dy, shape, padded, rows, half, static_cast<const T*>(zeros));
        for (int64_t point = 0; point < kPoints; ++point) {
          for (int64_t panel = panels * share / shares; panel < panels * (share + 1) / shares; ++panel) {
            const float* gradient = g + point * g_stride + panel * kColumns;
            for (int64_t c = 0; c < C; c += step) {
              for_rows(std::min(step, C - c), [&](auto height) {
                auto run = [&](auto vectors) {
                  float* to = out + point * w_stride + c * padded + panel * kColumns;
                  Tile<float, height(), vectors()> tile;
                  tile.clear();
                  if (far)   // the sums of the next tile come from memory while these are made
                    for (int row = 0; row < height(); ++row)
                      for (int v = 0; v < vectors(); ++v) __builtin_prefetch(to + (step + row) * padded + v * kWide, 1);
                  if (b > chunk_begin) tile.add_from(to, padded, vectors() * kWide);
                  tile.add_columns(count, v + point * v_stride + c, C, gradient, padded);
                  tile.store(to, padded, vectors() * kWide);
                };
                if (tile_vectors<float>(K - panel * kColumns) == 1) run(std::integral_constant<int, 1>{});
                else run(std::integral_constant<int, kTileVectors>{});
              });
            }
          }
        }
      }
    }
  });

  parallel_for(C, std::max<int64_t>(kGrain / (kPoints * chunks * K), 1), [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      for (int64_t k = 0; k < K; k += kWide) {
        const float* from = partial.data() + c * padded + k;
        V half[6][3];
        for (int j = 0; j < 6; ++j) {
          V in[6];
          for (int i = 0; i < 6; ++i) {
            in[i] = V{};
            for (int64_t chunk = 0; chunk < chunks; ++chunk)
              in[i] += load_vector(from + chunk * sums + (i * 6 + j) * w_stride);
          }
          transform_kernel_gradient(half[j], in[0], in[1], in[2], in[3], in[4], in[5]);
        }
        for (int p = 0; p < 3; ++p) {
          V out[3];
          transform_kernel_gradient(out, half[0][p], half[1][p], half[2][p], half[3][p], half[4][p], half[5][p]);
          for (int q = 0; q < 3; ++q) store_vector_as<float>(dw + ((p * 3 + q) * C + c) * K + k, out[q]);
        }
      }
    }
  });
}

#define MOTE_WINOGRAD(T)                                                                                              \
  template void winograd_conv(T*, const T*, const T*, bool, const Start<T, float>&, const WinogradShape&);            \
  template void winograd_dw(T*, const T*, const T*, const WinogradShape&);
MOTE_WINOGRAD(float)
MOTE_WINOGRAD(bf16)
#undef MOTE_WINOGRAD

}  // namespace mote::cpu
