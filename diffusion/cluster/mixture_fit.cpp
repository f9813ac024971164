// EM from start to end: starts, iterations, repairs, restarts, the choice of K.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

#include "diffusion/cluster/cholesky.h"
#include "diffusion/cluster/kmeans.h"
#include "diffusion/cluster/mixture.h"
#include "diffusion/cluster/mixture_pass.h"
#include "diffusion/cluster/mixture_sums.h"
#include "diffusion/metrics/eigen.h"
#include "tensor/error.h"

namespace mote::cluster {
namespace {

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

void require_options(const char* op, const MixtureOptions& o) {
  check(o.restarts >= 1, op, ": restarts must be 1 or more, got ", o.restarts);
  check(o.max_iterations >= 1, op, ": max_iterations must be 1 or more, got ", o.max_iterations);
  check(o.tolerance >= 0, op, ": tolerance must be 0 or more, got ", o.tolerance);
  check(o.weight_prior >= 0, op, ": weight_prior must be 0 or more, got ", o.weight_prior);
  check(o.variance_added >= 0 && o.variance_floor > 0 && o.relative_floor >= 0, op,
        ": variance_added and relative_floor must be 0 or more, variance_floor above 0, got ", o.variance_added, ", ",
        o.relative_floor, ", ", o.variance_floor);
  check(o.damping > 0 && o.damping <= 1, op, ": damping must lie in (0, 1], got ", o.damping);
  check(o.dead_share >= 0 && o.dead_share < 1, op, ": dead_share must lie in [0, 1), got ", o.dead_share);
  check(o.batch >= 0, op, ": batch must be 0 or more, got ", o.batch);
  check(o.step_power > 0.5 && o.step_power <= 1, op, ": step_power must lie in (0.5, 1], got ", o.step_power);
}

// ---- Repair --------------------------------------------------------------------------------------------------------

/// Component `dead` takes half of component `heavy`, cut across its longest axis: the halves of a Gaussian with
/// variance v along it lie sqrt(2 v / pi) to either side and have the variance v (1 - 2 / pi) there.
void split(Mixture& mixture, int64_t heavy, int64_t dead) {
  int64_t D = mixture.width();
  double *weights = mixture.weights.data<double>(), *means = mixture.means.data<double>();
  double* covariances = mixture.covariances.data<double>();
  std::vector<double> axis(size_t(D), 0.0);   // scaled to the distance of the halves' means
  if (mixture.covariance == Covariance::diagonal) {
    double* variance = covariances + heavy * D;
    int64_t longest = std::max_element(variance, variance + D) - variance;
    axis[size_t(longest)] = std::sqrt(2 * variance[longest] / std::numbers::pi);
    variance[longest] *= 1 - 2 / std::numbers::pi;
    std::copy_n(variance, D, covariances + dead * D);
  } else {
    double* covariance = covariances + (mixture.covariance == Covariance::full ? heavy * D * D : 0);
    Tensor copy = empty({D, D}, DType::f64);
    std::copy_n(covariance, D * D, copy.data<double>());
    metrics::SymmetricEigen eigen = metrics::symmetric_eigen(copy);
    for (int64_t d = 0; d < D; ++d)
      axis[size_t(d)] = std::sqrt(2 * eigen.values.data<double>()[D - 1] / std::numbers::pi) *
                        eigen.vectors.data<double>()[(D - 1) * D + d];
    if (mixture.covariance == Covariance::full) {
      for (int64_t i = 0; i < D * D; ++i) covariance[i] -= axis[size_t(i / D)] * axis[size_t(i % D)];
      std::copy_n(covariance, D * D, covariances + dead * D * D);
    }
  }
  for (int64_t d = 0; d < D; ++d) {
    means[dead * D + d] = means[heavy * D + d] + axis[size_t(d)];
    means[heavy * D + d] -= axis[size_t(d)];
  }
  double both = weights[heavy] + weights[dead];
  weights[heavy] = weights[dead] = both / 2;
}

/// Splits the heaviest component for every dead one, at most `most` times; returns how often.
int64_t repair(Mixture& mixture, const Statistics& statistics, const MixtureOptions& options, int64_t most) {
  int64_t K = mixture.components(), repaired = 0;
  std::vector<double> counts = statistics.counts.to_vector();
  for (size_t k = 0; k < size_t(K) && repaired < most; ++k) {
    if (counts[k] >= options.dead_share / double(K)) continue;
    size_t heavy = size_t(std::max_element(counts.begin(), counts.end()) - counts.begin());
    split(mixture, int64_t(heavy), int64_t(k));
    counts[heavy] = counts[k] = counts[heavy] / 2;
    ++repaired;
  }
  return repaired;
}

/// Components of which a variance, or an eigenvalue of the covariance, is not above the floor.
int64_t count_floored(const Mixture& mixture, double floor) {
  int64_t D = mixture.width(), floored = 0;
  double limit = floor * (1 + 1e-9);
  const double* covariances = mixture.covariances.data<double>();
  if (mixture.covariance == Covariance::diagonal) {
    for (int64_t k = 0; k < mixture.components(); ++k)
      floored += *std::min_element(covariances + k * D, covariances + (k + 1) * D) <= limit;
    return floored;
  }
  for (int64_t begin = 0; begin < mixture.covariances.numel(); begin += D * D) {
    std::vector<double> lowered(covariances + begin, covariances + begin + D * D);
    for (int64_t d = 0; d < D; ++d) lowered[size_t(d * D + d)] -= limit;
    floored += !cholesky(lowered.data(), D);
  }
  return mixture.covariance == Covariance::tied ? floored * mixture.components() : floored;
}

// ---- Starts --------------------------------------------------------------------------------------------------------

/// The mixture of the clusters of k-means, each with its own share, mean and covariance.
Mixture start_of(const Points& points, const MixtureOptions& options, const Tensor& shift, double floor, uint64_t seed) {
  int64_t K = options.components, D = points.width();
  KMeansOptions kmeans_options;
  kmeans_options.clusters = K;
  kmeans_options.restarts = 1;
  kmeans_options.max_iterations = 100;
  kmeans_options.seed = seed;
  KMeans clusters = kmeans(points.mean, kmeans_options);

  // What a cluster without points keeps: the centre, and the variances of all points.
  Mixture one{Covariance::diagonal, full({1}, 1, DType::f64), shift.view({1, D}), full({1, D}, 1, DType::f64)};
  Tensor variances = e_step(one, points, shift).squares;
  Mixture round{Covariance::diagonal, full({K}, 1.0 / double(K), DType::f64), clusters.centres, empty({K, D}, DType::f64)};
  for (int64_t i = 0; i < K * D; ++i)
    round.covariances.data<double>()[i] = std::max(floor, variances.data<double>()[i % D]);
  Mixture empty_handed = round;
  if (options.covariance != Covariance::diagonal) {
    empty_handed.covariance = options.covariance;
    bool is_tied = options.covariance == Covariance::tied;
    empty_handed.covariances = zeros(is_tied ? Shape{D, D} : Shape{K, D, D}, DType::f64);
    for (int64_t i = 0; i < (is_tied ? D : K * D); ++i)
      empty_handed.covariances.data<double>()[i * D + i % D] = round.covariances.data<double>()[i];
  }

  Sums sums(options.covariance, K, D);
  Chunks chunks(points.count(), sums.most_chunks());
  sums.start(chunks.number());
  Densities(round, shift).each_block(points, chunks, [&](int64_t chunk, Block& block) {
    for (int64_t k = 0; k < K; ++k)
      for (int64_t i = 0; i < block.count; ++i)
        block.joint[k * Block::kJoint + i] = clusters.labels.data<int64_t>()[block.begin + i] == k;
    sums.add(chunk, block);
  });
  Statistics statistics = sums.finish();
  statistics.shift = shift;
  return m_step(statistics, empty_handed, options, floor);
}

// ---- Iterations ----------------------------------------------------------------------------------------------------

/// One fit from one start.
class Run {
 public:
  Run(const Points& points, const MixtureOptions& options, int restart, const Tensor& shift, double floor)
      : points_(points), options_(options), restart_(restart), shift_(shift), floor_(floor) {}

  MixtureFit operator()(const Mixture& start) {
    fit_.mixture = start;
    repairs_left_ = options_.dead_share > 0 ? start.components() : 0;
    if (options_.batch > 0) stepwise();
    else plain();
    fit_.floored = count_floored(fit_.mixture, floor_);
    return fit_;
  }
  bool stopped() const { return stopped_; }

 private:
  void plain() {
    double last = kUnknown;
    for (int iteration = 0; iteration < options_.max_iterations; ++iteration) {
      Statistics statistics = e_step_unchecked(fit_.mixture, points_, shift_);
      if (is_over(iteration, statistics.mean_log_likelihood, last)) return;
      last = statistics.mean_log_likelihood;
      if (options_.damping < 1) statistics = blend(statistics_of(fit_.mixture, shift_), statistics, options_.damping);
      fit_.mixture = m_step(statistics, fit_.mixture, options_, floor_);
      ++fit_.iterations;
      if (repair_dead(statistics)) last = kUnknown;   // the likelihood may fall here
    }
    fit_.mean_log_likelihood = mean_log_likelihood(fit_.mixture, points_);
  }

  // S <- (1 - gamma) S + gamma S_batch, gamma = (u + 2)^-step_power, from the statistics of the start.
  void stepwise() {
    std::vector<int64_t> order(size_t(points_.count()));
    std::iota(order.begin(), order.end(), int64_t(0));
    Generator generator = Generator{options_.seed}.fork(uint64_t(restart_)).fork(1);
    uint64_t draw = 0;
    Statistics all = statistics_of(fit_.mixture, shift_);
    double total = 0, last = kUnknown;
    for (int64_t i = 0; i < points_.count(); ++i) total += points_.weight.defined() ? points_.weight.data<double>()[i] : 1;
    int64_t update = 0;
    for (int epoch = 0; epoch < options_.max_iterations; ++epoch) {
      for (size_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[random_bits(generator, draw++) % (i + 1)]);
      double sum = 0;
      for (int64_t begin = 0; begin < points_.count(); begin += options_.batch) {
        Points batch = rows_of(order, begin, std::min(points_.count(), begin + options_.batch));
        if (!batch.mean.defined()) continue;   // no weight in it
        Statistics part = e_step_unchecked(fit_.mixture, batch, shift_);
        sum += part.weight * part.mean_log_likelihood;
        part.weight = total;
        all = blend(all, part, std::pow(double(update++ + 2), -options_.step_power));
        fit_.mixture = m_step(all, fit_.mixture, options_, floor_);
      }
      if (is_over(epoch, sum / total, last)) break;
      last = sum / total;
      ++fit_.iterations;
      if (repair_dead(all)) {
        all = statistics_of(fit_.mixture, shift_);
        last = kUnknown;
      }
    }
    fit_.mean_log_likelihood = mean_log_likelihood(fit_.mixture, points_);
  }

  /// Notes the likelihood of an iteration and says whether it is the last one.
  bool is_over(int iteration, double log_likelihood, double last) {
    if (!std::isfinite(log_likelihood))
      fail(Error::Kind::numeric, "fit_mixture: the mean log-likelihood is ", log_likelihood, " in iteration ", iteration);
    fit_.history.push_back(log_likelihood);
    fit_.mean_log_likelihood = log_likelihood;
    fit_.converged = std::abs(log_likelihood - last) < options_.tolerance;
    stopped_ = options_.progress && !options_.progress(restart_, iteration, log_likelihood);
    return stopped_ || fit_.converged;
  }

  bool repair_dead(const Statistics& statistics) {
    int64_t repaired = repair(fit_.mixture, statistics, options_, repairs_left_);
    repairs_left_ -= repaired;
    fit_.repaired += repaired;
    return repaired > 0;
  }

  /// The points order[begin..end-1], copied; undefined if they have no weight.
  Points rows_of(const std::vector<int64_t>& order, int64_t begin, int64_t end) const {
    int64_t D = points_.width();
    Points part;
    if (points_.weight.defined()) {
      double sum = 0;
      part.weight = empty({end - begin}, DType::f64);
      for (int64_t i = begin; i < end; ++i)
        sum += part.weight.data<double>()[i - begin] = points_.weight.data<double>()[order[size_t(i)]];
      if (sum == 0) return {};
    }
    auto gather = [&](const Tensor& from) {
      Tensor to = empty({end - begin, D}, from.dtype());
      int64_t bytes = D * size_of(from.dtype());
      for (int64_t i = begin; i < end; ++i)
        std::copy_n(static_cast<const char*>(from.raw()) + order[size_t(i)] * bytes, bytes,
                    static_cast<char*>(to.raw()) + (i - begin) * bytes);
      return to;
    };
    part.mean = gather(points_.mean);
    if (points_.variance.defined()) part.variance = gather(points_.variance);
    return part;
  }

  const Points& points_;
  const MixtureOptions& options_;
  const int restart_;
  const Tensor shift_;
  const double floor_;
  MixtureFit fit_;
  int64_t repairs_left_ = 0;
  bool stopped_ = false;
};

}  // namespace

MixtureFit fit_mixture(const Points& points, const MixtureOptions& options) {
  require_options("fit_mixture", options);
  require_points("fit_mixture", points);
  if (options.components < 1 || options.components > points.count())
    fail(Error::Kind::data, "fit_mixture: needs 1 <= components <= points, got ", options.components, " components for ",
         points.count(), " points");
  Tensor shift = column_means(points.mean, points.weight);
  double floor = variance_floor_of(points, options);
  MixtureFit best;
  std::vector<double> restarts;
  for (int restart = 0; restart < options.restarts; ++restart) {
    uint64_t seed = random_bits(Generator{options.seed}.fork(uint64_t(restart)), 0);
    Run run(points, options, restart, shift, floor);
    MixtureFit fit = run(start_of(points, options, shift, floor, seed));
    restarts.push_back(fit.mean_log_likelihood);
    if (restart == 0 || fit.mean_log_likelihood > best.mean_log_likelihood) best = std::move(fit);
    if (run.stopped()) break;
  }
  best.restarts = std::move(restarts);
  return best;
}

MixtureFit fit_mixture_from(const Points& points, const Mixture& start, const MixtureOptions& options) {
  require_options("fit_mixture_from", options);
  require_points("fit_mixture_from", points);
  require_mixture("fit_mixture_from", start);
  if (points.width() != start.width())
    fail(Error::Kind::data, "fit_mixture_from: the widths differ: the points are ", describe(points.mean),
         ", the mixture has ", start.components(), " components of width ", start.width());
  Run run(points, options, 0, column_means(points.mean, points.weight), variance_floor_of(points, options));
  MixtureFit fit = run(start);
  fit.restarts = {fit.mean_log_likelihood};
  return fit;
}

// ---- The choice of K -----------------------------------------------------------------------------------------------

std::vector<OrderFit> fit_orders(const Points& points, const std::vector<int64_t>& orders, const MixtureOptions& options,
                                 const std::function<void(const OrderFit&)>& done) {
  check(!orders.empty(), "fit_orders: there is no number of components to try");
  std::vector<OrderFit> fits;
  for (int64_t order : orders) {
    MixtureOptions with_order = options;
    with_order.components = order;
    MixtureFit fit = fit_mixture(points, with_order);
    Criteria of_fit = criteria(fit.mixture, points);
    fits.push_back({order, std::move(fit), of_fit});
    if (done) done(fits.back());
  }
  return fits;
}

size_t best_order(const std::vector<OrderFit>& fits) {
  check(!fits.empty(), "best_order: there are no fits");
  auto less = [](const OrderFit& a, const OrderFit& b) { return a.criteria.bic < b.criteria.bic; };
  return size_t(std::min_element(fits.begin(), fits.end(), less) - fits.begin());
}

}  // namespace mote::cluster
