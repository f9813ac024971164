// tile.h - the micro-kernel under every product and convolution: a tile of M rows by V vectors of sums that stays in
// registers while k runs. One source for AVX-512, AVX2 and plain C++: the vector width and the tile follow from what
// the compiler was allowed to use. gemm.h and conv.cpp are the drivers.
#pragma once
#include <algorithm>
#include <cstdint>
#include <bit>
#include <cstring>
#include <type_traits>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#include "tensor/dtype.h"

namespace mote::cpu {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
inline constexpr int kTileRows = 14;   // 14 x 2 sums + 2 of b + 1 of a = 31 of 32 registers
inline constexpr const char* kTileName = "AVX-512";
#elif defined(__AVX2__) && defined(__FMA__)
inline constexpr int kVectorBytes = 32;
inline constexpr int kTileRows = 6;    // 6 x 2 + 2 + 1 = 15 of 16
inline constexpr const char* kTileName = "AVX2";
#else
inline constexpr int kVectorBytes = 16;
inline constexpr int kTileRows = 6;
inline constexpr const char* kTileName = "plain";
#endif
inline constexpr int kTileVectors = 2;

template <class C>
struct VectorOf {
  typedef C type __attribute__((vector_size(kVectorBytes)));
};
template <class C> using Vector = typename VectorOf<C>::type;
template <class C> inline constexpr int kLanes = kVectorBytes / int(sizeof(C));
/// Columns of a full tile, and of a panel of packed b.
template <class C> inline constexpr int kPanel = kTileVectors * kLanes<C>;

/// Whether bf16 is multiplied as it is, two k a step, with sums in f32; else it is widened to f32 first.
#ifdef __AVX512BF16__
inline constexpr bool kPairs = true;
#else
inline constexpr bool kPairs = false;
#endif
/// What the tile multiplies for tensors of T. Rows of bf16 hold an even number of elements; packed b holds, for every two
/// rows k and k + 1, pairs [column][2].
template <class T>
using operand_t = std::conditional_t<std::is_same_v<T, bf16> && kPairs, bf16, compute_t<T>>;

#define MOTE_INLINE inline __attribute__((always_inline))
#define MOTE_INLINE_LAMBDA __attribute__((always_inline))

template <class C>
MOTE_INLINE Vector<C> load_vector(const C* from) {
  Vector<C> v;
  std::memcpy(&v, from, sizeof v);   // unaligned load
  return v;
}
template <class C>
MOTE_INLINE void store_vector(C* to, const Vector<C>& v) {
  std::memcpy(to, &v, sizeof v);
}

/// kLanes<C> elements of T, converted.
template <class C, class T>
MOTE_INLINE Vector<C> load_vector_as(const T* from) {
  if constexpr (std::is_same_v<T, bf16> && std::is_same_v<C, float>) {
    typedef uint16_t Half __attribute__((vector_size(kVectorBytes / 2)));
    Half bits;
    std::memcpy(&bits, from, sizeof bits);
    return std::bit_cast<Vector<float>>(__builtin_convertvector(bits, Vector<uint32_t>) << 16);
  } else if constexpr (std::is_same_v<T, C>) {
    return load_vector(from);
  } else {
    Vector<C> v;
    for (int lane = 0; lane < kLanes<C>; ++lane) v[lane] = C(from[lane]);
    return v;
  }
}
/// The same the other way; to bf16 as its constructor rounds.
template <class C, class T>
MOTE_INLINE void store_vector_as(T* to, const Vector<C>& v) {
  if constexpr (std::is_same_v<T, bf16> && std::is_same_v<C, float>) {
    typedef uint16_t Half __attribute__((vector_size(kVectorBytes / 2)));
    auto wide = std::bit_cast<Vector<uint32_t>>(v);
    Vector<uint32_t> rounded = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16, quiet = (wide >> 16) | 0x40;
    auto is_nan = (wide & 0x7fffffffu) > 0x7f800000u;
    Half bits = __builtin_convertvector(is_nan ? quiet : rounded, Half);
    std::memcpy(static_cast<void*>(to), &bits, sizeof bits);
  } else if constexpr (std::is_same_v<T, C>) {
    store_vector(to, v);
  } else {
    for (int lane = 0; lane < kLanes<C>; ++lane) to[lane] = T(v[lane]);
  }
}

/// Transposes a square of kLanes rows in registers: each stage exchanges blocks of half the size of the one before.
template <class C>
MOTE_INLINE void turn_square(Vector<C> (&rows)[kLanes<C>]) {
  constexpr int N = kLanes<C>;
  using Lane = std::conditional_t<sizeof(C) == 8, int64_t, int32_t>;
#pragma GCC unroll 4
  for (int half = N / 2; half > 0; half /= 2) {
    Vector<Lane> low{}, high{};
#pragma GCC unroll 16
    for (int lane = 0; lane < N; ++lane) {
      low[lane] = lane & half ? N + lane - half : lane;
      high[lane] = lane & half ? N + lane : lane + half;
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      if (i & half) continue;
      Vector<C> a = rows[i], b = rows[i + half];
      rows[i] = __builtin_shuffle(a, b, low);
      rows[i + half] = __builtin_shuffle(a, b, high);
    }
  }
}

/// to[i ldto + j] = from[j ldfrom + i] for a square of kLanes rows.
template <class C, class T>
MOTE_INLINE void transpose_square(C* to, int64_t ldto, const T* from, int64_t ldfrom) {
  constexpr int N = kLanes<C>;
  Vector<C> rows[N];
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) rows[i] = load_vector_as<C>(from + i * ldfrom);
  turn_square<C>(rows);
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) store_vector(to + i * ldto, rows[i]);
}

/// to[i ldto + j] = from[j ldfrom + i] for i < rows, j < columns, converted to C and from there to To.
template <class C, class To, class From>
void transpose(To* to, int64_t ldto, const From* from, int64_t ldfrom, int64_t rows, int64_t columns) {
  constexpr int64_t N = kLanes<C>;
  for (int64_t i = 0; i < rows; i += N) {
    for (int64_t j = 0; j < columns; j += N) {
      int64_t height = std::min(N, rows - i), width = std::min(N, columns - j);
      if (height == N && width == N) {
        if constexpr (std::is_same_v<To, C>) {
          transpose_square<C>(to + i * ldto + j, ldto, from + j * ldfrom + i, ldfrom);
        } else {
          alignas(64) C square[N * N];
          transpose_square<C>(square, N, from + j * ldfrom + i, ldfrom);
          for (int64_t r = 0; r < N; ++r) store_vector_as<C>(to + (i + r) * ldto + j, load_vector(square + r * N));
        }
      } else {
        for (int64_t r = i; r < i + height; ++r)
          for (int64_t c = j; c < j + width; ++c) to[r * ldto + c] = To(C(from[c * ldfrom + r]));
      }
    }
  }
}

/// to[i ldto + j] = from[j ldfrom + i] for i < rows, j < columns. Elements of two bytes are turned two at a time: rows 2j
/// and 2j + 1 of `from` side by side are a row of words, and words transpose like floats.
inline void transpose(bf16* to, int64_t ldto, const bf16* from, int64_t ldfrom, int64_t rows, int64_t columns) {
  constexpr int64_t N = kLanes<float>;
  typedef uint16_t Half __attribute__((vector_size(kVectorBytes / 2)));
  int64_t whole_rows = rows / N * N, whole_columns = columns / (2 * N) * (2 * N);
  for (int64_t j = 0; j < whole_columns; j += 2 * N) {
    for (int64_t i = 0; i < whole_rows; i += N) {
      Vector<float> words[N];
#pragma GCC unroll 16
      for (int w = 0; w < N; ++w) {
        Half low, high;
        std::memcpy(&low, from + (j + 2 * w) * ldfrom + i, sizeof low);
        std::memcpy(&high, from + (j + 2 * w + 1) * ldfrom + i, sizeof high);
        words[w] = std::bit_cast<Vector<float>>(__builtin_convertvector(low, Vector<uint32_t>) |
                                                __builtin_convertvector(high, Vector<uint32_t>) << 16);
      }
      turn_square<float>(words);
#pragma GCC unroll 16
      for (int w = 0; w < N; ++w) std::memcpy(static_cast<void*>(to + (i + w) * ldto + j), &words[w], sizeof words[w]);
    }
  }
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = i < whole_rows ? whole_columns : 0; j < columns; ++j) to[i * ldto + j] = from[j * ldfrom + i];
}

/// A pointer the optimiser may not express through another one: keeps row addresses in few registers.
template <class P>
MOTE_INLINE P opaque(P pointer) {
  asm("" : "+r"(pointer));
  return pointer;
}

template <class C, int M, int V>
struct Tile {
  static constexpr int kWidth = V * kLanes<C>;
  Vector<C> sum[M][V];

  /// fn(r, v) for every vector of the tile, unrolled: an index that is not a constant would put sum in memory.
  template <class Fn>
  static MOTE_INLINE void each(Fn&& fn) {
#pragma GCC unroll 16
    for (int r = 0; r < M; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) fn(r, v);
  }

  MOTE_INLINE void clear() {
    each([&](int r, int v) { sum[r][v] = Vector<C>{}; });
  }

  /// sum[r] += a(r) b[..] for one k.
  template <class A>
  MOTE_INLINE void add_outer(const C* b, A&& a) {
    Vector<C> bv[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) bv[v] = load_vector(b + v * kLanes<C>);
#pragma GCC unroll 16
    for (int r = 0; r < M; ++r) {
      C av = a(r);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] += av * bv[v];
    }
  }

  /// sum[r] += sum over k of a[r lda + k] b[k ldb ..]: rows of a run along k.
  MOTE_INLINE void add_rows(int64_t length, const C* a, int64_t lda, const C* b, int64_t ldb) {
    // Five rows a pointer, the offsets 1..4 lda shared by all: 7 address registers serve 14 rows.
    const C* a0 = opaque(a);
    const C* a5 = opaque(a + (M > 5 ? 5 : 0) * lda);
    const C* a10 = opaque(a + (M > 10 ? 10 : 0) * lda);
#pragma GCC unroll 4
    for (int64_t k = 0; k < length; ++k) {
      add_outer(b, [&](int r) MOTE_INLINE_LAMBDA { return (r < 5 ? a0 : r < 10 ? a5 : a10)[(r % 5) * lda]; });
      ++a0;
      ++a5;
      ++a10;
      b += ldb;
    }
  }

#ifdef __AVX512BF16__
  /// sum[r] += the dot product of pair a(r) with each pair of b, for one pair of k. Denormals count as zero.
  template <class A>
  MOTE_INLINE void add_outer_pair(const bf16* b, A&& a) {
    __m512bh bv[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) std::memcpy(&bv[v], b + 2 * v * kLanes<C>, sizeof bv[v]);
#pragma GCC unroll 16
    for (int r = 0; r < M; ++r) {
      int32_t pair;
      std::memcpy(&pair, a(r), sizeof pair);
      __m512bh av = std::bit_cast<__m512bh>(_mm512_set1_epi32(pair));
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v)
        sum[r][v] = std::bit_cast<Vector<C>>(_mm512_dpbf16_ps(std::bit_cast<__m512>(sum[r][v]), av, bv[v]));
    }
  }

  /// add_rows of bf16: length and lda are even, ldb is of one k, so half of what separates two pairs.
  MOTE_INLINE void add_rows(int64_t length, const bf16* a, int64_t lda, const bf16* b, int64_t ldb) {
    const bf16* a0 = opaque(a);
    const bf16* a5 = opaque(a + (M > 5 ? 5 : 0) * lda);
    const bf16* a10 = opaque(a + (M > 10 ? 10 : 0) * lda);
#pragma GCC unroll 4
    for (int64_t k = 0; k < length; k += 2) {
      add_outer_pair(b, [&](int r) MOTE_INLINE_LAMBDA { return (r < 5 ? a0 : r < 10 ? a5 : a10) + (r % 5) * lda; });
      a0 += 2;
      a5 += 2;
      a10 += 2;
      b += 2 * ldb;
    }
  }

  /// add_columns of bf16: both a and b hold pairs [k / 2][row or column][2].
  MOTE_INLINE void add_columns(int64_t length, const bf16* a, int64_t lda, const bf16* b, int64_t ldb) {
#pragma GCC unroll 4
    for (int64_t k = 0; k < length; k += 2) {
      add_outer_pair(b, [&](int r) MOTE_INLINE_LAMBDA { return a + 2 * r; });
      a += 2 * lda;
      b += 2 * ldb;
    }
  }
#endif

  /// sum[r] += sum over k of a[k lda + r] b[k ldb ..]: columns of a run along k.
  MOTE_INLINE void add_columns(int64_t length, const C* a, int64_t lda, const C* b, int64_t ldb) {
#pragma GCC unroll 4
    for (int64_t k = 0; k < length; ++k) {
      add_outer(b, [&](int r) MOTE_INLINE_LAMBDA { return a[r]; });
      a += lda;
      b += ldb;
    }
  }

  /// sum[r][column] += from[r ld + column] for the first `columns` columns.
  template <class T>
  MOTE_INLINE void add_from(const T* from, int64_t ld, int64_t columns) {
    if (columns == kWidth) {
      each([&](int r, int v) MOTE_INLINE_LAMBDA { sum[r][v] += load_vector_as<C>(from + r * ld + v * kLanes<C>); });
      return;
    }
    alignas(64) C rows[M * kWidth] = {};
    for (int r = 0; r < M; ++r)
      for (int64_t i = 0; i < columns; ++i) rows[r * kWidth + i] = C(from[r * ld + i]);
    each([&](int r, int v) MOTE_INLINE_LAMBDA { sum[r][v] += load_vector(rows + r * kWidth + v * kLanes<C>); });
  }

  template <class T>
  MOTE_INLINE void store(T* to, int64_t ld, int64_t columns) const {
    if (columns == kWidth) {
      each([&](int r, int v) MOTE_INLINE_LAMBDA { store_vector_as<C>(to + r * ld + v * kLanes<C>, sum[r][v]); });
      return;
    }
    alignas(64) C rows[M * kWidth];
    each([&](int r, int v) MOTE_INLINE_LAMBDA { store_vector(rows + r * kWidth + v * kLanes<C>, sum[r][v]); });
    for (int r = 0; r < M; ++r)
      for (int64_t i = 0; i < columns; ++i) to[r * ld + i] = T(rows[r * kWidth + i]);
  }
};

/// Calls fn with std::integral_constant<int, m> for a run-time m in 1..kTileRows.
template <class Fn>
MOTE_INLINE void for_rows(int64_t m, Fn&& fn) {
  switch (m) {
    case 1: return fn(std::integral_constant<int, 1>{});
    case 2: return fn(std::integral_constant<int, 2>{});
    case 3: return fn(std::integral_constant<int, 3>{});
    case 4: return fn(std::integral_constant<int, 4>{});
    case 5: return fn(std::integral_constant<int, 5>{});
    case 6: return fn(std::integral_constant<int, 6>{});
    default:
      if constexpr (kTileRows > 6) {
        switch (m) {
          case 7: return fn(std::integral_constant<int, 7>{});
          case 8: return fn(std::integral_constant<int, 8>{});
          case 9: return fn(std::integral_constant<int, 9>{});
          case 10: return fn(std::integral_constant<int, 10>{});
          case 11: return fn(std::integral_constant<int, 11>{});
          case 12: return fn(std::integral_constant<int, 12>{});
          case 13: return fn(std::integral_constant<int, 13>{});
          case 14: return fn(std::integral_constant<int, 14>{});
        }
      }
  }
}

/// Rows of each tile when `length` rows are cut into as few, as equal tiles as fit: 28 -> 14, 32 -> 11, 16 -> 8.
constexpr int64_t tile_rows(int64_t length) {
  int64_t tiles = (length + kTileRows - 1) / kTileRows;
  return tiles == 0 ? 1 : (length + tiles - 1) / tiles;
}

/// Vectors of the tile that starts `columns` columns before the end: the last tile of a narrow matrix takes one.
template <class C>
constexpr int tile_vectors(int64_t columns) { return columns <= kLanes<C> ? 1 : kTileVectors; }

/// fn(lane) for the columns of a panel: a loop of constant length, that vectorises without a remainder.
template <class C, class Fn>
MOTE_INLINE void each_lane(Fn&& fn) {
#pragma omp simd
  for (int64_t lane = 0; lane < kPanel<C>; ++lane) fn(lane);
}

}  // namespace mote::cpu
