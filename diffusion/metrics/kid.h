// kid.h - the kernel inception distance: a squared maximum mean discrepancy whose estimate has no bias, so that, unlike
// the Frechet distance, its expectation does not depend on the number of images. It may come out below 0.
#pragma once
#include "tensor/tensor.h"

namespace mote::metrics {

/// MMD^2 = 1/(N(N-1)) sum_{i != j} k(x_i, x_j) + 1/(M(M-1)) sum_{i != j} k(y_i, y_j) - 2/(NM) sum_{i, j} k(x_i, y_j),
///   k(a, b) = (a.b / D + 1)^3                                          [Gretton 2012, eq. 3; Binkowski 2018, sec. 4]
///   x [N, D], y [M, D], f32 or f64, N and M >= 2; computed in f64
/// Throws Error(argument) for another shape or dtype, Error(data) on a value that is not finite, other widths, or fewer
/// than two rows.
double mmd2(const Tensor& x, const Tensor& y);

struct KidOptions {
  int64_t subset = 1000;   // images of each side in a subset
  int64_t subsets = 100;
  uint64_t seed = 0;       // of the choice of subsets
  /// 1000, or half of `images` where that is less: subsets of all images would all be the same one.
  static int64_t subset_for(int64_t images) { return images / 2 < 1000 ? images / 2 : 1000; }
};

struct Kid {
  double mean = 0;   // over the subsets
  double std = 0;    // sample standard deviation over the subsets, 0 for a single one; they overlap: no standard error
};

/// mmd2 of `subsets` pairs of subsets, each drawn without replacement; a function of features and options alone.
/// Throws as mmd2 does; Error(data) if a side has fewer rows than a subset, Error(argument) for subset < 2 or
/// subsets < 1.
Kid kid(const Tensor& x, const Tensor& y, const KidOptions& options = {});

}  // namespace mote::metrics
