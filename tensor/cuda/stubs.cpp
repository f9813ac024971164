// Stands in for tensor/cuda/*.cu in a build without CUDA: every kernel throws.
#include "tensor/kernels.h"

namespace mote::cuda {
#define MOTE_KERNEL(name, parameters, arguments)                                                        \
  void name parameters {                                                                                \
    auto use = [](auto&&...) {};                                                                        \
    use arguments;                                                                                      \
    fail(Error::Kind::resource, #name ": asked for on cuda, but this program was built without CUDA kernels"); \
  }
#include "tensor/kernels.h"
#undef MOTE_KERNEL
}  // namespace mote::cuda
