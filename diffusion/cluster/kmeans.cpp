#include "diffusion/cluster/kmeans.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "diffusion/cluster/rows.h"
#include "diffusion/metrics/features.h"
#include "tensor/cpu/gemm.h"
#include "tensor/error.h"
#include "tensor/random.h"

namespace mote::cluster {
namespace {

/// Random numbers one after another.
class Draws {
 public:
  explicit Draws(const Generator& generator) : generator_(generator) {}
  double unit() { return double(random_bits(generator_, index_++) >> 11) * 0x1p-53; }  // [0, 1)
  int64_t below(int64_t n) { return std::min(n - 1, int64_t(unit() * double(n))); }

 private:
  Generator generator_;
  uint64_t index_ = 0;
};

/// What one pass over the points finds out about given centres.
struct Pass {
  std::vector<int64_t> labels, counts;
  std::vector<double> distance;  // squared, of each point to its centre
  std::vector<double> sums;      // [K, D] of the points of each centre
  double inertia = 0;
};

/// The points less their mean, which costs f32 no digits of what matters. Centres here are [K, D] around that mean.
template <class T>
class Cloud {
 public:
  explicit Cloud(const Tensor& x)
      : count_(x.size(0)), width_(x.size(1)), mean_(column_means(x)), rows_(empty_like(x)) {
    const double* mean = mean_.data<double>();
    Chunks(count_).each_block([&](int64_t, int64_t begin, int64_t end) {
      const T* from = x.data<T>();
      T* to = rows_.data<T>();
      for (int64_t row = begin; row < end; ++row)
        for (int64_t d = 0; d < width_; ++d) to[row * width_ + d] = T(double(from[row * width_ + d]) - mean[d]);
    });
  }

  std::vector<double> less_mean(const Tensor& centres) const {
    std::vector<double> moved = centres.to_vector();
    for (size_t i = 0; i < moved.size(); ++i) moved[i] -= mean_.data<double>()[i % size_t(width_)];
    return moved;
  }

  /// Centres by k-means++, each the best of a few candidates.
  std::vector<double> seed(int64_t clusters, Draws draws) const {
    std::vector<double> nearest(size_t(count_), std::numeric_limits<double>::infinity()), kept, trial(nearest),
        cumulative(nearest), centres;
    auto take = [&](int64_t point) {
      for (int64_t d = 0; d < width_; ++d) centres.push_back(double(row(point)[d]));
    };
    int64_t first = draws.below(count_), candidates = 2 + int64_t(std::log(double(clusters)));
    nearer_with(first, nearest, kept);
    nearest = kept;
    take(first);
    while (int64_t(centres.size()) < clusters * width_) {
      std::partial_sum(nearest.begin(), nearest.end(), cumulative.begin());
      double total = cumulative.back(), least = std::numeric_limits<double>::infinity();
      int64_t best = 0;
      for (int64_t candidate = 0; candidate < candidates; ++candidate) {
        // With fewer distinct points than centres all distances are 0 in the end, and any point is as good.
        auto at = std::upper_bound(cumulative.begin(), cumulative.end(), draws.unit() * total);
        int64_t point = total > 0 ? std::min(count_ - 1, at - cumulative.begin()) : draws.below(count_);
        double sum = nearer_with(point, nearest, trial);
        if (sum >= least) continue;
        least = sum;
        best = point;
        kept.swap(trial);
        trial.resize(size_t(count_));
      }
      nearest = kept;
      take(best);
    }
    return centres;
  }

  /// The nearest centre of every point:  argmin_k |x - c_k|^2 = argmax_k (x c_k - |c_k|^2 / 2),  one product a block.
  void assign(const std::vector<double>& centres, Pass& pass) const {
    int64_t clusters = int64_t(centres.size()) / width_;
    std::vector<T> centre(centres.begin(), centres.end()), half(static_cast<size_t>(clusters));
    for (int64_t k = 0; k < clusters; ++k) {
      double sum = 0;
      for (int64_t d = 0; d < width_; ++d) sum += double(centre[size_t(k * width_ + d)]) * double(centre[size_t(k * width_ + d)]);
      half[size_t(k)] = T(-0.5 * sum);
    }
    std::vector<T> packed(size_t(cpu::packed_size<T>(width_, clusters)));
    cpu::pack_panels(packed.data(), cpu::Matrix<T>{centre.data(), width_, true}, width_, clusters);

    // A set of sums a chunk: no more than 64 MB of them.
    Chunks chunks(count_, std::clamp<int64_t>((int64_t(1) << 23) / (clusters * width_), 2, 64));
    std::vector<double> sums(size_t(chunks.number() * clusters * width_), 0.0), inertia(size_t(chunks.number()), 0.0);
    std::vector<int64_t> counts(size_t(chunks.number() * clusters), 0);
    pass.labels.resize(size_t(count_));
    pass.distance.resize(size_t(count_));
    cpu::ThreadScratch<T> work(cpu::kBlockElements<T> + kBlockRows * clusters);
    chunks.each_block([&](int64_t chunk, int64_t begin, int64_t end) {
      T *block = work.mine(), *score = block + cpu::kBlockElements<T>;
      cpu::gemm_rows<T, T>(0, end - begin, clusters, width_, cpu::Matrix<T>{row(begin), width_}, packed.data(), score,
                           clusters, half.data(), false, block);
      for (int64_t point = begin; point < end; ++point, score += clusters) {
        int64_t label = std::max_element(score, score + clusters) - score;
        double distance = squared_distance(row(point), centre.data() + label * width_, width_);
        double* sum = sums.data() + (chunk * clusters + label) * width_;
        for (int64_t d = 0; d < width_; ++d) sum[d] += double(row(point)[d]);
        ++counts[size_t(chunk * clusters + label)];
        inertia[size_t(chunk)] += distance;
        pass.labels[size_t(point)] = label;
        pass.distance[size_t(point)] = distance;
      }
    });
    pass.sums.assign(size_t(clusters * width_), 0.0);
    pass.counts.assign(size_t(clusters), 0);
    pass.inertia = 0;
    for (int64_t chunk = 0; chunk < chunks.number(); ++chunk) {
      pass.inertia += inertia[size_t(chunk)];
      for (int64_t k = 0; k < clusters; ++k) pass.counts[size_t(k)] += counts[size_t(chunk * clusters + k)];
      for (int64_t i = 0; i < clusters * width_; ++i) pass.sums[size_t(i)] += sums[size_t(chunk * clusters * width_ + i)];
    }
  }

  /// Gives every empty cluster the point that is farthest from its centre, and returns how many there were.
  int64_t repair(Pass& pass) const {
    int64_t repaired = 0;
    for (size_t empty = 0; empty < pass.counts.size(); ++empty) {
      if (pass.counts[empty] > 0) continue;
      int64_t farthest = -1;
      for (int64_t point = 0; point < count_; ++point)
        if (pass.counts[size_t(pass.labels[size_t(point)])] > 1 &&
            pass.distance[size_t(point)] > (farthest < 0 ? 0 : pass.distance[size_t(farthest)]))
          farthest = point;
      if (farthest < 0) break;  // every point lies on its centre
      int64_t& label = pass.labels[size_t(farthest)];
      for (int64_t d = 0; d < width_; ++d) {
        pass.sums[size_t(label * width_ + d)] -= double(row(farthest)[d]);
        pass.sums[empty * size_t(width_) + size_t(d)] += double(row(farthest)[d]);
      }
      --pass.counts[size_t(label)];
      ++pass.counts[empty];
      label = int64_t(empty);
      pass.distance[size_t(farthest)] = 0;
      ++repaired;
    }
    return repaired;
  }

  KMeans lloyd(std::vector<double> centres, const KMeansOptions& options) const {
    KMeans result;
    Pass pass;
    std::vector<int64_t> labels;
    double limit = options.tolerance * mean_variance();
    while (result.iterations < options.max_iterations && !result.converged) {
      labels.swap(pass.labels);
      assign(centres, pass);
      result.repaired += repair(pass);
      double moved = 0;
      for (size_t i = 0; i < centres.size(); ++i) {
        int64_t count = pass.counts[i / size_t(width_)];
        double mean = count > 0 ? pass.sums[i] / double(count) : centres[i];
        moved += (mean - centres[i]) * (mean - centres[i]);
        centres[i] = mean;
      }
      ++result.iterations;
      result.converged = labels == pass.labels || moved <= limit;
    }
    assign(centres, pass);
    result.counts = pass.counts;
    result.inertia = pass.inertia;
    result.inertias = {pass.inertia};
    for (size_t i = 0; i < centres.size(); ++i) centres[i] += mean_.data<double>()[i % size_t(width_)];
    result.centres = from(centres, {int64_t(centres.size()) / width_, width_}, DType::f64);
    result.labels = empty({count_}, DType::i64);
    std::copy(pass.labels.begin(), pass.labels.end(), result.labels.data<int64_t>());
    return result;
  }

 private:
  const T* row(int64_t index) const { return rows_.data<T>() + index * width_; }

  /// out = min(nearest, squared distance to the point); returns its sum.
  double nearer_with(int64_t point, const std::vector<double>& nearest, std::vector<double>& out) const {
    Chunks chunks(count_);
    std::vector<double> sums(size_t(chunks.number()), 0.0);
    out.resize(size_t(count_));
    chunks.each_block([&](int64_t chunk, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        out[size_t(i)] = std::min(nearest[size_t(i)], squared_distance(row(i), row(point), width_));
        sums[size_t(chunk)] += out[size_t(i)];
      }
    });
    return std::accumulate(sums.begin(), sums.end(), 0.0);
  }

  double mean_variance() const {
    Chunks chunks(count_);
    std::vector<double> sums(size_t(chunks.number()), 0.0);
    std::vector<T> origin(static_cast<size_t>(width_));
    chunks.each_block([&](int64_t chunk, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sums[size_t(chunk)] += squared_distance(row(i), origin.data(), width_);
    });
    return std::accumulate(sums.begin(), sums.end(), 0.0) / double(count_ * width_);
  }

  int64_t count_, width_;
  Tensor mean_, rows_;
};

/// fn(Cloud) in the dtype of x.
template <class Fn>
auto with_cloud(const Tensor& x, Fn&& fn) {
  return x.dtype() == DType::f32 ? fn(Cloud<float>(x)) : fn(Cloud<double>(x));
}

void require_options(const char* op, const KMeansOptions& options) {
  check(options.max_iterations >= 1, op, ": max_iterations must be 1 or more, got ", options.max_iterations);
  check(options.tolerance >= 0, op, ": tolerance must be 0 or more, got ", options.tolerance);
}

void require_centres(const char* op, const Tensor& x, const Tensor& centres) {
  metrics::require_features(op, "x", x);
  metrics::require_features(op, "centres", centres);
  check(centres.dtype() == DType::f64, op, ": centres must be f64 [K, D], got ", describe(centres));
  if (centres.size(1) != x.size(1))
    fail(Error::Kind::data, op, ": the widths differ: x is ", describe(x), ", centres is ", describe(centres));
}

}  // namespace

KMeans kmeans(const Tensor& x, const KMeansOptions& options) {
  require_options("kmeans", options);
  metrics::require_features("kmeans", "x", x);
  check(options.restarts >= 1, "kmeans: restarts must be 1 or more, got ", options.restarts);
  if (options.clusters < 1 || options.clusters > x.size(0))
    fail(Error::Kind::data, "kmeans: needs 1 <= clusters <= points, got ", options.clusters, " clusters for ",
         x.size(0), " points");
  return with_cloud(x, [&](const auto& cloud) {
    KMeans best;
    std::vector<double> inertias;
    for (int restart = 0; restart < options.restarts; ++restart) {
      Draws draws(Generator{options.seed}.fork(uint64_t(restart)));
      KMeans result = cloud.lloyd(cloud.seed(options.clusters, draws), options);
      inertias.push_back(result.inertia);
      if (restart == 0 || result.inertia < best.inertia) best = std::move(result);
    }
    best.inertias = std::move(inertias);
    return best;
  });
}

KMeans kmeans_from(const Tensor& x, const Tensor& centres, const KMeansOptions& options) {
  require_options("kmeans_from", options);
  require_centres("kmeans_from", x, centres);
  if (centres.size(0) > x.size(0))
    fail(Error::Kind::data, "kmeans_from: there are more centres than points: x is ", describe(x), ", centres is ",
         describe(centres));
  return with_cloud(x, [&](const auto& cloud) { return cloud.lloyd(cloud.less_mean(centres), options); });
}

Tensor nearest_centre(const Tensor& x, const Tensor& centres) {
  require_centres("nearest_centre", x, centres);
  Pass pass;
  with_cloud(x, [&](const auto& cloud) { cloud.assign(cloud.less_mean(centres), pass); });
  Tensor labels = empty({x.size(0)}, DType::i64);
  std::copy(pass.labels.begin(), pass.labels.end(), labels.data<int64_t>());
  return labels;
}

}  // namespace mote::cluster
