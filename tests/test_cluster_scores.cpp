// Scores of clusterings, the assignment problem and k-means.
#include <algorithm>
#include <chrono>
#include <numeric>
#include <set>

#include "diffusion/cluster/hungarian.h"
#include "diffusion/cluster/kmeans.h"
#include "diffusion/cluster/mixture.h"
#include "diffusion/cluster/scores.h"
#include "tensor/random.h"
#include "tests/io_support.h"

using namespace mote;
using namespace mote::cluster;

namespace {

/// "0112" as labels.
Tensor labels(const std::string& digits) {
  Tensor t = empty({int64_t(digits.size())}, DType::i64);
  for (size_t i = 0; i < digits.size(); ++i) t.data<int64_t>()[i] = digits[i] - '0';
  return t;
}

Tensor random_labels(int64_t n, int64_t classes, uint64_t seed) {
  Generator generator{seed};
  return randint(0, classes, {n}, generator);
}

/// Label l becomes names[l].
Tensor renamed(const Tensor& from, const std::vector<int64_t>& names) {
  Tensor to = from.clone();
  for (int64_t i = 0; i < to.numel(); ++i) to.data<int64_t>()[i] = names[size_t(from.data<int64_t>()[i])];
  return to;
}

struct AllScores {
  double acc, nmi, ari;
};
AllScores scores_of(const Tensor& predicted, const Tensor& truth) {
  Contingency table = contingency(predicted, truth);
  return {accuracy(table), nmi(table), ari(table)};
}

/// The best sum over all permutations.
double brute_force(const Tensor& cost, double sign) {
  int64_t n = cost.size(0);
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t(0));
  double best = INFINITY;
  do {
    double sum = 0;
    for (int64_t r = 0; r < n; ++r) sum += sign * cost.data<double>()[r * n + order[size_t(r)]];
    best = std::min(best, sum);
  } while (std::next_permutation(order.begin(), order.end()));
  return sign * best;
}

/// `clusters` unit Gaussians whose centres lie `apart` from each other along different axes.
Tensor blobs(int64_t clusters, int64_t each, int64_t width, double apart, uint64_t seed, DType dtype = DType::f32) {
  Tensor x = normal({clusters * each, width}, DType::f64, Generator{seed});
  for (int64_t i = 0; i < clusters * each; ++i) {
    int64_t k = i % clusters;
    x.data<double>()[i * width + k % width] += apart * double(1 + k / width);
  }
  return x.to(dtype);
}

Tensor blob_labels(int64_t clusters, int64_t each) {
  Tensor t = empty({clusters * each}, DType::i64);
  for (int64_t i = 0; i < t.numel(); ++i) t.data<int64_t>()[i] = i % clusters;
  return t;
}

}  // namespace

// ---- Scores --------------------------------------------------------------------------------------------------------

TEST_CASE("clustering scores of small partitions are the published ones", "[cluster][scores]") {
  struct Row {
    const char *truth, *predicted;
    double mutual, arithmetic, geometric, min, max, ari, acc;
  };
  for (const Row& row : {
           Row{"000111222", "001112220", .4620981204, .4206198357, .4206198357, .4206198357, .4206198357, .1111111111, .6666666667},
           Row{"0011", "0101", 0, 0, 0, 0, 0, -.5, .5},
           Row{"0011", "0000", 0, 0, 0, 0, 0, 0, .5},
           Row{"0123", "0011", .6931471806, .6666666667, .7071067812, 1, .5, 0, .5},
           Row{"0000111122", "1110000022", .8047189562, .7720707175, .7721274398, .7815438261, .7628245062, .6298472385, .9},
           Row{"001222", "001122", .7803552045, .7396673768, .7402999408, .7715561737, .7103099179, .4444444444, .8333333333},
       }) {
    INFO(row.truth << " " << row.predicted);
    Contingency table = contingency(labels(row.predicted), labels(row.truth));
    auto is = [](double expected) { return Approx(expected).epsilon(0).margin(6e-11); };
    CHECK(mutual_information(table) == is(row.mutual));
    CHECK(nmi(table) == is(row.arithmetic));
    CHECK(nmi(table, EntropyMean::geometric) == is(row.geometric));
    CHECK(nmi(table, EntropyMean::min) == is(row.min));
    CHECK(nmi(table, EntropyMean::max) == is(row.max));
    CHECK(ari(table) == is(row.ari));
    CHECK(accuracy(table) == is(row.acc));
  }
}

TEST_CASE("two partitions of one cluster each, or of single points, agree", "[cluster][scores]") {
  AllScores one = scores_of(labels("0000"), labels("3333")), apart = scores_of(labels("0123"), labels("3210")),
            single = scores_of(labels("5"), labels("1"));
  for (const AllScores& s : {one, apart, single}) {
    CHECK(s.acc == 1);
    CHECK(s.nmi == Approx(1).margin(1e-15));
    CHECK(s.ari == 1);
  }
}

TEST_CASE("clustering scores do not depend on names, and all but ACC not on the order", "[cluster][scores]") {
  Tensor y = random_labels(500, 5, 1), p = random_labels(500, 5, 2);
  for (int64_t i = 0; i < 300; ++i) p.data<int64_t>()[i] = y.data<int64_t>()[i];   // so that they have something in common
  AllScores plain = scores_of(p, y), swapped = scores_of(y, p);
  AllScores other = scores_of(renamed(p, {40, -7, 2, 1000000007, 0}), renamed(y, {3, 1, 4, 0, 2}));
  CHECK(other.acc == plain.acc);
  CHECK(other.nmi == Approx(plain.nmi).epsilon(1e-13));
  CHECK(other.ari == Approx(plain.ari).epsilon(1e-13));
  CHECK(swapped.acc == plain.acc);   // as many clusters as classes
  CHECK(swapped.nmi == Approx(plain.nmi).epsilon(1e-13));
  CHECK(swapped.ari == Approx(plain.ari).epsilon(1e-13));
  AllScores perfect = scores_of(renamed(y, {2, 0, 3, 1, 4}), y);
  CHECK(perfect.acc == 1);
  CHECK(perfect.nmi == Approx(1).margin(1e-14));
  CHECK(perfect.ari == Approx(1).margin(1e-14));
}

TEST_CASE("independent labels score about nothing", "[cluster][scores]") {
  AllScores s = scores_of(random_labels(100000, 10, 3), random_labels(100000, 10, 4));
  CHECK(std::abs(s.ari) < 1e-3);
  CHECK(s.nmi < 1e-3);
  CHECK(s.acc >= 0.1);   // the mean over all matchings is 1 / K
  CHECK(s.acc < 0.11);
}

TEST_CASE("the matching names the class of each cluster and leaves spare clusters without", "[cluster][scores]") {
  // Cluster 7 is class 1, cluster 9 class 0; cluster 8 is too small to get either.
  Contingency table = contingency(from({7, 7, 7, 8, 9, 9}, {6}, DType::i64), from({1, 1, 1, 1, 0, 0}, {6}, DType::i64));
  Matching matching = best_matching(table);
  CHECK((matching.column == std::vector<int64_t>{1, -1, 0}));
  CHECK(matching.accuracy == Approx(5.0 / 6));
}

TEST_CASE("labellings that do not belong together are refused", "[cluster][scores]") {
  CHECK_FAILS(Error::Kind::data, contingency(labels("012"), labels("01")), "predicted has 3 labels, truth has 2");
  CHECK_FAILS(Error::Kind::data, contingency(labels(""), labels("")), "at least 1");
  CHECK_FAILS(Error::Kind::argument, contingency(labels("01").to(DType::f32), labels("01")), "predicted must be i64 [N]");
  CHECK_FAILS(Error::Kind::argument, contingency(labels("01"), labels("01").view({2, 1})), "truth must be i64 [N]");
  CHECK_FAILS(Error::Kind::data, contingency(arange(9000), arange(9000)), "9000 different predicted labels");
}

// ---- The assignment problem ----------------------------------------------------------------------------------------

TEST_CASE("known assignments have the known cost", "[cluster][hungarian]") {
  Assignment a = min_assignment(from({4, 1, 3, 2, 0, 5, 3, 2, 2}, {3, 3}, DType::f64));
  CHECK(a.cost == 5);
  CHECK((a.column == std::vector<int64_t>{1, 0, 2}));
  Tensor euler = from({7, 53, 183, 439, 863, 497, 383, 563, 79, 973, 287, 63, 343, 169, 583, 627, 343, 773, 959, 943, 767,
                       473, 103, 699, 303}, {5, 5}, DType::f64);
  CHECK(max_assignment(euler).cost == 3315);
  CHECK(min_assignment(from({-3}, {1, 1}, DType::f64)).cost == -3);
  CHECK(min_assignment(full({6, 6}, 2.5, DType::f64)).cost == 15);
  CHECK(min_assignment(empty({0, 3}, DType::f64)).column.empty());
}

TEST_CASE("assignments are as cheap as the best of all permutations", "[cluster][hungarian]") {
  Generator generator{5};
  for (int round = 0; round < 1000; ++round) {
    int64_t n = 1 + round % 6 + (round % 97 == 0);
    // A range of 5 has ties in plenty, one of 100 few; negative costs in both.
    int64_t range = round % 2 ? 5 : 100;
    Tensor cost = randint(-range / 2, range, {n, n}, generator).to(DType::f64);
    Assignment least = min_assignment(cost), most = max_assignment(cost);
    CHECK(least.cost == brute_force(cost, 1));
    CHECK(most.cost == brute_force(cost, -1));
    CHECK(std::set<int64_t>(least.column.begin(), least.column.end()).size() == size_t(n));
  }
}

TEST_CASE("a rectangle is assigned as the square it is padded to", "[cluster][hungarian]") {
  Generator generator{6};
  for (auto [rows, columns] : {std::pair<int64_t, int64_t>{2, 5}, {5, 2}, {1, 6}, {6, 1}, {4, 6}}) {
    Tensor cost = randint(-20, 20, {rows, columns}, generator).to(DType::f64);
    int64_t n = std::max(rows, columns);
    Tensor square = zeros({n, n}, DType::f64);
    for (int64_t i = 0; i < cost.numel(); ++i) square.data<double>()[i / columns * n + i % columns] = cost.data<double>()[i];
    Assignment a = min_assignment(cost);
    CHECK(a.cost == brute_force(square, 1));
    std::set<int64_t> used;
    for (int64_t column : a.column) if (column >= 0) used.insert(column);
    CHECK(int64_t(a.column.size()) == rows);
    CHECK(int64_t(used.size()) == std::min(rows, columns));
  }
}

TEST_CASE("a large assignment is finished and consistent with its potentials' bound", "[cluster][hungarian]") {
  // Costs u_i + v_j + slack with slack 0 on one permutation: that permutation is the best, its cost is known.
  int64_t n = 200;
  Tensor u = normal({n}, DType::f64, Generator{7}), v = normal({n}, DType::f64, Generator{8});
  Tensor cost = uniform({n, n}, DType::f64, Generator{9});
  double expected = 0;
  for (int64_t i = 0; i < n; ++i) {
    int64_t hidden = (i * 77 + 13) % n;   // 77 and 200 have no common factor
    cost.data<double>()[i * n + hidden] = 0;
    for (int64_t j = 0; j < n; ++j) cost.data<double>()[i * n + j] += u.data<double>()[i] + v.data<double>()[j];
    expected += u.data<double>()[i] + v.data<double>()[hidden];
  }
  CHECK(min_assignment(cost).cost == Approx(expected).epsilon(1e-12));
}

TEST_CASE("costs that are not numbers are refused", "[cluster][hungarian]") {
  CHECK_FAILS(Error::Kind::numeric, min_assignment(from({1, 2, NAN, 3}, {2, 2}, DType::f64)), "element (1, 0)");
  CHECK_FAILS(Error::Kind::argument, min_assignment(from({1, 2}, {2}, DType::f64)), "needs f64 [R, C]");
}

// ---- k-means -------------------------------------------------------------------------------------------------------

TEST_CASE("k-means labels, distances and centres are those of the plain loops", "[cluster][kmeans]") {
  for (DType dtype : {DType::f32, DType::f64})
    for (auto [n, width, k] : {std::array<int64_t, 3>{1, 1, 1}, {37, 3, 5}, {300, 17, 4}, {1000, 33, 20}}) {
      Tensor x = blobs(k, (n + k - 1) / k, width, 3, 11, dtype);
      KMeansOptions options;
      options.clusters = k;
      options.restarts = 2;
      options.tolerance = 0;
      KMeans result = kmeans(x, options);
      CHECK(result.converged);
      Tensor wide = x.to(DType::f64);
      std::vector<double> sums(size_t(k * width), 0.0);
      double inertia = 0;
      int64_t far = 0;
      for (int64_t i = 0; i < x.size(0); ++i) {
        auto distance = [&](int64_t c) {
          double sum = 0;
          for (int64_t d = 0; d < width; ++d) {
            double difference = wide.data<double>()[i * width + d] - result.centres.data<double>()[c * width + d];
            sum += difference * difference;
          }
          return sum;
        };
        int64_t label = result.labels.data<int64_t>()[i];
        double least = INFINITY;
        for (int64_t c = 0; c < k; ++c) least = std::min(least, distance(c));
        far += distance(label) > least * (1 + 1e-5) + 1e-9;
        inertia += least;
        for (int64_t d = 0; d < width; ++d) sums[size_t(label * width + d)] += wide.data<double>()[i * width + d];
      }
      CHECK(far == 0);
      CHECK(result.inertia == Approx(inertia).epsilon(1e-5).margin(1e-9));
      // At a fixed point every centre is the mean of its points.
      for (int64_t i = 0; i < k * width; ++i)
        CHECK(result.centres.data<double>()[i] ==
              Approx(sums[size_t(i)] / double(result.counts[size_t(i / width)])).epsilon(1e-9).margin(1e-7));
      CHECK_SAME(nearest_centre(x, result.centres), result.labels);
    }
}

TEST_CASE("k-means finds separated clusters, and more restarts never do worse", "[cluster][kmeans]") {
  Tensor x = blobs(8, 100, 6, 12, 21);
  KMeansOptions options;
  options.clusters = 8;
  options.restarts = 5;
  KMeans result = kmeans(x, options);
  CHECK(accuracy(contingency(result.labels, blob_labels(8, 100))) == 1);
  CHECK(result.inertias.size() == 5);
  CHECK(result.inertia == *std::min_element(result.inertias.begin(), result.inertias.end()));
  options.restarts = 1;
  CHECK(kmeans(x, options).inertia == result.inertias[0]);
}

TEST_CASE("k-means gives the same bits for any number of threads", "[cluster][kmeans]") {
  for (DType dtype : {DType::f32, DType::f64}) {
    Tensor x = blobs(7, 1001, 19, 1, 31, dtype);
    KMeansOptions options;
    options.clusters = 9;
    options.restarts = 1;
    options.max_iterations = 6;
    auto run = [&](int threads) {
      test::Threads count(threads);
      return kmeans(x, options);
    };
    KMeans one = run(1);
    for (int threads : {2, 3, 7}) {
      KMeans many = run(threads);
      CHECK_SAME(many.centres, one.centres);
      CHECK_SAME(many.labels, one.labels);
      CHECK(many.inertia == one.inertia);
    }
  }
}

TEST_CASE("an empty cluster is given the farthest point", "[cluster][kmeans]") {
  // Both centres at the left: the second one starts empty, and 100 is the farthest point from the first.
  Tensor x = from({0, 1, 2, 100}, {4, 1}, DType::f64);
  KMeans result = kmeans_from(x, from({0, -50}, {2, 1}, DType::f64), {});
  CHECK(result.repaired == 1);
  CHECK((result.counts == std::vector<int64_t>{3, 1}));
  CHECK_SAME(result.centres, from({1, 100}, {2, 1}, DType::f64));
}

TEST_CASE("k-means of fewer distinct points than centres leaves the rest empty", "[cluster][kmeans]") {
  Tensor x = from({1, 1, 1, 2, 2, 2}, {6, 1}, DType::f32);
  KMeansOptions options;
  options.clusters = 4;
  KMeans result = kmeans(x, options);
  CHECK(result.inertia == 0);
  CHECK(std::count(result.counts.begin(), result.counts.end(), 3) == 2);
  CHECK(std::count(result.counts.begin(), result.counts.end(), 0) == 2);
}

TEST_CASE("far from the origin k-means in f32 keeps its digits", "[cluster][kmeans]") {
  Tensor x = blobs(4, 50, 3, 12, 41, DType::f64);
  for (int64_t i = 0; i < x.numel(); ++i) x.data<double>()[i] += 4096;   // squares pass 2^24
  KMeansOptions options;
  options.clusters = 4;
  CHECK(accuracy(contingency(kmeans(x.to(DType::f32), options).labels, blob_labels(4, 50))) == 1);
}

TEST_CASE("k-means refuses what it cannot cluster", "[cluster][kmeans]") {
  Tensor x = blobs(2, 3, 2, 1, 51);
  auto clusters = [](int64_t k) {
    KMeansOptions options;
    options.clusters = k;
    return options;
  };
  CHECK_FAILS(Error::Kind::data, kmeans(x, clusters(7)), "7 clusters for 6 points");
  CHECK_FAILS(Error::Kind::data, kmeans(x, clusters(0)), "0 clusters");
  CHECK_FAILS(Error::Kind::argument, kmeans(x.view({12}), clusters(2)), "[N, D]");
  x.data<float>()[3] = NAN;
  CHECK_FAILS(Error::Kind::data, kmeans(x, clusters(2)), "kmeans", "row 1");
  CHECK_FAILS(Error::Kind::data, kmeans_from(blobs(2, 3, 2, 1, 51), zeros({2, 3}, DType::f64), {}), "widths differ");
}
