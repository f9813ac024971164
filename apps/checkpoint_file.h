// checkpoint_file.h - what the checkpoints of all trainings are made of: metadata by key, tensors by prefix, one hash.
// What each holds is in checkpoint.h, cluster_checkpoint.h, segment_checkpoint.h and restore_checkpoint.h.
#pragma once
#include <charconv>
#include <map>
#include <string>
#include <type_traits>

#include "nn/module.h"
#include "tensor/error.h"
#include "tensor/io/safetensors.h"

namespace mote::apps {

using Metadata = std::map<std::string, std::string>;

inline constexpr const char* kHashKey = "mote.hash";   // over the whole content, written and compared by io::*_safetensors

/// A prefix of tensor names and where the tensors so named belong.
template <class Checkpoint>
struct CheckpointPart {
  const char* prefix;
  nn::NamedTensors Checkpoint::*tensors;
};

// ---- Metadata ------------------------------------------------------------------------------------------------------

/// The value of a key. Throws Error(checkpoint) naming file and key if it is missing.
const std::string& metadata_text(const std::string& path, const Metadata& metadata, const std::string& key);

/// Throws Error(checkpoint) unless metadata is of this format, which `made_by`, such as "mote cluster train", writes, and
/// of the version that is read here.
void require_format(const std::string& path, const Metadata& metadata, const std::string& format,
                    const std::string& made_by);

/// A number as it was written by number_as_text. Throws Error(checkpoint) naming file and key if it is none.
template <class T>
T metadata_number(const std::string& path, const std::string& key, const std::string& text) {
  T value{};
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    fail(Error::Kind::checkpoint, path, ": metadata '", key, "' is '", text, "', not a ",
         std::is_integral_v<T> ? "whole number" : "number");
  return value;
}

/// The shortest text that reads back as the same number.
template <class T>
std::string number_as_text(T value) {
  char text[32];
  auto [end, error] = std::to_chars(text, text + sizeof text, value);
  return std::string(text, end);
}

// ---- Files ---------------------------------------------------------------------------------------------------------

/// Throws Error(checkpoint) if there is no such file or it is damaged.
io::Safetensors load_checkpoint_file(const std::string& path);

/// Writes one file atomically and returns its hash.
std::string save_checkpoint_file(const std::string& path, const nn::NamedTensors& tensors, const Metadata& metadata);

/// The tensors of all parts of a checkpoint under their full names.
template <class Checkpoint, size_t N>
nn::NamedTensors tensors_of(const Checkpoint& checkpoint, const CheckpointPart<Checkpoint> (&parts)[N]) {
  nn::NamedTensors all;
  for (const CheckpointPart<Checkpoint>& part : parts)
    for (const auto& [name, tensor] : checkpoint.*part.tensors) all.emplace_back(part.prefix + name, tensor);
  return all;
}

/// Whether the file has a tensor of that prefix.
bool has_part(const io::Safetensors& file, const std::string& prefix);

/// The tensors of that prefix for the names in `expected`. Throws Error(checkpoint) naming the first that is missing, or
/// is not f32 of the shape there.
nn::NamedTensors take_part(const std::string& path, const io::Safetensors& file, const std::string& prefix,
                           const nn::NamedTensors& expected);

/// Whether the newest checkpoint of a run folder is of that format; false if there is none or it cannot be read.
bool is_run_of(const std::string& folder, const std::string& format);

}  // namespace mote::apps
