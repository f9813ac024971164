#include "apps/interchange.h"

#include <filesystem>

#include "apps/common.h"
#include "apps/diffusers_config.h"
#include "tensor/io/file.h"

namespace mote::apps {
namespace {

namespace fs = std::filesystem;

constexpr const char* kWeights = "diffusion_pytorch_model.safetensors";
constexpr const char *kConfig = "config.json", *kScheduler = "scheduler_config.json", *kIndex = "model_index.json";
// What export leaves in the metadata of the weights for import: the network and its noise, as a checkpoint has them.
constexpr const char *kUnetKey = "mote.unet", *kScheduleKey = "mote.schedule", *kStepsKey = "mote.T",
                     *kPredictionKey = "mote.prediction";

// ---- Import --------------------------------------------------------------------------------------------------------

/// `given`, or the weights in the folder that it is: of a UNet, or of a pipeline with the UNet in a folder of its own.
std::string weights_path(const std::string& given) {
  if (!fs::is_directory(given)) {
    if (!fs::exists(given)) fail(Error::Kind::checkpoint, "there is no file at ", given);
    return given;
  }
  // The last one is a pickle, which the reader refuses and says what to do about it.
  for (const std::string& name :
       {std::string(kWeights), std::string("unet/") + kWeights, std::string("diffusion_pytorch_model.bin")})
    if (fs::exists(given + "/" + name)) return given + "/" + name;
  fail(Error::Kind::checkpoint, given, ": neither ", kWeights, " nor unet/", kWeights, " is in this folder");
}

/// The first of `names`, relative to the folder of `path`, that exists, or "".
std::string beside(const std::string& path, const std::vector<std::string>& names) {
  for (const std::string& name : names)
    if (fs::path found = fs::path(path).parent_path() / name; fs::exists(found))
      return found.lexically_normal().string();
  return "";
}

Naming naming_asked(const ImportRequest& request, const ForeignFile& file) {
  if (request.naming.empty()) return naming_of(file);
  if (request.naming == "diffusers") return diffusers_naming_of(file);
  if (request.naming == "ddim") return Naming::ddim;
  fail(Error::Kind::usage, "--naming: '", request.naming, "' is not known; diffusers and ddim are");
}

template <class T>
struct Found {
  T value;
  std::string source;   // where it was found, in words
};

/// The network that export wrote into the file. A config.json of another one is refused: either may be wrong.
nn::UNetConfig recorded_config(const ImportRequest& request, const ForeignFile& file, const std::string& config_json) {
  nn::UNetConfig recorded;
  try {
    recorded = nn::unet_config_from_json(file.metadata.at(kUnetKey));
  } catch (const Error& error) {
    fail(Error::Kind::checkpoint, file.path, ": metadata '", kUnetKey, "': ", error.what());
  }
  if (request.size > 0) recorded.fit(request.size, recorded.channels);
  if (config_json.empty()) return recorded;
  nn::UNetConfig told = unet_from_diffusers(config_json, request.size, true), comparable = canonical(recorded);
  told.dropout = comparable.dropout;   // which changes no output
  if (!(told == comparable))
    fail(Error::Kind::checkpoint, config_json, ": describes another network than the metadata of ", file.path,
         "; give --config-json to follow it, or take it away\n  config.json: ", nn::to_json(told),
         "\n  metadata:    ", nn::to_json(comparable));
  return recorded;
}

Found<nn::UNetConfig> find_network(const ImportRequest& request, const ForeignFile& file, Naming naming) {
  bool is_ddim = naming == Naming::ddim;
  if (!request.config_json.empty() && !request.unet.empty())
    fail(Error::Kind::usage, "--config-json and --unet both name the network; give one of them");
  if (!request.config_json.empty())
    return {unet_from_diffusers(request.config_json, request.size, request.null_class), request.config_json};
  if (!request.unet.empty() && request.unet != "ddpm") {
    nn::UNetConfig preset = nn::UNetConfig::preset(request.unet);
    return {request.size > 0 ? preset.fit(request.size, preset.channels) : preset, "--unet " + request.unet};
  }
  std::string config_json = is_ddim ? "" : beside(file.path, {kConfig});
  if (request.unet.empty() && file.metadata.count(kUnetKey))
    return {recorded_config(request, file, config_json), "as exported"};
  if (request.unet.empty() && !config_json.empty())
    return {unet_from_diffusers(config_json, request.size, request.null_class), config_json};
  if (request.unet.empty() && !is_ddim)
    fail(Error::Kind::usage, file.path, ": there is no config.json beside it, and groups, eps, heads, padding and the ",
         "embedding of the time cannot be seen in the weights; give --config-json FILE, --unet tiny, fmnist, cifar10,",
         " or --unet ddpm --size N for a network that has them as Ho 2020 has");
  if (request.size <= 0)
    fail(Error::Kind::usage,
         "--size: the size of the images cannot be seen in the weights; give it, or another --unet than ddpm");
  return {config_from_shapes(file, naming, request.size, request.null_class),
          "shapes of the tensors, all else as Ho 2020"};
}

Found<Noise> find_noise(const ImportRequest& request, const ForeignFile& file) {
  Found<Noise> found{{}, "the default"};
  std::string scheduler = beside(file.path, {kScheduler, std::string("../scheduler/") + kScheduler});
  if (!scheduler.empty()) {
    found = {noise_from_diffusers(scheduler), scheduler};
  } else if (auto schedule = file.metadata.find(kScheduleKey); schedule != file.metadata.end()) {
    try {
      found.value = {schedule->second, std::stoll(file.metadata.at(kStepsKey)),
                     prediction_named(file.metadata.at(kPredictionKey))};
    } catch (const std::exception& error) {
      fail(Error::Kind::checkpoint, file.path, ": the metadata of the noise is damaged: ", error.what());
    }
    found.source = "as exported";
  }
  if (!request.schedule.empty()) found.value.schedule = request.schedule;
  if (request.T > 0) found.value.T = request.T;
  if (!request.prediction.empty()) found.value.prediction = prediction_named(request.prediction);
  if (!request.schedule.empty() || request.T > 0 || !request.prediction.empty()) found.source += " and flags";
  Schedule::named(found.value.schedule, found.value.T);
  return found;
}

}   // namespace

Checkpoint import_weights(const ImportRequest& request) {
  ForeignFile file = open_foreign(weights_path(request.file));
  Naming naming = naming_asked(request, file);
  Found<nn::UNetConfig> network = find_network(request, file, naming);
  Found<Noise> noise = find_noise(request, file);
  ForeignWeights weights = read_weights(file, network.value, naming);
  Checkpoint c;
  c.unet = network.value;
  c.schedule = noise.value.schedule;
  c.T = noise.value.T;
  c.prediction = noise.value.prediction;
  c.ema = std::move(weights.tensors);   // what `mote sample` takes; other programs publish averaged weights too
  c.source = concat_text(name_of(naming), " names in ", file.path, " (hash ", weights.hash,
                         "); network: ", network.source, "; noise: ", noise.source);
  return c;
}

// ---- Export --------------------------------------------------------------------------------------------------------

namespace {

void require_free(const ExportRequest& request) {
  bool is_file = request.naming == Naming::ddim;
  if (request.out.empty())
    fail(Error::Kind::usage, "--out: the ", is_file ? "name of the new file" : "new folder", " is missing");
  if (is_file && fs::is_directory(request.out))
    fail(Error::Kind::usage, "--out: ", request.out, " is a folder; a file name is needed");
  if (!is_file && fs::exists(request.out) && !fs::is_directory(request.out))
    fail(Error::Kind::usage, "--out: ", request.out, " is a file; diffusers needs a folder");
  bool is_taken = is_file ? fs::exists(request.out) : fs::exists(request.out) && !fs::is_empty(request.out);
  if (is_taken && !request.overwrite)
    fail(Error::Kind::usage, "--out: ", request.out, " exists; give --overwrite or another name");
}

void require_expressible(const nn::UNetConfig& config, const ExportRequest& request) {
  bool is_ddim = request.naming == Naming::ddim;
  std::vector<std::string> differences = is_ddim ? not_in_ddim(config) : not_in_diffusers(config);
  if (differences.empty() || request.weights_only) return;
  fail(Error::Kind::usage, "--naming ", is_ddim ? "ddim" : "diffusers",
       ": that program cannot compute what this network does:\n  ", joined(differences, "\n  "),
       "\n  --weights-only writes the weights under its names all the same, for a program that you adapt");
}

}   // namespace

std::vector<std::string> export_weights(const Checkpoint& c, const nn::NamedTensors& weights,
                                        const ExportRequest& request) {
  require_free(request);
  require_expressible(c.unet, request);
  std::map<std::string, std::string> metadata = {{"format", "pt"},   // which readers of such files ask for
                                                 {kUnetKey, nn::to_json(c.unet)},
                                                 {kScheduleKey, c.schedule},
                                                 {kStepsKey, std::to_string(c.T)},
                                                 {kPredictionKey, name_of(c.prediction)}};
  if (request.naming == Naming::ddim) {
    write_weights(request.out, weights, c.unet, request.naming, metadata);
    return {request.out};
  }
  std::vector<std::pair<std::string, std::string>> texts;   // made before anything is written
  if (!request.weights_only)
    texts = {{kConfig, unet_to_diffusers(c.unet)},
             {kScheduler, noise_to_diffusers({c.schedule, c.T, c.prediction})},
             {kIndex, diffusers_index()}};
  bool is_new = fs::create_directories(request.out);
  auto path = [&](const std::string& name) { return (fs::path(request.out) / name).string(); };
  // While the weights are replaced there is no config.json, so that half of an export is never taken for a whole one.
  for (const char* name : {kConfig, kScheduler, kIndex}) fs::remove(path(name));
  std::vector<std::string> files{path(kWeights)};
  try {
    write_weights(files[0], weights, c.unet, request.naming, metadata);
  } catch (...) {
    std::error_code ignored;
    if (is_new) fs::remove(request.out, ignored);
    throw;
  }
  for (const auto& [name, text] : texts) {
    files.push_back(path(name));
    io::write_file_atomic(files.back(), text);
  }
  return files;
}

}   // namespace mote::apps
