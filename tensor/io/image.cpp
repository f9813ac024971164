#include "tensor/io/image.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tensor/error.h"
#include "tensor/io/stb.h"

namespace mote::io {
namespace {

template <class... Parts>
[[noreturn]] void broken(const std::string& name, const Parts&... parts) {
  fail(Error::Kind::data, name, ": ", parts...);
}

void require_sides(const std::string& name, int64_t width, int64_t height) {
  if (width < 1 || height < 1 || width > kMaxImageSide || height > kMaxImageSide)
    broken(name, "the picture is ", width, " x ", height, "; 1 to ", kMaxImageSide, " a side are allowed");
}

// ---- JPEG and BMP: whole or not ------------------------------------------------------------------------------------

/// Huffman tables of a DHT segment: class and number, 16 counts of codes by length, the values. stb_image writes past
/// its table of 256 if the counts add up to more.
void require_huffman_tables(const uint8_t* table, size_t bytes, const std::string& name) {
  constexpr size_t kCounts = 16, kMostValues = 256;
  while (bytes > 0) {
    size_t values = 0;
    if (bytes > kCounts) values = std::accumulate(table + 1, table + 1 + kCounts, size_t(0));
    size_t taken = 1 + kCounts + values;
    if (bytes <= kCounts || values > kMostValues || taken > bytes)
      broken(name, "JPEG: a Huffman table of ", values, " values does not fit: ", kMostValues, " at most, ", bytes,
             " bytes are left");
    table += taken;
    bytes -= taken;
  }
}

/// Walks the segments from SOI to EOI [ITU T.81, annex B]. A file that was cut off has no EOI.
void require_whole_jpeg(const Bytes& file, const std::string& name) {
  constexpr uint8_t kHuffman = 0xc4, kEnd = 0xd9, kScan = 0xda, kRestart0 = 0xd0, kRestart7 = 0xd7;
  size_t at = 2;
  for (;;) {
    if (at + 2 > file.size()) broken(name, "JPEG: cut off at byte ", file.size(), ", before the end marker");
    if (file[at] != 0xff) broken(name, "JPEG: a marker is needed at byte ", at, ", found ", int(file[at]));
    uint8_t marker = file[at + 1];
    if (marker == 0xff) {  // a fill byte
      ++at;
      continue;
    }
    if (marker == kEnd) return;
    // Zero, restarts and second starts have no length and no place here. Let through, they would make this walk and
    // stb_image disagree on where segments begin.
    if (marker < 0xc0 || (marker >= kRestart0 && marker <= 0xd8))
      broken(name, "JPEG: marker ", int(marker), " at byte ", at, " is not allowed there");
    if (at + 4 > file.size()) broken(name, "JPEG: cut off at byte ", file.size(), ", within a segment");
    size_t length = size_t(file[at + 2]) << 8 | file[at + 3];  // counts its own two bytes
    if (length < 2 || length > file.size() - at - 2)
      broken(name, "JPEG: the segment at byte ", at, " should have ", length, " bytes, but only ", file.size() - at - 2,
             " follow");
    if (marker == kHuffman) require_huffman_tables(file.data() + at + 4, length - 2, name);
    at += 2 + length;
    if (marker != kScan) continue;
    // Coded data: a 0xff in it is followed by 0, or it is a restart marker.
    while (at + 1 < file.size() &&
           (file[at] != 0xff || file[at + 1] == 0 || (file[at + 1] >= kRestart0 && file[at + 1] <= kRestart7)))
      ++at;
  }
}

uint32_t little_endian(const Bytes& file, size_t at, size_t bytes) {
  uint32_t value = 0;
  for (size_t place = 0; place < bytes; ++place) value |= uint32_t(file[at + place]) << (8 * place);
  return value;
}

void require_whole_bmp(const Bytes& file, const std::string& name) {
  constexpr size_t kSmallest = 26;  // file header and the oldest picture header
  if (file.size() < kSmallest) broken(name, "BMP: cut off at byte ", file.size(), ", within the header");
  uint32_t pixels_at = little_endian(file, 10, 4), header_bytes = little_endian(file, 14, 4);
  bool is_old = header_bytes == 12;
  if (!is_old && file.size() < 34) broken(name, "BMP: cut off at byte ", file.size(), ", within the header");
  int64_t width = is_old ? little_endian(file, 18, 2) : int32_t(little_endian(file, 18, 4));
  int64_t height =
      std::abs(is_old ? int64_t(little_endian(file, 20, 2)) : int64_t(int32_t(little_endian(file, 22, 4))));
  int64_t depth = little_endian(file, is_old ? 24 : 28, 2);
  require_sides(name, width, height);
  if (!is_old && (little_endian(file, 30, 4) == 1 || little_endian(file, 30, 4) == 2))
    broken(name, "BMP: run-length packed pictures are not supported");
  int64_t needed = int64_t(pixels_at) + (width * depth + 31) / 32 * 4 * height;
  if (needed > int64_t(file.size()))
    broken(name, "BMP: ", width, " x ", height, " pixels of ", depth, " bits end at byte ", needed, ", the file at ",
           file.size());
}

Tensor decode_with_stb(const Bytes& file, const std::string& name, const char* format) {
  StbPicture info = stb_info(file);
  if (!info.error.empty()) broken(name, format, ": ", info.error);
  require_sides(name, info.width, info.height);
  StbPicture picture = stb_decode(file);
  if (!picture.error.empty()) broken(name, format, ": ", picture.error);
  Tensor image = empty(Shape{picture.height, picture.width, picture.channels < 3 ? 1 : 3}, DType::u8);
  std::copy(picture.pixels.begin(), picture.pixels.end(), image.data<uint8_t>());
  return image;
}

// ---- PNM: "P5" or "P6", width, height, largest value, one space, samples -------------------------------------------

/// A number of the header; white space and comments before it are skipped.
int64_t read_pnm_number(const Bytes& file, size_t& at, const std::string& name) {
  auto is_space = [](uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); };
  while (at < file.size() && (is_space(file[at]) || file[at] == '#')) {
    if (file[at] == '#')
      while (at < file.size() && file[at] != '\n') ++at;
    else ++at;
  }
  int64_t value = 0;
  size_t first = at;
  for (; at < file.size() && file[at] >= '0' && file[at] <= '9' && at - first < 9; ++at)
    value = value * 10 + (file[at] - '0');
  if (at == first || at >= file.size() || !(is_space(file[at]) || file[at] == '#'))
    broken(name, "PNM: a number and a space are needed at byte ", first);
  return value;
}

Tensor decode_pnm(const Bytes& file, const std::string& name) {
  size_t at = 2;
  int64_t C = file[1] == '6' ? 3 : 1;
  int64_t W = read_pnm_number(file, at, name), H = read_pnm_number(file, at, name);
  int64_t largest = read_pnm_number(file, at, name);
  ++at;  // the single space before the samples
  require_sides(name, W, H);
  if (largest < 1 || largest > 65535) broken(name, "PNM: the largest value is ", largest, ", 1 to 65535 are allowed");
  int64_t sample_bytes = largest > 255 ? 2 : 1, needed = W * H * C * sample_bytes;
  int64_t present = int64_t(file.size() - std::min(at, file.size()));
  if (present != needed)
    broken(name, "PNM: ", W, " x ", H, " pixels need ", needed, " bytes after byte ", at, ", the file has ", present);
  Tensor image = empty(Shape{H, W, C}, DType::u8);
  uint8_t* target = image.data<uint8_t>();
  for (int64_t i = 0; i < W * H * C; ++i) {
    const uint8_t* from = file.data() + at + i * sample_bytes;
    int64_t value = sample_bytes == 2 ? from[0] << 8 | from[1] : from[0];
    if (value > largest) broken(name, "PNM: sample ", i, " is ", value, ", above the largest value ", largest);
    target[i] = uint8_t((value * 255 + largest / 2) / largest);
  }
  return image;
}

}  // namespace

// ---- Decoding ------------------------------------------------------------------------------------------------------

Tensor decode_image(const Bytes& file, const std::string& name, int channels) {
  check(channels == 0 || channels == 1 || channels == 3, "load_image: channels is 0, 1 or 3, got ", channels);
  if (file.empty()) broken(name, "is empty");
  if (int64_t(file.size()) > kMaxImageFile)
    broken(name, "has ", file.size(), " bytes; ", kMaxImageFile, " are allowed for a picture");
  auto starts_with = [&](std::initializer_list<uint8_t> magic) {
    return file.size() >= magic.size() && std::equal(magic.begin(), magic.end(), file.begin());
  };
  Tensor image;
  if (is_png(file)) {
    image = decode_png(file, name);
  } else if (starts_with({0xff, 0xd8, 0xff})) {
    require_whole_jpeg(file, name);
    image = decode_with_stb(file, name, "JPEG");
  } else if (starts_with({'B', 'M'})) {
    require_whole_bmp(file, name);
    image = decode_with_stb(file, name, "BMP");
  } else if (starts_with({'P', '5'}) || starts_with({'P', '6'})) {
    image = decode_pnm(file, name);
  } else {
    broken(name, "is not a picture in a known format; PNG, JPEG, BMP and binary PNM (P5, P6) are known");
  }
  return channels == 0 ? image : convert_channels(image, channels);
}

Tensor load_image(const std::string& path, int channels) {
  return decode_image(read_file(path, kMaxImageFile), path, channels);
}

Tensor convert_channels(const Tensor& images, int64_t channels) {
  check(images.defined() && images.dtype() == DType::u8 && images.ndim() > 0 &&
            (images.size(-1) == 1 || images.size(-1) == 3) && (channels == 1 || channels == 3),
        "convert_channels: from and to 1 or 3 channels of u8, got ", describe(images), " to ", channels);
  if (images.size(-1) == channels) return images;
  Tensor result = empty(images.shape().with(-1, channels), DType::u8);
  const uint8_t* from = images.data<uint8_t>();
  uint8_t* target = result.data<uint8_t>();
  int64_t pixels = images.numel() / images.size(-1);
  if (channels == 3) {
    for (int64_t pixel = 0; pixel < pixels; ++pixel) std::fill_n(target + 3 * pixel, 3, from[pixel]);
  } else {
    // 65536 times 0.299, 0.587 and 0.114 [ITU-R BT.601]; they add up to 65536, so grey stays as it is.
    for (int64_t pixel = 0; pixel < pixels; ++pixel, from += 3)
      target[pixel] = uint8_t((19595 * from[0] + 38470 * from[1] + 7471 * from[2] + 32768) >> 16);
  }
  return result;
}

// ---- Encoding ------------------------------------------------------------------------------------------------------

void save_png(const std::string& path, const Tensor& image) {
  Bytes png = encode_png(image);
  write_file_atomic(path, [&](const Append& append) { append(png.data(), png.size()); });
}

Tensor image_grid(const Tensor& images, int64_t columns, int64_t gap) {
  check(images.defined() && images.dtype() == DType::f32 && images.ndim() == 4 && images.numel() > 0 &&
            (images.size(3) == 1 || images.size(3) == 3),
        "image_grid: needs f32 [N, H, W, 1 or 3] with at least one image, got ", describe(images));
  check(columns > 0 && gap >= 0, "image_grid: needs columns > 0 and gap >= 0, got ", columns, " and ", gap);
  Tensor on_host = images.to(Device{});
  int64_t N = images.size(0), H = images.size(1), W = images.size(2), C = images.size(3);
  columns = std::min(columns, N);
  int64_t rows = (N + columns - 1) / columns;
  int64_t width = columns * (W + gap) - gap, height = rows * (H + gap) - gap;
  Tensor grid = full(Shape{height, width, C}, 255, DType::u8);
  const float* from = on_host.data<float>();
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t y = 0; y < H; ++y) {
      uint8_t* target = grid.data<uint8_t>() + ((n / columns * (H + gap) + y) * width + n % columns * (W + gap)) * C;
      for (int64_t i = 0; i < W * C; ++i, ++from) {
        if (std::isnan(*from))
          fail(Error::Kind::numeric, "image_grid: image ", n, " of ", N, " contains a NaN in row ", y);
        target[i] = uint8_t(std::lround((std::clamp(*from, -1.0f, 1.0f) + 1) * 127.5f));
      }
    }
  }
  return grid;
}

// ---- Resizing ------------------------------------------------------------------------------------------------------

namespace {

/// Element `target` of a resized axis is sum over k of weight[k] * source[first + k]; the weights add up to 1.
struct Taps {
  int64_t first;
  std::vector<float> weight;
};

std::vector<Taps> resize_taps(int64_t from, int64_t to) {
  std::vector<Taps> taps;
  double scale = double(from) / double(to);
  for (int64_t target = 0; target < to; ++target) {
    if (to < from) {  // the mean over [begin, end) of the source, its ends counted by their covered part
      double begin = double(target) * scale, end = std::min(double(target + 1) * scale, double(from));
      Taps tap{int64_t(begin), {}};
      for (int64_t source = tap.first; double(source) < end; ++source)
        tap.weight.push_back(
            float((std::min(end, double(source + 1)) - std::max(begin, double(source))) / (end - begin)));
      taps.push_back(std::move(tap));
    } else {
      double centre = std::clamp((double(target) + 0.5) * scale - 0.5, 0.0, double(from - 1));
      int64_t left = std::min(int64_t(centre), std::max<int64_t>(from - 2, 0));
      float right_part = float(centre - double(left));
      taps.push_back(from == 1 ? Taps{0, {1}} : Taps{left, {1 - right_part, right_part}});
    }
  }
  return taps;
}

}  // namespace

Tensor resize_image(const Tensor& image, int64_t height, int64_t width) {
  check(image.defined() && image.dtype() == DType::u8 && image.ndim() == 3 && image.numel() > 0 && height > 0 &&
            width > 0 && height <= kMaxImageSide && width <= kMaxImageSide,
        "resize_image: needs u8 [H, W, C] and 1 to ", kMaxImageSide, " pixels a side, got ", describe(image), " to ",
        height, " x ", width);
  int64_t H = image.size(0), W = image.size(1), C = image.size(2);
  if (H == height && W == width) return image;
  const uint8_t* pixels = image.data<uint8_t>();

  std::vector<float> narrow(size_t(H * width * C), 0.0f);  // [H, width, C]: every row resized
  std::vector<Taps> across = resize_taps(W, width);
  for (int64_t y = 0; y < H; ++y)
    for (int64_t x = 0; x < width; ++x)
      for (size_t k = 0; k < across[x].weight.size(); ++k)
        for (int64_t c = 0; c < C; ++c)
          narrow[(y * width + x) * C + c] +=
              across[x].weight[k] * float(pixels[(y * W + across[x].first + int64_t(k)) * C + c]);

  Tensor result = empty(Shape{height, width, C}, DType::u8);
  uint8_t* target = result.data<uint8_t>();
  std::vector<float> row(size_t(width * C));
  std::vector<Taps> down = resize_taps(H, height);
  for (int64_t y = 0; y < height; ++y) {
    std::fill(row.begin(), row.end(), 0.0f);
    for (size_t k = 0; k < down[y].weight.size(); ++k) {
      const float* source = narrow.data() + (down[y].first + int64_t(k)) * width * C;
      for (size_t i = 0; i < row.size(); ++i) row[i] += down[y].weight[k] * source[i];
    }
    for (float value : row) *target++ = uint8_t(std::clamp(value + 0.5f, 0.0f, 255.0f));
  }
  return result;
}

}  // namespace mote::io
