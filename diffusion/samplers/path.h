// path.h - which noise levels a sampler visits, and which abar belongs to which network time: grids and conventions.
// A sampler sees a Path and nothing of where it came from, so the same formulas run on a trained network's table and on
// the continuous process that the tests measure orders of convergence with.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "diffusion/schedule.h"

namespace mote {

struct SamplerOptions;

/// Nodes 0..N from noise to the end, and the levels between them for methods that need half steps.
struct Path {
  std::vector<Level> nodes;                                              // N + 1; step k goes from node k to k + 1
  std::function<Level(const Level& from, const Level& to)> halfway;      // middle in the grid's own variable
  std::optional<VpSchedule> curve;                                       // set where time is continuous
  int64_t steps() const { return int64_t(nodes.size()) - 1; }
};

/// What a sampler's formulas are written in; it decides which levels a convention gives it.
///   ancestral   ddpm
///   pseudo      the transfer phi of an eps: ddim, s-pndm, f-pndm, plms, ipndm
///   exponential lambda or u of the nodes: heun, dpmpp-*, unipc, deis
///   flow        dx/dt in continuous time: pf-euler, pf-rk45, fon
enum class Family { ancestral, pseudo, exponential, flow };

/// The path over a discrete schedule. options.steps, grid, convention, end, offset and start are read:
///
///   ours        network time n has abar[n]; whole levels from timesteps(), or lambda-uniform and karras ones that
///               may be fractional (Schedule::at_lambda, from lambda >= -5.1 on: noisier ones are dropped [Lu 2022b]).
///               A half step is taken in t on whole-level grids, with lambda interpolated, in lambda or u^(1/7) on the
///               others. The end is the clean image, or level 0 ("first"), which then is the last of N + 1 grid points.
///   pndm-repo   the authors' code [Liu 2022]: levels 0, r, 2r, .. < T with r = T / N rounded down, which may be more
///               than N; network time n goes with abar[floor(n) + 1], one level off; the end is abar[0]. Uniform grid,
///               eps-networks and the pseudo family only.
///   diffusers   network time n has abar[n]; half steps at t - floor(r / 2); ends at abar[0] for the pndm samplers and
///               at the clean image for the others unless `end` says otherwise. uniform ("leading" there: i r + offset),
///               linspace and trailing; the exponential samplers but heun take N + 1 points of
///               the first two and drop the last.
///               The predecessor is always the next of the list, where that code subtracts T / N: the same for uniform.
///
/// With a start 0 <= start < T the first level is `start` and the grid is that of a table which ends there: trailing,
/// linspace, lambda-uniform or karras in convention ours; the other grids do not begin at their noisiest level.
///
/// The flow family takes VpSchedule::limit_of(schedule) from s = 1 to s = 1e-3 [Song 2021b], uniform in t,
/// lambda or u^(1/7), and stops there.
///
/// Throws Error(usage) for an unknown name, steps outside 1..T (start + 1), a start outside 0..T-1, other combinations,
/// and for steps that would read a level outside the table, naming the nearest smaller number that does not.
Path path_of(const Schedule& schedule, Family family, const SamplerOptions& options);

/// N steps of the continuous process from time t_first down to t_last, in the flow family's grids.
///   grid "uniform" (in t), "lambda-uniform", or "karras" (in u^(1 / rho), u = sigma / a; rho = 1 is uniform in u)
/// Half steps are taken in the same variable. Throws Error(usage) for another grid or N < 1.
Path continuous_path(const VpSchedule& curve, double t_first, double t_last, int64_t N, const std::string& grid,
                     double rho = 7);

/// timesteps()'s grids and the two others; all conventions. For messages and --help.
const std::vector<std::string>& path_grid_names();
const std::vector<std::string>& convention_names();

}  // namespace mote
