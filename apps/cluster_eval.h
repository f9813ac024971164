// cluster_eval.h - how good a clustering is, beside what needs no training: the numbers of `mote cluster eval`.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/cluster_draw.h"
#include "apps/cluster_trainer.h"
#include "apps/feature_net.h"
#include "diffusion/cluster/knn.h"

namespace mote::apps {

/// Four digits, with the spread if there were tries; "-" for what is no number.
std::string score_text(double value, double spread, int64_t tries);

struct ClusterRow {
  std::string name;                 // how the labels were found
  ClusterScores scores;             // of the last or only try
  ClusterScores spread{0, 0, 0};    // standard deviation over tries
  int64_t tries = 1;
};

/// k-means on the pixels of u8 images, one k-means++ start a seed, seeds 0..tries-1: mean and spread.
ClusterRow raw_kmeans_row(const Dataset& data, int64_t components, int64_t tries);
/// A diagonal mixture on the 32 leading principal components of the pixels (all, if there are fewer), in the same way.
ClusterRow pca_mixture_row(const Dataset& data, int64_t components, int64_t tries);

/// How the share of right neighbours falls with their number, among pixels and among the means of codes. Every image of
/// `queries` asks those of `reference`, or, where it is null, all others of its own set. Numbers of neighbours that
/// there are not are left out.
struct NeighbourCurves {
  std::vector<cluster::KnnScore> pixels, codes;
};
NeighbourCurves neighbour_curves(const Dataset& reference, const Tensor& reference_codes, const Dataset* queries,
                                 const Tensor& query_codes);

/// Rows of codes as a picture, the first two principal components, or t-SNE: f64 or f32 [N, 2].
Tensor pca_plane(const Tensor& codes);
Tensor tsne_plane(const Tensor& codes, uint64_t seed, const std::function<void(int iteration)>& done);

/// What a classifier sees in images drawn from each component.
struct ClusterImagesSeen {
  std::vector<int64_t> majority;    // the commonest label of each cluster; -1 for an empty one
  std::vector<double> purity;       // its share among the cluster's images
  std::vector<double> share;        // of the drawn images that the classifier puts into that class
  double mean_share = 0;            // over all drawn images of clusters that are not empty
};
/// `drawn` f32 [K each, ...], `each` images of every component in order; `clusters` and `labels` i64 [N] of real images.
ClusterImagesSeen classify_drawn(const FeatureNet& net, const Tensor& drawn, int64_t each, const Tensor& clusters,
                                 const Tensor& labels, int64_t components);
/// A row a cluster, below a heading; and the same as JSON, with the mean share, the classifier and its accuracy.
std::vector<std::vector<std::string>> table_of(const ClusterImagesSeen& seen, const std::vector<std::string>& class_names);
nlohmann::ordered_json json_of(const ClusterImagesSeen& seen, const FeatureNet& net);

}  // namespace mote::apps
