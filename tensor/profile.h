// profile.h - where time goes, kernel by kernel: kernels.cpp reports every launch while a Profile is alive.
// Costs one test of a flag a launch when none is. Launches are timed on the calling thread; one Profile at a time.
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

}  // namespace mote
