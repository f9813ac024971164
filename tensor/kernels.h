// kernels.h - the contracts of every kernel: what runs on a device and knows no gradients.
// A kernel writes into tensors that its caller has made; shapes and dtypes are checked by the public op that calls it
// (autograd/ops.h). kernels.cpp sends each call to mote::cpu or mote::cuda by the device of its first argument, the
// one switch on the device in the program. Reading order: this list, tensor/cpu/, tensor/cuda/.
//
// A backward kernel overwrites its outputs with the gradient of dot(dy, y) with respect to each input. An output that
// nobody needs is passed undefined and skipped. Floating tensors of one call share a dtype unless said otherwise.
//
// Included plainly, this file declares each kernel in mote::kernel, mote::cpu and mote::cuda; included with MOTE_KERNEL
// defined, it is the list of kernels (kernels.cpp, cuda/backend.h). That is why it has no #pragma once.
#if defined(MOTE_KERNEL) || !defined(MOTE_KERNELS_DECLARED)
#ifndef MOTE_KERNEL
#define MOTE_KERNELS_DECLARED
#include <array>
#include <vector>

#include "tensor/adamw.h"
#include "tensor/functors.h"
#include "tensor/scores.h"
#include "tensor/tensor.h"

namespace mote {

/// A convolution's stride and zero padding, each side its own.
struct Conv2dSpec {
  int64_t stride = 1;
  int64_t top = 0, bottom = 0, left = 0, right = 0;
  static Conv2dSpec same(int64_t kernel) { return {1, kernel / 2, kernel / 2, kernel / 2, kernel / 2}; }
};

/// The variants of the time embedding that published networks have; the defaults are those of Ho 2020.
struct TimeEmbedding {
  bool cos_first = false;   // [cos, sin] instead of [sin, cos]
  double shift = 1;         // the frequencies fall from 1 to 1/10000 over D/2 - shift steps
};

/// One summand of kernel::combine.
struct Term {
  double factor;
  Tensor tensor;
};

using Axes = std::array<int, kMaxAxes>;

#define MOTE_KERNEL(name, parameters, arguments)        \
  namespace kernel { void name parameters; }            \
  namespace cpu { void name parameters; }               \
  namespace cuda { void name parameters; }
#define MOTE_KERNEL_DECLARING
#endif

// ---- Fill, copy, convert -------------------------------------------------------------------------------------------

/// y[i] = value.
MOTE_KERNEL(fill, (Tensor & y, double value), (y, value))
/// y[i] = x[i] converted to y's dtype (any to any; floats to integers truncate). y and x have equal numel.
MOTE_KERNEL(convert, (Tensor & y, const Tensor& x), (y, x))
/// y = x with its axes in the order `axes`: y.shape[i] = x.shape[axes[i]]. Any dtype.
MOTE_KERNEL(permute, (Tensor & y, const Tensor& x, const Axes& axes), (y, x, axes))
/// The box of y that starts at index `start` (one number an axis) is overwritten by x. Any dtype.
MOTE_KERNEL(put_box, (Tensor & y, const Tensor& x, const std::vector<int64_t>& start), (y, x, start))
/// y is overwritten by the box of x that starts at index `start`. Any dtype.
MOTE_KERNEL(get_box, (Tensor & y, const Tensor& x, const std::vector<int64_t>& start), (y, x, start))
/// y = x stretched along its axes of size 1 (aligned at the end).
MOTE_KERNEL(broadcast, (Tensor & y, const Tensor& x), (y, x))

// ---- Pointwise -----------------------------------------------------------------------------------------------------

/// y = op(x).
MOTE_KERNEL(unary, (Tensor & y, const Tensor& x, const Unary& op), (y, x, op))
/// dx = dy op'(.), from what the functor keeps: kept is x, y, or undefined (functors.h).
MOTE_KERNEL(unary_backward, (Tensor & dx, const Tensor& kept, const Tensor& dy, const Unary& op), (dx, kept, dy, op))
/// y = op(a, b) with broadcasting; y has the broadcast shape.
MOTE_KERNEL(binary, (Tensor & y, const Tensor& a, const Tensor& b, Binary op), (y, a, b, op))
/// da, db in the shape of dy, before the sum over broadcast axes (sum_to). Undefined outputs are skipped; the first
/// argument is dy so that the device is known.
MOTE_KERNEL(binary_backward, (const Tensor& dy, Tensor& da, Tensor& db, const Tensor& a, const Tensor& b, Binary op),
            (dy, da, db, a, b, op))
/// y += x, same shape; x may be of another floating dtype than y, the sum is in the compute type of y.
MOTE_KERNEL(accumulate, (Tensor & y, const Tensor& x), (y, x))
/// y = sum of factor * tensor over 1 to 8 terms in order, same shapes; all in the compute type. y may be a term.
MOTE_KERNEL(combine, (Tensor & y, const std::vector<Term>& terms), (y, terms))
/// y[n, ...] = a[n] x[n, ...] + b[n] e[n, ...]; a, b f64 [N].
MOTE_KERNEL(combine_rows, (Tensor & y, const Tensor& x, const Tensor& e, const Tensor& a, const Tensor& b),
            (y, x, e, a, b))
/// y = x / (1 - p) where a uniform draw at (seed, offset, i) is >= p, else 0. Its own backward.
MOTE_KERNEL(dropout, (Tensor & y, const Tensor& x, double p, uint64_t seed, uint64_t offset), (y, x, p, seed, offset))

// ---- Random numbers (random.h) -------------------------------------------------------------------------------------

MOTE_KERNEL(random_uniform, (Tensor & y, uint64_t seed, uint64_t offset), (y, seed, offset))
MOTE_KERNEL(random_normal, (Tensor & y, uint64_t seed, uint64_t offset), (y, seed, offset))
MOTE_KERNEL(random_int, (Tensor & y, int64_t low, int64_t high, uint64_t seed, uint64_t offset),
            (y, low, high, seed, offset))

// ---- Reductions, in an order that does not depend on the thread count ----------------------------------------------

/// y = x summed over the axes where y has size 1 (aligned at the end; leading axes may be missing in y).
MOTE_KERNEL(sum_to, (Tensor & y, const Tensor& x), (y, x))
/// Largest value along `axis` and the smallest index that has it: y, index in the shape of x without axis. NaN wins.
MOTE_KERNEL(max_axis, (Tensor & y, Tensor& index, const Tensor& x, int axis), (y, index, x, axis))
MOTE_KERNEL(max_axis_backward, (Tensor & dx, const Tensor& index, const Tensor& dy, int axis), (dx, index, dy, axis))
/// y [1] of f64 = sum of x^2; infinite or NaN if any element is.
MOTE_KERNEL(sum_squares, (Tensor & y, const Tensor& x), (y, x))

// ---- Products ------------------------------------------------------------------------------------------------------

/// y[b] = op(a[b]) op(w[b]) + bias, op = transpose of the last two axes where asked.
///   a [B, M, K] or [M, K]; w [B, K, N] or [K, N]; y [B, M, N] or [M, N]; bias [N] or undefined
/// Each element is one sum over k = 0..K-1 in fixed order.
MOTE_KERNEL(matmul, (Tensor & y, const Tensor& a, const Tensor& w, bool trans_a, bool trans_w, const Tensor& bias),
            (y, a, w, trans_a, trans_w, bias))

/// y[n,i,j,k] = bias[k] + shift[n,k] + residual[n,i,j,k] + sum_{p,q,c} x[n, i s + p - top, j s + q - left, c] w[p,q,c,k]
///   x [N, H, W, C]; w [P, Q, C, K]; y [N, Ho, Wo, K] with Ho = (H + top + bottom - P) / s + 1; bias [K], shift [N, K],
///   residual like y: each may be undefined
MOTE_KERNEL(conv2d,
            (Tensor & y, const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& shift,
             const Tensor& residual, const Conv2dSpec& spec),
            (y, x, w, bias, shift, residual, spec))
MOTE_KERNEL(conv2d_dx, (Tensor & dx, const Tensor& dy, const Tensor& w, const Conv2dSpec& spec), (dx, dy, w, spec))
MOTE_KERNEL(conv2d_dw, (Tensor & dw, const Tensor& x, const Tensor& dy, const Conv2dSpec& spec), (dw, x, dy, spec))

// ---- Scores of samples against targets: never more than a bounded part of them in memory ---------------------------
// score(s, i) = sum_d x[s, d] y[i, d] + h[i];  x [S, D], y [N, D], both f32 or both bf16; h f32 [N]; sums in f32

/// key [S, K] of i64: the K largest among the keys it holds (kNoKey where there is none yet), falling, and the keys
/// (scores.h) of the scores of each sample, row 0 of y being target `first`. 1 <= K <= kMaxTop, first + N <= 2^32.
/// Scores that are NaN or -inf are left out. The same bits however samples and targets are split into calls.
MOTE_KERNEL(score_top, (Tensor & key, const Tensor& x, const Tensor& y, const Tensor& h, int64_t first),
            (key, x, y, h, first))
/// Softmax over targets of score / epsilon, epsilon > 0, summed over samples.                    [Genans 2025, alg. 1]
///   sums:    largest [S], total [S] of f32 take the targets in: largest = max_i score, total = sum_i
///            e^((score - largest) / epsilon); before the first of them -inf and 0
///   shares:  share[i] = sum_s e^((score(s, i) - largest[s]) / epsilon) / total[s];  share f64 [N]
///   both:    first the one, then the other, computing each score once where N scores a sample fit into the cache
/// Sums of S are folded in groups of 256 samples. The same bits however targets are split at multiples of kScoreRows.
MOTE_KERNEL(score_softmax,
            (Tensor & largest, Tensor& total, Tensor& share, const Tensor& x, const Tensor& y, const Tensor& h,
             double epsilon, SoftmaxPass pass),
            (largest, total, share, x, y, h, epsilon, pass))

// ---- Norm, softmax, attention --------------------------------------------------------------------------------------

/// y = act(gamma (x - mean) rstd + beta), act = silu or identity; statistics over H, W and the C / groups channels of
/// a group; rstd = 1 / sqrt(var + eps), var without Bessel's correction.                            [Wu 2018, eq. 1-3]
///   x, y [N, H, W, C]; gamma, beta [C]; mean, rstd [N, groups] of the compute type (f32, or f64 for f64)
MOTE_KERNEL(group_norm,
            (Tensor & y, Tensor& mean, Tensor& rstd, const Tensor& x, const Tensor& gamma, const Tensor& beta,
             int64_t groups, double eps, bool silu),
            (y, mean, rstd, x, gamma, beta, groups, eps, silu))
MOTE_KERNEL(group_norm_backward,
            (Tensor & dx, Tensor& dgamma, Tensor& dbeta, const Tensor& dy, const Tensor& x, const Tensor& mean,
             const Tensor& rstd, const Tensor& gamma, const Tensor& beta, int64_t groups, bool silu),
            (dx, dgamma, dbeta, dy, x, mean, rstd, gamma, beta, groups, silu))

/// Over the last axis: y = e^(x - max) / sum, or x - max - log(sum) if log.
MOTE_KERNEL(softmax, (Tensor & y, const Tensor& x, bool log), (y, x, log))
MOTE_KERNEL(softmax_backward, (Tensor & dx, const Tensor& y, const Tensor& dy, bool log), (dx, y, dy, log))

/// y = softmax(q k^T / sqrt(D)) v for each image and head; the score matrix is never kept.
///   qkv [N, T, 3 C]: q | k | v, each C = heads D wide; y [N, T, C]; lse [N, heads, T] (compute type): log of the
///   softmax denominator, from which backward rebuilds the scores
MOTE_KERNEL(attention, (Tensor & y, Tensor& lse, const Tensor& qkv, int64_t heads), (y, lse, qkv, heads))
MOTE_KERNEL(attention_backward,
            (Tensor & dqkv, const Tensor& qkv, const Tensor& y, const Tensor& lse, const Tensor& dy, int64_t heads),
            (dqkv, qkv, y, lse, dy, heads))

// ---- Resampling, lookup, losses ------------------------------------------------------------------------------------

/// y[n, i, j, c] = x[n, i / factor, j / factor, c].
MOTE_KERNEL(upsample_nearest, (Tensor & y, const Tensor& x, int64_t factor), (y, x, factor))
MOTE_KERNEL(upsample_nearest_backward, (Tensor & dx, const Tensor& dy, int64_t factor), (dx, dy, factor))
/// y = mean over windows of factor x factor; H and W are multiples of factor.
MOTE_KERNEL(avg_pool, (Tensor & y, const Tensor& x, int64_t factor), (y, x, factor))
MOTE_KERNEL(avg_pool_backward, (Tensor & dx, const Tensor& dy, int64_t factor), (dx, dy, factor))
/// y = maximum over windows of factor x factor; H and W are multiples of factor. NaN wins.
MOTE_KERNEL(max_pool, (Tensor & y, const Tensor& x, int64_t factor), (y, x, factor))
/// dy goes to the first largest element of each window of x, row by row (to the first NaN if there is one).
MOTE_KERNEL(max_pool_backward, (Tensor & dx, const Tensor& dy, const Tensor& x, int64_t factor), (dx, dy, x, factor))
/// y[i, :] = table[ids[i], :]; table [V, D], ids [n] of i64 (checked by the op), y [n, D].
MOTE_KERNEL(gather_rows, (Tensor & y, const Tensor& table, const Tensor& ids), (y, table, ids))
/// dtable[v, :] = sum of dy[i, :] over ids[i] = v, in the order of i.
MOTE_KERNEL(gather_rows_backward, (Tensor & dtable, const Tensor& ids, const Tensor& dy), (dtable, ids, dy))
/// loss[i] = log sum_k e^{x[i,k]} - x[i, target[i]]; x [n, K], target [n] of i64, loss [n] of the compute type.
MOTE_KERNEL(cross_entropy, (Tensor & loss, const Tensor& logits, const Tensor& target), (loss, logits, target))
MOTE_KERNEL(cross_entropy_backward, (Tensor & dlogits, const Tensor& logits, const Tensor& target, const Tensor& dloss),
            (dlogits, logits, target, dloss))
/// y[n] = [sin(t w_0) .. sin(t w_{D/2-1}), cos(t w_0) ..], w_i = exp(-ln(10000) i / (D/2 - shift)), the halves swapped
/// if cos_first; t [N] f32, may be fractional; y [N, D] floating.                           [Ho 2020; papers: 8.2]
MOTE_KERNEL(timestep_embedding, (Tensor & y, const Tensor& t, const TimeEmbedding& kind), (y, t, kind))

// ---- Optimiser -----------------------------------------------------------------------------------------------------

/// scale = clip_factor(scale, squares, loss, max_norm) of adamw.h; scale f32 [1], squares and loss f64 [1].
MOTE_KERNEL(clip_scale, (Tensor & scale, const Tensor& squares, const Tensor& loss, double max_norm),
            (scale, squares, loss, max_norm))
/// One AdamW step of scale * grad in place over flat f32 arenas of equal length; scale f32 [1]: where it is NaN nothing
/// changes. ema may be undefined.
MOTE_KERNEL(adamw,
            (Tensor & parameter, const Tensor& grad, const Tensor& scale, Tensor& m, Tensor& v, Tensor& ema,
             const AdamW& options),
            (parameter, grad, scale, m, v, ema, options))

#ifdef MOTE_KERNEL_DECLARING
#undef MOTE_KERNEL_DECLARING
#undef MOTE_KERNEL
}  // namespace mote
#endif
#endif
