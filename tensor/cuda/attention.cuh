// attention.cuh - softmax(q k^T / sqrt(D)) v and its gradient without a score matrix [Dao 2023, sec. 3]: a block keeps
// 16 rows a warp (queries, or keys in the pass that makes dk and dv) and walks over tiles of the other side, which
// cp.async brings while the tile before is worked on. Scores live in registers, as mma leaves them (warp_product.cuh).
//
// Backward is three kernels, each of whose outputs belongs to one warp, so nothing is added up by atomics: delta =
// rowsum(dO O); a pass over keys for each block of queries makes dq; a pass over queries for each block of keys makes
// dk and dv.
#pragma once
#include "tensor/cuda/warp_product.cuh"

namespace mote::MOTE_CUDA_NAMESPACE {

/// Sizes of a kernel for heads of up to kWidth: tiles are as large as 96 KiB of shared memory and 255 registers allow.
template <class T, int kWidth>
struct AttentionSize {
  static constexpr int kRowBytes = kWidth * int(sizeof(T));
  static constexpr int kWarps = kRowBytes <= 512 ? 4 : kRowBytes == 1024 ? 2 : 1;
  static constexpr int kTile = kRowBytes <= 256 ? 64 : 16384 / kRowBytes;             // keys of a tile, forward
  static constexpr int kWarpsBack = kRowBytes <= 512 ? 4 : 1;
  static constexpr int kTileBack = kRowBytes <= 128 ? 64 : kRowBytes == 256 ? 32 : kRowBytes <= 1024 ? 16 : 8;
  static constexpr int kMost = 512 / int(sizeof(compute_t<T>)), kSlice = kWidth < kMost ? kWidth : kMost;   // of dk, dv
  static constexpr size_t kShared = size_t(16 * kWarps + 4 * kTile) * kRowBytes;
  static constexpr size_t kSharedBack = size_t(32 * kWarpsBack + 4 * kTileBack) * kRowBytes;
};

/// What all kernels know of qkv [N, T, 3 C].
template <class T>
struct Heads {
  using C = compute_t<T>;
  hw::Ptr<const T> qkv;
  int64_t tokens;
  int width, channels, heads;
  bool aligned;   // all tensors begin on 16 bytes and D is in whole chunks
  C scale;        // 1 / sqrt(D): without it the softmax saturates for wide heads
  C scale2;       // the same times log2(e): probabilities are made by exp2

  MOTE_DEVICE int64_t ld() const { return 3 * int64_t(channels); }
  /// Where the q of token 0 of image and head number `item` lies; k and v are `channels` and 2 `channels` further.
  MOTE_DEVICE int64_t in(int64_t item) const { return item / heads * tokens * ld() + item % heads * width; }
  /// The same in a tensor like y [N, T, C].
  MOTE_DEVICE int64_t out(int64_t item) const { return item / heads * tokens * channels + item % heads * width; }

  /// Rows first .. first + kRows - 1 of one head in `from`, whose tokens lie ld apart; zeros beyond its tokens and
  /// width.
  template <int kRows, int kThreads, int kWidth>
  MOTE_DEVICE void copy(Tile<T, kWidth> tile, hw::Ptr<const T> from, int64_t ld, int64_t first) const {
    constexpr int kChunks = kWidth / kChunk<T>;
    MOTE_UNROLL_BY(2)
    for (int id = hw::thread(); id < kRows * kChunks; id += kThreads) {
      int row = id / kChunks, column = id % kChunks * kChunk<T>;
      bool inside = first + row < tokens;
      hw::Ptr<const T> at = from + (inside && column < width ? (first + row) * ld + column : 0);
      if (aligned) {
        hw::cp_async<16>(tile.chunk(row, id % kChunks), at, inside && column < width);
      } else {
        hw::Vec<T, kChunk<T>> chunk;
        MOTE_UNROLL
        for (int e = 0; e < kChunk<T>; ++e) chunk[e] = inside && column + e < width ? T(at[e]) : T(0.0f);
        hw::store(tile.chunk(row, id % kChunks), chunk);
      }
    }
  }
};

/// Calls load(i, buffer) and use(i, buffer) for i = 0 .. count - 1; loads run one tile ahead, in two buffers. What the
/// block has begun to copy before arrives with the first tile.
template <class Load, class Use>
MOTE_DEVICE void walk_tiles(int count, Load load, Use use) {
  load(0, 0);
  hw::cp_async_commit();
  for (int i = 0; i < count; ++i) {
    if (i + 1 < count) load(i + 1, (i + 1) % 2);
    hw::cp_async_commit();
    hw::cp_async_wait<1>();
    hw::barrier();
    use(i, i % 2);
    hw::barrier();   // all are done with the buffer that is filled next
  }
}

/// Stores a warp's sums, each row times its factor, as rows row0 .. of a matrix like copy_rows reads.
template <class T, class C, int kTiles>
MOTE_DEVICE void store_rows(hw::Ptr<T> to, int64_t ld, int64_t row0, int64_t tokens, int column0, int width,
                            const C (&sum)[kTiles][4], const C (&factor)[2], bool aligned) {
  MOTE_UNROLL
  for (int half = 0; half < 2; ++half) {
    int64_t row = row0 + hw::lane() / 4 + 8 * half;
    if (row >= tokens) continue;
    MOTE_UNROLL
    for (int j = 0; j < kTiles; ++j) {
      int column = column0 + 8 * j + hw::lane() % 4 * 2;
      C pair[2] = {sum[j][2 * half] * factor[half], sum[j][2 * half + 1] * factor[half]};
      if (column < width) store_sums<T>(to + (row * ld + column), pair, width - column, aligned);
    }
  }
}

// ---- Forward -------------------------------------------------------------------------------------------------------

template <class T, int kWidth>
struct Attention {
  using C = compute_t<T>;
  using Size = AttentionSize<T, kWidth>;
  static constexpr int kThreads = 32 * Size::kWarps, kRows = 16 * Size::kWarps, kTile = Size::kTile;
  Heads<T> heads;
  hw::Ptr<T> y;
  hw::Ptr<C> lse;

  MOTE_DEVICE void operator()() const {
    using Rows = Tile<T, kWidth>;
    auto memory = hw::dynamic_shared<T>();
    int64_t tokens = heads.tokens, blocks = (tokens + kRows - 1) / kRows;
    int64_t item = hw::block().x / blocks, first = hw::block().x % blocks * kRows;
    hw::Ptr<const T> from = heads.qkv + heads.in(item);
    Rows q{memory};
    auto keys = [&](int buffer) { return Rows{memory + (kRows + 2 * kTile * buffer) * kWidth}; };
    auto values = [&](int buffer) { return Rows{memory + (kRows + 2 * kTile * buffer + kTile) * kWidth}; };

    // The largest score of a row so far, the sum of e^(score - largest) over this lane's columns, and of that times v.
    C largest[2] = {-kInfinity<C>, -kInfinity<C>}, total[2] = {0, 0}, sum[kWidth / 8][4];
    clear(sum);
    heads.template copy<kRows, kThreads>(q, from, heads.ld(), first);
    walk_tiles(int((tokens + kTile - 1) / kTile), [&](int i, int buffer) {
      int64_t key = int64_t(i) * kTile;
      heads.template copy<kTile, kThreads>(keys(buffer), from + heads.channels, heads.ld(), key);
      heads.template copy<kTile, kThreads>(values(buffer), from + 2 * heads.channels, heads.ld(), key);
    }, [&](int i, int buffer) {
      C score[kTile / 8][4];
      clear(score);
      multiply_rows(score, q, 16 * hw::warp(), keys(buffer));
      int64_t left = tokens - int64_t(i) * kTile;
      if (left < kTile) {
        MOTE_UNROLL
        for (int j = 0; j < kTile / 8; ++j)
          MOTE_UNROLL
          for (int e = 0; e < 4; ++e)
            if (8 * j + hw::lane() % 4 * 2 + e % 2 >= left) score[j][e] = -kInfinity<C>;
      }
      MOTE_UNROLL
      for (int half = 0; half < 2; ++half) {
        C most = largest[half];
        MOTE_UNROLL
        for (int j = 0; j < kTile / 8; ++j)
          MOTE_UNROLL
          for (int e = 2 * half; e < 2 * half + 2; ++e) most = score[j][e] > most ? score[j][e] : most;
        for (int mask = 1; mask <= 2; mask *= 2) {   // the four lanes of a row
          C other = hw::shuffle_xor(most, mask);
          most = other > most ? other : most;
        }
        C zero = most == -kInfinity<C> ? C(0) : most * heads.scale2;   // a row of -inf so far: e^(-inf - 0) = 0
        C factor = exp2_of(largest[half] * heads.scale2 - zero);
        largest[half] = most;
        total[half] *= factor;
        MOTE_UNROLL
        for (int j = 0; j < kTile / 8; ++j)
          MOTE_UNROLL
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            score[j][e] = exp2_of(math::fma(score[j][e], heads.scale2, -zero));
            total[half] += score[j][e];
          }
        MOTE_UNROLL
        for (int j = 0; j < kWidth / 8; ++j) sum[j][2 * half] *= factor, sum[j][2 * half + 1] *= factor;
      }
      multiply_sums(sum, score, values(buffer), 0);
    });

    C factor[2];
    MOTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      for (int mask = 1; mask <= 2; mask *= 2) total[half] += hw::shuffle_xor(total[half], mask);
      factor[half] = C(1) / total[half];
      int64_t row = first + 16 * hw::warp() + hw::lane() / 4 + 8 * half;
      if (row < tokens && hw::lane() % 4 == 0)
        lse[item * tokens + row] = largest[half] * heads.scale + math::log(total[half]);
    }
    store_rows<T>(y + heads.out(item), heads.channels, first + 16 * hw::warp(), tokens, 0, heads.width, sum, factor,
                  heads.aligned);
  }
};

// ---- Backward ------------------------------------------------------------------------------------------------------

/// delta [N, heads, T] = sum over d of dy y: a warp for each, lanes folded in a fixed order.
template <class T>
struct AttentionDelta {
  using C = compute_t<T>;
  static constexpr int kThreads = 256;
  Heads<T> heads;
  hw::Ptr<const T> y, dy;
  hw::Ptr<C> delta;
  int64_t count;

  MOTE_DEVICE void operator()() const {
    for (int64_t i = hw::global_thread() / 32; i < count; i += hw::global_threads() / 32) {
      int64_t at = heads.out(i / heads.tokens) + i % heads.tokens * heads.channels;
      C sum = 0;
      for (int d = hw::lane(); d < heads.width; d += 32) sum += C(y[at + d]) * C(dy[at + d]);
      sum = hw::warp_sum(sum);
      if (hw::lane() == 0) delta[i] = sum;
    }
  }
};

/// dq = dS k, dS = scale P (dP - delta), P = e^(scale q k^T - lse), dP = dy v^T.
template <class T, int kWidth>
struct AttentionDq {
  using C = compute_t<T>;
  using Size = AttentionSize<T, kWidth>;
  static constexpr int kThreads = 32 * Size::kWarpsBack, kRows = 16 * Size::kWarpsBack, kTile = Size::kTileBack;
  Heads<T> heads;
  hw::Ptr<const T> dy;
  hw::Ptr<const C> lse, delta;
  hw::Ptr<T> dqkv;

  MOTE_DEVICE void operator()() const {
    using Rows = Tile<T, kWidth>;
    auto memory = hw::dynamic_shared<T>();
    int64_t tokens = heads.tokens, blocks = (tokens + kRows - 1) / kRows;
    int64_t item = hw::block().x / blocks, first = hw::block().x % blocks * kRows, row0 = first + 16 * hw::warp();
    hw::Ptr<const T> from = heads.qkv + heads.in(item);
    Rows q{memory}, gradient{memory + kRows * kWidth};
    auto keys = [&](int buffer) { return Rows{memory + (2 * kRows + 2 * kTile * buffer) * kWidth}; };
    auto values = [&](int buffer) { return Rows{memory + (2 * kRows + 2 * kTile * buffer + kTile) * kWidth}; };

    C row_lse[2], row_delta[2], dq[kWidth / 8][4];
    clear(dq);
    MOTE_UNROLL
    for (int half = 0; half < 2; ++half) {
      int64_t row = row0 + hw::lane() / 4 + 8 * half;
      row_lse[half] = row < tokens ? lse[item * tokens + row] : kInfinity<C>;   // probability 0
      row_delta[half] = row < tokens ? delta[item * tokens + row] : C(0);
    }
    heads.template copy<kRows, kThreads>(q, from, heads.ld(), first);
    heads.template copy<kRows, kThreads>(gradient, dy + heads.out(item), heads.channels, first);
    walk_tiles(int((tokens + kTile - 1) / kTile), [&](int i, int buffer) {
      int64_t key = int64_t(i) * kTile;
      heads.template copy<kTile, kThreads>(keys(buffer), from + heads.channels, heads.ld(), key);
      heads.template copy<kTile, kThreads>(values(buffer), from + 2 * heads.channels, heads.ld(), key);
    }, [&](int i, int buffer) {
      C score[kTile / 8][4], dp[kTile / 8][4];
      clear(score), clear(dp);
      multiply_rows(score, q, 16 * hw::warp(), keys(buffer));
      multiply_rows(dp, gradient, 16 * hw::warp(), values(buffer));
      int64_t left = tokens - int64_t(i) * kTile;
      MOTE_UNROLL
      for (int j = 0; j < kTile / 8; ++j)
        MOTE_UNROLL
        for (int e = 0; e < 4; ++e) {
          C p = exp2_of(math::fma(score[j][e], heads.scale, -row_lse[e / 2]) * kLog2E<C>);
          bool inside = 8 * j + hw::lane() % 4 * 2 + e % 2 < left;   // k is 0 beyond, and e^-lse may be infinite
          score[j][e] = inside ? heads.scale * p * (dp[j][e] - row_delta[e / 2]) : C(0);
        }
      multiply_sums(dq, score, keys(buffer), 0);
    });
    C one[2] = {1, 1};
    store_rows<T>(dqkv + heads.in(item), heads.ld(), row0, tokens, 0, heads.width, dq, one, heads.aligned);
  }
};

/// dv = P^T dy and dk = dS^T q, columns kSlice block.y .. of them: P^T and dS^T are made as keys x queries.
template <class T, int kWidth>
struct AttentionDkv {
  using C = compute_t<T>;
  using Size = AttentionSize<T, kWidth>;
  static constexpr int kThreads = 32 * Size::kWarpsBack, kRows = 16 * Size::kWarpsBack, kTile = Size::kTileBack;
  static constexpr int kSlice = Size::kSlice;
  Heads<T> heads;
  hw::Ptr<const T> dy;
  hw::Ptr<const C> lse, delta;
  hw::Ptr<T> dqkv;

  MOTE_DEVICE void operator()() const {
    using Rows = Tile<T, kWidth>;
    auto memory = hw::dynamic_shared<T>();
    int64_t tokens = heads.tokens, blocks = (tokens + kRows - 1) / kRows;
    int64_t item = hw::block().x / blocks, first = hw::block().x % blocks * kRows, row0 = first + 16 * hw::warp();
    int slice = hw::block().y * kSlice;
    hw::Ptr<const T> from = heads.qkv + heads.in(item);
    Rows k{memory}, v{memory + kRows * kWidth};
    auto queries = [&](int buffer) { return Rows{memory + (2 * kRows + 2 * kTile * buffer) * kWidth}; };
    auto gradients = [&](int buffer) { return Rows{memory + (2 * kRows + 2 * kTile * buffer + kTile) * kWidth}; };

    C dk[kSlice / 8][4], dv[kSlice / 8][4];
    clear(dk), clear(dv);
    heads.template copy<kRows, kThreads>(k, from + heads.channels, heads.ld(), first);
    heads.template copy<kRows, kThreads>(v, from + 2 * heads.channels, heads.ld(), first);
    walk_tiles(int((tokens + kTile - 1) / kTile), [&](int i, int buffer) {
      int64_t query = int64_t(i) * kTile;
      heads.template copy<kTile, kThreads>(queries(buffer), from, heads.ld(), query);
      heads.template copy<kTile, kThreads>(gradients(buffer), dy + heads.out(item), heads.channels, query);
    }, [&](int i, int buffer) {
      C p[kTile / 8][4], ds[kTile / 8][4];
      clear(p), clear(ds);
      multiply_rows(p, k, 16 * hw::warp(), queries(buffer));
      // The query of column e of tile j, where there is one.
      auto query = [&](int j, int e) { return int64_t(i) * kTile + 8 * j + hw::lane() % 4 * 2 + e % 2; };
      MOTE_UNROLL
      for (int j = 0; j < kTile / 8; ++j)
        MOTE_UNROLL
        for (int e = 0; e < 2; ++e) {
          bool inside = query(j, e) < tokens;
          C log_sum = inside ? lse[item * tokens + query(j, e)] : kInfinity<C>;   // probability 0
          p[j][e] = exp2_of(math::fma(p[j][e], heads.scale, -log_sum) * kLog2E<C>);
          p[j][e + 2] = exp2_of(math::fma(p[j][e + 2], heads.scale, -log_sum) * kLog2E<C>);
        }
      multiply_sums(dv, p, gradients(buffer), slice);
      multiply_rows(ds, v, 16 * hw::warp(), gradients(buffer));
      MOTE_UNROLL
      for (int j = 0; j < kTile / 8; ++j)
        MOTE_UNROLL
        for (int e = 0; e < 2; ++e) {
          C sum = query(j, e) < tokens ? delta[item * tokens + query(j, e)] : C(0);
          ds[j][e] = heads.scale * p[j][e] * (ds[j][e] - sum);
          ds[j][e + 2] = heads.scale * p[j][e + 2] * (ds[j][e + 2] - sum);
        }
      multiply_sums(dk, ds, queries(buffer), slice);
    });
    C one[2] = {1, 1};
    hw::Ptr<T> to = dqkv + heads.in(item);
    store_rows<T>(to + heads.channels, heads.ld(), row0, tokens, slice, heads.width, dk, one, heads.aligned);
    store_rows<T>(to + 2 * heads.channels, heads.ld(), row0, tokens, slice, heads.width, dv, one, heads.aligned);
  }
};

}  // namespace mote::MOTE_CUDA_NAMESPACE
