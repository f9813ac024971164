// cholesky.h - the factor of a positive definite matrix and its triangular solves, in f64: how densities and draws use
// a covariance. An inverse is never formed.
#pragma once
#include <cstdint>

namespace mote::cluster {

/// a [n, n] becomes L, lower triangular with zeros above, a = L L^T; only the lower triangle is read. Returns false, and
/// leaves a undefined, if a is not positive definite in f64.                                     [Golub 2013, alg. 4.2.1]
bool cholesky(double* a, int64_t n);

/// y becomes L^-1 y.
void solve_lower(const double* l, int64_t n, double* y);

/// y becomes L^-T y.
void solve_upper(const double* l, int64_t n, double* y);

}  // namespace mote::cluster
