// launch.h - the shape of a launch and its limits, the same on the device and in the host's tests; hardware.h and its
// twin include it.
#ifndef MOTE_CUDA_LAUNCH
#define MOTE_CUDA_LAUNCH

namespace mote::MOTE_CUDA_NAMESPACE::hw {

/// Blocks along up to three axes; only x may exceed 65535.
struct Grid {
  int64_t x = 1, y = 1, z = 1;
  Grid(int64_t x, int64_t y = 1, int64_t z = 1) : x(x), y(y), z(z) {}
};

/// {grid, threads of a block, bytes of dynamic shared memory}; remembers where it was written, for messages.
struct Launch {
  Grid grid;
  int threads;
  size_t shared;
  const char* file;
  int line;
  Launch(Grid grid, int threads, size_t shared = 0, const char* file = __builtin_FILE(), int line = __builtin_LINE())
      : grid(grid), threads(threads), shared(shared), file(file), line(line) {}
};

/// Blocks of `threads` that give each of n elements a thread, at most 32 for each multiprocessor: grid-stride loops
/// take the rest. 0 for n = 0: nothing is launched.
inline int64_t blocks_for(int64_t n, int threads) {
  int64_t blocks = (n + threads - 1) / threads, most = int64_t(processors()) * 32;
  return blocks < most ? blocks : most;
}

/// False if there is nothing to run. Throws Error(argument) if `shape` breaks a limit.
inline bool check_launch(const char* op, const Launch& shape, int most_threads, size_t shared_limit) {
  const Grid& grid = shape.grid;
  auto require = [&](bool holds, const auto&... rule) {
    mote::check(holds, op, ": launch at ", shape.file, ":", shape.line, ": ", rule...);
  };
  require(grid.x >= 0 && grid.y >= 0 && grid.z >= 0 && grid.x <= 0x7fffffff && grid.y <= 65535 && grid.z <= 65535,
          "the grid is ", grid.x, " x ", grid.y, " x ", grid.z, ", at most 2147483647 x 65535 x 65535 can run");
  require(shape.threads > 0 && shape.threads % 32 == 0 && shape.threads <= most_threads, shape.threads,
          " threads a block, needs a multiple of 32 up to the kernel's ", most_threads);
  require(shape.shared <= shared_limit, shape.shared, " bytes of shared memory, a block may have ", shared_limit);
  return grid.x > 0 && grid.y > 0 && grid.z > 0;
}

}  // namespace mote::MOTE_CUDA_NAMESPACE::hw
#endif
