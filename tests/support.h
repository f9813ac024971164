// support.h - what tests share: comparing tensors element by element, scratch folders.
#pragma once
#include <omp.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <string>

#include "tensor/tensor.h"
#include "tests/catch.h"
#include "tests/sanitized.h"

namespace mote::test {

/// Empty if shape, dtype and all values agree within |got - expected| <= absolute + relative |expected| (NaN equals
/// NaN); otherwise the first differing index, got, expected, difference, and how many differ.
inline std::string difference(const Tensor& got, const Tensor& expected, double absolute, double relative) {
  std::ostringstream out;
  if (!(got.shape() == expected.shape())) {
    out << "shape " << got.shape() << ", expected " << expected.shape();
    return out.str();
  }
  std::vector<double> a = got.to_vector(), b = expected.to_vector();
  int64_t wrong = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    bool same = (std::isnan(a[i]) && std::isnan(b[i])) || a[i] == b[i] ||
                std::abs(a[i] - b[i]) <= absolute + relative * std::abs(b[i]);
    if (!same && wrong++ == 0)
      out << "element " << i << " of " << got.shape() << ": got " << a[i] << ", expected " << b[i] << ", difference "
          << a[i] - b[i];
  }
  if (wrong > 1) out << " (and " << wrong - 1 << " more)";
  return out.str();
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() && std::memcmp(a.raw(), b.raw(), size_t(a.nbytes())) == 0;
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// Sets the number of OpenMP threads while it lives.
class Threads {
 public:
  explicit Threads(int count) : before_(omp_get_max_threads()) { omp_set_num_threads(count); }
  ~Threads() { omp_set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

/// A fresh folder below the system's temporary folder, removed at the end of the test.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "mote-test-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string path(const std::string& name = "") const { return name.empty() ? path_ : path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace mote::test

#define CHECK_SAME(got, expected) CHECK(mote::test::difference((got), (expected), 0, 0) == "")
#define CHECK_CLOSE(got, expected, absolute, relative) \
  CHECK(mote::test::difference((got), (expected), (absolute), (relative)) == "")
