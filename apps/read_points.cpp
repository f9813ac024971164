#include "apps/read_points.h"

#include <charconv>
#include <vector>

#include "tensor/error.h"
#include "tensor/io/file.h"
#include "tensor/io/npy.h"

namespace mote::apps {
namespace {

constexpr int64_t kMostBytes = int64_t(4) << 30;

std::string trimmed(std::string_view text) {
  size_t begin = text.find_first_not_of(" \t\r"), end = text.find_last_not_of(" \t\r");
  return begin == std::string_view::npos ? "" : std::string(text.substr(begin, end - begin + 1));
}

/// The numbers of one line; `bad` is the first column (from 1) that is none, 0 if all are.
std::vector<double> numbers_of(const std::string& line, int64_t& bad) {
  std::vector<double> numbers;
  bad = 0;
  for (size_t begin = 0; begin <= line.size();) {
    size_t end = std::min(line.find(',', begin), line.size());
    std::string word = trimmed(std::string_view(line).substr(begin, end - begin));
    double value = 0;
    auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    if ((error != std::errc() || stop != word.data() + word.size()) && bad == 0) bad = int64_t(numbers.size()) + 1;
    numbers.push_back(value);
    begin = end + 1;
  }
  return numbers;
}

Tensor load_csv(const std::string& path) {
  io::Bytes bytes = io::read_file(path, kMostBytes);
  std::string text(bytes.begin(), bytes.end());
  std::vector<double> values;
  int64_t rows = 0, width = 0, number = 0;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = trimmed(std::string_view(text).substr(begin, end - begin));
    begin = end + 1;
    ++number;
    if (line.empty()) continue;
    int64_t bad = 0;
    std::vector<double> row = numbers_of(line, bad);
    if (bad == 1 && rows == 0 && width == 0) {  // names
      width = int64_t(row.size());
      continue;
    }
    if (bad > 0) fail(Error::Kind::data, path, ": line ", number, ", column ", bad, " is not a number");
    if (width == 0) width = int64_t(row.size());
    if (int64_t(row.size()) != width)
      fail(Error::Kind::data, path, ": line ", number, " has ", row.size(), " numbers, the lines before have ", width);
    values.insert(values.end(), row.begin(), row.end());
    ++rows;
  }
  if (rows == 0) fail(Error::Kind::data, path, ": holds no points");
  return from(values, {rows, width});
}

}  // namespace

Tensor load_points(const std::string& path) {
  if (path.ends_with(".csv")) return load_csv(path);
  if (!path.ends_with(".npy"))
    fail(Error::Kind::usage, path, ": points are read from FILE.npy or FILE.csv, this is neither");
  Tensor array = io::load_npy(path);
  if (array.ndim() < 1 || array.numel() == 0)
    fail(Error::Kind::data, path, ": needs an array [N, D] of points, got ", describe(array));
  return array.view({array.size(0), array.numel() / array.size(0)}).to(DType::f32);
}

}  // namespace mote::apps
