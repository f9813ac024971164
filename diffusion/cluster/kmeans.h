// kmeans.h - k-means: k-means++ seeding, Lloyd's iteration, restarts picked by inertia, repair of empty clusters. The
// distances of a block of points to all centres are one matrix product. It starts a Gaussian mixture (mixture.h).
#pragma once
#include <vector>

#include "tensor/tensor.h"

namespace mote::cluster {

struct KMeansOptions {
  int64_t clusters = 8;
  int restarts = 10;
  int max_iterations = 300;
  double tolerance = 1e-4;   // stop when the centres move, squared and summed, less than this times the mean variance
                             // of a feature; 0: only when no label changes
  uint64_t seed = 0;         // restart r draws from Generator{seed}.fork(r)
};

struct KMeans {
  Tensor centres;                   // f64 [K, D]
  Tensor labels;                    // i64 [N]: the nearest centre, the smallest index if several are equally near
  std::vector<int64_t> counts;      // points of each centre; 0 only if there are fewer distinct points than centres
  double inertia = 0;               // sum of squared distances to the nearest centre
  int64_t iterations = 0;           // of the restart that was picked
  bool converged = false;
  int64_t repaired = 0;             // empty clusters that were moved, in that restart
  std::vector<double> inertias;     // of every restart
};

/// Minimises  sum_n min_k |x_n - c_k|^2  locally; the restart with the least inertia is returned.
///   x  f32 or f64 [N, D], finite, 1 <= K <= N
/// Seeding draws a point with probability proportional to its squared distance from the centres so far, the best of
/// 2 + floor(ln K) candidates is kept [Arthur 2007, and their remark on greedy choices]. An empty cluster is given the
/// point farthest from its centre. Products in the dtype of x after its mean is taken off, sums in f64; the same bits
/// for any number of threads.
/// Throws Error(argument) for another shape, dtype or option, Error(data) if K > N or a value is not finite.
KMeans kmeans(const Tensor& x, const KMeansOptions& options);

/// Lloyd's iteration from given centres f64 [K, D]; options.clusters, restarts and seed are not read. Errors as above.
KMeans kmeans_from(const Tensor& x, const Tensor& centres, const KMeansOptions& options);

/// The nearest centre of each row: i64 [N]. Errors as above, and Error(data) if the widths differ.
Tensor nearest_centre(const Tensor& x, const Tensor& centres);

}  // namespace mote::cluster
