// emulator.h - a GPU for tests: runs the threads of a block as fibers on the calling thread and watches each access.
// Blocks run one after the other, their threads in turn until each waits; every second block runs them in reverse.
// A fault throws Fault out of the launch. tests/cuda_host/hardware.h is what kernels see of it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "tensor/error.h"

namespace mote::cuda_host::host {

/// What a kernel did that a device forbids; the text names op, launch, block and thread.
struct Fault : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// The device that is played. Tests may change it for a while; the default is the smallest that is supported.
struct Settings {
  size_t shared_limit = 99 * 1024;   // of sm_86 and sm_89; 163 KiB on sm_80, 227 KiB on sm_90
  int architecture = 80;             // 90: with what hopper.h has
  int processors = 1;                // few, so that grid-stride loops go round more than once
  uint64_t random_shift = 0;         // what draws add to their offset
};
Settings& settings();

struct Index3 {
  int64_t x, y, z;
};
/// While `into` is not null, `run` and `later` append what they would have done to it instead of doing it.
void record(std::vector<std::function<void()>>* into);
bool is_recording();
/// Does `work` now, or records it.
void later(const std::function<void()>& work);

/// Runs `body` in each thread of the grid. Throws Fault.
void run(const char* op, const char* file, int line, Index3 grid, int threads, size_t dynamic_bytes,
         const std::function<void()>& body);

// ---- Called by the running thread ----------------------------------------------------------------------------------

int thread();
int threads();
Index3 block();
Index3 grid();

/// A stretch of memory that a pointer may touch.
struct Range {
  char* begin = nullptr;
  char* end = nullptr;
  bool shared = false;
};
enum class Access { read, write, atomic };
/// Throws Fault unless the running thread may touch `bytes` at `address`, which must be aligned to `alignment`.
void touch(Access access, const void* address, size_t bytes, size_t alignment, const Range& range);

/// The block's array that `site` and `name` stand for (by address): the same for all its threads.
Range static_shared(const char* site, const char* name, size_t bytes);
Range dynamic_shared();

void barrier(const char* file, int line);

/// What the 32 lanes of a warp hand in and get back in one operation.
struct Lanes {
  static constexpr size_t kBytes = 64;
  alignas(16) unsigned char in[32][kBytes];
  alignas(16) unsigned char out[32][kBytes];
  template <class T> T& input(int lane) { return *reinterpret_cast<T*>(in[lane]); }
  template <class T> T& output(int lane) { return *reinterpret_cast<T*>(out[lane]); }
};
/// Waits until all lanes of the warp have called the same operation at the same line; the last one runs `compute`.
void warp_operation(const char* name, const void* in, size_t in_bytes, void* out, size_t out_bytes,
                    void (*compute)(Lanes&), const char* file, int line);
/// After it, lanes of a warp see each other's shared memory.
void sync_warp(const char* file, int line);

void cp_async(void* to, const Range& to_range, const void* from, const Range& from_range, size_t bytes, bool valid);
void cp_async_commit();
void cp_async_wait(int pending);

// ---- Gates (hopper.h) ----------------------------------------------------------------------------------------------

void gate_init(const void* gate, int arrivals);
/// Arrives; the phase also waits for `bytes` of copies.
void gate_arrive(const void* gate, int64_t bytes);
/// A copy of `bytes` that counts at `gate`: `land` is run when a thread looks at the gate.
void gate_copy(const void* gate, int64_t bytes, std::function<void()> land);
/// Gives the turn to others until a phase of that parity has ended.
void gate_wait(const void* gate, int parity);

/// Where shared memory lies: the byte that an address is, and back.
size_t shared_offset(const void* address);
const char* shared_at(size_t offset);
/// Throws Fault with this text, and where it was.
[[noreturn]] void raise_text(const std::string& text);
template <class... Parts>
[[noreturn]] void raise(const Parts&... parts) {
  raise_text(concat_text(parts...));
}

}  // namespace mote::cuda_host::host
