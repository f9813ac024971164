#include "apps/segment_checkpoint.h"

#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/checkpoint_file.h"
#include "diffusion/resensemble/model.h"
#include "nn/e2e_net.h"

namespace mote::apps {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr CheckpointPart<SegmentCheckpoint> kParts[] = {{"model.", &SegmentCheckpoint::model},
                           {"ema.", &SegmentCheckpoint::ema},
                           {"opt.m.", &SegmentCheckpoint::m},
                           {"opt.v.", &SegmentCheckpoint::v},
                           {"best.", &SegmentCheckpoint::best}};

// By key, so that writing and reading cannot disagree.
template <class C, class Visit>
void for_texts(C& c, const Visit& visit) {
  visit("kind", c.kind);
  visit("net", c.net);
  visit("train", c.train);
  visit("data", c.data);
  visit("data_hash", c.data_hash);
  visit("coding", c.coding);
  visit("prior", c.prior);
  visit("prior_hash", c.prior_hash);
}

template <class C, class Visit>
void for_numbers(C& c, const Visit& visit) {
  visit("step", c.step);
  visit("images", c.images);
  visit("data_count", c.data_count);
  visit("classes", c.classes);
  visit("height", c.height);
  visit("width", c.width);
  visit("channels", c.channels);
  visit("seed", c.seed);
  visit("random_seed", c.random.seed);
  visit("random_offset", c.random.offset);
  visit("temperature", c.temperature);
  visit("best_score", c.best_score);
  visit("best_step", c.best_step);
}

SegmentCheckpoint from_metadata(const std::string& path, const Metadata& metadata) {
  auto text = [&](const std::string& key) -> const std::string& { return metadata_text(path, metadata, key); };
  require_format(path, metadata, kSegmentFormat, "mote segment");
  SegmentCheckpoint c;
  c.path = path;
  for_texts(c, [&](const char* key, std::string& value) { value = text(key); });
  for_numbers(c, [&](const char* key, auto& value) {
    value = metadata_number<std::decay_t<decltype(value)>>(path, key, text(key));
  });
  c.hash = text(kHashKey);
  try {
    c.class_names = Json::parse(text("class_names")).get<std::vector<std::string>>();
  } catch (const std::exception& error) {
    fail(Error::Kind::checkpoint, path, ": ", error.what());
  }
  bool sane = (c.kind == "e2e" || c.kind == "ddpm") && c.step >= 0 && c.classes >= 2 && c.classes <= 256 &&
              std::isfinite(c.temperature) && c.temperature > 0;
  if (!sane)
    fail(Error::Kind::checkpoint, path, ": metadata out of range: kind '", c.kind, "', step ", c.step, ", classes ",
         c.classes, ", temperature ", c.temperature);
  return c;
}

/// Bytes of the largest convolution that the metadata asks for: refused before memory is made if the file has
/// fewer.
int64_t largest_tensor(const SegmentCheckpoint& c) {
  int64_t width = 1;
  if (c.kind == "e2e") {
    for (int64_t w : nn::e2e_net_config_from_json(c.net).widths) width = std::max(width, w);
  } else {
    nn::UNetConfig unet = resensemble::model_config_from_json(c.net).net.unet;
    for (int64_t m : unet.multipliers) width = std::max(width, m * unet.base);
  }
  return 4 * 9 * width * width;
}

std::unique_ptr<nn::Module> module_of(const SegmentCheckpoint& c) {
  if (c.kind == "e2e") return std::make_unique<nn::E2ENet>(nn::e2e_net_config_from_json(c.net), 0);
  return std::make_unique<nn::Denoiser>(resensemble::model_config_from_json(c.net).net, 0);
}

}  // namespace

void save_segment_checkpoint(const std::string& path, SegmentCheckpoint& c) {
  require_finite("weight", c.model);
  require_finite("averaged weight", c.ema);
  Metadata metadata = {{"format", kSegmentFormat}, {"version", "1"}, {"class_names", Json(c.class_names).dump()}};
  for_texts(c, [&](const char* key, const std::string& value) { metadata[key] = value; });
  for_numbers(c, [&](const char* key, auto value) { metadata[key] = number_as_text(value); });
  c.hash = save_checkpoint_file(path, tensors_of(c, kParts), metadata);
}

SegmentCheckpoint load_segment_checkpoint(const std::string& path) {
  io::Safetensors file = load_checkpoint_file(path);
  SegmentCheckpoint c = from_metadata(path, file.metadata);
  std::unique_ptr<nn::Module> module;
  try {
    if (largest_tensor(c) > int64_t(fs::file_size(path)))
      fail(Error::Kind::checkpoint, "the network that the metadata describes does not fit in the file");
    module = module_of(c);
  } catch (const Error& error) {
    fail(Error::Kind::checkpoint, path, ": ", error.what());
  }
  size_t known = 0;
  for (const auto& part : kParts) {
    if (part.tensors != &SegmentCheckpoint::model && !has_part(file, part.prefix)) continue;
    c.*part.tensors = take_part(path, file, part.prefix, module->parameters());
    known += (c.*part.tensors).size();
  }
  if (known != file.tensors.size())
    fail(Error::Kind::checkpoint, path, ": has ", file.tensors.size(), " tensors, the network of the metadata ", known);
  try {
    for (const auto& part : kParts) require_finite(std::string("tensor of ") + part.prefix + "*", c.*part.tensors);
  } catch (const Error& error) {
    fail(Error::Kind::checkpoint, path, ": ", error.what());
  }
  return c;
}

SegmentCheckpoint load_segment(const std::string& flag, const std::string& given, const std::string& kind) {
  std::error_code ignored;
  if (!fs::exists(given, ignored)) fail(Error::Kind::checkpoint, flag, ": there is no run or checkpoint at ", given);
  SegmentCheckpoint c = fs::is_directory(given)
                            ? load_newest(given, "to use it, give " + flag + " {}", load_segment_checkpoint)
                            : load_segment_checkpoint(given);
  if (!kind.empty() && c.kind != kind)
    fail(Error::Kind::checkpoint, flag, ": ", c.path, " is of kind ", c.kind, ", needed is ", kind,
         " (mote segment train-", kind, ")");
  return c;
}

bool is_segment_run(const std::string& folder) { return is_run_of(folder, kSegmentFormat); }

}  // namespace mote::apps
