#include "tensor/allocator.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "tensor/cuda/backend.h"
#include "tensor/error.h"

namespace mote {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t(2) << 20;
constexpr size_t kGuardBytes = 64;
constexpr unsigned char kGuardByte = 0xa5;

void* system_allocate(size_t bytes) {
  bool huge = bytes >= 2 * kHugePage;
  size_t alignment = huge ? kHugePage : kAlignment;
  void* block = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (block && huge) madvise(block, bytes, MADV_HUGEPAGE);   // fewer TLB misses; a refusal costs only speed
  return block;
}

}  // namespace

size_t size_class(size_t bytes) {
  if (bytes <= kAlignment) return kAlignment;
  size_t step = std::max(kAlignment, std::bit_floor(bytes) / 8);
  return (bytes + step - 1) / step * step;
}

struct Allocator::State {
  mutable std::mutex mutex;
  Device device;
  using FreeBlocks = std::map<size_t, std::vector<void*>>;   // by size class
  FreeBlocks free_blocks;
  std::map<int64_t, FreeBlocks> pools;
  std::unordered_map<void*, int64_t> pool_of;                // of every block that a living pool has handed out
  int64_t open_pool = 0, last_pool = 0;                      // 0: none
  AllocatorStats stats;
  bool poison = false, guard = false;

  void* system_allocate(size_t bytes) {
    if (device.is_cuda()) return cuda::backend().allocate(device.index, bytes);
    return mote::system_allocate(bytes);
  }
  void system_free(void* block) {
    if (device.is_cuda()) cuda::backend().release(device.index, block);
    else std::free(block);
  }
  void fill(void* block, unsigned char value, size_t bytes) {
    if (device.is_cuda()) cuda::backend().fill(device.index, block, value, bytes);
    else std::memset(block, value, bytes);
  }
  bool guard_is_whole(const char* end) {
    unsigned char guard[kGuardBytes];
    if (device.is_cuda()) cuda::backend().copy({}, guard, device, end, kGuardBytes);
    else std::memcpy(guard, end, kGuardBytes);
    return std::all_of(guard, guard + kGuardBytes, [](unsigned char byte) { return byte == kGuardByte; });
  }
  /// Gives every cached block outside pools back to the system.
  void trim() {
    for (auto& [size, blocks] : free_blocks) {
      for (void* block : blocks) system_free(block);
      stats.cached -= int64_t(size * blocks.size());
      blocks.clear();
    }
  }
  void* take(FreeBlocks& from, size_t size) {
    std::vector<void*>& list = from[size];
    if (list.empty()) return nullptr;
    void* block = list.back();
    list.pop_back();
    stats.cached -= int64_t(size);
    return block;
  }
  [[noreturn]] void fail_full(size_t bytes) {
    std::string of_device;
    if (device.is_cuda()) {
      cuda::MemoryInfo memory = cuda::backend().memory(device.index);
      of_device = concat_text(", ", memory.free, " free of the device's ", memory.total);
    }
    fail(Error::Kind::resource, "out of memory on ", device, ": ", bytes, " bytes asked, ", stats.in_use, " in use, ",
         stats.cached, " cached", of_device, "; a smaller --batch needs less");
  }
};

Allocator::Allocator(Device device) : state_(std::make_unique<State>()) {
  state_->device = device;
  if (const char* modes = std::getenv("MOTE_ALLOC_DEBUG")) {
    std::string_view text(modes);
    set_debug(text.find("poison") != text.npos, text.find("guard") != text.npos);
  }
}

Allocator::~Allocator() { trim(); }

Allocator& Allocator::of(Device device) {
  // Never destroyed: tensors with static lifetime may be released after any static destructor has run.
  if (device.is_cpu()) {
    static Allocator* const cpu = new Allocator(Device{});
    return *cpu;
  }
  static std::mutex& mutex = *new std::mutex;
  static std::map<int, Allocator*>& of_gpu = *new std::map<int, Allocator*>;
  {
    std::lock_guard lock(mutex);
    if (auto known = of_gpu.find(device.index); known != of_gpu.end()) return *known->second;
  }
  require_device(device);
  std::lock_guard lock(mutex);
  Allocator*& gpu = of_gpu[device.index];
  if (!gpu) gpu = new Allocator(device);
  return *gpu;
}

void* Allocator::allocate(size_t bytes) {
  State& s = *state_;
  std::lock_guard lock(s.mutex);
  size_t size = size_class(bytes + (s.guard ? kGuardBytes : 0));
  void* block = s.open_pool ? s.take(s.pools[s.open_pool], size) : nullptr;
  if (!block) block = s.take(s.free_blocks, size);
  if (!block) {
    block = s.system_allocate(size);
    if (!block) {
      s.trim();
      block = s.system_allocate(size);
    }
    if (!block) s.fail_full(bytes);
    ++s.stats.system_calls;
  }
  if (s.open_pool) s.pool_of[block] = s.open_pool;
  s.stats.in_use += int64_t(size);
  s.stats.peak = std::max(s.stats.peak, s.stats.in_use);
  if (s.poison) s.fill(block, 0xff, size);   // all ones is a NaN in every floating dtype
  if (s.guard) s.fill(static_cast<char*>(block) + bytes, kGuardByte, kGuardBytes);
  return block;
}

void Allocator::release(void* block, size_t bytes) noexcept {
  State& s = *state_;
  std::lock_guard lock(s.mutex);
  size_t size = size_class(bytes + (s.guard ? kGuardBytes : 0));
  if (s.guard && !s.guard_is_whole(static_cast<const char*>(block) + bytes)) {
    std::fprintf(stderr, "mote: a kernel wrote past the end of a block of %zu bytes at %p\n", bytes, block);
    std::abort();
  }
  auto pool = s.pool_of.empty() ? s.pool_of.end() : s.pool_of.find(block);
  (pool == s.pool_of.end() ? s.free_blocks : s.pools[pool->second])[size].push_back(block);
  s.stats.in_use -= int64_t(size);
  s.stats.cached += int64_t(size);
}

// ---- Pools ---------------------------------------------------------------------------------------------------------

Allocator::Pool::Pool(Allocator& allocator) : allocator_(allocator) {
  std::lock_guard lock(allocator_.state_->mutex);
  id_ = ++allocator_.state_->last_pool;
}

Allocator::Pool::~Pool() {
  close();
  State& s = *allocator_.state_;
  std::lock_guard lock(s.mutex);
  for (auto& [size, blocks] : s.pools[id_]) {
    std::vector<void*>& list = s.free_blocks[size];
    list.insert(list.end(), blocks.begin(), blocks.end());
  }
  s.pools.erase(id_);
  std::erase_if(s.pool_of, [&](const auto& entry) { return entry.second == id_; });
}

void Allocator::Pool::open() {
  State& s = *allocator_.state_;
  std::lock_guard lock(s.mutex);
  check(s.open_pool == 0, "Allocator::Pool::open: another pool of ", s.device, " is open");
  s.open_pool = id_;
}

void Allocator::Pool::close() {
  State& s = *allocator_.state_;
  std::lock_guard lock(s.mutex);
  if (s.open_pool == id_) s.open_pool = 0;
}

// ---- Counters and modes --------------------------------------------------------------------------------------------

AllocatorStats Allocator::stats() const {
  std::lock_guard lock(state_->mutex);
  return state_->stats;
}

void Allocator::reset_peak() {
  std::lock_guard lock(state_->mutex);
  state_->stats.peak = state_->stats.in_use;
}

void Allocator::trim() {
  std::lock_guard lock(state_->mutex);
  state_->trim();
}

void Allocator::set_debug(bool poison, bool guard) {
  std::lock_guard lock(state_->mutex);
  check(guard == state_->guard || state_->stats.in_use == 0,
        "Allocator::set_debug: guards can only be switched while no tensor lives, ", state_->stats.in_use,
        " bytes are in use");
  state_->poison = poison;
  state_->guard = guard;
}

}  // namespace mote
