// solver.h - heights h of the semi-discrete optimal transport map from a source to targets: the cells
//   W_i(h) = { x : i is the smallest index with the largest <x, row_i> + h_i },   w_i(h) = P(x in W_i)
// get the masses nu_i of their targets where E(h) = E max_i(<x, row_i> + h_i) - sum nu_i h_i is smallest; its gradient
// is w(h) - nu. Heights that do this are the map's only parameters (map.h).         [Li 2023; Genans 2025, DRAG]
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "diffusion/ot/source.h"
#include "diffusion/ot/targets.h"

namespace mote::ot {

// ---- How good heights are ------------------------------------------------------------------------------------------

/// What a fresh batch of n samples says about heights.
struct Quality {
  double chi2 = 0;              // unbiased estimate of sum (w_i - nu_i)^2 / nu_i; may be negative
  double low = 0, high = 0;     // its 95 % interval
  double potential = 0;         // mean of max_i(<x, row_i> + h_i), an estimate of E[u_h]
  int64_t samples = 0;          // n
  int64_t empty = 0;            // cells that got no sample
  double largest = 0;           // max_i of count_i / (n nu_i)
  std::vector<int64_t> counts;  // [N]
};

/// Counts of samples first .. first + samples - 1 of an iteration, and from them
///   chi2 = sum_i c_i (c_i - 1) / nu_i / (n (n - 1)) - 1                                 [Mousavi-Hosseini 2025]
/// with the variance of that U-statistic estimated from the same counts. heights f32 [N]; samples >= 2. They have to be
/// independent, so source.antithetic is not read.
/// Throws Error(argument) for other shapes, Error(numeric) if a height is not finite.
Quality measure(const Targets& targets, const Tensor& heights, const Source& source, uint64_t iteration,
                int64_t samples, int64_t first = 0);
/// The same from counts that are there already.
Quality quality_of(const std::vector<int64_t>& counts, const std::vector<double>& weights);

/// Squared Wasserstein distance that the heights account for, in the units of the scaled targets and for a source of
/// variance 1:  D + sum nu_i |row_i|^2 - 2 (E[u_h] - sum nu_i h_i). A lower bound but for the noise of the samples.
double transport_cost(const Targets& targets, const Tensor& heights, const Quality& quality);

// ---- The solver ----------------------------------------------------------------------------------------------------

struct SolverOptions {
  std::string method = "sgd";           // "sgd": averaged SGD with decreasing entropy; "paper": the published recipe
  double chi2 = 0.05;                   // stop when the interval of a certificate lies below
  double max_samples = 400;             // a target: give up beyond; samples of certificates are not counted
  int64_t batch = 0;                    // samples a step; 0: chosen from N (sgd), 4000 (paper)
  std::string start = "auto";           // "extreme", "voronoi", "zero"; auto: the best of them (sgd), zero (paper)
  Tensor start_heights = {};            // f32 [N], instead of `start`
  double epsilon = 1.5;                 // sgd: entropy at the start over the typical gap between the two best scores
  double gain = 2;                      // sgd: what a sample a target moves, over a Newton step, when there was one
  std::string average = "t";            // sgd: weights of the average: "1", "t", "t2" or "ln2"
  int64_t log_passes = 0;               // sgd: passes of 10 N samples before the first step
  double paper_lr = 0.1;                // paper: Adam's step
  bool finish_empty = true;             // end with passes that raise cells which 10 N samples found empty
  bool rank_reduction = true;           // Gaussian source and D > N - 1: solve in the span of the targets
  std::vector<double> measure_at = {};  // samples a target at which a curve is measured; heights do not depend on it
  double measure_samples = 20;          // a target, for each point of the curve
  uint64_t seed = 0;                    // of the source's samples; the seed of `source` is not read
};

struct SolverProgress {
  int64_t step = 0;
  int64_t samples = 0;                  // so far, certificates not counted
  double samples_per_target = 0, samples_per_second = 0;
  double seconds_left = 0;              // until max_samples, or until chi2 is reached as it falls so far
  double epsilon = 0;
  std::optional<Quality> certificate;   // of the averaged heights, when one was just made
  std::optional<Quality> measured;      // a point of the curve (measure_at), when one was just made
};
/// Called after each step, certificate and point of the curve; false stops the solver, which can go on later.
using SolverObserver = std::function<bool(const SolverProgress&)>;

struct SolverResult {
  Tensor heights;                       // f32 [N], mean 0
  Quality quality;                      // of these heights, on samples that no step has seen
  bool converged = false;               // quality.high <= options.chi2; not an error if false
  bool stopped = false;                 // by the observer
  int64_t samples = 0, certificate_samples = 0;
  double seconds = 0;                   // of this process and the ones it resumed
  double flops = 0;                     // of products, rank reduction included
};

class Solver {
 public:
  /// Throws Error(usage) for options without sense, Error(argument) if widths differ.
  Solver(const Targets& targets, const Source& source, const SolverOptions& options = {});
  ~Solver();
  Solver(const Solver&) = delete;
  Solver& operator=(const Solver&) = delete;

  /// Steps until the certificate holds, max_samples are used up, or the observer says stop. One target needs no step.
  /// The same bits for any number of threads and any chunks of the targets.
  /// Throws Error(numeric) if heights become non-finite.
  SolverResult run(const SolverObserver& observer = {});

  /// Everything a later run() needs, in one safetensors file, written atomically; a resumed run equals an uninterrupted
  /// one bit for bit. load() throws Error(checkpoint) if the file is of other targets, source or options (budgets and the
  /// wanted chi2 may change).
  void save(const std::string& path) const;
  void load(const std::string& path);

  /// The averaged heights so far, f32 [N], mean 0.
  Tensor heights() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Heights for maps inside classes: the targets of each class are solved for by themselves, against the same source.
///   labels i64 [N], 0 <= label; the result is one [N] tensor, each class with mean 0
struct ClassResult {
  Tensor heights;
  std::vector<SolverResult> classes;    // by label; a label without targets has undefined heights
};
ClassResult solve_classes(const Targets& targets, const Tensor& labels, const Source& source,
                          const SolverOptions& options,
                          const std::function<bool(int64_t label, const SolverProgress&)>& observer = {});

}  // namespace mote::ot
