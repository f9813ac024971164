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
#include <vector>

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
  std::map<size_t, std::vector<void*>> free_blocks;   // by size class
  AllocatorStats stats;
  bool poison = false, guard = false;
};

Allocator::Allocator() : state_(std::make_unique<State>()) {
  if (const char* modes = std::getenv("MOTE_ALLOC_DEBUG")) {
    std::string_view text(modes);
    set_debug(text.find("poison") != text.npos, text.find("guard") != text.npos);
  }
}

Allocator::~Allocator() { trim(); }

Allocator& Allocator::of(Device device) {
  require_device(device);
  // Never destroyed: tensors with static lifetime may be released after any static destructor has run.
  static Allocator* const cpu = new Allocator;
  return *cpu;
}

void* Allocator::allocate(size_t bytes) {
  std::lock_guard lock(state_->mutex);
  AllocatorStats& stats = state_->stats;
  size_t size = size_class(bytes + (state_->guard ? kGuardBytes : 0));
  std::vector<void*>& free_list = state_->free_blocks[size];
  void* block = nullptr;
  if (!free_list.empty()) {
    block = free_list.back();
    free_list.pop_back();
    stats.cached -= int64_t(size);
  } else {
    block = system_allocate(size);
    if (!block)
      fail(Error::Kind::resource, "out of memory on cpu: ", bytes, " bytes asked, ", stats.in_use, " in use, ",
           stats.cached, " cached; a smaller --batch needs less");
    ++stats.system_calls;
  }
  stats.in_use += int64_t(size);
  stats.peak = std::max(stats.peak, stats.in_use);
  if (state_->poison) std::memset(block, 0xff, size);   // all ones is a NaN in every floating dtype
  if (state_->guard) std::memset(static_cast<char*>(block) + bytes, kGuardByte, kGuardBytes);
  return block;
}

void Allocator::release(void* block, size_t bytes) noexcept {
  std::lock_guard lock(state_->mutex);
  size_t size = size_class(bytes + (state_->guard ? kGuardBytes : 0));
  if (state_->guard) {
    const unsigned char* guard = static_cast<unsigned char*>(block) + bytes;
    if (std::any_of(guard, guard + kGuardBytes, [](unsigned char byte) { return byte != kGuardByte; })) {
      std::fprintf(stderr, "mote: a kernel wrote past the end of a block of %zu bytes at %p\n", bytes, block);
      std::abort();
    }
  }
  state_->free_blocks[size].push_back(block);
  state_->stats.in_use -= int64_t(size);
  state_->stats.cached += int64_t(size);
}

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
  for (auto& [size, blocks] : state_->free_blocks) {
    for (void* block : blocks) std::free(block);
    state_->stats.cached -= int64_t(size * blocks.size());
    blocks.clear();
  }
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
