// feature_net.h - the classifier whose features metrics are computed on: trained here once for a data set, by a fixed
// recipe and seed, and kept in a file. Its hash is part of the name of every score made with it, because scores of
// other features are other numbers.
#pragma once
#include <memory>
#include <string>

#include "apps/dataset.h"
#include "nn/classifier.h"

namespace mote::apps {

struct FeatureNet {
  std::unique_ptr<nn::Classifier> network;   // on the CPU, in evaluation mode
  std::string data_hash;      // Dataset::hash of the images it was trained on
  std::string recipe;         // how, in words
  double accuracy = 0;        // share of held-out images whose class it finds
  int64_t held_out = 0;       // how many those were
  std::string hash;           // over weights, config, data hash and recipe; 16 digits

  /// LeNet-1a2b3c: the first six digits of the hash.
  std::string name() const { return "LeNet-" + hash.substr(0, 6); }
};

/// Trains on the labelled images of `train` and measures the accuracy on `test`; without a test set every tenth image
/// of `train` is held out. The same data give the same bits, whatever the number of threads.
/// Throws Error(usage) if there are no labels or fewer than two classes, Error(data) if the sets differ in shape or
/// there are fewer than 20 images, Exit if a signal comes.
FeatureNet train_feature_net(const Dataset& train, const Dataset* test, bool quiet);

/// One safetensors file, written atomically. Throws Error(resource) if it cannot be written.
void save_feature_net(const std::string& path, const FeatureNet& net);

/// Throws Error(checkpoint) naming file and cause, Error(data) if it cannot be opened.
FeatureNet load_feature_net(const std::string& path);

/// The file's network if there is one, else a new one, which is saved there unless `path` is empty. `options` says
/// which data to train on, its split being ignored; with an empty spec the file must exist. A file that was trained on
/// other data than `options` names is Error(checkpoint), not replaced. A remark on stderr, unless quiet, says what was
/// done. Throws Error(usage) if there is neither a file nor data, Error(resource) if the file could not be written.
FeatureNet feature_net(const std::string& path, const DataOptions& options, bool quiet);

struct ImageFeatures {
  Tensor features;   // f32 [N, features]
  Tensor labels;     // i64 [N], the class that the network takes each image for
  Tensor probabilities = {};   // f32 [N, classes], softmax of its outputs
};
/// Of u8 images [N, H, W, C]. Throws Error(data) if they have another shape than the network was trained on.
ImageFeatures image_features(const FeatureNet& net, const Tensor& images);

}  // namespace mote::apps
