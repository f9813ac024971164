// diffusion_support.h - what the diffusion tests share: comparing single numbers, catching an Error with its kind.
#pragma once
#include <functional>
#include <optional>

#include "tensor/error.h"
#include "tests/support.h"

namespace mote::test {

/// Empty if |got - expected| <= absolute + relative |expected|, else both values and their difference.
inline std::string apart(double got, double expected, double absolute, double relative = 0) {
  if (std::abs(got - expected) <= absolute + relative * std::abs(expected)) return "";
  std::ostringstream out;
  out.precision(15);
  out << "got " << got << ", expected " << expected << ", difference " << got - expected;
  return out.str();
}

struct Caught {
  std::optional<Error::Kind> kind;   // empty: nothing was thrown
  std::string message;
  bool says(const std::string& part) const { return message.find(part) != std::string::npos; }
};

inline Caught caught(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& error) {
    return {error.kind(), error.what()};
  }
  return {};
}

}  // namespace mote::test
