// gpu.h - the emulated GPU as the device cuda:0 of the whole program: tensors on it lie in the host's memory, kernels
// are those of tensor/cuda/*.cu run by the emulator.
#pragma once
#include <memory>

#include "tensor/cuda/backend.h"

namespace mote::test {

/// While it lives, Device{cuda, 0} is the emulated GPU. No tensor of it may outlive it.
class EmulatedGpu {
 public:
  EmulatedGpu();
  ~EmulatedGpu();
  EmulatedGpu(const EmulatedGpu&) = delete;
  EmulatedGpu& operator=(const EmulatedGpu&) = delete;

  Device device() const { return {Device::cuda, 0}; }
  /// Bytes that its memory is limited to from now on.
  void limit_memory(size_t bytes);

  static const cuda::Kernels& kernels();

 private:
  class Backend;
  std::unique_ptr<Backend> backend_;
};

/// The first real GPU, if there is one that all kernels can run on; otherwise why not.
struct RealGpu {
  RealGpu();
  bool is_there() const { return why_not.empty(); }
  Device device{Device::cuda, 0};
  std::string why_not;
};

}  // namespace mote::test
