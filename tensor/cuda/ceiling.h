// ceiling.h - what a GPU can compute at most, for benchmarks to hold kernels against.
#pragma once
#include "tensor/tensor.h"

namespace mote::cuda {

/// Queues `rounds` rounds of products that touch no memory on every processor of the current device.
///   dtype   bf16: tensor core products (mma.sync m16n8k16, sums in f32); f32: fused multiply-adds
///   sink    f32 [1] on the device, may be written
/// Returns the number of multiplications and additions.
double compute_loop(Tensor& sink, DType dtype, int64_t rounds);

}  // namespace mote::cuda
