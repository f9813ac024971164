#include "tensor/io/png.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <span>

#include "tensor/error.h"
#include "tensor/io/image.h"

namespace mote::io {
namespace {

constexpr std::array<uint8_t, 8> kSignature{0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
constexpr size_t kChunkFrame = 12;  // length, type, CRC
enum ColourType : int { kGrey = 0, kRgb = 2, kPalette = 3, kGreyAlpha = 4, kRgbAlpha = 6 };
enum Filter : uint8_t { kNone, kSub, kUp, kAverage, kPaeth, kFilters };

uint32_t read_u32(const uint8_t* from) {
  return uint32_t(from[0]) << 24 | uint32_t(from[1]) << 16 | uint32_t(from[2]) << 8 | from[3];
}

/// The neighbour among left, above and upper left that is nearest to left + above - upper left.
uint8_t paeth(int left, int above, int upper_left) {
  int estimate = left + above - upper_left;
  int to_left = std::abs(estimate - left), to_above = std::abs(estimate - above),
      to_corner = std::abs(estimate - upper_left);
  if (to_left <= to_above && to_left <= to_corner) return uint8_t(left);
  return uint8_t(to_above <= to_corner ? above : upper_left);
}

uint8_t prediction(int filter, int left, int above, int upper_left) {
  switch (filter) {
    case kSub: return uint8_t(left);
    case kUp: return uint8_t(above);
    case kAverage: return uint8_t((left + above) / 2);
    case kPaeth: return paeth(left, above, upper_left);
    default: return 0;
  }
}

// ---- Decoding ------------------------------------------------------------------------------------------------------

/// The pixels (x0 + i dx, y0 + j dy) form one pass; a picture that is not interlaced is one pass.
struct Pass {
  int64_t x0, y0, dx, dy;
};
constexpr std::array<Pass, 1> kWhole{{{0, 0, 1, 1}}};
constexpr std::array<Pass, 7> kAdam7{
    {{0, 0, 8, 8}, {4, 0, 8, 8}, {0, 4, 4, 8}, {2, 0, 4, 4}, {0, 2, 2, 4}, {1, 0, 2, 2}, {0, 1, 1, 2}}};

class PngReader {
 public:
  PngReader(const Bytes& file, const std::string& name) : file_(file), name_(name) {}

  Tensor read() {
    walk_chunks();
    Bytes packed_rows = inflate_rows();
    Tensor image = empty(Shape{height_, width_, is_colour() ? 3 : 1}, DType::u8);
    uint8_t* rows = packed_rows.data();
    for (const Pass& pass : passes()) rows = decode_pass(pass, rows, image.data<uint8_t>());
    return image;
  }

 private:
  template <class... Parts>
  [[noreturn]] void broken(const Parts&... parts) const {
    fail(Error::Kind::data, name_, ": PNG: ", parts...);
  }

  bool is_colour() const { return colour_ == kRgb || colour_ == kRgbAlpha || colour_ == kPalette; }
  int64_t samples() const {  // a pixel
    return colour_ == kRgb ? 3 : colour_ == kRgbAlpha ? 4 : colour_ == kGreyAlpha ? 2 : 1;
  }
  std::span<const Pass> passes() const {
    return interlaced_ ? std::span<const Pass>(kAdam7) : std::span<const Pass>(kWhole);
  }
  int64_t columns(const Pass& pass) const { return (width_ - pass.x0 + pass.dx - 1) / pass.dx; }
  int64_t rows(const Pass& pass) const { return (height_ - pass.y0 + pass.dy - 1) / pass.dy; }
  int64_t row_bytes(const Pass& pass) const { return (columns(pass) * samples() * depth_ + 7) / 8; }

  void walk_chunks() {
    size_t position = kSignature.size();
    std::string previous;
    for (;;) {
      if (file_.size() - position < kChunkFrame) broken("cut off at byte ", file_.size(), ", before the IEND chunk");
      const uint8_t* chunk = file_.data() + position;
      uint64_t length = read_u32(chunk);
      if (length > file_.size() - position - kChunkFrame)
        broken("the chunk at byte ", position, " should have ", length, " bytes, but only ",
               file_.size() - position - kChunkFrame, " follow");
      std::string type(reinterpret_cast<const char*>(chunk + 4), 4);
      uint32_t stored = read_u32(chunk + 8 + length), crc = uint32_t(crc32(0, chunk + 4, uInt(length + 4)));
      if (stored != crc) broken("the checksum of the ", printable(type), " chunk at byte ", position, " is wrong");
      std::span<const uint8_t> content(chunk + 8, length);
      if ((type == "IHDR") != previous.empty())
        broken("the IHDR chunk must be the first and only there; the chunk at byte ", position, " is ",
               printable(type));
      if (type == "IEND") {
        if (length != 0) broken("the IEND chunk at byte ", position, " is not empty");
        break;
      }
      if (type == "IHDR") {
        read_header(content);
      } else if (type == "PLTE") {
        if (!data_.empty() || !palette_.empty() || length == 0 || length % 3 != 0 || length > 768 || !is_colour())
          broken("the PLTE chunk at byte ", position, " (", length,
                 " bytes) is not allowed there or has a wrong length");
        palette_ = content;
      } else if (type == "IDAT") {
        if (!data_.empty() && previous != "IDAT")
          broken("the IDAT chunk at byte ", position, " is separated from the others");
        data_.push_back(content);
      } else if (!(type[0] & 0x20)) {  // capital letter: the picture cannot be understood without it
        broken("unknown critical chunk ", printable(type), " at byte ", position);
      }
      previous = type;
      position += kChunkFrame + length;
    }
    if (data_.empty()) broken("there is no IDAT chunk");
    if (colour_ == kPalette && palette_.empty()) broken("the PLTE chunk of a palette picture is missing");
  }

  void read_header(std::span<const uint8_t> header) {
    if (header.size() != 13) broken("the IHDR chunk has ", header.size(), " bytes, 13 are needed");
    width_ = read_u32(header.data());
    height_ = read_u32(header.data() + 4);
    depth_ = header[8];
    colour_ = header[9];
    if (width_ < 1 || height_ < 1 || width_ > kMaxImageSide || height_ > kMaxImageSide)
      broken("the picture is ", width_, " x ", height_, "; 1 to ", kMaxImageSide, " a side are allowed");
    constexpr int kByte = 1 << 8, kBelowByte = 1 << 1 | 1 << 2 | 1 << 4, kTwoBytes = 1 << 16;  // bit d: depth d
    int allowed = 0;
    switch (colour_) {
      case kGrey: allowed = kBelowByte | kByte | kTwoBytes; break;
      case kPalette: allowed = kBelowByte | kByte; break;
      case kRgb:
      case kGreyAlpha:
      case kRgbAlpha: allowed = kByte | kTwoBytes; break;
    }
    if (depth_ > 16 || !(allowed >> depth_ & 1))
      broken("depth ", depth_, " with colour type ", colour_, " does not exist");
    if (header[10] != 0 || header[11] != 0 || header[12] > 1)
      broken("compression ", int(header[10]), ", filter ", int(header[11]), " or interlace ", int(header[12]),
             " is unknown");
    interlaced_ = header[12] == 1;
  }

  /// All rows, each with its filter byte in front, pass after pass.
  Bytes inflate_rows() const {
    int64_t expected = 0, packed = 0;
    for (const Pass& pass : passes())
      if (columns(pass) > 0) expected += rows(pass) * (1 + row_bytes(pass));
    for (std::span<const uint8_t> part : data_) packed += int64_t(part.size());
    // Deflate makes at most 258 bytes of 2 bits, so a small file cannot ask for much memory.
    constexpr int64_t kBestRatio = 1032;
    if (expected / kBestRatio > packed)
      broken(packed, " bytes of pixel data cannot hold a picture of ", width_, " x ", height_, " (", expected,
             " bytes)");

    Bytes raw(static_cast<size_t>(expected));
    z_stream stream{};
    if (inflateInit(&stream) != Z_OK) fail(Error::Kind::resource, name_, ": no memory for unpacking");
    stream.next_out = raw.data();
    uint8_t excess;
    int64_t left = expected;
    int status = Z_OK;
    size_t part = 0;
    while (status == Z_OK && (stream.avail_in > 0 || part < data_.size())) {
      if (stream.avail_in == 0) {
        stream.next_in = const_cast<uint8_t*>(data_[part].data());
        stream.avail_in = uInt(data_[part].size());
        if (data_[part++].empty()) continue;
      }
      // Once all rows are there, one more byte of room shows whether the stream really ends.
      bool full = left == 0;
      if (full) stream.next_out = &excess;
      uInt room = full ? 1 : uInt(std::min<int64_t>(left, 1 << 30));
      stream.avail_out = room;
      status = inflate(&stream, Z_NO_FLUSH);
      if (status == Z_BUF_ERROR) status = Z_OK;
      int64_t written = room - stream.avail_out;
      if (full && written > 0) left = -1;
      if (left < 0) break;
      left -= written;
    }
    std::string reason = stream.msg ? stream.msg : zError(status);
    bool unread = stream.avail_in > 0 || part < data_.size();
    inflateEnd(&stream);
    if (left < 0) broken("the pixel data unpacks to more than the ", expected, " bytes that the header gives");
    if (status == Z_OK) broken("the pixel data is cut off after ", expected - left, " of ", expected, " bytes");
    if (status != Z_STREAM_END)
      broken("the pixel data is broken after ", expected - left, " of ", expected, " bytes: ", reason);
    if (left > 0) broken("the pixel data has ", expected - left, " bytes, ", expected, " are needed");
    if (unread) broken("bytes follow the end of the pixel data");
    return raw;
  }

  /// Undoes the filters of one pass in place and spreads its pixels over the image. Returns where the next pass begins.
  uint8_t* decode_pass(const Pass& pass, uint8_t* raw, uint8_t* image) const {
    if (columns(pass) <= 0) return raw;  // a pass without columns has no filter bytes either
    int64_t length = row_bytes(pass), step = std::max<int64_t>(1, samples() * depth_ / 8);
    const Bytes zeros(static_cast<size_t>(length));
    const uint8_t* above = zeros.data();
    for (int64_t row = 0; row < rows(pass); ++row) {
      int filter = *raw++;
      if (filter >= kFilters) broken("row ", row, " has the unknown filter ", filter);
      for (int64_t at = 0; at < length; ++at) {
        bool has_left = at >= step;
        raw[at] = uint8_t(
            raw[at] + prediction(filter, has_left ? raw[at - step] : 0, above[at], has_left ? above[at - step] : 0));
      }
      store_row(pass, row, raw, image);
      above = raw;
      raw += length;
    }
    return raw;
  }

  void store_row(const Pass& pass, int64_t row, const uint8_t* raw, uint8_t* image) const {
    int64_t C = is_colour() ? 3 : 1, count = columns(pass);
    uint8_t* target = image + ((pass.y0 + row * pass.dy) * width_ + pass.x0) * C;
    for (int64_t column = 0; column < count; ++column, target += pass.dx * C) {
      if (colour_ == kPalette) {
        size_t entry = sample(raw, column);
        if (entry * 3 >= palette_.size())
          broken("a pixel has colour ", entry, " of a palette of ", palette_.size() / 3);
        std::copy_n(palette_.data() + entry * 3, 3, target);
      } else {
        for (int64_t channel = 0; channel < C; ++channel)
          target[channel] = to_byte(sample(raw, column * samples() + channel));
      }
    }
  }

  uint32_t sample(const uint8_t* row, int64_t index) const {
    if (depth_ == 8) return row[index];
    if (depth_ == 16) return uint32_t(row[2 * index]) << 8 | row[2 * index + 1];
    int64_t bit = index * depth_;
    return row[bit / 8] >> (8 - depth_ - bit % 8) & ((1u << depth_) - 1);
  }

  uint8_t to_byte(uint32_t value) const {
    uint32_t largest = (1u << depth_) - 1;
    return uint8_t((value * 255 + largest / 2) / largest);
  }

  const Bytes& file_;
  const std::string& name_;
  int64_t width_ = 0, height_ = 0;
  int depth_ = 0, colour_ = 0;
  bool interlaced_ = false;
  std::span<const uint8_t> palette_;
  std::vector<std::span<const uint8_t>> data_;
};

// ---- Encoding ------------------------------------------------------------------------------------------------------

void append_u32(Bytes& out, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(uint8_t(value >> shift));
}

void append_chunk(Bytes& out, const char* type, std::span<const uint8_t> content) {
  append_u32(out, uint32_t(content.size()));
  size_t begin = out.size();
  out.insert(out.end(), type, type + 4);
  out.insert(out.end(), content.begin(), content.end());
  append_u32(out, uint32_t(crc32(0, out.data() + begin, uInt(out.size() - begin))));
}

/// Sum of |difference| with differences read as signed: the usual guess at how well a filtered row will pack.
int64_t cost(std::span<const uint8_t> row) {
  int64_t sum = 0;
  for (uint8_t difference : row) sum += std::abs(int8_t(difference));
  return sum;
}

/// Deflate that appends to a buffer.
class Packer {
 public:
  explicit Packer(Bytes& out) : out_(out) {
    constexpr int kLevel = 6, kWindowBits = 15, kMemory = 8;
    if (deflateInit2(&stream_, kLevel, Z_DEFLATED, kWindowBits, kMemory, Z_FILTERED) != Z_OK)
      fail(Error::Kind::resource, "encode_png: no memory for packing");
  }
  ~Packer() { deflateEnd(&stream_); }
  Packer(const Packer&) = delete;
  Packer& operator=(const Packer&) = delete;

  void append(std::span<const uint8_t> row) { run(row, Z_NO_FLUSH); }
  void finish() { run({}, Z_FINISH); }

 private:
  void run(std::span<const uint8_t> input, int flush) {
    std::array<uint8_t, 1 << 14> room;
    stream_.next_in = const_cast<uint8_t*>(input.data());
    stream_.avail_in = uInt(input.size());
    do {
      stream_.next_out = room.data();
      stream_.avail_out = uInt(room.size());
      deflate(&stream_, flush);
      out_.insert(out_.end(), room.data(), stream_.next_out);
    } while (stream_.avail_out == 0);
  }

  Bytes& out_;
  z_stream stream_{};
};

Bytes pack_rows(const uint8_t* pixels, int64_t height, int64_t row_bytes, int64_t step) {
  Bytes packed;
  Packer packer(packed);
  Bytes zeros(static_cast<size_t>(row_bytes)), candidate(static_cast<size_t>(row_bytes + 1)), best;
  const uint8_t* above = zeros.data();
  for (int64_t y = 0; y < height; ++y) {
    const uint8_t* row = pixels + y * row_bytes;
    int64_t lowest = -1;
    for (uint8_t filter = kNone; filter < kFilters; ++filter) {
      candidate[0] = filter;
      for (int64_t at = 0; at < row_bytes; ++at) {
        bool has_left = at >= step;
        int left = has_left ? row[at - step] : 0, upper_left = has_left ? above[at - step] : 0;
        candidate[size_t(at + 1)] = uint8_t(row[at] - prediction(filter, left, above[at], upper_left));
      }
      int64_t sum = cost(std::span(candidate).subspan(1));
      if (lowest < 0 || sum < lowest) {
        lowest = sum;
        best = candidate;
      }
    }
    packer.append(best);
    above = row;
  }
  packer.finish();
  return packed;
}

}  // namespace

bool is_png(const Bytes& file) {
  return file.size() >= kSignature.size() && std::equal(kSignature.begin(), kSignature.end(), file.begin());
}

Tensor decode_png(const Bytes& file, const std::string& name) {
  if (!is_png(file)) fail(Error::Kind::data, name, ": does not begin with the PNG signature");
  return PngReader(file, name).read();
}

Bytes encode_png(const Tensor& image) {
  check(image.defined() && image.dtype() == DType::u8 && image.ndim() == 3 &&
            (image.size(2) == 1 || image.size(2) == 3) && image.size(0) > 0 && image.size(1) > 0,
        "encode_png: needs u8 [H, W, 1 or 3] with at least one pixel, got ", describe(image));
  Tensor on_host = image.to(Device{});
  int64_t H = image.size(0), W = image.size(1), C = image.size(2);
  constexpr int64_t kLargest = 0x7fffffff;
  check(H <= kLargest && W <= kLargest && W * C < int64_t(1) << 32, "encode_png: ", describe(image),
        " is too large for the format");

  Bytes header;
  append_u32(header, uint32_t(W));
  append_u32(header, uint32_t(H));
  // Depth, colour, compression, filter, interlacing.
  const uint8_t rest[5] = {8, uint8_t(C == 3 ? kRgb : kGrey), 0, 0, 0};
  header.insert(header.end(), rest, rest + 5);
  Bytes out(kSignature.begin(), kSignature.end());
  append_chunk(out, "IHDR", header);
  Bytes packed = pack_rows(on_host.data<uint8_t>(), H, W * C, C);
  constexpr size_t kLongestChunk = size_t(1) << 30;
  for (size_t at = 0; at < packed.size(); at += kLongestChunk)
    append_chunk(out, "IDAT", std::span(packed).subspan(at, std::min(kLongestChunk, packed.size() - at)));
  append_chunk(out, "IEND", {});
  return out;
}

}  // namespace mote::io
