#include "apps/restore_checkpoint.h"

#include <charconv>
#include <filesystem>

#include "apps/common.h"
#include "apps/report.h"
#include "apps/restore_config.h"
#include "tensor/io/safetensors.h"

namespace mote::apps {
namespace {

using Metadata = std::map<std::string, std::string>;

constexpr const char* kHash = "mote.hash";   // over the whole content, written and compared by io::*_safetensors

struct Part {
  const char* prefix;
  nn::NamedTensors RestoreCheckpoint::*tensors;
};
constexpr Part kParts[] = {{"e2e.", &RestoreCheckpoint::e2e},   {"e2e_ema.", &RestoreCheckpoint::e2e_ema},
                           {"model.", &RestoreCheckpoint::model}, {"ema.", &RestoreCheckpoint::ema},
                           {"opt.m.", &RestoreCheckpoint::m},    {"opt.v.", &RestoreCheckpoint::v}};

/// Whole numbers of the metadata, by key, so that writing and reading cannot disagree.
template <class C, class Visit>
void for_numbers(C& c, const Visit& visit) {
  visit("step", c.step);
  visit("images", c.images);
  visit("e2e_steps", c.e2e_steps);
  visit("seed", c.seed);
  visit("random_seed", c.random.seed);
  visit("random_offset", c.random.offset);
  visit("data_count", c.data_count);
}

RestoreCheckpoint from_metadata(const std::string& path, const Metadata& metadata) {
  auto text = [&](const std::string& key) -> const std::string& {
    auto found = metadata.find(key);
    if (found == metadata.end())
      fail(Error::Kind::checkpoint, path, ": metadata '", key, "' is missing",
           key == "format" ? "; this is not a checkpoint of mote" : "");
    return found->second;
  };
  if (text("format") != kRestoreFormat)
    fail(Error::Kind::checkpoint, path, ": metadata 'format' is '", text("format"), "', needed is ", kRestoreFormat,
         ": this is no checkpoint of mote restore train");
  if (text("version") != "1")
    fail(Error::Kind::checkpoint, path, ": written in version ", text("version"), ", this program reads version 1");
  RestoreCheckpoint c;
  c.path = path;
  for_numbers(c, [&](const char* key, auto& value) {
    const std::string& given = text(key);
    auto [end, error] = std::from_chars(given.data(), given.data() + given.size(), value);
    if (error != std::errc() || end != given.data() + given.size())
      fail(Error::Kind::checkpoint, path, ": metadata '", key, "' is '", given, "', not a whole number");
  });
  c.data = text("data");
  c.data_hash = text("data_hash");
  c.train = text("train");
  c.hash = text(kHash);
  try {
    if (c.step < 0 || c.e2e_steps < 0) fail(Error::Kind::checkpoint, "metadata 'step' or 'e2e_steps' is negative");
    c.config = resensemble::model_config_from_json(text("config"));
    if (c.e2e_steps > 0) c.e2e_config = nn::e2e_net_config_from_json(text("e2e_config"));
    restore_config_from_json(c.train);
  } catch (const std::exception& error) {
    fail(Error::Kind::checkpoint, path, ": ", error.what());
  }
  return c;
}

/// Refuses metadata whose networks have larger tensors than the file could hold, before memory is asked for.
void require_room(const RestoreCheckpoint& c, int64_t bytes) {
  int64_t largest = 0;
  if (!c.trains_e2e())
    for (int64_t multiplier : c.config.net.unet.multipliers)
      largest = std::max(largest, 9 * multiplier * c.config.net.unet.base * multiplier * c.config.net.unet.base);
  if (c.e2e_config)
    for (int64_t width : c.e2e_config->widths) largest = std::max(largest, 9 * width * width);
  if (largest * 4 > bytes)
    fail(Error::Kind::checkpoint, c.path, ": the networks of the metadata do not fit in the file: a tensor of ",
         largest * 4, " bytes, but the file has ", bytes);
}

/// The names that a part must have: those of the network it belongs to.
nn::NamedTensors expected_of(const Part& part, const RestoreCheckpoint& c, const nn::NamedTensors& e2e,
                             const nn::NamedTensors& model) {
  bool is_e2e = part.tensors == &RestoreCheckpoint::e2e || part.tensors == &RestoreCheckpoint::e2e_ema;
  bool is_moment = part.tensors == &RestoreCheckpoint::m || part.tensors == &RestoreCheckpoint::v;
  return is_e2e || (is_moment && c.trains_e2e()) ? e2e : model;
}

/// Those of `weights` that are there.
const nn::NamedTensors& chosen(const std::string& weights, const nn::NamedTensors& averaged,
                               const nn::NamedTensors& plain) {
  return weights == "ema" && !averaged.empty() ? averaged : plain;
}

}  // namespace

void save_restore_checkpoint(const std::string& path, RestoreCheckpoint& c) {
  Metadata metadata = {{"format", kRestoreFormat}, {"version", "1"},   {"data", c.data},
                       {"data_hash", c.data_hash}, {"train", c.train}, {"config", resensemble::to_json(c.config)}};
  if (c.e2e_config) metadata["e2e_config"] = nn::to_json(*c.e2e_config);
  for_numbers(c, [&](const char* key, auto value) { metadata[key] = std::to_string(value); });
  nn::NamedTensors tensors;
  for (const Part& part : kParts) {
    require_finite(concat_text("tensor of ", part.prefix, "*:"), c.*part.tensors);
    for (const auto& [name, tensor] : c.*part.tensors) tensors.emplace_back(part.prefix + name, tensor);
  }
  io::save_safetensors(path, tensors, metadata);
  c.hash = io::read_safetensors_header(path).second.at(kHash);
}

RestoreCheckpoint load_restore_checkpoint(const std::string& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) fail(Error::Kind::checkpoint, "there is no checkpoint at ", path);
  io::Safetensors file = io::load_safetensors(path);
  RestoreCheckpoint c = from_metadata(path, file.metadata);
  require_room(c, int64_t(std::filesystem::file_size(path)));
  nn::NamedTensors e2e = c.e2e_config ? nn::E2ENet(*c.e2e_config, 0).parameters() : nn::NamedTensors{};
  nn::NamedTensors model = nn::Denoiser(c.config.net, 0).parameters();
  size_t known = 0;
  for (const Part& part : kParts) {
    bool any = false;
    for (const auto& entry : file.tensors) any = any || entry.first.starts_with(part.prefix);
    if (!any) continue;
    for (const auto& [name, expected] : expected_of(part, c, e2e, model)) {
      auto found = file.tensors.find(part.prefix + name);
      if (found == file.tensors.end() || !(found->second.shape() == expected.shape()) ||
          found->second.dtype() != DType::f32)
        fail(Error::Kind::checkpoint, path, ": tensor '", part.prefix, name, "' must be ", describe(expected),
             " for the networks of the metadata; ", found == file.tensors.end() ? "it is missing" : "it is another");
      (c.*part.tensors).emplace_back(name, found->second);
      ++known;
    }
  }
  if (known != file.tensors.size())
    fail(Error::Kind::checkpoint, path, ": has ", file.tensors.size(), " tensors, the networks of the metadata ",
         known);
  if (c.e2e_config && c.e2e.empty()) fail(Error::Kind::checkpoint, path, ": the end-to-end network (e2e.*) is missing");
  if (!c.trains_e2e() && c.model.empty()) fail(Error::Kind::checkpoint, path, ": holds no weights of the denoiser");
  try {
    for (const Part& part : kParts) require_finite(concat_text("tensor of ", part.prefix, "*:"), c.*part.tensors);
  } catch (const Error& error) {
    fail(Error::Kind::checkpoint, path, ": ", error.what());
  }
  return c;
}

bool is_restore_run(const std::string& folder) {
  std::error_code ignored;
  std::string path = folder + "/" + kCheckpointFile;
  if (!std::filesystem::exists(path, ignored)) return false;
  try {
    Metadata metadata = io::read_safetensors_header(path).second;
    auto format = metadata.find("format");
    return format != metadata.end() && format->second == kRestoreFormat;
  } catch (const Error&) {
    return false;   // the report of an ordinary run says what is wrong with the file
  }
}

RestoreNets nets_of(const RestoreCheckpoint& c, const std::string& weights, Device device) {
  if (weights != "ema" && weights != "model")
    fail(Error::Kind::usage, "--weights: '", weights, "' is not known; ema and model are");
  RestoreNets nets;
  DType precision = precision_named(restore_config_from_json(c.train).precision);
  if (c.step > c.e2e_steps) {
    nets.denoiser = std::make_unique<nn::Denoiser>(c.config.net, 0);
    nets.denoiser->load_state(as_map(chosen(weights, c.ema, c.model)));
    nets.denoiser->unet().set_precision(precision);
    nets.denoiser->train(false);
    nets.denoiser->to(device);
  }
  if (c.e2e_config) {
    nets.e2e = std::make_unique<nn::E2ENet>(*c.e2e_config, 0);
    nets.e2e->load_state(as_map(chosen(weights, c.e2e_ema, c.e2e)));
    nets.e2e->train(false);
    nets.e2e->to(device);
  }
  return nets;
}

std::string write_restore_report(const std::string& folder) {
  return write_report(folder, "Restoration of pictures, trained with mote", [&](Page& page) {
    RestoreCheckpoint c = load_restore_checkpoint(folder + "/" + kCheckpointFile);
    RestoreConfig config = restore_config_from_json(c.train);
    page.number("steps in the checkpoint", count_text(c.step));
    if (c.e2e_config) page.number("of them, end-to-end network", count_text(std::min(c.step, c.e2e_steps)));
    page.number("images seen", count_text(c.images));
    page.number("task", config.task);
    page.number("method", config.method + (c.e2e_config ? ", end-to-end prior" : ", the image as prior"));
    page.number("data", c.data + " (" + count_text(c.data_count) + ")");
    page.number("squares", concat_text(c.config.net.size, " x ", c.config.net.size, " x ", c.config.net.channels));
    page.number("schedule, T", c.config.schedule + ", " + count_text(c.config.T));
    page.number("precision", config.precision);
    page.number("seed", std::to_string(c.seed));
    page.number("checkpoint hash", c.hash);
  });
}

}  // namespace mote::apps
