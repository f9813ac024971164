// Attention without a kept score matrix: scores exist for a few queries of one image and head at a time. Forward leaves
// the log of each row's softmax denominator, from which backward rebuilds the probabilities.      [Dao 2022, sec. 3]
// Scores are made transposed, [key][query], in panels of kPanel queries: what belongs to a query (maximum, sum, lse,
// delta) then runs along the lanes, no row is ever folded, and a panel is the packed operand of the next product.
#include "tensor/cpu/gemm.h"
#include "tensor/kernels.h"

namespace mote::cpu {
namespace {

/// Sizes of one image and head in qkv [N, T, 3 C].
struct Head {
  int64_t tokens, width, channels;   // D = width, C = channels = heads D
  int64_t ld() const { return 3 * channels; }
};

/// Cuts a thread's working memory into arrays that start on cache lines; with no memory it only counts.
struct Cutter {
  char* memory = nullptr;
  int64_t bytes = 0;
  template <class E>
  E* cut(int64_t count) {
    E* at = reinterpret_cast<E*>(memory + bytes);
    bytes += (count * int64_t(sizeof(E)) + 63) / 64 * 64;
    return at;
  }
};

/// Lanes of a panel whose products are made: half of them where the queries, as they are packed, end in the first half.
/// The other half holds anything, and nothing reads what comes of it.
template <class C, class E>
int64_t computed_lanes(int64_t lanes) { return tile_vectors<C>(packed_k<E>(lanes)) * kLanes<C>; }

/// The panel as the tile wants it: as it lies, or in pairs in `packed`.
template <class E, class C>
const E* as_operand(const C* panel, int64_t K, E* packed) {
  if constexpr (std::is_same_v<E, C>) return panel;
  else pack_panel(packed, Matrix<C>{panel, kPanel<C>}, K, kPanel<C>, 0);
  return packed;
}

/// Calls fn(image, head, memory of the thread) for all of them; layout(cutter) cuts what fn needs.
template <class Layout, class Fn>
void for_heads(int64_t images, int64_t heads, Layout&& layout, Fn&& fn) {
  Cutter counter;
  layout(counter);
  ThreadScratch<char> scratch(counter.bytes);
  parallel_for(images * heads, 1, [&](int64_t first, int64_t last) {
    Cutter memory{scratch.mine()};
    auto arrays = layout(memory);
    for (int64_t item = first; item < last; ++item) fn(item / heads, item % heads, arrays);
  });
}

}  // namespace

void attention(Tensor& y, Tensor& lse, const Tensor& qkv, int64_t heads) {
  int64_t images = y.size(0), tokens = y.size(1), channels = y.size(2);
  if (y.numel() == 0) return;
  Head head{tokens, channels / heads, channels};
  for_floating("attention", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    using E = operand_t<T>;
    constexpr int64_t kQueries = kPanel<C>;
    C scale = C(1 / std::sqrt(double(head.width)));   // without it the softmax saturates for wide heads
    int64_t width = head.width, depth = packed_k<E>(width), sums = packed_k<E>(tokens);
    int64_t k_ld = block_ld<E>(width), vt_ld = block_ld<E>(tokens);
    struct Arrays {
      E *k, *vt, *qt, *p;   // rows of k and of v^T; a panel of q^T and of probabilities
      C *scores, *yt;       // a panel of scores^T and of y^T
    };
    auto layout = [&](Cutter& memory) {
      return Arrays{memory.cut<E>(tokens * k_ld), memory.cut<E>(width * vt_ld), memory.cut<E>(depth * kQueries),
                    memory.cut<E>(sums * kQueries), memory.cut<C>(tokens * kQueries), memory.cut<C>(width * kQueries)};
    };
    for_heads(images, heads, layout, [&](int64_t n, int64_t h, const Arrays& a) {
      const T* q = qkv.data<T>() + n * tokens * head.ld() + h * width;
      T* out = y.data<T>() + n * tokens * channels + h * width;
      C* out_lse = lse.data<C>() + (n * heads + h) * tokens;
      pack_block(a.k, k_ld, Matrix<T>{q + channels, head.ld()}, 0, tokens, 0, width);
      pack_block(a.vt, vt_ld, Matrix<T>{q + 2 * channels, head.ld(), true}, 0, width, 0, tokens);
      for (int64_t first = 0; first < tokens; first += kQueries) {
        int64_t lanes = std::min(kQueries, tokens - first), computed = computed_lanes<C, E>(lanes);
        pack_panel(a.qt, Matrix<T>{q, head.ld(), true}, width, tokens, first / kQueries);
        gemm_block<C, E>(tokens, computed, depth, a.k, k_ld, a.qt, 0, a.scores, kQueries, nullptr, false);
        C largest[kQueries], sum[kQueries] = {};
        std::copy(a.scores, a.scores + kQueries, largest);
        for (int64_t t = 1; t < tokens; ++t) {
          const C* score = a.scores + t * kQueries;
          each_lane<C>([&](int64_t lane) MOTE_INLINE_LAMBDA { largest[lane] = math::max(largest[lane], score[lane]); });
        }
        for (int64_t t = 0; t < tokens; ++t) {
          C* score = a.scores + t * kQueries;
          each_lane<C>([&](int64_t lane) MOTE_INLINE_LAMBDA {
            score[lane] = math::exp((score[lane] - largest[lane]) * scale);
            sum[lane] += score[lane];
          });
        }
        const E* p = as_operand(a.scores, tokens, a.p);
        gemm_block<C, E>(width, computed, sums, a.vt, vt_ld, p, 0, a.yt, kQueries, nullptr, false);
        for (int64_t lane = 0; lane < lanes; ++lane) {
          out_lse[first + lane] = largest[lane] * scale + math::log(sum[lane]);
          sum[lane] = C(1) / sum[lane];
        }
        for (int64_t d = 0; d < width; ++d) {
          C* row = a.yt + d * kQueries;
          each_lane<C>([&](int64_t lane) MOTE_INLINE_LAMBDA { row[lane] *= sum[lane]; });
        }
        transpose<C>(out + first * channels, channels, a.yt, kQueries, lanes, width);
      }
    });
  });
}

void attention_backward(Tensor& dqkv, const Tensor& qkv, const Tensor& y, const Tensor& lse, const Tensor& dy,
                        int64_t heads) {
  // With P = softmax(S scale), S = q k^T, O = P v:  dv = P^T dO;  dP = dO v^T;  delta = rowsum(dO O);
  // dS = scale P (dP - delta);  dq = dS k;  dk = dS^T q. P^T and dS^T are rows of the products dv and dk as they are
  // made; dq^T = k^T dS^T is turned at the end.
  int64_t images = y.size(0), tokens = y.size(1), channels = y.size(2);
  if (y.numel() == 0) return;
  Head head{tokens, channels / heads, channels};
  for_floating("attention_backward", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    using E = operand_t<T>;
    constexpr int64_t kQueries = kPanel<C>, kBlock = 4 * kQueries;   // queries of a panel, of the sums dv and dk
    C scale = C(1 / std::sqrt(double(head.width)));
    int64_t width = head.width, depth = packed_k<E>(width), sums = packed_k<E>(tokens);
    int64_t k_ld = block_ld<E>(width), kt_ld = block_ld<E>(tokens), p_ld = block_ld<E>(kBlock);
    struct Arrays {
      E *k, *v, *kt;        // rows of k, v, k^T
      E *qt, *gt, *q, *g;   // a panel of q^T and of dO^T; panels of a block of q and dO
      E *p, *ds, *packed;   // rows of P^T and dS^T for a block; a panel of dS^T
      C *scores, *dp, *dqt, *dk, *dv;
    };
    auto layout = [&](Cutter& memory) {
      Arrays a;
      a.k = memory.cut<E>(tokens * k_ld), a.v = memory.cut<E>(tokens * k_ld), a.kt = memory.cut<E>(width * kt_ld);
      a.qt = memory.cut<E>(depth * kQueries), a.gt = memory.cut<E>(depth * kQueries);
      a.q = memory.cut<E>(packed_size<E>(kBlock, width)), a.g = memory.cut<E>(packed_size<E>(kBlock, width));
      a.p = memory.cut<E>(tokens * p_ld), a.ds = memory.cut<E>(tokens * p_ld), a.packed = memory.cut<E>(sums * kQueries);
      a.scores = memory.cut<C>(tokens * kQueries), a.dp = memory.cut<C>(tokens * kQueries);
      a.dqt = memory.cut<C>(width * kQueries);
      a.dk = memory.cut<C>(tokens * width), a.dv = memory.cut<C>(tokens * width);
      return a;
    };
    for_heads(images, heads, layout, [&](int64_t n, int64_t h, const Arrays& a) {
      const T* q = qkv.data<T>() + n * tokens * head.ld() + h * width;
      const T *k = q + channels, *v = q + 2 * channels;
      const T* out = y.data<T>() + n * tokens * channels + h * width;
      const T* dout = dy.data<T>() + n * tokens * channels + h * width;
      const C* in_lse = lse.data<C>() + (n * heads + h) * tokens;
      T* to = dqkv.data<T>() + n * tokens * head.ld() + h * width;
      pack_block(a.k, k_ld, Matrix<T>{k, head.ld()}, 0, tokens, 0, width);
      pack_block(a.v, k_ld, Matrix<T>{v, head.ld()}, 0, tokens, 0, width);
      pack_block(a.kt, kt_ld, Matrix<T>{k, head.ld(), true}, 0, width, 0, tokens);
      for (int64_t block = 0; block < tokens; block += kBlock) {
        int64_t rows = std::min(kBlock, tokens - block);
        for (int64_t first = block; first < block + rows; first += kQueries) {
          int64_t panel = first / kQueries, lanes = std::min(kQueries, tokens - first), computed = computed_lanes<C, E>(lanes);
          pack_panel(a.qt, Matrix<T>{q, head.ld(), true}, width, tokens, panel);
          pack_panel(a.gt, Matrix<T>{dout, channels, true}, width, tokens, panel);
          gemm_block<C, E>(tokens, computed, depth, a.k, k_ld, a.qt, 0, a.scores, kQueries, nullptr, false);
          gemm_block<C, E>(tokens, computed, depth, a.v, k_ld, a.gt, 0, a.dp, kQueries, nullptr, false);
          C log_sum[kQueries], delta[kQueries] = {};
          std::fill(log_sum, log_sum + kQueries, std::numeric_limits<C>::max());   // past the last query: probability 0
          for (int64_t lane = 0; lane < lanes; ++lane) {
            const T *o = out + (first + lane) * channels, *g = dout + (first + lane) * channels;
            constexpr int64_t kParts = 16;   // sums side by side, folded in order
            C parts[kParts] = {};
            int64_t d = 0;
            for (; d + kParts <= width; d += kParts)
#pragma omp simd
              for (int64_t i = 0; i < kParts; ++i) parts[i] += C(o[d + i]) * C(g[d + i]);
            for (; d < width; ++d) parts[0] += C(o[d]) * C(g[d]);
            for (C part : parts) delta[lane] += part;
            log_sum[lane] = in_lse[first + lane];
          }
          E *to_p = a.p + first - block, *to_ds = a.ds + first - block;
          for (int64_t t = 0; t < tokens; ++t) {
            C* score = a.scores + t * kQueries;
            const C* dp = a.dp + t * kQueries;
            each_lane<C>([&](int64_t lane) MOTE_INLINE_LAMBDA {
              C p = math::exp(score[lane] * scale - log_sum[lane]);
              C ds = scale * p * (dp[lane] - delta[lane]);
              to_p[t * p_ld + lane] = E(p);
              to_ds[t * p_ld + lane] = E(ds);
              score[lane] = ds;
            });
          }
          const E* ds = as_operand(a.scores, tokens, a.packed);
          gemm_block<C, E>(width, computed, sums, a.kt, kt_ld, ds, 0, a.dqt, kQueries, nullptr, false);
          transpose<C>(to + first * head.ld(), head.ld(), a.dqt, kQueries, lanes, width);
        }
        int64_t count = packed_k<E>(rows);
        pack_panels(a.q, Matrix<T>{q + block * head.ld(), head.ld()}, rows, width);
        pack_panels(a.g, Matrix<T>{dout + block * channels, channels}, rows, width);
        gemm_block<C, E>(tokens, width, count, a.p, p_ld, a.g, count * kPanel<C>, a.dv, width, nullptr, block > 0);
        gemm_block<C, E>(tokens, width, count, a.ds, p_ld, a.q, count * kPanel<C>, a.dk, width, nullptr, block > 0);
      }
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t d = 0; d < width; ++d) {
          to[t * head.ld() + channels + d] = T(a.dk[t * width + d]);
          to[t * head.ld() + 2 * channels + d] = T(a.dv[t * width + d]);
        }
      }
    });
  });
}

}  // namespace mote::cpu
