// Where a solver starts, and the scale on which masses answer to heights.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "diffusion/ot/keys.h"
#include "diffusion/ot/method.h"
#include "diffusion/ot/normal.h"
#include "tensor/error.h"

namespace mote::ot {

void centre(std::vector<double>& heights) {
  double mean = std::accumulate(heights.begin(), heights.end(), 0.0) / double(heights.size());
  for (double& height : heights) height -= mean;
}

Tensor as_tensor(const std::vector<double>& values) { return from(values, {int64_t(values.size())}, DType::f64); }
Tensor as_heights(const std::vector<double>& heights) { return from(heights, {int64_t(heights.size())}, DType::f32); }
std::vector<double> as_vector(const Tensor& values) { return values.to_vector(); }

std::vector<double> start_heights(const Problem& problem, const std::string& automatic) {
  const Targets& targets = problem.targets;
  const SolverOptions& options = problem.options;
  size_t N = size_t(targets.count());
  std::vector<double> heights(N, 0.0);
  if (options.start_heights.defined()) {
    require_heights("ot::Solver", targets, options.start_heights);
    heights = as_vector(options.start_heights);
    centre(heights);
    return heights;
  }
  std::string start = options.start == "auto" ? automatic : options.start;
  if (start == "zero") return heights;
  for (size_t i = 0; i < N && start != "best"; ++i) {
    double s = targets.score_std()[i];
    if (start == "extreme") heights[i] = -s * upper_quantile(targets.weights()[i]);
    else if (start == "voronoi") heights[i] = -0.5 * s * s;
    else fail(Error::Kind::usage, "ot::Solver: no start '", start, "'; there are auto, extreme, voronoi, zero");
  }
  if (start != "best") {
    centre(heights);
    return heights;
  }
  double least = 0;
  for (const char* candidate : {"extreme", "voronoi", "zero"}) {
    std::vector<double> tried = start_heights(problem, candidate);
    Quality quality = measure(targets, as_heights(tried), problem.source, iteration_of(Stream::starts, 0),
                              std::max<int64_t>(targets.count(), 256));
    if (candidate == std::string("extreme") || quality.chi2 < least) {
      heights = tried;
      least = quality.chi2;
    }
  }
  return heights;
}

double typical_gap(const Problem& problem, const std::vector<double>& heights, const Tensor& x) {
  Tensor keys = top_keys(problem.targets, as_heights(heights), x, 2);
  std::vector<double> gaps;
  for (int64_t s = 0; s < x.size(0); ++s)
    gaps.push_back(double(score_of_key(keys.data<int64_t>()[2 * s])) -
                   double(score_of_key(keys.data<int64_t>()[2 * s + 1])));
  // With P(gap < g) = 1 - e^(-g / tau), as for the gaps of extreme values, a quarter of them lie below tau ln(4/3).
  std::sort(gaps.begin(), gaps.end());
  return gaps[gaps.size() / 4] / std::log(4.0 / 3);
}

std::vector<double> spread_of_targets(const Targets& targets) {
  const std::vector<double>& s = targets.score_std();
  double mean = std::accumulate(s.begin(), s.end(), 0.0) / double(s.size());
  std::vector<double> spread;
  for (double one : s) spread.push_back(mean > 0 ? std::clamp(one / mean, 1.0 / 3, 3.0) : 1);
  return spread;
}

void log_pass(std::vector<double>& heights, const Problem& problem, const std::vector<int64_t>& counts, const Tensor& x,
              bool only_empty) {
  constexpr double kFraction = 0.4;  // of a Newton step; a whole one oscillates
  double gap = typical_gap(problem, heights, x);
  std::vector<double> spread = spread_of_targets(problem.targets);
  double samples = double(std::accumulate(counts.begin(), counts.end(), int64_t(0)));
  for (size_t i = 0; i < heights.size(); ++i) {
    if (only_empty && counts[i] > 0) continue;
    double ratio = std::log((samples * problem.targets.weights()[i] + 0.5) / (double(counts[i]) + 0.5));
    heights[i] += kFraction * gap * spread[i] * std::clamp(ratio, -1.0, 1.0);
  }
  centre(heights);
}

}  // namespace mote::ot
