#include "apps/vectors.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <optional>
#include <string_view>

#include "diffusion/cluster/rows.h"
#include "tensor/error.h"
#include "tensor/io/file.h"
#include "tensor/io/npy.h"

namespace mote::apps {
namespace {

constexpr int64_t kLargestFile = int64_t(1) << 33;  // 8 GiB

std::string_view trimmed(std::string_view text) {
  size_t begin = text.find_first_not_of(" \t\r"), end = text.find_last_not_of(" \t\r");
  return begin == std::string_view::npos ? std::string_view() : text.substr(begin, end + 1 - begin);
}

std::vector<std::string_view> fields_of(std::string_view line) {
  std::vector<std::string_view> fields;
  for (size_t begin = 0;;) {
    size_t end = line.find(',', begin);
    fields.push_back(trimmed(line.substr(begin, end == std::string_view::npos ? end : end - begin)));
    if (end == std::string_view::npos) return fields;
    begin = end + 1;
  }
}

std::optional<double> number(std::string_view field) {
  double value = 0;
  auto [stop, error] = std::from_chars(field.data(), field.data() + field.size(), value);
  if (error != std::errc() || stop != field.data() + field.size()) return std::nullopt;
  return value;
}

bool is_npy(const std::string& path) { return path.ends_with(".npy"); }

}  // namespace

Table load_table(const std::string& path) {
  io::Bytes bytes = io::read_maybe_gzip(path, kLargestFile);
  std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  Table table;
  std::vector<double> values;
  size_t columns = 0;
  for (int64_t line_number = 1; !text.empty(); ++line_number) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), line.size() + 1));
    std::vector<std::string_view> fields = fields_of(line);
    if (trimmed(line).empty()) {
      if (trimmed(text).find_first_not_of('\n') == std::string_view::npos) break;  // blank lines at the end
      fail(Error::Kind::data, path, ": line ", line_number, " is blank");
    }
    bool is_header = line_number == 1 && std::any_of(fields.begin(), fields.end(), [](auto f) { return !number(f); });
    if (is_header) table.names.assign(fields.begin(), fields.end());
    if (columns == 0) columns = fields.size();
    if (fields.size() != columns)
      fail(Error::Kind::data, path, ": line ", line_number, " has ", fields.size(), " columns, the first line has ",
           columns);
    for (size_t column = 0; !is_header && column < columns; ++column) {
      std::optional<double> value = number(fields[column]);
      if (!value || !std::isfinite(*value))
        fail(Error::Kind::data, path, ": line ", line_number, ", column ", column + 1, ": ",
             io::printable(fields[column]), " is no finite number");
      values.push_back(*value);
    }
  }
  if (values.empty()) fail(Error::Kind::data, path, ": holds no line of numbers");
  table.values = empty({int64_t(values.size() / columns), int64_t(columns)}, DType::f64);
  std::copy(values.begin(), values.end(), table.values.data<double>());
  return table;
}

Tensor load_vectors(const std::string& path) {
  if (!is_npy(path)) return load_table(path).values;
  Tensor x = io::load_npy(path);
  if (x.ndim() < 1 || x.numel() == 0)
    fail(Error::Kind::data, path, ": vectors are needed as an array [N, D], this is ", describe(x));
  x = x.view({x.size(0), x.numel() / x.size(0)});
  if (x.dtype() != DType::f64) x = x.to(DType::f32);
  std::vector<double> values = x.to_vector();
  for (size_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(values[i]))
      fail(Error::Kind::data, path, ": row ", int64_t(i) / x.size(1), ", column ", int64_t(i) % x.size(1), " is ",
           values[i]);
  return x;
}

Tensor load_labels(const std::string& path) {
  if (is_npy(path)) {
    Tensor labels = io::load_npy(path);
    bool is_integer = labels.dtype() == DType::i64 || labels.dtype() == DType::i32 || labels.dtype() == DType::u8;
    if (!is_integer || labels.ndim() != 1 || labels.numel() == 0)
      fail(Error::Kind::data, path, ": labels are needed as an integer array [N], this is ", describe(labels));
    return labels.to(DType::i64);
  }
  Table table = load_table(path);
  int64_t columns = table.values.size(1), column = columns == 1 ? 0 : -1;
  for (size_t c = 0; c < table.names.size() && column < 0; ++c)
    if (table.names[c] == "cluster" || table.names[c] == "label" || table.names[c] == "class") column = int64_t(c);
  if (column < 0)
    fail(Error::Kind::data, path, ": has ", columns,
         " columns; labels are a single column, or the one that a header calls "
         "cluster, label or class");
  Tensor labels = empty({table.values.size(0)}, DType::i64);
  for (int64_t row = 0; row < labels.numel(); ++row) {
    double value = table.values.data<double>()[row * columns + column];
    if (value != std::floor(value) || std::abs(value) > 9007199254740992.0)
      fail(Error::Kind::data, path, ": row ", row + 1, " of the numbers: the label ", value, " is no whole number");
    labels.data<int64_t>()[row] = int64_t(value);
  }
  return labels;
}

Columns columns_of(const Tensor& x) {
  int64_t N = x.size(0), D = x.size(1);
  Columns columns{cluster::column_means(x), zeros({D}, DType::f64)};
  Tensor wide = x.to(DType::f64);
  const double *value = wide.data<double>(), *mean = columns.mean.data<double>();
  double* scale = columns.scale.data<double>();
  std::vector<char> varies(size_t(D), 0);
  for (int64_t n = 0; n < N; ++n)
    for (int64_t d = 0; d < D; ++d) {
      double off = value[n * D + d] - mean[d];
      scale[d] += off * off / double(N);
      varies[size_t(d)] |= value[n * D + d] != value[d];
    }
  for (int64_t d = 0; d < D; ++d) {
    scale[d] = varies[size_t(d)] && scale[d] > 0 ? std::sqrt(scale[d]) : 1;
    columns.constant += !varies[size_t(d)];
  }
  return columns;
}

Tensor standardized(const Tensor& x, const Columns& columns) {
  int64_t N = x.size(0), D = x.size(1);
  Tensor y = empty({N, D}, DType::f64), wide = x.to(DType::f64);
  for (int64_t n = 0; n < N; ++n)
    for (int64_t d = 0; d < D; ++d)
      y.data<double>()[n * D + d] =
          (wide.data<double>()[n * D + d] - columns.mean.data<double>()[d]) / columns.scale.data<double>()[d];
  return y;
}

}  // namespace mote::apps
