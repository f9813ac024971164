#include "tensor/kernels.h"

// The one switch on the device: kernel::name(first, ...) calls cpu::name or cuda::name.
namespace mote::kernel {
#define MOTE_KERNEL(name, parameters, arguments)                             \
  void name parameters {                                                     \
    auto device_of_first = [](const Tensor& first, auto&&...) { return first.device(); }; \
    device_of_first arguments.is_cuda() ? cuda::name arguments : cpu::name arguments;     \
  }
#include "tensor/kernels.h"
#undef MOTE_KERNEL
}  // namespace mote::kernel
