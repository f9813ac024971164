#include "diffusion/cluster/mixture_pass.h"

#include <bit>
#include <cmath>
#include <limits>
#include <numbers>

#include "diffusion/cluster/cholesky.h"
#include "diffusion/metrics/features.h"
#include "tensor/cpu/gemm.h"
#include "tensor/error.h"
#include "tensor/math.h"

namespace mote::cluster {
namespace {

constexpr int64_t kPanel = cpu::kPanel<double>;
constexpr int64_t kLanes = cpu::kLanes<double>;

int64_t panels_of(int64_t count) { return (count + kPanel - 1) / kPanel; }

// ---- Loading a block -----------------------------------------------------------------------------------------------

template <class T>
void load_as(const Tensor& x, int64_t begin, int64_t count, const double* shift, double* to) {
  int64_t width = x.size(1);
  const T* from = x.data<T>() + begin * width;
  for (int64_t row = 0; row < count; ++row, from += width, to += width)
    for (int64_t d = 0; d < width; ++d) to[d] = double(from[d]) - shift[d];
}

/// Rows of x less shift, in f64.
void load_rows(const Tensor& x, int64_t begin, int64_t count, const double* shift, double* to) {
  if (x.dtype() == DType::f32) load_as<float>(x, begin, count, shift, to);
  else load_as<double>(x, begin, count, shift, to);
}

/// The same rows as panels for a product: kPanel points side by side, [panel][stride][kPanel]; the last one is filled up
/// with zeros.
void to_panels(const double* rows, int64_t count, int64_t width, double* panels, int64_t stride) {
  for (int64_t first = 0; first < count; first += kPanel, panels += stride * kPanel) {
    int64_t columns = std::min(kPanel, count - first);
    cpu::transpose<double>(panels, kPanel, rows + first * width, width, width, columns);
    for (int64_t d = 0; d < width && columns < kPanel; ++d) std::fill(panels + d * kPanel + columns, panels + (d + 1) * kPanel, 0.0);
  }
}

// ---- Triangular solves of a panel ----------------------------------------------------------------------------------

struct Squares {
  cpu::Vector<double> sum[cpu::kTileVectors];
};

/// Rows first .. first + M - 1 of z = L^-1 (x - mean) for a panel of points; rows before them are there already.
template <int M>
void solve_rows(int64_t first, int64_t width, const double* l, const double* pivots, const double* mean,
                const double* x, double* z, Squares& squares) {
  constexpr int V = cpu::kTileVectors;
  cpu::Tile<double, M, V> tile;
  tile.clear();
  tile.add_rows(first, l + first * width, width, z, kPanel);
#pragma GCC unroll 16
  for (int r = 0; r < M; ++r) {
    int64_t row = first + r;
    cpu::Vector<double> solved[V];
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      auto right = cpu::load_vector(x + row * kPanel + v * kLanes) - (mean ? mean[row] : 0.0);
      solved[v] = (right - tile.sum[r][v]) * pivots[row];
      squares.sum[v] += solved[v] * solved[v];
      cpu::store_vector(z + row * kPanel + v * kLanes, solved[v]);
    }
#pragma GCC unroll 16
    for (int below = r + 1; below < M; ++below)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) tile.sum[below][v] += l[(first + below) * width + row] * solved[v];
  }
}

/// z = L^-1 (x - mean); squares = |z|^2 of each of the panel's points. mean may be null.
Squares solve_panel(int64_t width, const double* l, const double* pivots, const double* mean, const double* x, double* z) {
  Squares squares{};
  int64_t step = cpu::tile_rows(width);
  for (int64_t first = 0; first < width; first += step)
    cpu::for_rows(std::min(step, width - first), [&](auto rows) {
      solve_rows<rows()>(first, width, l, pivots, mean, x, z, squares);
    });
  return squares;
}

// ---- exp -----------------------------------------------------------------------------------------------------------

/// e^x for x <= 0, without a branch so that loops vectorise; 0 below -708, where the result would lose digits; NaN stays.
MOTE_HD double exp_of_negative(double x) {
  // x = n ln2 + r with |r| <= ln2 / 2; ln2 is split in two so that r is exact to the last bit, e^r is its series.
  double held = x > -708.0 ? x : -708.0;
  double shifted = math::fma(held, std::numbers::log2e, 0x1.8p52);   // the addition rounds to an integer
  double n = shifted - 0x1.8p52;
  double r = math::fma(n, -1.90821492927058770002e-10, math::fma(n, -6.93147180369123816490e-01, held));
  double p = 1.0 / 6227020800;   // 1 / 13!
  p = math::fma(p, r, 1.0 / 479001600);
  p = math::fma(p, r, 1.0 / 39916800);
  p = math::fma(p, r, 1.0 / 3628800);
  p = math::fma(p, r, 1.0 / 362880);
  p = math::fma(p, r, 1.0 / 40320);
  p = math::fma(p, r, 1.0 / 5040);
  p = math::fma(p, r, 1.0 / 720);
  p = math::fma(p, r, 1.0 / 120);
  p = math::fma(p, r, 1.0 / 24);
  p = math::fma(p, r, 1.0 / 6);
  p = math::fma(p, r, 0.5);
  p = math::fma(p, r, 1.0);
  p = math::fma(p, r, 1.0);
  // The integer n stands in the low bits of `shifted`; shifted left it is added to the exponent.
  double scaled = std::bit_cast<double>(std::bit_cast<int64_t>(p) + int64_t(std::bit_cast<uint64_t>(shifted) << 52));
  return x > -708.0 ? scaled : x == x ? 0.0 : x;
}

}  // namespace

// ---- Checks --------------------------------------------------------------------------------------------------------

void require_points(const char* op, const Points& points) {
  metrics::require_features(op, "mean", points.mean);
  if (points.variance.defined()) {
    metrics::require_features(op, "variance", points.variance);
    check(points.variance.shape() == points.mean.shape() && points.variance.dtype() == points.mean.dtype(),
          op, ": mean and variance must be alike: mean is ", describe(points.mean), ", variance is ",
          describe(points.variance));
    std::vector<double> values = points.variance.to_vector();
    for (size_t i = 0; i < values.size(); ++i)
      if (values[i] < 0)
        fail(Error::Kind::data, op, ": a variance is negative: element (", int64_t(i) / points.width(), ", ",
             int64_t(i) % points.width(), ") of ", describe(points.variance), " is ", values[i]);
  }
  if (!points.weight.defined()) return;
  check(points.weight.dtype() == DType::f64 && points.weight.shape() == Shape{points.count()} && !points.weight.is_cuda(),
        op, ": weight must be f64 [", points.count(), "] on the CPU, got ", describe(points.weight));
  double total = 0;
  for (int64_t i = 0; i < points.count(); ++i) {
    double weight = points.weight.data<double>()[i];
    if (!(weight >= 0) || !std::isfinite(weight))
      fail(Error::Kind::data, op, ": a weight must be 0 or more: element ", i, " of ", describe(points.weight), " is ", weight);
    total += weight;
  }
  if (total == 0) fail(Error::Kind::data, op, ": all weights are 0");
}

// ---- Densities -----------------------------------------------------------------------------------------------------

Densities::Densities(const Mixture& mixture, const Tensor& shift)
    : covariance_(mixture.covariance), components_(mixture.components()), width_(mixture.width()), shift_(shift) {
  int64_t K = components_, D = width_;
  const double* covariances = mixture.covariances.data<double>();
  constant_.assign(size_t(K), 0);
  std::vector<double> means = mixture.means.to_vector();
  for (int64_t i = 0; i < K * D; ++i) means[size_t(i)] -= shift_.data<double>()[i % D];
  for (int64_t k = 0; k < K; ++k)
    constant_[size_t(k)] = std::log(mixture.weights.data<double>()[k]) - 0.5 * double(D) * std::log(2 * std::numbers::pi);

  if (covariance_ == Covariance::diagonal) {
    linear_.resize(size_t(2 * K * D));
    for (int64_t k = 0; k < K; ++k)
      for (int64_t d = 0; d < D; ++d) {
        double mean = means[size_t(k * D + d)], variance = covariances[k * D + d];
        if (!(variance > 0)) fail(Error::Kind::numeric, "mixture: the variance of component ", k, ", coordinate ", d, " is ", variance);
        linear_[size_t(2 * k * D + d)] = mean / variance;
        linear_[size_t(2 * k * D + D + d)] = -0.5 / variance;
        constant_[size_t(k)] -= 0.5 * (std::log(variance) + mean * mean / variance);
      }
    return;
  }

  int64_t factors = covariance_ == Covariance::tied ? 1 : K;
  factors_.assign(covariances, covariances + factors * D * D);
  pivots_.resize(size_t(factors * D));
  spread_.assign(size_t(K * D), 0.0);
  std::vector<double> log_det(size_t(factors), 0.0);
  std::vector<char> is_positive(size_t(factors), 0);
  cpu::parallel_for(factors, 1, [&](int64_t begin, int64_t end) {
    std::vector<double> column(static_cast<size_t>(D));
    for (int64_t f = begin; f < end; ++f) {
      double* l = factors_.data() + f * D * D;
      if (!cholesky(l, D)) continue;
      is_positive[size_t(f)] = 1;
      for (int64_t d = 0; d < D; ++d) {
        pivots_[size_t(f * D + d)] = 1 / l[d * D + d];
        log_det[size_t(f)] += 2 * std::log(l[d * D + d]);
        // (C^-1)_dd = |L^-1 e_d|^2; L^-1 e_d begins with d zeros.
        std::fill(column.begin(), column.end(), 0.0);
        column[size_t(d)] = 1;
        solve_lower(l, D, column.data());
        for (double value : column) spread_[size_t(f * D + d)] -= 0.5 * value * value;
      }
    }
  });
  for (int64_t f = 0; f < factors; ++f)
    if (!is_positive[size_t(f)])
      fail(Error::Kind::numeric, "mixture: the covariance of component ", f, " is not positive definite");
  for (int64_t k = 0; k < K; ++k) constant_[size_t(k)] -= 0.5 * log_det[size_t(factors == 1 ? 0 : k)];

  if (covariance_ == Covariance::full) {
    means_ = std::move(means);
    return;
  }
  // |z - m|^2 = |z|^2 - 2 z m + |m|^2 with z = L^-1 x and m = L^-1 mean: one solve a point, and a product.
  for (int64_t k = 0; k < K; ++k) {
    double* m = means.data() + k * D;
    solve_lower(factors_.data(), D, m);
    for (int64_t d = 0; d < D; ++d) constant_[size_t(k)] -= 0.5 * m[d] * m[d];
    std::copy_n(spread_.data(), D, spread_.data() + k * D);
  }
  linear_ = std::move(means);
}

void Densities::add_solves(int64_t panel, const double* x, double* z, double* joint) const {
  int64_t K = components_, D = width_, first = panel * kPanel;
  auto subtract_half = [&](double* to, const Squares& squares) {
    for (int v = 0; v < cpu::kTileVectors; ++v)
      cpu::store_vector(to + v * kLanes, cpu::load_vector(to + v * kLanes) - 0.5 * squares.sum[v]);
  };
  if (covariance_ == Covariance::tied) {
    Squares squares = solve_panel(D, factors_.data(), pivots_.data(), nullptr, x, z);
    for (int64_t k = 0; k < K; ++k) subtract_half(joint + k * Block::kJoint + first, squares);
    cpu::gemm_block(K, kPanel, D, linear_.data(), D, z, D * kPanel, joint + first, Block::kJoint,
                    static_cast<const double*>(nullptr), true);
    return;
  }
  for (int64_t k = 0; k < K; ++k)
    subtract_half(joint + k * Block::kJoint + first,
                  solve_panel(D, factors_.data() + k * D * D, pivots_.data() + k * D, means_.data() + k * D, x, z));
}

void Densities::joint_of(Block& block, double* panels, double* more) const {
  int64_t K = components_, D = width_, count = block.count, panels_in_block = panels_of(count);
  for (int64_t k = 0; k < K; ++k) std::fill_n(block.joint + k * Block::kJoint, panels_in_block * kPanel, constant_[size_t(k)]);
  auto multiply = [&](int64_t depth, const std::vector<double>& rows, const double* by) {
    cpu::gemm_block(K, panels_in_block * kPanel, depth, rows.data(), depth, by, depth * kPanel, block.joint, Block::kJoint,
                    static_cast<const double*>(nullptr), true);
  };
  if (covariance_ == Covariance::diagonal) {
    to_panels(block.rows, count, D, panels, 2 * D);
    if (block.spread) to_panels(block.spread, count, D, more, D);
    for (int64_t panel = 0; panel < panels_in_block; ++panel) {
      double* x = panels + panel * 2 * D * kPanel;
      const double* spread = more + panel * D * kPanel;
      if (block.spread) for (int64_t i = 0; i < D * kPanel; ++i) x[D * kPanel + i] = x[i] * x[i] + spread[i];
      else for (int64_t i = 0; i < D * kPanel; ++i) x[D * kPanel + i] = x[i] * x[i];
    }
    return multiply(2 * D, linear_, panels);
  }
  to_panels(block.rows, count, D, panels, D);
  for (int64_t panel = 0; panel < panels_in_block; ++panel) add_solves(panel, panels + panel * D * kPanel, more, block.joint);
  if (!block.spread) return;
  to_panels(block.spread, count, D, panels, D);
  multiply(D, spread_, panels);
}

void Densities::each_block(const Points& points, const Chunks& chunks,
                           const std::function<void(int64_t chunk, Block& block)>& fn) const {
  int64_t K = components_, D = width_;
  int64_t rows = kBlockRows * D + kPanel, panels = (covariance_ == Covariance::diagonal ? 2 : 1) * kBlockRows * D;
  cpu::ThreadScratch<double> work(2 * rows + panels + kBlockRows * D + (K + 1) * Block::kJoint);
  std::vector<double> zero(size_t(D), 0.0);
  chunks.each_block([&](int64_t chunk, int64_t begin, int64_t end) {
    double *x = work.mine(), *spread = x + rows, *panel = spread + rows, *more = panel + panels;
    Block block{begin, end - begin, x, points.variance.defined() ? spread : nullptr,
                points.weight.defined() ? points.weight.data<double>() + begin : nullptr, more + kBlockRows * D, nullptr};
    block.row_work = block.joint + K * Block::kJoint;
    load_rows(points.mean, begin, block.count, shift_.data<double>(), x);
    std::fill_n(x + block.count * D, kPanel, 0.0);
    if (block.spread) load_rows(points.variance, begin, block.count, zero.data(), spread);
    joint_of(block, panel, more);
    fn(chunk, block);
  });
}

void softmax(Block& block, int64_t components) {
  int64_t count = block.count;
  double *largest = block.row_work, sum[kBlockRows];
  std::copy_n(block.joint, count, largest);
  for (int64_t k = 1; k < components; ++k) {
    const double* joint = block.joint + k * Block::kJoint;
    for (int64_t i = 0; i < count; ++i) largest[i] = joint[i] > largest[i] ? joint[i] : largest[i];
  }
  std::fill_n(sum, count, 0.0);
  for (int64_t k = 0; k < components; ++k) {
    double* joint = block.joint + k * Block::kJoint;
    for (int64_t i = 0; i < count; ++i) {
      joint[i] = exp_of_negative(joint[i] - largest[i]);
      sum[i] += joint[i];
    }
  }
  for (int64_t k = 0; k < components; ++k) {
    double* joint = block.joint + k * Block::kJoint;
    for (int64_t i = 0; i < count; ++i) joint[i] /= sum[i];
  }
  for (int64_t i = 0; i < count; ++i) largest[i] += std::log(sum[i]);
}

}  // namespace mote::cluster
