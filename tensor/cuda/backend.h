// backend.h - what the program asks of GPUs, without CUDA headers: whether one can be used, memory, copies, kernels.
// runtime.cpp answers in a build with CUDA, off.cpp in one without; tests put an emulated GPU in their place.
#pragma once
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/device.h"
#include "tensor/kernels.h"

namespace mote::cuda {

/// One pointer a kernel, of the signature in kernels.h; null where the kernel has not been written for CUDA.
struct Kernels {
#define MOTE_KERNEL(name, parameters, arguments) void(*name) parameters = nullptr;
#include "tensor/kernels.h"
#undef MOTE_KERNEL
};

struct MemoryInfo {
  size_t free = 0, total = 0;   // bytes of the device
};

/// Work on a device is queued on its one stream and done in order; functions return without waiting unless said.
class Backend {
 public:
  virtual ~Backend() = default;
  /// Empty if device `index` can run kernels; otherwise why not and what would help.
  virtual std::string unusable(int index) const = 0;
  /// Kernels of this thread go to device `index` from now on.
  virtual void activate(int index) = 0;
  /// Fresh memory aligned to 256 bytes, or null if the device has no room.
  virtual void* allocate(int index, size_t bytes) = 0;
  /// Waits for the device first.
  virtual void release(int index, void* block) = 0;
  virtual MemoryInfo memory(int index) = 0;
  /// Every byte becomes `value`.
  virtual void fill(int index, void* block, unsigned char value, size_t bytes) = 0;
  /// Copies between a device and the host or between devices. From the host it returns once `from` may be changed;
  /// to the host it waits for all work on the device.
  virtual void copy(Device to_device, void* to, Device from_device, const void* from, size_t bytes) = 0;
  /// Waits for all work on the device; throws Error(resource) if some of it has failed.
  virtual void synchronize(int index) = 0;
  /// Records what `work` launches on device `index` instead of running it. `run_recorded` runs it, its random draws
  /// taken `random_shift` Philox blocks further on in their streams; `forget` frees it.
  virtual void* record(int index, const std::function<void()>& work) = 0;
  virtual void run_recorded(int index, void* recorded, uint64_t random_shift) = 0;
  virtual void forget(void* recorded) noexcept = 0;
  /// Queues products of bf16 (or f32 multiply-adds) on every processor of device `index` that touch no memory: what the
  /// device can do at most. Returns how many multiplications and additions they are.
  virtual double compute_loop(int index, DType dtype, int64_t rounds) = 0;

  Kernels kernels;
};

/// The GPUs of this program.
Backend& backend();
/// What `backend()` returns unless tests have put another in its place.
Backend& built_in_backend();
/// Puts `other` in its place, or with nullptr the built-in one back. No tensor on a GPU may live.
void replace_backend(Backend* other);

/// The kernels that have no CUDA version: --device auto does not choose a GPU while there are any.
std::vector<std::string_view> missing_kernels(const Kernels& kernels);
/// Throws Error(resource) for a call of a kernel that is null.
[[noreturn]] void fail_missing(const char* kernel);

}  // namespace mote::cuda
