// mixture_pass.h - one pass of points through a mixture: log densities of a block of points at a time, then whatever the
// caller makes of them. Its three users: the questions in mixture.cpp, the E-step in mixture_em.cpp, whose sums are
// mixture_sums.h.
#pragma once
#include <functional>
#include <vector>

#include "diffusion/cluster/mixture.h"
#include "diffusion/cluster/rows.h"

namespace mote::cluster {

/// Throws as fit_mixture and log_joint say if the points are not as mixture.h describes them.
void require_points(const char* op, const Points& points);

/// A few points in f64, in the working memory of one thread. Rows may be read one panel of the product past their end.
struct Block {
  int64_t begin = 0, count = 0;     // rows of the points
  const double* rows = nullptr;     // [count, D], less the shift
  const double* spread = nullptr;   // [count, D], s^2; or null
  const double* weight = nullptr;   // [count], or null: 1 each
  double* joint = nullptr;          // [K][kJoint]: log_joint of component and point
  double* row_work = nullptr;       // [kJoint]

  /// Row length of joint: off the powers of two, so that rows do not meet in the same cache sets.
  static constexpr int64_t kJoint = kBlockRows + 8;
};

/// A mixture made ready to be evaluated, around a shift: factors, their diagonals, the rows of the products.
class Densities {
 public:
  /// shift f64 [D]. The mixture must be as require_mixture asks; Error(numeric) if a covariance is not positive definite.
  Densities(const Mixture& mixture, const Tensor& shift);

  /// fn(chunk, block) for every block of points; block.joint may be overwritten. Chunks as in rows.h.
  void each_block(const Points& points, const Chunks& chunks,
                  const std::function<void(int64_t chunk, Block& block)>& fn) const;
  int64_t components() const { return components_; }

 private:
  void joint_of(Block& block, double* panels, double* spread_panels) const;
  void add_solves(int64_t panel, const double* x, double* solved, double* joint) const;

  Covariance covariance_;
  int64_t components_, width_;
  const Tensor shift_;
  std::vector<double> constant_;   // [K]: what does not depend on the point
  std::vector<double> linear_;     // diagonal [K, 2 D]: of x and x^2 + s^2; tied [K, D]: of L^-1 x
  std::vector<double> means_;      // [K, D], full only
  std::vector<double> factors_;    // L: [D, D] or [K, D, D]
  std::vector<double> pivots_;     // 1 / L[d, d]
  std::vector<double> spread_;     // [K, D]: -(C_k^-1)_dd / 2, tied and full
};

/// joint becomes the responsibilities, block.row_work ln sum_k exp joint of each point.
void softmax(Block& block, int64_t components);

}  // namespace mote::cluster
