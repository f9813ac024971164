// warp_product.cuh - products of one warp for attention: 16 rows of A times a tile that the block shares. Sums lie as
// mma.sync leaves them: of columns 8 j to 8 j + 7, lane l holds those at 2 (l % 4) and the next, in row l / 4 (values
// 0, 1) and row l / 4 + 8 (values 2, 3). bf16 goes through tensor cores; f32 and f64 are summed by fused multiply-adds
// in the same places, so that attention is written once.
#pragma once
#include "tensor/cuda/tile.cuh"

namespace mote::MOTE_CUDA_NAMESPACE {

template <class C> inline constexpr C kInfinity = C(__builtin_huge_val());
template <class C> inline constexpr C kLog2E = C(1.44269504088896340736);

/// 2^x in the type of x: the device has an instruction for it, for e^x it has not.
MOTE_DEVICE float exp2_of(float x) { return ::exp2f(x); }
MOTE_DEVICE double exp2_of(double x) { return ::exp2(x); }

template <class C, int kTiles>
MOTE_DEVICE void clear(C (&sum)[kTiles][4]) {
  MOTE_UNROLL
  for (auto& tile : sum)
    MOTE_UNROLL
    for (C& one : tile) one = C(0);
}

/// sum += a[row .. row + 15, :] b[0 .. 8 kTiles - 1, :]^T.
template <class T, int kWidth, int kTiles>
MOTE_DEVICE void multiply_rows(compute_t<T> (&sum)[kTiles][4], Tile<T, kWidth> a, int row, Tile<T, kWidth> b) {
  int lane = hw::lane();
  if constexpr (std::is_same_v<T, bf16>) {
    MOTE_UNROLL
    for (int d = 0; d < kWidth; d += 16) {
      uint32_t part_a[4];
      load_a<true>(part_a, a, row, d, lane);
      MOTE_UNROLL
      for (int j = 0; j < kTiles; j += 2) {
        uint32_t first[2], second[2];
        load_b<true>(first, second, b, 8 * j, d, lane);
        hw::mma_bf16(sum[j], part_a, first);
        hw::mma_bf16(sum[j + 1], part_a, second);
      }
    }
  } else {
    constexpr int kVector = kChunk<T>;
    MOTE_UNROLL_BY(1)
    for (int chunk = 0; chunk < kWidth / kVector; ++chunk) {
      auto low = hw::load<kVector>(a.chunk(row + lane / 4, chunk));
      auto high = hw::load<kVector>(a.chunk(row + lane / 4 + 8, chunk));
      MOTE_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        MOTE_UNROLL
        for (int e = 0; e < 2; ++e) {
          auto column = hw::load<kVector>(b.chunk(8 * j + lane % 4 * 2 + e, chunk));
          MOTE_UNROLL
          for (int v = 0; v < kVector; ++v) {
            sum[j][e] = math::fma(low[v], column[v], sum[j][e]);
            sum[j][e + 2] = math::fma(high[v], column[v], sum[j][e + 2]);
          }
        }
      }
    }
  }
}

/// sum += p b[:, column0 .. column0 + 8 kTiles - 1], p being sums over 8 kInner columns, rounded to T.
template <class T, int kWidth, int kTiles, int kInner>
MOTE_DEVICE void multiply_sums(compute_t<T> (&sum)[kTiles][4], const compute_t<T> (&p)[kInner][4], Tile<T, kWidth> b,
                               int column0) {
  int lane = hw::lane();
  if constexpr (std::is_same_v<T, bf16>) {
    MOTE_UNROLL
    for (int i = 0; i < kInner; i += 2) {
      uint32_t part_p[4];   // sums of two tiles are a fragment of A as they lie
      MOTE_UNROLL
      for (int r = 0; r < 4; ++r)
        part_p[r] = hw::pack(p[i + r / 2][r % 2 * 2], p[i + r / 2][r % 2 * 2 + 1]);
      MOTE_UNROLL
      for (int j = 0; j < kTiles; j += 2) {
        uint32_t first[2], second[2];
        load_b<false>(first, second, b, column0 + 8 * j, 8 * i, lane);
        hw::mma_bf16(sum[j], part_p, first);
        hw::mma_bf16(sum[j + 1], part_p, second);
      }
    }
  } else {
    MOTE_UNROLL
    for (int i = 0; i < kInner; ++i) {
      MOTE_UNROLL_BY(1)
      for (int quarter = 0; quarter < 4; ++quarter) {
        MOTE_UNROLL
        for (int e = 0; e < 2; ++e) {
          int source = lane / 4 * 4 + quarter;   // the lane of this row that holds column 8 i + 2 quarter + e of p
          compute_t<T> low = hw::shuffle(p[i][e], source), high = hw::shuffle(p[i][e + 2], source);
          MOTE_UNROLL
          for (int j = 0; j < kTiles; ++j) {
            int column = column0 + 8 * j + lane % 4 * 2;
            auto pair = hw::load<2>(b.chunk(8 * i + 2 * quarter + e, column / kChunk<T>) + column % kChunk<T>);
            MOTE_UNROLL
            for (int c = 0; c < 2; ++c) {
              sum[j][c] = math::fma(low, pair[c], sum[j][c]);
              sum[j][c + 2] = math::fma(high, pair[c], sum[j][c + 2]);
            }
          }
        }
      }
    }
  }
}

}  // namespace mote::MOTE_CUDA_NAMESPACE
