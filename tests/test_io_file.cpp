#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <set>

#include "tests/io_support.h"

using namespace mote;
using namespace mote::test;
namespace fs = std::filesystem;

namespace {

constexpr int64_t kCap = 1 << 20;

Bytes some_bytes(size_t count) {
  Bytes bytes(count);
  for (size_t i = 0; i < count; ++i) bytes[i] = uint8_t(i * 37 + i / 251);
  return bytes;
}

std::set<std::string> names_in(const std::string& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename().string());
  return names;
}

/// Runs `work` in a child that cannot make files longer than `limit` bytes. True if it ended with Error(resource).
template <class Work>
bool fails_on_full_disk(int64_t limit, Work&& work) {
  pid_t child = fork();
  if (child == 0) {
    signal(SIGXFSZ, SIG_IGN);  // write() then fails with EFBIG, as it fails with ENOSPC on a full disk
    rlimit bound{rlim_t(limit), rlim_t(limit)};
    setrlimit(RLIMIT_FSIZE, &bound);
    int code = 1;
    try {
      work();
    } catch (const Error& error) {
      code = error.kind() == Error::Kind::resource ? 42 : 2;
    } catch (...) {
      code = 3;
    }
    _exit(code);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 42;
}

}  // namespace

TEST_CASE("read_file returns the whole file up to its cap", "[io]") {
  ScratchFolder folder;
  for (size_t size : {0, 1, 255, 300000}) {
    write_bytes(folder.path("f"), some_bytes(size));
    CHECK(io::read_file(folder.path("f"), int64_t(size)) == some_bytes(size));
    CHECK(io::read_file(folder.path("f"), kCap) == some_bytes(size));
    if (size > 0)
      CHECK_FAILS(Error::Kind::data, io::read_file(folder.path("f"), int64_t(size) - 1), folder.path("f"),
                  "larger than");
  }
  CHECK_FAILS(Error::Kind::data, io::read_file(folder.path("none"), kCap), "none", "cannot be opened");
  CHECK_FAILS(Error::Kind::data, io::read_file(folder.path(), kCap), "folder");
  CHECK_FAILS(Error::Kind::data, io::read_file("/dev/zero", kCap), "larger than 1048576");
}

TEST_CASE("read_maybe_gzip gives the same bytes packed, in members, or plain", "[io]") {
  ScratchFolder folder;
  std::string path = folder.path("f");
  for (size_t size : {0, 1, 2, 3, 70000, 900000}) {
    Bytes bytes = some_bytes(size);
    write_bytes(path, bytes);
    CHECK(io::read_maybe_gzip(path, kCap) == bytes);
    write_bytes(path, gzip(bytes));
    CHECK(io::read_maybe_gzip(path, int64_t(size)) == bytes);
    write_bytes(path, gzip(first_bytes(bytes, size / 3)) + gzip({}) +
                          gzip(Bytes(bytes.begin() + std::ptrdiff_t(size / 3), bytes.end())));
    CHECK(io::read_maybe_gzip(path, int64_t(size)) == bytes);
    CHECK(io::peek_maybe_gzip(path, 2) == first_bytes(bytes, std::min<size_t>(size, 2)));
  }
}

TEST_CASE("gzip data that is cut off anywhere, damaged or followed by garbage is an error", "[io]") {
  ScratchFolder folder;
  std::string path = folder.path("f.gz");
  Bytes bytes = some_bytes(3000), packed = gzip(bytes);
  for (size_t length = 2; length < packed.size(); ++length) {
    write_bytes(path, first_bytes(packed, length));
    CAPTURE(length);
    CHECK_FAILS(Error::Kind::data, io::read_maybe_gzip(path, kCap), path, "cut off at byte " + std::to_string(length));
  }
  for (size_t at = packed.size() - 8; at < packed.size(); ++at) {  // CRC and length
    Bytes damaged = packed;
    damaged[at] ^= 1;
    write_bytes(path, damaged);
    CHECK_FAILS(Error::Kind::data, io::read_maybe_gzip(path, kCap), path, "byte");
  }
  for (size_t at = 10; at < packed.size() - 8; ++at) {  // behind the gzip header, whose time and system mean nothing
    Bytes damaged = packed;
    damaged[at] ^= 0x10;
    write_bytes(path, damaged);
    CAPTURE(at);
    bool is_same = false;  // only the unused bits behind the last block may change unseen: the bytes are the same
    std::string outcome =
        not_failing(Error::Kind::data, {path}, [&] { is_same = io::read_maybe_gzip(path, kCap) == bytes; });
    CHECK((outcome == "" || (is_same && at == packed.size() - 9)));
  }
  write_bytes(path, packed + bytes_of("x"));
  CHECK_FAILS(Error::Kind::data, io::read_maybe_gzip(path, kCap), "garbage at byte " + std::to_string(packed.size()));
  write_bytes(path, packed + first_bytes(packed, 20));
  CHECK_FAILS(Error::Kind::data, io::read_maybe_gzip(path, kCap), "cut off", "member 2");
}

TEST_CASE("a gzip bomb stops at the cap", "[io]") {
  ScratchFolder folder;
  std::string path = folder.path("bomb.gz");
  write_bytes(path, gzip(Bytes(32 << 20, 0)));
  CHECK(fs::file_size(path) < 40000);
  CHECK_FAILS(Error::Kind::data, io::read_maybe_gzip(path, kCap, "the size of the header"), path,
              "more than 1048576 bytes", "the size of the header");
  CHECK(io::read_maybe_gzip(path, 32 << 20).size() == size_t(32) << 20);
  CHECK_FAILS(Error::Kind::data, io::read_maybe_gzip(path, (32 << 20) - 1), "more than 33554431");
}

TEST_CASE("an atomic write replaces the old file and leaves nothing else", "[io]") {
  ScratchFolder folder;
  std::string path = folder.path("f");
  io::write_file_atomic(path, "old");
  CHECK(io::read_file(path, kCap) == bytes_of("old"));
  Bytes bytes = some_bytes(700001);
  io::write_file_atomic(path, [&](const io::Append& append) {  // pieces below, at and above the buffer's size
    append(bytes.data(), 1);
    append(bytes.data() + 1, 0);
    append(bytes.data() + 1, 400000);
    append(bytes.data() + 400001, 300000);
  });
  CHECK(io::read_file(path, kCap) == bytes);
  CHECK(names_in(folder.path()) == std::set<std::string>{"f"});
}

TEST_CASE("a failing write leaves the old file and no temporary file", "[io]") {
  ScratchFolder folder;
  std::string path = folder.path("f");
  io::write_file_atomic(path, "old");
  Bytes bytes = some_bytes(1 << 20);

  SECTION("because the writer throws") {
    struct Stop {};
    CHECK_THROWS_AS(io::write_file_atomic(path,
                                          [&](const io::Append& append) {
                                            append(bytes.data(), bytes.size());
                                            throw Stop();
                                          }),
                    Stop);
  }
  SECTION("because the disk is full, at any place") {
    for (int64_t limit : {0, 1, 4096, 1 << 18, (1 << 20) - 1})
      CHECK(fails_on_full_disk(limit, [&] {
        io::write_file_atomic(path, [&](const io::Append& append) {
          for (size_t at = 0; at < bytes.size(); at += 1000)
            append(bytes.data() + at, std::min<size_t>(1000, bytes.size() - at));
        });
      }));
  }
  CHECK(io::read_file(path, kCap) == bytes_of("old"));
  CHECK(names_in(folder.path()) == std::set<std::string>{"f"});
}

TEST_CASE("a write to a folder that is not there or to a device is refused with Error(resource)", "[io]") {
  ScratchFolder folder;
  CHECK_FAILS(Error::Kind::resource, io::write_file_atomic(folder.path("none/f"), "x"), "none/f", "No such file");
  CHECK_FAILS(Error::Kind::resource, io::write_file_atomic(folder.path(), "x"), "not a regular file");
  CHECK_FAILS(Error::Kind::resource, io::write_file_atomic("/dev/full", "x"), "/dev/full", "not a regular file");
  CHECK_FAILS(Error::Kind::resource, io::write_file_atomic("", "x"), "empty");
  CHECK(fs::is_character_file("/dev/full"));
}

TEST_CASE("an atomic write follows a symbolic link", "[io]") {
  ScratchFolder folder;
  fs::create_directory(folder.path("real"));
  io::write_file_atomic(folder.path("real/f"), "old");
  fs::create_symlink("real/f", folder.path("link"));
  io::write_file_atomic(folder.path("link"), "new");
  CHECK(fs::is_symlink(folder.path("link")));
  CHECK(io::read_file(folder.path("real/f"), kCap) == bytes_of("new"));
}

TEST_CASE("a hash does not depend on how the bytes are cut, and every bit changes it", "[io]") {
  Bytes bytes = some_bytes(61);
  std::string whole = io::hash_hex(bytes.data(), bytes.size());
  CHECK(whole.size() == 16);
  for (size_t first = 0; first <= bytes.size(); ++first) {
    for (size_t second : {size_t(0), size_t(1), size_t(7), size_t(8), size_t(13)}) {
      io::Hasher hasher;
      second = std::min(second, bytes.size() - first);
      hasher.update(bytes.data(), first);
      hasher.update(bytes.data() + first, second);
      hasher.update(bytes.data() + first + second, bytes.size() - first - second);
      CHECK(hasher.hex() == whole);
    }
  }
  std::set<std::string> seen{whole};
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    Bytes changed = bytes;
    changed[bit / 8] ^= uint8_t(1 << bit % 8);
    seen.insert(io::hash_hex(changed.data(), changed.size()));
  }
  CHECK(seen.size() == 1 + bytes.size() * 8);
  // Two changes of the highest bit of a word would cancel in a hash of products alone.
  Bytes changed = bytes;
  changed[7] ^= 0x80;
  changed[15] ^= 0x80;
  CHECK(io::hash_hex(changed.data(), changed.size()) != whole);
  Bytes longer = bytes + Bytes{0};
  CHECK(io::hash_hex(longer.data(), longer.size()) != whole);
}

TEST_CASE("the hash of nothing and of one word follow the definition", "[io]") {
  // h = 0xcbf29ce484222325; one step: h = (h ^ word) * 0x100000001b3, h ^= h >> 32; steps: words, last word, length.
  auto step = [](uint64_t h, uint64_t word) {
    h = (h ^ word) * 0x100000001b3;
    return h ^ h >> 32;
  };
  io::Hasher hasher;
  CHECK(hasher.value() == step(step(0xcbf29ce484222325, 0), 0));
  uint64_t word = 0x0123456789abcdef;
  hasher.update(&word, 8);
  CHECK(hasher.value() == step(step(step(0xcbf29ce484222325, word), 0), 8));
}

TEST_CASE("printable makes any bytes fit for a message", "[io]") {
  CHECK(io::printable("a b") == "'a b'");
  CHECK(io::printable(std::string("\0\n\x1b\xff", 4)) == "'\\x00\\x0a\\x1b\\xff'");
  CHECK(io::printable(std::string(100, 'x')) == "'" + std::string(80, 'x') + "...'");
}
