// profile.h - where time goes, kernel by kernel, and what a computation takes without doing it: kernels.cpp reports every
// launch while a Profile is alive, and leaves it out while a DryRun is. Costs a test of two flags a launch otherwise.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace mote {

struct KernelCost {
  std::string name;
  int64_t calls = 0;
  double seconds = 0;
  double flops = 0;   // products and convolutions only: 2 a multiplication and addition
  double bytes = 0;   // of all tensor arguments, each once
};

/// Launches are timed on the calling thread; one Profile at a time.
class Profile {
 public:
  Profile();    // starts
  ~Profile();   // stops
  Profile(const Profile&) = delete;
  Profile& operator=(const Profile&) = delete;
  /// Costs since the start, the slowest kernel first.
  std::vector<KernelCost> costs() const;

  static bool active();
  static void add(const char* kernel, double seconds, double flops, double bytes);
};

/// While one lives, the calling thread launches no kernel: shapes and memory take their course (Allocator::stats), and
/// tensors made meanwhile hold nothing that may be read. Kernels ask for no workspace then.
class DryRun {
 public:
  DryRun();
  ~DryRun();
  DryRun(const DryRun&) = delete;
  DryRun& operator=(const DryRun&) = delete;
  static bool active();

 private:
  bool before_;
};

}  // namespace mote
