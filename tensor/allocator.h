// allocator.h - memory for tensors: a caching allocator with size classes, one per device.
// A freed block goes to the list of its class and is handed out again, so a training step after the first asks the
// system for nothing. On a GPU, where work is done later, a block may be handed out again at once: its next user's work
// is queued behind its last one's. The debug modes find reads of fresh memory and writes past the end of a block.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "tensor/device.h"

namespace mote {

struct AllocatorStats {
  int64_t in_use = 0;         // bytes held by live tensors (rounded up to their class)
  int64_t cached = 0;         // bytes freed by tensors and kept for reuse
  int64_t peak = 0;           // largest in_use since the start or reset_peak
  int64_t system_calls = 0;   // how often memory was asked from the system
};

class Allocator {
 public:
  static Allocator& of(Device device);   // throws Error(resource) if there is no such device

  /// A block of at least `bytes`, aligned to 64. When the device has no room, cached blocks are given back first.
  /// Throws Error(resource) with the bytes asked, in use and cached, on a GPU also those of the device and free.
  void* allocate(size_t bytes);
  void release(void* block, size_t bytes) noexcept;

  AllocatorStats stats() const;
  void reset_peak();
  /// Gives every cached block back to the system.
  void trim();
  /// poison: fresh blocks are filled with NaN bit patterns. guard: 64 bytes after the block are checked when it is
  /// released; a change aborts naming the block. Also switched on by MOTE_ALLOC_DEBUG=poison,guard.
  void set_debug(bool poison, bool guard);

  /// Blocks set aside: between open() and close() every allocation comes from the pool, and what is released of them
  /// goes back to it and to no one else, until the pool is destroyed. A recorded graph (graph.h) keeps its memory so.
  class Pool {
   public:
    explicit Pool(Allocator& allocator);
    ~Pool();   // closes it; its free blocks go to the allocator, those in use when they are released
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;
    /// Throws Error if some pool of the allocator is open.
    void open();
    void close();

   private:
    Allocator& allocator_;
    int64_t id_;
  };

  ~Allocator();
  Allocator(const Allocator&) = delete;
  Allocator& operator=(const Allocator&) = delete;

 private:
  explicit Allocator(Device device);
  struct State;
  std::unique_ptr<State> state_;
};

/// Bytes handed out for a request: the next multiple of an eighth of the power of two below it, at least 64.
size_t size_class(size_t bytes);

}  // namespace mote
