// file.h - whole files in and out: capped reads, gzip, atomic writes, hashes.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace mote::io {

using Bytes = std::vector<uint8_t>;

/// The whole file. Throws Error(data) if it cannot be read or is larger than `cap` bytes.
Bytes read_file(const std::string& path, int64_t cap);

/// The whole file, unpacked if it starts with the gzip magic (zlib, streaming; CRC and length checked; members may be
/// joined; trailing garbage is an error). Throws Error(data) naming file and byte if the unpacked size passes `cap`,
/// the stream is truncated or a check fails. `cap_source` says in the message where the cap comes from.
Bytes read_maybe_gzip(const std::string& path, int64_t cap, std::string_view cap_source = "the limit for one file");

/// The first `bytes` bytes of what read_maybe_gzip would return, fewer if it is shorter: a look at a header, from
/// which the exact cap of the whole follows. Nothing behind them is read or checked.
Bytes peek_maybe_gzip(const std::string& path, int64_t bytes);

/// Temporary file beside `path`, fsync, rename, fsync of the folder. `write` gets a function that appends bytes.
/// On any failure the temporary file is removed, `path` is untouched and Error(resource) tells why; what `write`
/// throws passes through. A symbolic link is followed; a path that exists and is no regular file is refused.
using Append = std::function<void(const void* data, size_t bytes)>;
void write_file_atomic(const std::string& path, const std::function<void(const Append&)>& write);
void write_file_atomic(const std::string& path, std::string_view text);

/// 64-bit FNV-1a over 8-byte little-endian words instead of bytes (8 times fewer multiplications), each step followed
/// by h ^= h >> 32; the last word is padded with zeros and the length goes in last. Every step is one-to-one, so a
/// change within one word always changes the hash. Not a defence against an adversary.
/// How the bytes are cut into update() calls does not matter.
class Hasher {
 public:
  void update(const void* data, size_t bytes);
  uint64_t value() const;
  std::string hex() const;   // 16 digits

 private:
  void step(uint64_t word);
  uint64_t state_ = 0xcbf29ce484222325;
  uint64_t bytes_ = 0;
  uint8_t partial_[8] = {};   // the first bytes_ % 8 bytes of the next word
};

/// Hasher over one block, as 16 hex digits; for configs, data and checkpoints.
std::string hash_hex(const void* data, size_t bytes);

/// Text from a file (a name in a header) made fit for a message: in single quotes, control and non-ASCII bytes as \xNN,
/// cut after 80 bytes.
std::string printable(std::string_view text);

}  // namespace mote::io
