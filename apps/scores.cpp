#include "apps/scores.h"

#include <algorithm>

#include "apps/common.h"
#include "diffusion/metrics/frechet.h"
#include "diffusion/metrics/kid.h"
#include "diffusion/metrics/labels.h"
#include "diffusion/metrics/mixture.h"
#include "tensor/error.h"

namespace mote::apps {

const std::vector<Metric>& all_metrics() {
  static const std::vector<Metric> all = [] {
    std::vector<Metric> list = {
        {"fd", "FD", "Frechet distance of the features; 0 is best", true},
        {"kid", "KID", "kernel distance without bias, mean over subsets; 0 is best"},
        {"prec", "precision", "share of samples that look like real images"},
        {"rec", "recall", "share of real images that the samples reach"},
        {"density", "density", "how many real images' neighbourhoods hold a sample; about 1 for real images"},
        {"coverage", "coverage", "share of real images with a sample in their neighbourhood"},
        {"tv", "label-TV", "total variation distance of the classes found; 0 is best"}};
    for (double tau : metrics::mixture_taus())
      list.push_back({"mix" + number_text(tau), "mixed(" + number_text(tau) + ")",
                      "share of images with two classes or more at p >= " + number_text(tau)});
    list.push_back({"near", "nearest-training",
                    "median distance of the pixels to the nearest training image, in levels of 255; 0 is a copy", false,
                    true});
    list.push_back({"near_target", "nearest-target", "dpm-ot: the same to the nearest target of the map", false, true});
    list.push_back({"hit", "targets-hit", "dpm-ot: how many different targets the samples come from", false, true});
    return list;
  }();
  return all;
}

const Metric& metric_named(const std::string& key) {
  std::vector<std::string> keys;
  for (const Metric& metric : all_metrics()) {
    if (metric.key == key) return metric;
    keys.push_back(metric.key);
  }
  fail(Error::Kind::usage, "--metric: '", key, "' is unknown: choose from ", joined(keys), did_you_mean(key, keys));
}

std::string score_name(const std::string& features, const Metric& metric, int64_t count) {
  bool thousands = count >= 1000 && count % 1000 == 0;
  return concat_text(metric.by_pixels ? "" : features + "-", metric.title, "@", thousands ? count / 1000 : count,
                     thousands ? "k" : "");
}

Scores score(const ImageFeatures& samples, const ImageFeatures& real, int64_t classes,
             const std::vector<std::string>& keys, const ScoreOptions& options) {
  auto asked = [&](std::initializer_list<const char*> any) {
    return std::any_of(any.begin(), any.end(),
                       [&](const char* key) { return std::find(keys.begin(), keys.end(), key) != keys.end(); });
  };
  Scores scores;
  if (asked({"fd"})) scores["fd"] = metrics::frechet_distance(samples.features, real.features);
  if (asked({"kid"})) {
    int64_t subset = metrics::KidOptions::subset_for(std::min(samples.features.size(0), real.features.size(0)));
    if (subset < 2)
      fail(Error::Kind::data, "kid: needs 4 images or more a side, got ", samples.features.size(0), " and ",
           real.features.size(0));
    metrics::Kid kid = metrics::kid(samples.features, real.features,
                                    {.subset = subset, .subsets = options.kid_subsets, .seed = options.seed});
    scores["kid"] = kid.mean;
    scores["kid_std"] = kid.std;
  }
  if (asked({"prec", "rec", "density", "coverage"})) {
    metrics::Prdc prdc = metrics::prdc(real.features, samples.features, options.prdc);
    scores["prec"] = prdc.precision;
    scores["rec"] = prdc.recall;
    scores["density"] = prdc.density;
    scores["coverage"] = prdc.coverage;
  }
  if (asked({"tv"}) && samples.labels.defined() && real.labels.defined())
    scores["tv"] = metrics::total_variation(metrics::label_histogram(samples.labels, classes),
                                            metrics::label_histogram(real.labels, classes));
  if (samples.probabilities.defined()) {
    std::vector<double> shares = metrics::mode_mixture(samples.probabilities, metrics::mixture_taus());
    for (size_t i = 0; i < shares.size(); ++i) {
      std::string key = "mix" + number_text(metrics::mixture_taus()[i]);
      if (std::find(keys.begin(), keys.end(), key) != keys.end()) scores[key] = shares[i];
    }
  }
  return scores;
}

std::string settings_text(const std::vector<std::string>& keys, const ScoreOptions& options, int64_t count) {
  std::vector<std::string> parts;
  auto has = [&](const char* key) { return std::find(keys.begin(), keys.end(), key) != keys.end(); };
  if (has("kid"))
    parts.push_back(concat_text("KID over ", options.kid_subsets, " subsets of ",
                                metrics::KidOptions::subset_for(count), " images"));
  if (has("prec") || has("rec"))
    parts.push_back(concat_text("precision and recall with k = ", options.prdc.k_manifold));
  if (has("density") || has("coverage"))
    parts.push_back(concat_text("density and coverage with k = ", options.prdc.k_density));
  return joined(parts, "; ");
}

}  // namespace mote::apps
