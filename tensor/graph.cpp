#include "tensor/graph.h"

#include "tensor/cuda/backend.h"
#include "tensor/error.h"

namespace mote {

Graph::Graph(Device device) : device_(device) { require_device(device); }

Graph::~Graph() {
  if (!recorded_) return;
  // Memory goes back to the allocator in stream order, so a replay that still runs is not disturbed.
  cuda::backend().forget(recorded_);
}

void Graph::run(const std::function<void()>& work) {
  Generator none;
  run(work, none);
}

void Graph::run(const std::function<void()>& work, Generator& generator) {
  if (device_.is_cpu() || calls_++ == 0) return work();
  if (!recorded_) {
    begin_ = generator;
    Allocator::of(device_).trim();   // what the first call used is of no use to the pool
    pool_.emplace(Allocator::of(device_));
    pool_->open();
    try {
      recorded_ = cuda::backend().record(device_.index, work);
    } catch (...) {
      pool_.reset();
      generator = begin_;
      throw;
    }
    pool_->close();
    drawn_ = generator.offset - begin_.offset;
    generator.offset = begin_.offset;
  }
  check(generator.seed == begin_.seed, "Graph::run: was recorded with draws of seed ", begin_.seed,
        ", the generator now has ", generator.seed);
  cuda::backend().run_recorded(device_.index, recorded_, generator.offset - begin_.offset);
  generator.offset += drawn_;
}

}  // namespace mote
