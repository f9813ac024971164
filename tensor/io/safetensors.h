// safetensors.h - reading and writing safetensors files: 8 bytes of header length, a JSON header, raw little-endian data.
// The reader trusts nothing: lengths, offsets, overlaps, names, dtypes and shapes are checked before any memory is made.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace mote::io {

struct SafetensorsInfo {              // one tensor of a file's header
  std::string name;
  DType dtype;
  Shape shape;
  int64_t begin = 0, end = 0;         // bytes, counted from the end of the header
};

struct Safetensors {
  std::map<std::string, Tensor> tensors;
  std::map<std::string, std::string> metadata;
};

/// Writes `tensors` in the given order and `metadata`, atomically (write_file_atomic). cuda tensors are copied first.
/// Two keys are added to the metadata (and replaced if they are there): mote.hash, a Hasher value over the tensors'
/// names, dtypes, shapes and bytes and over all other metadata, and mote.format, which says that mote.hash must be there.
/// Throws Error(argument) on a duplicate or empty name, Error(resource) on an I/O failure: the old file stays whole.
void save_safetensors(const std::string& path, const std::vector<std::pair<std::string, Tensor>>& tensors,
                      const std::map<std::string, std::string>& metadata);

/// Throws Error(checkpoint) naming file, tensor and bytes if anything about the file is wrong, Error(data) if it cannot
/// be opened. Only the dtypes F32 BF16 F64 I32 I64 U8 are known. With mote.hash, every bit that changes the content is
/// noticed; files of other programs (no mote.hash) are checked for their layout only. mote.hash and mote.format stay in
/// the metadata. A PyTorch pickle is told apart, and the message says how to convert it.
Safetensors load_safetensors(const std::string& path);

/// The same one tensor at a time: take(info, tensor) is called in the order of the data, with nothing else in memory.
/// The header is checked before the first call, mote.hash after the last: what was taken counts only once this returns.
void read_safetensors(const std::string& path, const std::function<void(const SafetensorsInfo&, Tensor)>& take);

/// The header only, in the order of the data, fully validated against the file's size; the data is not read, so
/// mote.hash is not compared.
std::pair<std::vector<SafetensorsInfo>, std::map<std::string, std::string>> read_safetensors_header(
    const std::string& path);

}  // namespace mote::io
