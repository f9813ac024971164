#include "apps/cluster_eval.h"

#include <algorithm>
#include <cmath>

#include "apps/image_source.h"
#include "diffusion/cluster/kmeans.h"

namespace mote::apps {
namespace {

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

}  // namespace mote::apps
