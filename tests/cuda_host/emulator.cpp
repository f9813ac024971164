// The fibers, the scheduler, and the watch over memory. Lowest part first: switching, shadow memory, the machine.
#include "tests/cuda_host/emulator.h"

#include <csetjmp>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <sys/mman.h>
#include <ucontext.h>

#include "tensor/error.h"

#ifdef MOTE_SANITIZED
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace mote::cuda_host::host {
namespace {

// ---- Fibers --------------------------------------------------------------------------------------------------------

// Only touched pages take memory; the lowest one is forbidden, so that an overflow ends the program.
constexpr size_t kStackBytes = size_t(512) << 10;

/// A second stack that runs `entry` and is switched to and from. swapcontext enters the kernel on each switch to save
/// the signal mask, so setjmp does it where no sanitizer must be told of the stacks.
class Fiber {
 public:
  Fiber() {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (stack == MAP_FAILED || mprotect(stack, 4096, PROT_NONE) != 0)
      fail(Error::Kind::resource, "emulator: no memory for the stack of a thread");
    stack_ = static_cast<char*>(stack);
  }
  ~Fiber() { munmap(stack_, kStackBytes); }
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Runs the fiber until it calls leave(). `entry` never returns.
  void enter(void (*entry)()) {
#ifdef MOTE_SANITIZED
    if (!started_) {
      start(entry);
      __asan_unpoison_memory_region(stack_ + 4096, kStackBytes - 4096);   // of frames that a fault has cut off
    }
    started_ = true;
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, stack_, kStackBytes);
    swapcontext(&outside_, &context_);
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
    if (_setjmp(outside_) != 0) return;
    if (started_) _longjmp(inside_, 1);
    start(entry);
    started_ = true;
    setcontext(&context_);
#endif
  }

  void leave() {
#ifdef MOTE_SANITIZED
    __sanitizer_start_switch_fiber(&fake_, outside_stack_, outside_bytes_);
    swapcontext(&context_, &outside_);
    entered();
#else
    if (_setjmp(inside_) == 0) _longjmp(outside_, 1);
#endif
  }

  /// The first thing that `entry` calls.
  void entered() {
#ifdef MOTE_SANITIZED
    __sanitizer_finish_switch_fiber(fake_, &outside_stack_, &outside_bytes_);
#endif
  }

  /// Forgets where it was: the next enter() starts anew.
  void reset() { started_ = false; }

 private:
  void start(void (*entry)()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_;
    context_.uc_stack.ss_size = kStackBytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
  }

  char* stack_ = nullptr;
  bool started_ = false;
  ucontext_t context_;
#ifdef MOTE_SANITIZED
  ucontext_t outside_;
  void* fake_ = nullptr;
  const void* outside_stack_ = nullptr;
  size_t outside_bytes_ = 0;
#else
  jmp_buf outside_, inside_;
#endif
};

// ---- What is known of each byte of shared memory -------------------------------------------------------------------

/// Who touched a byte, and between which barriers. Counters never start again, so nothing is cleared between blocks.
struct Touch {
  uint64_t barriers = 0, warp_syncs = 0;
  int thread = -1;
};
struct Shadow {
  Touch write;
  Touch reads[3];          // the last reader, another one of its warp, one of another warp
  uint64_t block = 0;      // the block that wrote it
  bool atomic = false;     // the write was atomic
  bool in_flight = false;  // an asynchronous copy is on its way
};

struct Copy {
  char* to;
  const char* from;
  size_t bytes;
  bool valid;
  int64_t group;
};

struct Thread {
  Fiber fiber;
  enum State { ready, at_barrier, at_warp_operation, done } state = done;
  const char* waits_for = "";
  const char* file = "";
  int line = 0;
  std::vector<Copy> copies;
  int64_t groups = 0;      // committed so far

  bool waits_where(const Thread& other) const {
    return line == other.line && !std::strcmp(file, other.file) && !std::strcmp(waits_for, other.waits_for);
  }
};

struct Warp {
  Lanes lanes;
  int arrived = 0;
  uint64_t syncs = 1;
};

/// A gate of hopper.h.
struct Gate {
  int arrivals = 0, missing = 0;   // in a phase, and still to come in this one
  int64_t bytes = 0;               // expected and not yet there; negative where copies came first
  int64_t phase = 0;
  std::vector<std::pair<int64_t, std::function<void()>>> copies;   // under way

  void settle() {
    if (missing > 0 || bytes != 0) return;
    missing = arrivals;
    ++phase;
  }
};

struct StaticArray {
  const char *site, *name;
  Range range;
};

// ---- The machine ---------------------------------------------------------------------------------------------------

constexpr size_t kStaticLimit = 48 * 1024;
constexpr int kPoison = 0xff;   // a NaN in every floating dtype

struct Machine {
  Settings settings;
  std::vector<std::unique_ptr<Thread>> threads;
  std::vector<Warp> warps;
  std::unique_ptr<char[]> memory;   // shared memory: dynamic first, then the static arrays
  char* shared = nullptr;
  size_t shared_bytes = 0, static_end = 0;
  std::vector<Shadow> shadow;
  std::vector<StaticArray> arrays;
  std::map<const void*, Gate> gates;
  uint64_t blocks_run = 0, barriers = 1, first_block = 0;

  const char* op = "";
  const char* file = "";
  int line = 0, count = 0, waiting = 0, current = -1;
  Index3 grid{1, 1, 1}, block{0, 0, 0};
  Range dynamic;
  const std::function<void()>* body = nullptr;
  std::optional<std::string> fault;
  std::vector<std::function<void()>>* recording = nullptr;

  bool running() const { return current >= 0; }
  Thread& self() { return *threads[size_t(current)]; }
  Warp& warp() { return warps[size_t(current / 32)]; }
  Touch now() { return {barriers, warp().syncs, current}; }

  std::string text(const std::string& what) const {
    std::ostringstream out;
    out << op << ": launch at " << file << ':' << line << ": block (" << block.x << ", " << block.y << ", " << block.z
        << ')';
    if (running()) out << ", thread " << current;
    out << ": " << what;
    return out.str();
  }

  /// True unless a barrier, or inside a warp a sync_warp, stands between that touch and now.
  bool unordered(const Touch& touch) {
    if (touch.barriers != barriers || touch.thread == current || touch.thread < 0) return false;
    return touch.thread / 32 != current / 32 || touch.warp_syncs == warp().syncs;
  }

  void run_block();
  void run_thread(int index);
  void release(Thread::State state, int begin, int end);
};

Machine& machine() {
  static Machine instance;
  return instance;
}


/// The life of a fiber: one body after the other. No exception may leave its stack.
void fiber_main() {
  Machine& m = machine();
  m.self().fiber.entered();
  while (true) {
    try {
      (*m.body)();
    } catch (const std::exception& error) {
      m.fault = error.what();
    }
    m.self().state = Thread::done;
    m.self().fiber.leave();
  }
}

/// Gives the turn to others until `state` has been lifted.
void wait(Thread::State state, const char* what, const char* file, int line) {
  Thread& self = machine().self();
  self.state = state;
  self.waits_for = what;
  self.file = file;
  self.line = line;
  self.fiber.leave();
}

std::string place(const Thread& thread) {
  return thread.state == Thread::done
             ? "has returned"
             : concat_text("waits in ", thread.waits_for, " at ", thread.file, ":", thread.line);
}

void Machine::release(Thread::State state, int begin, int end) {
  const Thread& first = *threads[size_t(begin)];
  for (int i = begin; i < end; ++i) {
    Thread& thread = *threads[size_t(i)];
    if (!thread.waits_where(first))
      raise("divergence: thread ", begin, " ", place(first), ", thread ", i, " ", place(thread));
    if (thread.state == state) thread.state = Thread::ready;
  }
}

void Machine::run_thread(int index) {
  current = index;
  Thread& thread = self();
  thread.fiber.enter(fiber_main);
  current = -1;
  if (!fault) return;
  std::string message = *std::exchange(fault, {});
  throw Fault(message);
}

void Machine::run_block() {
  ++blocks_run;
  ++barriers;
  arrays.clear();
  gates.clear();
  static_end = (size_t(dynamic.end - shared) + 127) / 128 * 128;
  std::memset(shared, kPoison, size_t(dynamic.end - shared));
  waiting = 0;
  for (int i = 0; i < count; ++i) {
    Thread& thread = *threads[size_t(i)];
    thread.state = Thread::ready;
    thread.copies.clear();
    thread.groups = 0;
  }
  for (Warp& warp : warps) warp.arrived = 0;
  for (int left = count; left > 0;) {
    bool progress = false;
    for (int turn = 0; turn < count; ++turn) {
      int i = (blocks_run - first_block) % 2 ? turn : count - 1 - turn;
      if (threads[size_t(i)]->state != Thread::ready) continue;
      progress = true;
      run_thread(i);
      if (threads[size_t(i)]->state == Thread::done) --left;
    }
    if (progress) continue;
    const Thread& first = *threads[0];
    for (int i = 1; i < count; ++i)
      if (threads[size_t(i)]->state != first.state || !threads[size_t(i)]->waits_where(first))
        raise("divergence: thread 0 ", place(first), ", thread ", i, " ", place(*threads[size_t(i)]));
    raise("no thread can go on");
  }
}

}  // namespace

Settings& settings() { return machine().settings; }

void record(std::vector<std::function<void()>>* into) { machine().recording = into; }
bool is_recording() { return machine().recording != nullptr; }
void later(const std::function<void()>& work) {
  if (is_recording()) machine().recording->push_back(work);
  else work();
}

void run(const char* op, const char* file, int line, Index3 grid, int threads, size_t dynamic_bytes,
         const std::function<void()>& body) {
  Machine& m = machine();
  if (is_recording())
    return m.recording->push_back([=, copy = body] { run(op, file, line, grid, threads, dynamic_bytes, copy); });
  m.op = op;
  m.file = file;
  m.line = line;
  m.grid = grid;
  m.count = threads;
  m.body = &body;
  m.first_block = m.blocks_run;
  m.shared_bytes = m.settings.shared_limit;
  if (m.shadow.size() < m.shared_bytes) {
    m.memory = std::make_unique<char[]>(m.shared_bytes + 128);
    m.shared = m.memory.get() + (128 - reinterpret_cast<uintptr_t>(m.memory.get()) % 128) % 128;
    m.shadow.assign(m.shared_bytes, {});
  }
  m.dynamic = {m.shared, m.shared + dynamic_bytes, true};
  while (int(m.threads.size()) < threads) m.threads.push_back(std::make_unique<Thread>());
  m.warps.resize(size_t(threads / 32));
  try {
    for (m.block.z = 0; m.block.z < grid.z; ++m.block.z)
      for (m.block.y = 0; m.block.y < grid.y; ++m.block.y)
        for (m.block.x = 0; m.block.x < grid.x; ++m.block.x) m.run_block();
  } catch (...) {
    m.current = -1;
    for (auto& thread : m.threads) {   // their stacks are dropped where they stand
      thread->fiber.reset();
      thread->state = Thread::done;
    }
    throw;
  }
}

// ---- Called by the running thread ----------------------------------------------------------------------------------

int thread() { return machine().current; }
int threads() { return machine().count; }
Index3 block() { return machine().block; }
Index3 grid() { return machine().grid; }

void touch(Access access, const void* address, size_t bytes, size_t alignment, const Range& range) {
  Machine& m = machine();
  const char* begin = static_cast<const char*>(address);
  const char* name = access == Access::read ? "reads " : "writes ";
  const char* space = range.shared ? "shared" : "global";
  if (!m.running()) raise(name, "memory outside a kernel");
  if (!begin) raise(name, "through a null pointer");
  if (begin < range.begin || begin + bytes > range.end)
    raise(name, bytes, " bytes at byte ", begin - range.begin, " of ", space, " memory of ", range.end - range.begin,
          " bytes");
  if (reinterpret_cast<uintptr_t>(begin) % alignment != 0)
    raise(name, bytes, " bytes at byte ", begin - range.begin, " of ", space, " memory, which is not aligned to ",
          alignment);
  if (!range.shared) return;
  for (const char* byte = begin; byte < begin + bytes; ++byte) {
    Shadow& shadow = m.shadow[size_t(byte - m.shared)];
    auto where = [&] { return concat_text("byte ", byte - range.begin, " of shared memory"); };
    if (shadow.in_flight && shadow.block == m.blocks_run)
      raise(name, where(), " while the asynchronous copy of thread ", shadow.write.thread, " is under way");
    bool both_atomic = access == Access::atomic && shadow.atomic;
    if (!both_atomic && m.unordered(shadow.write))
      raise(name, where(), ", which thread ", shadow.write.thread, " wrote, without a barrier between");
    if (access != Access::write && shadow.block != m.blocks_run) raise("reads ", where(), " before it is written");
    if (access != Access::read)
      for (const Touch& read : shadow.reads)
        if (m.unordered(read))
          raise(name, where(), ", which thread ", read.thread, " reads, without a barrier between");
    if (access == Access::read) {
      Touch& last = shadow.reads[0];
      if (last.thread != m.current) {
        if (last.thread >= 0) shadow.reads[last.thread / 32 == m.current / 32 ? 1 : 2] = last;
      }
      last = m.now();
    } else {
      shadow.write = m.now();
      shadow.atomic = access == Access::atomic;
      shadow.in_flight = false;
      shadow.block = m.blocks_run;
    }
  }
}

Range static_shared(const char* site, const char* name, size_t bytes) {
  Machine& m = machine();
  for (const StaticArray& array : m.arrays)
    if (array.site == site && array.name == name) return array.range;
  size_t end = m.static_end + (bytes + 15) / 16 * 16;
  size_t statics = end - (size_t(m.dynamic.end - m.shared) + 127) / 128 * 128;
  if (end > m.shared_bytes || statics > kStaticLimit)
    raise("static shared array ", name, " of ", bytes, " bytes: the block then has ", statics, " static bytes of ",
          kStaticLimit, " and ", end, " in all of ", m.shared_bytes);
  Range range{m.shared + m.static_end, m.shared + m.static_end + bytes, true};
  std::memset(range.begin, kPoison, bytes);
  m.static_end = end;
  m.arrays.push_back({site, name, range});
  return range;
}

Range dynamic_shared() { return machine().dynamic; }

void barrier(const char* file, int line) {
  Machine& m = machine();
  if (++m.waiting < m.count) return wait(Thread::at_barrier, "barrier", file, line);
  Thread& self = m.self();
  self.waits_for = "barrier";
  self.file = file;
  self.line = line;
  m.release(Thread::at_barrier, 0, m.count);
  m.waiting = 0;
  ++m.barriers;
}

void warp_operation(const char* name, const void* in, size_t in_bytes, void* out, size_t out_bytes,
                    void (*compute)(Lanes&), const char* file, int line) {
  Machine& m = machine();
  Warp& warp = m.warp();
  int lane = m.current % 32, first = m.current - lane;
  std::memcpy(warp.lanes.in[lane], in, in_bytes);
  if (++warp.arrived < 32) {
    wait(Thread::at_warp_operation, name, file, line);
  } else {
    Thread& self = m.self();
    self.waits_for = name;
    self.file = file;
    self.line = line;
    m.release(Thread::at_warp_operation, first, first + 32);
    warp.arrived = 0;
    compute(warp.lanes);
  }
  std::memcpy(out, warp.lanes.out[lane], out_bytes);
}

void sync_warp(const char* file, int line) {
  char none = 0;
  warp_operation("sync_warp", &none, 1, &none, 1, [](Lanes&) { ++machine().warp().syncs; }, file, line);
}

// ---- Asynchronous copies: the bytes arrive when their thread waits for them ----------------------------------------

void cp_async(void* to, const Range& to_range, const void* from, const Range& from_range, size_t bytes, bool valid) {
  Machine& m = machine();
  if (!to_range.shared || from_range.shared) raise("cp_async copies from global to shared memory only");
  touch(Access::write, to, bytes, bytes, to_range);
  if (valid) touch(Access::read, from, bytes, bytes, from_range);
  char* target = static_cast<char*>(to);
  std::memset(target, kPoison, bytes);
  for (size_t i = 0; i < bytes; ++i) m.shadow[size_t(target - m.shared) + i].in_flight = true;
  m.self().copies.push_back({target, static_cast<const char*>(from), bytes, valid, m.self().groups});
}

void cp_async_commit() { ++machine().self().groups; }

void cp_async_wait(int pending) {
  Machine& m = machine();
  Thread& self = m.self();
  std::erase_if(self.copies, [&](const Copy& copy) {
    if (copy.group >= self.groups - pending) return false;
    if (copy.valid) std::memcpy(copy.to, copy.from, copy.bytes);
    else std::memset(copy.to, 0, copy.bytes);
    for (size_t i = 0; i < copy.bytes; ++i) {
      Shadow& shadow = m.shadow[size_t(copy.to - m.shared) + i];
      shadow.in_flight = false;
      shadow.write = m.now();
    }
    return true;
  });
}

// ---- Gates ---------------------------------------------------------------------------------------------------------

namespace {

Gate& gate_at(const void* address) {
  auto found = machine().gates.find(address);
  if (found == machine().gates.end()) raise("a gate at byte ", shared_offset(address), " of shared memory is used before it is made");
  return found->second;
}

constexpr int64_t kMostTurns = 100'000;   // a gate that has not opened by then never will

}  // namespace

void gate_init(const void* gate, int arrivals) {
  Gate& fresh = machine().gates[gate];
  fresh = {};
  fresh.arrivals = fresh.missing = arrivals;
}

void gate_arrive(const void* gate, int64_t bytes) {
  Gate& g = gate_at(gate);
  if (g.missing == 0) raise("more arrivals at a gate than its phase has");
  --g.missing;
  g.bytes += bytes;
  g.settle();
}

void gate_copy(const void* gate, int64_t bytes, std::function<void()> land) {
  gate_at(gate).copies.emplace_back(bytes, std::move(land));
}

void gate_wait(const void* gate, int parity) {
  for (int64_t turn = 0;; ++turn) {
    Gate& g = gate_at(gate);
    for (auto& [bytes, land] : std::exchange(g.copies, {})) {
      land();
      g.bytes -= bytes;
      g.settle();
    }
    if ((g.phase & 1) != (parity & 1)) return;   // the phase of that parity is the one before
    if (turn == kMostTurns) raise("a gate at byte ", shared_offset(gate), " of shared memory does not open");
    machine().self().fiber.leave();
  }
}

size_t shared_offset(const void* address) { return size_t(static_cast<const char*>(address) - machine().shared); }
const char* shared_at(size_t offset) {
  Machine& m = machine();
  if (offset >= m.shared_bytes) raise("a product reads byte ", offset, " of shared memory of ", m.shared_bytes);
  return m.shared + offset;
}
void raise_text(const std::string& text) { throw Fault(machine().text(text)); }

}  // namespace mote::cuda_host::host
