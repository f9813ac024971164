#include "tensor/cpu/winograd.h"

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
MOTE_INLINE void transform_kernel_gradient(V* out, const V& u0, const V& u1, const V& u2, const V& u3, const V& u4, const V& u5) {
  V even_a = ga * (u1 + u2), even_b = gb * (u3 + u4);
  out[0] = g0 * u0 + even_a + even_b;
  out[1] = ga * a1 * (u1 - u2) + gb * b1 * (u3 - u4);
  out[2] = a2 * even_a + b2 * even_b + u5;
}

/// A transform in both directions, of Rows x Rows rows of `width` elements into Points x Points: get(i, j) and put(i, j)
/// are the addresses of a row. Column by column through half [Rows][Points][width], so that few streams of memory are
/// open at a time and each runs on: with all 36 at once the processor prefetches none.
template <int Rows, int Points, class Column, class Get, class Put>
MOTE_INLINE void transform_square(int64_t width, float* half, Column&& column, Get&& get, Put&& put) {
  for (int j = 0; j < Rows; ++j) {
    auto from = get(0, j);
    int64_t step = get(1, j) - from;
    float* to = half + j * Points * width;
    for (int64_t c = 0; c < width; c += kWide) {
      V in[Rows], out[Points];
#pragma GCC unroll 6
      for (int i = 0; i < Rows; ++i) in[i] = load_vector_as<float>(from + i * step + c);
      column(out, in);
#pragma GCC unroll 6
      for (int i = 0; i < Points; ++i) store_vector(to + i * width + c, out[i]);
    }
  }
  for (int i = 0; i < Points; ++i) {
    const float* from = half + i * width;
    auto to = put(i, 0);
    int64_t step = put(i, 1) - to;
    for (int64_t c = 0; c < width; c += kWide) {
      V in[Rows], out[Points];
#pragma GCC unroll 6
      for (int j = 0; j < Rows; ++j) in[j] = load_vector(from + j * Points * width + c);
      column(out, in);
#pragma GCC unroll 6
      for (int j = 0; j < Points; ++j) store_vector(to + j * step + c, out[j]);
    }
  }
}

// ---- Tiles ---------------------------------------------------------------------------------------------------------

struct Place {
  int64_t image, row, column;   // of the tile's first output pixel
};
MOTE_INLINE Place place_of(const WinogradShape& shape, int64_t tile) {
  int64_t columns = shape.tile_columns(), in_image = tile % (shape.tile_rows() * columns);
  return {tile / (shape.tile_rows() * columns), in_image / columns * 4, in_image % columns * 4};
}

/// Floats between the matrices of two points: off the multiples of a page, or all 36 streams of a transform would meet
/// in the same cache sets.
int64_t point_stride(int64_t elements) { return (elements + 1023) / 1024 * 1024 + 16; }

/// Tiles handled at once: whole register tiles of rows, both matrices in L2 if the channels allow it.
int64_t block_tiles(const WinogradShape& shape) {
  int64_t bytes_a_tile = kPoints * (shape.in_channels + shape.out_channels) * int64_t(sizeof(float));
  int64_t tiles = std::clamp<int64_t>((int64_t(1) << 20) / bytes_a_tile, 56, 112);
  return tiles / kTileRows * kTileRows;
}

/// Size x Size pixels of an image [height, width, C] whose first one is (row, column): in place, or, where they reach
/// over an edge, copied into `padded` [Size, Size, C] with zeros around.
template <int Size, class T>
struct Patch {
  const T* data;
  int64_t row_stride;

  Patch(const T* image, int64_t height, int64_t width, int64_t C, int64_t row, int64_t column, T* padded) {
    if (row >= 0 && column >= 0 && row + Size <= height && column + Size <= width) {
      data = image + (row * width + column) * C;
      row_stride = width * C;
      return;
    }
    data = padded;
    row_stride = Size * C;
    int64_t begin = std::max<int64_t>(0, -column), end = std::min<int64_t>(Size, width - column);
    for (int64_t i = 0; i < Size; ++i) {
      T* to = padded + i * row_stride;
      bool inside = row + i >= 0 && row + i < height && begin < end;
      int64_t from = inside ? begin : Size, until = inside ? end : Size;
      std::fill(to, to + from * C, T(0.0f));
      const T* source = image + ((row + i) * width + column) * C;
      std::copy(source + from * C, source + until * C, to + from * C);
      std::fill(to + until * C, to + Size * C, T(0.0f));
    }
  }
};

/// v[point][t][c] = B^T d B for the tiles first, first + 1, ..., first + count - 1. Works in padded, half [36 C].
template <class T>
void input_tiles(float* v, int64_t stride, const T* x, const WinogradShape& shape, int64_t first, int64_t count, T* padded,
                 float* half) {
  int64_t C = shape.in_channels;
  for (int64_t t = 0; t < count; ++t) {
    Place at = place_of(shape, first + t);
    Patch<6, T> patch(x + at.image * shape.in_height * shape.in_width * C, shape.in_height, shape.in_width, C,
                      at.row - shape.top, at.column - shape.left, padded);
    transform_square<6, 6>(C, half, [](V* out, const V* in) MOTE_INLINE_LAMBDA { transform_input(out, in[0], in[1], in[2], in[3], in[4], in[5]); },
                           [&](int i, int j) { return patch.data + i * patch.row_stride + j * C; },
                           [&](int i, int j) { return v + (i * 6 + j) * stride + t * C; });
  }
}

/// y = start + A^T m A, clipped to the image: m[point][t][padded]. Works in half [24 K].
template <class T>
void output_tiles(T* y, const float* m, int64_t stride, const Start<T, float>& start, const WinogradShape& shape,
                  int64_t padded, int64_t first, int64_t count, float* half) {
  int64_t K = shape.out_channels;
  for (int64_t t = 0; t < count; ++t) {
    Place at = place_of(shape, first + t);
    int64_t rows = std::min<int64_t>(4, shape.out_height - at.row), columns = std::min<int64_t>(4, shape.out_width - at.column);
    int64_t corner = ((at.image * shape.out_height + at.row) * shape.out_width + at.column) * K;
    for (int j = 0; j < 6; ++j) {
      for (int64_t k = 0; k < K; k += kWide) {
        V in[6], out[4];
#pragma GCC unroll 6
        for (int i = 0; i < 6; ++i) in[i] = load_vector(m + (i * 6 + j) * stride + t * padded + k);
        transform_output(out, in[0], in[1], in[2], in[3], in[4], in[5]);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) store_vector(half + (i * 6 + j) * K + k, out[i]);
      }
    }
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t k = 0; k < K; k += kWide) {
        V in[6], out[4], base = V{};
        if (start.bias) base += load_vector(start.bias + k);
        if (start.shift) base += load_vector(start.shift + at.image * padded + k);
#pragma GCC unroll 6
        for (int j = 0; j < 6; ++j) in[j] = load_vector(half + (i * 6 + j) * K + k);
        transform_output(out, in[0], in[1], in[2], in[3], in[4], in[5]);
#pragma GCC unroll 4
        for (int64_t j = 0; j < 4; ++j) {
          if (j >= columns) break;
          int64_t offset = corner + (i * shape.out_width + j) * K + k;
          V value = out[j] + base;
          if (start.residual) value += load_vector_as<float>(start.residual + offset);
          store_vector_as<float>(y + offset, value);
        }
      }
    }
  }
}

/// g[point][t][columns] = A dy A^T; pixels outside the image count as zero. Works in padded [16 K],
/// half [24 K].
template <class T>
void gradient_tiles(float* g, int64_t stride, const T* dy, const WinogradShape& shape, int64_t columns, int64_t first,
                    int64_t count, T* padded, float* half) {
  int64_t K = shape.out_channels;
  for (int64_t t = 0; t < count; ++t) {
    Place at = place_of(shape, first + t);
    Patch<4, T> patch(dy + at.image * shape.out_height * shape.out_width * K, shape.out_height, shape.out_width, K, at.row,
                      at.column, padded);
    transform_square<4, 6>(K, half, [](V* out, const V* in) MOTE_INLINE_LAMBDA { transform_gradient(out, in[0], in[1], in[2], in[3]); },
                           [&](int i, int j) { return patch.data + i * patch.row_stride + j * K; },
                           [&](int i, int j) { return g + (i * 6 + j) * stride + t * columns; });
  }
}

// ---- Weights -------------------------------------------------------------------------------------------------------

/// u[point][panel][c][kPanel] = G g G^T. Columns past K are zero.
template <class T>
void kernel_tiles(float* u, int64_t stride, const T* w, bool exchanged, int64_t C, int64_t K) {
  constexpr int64_t kColumns = kPanel<float>;
  int64_t panels = panels_of<float>(K);
  parallel_for(panels * C, std::max<int64_t>(kGrain / (kPoints * kColumns), 1), [&](int64_t first, int64_t last) {
    for (int64_t item = first; item < last; ++item) {
      int64_t panel = item / C, c = item % C;
      for (int64_t column = 0; column < kColumns; column += kWide) {
        int64_t k = panel * kColumns + column;
        V g[9];
        for (int64_t tap = 0; tap < 9; ++tap) {
          if (k >= K) g[tap] = V{};
          else if (!exchanged) g[tap] = load_vector_as<float>(w + (tap * C + c) * K + k);
          else   // w is [3, 3, K, C], turned by half a circle
            for (int64_t lane = 0; lane < kWide; ++lane) g[tap][lane] = float(w[((8 - tap) * K + k + lane) * C + c]);
        }
        float* to = u + (panel * C + c) * kColumns + column;
        V half[3][6], out[6];
        for (int j = 0; j < 3; ++j) transform_kernel(half[j], g[j], g[3 + j], g[6 + j]);
        for (int i = 0; i < 6; ++i) {
          transform_kernel(out, half[0][i], half[1][i], half[2][i]);
          for (int j = 0; j < 6; ++j) store_vector(to + (i * 6 + j) * stride, out[j]);
        }
      }
    }
  });
}

}  // namespace

bool WinogradShape::pays_in_f32() const {
  // Below some hundred pixels the transform of the weights costs more than it saves.
  return in_channels % 16 == 0 && out_channels % 16 == 0 && in_channels > 0 && out_height >= 4 && out_width >= 4 &&
         images * out_height * out_width >= 256;
}

template <class T>
void winograd_conv(T* y, const T* x, const T* w, bool exchanged, const Start<T, float>& start, const WinogradShape& shape) {
  constexpr int64_t kColumns = kPanel<float>;
  int64_t C = shape.in_channels, K = shape.out_channels, panels = panels_of<float>(K), padded = panels * kColumns;
  int64_t u_stride = panels * C * kColumns;
  Scratch<float> u(kPoints * u_stride);
  kernel_tiles(u.data(), u_stride, w, exchanged, C, K);

  int64_t block = block_tiles(shape), blocks = (shape.tiles() + block - 1) / block;
  int64_t v_stride = point_stride(block * C), m_stride = point_stride(block * padded);
  ThreadScratch<float> scratch(kPoints * (v_stride + m_stride) + 36 * (C + std::max(C, K)));
  parallel_for(blocks, 1, [&](int64_t first_block, int64_t last_block) {
    float *v = scratch.mine(), *m = v + kPoints * v_stride;
    float* half = m + kPoints * m_stride;
    T* edges = reinterpret_cast<T*>(half + 36 * std::max(C, K));
    for (int64_t b = first_block; b < last_block; ++b) {
      int64_t first = b * block, count = std::min(block, shape.tiles() - first), step = tile_rows(count);
      input_tiles(v, v_stride, x, shape, first, count, edges, half);
      for (int64_t point = 0; point < kPoints; ++point) {
        for (int64_t panel = 0; panel < panels; ++panel) {
          const float* weights = u.data() + point * u_stride + panel * C * kColumns;
          for (int64_t row = 0; row < count; row += step) {
            for_rows(std::min(step, count - row), [&](auto rows) {
              auto run = [&](auto vectors) {
                Tile<float, rows(), vectors()> tile;
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
      output_tiles(y, m, m_stride, start, shape, padded, first, count, half);
    }
  });
}

template <class T>
void winograd_dw(T* dw, const T* x, const T* dy, const WinogradShape& shape) {
  constexpr int64_t kColumns = kPanel<float>;
  int64_t C = shape.in_channels, K = shape.out_channels, padded = panels_of<float>(K) * kColumns;
  int64_t sums = kPoints * C * padded, block = block_tiles(shape), blocks = (shape.tiles() + block - 1) / block;
  // Blocks are cut into chunks with sums of their own, folded in order at the end; how many depends on shapes only.
  int64_t chunks = std::clamp<int64_t>((int64_t(8) << 20) / (sums * int64_t(sizeof(float))), 2, 8);
  chunks = std::min(chunks, blocks);
  // Chunks alone may be too few for the threads: then each is shared by threads that own different columns.
  int64_t panels = panels_of<float>(K), shares = std::min<int64_t>((omp_get_max_threads() + chunks - 1) / chunks, panels);
  int64_t v_stride = point_stride(block * C), g_stride = point_stride(block * padded);
  Scratch<float> partial(chunks * sums);
  ThreadScratch<float> scratch(kPoints * (v_stride + g_stride) + 72 * std::max(C, K));
  parallel_for(chunks * shares, 1, [&](int64_t first_item, int64_t last_item) {
    float *v = scratch.mine(), *g = v + kPoints * v_stride;
    float* half = g + kPoints * g_stride;
    T* edges = reinterpret_cast<T*>(half + 36 * std::max(C, K));
    for (int64_t item = first_item; item < last_item; ++item) {
      int64_t chunk = item / shares, share = item % shares, chunk_begin = blocks * chunk / chunks;
      float* out = partial.data() + chunk * sums;
      for (int64_t b = chunk_begin; b < blocks * (chunk + 1) / chunks; ++b) {
        int64_t first = b * block, count = std::min(block, shape.tiles() - first), step = tile_rows(C);
        input_tiles(v, v_stride, x, shape, first, count, edges, half);
        gradient_tiles(g, g_stride, dy, shape, padded, first, count, edges, half);
        for (int64_t point = 0; point < kPoints; ++point) {
          for (int64_t panel = panels * share / shares; panel < panels * (share + 1) / shares; ++panel) {
            const float* gradient = g + point * g_stride + panel * kColumns;
            for (int64_t c = 0; c < C; c += step) {
              for_rows(std::min(step, C - c), [&](auto rows) {
                auto run = [&](auto vectors) {
                  float* to = out + (point * C + c) * padded + panel * kColumns;
                  Tile<float, rows(), vectors()> tile;
                  tile.clear();
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
              in[i] += load_vector(from + chunk * sums + (i * 6 + j) * C * padded);
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
