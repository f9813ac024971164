#include "tensor/cuda/hardware.h"

#ifndef MOTE_CUDA_HOST   // the emulated GPU has no libraries
#include "tensor/cuda/blas.h"

#include <cublasLt.h>

#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "tensor/tf32.h"

namespace mote::cuda {
namespace {

constexpr int64_t kWorkspace = int64_t(32) << 20;   // what NVIDIA recommends for Hopper
constexpr int64_t kLeast = 64;                      // below, a call costs more than it saves

void succeed(cublasStatus_t status, const char* call, int line) {
  if (status != CUBLAS_STATUS_SUCCESS)
    fail(Error::Kind::resource, "matmul: ", call, " failed at ", __FILE__, ":", line, ": ",
         cublasLtGetStatusString(status));
}
#define MOTE_BLAS_CHECK(call) succeed(call, #call, __LINE__)

template <class Handle, cublasStatus_t (*destroy)(Handle)>
struct Destroy {
  using pointer = Handle;
  void operator()(Handle handle) const { destroy(handle); }
};
template <class Handle, cublasStatus_t (*destroy)(Handle)>
using Owned = std::unique_ptr<Handle, Destroy<Handle, destroy>>;
using Description = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

template <class T>
void set(const Description& description, cublasLtMatmulDescAttributes_t attribute, T value) {
  MOTE_BLAS_CHECK(cublasLtMatmulDescSetAttribute(description.get(), attribute, &value, sizeof value));
}
template <class T>
void set(const Layout& layout, cublasLtMatrixLayoutAttribute_t attribute, T value) {
  MOTE_BLAS_CHECK(cublasLtMatrixLayoutSetAttribute(layout.get(), attribute, &value, sizeof value));
}
template <class T>
void set(const Preference& preference, cublasLtMatmulPreferenceAttributes_t attribute, T value) {
  MOTE_BLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof value));
}

/// A matrix as cuBLASLt sees it, column by column: `lines` columns of `length`.
Layout layout_of(cudaDataType_t type, int64_t length, int64_t lines, int64_t batches) {
  cublasLtMatrixLayout_t handle;
  MOTE_BLAS_CHECK(cublasLtMatrixLayoutCreate(&handle, type, uint64_t(length), uint64_t(lines), length));
  Layout layout(handle);
  set(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, int32_t(batches));
  set(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, length * lines);
  return layout;
}

/// A handle for each device; it lives as long as the program, for the runtime may be gone before statics are.
cublasLtHandle_t handle_of(int device) {
  static std::mutex mutex;
  static std::map<int, cublasLtHandle_t> handles;
  std::lock_guard lock(mutex);
  auto [at, is_new] = handles.try_emplace(device);
  if (is_new) MOTE_BLAS_CHECK(cublasLtCreate(&at->second));
  return at->second;
}

/// What an algorithm was chosen for: device, dtype, TF32, M, N, K, batches, transposes, bias.
using Shape = std::tuple<int, DType, bool, int64_t, int64_t, int64_t, int64_t, bool, bool, bool>;
struct Choice {
  bool found = false;
  cublasLtMatmulAlgo_t algorithm{};
};

bool is_aligned(const Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.raw()) % 16 == 0 && tensor.size(-1) * size_of(tensor.dtype()) % 16 == 0;
}

}  // namespace

bool blas_matmul(Tensor& y, const Tensor& a, const Tensor& w, bool trans_a, bool trans_w, const Tensor& bias) {
  int64_t M = y.size(-2), N = y.size(-1), K = a.size(trans_a ? -2 : -1), batches = y.ndim() == 3 ? y.size(0) : 1;
  if (y.dtype() == DType::f64 || std::min({M, N, K}) < kLeast || batches > INT32_MAX) return false;
  if (!is_aligned(y) || !is_aligned(a) || !is_aligned(w) || (bias.defined() && !is_aligned(bias))) return false;

  bool is_f32 = y.dtype() == DType::f32, tf32 = is_f32 && tf32_allowed();
  cudaDataType_t type = is_f32 ? CUDA_R_32F : CUDA_R_16BF;
  cublasComputeType_t compute = !is_f32 ? CUBLAS_COMPUTE_32F
                                : tf32  ? CUBLAS_COMPUTE_32F_FAST_TF32
                                        : CUBLAS_COMPUTE_32F_PEDANTIC;
  // Column by column, what lies in memory is y^T = op(w)^T op(a)^T: w comes first and keeps its transpose.
  cublasLtMatmulDesc_t new_description;
  MOTE_BLAS_CHECK(cublasLtMatmulDescCreate(&new_description, compute, CUDA_R_32F));
  Description description(new_description);
  set(description, CUBLASLT_MATMUL_DESC_TRANSA, trans_w ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(description, CUBLASLT_MATMUL_DESC_TRANSB, trans_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  if (bias.defined()) {
    set(description, CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);   // of each row of y^T
    set(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias.raw());
  }
  Layout layout_w = layout_of(type, w.size(-1), w.size(-2), batches);
  Layout layout_a = layout_of(type, a.size(-1), a.size(-2), batches);
  Layout layout_y = layout_of(type, N, M, batches);

  cublasLtHandle_t handle = handle_of(current().index);
  static std::mutex mutex;
  static std::map<Shape, Choice> choices;
  Choice choice;
  {
    std::lock_guard lock(mutex);
    Shape shape{current().index, y.dtype(), tf32, M, N, K, batches, trans_a, trans_w, bias.defined()};
    auto [at, is_new] = choices.try_emplace(shape);
    if (is_new) {
      cublasLtMatmulPreference_t new_preference;
      MOTE_BLAS_CHECK(cublasLtMatmulPreferenceCreate(&new_preference));
      Preference preference(new_preference);
      set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(kWorkspace));
      for (auto which : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                         CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
        set(preference, which, uint32_t(16));
      cublasLtMatmulHeuristicResult_t best;
      int found = 0;
      cublasStatus_t status =
          cublasLtMatmulAlgoGetHeuristic(handle, description.get(), layout_w.get(), layout_a.get(), layout_y.get(),
                                         layout_y.get(), preference.get(), 1, &best, &found);
      if (status != CUBLAS_STATUS_NOT_SUPPORTED) succeed(status, "cublasLtMatmulAlgoGetHeuristic", __LINE__);
      at->second.found = status == CUBLAS_STATUS_SUCCESS && found > 0;
      if (at->second.found) at->second.algorithm = best.algo;
    }
    choice = at->second;
  }
  if (!choice.found) return false;
  Tensor workspace = empty({kWorkspace}, DType::u8, y.device());
  float one = 1, zero = 0;
  MOTE_BLAS_CHECK(cublasLtMatmul(handle, description.get(), &one, w.raw(), layout_w.get(), a.raw(), layout_a.get(),
                                 &zero, y.raw(), layout_y.get(), y.raw(), layout_y.get(), &choice.algorithm,
                                 workspace.raw(), size_t(kWorkspace), current().stream));
  return true;
}

}  // namespace mote::cuda
#endif
