// runtime.h - what the files that talk to the CUDA runtime share: checked calls, and the device that work goes to.
// Needs the CUDA headers; the rest of the program sees devices through backend.h.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "tensor/error.h"

namespace mote::cuda {

/// Where a call of the runtime stands, for messages.
struct Call {
  const char* op;
  const char* call;
  const char* file;
  int line;
};

/// Throws Error(resource) naming op, call, file, line and what the runtime says, unless `status` is cudaSuccess.
void succeed(const Call& call, cudaError_t status);
#define MOTE_CUDA_CHECK(op, call) ::mote::cuda::succeed({op, #call, __FILE__, __LINE__}, call)

/// To be called after each launch: throws like succeed() if it was refused. With MOTE_CUDA_SYNC=1 in the environment it
/// also waits for the kernel, so that a fault inside it is reported where it was launched.
void launched(const Call& call);

/// A device that work can be sent to. Everything goes to its one stream, in order.
struct DeviceState {
  int index = 0;
  cudaStream_t stream = nullptr;
  size_t shared_limit = 0;   // bytes of shared memory that one block may ask for
  int processors = 0;
  int architecture = 0;      // 80, 86, 89, 90, ...
  uint64_t* random_shift = nullptr;   // on the device: what draws add to their offset (Backend::run_recorded)
};
/// The architectures that this program was built for, as architectures.h reads them.
const char* built_for();
/// Whether what is launched is being recorded (Backend::record) instead of run.
bool recording();
/// The device that `activate` chose last in this thread (backend.h); device 0 before.
const DeviceState& current();

}  // namespace mote::cuda
