// gemm.h - packed matrix products: C[M, N] = op(A)[M, K] op(B)[K, N] (+ C), row-major with leading dimensions.
// B is packed into panels of kPanel columns; A is packed a block at a time; the tile of tile.h does the work, or, for
// bf16 where there is AMX, the tiles of amx_kernel.h. Each element is summed over k in an order that does not depend on
// the tiling, so results do not depend on the thread count.
#pragma once
#include "tensor/cpu/amx_kernel.h"
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

/// k of a block: a tile's rows of A (28 KB) stay in L1 while panels of B pass through.
template <class E> inline constexpr int64_t kBlockK = std::is_same_v<E, bf16> ? 1024 : 512;
inline constexpr int64_t kBlockM = 224;    // a block of A (473 KB) stays in L2

template <class C>
int64_t panels_of(int64_t columns) { return (columns + kPanel<C> - 1) / kPanel<C>; }

/// K as it is packed: bf16 comes in pairs, or in whole tiles of AMX.
template <class E>
int64_t packed_k(int64_t K) {
  if constexpr (!std::is_same_v<E, bf16>) return K;
  int64_t unit = amx_enabled() ? kAmxDepth : 2;
  return (K + unit - 1) / unit * unit;
}

/// Elements that pack_panels (below) writes.
template <class E>
int64_t packed_size(int64_t K, int64_t N) { return panels_of<compute_t<E>>(N) * kPanel<compute_t<E>> * packed_k<E>(K); }

/// Packs panel `panel` of B: out[k kPanel + column], of bf16 out[k / 2][column][k % 2]; columns past N, and k from K up to
/// packed_k(K), are zero.
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
    std::fill(pairs + (K + 1) / 2 * kColumns, pairs + packed_k<E>(K) / 2 * kColumns, 0u);
  } else if (b.transposed) {
    transpose<E>(out, kColumns, b.data + first * b.ld, b.ld, K, columns);
    for (int64_t k = 0; k < K && columns < kColumns; ++k) std::fill(out + k * kColumns + columns, out + (k + 1) * kColumns, E(0));
  } else {
    for (int64_t k = 0; k < K; ++k) {
      const T* from = b.data + k * b.ld + first;
      for (int64_t column = 0; column < columns; ++column) out[k * kColumns + column] = E(from[column]);
      for (int64_t column = columns; column < kColumns; ++column) out[k * kColumns + column] = E(0);
    }
  }
}

/// block[r ld + k] = element (m0 + r, k0 + k) of A; from `length` up to packed_k(length) it is zero.
template <class E, class TA>
void pack_block(E* block, int64_t ld, const Matrix<TA>& a, int64_t m0, int64_t rows, int64_t k0, int64_t length) {
  int64_t padding = packed_k<E>(length) - length;
  for (int64_t r = 0; r < rows && padding > 0; ++r) std::fill_n(block + r * ld + length, padding, E(0.0f));
  if (!a.transposed) {
    for (int64_t r = 0; r < rows; ++r) {
      const TA* from = a.data + (m0 + r) * a.ld + k0;
      if constexpr (std::is_same_v<E, TA>) std::copy(from, from + length, block + r * ld);
      else for (int64_t k = 0; k < length; ++k) block[r * ld + k] = E(from[k]);
    }
    return;
  }
  const TA* from = a.data + k0 * a.ld + m0;
  if constexpr (std::is_same_v<E, bf16> && std::is_same_v<TA, bf16>) transpose(block, ld, from, a.ld, rows, length);
  else transpose<compute_t<E>>(block, ld, from, a.ld, rows, length);
}

/// gemm_block (below) in tiles of AMX.
template <class TC>
void gemm_block_amx(int64_t rows, int64_t N, int64_t length, const bf16* block, int64_t ld, const bf16* panels,
                    int64_t panel_stride, TC* c, int64_t ldc, const float* bias, bool accumulate) {
  AmxRegion region;
  int64_t step = amx_rows(rows);
  for (int64_t panel = 0; panel < panels_of<float>(N); ++panel) {
    const bf16* b = panels + panel * panel_stride;
    int64_t column = panel * kAmxColumns, columns = std::min(kAmxColumns, N - column);
    for (int64_t r = 0; r < rows; r += 2 * step) {
      const bf16* a = block + r * ld;
      region.run(std::min(step, rows - r), std::clamp<int64_t>(rows - r - step, 0, step), columns,
                 [&](auto sums) { sums.add(length, a, a + step * ld, ld, b); },
                 [&](int64_t row, bool second, auto tile) {
        TC* to = c + (r + second * step + row) * ldc + column;
        if (accumulate) tile.add_from(to, ldc, columns);
        else if (bias) tile.add_from(bias + column, 0, columns);
        tile.store(to, ldc, columns);
      });
    }
  }
}

/// The rows of a packed block against packed panels: c[r, n] (+)= sum over k < length of block[r ld + k] B[k, n].
///   length is packed_k of something; panels: those of the first of these k; panel_stride elements lie between two of them
///   bias [N] or null starts each sum; accumulate starts from what C holds. C may be of another type than the sums.
template <class C, class E, class TC>
void gemm_block(int64_t rows, int64_t N, int64_t length, const E* block, int64_t ld, const E* panels, int64_t panel_stride,
                TC* c, int64_t ldc, const C* bias, bool accumulate) {
  if constexpr (std::is_same_v<E, bf16>) {
    if (amx_enabled())
      return gemm_block_amx(rows, N, length, block, ld, panels, panel_stride, c, ldc, bias, accumulate);
  }
  int64_t step = tile_rows(rows);
  for (int64_t panel = 0; panel < panels_of<C>(N); ++panel) {
    const E* b = panels + panel * panel_stride;
    int64_t column = panel * kPanel<C>, columns = std::min<int64_t>(kPanel<C>, N - column);
    for (int64_t r = 0; r < rows; r += step) {
      for_rows(std::min(step, rows - r), [&](auto m) {
        auto run = [&](auto vectors) {
          Tile<C, m(), vectors()> tile;
          tile.clear();
          TC* to = c + r * ldc + column;
          if (accumulate) tile.add_from(to, ldc, columns);
          else if (bias) tile.add_from(bias + column, 0, columns);
          tile.add_rows(length, block + r * ld, ld, b, kPanel<C>);
          tile.store(to, ldc, columns);
        };
        if (tile_vectors<C>(columns) == 1) run(std::integral_constant<int, 1>{});
        else run(std::integral_constant<int, kTileVectors>{});
      });
    }
  }
}

/// Row length of a packed block: off the powers of two, so that the rows of a tile do not meet in the same cache sets.
template <class E> inline constexpr int64_t kBlockGap = 64 / int64_t(sizeof(E));
template <class E>
int64_t block_ld(int64_t length) { return packed_k<E>(length) + kBlockGap<E>; }

/// Rows first..last-1 of C against all packed panels of B. `block` holds kBlockElements<E>. C may be of another type
/// than the sums, to be rounded once, if K <= kBlockK<E>.
template <class C, class E, class TA, class TC>
void gemm_rows(int64_t first, int64_t last, int64_t N, int64_t K, const Matrix<TA>& a, const E* panels, TC* c,
               int64_t ldc, const C* bias, bool accumulate, E* block) {
  for (int64_t m0 = first; m0 < last; m0 += kBlockM) {
    int64_t rows = std::min(kBlockM, last - m0);
    for (int64_t k0 = 0; k0 == 0 || k0 < K; k0 += kBlockK<E>) {
      int64_t length = std::min(kBlockK<E>, K - k0), ld = block_ld<E>(length);
      const E* rows_of_a = block;
      // Short rows are read where they lie: copying them would cost a good part of multiplying them.
      bool in_place = std::is_same_v<TA, E> && !a.transposed && packed_k<E>(K) == K && packed_k<E>(a.ld) == a.ld &&
                      a.ld * int64_t(sizeof(E)) <= 1024;
      if (in_place) {
        ld = a.ld;
        rows_of_a = reinterpret_cast<const E*>(a.data) + m0 * ld + k0;
      } else {
        pack_block(block, ld, a, m0, rows, k0, length);
      }
      gemm_block(rows, N, packed_k<E>(length), rows_of_a, ld, panels + k0 * kPanel<C>, packed_k<E>(K) * kPanel<C>,
                 c + m0 * ldc, ldc, k0 == 0 ? bias : nullptr, accumulate || k0 > 0);
    }
  }
}

template <class E> inline constexpr int64_t kBlockElements = kBlockM * (kBlockK<E> + kBlockGap<E>);

/// Packs all panels of B.
template <class E, class T>
void pack_panels(E* out, const Matrix<T>& b, int64_t K, int64_t N) {
  for (int64_t panel = 0; panel < panels_of<compute_t<E>>(N); ++panel)
    pack_panel(out + panel * kPanel<compute_t<E>> * packed_k<E>(K), b, K, N, panel);
}

/// One product on the calling thread; A and B may be of different types. `work` holds packed_size<E>(K, N) +
/// kBlockElements<E> elements of E, what the tile multiplies.
template <class E, class C, class TA, class TB>
void gemm_serial(int64_t M, int64_t N, int64_t K, const Matrix<TA>& a, const Matrix<TB>& b, C* c, int64_t ldc,
                 bool accumulate, E* work, const compute_t<E>* bias = nullptr) {
  pack_panels(work, b, K, N);
  gemm_rows(int64_t(0), M, N, K, a, static_cast<const E*>(work), c, ldc, bias, accumulate, work + packed_size<E>(K, N));
}

}  // namespace mote::cpu
