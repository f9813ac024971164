// Principal components, t-SNE and classification by neighbours.
#include <algorithm>
#include <numeric>

#include "diffusion/cluster/kmeans.h"
#include "diffusion/cluster/knn.h"
#include "diffusion/cluster/pca.h"
#include "diffusion/cluster/scores.h"
#include "diffusion/cluster/tsne.h"
#include "tests/mixture_support.h"
#include "tests/sanitized.h"

using namespace mote;
using namespace mote::cluster;
using namespace mote::test;

namespace {

double at(const Tensor& x, int64_t i) { return x.to_vector()[size_t(i)]; }

/// t-SNE's P by its definition in f64, beta by bisection.
Tensor plain_affinities(const Tensor& x, double perplexity) {
  int64_t N = x.size(0), D = x.size(1);
  std::vector<double> v = x.to_vector(), conditional(size_t(N * N), 0.0);
  for (int64_t i = 0; i < N; ++i) {
    auto distance = [&](int64_t j) {
      double sum = 0;
      for (int64_t d = 0; d < D; ++d) sum += std::pow(v[size_t(i * D + d)] - v[size_t(j * D + d)], 2);
      return sum;
    };
    double low = 1e-9, high = 1e9;
    for (int step = 0; step < 200; ++step) {
      double beta = std::sqrt(low * high), sum = 0, entropy = 0;
      for (int64_t j = 0; j < N; ++j) sum += j == i ? 0 : conditional[size_t(i * N + j)] = std::exp(-beta * distance(j));
      for (int64_t j = 0; j < N; ++j) {
        double& p = conditional[size_t(i * N + j)];
        p /= sum;
        if (p > 0) entropy -= p * std::log(p);
      }
      (entropy > std::log(perplexity) ? low : high) = beta;
    }
  }
  Tensor p = empty({N, N}, DType::f64);
  for (int64_t i = 0; i < N * N; ++i)
    p.data<double>()[i] = (conditional[size_t(i)] + conditional[size_t(i % N * N + i / N)]) / double(2 * N);
  return p;
}

double plain_divergence(const Tensor& p, const std::vector<double>& y) {
  int64_t N = p.size(0);
  std::vector<double> values = p.to_vector();
  auto weight = [&](int64_t i, int64_t j) {
    return 1 / (1 + std::pow(y[size_t(2 * i)] - y[size_t(2 * j)], 2) + std::pow(y[size_t(2 * i + 1)] - y[size_t(2 * j + 1)], 2));
  };
  double total = 0, cost = 0;
  for (int64_t i = 0; i < N; ++i)
    for (int64_t j = 0; j < N; ++j) total += i == j ? 0 : weight(i, j);
  for (int64_t i = 0; i < N; ++i)
    for (int64_t j = 0; j < N; ++j)
      if (double value = values[size_t(i * N + j)]; i != j && value > 0) cost += value * std::log(value * total / weight(i, j));
  return cost;
}

}  // namespace

// ---- Principal components ------------------------------------------------------------------------------------------

TEST_CASE("principal components are the axes that the data were stretched along", "[cluster][pca]") {
  // Standard deviations 5, 2, 0.5 along orthogonal axes; 20000 points leave an error of one in a hundred.
  std::vector<double> axes = {.6, .8, 0, -.8, .6, 0, 0, 0, 1};
  int64_t N = 20000;
  Tensor z = normal({N, 3}, DType::f64, Generator{1}), x = full({N, 3}, 100, DType::f64);
  const double scale[] = {5, 2, 0.5};
  for (int64_t n = 0; n < N; ++n)
    for (size_t j = 0; j < 3; ++j)
      for (size_t d = 0; d < 3; ++d) x.data<double>()[n * 3 + int64_t(d)] += z.data<double>()[n * 3 + int64_t(j)] * scale[j] * axes[3 * j + d];
  for (DType dtype : {DType::f64, DType::f32}) {
    Pca pca = principal_components(x.to(dtype), 3);
    for (int64_t j = 0; j < 3; ++j) {
      CHECK(std::sqrt(at(pca.variances, j)) == Approx(scale[j]).epsilon(0.02));
      double dot = 0;
      for (int64_t d = 0; d < 3; ++d) dot += at(pca.axes, 3 * j + d) * axes[size_t(3 * j + d)];
      CHECK(std::abs(dot) > 0.999);
    }
    CHECK(pca.total == Approx(at(pca.variances, 0) + at(pca.variances, 1) + at(pca.variances, 2)));
  }
}

TEST_CASE("projected data are uncorrelated, and all axes together lose nothing", "[cluster][pca]") {
  int64_t N = 501, D = 7;
  Generator generator{3};
  Tensor x = sample_component(random_mixture(Covariance::full, 1, D, 2), 0, N, generator);
  Pca pca = principal_components(x, D);
  Tensor y = project(pca, x);
  for (int64_t i = 0; i < D; ++i)
    for (int64_t j = 0; j < D; ++j) {
      double sum = 0, dot = 0;
      for (int64_t n = 0; n < N; ++n) sum += y.data<double>()[n * D + i] * y.data<double>()[n * D + j] / double(N);
      for (int64_t d = 0; d < D; ++d) dot += at(pca.axes, i * D + d) * at(pca.axes, j * D + d);
      CHECK(sum == Approx(i == j ? at(pca.variances, i) : 0).margin(1e-10));
      CHECK(dot == Approx(i == j).margin(1e-12));
    }
  Tensor back = empty_like(x);
  for (int64_t n = 0; n < N; ++n)
    for (int64_t d = 0; d < D; ++d) {
      double value = pca.mean.data<double>()[d];
      for (int64_t j = 0; j < D; ++j) value += y.data<double>()[n * D + j] * pca.axes.data<double>()[j * D + d];
      back.data<double>()[n * D + d] = value;
    }
  CHECK_CLOSE(back, x, 1e-11, 0);
  CHECK_FAILS(Error::Kind::argument, principal_components(x, 8), "1 <= components <= 7");
  CHECK_FAILS(Error::Kind::data, project(pca, zeros({2, 6})), "widths differ");
}

// ---- Neighbours ----------------------------------------------------------------------------------------------------

TEST_CASE("classification by neighbours is that of sorting all distances", "[cluster][knn]") {
  for (DType dtype : {DType::f32, DType::f64})
    for (auto [N, M, D] : {std::array<int64_t, 3>{5, 1, 1}, {1500, 70, 3}, {300, 300, 19}}) {
      Generator generator{4};
      Tensor x = normal({N, D}, dtype, generator), q = normal({M, D}, dtype, generator);
      Tensor labels = randint(0, 4, {N}, generator), truth = randint(0, 4, {M}, generator);
      std::vector<int64_t> ks = {1, 2, 5};
      std::vector<KnnScore> got = knn_scores(x, labels, q, truth, ks);
      Tensor xd = x.to(DType::f64), qd = q.to(DType::f64);
      for (size_t i = 0; i < ks.size(); ++i) {
        double right = 0, share = 0;
        for (int64_t m = 0; m < M; ++m) {
          std::vector<std::pair<double, int64_t>> order;
          for (int64_t n = 0; n < N; ++n) {
            double sum = 0;
            for (int64_t d = 0; d < D; ++d) sum += std::pow(xd.data<double>()[n * D + d] - qd.data<double>()[m * D + d], 2);
            order.push_back({sum, n});
          }
          std::sort(order.begin(), order.end());
          std::vector<int64_t> votes(4, 0);
          for (int64_t k = 0; k < ks[i]; ++k) ++votes[size_t(labels.data<int64_t>()[order[size_t(k)].second])];
          int64_t t = truth.data<int64_t>()[m];
          right += std::max_element(votes.begin(), votes.end()) - votes.begin() == t;
          share += double(votes[size_t(t)]) / double(ks[i]);
        }
        CHECK(got[i].k == ks[i]);
        CHECK(got[i].accuracy == Approx(right / double(M)).epsilon(1e-12));
        CHECK(got[i].share == Approx(share / double(M)).epsilon(1e-12));
      }
    }
}

TEST_CASE("a row is no neighbour of its own, and threads change nothing", "[cluster][knn]") {
  Tensor x = separated(5, 300, 4, 2, 5).to(DType::f32), labels = separated_labels(5, 300);
  auto run = [&](int threads) {
    Threads count(threads);
    return knn_scores(x, labels, {1, 10, 100});
  };
  std::vector<KnnScore> one = run(1);
  for (int threads : {2, 3, 7}) {
    std::vector<KnnScore> many = run(threads);
    for (size_t i = 0; i < one.size(); ++i) {
      CHECK(many[i].accuracy == one[i].accuracy);
      CHECK(many[i].share == one[i].share);
    }
  }
  CHECK(one[0].accuracy < 0.95);   // it would be 1 if each row saw itself
  CHECK(one[0].accuracy == one[0].share);
  // Neighbourhoods mix classes as they grow.
  CHECK(one[0].share > one[2].share);
  // Four places, two rows and two classes each: the nearest other row has the right class never.
  CHECK(knn_scores(from({1, 1, 2, 2}, {4, 1}), from({0, 1, 0, 1}, {4}, DType::i64), {1})[0].accuracy == 0);
  CHECK_FAILS(Error::Kind::data, knn_scores(x, labels, {1500}), "k = 1500", "there are 1499");
  CHECK_FAILS(Error::Kind::argument, knn_scores(x, labels, {0}), "k must be 1 or more");
  CHECK_FAILS(Error::Kind::argument, knn_scores(x, labels.rows(0, 5), {1}), "reference_labels must be i64 [1500]");
}

// ---- t-SNE ---------------------------------------------------------------------------------------------------------

TEST_CASE("affinities of t-SNE have the perplexity asked for", "[cluster][tsne]") {
  for (DType dtype : {DType::f32, DType::f64}) {
    Tensor x = normal({67, 5}, dtype, Generator{6});
    CHECK_CLOSE(tsne_affinities(x, 9).to(DType::f64), plain_affinities(x, 9), 1e-8, 2e-4);   // entropy is met to 1e-5
  }
}

TEST_CASE("the gradient of t-SNE is that of differences", "[cluster][tsne]") {
  int64_t N = 37;
  Tensor p = tsne_affinities(normal({N, 3}, DType::f32, Generator{7}), 8), y = normal({N, 2}, DType::f32, Generator{8});
  std::vector<double> at_y = y.to_vector();
  CHECK(tsne_divergence(p, y) == Approx(plain_divergence(p, at_y)).epsilon(1e-5));
  // With P scaled by 3 the gradient is 3 times attraction less repulsion: 3 (KL's) + 2 (repulsion), so check both.
  Tensor plain = tsne_gradient(p, y), pulled = tsne_gradient(p, y, 3);
  double mass = 0;
  for (double value : p.to_vector()) mass += value;
  CHECK(mass == Approx(1).epsilon(1e-5));
  for (size_t i = 0; i < size_t(2 * N); ++i) {
    auto shifted = [&](double by) {
      std::vector<double> moved = at_y;
      moved[i] += by;
      return plain_divergence(p, moved);
    };
    auto repulsion = [&](double by) {   // ln sum w, whose gradient is what exaggeration leaves alone
      std::vector<double> moved = at_y;
      moved[i] += by;
      double total = 0;
      for (int64_t a = 0; a < N; ++a)
        for (int64_t b = 0; b < N; ++b)
          total += a == b ? 0 : 1 / (1 + std::pow(moved[size_t(2 * a)] - moved[size_t(2 * b)], 2) + std::pow(moved[size_t(2 * a + 1)] - moved[size_t(2 * b + 1)], 2));
      return std::log(total);
    };
    double h = 1e-5, slope = (shifted(h) - shifted(-h)) / (2 * h), push = (repulsion(h) - repulsion(-h)) / (2 * h);
    CHECK(double(plain.data<float>()[i]) == Approx(slope).margin(2e-6));
    CHECK(double(pulled.data<float>()[i]) == Approx(3 * (slope - push) + push).margin(6e-6));
  }
}

TEST_CASE("t-SNE keeps separated blobs apart, and its divergence falls", "[cluster][tsne]") {
  int64_t each = kSanitized ? 25 : 60;
  Tensor x = separated(3, each, 6, 12, 9).to(DType::f32);
  TsneOptions options;
  options.perplexity = kSanitized ? 8 : 15;
  options.iterations = kSanitized ? 350 : 500;
  std::vector<double> seen;
  options.progress = [&](int iteration, double divergence) {
    CHECK(iteration == 50 * int(seen.size() + 1));
    seen.push_back(divergence);
    return true;
  };
  Tsne map = tsne(x, options);
  CHECK(map.history == seen);
  CHECK(map.divergence == seen.back());
  CHECK(seen.back() < seen.front());
  CHECK(seen.back() < seen[4]);   // after exaggeration it goes on falling
  KMeansOptions three;
  three.clusters = 3;
  CHECK(accuracy(contingency(kmeans(map.y, three).labels, separated_labels(3, each))) == 1);
}

TEST_CASE("t-SNE has the same bits for any number of threads and stops when told to", "[cluster][tsne]") {
  Tensor x = separated(3, 101, 6, 3, 10).to(DType::f32);
  TsneOptions options;
  options.iterations = 500;
  options.progress = [](int iteration, double) { return iteration < 100; };
  auto run = [&](int threads) {
    Threads count(threads);
    return tsne(x, options);
  };
  Tsne one = run(1);
  CHECK(one.history.size() == 2);
  for (int threads : {2, 3, 7}) CHECK_SAME(run(threads).y, one.y);
}

TEST_CASE("t-SNE refuses too few and too many points and takes duplicates", "[cluster][tsne]") {
  CHECK_FAILS(Error::Kind::data, tsne_affinities(zeros({3, 2}), 1.5), "4 to 5000 points, got 3");
  CHECK_FAILS(Error::Kind::data, tsne_affinities(zeros({5001, 1}), 30), "got 5001");
  CHECK_FAILS(Error::Kind::data, tsne_affinities(normal({60, 2}, DType::f32, Generator{11}), 30), "perplexity 30 for 60 points");
  Tensor same = tsne_affinities(zeros({10, 2}), 2);
  for (int64_t i = 0; i < 100; ++i) CHECK(double(same.data<float>()[i]) == Approx(i % 11 == 0 ? 0.0 : 1.0 / 90).epsilon(1e-5));
}
