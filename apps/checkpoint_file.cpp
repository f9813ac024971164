#include "apps/checkpoint_file.h"

#include <algorithm>
#include <filesystem>

#include "apps/checkpoint.h"

namespace mote::apps {

namespace fs = std::filesystem;

const std::string& metadata_text(const std::string& path, const Metadata& metadata, const std::string& key) {
  auto found = metadata.find(key);
  if (found == metadata.end())
    fail(Error::Kind::checkpoint, path, ": metadata '", key, "' is missing",
         key == "format" ? "; this is not a checkpoint of mote" : "");
  return found->second;
}

void require_format(const std::string& path, const Metadata& metadata, const std::string& format,
                    const std::string& made_by) {
  const std::string& given = metadata_text(path, metadata, "format");
  if (given != format)
    fail(Error::Kind::checkpoint, path, ": metadata 'format' is '", given, "', needed is ", format,
         ": this is no checkpoint of ", made_by);
  const std::string& version = metadata_text(path, metadata, "version");
  if (version != "1")
    fail(Error::Kind::checkpoint, path, ": written in version ", version, ", this program reads version 1");
}

io::Safetensors load_checkpoint_file(const std::string& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) fail(Error::Kind::checkpoint, "there is no checkpoint at ", path);
  return io::load_safetensors(path);
}

std::string save_checkpoint_file(const std::string& path, const nn::NamedTensors& tensors, const Metadata& metadata) {
  io::save_safetensors(path, tensors, metadata);
  return io::read_safetensors_header(path).second.at(kHashKey);
}

bool has_part(const io::Safetensors& file, const std::string& prefix) {
  return std::any_of(file.tensors.begin(), file.tensors.end(),
                     [&](const auto& entry) { return entry.first.starts_with(prefix); });
}

nn::NamedTensors take_part(const std::string& path, const io::Safetensors& file, const std::string& prefix,
                           const nn::NamedTensors& expected) {
  nn::NamedTensors taken;
  for (const auto& [name, wanted] : expected) {
    auto found = file.tensors.find(prefix + name);
    if (found == file.tensors.end() || !(found->second.shape() == wanted.shape()) ||
        found->second.dtype() != DType::f32)
      fail(Error::Kind::checkpoint, path, ": tensor '", prefix, name, "' must be ", describe(wanted),
           " for the networks of the metadata; ", found == file.tensors.end() ? "it is missing" : "it is another");
    taken.emplace_back(name, found->second);
  }
  return taken;
}

bool is_run_of(const std::string& folder, const std::string& format) {
  std::error_code ignored;
  std::string path = folder + "/" + kCheckpointFile;
  if (!fs::exists(path, ignored)) return false;
  try {
    Metadata metadata = io::read_safetensors_header(path).second;
    auto found = metadata.find("format");
    return found != metadata.end() && found->second == format;
  } catch (const Error&) {
    return false;   // the report of an ordinary run says what is wrong with the file
  }
}

}  // namespace mote::apps
