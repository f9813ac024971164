// neighbours.h - metrics that count neighbours: improved precision and recall, density and coverage, and the nearest
// training image of a sample (is it a copy?). Distances are Euclidean, computed from differences and not from products,
// so that equal rows are exactly 0 apart; memory does not grow with the number of pairs.
#pragma once
#include <vector>

#include "tensor/tensor.h"

namespace mote::metrics {

/// Squared distance from each row of x [N, D] to the k-th nearest of its other rows.
///   f32 or f64; differences and their squares are taken in that dtype, f32 sums in 16 lanes. 1 <= k < N.
/// Throws Error(argument) for another shape or dtype, Error(data) on a value that is not finite or k >= N.
std::vector<double> kth_neighbour(const Tensor& x, int64_t k);

struct Nearest {
  std::vector<int64_t> index;      // of the nearest row; the smallest index if several are equally near
  std::vector<double> distance;    // squared
};
/// For each row of `queries` [N, D] the nearest row of `reference` [M, D]. Errors as above.
Nearest nearest_rows(const Tensor& queries, const Tensor& reference);

struct PrdcOptions {
  int64_t k_manifold = 3;   // precision and recall                                           [Kynkaanniemi 2019]
  int64_t k_density = 5;    // density and coverage                                                   [Naeem 2020]
};

struct Prdc {
  double precision = 0, recall = 0, density = 0, coverage = 0;
};

/// With R_k(x) the closed ball around x whose radius is the distance to the k-th nearest other row of x's own set:
///   precision = share of fake rows that lie in R_k of any real row                    [Kynkaanniemi 2019, eq. 1-2]
///   recall    = share of real rows that lie in R_k of any fake row                    [Kynkaanniemi 2019, eq. 1-2]
///   density   = 1 / (k M) sum over fake rows of how many R_k of real rows hold it; may exceed 1  [Naeem 2020, sec. 3]
///   coverage  = share of real rows whose R_k holds a fake row                                    [Naeem 2020, sec. 3]
///   real [N, D], fake [M, D], f32 or f64; both are converted to f64 unless both are f32; k < N, and k_manifold < M
/// Throws Error(argument) for another shape or dtype or k < 1, Error(data) on a value that is not finite, other widths,
/// or too few rows for k.
Prdc prdc(const Tensor& real, const Tensor& fake, const PrdcOptions& options = {});

}  // namespace mote::metrics
