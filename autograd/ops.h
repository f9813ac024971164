// ops.h - the public differentiable ops. Each checks its arguments, makes the output, launches one kernel (kernels.h)
// and records its backward. Definitions: ops_pointwise.cpp, ops_shape.cpp, ops_matrix.cpp, ops_nn.cpp.
// Images are [N, H, W, C]; floating arguments of one call share a dtype. Every op throws Error(argument) naming op,
// rule and shapes when it is called outside its contract. bf16 is storage: arithmetic on it is in float.
#pragma once
#include <vector>

#include "autograd/engine.h"
#include "tensor/kernels.h"
#include "tensor/random.h"

namespace mote {

// ---- Pointwise: same shape as x ------------------------------------------------------------------------------------

Tensor affine(const Tensor& x, double scale, double shift);   // scale x + shift
Tensor neg(const Tensor& x);
Tensor exp(const Tensor& x);
Tensor log(const Tensor& x);
Tensor sqrt(const Tensor& x);
Tensor square(const Tensor& x);
Tensor reciprocal(const Tensor& x);
Tensor abs(const Tensor& x);
Tensor sin(const Tensor& x);
Tensor cos(const Tensor& x);
Tensor sigmoid(const Tensor& x);
Tensor silu(const Tensor& x);       // x sigmoid(x)
Tensor gelu(const Tensor& x);       // x (1 + erf(x / sqrt 2)) / 2
Tensor tanh(const Tensor& x);
Tensor relu(const Tensor& x);
Tensor softplus(const Tensor& x);   // log(1 + e^x)
Tensor clamp(const Tensor& x, double low, double high);
Tensor pow(const Tensor& x, double exponent);
Tensor cast(const Tensor& x, DType dtype);   // floating to floating; the gradient is cast back

// ---- Pointwise with broadcasting: axes aligned at the end, sizes of 1 stretch ---------------------------------------

Tensor add(const Tensor& a, const Tensor& b);
Tensor sub(const Tensor& a, const Tensor& b);
Tensor mul(const Tensor& a, const Tensor& b);
Tensor div(const Tensor& a, const Tensor& b);
Tensor maximum(const Tensor& a, const Tensor& b);   // a tie gives half of the gradient to each
Tensor minimum(const Tensor& a, const Tensor& b);
Tensor bce_with_logits(const Tensor& x, const Tensor& target);   // elementwise; targets in [0, 1]
inline Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
inline Tensor operator/(const Tensor& a, const Tensor& b) { return div(a, b); }
inline Tensor operator*(double scale, const Tensor& x) { return affine(x, scale, 0); }
inline Tensor operator-(const Tensor& x) { return neg(x); }

/// y[n, ...] = a[n] x[n, ...] + b[n] e[n, ...]; a, b f64 [N], not differentiated.
Tensor combine_rows(const Tensor& x, const Tensor& e, const Tensor& a, const Tensor& b);
/// x / (1 - p) where a uniform draw is >= p, else 0; identity if p = 0. The mask is redrawn in backward, not kept.
Tensor dropout(const Tensor& x, double p, Generator& generator);

// ---- Shape ---------------------------------------------------------------------------------------------------------

Tensor reshape(const Tensor& x, const Shape& shape);             // shares storage; one size may be -1
Tensor reshape(const Tensor& x, std::initializer_list<int64_t> sizes);
Tensor slice(const Tensor& x, int64_t begin, int64_t end);        // rows of the first axis; shares storage
Tensor permute(const Tensor& x, const std::vector<int>& axes);    // a copy: y.shape[i] = x.shape[axes[i]]
Tensor transpose(const Tensor& x, int axis_a, int axis_b);        // a copy
Tensor concat(const std::vector<Tensor>& parts, int axis);
std::vector<Tensor> split(const Tensor& x, const std::vector<int64_t>& sizes, int axis);
Tensor narrow(const Tensor& x, int axis, int64_t start, int64_t length);
/// `value` around x: before[i], after[i] elements on axis i.
Tensor pad(const Tensor& x, const std::vector<int64_t>& before, const std::vector<int64_t>& after, double value = 0);
Tensor broadcast_to(const Tensor& x, const Shape& shape);

// ---- Reductions ----------------------------------------------------------------------------------------------------

Tensor sum(const Tensor& x);                                      // scalar
Tensor sum(const Tensor& x, const std::vector<int>& axes, bool keep_axes = false);
Tensor mean(const Tensor& x);
Tensor mean(const Tensor& x, const std::vector<int>& axes, bool keep_axes = false);
Tensor max(const Tensor& x, int axis);                            // ties: the smallest index gets the gradient
Tensor argmax(const Tensor& x, int axis);                         // i64; not differentiable

// ---- Products ------------------------------------------------------------------------------------------------------

/// op(a) op(b): [M, K] [K, N] or batched [B, M, K] [B, K, N], each transposed in its last two axes if asked.
Tensor matmul(const Tensor& a, const Tensor& b, bool trans_a = false, bool trans_b = false);
/// x [..., C] w [C, K] + bias [K] (may be undefined) -> [..., K].
Tensor linear(const Tensor& x, const Tensor& w, const Tensor& bias);
/// Contract of kernel::conv2d; bias, shift and residual may be undefined.
Tensor conv2d(const Tensor& x, const Tensor& w, const Tensor& bias, const Conv2dSpec& spec, const Tensor& shift = {},
              const Tensor& residual = {});
/// Transposed convolution whose stride is its kernel: every pixel becomes f x f pixels,
///   y[n, i f + u, j f + v, k] = bias[k] + sum_c x[n,i,j,c] w[c,u,v,k]
///   x [N, H, W, C]; w [C, f, f, K]; bias [K], may be undefined; y [N, H f, W f, K]
/// One product and a reordering of its columns.
Tensor conv2d_transposed(const Tensor& x, const Tensor& w, const Tensor& bias);

// ---- Network ops ---------------------------------------------------------------------------------------------------

/// GroupNorm over [N, H, W, C], then SiLU if `silu`. Contract of kernel::group_norm; gamma, beta [C].
Tensor group_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, int64_t groups, double eps = 1e-6,
                  bool silu = false);
Tensor softmax(const Tensor& x);        // last axis
Tensor log_softmax(const Tensor& x);    // last axis
/// softmax(q k^T / sqrt(D)) v; qkv [N, T, 3 C] -> [N, T, C]; heads divides C.
Tensor attention(const Tensor& qkv, int64_t heads = 1);
Tensor upsample_nearest(const Tensor& x, int64_t factor = 2);
Tensor avg_pool(const Tensor& x, int64_t factor = 2);
Tensor max_pool(const Tensor& x, int64_t factor = 2);             // ties: the first of a window gets the gradient
/// Rows of table [V, D] at ids (i64, any shape) -> [ids..., D]. Throws if an id lies outside 0..V-1.
Tensor embedding(const Tensor& table, const Tensor& ids);
/// [N] -> [N, D], contract of kernel::timestep_embedding; D even and >= 4, 0 <= kind.shift < D/2; not differentiated.
Tensor timestep_embedding(const Tensor& t, int64_t width, DType dtype = DType::f32, const TimeEmbedding& kind = {});

// ---- Losses: f32 (f64 for f64) scalars, means over all elements ------------------------------------------------------

Tensor mse_loss(const Tensor& x, const Tensor& target);
/// logits [N, K], target i64 [N]; mean over N. Throws if a target lies outside 0..K-1.
Tensor cross_entropy(const Tensor& logits, const Tensor& target);
Tensor bce_with_logits_loss(const Tensor& logits, const Tensor& target);

}  // namespace mote
