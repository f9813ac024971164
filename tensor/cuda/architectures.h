// architectures.h - which devices can run what this program was compiled for.
#pragma once
#include <string_view>

namespace mote::cuda {

/// True if code for `built` runs on a device of compute capability `device` (10 major + minor: 90 for 9.0).
///   built  "80,86,90a,90-virtual": code for N runs on devices of the same major number from N on, code for Na on N
///          alone, and PTX ("-virtual") on every device from N on
inline bool architectures_cover(std::string_view built, int device) {
  while (!built.empty()) {
    std::string_view one = built.substr(0, built.find(','));
    built.remove_prefix(one.size() < built.size() ? one.size() + 1 : one.size());
    int number = 0;
    size_t digits = 0;
    for (; digits < one.size() && one[digits] >= '0' && one[digits] <= '9'; ++digits)
      number = 10 * number + (one[digits] - '0');
    std::string_view rest = one.substr(digits);
    bool runs = rest.starts_with("a")            ? device == number
                : rest.starts_with("-virtual")   ? device >= number
                                                 : device / 10 == number / 10 && device >= number;
    if (number > 0 && runs) return true;
  }
  return false;
}

}  // namespace mote::cuda
