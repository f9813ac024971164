// The map: argmax against plain scores, what any heights must fulfil, invariances, angles, blends, classes.
#include <algorithm>
#include <fstream>
#include <numbers>
#include <numeric>

#include "diffusion/ot/map.h"
#include "tensor/kernels.h"
#include "tests/ot_support.h"

using namespace mote;
using namespace mote::ot;
using namespace mote::test;

namespace {

Tensor indices(const std::vector<double>& values) { return from(values, {int64_t(values.size())}, DType::i64); }

Tensor mapped(const Tensor& x, double scale, double shift) {
  Tensor y = empty_like(x);
  kernel::unary(y, x, {Unary::affine, scale, shift});
  return y;
}

Tensor product(const Tensor& a, const Tensor& b, bool transposed = true) {
  Tensor y = empty({a.size(0), b.size(transposed ? 0 : 1)}, a.dtype());
  kernel::matmul(y, a, b, false, transposed, {});
  return y;
}

/// A Householder reflection, times another: a rotation in f32.
Tensor rotation(int64_t D, uint64_t seed) {
  auto reflection = [&](uint64_t of) {
    Tensor v = draw({1, D}, of), turn = zeros({D, D});
    double squares = 0;
    for (double value : v.to_vector()) squares += value * value;
    for (int64_t i = 0; i < D; ++i)
      for (int64_t j = 0; j < D; ++j)
        turn.data<float>()[i * D + j] =
            float((i == j) - 2 * double(v.data<float>()[i]) * double(v.data<float>()[j]) / squares);
    return turn;
  };
  return product(reflection(seed), reflection(seed + 1));
}

/// Samples whose two best scores are so close that rounding may exchange them, or that chose otherwise: must be none.
int64_t really_different(const Tensor& a, const Tensor& b, const Planes& two, double close) {
  int64_t count = 0;
  for (int64_t s = 0; s < a.numel(); ++s) {
    const float* score = two.score.data<float>() + 2 * s;
    count += a.data<int64_t>()[s] != b.data<int64_t>()[s] && double(score[0]) - double(score[1]) > close;
  }
  return count;
}

double dot(const Tensor& a, int64_t i, const Tensor& b, int64_t j) {
  int64_t D = a.size(1);
  double sum = 0;
  for (int64_t d = 0; d < D; ++d) sum += double(a.data<float>()[i * D + d]) * double(b.data<float>()[j * D + d]);
  return sum;
}

}  // namespace

TEST_CASE("a sample goes to the target with the largest plain score, from memory and from a file", "[ot][map]") {
  ScratchFolder folder;
  int64_t N = 500, D = 7, S = 90;
  std::vector<uint8_t> bytes;
  for (int64_t i = 0; i < N * D; ++i) bytes.push_back(uint8_t(random_bits(Generator{3}, uint64_t(i))));
  std::ofstream(folder.path("rows"), std::ios::binary).write(reinterpret_cast<char*>(bytes.data()), N * D);
  for (DType dtype : {DType::f32, DType::bf16}) {
    TargetOptions options;
    options.dtype = dtype;
    options.chunk_bytes = 1;
    Targets targets = Targets::out_of_core({folder.path("rows"), 0, 0, N, D}, options);
    Tensor x = draw({S, D}, 1), h = draw({N}, 2);
    auto scores = plain_scores(x.to(dtype), targets.rows(0, N), h);
    Tensor index = assign(targets, h, x);
    int64_t wrong = 0;
    for (int64_t s = 0; s < S; ++s) {
      const std::vector<double>& row = scores[size_t(s)];
      wrong += row[size_t(index.data<int64_t>()[s])] < *std::max_element(row.begin(), row.end()) - 1e-5;
    }
    CHECK(wrong == 0);
    // The points of the file in memory: a target is the same operand.
    std::vector<double> all(static_cast<size_t>(N));
    std::iota(all.begin(), all.end(), 0.0);
    options.chunk_bytes = 64 << 20;
    Targets memory = Targets::in_memory(targets.points(indices(all)), options);
    CHECK_SAME(assign(memory, h, x), index);
    CHECK_SAME(top_planes(memory, h, x, 5).index, top_planes(targets, h, x, 5).index);
  }
}

TEST_CASE("the map is cyclically monotone for any heights", "[ot][map]") {
  // T = grad u of a convex u: sum over any cycle of <x_k, T(x_k) - T(x_k+1)> >= 0.                 [Rockafellar 1966]
  Targets targets = Targets::in_memory(draw({120, 11}, 1));
  for (uint64_t seed : {2, 3, 4}) {
    Tensor x = draw({64, 11}, seed), h = mapped(draw({120}, seed + 10), 0.5, 0), rows = targets.rows(0, 120);
    Tensor index = assign(targets, h, x);
    const int64_t* to = index.data<int64_t>();
    double least = 0;
    for (int64_t s = 0; s < 64; ++s)
      for (int64_t r = 0; r < s; ++r)
        least = std::min(
            least, dot(x, s, rows, to[s]) - dot(x, s, rows, to[r]) + dot(x, r, rows, to[r]) - dot(x, r, rows, to[s]));
    for (int64_t length = 3; length <= 64; ++length) {
      double sum = 0;
      for (int64_t k = 0; k < length; ++k) {
        int64_t next = (k + 1) % length;
        sum += dot(x, k, rows, to[k]) - dot(x, k, rows, to[next]);
      }
      least = std::min(least, sum);
    }
    CHECK(least >= -1e-5);  // scores are compared in f32
  }
}

TEST_CASE("the map does not see a constant in the heights, a shift of the targets, a rotation of all, or a scale",
          "[ot][map]") {
  int64_t N = 150, D = 8, S = 400;
  Tensor y = draw({N, D}, 1), x = draw({S, D}, 2), h = mapped(draw({N}, 3), 0.7, 0);
  Targets targets = plain_targets(y);
  Tensor index = assign(targets, h, x);
  Planes two = top_planes(targets, h, x, 2);
  CHECK_SAME(two.index.view({2 * S}).rows(0, 1), index.rows(0, 1));

  CHECK(really_different(assign(targets, mapped(h, 1, 4), x), index, two, 1e-5) == 0);
  // A shift of the source by a is a change of the heights by -<a, y>.
  Tensor a = draw({1, D}, 5), moved = x.clone(), lower = h.clone();
  for (int64_t s = 0; s < S; ++s)
    for (int64_t d = 0; d < D; ++d) moved.data<float>()[s * D + d] += a.data<float>()[d];
  for (int64_t i = 0; i < N; ++i) lower.data<float>()[i] -= float(dot(a, 0, y, i));
  CHECK(really_different(assign(targets, lower, moved), index, two, 1e-4) == 0);
  // A shift of the targets by a adds <x, a> to every score.
  Tensor shifted = y.clone();
  for (int64_t i = 0; i < N; ++i)
    for (int64_t d = 0; d < D; ++d) shifted.data<float>()[i * D + d] += a.data<float>()[d];
  CHECK(really_different(assign(plain_targets(shifted), h, x), index, two, 1e-4) == 0);
  Tensor turn = rotation(D, 8);
  CHECK(really_different(assign(plain_targets(product(y, turn)), h, product(x, turn)), index, two, 1e-4) == 0);
  CHECK(really_different(assign(plain_targets(mapped(y, 3, 0)), mapped(h, 3, 0), x), index, two, 1e-4) == 0);
  CHECK(really_different(assign(targets, mapped(h, 3, 0), mapped(x, 3, 0)), index, two, 1e-4) == 0);
  // Targets in another order.
  Tensor reversed = empty_like(y), h_reversed = empty_like(h);
  for (int64_t i = 0; i < N; ++i) {
    reversed.rows(i, i + 1).copy_(y.rows(N - 1 - i, N - i));
    h_reversed.data<float>()[i] = h.data<float>()[N - 1 - i];
  }
  Tensor back = assign(plain_targets(reversed), h_reversed, x);
  for (int64_t s = 0; s < S; ++s) CHECK(back.data<int64_t>()[s] == N - 1 - index.data<int64_t>()[s]);
}

TEST_CASE("one target takes every sample, and one sample is enough", "[ot][map]") {
  Targets one = Targets::in_memory(f32({3, 4}, {1, 2}));
  CHECK(one.scale() == 1);
  CHECK_SAME(assign(one, zeros({1}), draw({5, 2}, 1)), indices({0, 0, 0, 0, 0}));
  CHECK(assign(one, zeros({1}), empty({0, 2})).numel() == 0);
  CHECK_SAME(one.points(indices({0})), f32({3, 4}, {1, 2}));
}

TEST_CASE("angles between planes are those of their normals, and reject samples near far walls", "[ot][map]") {
  Targets targets = plain_targets(f32({1, 0, 0, 1, -1, 0, 1, 0.1}, {4, 2}));
  Planes planes{from({0, 1, 2, 3, 0, 3}, {3, 2}, DType::i64), zeros({3, 2})};
  Tensor angles = plane_angles(targets, planes);
  // Normals (1, 0, -1) and (0, 1, -1); (-1, 0, -1) and (1, 0.1, -1), which are orthogonal; (1, 0, -1) and (1, 0.1, -1).
  double small = std::acos(2 / std::sqrt(2 * 2.01));
  CHECK_CLOSE(angles, f32({0, std::numbers::pi / 3, 0, std::numbers::pi / 2, 0, small}, {3, 2}), 1e-6, 0);
  CHECK_SAME(accepted(angles, 0.7), indices({2}));
  CHECK_SAME(accepted(angles, 1.1), indices({0, 2}));
  CHECK_SAME(accepted(angles, 3.2), indices({0, 1, 2}));
  CHECK(accepted(angles, 0.01).numel() == 0);
}

TEST_CASE("blends weigh the planes within the angle, and a blend of one plane is the map", "[ot][map]") {
  Tensor y = draw({30, 5}, 1), x = draw({40, 5}, 2), h = mapped(draw({30}, 3), 0.3, 0);
  Targets targets = Targets::in_memory(y);
  Planes planes = top_planes(targets, h, x, 3);
  Tensor angles = plane_angles(targets, planes);
  Tensor weights = softmax_weights(planes, angles, 0.8, 0.2);
  int64_t left_out = 0;
  for (int64_t s = 0; s < 40; ++s) {
    double sum = 0;
    for (int64_t j = 0; j < 3; ++j) {
      float weight = weights.data<float>()[3 * s + j];
      bool within = angles.data<float>()[3 * s + j] <= 0.8f;
      CHECK((weight > 0) == within);
      left_out += !within;
      if (within && j > 0) {
        double ratio =
            std::exp((double(planes.score.data<float>()[3 * s + j]) - double(planes.score.data<float>()[3 * s])) / 0.2);
        CHECK(apart(weight, ratio * double(weights.data<float>()[3 * s]), 1e-6) == "");
      }
      sum += double(weight);
    }
    CHECK(apart(sum, 1, 1e-6) == "");
  }
  CHECK(left_out > 0);
  CHECK(left_out < 80);

  Tensor blended = blend(targets, planes, weights), expected = zeros({40, 5});
  for (int64_t s = 0; s < 40; ++s)
    for (int64_t j = 0; j < 3; ++j)
      for (int64_t d = 0; d < 5; ++d)
        expected.data<float>()[5 * s + d] +=
            weights.data<float>()[3 * s + j] * y.data<float>()[5 * planes.index.data<int64_t>()[3 * s + j] + d];
  CHECK_CLOSE(blended, expected, 1e-6, 0);
  // With no other plane within the angle the blend is the map.
  CHECK_CLOSE(blend(targets, planes, softmax_weights(planes, angles, 1e-9, 0.2)), targets.points(assign(targets, h, x)),
              1e-6, 0);
}

TEST_CASE("distance weights are the inverse distances to the centres of cells", "[ot][map]") {
  Targets targets = Targets::in_memory(f32({-1, 0, 1, 0, 0, 2}, {3, 2}));
  Source source = source_of(targets);
  Tensor h = zeros({3});
  h.data<float>()[2] = -1e30f;  // a cell without samples
  Tensor centres = cell_centres(targets, h, source, 0, 4000);
  for (int64_t d = 0; d < 2; ++d) CHECK(std::isnan(centres.data<float>()[4 + d]));
  // Targets 0 and 1 share a wall of direction (1, 0): half-normal means of +-sqrt(2 / pi) across it.
  double mean = std::sqrt(2 / std::numbers::pi);
  CHECK_CLOSE(centres.rows(0, 2), f32({-mean, 0, mean, 0}, {2, 2}), 0.08, 0);  // 4 sd of a mean of 2000
  Tensor x = f32({0.5, 0.5, -2, 1}, {2, 2});
  Planes planes{from({1, 0, 2, 0, 1, 2}, {2, 3}, DType::i64), zeros({2, 3})};
  Tensor weights = distance_weights(planes, zeros({2, 3}), 1, x, centres);
  auto away = [&](int64_t s, int64_t i) {
    return std::hypot(double(x.data<float>()[2 * s]) - double(centres.data<float>()[2 * i]),
                      double(x.data<float>()[2 * s + 1]) - double(centres.data<float>()[2 * i + 1]));
  };
  for (int64_t s = 0; s < 2; ++s) {
    int64_t best = planes.index.data<int64_t>()[3 * s], next = 1 - best;
    CHECK(apart(weights.data<float>()[3 * s], away(s, next) / (away(s, best) + away(s, next)), 1e-6) == "");
    CHECK(weights.data<float>()[3 * s + 2] == 0);
  }
}

TEST_CASE("inside a class a sample goes to the best target of that class", "[ot][map]") {
  int64_t N = 60, S = 80;
  Targets targets = Targets::in_memory(draw({N, 6}, 1));
  Tensor x = draw({S, 6}, 2), h = draw({N}, 3), labels = empty({N}, DType::i64), wanted = empty({S}, DType::i64);
  for (int64_t i = 0; i < N; ++i) labels.data<int64_t>()[i] = i * i % 5;
  for (int64_t s = 0; s < S; ++s) wanted.data<int64_t>()[s] = s % 3 == 0 ? 0 : s % 3 == 1 ? 1 : 4;  // i^2 mod 5
  Tensor index = assign_in_class(targets, h, labels, x, wanted);
  auto scores = plain_scores(x, targets.rows(0, N), h);
  for (int64_t s = 0; s < S; ++s) {
    int64_t got = index.data<int64_t>()[s], want = wanted.data<int64_t>()[s];
    CHECK(labels.data<int64_t>()[got] == want);
    for (int64_t i = 0; i < N; ++i)
      if (labels.data<int64_t>()[i] == want)
        CHECK(scores[size_t(s)][size_t(i)] <= scores[size_t(s)][size_t(got)] + 1e-5);
  }
  wanted.data<int64_t>()[7] = 2;
  CHECK(caught([&] { assign_in_class(targets, h, labels, x, wanted); }).says("class 2 has no target"));
}

TEST_CASE("the map refuses samples, heights and planes that do not fit", "[ot][map]") {
  Targets targets = Targets::in_memory(draw({10, 4}, 1));
  Tensor x = draw({3, 4}, 2), h = zeros({10});
  CHECK(caught([&] { assign(targets, zeros({9}), x); }).says("there are 10 targets"));
  CHECK(caught([&] { assign(targets, zeros({10}, DType::f64), x); }).kind == Error::Kind::argument);
  CHECK(caught([&] { assign(targets, h, draw({3, 5}, 2)); }).says("[S, 4]"));
  CHECK(caught([&] { assign(targets, h, x.to(DType::f64)); }).kind == Error::Kind::argument);
  Tensor bad = h.clone();
  bad.data<float>()[4] = std::numeric_limits<float>::infinity();
  CHECK(caught([&] { assign(targets, bad, x); }).kind == Error::Kind::numeric);
  CHECK(caught([&] { assign(targets, bad, x); }).says("height 4 is inf"));
  Tensor bad_x = x.clone();
  bad_x.data<float>()[6] = std::numeric_limits<float>::quiet_NaN();
  CHECK(caught([&] { assign(targets, h, bad_x); }).says("number 2 of sample 1 is nan"));
  CHECK(caught([&] { top_planes(targets, h, x, 0); }).kind == Error::Kind::argument);
  CHECK(caught([&] { top_planes(targets, h, x, 11); }).says("got 11"));
  Planes planes = top_planes(targets, h, x, 2);
  CHECK(caught([&] { softmax_weights(planes, zeros({3, 3}), 1, 1); }).kind == Error::Kind::argument);
  CHECK(caught([&] { softmax_weights(planes, zeros({3, 2}), 1, 0); }).kind == Error::Kind::argument);
  CHECK(caught([&] { blend(targets, planes, zeros({2, 3})); }).kind == Error::Kind::argument);
  planes.index.data<int64_t>()[1] = 10;
  CHECK(caught([&] { plane_angles(targets, planes); }).says("no target 10 of 10"));
  CHECK(caught([&] { targets.points(indices({-1})); }).kind == Error::Kind::argument);
}
