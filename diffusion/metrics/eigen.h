// eigen.h - eigenvalues and eigenvectors of a real symmetric matrix in f64, for covariances (frechet.h): Householder
// reflections make the matrix tridiagonal, implicitly shifted QR steps make it diagonal.
#pragma once
#include "tensor/tensor.h"

namespace mote::metrics {

struct SymmetricEigen {
  Tensor values;    // f64 [D], ascending
  Tensor vectors;   // f64 [D, D], row i belongs to values[i] and has length 1: A = vectors^T diag(values) vectors
};

/// All eigenvalues of the symmetric matrix a, and its eigenvectors unless with_vectors is false, which takes less time.
///   a  f64 [D, D]; only that it is symmetric up to rounding is asked for, so (a + a^T) / 2 is what is decomposed
/// Backward error of a few D eps |a|. The same bits for any number of threads.     [Golub 2013, alg. 8.3.1 and 8.3.2]
/// Throws Error(argument) for another shape or dtype, Error(numeric) if a is not finite, not symmetric, or the
/// iteration does not end.
SymmetricEigen symmetric_eigen(const Tensor& a, bool with_vectors = true);

/// The symmetric root of a positive semidefinite matrix: vectors^T diag(sqrt(max(values, 0))) vectors, f64 [D, D].
Tensor symmetric_sqrt(const Tensor& a);

}  // namespace mote::metrics
