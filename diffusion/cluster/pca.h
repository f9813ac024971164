// pca.h - principal components: the axes along which data vary most. Before a mixture or t-SNE (tsne.h), and as a picture.
#pragma once
#include "tensor/tensor.h"

namespace mote::cluster {

struct Pca {
  Tensor mean;        // f64 [D]
  Tensor axes;        // f64 [J, D], rows of length 1 at right angles, by falling variance; the largest element of each is > 0
  Tensor variances;   // f64 [J], of the data along the axes, divided by N
  double total = 0;   // variance along all D axes
};

/// The first `components` eigenvectors of the covariance of x.                                          [Pearson 1901]
///   x  f32 or f64 [N, D], finite; 1 <= components <= D
/// The covariance is summed in f64, whatever x is. The same bits for any number of threads.
/// Throws Error(argument) for another shape, dtype or number of components, Error(data) if a value is not finite.
Pca principal_components(const Tensor& x, int64_t components);

/// Coordinates (x - mean) axes^T, f64 [N, J]. Error(data) if the widths differ.
Tensor project(const Pca& pca, const Tensor& x);

}  // namespace mote::cluster
