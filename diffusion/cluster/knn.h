// knn.h - nearest neighbours, exactly, and classification by them: how well a space keeps classes together, near and
// farther off.
#pragma once
#include <functional>
#include <vector>

#include "tensor/tensor.h"

namespace mote::cluster {

struct Neighbours {
  Tensor rows;      // i64 [M, k], of the reference; the nearest first
  Tensor squared;   // f64 [M, k], squared distances
};

/// The k rows of `reference` that are nearest to each query.
///   reference  f32 or f64 [N, D]; queries likewise [M, D]; 1 <= k <= N
/// Euclidean; at equal distance the smaller row is nearer. They are ordered by products in f32 for f32, around the mean of
/// the reference: neighbours that differ by less than its rounding may change places. The same for any number of
/// threads. Throws Error(argument) for another shape or dtype or k < 1, Error(data) on a value that is not finite,
/// other widths or k > N.
Neighbours nearest_rows(const Tensor& reference, const Tensor& queries, int64_t k);

/// The same with every row asked about all others: k < N.
Neighbours nearest_rows(const Tensor& x, int64_t k);

/// Neighbours under changes that leave the kind of a thing as it is:
///   |i -> j| = min over c of |x_i - x_j| and |x_i - copy_c(j)|
///   copy(c)  rows like x, row i of it x_i under change c, 0 <= c < copies; asked for once each, in order
/// A row is given the nearest k of those that it finds among its own k and those that find it among theirs, at the less
/// of the two distances. Errors as above.
Neighbours nearest_under(const Tensor& x, int64_t copies, const std::function<Tensor(int64_t)>& copy, int64_t k);

/// For one number of neighbours k.
struct KnnScore {
  int64_t k = 0;
  double accuracy = 0;  // of the majority of the k nearest; among equally frequent classes the smallest label wins
  double share = 0;     // of the k nearest that have the right class, averaged over the queries
};

/// Scores of classifying `queries` by their neighbours in `reference`, for every k of `ks`.
///   reference  f32 or f64 [N, D], its labels i64 [N]; queries likewise [M, D], [M]
/// Neighbours and errors are those of nearest_rows.
std::vector<KnnScore> knn_scores(const Tensor& reference, const Tensor& reference_labels, const Tensor& queries,
                                 const Tensor& query_labels, const std::vector<int64_t>& ks);

/// The same with every row asked about all others: k < N.
std::vector<KnnScore> knn_scores(const Tensor& x, const Tensor& labels, const std::vector<int64_t>& ks);

}  // namespace mote::cluster
