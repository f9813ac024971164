// schedule.h - noise schedules: beta, abar = prod(1 - beta), a = sqrt(abar), sigma = sqrt(1 - abar), as f64 tables.
// Index n = 0..T-1; abar(-1) = 1. n = 0 already holds one step of noise, and the network of index n is fed n.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace mote {

class Schedule {
 public:
  /// b = linspace(b0, b1, T) inclusive.                                                              [Ho 2020, sec. 4]
  static Schedule linear(int64_t steps = 1000, double b0 = 1e-4, double b1 = 0.02);
  /// f(t) = cos^2((t + 0.008) / 1.008 pi / 2), b[i] = min(1 - f((i+1)/T) / f(i/T), 0.999).           [Nichol 2021, eq. 17]
  static Schedule cosine(int64_t steps = 1000);
  /// "linear" or "cosine"; Error(usage) otherwise.
  static Schedule named(const std::string& name, int64_t steps = 1000);

  int64_t steps() const { return int64_t(beta_.size()); }
  double beta(int64_t n) const { return beta_[n]; }
  double abar(int64_t n) const { return n < 0 ? 1.0 : abar_[n]; }   // n = -1 is the clean image
  double a(int64_t n) const;
  double sigma(int64_t n) const;
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  std::vector<double> beta_, abar_;
};

/// One step of a sampler: the network is called at `t`, the state moves from level t to level t_prev (-1 = clean).
struct TimeStep {
  int64_t t = 0, t_prev = -1;
  bool operator==(const TimeStep&) const = default;
};

/// N steps in descending order, each with its predecessor from the list (strides are never recomputed).
///   uniform:   0, r, 2r, .. with r = T / N (rounded down), exactly N of them (N that do not divide T keep the first N)
///   quadratic: int(linspace(0, sqrt(0.8 T), N)^2), duplicates removed by moving up
///   trailing:  round(T - i T / N) - 1
///   linspace:  round(linspace(0, T - 1, N))
/// Throws Error(usage) unless 1 <= N <= T, or for an unknown grid.
std::vector<TimeStep> timesteps(int64_t T, int64_t N, const std::string& grid = "uniform");

}  // namespace mote
