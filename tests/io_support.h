// io_support.h - what the tests of readers share: files from bytes, gzip, damage with a fixed seed, errors as text.
#pragma once
#include <zlib.h>

#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "tensor/error.h"
#include "tensor/io/file.h"
#include "tests/support.h"

namespace mote::test {

using io::Bytes;

inline void write_bytes(const std::string& path, const Bytes& bytes) {
  std::filesystem::remove(path);  // overwriting makes ext4 wait for the disk, thousands of times in the fuzz tests
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(bytes.data()), std::streamsize(bytes.size()));
  if (!file.flush()) throw std::runtime_error("the test cannot write " + path);
}

inline Bytes bytes_of(const std::string& text) { return Bytes(text.begin(), text.end()); }

inline Bytes operator+(Bytes a, const Bytes& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

inline Bytes first_bytes(const Bytes& bytes, size_t count) {
  return Bytes(bytes.begin(), bytes.begin() + std::ptrdiff_t(count));
}

/// `bytes` as one gzip member.
inline Bytes gzip(const Bytes& bytes) {
  z_stream stream{};
  constexpr int kGzip = 16 + MAX_WBITS;
  if (deflateInit2(&stream, Z_BEST_COMPRESSION, Z_DEFLATED, kGzip, 8, Z_DEFAULT_STRATEGY) != Z_OK)
    throw std::bad_alloc();
  Bytes packed(deflateBound(&stream, uLong(bytes.size())));
  stream.next_in = const_cast<uint8_t*>(bytes.data());
  stream.avail_in = uInt(bytes.size());
  stream.next_out = packed.data();
  stream.avail_out = uInt(packed.size());
  deflate(&stream, Z_FINISH);
  packed = first_bytes(packed, stream.total_out);
  deflateEnd(&stream);
  return packed;
}

/// "" if `work` throws an Error of this kind whose message contains all `parts`; otherwise what happened instead.
template <class Work>
std::string not_failing(Error::Kind kind, const std::vector<std::string>& parts, Work&& work) {
  try {
    work();
  } catch (const Error& error) {
    std::string message = error.what();
    if (error.kind() != kind) return "wrong kind of error: " + message;
    for (const std::string& part : parts)
      if (message.find(part) == std::string::npos) return "no \"" + part + "\" in: " + message;
    return "";
  } catch (const std::exception& error) {
    return std::string("not an Error: ") + error.what();
  }
  return "no error";
}

/// Bytes with a few changes: flipped bits, overwritten, doubled, removed or inserted pieces, a cut end.
class Mutator {
 public:
  explicit Mutator(uint32_t seed) : random_(seed) {}

  Bytes operator()(Bytes bytes) {
    for (uint32_t change = below(4) + 1; change > 0 && !bytes.empty(); --change) {
      size_t at = below(uint32_t(bytes.size())), length = std::min<size_t>(below(16) + 1, bytes.size() - at);
      auto here = bytes.begin() + std::ptrdiff_t(at);
      switch (below(7)) {
        case 0: *here ^= uint8_t(1u << below(8)); break;
        case 1: *here = uint8_t(random_()); break;
        case 2: std::fill_n(here, length, uint8_t(below(2) ? 0xff : 0)); break;
        case 3: bytes.erase(here, here + std::ptrdiff_t(length)); break;
        case 4: bytes.erase(here, bytes.end()); break;
        case 5: {
          Bytes piece(here, here + std::ptrdiff_t(length));
          bytes.insert(here, piece.begin(), piece.end());
          break;
        }
        default: bytes.insert(here, length, uint8_t("0{}[]\",:9-"[below(10)]));
      }
    }
    return bytes;
  }
  uint32_t below(uint32_t count) { return uint32_t(random_() % count); }  // mt19937 is the same everywhere

 private:
  std::mt19937 random_;
};

}  // namespace mote::test

/// The expression throws Error of `kind` whose message contains all the texts.
#define CHECK_FAILS(kind, expression, ...) \
  CHECK(mote::test::not_failing(kind, {__VA_ARGS__}, [&] { (void)(expression); }) == "")
