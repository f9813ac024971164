#include "diffusion/metrics/eigen.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "tensor/cpu/parallel.h"
#include "tensor/error.h"
#include "tensor/kernels.h"

namespace mote::metrics {
namespace {

// Threads share rows, or blocks of this many columns: never a range whose ends follow from the number of threads. A
// compiler may round a vector loop and its remainder differently, so a moving end would change bits.
constexpr int64_t kBlock = 64;

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

/// fn(begin, end) on blocks of columns that cover first..n-1; `work` is how many elements a column costs.
template <class Fn>
void for_column_blocks(int64_t first, int64_t n, int64_t work, Fn&& fn) {
  int64_t blocks = (n - first + kBlock - 1) / kBlock, grain = std::max<int64_t>(1, cpu::kGrain / (kBlock * work + 1));
  cpu::parallel_for(blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block)
      fn(first + block * kBlock, std::min(n, first + (block + 1) * kBlock));
  });
}

/// The way to T = Q^T A Q: T's diagonals, and the reflections I - factor v v^T whose product is Q. Reflection k acts on
/// the indices k + 1 .. n - 1; its v lies in row k of `rows`.
struct Tridiagonal {
  int64_t n;
  std::vector<double> diagonal, beside;  // n and n - 1
  std::vector<double> rows, factor;      // n n, n
};

/// Row k of a symmetric matrix is turned into (.., diagonal, beside, 0, 0, ..) by the reflection that maps
/// x = row[k + 1 ..] to (beside, 0, ..); what is left is A - v w^T - w v^T with w = p - (factor / 2) (p v) v, p =
/// factor A v.
Tridiagonal tridiagonalise(const Tensor& a) {
  int64_t n = a.size(0);
  Tridiagonal t{n, std::vector<double>(size_t(n)), std::vector<double>(size_t(n), 0.0),
                std::vector<double>(size_t(n * n)), std::vector<double>(size_t(n), 0.0)};
  const double* given = a.data<double>();
  double* m = t.rows.data();
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < n; ++c) m[r * n + c] = 0.5 * (given[r * n + c] + given[c * n + r]);
  std::vector<double> product(static_cast<size_t>(n));
  for (int64_t k = 0; k < n; ++k) {
    t.diagonal[size_t(k)] = m[k * n + k];
    if (k == n - 1) break;
    double* v = m + k * n;  // from k + 1 on; elements before are not used any more
    double largest = 0, tail = 0;
    for (int64_t c = k + 1; c < n; ++c) largest = std::max(largest, std::abs(v[c]));
    for (int64_t c = k + 2; c < n; ++c) tail = std::max(tail, std::abs(v[c]));
    t.beside[size_t(k)] = v[k + 1];
    if (tail == 0) continue;                              // already tridiagonal here: no reflection
    for (int64_t c = k + 1; c < n; ++c) v[c] /= largest;  // so that squares neither overflow nor vanish
    double norm = std::sqrt(dot(v + k + 1, v + k + 1, n - k - 1));
    double image = v[k + 1] > 0 ? -norm : norm;  // the sign that adds in v, so that nothing cancels
    v[k + 1] -= image;
    t.beside[size_t(k)] = image * largest;
    double factor = 2 / dot(v + k + 1, v + k + 1, n - k - 1);
    t.factor[size_t(k)] = factor;

    int64_t rest = n - k - 1, grain = std::max<int64_t>(1, cpu::kGrain / rest);
    double* w = product.data();
    cpu::parallel_for(rest, grain, [&](int64_t begin, int64_t end) {
      for (int64_t r = k + 1 + begin; r < k + 1 + end; ++r) w[r] = factor * dot(m + r * n + k + 1, v + k + 1, rest);
    });
    double half = 0.5 * factor * dot(w + k + 1, v + k + 1, rest);
    for (int64_t r = k + 1; r < n; ++r) w[r] -= half * v[r];
    cpu::parallel_for(rest, grain, [&](int64_t begin, int64_t end) {
      for (int64_t r = k + 1 + begin; r < k + 1 + end; ++r) {
        double vr = v[r], wr = w[r], *row = m + r * n;
        for (int64_t c = k + 1; c < n; ++c) row[c] -= vr * w[c] + wr * v[c];
      }
    });
  }
  return t;
}

/// Q^T, the product of the reflections, as rows: element (i, j) is Q[j, i].
std::vector<double> accumulate(const Tridiagonal& t) {
  int64_t n = t.n;
  std::vector<double> q(size_t(n * n), 0.0), sum(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) q[size_t(i * n + i)] = 1;
  for (int64_t k = n - 2; k >= 0;
       --k) {  // from the last one: those applied so far left rows and columns <= k + 1 alone
    double factor = t.factor[size_t(k)];
    if (factor == 0) continue;
    const double* v = t.rows.data() + k * n;
    for_column_blocks(k + 1, n, n - k, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) sum[size_t(c)] = 0;
      for (int64_t r = k + 1; r < n; ++r)
        for (int64_t c = begin; c < end; ++c) sum[size_t(c)] += v[r] * q[size_t(r * n + c)];
      for (int64_t r = k + 1; r < n; ++r)
        for (int64_t c = begin; c < end; ++c) q[size_t(r * n + c)] -= factor * v[r] * sum[size_t(c)];
    });
  }
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < r; ++c) std::swap(q[size_t(r * n + c)], q[size_t(c * n + r)]);
  return q;
}

struct Rotation {
  double c, s;
};

/// One implicit QR step with Wilkinson's shift on the unreduced block low..high: rotations of neighbouring indices
/// chase the element that the first one puts outside the three diagonals down and out.
void qr_step(std::vector<double>& d, std::vector<double>& e, size_t low, size_t high,
             std::vector<Rotation>& rotations) {
  double half = (d[high - 1] - d[high]) / 2, below = e[high - 1];
  double root = std::hypot(half, below);
  double shift = d[high] - below * (below / (half + std::copysign(root, half)));
  double x = d[low] - shift, z = e[low];
  rotations.clear();
  for (size_t k = low; k < high; ++k) {
    double length = std::hypot(x, z), c = length > 0 ? x / length : 1, s = length > 0 ? z / length : 0;
    rotations.push_back({c, s});
    if (k > low) e[k - 1] = length;
    double a = d[k], b = e[k], g = d[k + 1];
    d[k] = c * c * a + 2 * c * s * b + s * s * g;
    d[k + 1] = s * s * a - 2 * c * s * b + c * c * g;
    e[k] = c * s * (g - a) + (c * c - s * s) * b;
    x = e[k];
    if (k + 1 < high) {
      z = s * e[k + 1];
      e[k + 1] *= c;
    }
  }
}

/// Rows low, low + 1, ... of q [n, n] turned in pairs, in order.
void rotate_rows(std::vector<double>& q, int64_t n, int64_t low, const std::vector<Rotation>& rotations) {
  for_column_blocks(0, n, int64_t(rotations.size()), [&](int64_t begin, int64_t end) {
    double* row = q.data() + low * n;
    for (const Rotation& turn : rotations) {
      double c = turn.c, s = turn.s, *next = row + n;
      for (int64_t i = begin; i < end; ++i) {
        double upper = row[i], lower = next[i];
        row[i] = c * upper + s * lower;
        next[i] = c * lower - s * upper;
      }
      row = next;
    }
  });
}

/// Makes d the eigenvalues of the tridiagonal matrix (d, e); q, unless empty, is turned along.
void diagonalise(std::vector<double>& d, std::vector<double>& e, std::vector<double>& q) {
  int64_t n = int64_t(d.size());
  const double eps = std::numeric_limits<double>::epsilon();
  double size = 0;
  for (size_t i = 0; i < d.size(); ++i) size = std::max({size, std::abs(d[i]), std::abs(e[i])});
  auto is_small = [&](size_t i) {  // dropping e[i] is then less than what rounding has done already
    return std::abs(e[i]) <= eps * (std::abs(d[i]) + std::abs(d[i + 1])) || std::abs(e[i]) <= eps * eps * size;
  };
  std::vector<Rotation> rotations;
  int64_t steps_left = 60 * n;  // two or three an eigenvalue are usual
  for (size_t high = d.size() - 1; high > 0;) {
    if (is_small(high - 1)) {
      --high;
      continue;
    }
    if (steps_left-- == 0) fail(Error::Kind::numeric, "symmetric_eigen: no convergence after ", 60 * n, " QR steps");
    size_t low = high - 1;
    while (low > 0 && !is_small(low - 1)) --low;
    qr_step(d, e, low, high, rotations);
    if (!q.empty()) rotate_rows(q, n, int64_t(low), rotations);
  }
}

void require_symmetric(const Tensor& a) {
  check(a.defined() && a.ndim() == 2 && a.dtype() == DType::f64 && a.size(0) == a.size(1) && a.size(0) > 0 &&
            !a.is_cuda(),
        "symmetric_eigen: needs f64 [D, D] on the CPU, got ", describe(a));
  int64_t n = a.size(0);
  const double* m = a.data<double>();
  double largest = 0;
  for (int64_t i = 0; i < n * n; ++i) {
    if (!std::isfinite(m[i]))
      fail(Error::Kind::numeric, "symmetric_eigen: element (", i / n, ", ", i % n, ") of ", describe(a), " is ", m[i]);
    largest = std::max(largest, std::abs(m[i]));
  }
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < r; ++c)
      if (std::abs(m[r * n + c] - m[c * n + r]) > 1e-10 * largest)
        fail(Error::Kind::numeric, "symmetric_eigen: the matrix is not symmetric: element (", r, ", ", c, ") is ",
             m[r * n + c], ", (", c, ", ", r, ") is ", m[c * n + r]);
}

}  // namespace

SymmetricEigen symmetric_eigen(const Tensor& a, bool with_vectors) {
  require_symmetric(a);
  int64_t n = a.size(0);
  Tridiagonal t = tridiagonalise(a);
  std::vector<double> q;
  if (with_vectors) q = accumulate(t);
  diagonalise(t.diagonal, t.beside, q);

  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t(0));
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t i, int64_t j) { return t.diagonal[size_t(i)] < t.diagonal[size_t(j)]; });
  SymmetricEigen result{empty({n}, DType::f64), {}};
  for (int64_t i = 0; i < n; ++i) result.values.data<double>()[i] = t.diagonal[size_t(order[size_t(i)])];
  if (with_vectors) {
    result.vectors = empty({n, n}, DType::f64);
    for (int64_t i = 0; i < n; ++i)
      std::copy_n(q.data() + order[size_t(i)] * n, n, result.vectors.data<double>() + i * n);
  }
  return result;
}

Tensor symmetric_sqrt(const Tensor& a) {
  SymmetricEigen eigen = symmetric_eigen(a);
  int64_t n = a.size(0);
  Tensor scaled = eigen.vectors.clone(), root = empty({n, n}, DType::f64);
  for (int64_t i = 0; i < n; ++i) {
    double factor = std::sqrt(std::max(0.0, eigen.values.data<double>()[i]));
    for (int64_t c = 0; c < n; ++c) scaled.data<double>()[i * n + c] *= factor;
  }
  kernel::matmul(root, eigen.vectors, scaled, true, false, {});
  return root;
}

}  // namespace mote::metrics
