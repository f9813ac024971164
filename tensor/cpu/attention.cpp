// Attention without a kept score matrix: scores exist for one block of rows of one image and head, in L2. Forward
// leaves the log of each row's softmax denominator, from which backward rebuilds the probabilities.  [Dao 2022, sec. 3]
#include "tensor/cpu/gemm.h"
#include "tensor/kernels.h"

namespace mote::cpu {
namespace {

/// Where one image and head lies in qkv [N, T, 3 C], and the sizes of its products.
struct Head {
  int64_t tokens, width, channels;   // D = width, C = channels = heads D
  int64_t ld() const { return 3 * channels; }
  int64_t block() const { return std::min<int64_t>(tokens, 128); }   // rows of scores at a time
  /// The largest working area of the products below.
  template <class E>
  int64_t work() const {
    return std::max({packed_size<E>(width, tokens), packed_size<E>(tokens, width), packed_size<E>(block(), width)}) +
           kBlockElements<E>;
  }
};

/// Folds a row in 16 lanes, then the lanes and the remainder in order: vectors without reordering by the compiler.
template <class C, class Fold>
C fold_lanes(const C* row, int64_t length, C start, Fold fold) {
  constexpr int64_t kSums = 16;
  C lanes[kSums];
  std::fill(lanes, lanes + kSums, start);
  int64_t t = 0;
  for (; t + kSums <= length; t += kSums)
#pragma omp simd
    for (int64_t lane = 0; lane < kSums; ++lane) lanes[lane] = fold(lanes[lane], row[t + lane]);
  C result = start;
  for (C lane : lanes) result = fold(result, lane);
  for (; t < length; ++t) result = fold(result, row[t]);
  return result;
}

template <class Fn>
void for_heads(int64_t images, int64_t heads, Fn&& fn) {
  parallel_for(images * heads, 1, [&](int64_t first, int64_t last) {
    for (int64_t item = first; item < last; ++item) fn(item / heads, item % heads);
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
    C scale = C(1 / std::sqrt(double(head.width)));   // without it the softmax saturates for wide heads
    int64_t part = head.block() * tokens, rows_part = head.block() * head.width;
    ThreadScratch<C> scratch(part + rows_part + head.work<C>());
    for_heads(images, heads, [&](int64_t n, int64_t h) {
      const T* q = qkv.data<T>() + n * tokens * head.ld() + h * head.width;
      const T *k = q + channels, *v = q + 2 * channels;
      T* out = y.data<T>() + n * tokens * channels + h * head.width;
      C* out_lse = lse.data<C>() + (n * heads + h) * tokens;
      C *scores = scratch.mine(), *result = scores + part, *work = result + rows_part;
      for (int64_t row0 = 0; row0 < tokens; row0 += head.block()) {
        int64_t rows = std::min(head.block(), tokens - row0);
        gemm_serial(rows, tokens, head.width, Matrix<T>{q + row0 * head.ld(), head.ld()}, Matrix<T>{k, head.ld(), true},
                    scores, tokens, false, work);
        for (int64_t r = 0; r < rows; ++r) {
          C* row = scores + r * tokens;
          C largest = fold_lanes(row, tokens, row[0], [](C a, C b) { return math::max(a, b); });
#pragma omp simd
          for (int64_t t = 0; t < tokens; ++t) row[t] = math::exp((row[t] - largest) * scale);
          C sum = fold_lanes(row, tokens, C(0), [](C a, C b) { return a + b; });
          out_lse[row0 + r] = largest * scale + math::log(sum);
          C inverse = C(1) / sum;
          for (int64_t i = 0; i < tokens; ++i) row[i] *= inverse;
        }
        gemm_serial(rows, head.width, tokens, Matrix<C>{scores, tokens}, Matrix<T>{v, head.ld()}, result, head.width, false,
                    work);
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t d = 0; d < head.width; ++d) out[(row0 + r) * channels + d] = T(result[r * head.width + d]);
      }
    });
  });
}

void attention_backward(Tensor& dqkv, const Tensor& qkv, const Tensor& y, const Tensor& lse, const Tensor& dy,
                        int64_t heads) {
  // With P = softmax(S scale), S = q k^T, O = P v:  dv = P^T dO;  dP = dO v^T;  delta = rowsum(dO O);
  // dS = scale P (dP - delta);  dq = dS k;  dk = dS^T q.
  int64_t images = y.size(0), tokens = y.size(1), channels = y.size(2);
  if (y.numel() == 0) return;
  Head head{tokens, channels / heads, channels};
  for_floating("attention_backward", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    C scale = C(1 / std::sqrt(double(head.width)));
    int64_t part = tokens * head.width, block_part = head.block() * tokens;
    ThreadScratch<C> scratch(2 * block_part + 3 * part + head.work<C>());
    for_heads(images, heads, [&](int64_t n, int64_t h) {
      const T* q = qkv.data<T>() + n * tokens * head.ld() + h * head.width;
      const T *k = q + channels, *v = q + 2 * channels;
      const T* out = y.data<T>() + n * tokens * channels + h * head.width;
      const T* dout = dy.data<T>() + n * tokens * channels + h * head.width;
      const C* in_lse = lse.data<C>() + (n * heads + h) * tokens;
      C *p = scratch.mine(), *ds = p + block_part, *grads = ds + block_part, *work = grads + 3 * part;
      C *dq = grads, *dk = dq + part, *dv = dk + part;
      for (int64_t row0 = 0; row0 < tokens; row0 += head.block()) {
        int64_t rows = std::min(head.block(), tokens - row0);
        bool accumulate = row0 > 0;
        Matrix<T> q_block{q + row0 * head.ld(), head.ld()}, dout_block{dout + row0 * channels, channels};
        gemm_serial(rows, tokens, head.width, q_block, Matrix<T>{k, head.ld(), true}, p, tokens, false, work);
        gemm_serial(rows, tokens, head.width, dout_block, Matrix<T>{v, head.ld(), true}, ds, tokens, false, work);
        for (int64_t r = 0; r < rows; ++r) {
          const T *o = out + (row0 + r) * channels, *g = dout + (row0 + r) * channels;
          double dot = 0;
          for (int64_t d = 0; d < head.width; ++d) dot += double(C(o[d])) * double(C(g[d]));
          C delta = C(dot), log_sum = in_lse[row0 + r];
          C *p_row = p + r * tokens, *ds_row = ds + r * tokens;
#pragma omp simd
          for (int64_t t = 0; t < tokens; ++t) {
            C probability = math::exp(p_row[t] * scale - log_sum);
            p_row[t] = probability;
            ds_row[t] = scale * probability * (ds_row[t] - delta);
          }
        }
        gemm_serial(tokens, head.width, rows, Matrix<C>{p, tokens, true}, dout_block, dv, head.width, accumulate, work);
        gemm_serial(rows, head.width, tokens, Matrix<C>{ds, tokens}, Matrix<T>{k, head.ld()}, dq + row0 * head.width,
                   head.width, false, work);
        gemm_serial(tokens, head.width, rows, Matrix<C>{ds, tokens, true}, q_block, dk, head.width, accumulate, work);
      }
      T* to = dqkv.data<T>() + n * tokens * head.ld() + h * head.width;
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t which = 0; which < 3; ++which)
          for (int64_t d = 0; d < head.width; ++d)
            to[t * head.ld() + which * channels + d] = T(grads[which * part + t * head.width + d]);
    });
  });
}

}  // namespace mote::cpu
