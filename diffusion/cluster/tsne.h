// tsne.h - t-SNE: points in the plane whose neighbours are those they had in many dimensions. For pictures of latents:
// distances between clusters, and their sizes, mean little. Exact, over all pairs, so for some thousand points.
#pragma once
#include <functional>
#include <vector>

#include "tensor/tensor.h"

namespace mote::cluster {

inline constexpr int64_t kMostTsnePoints = 5000;   // a matrix of 100 MB, some 10^7 pairs an iteration

/// P of the joint distribution of pairs, f32 [N, N], symmetric, zero diagonal, sum 1:
///   p_j|i ~ exp(-beta_i |x_i - x_j|^2), beta_i such that the entropy of p_.|i is ln(perplexity)
///   p_ij = (p_j|i + p_i|j) / 2 N                                                        [van der Maaten 2008, eq. 1]
///   x  f32 or f64 [N, D], finite, 4 <= N <= kMostTsnePoints; 1 < perplexity <= (N - 1) / 3
/// Throws Error(argument) for another shape or dtype, Error(data) on a value that is not finite or too few or too many
/// points.
Tensor tsne_affinities(const Tensor& x, double perplexity);

/// KL(P || Q) of y f32 [N, 2]: q_ij = w_ij / sum w, w_ij = 1 / (1 + |y_i - y_j|^2).       [van der Maaten 2008, eq. 4]
double tsne_divergence(const Tensor& p, const Tensor& y);

/// Its gradient, with P multiplied by `exaggeration`: f32 [N, 2]
///   4 sum_j (exaggeration p_ij - q_ij) w_ij (y_i - y_j)                                 [van der Maaten 2008, eq. 5]
Tensor tsne_gradient(const Tensor& p, const Tensor& y, double exaggeration = 1);

struct TsneOptions {
  double perplexity = 30;
  int iterations = 1000;
  double exaggeration = 12;          // of P in the first iterations: clusters form and can still pass each other
  int exaggerated_iterations = 250;
  double learning_rate = 0;          // 0: max(N / (4 exaggeration), 50)                              [Belkina 2019]
  uint64_t seed = 0;                 // of the start, N(0, 1e-8)
  /// Called every 50 iterations with the divergence; false ends the descent where it is.
  std::function<bool(int iteration, double divergence)> progress;
};

struct Tsne {
  Tensor y;                           // f32 [N, 2], centred
  double divergence = 0;              // KL(P || Q), without exaggeration
  std::vector<double> history = {};   // what progress was told
};

/// Gradient descent with momentum (0.5, then 0.8) and a gain for every coordinate. Errors as tsne_affinities; the same
/// bits for any number of threads.
Tsne tsne(const Tensor& x, const TsneOptions& options);

}  // namespace mote::cluster
