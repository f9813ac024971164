#include "diffusion/ot/power_cells.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "diffusion/ot/normal.h"
#include "tensor/cpu/parallel.h"
#include "tensor/error.h"

namespace mote::ot {

// ---- Polygons ------------------------------------------------------------------------------------------------------

namespace {

double cross(Point a, Point b) { return a.x * b.y - a.y * b.x; }

struct Moments {
  double area = 0;
  Point first;        // integral of x - corner
  double second = 0;  // integral of |x - corner|^2
  Point corner;       // the first one: differences from it do not cancel where the polygon is small and far away
};

Moments moments_of(const Polygon& polygon) {
  Moments m;
  if (polygon.size() < 3) return m;
  m.corner = polygon[0];
  for (size_t k = 1; k + 1 < polygon.size(); ++k) {
    Point a = polygon[k] - m.corner, b = polygon[k + 1] - m.corner;
    double area = cross(a, b) / 2;
    m.area += area;
    m.first = m.first + area / 3 * (a + b);
    m.second += area / 6 * (dot(a, a) + dot(b, b) + dot(a, b));
  }
  return m;
}

/// E|x|^2 of the uniform law.
double mean_square(const Moments& m) {
  return dot(m.corner, m.corner) + (2 * dot(m.corner, m.first) + m.second) / m.area;
}

/// A polygon whose edge k, from corner k to the next, is the wall to cell wall[k], or -1 at the border of the domain.
struct Cell {
  Polygon corners;
  std::vector<int64_t> wall;
};

/// What is left of the cell where <x, normal> <= level; the cut is the wall to cell j.
void clip(Cell& cell, Cell& scratch, Point normal, double level, int64_t j) {
  size_t count = cell.corners.size();
  auto excess = [&](size_t k) { return dot(cell.corners[k], normal) - level; };
  bool cuts = false;
  for (size_t k = 0; k < count && !cuts; ++k) cuts = excess(k) > 0;
  if (!cuts) return;
  scratch.corners.clear();
  scratch.wall.clear();
  auto add = [&](Point corner, int64_t wall) {
    scratch.corners.push_back(corner);
    scratch.wall.push_back(wall);
  };
  for (size_t k = 0; k < count; ++k) {
    size_t next = k + 1 < count ? k + 1 : 0;
    double here = excess(k), there = excess(next);
    if (here <= 0) add(cell.corners[k], cell.wall[k]);
    if ((here <= 0) == (there <= 0)) continue;
    Point cut = cell.corners[k] + here / (here - there) * (cell.corners[next] - cell.corners[k]);
    add(cut, here <= 0 ? j : cell.wall[k]);  // the border goes on along the cut, or back along the old edge
  }
  if (scratch.corners.size() < 3) {
    scratch.corners.clear();
    scratch.wall.clear();
  }
  std::swap(cell, scratch);
}

double area_of_domain(const char* op, const Polygon& domain) {
  double area = moments_of(domain).area;
  check(area > 0 && std::isfinite(area), op,
        ": the domain must be a convex polygon with its corners counterclockwise, got ", domain.size(),
        " corners and the area ", area);
  return area;
}

template <class T, class Before>
void require_distinct(const char* op, std::span<const T> targets, Before before, const char* what) {
  std::vector<int64_t> order(targets.size());
  std::iota(order.begin(), order.end(), int64_t(0));
  std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return before(targets[a], targets[b]) || (!before(targets[b], targets[a]) && a < b);
  });
  for (size_t k = 0; k + 1 < order.size(); ++k)
    if (!before(targets[order[k]], targets[order[k + 1]]))
      fail(Error::Kind::data, op, ": targets ", order[k], " and ", order[k + 1], " are the same ", what,
           "; between equal targets there is no wall, give one of them both weights");
}

void require_targets(const char* op, std::span<const Point> targets) {
  check(!targets.empty(), op, ": needs 1 target or more, got none");
  for (size_t i = 0; i < targets.size(); ++i)
    if (!std::isfinite(targets[i].x) || !std::isfinite(targets[i].y))
      fail(Error::Kind::data, op, ": target ", i, " is not finite: (", targets[i].x, ", ", targets[i].y, ")");
  require_distinct(
      op, targets, [](Point a, Point b) { return a.x < b.x || (a.x == b.x && a.y < b.y); }, "point");
}

void require_weights(const char* op, std::span<const double> weights, size_t targets) {
  check(weights.size() == targets, op, ": needs one weight a target, got ", weights.size(), " for ", targets);
  double sum = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (!(weights[i] > 0) || !std::isfinite(weights[i]))
      fail(Error::Kind::data, op, ": weight ", i, " is ", weights[i],
           ", needs a positive number: a target without weight "
           "has no cell, leave it out");
    sum += weights[i];
  }
  if (!(std::abs(sum - 1) <= 1e-9))
    fail(Error::Kind::data, op, ": the weights sum to ", sum, ", need 1; divide them by their sum");
}

}  // namespace

Polygon rectangle(Point low, Point high) { return {low, {high.x, low.y}, high, {low.x, high.y}}; }

// ---- Cells ---------------------------------------------------------------------------------------------------------

namespace {

PowerCells cells_of(std::span<const Point> targets, std::span<const double> heights, const Polygon& domain) {
  auto N = int64_t(targets.size());
  double whole = moments_of(domain).area;
  PowerCells cells;
  cells.polygons.resize(size_t(N));
  cells.masses.resize(size_t(N));
  cells.centroids.resize(size_t(N));
  std::vector<std::vector<Facet>> facets(static_cast<size_t>(N));
  cpu::parallel_for(N, 16, [&](int64_t begin, int64_t end) {
    Cell cell, scratch;
    for (int64_t i = begin; i < end; ++i) {
      cell.corners = domain;
      cell.wall.assign(domain.size(), -1);
      for (int64_t j = 0; j < N && !cell.corners.empty(); ++j)
        if (j != i) clip(cell, scratch, targets[j] - targets[i], heights[i] - heights[j], j);
      Moments m = moments_of(cell.corners);
      if (m.area > 0) {
        cells.masses[i] = m.area / whole;
        cells.centroids[i] = m.corner + 1 / m.area * m.first;
        cells.polygons[i] = cell.corners;
      }
      for (size_t k = 0; k < cell.corners.size() && m.area > 0; ++k) {
        Point edge = cell.corners[(k + 1) % cell.corners.size()] - cell.corners[k];
        double length = std::sqrt(dot(edge, edge));
        if (cell.wall[k] > i && length > 0) facets[i].push_back({i, cell.wall[k], length});
      }
      std::sort(facets[i].begin(), facets[i].end(), [](const Facet& a, const Facet& b) { return a.j < b.j; });
    }
  });
  for (const std::vector<Facet>& of_cell : facets)
    cells.facets.insert(cells.facets.end(), of_cell.begin(), of_cell.end());
  return cells;
}

}  // namespace

PowerCells power_cells(std::span<const Point> targets, std::span<const double> heights, const Polygon& domain) {
  const char* op = "power_cells";
  area_of_domain(op, domain);
  require_targets(op, targets);
  check(heights.size() == targets.size(), op, ": needs one height a target, got ", heights.size(), " for ",
        targets.size());
  for (size_t i = 0; i < heights.size(); ++i)
    if (!std::isfinite(heights[i])) fail(Error::Kind::data, op, ": height ", i, " is not finite: ", heights[i]);
  return cells_of(targets, heights, domain);
}

double brenier_energy(std::span<const Point> targets, std::span<const double> weights, std::span<const double> heights,
                      const PowerCells& cells) {
  double energy = 0;
  for (size_t i = 0; i < targets.size(); ++i)
    energy += cells.masses[i] * dot(cells.centroids[i], targets[i]) + (cells.masses[i] - weights[i]) * heights[i];
  return energy;
}

// ---- Newton's method -----------------------------------------------------------------------------------------------

namespace {

/// Heights of the Voronoi cells, of the targets themselves if they lie in the domain, else of y' = c + (y - m) / s:
/// <x, y> = s <x, y'> + (the same for all targets), so h = -s |y'|^2 / 2 makes the Voronoi cells of y', and each of
/// them holds its own y'.
std::vector<double> start_heights(std::span<const Point> targets, const Polygon& domain) {
  auto overshoot = [&](Point centre, Point y) {  // 1 where the ray from the centre through y meets the border
    double most = 0;
    for (size_t k = 0; k < domain.size(); ++k) {
      Point edge = domain[(k + 1) % domain.size()] - domain[k], outward = {edge.y, -edge.x};
      most = std::max(most, dot(y - centre, outward) / dot(domain[k] - centre, outward));
    }
    return most;
  };
  Moments m = moments_of(domain);
  Point centre = m.corner + 1 / m.area * m.first, mean = centre;
  double s = 1, most = 0;
  for (Point y : targets) most = std::max(most, overshoot(centre, y));
  if (most >= 1) {
    mean = {};
    for (Point y : targets) mean = mean + 1.0 / double(targets.size()) * y;
    most = 0;
    for (Point y : targets) most = std::max(most, overshoot(centre, y - mean + centre));
    s = std::max(1.0, most / 0.95);
  }
  std::vector<double> heights;
  for (Point y : targets) {
    Point moved = centre + 1 / s * (y - mean);
    heights.push_back(-s / 2 * dot(moved, moved));
  }
  return heights;
}

void subtract_mean(std::vector<double>& values) {
  double mean = std::accumulate(values.begin(), values.end(), 0.0) / double(values.size());
  for (double& value : values) value -= mean;
}

/// d = H^-1 g for the graph Laplacian H of the facets, sum d = 0, by conjugate gradients with the diagonal as
/// preconditioner. A graph of N nodes needs at most N steps but for rounding.
std::vector<double> solve_laplacian(const std::vector<Facet>& facets, const std::vector<double>& conductance,
                                    std::vector<double> residual) {
  size_t N = residual.size();
  std::vector<double> diagonal(N, 0), x(N, 0), z(N), direction(N), image(N);
  subtract_mean(residual);  // H has no inverse for a constant, and what rounding leaves of one would grow
  for (size_t k = 0; k < facets.size(); ++k) {
    diagonal[facets[k].i] += conductance[k];
    diagonal[facets[k].j] += conductance[k];
  }
  auto product = [&](const std::vector<double>& a, const std::vector<double>& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  };
  double before = 0, goal = 1e-24 * product(residual, residual);
  for (size_t step = 0; step < 10 * N && product(residual, residual) > goal; ++step) {
    for (size_t i = 0; i < N; ++i) z[i] = residual[i] / diagonal[i];
    double now = product(residual, z);
    for (size_t i = 0; i < N; ++i) direction[i] = z[i] + (step > 0 ? now / before * direction[i] : 0);
    before = now;
    std::fill(image.begin(), image.end(), 0);
    for (size_t k = 0; k < facets.size(); ++k) {
      double flow = conductance[k] * (direction[facets[k].i] - direction[facets[k].j]);
      image[facets[k].i] += flow;
      image[facets[k].j] -= flow;
    }
    double curvature = product(direction, image);
    if (!(curvature > 0)) break;  // nothing is left but rounding
    for (size_t i = 0; i < N; ++i) {
      x[i] += now / curvature * direction[i];
      residual[i] -= now / curvature * image[i];
    }
    subtract_mean(residual);
  }
  subtract_mean(x);
  return x;
}

struct Gradient {
  std::vector<double> of;  // w - nu
  double length = 0, largest = 0, smallest_mass = 0;
};

Gradient gradient_of(const PowerCells& cells, std::span<const double> weights) {
  Gradient g;
  g.smallest_mass = *std::min_element(cells.masses.begin(), cells.masses.end());
  for (size_t i = 0; i < weights.size(); ++i) {
    g.of.push_back(cells.masses[i] - weights[i]);
    g.length += g.of[i] * g.of[i];
    g.largest = std::max(g.largest, std::abs(g.of[i]));
  }
  g.length = std::sqrt(g.length);
  return g;
}

}  // namespace

ExactMap solve_exact(std::span<const Point> targets, std::span<const double> weights, const Polygon& domain,
                     const ExactOptions& options) {
  const char* op = "solve_exact";
  constexpr int kMostHalvings = 60;
  double area = area_of_domain(op, domain);
  require_targets(op, targets);
  require_weights(op, weights, targets.size());

  ExactMap map;
  map.heights = start_heights(targets, domain);
  map.cells = cells_of(targets, map.heights, domain);
  Gradient g = gradient_of(map.cells, weights);
  double least_mass = std::min(g.smallest_mass, *std::min_element(weights.begin(), weights.end())) / 2;
  bool is_stuck = false;
  while (g.largest > options.tolerance && map.steps < options.most_steps && !is_stuck) {
    std::vector<double> conductance;
    for (const Facet& facet : map.cells.facets) {
      Point between = targets[facet.j] - targets[facet.i];
      conductance.push_back(facet.length / (std::sqrt(dot(between, between)) * area));
    }
    std::vector<double> direction = solve_laplacian(map.cells.facets, conductance, g.of);
    is_stuck = true;
    double step = 1;
    for (int halving = 0; halving < kMostHalvings && is_stuck; ++halving, step /= 2) {
      std::vector<double> heights = map.heights;
      for (size_t i = 0; i < heights.size(); ++i) heights[i] -= step * direction[i];
      PowerCells cells = cells_of(targets, heights, domain);
      Gradient next = gradient_of(cells, weights);
      if (next.smallest_mass < least_mass || next.length > (1 - step / 2) * g.length) continue;
      map.heights = std::move(heights);
      map.cells = std::move(cells);
      g = std::move(next);
      ++map.steps;
      is_stuck = false;
    }
  }
  map.error = g.largest;
  if (g.largest > options.tolerance)
    fail(Error::Kind::numeric, op, ": the masses are off by up to ", g.largest, " after ", map.steps,
         " steps of Newton's method, ", options.tolerance, " was asked for");
  subtract_mean(map.heights);
  map.energy = brenier_energy(targets, weights, map.heights, map.cells);
  map.w2_squared = mean_square(moments_of(domain)) - 2 * map.energy;
  for (size_t i = 0; i < targets.size(); ++i) map.w2_squared += weights[i] * dot(targets[i], targets[i]);
  return map;
}

// ---- The line ------------------------------------------------------------------------------------------------------

LineLaw LineLaw::uniform() {
  return {[](double p) { return p; }, [](double p) { return p * p / 2; }, 1.0 / 3};
}

LineLaw LineLaw::normal() {
  auto lower_mean = [](double p) { return p <= 0 || p >= 1 ? 0 : -normal_density(normal_quantile(p)); };
  return {normal_quantile, lower_mean, 1};
}

LineMap solve_line(std::span<const double> targets, std::span<const double> weights, const LineLaw& law) {
  const char* op = "solve_line";
  check(!targets.empty(), op, ": needs 1 target or more, got none");
  for (size_t i = 0; i < targets.size(); ++i)
    if (!std::isfinite(targets[i])) fail(Error::Kind::data, op, ": target ", i, " is not finite: ", targets[i]);
  require_distinct(
      op, targets, [](double a, double b) { return a < b; }, "number");
  require_weights(op, weights, targets.size());

  std::vector<size_t> order(targets.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return targets[a] < targets[b]; });
  LineMap map;
  map.heights.assign(targets.size(), 0);
  double below = 0, mean_below = 0, height = 0, sum = 0;
  for (size_t k = 0; k < order.size(); ++k) {
    bool is_last = k + 1 == order.size();
    double y = targets[order[k]], weight = weights[order[k]];
    map.heights[order[k]] = height;
    sum += height;
    below += weight;
    double mean_here = law.lower_mean(is_last ? 1 : below);
    map.energy += y * (mean_here - mean_below);  // E(h*) = sum y_i E[x in cell i]: the heights cancel
    mean_below = mean_here;
    map.w2_squared += weight * y * y;
    if (is_last) break;
    map.boundaries.push_back(law.quantile(below));
    height -= map.boundaries.back() * (targets[order[k + 1]] - y);
  }
  for (double& each : map.heights) each -= sum / double(targets.size());
  map.w2_squared += law.second_moment - 2 * map.energy;
  return map;
}

}  // namespace mote::ot
