#include "tensor/cuda/hardware.h"

#ifndef MOTE_CUDA_HOST   // the emulated GPU has functions of its own
#include "tensor/cuda/hopper.h"

#include <cudaTypedefs.h>

#include <cstdlib>
#include <string_view>

namespace mote::cuda::hw {

bool is_hopper() {
  static const char* const wanted = std::getenv("MOTE_WGMMA");
  static const bool allowed = !wanted || std::string_view(wanted) != "0";
  return allowed && current().architecture == 90 && std::string_view(built_for()).find("90a") != std::string_view::npos;
}

TensorMap tensor_map(const char* op, const Tensor& tensor, const int64_t (&size)[4], const int (&box)[4]) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
#else
    cudaError_t status = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
    succeed({"conv2d", "cuTensorMapEncodeTiled", __FILE__, __LINE__}, status);
    if (found != cudaDriverEntryPointSuccess)
      fail(Error::Kind::resource, "conv2d: the driver has no cuTensorMapEncodeTiled; MOTE_WGMMA=0 does without");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  cuuint64_t sizes[4], strides[3];
  cuuint32_t sides[4], steps[4] = {1, 1, 1, 1};
  uint64_t stride = sizeof(bf16);
  for (int i = 0; i < 4; ++i) {
    sizes[i] = cuuint64_t(size[i]);
    sides[i] = cuuint32_t(box[i]);
    stride *= uint64_t(size[i]);
    if (i < 3) strides[i] = stride;
  }
  TensorMap map;
  CUresult result = encode(&map.map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<void*>(tensor.raw()), sizes, strides,
                           sides, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                           CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    fail(Error::Kind::resource, op, ": cuTensorMapEncodeTiled failed with ", int(result), " for boxes of ", box[0], " x ",
         box[1], " x ", box[2], " x ", box[3], " of ", describe(tensor));
  return map;
}

}  // namespace mote::cuda::hw
#endif
