// classifier.h - a small network in the manner of LeNet that tells classes apart. Generated images are scored by what
// its last hidden layer sees in them; it knows nothing of that, and is trained by who needs it.
#pragma once
#include <deque>
#include <string>

#include "nn/layers.h"

namespace mote::nn {

struct ClassifierConfig {
  int64_t height = 28, width = 28, channels = 1;   // of an image
  int64_t classes = 10;
  int64_t features = 128;   // width of the last hidden layer

  /// Stages of a 5x5 convolution and a halving: two, or as many as bring the longer side down to 8.
  int64_t stages() const;
  /// Throws Error(usage) naming the first value outside its range.
  void validate() const;
  bool operator==(const ClassifierConfig&) const = default;
};

/// Json text of a config, and back. Throws Error(checkpoint) on a missing or unknown key or a bad value.
std::string to_json(const ClassifierConfig& config);
ClassifierConfig classifier_config_from_json(const std::string& text);

/// stages of avg_pool(silu(conv5x5)) with 16, 32, 64, 64, ... channels, a hidden layer, and one output a class.
///                                                                                             [LeCun 1998, sec. II]
/// Average pooling as there; silu for tanh, so that no feature saturates or dies: features whose spread is zero would
/// leave the covariances that are compared without full rank.
class Classifier : public Module {
 public:
  Classifier(const ClassifierConfig& config, uint64_t seed);
  /// The last hidden layer: [N, features] for x [N, height, width, channels] in [-1, 1]. Sides that the halvings do not
  /// divide are filled up with -1 at the bottom and the right. Throws Error if x has another shape.
  Tensor features(const Tensor& x) const;
  /// [N, classes] from the features of x; softmax gives probabilities.
  Tensor logits(const Tensor& features) const;
  Tensor forward(const Tensor& x) const { return logits(features(x)); }
  const ClassifierConfig& config() const { return config_; }

 private:
  ClassifierConfig config_;
  int64_t padded_height_, padded_width_;
  std::deque<Conv2d> convs_;
  Linear hidden_, out_;
};

}  // namespace mote::nn
