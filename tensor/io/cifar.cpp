#include "tensor/io/cifar.h"

#include <sstream>

#include "tensor/error.h"

namespace mote::io {
namespace {

constexpr int64_t kSide = 32, kPlane = kSide * kSide, kRecord = 1 + 3 * kPlane, kClasses = 10;
constexpr int64_t kLargestFile = 1'000'000 * kRecord;

}  // namespace

LabelledImages load_cifar10(const std::vector<std::string>& paths) {
  check(!paths.empty(), "load_cifar10: at least one file is needed");
  std::vector<Bytes> files;
  int64_t N = 0;
  for (const std::string& path : paths) {
    files.push_back(read_maybe_gzip(path, kLargestFile));
    int64_t bytes = int64_t(files.back().size());
    if (bytes == 0) fail(Error::Kind::data, path, ": has no records");
    if (bytes % kRecord != 0)
      fail(Error::Kind::data, path, ": ", bytes, " bytes are no whole number of CIFAR-10 records of ", kRecord,
           " bytes; the last one, at byte ", bytes / kRecord * kRecord, ", is cut off");
    N += bytes / kRecord;
  }
  LabelledImages set{empty(Shape{N, kSide, kSide, 3}, DType::u8), empty(Shape{N}, DType::i64)};
  uint8_t* pixel = set.images.data<uint8_t>();
  int64_t* label = set.labels.data<int64_t>();
  for (size_t index = 0; index < files.size(); ++index) {
    const Bytes& file = files[index];
    for (size_t at = 0; at < file.size(); at += size_t(kRecord)) {
      if (file[at] >= kClasses)
        fail(Error::Kind::data, paths[index], ": the label at byte ", at, " is ", int(file[at]),
             ", 0 to 9 are allowed");
      *label++ = file[at];
      const uint8_t* planes = file.data() + at + 1;
      for (int64_t place = 0; place < kPlane; ++place)
        for (int64_t channel = 0; channel < 3; ++channel) *pixel++ = planes[channel * kPlane + place];
    }
  }
  return set;
}

std::vector<std::string> load_cifar10_names(const std::string& path) {
  constexpr int64_t kLargestNames = 1 << 16;
  Bytes bytes = read_file(path, kLargestNames);
  std::istringstream lines(std::string(bytes.begin(), bytes.end()));
  std::vector<std::string> names;
  for (std::string line; std::getline(lines, line);) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (!line.empty()) names.push_back(line);
  }
  if (int64_t(names.size()) != kClasses)
    fail(Error::Kind::data, path, ": has ", names.size(), " class names, ", kClasses, " are needed");
  return names;
}

}  // namespace mote::io
