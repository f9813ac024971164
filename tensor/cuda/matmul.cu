// matmul.cu - y[b] = op(a[b]) op(w[b]) + bias: large products by cuBLASLt (blas.h), small and odd ones, and f64, by
// product.cuh.
#include "tensor/cuda/product.cuh"

#include "tensor/kernels.h"
#ifndef MOTE_CUDA_HOST
#include "tensor/cuda/blas.h"
#endif

namespace mote::MOTE_CUDA_NAMESPACE {

void matmul(Tensor& y, const Tensor& a, const Tensor& w, bool trans_a, bool trans_w, const Tensor& bias) {
  if (y.numel() == 0) return;
#ifndef MOTE_CUDA_HOST
  if (blas_matmul(y, a, w, trans_a, trans_w, bias)) return;
#endif
  int64_t M = y.size(-2), N = y.size(-1), K = a.size(trans_a ? -2 : -1), batches = y.ndim() == 3 ? y.size(0) : 1;
  for_floating("matmul", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    bool aligned = is_aligned(y, N) && (!bias.defined() || is_aligned(bias, N));
    Dense<T> out{hw::ptr<T>(y), hw::ptr<T>(bias), M, N, aligned};
    auto with_w = [&](const auto& source_a) {
      if (trans_w)
        product<T, false>("matmul", source_a, Matrix<T, Fast::k>{hw::ptr<T>(w), N, K, N * K, is_aligned(w, K)}, out,
                          {M, N, K, batches});
      else
        product<T, false>("matmul", source_a, Matrix<T, Fast::other>{hw::ptr<T>(w), K, N, N * K, is_aligned(w, N)}, out,
                          {M, N, K, batches});
    };
    if (trans_a) with_w(Matrix<T, Fast::other>{hw::ptr<T>(a), K, M, M * K, is_aligned(a, M)});
    else with_w(Matrix<T, Fast::k>{hw::ptr<T>(a), M, K, M * K, is_aligned(a, K)});
  });
}

}  // namespace mote::MOTE_CUDA_NAMESPACE
