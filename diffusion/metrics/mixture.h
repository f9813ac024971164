// mixture.h - images between the classes: a classifier that sees two of them in one image, a model that cannot leave
// one mode without passing through the other.
#pragma once
#include <vector>

#include "tensor/tensor.h"

namespace mote::metrics {

/// Share of the rows in which at least two classes have a probability >= tau, for each tau: the curve of mode mixture.
///   probabilities  f32 or f64 [N, K], N >= 1, K >= 2, each row from 0 to 1 with the sum 1 (within 1e-3)
///   taus           in (0, 0.5]: above one half no row is mixed
/// The value at one tau says little without real images beside it, and near 1 / K it is very sensitive: report the
/// curve.
///                                                                                             [Li 2023, code]
/// Throws Error(argument) for another shape, dtype or tau, Error(data) naming the first row that is no distribution.
std::vector<double> mode_mixture(const Tensor& probabilities, const std::vector<double>& taus);

/// 0.1 0.11 0.115 0.13 0.16 0.2 0.3 0.4: the published code's.
const std::vector<double>& mixture_taus();

}  // namespace mote::metrics
