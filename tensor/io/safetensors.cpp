#include "tensor/io/safetensors.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "tensor/error.h"
#include "tensor/io/file.h"

namespace mote::io {
namespace {

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kLongestHeader = 100'000'000;  // the limit of the format's reference implementation
constexpr std::string_view kMetadataKey = "__metadata__", kHashKey = "mote.hash", kFormatKey = "mote.format";

struct DTypeName {
  DType dtype;
  std::string_view name;
};
constexpr std::array<DTypeName, 6> kDTypeNames{{{DType::f32, "F32"},
                                                {DType::bf16, "BF16"},
                                                {DType::f64, "F64"},
                                                {DType::i32, "I32"},
                                                {DType::i64, "I64"},
                                                {DType::u8, "U8"}}};

std::string_view name_in_file(DType dtype) {
  for (const DTypeName& known : kDTypeNames)
    if (known.dtype == dtype) return known.name;
  fail(Error::Kind::argument, "save_safetensors: dtype ", dtype, " has no name in the format");
}

struct Header {
  std::vector<SafetensorsInfo> tensors;  // by begin, without gaps or overlaps
  std::map<std::string, std::string> metadata;
  int64_t data_begin = 0;  // bytes from the start of the file
};

// ---- Header parsing ------------------------------------------------------------------------------------------------

/// Reads the header as a stream of JSON events. A document tree would hide doubled keys and cost memory and stack for
/// hostile nesting; here every event that the format does not allow at its place ends the reading.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(const std::string& path, Header& header) : path_(path), header_(header) {}

  bool start_object(size_t) override {
    switch (place_) {
      case Place::start: place_ = Place::top; return true;
      case Place::entry: place_ = Place::tensor; return true;
      case Place::metadata_entry: place_ = Place::metadata; return true;
      default: refuse("an object");
    }
  }

  bool end_object() override {
    if (place_ == Place::tensor) finish_tensor();
    place_ = place_ == Place::top ? Place::done : Place::top;
    return true;
  }

  bool key(string_t& key) override {
    switch (place_) {
      case Place::top:
        if (!names_.insert(key).second) broken("the name ", printable(key), " stands twice in the header");
        if (key == kMetadataKey) {
          place_ = Place::metadata_entry;
        } else {
          if (key.empty()) broken("a tensor has an empty name");
          tensor_ = {key, {}, {}, 0, 0};
          has_dtype_ = has_shape_ = has_offsets_ = false;
          place_ = Place::entry;
        }
        return true;
      case Place::metadata:
        key_ = key;
        if (header_.metadata.contains(key)) broken("the metadata key ", printable(key), " stands twice");
        place_ = Place::metadata_value;
        return true;
      case Place::tensor:
        key_ = key;
        if (key == "dtype") enter_field(Place::dtype, has_dtype_);
        else if (key == "shape") enter_field(Place::shape, has_shape_);
        else if (key == "data_offsets") enter_field(Place::offsets, has_offsets_);
        else broken(tensor_name(), " has an unknown key ", printable(key), "; known are dtype, shape and data_offsets");
        return true;
      default: refuse("a key");
    }
  }

  bool string(string_t& value) override {
    if (place_ == Place::metadata_value) {
      header_.metadata.emplace(key_, value);
      place_ = Place::metadata;
      return true;
    }
    if (place_ != Place::dtype) refuse("a string");
    auto known =
        std::find_if(kDTypeNames.begin(), kDTypeNames.end(), [&](const DTypeName& d) { return d.name == value; });
    if (known == kDTypeNames.end())
      broken(tensor_name(), " has dtype ", printable(value), "; known are F32, BF16, F64, I32, I64 and U8");
    tensor_.dtype = known->dtype;
    place_ = Place::tensor;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ == Place::shape) place_ = Place::shape_numbers;
    else if (place_ == Place::offsets) place_ = Place::offset_numbers;
    else refuse("a list");
    numbers_.clear();
    return true;
  }

  bool end_array() override {
    if (place_ == Place::shape_numbers) {
      sizes_ = numbers_;
    } else {
      if (numbers_.size() != 2) broken(tensor_name(), " has ", numbers_.size(), " data_offsets, 2 are needed");
      tensor_.begin = numbers_[0];
      tensor_.end = numbers_[1];
    }
    place_ = Place::tensor;
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ != Place::shape_numbers && place_ != Place::offset_numbers) refuse("a number");
    if (value > uint64_t(std::numeric_limits<int64_t>::max()))
      broken(tensor_name(), ": the number ", value, " in ", key_, " is too large");
    if (place_ == Place::shape_numbers && numbers_.size() == size_t(kMaxAxes))
      broken(tensor_name(), " has more than ", kMaxAxes, " axes, the most that are supported");
    if (place_ == Place::offset_numbers && numbers_.size() == 2) broken(tensor_name(), " has more than 2 data_offsets");
    numbers_.push_back(int64_t(value));
    return true;
  }
  bool number_integer(number_integer_t) override { refuse("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { refuse("a number that is no 64-bit integer"); }
  bool null() override { refuse("null"); }
  bool boolean(bool) override { refuse("true or false"); }
  bool binary(binary_t&) override { refuse("binary data"); }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    broken("the header is not valid JSON in UTF-8 at byte ", kLengthBytes + int64_t(position) - 1);
  }

 private:
  enum class Place {  // what the next event belongs to
    start,
    top,
    entry,
    tensor,
    dtype,
    shape,
    shape_numbers,
    offsets,
    offset_numbers,
    metadata_entry,
    metadata,
    metadata_value,
    done
  };

  template <class... Parts>
  [[noreturn]] void broken(const Parts&... parts) const {
    fail(Error::Kind::checkpoint, path_, ": ", parts...);
  }

  std::string tensor_name() const { return "tensor " + printable(tensor_.name); }

  [[noreturn]] void refuse(std::string_view what) const {
    switch (place_) {
      case Place::start: broken("the header is ", what, ", an object is needed");
      case Place::entry:
        broken(tensor_name(), " is ", what, ", an object with dtype, shape and data_offsets is needed");
      case Place::dtype: broken(tensor_name(), ": dtype is ", what, ", a string is needed");
      case Place::shape:
      case Place::offsets: broken(tensor_name(), ": ", key_, " is ", what, ", a list of integers is needed");
      case Place::shape_numbers:
      case Place::offset_numbers: broken(tensor_name(), ": ", key_, " contains ", what, ", an integer >= 0 is needed");
      case Place::metadata_entry: broken(kMetadataKey, " is ", what, ", an object is needed");
      case Place::metadata_value: broken("metadata ", printable(key_), " is ", what, ", a string is needed");
      default: broken("the header contains ", what, " at a wrong place");
    }
  }

  void enter_field(Place place, bool& seen) {
    if (seen) broken(tensor_name(), ": ", key_, " stands twice");
    seen = true;
    place_ = place;
  }

  void finish_tensor() {
    if (!has_dtype_ || !has_shape_ || !has_offsets_)
      broken(tensor_name(), " has no ", !has_dtype_ ? "dtype" : !has_shape_ ? "shape" : "data_offsets");
    // Zero sizes are left out of the product, so that [0, 2^62, 2^62] is refused as Shape refuses it.
    int64_t product = 1;
    bool fits = true, is_empty = false;
    for (int64_t size : sizes_) {
      if (size == 0) is_empty = true;
      else fits = fits && !__builtin_mul_overflow(product, size, &product) && product <= int64_t(1) << 58;
    }
    if (!fits) broken(tensor_name(), ": the product of its shape's sizes is too large");
    tensor_.shape = Shape(sizes_);
    int64_t needed = is_empty ? 0 : product * size_of(tensor_.dtype);
    if (tensor_.begin > tensor_.end)
      broken(tensor_name(), " spans bytes ", tensor_.begin, "..", tensor_.end, ": the end lies before the beginning");
    if (tensor_.end - tensor_.begin != needed)
      broken(tensor_name(), " spans bytes ", tensor_.begin, "..", tensor_.end, " (", tensor_.end - tensor_.begin,
             ") but ", tensor_.dtype, tensor_.shape, " needs ", needed, " bytes");
    header_.tensors.push_back(tensor_);
  }

  const std::string& path_;
  Header& header_;
  Place place_ = Place::start;
  std::set<std::string> names_;
  std::string key_;
  SafetensorsInfo tensor_;
  std::vector<int64_t> numbers_, sizes_;
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
};

void require_seamless(const std::string& path, std::vector<SafetensorsInfo>& tensors, int64_t data_bytes) {
  std::stable_sort(tensors.begin(), tensors.end(), [](const SafetensorsInfo& a, const SafetensorsInfo& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  int64_t covered = 0;
  for (const SafetensorsInfo& tensor : tensors) {
    if (tensor.end > data_bytes)
      fail(Error::Kind::checkpoint, path, ": tensor ", printable(tensor.name), " spans bytes ", tensor.begin, "..",
           tensor.end, " but the file has only ", data_bytes, " bytes of data");
    if (tensor.begin < covered)
      fail(Error::Kind::checkpoint, path, ": tensor ", printable(tensor.name), " begins at byte ", tensor.begin,
           ", inside the tensor before it, which ends at ", covered);
    if (tensor.begin > covered)
      fail(Error::Kind::checkpoint, path, ": bytes ", covered, "..", tensor.begin, " before tensor ",
           printable(tensor.name), " belong to no tensor");
    covered = tensor.end;
  }
  if (covered != data_bytes)
    fail(Error::Kind::checkpoint, path, ": ", data_bytes - covered,
         " bytes behind the last tensor, which ends at byte ", covered, " of the data");
}

/// For a file whose first 16 bytes are no header of this format: says so if it is what torch.save writes, a zip archive
/// or a bare pickle (0x80 and its version). The length of a real header is too small to begin like either.
std::string pickle_hint(const std::string& path, std::ifstream& file) {
  char start[4] = {};
  file.clear();
  file.seekg(0);
  file.read(start, sizeof start);
  bool is_zip = std::memcmp(start, "PK\3\4", 4) == 0;
  bool is_pickle = start[0] == '\x80' && start[1] >= 2 && start[1] <= 5;
  if (!is_zip && !is_pickle) return "";
  return concat_text("\n  this looks like a PyTorch pickle (.pt, .bin, .ckpt). Opening a pickle can run any code in it, so it ",
                     "is not read here; convert it once with PyTorch and the package safetensors:\n  python3 -c \"import ",
                     "torch; from safetensors.torch import save_file; save_file(torch.load('", path,
                     "', map_location='cpu', weights_only=True), 'converted.safetensors')\"\n  and if it holds more than ",
                     "the weights, pick their dictionary out of what torch.load returns");
}

Header read_header(const std::string& path, std::ifstream& file) {
  file.seekg(0, std::ios::end);
  int64_t file_bytes = file.tellg();
  file.seekg(0);
  if (!file || file_bytes < 0) fail(Error::Kind::data, path, ": cannot be read; a regular file is needed");
  uint64_t length = 0;
  if (file_bytes < kLengthBytes || !file.read(reinterpret_cast<char*>(&length), kLengthBytes))
    fail(Error::Kind::checkpoint, path, ": ", file_bytes, " bytes are too few for a safetensors file");
  if (length > uint64_t(kLongestHeader) || int64_t(length) > file_bytes - kLengthBytes)
    fail(Error::Kind::checkpoint, path, ": the header should have ", length, " bytes, but ",
         length > uint64_t(kLongestHeader) ? concat_text(kLongestHeader, " is the most that is allowed")
                                           : concat_text("only ", file_bytes - kLengthBytes, " follow"),
         pickle_hint(path, file));
  std::string text(size_t(length), '\0');
  if (!file.read(text.data(), std::streamsize(length)))
    fail(Error::Kind::checkpoint, path, ": the header cannot be read to its end");
  if (text.empty() || text[0] != '{')
    fail(Error::Kind::checkpoint, path, ": the header does not begin with '{' at byte ", kLengthBytes,
         pickle_hint(path, file));
  if (size_t zero = text.find('\0'); zero != std::string::npos)  // the JSON reader would take it for the end
    fail(Error::Kind::checkpoint, path, ": the header has a zero at byte ", kLengthBytes + int64_t(zero));

  Header header;
  HeaderReader reader(path, header);
  nlohmann::json::sax_parse(text, &reader);  // returns true or the reader throws
  header.data_begin = kLengthBytes + int64_t(length);
  require_seamless(path, header.tensors, file_bytes - header.data_begin);
  if (header.metadata.contains(std::string(kFormatKey)) && !header.metadata.contains(std::string(kHashKey)))
    fail(Error::Kind::checkpoint, path, ": metadata has ", kFormatKey, " but no ", kHashKey);
  return header;
}

std::ifstream open_file(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) fail(Error::Kind::data, path, ": is a folder, a file is needed");
  std::ifstream file(path, std::ios::binary);
  if (!file) fail(Error::Kind::data, path, ": cannot be opened: ", std::strerror(errno));
  return file;
}

// ---- Content hash --------------------------------------------------------------------------------------------------

void hash_text(Hasher& hasher, std::string_view text) {
  uint64_t length = text.size();  // so that "ab", "c" and "a", "bc" differ
  hasher.update(&length, sizeof length);
  hasher.update(text.data(), text.size());
}

/// Everything but the tensors' bytes, which follow.
Hasher hash_header(const std::vector<SafetensorsInfo>& tensors, const std::map<std::string, std::string>& metadata) {
  Hasher hasher;
  for (const auto& [key, value] : metadata) {
    if (key == kHashKey) continue;
    hash_text(hasher, key);
    hash_text(hasher, value);
  }
  for (const SafetensorsInfo& tensor : tensors) {
    hash_text(hasher, tensor.name);
    hash_text(hasher, name_in_file(tensor.dtype));
    hash_text(hasher, concat_text(tensor.shape));
  }
  return hasher;
}

// ---- Header writing ------------------------------------------------------------------------------------------------

std::string json_string(std::string_view text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    fail(Error::Kind::argument, "save_safetensors: ", printable(text), " is not valid UTF-8");
  }
}

std::string header_text(const std::vector<SafetensorsInfo>& tensors,
                        const std::map<std::string, std::string>& metadata) {
  std::ostringstream out;
  out << "{" << json_string(kMetadataKey) << ":{";
  const char* comma = "";
  for (const auto& [key, value] : metadata) {
    out << comma << json_string(key) << ":" << json_string(value);
    comma = ",";
  }
  out << "}";
  for (const SafetensorsInfo& tensor : tensors) {
    out << "," << json_string(tensor.name) << ":{\"dtype\":\"" << name_in_file(tensor.dtype) << "\",\"shape\":[";
    for (int axis = 0; axis < tensor.shape.ndim(); ++axis) out << (axis ? "," : "") << tensor.shape[axis];
    out << "],\"data_offsets\":[" << tensor.begin << "," << tensor.end << "]}";
  }
  out << "}";
  std::string text = out.str();
  text.append((8 - text.size() % 8) % 8, ' ');  // the data begins at a multiple of 8, as the format asks
  return text;
}

}  // namespace

void save_safetensors(const std::string& path, const std::vector<std::pair<std::string, Tensor>>& tensors,
                      const std::map<std::string, std::string>& metadata) {
  std::vector<SafetensorsInfo> infos;
  std::vector<Tensor> on_host;
  std::set<std::string_view> names;
  int64_t position = 0;
  for (const auto& [name, tensor] : tensors) {
    check(!name.empty() && name != kMetadataKey, "save_safetensors: ", printable(name), " cannot be a tensor's name");
    check(names.insert(name).second, "save_safetensors: the name ", printable(name), " is given twice");
    check(tensor.defined(), "save_safetensors: tensor ", printable(name), " is undefined");
    infos.push_back({name, tensor.dtype(), tensor.shape(), position, position + tensor.nbytes()});
    position += tensor.nbytes();
    on_host.push_back(tensor.to(Device{}));
  }

  std::map<std::string, std::string> full_metadata = metadata;
  full_metadata[std::string(kFormatKey)] = "1";
  Hasher hasher = hash_header(infos, full_metadata);
  for (const Tensor& tensor : on_host) hasher.update(tensor.raw(), size_t(tensor.nbytes()));
  full_metadata[std::string(kHashKey)] = hasher.hex();

  std::string header = header_text(infos, full_metadata);
  check(int64_t(header.size()) <= kLongestHeader, "save_safetensors: names and metadata make a header of ",
        header.size(), " bytes; ", kLongestHeader, " is the most that readers accept");
  write_file_atomic(path, [&](const Append& append) {
    uint64_t length = header.size();
    append(&length, sizeof length);
    append(header.data(), header.size());
    for (const Tensor& tensor : on_host) append(tensor.raw(), size_t(tensor.nbytes()));
  });
}

namespace {

std::map<std::string, std::string> read_all(const std::string& path,
                                            const std::function<void(const SafetensorsInfo&, Tensor)>& take) {
  std::ifstream file = open_file(path);
  Header header = read_header(path, file);
  Hasher hasher = hash_header(header.tensors, header.metadata);
  for (const SafetensorsInfo& info : header.tensors) {
    Tensor tensor = empty(info.shape, info.dtype);
    if (!file.read(static_cast<char*>(tensor.raw()), std::streamsize(tensor.nbytes())))
      fail(Error::Kind::checkpoint, path, ": tensor ", printable(info.name), " cannot be read: bytes ",
           header.data_begin + info.begin, "..", header.data_begin + info.end, " of the file");
    hasher.update(tensor.raw(), size_t(tensor.nbytes()));
    take(info, std::move(tensor));
  }
  if (auto stored = header.metadata.find(std::string(kHashKey)); stored != header.metadata.end())
    if (stored->second != hasher.hex())
      fail(Error::Kind::checkpoint, path, ": the content does not match its hash: ", kHashKey, " is ",
           printable(stored->second), ", the file has ", hasher.hex(),
           "; it was changed or damaged after it was written");
  return std::move(header.metadata);
}

}  // namespace

Safetensors load_safetensors(const std::string& path) {
  Safetensors result;
  result.metadata = read_all(
      path, [&](const SafetensorsInfo& info, Tensor tensor) { result.tensors.emplace(info.name, std::move(tensor)); });
  return result;
}

void read_safetensors(const std::string& path, const std::function<void(const SafetensorsInfo&, Tensor)>& take) {
  read_all(path, take);
}

std::pair<std::vector<SafetensorsInfo>, std::map<std::string, std::string>> read_safetensors_header(
    const std::string& path) {
  std::ifstream file = open_file(path);
  Header header = read_header(path, file);
  return {std::move(header.tensors), std::move(header.metadata)};
}

}  // namespace mote::io
