// mixture_sums.h - the sums of the M-step: responsibilities times features of the points, a matrix product for every
// panel of features. Features are x, and x^2 or the upper triangle of x x^T, made in the panel's layout on the fly.
#pragma once
#include <vector>

#include "diffusion/cluster/mixture_pass.h"

namespace mote::cluster {

class Sums {
 public:
  Sums(Covariance covariance, int64_t components, int64_t width);

  /// How many chunks may have sums of their own: no more than 256 MB of them.
  int64_t most_chunks() const;
  /// Makes room for the chunks, all sums 0.
  void start(int64_t chunks);
  /// Adds a block whose joint holds responsibilities; they are multiplied by the points' weights there.
  void add(int64_t chunk, Block& block);
  /// What all chunks have added up, divided by the total weight; shift and mean_log_likelihood are left to the caller.
  Statistics finish() const;

 private:
  /// A run of features of one panel: for a point, x[row] x[column ..] from the place `to` on; or x[column ..] alone.
  struct Run {
    int64_t row, column, to;
  };
  void add_panel(const Block& block, const double* left, int64_t rows, const double* panel, double* sums, int64_t ld) const;
  void fill_triangle(const Block& block, size_t panel, double* out) const;

  Covariance covariance_;
  int64_t components_, width_;
  int64_t linear_, square_, square_rows_;   // padded widths of the two tables of sums; rows of the second
  std::vector<std::vector<Run>> triangle_;  // by panel
  std::vector<double> sums_;                // chunks of [counts K][linear K linear_][squares square_rows_ square_]
  int64_t chunks_ = 0, stride_ = 0;
};

/// e_step (mixture.h) of arguments that have been checked before: looking at every value of the points again would cost a
/// fifth of an iteration.
Statistics e_step_unchecked(const Mixture& mixture, const Points& points, const Tensor& shift);

/// Element (i, j), i <= j, of a symmetric [D, D] matrix in the list of the rows of its upper triangle.
inline int64_t triangle_index(int64_t i, int64_t j, int64_t width) { return i * width - i * (i - 1) / 2 + j - i; }

}  // namespace mote::cluster
