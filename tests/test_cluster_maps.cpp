// Principal components, t-SNE, nearest neighbours, also under distortions, and the spectral embedding of their graph.
#include <algorithm>
#include <map>
#include <numeric>

#include "autograd/ops.h"
#include "diffusion/cluster/distortion.h"
#include "diffusion/cluster/kmeans.h"
#include "diffusion/cluster/knn.h"
#include "diffusion/cluster/pca.h"
#include "diffusion/cluster/scores.h"
#include "diffusion/cluster/spectral.h"
#include "diffusion/cluster/tsne.h"
#include "diffusion/metrics/eigen.h"
#include "tests/mixture_support.h"

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
    double low = 1e-3, high = 1e2;
    for (int step = 0; step < 200; ++step) {
      double beta = std::sqrt(low * high), sum = 0, entropy = 0;
      for (int64_t j = 0; j < N; ++j)
        sum += j == i ? 0 : conditional[size_t(i * N + j)] = std::exp(-beta * distance(j));
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
    return 1 / (1 + std::pow(y[size_t(2 * i)] - y[size_t(2 * j)], 2) +
                std::pow(y[size_t(2 * i + 1)] - y[size_t(2 * j + 1)], 2));
  };
  double total = 0, cost = 0;
  for (int64_t i = 0; i < N; ++i)
    for (int64_t j = 0; j < N; ++j) total += i == j ? 0 : weight(i, j);
  for (int64_t i = 0; i < N; ++i)
    for (int64_t j = 0; j < N; ++j)
      if (double value = values[size_t(i * N + j)]; i != j && value > 0)
        cost += value * std::log(value * total / weight(i, j));
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
      for (size_t d = 0; d < 3; ++d)
        x.data<double>()[n * 3 + int64_t(d)] += z.data<double>()[n * 3 + int64_t(j)] * scale[j] * axes[3 * j + d];
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
            for (int64_t d = 0; d < D; ++d)
              sum += std::pow(xd.data<double>()[n * D + d] - qd.data<double>()[m * D + d], 2);
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
  CHECK(one[0].accuracy < 0.95);  // it would be 1 if each row saw itself
  CHECK(one[0].accuracy == one[0].share);
  // Neighbourhoods mix classes as they grow.
  CHECK(one[0].share > one[2].share);
  // Four places, two rows and two classes each: the nearest other row has the right class never.
  CHECK(knn_scores(from({1, 1, 2, 2}, {4, 1}), from({0, 1, 0, 1}, {4}, DType::i64), {1})[0].accuracy == 0);
  CHECK_FAILS(Error::Kind::data, knn_scores(x, labels, {1500}), "k = 1500", "there are 1499");
  CHECK_FAILS(Error::Kind::argument, knn_scores(x, labels, {0}), "k must be 1 or more");
  CHECK_FAILS(Error::Kind::argument, knn_scores(x, labels.rows(0, 5), {1}), "reference_labels must be i64 [1500]");
}

TEST_CASE("the nearest rows are those of sorting all distances, with their distances", "[cluster][knn]") {
  Tensor x = normal({700, 5}, DType::f64, Generator{8}), q = normal({90, 5}, DType::f64, Generator{9});
  Neighbours found = nearest_rows(x, q, 12), own = nearest_rows(x, 12);
  for (const auto& [near, from] : {std::pair{found, q}, {own, x}}) {
    bool is_own = from.size(0) == 700;
    CHECK(near.rows.shape() == Shape{from.size(0), 12});
    for (int64_t m = 0; m < from.size(0); ++m) {
      std::vector<std::pair<double, int64_t>> order;
      for (int64_t n = 0; n < 700; ++n) {
        double sum = 0;
        for (int64_t d = 0; d < 5; ++d) sum += std::pow(x.data<double>()[n * 5 + d] - from.data<double>()[m * 5 + d], 2);
        if (!is_own || n != m) order.push_back({sum, n});
      }
      std::sort(order.begin(), order.end());
      for (int64_t k = 0; k < 12; ++k) {
        REQUIRE(near.rows.data<int64_t>()[m * 12 + k] == order[size_t(k)].second);
        REQUIRE(near.squared.data<double>()[m * 12 + k] == Approx(order[size_t(k)].first).epsilon(1e-12));
      }
    }
  }
  CHECK_FAILS(Error::Kind::data, nearest_rows(x, 700), "k = 700", "there are 699");
  CHECK_FAILS(Error::Kind::data, nearest_rows(x, normal({3, 4}, DType::f64, Generator{1}), 2), "width");
}

TEST_CASE("neighbours under changes are the nearest over all changes, of those that either of two finds", "[cluster][knn]") {
  constexpr int64_t N = 60, D = 3, k = 5;
  Tensor x = normal({N, D}, DType::f64, Generator{8});
  std::vector<Tensor> copies;
  for (uint64_t c = 0; c < 3; ++c) copies.push_back(x + affine(normal({N, D}, DType::f64, Generator{20 + c}), 0.5, 0));
  Neighbours near = nearest_under(x, 3, [&](int64_t c) { return copies[size_t(c)]; }, k);
  auto squared = [&](const Tensor& a, int64_t i, const Tensor& b, int64_t j) {
    double sum = 0;
    for (int64_t d = 0; d < D; ++d) sum += std::pow(a.data<double>()[i * D + d] - b.data<double>()[j * D + d], 2);
    return sum;
  };
  std::vector<std::map<int64_t, double>> known(N);   // what either finds, at the less of the two
  for (int64_t i = 0; i < N; ++i) {
    std::vector<std::pair<double, int64_t>> order;
    for (int64_t j = 0; j < N; ++j) {
      double least = squared(x, i, x, j);
      for (const Tensor& copy : copies) least = std::min(least, squared(x, i, copy, j));
      if (j != i) order.push_back({least, j});
    }
    std::sort(order.begin(), order.end());
    order.resize(k);
    for (auto [distance, j] : order)
      for (auto [a, b] : {std::pair{i, j}, {j, i}}) {
        auto [place, is_new] = known[size_t(a)].try_emplace(b, distance);
        if (!is_new) place->second = std::min(place->second, distance);
      }
  }
  bool was_changed = false;
  for (int64_t i = 0; i < N; ++i) {
    std::vector<std::pair<double, int64_t>> order;
    for (auto [j, distance] : known[size_t(i)]) order.push_back({distance, j});
    std::sort(order.begin(), order.end());
    for (int64_t place = 0; place < k; ++place) {
      REQUIRE(near.rows.data<int64_t>()[i * k + place] == order[size_t(place)].second);
      REQUIRE(near.squared.data<double>()[i * k + place] == Approx(order[size_t(place)].first).epsilon(1e-12));
      was_changed |= order[size_t(place)].first < squared(x, i, x, order[size_t(place)].second);
    }
  }
  CHECK(was_changed);
  Neighbours none = nearest_under(x, 0, {}, k), plain = nearest_rows(x, k);
  CHECK_SAME(none.rows, plain.rows);
}

TEST_CASE("distortions move, turn, slant and stretch around the middle", "[cluster][distortion]") {
  // f(x, y) linear in the pixel: what is read between pixels is exact, so that the map can be read off.
  constexpr int64_t H = 9, W = 11;
  Tensor images = empty({1, H, W, 2});
  for (int64_t y = 0; y < H; ++y)
    for (int64_t x = 0; x < W; ++x) {
      images.data<float>()[(y * W + x) * 2] = float(x - 5);
      images.data<float>()[(y * W + x) * 2 + 1] = float(y - 4);
    }
  CHECK_SAME(distorted(images, {}), images);
  auto at = [&](const Distortion& d, int64_t x, int64_t y) {
    Tensor out = distorted(images, d);
    const float* pixel = out.data<float>() + ((y + 4) * W + x + 5) * 2;
    return std::pair<double, double>(pixel[0], pixel[1]);
  };
  auto [x, y] = at({.move_x = 1, .move_y = -2}, 2, 1);
  CHECK(x == Approx(1));
  CHECK(y == Approx(3));
  std::tie(x, y) = at({.turn = M_PI / 2}, 2, 0);   // (0, -2) goes to (2, 0)
  CHECK(x == Approx(0).margin(1e-5));
  CHECK(y == Approx(-2));
  std::tie(x, y) = at({.slant = 0.5}, 2, 2);       // x = 2 - 0.5 * 2
  CHECK(x == Approx(1));
  CHECK(y == Approx(2));
  std::tie(x, y) = at({.stretch_x = 2, .stretch_y = 0.5}, 2, 1);
  CHECK(x == Approx(1));
  CHECK(y == Approx(2));
  // All at once: A = turn slant stretch takes q to p.
  Distortion all{.turn = 0.3, .slant = 0.2, .stretch_x = 1.3, .stretch_y = 0.8, .move_x = 0.4, .move_y = -0.3};
  std::tie(x, y) = at(all, 1, -1);
  double sx = all.stretch_x * x + all.slant * all.stretch_y * y, sy = all.stretch_y * y;
  CHECK(std::cos(0.3) * sx - std::sin(0.3) * sy + 0.4 == Approx(1).epsilon(1e-5));
  CHECK(std::sin(0.3) * sx + std::cos(0.3) * sy - 0.3 == Approx(-1).epsilon(1e-5));
  // Beyond the edge: the nearest pixel.
  std::tie(x, y) = at({.move_x = 100}, 0, 3);
  CHECK(x == -5);
  CHECK(y == 3);
  Generator one{4}, same{4};
  for (int draw = 0; draw < 200; ++draw) {
    Distortion d = draw_distortion({}, one), again = draw_distortion({}, same);
    CHECK(d.turn == again.turn);
    CHECK((std::abs(d.turn) <= 0.25 && std::abs(d.slant) <= 0.4 && std::abs(std::log(d.stretch_x)) <= 0.2 &&
           std::abs(d.move_y) <= 1));
  }
  CHECK_FAILS(Error::Kind::argument, distorted(images, {.stretch_x = 0}), "above 0");
}

// ---- Spectral embedding --------------------------------------------------------------------------------------------

/// Two rings around each other, with as many points on either: no mixture of two Gaussians parts them.
Tensor two_rings(int64_t each) {
  Tensor x = normal({2 * each, 2}, DType::f64, Generator{3});
  for (int64_t i = 0; i < 2 * each; ++i) {
    double angle = 2 * M_PI * double(i) / double(each), radius = i < each ? 1 : 3;
    for (int64_t d = 0; d < 2; ++d) {
      double& value = x.data<double>()[2 * i + d];
      value = 0.03 * value + radius * (d ? std::sin(angle) : std::cos(angle));
    }
  }
  return x;
}

TEST_CASE("the spectral embedding is the eigenvectors of the whole matrix", "[cluster][spectral]") {
  Tensor x = separated(3, 60, 4, 2, 7);
  for (int64_t k : {3, 10})
    for (int64_t scale : {2, 50}) {
      SpectralOptions options{.width = 4, .neighbours = k, .scale = scale, .unit_rows = false, .tolerance = 1e-10};
      Spectral got = spectral_embedding(x, options);
      CHECK(got.residual <= 1e-10);
      // By its definition, densely.
      int64_t N = x.size(0), D = x.size(1);
      Neighbours near = nearest_rows(x, k);
      Tensor a = zeros({N, N}, DType::f64);
      auto length = [&](int64_t i) { return std::sqrt(near.squared.data<double>()[i * k + std::min(scale, k) - 1]); };
      for (int64_t i = 0; i < N; ++i)
        for (int64_t place = 0; place < k; ++place) {
          int64_t j = near.rows.data<int64_t>()[i * k + place];
          double squared = 0;
          for (int64_t d = 0; d < D; ++d) squared += std::pow(x.data<double>()[i * D + d] - x.data<double>()[j * D + d], 2);
          a.data<double>()[i * N + j] = a.data<double>()[j * N + i] = std::exp(-squared / (length(i) * length(j)));
        }
      std::vector<double> degree(size_t(N), 0.0);
      for (int64_t i = 0; i < N * N; ++i) degree[size_t(i / N)] += a.data<double>()[i];
      for (int64_t i = 0; i < N * N; ++i) a.data<double>()[i] /= std::sqrt(degree[size_t(i / N)] * degree[size_t(i % N)]);
      metrics::SymmetricEigen eigen = metrics::symmetric_eigen(a);
      for (int64_t c = 0; c < 4; ++c) {
        CHECK(got.values.data<double>()[c] == Approx(eigen.values.data<double>()[N - 1 - c]).epsilon(1e-9));
        // A y = value y, and y has length 1: with the values, all there is to say where some are equal.
        double off = 0, norm = 0, largest = 0;
        for (int64_t i = 0; i < N; ++i) {
          double sum = 0, own = got.y.data<double>()[i * 4 + c];
          for (int64_t j = 0; j < N; ++j) sum += a.data<double>()[i * N + j] * got.y.data<double>()[j * 4 + c];
          off = std::max(off, std::abs(sum - got.values.data<double>()[c] * own));
          norm += own * own;
          if (std::abs(own) > std::abs(largest)) largest = own;
        }
        CHECK(off < 1e-9);
        CHECK(norm == Approx(1).epsilon(1e-12));
        CHECK(largest > 0);
      }
    }
}

TEST_CASE("the spectral embedding parts rings that k-means cannot", "[cluster][spectral]") {
  int64_t each = 200;
  Tensor x = two_rings(each), truth = empty({2 * each}, DType::i64);
  for (int64_t i = 0; i < 2 * each; ++i) truth.data<int64_t>()[i] = i / each;
  auto score = [&](const Tensor& y) {
    KMeansOptions two;
    two.clusters = 2;
    return accuracy(contingency(kmeans(y, two).labels, truth));
  };
  CHECK(score(x) < 0.7);
  Spectral rings = spectral_embedding(x, {.width = 2, .neighbours = 8});
  CHECK(score(rings.y) == 1);
  for (int64_t c = 0; c < 2; ++c) CHECK(rings.values.data<double>()[c] == Approx(1).epsilon(1e-9));   // two parts
  for (int64_t i = 0; i < 2 * each; ++i)
    CHECK(std::hypot(rings.y.data<double>()[2 * i], rings.y.data<double>()[2 * i + 1]) == Approx(1).epsilon(1e-12));
}

TEST_CASE("the spectral embedding has the same bits for any number of threads, and says what it cannot do",
          "[cluster][spectral]") {
  Tensor x = separated(3, 300, 6, 2, 9).to(DType::f32);
  auto run = [&](int threads) {
    Threads count(threads);
    return spectral_embedding(x, {.width = 5}).y;
  };
  Tensor one = run(1);
  for (int threads : {2, 3, 7}) CHECK_SAME(run(threads), one);
  int rounds = 0;
  SpectralOptions stopped{.width = 5, .tolerance = 1e-12, .progress = [&](int, double) { return ++rounds < 2; }};
  CHECK(spectral_embedding(x, stopped).residual > 1e-12);
  CHECK(rounds == 2);
  CHECK_FAILS(Error::Kind::numeric, spectral_embedding(x, {.width = 5, .tolerance = 1e-30, .max_rounds = 2}), "after 2 rounds");
  CHECK_FAILS(Error::Kind::argument, spectral_embedding(x, {.width = 0}), "width must be 1 or more");
  CHECK_FAILS(Error::Kind::data, spectral_embedding(x.rows(0, 14), {.width = 5}), "need 15 points, there are 14");
  CHECK_FAILS(Error::Kind::data, spectral_embedding(x.rows(0, 9), {.width = 1}), "k = 10");
  // Duplicates: s_i is 0, and no weight is a NaN.
  Tensor twice = zeros({60, 2});
  for (int64_t i = 0; i < 60; ++i) twice.data<float>()[2 * i] = float(i / 30);
  for (double value : spectral_embedding(twice, {.width = 2}).y.to_vector()) CHECK(std::isfinite(value));
}

// ---- t-SNE ---------------------------------------------------------------------------------------------------------

TEST_CASE("affinities of t-SNE have the perplexity asked for", "[cluster][tsne]") {
  for (DType dtype : {DType::f32, DType::f64}) {
    Tensor x = normal({67, 5}, dtype, Generator{6});
    CHECK_CLOSE(tsne_affinities(x, 9).to(DType::f64), plain_affinities(x, 9), 1e-8, 2e-4);  // entropy is met to 1e-5
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
    auto repulsion = [&](double by) {  // ln sum w, whose gradient is what exaggeration leaves alone
      std::vector<double> moved = at_y;
      moved[i] += by;
      double total = 0;
      for (int64_t a = 0; a < N; ++a)
        for (int64_t b = 0; b < N; ++b)
          total += a == b ? 0
                          : 1 / (1 + std::pow(moved[size_t(2 * a)] - moved[size_t(2 * b)], 2) +
                                 std::pow(moved[size_t(2 * a + 1)] - moved[size_t(2 * b + 1)], 2));
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
  CHECK(seen.back() < seen[4]);  // after exaggeration it goes on falling
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
  CHECK_FAILS(Error::Kind::data, tsne_affinities(normal({60, 2}, DType::f32, Generator{11}), 30),
              "perplexity 30 for 60 points");
  Tensor same = tsne_affinities(zeros({10, 2}), 2);
  for (int64_t i = 0; i < 100; ++i)
    CHECK(double(same.data<float>()[i]) == Approx(i % 11 == 0 ? 0.0 : 1.0 / 90).epsilon(1e-5));
}
