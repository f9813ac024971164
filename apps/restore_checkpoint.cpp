#include "apps/restore_checkpoint.h"

#include <filesystem>

#include "apps/checkpoint_file.h"
#include "apps/common.h"
#include "apps/report.h"
#include "apps/restore_config.h"

namespace mote::apps {
namespace {

constexpr CheckpointPart<RestoreCheckpoint> kParts[] = {{"e2e.", &RestoreCheckpoint::e2e},   {"e2e_ema.", &RestoreCheckpoint::e2e_ema},
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
  auto text = [&](const std::string& key) -> const std::string& { return metadata_text(path, metadata, key); };
  require_format(path, metadata, kRestoreFormat, "mote restore train");
  RestoreCheckpoint c;
  c.path = path;
  for_numbers(c, [&](const char* key, auto& value) {
    value = metadata_number<std::decay_t<decltype(value)>>(path, key, text(key));
  });
  c.data = text("data");
  c.data_hash = text("data_hash");
  c.train = text("train");
  c.hash = text(kHashKey);
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
nn::NamedTensors expected_of(const CheckpointPart<RestoreCheckpoint>& part, const RestoreCheckpoint& c, const nn::NamedTensors& e2e,
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
  for_numbers(c, [&](const char* key, auto value) { metadata[key] = number_as_text(value); });
  for (const auto& part : kParts) require_finite(concat_text("tensor of ", part.prefix, "*:"), c.*part.tensors);
  c.hash = save_checkpoint_file(path, tensors_of(c, kParts), metadata);
}

RestoreCheckpoint load_restore_checkpoint(const std::string& path) {
  io::Safetensors file = load_checkpoint_file(path);
  RestoreCheckpoint c = from_metadata(path, file.metadata);
  require_room(c, int64_t(std::filesystem::file_size(path)));
  nn::NamedTensors e2e = c.e2e_config ? nn::E2ENet(*c.e2e_config, 0).parameters() : nn::NamedTensors{};
  nn::NamedTensors model = nn::Denoiser(c.config.net, 0).parameters();
  size_t known = 0;
  for (const auto& part : kParts) {
    if (!has_part(file, part.prefix)) continue;
    c.*part.tensors = take_part(path, file, part.prefix, expected_of(part, c, e2e, model));
    known += (c.*part.tensors).size();
  }
  if (known != file.tensors.size())
    fail(Error::Kind::checkpoint, path, ": has ", file.tensors.size(), " tensors, the networks of the metadata ",
         known);
  if (c.e2e_config && c.e2e.empty()) fail(Error::Kind::checkpoint, path, ": the end-to-end network (e2e.*) is missing");
  if (!c.trains_e2e() && c.model.empty()) fail(Error::Kind::checkpoint, path, ": holds no weights of the denoiser");
  try {
    for (const auto& part : kParts) require_finite(concat_text("tensor of ", part.prefix, "*:"), c.*part.tensors);
  } catch (const Error& error) {
    fail(Error::Kind::checkpoint, path, ": ", error.what());
  }
  return c;
}

bool is_restore_run(const std::string& folder) { return is_run_of(folder, kRestoreFormat); }

RestoreNets nets_of(const RestoreCheckpoint& c, const std::string& weights, Device device) {
  require_weights(weights);
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
