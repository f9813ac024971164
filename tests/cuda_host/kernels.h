// kernels.h - the kernels of tensor/cuda/ as the emulated GPU runs them: mote::cuda_host::name takes CPU tensors. Only
// those whose .cu file is there can be linked.
#pragma once
#include "tensor/kernels.h"

namespace mote::cuda_host {
double compute_loop(Tensor& sink, DType dtype, int64_t rounds);   // tensor/cuda/ceiling.h
#define MOTE_KERNEL(name, parameters, arguments) void name parameters;
#include "tensor/kernels.h"
#undef MOTE_KERNEL
}  // namespace mote::cuda_host
