// graph.h - work that is done again and again on tensors of the same shapes: on a GPU its launches are recorded once and
// then replayed by one call, which saves the time that each launch costs the host.
#pragma once
#include <functional>
#include <optional>

#include "tensor/allocator.h"
#include "tensor/device.h"
#include "tensor/random.h"

namespace mote {

class Graph {
 public:
  /// Throws Error(resource) if `device` cannot be used.
  explicit Graph(Device device);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  /// The first call runs `work`, which sets up what is made on first use. The second records and replays it, later ones
  /// replay it without calling `work`. On the CPU each call runs it.
  ///   inputs   tensors made before the first call, which the caller overwrites in place between calls
  ///   results  tensors that `work` makes and leaves in the caller's variables; each call overwrites those of the
  ///            second, and their memory belongs to the Graph, so they must be released or copied before it is
  /// A replay repeats what was recorded, numbers passed by value included: `work` must not read a clock or a counter, or
  /// copy to or from the host (Error(argument) while recording). Random numbers may be drawn from `generator` alone: a
  /// replay draws those that come next in its stream, as a call of `work` would, and advances it.
  /// Throws Error if its seed is not the recorded one.
  void run(const std::function<void()>& work);
  void run(const std::function<void()>& work, Generator& generator);
  bool is_recorded() const { return recorded_ != nullptr; }

 private:
  Device device_;
  std::optional<Allocator::Pool> pool_;   // the memory that the recorded work uses
  void* recorded_ = nullptr;
  Generator begin_;       // as the recorded work found it
  uint64_t drawn_ = 0;    // Philox blocks that one call draws
  int calls_ = 0;
};

}  // namespace mote
