#include "tests/cuda_host/gpu.h"

#include <cstdlib>
#include <cstring>
#include <map>

#include "tensor/allocator.h"
#include "tensor/cuda/missing.h"
#include "tests/cuda_host/emulator.h"
#include "tests/cuda_host/kernels.h"

namespace mote::test {

namespace host = cuda_host::host;

class EmulatedGpu::Backend : public cuda::Backend {
 public:
  Backend() { kernels = EmulatedGpu::kernels(); }

  std::string unusable(int index) const override { return index == 0 ? "" : "only one GPU is emulated"; }
  void activate(int) override {}

  void* allocate(int, size_t bytes) override {
    if (in_use_ + bytes > limit_) return nullptr;
    void* block = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    in_use_ += bytes;
    sizes_[block] = bytes;
    std::memset(block, 0xff, bytes);   // NaN in every floating dtype
    return block;
  }
  void release(int, void* block) override {
    in_use_ -= sizes_[block];
    sizes_.erase(block);
    std::free(block);
  }
  cuda::MemoryInfo memory(int) override { return {limit_ - in_use_, limit_}; }

  void fill(int, void* block, unsigned char value, size_t bytes) override {
    host::later([=] { std::memset(block, value, bytes); });
  }
  void copy(Device to_device, void* to, Device from_device, const void* from, size_t bytes) override {
    if (bytes == 0) return;
    check(!host::is_recording() || (to_device.is_cuda() && from_device.is_cuda()), "copy: from ", from_device, " to ",
          to_device, " inside a recorded graph");
    host::later([=] { std::memcpy(to, from, bytes); });
  }
  void synchronize(int) override { check(!host::is_recording(), "synchronize: inside a recorded graph"); }

  void* record(int, const std::function<void()>& work) override {
    auto launches = std::make_unique<Launches>();
    host::record(launches.get());
    try {
      work();
    } catch (...) {
      host::record(nullptr);
      throw;
    }
    host::record(nullptr);
    return launches.release();
  }
  void run_recorded(int, void* recorded, uint64_t random_shift) override {
    host::settings().random_shift = random_shift;
    for (const auto& launch : *static_cast<Launches*>(recorded)) launch();
    host::settings().random_shift = 0;
  }
  void forget(void* recorded) noexcept override { delete static_cast<Launches*>(recorded); }
  double compute_loop(int, DType dtype, int64_t rounds) override {
    Tensor sink = empty({1}, DType::f32, {Device::cuda, 0});
    return cuda_host::compute_loop(sink, dtype, rounds);
  }

  size_t limit_ = size_t(4) << 30;

 private:
  using Launches = std::vector<std::function<void()>>;
  size_t in_use_ = 0;
  std::map<void*, size_t> sizes_;
};

EmulatedGpu::EmulatedGpu() : backend_(std::make_unique<Backend>()) { cuda::replace_backend(backend_.get()); }

EmulatedGpu::~EmulatedGpu() {
  Allocator::of(device()).trim();   // its blocks mean nothing to another backend
  cuda::replace_backend(nullptr);
}

void EmulatedGpu::limit_memory(size_t bytes) { backend_->limit_ = bytes; }

const cuda::Kernels& EmulatedGpu::kernels() {
  static const cuda::Kernels all = [] {
    cuda::Kernels kernels;
#define MOTE_KERNEL(name, parameters, arguments) kernels.name = MOTE_KERNEL_OR_NULL(::mote::cuda_host, name);
#include "tensor/kernels.h"
#undef MOTE_KERNEL
    return kernels;
  }();
  return all;
}

RealGpu::RealGpu() {
  cuda::Backend& gpu = cuda::built_in_backend();
  why_not = gpu.unusable(0);
  auto missing = cuda::missing_kernels(gpu.kernels);
  if (why_not.empty() && !missing.empty())
    why_not = std::to_string(missing.size()) + " kernels have no CUDA version, the first is " + std::string(missing[0]);
}

}  // namespace mote::test
