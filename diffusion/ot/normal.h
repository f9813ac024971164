// normal.h - the distribution function of N(0, 1) and its inverse, in f64.
#pragma once

namespace mote::ot {

double normal_density(double x);  // e^(-x^2 / 2) / sqrt(2 pi)
double normal_cdf(double x);      // Phi(x)

/// Phi^-1(p) for 0 < p < 1, to a few ulp in p: Newton's method on ln Phi, which is concave, from a start that lies
/// below. Throws Error(argument) for other p.
double normal_quantile(double p);
/// z with P(N(0, 1) > z) = p.
inline double upper_quantile(double p) { return -normal_quantile(p); }

}  // namespace mote::ot
