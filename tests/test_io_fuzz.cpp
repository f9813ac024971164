// Readers of files against random damage: they return or throw Error(data or checkpoint), nothing else. The seed is
// fixed, so a failure repeats; run with SANITIZE=address,undefined to see more than crashes.
#include "tensor/io/csv.h"
#include "tensor/io/idx.h"
#include "tensor/io/image.h"
#include "tensor/io/safetensors.h"
#include "tests/io_support.h"

using namespace mote;
using namespace mote::test;

namespace {

struct Outcome {
  int accepted = 0, refused = 0;
};

/// Reads `rounds` mutations of each seed file.
template <class Read>
Outcome fuzz(uint32_t seed, const std::vector<Bytes>& files, int rounds, Read&& read) {
  Mutator mutate(seed);
  Outcome outcome;
  for (int round = 0; round < rounds; ++round) {
    for (size_t file = 0; file < files.size(); ++file) {
      Bytes damaged = mutate(files[file]);
      try {
        read(damaged);
        ++outcome.accepted;
      } catch (const Error& error) {
        if (error.kind() != Error::Kind::data && error.kind() != Error::Kind::checkpoint)
          FAIL("seed " << seed << ", round " << round << ", file " << file
                       << ": wrong kind of error: " << error.what());
        ++outcome.refused;
      } catch (const std::exception& error) {
        FAIL("seed " << seed << ", round " << round << ", file " << file << ": " << error.what());
      }
    }
  }
  return outcome;
}

/// The CRC of every chunk made right again, so that damage reaches the code behind the checks.
Bytes repair_png(Bytes file) {
  for (size_t at = 8; at + 12 <= file.size();) {
    size_t length = size_t(file[at]) << 24 | size_t(file[at + 1]) << 16 | size_t(file[at + 2]) << 8 | file[at + 3];
    if (length > file.size() - at - 12) break;
    uint32_t crc = uint32_t(crc32(0, file.data() + at + 4, uInt(length + 4)));
    for (size_t place = 0; place < 4; ++place) file[at + 8 + length + place] = uint8_t(crc >> (24 - 8 * place));
    at += 12 + length;
  }
  return file;
}

Bytes small_png() {
  Tensor image = empty({9, 7, 3}, DType::u8);
  for (int64_t i = 0; i < image.numel(); ++i) image.data<uint8_t>()[i] = uint8_t(i * i);
  return io::encode_png(image);
}

}  // namespace

TEST_CASE("damaged safetensors files never do more than throw Error", "[io][fuzz]") {
  ScratchFolder folder;
  std::string path = folder.path("f");
  io::save_safetensors(path, {{"a", from({1, 2}, {2})}, {"b", from({3}, {1, 1}, DType::u8)}}, {{"k", "v"}});
  Bytes with_hash = io::read_file(path, 1 << 20);
  std::string header =
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[1,1],"data_offsets":[8,9]}})";
  Bytes plain(8);
  uint64_t length = header.size();
  std::memcpy(plain.data(), &length, 8);
  plain = plain + bytes_of(header) + Bytes(9);
  Outcome outcome = fuzz(1, {with_hash, plain}, 2000, [&](const Bytes& file) {
    write_bytes(path, file);
    io::load_safetensors(path);
  });
  CHECK(outcome.refused > 3000);
  CHECK(outcome.accepted > 0);  // damage of the data of a file without a hash: the test reaches the end of the reader
}

TEST_CASE("damaged safetensors headers of the right length never do more than throw Error", "[io][fuzz]") {
  ScratchFolder folder;
  std::string path = folder.path("f");
  Bytes header = bytes_of(R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})");
  Outcome outcome = fuzz(2, {header}, 4000, [&](const Bytes& damaged) {
    Bytes file(8);
    uint64_t length = damaged.size();
    std::memcpy(file.data(), &length, 8);
    write_bytes(path, file + damaged + Bytes(8));
    io::load_safetensors(path);
  });
  CHECK(outcome.refused > 2000);
  CHECK(outcome.accepted > 0);  // changed names and metadata
}

TEST_CASE("damaged pictures never do more than throw Error", "[io][fuzz]") {
  Bytes pnm = bytes_of("P6 3 2 255\n") + Bytes(18, 9);
  Bytes bmp = bytes_of("BM") +
              Bytes{78, 0, 0, 0, 0, 0, 0, 0, 54, 0, 0, 0, 40, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 24, 0} +
              Bytes(24 + 24);
  REQUIRE_NOTHROW(io::decode_image(bmp, "bmp"));
  Outcome plain = fuzz(3, {small_png(), pnm, bmp}, 2000, [](const Bytes& file) { io::decode_image(file, "x"); });
  CHECK(plain.refused > 3000);
  Outcome repaired = fuzz(4, {small_png()}, 4000, [](const Bytes& file) { io::decode_image(repair_png(file), "x"); });
  CHECK(repaired.refused > 2000);
  CHECK(repaired.accepted > 0);
}

TEST_CASE("damaged pixel rows of a PNG never do more than throw Error", "[io][fuzz]") {
  // Rows are damaged before they are packed: filters, palettes and interlacing see them, checksums cannot stop them.
  auto u32 = [](uint32_t v) { return Bytes{uint8_t(v >> 24), uint8_t(v >> 16), uint8_t(v >> 8), uint8_t(v)}; };
  struct Kind {
    uint8_t width, height, depth, colour, interlace;
    size_t bytes;  // of the rows with their filters
  };
  for (const Kind& kind :
       {Kind{5, 3, 8, 0, 0, 18}, {9, 2, 1, 3, 0, 6}, {3, 3, 8, 2, 1, 33}, {2, 2, 16, 6, 0, 34}, {4, 2, 8, 4, 0, 18}}) {
    CAPTURE(int(kind.colour));
    Outcome outcome = fuzz(5, {Bytes(kind.bytes, 1)}, 2000, [&](const Bytes& rows) {
      Bytes header = u32(kind.width) + u32(kind.height) + Bytes{kind.depth, kind.colour, 0, 0, kind.interlace};
      Bytes packed(compressBound(uLong(rows.size())));
      uLongf size = packed.size();
      compress(packed.data(), &size, rows.data(), uLong(rows.size()));
      Bytes file{0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
      auto add = [&](const std::string& type, const Bytes& content) {
        file = file + u32(uint32_t(content.size())) + bytes_of(type) + content + u32(0);
      };
      add("IHDR", header);
      if (kind.colour == 3) add("PLTE", Bytes(6, 5));
      add("IDAT", first_bytes(packed, size));
      add("IEND", {});
      io::decode_image(repair_png(file), "x");
    });
    CHECK(outcome.accepted > 20);
    CHECK(outcome.refused > 500);
  }
}

TEST_CASE("damaged idx, gzip and csv files never do more than throw Error", "[io][fuzz]") {
  ScratchFolder folder;
  std::string path = folder.path("f");
  Bytes idx{0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  Outcome outcome = fuzz(7, {idx, gzip(idx), gzip(idx) + gzip({})}, 2000, [&](const Bytes& file) {
    write_bytes(path, file);
    io::load_idx_images(path);
  });
  CHECK(outcome.refused > 4000);
  CHECK(outcome.accepted > 0);
  // Damaged first, packed afterwards.
  CHECK(fuzz(8, {idx}, 2000, [&](const Bytes& file) {
          write_bytes(path, gzip(file));
          io::load_idx_images(path);
        }).accepted > 0);
  std::string line = "16";
  for (int pixel = 1; pixel < 65; ++pixel) line += ",3";
  CHECK(fuzz(9, {bytes_of(line + "\n" + line)}, 2000, [&](const Bytes& file) {
          write_bytes(path, file);
          io::load_digits_csv(path);
        }).accepted > 0);
}
