// skips.h - checks that this machine cannot make: each says why, and the run ends with their count.
#pragma once
#include <string>

namespace mote::test {

/// Counts the running test as skipped for `reason`; the test should return after it.
void skip(const std::string& reason);

}  // namespace mote::test
