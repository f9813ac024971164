#include "tests/skips.h"

#include <cstdio>
#include <map>

#include "tests/catch.h"

namespace mote::test {
namespace {

/// Prints the counts at the end of the program, after the test runner's own summary.
struct Skips {
  std::map<std::string, int> count;
  ~Skips() {
    for (const auto& [reason, tests] : count)
      std::printf("skipped: %d test%s: %s\n", tests, tests == 1 ? "" : "s", reason.c_str());
  }
};
Skips skips;

}  // namespace

void skip(const std::string& reason) {
  ++skips.count[reason];
  SUCCEED("skipped: " << reason);
}

}  // namespace mote::test
