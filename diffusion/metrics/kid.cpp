#include "diffusion/metrics/kid.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "diffusion/metrics/features.h"
#include "tensor/cpu/parallel.h"
#include "tensor/error.h"
#include "tensor/kernels.h"
#include "tensor/random.h"

namespace mote::metrics {
namespace {

constexpr int64_t kRows = 1024;            // of the kernel matrix at a time
constexpr uint64_t kSubsetKey = 0x6b6964;  // "kid"

double cube(double value) { return value * value * value; }

/// Sum of k(x_i, y_j) over all pairs; without those of i = j if off_diagonal (x and y are then the same rows).
double kernel_sum(const Tensor& x, const Tensor& y, bool off_diagonal) {
  int64_t N = x.size(0), M = y.size(0);
  double D = double(x.size(1)), sum = 0;
  for (int64_t first = 0; first < N; first += kRows) {
    int64_t rows = std::min(kRows, N - first);
    Tensor products = empty({rows, M}, DType::f64);
    kernel::matmul(products, x.rows(first, first + rows), y, false, true, {});
    double* p = products.data<double>();
    // What the diagonal would add is left out, not subtracted: it is far larger than the rest of a wide matrix.
    if (off_diagonal)
      for (int64_t row = 0; row < rows; ++row) p[row * M + first + row] = -D;  // (-1 + 1)^3 = 0
    sum += cpu::chunked_sum<double>(rows * M, [&](int64_t i) { return cube(p[i] / D + 1); });
  }
  return sum;
}

double mmd2_of(const Tensor& x, const Tensor& y) {
  double N = double(x.size(0)), M = double(y.size(0));
  return kernel_sum(x, x, true) / (N * (N - 1)) + kernel_sum(y, y, true) / (M * (M - 1)) -
         2 * kernel_sum(x, y, false) / (N * M);
}

void require_rows(const char* op, const Tensor& x, const Tensor& y, int64_t least) {
  require_pair(op, x, y);
  if (std::min(x.size(0), y.size(0)) < least)
    fail(Error::Kind::data, op, ": needs ", least, " images or more a side, got ", x.size(0), " and ", y.size(0));
}

/// `count` rows of x, chosen without replacement: the first ones of a shuffle.               [Durstenfeld 1964]
Tensor random_rows(const Tensor& x, int64_t count, const Generator& generator) {
  int64_t N = x.size(0), D = x.size(1);
  std::vector<int64_t> order(static_cast<size_t>(N));
  std::iota(order.begin(), order.end(), int64_t(0));
  Tensor rows = empty({count, D}, DType::f64);
  for (int64_t i = 0; i < count; ++i) {
    auto left = static_cast<unsigned __int128>(N - i);
    auto pick = int64_t(left * random_bits(generator, uint64_t(i)) >> 64);
    std::swap(order[size_t(i)], order[size_t(i + pick)]);
    std::copy_n(x.data<double>() + order[size_t(i)] * D, D, rows.data<double>() + i * D);
  }
  return rows;
}

}  // namespace

double mmd2(const Tensor& x, const Tensor& y) {
  require_rows("mmd2", x, y, 2);
  return mmd2_of(x.to(DType::f64), y.to(DType::f64));
}

Kid kid(const Tensor& x, const Tensor& y, const KidOptions& options) {
  check(options.subset >= 2 && options.subsets >= 1,
        "kid: needs subsets of 2 images or more, and one or more of them, got ", options.subsets, " of ",
        options.subset);
  require_rows("kid", x, y, options.subset);
  Tensor x64 = x.to(DType::f64), y64 = y.to(DType::f64);
  Generator generator = Generator{options.seed}.fork(kSubsetKey);
  std::vector<double> values;
  for (int64_t subset = 0; subset < options.subsets; ++subset) {
    Tensor a = random_rows(x64, options.subset, generator.fork(uint64_t(2 * subset)));
    Tensor b = random_rows(y64, options.subset, generator.fork(uint64_t(2 * subset + 1)));
    values.push_back(mmd2_of(a, b));
  }
  Kid result;
  for (double value : values) result.mean += value;
  result.mean /= double(values.size());
  if (values.size() < 2) return result;
  double squares = 0;
  for (double value : values) squares += (value - result.mean) * (value - result.mean);
  result.std = std::sqrt(squares / double(values.size() - 1));
  return result;
}

}  // namespace mote::metrics
