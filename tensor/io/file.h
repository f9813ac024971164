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
/// the stream is truncated or a check fails.
Bytes read_maybe_gzip(const std::string& path, int64_t cap);

/// Temporary file beside `path`, fsync, rename, fsync of the folder. `write` gets a function that appends bytes.
/// On any failure the temporary file is removed, `path` is untouched and Error(resource) tells why.
using Append = std::function<void(const void* data, size_t bytes)>;
void write_file_atomic(const std::string& path, const std::function<void(const Append&)>& write);
void write_file_atomic(const std::string& path, std::string_view text);

/// 64-bit FNV-1a as 16 hex digits; for configs, data and checkpoints (not a defence against an adversary).
std::string hash_hex(const void* data, size_t bytes);

}  // namespace mote::io
