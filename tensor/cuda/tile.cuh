// tile.cuh - tiles of operands in shared memory and the fragments that a warp reads from them: what products
// (product.cuh) and attention (attention.cuh) share.
//
// A tile is a matrix of rows of kRow elements, moved in chunks of 16 bytes. The chunks of a row are exchanged by a key
// of the row, so that eight rows read at one place, or eight places of one row, never meet in a bank.
#pragma once
#include "tensor/cuda/hardware.h"
#include "tensor/dtype.h"
#include "tensor/math.h"

/// Before a loop whose registers must be known when it is compiled: written out as often as it runs, or kTimes at once.
#ifdef __CUDACC__
#define MOTE_PRAGMA(text) _Pragma(#text)
#define MOTE_UNROLL MOTE_PRAGMA(unroll)
#define MOTE_UNROLL_BY(kTimes) MOTE_PRAGMA(unroll kTimes)
#else
#define MOTE_UNROLL
#define MOTE_UNROLL_BY(kTimes)
#endif

namespace mote::MOTE_CUDA_NAMESPACE {

/// Elements of 16 bytes, the unit of all copies.
template <class T> inline constexpr int kChunk = 16 / int(sizeof(T));

/// A tile in shared memory, rows of kRow elements (64 bytes or a multiple of 128).
template <class T, int kRow>
struct Tile {
  static constexpr int kChunks = kRow / kChunk<T>;
  static_assert(kChunks == 4 || kChunks % 8 == 0);
  hw::Ptr<T> base;

  /// Where chunk `number` of `row` lies. Eight rows of four chunks are four lines of 128 bytes, of which a line gives
  /// two rows. Longer rows: the keys of eight rows differ, and those of rows 0 to 3 and 4 to 7 in bits 1 and 2, which
  /// a tf32 fragment that reads two chunks of four rows asks for.
  MOTE_DEVICE hw::Ptr<T> chunk(int row, int number) const {
    int key = kChunks == 4 ? row >> 1 & 3 : (row & 3) << 1 | (row >> 2 & 1);
    return base + (row * kRow + (number ^ key) * kChunk<T>);
  }
  MOTE_DEVICE T at(int row, int column) const { return chunk(row, column / kChunk<T>)[column % kChunk<T>]; }
};

/// `values` of consecutive columns, of which `count` exist, stored at `to`. aligned: all exist, on a multiple of their
/// size.
template <class T, class C, int kCount>
MOTE_DEVICE void store_sums(hw::Ptr<T> to, const C (&values)[kCount], int64_t count, bool aligned) {
  if (aligned) {
    if constexpr (std::is_same_v<T, bf16> && kCount == 2) {
      hw::cast<uint32_t>(to)[0] = hw::pack(values[0], values[1]);
    } else {
      hw::Vec<T, kCount> vector;
      MOTE_UNROLL
      for (int i = 0; i < kCount; ++i) vector[i] = T(values[i]);
      hw::store(to, vector);
    }
  } else {
    MOTE_UNROLL
    for (int i = 0; i < kCount; ++i)
      if (i < count) to[i] = T(values[i]);
  }
}

// ---- Fragments of bf16 ---------------------------------------------------------------------------------------------
// A is 16 rows x 16 k, B two times 16 k x 8 columns. kKFast: k runs along the rows of the tile; otherwise the rows of
// the tile are k, and ldmatrix turns each block of 8 x 8.

template <bool kKFast, int kRow>
MOTE_DEVICE void load_a(uint32_t (&a)[4], Tile<bf16, kRow> tile, int row, int k, int lane) {
  if constexpr (kKFast) hw::ldmatrix(a, tile.chunk(row + lane % 16, k / 8 + lane / 16));
  else hw::ldmatrix_transposed(a, tile.chunk(k + lane % 8 + lane / 16 * 8, row / 8 + lane / 8 % 2));
}

template <bool kKFast, int kRow>
MOTE_DEVICE void load_b(uint32_t (&first)[2], uint32_t (&second)[2], Tile<bf16, kRow> tile, int column, int k,
                        int lane) {
  uint32_t b[4];
  if constexpr (kKFast) hw::ldmatrix(b, tile.chunk(column + lane % 8 + lane / 16 * 8, k / 8 + lane / 8 % 2));
  else hw::ldmatrix_transposed(b, tile.chunk(k + lane % 16, column / 8 + lane / 16));
  first[0] = b[0], first[1] = b[1], second[0] = b[2], second[1] = b[3];
}

}  // namespace mote::MOTE_CUDA_NAMESPACE
