// segment_prior.h - where the prior f of a residual DDPM comes from: an end-to-end run, a file of cross-fitted
// predictions (`mote segment cache-f`), or a folder with anybody's probability maps. Everything here is probabilities
// in [0, 1]; resensemble::encode_probabilities makes f of them.
#pragma once
#include <map>
#include <memory>
#include <string>

#include "apps/pairs.h"
#include "apps/segment_checkpoint.h"
#include "apps/segment_config.h"
#include "nn/e2e_net.h"

namespace mote::apps {

/// A trained end-to-end model: the weights of its best validation, in evaluation mode.
struct E2EModel {
  SegmentCheckpoint checkpoint;   // without tensors
  E2EConfig config;
  std::unique_ptr<nn::E2ENet> net;
};
/// Of a run folder or a checkpoint file. Error(checkpoint) naming `flag`.
E2EModel load_e2e(const std::string& flag, const std::string& run, Device device);
/// Error(checkpoint) naming both sizes unless the model was trained on images of this size, channels and classes.
void require_fits(const E2EModel& model, const Tensor& images, int64_t classes);

/// Called with the number of images done.
using OnImages = std::function<void(int64_t done)>;

/// Logits f32 [N, H, W, K] on the CPU for images u8 [N, H, W, C].
Tensor e2e_logits(const nn::E2ENet& net, const Tensor& images, Device device, const OnImages& on_images = {});
/// Probabilities at the model's temperature, f32 [N, H, W, 1 or C]. tta: the mean over all symmetries of the square.
Tensor e2e_probabilities(const E2EModel& model, const Tensor& images, Device device, bool tta = false,
                         const OnImages& on_images = {});

/// Predictions for the parts of a data set, each with the hash of the part that it belongs to.
struct CachedF {
  std::map<std::string, Tensor> probabilities;   // train, val, test: f32 [N, H, W, 1 or C]
  std::map<std::string, std::string> hashes;
  std::string source;                            // which models, in words
  int64_t folds = 0;
};
void save_cached_f(const std::string& path, const CachedF& cached);
/// Throws Error(checkpoint) naming file and cause.
CachedF load_cached_f(const std::string& path);

struct PriorSource {
  std::string e2e, f, f_dir;   // one of them, or none
  bool is_none() const { return e2e.empty() && f.empty() && f_dir.empty(); }
};
struct Prior {
  Tensor probability;   // f32 [N, H, W, 1 or C]; 1/2 or 1/C without a source
  std::string about;    // in words
  std::string hash;     // of the values
  double seconds = 0;   // that computing it took; 0 if it was read
};
/// The prior of every image of the part. Throws Error(data) naming the part and both hashes if a cached file is of
/// other data, or the file if a map is missing, of another size or outside [0, 1]; Error(checkpoint) if a model does
/// not fit.
Prior load_prior(const PriorSource& source, const Pairs& data, Device device, bool quiet);

/// f of these probabilities in a coding; hard: of the decision instead.
Tensor prior_in(resensemble::Coding coding, const Tensor& probability, int64_t classes, bool hard);

}  // namespace mote::apps
