// spectral.h - spectral embedding: coordinates that follow the graph of nearest neighbours, so that a cluster may have any
// shape. Before a mixture or k-means.
#pragma once
#include <functional>

#include "diffusion/cluster/knn.h"

namespace mote::cluster {

struct SpectralOptions {
  int64_t width = 10;        // coordinates
  int64_t neighbours = 10;   // of a point, that it has an edge to
  int64_t scale = 7;         // s_i is the distance to this neighbour, or to the last if there are fewer
  bool unit_rows = true;     // every row of y is scaled to length 1
  double tolerance = 1e-6;   // of |A v - value v|
  int max_rounds = 500;      // of the eigenvalue iteration
  uint64_t seed = 0;         // of its start
  /// Called before each round with the largest residual so far; false ends the iteration where it is.
  std::function<bool(int round, double residual)> progress = {};
};

struct Spectral {
  Tensor y;             // f64 [N, width]: the eigenvectors as columns; the largest element of each is > 0 before rows are scaled
  Tensor values;        // f64 [width], descending; as many are 1 as the graph has parts without a connection
  double residual = 0;  // the largest |A v - value v|
};

/// Eigenvectors of the largest eigenvalues of A = D^-1/2 W D^-1/2, D = diag(sum_j w_ij),
///   w_ij = exp(-|x_i - x_j|^2 / (s_i s_j))  if i is among the neighbours of j or j among those of i, else 0
///                                                              [Ng 2002; s_i: Zelnik-Manor 2004, eq. 3]
///   x  f32 or f64 [N, D], finite; 1 <= neighbours < N, 1 <= width, width + 10 <= N
/// by subspace iteration with Chebyshev filters in f64.                                                  [Zhou 2006]
/// The same bits for any number of threads. Throws Error(argument) for another shape, dtype or option, Error(data) on a
/// value that is not finite or too few points, Error(numeric) if the iteration does not end.
Spectral spectral_embedding(const Tensor& x, const SpectralOptions& options = {});

/// The same of a graph whose neighbours are known, each row by some notion of distance; options.neighbours is not read.
Spectral spectral_embedding(const Neighbours& neighbours, const SpectralOptions& options = {});

}  // namespace mote::cluster
