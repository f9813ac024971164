// gemm.h - packed matrix products: C[M, N] = op(A)[M, K] op(B)[K, N] (+ C), row-major with leading dimensions.
// B is packed into panels of kPanel columns; A is packed a block at a time; the tile of tile.h does the work. Each
// element is summed over k in ascending order whatever the tiling, so results do not depend on the thread count.
#pragma once
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/scratch.h"
#include "tensor/cpu/tile.h"

namespace mote::cpu {

/// How the elements of a matrix lie in memory: element (row, column) is data[row ld + column], or, if transposed,
/// data[column ld + row].
template <class T>
struct Matrix {
  const T* data;
  int64_t ld;
  bool transposed = false;
};

inline constexpr int64_t kBlockK = 192;    // a panel of B (24 KB) and a tile's rows of A (11 KB) stay in L1
inline constexpr int64_t kBlockM = 224;    // a block of A (168 KB) stays in L2

template <class C>
int64_t panels_of(int64_t columns) { return (columns + kPanel<C> - 1) / kPanel<C>; }

/// Elements that pack_panels writes.
template <class C>
int64_t packed_size(int64_t K, int64_t N) { return panels_of<C>(N) * kPanel<C> * K; }

/// Packs panel `panel` of B: out[k kPanel + column], columns past N are zero.
template <class C, class T>
void pack_panel(C* out, const Matrix<T>& b, int64_t K, int64_t N, int64_t panel) {
  int64_t first = panel * kPanel<C>, columns = std::min<int64_t>(kPanel<C>, N - first);
  if (b.transposed) {
    for (int64_t column = 0; column < kPanel<C>; ++column) {
      const T* from = b.data + (first + column) * b.ld;
      for (int64_t k = 0; k < K; ++k) out[k * kPanel<C> + column] = column < columns ? C(from[k]) : C(0);
    }
  } else {
    for (int64_t k = 0; k < K; ++k) {
      const T* from = b.data + k * b.ld + first;
      for (int64_t column = 0; column < columns; ++column) out[k * kPanel<C> + column] = C(from[column]);
      for (int64_t column = columns; column < kPanel<C>; ++column) out[k * kPanel<C> + column] = C(0);
    }
  }
}

/// block[r ld + k] = element (m0 + r, k0 + k) of A.
template <class C, class TA>
void pack_block(C* block, int64_t ld, const Matrix<TA>& a, int64_t m0, int64_t rows, int64_t k0, int64_t length) {
  if (!a.transposed) {
    for (int64_t r = 0; r < rows; ++r) {
      const TA* from = a.data + (m0 + r) * a.ld + k0;
      for (int64_t k = 0; k < length; ++k) block[r * ld + k] = C(from[k]);
    }
    return;
  }
  constexpr int64_t kSquare = 16;   // cache lines of both sides stay in L1 while a square is turned
  for (int64_t k1 = 0; k1 < length; k1 += kSquare)
    for (int64_t r1 = 0; r1 < rows; r1 += kSquare)
      for (int64_t r = r1; r < std::min(rows, r1 + kSquare); ++r)
        for (int64_t k = k1; k < std::min(length, k1 + kSquare); ++k)
          block[r * ld + k] = C(a.data[(k0 + k) * a.ld + m0 + r]);
}

/// Rows first..last-1 of C against packed panels of B. `block` holds kBlockM (kBlockK + kLanes) elements.
///   bias [N] or null starts each sum; accumulate starts from what C holds.
template <class C, class TA>
void gemm_rows(int64_t first, int64_t last, int64_t N, int64_t K, const Matrix<TA>& a, const C* panels, C* c,
               int64_t ldc, const C* bias, bool accumulate, C* block) {
  for (int64_t m0 = first; m0 < last; m0 += kBlockM) {
    int64_t rows = std::min(kBlockM, last - m0), step = tile_rows(rows);
    for (int64_t k0 = 0; k0 == 0 || k0 < K; k0 += kBlockK) {
      int64_t length = std::min(kBlockK, K - k0), ld = length + kLanes<C>;   // off the powers of two: no aliasing in L1
      // The columns of a narrow transposed A are read in place: the tile wants them side by side anyway.
      bool in_place = std::is_same_v<TA, C> && a.transposed && a.ld <= kBlockK + kLanes<C>;
      if (!in_place) pack_block(block, ld, a, m0, rows, k0, length);
      for (int64_t panel = 0; panel < panels_of<C>(N); ++panel) {
        const C* b = panels + panel * kPanel<C> * K + k0 * kPanel<C>;
        int64_t column = panel * kPanel<C>, columns = std::min<int64_t>(kPanel<C>, N - column);
        for (int64_t r = 0; r < rows; r += step) {
          for_rows(std::min(step, rows - r), [&](auto m) {
            auto run = [&](auto vectors) {
              Tile<C, m(), vectors()> tile;
              tile.clear();
              C* to = c + (m0 + r) * ldc + column;
              if (k0 > 0 || accumulate) tile.add_from(to, ldc, columns);
              else if (bias) tile.add_from(bias + column, 0, columns);
              if (in_place) {
                const C* columns_of_a = reinterpret_cast<const C*>(a.data) + k0 * a.ld + m0 + r;
                tile.add_columns(length, columns_of_a, a.ld, b, kPanel<C>);
              } else {
                tile.add_rows(length, block + r * ld, ld, b, kPanel<C>);
              }
              tile.store(to, ldc, columns);
            };
            if (tile_vectors<C>(columns) == 1) run(std::integral_constant<int, 1>{});
            else run(std::integral_constant<int, kTileVectors>{});
          });
        }
      }
    }
  }
}

inline constexpr int64_t kBlockElements = kBlockM * (kBlockK + 16);

/// One product on the calling thread; A and B may be of different types. `work` holds packed_size(K, N) +
/// kBlockElements elements.
template <class C, class TA, class TB>
void gemm_serial(int64_t M, int64_t N, int64_t K, const Matrix<TA>& a, const Matrix<TB>& b, C* c, int64_t ldc,
                 bool accumulate, C* work, const C* bias = nullptr) {
  for (int64_t panel = 0; panel < panels_of<C>(N); ++panel)
    pack_panel(work + panel * kPanel<C> * K, b, K, N, panel);
  gemm_rows(int64_t(0), M, N, K, a, work, c, ldc, bias, accumulate, work + packed_size<C>(K, N));
}

}  // namespace mote::cpu
