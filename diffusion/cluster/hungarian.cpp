#include "diffusion/cluster/hungarian.h"

#include <cmath>
#include <limits>

#include "tensor/error.h"

namespace mote::cluster {
namespace {

/// The least assignment of a square of costs: column of each row. Rows enter one at a time. The new row is joined by the
/// cheapest alternating path, measured in reduced costs cost - u[row] - v[column] >= 0, which the potentials keep at 0 on
/// matched pairs; finding that path is Dijkstra's algorithm on a dense graph.
std::vector<int64_t> assign_square(const std::vector<double>& cost, int64_t n) {
  constexpr double kFar = std::numeric_limits<double>::infinity();
  const size_t none = size_t(n);
  // Column n is where the path of the row that enters begins.
  std::vector<double> u(size_t(n), 0.0), v(size_t(n) + 1, 0.0), distance(size_t(n) + 1);
  std::vector<size_t> row_of(size_t(n) + 1, none), before(size_t(n) + 1, none);
  std::vector<char> done(size_t(n) + 1);
  for (size_t entering = 0; entering < size_t(n); ++entering) {
    std::fill(distance.begin(), distance.end(), kFar);
    std::fill(done.begin(), done.end(), char(0));
    size_t column = none;
    row_of[none] = entering;
    do {
      done[column] = 1;
      size_t row = row_of[column], next = none;
      double step = kFar;
      for (size_t j = 0; j < size_t(n); ++j) {
        if (done[j]) continue;
        double reduced = cost[row * size_t(n) + j] - u[row] - v[j];
        if (reduced < distance[j]) {
          distance[j] = reduced;
          before[j] = column;
        }
        if (distance[j] < step) {
          step = distance[j];
          next = j;
        }
      }
      for (size_t j = 0; j <= size_t(n); ++j) {
        if (done[j]) {
          u[row_of[j]] += step;
          v[j] -= step;
        } else {
          distance[j] -= step;
        }
      }
      column = next;
    } while (row_of[column] != none);
    for (; column != none; column = before[column]) row_of[column] = row_of[before[column]];
  }
  std::vector<int64_t> column_of(static_cast<size_t>(n));
  for (size_t j = 0; j < size_t(n); ++j) column_of[row_of[j]] = int64_t(j);
  return column_of;
}

Assignment assign(const char* op, const Tensor& cost, double sign) {
  check(cost.defined() && cost.ndim() == 2 && cost.dtype() == DType::f64 && !cost.is_cuda(),
        op, ": needs f64 [R, C] on the CPU, got ", describe(cost));
  int64_t rows = cost.size(0), columns = cost.size(1), n = std::max(rows, columns);
  const double* given = cost.data<double>();
  std::vector<double> square(size_t(n * n), 0.0);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      double value = given[r * columns + c];
      if (!std::isfinite(value))
        fail(Error::Kind::numeric, op, ": element (", r, ", ", c, ") of ", describe(cost), " is ", value);
      square[size_t(r * n + c)] = sign * value;
    }
  Assignment result{assign_square(square, n), 0};
  result.column.resize(size_t(rows));
  for (int64_t r = 0; r < rows; ++r) {
    int64_t& column = result.column[size_t(r)];
    if (column >= columns) column = -1;
    else result.cost += given[r * columns + column];
  }
  return result;
}

}  // namespace

Assignment min_assignment(const Tensor& cost) { return assign("min_assignment", cost, 1); }
Assignment max_assignment(const Tensor& gain) { return assign("max_assignment", gain, -1); }

}  // namespace mote::cluster
