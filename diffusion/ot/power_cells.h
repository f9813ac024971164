// power_cells.h - semi-discrete optimal transport without sampling: power diagrams of a convex polygon, and the damped
// Newton method that finds the heights whose cells have given masses; closed forms on the line. What the sampled solver
// is tested against, and what `mote ot demo` draws. Notation as in the rest of ot/: cell i is where <x, y_i> + h_i is
// largest, and T(x) = y_i there.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace mote::ot {

// ---- The plane -----------------------------------------------------------------------------------------------------

struct Point {
  double x = 0, y = 0;
};
inline Point operator+(Point a, Point b) { return {a.x + b.x, a.y + b.y}; }
inline Point operator-(Point a, Point b) { return {a.x - b.x, a.y - b.y}; }
inline Point operator*(double s, Point a) { return {s * a.x, s * a.y}; }
inline double dot(Point a, Point b) { return a.x * b.x + a.y * b.y; }

/// Corners of a convex polygon, counterclockwise; empty: no area.
using Polygon = std::vector<Point>;

Polygon rectangle(Point low, Point high);
inline Polygon unit_square() { return rectangle({0, 0}, {1, 1}); }

/// The common wall of cells i < j.
struct Facet {
  int64_t i, j;
  double length;
};

/// The cells of a domain with the uniform probability on it, so that the masses sum to 1.
struct PowerCells {
  std::vector<Polygon> polygons;  // one a target, empty where the cell is
  std::vector<double> masses;     // area of the polygon / area of the domain
  std::vector<Point> centroids;   // of the polygons; {0, 0} for an empty one
  std::vector<Facet> facets;      // in the order of (i, j), only those of positive length
};

/// W_i = { x in domain : <x, y_j - y_i> <= h_i - h_j for all j }, by clipping the domain with one half-plane after the
/// other; O(N^2) for N targets. The same bits for any number of threads.
///   targets, heights  N >= 1 of them, finite; domain as above, with an area
/// Throws Error(argument) for other sizes or a domain without area, Error(data) for a value that is not finite or two
/// equal targets.
PowerCells power_cells(std::span<const Point> targets, std::span<const double> heights,
                       const Polygon& domain = unit_square());

/// E(h) = E[max_i <x, y_i> + h_i] - sum_i nu_i h_i, convex in h, with dE/dh_i = w_i - nu_i and
///   d2E / dh_i dh_j = - |facet ij| / (|y_i - y_j| area(domain)),  i != j; rows sum to 0     [Kitagawa 2019]
double brenier_energy(std::span<const Point> targets, std::span<const double> weights, std::span<const double> heights,
                      const PowerCells& cells);

struct ExactOptions {
  double tolerance = 1e-13;  // of the largest |w_i - nu_i|
  int64_t most_steps = 100;  // of Newton's method
};

struct ExactMap {
  std::vector<double> heights;  // sum 0
  double energy = 0;            // E at the heights
  double w2_squared = 0;        // E|x|^2 + sum nu_i |y_i|^2 - 2 E, the cost |x - y|^2 of the map
  double error = 0;             // largest |w_i - nu_i|
  int64_t steps = 0;            // of Newton's method
  PowerCells cells;
};

/// The heights whose cells have the masses `weights`: damped Newton on E. It starts where no cell is empty, from the
/// Voronoi cells of the targets (moved and shrunk into the domain if one lies outside); a step is halved until every
/// mass is at least half of min(smallest mass at the start, smallest weight) and the length of the gradient has gone
/// down by the factor 1 - step / 2, which makes every start converge.            [Kitagawa 2019, alg. 1]
///   weights  N, positive, sum 1 within 1e-9
/// Throws Error(data) for other weights, else as power_cells; Error(numeric) with the error reached if the steps do not
/// suffice.
ExactMap solve_exact(std::span<const Point> targets, std::span<const double> weights,
                     const Polygon& domain = unit_square(), const ExactOptions& options = {});

// ---- The line ------------------------------------------------------------------------------------------------------

/// A law on the line, by what the closed form needs of it.
struct LineLaw {
  std::function<double(double)> quantile;    // F^-1(p), 0 < p < 1
  std::function<double(double)> lower_mean;  // integral of F^-1 from 0 to p, 0 <= p <= 1
  double second_moment = 0;                  // E x^2
  static LineLaw uniform();                  // U(0, 1)
  static LineLaw normal();                   // N(0, 1)
};

struct LineMap {
  std::vector<double> boundaries;  // N - 1 walls between neighbouring cells, ascending
  std::vector<double> heights;     // in the order of the targets as given, sum 0
  double energy = 0, w2_squared = 0;
};

/// With sorted targets: walls b_i = F^-1(nu_1 + .. + nu_i), h_{i+1} = h_i - b_i (y_{i+1} - y_i); cells are intervals.
///   targets  N >= 1, finite, no two equal, in any order; weights as for solve_exact
/// Throws Error as solve_exact does.
LineMap solve_line(std::span<const double> targets, std::span<const double> weights, const LineLaw& law);

}  // namespace mote::ot
