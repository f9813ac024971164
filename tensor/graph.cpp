#include "tensor/graph.h"

#include "tensor/cuda/backend.h"

namespace mote {

Graph::Graph(Device device) : device_(device) { require_device(device); }

Graph::~Graph() {
  if (!recorded_) return;
  // Memory goes back to the allocator in stream order, so a replay that still runs is not disturbed.
  cuda::backend().forget(recorded_);
}

void Graph::run(const std::function<void()>& work) {
  if (device_.is_cpu() || calls_++ == 0) return work();
  if (!recorded_) {
    pool_.emplace(Allocator::of(device_));
    pool_->open();
    try {
      recorded_ = cuda::backend().record(device_.index, work);
    } catch (...) {
      pool_.reset();
      throw;
    }
    pool_->close();
  }
  cuda::backend().run_recorded(device_.index, recorded_);
}

}  // namespace mote
