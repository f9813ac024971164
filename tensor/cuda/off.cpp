// The backend of a build without CUDA: there are no devices, so nothing else is ever asked of it.
#include "tensor/cuda/backend.h"
#include "tensor/error.h"

namespace mote::cuda {
namespace {

class Off : public Backend {
 public:
  std::string unusable(int) const override { return "this program was built without CUDA (make CUDA=on)"; }
  void activate(int) override { refuse(); }
  void* allocate(int, size_t) override { refuse(); }
  void release(int, void*) override { refuse(); }
  MemoryInfo memory(int) override { refuse(); }
  void fill(int, void*, unsigned char, size_t) override { refuse(); }
  void copy(Device, void*, Device, const void*, size_t) override { refuse(); }
  void synchronize(int) override { refuse(); }
  void* record(int, const std::function<void()>&) override { refuse(); }
  void run_recorded(int, void*, uint64_t) override { refuse(); }
  void forget(void*) noexcept override {}
  double compute_loop(int, DType, int64_t) override { refuse(); }

 private:
  [[noreturn]] void refuse() { fail(Error::Kind::resource, "cuda: ", unusable(0)); }
};

}  // namespace

Backend& built_in_backend() {
  static Off off;
  return off;
}

}  // namespace mote::cuda
