// knn.h - classification by the nearest neighbours: how well a space keeps classes together, near and farther off.
#pragma once
#include <vector>

#include "tensor/tensor.h"

namespace mote::cluster {

/// For one number of neighbours k.
struct KnnScore {
  int64_t k = 0;
  double accuracy = 0;   // of the majority of the k nearest; among equally frequent classes the smallest label wins
  double share = 0;      // of the k nearest that have the right class, averaged over the queries
};

/// Scores of classifying `queries` by their neighbours in `reference`, for every k of `ks`.
///   reference  f32 or f64 [N, D], its labels i64 [N]; queries likewise [M, D], [M]
/// Euclidean; at equal distance the smaller row is nearer. Distances are products in f32 for f32, around the mean of the
/// reference: neighbours that differ by less than its rounding may change places. The same for any number of threads.
/// Throws Error(argument) for another shape or dtype or k < 1, Error(data) on a value that is not finite, other widths or
/// k > N.
std::vector<KnnScore> knn_scores(const Tensor& reference, const Tensor& reference_labels, const Tensor& queries,
                                 const Tensor& query_labels, const std::vector<int64_t>& ks);

/// The same with every row asked about all others: k < N.
std::vector<KnnScore> knn_scores(const Tensor& x, const Tensor& labels, const std::vector<int64_t>& ks);

}  // namespace mote::cluster
