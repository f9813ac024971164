// schedule.h - noise schedules: beta, abar = prod(1 - beta), a = sqrt(abar), sigma = sqrt(1 - abar), as f64 tables.
// Index n = 0..T-1; abar(-1) = 1. n = 0 already holds one step of noise, and the network of index n is fed n.
// VpSchedule is the same with continuous time. What is done with a level is in process.h; timesteps() below lists whole
// levels, and samplers/path.h says which levels a sampler visits.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace mote {

/// One noise level: x = a x0 + sigma eps, and the time the network is fed there.
struct Level {
  double t = -1;          // -1 is the clean image, which no network sees
  double abar = 1;        // a^2
  double variance = 0;    // sigma^2 = 1 - abar, kept apart: near abar = 1 the subtraction would lose four digits
  double a() const { return std::sqrt(abar); }
  double sigma() const { return std::sqrt(variance); }
  double u() const { return std::sqrt(variance / abar); }                             // sigma / a; 0 at the clean level
  double lambda() const { return 0.5 * (std::log(abar) - std::log(variance)); }       // ln(a / sigma); there infinite

  /// The level with a / sigma = e^lambda; neither abar nor variance is the difference of the other from 1.
  static Level of_lambda(double t, double lambda);
};

/// beta of the jump from a level to a less noisy one: 1 - abar_from / abar_to.
double jump_beta(const Level& from, const Level& to);

class Schedule {
 public:
  /// b = linspace(b0, b1, T) inclusive.                                                              [Ho 2020, sec. 4]
  /// The end points are taken as given for every T. They suit T = 1000: for a shorter process scale both by 1000 / T
  /// [Nichol 2021, code], or abar(T - 1) stays far from 0 and sampling must not start from N(0, 1).
  static Schedule linear(int64_t steps = 1000, double b0 = 1e-4, double b1 = 0.02);
  /// f(t) = cos^2((t + 0.008) / 1.008 pi / 2), b[i] = min(1 - f((i+1)/T) / f(i/T), 0.999).        [Nichol 2021, eq. 17]
  static Schedule cosine(int64_t steps = 1000);
  /// "linear", "cosine", or "linear:B0,B1" with other ends of the betas; Error(usage) otherwise.
  static Schedule named(const std::string& name, int64_t steps = 1000);

  /// Betas of one's own, each in (0, 1).
  static Schedule of_betas(std::string name, std::vector<double> beta);

  /// Each maker throws Error(usage) unless 1 <= T <= kMaxSteps; linear unless 0 < b0 <= b1 < 1.
  static constexpr int64_t kMaxSteps = 1000000;

  int64_t steps() const { return int64_t(beta_.size()); }
  double beta(int64_t n) const;                        // 0 <= n < T
  double abar(int64_t n) const { return level(n).abar; }         // n = -1 is the clean image
  double variance(int64_t n) const { return level(n).variance; } // 1 - abar(n), without cancellation
  double a(int64_t n) const { return level(n).a(); }
  double sigma(int64_t n) const { return level(n).sigma(); }
  /// Throws Error unless -1 <= n < T.
  Level level(int64_t n) const;
  /// The same at a fractional level 0 <= t <= T - 1, with lambda linear in t between whole ones; t = -1 is the clean
  /// image. Throws Error outside: between -1 and 0 lambda has no finite end to interpolate to.
  Level at(double t) const;
  /// The level, usually fractional, with this lambda: the inverse of at(). Throws Error outside
  /// lambda(T - 1)..lambda(0), but for a rounding, which moves to the end.
  Level at_lambda(double lambda) const;
  const std::string& name() const { return name_; }

 private:
  Schedule(std::string name, std::vector<double> beta);

  std::string name_;
  std::vector<double> beta_, abar_, variance_;
};

/// The process with linear betas in continuous time 0 <= s <= 1: beta(s) = b0 + s (b1 - b0), so that
///   ln a(s) = -s^2 (b1 - b0) / 4 - s b0 / 2                                                    [Song 2021b, eq. 33]
/// A level's t is the number the network is fed, t = scale s; scale = T - 1 makes it the index of a trained network.
class VpSchedule {
 public:
  /// Throws Error(usage) unless 0 < b0 <= b1 and scale > 0.
  explicit VpSchedule(double b0 = 0.1, double b1 = 20, double scale = 999);
  /// b0 = T beta(0), b1 = T beta(T - 1), scale = T - 1. Throws Error(usage) unless the schedule is linear and T >= 2:
  /// the cosine schedule has no finite beta at its noisy end.
  static VpSchedule limit_of(const Schedule& schedule);

  Level at(double t) const;               // 0 < t <= scale, else Error
  Level at_lambda(double lambda) const;   // any finite lambda with t <= scale
  double rate(double t) const;            // -d ln a / dt = beta(s) / (2 scale)
  double scale() const { return scale_; }

 private:
  double b0_, b1_, scale_;
};

/// One step of a sampler: the network is called at `t`, the state moves from level t to level t_prev (-1 = clean).
struct TimeStep {
  int64_t t = 0, t_prev = -1;
  bool operator==(const TimeStep&) const = default;
};

/// N steps in descending order, each with its predecessor from the list (strides are never recomputed).
///   uniform:   0, r, 2r, .. with r = T / N (rounded down), exactly N of them (N that do not divide T keep the first N)
///   quadratic: int(linspace(0, sqrt(0.8 T), N)^2), duplicates removed by moving up              [Song 2021a, app. D]
///   trailing:  round(T - i T / N) - 1
///   linspace:  round(linspace(0, T - 1, N))
/// Halves round to even. N = 1 is the single step T - 1 on every grid: the formulas give 0 for three of them, and a
/// network told that pure noise is clean returns it. Throws Error(usage) unless 1 <= N <= T, or for an unknown grid.
std::vector<TimeStep> timesteps(int64_t T, int64_t N, const std::string& grid = "uniform");

/// All grid names, for messages and --help.
const std::vector<std::string>& grid_names();

}  // namespace mote
