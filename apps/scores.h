// scores.h - the metrics of diffusion/metrics/ under the names and with the settings that `mote eval` and
// `mote compare` share, so that both print the same number for the same images.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "apps/feature_net.h"
#include "diffusion/metrics/neighbours.h"

namespace mote::apps {

struct Metric {
  std::string key;       // on the command line, in JSON and in the CSV
  std::string title;     // behind the features' name: LeNet-1a2b3c-FD@5k
  std::string about;     // for --help and the page
  bool log = false;      // spans orders of magnitude and is positive: drawn on a logarithmic axis
  bool by_pixels = false;   // of the images themselves: no features stand in its name, and score() does not make it
};

/// fd, kid, prec, rec, density, coverage, tv, mix0.1 .. mix0.4, near, near_target, hit, in the order in which they are
/// shown.
const std::vector<Metric>& all_metrics();
/// Throws Error(usage) listing the keys.
const Metric& metric_named(const std::string& key);

/// LeNet-1a2b3c-FD@5k for ("LeNet-1a2b3c", FD, 5000): scores of other features or counts are other numbers.
std::string score_name(const std::string& features, const Metric& metric, int64_t count);

struct ScoreOptions {
  metrics::PrdcOptions prdc;
  int64_t kid_subsets = 100;
  uint64_t seed = 0;         // of the subsets of KID
};

/// Values by key, and kid_std beside kid. A metric that was not asked for is missing.
using Scores = std::map<std::string, double>;

/// The metrics in `keys` of images that are to look like `real`, of `classes` classes. Labels and probabilities may be
/// undefined: then there is no tv, and no mix. Throws as the metrics do.
Scores score(const ImageFeatures& samples, const ImageFeatures& real, int64_t classes,
             const std::vector<std::string>& keys, const ScoreOptions& options);

/// How the subsets and neighbour numbers of these metrics were chosen, in words; empty if they have none.
std::string settings_text(const std::vector<std::string>& keys, const ScoreOptions& options, int64_t count);

}  // namespace mote::apps
