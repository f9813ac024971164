#include "tensor/io/npy.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <string_view>
#include <vector>

#include "tensor/error.h"
#include "tensor/io/file.h"

namespace mote::io {
namespace {

constexpr int64_t kLargestFile = int64_t(1) << 36;  // 64 GiB
constexpr size_t kMaxAxesRead = 4;

struct DTypeName {
  const char* descr;
  DType dtype;
};
constexpr DTypeName kDTypeNames[] = {
    {"<f4", DType::f32}, {"<f8", DType::f64}, {"<i4", DType::i32}, {"<i8", DType::i64}, {"|u1", DType::u8}};

const char* numpy_name(DType dtype) {
  for (const DTypeName& known : kDTypeNames)
    if (known.dtype == dtype) return known.descr;
  fail(Error::Kind::argument, "save_npy: NumPy has no dtype ", dtype, "; convert to f32 first");
}

DType dtype_named(const std::string& path, const std::string& descr) {
  for (const DTypeName& known : kDTypeNames)
    if (descr == known.descr) return known.dtype;
  fail(Error::Kind::data, path, ": arrays of type ", printable(descr),
       " are not read; float32, float64, int32, int64 and uint8 are, little-endian");
}

}  // namespace

void save_npy(const std::string& path, const Tensor& tensor) {
  Tensor host = tensor.to(Device{});
  std::string shape;
  for (int64_t size : host.shape()) shape += std::to_string(size) + ", ";   // (3, ) is a tuple too, (3) is not
  std::string header = concat_text("{'descr': '", numpy_name(host.dtype()), "', 'fortran_order': False, 'shape': (",
                                   shape, "), }");
  // Magic, version and length take 10 bytes; the data begins at a multiple of 64, after a newline.
  header.append(63 - (10 + header.size()) % 64, ' ');
  header += '\n';
  std::string front = std::string("\x93NUMPY\x01\x00", 8) + char(header.size() & 0xff) + char(header.size() >> 8) + header;
  write_file_atomic(path, [&](const Append& append) {
    append(front.data(), front.size());
    append(host.raw(), size_t(host.nbytes()));
  });
}

// ---- Reading -------------------------------------------------------------------------------------------------------

namespace {

struct Header {
  std::string descr;
  bool fortran = false;
  std::vector<int64_t> shape;
};

/// The header is a Python dict of three known keys: {'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }.
class HeaderReader {
 public:
  HeaderReader(const std::string& path, std::string_view text, size_t begin)
      : path_(path), text_(text), begin_(begin) {}

  Header read() {
    Header header;
    unsigned seen = 0;
    expect("{");
    while (!accept("}")) {
      std::string key = quoted();
      expect(":");
      if (key == "descr") {
        header.descr = quoted();
        seen |= 1;
      } else if (key == "fortran_order") {
        header.fortran = accept("True");
        if (!header.fortran) expect("False");
        seen |= 2;
      } else if (key == "shape") {
        header.shape = tuple();
        seen |= 4;
      } else {
        broken("the key ", printable(key), " is not known");
      }
      if (!accept(",")) {
        expect("}");
        break;
      }
    }
    if (seen != 7) broken("descr, fortran_order or shape is missing");
    skip_space();
    if (at_ != text_.size()) broken("there is more behind the header's dict");
    return header;
  }

 private:
  template <class... Parts>
  [[noreturn]] void broken(const Parts&... parts) const {
    fail(Error::Kind::data, path_, ": byte ", begin_ + at_, " of the npy header: ", parts...);
  }
  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool accept(std::string_view word) {
    skip_space();
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }
  void expect(std::string_view word) {
    if (!accept(word)) broken("'", word, "' is needed");
  }
  std::string quoted() {
    expect("'");
    size_t end = text_.find('\'', at_);
    if (end == std::string_view::npos) broken("a text without its closing quote");
    std::string content(text_.substr(at_, end - at_));
    at_ = end + 1;
    return content;
  }
  std::vector<int64_t> tuple() {
    std::vector<int64_t> sizes;
    expect("(");
    while (!accept(")")) {
      skip_space();
      int64_t size = -1;
      const char* from = text_.data() + at_;
      auto [end, error] = std::from_chars(from, text_.data() + text_.size(), size);
      if (error != std::errc() || size < 0) broken("a size of 0 or more is needed");
      at_ += size_t(end - from);
      sizes.push_back(size);
      if (!accept(",")) {
        expect(")");
        break;
      }
    }
    return sizes;
  }

  const std::string& path_;
  std::string_view text_;
  size_t begin_, at_ = 0;
};

}  // namespace

Tensor load_npy(const std::string& path) {
  Bytes file = read_file(path, kLargestFile);
  auto broken = [&](const auto&... parts) { fail(Error::Kind::data, path, ": ", parts...); };
  if (file.size() < 12 || std::memcmp(file.data(), "\x93NUMPY", 6) != 0) broken("is no npy file");
  int version = file[6];
  if (version < 1 || version > 3)
    broken("npy format ", version, ".", int(file[7]), " is not known; 1.0, 2.0 and 3.0 are");
  size_t begin = version == 1 ? 10 : 12;
  size_t length = file[8] | size_t(file[9]) << 8;
  if (version > 1) length |= size_t(file[10]) << 16 | size_t(file[11]) << 24;
  if (length > file.size() - begin) broken("the header of ", length, " bytes is cut off");
  Header header = HeaderReader(path, {reinterpret_cast<const char*>(file.data()) + begin, length}, begin).read();

  if (header.fortran) broken("is in Fortran order; numpy.ascontiguousarray before numpy.save makes it C order");
  if (header.shape.size() > kMaxAxesRead)
    broken("has ", header.shape.size(), " axes; ", kMaxAxesRead, " or fewer are read");
  DType dtype = dtype_named(path, header.descr);
  size_t present = file.size() - begin - length;
  int64_t largest = int64_t(size_of(dtype));  // sizes of 0 taken as 1: an empty array may not have absurd sizes either
  for (int64_t size : header.shape)
    if (__builtin_mul_overflow(largest, std::max<int64_t>(size, 1), &largest) || largest > kLargestFile)
      broken("the sizes of the header ask for more than ", kLargestFile, " bytes");
  Shape shape(header.shape);
  int64_t needed = shape.numel() * int64_t(size_of(dtype));
  if (present != size_t(needed))
    broken("the array ", dtype, shape, " needs ", needed, " bytes, the file has ", present);
  Tensor tensor = empty(shape, dtype);
  if (needed > 0) std::memcpy(tensor.raw(), file.data() + begin + length, size_t(needed));
  return tensor;
}

}  // namespace mote::io
