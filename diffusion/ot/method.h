// method.h - what a way to find heights has to implement. Solver (solver.cpp) owns one, asks it for steps, and decides
// when to measure and to stop; sgd.cpp and paper.cpp are the ways.
#pragma once
#include <map>
#include <memory>
#include <string>

#include "diffusion/ot/solver.h"

namespace mote::ot {

/// Streams of the source that do not meet: a step's samples are never those of a certificate.
enum class Stream : uint64_t { steps = 0, passes = 1, starts = 2, certificates = 3, curve = 4, finish = 5 };
inline uint64_t iteration_of(Stream stream, int64_t number) { return uint64_t(stream) << 48 | uint64_t(number); }

/// What is solved: after rank reduction, and with the seed of the options.
struct Problem {
  Targets targets;
  Source source;
  SolverOptions options;

  int64_t N() const { return targets.count(); }
};

class Method {
 public:
  virtual ~Method() = default;
  /// One step; returns the samples that it took.
  virtual int64_t step() = 0;
  /// The best heights so far, mean 0.
  virtual std::vector<double> heights() const = 0;
  /// Goes on from these heights; what was learnt about others is dropped.
  virtual void restart(const std::vector<double>& heights) = 0;
  /// Whether it has come to an end by a rule of its own.
  virtual bool has_ended() const { return false; }
  virtual double epsilon() const { return 0; }
  virtual int64_t steps() const = 0;

  /// Its state as tensors and numbers, exactly.
  virtual void store(std::map<std::string, Tensor>& tensors, std::map<std::string, double>& numbers) const = 0;
  virtual void restore(const std::map<std::string, Tensor>& tensors, const std::map<std::string, double>& numbers) = 0;
};

std::unique_ptr<Method> make_sgd(const Problem& problem);
std::unique_ptr<Method> make_paper(const Problem& problem);

// ---- What the methods share ----------------------------------------------------------------------------------------

/// h - mean(h).
void centre(std::vector<double>& heights);
Tensor as_heights(const std::vector<double>& heights);   // f32 [N]
Tensor as_tensor(const std::vector<double>& values);     // f64 [N]
std::vector<double> as_vector(const Tensor& values);

/// Where a method starts: options.start_heights, or what options.start says; `automatic` is what "auto" means.
///   extreme  h_i = -s_i z_i, P(N(0, 1) > z_i) = nu_i: for scores as of independent directions    [extreme values]
///   voronoi  h_i = -|row_i|^2 / 2: the cells of the nearest target
///   best     the one of these and of zero with the least chi2 on N samples each
std::vector<double> start_heights(const Problem& problem, const std::string& automatic);

/// How far heights move for masses to change e-fold: with tau_i = nu_i / (dw_i / dh_i), the diagonal Newton step from w
/// to nu is -tau_i (w_i - nu_i) / nu_i. The density of small gaps between the two best scores is the sum of all
/// dw_i / dh_i, so the typical gap, from samples x, is the mean tau; among independent directions tau_i goes with
/// |row_i|.
double typical_gap(const Problem& problem, const std::vector<double>& heights, const Tensor& x);
std::vector<double> spread_of_targets(const Targets& targets);   // |row_i| over its mean, within 1/3 .. 3

/// h_i += 0.4 tau_i clip(ln((S nu_i + 1/2) / (c_i + 1/2)), +-1): a step of the diagonal Newton method in the logarithm
/// of the masses, from the counts of S samples; x are some of them. Only for cells without a sample if `only_empty`.
void log_pass(std::vector<double>& heights, const Problem& problem, const std::vector<int64_t>& counts, const Tensor& x,
              bool only_empty);

}  // namespace mote::ot
