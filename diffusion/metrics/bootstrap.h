// bootstrap.h - how far a mean over images can be trusted: intervals from images drawn again.
#pragma once
#include <cstdint>
#include <vector>

namespace mote::metrics {

struct Interval {
  double mean = 0, low = 0, high = 0;
};

/// Mean of the values with the percentile interval of `level`: each of the resamples draws as many values with
/// replacement, from Philox by (seed, resample, place), and the quantiles of their means are linear (NumPy's).
/// NaNs are left out first.                                                                             [Efron 1979]
/// Throws Error(argument) if no value is left, resamples < 1 or level is not in (0, 1).
Interval bootstrap(const std::vector<double>& values, uint64_t seed, int64_t resamples = 10000, double level = 0.95);

/// The same of a - b, pair by pair: the same images on both sides. Throws Error(argument) if the sizes differ.
Interval paired_bootstrap(const std::vector<double>& a, const std::vector<double>& b, uint64_t seed,
                          int64_t resamples = 10000, double level = 0.95);

/// The value below which a share q of the values lies, between the two nearest by their distance (NumPy's "linear").
/// Throws Error(argument) for no values or q outside [0, 1].
double linear_quantile(std::vector<double> values, double q);

}  // namespace mote::metrics
