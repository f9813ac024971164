#include "apps/cluster_eval.h"

#include <algorithm>
#include <cmath>

#include "apps/image_source.h"
#include "apps/run_log.h"
#include "diffusion/cluster/kmeans.h"
#include "diffusion/cluster/pca.h"
#include "diffusion/cluster/tsne.h"

namespace mote::apps {
namespace {

constexpr int64_t kMixtureAxes = 32, kTsneAxes = 30;   // principal components

/// Mean and spread of scores over tries.
ClusterRow row_of(const std::string& name, const std::vector<ClusterScores>& tries) {
  ClusterRow row{name, {0, 0, 0}, {0, 0, 0}, int64_t(tries.size())};
  for (double ClusterScores::*score : {&ClusterScores::accuracy, &ClusterScores::nmi, &ClusterScores::ari}) {
    double sum = 0, squares = 0, count = double(tries.size());
    for (const ClusterScores& one : tries) sum += one.*score;
    row.scores.*score = sum / count;
    for (const ClusterScores& one : tries) squares += (one.*score - sum / count) * (one.*score - sum / count);
    row.spread.*score = tries.size() > 1 ? std::sqrt(squares / (count - 1)) : 0;
  }
  return row;
}

Tensor pixel_rows(const Dataset& data) { return to_unit(data.images).view({data.count(), -1}); }

}  // namespace

std::string score_text(double value, double spread, int64_t tries) {
  char text[48];
  if (!std::isfinite(value)) return "-";
  if (tries > 1) std::snprintf(text, sizeof text, "%.4f +- %.4f", value, spread);
  else std::snprintf(text, sizeof text, "%.4f", value);
  return text;
}

ClusterRow raw_kmeans_row(const Dataset& data, int64_t components, int64_t tries) {
  Tensor pixels = pixel_rows(data);
  std::vector<ClusterScores> scores;
  for (int64_t seed = 0; seed < tries; ++seed) {
    cluster::KMeansOptions options;
    options.clusters = components;
    options.restarts = 1;
    options.seed = uint64_t(seed);
    scores.push_back(score_labels(cluster::kmeans(pixels, options).labels, data.labels));
  }
  return row_of("k-means on pixels", scores);
}

ClusterRow pca_mixture_row(const Dataset& data, int64_t components, int64_t tries) {
  Tensor pixels = pixel_rows(data);
  int64_t axes = std::min<int64_t>(kMixtureAxes, pixels.size(1));
  cluster::Points points{cluster::project(cluster::principal_components(pixels, axes), pixels), {}, {}};
  std::vector<ClusterScores> scores;
  for (int64_t seed = 0; seed < tries; ++seed) {
    cluster::MixtureOptions options;
    options.components = components;
    options.seed = uint64_t(seed);
    cluster::Mixture mixture = cluster::fit_mixture(points, options).mixture;
    scores.push_back(score_labels(cluster::posterior(mixture, points).labels, data.labels));
  }
  return row_of(concat_text("PCA to ", axes, ", diagonal mixture"), scores);
}

NeighbourCurves neighbour_curves(const Dataset& reference, const Tensor& reference_codes, const Dataset* queries,
                                 const Tensor& query_codes) {
  int64_t most = queries ? reference.count() : reference.count() - 1;
  std::vector<int64_t> numbers;
  for (int64_t k : {1, 3, 5, 10, 20, 50, 100})
    if (k <= most) numbers.push_back(k);
  auto scores = [&](const Tensor& space, const Tensor& asked) {
    return queries ? cluster::knn_scores(space, reference.labels, asked, queries->labels, numbers)
                   : cluster::knn_scores(space, reference.labels, numbers);
  };
  return {scores(pixel_rows(reference), queries ? pixel_rows(*queries) : Tensor()), scores(reference_codes, query_codes)};
}

Tensor pca_plane(const Tensor& codes) {
  Tensor plane = cluster::project(cluster::principal_components(codes, std::min<int64_t>(2, codes.size(1))), codes);
  return plane.size(1) == 2 ? plane : concat({plane, zeros({codes.size(0), 1}, DType::f64)}, 1);
}

Tensor tsne_plane(const Tensor& codes, uint64_t seed, const std::function<void(int iteration)>& done) {
  cluster::TsneOptions options;
  options.perplexity = std::min(30.0, double(codes.size(0) - 1) / 3);
  options.seed = seed;
  options.progress = [&](int iteration, double) {
    done(iteration);
    return true;
  };
  // As published: to at most 30 principal components first.
  Tensor few = codes;
  if (codes.size(1) > kTsneAxes) few = cluster::project(cluster::principal_components(codes, kTsneAxes), codes).to(DType::f32);
  return cluster::tsne(few, options).y;
}

ClusterImagesSeen classify_drawn(const FeatureNet& net, const Tensor& drawn, int64_t each, const Tensor& clusters,
                                 const Tensor& labels, int64_t components) {
  int64_t N = clusters.size(0), classes = net.network->config().classes;
  std::vector<int64_t> counts(size_t(components * classes));
  for (int64_t n = 0; n < N; ++n)
    ++counts[size_t(clusters.data<int64_t>()[n] * classes + labels.data<int64_t>()[n])];
  Tensor seen = image_features(net, to_bytes(drawn)).labels;
  ClusterImagesSeen result;
  int64_t right_of_all = 0, drawn_of_all = 0;
  for (int64_t k = 0; k < components; ++k) {
    auto begin = counts.begin() + k * classes, end = begin + classes, most = std::max_element(begin, end);
    int64_t members = 0, right = 0;
    for (auto at = begin; at != end; ++at) members += *at;
    int64_t majority = members > 0 ? most - begin : -1;
    for (int64_t i = k * each; i < (k + 1) * each; ++i) right += seen.data<int64_t>()[i] == majority;
    result.majority.push_back(majority);
    result.purity.push_back(members > 0 ? double(*most) / double(members) : NAN);
    result.share.push_back(members > 0 ? double(right) / double(each) : NAN);
    if (members == 0) continue;
    right_of_all += right;
    drawn_of_all += each;
  }
  result.mean_share = drawn_of_all > 0 ? double(right_of_all) / double(drawn_of_all) : NAN;
  return result;
}

std::vector<std::vector<std::string>> table_of(const ClusterImagesSeen& seen, const std::vector<std::string>& class_names) {
  std::vector<std::vector<std::string>> table{{"cluster", "commonest class", "its share", "of the draws"}};
  for (size_t k = 0; k < seen.majority.size(); ++k) {
    int64_t majority = seen.majority[k];
    std::string name = majority < 0                               ? "none"
                       : majority < int64_t(class_names.size()) ? class_names[size_t(majority)]
                                                                 : std::to_string(majority);
    table.push_back({std::to_string(k), name, score_text(seen.purity[k], 0, 1), score_text(seen.share[k], 0, 1)});
  }
  return table;
}

nlohmann::ordered_json json_of(const ClusterImagesSeen& seen, const FeatureNet& net) {
  nlohmann::ordered_json json = {{"drawn_in_majority_class", number_json(seen.mean_share)},
                                 {"classifier", net.name()},
                                 {"classifier_accuracy", net.accuracy},
                                 {"clusters", nlohmann::ordered_json::array()}};
  for (size_t k = 0; k < seen.majority.size(); ++k)
    json["clusters"].push_back({{"majority", seen.majority[k]}, {"purity", number_json(seen.purity[k])},
                                {"drawn", number_json(seen.share[k])}});
  return json;
}

}  // namespace mote::apps
