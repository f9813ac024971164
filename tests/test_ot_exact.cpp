// Optimal transport without sampling: power cells in a polygon, Newton's method on their masses, and the line.
#include <algorithm>
#include <numeric>

#include "diffusion/ot/normal.h"
#include "diffusion/ot/power_cells.h"
#include "tensor/random.h"
#include "tests/diffusion_support.h"

using namespace mote;
using namespace mote::ot;
using test::apart;
using test::caught;

namespace {

using Points = std::vector<Point>;
using Numbers = std::vector<double>;

/// Heights with the first one 0: they are defined up to a constant.
Numbers from_first(Numbers heights) {
  for (size_t i = heights.size(); i-- > 0;) heights[i] -= heights[0];
  return heights;
}

/// The largest |a_i - b_i|.
double largest_gap(const Numbers& a, const Numbers& b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}

Numbers equal_weights(size_t N) { return Numbers(N, 1.0 / double(N)); }

const Points kThree = {{.2, .3}, {.7, .2}, {.5, .8}};
const Points kFive = {{.1, .1}, {.9, .2}, {.5, .5}, {.2, .8}, {.8, .9}};

struct Known {
  const char* name;
  Points targets;
  Numbers weights, heights;  // heights with the first one 0
  double w2_squared;
};

/// Solved in closed form or to 15 digits by another program.
const std::vector<Known>& known_squares() {
  static const std::vector<Known> all = {
      {"two", {{.25, .5}, {.75, .5}}, {.3, .7}, {0, -.15}, .124166666666667},
      {"four", {{.25, .25}, {.75, .25}, {.25, .75}, {.75, .75}}, {.25, .25, .25, .25}, {0, -.25, -.25, -.5}, 1. / 24},
      {"three", kThree, {.2, .3, .5}, {0, -0.169390973830074, -0.320697671814973}, 0.074144060539590},
      {"three equal", kThree, equal_weights(3), {0, -0.203756068800272, -0.428906199893998}, 0.073606906011759},
      {"five",
       kFive,
       equal_weights(5),
       {0, -0.433037725160326, -0.267997151954828, -0.356816809521890, -0.726398658094189},
       0.045341170220336},
      {"five unequal",
       kFive,
       {.1, .15, .4, .05, .3},
       {0, -0.378009809471830, -0.178885438199983, -0.377158249583975, -0.601286522134039},
       0.071890469210390}};
  return all;
}

Points random_points(int64_t N, uint64_t seed, double low = 0, double high = 1) {
  Numbers values = uniform({2 * N}, DType::f64, Generator{seed}).to_vector();
  Points points;
  for (int64_t i = 0; i < N; ++i)
    points.push_back({low + (high - low) * values[size_t(2 * i)], low + (high - low) * values[size_t(2 * i + 1)]});
  return points;
}

/// Corners that all given polygons share within a rounding.
Point shared_corner(const std::vector<Polygon>& polygons) {
  for (Point corner : polygons[0]) {
    bool everywhere = std::all_of(polygons.begin(), polygons.end(), [&](const Polygon& polygon) {
      return std::any_of(polygon.begin(), polygon.end(),
                         [&](Point other) { return std::hypot(other.x - corner.x, other.y - corner.y) < 1e-12; });
    });
    if (everywhere) return corner;
  }
  return {NAN, NAN};
}

}  // namespace

// ---- The line ------------------------------------------------------------------------------------------------------

TEST_CASE("the normal quantile inverts the distribution function, in the tails too", "[ot]") {
  CHECK(apart(normal_quantile(0.1), -1.2815515655446004, 1e-15) == "");
  CHECK(apart(normal_quantile(0.8), 0.8416212335729143, 1e-15) == "");
  CHECK(normal_quantile(0.5) == 0);
  for (double p : {1e-300, 1e-16, 1e-5, 0.02, 0.3, 0.49, 0.7, 0.999, 1 - 1e-9}) {
    INFO("p = " << p);
    CHECK(apart(normal_cdf(normal_quantile(p)), p, 0, 1e-12) == "");  // d ln Phi / dx is about |x| = 37 at 1e-300
    if (p > 1e-6) CHECK(apart(normal_quantile(p), -normal_quantile(1 - p), 1e-9) == "");
  }
  for (double p : {0.0, 1.0, -0.1, double(NAN)}) CHECK(caught([&] { normal_quantile(p); }).says("needs 0 < p < 1"));
}

TEST_CASE("heights on the line have the closed form for uniform and normal sources", "[ot]") {
  Numbers targets = {-1, 0, .5, 2}, weights = {.1, .4, .3, .2};
  LineMap u = solve_line(targets, weights, LineLaw::uniform());
  CHECK(largest_gap(u.boundaries, {.1, .5, .8}) < 1e-15);
  CHECK(largest_gap(from_first(u.heights), {0, -.1, -.35, -1.55}) < 1e-15);
  CHECK(apart(u.energy, .4525, 1e-15) == "");
  CHECK(apart(u.w2_squared, 0.403333333333333, 1e-14) == "");

  LineMap n = solve_line(targets, weights, LineLaw::normal());
  CHECK(largest_gap(n.boundaries, {-1.28155157, 0, 0.84162123}) < 1e-8);
  CHECK(largest_gap(from_first(n.heights), {0, 1.28155157, 1.28155157, 0.01911972}) < 1e-8);
  CHECK(apart(n.energy, 0.794912352744916, 1e-14) == "");
  CHECK(apart(n.w2_squared, 0.385175294510169, 1e-14) == "");
  CHECK(std::abs(std::accumulate(n.heights.begin(), n.heights.end(), 0.0)) < 1e-14);

  LineMap shuffled = solve_line(Numbers{.5, -1, 2, 0}, Numbers{.3, .1, .2, .4}, LineLaw::normal());
  CHECK(largest_gap(shuffled.heights, {n.heights[2], n.heights[0], n.heights[3], n.heights[1]}) < 1e-15);
}

TEST_CASE("an even grid on the line costs 1 / (12 N^2)", "[ot]") {
  for (int N : {1, 2, 5, 64}) {
    Numbers targets, heights;
    for (int i = 0; i < N; ++i) targets.push_back((i + 0.5) / N);
    for (double y : targets) heights.push_back(-(y * y - targets[0] * targets[0]) / 2);
    LineMap map = solve_line(targets, equal_weights(size_t(N)), LineLaw::uniform());
    INFO("N = " << N);
    CHECK(largest_gap(from_first(map.heights), heights) < 1e-13);
    CHECK(apart(map.w2_squared, 1.0 / (12.0 * N * N), 1e-14) == "");
  }
}

// ---- The square ----------------------------------------------------------------------------------------------------

TEST_CASE("power cells of given heights have the areas, centroids and walls that geometry says", "[ot]") {
  Numbers voronoi;
  for (Point y : kThree) voronoi.push_back(-dot(y, y) / 2);
  PowerCells cells = power_cells(kThree, voronoi);
  CHECK(largest_gap(cells.masses, {.280142857142857, .299880952380952, .419976190476190}) < 1e-14);
  CHECK(largest_gap(power_cells(kThree, Numbers{0, 0, 0}).masses, {0, 1. / 6, 5. / 6}) < 1e-15);
  CHECK(power_cells(kThree, Numbers{0, 0, 0}).polygons[0].empty());

  PowerCells halves = power_cells(Points{{.25, .5}, {.75, .5}}, Numbers{0, -.15});  // a wall at x = 0.3
  CHECK(largest_gap(halves.masses, {.3, .7}) < 1e-15);
  CHECK(largest_gap({halves.centroids[0].x, halves.centroids[0].y, halves.centroids[1].x, halves.centroids[1].y},
                    {.15, .5, .65, .5}) < 1e-15);
  REQUIRE(halves.facets.size() == 1);
  CHECK((halves.facets[0].i == 0 && halves.facets[0].j == 1));
  CHECK(apart(halves.facets[0].length, 1, 1e-15) == "");
  CHECK(largest_gap(power_cells(Points{{.25, .5}, {.75, .5}}, Numbers{0, 0}).masses, {0, 1}) < 1e-15);

  // A domain elsewhere: masses are shares of it.
  PowerCells moved = power_cells(Points{{9, 0}, {11, 0}}, Numbers{0, -20}, rectangle({8, -3}, {12, 3}));
  CHECK(largest_gap(moved.masses, {.5, .5}) < 1e-14);
}

TEST_CASE("Newton's method finds the known heights of the unit square in less than 20 steps", "[ot]") {
  for (const Known& known : known_squares()) {
    INFO(known.name);
    ExactMap map = solve_exact(known.targets, known.weights);
    CHECK(largest_gap(from_first(map.heights), known.heights) < 1e-12);
    CHECK(largest_gap(map.cells.masses, known.weights) < 1e-12);
    CHECK(apart(map.w2_squared, known.w2_squared, 1e-12) == "");
    CHECK(map.steps < 20);
    CHECK(map.error <= 1e-13);
    CHECK(std::abs(std::accumulate(map.heights.begin(), map.heights.end(), 0.0)) < 1e-14);
    CHECK(largest_gap(power_cells(known.targets, map.heights).masses, map.cells.masses) < 1e-13);
  }
}

TEST_CASE("three cells meet where the exact heights say, and a corner cell is the known triangle", "[ot]") {
  Point meet = shared_corner(solve_exact(kThree, Numbers{.2, .3, .5}).cells.polygons);
  CHECK(std::hypot(meet.x - 0.417018765, meet.y - 0.391184085) < 1e-8);
  meet = shared_corner(solve_exact(kThree, equal_weights(3)).cells.polygons);
  CHECK(std::hypot(meet.x - 0.517030909, meet.y - 0.547593855) < 1e-8);

  Polygon triangle = solve_exact(kFive, Numbers{.1, .15, .4, .05, .3}).cells.polygons[0];
  REQUIRE(triangle.size() == 3);  // its legs are sqrt(0.2): half their product is the weight 0.1
  for (Point corner : triangle) {
    bool is_known = std::hypot(corner.x, corner.y) < 1e-12 || std::hypot(corner.x - std::sqrt(.2), corner.y) < 1e-12 ||
                    std::hypot(corner.x, corner.y - std::sqrt(.2)) < 1e-12;
    CHECK(is_known);
  }
}

TEST_CASE("product targets have heights that are sums of those of the axes", "[ot]") {
  Numbers x = {.1, .3, .35, .9}, y = {.2, .8, 1.5}, wx = {.4, .1, .2, .3}, wy = {.25, .5, .25};
  Numbers hx = solve_line(x, wx, LineLaw::uniform()).heights, hy = solve_line(y, wy, LineLaw::uniform()).heights;
  Points targets;
  Numbers weights, heights;
  for (size_t i = 0; i < x.size(); ++i)
    for (size_t j = 0; j < y.size(); ++j) {
      targets.push_back({x[i], y[j]});
      weights.push_back(wx[i] * wy[j]);
      heights.push_back(hx[i] + hy[j]);
    }
  CHECK(largest_gap(solve_exact(targets, weights).heights, heights) < 1e-12);  // some targets lie outside the square
}

TEST_CASE("the map commutes with moving and scaling targets or source", "[ot]") {
  Points targets = random_points(40, 3), moved, scaled, mirrored;
  for (Point y : targets) {
    moved.push_back(y + Point{3, -2});
    scaled.push_back(2.5 * y);
    mirrored.push_back({y.y, y.x});
  }
  Numbers weights = equal_weights(40), heights = solve_exact(targets, weights).heights, times, less;
  CHECK(largest_gap(solve_exact(moved, weights).heights, heights) < 1e-11);
  for (double h : heights) times.push_back(2.5 * h);
  CHECK(largest_gap(solve_exact(scaled, weights).heights, times) < 1e-11);
  CHECK(largest_gap(solve_exact(mirrored, weights).heights, heights) < 1e-11);  // the square is its own mirror image

  double mean = 0;  // the source moved by a: h_i - <a, y_i>
  for (size_t i = 0; i < targets.size(); ++i) less.push_back(heights[i] - dot({-0.5, -0.5}, targets[i]));
  for (double h : less) mean += h / 40;
  for (double& h : less) h -= mean;
  CHECK(largest_gap(solve_exact(targets, weights, rectangle({-.5, -.5}, {.5, .5})).heights, less) < 1e-11);
}

TEST_CASE("finite differences of the masses are the walls over the distances of the targets", "[ot]") {
  constexpr double kStep = 1e-6;
  for (const Known& known : known_squares()) {
    if (known.targets.size() < 3) continue;
    if (std::string(known.name) == "four") continue;  // four cells meet in a point, where a wall is about to vanish
    INFO(known.name);
    size_t N = known.targets.size();
    PowerCells cells = power_cells(known.targets, known.heights);
    std::vector<Numbers> hessian(N, Numbers(N, 0));
    for (const Facet& facet : cells.facets) {
      Point between = known.targets[size_t(facet.j)] - known.targets[size_t(facet.i)];
      double conductance = facet.length / std::hypot(between.x, between.y);
      hessian[size_t(facet.i)][size_t(facet.j)] = hessian[size_t(facet.j)][size_t(facet.i)] = -conductance;
      hessian[size_t(facet.i)][size_t(facet.i)] += conductance;
      hessian[size_t(facet.j)][size_t(facet.j)] += conductance;
    }
    for (size_t j = 0; j < N; ++j) {
      Numbers up = known.heights, down = known.heights;
      up[j] += kStep;
      down[j] -= kStep;
      Numbers more = power_cells(known.targets, up).masses, fewer = power_cells(known.targets, down).masses;
      double sum = 0;
      for (size_t i = 0; i < N; ++i) {
        CHECK(apart((more[i] - fewer[i]) / (2 * kStep), hessian[i][j], 1e-9, 1e-6) == "");  // masses round at 1e-16
        sum += hessian[i][j];
      }
      CHECK(std::abs(sum) < 1e-14);
    }
    for (uint64_t seed = 0; seed < 20; ++seed) {  // positive semidefinite
      Numbers v = normal({int64_t(N)}, DType::f64, Generator{seed}).to_vector();
      double form = 0;
      for (size_t i = 0; i < N; ++i)
        for (size_t j = 0; j < N; ++j) form += v[i] * hessian[i][j] * v[j];
      CHECK(form >= 0);
    }
  }
}

TEST_CASE("the energy's slope is mass minus weight, and it is convex", "[ot]") {
  constexpr double kStep = 1e-6;
  Points targets = random_points(30, 5);
  Numbers weights = equal_weights(30), heights = normal({30}, DType::f64, Generator{6}).to_vector();
  for (size_t i = 0; i < 30; ++i) heights[i] = 0.01 * heights[i] - dot(targets[i], targets[i]) / 2;
  auto energy = [&](const Numbers& h) { return brenier_energy(targets, weights, h, power_cells(targets, h)); };
  PowerCells cells = power_cells(targets, heights);
  for (size_t i = 0; i < 30; ++i) {
    Numbers up = heights, down = heights;
    up[i] += kStep;
    down[i] -= kStep;
    CHECK(apart((energy(up) - energy(down)) / (2 * kStep), cells.masses[i] - weights[i], 1e-8) == "");
    CHECK(energy(up) + energy(down) - 2 * energy(heights) >= -1e-15);
  }
}

TEST_CASE("random targets are solved inside, around and far from the domain", "[ot]") {
  struct {
    int64_t N;
    double low, high;
  } cases[] = {{1, 0, 1}, {2, 5, 6}, {7, 0, 1}, {150, 0, 1}, {33, -4, 3}, {60, 7, 9}};
  for (auto [N, low, high] : cases) {
    Numbers weights = uniform({N}, DType::f64, Generator{uint64_t(N)}).to_vector();
    double sum = 0;
    for (double& w : weights) sum += w += 0.1;
    for (double& w : weights) w /= sum;
    ExactMap map = solve_exact(random_points(N, 8, low, high), weights);
    INFO("N = " << N << " in " << low << ".." << high);
    CHECK(largest_gap(map.cells.masses, weights) <= 1e-13);
    CHECK(map.steps < 40);
    CHECK(map.w2_squared > 0);
  }
}

TEST_CASE("cells and heights have the same bits for any number of threads", "[ot]") {
  Points targets = random_points(101, 9);
  std::vector<Numbers> heights;
  for (int threads : {1, 2, 3, 7}) {
    test::Threads set(threads);
    heights.push_back(solve_exact(targets, equal_weights(101)).heights);
    CHECK(heights.back() == heights.front());
  }
}

TEST_CASE("exact transport says what is wrong with targets, weights and domain", "[ot]") {
  Points two = {{.25, .5}, {.75, .5}};
  auto solve = [](const Points& targets, const Numbers& weights) {
    return caught([&] { solve_exact(targets, weights); });
  };
  CHECK(solve(two, {.3, .6}).says("the weights sum to 0.9, need 1"));
  CHECK(solve(two, {1, 0}).says("weight 1 is 0, needs a positive number"));
  CHECK(solve(two, {1.5, -.5}).says("weight 1 is -0.5"));
  CHECK(solve(two, {NAN, 1}).says("weight 0 is"));
  CHECK(solve(two, {1}).says("one weight a target, got 1 for 2"));
  CHECK(solve({{.1, .1}, {.5, .5}, {.1, .1}}, equal_weights(3)).says("targets 0 and 2 are the same point"));
  CHECK(solve({{.1, NAN}, {.5, .5}}, equal_weights(2)).says("target 0 is not finite"));
  CHECK(solve({}, {}).says("needs 1 target or more"));
  CHECK(solve(two, {.3, .6}).kind == Error::Kind::data);
  CHECK(caught([&] { power_cells(two, Numbers{0}); }).says("one height a target"));
  CHECK(caught([&] { power_cells(two, Numbers{0, INFINITY}); }).says("height 1 is not finite"));
  CHECK(caught([&] { power_cells(two, Numbers{0, 0}, {{0, 0}, {0, 1}, {1, 1}}); }).says("counterclockwise"));
  CHECK(caught([&] {
          solve_line(Numbers{1, 2, 1}, equal_weights(3), LineLaw::uniform());
        }).says("targets 0 and 2 are the same number"));
  auto stopped = caught([&] { solve_exact(kFive, Numbers{.1, .15, .4, .05, .3}, unit_square(), {.most_steps = 1}); });
  CHECK(stopped.kind == Error::Kind::numeric);
  CHECK(stopped.says("after 1 steps"));
}
