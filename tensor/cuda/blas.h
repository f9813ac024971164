// blas.h - products by cuBLASLt.
#pragma once
#include "tensor/tensor.h"

namespace mote::cuda {

/// The product of kernel::matmul (kernels.h) by cuBLASLt, with the bias added as sums are stored. bf16 is summed in
/// f32; f32 is multiplied as f32, unless tf32_allowed() (tf32.h). Returns false, having done nothing, for products
/// that the own kernel is for: f64, an extent below 64, memory or rows that do not begin on 16 bytes, or a shape for
/// which cuBLASLt has no algorithm. The same call gives the same bits each time on one device. Throws Error(resource)
/// with cuBLASLt's status if it fails.
bool blas_matmul(Tensor& y, const Tensor& a, const Tensor& w, bool trans_a, bool trans_w, const Tensor& bias);

}  // namespace mote::cuda
