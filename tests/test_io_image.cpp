#include "tensor/io/image.h"

#include <array>
#include <filesystem>

#include "tests/io_support.h"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#pragma GCC diagnostic ignored "-Wunused-function"
#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#define STBI_WRITE_NO_STDIO
#include <stb_image_write.h>  // the only JPEG encoder at hand
#pragma GCC diagnostic pop

using namespace mote;
using namespace mote::test;

namespace {

/// u8 [H, W, C] with smooth and rough parts, so that every filter is the best one somewhere.
Tensor picture(int64_t H, int64_t W, int64_t C) {
  Tensor image = empty(Shape{H, W, C}, DType::u8);
  uint8_t* value = image.data<uint8_t>();
  for (int64_t y = 0; y < H; ++y)
    for (int64_t x = 0; x < W; ++x)
      for (int64_t c = 0; c < C; ++c)
        *value++ = uint8_t(y % 3 == 0 ? 7 * x + 13 * c : y % 3 == 1 ? x * x * 31 + y * 17 + c : 3 * y + 2 * x);
  return image;
}

// ---- A second PNG encoder: no filters, but every colour type, depth and interlacing ---------------------------------

void put_u32(Bytes& out, uint32_t value) {
  for (int shift = 24; shift >= 0; shift -= 8) out.push_back(uint8_t(value >> shift));
}

Bytes chunk(const std::string& type, const Bytes& content) {
  Bytes out, named = bytes_of(type) + content;
  put_u32(out, uint32_t(content.size()));
  out = out + named;
  put_u32(out, uint32_t(crc32(0, named.data(), uInt(named.size()))));
  return out;
}

Bytes deflated(const Bytes& raw) {
  Bytes packed(compressBound(uLong(raw.size())));
  uLongf size = packed.size();
  compress(packed.data(), &size, raw.data(), uLong(raw.size()));
  packed.resize(size);
  return packed;
}

Bytes header_chunk(uint32_t width, uint32_t height, int depth, int colour, int interlace) {
  Bytes header;
  put_u32(header, width);
  put_u32(header, height);
  return chunk("IHDR", header + Bytes{uint8_t(depth), uint8_t(colour), 0, 0, uint8_t(interlace)});
}

const Bytes kSignature{0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};

Bytes png_file(const std::vector<Bytes>& chunks) {
  Bytes file = kSignature;
  for (const Bytes& c : chunks) file = file + c;
  return file;
}

/// Samples [height, width, samples a pixel], packed as the format says; seven passes if interlaced.
Bytes pack_rows(const std::vector<int>& samples, int64_t width, int64_t height, int64_t count, int depth,
                bool interlaced) {
  // The pass of each pixel of an 8 x 8 block, as the specification draws it.
  static const int kPasses[8][8] = {{1, 6, 4, 6, 2, 6, 4, 6}, {7, 7, 7, 7, 7, 7, 7, 7}, {5, 6, 5, 6, 5, 6, 5, 6},
                                    {7, 7, 7, 7, 7, 7, 7, 7}, {3, 6, 4, 6, 3, 6, 4, 6}, {7, 7, 7, 7, 7, 7, 7, 7},
                                    {5, 6, 5, 6, 5, 6, 5, 6}, {7, 7, 7, 7, 7, 7, 7, 7}};
  Bytes raw;
  for (int pass = 1; pass <= (interlaced ? 7 : 1); ++pass) {
    for (int64_t y = 0; y < height; ++y) {
      std::vector<int> row;
      for (int64_t x = 0; x < width; ++x)
        if (!interlaced || kPasses[y % 8][x % 8] == pass)
          for (int64_t s = 0; s < count; ++s) row.push_back(samples[size_t((y * width + x) * count + s)]);
      if (row.empty()) continue;
      raw.push_back(0);
      int bits = 0, filled = 0;
      for (int value : row) {
        if (depth == 16) {
          raw.push_back(uint8_t(value >> 8));
          raw.push_back(uint8_t(value));
          continue;
        }
        bits = bits << depth | value;
        filled += depth;
        if (filled == 8) {
          raw.push_back(uint8_t(bits));
          bits = filled = 0;
        }
      }
      if (filled > 0) raw.push_back(uint8_t(bits << (8 - filled)));
    }
  }
  return raw;
}

Bytes grey_png(uint32_t width, uint32_t height, const Bytes& raw) {
  return png_file({header_chunk(width, height, 8, 0, 0), chunk("IDAT", deflated(raw)), chunk("IEND", {})});
}

void append_to(void* target, void* data, int size) {
  Bytes& out = *static_cast<Bytes*>(target);
  out.insert(out.end(), static_cast<uint8_t*>(data), static_cast<uint8_t*>(data) + size);
}

Bytes jpeg_file(const Tensor& image) {
  Bytes out;
  stbi_write_jpg_to_func(append_to, &out, int(image.size(1)), int(image.size(0)), int(image.size(2)),
                         image.data<uint8_t>(), 95);
  return out;
}

Bytes bmp_file(const Tensor& image) {
  Bytes out;
  stbi_write_bmp_to_func(append_to, &out, int(image.size(1)), int(image.size(0)), int(image.size(2)),
                         image.data<uint8_t>());
  return out;
}

}  // namespace

// ---- PNG -----------------------------------------------------------------------------------------------------------

TEST_CASE("a PNG comes back as it was saved, at every odd size", "[io]") {
  ScratchFolder folder;
  for (auto [H, W] :
       {std::array<int64_t, 2>{1, 1}, {1, 2}, {1, 257}, {257, 1}, {2, 3}, {31, 17}, {64, 64}, {5, 16384}}) {
    for (int64_t C : {1, 3}) {
      CAPTURE(H, W, C);
      Tensor image = picture(H, W, C);
      io::save_png(folder.path("p.png"), image);
      CHECK_SAME(io::load_image(folder.path("p.png")), image);
      CHECK(io::encode_png(image) == io::read_file(folder.path("p.png"), 1 << 24));
    }
  }
}

TEST_CASE("a smooth picture packs well", "[io]") {
  Tensor image = empty({256, 256, 3}, DType::u8);
  for (int64_t i = 0; i < image.numel(); ++i) image.data<uint8_t>()[i] = uint8_t(i / 768 / 2 + i % 768 / 6);
  CHECK(io::encode_png(image).size() < 2000);  // of 196608; without filters it would be about 20 times as much
}

TEST_CASE("encode_png refuses what is no picture", "[io]") {
  CHECK_FAILS(Error::Kind::argument, io::encode_png(zeros({2, 2, 3})), "f32[2, 2, 3]");
  CHECK_FAILS(Error::Kind::argument, io::encode_png(zeros({2, 2, 2}, DType::u8)), "u8[2, 2, 2]");
  CHECK_FAILS(Error::Kind::argument, io::encode_png(zeros({0, 2, 1}, DType::u8)), "at least one pixel");
  CHECK_FAILS(Error::Kind::argument, io::encode_png({}), "encode_png");
}

TEST_CASE("every PNG colour type, depth and interlacing is decoded", "[io]") {
  struct Type {
    int colour;
    int64_t samples;
    std::vector<int> depths;
  };
  const Bytes palette{10, 20, 30, 40, 50, 60};  // two entries; indices stay below 2
  for (const Type& type :
       {Type{0, 1, {1, 2, 4, 8, 16}}, {2, 3, {8, 16}}, {3, 1, {1, 2, 4, 8}}, {4, 2, {8, 16}}, {6, 4, {8, 16}}}) {
    for (int depth : type.depths) {
      for (bool interlaced : {false, true}) {
        for (auto [W, H] : {std::array<int64_t, 2>{1, 1}, {3, 2}, {5, 1}, {1, 9}, {17, 11}}) {
          CAPTURE(type.colour, depth, interlaced, W, H);
          int largest = (1 << depth) - 1, modulus = type.colour == 3 ? 2 : largest + 1;
          std::vector<int> samples(size_t(W * H * type.samples));
          for (size_t i = 0; i < samples.size(); ++i) samples[i] = int((i * 7919 + i / 5) % size_t(modulus));
          int64_t C = type.colour == 0 || type.colour == 4 ? 1 : 3;
          std::vector<double> expected;
          for (int64_t pixel = 0; pixel < W * H; ++pixel) {
            for (int64_t c = 0; c < C; ++c) {
              int value = samples[size_t(pixel * type.samples + (type.colour == 3 ? 0 : c))];
              expected.push_back(type.colour == 3 ? palette[size_t(value * 3 + c)]
                                                  : std::floor(value * 255.0 / largest + 0.5));
            }
          }
          Bytes packed = deflated(pack_rows(samples, W, H, type.samples, depth, interlaced));
          Bytes half_1 = first_bytes(packed, packed.size() / 2),
                half_2(packed.begin() + std::ptrdiff_t(packed.size() / 2), packed.end());
          Bytes file = png_file({header_chunk(uint32_t(W), uint32_t(H), depth, type.colour, interlaced),
                                 chunk("tEXt", bytes_of("a\0b")), type.colour == 3 ? chunk("PLTE", palette) : Bytes{},
                                 chunk("IDAT", half_1), chunk("IDAT", {}), chunk("IDAT", half_2), chunk("IEND", {})});
          CHECK_SAME(io::decode_image(file, "x.png"), from(expected, {H, W, C}, DType::u8));
        }
      }
    }
  }
}

TEST_CASE("a PNG cut off at any byte or with any flipped bit is an error", "[io]") {
  Bytes good = io::encode_png(picture(6, 5, 3));
  for (size_t length = 0; length < good.size(); ++length) {
    CAPTURE(length);
    CHECK_FAILS(Error::Kind::data, io::decode_image(first_bytes(good, length), "x.png"), "x.png");
  }
  for (size_t bit = 0; bit < good.size() * 8;
       ++bit) {  // the signature, a length, a type, a checksum, or what it covers
    Bytes damaged = good;
    damaged[bit / 8] ^= uint8_t(1 << bit % 8);
    CAPTURE(bit);
    CHECK_FAILS(Error::Kind::data, io::decode_image(damaged, "x.png"), "x.png");
  }
}

TEST_CASE("broken PNG structures are refused with the reason", "[io]") {
  const Bytes rows{0, 1, 2, 0, 3, 4};  // 2 x 2 grey
  const Bytes head = header_chunk(2, 2, 8, 0, 0), data = chunk("IDAT", deflated(rows)), end = chunk("IEND", {});
  const Bytes packed = deflated(rows);
  REQUIRE_NOTHROW(io::decode_image(grey_png(2, 2, rows), "x.png"));
  struct Case {
    std::string why;
    Bytes file;
  };
  std::vector<Case> cases{
      {"IHDR chunk must be the first", png_file({data, head, end})},
      {"IHDR chunk must be the first", png_file({head, head, data, end})},
      {"there is no IDAT chunk", png_file({head, end})},
      {"cut off at byte", png_file({head, data})},
      {"is separated", png_file({head, data, chunk("tEXt", {}), data, end})},
      {"unknown critical chunk 'ABCD'", png_file({head, chunk("ABCD", {}), data, end})},
      {"IEND chunk at byte", png_file({head, data, chunk("IEND", {1})})},
      {"IHDR chunk has 12 bytes", png_file({chunk("IHDR", Bytes(12)), data, end})},
      {"0 x 2", png_file({header_chunk(0, 2, 8, 0, 0), data, end})},
      {"16385 x 2", png_file({header_chunk(16385, 2, 8, 0, 0), data, end})},
      {"4294967295", png_file({header_chunk(2, 0xffffffff, 8, 0, 0), data, end})},
      {"depth 3", png_file({header_chunk(2, 2, 3, 0, 0), data, end})},
      {"depth 255", png_file({header_chunk(2, 2, 255, 0, 0), data, end})},
      {"depth 4 with colour type 2", png_file({header_chunk(2, 2, 4, 2, 0), data, end})},
      {"colour type 1", png_file({header_chunk(2, 2, 8, 1, 0), data, end})},
      {"interlace 2", png_file({header_chunk(2, 2, 8, 0, 2), data, end})},
      {"PLTE chunk of a palette picture is missing", png_file({header_chunk(2, 2, 8, 3, 0), data, end})},
      {"PLTE", png_file({head, chunk("PLTE", {1, 2, 3}), data, end})},
      {"PLTE", png_file({header_chunk(2, 2, 8, 3, 0), chunk("PLTE", {1, 2}), data, end})},
      {"colour 1 of a palette of 1", png_file({header_chunk(2, 2, 8, 3, 0), chunk("PLTE", {1, 2, 3}), data, end})},
      {"unknown filter 5", grey_png(2, 2, {5, 1, 2, 0, 3, 4})},
      {"has 5 bytes, 6 are needed", grey_png(2, 2, {0, 1, 2, 0, 3})},
      {"more than the 6 bytes", grey_png(2, 2, {0, 1, 2, 0, 3, 4, 5})},
      {"more than the 6 bytes", grey_png(2, 2, Bytes(1 << 20, 0))},  // a bomb
      {"cannot hold a picture", png_file({header_chunk(16384, 16384, 16, 6, 0), data, end})},
      {"cut off after", png_file({head, chunk("IDAT", first_bytes(packed, packed.size() - 1)), end})},
      {"is broken after", png_file({head, chunk("IDAT", bytes_of("not zlib")), end})},
      {"is broken after",
       png_file({head, chunk("IDAT", first_bytes(packed, packed.size() - 1) + Bytes{0}), end})},  // Adler
      {"bytes follow", png_file({head, chunk("IDAT", packed + Bytes{0}), end})},
      {"bytes follow", png_file({head, data, data, end})},
      {"is empty", {}},
      {"is not a picture", bytes_of("GIF89a")},
      {"is not a picture", {0}},
      {"is not a picture", first_bytes(kSignature, 7)},
  };
  for (const Case& c : cases) CHECK_FAILS(Error::Kind::data, io::decode_image(c.file, "x.png"), "x.png: ", c.why);
}

TEST_CASE("what follows the end chunk of a PNG is not looked at", "[io]") {
  CHECK_SAME(io::decode_image(grey_png(1, 1, {0, 9}) + bytes_of("more"), "x.png"), from({9}, {1, 1, 1}, DType::u8));
}

// ---- The other formats ---------------------------------------------------------------------------------------------

TEST_CASE("a JPEG is decoded closely and refused when it was cut off anywhere", "[io]") {
  for (int64_t C : {1, 3}) {
    Tensor image = empty({19, 13, C}, DType::u8);
    for (int64_t i = 0; i < image.numel(); ++i)
      image.data<uint8_t>()[i] = uint8_t(60 + i / C % 13 * 4 + i / C / 13 * 3);
    Bytes file = jpeg_file(image);
    // stb writes three components even for grey; quality 95 errs by a few levels.
    CHECK_CLOSE(io::decode_image(file, "x.jpg", int(C)), image, 6, 0);
    CHECK(io::decode_image(file + bytes_of("trailing"), "x.jpg").shape() == Shape{19, 13, 3});
    for (size_t length = 0; length < file.size(); ++length) {
      CAPTURE(length);
      CHECK_FAILS(Error::Kind::data, io::decode_image(first_bytes(file, length), "x.jpg"), "x.jpg");
    }
  }
}

TEST_CASE("JPEG segments that would lead the decoder astray are refused", "[io]") {
  const Bytes start{0xff, 0xd8}, end{0xff, 0xd9};
  auto segment = [](uint8_t marker, const Bytes& content) {
    return Bytes{0xff, marker, uint8_t((content.size() + 2) >> 8), uint8_t(content.size() + 2)} + content;
  };
  Bytes counts(17, 0);
  counts[16] = 255;
  counts[15] = 2;  // 257 values, one more than there are bytes
  struct Case {
    std::string why;
    Bytes file;
  };
  for (const Case& c :
       std::vector<Case>{{"Huffman table of 257 values", start + segment(0xc4, counts + Bytes(257)) + end},
                         {"Huffman table of 0 values", start + segment(0xc4, Bytes(16)) + end},
                         {"Huffman table of 1 values",
                          start + segment(0xc4, Bytes(17, 0) + Bytes{0} + Bytes(15, 0) + Bytes{1}) + end},
                         {"marker 0 at byte 2", start + Bytes{0xff, 0, 0, 2} + end},
                         {"marker 208 at byte 2", start + Bytes{0xff, 0xd0} + end},
                         {"marker 216 at byte 2", start + start + end},
                         {"should have 1 bytes", start + Bytes{0xff, 0xe0, 0, 1} + end},
                         {"should have 9 bytes", start + Bytes{0xff, 0xe0, 0, 9} + end},
                         {"a marker is needed at byte 6", start + segment(0xe0, {}) + Bytes{1, 2, 3}},
                         {"JPEG: ", start + Bytes{0xff} + end}})
    CHECK_FAILS(Error::Kind::data, io::decode_image(c.file, "x.jpg"), "x.jpg: JPEG: ", c.why);
}

TEST_CASE("a BMP is decoded exactly and refused when it was cut off anywhere", "[io]") {
  Tensor image = picture(5, 7, 3);
  Bytes file = bmp_file(image);
  CHECK_SAME(io::decode_image(file, "x.bmp"), image);
  for (size_t length = 0; length < file.size(); ++length) {
    CAPTURE(length);
    CHECK_FAILS(Error::Kind::data, io::decode_image(first_bytes(file, length), "x.bmp"), "x.bmp");
  }
  Bytes wide = file;
  wide[20] = 1;  // width 7 + 65536
  CHECK_FAILS(Error::Kind::data, io::decode_image(wide, "x.bmp"), "65543 x 5");
}

TEST_CASE("binary PNM is decoded, scaled and checked", "[io]") {
  auto pnm = [](const std::string& head, const Bytes& data) { return bytes_of(head) + data; };
  CHECK_SAME(io::decode_image(pnm("P5 2 1 255\n", {3, 200}), "x"), from({3, 200}, {1, 2, 1}, DType::u8));
  CHECK_SAME(io::decode_image(pnm("P5\n# c\n2 #d\n1\n4\n", {1, 4}), "x"), from({64, 255}, {1, 2, 1}, DType::u8));
  CHECK_SAME(io::decode_image(pnm("P6 1 1 65535\n", {255, 255, 0, 0, 128, 0}), "x"),
             from({255, 0, 128}, {1, 1, 3}, DType::u8));
  struct Case {
    std::string why;
    Bytes file;
  };
  for (const Case& c : std::vector<Case>{{"need 2 bytes", pnm("P5 2 1 255\n", {3})},
                                         {"need 2 bytes", pnm("P5 2 1 255\n", {3, 4, 5})},
                                         {"need 2 bytes", pnm("P5 2 1 255\n", {})},
                                         {"a number", pnm("P5 2 1 255", {})},
                                         {"a number", pnm("P5", {})},
                                         {"a number", pnm("P5 x", {})},
                                         {"a number", pnm("P5 -2 1 255\n", {1, 2})},
                                         {"a number", pnm("P5 99999999999999 1 255\n", {1, 2})},
                                         {"0 x 1", pnm("P5 0 1 255\n", {})},
                                         {"20000 x 1", pnm("P5 20000 1 255\n", {})},
                                         {"largest value is 0", pnm("P5 1 1 0\n", {0})},
                                         {"largest value is 65536", pnm("P5 1 1 65536\n", {0, 0})},
                                         {"sample 1 is 5", pnm("P5 2 1 4\n", {0, 5})}})
    CHECK_FAILS(Error::Kind::data, io::decode_image(c.file, "x.pgm"), "x.pgm: ", c.why);
}

TEST_CASE("load_image tells what is wrong with a file", "[io]") {
  ScratchFolder folder;
  CHECK_FAILS(Error::Kind::data, io::load_image(folder.path("none.png")), "none.png", "cannot be opened");
  write_bytes(folder.path("empty.png"), {});
  CHECK_FAILS(Error::Kind::data, io::load_image(folder.path("empty.png")), "empty.png: is empty");
  write_bytes(folder.path("large.png"), {});
  std::filesystem::resize_file(folder.path("large.png"), size_t(io::kMaxImageFile) + 1);
  CHECK_FAILS(Error::Kind::data, io::load_image(folder.path("large.png")), "large.png", "67108864");
  CHECK_FAILS(Error::Kind::argument, io::load_image(folder.path("empty.png"), 2), "channels");
}

// ---- Channels, grids, sizes ----------------------------------------------------------------------------------------

TEST_CASE("colour becomes luma and grey is repeated", "[io]") {
  Tensor colour = from({255, 0, 0, 0, 255, 0, 0, 0, 255, 77, 77, 77, 10, 20, 30}, {1, 5, 3}, DType::u8);
  CHECK_SAME(io::convert_channels(colour, 1), from({76, 150, 29, 77, 18}, {1, 5, 1}, DType::u8));  // 18.15 -> 18
  CHECK_SAME(io::convert_channels(from({5, 6}, {1, 2, 1}, DType::u8), 3),
             from({5, 5, 5, 6, 6, 6}, {1, 2, 3}, DType::u8));
  CHECK_SAME(io::decode_image(io::encode_png(colour), "x", 1), io::convert_channels(colour, 1));
  for (int grey = 0; grey < 256; ++grey) {
    Tensor g = full({1, 1, 3}, grey, DType::u8);
    CHECK(io::convert_channels(g, 1).item() == grey);
  }
}

TEST_CASE("a grid places images row by row with white between", "[io]") {
  Tensor images = from({-1, 0, 1, 2, -3, 0.5}, {3, 1, 2, 1});  // three images of 1 x 2
  // 127.5 rounds to 128; 2 and -3 are clamped; (0.5 + 1) 127.5 = 191.25
  CHECK_SAME(io::image_grid(images, 2, 1),
             from({0, 128, 255, 255, 255, 255, 255, 255, 255, 255, 0, 191, 255, 255, 255}, {3, 5, 1}, DType::u8));
  CHECK(io::image_grid(images, 8, 2).shape() == Shape{1, 10, 1});
  CHECK(io::image_grid(images, 1, 0).shape() == Shape{3, 2, 1});
  CHECK_FAILS(Error::Kind::numeric, io::image_grid(from({0, NAN}, {2, 1, 1, 1}), 1), "image 1 of 2");
  CHECK_FAILS(Error::Kind::argument, io::image_grid(images, 0), "columns");
  CHECK_FAILS(Error::Kind::argument, io::image_grid(zeros({0, 2, 2, 1}), 1), "f32[0, 2, 2, 1]");
}

TEST_CASE("a grid of pixels that were scaled to [-1, 1] gives the pixels back", "[io]") {
  Tensor pixels = empty({1, 16, 16, 1});
  for (int i = 0; i < 256; ++i) pixels.data<float>()[i] = float(i) / 127.5f - 1;
  Tensor grid = io::image_grid(pixels, 1);
  for (int i = 0; i < 256; ++i) CHECK(grid.data<uint8_t>()[i] == i);
}

TEST_CASE("shrinking averages areas and growing is bilinear", "[io]") {
  Tensor image = from({0, 10, 20, 30, 40, 50, 60, 70}, {2, 4, 1}, DType::u8);
  CHECK_SAME(io::resize_image(image, 1, 2), from({25, 45}, {1, 2, 1}, DType::u8));
  CHECK_SAME(io::resize_image(image, 1, 1), from({35}, {1, 1, 1}, DType::u8));
  CHECK_SAME(io::resize_image(image, 2, 4), image);
  // Pixels of 4/3: (0 + 10/3) / (4/3) = 2.5, (2 10 + 2 20) / 4 = 15, 27.5; halves round up.
  CHECK_SAME(io::resize_image(image, 2, 3), from({3, 15, 28, 43, 55, 68}, {2, 3, 1}, DType::u8));
  // Centres at halves: target 1 of 4 lies at (1 + 0.5) / 2 - 0.5 = 0.25.
  CHECK_SAME(io::resize_image(from({0, 100}, {1, 2, 1}, DType::u8), 1, 4),
             from({0, 25, 75, 100}, {1, 4, 1}, DType::u8));
  CHECK_SAME(io::resize_image(from({7}, {1, 1, 1}, DType::u8), 3, 2), full({3, 2, 1}, 7, DType::u8));
  Tensor constant = full({7, 5, 3}, 255, DType::u8);
  for (int64_t side : {1, 2, 3, 4, 6, 8, 11, 64})
    CHECK_SAME(io::resize_image(constant, side, side), full({side, side, 3}, 255, DType::u8));
  CHECK_FAILS(Error::Kind::argument, io::resize_image(image, 0, 1), "resize_image");
}
