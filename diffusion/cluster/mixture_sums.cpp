#include "diffusion/cluster/mixture_sums.h"

#include "tensor/cpu/gemm.h"

namespace mote::cluster {
namespace {

constexpr int64_t kPanel = cpu::kPanel<double>;

int64_t whole_panels(int64_t width) { return (width + kPanel - 1) / kPanel * kPanel; }

/// to[0 .. kPanel - 1] = factor from[..]
MOTE_INLINE void scaled_panel(double* to, const double* from, double factor) {
  for (int v = 0; v < cpu::kTileVectors; ++v)
    cpu::store_vector(to + v * cpu::kLanes<double>, factor * cpu::load_vector(from + v * cpu::kLanes<double>));
}

double sum_of(const double* x, int64_t n) {
  constexpr int64_t kLanes = 16;
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += x[i + lane];
  double sum = 0;
  for (double lane : lanes) sum += lane;
  for (; i < n; ++i) sum += x[i];
  return sum;
}

}  // namespace

Sums::Sums(Covariance covariance, int64_t components, int64_t width)
    : covariance_(covariance), components_(components), width_(width), linear_(whole_panels(width)) {
  square_rows_ = covariance == Covariance::tied ? 1 : components;
  if (covariance == Covariance::diagonal) {
    square_ = linear_;
  } else {
    square_ = whole_panels(width * (width + 1) / 2);
    triangle_.resize(size_t(square_ / kPanel));
    // The list of pairs (i, j), i <= j, row by row, cut at the ends of rows and of panels.
    int64_t at = 0;
    for (int64_t row = 0; row < width; ++row)
      for (int64_t column = row; column < width;) {
        int64_t place = at % kPanel, length = std::min(width - column, kPanel - place);
        triangle_[size_t(at / kPanel)].push_back({row, column, place});
        at += length;
        column += length;
      }
  }
  stride_ = components_ * (1 + linear_) + square_rows_ * square_;
}

int64_t Sums::most_chunks() const { return std::clamp<int64_t>((int64_t(1) << 25) / stride_, 2, 64); }

void Sums::start(int64_t chunks) {
  chunks_ = chunks;
  sums_.assign(size_t(chunks * stride_), 0.0);
}

void Sums::add_panel(const Block& block, const double* left, int64_t rows, const double* panel, double* sums, int64_t ld) const {
  cpu::gemm_block(rows, kPanel, block.count, left, Block::kJoint, panel, block.count * kPanel, sums, ld,
                  static_cast<const double*>(nullptr), true);
}

// A run is written in whole panels, also where it is shorter: what it spills over into the next place, or into the next
// point, is overwritten by the next run. Behind the last run of a row of sums nothing is read.
void Sums::fill_triangle(const Block& block, size_t panel, double* out) const {
  for (int64_t point = 0; point < block.count; ++point) {
    const double* x = block.rows + point * width_;
    double* to = out + point * kPanel;
    for (const Run& run : triangle_[panel]) scaled_panel(to + run.to, x + run.column, x[run.row]);
  }
  if (!block.spread) return;
  for (const Run& run : triangle_[panel]) {
    if (run.row != run.column) continue;
    for (int64_t point = 0; point < block.count; ++point)
      out[point * kPanel + run.to] += block.spread[point * width_ + run.row];
  }
}

void Sums::add(int64_t chunk, Block& block) {
  int64_t K = components_;
  double *counts = sums_.data() + chunk * stride_, *linear = counts + K, *square = linear + K * linear_;
  double panel[(kBlockRows + 1) * kPanel], ones[Block::kJoint];
  for (int64_t k = 0; k < K; ++k) {
    double* r = block.joint + k * Block::kJoint;
    for (int64_t i = 0; block.weight && i < block.count; ++i) r[i] *= block.weight[i];
    counts[k] += sum_of(r, block.count);
  }
  for (int64_t first = 0; first < linear_; first += kPanel) {
    for (int64_t point = 0; point < block.count; ++point)
      scaled_panel(panel + point * kPanel, block.rows + point * width_ + first, 1);
    add_panel(block, block.joint, K, panel, linear + first, linear_);
    if (covariance_ != Covariance::diagonal) continue;
    for (int64_t i = 0; i < block.count * kPanel; ++i) panel[i] *= panel[i];
    if (block.spread)
      for (int64_t point = 0; point < block.count; ++point)
        for (int64_t d = first; d < std::min(width_, first + kPanel); ++d)
          panel[point * kPanel + d - first] += block.spread[point * width_ + d];
    add_panel(block, block.joint, K, panel, square + first, square_);
  }
  // Summed over the components, responsibilities are the weights.
  const double* left = block.joint;
  if (covariance_ == Covariance::tied) {
    if (!block.weight) std::fill_n(ones, block.count, 1.0);
    left = block.weight ? block.weight : ones;
  }
  for (size_t p = 0; p < triangle_.size(); ++p) {
    fill_triangle(block, p, panel);
    add_panel(block, left, square_rows_, panel, square + int64_t(p) * kPanel, square_);
  }
}

Statistics Sums::finish() const {
  std::vector<double> total(size_t(stride_), 0.0);
  for (int64_t chunk = 0; chunk < chunks_; ++chunk)
    for (int64_t i = 0; i < stride_; ++i) total[size_t(i)] += sums_[size_t(chunk * stride_ + i)];
  int64_t K = components_, squares = covariance_ == Covariance::diagonal ? width_ : width_ * (width_ + 1) / 2;
  Statistics statistics{covariance_, {}, empty({K}, DType::f64), empty({K, width_}, DType::f64),
                        empty({square_rows_, squares}, DType::f64)};
  for (int64_t k = 0; k < K; ++k) statistics.weight += total[size_t(k)];
  auto copy = [&](Tensor& to, const double* from, int64_t ld) {
    int64_t columns = to.size(-1);
    for (int64_t i = 0; i < to.numel(); ++i) to.data<double>()[i] = from[i / columns * ld + i % columns] / statistics.weight;
  };
  copy(statistics.counts, total.data(), K);
  copy(statistics.sums, total.data() + K, linear_);
  copy(statistics.squares, total.data() + K * (1 + linear_), square_);
  return statistics;
}

}  // namespace mote::cluster
