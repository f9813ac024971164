#include "tensor/kernels.h"

#include <chrono>
#include <string_view>
#include <tuple>

#include "tensor/cuda/backend.h"
#include "tensor/profile.h"

namespace mote {
namespace {

// ---- What a launch costs, for Profile ------------------------------------------------------------------------------

struct TensorArguments {
  std::vector<const Tensor*> tensors;
  void add(const Tensor& tensor) { tensors.push_back(&tensor); }
  void add(const std::vector<Term>& terms) {
    for (const Term& term : terms) tensors.push_back(&term.tensor);
  }
  template <class Other>
  void add(const Other&) {}
};

double flops_of(std::string_view kernel, const std::vector<const Tensor*>& t) {
  auto numel = [&](size_t i) { return double(t[i]->numel()); };
  auto size = [&](size_t i, int axis) { return double(t[i]->size(axis)); };
  if (kernel == "matmul") return 2 * numel(1) * size(0, -1);                 // y, a: each a is used N times
  if (kernel == "conv2d") return 2 * numel(0) * numel(2) / size(2, 3);       // y, x, w
  if (kernel == "conv2d_dx") return 2 * numel(1) * numel(2) / size(2, 3);    // dx, dy, w
  if (kernel == "conv2d_dw") return 2 * numel(2) * numel(0) / size(0, 3);    // dw, x, dy
  if (kernel == "score_top") return 2 * numel(1) * size(2, 0);               // key, x, y: each x is used N times
  if (kernel == "score_softmax") return 2 * numel(3) * size(4, 0);           // largest, total, share, x, y
  if (kernel == "attention") return 4 * numel(0) * size(0, 1);               // y: two products over T
  if (kernel == "attention_backward") return 10 * numel(2) * size(2, 1);     // five products
  return 0;
}

/// Times a launch and hands its cost to Profile at the end of the scope.
template <class... Arguments>
struct Stopwatch {
  const char* kernel;
  Device device;
  std::tuple<const Arguments&...> arguments;
  std::chrono::steady_clock::time_point began = std::chrono::steady_clock::now();

  ~Stopwatch() {
    if (device.is_cuda()) cuda::backend().synchronize(device.index);   // a launch returns before the work is done
    std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - began;
    TensorArguments all;
    std::apply([&](const auto&... argument) { (all.add(argument), ...); }, arguments);
    double bytes = 0;
    for (const Tensor* tensor : all.tensors) bytes += double(tensor->nbytes());
    Profile::add(kernel, elapsed.count(), flops_of(kernel, all.tensors), bytes);
  }
};

/// The backend with `device` made the one that its kernels run on.
cuda::Backend& backend_on(Device device) {
  cuda::Backend& backend = cuda::backend();
  backend.activate(device.index);
  return backend;
}

}  // namespace

// The one switch on the device: kernel::name(first, ...) calls cpu::name or the backend's kernel of that name.
namespace kernel {
#define MOTE_KERNEL(name, parameters, arguments)                                                        \
  void name parameters {                                                                                \
    auto device_of_first = [](const Tensor& first, auto&&...) { return first.device(); };               \
    Device device = device_of_first arguments;                                                          \
    auto launch = [&] {                                                                                 \
      if (device.is_cpu()) return cpu::name arguments;                                                  \
      cuda::Backend& gpu = backend_on(device);                                                          \
      if (!gpu.kernels.name) cuda::fail_missing(#name);                                                 \
      gpu.kernels.name arguments;                                                                       \
    };                                                                                                  \
    if (DryRun::active()) return;                                                                       \
    if (!Profile::active()) return launch();                                                            \
    auto watch = [&](const auto&... values) {                                                           \
      return Stopwatch<std::decay_t<decltype(values)>...>{#name, device, {values...}};                  \
    };                                                                                                  \
    auto watching = watch arguments;                                                                    \
    launch();                                                                                           \
  }
#include "tensor/kernels.h"
#undef MOTE_KERNEL
}  // namespace kernel

}  // namespace mote
