// core.cuh - the sums of a block: kM x kN outputs of a product, held in the registers of its threads. add() takes one
// stage of operands from shared memory in; each() hands the sums out, row by row, in groups of consecutive columns.
// The k of an output are taken in order by one thread or one chain of mma, so bits do not depend on the tile.
#pragma once
#include "tensor/cuda/tile.cuh"

namespace mote::MOTE_CUDA_NAMESPACE {

/// k of a stage: rows of 64 bytes where k runs along them.
template <class T> inline constexpr int kDepth = 64 / int(sizeof(T));

/// The tile of a stage: [other, kDepth] if k runs along its rows, else [kDepth, other].
template <class T, bool kKFast, int kOther>
using StageTile = Tile<T, kKFast ? kDepth<T> : kOther>;

// ---- Tensor cores --------------------------------------------------------------------------------------------------

/// What the two kinds of tensor core sums have in common: warps of kWarpM x kWarpN outputs as mma.sync leaves them. Of
/// a warp of 64 x 64, 32 mma read 4 KiB of shared memory; of 64 x 32, 16 read 3, which is what bounds them on Hopper.
template <int kM_, int kN_>
struct WarpTiles {
  static constexpr int kM = kM_, kN = kN_, kWarpM = kM == 128 ? 64 : 32, kWarpN = kN == 128 ? 64 : 32;
  static constexpr int kThreads = kM / kWarpM * (kN / kWarpN) * 32;
  static constexpr int kMinBlocks = kN == 128 ? 2 : kM == 128 ? 3 : 4;   // 255, 168 and 128 registers a thread
  float sum[kWarpM / 16][kWarpN / 8][4];

  MOTE_DEVICE static int row0() { return hw::warp() / (kN / kWarpN) * kWarpM; }
  MOTE_DEVICE static int column0() { return hw::warp() % (kN / kWarpN) * kWarpN; }

  MOTE_DEVICE void clear() {
    MOTE_UNROLL
    for (auto& line : sum)
      MOTE_UNROLL
      for (auto& tile : line)
        MOTE_UNROLL
        for (float& one : tile) one = 0;
  }

  /// put(line(row), column, sums[2]) for the rows that `holds` accepts.
  template <class Holds, class LineOf, class Put>
  MOTE_DEVICE void each(Holds holds, LineOf line_of, Put put) {
    int lane = hw::lane();
    MOTE_UNROLL
    for (int i = 0; i < kWarpM / 16; ++i) {
      MOTE_UNROLL
      for (int half = 0; half < 2; ++half) {
        int row = row0() + 16 * i + 8 * half + lane / 4;
        if (!holds(row)) continue;
        auto line = line_of(row);
        MOTE_UNROLL
        for (int j = 0; j < kWarpN / 8; ++j) {
          float pair[2] = {sum[i][j][2 * half], sum[i][j][2 * half + 1]};
          put(line, column0() + 8 * j + lane % 4 * 2, pair);
        }
      }
    }
  }
};

template <int kM, int kN, bool kAFast, bool kBFast>
struct CoreBf16 : WarpTiles<kM, kN> {
  using Base = WarpTiles<kM, kN>;
  using T = bf16;
  MOTE_DEVICE void add(StageTile<bf16, kAFast, kM> a, StageTile<bf16, kBFast, kN> b) {
    int lane = hw::lane();
    MOTE_UNROLL
    for (int k = 0; k < kDepth<bf16>; k += 16) {
      uint32_t part_a[Base::kWarpM / 16][4], part_b[Base::kWarpN / 8][2];
      MOTE_UNROLL
      for (int i = 0; i < Base::kWarpM / 16; ++i) load_a<kAFast>(part_a[i], a, this->row0() + 16 * i, k, lane);
      MOTE_UNROLL
      for (int j = 0; j < Base::kWarpN / 8; j += 2)
        load_b<kBFast>(part_b[j], part_b[j + 1], b, this->column0() + 8 * j, k, lane);
      MOTE_UNROLL
      for (int i = 0; i < Base::kWarpM / 16; ++i)
        MOTE_UNROLL
        for (int j = 0; j < Base::kWarpN / 8; ++j) hw::mma_bf16(this->sum[i][j], part_a[i], part_b[j]);
    }
  }
};

/// f32 operands rounded to TF32 as they are read.
template <int kM, int kN, bool kAFast, bool kBFast>
struct CoreTf32 : WarpTiles<kM, kN> {
  using Base = WarpTiles<kM, kN>;
  using T = float;
  static constexpr int kMinBlocks = kM == 128 ? 2 : 4;   // its addresses, one a lane and k, take more registers
  MOTE_DEVICE void add(StageTile<float, kAFast, kM> a, StageTile<float, kBFast, kN> b) {
    int g = hw::lane() / 4, t = hw::lane() % 4;
    auto read_a = [&](int row, int k) { return hw::to_tf32(kAFast ? a.at(row, k) : a.at(k, row)); };
    auto read_b = [&](int k, int column) { return hw::to_tf32(kBFast ? b.at(column, k) : b.at(k, column)); };
    MOTE_UNROLL
    for (int k = 0; k < kDepth<float>; k += 8) {
      uint32_t part_a[Base::kWarpM / 16][4], part_b[Base::kWarpN / 8][2];
      MOTE_UNROLL
      for (int i = 0; i < Base::kWarpM / 16; ++i) {
        int row = this->row0() + 16 * i + g;
        part_a[i][0] = read_a(row, k + t), part_a[i][1] = read_a(row + 8, k + t);
        part_a[i][2] = read_a(row, k + t + 4), part_a[i][3] = read_a(row + 8, k + t + 4);
      }
      MOTE_UNROLL
      for (int j = 0; j < Base::kWarpN / 8; ++j) {
        int column = this->column0() + 8 * j + g;
        part_b[j][0] = read_b(k + t, column), part_b[j][1] = read_b(k + t + 4, column);
      }
      MOTE_UNROLL
      for (int i = 0; i < Base::kWarpM / 16; ++i)
        MOTE_UNROLL
        for (int j = 0; j < Base::kWarpN / 8; ++j) hw::mma_tf32(this->sum[i][j], part_a[i], part_b[j]);
    }
  }
};

// ---- Fused multiply-adds: true f32, f64 ----------------------------------------------------------------------------

/// A thread holds 8 rows and kColumns columns. Along an axis that follows itself in memory it takes whole chunks, else
/// single ones that far apart that neighbouring threads read neighbouring lines.
template <class T_, int kM_, int kN_, bool kAFast, bool kBFast>
struct CoreFma {
  using T = T_;
  static constexpr int kM = kM_, kN = kN_, kThreads = 128, kMinBlocks = sizeof(T) == 4 && kM == 64 ? 3 : 2;
  static constexpr int kRows = 8, kGroupsM = kM / kRows, kGroupsN = kThreads / kGroupsM, kColumns = kN / kGroupsN;
  static constexpr int kVector = kChunk<T>;
  T sum[kRows][kColumns];

  MOTE_DEVICE static int group_m() { return hw::thread() / kGroupsN; }
  MOTE_DEVICE static int group_n() { return hw::thread() % kGroupsN; }

  MOTE_DEVICE void clear() {
    MOTE_UNROLL
    for (auto& line : sum)
      MOTE_UNROLL
      for (T& one : line) one = T(0);
  }

  /// Row (or column) number i of thread `group` of kGroups.
  template <bool kKFast, int kGroups>
  MOTE_DEVICE static int index(int group, int i) {
    return kKFast ? group + kGroups * i : (i / kVector * kGroups + group) * kVector + i % kVector;
  }

  /// kVector k of this thread's rows (or columns) of a stage.
  template <bool kKFast, int kGroups, int kCount, class Stage>
  MOTE_DEVICE static void read(T (&to)[kVector][kCount], Stage tile, int group, int k) {
    if constexpr (kKFast) {
      MOTE_UNROLL
      for (int i = 0; i < kCount; ++i) {
        auto chunk = hw::load<kVector>(tile.chunk(group + kGroups * i, k / kVector));
        MOTE_UNROLL
        for (int v = 0; v < kVector; ++v) to[v][i] = chunk[v];
      }
    } else {
      MOTE_UNROLL
      for (int v = 0; v < kVector; ++v)
        MOTE_UNROLL
        for (int i = 0; i < kCount; i += kVector) {
          auto chunk = hw::load<kVector>(tile.chunk(k + v, i / kVector * kGroups + group));
          MOTE_UNROLL
          for (int e = 0; e < kVector; ++e) to[v][i + e] = chunk[e];
        }
    }
  }

  MOTE_DEVICE void add(StageTile<T, kAFast, kM> a, StageTile<T, kBFast, kN> b) {
    MOTE_UNROLL
    for (int k = 0; k < kDepth<T>; k += kVector) {
      T part_a[kVector][kRows], part_b[kVector][kColumns];
      read<kAFast, kGroupsM>(part_a, a, group_m(), k);
      read<kBFast, kGroupsN>(part_b, b, group_n(), k);
      MOTE_UNROLL
      for (int v = 0; v < kVector; ++v)
        MOTE_UNROLL
        for (int i = 0; i < kRows; ++i)
          MOTE_UNROLL
          for (int j = 0; j < kColumns; ++j) sum[i][j] = math::fma(part_a[v][i], part_b[v][j], sum[i][j]);
    }
  }

  /// put(line(row), column, sums) for the rows that `holds` accepts.
  template <class Holds, class LineOf, class Put>
  MOTE_DEVICE void each(Holds holds, LineOf line_of, Put put) {
    constexpr int kTogether = kBFast ? 1 : kVector;
    MOTE_UNROLL
    for (int i = 0; i < kRows; ++i) {
      int row = index<kAFast, kGroupsM>(group_m(), i);
      if (!holds(row)) continue;
      auto line = line_of(row);
      MOTE_UNROLL
      for (int j = 0; j < kColumns; j += kTogether) {
        T sums[kTogether];
        MOTE_UNROLL
        for (int e = 0; e < kTogether; ++e) sums[e] = sum[i][j + e];
        put(line, index<kBFast, kGroupsN>(group_n(), j), sums);
      }
    }
  }
};

template <int kM, int kN, bool kAFast, bool kBFast> using CoreF32 = CoreFma<float, kM, kN, kAFast, kBFast>;
template <int kM, int kN, bool kAFast, bool kBFast> using CoreF64 = CoreFma<double, kM, kN, kAFast, kBFast>;

}  // namespace mote::MOTE_CUDA_NAMESPACE
