#include "apps/cluster_checkpoint.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "apps/checkpoint_file.h"
#include "apps/weights.h"

namespace mote::apps {
namespace {

using Json = nlohmann::ordered_json;

constexpr CheckpointPart<ClusterCheckpoint> kParts[] = {{"model.", &ClusterCheckpoint::model},
                           {"ema.", &ClusterCheckpoint::ema},
                           {"opt.m.", &ClusterCheckpoint::m},
                           {"opt.v.", &ClusterCheckpoint::v},
                           {"buffer.", &ClusterCheckpoint::buffers}};

/// Whole numbers and floats of the metadata, by key, so that writing and reading cannot disagree.
template <class C, class Visit>
void for_numbers(C& c, const Visit& visit) {
  visit("step", c.step);
  visit("images", c.images);
  visit("pretrain_steps", c.pretrain_steps);
  visit("fitted_step", c.fitted_step);
  visit("noise", c.noise);
  visit("matching", c.matching);
  visit("free_energy", c.free_energy);
  visit("seed", c.seed);
  visit("random_seed", c.random.seed);
  visit("random_offset", c.random.offset);
  visit("data_count", c.data_count);
}

ClusterCheckpoint from_metadata(const std::string& path, const Metadata& metadata) {
  auto text = [&](const std::string& key) -> const std::string& { return metadata_text(path, metadata, key); };
  require_format(path, metadata, kClusterFormat, "mote cluster train");
  ClusterCheckpoint c;
  c.path = path;
  for_numbers(c, [&](const char* key, auto& value) {
    value = metadata_number<std::decay_t<decltype(value)>>(path, key, text(key));
  });
  c.data = text("data");
  c.data_hash = text("data_hash");
  c.train = text("train");
  c.hash = text(kHashKey);
  try {
    c.class_names = Json::parse(text("class_names")).get<std::vector<std::string>>();
    c.config = cluster::model_config_from_json(text("config"));
  } catch (const std::exception& error) {
    fail(Error::Kind::checkpoint, path, ": ", error.what());
  }
  return c;
}

/// Refuses metadata whose networks have larger tensors than the file could hold, before memory is asked for.
void require_room(const ClusterCheckpoint& c, int64_t bytes) {
  int64_t width = c.config.net.width, largest = std::max(9 * 4 * width * width, c.config.net.latent * 2 * width);
  if (c.config.unet)
    for (int64_t multiplier : c.config.unet->multipliers)
      largest = std::max(largest, 9 * multiplier * c.config.unet->base * multiplier * c.config.unet->base);
  if (largest * 4 > bytes)
    fail(Error::Kind::checkpoint, c.path, ": the networks that the metadata describes do not fit in the file: a tensor of ",
         largest * 4, " bytes, but the file has ", bytes);
}

}  // namespace

void save_cluster_checkpoint(const std::string& path, ClusterCheckpoint& c) {
  require_finite("weight", c.model);
  require_finite("averaged weight", c.ema);
  require_finite("running statistic", c.buffers);
  Metadata metadata = {{"format", kClusterFormat},
                       {"version", "1"},
                       {"data", c.data},
                       {"data_hash", c.data_hash},
                       {"class_names", Json(c.class_names).dump()},
                       {"train", c.train},
                       {"config", cluster::to_json(c.config)}};
  for_numbers(c, [&](const char* key, auto value) { metadata[key] = number_as_text(value); });
  nn::NamedTensors tensors = tensors_of(c, kParts);
  if (c.mixture) {
    tensors.emplace_back("mixture.weights", c.mixture->weights);
    tensors.emplace_back("mixture.means", c.mixture->means);
    tensors.emplace_back("mixture.covariances", c.mixture->covariances);
  }
  c.hash = save_checkpoint_file(path, tensors, metadata);
}

ClusterCheckpoint load_cluster_checkpoint(const std::string& path) {
  io::Safetensors file = load_checkpoint_file(path);
  ClusterCheckpoint c = from_metadata(path, file.metadata);
  require_room(c, int64_t(std::filesystem::file_size(path)));
  cluster::Model model(c.config, 0);
  size_t known = 0;
  for (const auto& part : kParts) {
    bool is_buffer = part.tensors == &ClusterCheckpoint::buffers;
    if (!is_buffer && !has_part(file, part.prefix)) continue;
    c.*part.tensors = take_part(path, file, part.prefix, is_buffer ? model.buffers() : model.parameters());
    known += (c.*part.tensors).size();
  }
  if (c.fitted_step >= 0) {
    c.mixture.emplace();
    const std::pair<const char*, Tensor*> parts[] = {{"mixture.weights", &c.mixture->weights},
                                                     {"mixture.means", &c.mixture->means},
                                                     {"mixture.covariances", &c.mixture->covariances}};
    for (auto [name, tensor] : parts) {
      auto found = file.tensors.find(name);
      if (found == file.tensors.end()) fail(Error::Kind::checkpoint, path, ": tensor '", name, "' is missing");
      *tensor = found->second;
      ++known;
    }
  }
  if (known != file.tensors.size())
    fail(Error::Kind::checkpoint, path, ": has ", file.tensors.size(), " tensors, the networks and the mixture of the metadata ",
         known);
  try {
    for (const auto& part : kParts) require_finite(std::string("tensor of ") + part.prefix + "*", c.*part.tensors);
    if (c.mixture) cluster::require_mixture("mixture", *c.mixture);
  } catch (const Error& error) {
    fail(Error::Kind::checkpoint, path, ": ", error.what());
  }
  if (c.mixture && c.mixture->width() != c.config.net.latent)
    fail(Error::Kind::checkpoint, path, ": the mixture is of width ", c.mixture->width(), ", the codes have ",
         c.config.net.latent, " numbers");
  if (c.model.empty()) fail(Error::Kind::checkpoint, path, ": holds no weights");
  return c;
}

std::unique_ptr<cluster::Model> model_of(const ClusterCheckpoint& checkpoint, const std::string& weights) {
  require_weights(weights);
  auto model = std::make_unique<cluster::Model>(checkpoint.config, 0);
  model->load_state(as_map(weights == "ema" && !checkpoint.ema.empty() ? checkpoint.ema : checkpoint.model));
  copy_into(model->buffers(), checkpoint.buffers);
  model->train(false);
  return model;
}

const cluster::Mixture& mixture_of(const ClusterCheckpoint& checkpoint) {
  if (!checkpoint.mixture)
    fail(Error::Kind::checkpoint, checkpoint.path, ": no mixture has been fitted yet: the run stands at step ",
         checkpoint.step, " of its pretraining (", checkpoint.pretrain_steps, " steps)");
  return *checkpoint.mixture;
}

}  // namespace mote::apps
