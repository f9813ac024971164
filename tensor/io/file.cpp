#include "tensor/io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "tensor/error.h"

namespace mote::io {
namespace {

static_assert(std::endian::native == std::endian::little, "file formats are read and hashed as they lie in memory");

constexpr size_t kChunk = size_t(1) << 18;

std::string system_reason(int code) { return std::strerror(code); }

/// A file descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  bool close() {  // true if the system reports success: some file systems tell of a full disk only here
    int fd = std::exchange(fd_, -1);
    return ::close(fd) == 0;
  }

 private:
  int fd_;
};

// ---- Reading -------------------------------------------------------------------------------------------------------

/// A file read from front to end.
class Input {
 public:
  explicit Input(const std::string& path) : path_(path), file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (file_.get() < 0) fail(Error::Kind::data, path, ": cannot be opened: ", system_reason(errno));
    struct stat info;
    if (::fstat(file_.get(), &info) == 0 && S_ISDIR(info.st_mode))
      fail(Error::Kind::data, path, ": is a folder, a file is needed");
  }

  /// Up to `bytes` bytes; fewer only at the end of the file.
  size_t read(void* target, size_t bytes) {
    size_t done = 0;
    while (done < bytes) {
      ssize_t got = ::read(file_.get(), static_cast<char*>(target) + done, bytes - done);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0)
        fail(Error::Kind::data, path_, ": reading failed at byte ", position_ + done, ": ", system_reason(errno));
      if (got == 0) break;
      done += size_t(got);
    }
    position_ += done;
    return done;
  }

 private:
  const std::string& path_;
  Descriptor file_;
  uint64_t position_ = 0;
};

/// Appends what `read(target, bytes)` gives to `out` until it gives less than was asked, or `out` has `limit` bytes.
/// Memory grows with the data that really came, never with a size that a header claims.
template <class Read>
void read_until(Bytes& out, size_t limit, Read&& read) {
  while (out.size() < limit) {
    size_t before = out.size();
    size_t wanted = std::min(limit - before, std::max(kChunk, before));
    out.resize(before + wanted);
    size_t got = read(out.data() + before, wanted);
    out.resize(before + got);
    if (got < wanted) break;
  }
}

/// The unpacked bytes of a gzip file; joined members follow each other.
class GzipInput {
 public:
  explicit GzipInput(const std::string& path) : path_(path), input_(path), packed_(kChunk) {
    constexpr int kGzipOnly = 16 + MAX_WBITS;
    if (inflateInit2(&stream_, kGzipOnly) != Z_OK) fail(Error::Kind::resource, path, ": no memory for unpacking");
  }
  ~GzipInput() { inflateEnd(&stream_); }
  GzipInput(const GzipInput&) = delete;
  GzipInput& operator=(const GzipInput&) = delete;

  uint64_t packed_position() const { return packed_taken_ - stream_.avail_in; }

  size_t read(uint8_t* target, size_t bytes) {
    size_t done = 0;
    while (done < bytes && !at_end_) {
      refill();
      if (stream_.avail_in == 0)
        fail(Error::Kind::data, path_, ": gzip data is cut off at byte ", packed_position(), ", within member ",
             member_);
      if (between_members_) next_member();
      stream_.next_out = target + done;
      stream_.avail_out = uInt(std::min(bytes - done, size_t(1) << 30));
      uInt room = stream_.avail_out;
      int status = inflate(&stream_, Z_NO_FLUSH);
      done += room - stream_.avail_out;
      if (status == Z_STREAM_END) {  // zlib has compared the CRC and the length
        between_members_ = true;
        refill();
        at_end_ = stream_.avail_in == 0;
      } else if (status != Z_OK && status != Z_BUF_ERROR) {
        fail(Error::Kind::data, path_, ": gzip data is broken at byte ", packed_position(), ": ",
             stream_.msg ? stream_.msg : zError(status));
      }
    }
    return done;
  }

  bool more() {
    uint8_t byte;
    return read(&byte, 1) == 1;
  }

 private:
  void refill() {
    if (stream_.avail_in > 0) return;
    size_t got = input_.read(packed_.data(), packed_.size());
    stream_.next_in = packed_.data();
    stream_.avail_in = uInt(got);
    packed_taken_ += got;
  }

  void next_member() {
    if (stream_.next_in[0] != 0x1f)
      fail(Error::Kind::data, path_, ": garbage at byte ", packed_position(), " after the end of the gzip data");
    inflateReset(&stream_);
    between_members_ = false;
    ++member_;
  }

  const std::string& path_;
  Input input_;
  Bytes packed_;
  z_stream stream_{};
  uint64_t packed_taken_ = 0;
  int member_ = 1;
  bool between_members_ = false, at_end_ = false;
};

bool is_gzip(const std::string& path) {
  uint8_t magic[2];
  return Input(path).read(magic, 2) == 2 && magic[0] == 0x1f && magic[1] == 0x8b;
}

[[noreturn]] void fail_too_large(const std::string& path, int64_t cap, std::string_view cap_source) {
  fail(Error::Kind::data, path, ": larger than ", cap, " bytes, ", cap_source);
}

Bytes read_plain(const std::string& path, int64_t cap, std::string_view cap_source) {
  Input input(path);
  Bytes bytes;
  read_until(bytes, size_t(cap), [&](uint8_t* target, size_t count) { return input.read(target, count); });
  uint8_t beyond;
  if (bytes.size() == size_t(cap) && input.read(&beyond, 1) == 1) fail_too_large(path, cap, cap_source);
  return bytes;
}

}  // namespace

Bytes read_file(const std::string& path, int64_t cap) {
  check(cap >= 0, "read_file: cap cannot be negative: ", cap);
  return read_plain(path, cap, "the limit for this kind of file");
}

Bytes read_maybe_gzip(const std::string& path, int64_t cap, std::string_view cap_source) {
  check(cap >= 0, "read_maybe_gzip: cap cannot be negative: ", cap);
  if (!is_gzip(path)) return read_plain(path, cap, cap_source);
  GzipInput input(path);
  Bytes bytes;
  read_until(bytes, size_t(cap), [&](uint8_t* target, size_t count) { return input.read(target, count); });
  if (bytes.size() == size_t(cap) && input.more())
    fail(Error::Kind::data, path, ": unpacks to more than ", cap, " bytes, ", cap_source, " (stopped at packed byte ",
         input.packed_position(), ")");
  return bytes;
}

Bytes peek_maybe_gzip(const std::string& path, int64_t bytes) {
  check(bytes >= 0, "peek_maybe_gzip: bytes cannot be negative: ", bytes);
  Bytes head(static_cast<size_t>(bytes));
  head.resize(is_gzip(path) ? GzipInput(path).read(head.data(), head.size())
                            : Input(path).read(head.data(), head.size()));
  return head;
}

// ---- Writing -------------------------------------------------------------------------------------------------------

namespace {

[[noreturn]] void fail_write(const std::string& path, std::string_view doing, int code) {
  fail(Error::Kind::resource, path, ": ", doing, " failed: ", system_reason(code));
}

/// The temporary file beside a target; removed unless commit() has renamed it.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::string& target) : target_(target), file_(create()) { buffer_.reserve(kChunk); }
  ~TemporaryFile() {
    if (!committed_) ::unlink(path_.c_str());
  }

  void append(const void* data, size_t bytes) {
    const char* from = static_cast<const char*>(data);
    if (buffer_.size() + bytes > kChunk) flush();
    if (bytes >= kChunk) write_out(from, bytes);
    else buffer_.insert(buffer_.end(), from, from + bytes);
  }

  void commit() {
    flush();
    if (::fsync(file_.get()) != 0) fail_write(target_, "writing to the disk", errno);
    if (!file_.close()) fail_write(target_, "closing", errno);
    if (::rename(path_.c_str(), target_.c_str()) != 0) fail_write(target_, "renaming " + path_, errno);
    committed_ = true;
    // The new name is only safe from a power failure once the folder is on the disk. File systems that cannot sync
    // a folder answer EINVAL; there is nothing more to be done on them.
    std::string folder = std::filesystem::path(target_).parent_path().string();
    Descriptor handle(::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (handle.get() < 0) return;  // a folder that may be written to but not read
    if (::fsync(handle.get()) != 0 && errno != EINVAL && errno != ENOTSUP)
      fail_write(folder, "writing the folder to the disk", errno);
  }

 private:
  int create() {
    static std::atomic<unsigned> counter{0};
    for (;;) {
      path_ = concat_text(target_, ".tmp-", ::getpid(), "-", counter++);
      int fd = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (fd >= 0) return fd;
      if (errno != EEXIST) fail_write(target_, "creating the temporary file " + path_, errno);
    }
  }

  void flush() {
    write_out(buffer_.data(), buffer_.size());
    buffer_.clear();
  }

  void write_out(const char* from, size_t bytes) {
    while (bytes > 0) {
      ssize_t put = ::write(file_.get(), from, bytes);
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) fail_write(target_, concat_text("writing at byte ", written_), errno);
      from += put;
      bytes -= size_t(put);
      written_ += uint64_t(put);
    }
  }

  std::string target_, path_;
  Descriptor file_;
  std::vector<char> buffer_;
  uint64_t written_ = 0;
  bool committed_ = false;
};

/// Where a write to `path` really goes. Renaming over /dev/null or a pipe would replace it by a plain file.
std::string resolve_target(const std::string& path) {
  if (path.empty()) fail(Error::Kind::resource, "write: the file name is empty");
  std::error_code error;
  std::filesystem::path target = path;
  if (std::filesystem::is_symlink(target, error)) {
    target = std::filesystem::weakly_canonical(target, error);
    if (error) fail(Error::Kind::resource, path, ": the link cannot be followed: ", error.message());
  }
  std::filesystem::file_status status = std::filesystem::status(target, error);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status))
    fail(Error::Kind::resource, path, ": exists and is not a regular file, so it cannot be replaced");
  return target.string();
}

}  // namespace

void write_file_atomic(const std::string& path, const std::function<void(const Append&)>& write) {
  TemporaryFile file(resolve_target(path));
  write([&](const void* data, size_t bytes) { file.append(data, bytes); });
  file.commit();
}

void write_file_atomic(const std::string& path, std::string_view text) {
  write_file_atomic(path, [&](const Append& append) { append(text.data(), text.size()); });
}

// ---- Hash ----------------------------------------------------------------------------------------------------------

namespace {
constexpr uint64_t kFnvPrime = 0x100000001b3;  // [Fowler, Noll, Vo; RFC 9923]

uint64_t mix(uint64_t state, uint64_t word) {
  state = (state ^ word) * kFnvPrime;
  // Without this, a change of the top bit of a word would stay in the top bit and a second one would cancel it.
  return state ^ (state >> 32);
}
}  // namespace

void Hasher::step(uint64_t word) { state_ = mix(state_, word); }

void Hasher::update(const void* data, size_t bytes) {
  const uint8_t* from = static_cast<const uint8_t*>(data);
  size_t filled = bytes_ % 8;
  bytes_ += bytes;
  if (filled > 0) {
    size_t taken = std::min(8 - filled, bytes);
    std::copy_n(from, taken, partial_ + filled);
    from += taken;
    bytes -= taken;
    if (filled + taken < 8) return;
    step(std::bit_cast<uint64_t>(partial_));
  }
  uint64_t word;
  for (; bytes >= 8; from += 8, bytes -= 8) {
    std::memcpy(&word, from, 8);
    step(word);
  }
  std::copy_n(from, bytes, partial_);
}

uint64_t Hasher::value() const {
  uint8_t last[8] = {};
  std::copy_n(partial_, bytes_ % 8, last);
  return mix(mix(state_, std::bit_cast<uint64_t>(last)), bytes_);
}

std::string Hasher::hex() const {
  std::string digits(16, '0');
  uint64_t rest = value();
  for (int place = 15; place >= 0; --place, rest >>= 4) digits[size_t(place)] = "0123456789abcdef"[rest & 15];
  return digits;
}

std::string hash_hex(const void* data, size_t bytes) {
  Hasher hasher;
  hasher.update(data, bytes);
  return hasher.hex();
}

// ---- Messages ------------------------------------------------------------------------------------------------------

std::string printable(std::string_view text) {
  constexpr size_t kLongest = 80;
  std::string out = "'";
  for (unsigned char c : text.substr(0, kLongest)) {
    if (c >= 0x20 && c < 0x7f) {
      out += char(c);
    } else {
      out += "\\x";
      out += "0123456789abcdef"[c >> 4];
      out += "0123456789abcdef"[c & 15];
    }
  }
  return out + (text.size() > kLongest ? "...'" : "'");
}

}  // namespace mote::io
