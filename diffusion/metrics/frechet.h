// frechet.h - the Frechet distance between two sets of features, each taken for a Gaussian: FID, for any features.
// Its value depends on the features and on the number of images: both belong into the name under which it is reported.
#pragma once
#include "tensor/tensor.h"

namespace mote::metrics {

struct Moments {
  Tensor mean;          // f64 [D]
  Tensor covariance;    // f64 [D, D], divided by N - 1
  int64_t count = 0;    // N
};

/// mean = sum x_i / N,  covariance = sum (x_i - mean)(x_i - mean)^T / (N - 1), in two passes of f64.
///   features  f32 or f64 [N, D], N >= 2
/// Throws Error(argument) for another shape or dtype, Error(data) on a value that is not finite.
Moments moments(const Tensor& features);

/// d^2 = |m_a - m_b|^2 + Tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2)                            [Heusel 2017, eq. 6]
/// The trace of the root is the sum of the roots of the eigenvalues of S_a^1/2 S_b S_a^1/2, those below 0 taken as 0.
/// Symmetric in a and b up to rounding; never below 0.
/// Throws Error(data) if a side has no more than D images: its covariance is then singular whatever the images are, and
/// the distance says more about the count than about them.
double frechet_distance(const Moments& a, const Moments& b);

/// frechet_distance of the moments of x [N, D] and y [M, D].
double frechet_distance(const Tensor& x, const Tensor& y);

}  // namespace mote::metrics
