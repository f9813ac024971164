#include "apps/feature_net.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "apps/common.h"
#include "apps/progress.h"
#include "apps/signals.h"
#include "autograd/ops.h"
#include "nn/optim.h"
#include "tensor/error.h"
#include "tensor/io/file.h"
#include "tensor/io/safetensors.h"

namespace mote::apps {
namespace {

constexpr const char* kFormat = "mote-classifier";

// The recipe. A change here makes other features, and shows in the hash.
constexpr uint64_t kSeed = 20;
constexpr int64_t kBatch = 64, kEpochs = 4, kFewestSteps = 300, kMostSteps = 4000;
constexpr double kRate = 2e-3;
constexpr int64_t kFewestImages = 20, kHeldOutEvery = 10;
constexpr int64_t kFeatureBatch = 256;

int64_t steps_for(int64_t images) { return std::clamp(kEpochs * images / kBatch, kFewestSteps, kMostSteps); }

std::string recipe(int64_t steps) {
  return concat_text("AdamW, rate ", kRate, ", cosine, ", steps, " steps of ", kBatch, ", seed ", kSeed);
}

std::string hash_of(const FeatureNet& net) {
  io::Hasher hasher;
  for (const std::string& text : {nn::to_json(net.network->config()), net.data_hash, net.recipe})
    hasher.update(text.c_str(), text.size() + 1);  // with the 0 at the end: texts cannot run into each other
  for (const auto& [name, value] : net.network->parameters()) {
    hasher.update(name.c_str(), name.size() + 1);
    hasher.update(value.raw(), size_t(value.nbytes()));
  }
  return hasher.hex();
}

/// The images with number % kHeldOutEvery == 0, or all others.
Dataset tenth(const Dataset& data, bool held_out) {
  std::vector<int64_t> rows;
  for (int64_t n = 0; n < data.count(); ++n)
    if ((n % kHeldOutEvery == 0) == held_out) rows.push_back(n);
  Dataset part = data;
  part.images = empty(data.images.shape().with(0, int64_t(rows.size())), DType::u8);
  part.labels = empty({int64_t(rows.size())}, DType::i64);
  for (size_t i = 0; i < rows.size(); ++i) {
    part.images.rows(int64_t(i), int64_t(i) + 1).copy_(data.images.rows(rows[i], rows[i] + 1));
    part.labels.data<int64_t>()[i] = data.labels.data<int64_t>()[rows[i]];
  }
  return part;
}

void require_trainable(const Dataset& train, const Dataset* test) {
  if (!train.labels.defined())
    fail(Error::Kind::usage, "the images of ", train.name,
         " have no labels, which training the classifier needs; give "
         "--classifier FILE with a trained one");
  if (train.classes() < 2)
    fail(Error::Kind::usage, "the images of ", train.name, " are of one class; a classifier needs two");
  if (train.count() < kFewestImages)
    fail(Error::Kind::data, train.name, ": ", train.count(), " images are too few to train a classifier; ",
         kFewestImages, " are needed");
  if (test && !(test->images.shape().without(0) == train.images.shape().without(0)))
    fail(Error::Kind::data, train.name, ": training images are ", describe(train.images), ", test images ",
         describe(test->images), "; --size makes them equal");
}

double accuracy_of(const FeatureNet& net, const Dataset& data) {
  Tensor found = image_features(net, data.images).labels;
  int64_t right = 0;
  for (int64_t n = 0; n < data.count(); ++n) right += found.data<int64_t>()[n] == data.labels.data<int64_t>()[n];
  return double(right) / double(data.count());
}

/// Fails now rather than after minutes of training.
void require_writable(const std::string& path) {
  std::string parent = std::filesystem::path(path).parent_path().string();
  if (parent.empty()) parent = ".";
  if (access(parent.c_str(), W_OK | X_OK) != 0)
    fail(Error::Kind::resource, "--classifier: cannot write ", path, ": ", std::strerror(errno));
}

}  // namespace

// ---- Training ------------------------------------------------------------------------------------------------------

FeatureNet train_feature_net(const Dataset& train, const Dataset* test, bool quiet) {
  require_trainable(train, test);
  Dataset shown = test ? train : tenth(train, false), held_out = test ? *test : tenth(train, true);
  nn::ClassifierConfig config{.height = train.images.size(1),
                              .width = train.images.size(2),
                              .channels = train.images.size(3),
                              .classes = train.classes()};
  FeatureNet net;
  net.network = std::make_unique<nn::Classifier>(config, kSeed);
  net.data_hash = train.hash;
  int64_t steps = steps_for(shown.count());
  net.recipe = recipe(steps);
  {
    nn::Arena arena(*net.network);
    nn::Optimizer optimizer(arena,
                            {.lr = kRate, .warmup = steps / 20, .schedule = "cosine", .total_steps = steps, .ema = 0});
    BatchLoader loader(shown, kBatch, kSeed, false);
    Progress progress("train classifier", 0, steps, "step", quiet);
    for (int64_t step = 0; step < steps; ++step) {
      exit_if_stopped();
      Batch batch = loader.next();
      arena.zero_grad();
      backward(cross_entropy(net.network->forward(batch.images), batch.labels));
      optimizer.step();
      progress.update(step + 1);
    }
    progress.finish();
  }
  net.network->train(false);
  net.held_out = held_out.count();
  net.accuracy = accuracy_of(net, held_out);
  net.hash = hash_of(net);
  return net;
}

// ---- The file ------------------------------------------------------------------------------------------------------

void save_feature_net(const std::string& path, const FeatureNet& net) {
  io::save_safetensors(path, net.network->parameters(),
                       {{"format", kFormat},
                        {"version", "1"},
                        {"classifier", nn::to_json(net.network->config())},
                        {"data_hash", net.data_hash},
                        {"recipe", net.recipe},
                        {"accuracy", number_text(net.accuracy)},
                        {"held_out", std::to_string(net.held_out)}});
}

FeatureNet load_feature_net(const std::string& path) {
  io::Safetensors file = io::load_safetensors(path);
  auto text = [&](const char* key) -> const std::string& {
    auto found = file.metadata.find(key);
    if (found == file.metadata.end())
      fail(Error::Kind::checkpoint, path, ": metadata '", key, "' is missing; this is not a classifier of mote");
    return found->second;
  };
  if (text("format") != kFormat || text("version") != "1")
    fail(Error::Kind::checkpoint, path, ": metadata 'format' is '", text("format"), "', version '", text("version"),
         "'; needed is ", kFormat, ", version 1");
  FeatureNet net;
  try {
    net.network = std::make_unique<nn::Classifier>(nn::classifier_config_from_json(text("classifier")), kSeed);
    net.network->load_state(file.tensors);
  } catch (const Error& error) {
    fail(Error::Kind::checkpoint, path, ": ", error.what());
  }
  net.network->train(false);
  net.data_hash = text("data_hash");
  net.recipe = text("recipe");
  net.accuracy = std::strtod(text("accuracy").c_str(), nullptr);
  net.held_out = std::strtoll(text("held_out").c_str(), nullptr, 10);
  net.hash = hash_of(net);
  return net;
}

FeatureNet feature_net(const std::string& path, const DataOptions& options, bool quiet) {
  auto say = [&](const FeatureNet& net, const std::string& how) {
    if (quiet) return;
    std::fprintf(stderr, "classifier %s%s: finds the class of %.1f%% of %s held-out images\n", net.name().c_str(),
                 how.c_str(), 100 * net.accuracy, count_text(net.held_out).c_str());
  };
  bool exists = !path.empty() && std::filesystem::exists(path);
  if (options.spec.empty() && !exists)
    fail(Error::Kind::usage, path.empty() ? "no classifier: give --classifier FILE, or --data SPEC to train one on"
                                          : concat_text("--classifier: there is no file ", path,
                                                        ", and no --data SPEC to train a new one on"));
  if (options.spec.empty()) {
    FeatureNet net = load_feature_net(path);
    say(net, " of " + path);
    return net;
  }
  DataOptions part = options;
  part.split = "train";
  Dataset train = load_dataset(part);
  if (exists) {
    FeatureNet net = load_feature_net(path);
    if (net.data_hash != train.hash)
      fail(Error::Kind::checkpoint, path, ": this classifier was trained on other images (hash ", net.data_hash,
           ") than ", train.name, " has (", train.hash, "); give --classifier with another name to train one on them");
    say(net, " of " + path);
    return net;
  }
  if (!path.empty()) require_writable(path);
  std::vector<std::string> splits = dataset_splits(options.spec);
  FeatureNet net;
  if (std::find(splits.begin(), splits.end(), "test") != splits.end()) {
    part.split = "test";
    Dataset test = load_dataset(part);
    net = train_feature_net(train, &test, quiet);
  } else {
    net = train_feature_net(train, nullptr, quiet);
  }
  if (!path.empty()) save_feature_net(path, net);
  say(net, " trained on " + train.name + (path.empty() ? "" : ", kept in " + path));
  return net;
}

// ---- Features ------------------------------------------------------------------------------------------------------

ImageFeatures image_features(const FeatureNet& net, const Tensor& images) {
  const nn::ClassifierConfig& config = net.network->config();
  if (!(images.shape().without(0) == Shape{config.height, config.width, config.channels}))
    fail(Error::Kind::data, "the classifier was trained on images of ", config.height, " x ", config.width, " x ",
         config.channels, ", but these are ", describe(images), "; --size and --channels change them");
  NoGrad no_grad;
  int64_t N = images.size(0);
  ImageFeatures result{empty({N, config.features}), empty({N}, DType::i64)};
  for (int64_t first = 0; first < N; first += kFeatureBatch) {
    int64_t end = std::min(N, first + kFeatureBatch);
    Tensor features = net.network->features(to_unit(images.rows(first, end)));
    result.features.rows(first, end).copy_(features);
    result.labels.rows(first, end).copy_(argmax(net.network->logits(features), 1));
  }
  return result;
}

}  // namespace mote::apps
