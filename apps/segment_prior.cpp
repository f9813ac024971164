#include "apps/segment_prior.h"

#include <chrono>
#include <cmath>
#include <filesystem>

#include "apps/dataset.h"
#include "apps/draw.h"
#include "apps/progress.h"
#include "apps/signals.h"
#include "nn/segmentation_losses.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"
#include "tensor/io/npy.h"
#include "tensor/io/safetensors.h"

namespace mote::apps {
namespace {

namespace fs = std::filesystem;
constexpr int64_t kBatch = 64;
constexpr const char* kCacheFormat = "mote-segment-f";

}  // namespace

// ---- End-to-end models ---------------------------------------------------------------------------------------------

E2EModel load_e2e(const std::string& flag, const std::string& run, Device device) {
  E2EModel model;
  model.checkpoint = load_segment(flag, run, "e2e");
  SegmentCheckpoint& c = model.checkpoint;
  if (c.best.empty())
    fail(Error::Kind::checkpoint, flag, ": ", c.path, " has no validation behind it yet: it stands at step ", c.step);
  model.config = keys_from_json<E2EConfig>("end-to-end configuration", c.train);
  model.net = std::make_unique<nn::E2ENet>(nn::e2e_net_config_from_json(c.net), 0);
  model.net->load_state(as_map(c.best));
  model.net->train(false);
  model.net->to(device);
  c.model.clear();
  c.m.clear();
  c.v.clear();
  c.best.clear();
  return model;
}

void require_fits(const E2EModel& model, const Tensor& images, int64_t classes) {
  const SegmentCheckpoint& c = model.checkpoint;
  if (images.size(1) != c.height || images.size(2) != c.width || images.size(3) != c.channels || classes != c.classes)
    fail(Error::Kind::checkpoint, c.path, ": this end-to-end model is for images of ", c.height, " x ", c.width, " x ",
         c.channels, " and ", c.classes, " classes; these are ", images.size(1), " x ", images.size(2), " x ",
         images.size(3), " and ", classes, " classes");
}

Tensor e2e_logits(const nn::E2ENet& net, const Tensor& images, Device device, const OnImages& on_images) {
  NoGrad no_grad;
  int64_t N = images.size(0);
  Tensor all = empty(images.shape().with(3, net.config().channels_out));
  for (int64_t first = 0; first < N; first += kBatch) {
    int64_t end = std::min(N, first + kBatch);
    Tensor logits = net.forward(to_unit(images.rows(first, end)).to(device));
    all.rows(first, end).copy_(logits);
    if (on_images) on_images(end);
  }
  return all;
}

Tensor e2e_probabilities(const E2EModel& model, const Tensor& images, Device device, bool tta,
                         const OnImages& on_images) {
  NoGrad no_grad;
  double tau = model.checkpoint.temperature;
  if (!tta) return nn::probabilities(e2e_logits(*model.net, images, device, on_images), tau);
  std::vector<Move> moves = symmetries(images.size(1), images.size(2));
  Tensor sum;
  for (size_t i = 0; i < moves.size(); ++i) {
    Tensor p = nn::probabilities(e2e_logits(*model.net, moved(images, moves[i]), device), tau);
    p = moved(p, inverse(moves[i]));
    sum = sum.defined() ? sum + p : p;
    if (on_images) on_images(images.size(0) * int64_t(i + 1) / int64_t(moves.size()));
  }
  return affine(sum, 1 / double(moves.size()), 0);
}

// ---- Cached predictions ---------------------------------------------------------------------------------------------

void save_cached_f(const std::string& path, const CachedF& cached) {
  std::map<std::string, std::string> metadata = {
      {"format", kCacheFormat}, {"version", "1"}, {"source", cached.source}, {"folds", std::to_string(cached.folds)}};
  nn::NamedTensors tensors;
  for (const auto& [part, probability] : cached.probabilities) {
    tensors.emplace_back(part, probability);
    metadata["hash." + part] = cached.hashes.at(part);
  }
  require_finite("predictions of part", tensors);
  io::save_safetensors(path, tensors, metadata);
}

CachedF load_cached_f(const std::string& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) fail(Error::Kind::checkpoint, "there is no file of predictions at ", path);
  io::Safetensors file = io::load_safetensors(path);
  auto text = [&](const std::string& key) {
    auto found = file.metadata.find(key);
    if (found == file.metadata.end()) fail(Error::Kind::checkpoint, path, ": metadata '", key, "' is missing");
    return found->second;
  };
  if (!file.metadata.count("format") || text("format") != kCacheFormat)
    fail(Error::Kind::checkpoint, path, ": this is no file of mote segment cache-f");
  CachedF cached;
  cached.source = text("source");
  cached.folds = std::atoll(text("folds").c_str());
  for (auto& [part, tensor] : file.tensors) {
    if (tensor.dtype() != DType::f32 || tensor.ndim() != 4)
      fail(Error::Kind::checkpoint, path, ": part '", part, "' must be f32 [N, H, W, C], is ", describe(tensor));
    cached.hashes[part] = text("hash." + part);
    cached.probabilities[part] = tensor;
  }
  return cached;
}

// ---- The prior of a part --------------------------------------------------------------------------------------------

namespace {

Shape wanted_shape(const Pairs& data) { return data.images.shape().with(3, data.classes == 2 ? 1 : data.classes); }

void require_probabilities(const std::string& where, const Tensor& p) {
  const float* values = p.data<float>();
  for (int64_t i = 0; i < p.numel(); ++i)
    if (!(values[i] >= 0 && values[i] <= 1))
      fail(Error::Kind::data, where, ": value ", i, " is ", values[i], ", a probability lies in [0, 1]");
}

Tensor read_map(const std::string& folder, const std::string& name, const Shape& wanted) {
  std::string png = folder + "/" + name + ".png", npy = folder + "/" + name + ".npy";
  std::error_code ignored;
  Tensor map;
  std::string path = fs::exists(npy, ignored) ? npy : png;
  if (path == npy) {
    map = io::load_npy(npy);
    if (!is_floating(map.dtype()))
      fail(Error::Kind::data, npy, ": probabilities must be f32 or f64, these are ", describe(map));
    map = map.to(DType::f32);
    if (map.ndim() == 2) map = map.view(map.shape().inserted(2, 1));
  } else if (fs::exists(png, ignored)) {
    map = affine(io::load_image(png, 1).to(DType::f32), 1.0 / 255, 0);
  } else {
    fail(Error::Kind::data, "--f-dir: there is no probability map for image '", name, "': neither ", png, " nor ", npy);
  }
  if (!(map.shape() == wanted))
    fail(Error::Kind::data, path, ": the probability map is ", map.shape(), ", its image needs ", wanted,
         wanted[2] > 1 && path == png ? " (of several classes: .npy)" : "");
  require_probabilities(path, map);
  return map;
}

}  // namespace

Prior load_prior(const PriorSource& source, const Pairs& data, Device device, bool quiet) {
  Prior prior;
  Shape wanted = wanted_shape(data);
  std::string what = data.split + " part of " + data.name;
  if (!source.e2e.empty()) {
    E2EModel model = load_e2e("--e2e", source.e2e, device);
    require_fits(model, data.images, data.classes);
    Progress progress("f of " + data.split, 0, data.count(), "image", quiet);
    auto begun = std::chrono::steady_clock::now();
    prior.probability = e2e_probabilities(model, data.images, device, false, [&](int64_t done) {
      exit_if_stopped();
      progress.update(done);
    });
    prior.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    prior.about = "end-to-end model " + model.checkpoint.hash;
    bool seen = data.split == "train" && model.checkpoint.data_hash == data.hash && model.config.folds == 0;
    if (seen) prior.about += ", which was trained on these images";
  } else if (!source.f.empty()) {
    CachedF cached = load_cached_f(source.f);
    auto found = cached.probabilities.find(data.split);
    if (found == cached.probabilities.end())
      fail(Error::Kind::data, source.f, ": holds no predictions for the ", what);
    if (cached.hashes.at(data.split) != data.hash)
      fail(Error::Kind::data, source.f, ": these predictions belong to other data: their hash is ",
           cached.hashes.at(data.split), ", the ", what, " has ", data.hash);
    prior.probability = found->second;
    prior.about = "cached, " + cached.source;
    if (!(prior.probability.shape() == wanted))
      fail(Error::Kind::checkpoint, source.f, ": part '", data.split, "' is ", prior.probability.shape(),
           ", needed is ", wanted);
    require_probabilities(source.f, prior.probability);
  } else if (!source.f_dir.empty()) {
    if (!fs::is_directory(source.f_dir)) fail(Error::Kind::data, "--f-dir: there is no folder ", source.f_dir);
    prior.probability = empty(wanted);
    for (int64_t i = 0; i < data.count(); ++i)
      prior.probability.rows(i, i + 1).view(wanted.without(0)).copy_(
          read_map(source.f_dir, data.names[size_t(i)], wanted.without(0)));
    prior.about = "maps in " + source.f_dir;
  } else {
    prior.probability = full(wanted, data.classes == 2 ? 0.5 : 1 / double(data.classes));
    prior.about = "none";
  }
  prior.hash = io::hash_hex(prior.probability.raw(), size_t(prior.probability.nbytes()));
  return prior;
}

Tensor prior_in(resensemble::Coding coding, const Tensor& given, int64_t classes, bool hard) {
  NoGrad no_grad;
  bool spread = given.size(3) == 1 && coding != resensemble::Coding::binary;
  Tensor probability = spread ? concat({affine(given, -1, 1), given}, 3) : given;
  Tensor f = resensemble::encode_probabilities(coding, probability);
  if (!hard) return f;
  Tensor ids;
  if (coding == resensemble::Coding::bits) ids = argmax(probability, 3);
  else ids = resensemble::decode(coding, f, classes);
  return resensemble::encode(coding, ids, classes);
}

}  // namespace mote::apps
