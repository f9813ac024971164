#include "tensor/io/csv.h"

#include <algorithm>
#include <charconv>
#include <string_view>
#include <vector>

#include "tensor/error.h"

namespace mote::io {
namespace {

constexpr int64_t kSide = 8, kPixels = kSide * kSide, kLargestValue = 16, kClasses = 10;
constexpr int64_t kLargestFile = int64_t(1) << 30;

/// Column `column` of a line: an integer 0..largest, then a comma or the end of the line.
int64_t read_field(const std::string& path, std::string_view& rest, int64_t line, int64_t column, int64_t largest) {
  bool is_last = column == kPixels;
  std::string_view field = rest.substr(0, rest.find(','));
  int64_t value = -1;
  auto [stop, error] = std::from_chars(field.data(), field.data() + field.size(), value);
  if (error != std::errc() || stop != field.data() + field.size() || value < 0 || value > largest)
    fail(Error::Kind::data, path, ": line ", line, ", column ", column + 1, ": ", printable(field),
         " is no integer 0..", largest);
  bool has_more = field.size() < rest.size();
  if (has_more == is_last)
    fail(Error::Kind::data, path, ": line ", line, " has ", is_last ? "more" : "fewer", " than ", kPixels + 1,
         " columns");
  rest.remove_prefix(std::min(rest.size(), field.size() + 1));
  return value;
}

}  // namespace

LabelledImages load_digits_csv(const std::string& path) {
  Bytes bytes = read_maybe_gzip(path, kLargestFile);
  std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (text.empty()) fail(Error::Kind::data, path, ": is empty");
  std::vector<uint8_t> pixels, labels;
  for (int64_t line_number = 1; line_number == 1 || !text.empty(); ++line_number) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    for (int64_t column = 0; column < kPixels; ++column) {
      int64_t value = read_field(path, line, line_number, column, kLargestValue);
      pixels.push_back(uint8_t((value * 255 + kLargestValue / 2) / kLargestValue));
    }
    labels.push_back(uint8_t(read_field(path, line, line_number, kPixels, kClasses - 1)));
  }
  int64_t N = int64_t(labels.size());
  LabelledImages set{empty(Shape{N, kSide, kSide, 1}, DType::u8), empty(Shape{N}, DType::i64)};
  std::copy(pixels.begin(), pixels.end(), set.images.data<uint8_t>());
  std::copy(labels.begin(), labels.end(), set.labels.data<int64_t>());
  return set;
}

}  // namespace mote::io
