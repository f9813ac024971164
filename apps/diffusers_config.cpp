#include "apps/diffusers_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "apps/common.h"
#include "apps/foreign_weights.h"
#include "tensor/io/file.h"

namespace mote::apps {
namespace {

using Json = nlohmann::ordered_json;

// ---- Reading keys --------------------------------------------------------------------------------------------------

/// The keys of one file: each is asked for with the value it has where it is missing; what was asked for is known, and
/// everything that is wrong is collected until `finish`.
class Keys {
 public:
  explicit Keys(const std::string& path) : path_(path) {
    constexpr int64_t kLargest = 1 << 20;   // such files have a few kilobytes
    io::Bytes bytes = io::read_file(path, kLargest);
    object_ = Json::parse(bytes.begin(), bytes.end(), nullptr, false);
    if (!object_.is_object()) fail(Error::Kind::checkpoint, path, ": is not a JSON object");
  }

  Json value(const std::string& key, const Json& missing) {
    known_.insert(key);
    return object_.contains(key) ? object_.at(key) : missing;
  }
  /// A problem unless the value is one of `accepted`.
  void only(const std::string& key, const Json& missing, const std::vector<Json>& accepted) {
    Json found = value(key, missing);
    if (std::find(accepted.begin(), accepted.end(), found) == accepted.end())
      problem(key, found, "only " + accepted.front().dump() + " is known here");
  }
  int64_t whole(const std::string& key, const Json& missing) {
    Json found = value(key, missing);
    constexpr int64_t kMost = int64_t(1) << 40;
    bool fits = found.is_number_integer() && found >= 0 && found <= kMost;
    if (!fits) problem(key, found, "a whole number is needed");
    return fits ? found.get<int64_t>() : 1;
  }
  double number(const std::string& key, const Json& missing) {
    Json found = value(key, missing);
    if (!found.is_number()) problem(key, found, "a number is needed");
    return found.is_number() ? found.get<double>() : 1;
  }
  bool truth(const std::string& key, const Json& missing) {
    Json found = value(key, missing);
    if (!found.is_boolean()) problem(key, found, "true or false is needed");
    return found.is_boolean() && found.get<bool>();
  }
  std::string word(const std::string& key, const Json& missing) {
    Json found = value(key, missing);
    if (!found.is_string()) problem(key, found, "a string is needed");
    return found.is_string() ? found.get<std::string>() : "";
  }
  template <class T>
  std::vector<T> list(const std::string& key, const Json& missing) {
    Json found = value(key, missing);
    bool fits = found.is_array() && !found.empty() && found.size() <= 64;
    for (size_t i = 0; fits && i < found.size(); ++i)
      fits = std::is_same_v<T, std::string> ? found[i].is_string()
                                            : found[i].is_number_integer() && found[i] > 0 && found[i] <= 1 << 20;
    if (!fits)
      problem(key, found, std::is_same_v<T, std::string> ? "a list of names is needed" : "a list of widths is needed");
    return fits ? found.get<std::vector<T>>() : std::vector<T>{};
  }

  void ignore(const std::vector<std::string>& keys) { known_.insert(keys.begin(), keys.end()); }
  void problem(const std::string& key, const Json& found, const std::string& rule) {
    problems_.push_back("'" + key + "' is " + found.dump().substr(0, 200) + ": " + rule);
  }
  void finish() {
    for (const auto& item : object_.items())
      if (!known_.count(item.key()))
        problems_.push_back("'" + item.key() + "' is not known, so what it changes is not either");
    if (!problems_.empty())
      fail(Error::Kind::checkpoint, path_, ": cannot be followed; problems: ", problems_.size(), "\n  ",
           joined(problems_, "\n  "));
  }

 private:
  std::string path_;
  Json object_;
  std::set<std::string> known_;
  std::vector<std::string> problems_;
};

/// Whether each level has attention, from the names of its blocks.
std::vector<bool> attention_of(Keys& keys, const std::string& key, const Json& missing, const std::string& plain,
                               const std::string& attending) {
  std::vector<bool> attends;
  for (const std::string& type : keys.list<std::string>(key, missing)) {
    if (type != plain && type != attending)
      keys.problem(key, type, "only " + plain + " and " + attending + " are known here");
    attends.push_back(type == attending);
  }
  return attends;
}

}   // namespace

// ---- The network ---------------------------------------------------------------------------------------------------

nn::UNetConfig unet_from_diffusers(const std::string& path, int64_t size, bool null_class) {
  Keys keys(path);
  // What Mote has no option for.
  keys.only("_class_name", "UNet2DModel", {"UNet2DModel"});
  keys.only("act_fn", "silu", {"silu", "swish"});
  keys.only("center_input_sample", false, {false});
  keys.only("time_embedding_type", "positional", {"positional"});
  keys.only("mid_block_type", "UNetMidBlock2D", {"UNetMidBlock2D"});
  keys.only("mid_block_scale_factor", 1, {1});
  keys.only("downsample_type", "conv", {"conv"});
  keys.only("upsample_type", "conv", {"conv"});
  keys.only("resnet_time_scale_shift", "default", {"default"});
  keys.only("add_attention", true, {true});
  keys.only("class_embed_type", nullptr, {nullptr});
  // What changes nothing: the versions of things, and the count of a learned time embedding, which is refused above.
  keys.ignore({"_diffusers_version", "_name_or_path", "_use_default_values", "num_train_timesteps"});

  nn::UNetConfig config;
  config.blocks = keys.whole("layers_per_block", 2);
  config.dropout = keys.number("dropout", 0.0);
  config.norm_eps = keys.number("norm_eps", 1e-5);
  config.cos_first = keys.truth("flip_sin_to_cos", true);
  config.freq_shift = keys.number("freq_shift", 0);
  config.pad_evenly = keys.value("downsample_padding", 1) != 0;
  keys.only("downsample_padding", 1, {1, 0});

  config.channels = keys.whole("in_channels", 3);
  keys.only("out_channels", 3, {config.channels});
  Json sample_size = keys.value("sample_size", nullptr);
  if (sample_size.is_array() && sample_size.size() == 2 && sample_size[0] == sample_size[1])
    sample_size = sample_size[0];
  bool is_size = sample_size.is_number_integer() && sample_size > 0 && sample_size <= 16384;
  if (size == 0 && !is_size)
    keys.problem("sample_size", sample_size, "one number is needed for height and width; give --size");
  config.size = size > 0 ? size : is_size ? sample_size.get<int64_t>() : 1;

  auto widths = keys.list<int64_t>("block_out_channels", {224, 448, 672, 896});
  std::vector<bool> down =
      attention_of(keys, "down_block_types", {"DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"},
                   "DownBlock2D", "AttnDownBlock2D");
  std::vector<bool> up =
      attention_of(keys, "up_block_types", {"AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"},
                   "UpBlock2D", "AttnUpBlock2D");
  config.multipliers.clear();
  config.attention.clear();
  if (!widths.empty()) config.base = widths[0];
  for (int64_t width : widths) {
    if (width % config.base != 0)
      keys.problem("block_out_channels", widths, "every width must be a multiple of the first");
    config.multipliers.push_back(width / config.base);
  }
  if (down.size() != widths.size())
    keys.problem("down_block_types", down.size(), "one is needed for each of block_out_channels");
  if (!std::equal(down.begin(), down.end(), up.rbegin(), up.rend()))
    keys.problem("up_block_types", keys.value("up_block_types", nullptr),
                 "attention must be at the levels where down_block_types has it");
  for (size_t level = 0; level < std::min<size_t>(down.size(), 14); ++level)
    if (down[level]) config.attention.push_back(config.size >> level);
  keys.only("time_embedding_dim", nullptr, {nullptr, 4 * config.base});

  config.norm_groups = keys.whole("norm_num_groups", 32);
  keys.only("attn_norm_num_groups", nullptr, {nullptr, config.norm_groups});
  if (config.norm_groups == 0) keys.problem("norm_num_groups", 0, "at least one group is needed");
  if (!keys.value("attention_head_dim", 8).is_null()) {   // null: one head as wide as the layer
    config.head_width = keys.whole("attention_head_dim", 8);
    if (config.head_width == 0) keys.problem("attention_head_dim", 0, "heads need a width");
  }
  if (Json classes = keys.value("num_class_embeds", nullptr); !classes.is_null()) {
    config.classes = keys.whole("num_class_embeds", nullptr) - 1;
    if (!null_class || config.classes < 1)
      keys.problem("num_class_embeds", classes,
                   "a class more is needed here, the last, that means none; give --null-class if it is one");
  }
  keys.finish();
  try {
    config.validate();
  } catch (const Error& error) {
    fail(Error::Kind::checkpoint, path, ": ", error.what());
  }
  return canonical(config);
}

namespace {

std::set<int64_t> group_counts(const nn::UNetConfig& config) {
  std::set<int64_t> counts;
  for (int64_t width : config.norm_widths()) counts.insert(config.norm().groups_for(width));
  return counts;
}

std::string listed(const std::set<int64_t>& numbers) {
  std::vector<std::string> words;
  for (int64_t number : numbers) words.push_back(std::to_string(number));
  return joined(words);
}

}   // namespace

std::vector<std::string> not_in_diffusers(const nn::UNetConfig& config) {
  std::vector<std::string> problems;
  if (config.multipliers[0] != 1)
    problems.push_back(concat_text("the first convolution makes ", config.base, " channels and the first level ",
                                   config.width(0), ", which are one number there"));
  if (std::set<int64_t> counts = group_counts(config); counts.size() > 1)
    problems.push_back("its norms have " + listed(counts) + " groups, by their width; there all have the same number, " +
                       "as in a run trained with --groups");
  if (std::set<int64_t> widths = attended_widths(config); config.heads > 1 && widths.size() > 1)
    problems.push_back(concat_text("attention has ", config.heads, " heads in widths of ", listed(widths),
                                   "; there the heads have one width, not one number"));
  return problems;
}

std::string unet_to_diffusers(const nn::UNetConfig& config) {
  check(not_in_diffusers(config).empty(), "unet_to_diffusers: ", joined(not_in_diffusers(config)));
  std::vector<int64_t> widths;
  std::vector<std::string> down, up;
  for (int64_t level = 0; level < config.levels(); ++level) {
    widths.push_back(config.width(level));
    down.push_back(config.attends(level) ? "AttnDownBlock2D" : "DownBlock2D");
    up.insert(up.begin(), config.attends(level) ? "AttnUpBlock2D" : "UpBlock2D");
  }
  Json head_width;   // null: one head as wide as the layer
  if (config.head_width > 0) head_width = config.head_width;
  if (config.heads > 1) head_width = config.width(config.levels() - 1) / config.heads;
  Json classes;
  if (config.classes > 0) classes = config.classes + 1;
  return Json{{"_class_name", "UNet2DModel"},
              {"act_fn", "silu"},
              {"add_attention", true},
              {"attention_head_dim", head_width},
              {"block_out_channels", widths},
              {"center_input_sample", false},
              {"down_block_types", down},
              {"downsample_padding", config.pad_evenly ? 1 : 0},
              {"dropout", config.dropout},
              {"flip_sin_to_cos", config.cos_first},
              {"freq_shift", config.freq_shift},
              {"in_channels", config.channels},
              {"layers_per_block", config.blocks},
              {"mid_block_scale_factor", 1},
              {"norm_eps", config.norm_eps},
              {"norm_num_groups", *group_counts(config).begin()},
              {"num_class_embeds", classes},
              {"out_channels", config.channels},
              {"resnet_time_scale_shift", "default"},
              {"sample_size", config.size},
              {"time_embedding_type", "positional"},
              {"up_block_types", up}}
             .dump(2) +
         "\n";
}

// ---- The noise -----------------------------------------------------------------------------------------------------

namespace {

struct PredictionName {
  Prediction ours;
  const char* theirs;
};
// How images are drawn, for which `mote sample` has flags of its own; and what old files say of their arrays.
const std::vector<std::string> kDrawingKeys = {
    "_class_name", "_diffusers_version", "_name_or_path", "_use_default_values", "algorithm_type", "clip_sample",
    "clip_sample_range", "disable_corrector", "dynamic_thresholding_ratio", "euler_at_final", "final_sigmas_type",
    "flow_shift", "interpolation_type", "lambda_min_clipped", "lower_order_final", "predict_x0", "sample_max_value",
    "set_alpha_to_one", "shift_terminal", "sigma_max", "sigma_min", "skip_prk_steps", "solver_order", "solver_p",
    "solver_type", "steps_offset", "tensor_format", "thresholding", "time_shift_type", "timestep_spacing",
    "timestep_type", "timestep_values", "use_beta_sigmas", "use_exponential_sigmas", "use_karras_sigmas",
    "use_lu_lambdas", "variance_type"};

constexpr PredictionName kPredictions[] = {
    {Prediction::eps, "epsilon"}, {Prediction::x0, "sample"}, {Prediction::v, "v_prediction"}};

}   // namespace

Noise noise_from_diffusers(const std::string& path) {
  Keys keys(path);
  Noise noise;
  noise.T = keys.whole("num_train_timesteps", 1000);
  keys.only("trained_betas", nullptr, {nullptr});
  keys.only("rescale_betas_zero_snr", false, {false});
  keys.only("use_flow_sigmas", false, {false});        // the noise of another kind of model
  keys.only("use_dynamic_shifting", false, {false});
  std::string prediction = keys.word("prediction_type", "epsilon");
  auto known = std::find_if(std::begin(kPredictions), std::end(kPredictions),
                            [&](const PredictionName& name) { return name.theirs == prediction; });
  if (known == std::end(kPredictions))
    keys.problem("prediction_type", prediction, "only epsilon, sample and v_prediction are known here");
  else noise.prediction = known->ours;
  std::string kind = keys.word("beta_schedule", "linear");
  double b0 = keys.number("beta_start", 1e-4), b1 = keys.number("beta_end", 0.02);
  if (kind == "squaredcos_cap_v2") noise.schedule = "cosine";   // the ends of the betas mean nothing to it
  else if (kind != "linear") keys.problem("beta_schedule", kind, "only linear and squaredcos_cap_v2 are known here");
  else if (b0 != 1e-4 || b1 != 0.02) noise.schedule = "linear:" + number_text(b0) + "," + number_text(b1);
  keys.ignore(kDrawingKeys);
  keys.finish();
  try {
    Schedule::named(noise.schedule, noise.T);
  } catch (const Error& error) {
    fail(Error::Kind::checkpoint, path, ": ", error.what());
  }
  return noise;
}

std::string noise_to_diffusers(const Noise& noise) {
  Schedule::named(noise.schedule, noise.T);   // refuses a name that the next lines do not expect
  double b0 = 1e-4, b1 = 0.02;                // of no effect on the cosine schedule
  if (size_t colon = noise.schedule.find(':'), comma = noise.schedule.find(','); colon != std::string::npos) {
    b0 = std::stod(noise.schedule.substr(colon + 1));
    b1 = std::stod(noise.schedule.substr(comma + 1));
  }
  const char* prediction = kPredictions[0].theirs;
  for (const PredictionName& name : kPredictions)
    if (name.ours == noise.prediction) prediction = name.theirs;
  return Json{{"_class_name", "DDPMScheduler"},
              {"beta_start", b0},
              {"beta_end", b1},
              {"beta_schedule", noise.schedule == "cosine" ? "squaredcos_cap_v2" : "linear"},
              {"clip_sample", true},   // this and the next as `mote sample --sampler ddpm` has them
              {"variance_type", "fixed_large"},
              {"num_train_timesteps", noise.T},
              {"prediction_type", prediction}}
             .dump(2) +
         "\n";
}

std::string diffusers_index() {
  return Json{{"_class_name", "DDPMPipeline"},
              {"scheduler", {"diffusers", "DDPMScheduler"}},
              {"unet", {"diffusers", "UNet2DModel"}}}
             .dump(2) +
         "\n";
}

}   // namespace mote::apps
