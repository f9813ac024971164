#include "apps/checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "apps/checkpoint_file.h"

namespace mote::apps {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "mote-checkpoint";
constexpr const char* kVersion = "1";

// ---- Metadata ------------------------------------------------------------------------------------------------------

Metadata to_metadata(const Checkpoint& c) {
  Json random = {{"seed", std::to_string(c.random.seed)}, {"offset", std::to_string(c.random.offset)}};
  Metadata metadata = {{"format", kFormat},
                       {"version", kVersion},
                       {"step", std::to_string(c.step)},
                       {"images", std::to_string(c.images)},
                       {"seed", std::to_string(c.seed)},
                       {"random", random.dump()},
                       {"unet", nn::to_json(c.unet)},
                       {"schedule", c.schedule},
                       {"T", std::to_string(c.T)},
                       {"prediction", name_of(c.prediction)},
                       {"data", c.data},
                       {"data_hash", c.data_hash},
                       {"data_count", std::to_string(c.data_count)},
                       {"class_names", Json(c.class_names).dump()},
                       {"train", c.train}};
  if (!c.source.empty()) metadata["source"] = c.source;
  return metadata;
}

Checkpoint from_metadata(const std::string& path, const Metadata& metadata) {
  auto text = [&](const char* key) -> const std::string& { return metadata_text(path, metadata, key); };
  auto number = [&](const char* key) { return metadata_number<int64_t>(path, key, text(key)); };
  if (text("format") != kFormat)
    fail(Error::Kind::checkpoint, path, ": metadata 'format' is '", text("format"), "'; this is not a checkpoint of mote");
  if (text("version") != kVersion)
    fail(Error::Kind::checkpoint, path, ": written in version ", text("version"),
         " of the checkpoint format; this program reads version ", kVersion);
  Checkpoint c;
  c.path = path;
  c.step = number("step");
  c.images = number("images");
  c.seed = metadata_number<uint64_t>(path, "seed", text("seed"));
  c.schedule = text("schedule");
  c.T = number("T");
  c.data = text("data");
  c.data_hash = text("data_hash");
  c.data_count = number("data_count");
  c.train = text("train");
  if (auto found = metadata.find("source"); found != metadata.end()) c.source = found->second;
  c.hash = text(kHashKey);
  try {
    Json random = Json::parse(text("random"));
    c.random.seed = metadata_number<uint64_t>(path, "random", random.at("seed").get<std::string>());
    c.random.offset = metadata_number<uint64_t>(path, "random", random.at("offset").get<std::string>());
    c.class_names = Json::parse(text("class_names")).get<std::vector<std::string>>();
    c.prediction = prediction_named(text("prediction"));
    c.unet = nn::unet_config_from_json(text("unet"));
    if (c.T < 1 || c.T > 1000000) fail(Error::Kind::checkpoint, "metadata 'T' is ", c.T, ", outside 1..1000000");
    if (c.step < 0 || c.images < 0) fail(Error::Kind::checkpoint, "metadata 'step' or 'images' is negative");
    Schedule::named(c.schedule, c.T);
  } catch (const std::exception& error) {
    fail(Error::Kind::checkpoint, path, ": ", error.what());
  }
  return c;
}

/// Refuses metadata whose network has more or larger tensors than the file could hold, before memory is asked for:
/// each of its residual blocks has a convolution [3, 3, width, width], and the widest level has one of its width.
void require_room(const Checkpoint& c, const io::Safetensors& file, int64_t bytes) {
  int64_t width = c.unet.base * *std::max_element(c.unet.multipliers.begin(), c.unet.multipliers.end());
  int64_t largest = std::max({9 * width * width, 9 * c.unet.channels * c.unet.base, 4 * c.unet.base * c.unet.classes});
  int64_t tensors = 4 * c.unet.blocks * int64_t(c.unet.multipliers.size());
  if (largest * 4 > bytes || tensors > int64_t(file.tensors.size()))
    fail(Error::Kind::checkpoint, c.path, ": the UNet that the metadata describes does not fit in the file: a tensor of ",
         largest * 4, " bytes and more than ", tensors, " tensors, but the file has ", bytes, " bytes and ",
         file.tensors.size(), " tensors; these are the weights of another UNet");
}

// ---- Parts ---------------------------------------------------------------------------------------------------------

using Part = CheckpointPart<Checkpoint>;
constexpr Part kParts[] = {
    {"model.", &Checkpoint::model}, {"ema.", &Checkpoint::ema}, {"opt.m.", &Checkpoint::m}, {"opt.v.", &Checkpoint::v}};

const Part* part_of(const std::string& name) {
  for (const Part& part : kParts)
    if (name.starts_with(part.prefix)) return &part;
  return nullptr;
}

void sync_folder(const std::string& folder) {
  int handle = open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (handle < 0) return;   // a file system without folders to sync has nothing to lose here
  fsync(handle);
  close(handle);
}

void rename_or_fail(const std::string& from, const std::string& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0)
    fail(Error::Kind::resource, "cannot rename ", from, " to ", to, ": ", std::strerror(errno));
}

}  // namespace

std::map<std::string, Tensor> as_map(const nn::NamedTensors& tensors) { return {tensors.begin(), tensors.end()}; }

void require_finite(const std::string& what, const nn::NamedTensors& tensors) {
  for (const auto& [name, tensor] : tensors) {
    if (!is_floating(tensor.dtype())) continue;
    Tensor host = tensor.to(Device{}).to(DType::f32);
    const float* values = host.data<float>();
    int64_t first = -1, bad = 0;
    for (int64_t i = 0; i < host.numel(); ++i)
      if (!std::isfinite(values[i]) && bad++ == 0) first = i;
    if (bad > 0)
      fail(Error::Kind::numeric, what, " '", name, "' ", describe(tensor), " is not finite: element ", first, " is ",
           values[first], bad > 1 ? concat_text(" (", bad, " of ", host.numel(), " are bad)") : std::string());
  }
}

void save_checkpoint(const std::string& path, Checkpoint& c) {
  require_finite("weight", c.model);
  require_finite("averaged weight", c.ema);
  c.hash = save_checkpoint_file(path, tensors_of(c, kParts), to_metadata(c));
}

void replace_in_run(const std::string& folder, const std::function<void(const std::string& path)>& save,
                    bool keep_current) {
  std::string current = folder + "/" + kCheckpointFile, previous = folder + "/" + kPreviousFile;
  std::string next = folder + "/checkpoint.next.safetensors", kept = folder + "/checkpoint.next.prev";
  save(next);
  if (keep_current && fs::exists(current)) {
    // A second name for the same file, so that `current` is never missing; a copy where links are not known.
    std::error_code error;
    fs::remove(kept, error);
    fs::create_hard_link(current, kept, error);
    if (error) fs::copy_file(current, kept, error);
    if (error) fail(Error::Kind::resource, "cannot keep ", current, " as ", previous, ": ", error.message());
    rename_or_fail(kept, previous);
  }
  rename_or_fail(next, current);
  sync_folder(folder);
}

void save_in_run(const std::string& folder, Checkpoint& checkpoint, bool keep_current) {
  replace_in_run(folder, [&](const std::string& path) { save_checkpoint(path, checkpoint); }, keep_current);
}

Checkpoint load_checkpoint(const std::string& path) {
  io::Safetensors file = load_checkpoint_file(path);
  Checkpoint c = from_metadata(path, file.metadata);
  require_room(c, file, int64_t(fs::file_size(path)));

  // Names and shapes come from the network that the metadata describes; load_state would check them too, but here every
  // part is checked, before anything is changed.
  nn::NamedTensors expected = nn::UNet(c.unet, 0).parameters();
  size_t known = 0;
  for (const Part& part : kParts) {
    nn::NamedTensors& into = c.*part.tensors;
    bool any = false;
    for (const auto& entry : file.tensors) any = any || part_of(entry.first) == &part;
    if (!any) continue;
    for (const auto& [name, parameter] : expected) {
      auto found = file.tensors.find(part.prefix + name);
      if (found == file.tensors.end())
        fail(Error::Kind::checkpoint, path, ": tensor '", part.prefix, name,
             "' is missing: the weights are those of another UNet than the metadata describes");
      if (!(found->second.shape() == parameter.shape()) || found->second.dtype() != DType::f32)
        fail(Error::Kind::checkpoint, path, ": tensor '", part.prefix, name, "' is ", describe(found->second),
             ", but the UNet of the metadata has ", describe(parameter));
      into.emplace_back(name, found->second);
      ++known;
    }
  }
  if (known != file.tensors.size())
    for (const auto& [name, tensor] : file.tensors) {
      const Part* part = part_of(name);
      bool belongs = part && as_map(c.*part->tensors).count(name.substr(std::strlen(part->prefix)));
      if (!belongs)
        fail(Error::Kind::checkpoint, path, ": tensor '", name, "' does not belong to the UNet that the metadata describes");
    }
  if (c.model.empty() && c.ema.empty()) fail(Error::Kind::checkpoint, path, ": holds no weights");
  try {
    require_finite("weight", c.model);
    require_finite("averaged weight", c.ema);
    require_finite("first moment", c.m);
    require_finite("second moment", c.v);
  } catch (const Error& bad) {
    fail(Error::Kind::checkpoint, path, ": ", bad.what());
  }
  return c;
}

CheckpointSummary read_checkpoint_summary(const std::string& path) {
  std::error_code error;
  if (!fs::exists(path, error)) fail(Error::Kind::checkpoint, "there is no checkpoint at ", path);
  auto [infos, metadata] = io::read_safetensors_header(path);
  CheckpointSummary summary{.checkpoint = from_metadata(path, metadata), .tensors = {}, .elements = {}};
  for (const io::SafetensorsInfo& info : infos) {
    const Part* part = part_of(info.name);
    std::string key = part ? std::string(part->prefix, std::strlen(part->prefix) - 1) : "other";
    ++summary.tensors[key];
    summary.elements[key] += info.shape.numel();
  }
  summary.bytes = int64_t(fs::file_size(path));
  return summary;
}

Checkpoint load_from_run(const std::string& folder, const std::string& use) {
  return load_newest(folder, use, load_checkpoint);
}

std::string checkpoint_path(const std::string& given) {
  return fs::is_directory(given) ? given + "/" + kCheckpointFile : given;
}

void require_weights(const std::string& which) {
  if (which != "ema" && which != "model")
    fail(Error::Kind::usage, "--weights: '", which, "' is not known; ema and model are");
}

const nn::NamedTensors& weights_of(const Checkpoint& checkpoint, const std::string& which) {
  bool averaged = which == "ema";
  const nn::NamedTensors& weights = averaged ? checkpoint.ema : checkpoint.model;
  if (weights.empty())
    fail(Error::Kind::checkpoint, checkpoint.path, ": holds no ", averaged ? "averaged" : "plain", " weights; give --weights ",
         averaged ? "model" : "ema", " to use the others");
  return weights;
}

}  // namespace mote::apps
