// mixture.h - Gaussian mixtures: densities and responsibilities in the log domain, EM with restarts, the choice of K,
// draws, files. One iteration is one pass over blocks of points: log densities are matrix products (diagonal) or
// triangular solves (tied, full), the sums of the M-step are matrix products. The pass itself is mixture_pass.h; the
// start is kmeans.h.
#pragma once
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tensor/random.h"
#include "tensor/tensor.h"

namespace mote::cluster {

// ---- The mixture ---------------------------------------------------------------------------------------------------

enum class Covariance { diagonal, tied, full };
const char* name_of(Covariance covariance);
/// "diag", "tied" or "full"; throws Error(usage) for any other word.
Covariance covariance_named(const std::string& name);

/// p(x) = sum_k weights[k] N(x; means[k], covariance k)
struct Mixture {
  Covariance covariance = Covariance::diagonal;
  Tensor weights;      // f64 [K], >= 0, sum 1
  Tensor means;        // f64 [K, D]
  Tensor covariances;  // f64: [K, D] variances (diagonal), [D, D] (tied), [K, D, D] (full); symmetric
  int64_t components() const { return weights.size(0); }
  int64_t width() const { return means.size(1); }
  /// Free numbers: K - 1 weights, K D means, and K D, D (D + 1) / 2 or K D (D + 1) / 2 of the covariances.
  int64_t parameters() const;
};

/// Throws Error(argument) if shapes or dtypes do not fit together, Error(numeric) if a number is not finite, a weight
/// is negative or the weights do not sum to 1. That covariances are positive definite shows where they are factored:
/// what needs that throws Error(numeric) naming the component.
void require_mixture(const char* op, const Mixture& mixture);

/// What a mixture is fitted to or asked about: N points, each perhaps known only as a Gaussian of its own.
struct Points {
  Tensor mean;           // f32 or f64 [N, D], finite, N >= 1, D >= 1
  Tensor variance = {};  // like mean, >= 0: s^2 of every coordinate; undefined: 0
  Tensor weight = {};    // f64 [N], >= 0, not all 0: how often a point counts; undefined: 1
  int64_t count() const { return mean.size(0); }
  int64_t width() const { return mean.size(1); }
};

// ---- Asking a mixture ----------------------------------------------------------------------------------------------

/// f64 [N, K]:  ln weights[k] + E_{x ~ N(mean_n, diag variance_n)} ln N(x; k)
///            = ln weights[k] - (D ln 2 pi + ln det C_k + (m - mu_k)^T C_k^-1 (m - mu_k) + sum_d s^2_d (C_k^-1)_dd) / 2
/// -infinity where a weight is 0. Throws Error(argument), Error(data) (not finite, another width than the mixture's).
Tensor log_joint(const Mixture& mixture, const Points& points);

struct Posterior {
  Tensor probabilities;            // f64 [N, K], rows sum to 1
  Tensor labels;                   // i64 [N]: the most probable component, the smallest index if several are
  Tensor log_likelihood;           // f64 [N]: ln sum_k exp log_joint
  double mean_log_likelihood = 0;  // weighted by points.weight
};
/// softmax of log_joint over components, never through densities.  Errors as above.
Posterior posterior(const Mixture& mixture, const Points& points);

/// ln p weighted and averaged over the points. Errors as above.
double mean_log_likelihood(const Mixture& mixture, const Points& points);

struct Criteria {
  double log_likelihood = 0;  // sum over the points
  double bic = 0;             // p ln N - 2 log_likelihood                                                [Schwarz 1978]
  double aic = 0;             // 2 p - 2 log_likelihood                                                    [Akaike 1974]
  double icl = 0;             // bic + 2 sum_n entropy of the responsibilities of n                    [Biernacki 2000]
};
/// Least is best. p = mixture.parameters(); N is the sum of the points' weights.
Criteria criteria(const Mixture& mixture, const Points& points);

/// Draws of one component: f64 [count, D] = mu_k + L z, C_k = L L^T. Advances the generator.
Tensor sample_component(const Mixture& mixture, int64_t component, int64_t count, Generator& generator);

/// Draws of the whole mixture.
struct MixtureSample {
  Tensor x;       // f64 [count, D]
  Tensor labels;  // i64 [count], the component of each
};
MixtureSample sample_mixture(const Mixture& mixture, int64_t count, Generator& generator);

/// The mixture of a x + b when x has the given one.
///   scale, shift  f64 [D], scale != 0
Mixture rescaled(const Mixture& mixture, const Tensor& scale, const Tensor& shift);

// ---- EM ------------------------------------------------------------------------------------------------------------

struct MixtureOptions {
  int64_t components = 8;
  Covariance covariance = Covariance::diagonal;
  int restarts = 1;  // k-means++ starts; the fit with the highest likelihood is kept
  int max_iterations = 200;
  double tolerance = 1e-5;       // stop when the mean log-likelihood changes by less
  double weight_prior = 0;       // a of pi_k = (N_k + a) / (N + K a), a Dirichlet prior of a + 1
  double variance_added = 0;     // added to every variance (to the diagonal)
  double variance_floor = 1e-6;  // no eigenvalue of a covariance is below max(variance_floor,
  double relative_floor = 1e-3;  //   relative_floor * mean variance of the points' coordinates)
  double damping = 1;            // share of the new statistics: S <- (1 - damping) S_old + damping S_new
  double dead_share = 0.01;      // a component with less than dead_share / K of the weight is dead: it is given half of
                                 // the heaviest one, at most K times a fit; 0: never
  int64_t batch = 0;             // points of a stepwise update, 0: all of them (plain EM)
  double step_power = 0.7;       // stepwise: update u takes the share (u + 2)^-step_power, in (0.5, 1]   [Cappe 2009]
  uint64_t seed = 0;             // restart r draws from Generator{seed}.fork(r)
  /// Called before each iteration with (restart, iteration, mean log-likelihood); false ends the fit where it is.
  std::function<bool(int restart, int iteration, double log_likelihood)> progress;
};

struct MixtureFit {
  Mixture mixture;
  std::vector<double> history;     // mean log-likelihood before each update (stepwise: mean over an epoch's batches)
  double mean_log_likelihood = 0;  // of the mixture that is returned
  int64_t iterations = 0;          // updates of this restart (stepwise: epochs)
  bool converged = false;          // the tolerance was met
  int64_t repaired = 0;            // dead components that were given half of another one
  int64_t floored = 0;             // components whose covariance stands at the floor
  std::vector<double> restarts;    // mean log-likelihood that every restart ended with
};

/// Maximum likelihood (with the priors of the options) by EM from k-means++ starts.    [Dempster 1977; McLachlan 2008]
/// With points.variance the objective is the mean of ln sum_k exp log_joint, which plain EM never lowers either.
/// The same bits for any number of threads. k-means sees the points unweighted.
/// Throws Error(argument) for a bad option, Error(data) if K > N, K < 1 or a value is not finite.
MixtureFit fit_mixture(const Points& points, const MixtureOptions& options);

/// The same from a given mixture: a warm start. options.components, covariance, restarts are those of `start`, 1.
MixtureFit fit_mixture_from(const Points& points, const Mixture& start, const MixtureOptions& options);

// ---- Its two halves ------------------------------------------------------------------------------------------------

/// Weighted sums over points, divided by the total weight; x' = x - shift. Linear: statistics of parts of the data may
/// be mixed (blend), as damping and stepwise EM do.
struct Statistics {
  Covariance covariance = Covariance::diagonal;
  Tensor shift;       // f64 [D]
  Tensor counts;      // f64 [K]                 E r_k
  Tensor sums;        // f64 [K, D]              E r_k x'
  Tensor squares;     // f64 E r_k (x' x'^T + diag s^2): [K, D] its diagonal; [K, D (D + 1) / 2] the rows of its upper
                      // triangle (full); [1, D (D + 1) / 2] summed over k (tied)
  double weight = 0;  // total weight of the points
  double mean_log_likelihood = 0;  // of the mixture whose responsibilities r these are
};

/// The E-step, and the sums the M-step needs.
///   shift  f64 [D], a point near the data such as their mean, or undefined: the mean of the mixture
Statistics e_step(const Mixture& mixture, const Points& points, const Tensor& shift = {});

/// The statistics that a large sample of the mixture would have: m_step gives the mixture back.
Statistics statistics_of(const Mixture& mixture, const Tensor& shift = {});

/// (1 - share) a + share b, of one shape and shift; weight and mean_log_likelihood are those of b.
Statistics blend(const Statistics& a, const Statistics& b, double share);

/// The mixture that maximises the likelihood (with the options' priors) of what the statistics stand for.
///   previous  gives mean and covariance of a component without any weight
///   floor     least eigenvalue of a covariance (variance_floor_of)
Mixture m_step(const Statistics& statistics, const Mixture& previous, const MixtureOptions& options, double floor);

/// max(options.variance_floor, options.relative_floor * mean over coordinates of the points' total variance).
double variance_floor_of(const Points& points, const MixtureOptions& options);

// ---- The choice of K -----------------------------------------------------------------------------------------------

struct OrderFit {
  int64_t components;
  MixtureFit fit;
  Criteria criteria;
};
/// A fit for every K of `orders`, each from its own k-means++ starts; best_order is the index of the least bic.
/// A guess, not a proof: on data that are no mixture of Gaussians bic asks for too many components.
std::vector<OrderFit> fit_orders(const Points& points, const std::vector<int64_t>& orders,
                                 const MixtureOptions& options, const std::function<void(const OrderFit&)>& done = {});
size_t best_order(const std::vector<OrderFit>& fits);

// ---- Groups of components ------------------------------------------------------------------------------------------

/// For clusters that are no Gaussians: the two groups whose union costs least, w_a w_b / (w_a + w_b) |m_a - m_b|^2 by
/// their weights and means, become one until `groups` are left.                                             [Ward 1963]
/// i64 [K], the group of every component; groups are numbered in the order of their first components.
/// Throws Error(argument) unless 1 <= groups <= K.
Tensor join_components(const Mixture& mixture, int64_t groups);

/// What a posterior over components says of their groups: probabilities are summed, a label is the most probable group.
Posterior joined(const Posterior& posterior, const Tensor& groups);

// ---- Files ---------------------------------------------------------------------------------------------------------

/// safetensors: weights, means, covariances in f64; metadata "mixture.covariance" and what the caller adds.
void save_mixture(const std::string& path, const Mixture& mixture,
                  const std::map<std::string, std::string>& metadata = {});
/// Throws Error(data) if there is no such file, Error(checkpoint) if it is no mixture whose densities can be computed.
Mixture load_mixture(const std::string& path, std::map<std::string, std::string>* metadata = nullptr);

}  // namespace mote::cluster
