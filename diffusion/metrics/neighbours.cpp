#include "diffusion/metrics/neighbours.h"

#include <algorithm>
#include <limits>

#include "diffusion/metrics/features.h"
#include "tensor/cpu/parallel.h"
#include "tensor/error.h"

namespace mote::metrics {
namespace {

// ---- All distances, a block at a time ------------------------------------------------------------------------------

constexpr int64_t kLanes = 16;              // columns are summed in 16 lanes
constexpr int64_t kGroup = 4;               // rows of y against one row of x: x is loaded once for the four
constexpr int64_t kRowsX = 32;              // rows of x that share a block of y
constexpr int64_t kBlockBytes = 256 << 10;  // of y: it stays in the second-level cache

/// Rows with zeros after the last column and copies of the last row after it, so that every distance is computed by the
/// same loop whatever its place: d(x, y) has the same bits each time it is asked for, from either side.
template <class T>
struct Packed {
  int64_t rows, width;  // width: columns with their padding
  std::vector<T> values;

  explicit Packed(const Tensor& x) : rows(x.size(0)), width((x.size(1) + kLanes - 1) / kLanes * kLanes) {
    int64_t D = x.size(1), padded = (rows + kGroup - 1) / kGroup * kGroup;
    values.assign(size_t(padded * width), T(0));
    for (int64_t row = 0; row < padded; ++row)
      std::copy_n(x.data<T>() + std::min(row, rows - 1) * D, D, values.data() + row * width);
  }
  const T* row(int64_t index) const { return values.data() + index * width; }
};

/// Squared distances of x to kGroup rows of y.
template <class T>
void group_distances(const T* x, const T* y, int64_t width, double* squared) {
  T sum[kGroup][kLanes] = {};
  for (int64_t i = 0; i < width; i += kLanes)
    for (int64_t g = 0; g < kGroup; ++g)
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        T difference = x[i + lane] - y[g * width + i + lane];
        sum[g][lane] += difference * difference;
      }
  for (int64_t g = 0; g < kGroup; ++g) {
    squared[g] = 0;
    for (T lane : sum[g]) squared[g] += double(lane);
  }
}

/// visit(row of x, row of y, squared distance) for every pair. A row of x is one thread's, and its pairs come in the
/// order of the rows of y.
template <class T, class Visit>
void visit_pairs(const Packed<T>& x, const Packed<T>& y, Visit&& visit) {
  int64_t block = std::max(kGroup, kBlockBytes / int64_t(sizeof(T)) / y.width / kGroup * kGroup);
  int64_t blocks_x = (x.rows + kRowsX - 1) / kRowsX;
  cpu::parallel_for(blocks_x, 1, [&](int64_t begin, int64_t end) {
    for (int64_t bx = begin; bx < end; ++bx)
      for (int64_t first = 0; first < y.rows; first += block)
        for (int64_t row = bx * kRowsX; row < std::min(x.rows, (bx + 1) * kRowsX); ++row)
          for (int64_t group = first; group < std::min(y.rows, first + block); group += kGroup) {
            double squared[kGroup];
            group_distances(x.row(row), y.row(group), x.width, squared);
            for (int64_t g = 0; g < std::min(kGroup, y.rows - group); ++g) visit(row, group + g, squared[g]);
          }
  });
}

/// fn(Packed x, Packed y) in f32 if both are, else in f64.
template <class Fn>
auto with_packed(const Tensor& x, const Tensor& y, Fn&& fn) {
  if (x.dtype() == DType::f32 && y.dtype() == DType::f32) return fn(Packed<float>(x), Packed<float>(y));
  return fn(Packed<double>(x.to(DType::f64)), Packed<double>(y.to(DType::f64)));
}

// ---- Neighbours ----------------------------------------------------------------------------------------------------

/// The k smallest of the values offered, ascending.
class Smallest {
 public:
  explicit Smallest(int64_t k) : values_(size_t(k), std::numeric_limits<double>::infinity()) {}
  void offer(double value) {
    if (value >= values_.back()) return;
    size_t place = values_.size() - 1;
    for (; place > 0 && values_[place - 1] > value; --place) values_[place] = values_[place - 1];
    values_[place] = value;
  }
  double at(int64_t k) const { return values_[size_t(k - 1)]; }

 private:
  std::vector<double> values_;
};

/// For each row the distances to its `most` nearest other rows.
template <class T>
std::vector<Smallest> neighbours_within(const Packed<T>& x, int64_t most) {
  std::vector<Smallest> nearest(size_t(x.rows), Smallest(most));
  visit_pairs(x, x, [&](int64_t i, int64_t j, double squared) {
    if (i != j) nearest[size_t(i)].offer(squared);
  });
  return nearest;
}

void require_neighbours(const char* op, const char* name, const Tensor& x, int64_t k) {
  check(k >= 1, op, ": k must be 1 or more, got ", k);
  if (k >= x.size(0))
    fail(Error::Kind::data, op, ": the neighbour number ", k, " needs ", k + 1, " rows or more, but ", name, " is ",
         describe(x));
}

double share(const std::vector<char>& marks) {
  return double(std::count(marks.begin(), marks.end(), 1)) / double(marks.size());
}

template <class T>
Prdc prdc_of(const Packed<T>& real, const Packed<T>& fake, const PrdcOptions& options) {
  int64_t k = options.k_manifold, k_density = options.k_density;
  std::vector<Smallest> around_real = neighbours_within(real, std::max(k, k_density)),
                        around_fake = neighbours_within(fake, k);
  std::vector<char> is_precise(size_t(fake.rows), 0), is_recalled(size_t(real.rows), 0),
      is_covered(size_t(real.rows), 0);
  std::vector<int64_t> balls(size_t(fake.rows), 0);
  visit_pairs(fake, real, [&](int64_t j, int64_t i, double squared) {
    if (squared <= around_real[size_t(i)].at(k)) is_precise[size_t(j)] = 1;
    if (squared <= around_real[size_t(i)].at(k_density)) ++balls[size_t(j)];
  });
  visit_pairs(real, fake, [&](int64_t i, int64_t j, double squared) {
    if (squared <= around_fake[size_t(j)].at(k)) is_recalled[size_t(i)] = 1;
    if (squared <= around_real[size_t(i)].at(k_density)) is_covered[size_t(i)] = 1;
  });
  int64_t held = 0;
  for (int64_t count : balls) held += count;
  return {share(is_precise), share(is_recalled), double(held) / double(k_density * fake.rows), share(is_covered)};
}

}  // namespace

std::vector<double> kth_neighbour(const Tensor& x, int64_t k) {
  require_features("kth_neighbour", "x", x);
  require_neighbours("kth_neighbour", "x", x, k);
  std::vector<Smallest> nearest =
      with_packed(x, x, [&](const auto& rows, const auto&) { return neighbours_within(rows, k); });
  std::vector<double> squared;
  for (const Smallest& near : nearest) squared.push_back(near.at(k));
  return squared;
}

Nearest nearest_rows(const Tensor& queries, const Tensor& reference) {
  require_pair("nearest_rows", queries, reference);
  Nearest nearest{std::vector<int64_t>(size_t(queries.size(0)), -1),
                  std::vector<double>(size_t(queries.size(0)), std::numeric_limits<double>::infinity())};
  with_packed(queries, reference, [&](const auto& x, const auto& y) {
    visit_pairs(x, y, [&](int64_t i, int64_t j, double squared) {
      if (squared >= nearest.distance[size_t(i)]) return;
      nearest.distance[size_t(i)] = squared;
      nearest.index[size_t(i)] = j;
    });
  });
  return nearest;
}

Prdc prdc(const Tensor& real, const Tensor& fake, const PrdcOptions& options) {
  require_pair("prdc", real, fake);
  require_neighbours("prdc", "the real side", real, options.k_manifold);
  require_neighbours("prdc", "the real side", real, options.k_density);
  require_neighbours("prdc", "the fake side", fake, options.k_manifold);
  return with_packed(real, fake, [&](const auto& x, const auto& y) { return prdc_of(x, y, options); });
}

}  // namespace mote::metrics
