// The backend of a build with CUDA: devices, streams, memory, copies and graphs through the CUDA runtime.
#include "tensor/cuda/runtime.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>

#include "tensor/cuda/architectures.h"
#include "tensor/cuda/backend.h"
#include "tensor/cuda/ceiling.h"
#include "tensor/cuda/missing.h"

namespace mote::cuda {
namespace {

constexpr const char* kBuiltFor = MOTE_CUDA_ARCHITECTURES;
constexpr int kMostDevices = 64;

std::string version_text(int version) { return concat_text(version / 1000, '.', version % 1000 / 10); }

// ---- Devices -------------------------------------------------------------------------------------------------------

/// How many devices there are; if none can be used, why.
struct Found {
  int count = 0;
  std::string why;
};

Found find_devices() {
  Found found;
  cudaError_t status = cudaGetDeviceCount(&found.count);
  if (status == cudaSuccess && found.count > 0) return found;
  cudaGetLastError();   // it must not be taken for the failure of a later launch
  found.count = 0;
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (status == cudaErrorInsufficientDriver && driver == 0)
    found.why = "no NVIDIA driver is installed on this machine";
  else if (status == cudaErrorInsufficientDriver || (driver > 0 && driver / 1000 < runtime / 1000))
    found.why = concat_text("the NVIDIA driver is too old: it supports CUDA ", version_text(driver),
                            ", this program was built with CUDA ", version_text(runtime),
                            "; update the driver or build with an older toolkit");
  else if (status == cudaErrorNoDevice || status == cudaSuccess)
    found.why = concat_text("this machine has no CUDA device (driver for CUDA ", version_text(driver), ")");
  else
    found.why = concat_text("cudaGetDeviceCount: ", cudaGetErrorString(status), " (", cudaGetErrorName(status), ")");
  return found;
}

const Found& devices() {
  static const Found found = find_devices();
  return found;
}

int attribute(int index, cudaDeviceAttr which) {
  int value = 0;
  MOTE_CUDA_CHECK("device", cudaDeviceGetAttribute(&value, which, index));
  return value;
}

/// What is set up when a device is first used; kept until the end of the program.
DeviceState& state_of(int index) {
  static std::mutex mutex;
  static std::array<std::unique_ptr<DeviceState>, kMostDevices> states;
  std::lock_guard lock(mutex);
  std::unique_ptr<DeviceState>& state = states[size_t(index)];
  if (state) return *state;
  auto fresh = std::make_unique<DeviceState>();
  fresh->index = index;
  MOTE_CUDA_CHECK("device", cudaSetDevice(index));
  MOTE_CUDA_CHECK("device", cudaStreamCreateWithFlags(&fresh->stream, cudaStreamNonBlocking));
  fresh->shared_limit = size_t(attribute(index, cudaDevAttrMaxSharedMemoryPerBlockOptin));
  fresh->processors = attribute(index, cudaDevAttrMultiProcessorCount);
  fresh->architecture = 10 * attribute(index, cudaDevAttrComputeCapabilityMajor) +
                        attribute(index, cudaDevAttrComputeCapabilityMinor);
  MOTE_CUDA_CHECK("device", cudaMalloc(reinterpret_cast<void**>(&fresh->random_shift), sizeof(uint64_t)));
  MOTE_CUDA_CHECK("device", cudaMemsetAsync(fresh->random_shift, 0, sizeof(uint64_t), fresh->stream));
  state = std::move(fresh);
  return *state;
}

thread_local DeviceState* active = nullptr;

DeviceState& activated(int index) {
  if (active && active->index == index) return *active;
  DeviceState& state = state_of(index);
  MOTE_CUDA_CHECK("device", cudaSetDevice(index));
  active = &state;
  return state;
}

bool is_recording(const DeviceState& state) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  MOTE_CUDA_CHECK("copy", cudaStreamIsCapturing(state.stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

// ---- Copies from the host ------------------------------------------------------------------------------------------

/// Pinned memory that host data passes through, so that the caller's memory is free at once and the copy runs beside
/// the host's work. Two halves: while one is on its way the other is filled.
class Upload {
 public:
  void copy(DeviceState& device, void* to, const void* from, size_t bytes) {
    for (size_t done = 0; done < bytes; done += kHalf) {
      size_t part = std::min(kHalf, bytes - done);
      char* half = next();
      std::memcpy(half, static_cast<const char*>(from) + done, part);
      MOTE_CUDA_CHECK("copy to the device", cudaMemcpyAsync(static_cast<char*>(to) + done, half, part,
                                                            cudaMemcpyHostToDevice, device.stream));
      MOTE_CUDA_CHECK("copy to the device", cudaEventRecord(sent_[turn_], device.stream));
    }
  }

 private:
  static constexpr size_t kHalf = size_t(16) << 20;

  /// The half used longer ago, once its copy has left it.
  char* next() {
    if (!memory_) {
      MOTE_CUDA_CHECK("copy to the device", cudaMallocHost(&memory_, 2 * kHalf));
      for (cudaEvent_t& event : sent_)
        MOTE_CUDA_CHECK("copy to the device", cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    }
    turn_ = 1 - turn_;
    MOTE_CUDA_CHECK("copy to the device", cudaEventSynchronize(sent_[turn_]));
    return static_cast<char*>(memory_) + turn_ * kHalf;
  }

  void* memory_ = nullptr;
  cudaEvent_t sent_[2] = {};
  size_t turn_ = 0;
};

Upload& upload_of(int index) {   // never freed: the driver may be gone before static objects are
  static std::array<Upload*, kMostDevices> uploads = {};
  if (!uploads[size_t(index)]) uploads[size_t(index)] = new Upload;
  return *uploads[size_t(index)];
}

// ---- The backend ---------------------------------------------------------------------------------------------------

class Runtime : public Backend {
 public:
  Runtime() {
#define MOTE_KERNEL(name, parameters, arguments) kernels.name = MOTE_KERNEL_OR_NULL(::mote::cuda, name);
#include "tensor/kernels.h"
#undef MOTE_KERNEL
  }

  std::string unusable(int index) const override {
    const Found& found = devices();
    if (found.count == 0) return found.why;
    if (index >= found.count || index >= kMostDevices)
      return concat_text("this machine has ", found.count, found.count == 1 ? " CUDA device" : " CUDA devices",
                         ", counted from 0");
    int architecture = 10 * attribute(index, cudaDevAttrComputeCapabilityMajor) +
                       attribute(index, cudaDevAttrComputeCapabilityMinor);
    if (!architectures_cover(kBuiltFor, architecture))
      return concat_text("it has compute capability ", architecture / 10, '.', architecture % 10,
                         ", and this program was built for ", kBuiltFor, " (cmake -DCUDA_ARCHITECTURES=", architecture,
                         " adds it; from 8.0 on)");
    return "";
  }

  void activate(int index) override { activated(index); }

  void* allocate(int index, size_t bytes) override {
    activated(index);
    void* block = nullptr;
    cudaError_t status = cudaMalloc(&block, bytes);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();   // answered with null; it must not be taken for the failure of a later launch
      return nullptr;
    }
    succeed({"allocate", "cudaMalloc", __FILE__, __LINE__}, status);
    return block;
  }

  void release(int index, void* block) override {
    activated(index);
    MOTE_CUDA_CHECK("release", cudaFree(block));
  }

  MemoryInfo memory(int index) override {
    activated(index);
    MemoryInfo info;
    MOTE_CUDA_CHECK("memory", cudaMemGetInfo(&info.free, &info.total));
    return info;
  }

  void fill(int index, void* block, unsigned char value, size_t bytes) override {
    MOTE_CUDA_CHECK("fill", cudaMemsetAsync(block, value, bytes, activated(index).stream));
  }

  void copy(Device to_device, void* to, Device from_device, const void* from, size_t bytes) override {
    if (bytes == 0) return;
    DeviceState& state = activated(to_device.is_cuda() ? to_device.index : from_device.index);
    bool with_host = to_device.is_cpu() || from_device.is_cpu();
    if (with_host && is_recording(state))
      fail(Error::Kind::argument, "copy: from ", from_device, " to ", to_device, " inside a recorded graph");
    if (from_device.is_cpu()) return upload_of(state.index).copy(state, to, from, bytes);
    if (to_device.is_cpu()) {
      MOTE_CUDA_CHECK("copy to the host", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, state.stream));
      MOTE_CUDA_CHECK("copy to the host", cudaStreamSynchronize(state.stream));
      return;
    }
    if (from_device != to_device) {   // after what the other device still has to do to `from`
      synchronize(from_device.index);
      activated(to_device.index);
    }
    MOTE_CUDA_CHECK("copy", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, state.stream));
    // The source's device may hand its memory out again as soon as it is freed, and knows nothing of this stream.
    if (from_device != to_device) MOTE_CUDA_CHECK("copy", cudaStreamSynchronize(state.stream));
  }

  void synchronize(int index) override {
    MOTE_CUDA_CHECK("synchronize", cudaStreamSynchronize(activated(index).stream));
  }

  void* record(int index, const std::function<void()>& work) override {
    cudaStream_t stream = activated(index).stream;
    MOTE_CUDA_CHECK("graph", cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    cudaGraph_t graph = nullptr;
    try {
      work();
    } catch (...) {
      cudaStreamEndCapture(stream, &graph);
      if (graph) cudaGraphDestroy(graph);
      cudaGetLastError();
      throw;
    }
    MOTE_CUDA_CHECK("graph", cudaStreamEndCapture(stream, &graph));
    cudaGraphExec_t executable = nullptr;
    cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
    cudaGraphDestroy(graph);
    succeed({"graph", "cudaGraphInstantiate", __FILE__, __LINE__}, status);
    return executable;
  }

  void run_recorded(int index, void* recorded, uint64_t random_shift) override {
    DeviceState& state = activated(index);
    if (random_shift != 0) upload_of(index).copy(state, state.random_shift, &random_shift, sizeof random_shift);
    MOTE_CUDA_CHECK("graph", cudaGraphLaunch(static_cast<cudaGraphExec_t>(recorded), state.stream));
    if (random_shift != 0)
      MOTE_CUDA_CHECK("graph", cudaMemsetAsync(state.random_shift, 0, sizeof random_shift, state.stream));
  }

  void forget(void* recorded) noexcept override { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(recorded)); }

  double compute_loop(int index, DType dtype, int64_t rounds) override {
    Tensor sink = empty({1}, DType::f32, {Device::cuda, int8_t(index)});
    activated(index);
    return cuda::compute_loop(sink, dtype, rounds);
  }
};

}  // namespace

Backend& built_in_backend() {
  static Runtime* const runtime = new Runtime;   // tensors with static lifetime may outlive static objects
  return *runtime;
}

// ---- For the kernels -----------------------------------------------------------------------------------------------

void succeed(const Call& call, cudaError_t status) {
  if (status == cudaSuccess) return;
  cudaGetLastError();   // clears it where it can be cleared
  fail(Error::Kind::resource, call.op, ": ", call.call, " failed at ", call.file, ":", call.line, ": ",
       cudaGetErrorString(status), " (", cudaGetErrorName(status), ")");
}

void launched(const Call& call) {
  static const bool waits = std::getenv("MOTE_CUDA_SYNC") && std::string(std::getenv("MOTE_CUDA_SYNC")) == "1";
  succeed(call, cudaGetLastError());
  if (waits && !is_recording(*active)) succeed(call, cudaStreamSynchronize(active->stream));
}

const char* built_for() { return kBuiltFor; }

bool recording() { return is_recording(current()); }

const DeviceState& current() { return active ? *active : activated(0); }

}  // namespace mote::cuda
