// The metrics on feature matrices: closed forms, hand-made point sets, slow references, the same bits for any threads.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "diffusion/metrics/eigen.h"
#include "diffusion/metrics/frechet.h"
#include "diffusion/metrics/kid.h"
#include "diffusion/metrics/labels.h"
#include "diffusion/metrics/neighbours.h"
#include "tensor/kernels.h"
#include "tensor/random.h"
#include "tests/diffusion_support.h"

using namespace mote;
using namespace mote::metrics;
using namespace mote::test;

namespace {

Tensor normal64(const Shape& shape, uint64_t seed) { return normal(shape, DType::f64, Generator{seed}); }

Tensor product(const Tensor& a, const Tensor& b, bool trans_a = false, bool trans_b = false) {
  Tensor y = empty({a.size(trans_a ? 1 : 0), b.size(trans_b ? 0 : 1)}, DType::f64);
  kernel::matmul(y, a, b, trans_a, trans_b, {});
  return y;
}

Tensor diagonal(const std::vector<double>& values) {
  int64_t n = int64_t(values.size());
  Tensor matrix = zeros({n, n}, DType::f64);
  for (int64_t i = 0; i < n; ++i) matrix.data<double>()[i * n + i] = values[size_t(i)];
  return matrix;
}

/// I - 2 v v^T / v.v with a random v: orthogonal and symmetric.
Tensor reflection(int64_t n, uint64_t seed) {
  Tensor v = normal64({n, 1}, seed), matrix = product(v, v, false, true);
  double squares = 0;
  for (double value : v.to_vector()) squares += value * value;
  for (int64_t i = 0; i < n * n; ++i)
    matrix.data<double>()[i] = (i % (n + 1) == 0 ? 1.0 : 0.0) - 2 * matrix.data<double>()[i] / squares;
  return matrix;
}

/// A dense symmetric matrix with these eigenvalues.
Tensor with_spectrum(const std::vector<double>& values, uint64_t seed) {
  int64_t n = int64_t(values.size());
  Tensor turn = product(reflection(n, seed), reflection(n, seed + 1));
  return product(turn, product(diagonal(values), turn, false, true));
}

std::vector<double> sorted(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values;
}

/// Values moved and stretched: x -> scale x + shift.
Tensor mapped(const Tensor& x, double scale, double shift) {
  Tensor y = x.clone();
  for (int64_t i = 0; i < y.numel(); ++i) y.data<double>()[i] = scale * y.data<double>()[i] + shift;
  return y;
}

double squared_distance(const Tensor& x, int64_t i, const Tensor& y, int64_t j) {
  std::vector<double> a = x.rows(i, i + 1).to_vector(), b = y.rows(j, j + 1).to_vector();
  double sum = 0;
  for (size_t c = 0; c < a.size(); ++c) sum += (a[c] - b[c]) * (a[c] - b[c]);
  return sum;
}

}  // namespace

// ---- Eigenvalues ---------------------------------------------------------------------------------------------------

TEST_CASE("the eigenvalues of the second difference are known cosines", "[metrics][eigen]") {
  for (int64_t n : {1, 2, 3, 5, 17, 64, 131}) {
    Tensor matrix = zeros({n, n}, DType::f64);
    std::vector<double> expected;
    for (int64_t i = 0; i < n; ++i) {
      matrix.data<double>()[i * n + i] = 2;
      if (i + 1 < n) matrix.data<double>()[i * n + i + 1] = matrix.data<double>()[(i + 1) * n + i] = -1;
      expected.push_back(2 - 2 * std::cos(std::numbers::pi * double(i + 1) / double(n + 1)));
    }
    Tensor turn = reflection(n, 3);  // the same eigenvalues in a dense matrix
    INFO("n " << n);
    CHECK_CLOSE(symmetric_eigen(matrix).values, from(expected, {n}, DType::f64), 1e-13, 0);
    CHECK_CLOSE(symmetric_eigen(product(turn, product(matrix, turn)), false).values, from(expected, {n}, DType::f64),
                1e-13, 0);
  }
}

TEST_CASE("eigenvectors are orthonormal and rebuild the matrix", "[metrics][eigen]") {
  for (const std::vector<double>& spectrum : {std::vector<double>{4},
                                              {-1, 1},
                                              {2, 2, 2, 2},
                                              {0, 0, 0, 1, 5},
                                              {1e-12, 1e-6, 1, 1e6},
                                              {-3, 0, 1e-9, 1, 1, 7, 7}}) {
    Tensor matrix = with_spectrum(spectrum, 5);
    SymmetricEigen eigen = symmetric_eigen(matrix);
    int64_t n = matrix.size(0);
    double size = *std::max_element(spectrum.begin(), spectrum.end());
    INFO("n " << n << ", largest " << size);
    CHECK_CLOSE(eigen.values, from(sorted(spectrum), {n}, DType::f64), 1e-14 * size, 0);
    CHECK_CLOSE(product(eigen.vectors, eigen.vectors, false, true), diagonal(std::vector<double>(size_t(n), 1)), 1e-14,
                0);
    Tensor rebuilt = product(eigen.vectors, product(diagonal(eigen.values.to_vector()), eigen.vectors), true, false);
    CHECK_CLOSE(rebuilt, matrix, 1e-14 * size, 0);
  }
}

TEST_CASE("eigenvectors of a matrix of many blocks rebuild it", "[metrics][eigen]") {
  int64_t n = 150;  // three blocks of columns, the last one partly filled
  Tensor half = normal64({n, n}, 11), matrix = product(half, half, false, true);
  SymmetricEigen eigen = symmetric_eigen(matrix);
  CHECK_CLOSE(product(eigen.vectors, eigen.vectors, false, true), diagonal(std::vector<double>(size_t(n), 1)), 1e-13,
              0);
  Tensor rebuilt = product(eigen.vectors, product(diagonal(eigen.values.to_vector()), eigen.vectors), true, false);
  CHECK_CLOSE(rebuilt, matrix, 1e-11, 0);  // the largest eigenvalue is about 4 n = 600
  Tensor root = symmetric_sqrt(matrix);
  CHECK_CLOSE(product(root, root), matrix, 1e-11, 0);
  CHECK_SAME(symmetric_eigen(matrix, false).values, eigen.values);
}

TEST_CASE("matrices that are diagonal or zero need no step", "[metrics][eigen]") {
  CHECK_SAME(symmetric_eigen(diagonal({3, -1, 2})).values, from({-1, 2, 3}, {3}, DType::f64));
  CHECK_SAME(symmetric_eigen(diagonal({3, -1, 2})).vectors, from({0, 1, 0, 0, 0, 1, 1, 0, 0}, {3, 3}, DType::f64));
  CHECK_SAME(symmetric_eigen(zeros({4, 4}, DType::f64)).values, zeros({4}, DType::f64));
  Tensor tiny = from({0, 1e-200, 1e-200, 0}, {2, 2}, DType::f64);
  CHECK_CLOSE(symmetric_eigen(tiny).values, from({-1e-200, 1e-200}, {2}, DType::f64), 1e-214, 0);
  Tensor huge = from({1e200, 2e200, 3e200, 2e200, 0, 1e200, 3e200, 1e200, 0}, {3, 3}, DType::f64);
  double sum = 0;
  for (double value : symmetric_eigen(huge).values.to_vector()) sum += value;
  CHECK(apart(sum, 1e200, 0, 1e-13) == "");  // the trace
}

TEST_CASE("a matrix without real eigenvalues to find is refused", "[metrics][eigen]") {
  CHECK(caught([] { symmetric_eigen(zeros({2, 3}, DType::f64)); }).says("needs f64 [D, D]"));
  CHECK(caught([] { symmetric_eigen(zeros({2, 2})); }).says("f32[2, 2]"));
  Caught lopsided = caught([] { symmetric_eigen(from({1, 2, 3, 4}, {2, 2}, DType::f64)); });
  CHECK(lopsided.says("not symmetric"));
  CHECK(lopsided.kind == Error::Kind::numeric);
  CHECK(caught([] { symmetric_eigen(from({1, NAN, NAN, 1}, {2, 2}, DType::f64)); }).says("element (0, 1)"));
}

TEST_CASE("metrics have the same bits for any number of threads", "[metrics][threads]") {
  Tensor x = normal64({403, 150}, 1), y = mapped(normal64({397, 150}, 2), 1.1, 0.1);
  Tensor x32 = x.to(DType::f32), y32 = y.to(DType::f32);
  struct All {
    Tensor values, vectors;
    double fd, kid;
    Prdc prdc;
    std::vector<double> radii;
    Nearest nearest;
  };
  auto all = [&](int threads) {
    Threads set(threads);
    SymmetricEigen eigen = symmetric_eigen(moments(x).covariance);
    return All{
        eigen.values, eigen.vectors,         frechet_distance(x, y), kid(x, y, {.subset = 50, .subsets = 3}).mean,
        prdc(x, y),   kth_neighbour(x32, 4), nearest_rows(x32, y32)};
  };
  All one = all(1);
  CHECK(one.fd > 0);
  for (int threads : {2, 3, 7}) {
    INFO(threads << " threads");
    All other = all(threads);
    CHECK_SAME(other.values, one.values);
    CHECK_SAME(other.vectors, one.vectors);
    CHECK(other.fd == one.fd);
    CHECK(other.kid == one.kid);
    CHECK(other.prdc.density == one.prdc.density);
    CHECK(other.radii == one.radii);
    CHECK(other.nearest.distance == one.nearest.distance);
    CHECK(other.nearest.index == one.nearest.index);
  }
}

// ---- Frechet distance ----------------------------------------------------------------------------------------------

TEST_CASE("the Frechet distance of Gaussians with commuting covariances is a sum over axes", "[metrics][fd]") {
  std::vector<double> a = {4, 1, 0.25, 9, 0}, b = {1, 1, 1, 2, 3}, mean_a = {0, 1, 2, 3, 4}, mean_b = {1, 1, 0, 3, 4};
  double expected = 1 + 4;
  for (size_t i = 0; i < a.size(); ++i) expected += std::pow(std::sqrt(a[i]) - std::sqrt(b[i]), 2);
  Tensor turn = product(reflection(5, 1), reflection(5, 2));
  auto gaussian = [&](const std::vector<double>& mean, const std::vector<double>& variance) {
    return Moments{product(from(mean, {1, 5}, DType::f64), turn, false, true).view({5}),
                   product(turn, product(diagonal(variance), turn, false, true)), 1000};
  };
  Moments x = gaussian(mean_a, a), y = gaussian(mean_b, b);
  // a zero eigenvalue comes back as a rounding error of 1e-16, whose root is 1e-8
  CHECK(apart(frechet_distance(x, y), expected, 1e-7) == "");
  CHECK(apart(frechet_distance(y, x), expected, 1e-7) == "");
  CHECK(frechet_distance(x, x) < 1e-7);
}

TEST_CASE("the Frechet distance of covariances that do not commute follows the formula for two axes", "[metrics][fd]") {
  // The eigenvalues p, q of S_a S_b have sqrt(p) + sqrt(q) = sqrt(trace + 2 sqrt(det)).
  Moments a{zeros({2}, DType::f64), from({2, 1, 1, 3}, {2, 2}, DType::f64), 100};
  Moments b{zeros({2}, DType::f64), from({1, -0.5, -0.5, 4}, {2, 2}, DType::f64), 100};
  double trace = 2 * 1 + 1 * -0.5 + 1 * -0.5 + 3 * 4, det = (2 * 3 - 1) * (1 * 4 - 0.25);
  double expected = (2 + 3) + (1 + 4) - 2 * std::sqrt(trace + 2 * std::sqrt(det));
  CHECK(apart(frechet_distance(a, b), expected, 1e-13) == "");
}

TEST_CASE("moving a set by c is a Frechet distance of |c|^2, stretching it about its mean adds (s - 1)^2 of its spread",
          "[metrics][fd]") {
  Tensor x = normal64({60, 7}, 3);
  CHECK(apart(frechet_distance(x, mapped(x, 1, 0.5)), 7 * 0.25, 1e-12) == "");
  Moments of_x = moments(x);
  double spread = 0, length = 0;
  for (int64_t i = 0; i < 7; ++i) {
    spread += of_x.covariance.data<double>()[i * 8];
    length += std::pow(of_x.mean.data<double>()[i], 2);
  }
  CHECK(apart(frechet_distance(x, mapped(x, 3, 0)), 4 * (spread + length), 1e-11) == "");
}

TEST_CASE("moments of more rows than a block are those of a plain sum", "[metrics][fd]") {
  int64_t N = 4099, D = 3;
  Tensor x = mapped(normal64({N, D}, 4), 0.1, 100);  // far from 0: a one-pass covariance would lose six digits
  std::vector<double> value = x.to_vector(), mean(3, 0.0), covariance(9, 0.0);
  for (int64_t i = 0; i < N * D; ++i) mean[size_t(i % D)] += value[size_t(i)] / double(N);
  for (int64_t n = 0; n < N; ++n)
    for (int64_t r = 0; r < D; ++r)
      for (int64_t c = 0; c < D; ++c)
        covariance[size_t(r * D + c)] +=
            (value[size_t(n * D + r)] - mean[size_t(r)]) * (value[size_t(n * D + c)] - mean[size_t(c)]) / double(N - 1);
  Moments got = moments(x);
  CHECK(got.count == N);
  CHECK_CLOSE(got.mean, from(mean, {D}, DType::f64), 0, 1e-13);
  CHECK_CLOSE(got.covariance, from(covariance, {D, D}, DType::f64), 1e-14, 1e-11);
  CHECK_CLOSE(moments(x.to(DType::f32)).covariance, got.covariance, 1e-6, 1e-4);  // the input was rounded to 24 bits
  CHECK_SAME(x, mapped(normal64({N, D}, 4), 0.1, 100));                           // and is left as it is
}

TEST_CASE("a Frechet distance of no more images than features is refused", "[metrics][fd]") {
  Caught few = caught([] { frechet_distance(normal64({5, 5}, 1), normal64({50, 5}, 2)); });
  CHECK(few.kind == Error::Kind::data);
  CHECK(few.says("got 5 and 50 images with 5 features each; give 6 images or more a side"));
  CHECK(caught([] { frechet_distance(normal64({50, 5}, 1), normal64({1, 5}, 2)); }).kind == Error::Kind::data);
  CHECK(caught([] { frechet_distance(normal64({6, 5}, 1), normal64({6, 5}, 2)); }).message.empty());
}

TEST_CASE("every metric refuses features that are not finite, or not features", "[metrics]") {
  Tensor good = normal64({20, 3}, 1), bad = good.clone(), narrow = normal64({20, 2}, 1);
  bad.data<double>()[7] = NAN;
  Tensor infinite = good.to(DType::f32).clone();
  infinite.data<float>()[59] = INFINITY;
  const std::vector<std::function<void(const Tensor&, const Tensor&)>> metrics = {
      [](const Tensor& x, const Tensor& y) { frechet_distance(x, y); },
      [](const Tensor& x, const Tensor& y) { mmd2(x, y); },
      [](const Tensor& x, const Tensor& y) { kid(x, y, {.subset = 5, .subsets = 2}); },
      [](const Tensor& x, const Tensor& y) { prdc(x, y); },
      [](const Tensor& x, const Tensor& y) { nearest_rows(x, y); }};
  for (const auto& metric : metrics) {
    Caught nan = caught([&] { metric(bad, good); });
    CHECK(nan.kind == Error::Kind::data);
    CHECK(nan.says("row 2, column 1 is nan"));
    CHECK(caught([&] { metric(good.to(DType::f32), infinite); }).says("row 19, column 2 is inf"));
    CHECK(caught([&] { metric(good, narrow); }).says("features of one width: x is f64[20, 3], y is f64[20, 2]"));
    CHECK(caught([&] { metric(good.view({60}), good); }).kind == Error::Kind::argument);
    CHECK(caught([&] { metric(good, good.to(DType::i64)); }).kind == Error::Kind::argument);
    CHECK(caught([&] { metric(Tensor(), good); }).kind == Error::Kind::argument);
    CHECK(caught([&] { metric(good, good.rows(0, 0)); }).kind == Error::Kind::argument);
  }
}

// ---- Kernel inception distance -------------------------------------------------------------------------------------

namespace {

/// The formula, term by term.
double plain_mmd2(const Tensor& x, const Tensor& y) {
  auto mean_kernel = [](const Tensor& a, const Tensor& b, bool skip_equal) {
    int64_t D = a.size(1), count = 0;
    double sum = 0;
    for (int64_t i = 0; i < a.size(0); ++i)
      for (int64_t j = 0; j < b.size(0); ++j) {
        if (skip_equal && i == j) continue;
        double dot = 0;
        for (int64_t c = 0; c < D; ++c) dot += a.data<double>()[i * D + c] * b.data<double>()[j * D + c];
        sum += std::pow(dot / double(D) + 1, 3);
        ++count;
      }
    return sum / double(count);
  };
  return mean_kernel(x, x, true) + mean_kernel(y, y, true) - 2 * mean_kernel(x, y, false);
}

Tensor chosen_rows(const Tensor& x, unsigned mask) {
  std::vector<double> values;
  int64_t count = 0;
  for (int64_t row = 0; row < x.size(0); ++row)
    if (mask >> row & 1u) {
      std::vector<double> more = x.rows(row, row + 1).to_vector();
      values.insert(values.end(), more.begin(), more.end());
      ++count;
    }
  return from(values, {count, x.size(1)}, DType::f64);
}

}  // namespace

TEST_CASE("mmd2 is the sum of its formula", "[metrics][kid]") {
  Tensor x = from({0, 1, 2}, {3, 1}, DType::f64), y = from({1, 3}, {2, 1}, DType::f64);
  // k = (ab + 1)^3: pairs of x 1, 1, 27, twice each, mean 29/3; the pair of y 64; across 1, 1, 8, 64, 27, 343, mean 74.
  CHECK(apart(mmd2(x, y), 29.0 / 3 + 64 - 2 * 74, 1e-12) == "");
  for (auto [N, M, D] : {std::array<int64_t, 3>{2, 2, 1}, {7, 5, 3}, {1029, 1031, 2}}) {  // 1024 rows are a block
    Tensor a = normal64({N, D}, 5), b = mapped(normal64({M, D}, 6), 1.2, 0.3);
    INFO(N << " and " << M);
    CHECK(apart(mmd2(a, b), plain_mmd2(a, b), 1e-11) == "");
  }
}

TEST_CASE("mmd2 has no bias: its mean over all subsets is its value for all images", "[metrics][kid]") {
  Tensor x = normal64({5, 4}, 7), y = mapped(normal64({6, 4}, 8), 1, 0.5);
  double sum = 0;
  int count = 0;
  for (unsigned a = 0; a < 32; ++a)
    for (unsigned b = 0; b < 64; ++b) {
      if (__builtin_popcount(a) != 3 || __builtin_popcount(b) != 3) continue;
      sum += mmd2(chosen_rows(x, a), chosen_rows(y, b));
      ++count;
    }
  CHECK(count == 10 * 20);
  CHECK(apart(sum / count, mmd2(x, y), 1e-12) == "");
}

TEST_CASE("KID is the mean over subsets drawn without replacement", "[metrics][kid]") {
  Tensor x = normal64({40, 3}, 9), y = mapped(normal64({50, 3}, 10), 1, 0.7);
  // Subsets of everything are all the same set.
  Tensor y40 = y.rows(0, 40);
  Kid whole = kid(x, y40, {.subset = 40, .subsets = 3});
  CHECK(apart(whole.mean, mmd2(x, y40), 1e-12) == "");
  CHECK(whole.std < 1e-12);
  Kid some = kid(x, y, {.subset = 20, .subsets = 400, .seed = 1});
  // The mean of 400 subsets lies within four standard errors of what it estimates.
  CHECK(std::abs(some.mean - mmd2(x, y)) < 4 * some.std / 20);
  CHECK(some.std > 0);
  Kid again = kid(x, y, {.subset = 20, .subsets = 400, .seed = 1}),
      other = kid(x, y, {.subset = 20, .subsets = 400, .seed = 2});
  CHECK(again.mean == some.mean);
  CHECK(other.mean != some.mean);
  CHECK(kid(x, y, {.subset = 20, .subsets = 1}).std == 0);
  CHECK(KidOptions::subset_for(5000) == 1000);
  CHECK(KidOptions::subset_for(2001) == 1000);
  CHECK(KidOptions::subset_for(101) == 50);
}

TEST_CASE("every image is as likely to be in a subset of KID, the first and the last one too", "[metrics][kid]") {
  for (int64_t outlier : {0, 3, 7}) {
    Tensor x = normal64({8, 2}, 14), y = normal64({8, 2}, 15);
    for (int64_t c = 0; c < 2; ++c) x.data<double>()[outlier * 2 + c] = y.data<double>()[outlier * 2 + c] = 4;
    Kid got = kid(x, y, {.subset = 4, .subsets = 2000});
    INFO("outlier " << outlier);
    CHECK(std::abs(got.mean - mmd2(x, y)) < 4 * got.std / std::sqrt(2000));
  }
}

TEST_CASE("KID refuses subsets that cannot be drawn", "[metrics][kid]") {
  Tensor x = normal64({10, 3}, 1), y = normal64({20, 3}, 2);
  Caught few = caught([&] { kid(x, y, {.subset = 11}); });
  CHECK(few.kind == Error::Kind::data);
  CHECK(few.says("needs 11 images or more a side, got 10 and 20"));
  CHECK(caught([&] { kid(x, y, {.subset = 1}); }).kind == Error::Kind::argument);
  CHECK(caught([&] { kid(x, y, {.subset = 5, .subsets = 0}); }).kind == Error::Kind::argument);
  CHECK(caught([&] { mmd2(x, y.rows(0, 1)); }).kind == Error::Kind::data);
}

// ---- Neighbours ----------------------------------------------------------------------------------------------------

TEST_CASE("precision, recall, density and coverage of a hand-made set", "[metrics][prdc]") {
  // Radii to the nearest other point: real 1, 1, 9; fake 1, 1, 3.5, 25.
  Tensor real = from({0, 1, 10}, {3, 1}, DType::f64), fake = from({0.5, 1.5, 5, 30}, {4, 1}, DType::f64);
  Prdc got = prdc(real, fake, {.k_manifold = 1, .k_density = 1});
  CHECK(got.precision == 0.75);  // 30 lies in no ball
  CHECK(got.recall == 1);        // 10 lies in the ball of 30
  CHECK(got.density == (2 + 2 + 1 + 0) / 4.0);
  CHECK(got.coverage == 1);
  // With the second neighbour the radii are 10, 9 and 10: each of the three balls holds 0.5, 1.5 and 5, none holds 30.
  Prdc wide = prdc(real, fake, {.k_manifold = 1, .k_density = 2});
  CHECK(wide.density == (3 + 3 + 3 + 0) / 8.0);
  CHECK(wide.precision == 0.75);
  // A point on the edge of a ball lies in it: -1 is as far from 0 as 1 is, and in no other ball.
  Tensor around = from({-1, 2.5, -8}, {3, 1}, DType::f64);
  Prdc edge = prdc(real, around, {.k_manifold = 1, .k_density = 1});
  CHECK(edge.precision == 2.0 / 3);  // -8 lies in no ball
  CHECK(edge.recall == 2.0 / 3);     // radii 3.5, 3.5 and 7 do not reach 10
  CHECK(edge.density == (1 + 1 + 0) / 3.0);
  CHECK(edge.coverage == 2.0 / 3);  // nothing came within 1 of 1
  CHECK(prdc(around, real, {.k_manifold = 1, .k_density = 1}).recall == edge.precision);
}

TEST_CASE("a set compared with itself has full precision, recall and coverage, and a density of (k + 1) / k",
          "[metrics][prdc]") {
  for (DType dtype : {DType::f32, DType::f64}) {
    Tensor x = normal64({75, 19}, 12).to(dtype);
    for (int64_t k : {1, 3, 5}) {
      Prdc got = prdc(x, x.clone(), {.k_manifold = k, .k_density = k});
      CHECK(got.precision == 1);
      CHECK(got.recall == 1);
      CHECK(got.coverage == 1);
      CHECK(apart(got.density, double(k + 1) / double(k), 1e-12) == "");
    }
  }
}

TEST_CASE("sets far apart have nothing in common", "[metrics][prdc]") {
  Tensor x = normal64({30, 6}, 13);
  Prdc got = prdc(x, mapped(x, 1, 100));
  CHECK(got.precision == 0);
  CHECK(got.recall == 0);
  CHECK(got.density == 0);
  CHECK(got.coverage == 0);
}

TEST_CASE("neighbour metrics follow their definitions on odd sizes", "[metrics][prdc]") {
  for (auto [N, M, D] : {std::array<int64_t, 3>{4, 5, 1}, {37, 41, 17}, {70, 33, 16}, {129, 66, 35}}) {
    Tensor real = normal64({N, D}, uint64_t(N)), fake = mapped(normal64({M, D}, uint64_t(M)), 0.9, 0.1);
    PrdcOptions options{.k_manifold = 2, .k_density = 3};
    auto radii = [](const Tensor& x, int64_t k) {
      std::vector<double> all;
      for (int64_t i = 0; i < x.size(0); ++i) {
        std::vector<double> distances;
        for (int64_t j = 0; j < x.size(0); ++j)
          if (j != i) distances.push_back(squared_distance(x, i, x, j));
        all.push_back(sorted(distances)[size_t(k - 1)]);
      }
      return all;
    };
    std::vector<double> r2 = radii(real, 2), r3 = radii(real, 3), f2 = radii(fake, 2);
    int64_t precise = 0, recalled = 0, covered = 0, balls = 0;
    for (int64_t j = 0; j < M; ++j) {
      bool in_any = false;
      for (int64_t i = 0; i < N; ++i) {
        in_any = in_any || squared_distance(real, i, fake, j) <= r2[size_t(i)];
        balls += squared_distance(real, i, fake, j) <= r3[size_t(i)];
      }
      precise += in_any;
    }
    for (int64_t i = 0; i < N; ++i) {
      bool in_any = false, holds_any = false;
      for (int64_t j = 0; j < M; ++j) {
        in_any = in_any || squared_distance(real, i, fake, j) <= f2[size_t(j)];
        holds_any = holds_any || squared_distance(real, i, fake, j) <= r3[size_t(i)];
      }
      recalled += in_any;
      covered += holds_any;
    }
    INFO(N << " real, " << M << " fake, " << D << " features");
    for (DType dtype : {DType::f64, DType::f32}) {
      Prdc got = prdc(real.to(dtype), fake.to(dtype), options);
      CHECK(got.precision == double(precise) / double(M));
      CHECK(got.recall == double(recalled) / double(N));
      CHECK(got.coverage == double(covered) / double(N));
      CHECK(apart(got.density, double(balls) / double(3 * M), 1e-14) == "");
    }
    std::vector<double> got = kth_neighbour(real, 3);
    for (size_t i = 0; i < got.size(); ++i) CHECK(apart(got[i], r3[i], 0, 1e-13) == "");
  }
}

TEST_CASE("the nearest row is found with its distance, the first one of equals", "[metrics][nearest]") {
  Tensor reference = from({0, 0, 5, 5, 3, 4, 5, 5, 3, 4}, {5, 2}, DType::f32);
  Nearest got = nearest_rows(from({5, 5, 3, 3, -1, 0, 4, 4.5}, {4, 2}, DType::f32), reference);
  CHECK(got.index == std::vector<int64_t>{1, 2, 0, 1});  // (4, 4.5) is as far from (5, 5) as from (3, 4)
  CHECK(got.distance == std::vector<double>{0, 1, 1, 1.25});

  for (auto [N, M, D] : {std::array<int64_t, 3>{1, 1, 1}, {33, 1, 3}, {35, 301, 50}, {3, 1003, 300}}) {
    Tensor x = normal64({N, D}, 20), y = normal64({M, D}, 21);
    Nearest near = nearest_rows(x, y), near32 = nearest_rows(x.to(DType::f32), y.to(DType::f32));
    for (int64_t i = 0; i < N; ++i) {
      int64_t best = 0;
      for (int64_t j = 1; j < M; ++j)
        if (squared_distance(x, i, y, j) < squared_distance(x, i, y, best)) best = j;
      CHECK(near.index[size_t(i)] == best);
      CHECK(near32.index[size_t(i)] == best);
      CHECK(apart(near.distance[size_t(i)], squared_distance(x, i, y, best), 0, 1e-13) == "");
      CHECK(apart(near32.distance[size_t(i)], squared_distance(x, i, y, best), 0, 1e-5) == "");
    }
  }
}

TEST_CASE("a set of a single image and a slice in the middle of a buffer have neighbours too", "[metrics][nearest]") {
  Tensor all = normal64({9, 5}, 30);
  Nearest near = nearest_rows(all.rows(3, 4), all.rows(2, 7));
  CHECK(near.index[0] == 1);
  CHECK(near.distance[0] == 0);
  CHECK(kth_neighbour(all.rows(2, 5), 1) == kth_neighbour(all.rows(2, 5).clone(), 1));
}

TEST_CASE("more neighbours than rows are refused", "[metrics][prdc]") {
  Tensor x = normal64({4, 2}, 1), y = normal64({9, 2}, 2);
  Caught few = caught([&] { prdc(x, y); });
  CHECK(few.kind == Error::Kind::data);
  CHECK(few.says("the neighbour number 5 needs 6 rows or more, but the real side is f64[4, 2]"));
  CHECK(caught([&] { prdc(y, x.rows(0, 3)); }).says("the fake side is f64[3, 2]"));
  CHECK(caught([&] { kth_neighbour(x, 4); }).kind == Error::Kind::data);
  CHECK(caught([&] { kth_neighbour(x, 0); }).kind == Error::Kind::argument);
}

// ---- Labels --------------------------------------------------------------------------------------------------------

TEST_CASE("a label histogram has the entropy of its shares", "[metrics][labels]") {
  auto labels = [](const std::vector<double>& values) { return from(values, {int64_t(values.size())}, DType::i64); };
  LabelHistogram even = label_histogram(labels({0, 1, 2, 3, 3, 2, 1, 0}), 4), one = label_histogram(labels({2, 2}), 4);
  CHECK(even.counts == std::vector<int64_t>{2, 2, 2, 2});
  CHECK(apart(even.entropy(), std::log(4.0), 1e-15) == "");
  CHECK(one.entropy() == 0);
  CHECK(total_variation(even, one) == 0.75);
  CHECK(total_variation(even, even) == 0);
  CHECK(total_variation(one, label_histogram(labels({0, 1, 1}), 4)) == 1);
  CHECK(caught([&] { label_histogram(labels({0, 4}), 4); }).says("label 1 is 4, outside 0..3"));
  CHECK(caught([&] { label_histogram(labels({}), 4); }).kind == Error::Kind::argument);
  CHECK(caught([&] { total_variation(one, label_histogram(labels({0}), 3)); }).says("4 and 3 classes"));
}
