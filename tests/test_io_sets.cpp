#include <array>

#include "tensor/io/cifar.h"
#include "tensor/io/csv.h"
#include "tensor/io/idx.h"
#include "tests/io_support.h"

using namespace mote;
using namespace mote::test;

namespace {

Bytes big_endian(uint32_t value) {
  return {uint8_t(value >> 24), uint8_t(value >> 16), uint8_t(value >> 8), uint8_t(value)};
}

Bytes idx_images(uint32_t count, uint32_t rows, uint32_t columns, const Bytes& pixels, uint32_t magic = 2051) {
  return big_endian(magic) + big_endian(count) + big_endian(rows) + big_endian(columns) + pixels;
}
Bytes idx_labels(uint32_t count, const Bytes& labels, uint32_t magic = 2049) {
  return big_endian(magic) + big_endian(count) + labels;
}

Bytes cifar_record(uint8_t label) {
  Bytes record{label};
  for (int place = 0; place < 3072; ++place) record.push_back(uint8_t(place / 1024 * 70 + place % 1024 % 97));
  return record;
}

std::string digits_line(int label) {
  std::string line;
  for (int pixel = 0; pixel < 64; ++pixel) line += std::to_string((pixel + label) % 17) + ",";
  return line + std::to_string(label);
}

}  // namespace

// ---- idx -----------------------------------------------------------------------------------------------------------

TEST_CASE("idx images and labels are read packed or not", "[io]") {
  ScratchFolder folder;
  Bytes images = idx_images(2, 1, 3, {1, 2, 3, 4, 5, 255}), labels = idx_labels(2, {7, 255});
  for (bool packed : {false, true}) {
    write_bytes(folder.path("i"), packed ? gzip(images) : images);
    write_bytes(folder.path("l"), packed ? gzip(labels) : labels);
    io::LabelledImages set = io::load_idx(folder.path("i"), folder.path("l"));
    CHECK_SAME(set.images, from({1, 2, 3, 4, 5, 255}, {2, 1, 3, 1}, DType::u8));
    CHECK(set.images.dtype() == DType::u8);
    CHECK_SAME(set.labels, from({7, 255}, {2}, DType::i64));
    CHECK(set.labels.dtype() == DType::i64);
  }
}

TEST_CASE("an idx file cut off at any byte is an error, packed or not", "[io]") {
  ScratchFolder folder;
  std::string path = folder.path("f");
  Bytes images = idx_images(2, 2, 2, {1, 2, 3, 4, 5, 6, 7, 8}), labels = idx_labels(3, {1, 2, 3});
  for (const Bytes& good : {images, gzip(images)}) {
    for (size_t length = 0; length < good.size(); ++length) {
      write_bytes(path, first_bytes(good, length));
      CAPTURE(length);
      CHECK_FAILS(Error::Kind::data, io::load_idx_images(path), path);
    }
    write_bytes(path, good + Bytes{1});
    CHECK_FAILS(Error::Kind::data, io::load_idx_images(path), path);
  }
  for (const Bytes& good : {labels, gzip(labels)}) {
    for (size_t length = 0; length < good.size(); ++length) {
      write_bytes(path, first_bytes(good, length));
      CHECK_FAILS(Error::Kind::data, io::load_idx_labels(path), path);
    }
  }
}

TEST_CASE("wrong idx headers are refused with the reason", "[io]") {
  ScratchFolder folder;
  std::string path = folder.path("f");
  struct Case {
    std::string why;
    Bytes file;
  };
  for (const Case& c : std::vector<Case>{
           {"magic number is 2049, idx images begin with 2051", idx_labels(1, {1})},
           {"magic number is 2049, idx images begin with 2051", idx_images(1, 1, 1, {1}, 2049)},
           {"magic number is 50855936", idx_images(1, 1, 1, {1}, 0x03080000)},  // the other byte order
           {"too few for the 16 bytes", {}},
           {"too few for the 16 bytes", first_bytes(idx_images(1, 1, 1, {}), 15)},
           {"size 0 of the images at byte 4 is 0", idx_images(0, 1, 1, {})},
           {"size 1 of the images at byte 8 is 0", idx_images(1, 0, 1, {})},
           {"size 2 of the images at byte 12 is 16385", idx_images(1, 1, 16385, Bytes(16385))},
           {"are the most that is read", idx_images(0xffffffff, 16384, 16384, {1})},
           {"ends at byte 17, its idx header gives 18", idx_images(2, 1, 1, {1})},
           {"larger than 17 bytes, the size that its idx header gives", idx_images(1, 1, 1, {1, 2})},
           {"more than 17 bytes, the size that its idx header gives", gzip(idx_images(1, 1, 1, Bytes(1 << 20)))},
       }) {
    write_bytes(path, c.file);
    CHECK_FAILS(Error::Kind::data, io::load_idx_images(path), path, c.why);
  }
  CHECK_FAILS(Error::Kind::data, io::load_idx_images(folder.path("none")), "none", "cannot be opened");
  write_bytes(path, idx_images(1, 1, 1, {1}));
  CHECK_FAILS(Error::Kind::data, io::load_idx_labels(path), "magic number is 2051, idx labels begin with 2049");
  write_bytes(folder.path("l"), idx_labels(2, {1, 2}));
  CHECK_FAILS(Error::Kind::data, io::load_idx(path, folder.path("l")), "1 images", "2 labels", path, folder.path("l"));
}

// ---- CIFAR-10 ------------------------------------------------------------------------------------------------------

TEST_CASE("CIFAR records become images with the channels last, over several files", "[io]") {
  ScratchFolder folder;
  write_bytes(folder.path("1"), cifar_record(3) + cifar_record(9));
  write_bytes(folder.path("2"), gzip(cifar_record(0)));
  io::LabelledImages set = io::load_cifar10({folder.path("1"), folder.path("2")});
  CHECK_SAME(set.labels, from({3, 9, 0}, {3}, DType::i64));
  REQUIRE(set.images.shape() == Shape{3, 32, 32, 3});
  for (int64_t n = 0; n < 3; ++n)
    for (int64_t place = 0; place < 1024; ++place)
      for (int64_t c = 0; c < 3; ++c)
        REQUIRE(set.images.data<uint8_t>()[(n * 1024 + place) * 3 + c] == c * 70 + place % 97);
}

TEST_CASE("broken CIFAR files are refused with the reason", "[io]") {
  ScratchFolder folder;
  std::string path = folder.path("f");
  Bytes two = cifar_record(1) + cifar_record(2);
  for (size_t length : {1, 2, 1000, 3072, 3074, 6145}) {
    write_bytes(path, first_bytes(two, length));
    CHECK_FAILS(Error::Kind::data, io::load_cifar10({path}), path, std::to_string(length) + " bytes",
                "at byte " + std::to_string(length / 3073 * 3073));
  }
  write_bytes(path, {});
  CHECK_FAILS(Error::Kind::data, io::load_cifar10({path}), path, "no records");
  write_bytes(path, cifar_record(1) + cifar_record(10));
  CHECK_FAILS(Error::Kind::data, io::load_cifar10({path}), path, "label at byte 3073 is 10");
  CHECK_FAILS(Error::Kind::data, io::load_cifar10({folder.path("none")}), "none");
  CHECK_FAILS(Error::Kind::argument, io::load_cifar10({}), "at least one file");
}

TEST_CASE("CIFAR class names are ten lines", "[io]") {
  ScratchFolder folder;
  std::string path = folder.path("batches.meta.txt");
  write_bytes(path, bytes_of("a\r\nb\nc\nd\ne\n\nf\ng\nh\ni\nj\n\n"));
  CHECK(io::load_cifar10_names(path) == std::vector<std::string>{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"});
  write_bytes(path, bytes_of("a\nb\n"));
  CHECK_FAILS(Error::Kind::data, io::load_cifar10_names(path), path, "has 2 class names, 10 are needed");
}

// ---- csv -----------------------------------------------------------------------------------------------------------

TEST_CASE("digits are read from text and scaled to bytes", "[io]") {
  ScratchFolder folder;
  std::string path = folder.path("d.csv");
  for (const std::string& text :
       {digits_line(4) + "\n" + digits_line(9) + "\n", digits_line(4) + "\r\n" + digits_line(9)}) {
    for (const Bytes& file : {bytes_of(text), gzip(bytes_of(text))}) {
      write_bytes(path, file);
      io::LabelledImages set = io::load_digits_csv(path);
      CHECK_SAME(set.labels, from({4, 9}, {2}, DType::i64));
      REQUIRE(set.images.shape() == Shape{2, 8, 8, 1});
      for (int n = 0; n < 2; ++n)
        for (int pixel = 0; pixel < 64; ++pixel)
          CHECK(set.images.data<uint8_t>()[n * 64 + pixel] == int((pixel + (n ? 9 : 4)) % 17 * 255 / 16.0 + 0.5));
    }
  }
}

TEST_CASE("broken digits are refused with line and column", "[io]") {
  ScratchFolder folder;
  std::string path = folder.path("d.csv"), good = digits_line(4);
  auto with_first = [&](const std::string& field) {
    return digits_line(1) + "\n" + field + good.substr(good.find(','));
  };
  struct Case {
    std::string why, text;
  };
  for (const Case& c :
       std::vector<Case>{{"is empty", ""},
                         {"line 1, column 1: '' is no integer", "\n"},
                         {"line 2, column 1: '17' is no integer 0..16", with_first("17")},
                         {"line 2, column 1: '-1' is no integer", with_first("-1")},
                         {"line 2, column 1: '1.0' is no integer", with_first("1.0")},
                         {"line 2, column 1: ' 1' is no integer", with_first(" 1")},
                         {"line 2, column 1: '99999999999999999999' is no", with_first("99999999999999999999")},
                         {"line 2, column 1: '' is no integer", good + "\n\n" + good},
                         {"line 1 has fewer than 65 columns", "1,2,3\n"},
                         {"line 1 has more than 65 columns", good + ",1\n"},
                         {"line 1, column 65: '10' is no integer 0..9", good.substr(0, good.size() - 1) + "10\n"}}) {
    write_bytes(path, bytes_of(c.text));
    CHECK_FAILS(Error::Kind::data, io::load_digits_csv(path), path, c.why);
  }
  for (size_t length = 0; length < good.size(); ++length) {
    write_bytes(path, bytes_of(good.substr(0, length)));
    CHECK_FAILS(Error::Kind::data, io::load_digits_csv(path), path);
  }
}
