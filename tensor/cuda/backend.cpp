#include "tensor/cuda/backend.h"

#include "tensor/error.h"

namespace mote::cuda {
namespace {

Backend* replaced = nullptr;

}  // namespace

Backend& backend() { return replaced ? *replaced : built_in_backend(); }
void replace_backend(Backend* other) { replaced = other; }

std::vector<std::string_view> missing_kernels(const Kernels& kernels) {
  std::vector<std::string_view> names;
#define MOTE_KERNEL(name, parameters, arguments) \
  if (!kernels.name) names.push_back(#name);
#include "tensor/kernels.h"
#undef MOTE_KERNEL
  return names;
}

void fail_missing(const char* kernel) { fail(Error::Kind::resource, kernel, ": has no CUDA kernel in this version"); }

}  // namespace mote::cuda
