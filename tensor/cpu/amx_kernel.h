// amx_kernel.h - the micro-kernel of products in tiles: sums of two tiles of rows by two of columns stay in tiles while
// k runs, then leave through a small array in f32 for bias, residual and rounding. It reads A as rows and B as the panels
// of pairs of gemm.h; both hold zeros from K up to a multiple of kAmxDepth.
#pragma once
#include "tensor/cpu/amx.h"
#include "tensor/cpu/tile.h"

namespace mote::cpu {

inline constexpr int64_t kAmxRows = kTileMaxRows;     // rows of A and of sums in a tile
inline constexpr int64_t kAmxDepth = kTileMaxBytes / 2;  // k of a tile
inline constexpr int64_t kAmxColumns = 32;            // of a panel of B: two tiles
static_assert(!kPairs || kAmxColumns == kPanel<float>);

/// The sums of R tiles of rows by V of columns. Tiles 0..3 hold sums, 4 and 5 rows of A, 6 and 7 pairs of B.
template <int R, int V>
struct AmxSums {
  static MOTE_INLINE void clear() {
    Tiles::zero<0>();
    if constexpr (V > 1) Tiles::zero<1>();
    if constexpr (R > 1) Tiles::zero<2>();
    if constexpr (R > 1 && V > 1) Tiles::zero<3>();
  }

  /// sums += A B over k < length, a multiple of kAmxDepth: rows of A from `first` on and from `second` on, lda elements
  /// apart, by the first V tiles of a panel of B.
  static MOTE_INLINE void add(int64_t length, const bf16* first, const bf16* second, int64_t lda, const bf16* b) {
    constexpr int64_t kPairBytes = 2 * kAmxColumns * int64_t(sizeof(bf16));
    int64_t row_bytes = lda * int64_t(sizeof(bf16));
    for (int64_t k = 0; k < length; k += kAmxDepth) {
      Tiles::load<6>(b, kPairBytes);
      if constexpr (V > 1) Tiles::load<7>(b + kAmxColumns, kPairBytes);
      Tiles::load<4>(first + k, row_bytes);
      Tiles::dot<0, 4, 6>();
      if constexpr (V > 1) Tiles::dot<1, 4, 7>();
      if constexpr (R > 1) {
        Tiles::load<5>(second + k, row_bytes);
        Tiles::dot<2, 5, 6>();
        if constexpr (V > 1) Tiles::dot<3, 5, 7>();
      }
      b += kAmxDepth * kAmxColumns;
    }
  }

  /// to[r][column]: the rows of the second tile start at row kAmxRows.
  static MOTE_INLINE void store(float* to) {
    constexpr int64_t kRowBytes = kAmxColumns * int64_t(sizeof(float));
    Tiles::store<0>(to, kRowBytes);
    if constexpr (V > 1) Tiles::store<1>(to + kAmxColumns / 2, kRowBytes);
    if constexpr (R > 1) Tiles::store<2>(to + kAmxRows * kAmxColumns, kRowBytes);
    if constexpr (R > 1 && V > 1) Tiles::store<3>(to + kAmxRows * kAmxColumns + kAmxColumns / 2, kRowBytes);
  }
};

/// Tiles of the calling thread, in use while it lives: one at a time a thread. They are given back at the end, because
/// the operating system saves 8 KiB at every switch away from a thread that has not.
class AmxRegion {
 public:
  AmxRegion() = default;
  ~AmxRegion() { Tiles::release(); }
  AmxRegion(const AmxRegion&) = delete;
  AmxRegion& operator=(const AmxRegion&) = delete;

  /// Sums of `first` + `second` rows (the latter may be 0) by `columns` of a panel: add(sums) adds products to the cleared
  /// AmxSums, then finish(row, second, sums) is called for each row, numbered within the first or the second tile, with
  /// its Tile<float, 1, V>.
  template <class Add, class Finish>
  void run(int64_t first, int64_t second, int64_t columns, Add&& add, Finish&& finish) {
    shape(first, second);
    if (tile_vectors<float>(columns) == 1) {
      if (second > 0) sum<2, 1>(first, second, add, finish);
      else sum<1, 1>(first, second, add, finish);
    } else {
      if (second > 0) sum<2, 2>(first, second, add, finish);
      else sum<1, 2>(first, second, add, finish);
    }
  }

 private:
  template <int R, int V, class Add, class Finish>
  void sum(int64_t first, int64_t second, Add&& add, Finish&& finish) {
    AmxSums<R, V> sums;
    sums.clear();
    add(sums);
    sums.store(sums_);
    for (int64_t half = 0; half < R; ++half) {
      for (int64_t row = 0; row < (half ? second : first); ++row) {
        Tile<float, 1, V> tile;
        tile.clear();
        tile.add_from(sums_ + (half * kAmxRows + row) * kAmxColumns, 0, tile.kWidth);
        finish(row, half == 1, tile);
      }
    }
  }

  /// Shapes for so many rows; what is there stays if it serves, for loading a configuration takes as long as some products.
  void shape(int64_t first, int64_t second) {
    if (first == first_ && (second == second_ || second == 0)) return;
    first_ = first, second_ = second;
    TileConfig config;
    for (int tile = 0; tile < kTiles; ++tile) {
      int64_t rows = tile >= 6 ? kAmxDepth / 2 : tile == 2 || tile == 3 || tile == 5 ? second : first;
      config.rows[tile] = uint8_t(rows);
      config.row_bytes[tile] = rows > 0 ? kTileMaxBytes : 0;
    }
    Tiles::configure(config);
  }

  int64_t first_ = 0, second_ = 0;
  alignas(64) float sums_[2 * kAmxRows * kAmxColumns];
};

/// Rows of each tile when `length` rows are cut into as few, as equal tiles as fit: 28 -> 14.
constexpr int64_t amx_rows(int64_t length) {
  int64_t tiles = std::max<int64_t>((length + kAmxRows - 1) / kAmxRows, 1);
  return std::max<int64_t>((length + tiles - 1) / tiles, 1);
}

}  // namespace mote::cpu
