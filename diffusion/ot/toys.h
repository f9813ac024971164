// toys.h - point sets in the plane whose law, and so whose perfect network, is a formula (analytic.h): where a sampler
// leaves the modes, no training error is to blame.
#pragma once
#include <string>
#include <vector>

#include "diffusion/analytic.h"

namespace mote::ot {

/// Mixtures of equal weights inside [-1, 1]^2:
///   8-gaussians   centres on a circle of radius 0.8, std 0.03
///   25-gaussians  centres on the grid {-0.8, -0.4, .., 0.8}^2, std 0.02
///   swiss-roll    120 centres along r = 0.85 s, angle 3.5 pi s, even in arc length for s = 0.25..1, std 0.02
/// Throws Error(usage) listing the names for another one.
Mixture toy_named(const std::string& name);
const std::vector<std::string>& toy_names();

/// N points of a mixture, f32 [N, D]; point i depends on (seed, i) only. Weights need not sum to 1.
Tensor draw_mixture(const Mixture& data, int64_t N, uint64_t seed);

/// The component whose centre is nearest to each point, in its own standard deviations, and whether it is farther than
/// `limit` of them: such a point lies in no mode, between two as a rule.
///   x f32 or f64 [N, D]
struct Modes {
  std::vector<int64_t> nearest;
  std::vector<bool> is_mixed;
  int64_t mixed = 0;
};
Modes modes_of(const Mixture& data, const Tensor& x, double limit = 4);

}  // namespace mote::ot
