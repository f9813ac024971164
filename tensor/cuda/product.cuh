// product.cuh - the one main loop of matmul and of the three convolutions: sums over k of A[m, k] B[k, n] for a tile
// of kM x kN outputs a block. Operands come from sources (a matrix here, patches of images in conv.cuh) through a ring
// of stages in shared memory that cp.async fills while the sums of an earlier stage are made; where they go is the
// business of an output (Dense here). Three kinds of sums, one file further: tensor cores for bf16, tensor cores for
// f32 rounded to TF32, and fused multiply-adds for true f32 and f64 (core.cuh).
//
// A source names the element (line, place): lines are strided, places follow one another in memory. One of the two is
// k. A thread keeps its lines and its place and moves the one that is k from stage to stage, so that no index is
// divided inside the loop.
#pragma once
#include "tensor/cuda/core.cuh"
#include "tensor/tf32.h"

namespace mote::MOTE_CUDA_NAMESPACE {

/// How an operand lies in memory: whether k follows itself, or m (of A) or n (of B) does.
enum class Fast { k, other };

/// [lines, length] row by row. Batch b begins b `stride` elements on.
template <class T, Fast kFast_>
struct Matrix {
  using Element = T;
  static constexpr Fast kFast = kFast_;
  hw::Ptr<const T> base;
  int64_t lines, length, stride;
  bool aligned;   // base and every line begin on 16 bytes, and length is in whole chunks

  using Line = int64_t;
  using Place = int64_t;
  MOTE_DEVICE void begin(int64_t batch) { base = base + batch * stride; }
  MOTE_DEVICE Line line(int64_t index) const { return index; }
  MOTE_DEVICE Place place(int64_t index) const { return index; }
  MOTE_DEVICE void advance_line(Line& line) const { line += kDepth<T>; }
  MOTE_DEVICE void advance_place(Place& place, int count) const { place += count; }
  /// Where element (line, place) lies from base; -1 if it is zero.
  MOTE_DEVICE int64_t offset(Line line, Place place) const {
    return line < lines && place < length ? line * length + place : -1;
  }
};

/// One thread's part in filling the stages of an operand: kCopies chunks at one place of as many lines.
template <class Source, int kOther, int kThreads>
struct Loader {
  using T = typename Source::Element;
  static constexpr bool kKFast = Source::kFast == Fast::k;
  static constexpr int kLines = kKFast ? kOther : kDepth<T>, kRow = kKFast ? kDepth<T> : kOther;
  static constexpr int kChunks = kRow / kChunk<T>, kStep = kThreads / kChunks, kCopies = kLines / kStep;
  static_assert(kThreads % kChunks == 0 && kLines % kStep == 0);

  typename Source::Line line[kCopies];
  typename Source::Place place;

  MOTE_DEVICE Loader(const Source& source, int64_t other, int64_t k) {
    place = source.place((kKFast ? k : other) + hw::thread() % kChunks * kChunk<T>);
    MOTE_UNROLL
    for (int i = 0; i < kCopies; ++i)
      line[i] = source.line((kKFast ? other : k) + hw::thread() / kChunks + i * kStep);
  }

  /// Copies this thread's chunks of the next stage. kWhole: the source is known to be aligned.
  template <bool kWhole>
  MOTE_DEVICE void copy(const Source& source, Tile<T, kRow> tile) {
    MOTE_UNROLL
    for (int i = 0; i < kCopies; ++i) {
      hw::Ptr<T> to = tile.chunk(hw::thread() / kChunks + i * kStep, hw::thread() % kChunks);
      if (kWhole || source.aligned) {
        int64_t offset = source.offset(line[i], place);
        hw::cp_async<16>(to, source.base + (offset < 0 ? 0 : offset), offset >= 0);
      } else {
        hw::Vec<T, kChunk<T>> chunk;
        typename Source::Place at = place;
        MOTE_UNROLL
        for (int e = 0; e < kChunk<T>; ++e) {
          int64_t offset = source.offset(line[i], at);
          chunk[e] = offset < 0 ? T(0.0f) : T(source.base[offset]);
          source.advance_place(at, 1);
        }
        hw::store(to, chunk);
      }
      if (!kKFast) source.advance_line(line[i]);
    }
    if (kKFast) source.advance_place(place, kDepth<T>);
  }
};

/// y [batch, rows, columns], with a bias for each column where there is one.
template <class T>
struct Dense {
  hw::Ptr<T> y;
  hw::Ptr<const T> bias;
  int64_t rows, columns;
  bool aligned;   // y begins on 16 bytes and columns are in whole chunks

  using Line = int64_t;
  MOTE_DEVICE void begin(int64_t batch) { y = y + batch * rows * columns; }
  MOTE_DEVICE Line line(int64_t row) const { return row * columns; }
  template <class C, int kCount>
  MOTE_DEVICE void put(Line line, int64_t column, C (&sums)[kCount]) const {
    if (bias)
      MOTE_UNROLL
      for (int i = 0; i < kCount; ++i)
        if (column + i < columns) sums[i] += C(bias[column + i]);
    store_sums<T>(y + (line + column), sums, columns - column, aligned);
  }
};

/// y [batches, rows, columns] = sums over depth k. With splits, k is cut into parts of split_depth (a multiple of
/// kDepth) whose sums the output keeps apart: it is then [batches splits, rows, columns].
struct Extent {
  int64_t rows, columns, depth, batches = 1, splits = 1, split_depth = depth;
};

/// The kernel. A block for each tile, those of one row of tiles together (they read the same A), of each split of each
/// batch.
/// kWhole: both sources are aligned, which takes the slow way of copying out of the code.
template <class Core, class A, class B, class Out, bool kWhole>
struct Product {
  static constexpr int kThreads = Core::kThreads, kMinBlocks = Core::kMinBlocks, kStages = 3;
  A a;
  B b;
  Out out;
  Extent extent;

  MOTE_DEVICE void operator()() const {
    using T = typename A::Element;
    constexpr int kM = Core::kM, kN = Core::kN, kStage = (kM + kN) * kDepth<T>;
    MOTE_SHARED(T, stages, kStages * kStage);
    int64_t across = (extent.columns + kN - 1) / kN, tiles = (extent.rows + kM - 1) / kM * across;
    int64_t part = hw::block().x / tiles, tile = hw::block().x % tiles;   // which split of which batch
    int64_t m = tile / across * kM, n = tile % across * kN;
    int64_t first = part % extent.splits * extent.split_depth, last = first + extent.split_depth;
    if (last > extent.depth) last = extent.depth;
    int steps = last > first ? int((last - first + kDepth<T> - 1) / kDepth<T>) : 0;
    A source_a = a;
    B source_b = b;
    Out target = out;
    source_a.begin(part / extent.splits);
    source_b.begin(part / extent.splits);
    target.begin(part);

    Core core;
    core.clear();
    if (steps > 0) {
      Loader<A, kM, kThreads> load_a(source_a, m, first);
      Loader<B, kN, kThreads> load_b(source_b, n, first);
      auto tile_a = [&](int step) { return Tile<T, load_a.kRow>{stages + step % kStages * kStage}; };
      auto tile_b = [&](int step) { return Tile<T, load_b.kRow>{stages + (step % kStages * kStage + kM * kDepth<T>)}; };
      auto load = [&](int step) {
        if (step < steps) {
          load_a.template copy<kWhole>(source_a, tile_a(step));
          load_b.template copy<kWhole>(source_b, tile_b(step));
        }
        hw::cp_async_commit();   // also where nothing was copied: the waits count groups
      };
      for (int step = 0; step < kStages - 1; ++step) load(step);
      for (int step = 0; step < steps; ++step) {
        hw::cp_async_wait<kStages - 2>();
        hw::barrier();   // stage `step` is there for all, and all are done with the one that is filled next
        load(step + kStages - 1);
        core.add(tile_a(step), tile_b(step));
      }
    }
    core.each([&](int row) { return m + row < extent.rows; }, [&](int row) { return target.line(m + row); },
              [&](auto line, int column, auto& sums) {
                if (n + column < extent.columns) target.put(line, n + column, sums);
              });
  }
};

/// One launch with a core of core.cuh; kWhole as in Product.
template <template <int, int, bool, bool> class Core, int kM, int kN, bool kWhole, class A, class B, class Out>
void launch_product(const char* op, const A& a, const B& b, const Out& out, const Extent& extent) {
  using Sums = Core<kM, kN, A::kFast == Fast::k, B::kFast == Fast::k>;
  int64_t tiles = (extent.rows + kM - 1) / kM * ((extent.columns + kN - 1) / kN);
  hw::launch(op, {tiles * extent.batches * extent.splits, Sums::kThreads},
             Product<Sums, A, B, Out, kWhole>{a, b, out, extent});
}

/// The tile for a product: small where the sources are not aligned (the others cannot copy them) or where larger ones
/// would leave multiprocessors idle. Bits do not depend on it.
enum class TileSize { k64x64, k128x64, k128x128 };
inline TileSize tile_for(const Extent& extent, bool whole) {
  auto tiles = [&](int64_t m, int64_t n) {
    return (extent.rows + m - 1) / m * ((extent.columns + n - 1) / n) * extent.batches * extent.splits;
  };
  if (!whole || tiles(128, 64) < hw::processors()) return TileSize::k64x64;
  bool fits = extent.columns > 64 && (extent.columns % 128 == 0 || extent.columns % 128 > 64);
  return fits && tiles(128, 128) >= hw::processors() ? TileSize::k128x128 : TileSize::k128x64;
}

/// A product of elements of T by the core and the tile that suit it. kLarge: with the larger tiles.
template <class T, bool kLarge, class A, class B, class Out>
void product(const char* op, const A& a, const B& b, const Out& out, const Extent& extent) {
  TileSize size = kLarge ? tile_for(extent, a.aligned && b.aligned) : TileSize::k64x64;
  if constexpr (std::is_same_v<T, double>) {
    launch_product<CoreF64, 64, 64, false>(op, a, b, out, extent);
  } else if constexpr (std::is_same_v<T, float>) {
    bool large = kLarge && size != TileSize::k64x64;
    if constexpr (kLarge) {
      if (large && tf32_allowed()) return launch_product<CoreTf32, 128, 64, true>(op, a, b, out, extent);
      if (large) return launch_product<CoreF32, 128, 64, true>(op, a, b, out, extent);
    }
    if (tf32_allowed()) launch_product<CoreTf32, 64, 64, false>(op, a, b, out, extent);
    else launch_product<CoreF32, 64, 64, false>(op, a, b, out, extent);
  } else {
    if constexpr (kLarge) {
      if (size == TileSize::k128x128) return launch_product<CoreBf16, 128, 128, true>(op, a, b, out, extent);
      if (size == TileSize::k128x64) return launch_product<CoreBf16, 128, 64, true>(op, a, b, out, extent);
    }
    launch_product<CoreBf16, 64, 64, false>(op, a, b, out, extent);
  }
}

/// Whether `tensor` begins on 16 bytes and its rows of `length` elements are in whole chunks.
inline bool is_aligned(const Tensor& tensor, int64_t length) {
  return reinterpret_cast<uintptr_t>(tensor.raw()) % 16 == 0 && length * size_of(tensor.dtype()) % 16 == 0;
}

}  // namespace mote::MOTE_CUDA_NAMESPACE
