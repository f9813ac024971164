#include "diffusion/cluster/cholesky.h"

#include <algorithm>
#include <cmath>

namespace mote::cluster {
namespace {

double dot(const double* a, const double* b, int64_t n) {
  constexpr int64_t kLanes = 16;
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += a[i + lane] * b[i + lane];
  double sum = 0;
  for (double lane : lanes) sum += lane;
  for (; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

bool cholesky(double* a, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    double* row = a + i * n;
    for (int64_t j = 0; j < i; ++j) row[j] = (row[j] - dot(row, a + j * n, j)) / a[j * n + j];
    double pivot = row[i] - dot(row, row, i);
    if (!(pivot > 0) || !std::isfinite(pivot)) return false;
    row[i] = std::sqrt(pivot);
    std::fill(row + i + 1, row + n, 0.0);
  }
  return true;
}

void solve_lower(const double* l, int64_t n, double* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = (y[i] - dot(l + i * n, y, i)) / l[i * n + i];
}

void solve_upper(const double* l, int64_t n, double* y) {
  for (int64_t i = n - 1; i >= 0; --i) {
    y[i] /= l[i * n + i];
    for (int64_t j = 0; j < i; ++j) y[j] -= l[i * n + j] * y[i];
  }
}

}  // namespace mote::cluster
