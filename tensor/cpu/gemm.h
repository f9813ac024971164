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

/// k of a block: a tile's rows of A (21 KB or 28 KB) stay in L1 while panels of B pass through.
template <class E> inline constexpr int64_t kBlockK = std::is_same_v<E, bf16> ? 1024 : 384;
inline constexpr int64_t kBlockM = 112;    // a block of A (172 or 229 KB) stays in L2

template <class C>
int64_t panels_of(int64_t columns) { return (columns + kPanel<C> - 1) / kPanel<C>; }

/// K as it is packed: bf16 comes in pairs.
template <class E>
constexpr int64_t packed_k(int64_t K) { return std::is_same_v<E, bf16> ? (K + 1) / 2 * 2 : K; }

/// Elements that pack_panels writes.
template <class E>
int64_t packed_size(int64_t K, int64_t N) { return panels_of<compute_t<E>>(N) * kPanel<compute_t<E>> * packed_k<E>(K); }

/// Packs panel `panel` of B: out[k kPanel + column], of bf16 out[k / 2][column][k % 2]; columns past N, and k past K where
/// K is odd, are zero.
template <class E, class T>
void pack_panel(E* out, const Matrix<T>& b, int64_t K, int64_t N, int64_t panel) {
  constexpr int64_t kColumns = kPanel<compute_t<E>>;
  int64_t first = panel * kColumns, columns = std::min<int64_t>(kColumns, N - first);
  if constexpr (std::is_same_v<E, bf16>) {
    auto pair = [](bf16 low, bf16 high) { return uint32_t(low.bits) | uint32_t(high.bits) << 16; };
    auto* pairs = reinterpret_cast<uint32_t*>(out);
    for (int64_t k = 0; k < K; k += 2) {
      uint32_t* to = pairs + k / 2 * kColumns;
      int64_t next = k + 1 < K;   // 0: a last pair of one
      if (b.transposed) {
        const T* from = b.data + first * b.ld + k;
        for (int64_t column = 0; column < columns; ++column) {
          const T* at = from + column * b.ld;
          to[column] = pair(bf16(at[0]), next ? bf16(at[1]) : bf16());
        }
      } else {
        const T *low = b.data + k * b.ld + first, *high = low + next * b.ld;
        uint32_t mask = next ? ~0u : 0xffffu;
        for (int64_t column = 0; column < columns; ++column) to[column] = pair(bf16(low[column]), bf16(high[column])) & mask;
      }
      std::fill(to + columns, to + kColumns, 0u);
    }
  } else if (b.transposed) {
    for (int64_t column = 0; column < kColumns; ++column) {
      const T* from = b.data + (first + column) * b.ld;
      for (int64_t k = 0; k < K; ++k) out[k * kColumns + column] = column < columns ? E(from[k]) : E(0);
    }
  } else {
    for (int64_t k = 0; k < K; ++k) {
      const T* from = b.data + k * b.ld + first;
      for (int64_t column = 0; column < columns; ++column) out[k * kColumns + column] = E(from[column]);
      for (int64_t column = columns; column < kColumns; ++column) out[k * kColumns + column] = E(0);
    }
  }
}

/// block[r ld + k] = element (m0 + r, k0 + k) of A; an odd length is filled up with a zero where E comes in pairs.
template <class E, class TA>
void pack_block(E* block, int64_t ld, const Matrix<TA>& a, int64_t m0, int64_t rows, int64_t k0, int64_t length) {
  for (int64_t r = 0; r < rows && packed_k<E>(length) > length; ++r) block[r * ld + length] = E(0.0f);
  if (!a.transposed) {
    for (int64_t r = 0; r < rows; ++r) {
      const TA* from = a.data + (m0 + r) * a.ld + k0;
      for (int64_t k = 0; k < length; ++k) block[r * ld + k] = E(from[k]);
    }
    return;
  }
  constexpr int64_t kSquare = 16;   // cache lines of both sides stay in L1 while a square is turned
  for (int64_t k1 = 0; k1 < length; k1 += kSquare)
    for (int64_t r1 = 0; r1 < rows; r1 += kSquare)
      for (int64_t r = r1; r < std::min(rows, r1 + kSquare); ++r)
        for (int64_t k = k1; k < std::min(length, k1 + kSquare); ++k)
          block[r * ld + k] = E(a.data[(k0 + k) * a.ld + m0 + r]);
}

/// Rows first..last-1 of C against packed panels of B. `block` holds kBlockElements<E>. C may be of another type than
/// the sums, to be rounded once, if K <= kBlockK<E>.
///   bias [N] or null starts each sum; accumulate starts from what C holds.
template <class C, class E, class TA, class TC>
void gemm_rows(int64_t first, int64_t last, int64_t N, int64_t K, const Matrix<TA>& a, const E* panels, TC* c,
               int64_t ldc, const C* bias, bool accumulate, E* block) {
  for (int64_t m0 = first; m0 < last; m0 += kBlockM) {
    int64_t rows = std::min(kBlockM, last - m0), step = tile_rows(rows);
    for (int64_t k0 = 0; k0 == 0 || k0 < K; k0 += kBlockK<E>) {
      int64_t length = packed_k<E>(std::min(kBlockK<E>, K - k0)), ld = length + kLanes<C>;   // no aliasing in L1
      // The columns of a narrow transposed A are read in place: the tile wants them side by side anyway.
      bool in_place = std::is_same_v<TA, E> && std::is_same_v<E, C> && a.transposed && a.ld <= kBlockK<E> + kLanes<C>;
      if (!in_place) pack_block(block, ld, a, m0, rows, k0, std::min(kBlockK<E>, K - k0));
      for (int64_t panel = 0; panel < panels_of<C>(N); ++panel) {
        const E* b = panels + panel * kPanel<C> * packed_k<E>(K) + k0 * kPanel<C>;
        int64_t column = panel * kPanel<C>, columns = std::min<int64_t>(kPanel<C>, N - column);
        for (int64_t r = 0; r < rows; r += step) {
          for_rows(std::min(step, rows - r), [&](auto m) {
            auto run = [&](auto vectors) {
              Tile<C, m(), vectors()> tile;
              tile.clear();
              TC* to = c + (m0 + r) * ldc + column;
              if (k0 > 0 || accumulate) tile.add_from(to, ldc, columns);
              else if (bias) tile.add_from(bias + column, 0, columns);
              if (in_place) {
                const E* columns_of_a = reinterpret_cast<const E*>(a.data) + k0 * a.ld + m0 + r;
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

template <class E> inline constexpr int64_t kBlockElements = kBlockM * (kBlockK<E> + 16);

/// One product on the calling thread; A and B may be of different types. `work` holds packed_size<E>(K, N) +
/// kBlockElements<E> elements of E, what the tile multiplies.
template <class E, class C, class TA, class TB>
void gemm_serial(int64_t M, int64_t N, int64_t K, const Matrix<TA>& a, const Matrix<TB>& b, C* c, int64_t ldc,
                 bool accumulate, E* work, const compute_t<E>* bias = nullptr) {
  for (int64_t panel = 0; panel < panels_of<compute_t<E>>(N); ++panel)
    pack_panel(work + panel * kPanel<compute_t<E>> * packed_k<E>(K), b, K, N, panel);
  gemm_rows(int64_t(0), M, N, K, a, static_cast<const E*>(work), c, ldc, bias, accumulate, work + packed_size<E>(K, N));
}

}  // namespace mote::cpu
