#include "apps/ot_map.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "apps/common.h"
#include "apps/image_source.h"
#include "tensor/io/safetensors.h"

namespace mote::apps {

using Json = nlohmann::ordered_json;

namespace {

constexpr const char* kFormat = "mote-ot-map-1";

/// Of a network that load_ot_map or the fit has checked.
Schedule schedule_of(const MapNetwork& network) { return Schedule::named(network.schedule, network.T); }

}  // namespace

ot::Targets OtMap::targets() const {
  Tensor values = is_images() ? to_unit(points) : points;
  if (network && network->latents == ot::Latents::stored)
    values = ot::stored_states(schedule_of(*network).level(network->level), values, seed);
  return ot::Targets::in_memory(values, {.dtype = dtype, .weights = weights});
}

// ---- The file ------------------------------------------------------------------------------------------------------

void save_ot_map(const std::string& path, OtMap& map) {
  const ot::Quality& quality = map.result.quality;
  Json json = {{"data", map.data},
               {"data_hash", map.data_hash},
               {"source", ot::name_of(map.source)},
               {"dtype", map.dtype == DType::bf16 ? "bf16" : "f32"},
               {"seed", std::to_string(map.seed)},
               {"recipe", map.recipe},
               {"wanted_chi2", map.wanted_chi2},
               {"converged", map.result.converged},
               {"chi2", quality.chi2},
               {"chi2_low", quality.low},
               {"chi2_high", quality.high},
               {"empty", quality.empty},
               {"samples", map.result.samples},
               {"certificate_samples", map.result.certificate_samples},
               {"seconds", map.result.seconds},
               {"flops", map.result.flops}};
  if (map.network)
    json["network"] = {{"checkpoint_hash", map.network->checkpoint_hash},
                       {"schedule", map.network->schedule},
                       {"T", map.network->T},
                       {"level", map.network->level},
                       {"latents", ot::name_of(map.network->latents)}};
  std::vector<std::pair<std::string, Tensor>> tensors = {{"heights", map.heights}, {"points", map.points}};
  if (!map.weights.empty()) {
    Tensor weights = empty({int64_t(map.weights.size())}, DType::f64);
    std::copy(map.weights.begin(), map.weights.end(), weights.data<double>());
    tensors.push_back({"weights", weights});
  }
  io::save_safetensors(path, tensors, {{"format", kFormat}, {"map", json.dump()}});
  map.hash = io::read_safetensors_header(path).second.at("mote.hash");
  map.path = path;
}

OtMap load_ot_map(const std::string& path) {
  io::Safetensors file = io::load_safetensors(path);
  auto refuse = [&](const auto&... parts) { fail(Error::Kind::checkpoint, path, ": ", parts...); };
  if (auto format = file.metadata.find("format"); format == file.metadata.end() || format->second != kFormat)
    refuse("this is not a transport map of `mote ot fit`");
  OtMap map;
  map.path = path;
  map.hash = file.metadata["mote.hash"];
  for (const char* name : {"heights", "points"})
    if (!file.tensors.count(name)) refuse("tensor '", name, "' is missing");
  map.heights = file.tensors["heights"];
  map.points = file.tensors["points"];
  try {
    Json json = Json::parse(file.metadata.at("map"));
    json.at("data").get_to(map.data);
    json.at("data_hash").get_to(map.data_hash);
    json.at("recipe").get_to(map.recipe);
    json.at("wanted_chi2").get_to(map.wanted_chi2);
    json.at("converged").get_to(map.result.converged);
    json.at("chi2").get_to(map.result.quality.chi2);
    json.at("chi2_low").get_to(map.result.quality.low);
    json.at("chi2_high").get_to(map.result.quality.high);
    json.at("empty").get_to(map.result.quality.empty);
    json.at("samples").get_to(map.result.samples);
    json.at("certificate_samples").get_to(map.result.certificate_samples);
    json.at("seconds").get_to(map.result.seconds);
    json.at("flops").get_to(map.result.flops);
    map.source = ot::source_named(json.at("source").get<std::string>());
    map.dtype = precision_named(json.at("dtype").get<std::string>());
    map.seed = std::stoull(json.at("seed").get<std::string>());
    if (json.contains("network")) {
      const Json& network = json["network"];
      map.network = MapNetwork{network.at("checkpoint_hash"), network.at("schedule"), network.at("T"),
                               network.at("level"), ot::latents_named(network.at("latents").get<std::string>())};
      schedule_of(*map.network).level(map.network->level);
    }
  } catch (const std::exception& error) {  // of json, of a number, or our own for a bad name
    refuse("the metadata is damaged: ", error.what());
  }
  bool is_images = map.points.dtype() == DType::u8 && map.points.ndim() == 4 && map.network;
  bool is_points = map.points.dtype() == DType::f32 && map.points.ndim() == 2 && !map.network;
  if (!(is_images || is_points) || map.points.numel() == 0)
    refuse("points are ", describe(map.points), ", needs u8 [N, H, W, C] with a network or f32 [N, D] without");
  if (map.heights.dtype() != DType::f32 || !(map.heights.shape() == Shape{map.count()}))
    refuse("heights are ", describe(map.heights), ", needs f32 [", map.count(), "], one a point");
  require_finite(path, {{"heights", map.heights}});
  if (auto found = file.tensors.find("weights"); found != file.tensors.end()) {
    if (found->second.dtype() != DType::f64 || !(found->second.shape() == Shape{map.count()}))
      refuse("weights are ", describe(found->second), ", needs f64 [", map.count(), "]");
    map.weights = found->second.to_vector();
  }
  return map;
}

void require_map_of(const OtMap& map, const Checkpoint& checkpoint) {
  auto refuse = [&](const auto&... parts) { fail(Error::Kind::checkpoint, map.path, ": ", parts...); };
  if (!map.network) refuse("this map was fitted to the points of ", map.data, ", not to images of a network");
  Shape image = map.points.shape().without(0);
  Shape wanted{checkpoint.unet.size, checkpoint.unet.size, checkpoint.unet.channels};
  if (!(image == wanted))
    refuse("this map is of images ", image, ", but the network of ", checkpoint.path, " draws ", wanted);
  if (map.network->schedule != checkpoint.schedule || map.network->T != checkpoint.T)
    refuse("this map is of a ", map.network->schedule, " schedule with T = ", map.network->T, ", but the network of ",
           checkpoint.path, " has a ", checkpoint.schedule, " one with T = ", checkpoint.T);
  if (map.network->checkpoint_hash != checkpoint.hash)
    refuse("this map was fitted for another network (checkpoint ", map.network->checkpoint_hash, ") than ",
           checkpoint.path, " (", checkpoint.hash, "); `mote ot fit` makes one for it");
}

Json describe_map(const OtMap& map) {
  const ot::Quality& quality = map.result.quality;
  Json json = {{"map", map.path},
               {"map_hash", map.hash},
               {"targets", map.count()},
               {"data", map.data},
               {"data_hash", map.data_hash},
               {"source", ot::name_of(map.source)},
               {"recipe", map.recipe},
               {"map_seed", map.seed},
               {"chi2", quality.chi2},
               {"chi2_interval", {quality.low, quality.high}},
               {"converged", map.result.converged},
               {"solve_samples", map.result.samples},
               {"solve_seconds", map.result.seconds},
               {"solve_flops", map.result.flops}};
  if (map.network) {
    json["level"] = map.network->level;
    json["latents"] = ot::name_of(map.network->latents);
  }
  return json;
}

std::string map_text(const OtMap& map) {
  const ot::Quality& quality = map.result.quality;
  char numbers[160];
  std::snprintf(numbers, sizeof numbers, "chi2 %.4f (95%%: %.4f to %.4f)%s, %.1f samples a target, %s, %.3g flops",
                quality.chi2, quality.low, quality.high, map.result.converged ? "" : " NOT CONVERGED",
                double(map.result.samples) / double(map.count()), seconds_text(map.result.seconds).c_str(),
                map.result.flops);
  return concat_text(map.path, ": ", count_text(map.count()), " targets of ", map.data, ", ", numbers);
}

// ---- dpm-ot as a sampler -------------------------------------------------------------------------------------------

bool is_dpm_ot(const std::string& name) {
  std::string front = name.substr(0, name.find_first_of(":@"));
  return front == "dpm-ot" || front == "copy";
}

DpmOtName dpm_ot_name(const std::string& name, const std::string& file, const std::string& finish) {
  DpmOtName result{.text = name, .file = file, .finish = finish};
  std::string front = name;
  if (size_t at = name.find('@'); at != std::string::npos) {
    result.file = name.substr(at + 1);
    front = name.substr(0, at);
  }
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= front.size();) {
    size_t end = std::min(front.find(':', begin), front.size());
    parts.push_back(front.substr(begin, end - begin));
    begin = end + 1;
  }
  result.is_copy = parts[0] == "copy";
  auto refuse = [&](const auto&... rest) { fail(Error::Kind::usage, "sampler '", name, "': ", rest...); };
  if (parts.size() > (result.is_copy ? 1u : 3u))
    refuse("needs the form ", result.is_copy ? "copy[@FILE]" : "dpm-ot[:LEVEL[:FINISH]][@FILE]");
  if (parts.size() > 1) {
    const char* end = parts[1].data() + parts[1].size();
    auto [stop, error] = std::from_chars(parts[1].data(), end, result.level);
    if (error != std::errc() || stop != end || result.level < 0) refuse("'", parts[1], "' is not a level");
  }
  if (parts.size() > 2) result.finish = parts[2];
  std::vector<std::string> known = sampler_names();
  std::erase_if(known, [](const std::string& sampler) {  // they go by continuous time from s = 1
    return sampler == "pf-euler" || sampler == "pf-rk45" || sampler == "fon";
  });
  if (std::find(known.begin(), known.end(), result.finish) == known.end())
    refuse("'", result.finish, "' cannot go on from the level: choose from ", joined(known),
           did_you_mean(result.finish, known));
  if (result.file.empty()) refuse("needs a map: give --map FILE, or @FILE behind the name");
  return result;
}

std::string DpmOtName::label(const OtMap& map) const {
  return is_copy ? "copy" : concat_text("dpm-ot:", start_level(map, level), ":", finish);
}

int64_t start_level(const OtMap& map, int64_t wanted) {
  check(map.network.has_value(), "start_level: needs a map of images");
  const MapNetwork& network = *map.network;
  if (wanted == -1 || wanted == network.level) return network.level;
  if (wanted < 0 || wanted >= network.T)
    fail(Error::Kind::usage, "level ", wanted, " lies outside the schedule, which has 0 to T - 1 = ", network.T - 1);
  if (network.latents == ot::Latents::stored)
    fail(Error::Kind::usage, map.path, ": this map is of the stored states of level ", network.level, "; level ",
         wanted, " needs a map of its own, or one fitted with --latents fresh");
  return wanted;
}

SamplerOptions finish_options(const OtMap& map, const DpmOtName& name, SamplerOptions base, int64_t calls) {
  base.name = name.finish;
  base.start = start_level(map, name.level);
  return resolved(with_network_calls(schedule_of(*map.network), base, calls));
}

ot::Start Jump::start(const Schedule& schedule, int64_t level, uint64_t seed, int64_t first, int64_t count) const {
  return ot::start_states(targets_, map_.heights, source(), map_.network->latents, schedule.level(level), seed, first,
                          count);
}

std::vector<int64_t> Jump::chosen(uint64_t seed, int64_t count) const {
  constexpr int64_t kAtATime = 4096;
  std::vector<int64_t> all;
  for (int64_t first = 0; first < count; first += kAtATime) {
    Tensor index = ot::chosen_targets(targets_, map_.heights, source(), seed, first, std::min(kAtATime, count - first));
    all.insert(all.end(), index.data<int64_t>(), index.data<int64_t>() + index.numel());
  }
  for (int64_t& index : all) index = targets_.given(index);
  return all;
}

}  // namespace mote::apps
