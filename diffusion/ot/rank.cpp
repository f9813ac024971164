// The rank reduction of targets.h: coordinates L with L L^T = G, the Gram matrix of the rows. A Gaussian source looks
// the same from every orthonormal basis, so only G decides where the cells' walls lie.
#include <algorithm>
#include <cmath>
#include <vector>

#include "diffusion/ot/targets.h"
#include "tensor/kernels.h"

namespace mote::ot {
namespace {

constexpr int64_t kBlock = 64;   // columns made before the rest of the matrix is brought up to date
constexpr int64_t kStrip = 256;  // rows brought up to date at a time

/// Products of all rows less their mean in f64 [N, N], summed over pieces of their width so that few of their numbers
/// are in f64 at once.
Tensor gram(const Targets& targets) {
  int64_t N = targets.count(), D = targets.width(), piece = 4096;
  Tensor rows = targets.rows(0, N), sum = zeros({N, N}, DType::f64), part = empty({N, N}, DType::f64);
  for (int64_t d = 0; d < D; d += piece) {
    Tensor columns = empty({N, std::min(piece, D - d)}, rows.dtype());
    kernel::get_box(columns, rows, {0, d});
    Tensor wide = columns.to(DType::f64);
    kernel::matmul(part, wide, wide, false, true, {});
    kernel::accumulate(sum, part);
  }
  // Centred once more in f64: a shift of all targets changes no cell, and their mean is no direction to solve in.
  double *g = sum.data<double>(), all = 0;
  std::vector<double> mean(size_t(N), 0.0);
  for (int64_t i = 0; i < N; ++i)
    for (int64_t j = 0; j < N; ++j) mean[size_t(i)] += g[i * N + j] / double(N);
  for (double one : mean) all += one / double(N);
  for (int64_t i = 0; i < N; ++i)
    for (int64_t j = 0; j < N; ++j) g[i * N + j] += all - mean[size_t(i)] - mean[size_t(j)];
  return sum;
}

/// Cholesky with the largest remaining diagonal element as the next pivot, until none is above rounding: columns of L,
/// a block [N, n <= kBlock] at a time. Rows are never moved; one that was a pivot has no more in later columns.
std::vector<Tensor> pivoted_cholesky(Tensor& rest) {
  int64_t N = rest.size(0);
  double* r = rest.data<double>();
  std::vector<double> diagonal;
  for (int64_t i = 0; i < N; ++i) diagonal.push_back(r[i * N + i]);
  // Rows are f32: what is shorter than their rounding is no direction of theirs.
  double tolerance = std::max(double(N) * 0x1p-52, 0x1p-44) * *std::max_element(diagonal.begin(), diagonal.end());
  std::vector<char> used(size_t(N), 0);
  std::vector<Tensor> blocks;
  for (bool more = true; more;) {
    Tensor block = zeros({N, kBlock}, DType::f64);
    double* l = block.data<double>();
    int64_t made = 0;
    for (; made < kBlock; ++made) {
      int64_t pivot = -1;
      for (int64_t i = 0; i < N; ++i)
        if (!used[size_t(i)] && (pivot < 0 || diagonal[size_t(i)] > diagonal[size_t(pivot)])) pivot = i;
      more = pivot >= 0 && diagonal[size_t(pivot)] > tolerance;
      if (!more) break;
      double root = std::sqrt(diagonal[size_t(pivot)]);
      for (int64_t i = 0; i < N; ++i) {
        if (used[size_t(i)]) continue;
        double value = r[i * N + pivot];
        for (int64_t m = 0; m < made; ++m) value -= l[i * kBlock + m] * l[pivot * kBlock + m];
        l[i * kBlock + made] = i == pivot ? root : value / root;
        diagonal[size_t(i)] -= l[i * kBlock + made] * l[i * kBlock + made];
      }
      used[size_t(pivot)] = 1;
    }
    for (int64_t first = 0; first < N && more; first += kStrip) {
      Tensor strip = rest.rows(first, std::min(N, first + kStrip)), product = empty(strip.shape(), DType::f64);
      kernel::matmul(product, block.rows(first, std::min(N, first + kStrip)), block, false, true, {});
      kernel::combine(strip, {{1, strip}, {-1, product}});
    }
    if (made == 0) break;
    Tensor columns = empty({N, made}, DType::f64);
    kernel::get_box(columns, block, {0, 0});
    blocks.push_back(columns);
  }
  return blocks;
}

}  // namespace

std::optional<Targets> reduce_rank(const Targets& targets) {
  int64_t N = targets.count(), rank = 0;
  if (N < 2 || targets.width() <= N - 1) return {};
  Tensor rest = gram(targets);
  std::vector<Tensor> blocks = pivoted_cholesky(rest);
  for (const Tensor& block : blocks) rank += block.size(1);
  if (rank == 0 || rank >= targets.width()) return {};
  Tensor coordinates = empty({N, rank});
  int64_t at = 0;
  for (const Tensor& block : blocks) {
    kernel::put_box(coordinates, block.to(DType::f32), {0, at});
    at += block.size(1);
  }
  TargetOptions options;
  options.weights = targets.weights();
  options.centre = options.scale = false;
  return Targets::in_memory(coordinates, options);
}

}  // namespace mote::ot
