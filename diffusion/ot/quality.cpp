// How good heights are (solver.h): counts of fresh samples, the unbiased chi2 and its interval, the transport cost.
#include <algorithm>
#include <cmath>

#include "diffusion/ot/keys.h"
#include "diffusion/ot/solver.h"
#include "tensor/error.h"

namespace mote::ot {

Quality quality_of(const std::vector<int64_t>& counts, const std::vector<double>& weights) {
  check(counts.size() == weights.size() && !counts.empty(), "ot::quality_of: ", counts.size(), " counts for ",
        weights.size(), " weights");
  Quality quality;
  quality.counts = counts;
  for (int64_t count : counts) quality.samples += count;
  check(quality.samples >= 2, "ot::quality_of: needs 2 samples or more, got ", quality.samples);
  // chi2 + 1 is the mean over pairs of samples of g(a, b) = [a = b] / nu_a, a U-statistic. Its variance follows from
  // E g^2 and from the variance of the mean over b, each again a mean over pairs or triples.   [Hoeffding 1948,
  // eq. 5.13]
  double pairs = 0, pairs_squared = 0, triples = 0, n = double(quality.samples);
  for (size_t i = 0; i < counts.size(); ++i) {
    double c = double(counts[i]), two = c * (c - 1) / weights[i];
    pairs += two;
    pairs_squared += two / weights[i];
    triples += two * (c - 2) / weights[i];
    quality.empty += counts[i] == 0;
    quality.largest = std::max(quality.largest, c / (n * weights[i]));
  }
  double mean = pairs / (n * (n - 1));
  double of_pair = std::max(0.0, pairs_squared / (n * (n - 1)) - mean * mean);
  double of_one = n > 2 ? std::max(0.0, triples / (n * (n - 1) * (n - 2)) - mean * mean) : 0;
  double spread = 1.96 * std::sqrt((4 * (n - 2) * of_one + 2 * of_pair) / (n * (n - 1)));
  quality.chi2 = mean - 1;
  quality.low = quality.chi2 - spread;
  quality.high = quality.chi2 + spread;
  return quality;
}

Quality measure(const Targets& targets, const Tensor& heights, const Source& source, uint64_t iteration,
                int64_t samples, int64_t first) {
  require_heights("ot::measure", targets, heights);
  check(source.width == targets.width(), "ot::measure: the source has ", source.width, " dimensions, the targets have ",
        targets.width());
  check(samples >= 2, "ot::measure: needs 2 samples or more, got ", samples);
  Source independent = source;
  independent.antithetic = false;
  std::vector<int64_t> counts(size_t(targets.count()), 0);
  double potential = 0;
  int64_t part = samples_at_a_time(targets);
  for (int64_t done = 0; done < samples; done += part) {
    Tensor x = independent.samples(iteration, first + done, std::min(part, samples - done), targets.dtype());
    Tensor keys = top_keys(targets, heights, x);
    for (int64_t s = 0; s < x.size(0); ++s) {
      int64_t key = keys.data<int64_t>()[s];
      ++counts[size_t(target_of_key(key))];
      potential += double(score_of_key(key));
    }
  }
  Quality quality = quality_of(counts, targets.weights());
  quality.potential = potential / double(samples);
  return quality;
}

double transport_cost(const Targets& targets, const Tensor& heights, const Quality& quality) {
  require_heights("ot::transport_cost", targets, heights);
  double squares = 0, mean_height = 0;
  for (int64_t i = 0; i < targets.count(); ++i) {
    double weight = targets.weights()[size_t(i)], norm = targets.score_std()[size_t(i)];
    squares += weight * norm * norm;
    mean_height += weight * double(heights.data<float>()[i]);
  }
  return double(targets.width()) + squares - 2 * (quality.potential - mean_height);
}

}  // namespace mote::ot
