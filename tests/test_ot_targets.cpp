// Sources and targets: samples that can be made anywhere again, targets in memory and in files, what is refused, and
// the rank reduction.
#include <cstdio>
#include <fstream>

#include "diffusion/ot/keys.h"
#include "diffusion/ot/map.h"
#include "tensor/kernels.h"
#include "tests/ot_support.h"

using namespace mote;
using namespace mote::ot;
using namespace mote::test;

namespace {

void write_bytes(const std::string& path, const std::vector<uint8_t>& bytes) {
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), std::streamsize(bytes.size()));
}

/// `count` rows of `width` bytes behind `offset` others, `stride` apart.
std::vector<uint8_t> some_bytes(int64_t offset, int64_t stride, int64_t count) {
  std::vector<uint8_t> bytes;
  for (int64_t i = 0; i < offset + stride * count; ++i)
    bytes.push_back(uint8_t(random_bits(Generator{3}, uint64_t(i)) >> 11));
  return bytes;
}

double dot(const Tensor& rows, int64_t i, int64_t j) {
  std::vector<double> a = rows.rows(i, i + 1).to_vector(), b = rows.rows(j, j + 1).to_vector();
  double sum = 0;
  for (size_t d = 0; d < a.size(); ++d) sum += a[d] * b[d];
  return sum;
}

}  // namespace

// ---- Sources -------------------------------------------------------------------------------------------------------

TEST_CASE("a part of a batch has the bits that it has in the whole, also in bf16 and in antithetic pairs",
          "[ot][source]") {
  for (Source::Kind kind : {Source::Kind::gaussian, Source::Kind::cube})
    for (int64_t width : {1, 2, 5, 64, 67})
      for (bool antithetic : {false, true}) {
        Source source{kind, width, 9, antithetic};
        Tensor whole = source.samples(4, 0, 41);
        INFO(name_of(kind) << ", width " << width << ", antithetic " << antithetic);
        CHECK(same_bits(source.samples(4, 7, 12), whole.rows(7, 19)));
        CHECK(same_bits(source.samples(4, 40, 1), whole.rows(40, 41)));
        CHECK(same_bits(source.samples(4, 7, 12, DType::bf16), whole.rows(7, 19).to(DType::bf16)));
        CHECK(source.samples(4, 3, 0).numel() == 0);
        CHECK(!same_bits(source.samples(5, 0, 41), whole));
        Source other = source;
        other.seed = 10;
        CHECK(!same_bits(other.samples(4, 0, 41), whole));
        if (!antithetic) continue;
        for (int64_t s = 0; s < 40; ++s) {
          Tensor negative = whole.rows(s ^ 1, (s ^ 1) + 1).clone();
          kernel::unary(negative, negative, {Unary::affine, -1, 0});
          CHECK_SAME(whole.rows(s, s + 1), negative);
        }
      }
}

TEST_CASE("both sources have mean 0 and variance 1, and the cube ends at sqrt(3)", "[ot][source]") {
  int64_t S = 4000, D = 5;
  for (Source::Kind kind : {Source::Kind::gaussian, Source::Kind::cube}) {
    std::vector<double> values = Source{kind, D, 1}.samples(0, 0, S).to_vector();
    double sum = 0, squares = 0, largest = 0;
    for (double value : values) sum += value, squares += value * value, largest = std::max(largest, std::abs(value));
    double n = double(S * D);
    CHECK(std::abs(sum / n) < 5 / std::sqrt(n));
    CHECK(std::abs(squares / n - 1) < 5 * std::sqrt(2 / n));  // the variance of x^2 is 2, for the cube 0.8
    CHECK((kind == Source::Kind::cube) == (largest <= std::sqrt(3.0)));
  }
}

TEST_CASE("sources refuse what makes no sample", "[ot][source]") {
  CHECK(caught([] { Source{}.samples(0, 0, 1); }).says("needs a width of 1 or more, got 0"));
  Source source{Source::Kind::gaussian, 3, 0};
  CHECK(caught([&] { source.samples(0, -1, 1); }).kind == Error::Kind::argument);
  CHECK(caught([&] { source.samples(0, 0, -1); }).kind == Error::Kind::argument);
  CHECK(caught([&] { source.samples(0, 0, 1, DType::f64); }).says("f64 was asked for"));
  CHECK(caught([] { source_named("sphere"); }).kind == Error::Kind::usage);
  CHECK(source_named("cube") == Source::Kind::cube);
}

// ---- Targets in memory ---------------------------------------------------------------------------------------------

TEST_CASE("targets are centred by their weighted mean and scaled to scores of variance 1", "[ot][targets]") {
  Tensor y = f32({1, 2, 3, 4, 7, 0}, {3, 2, 1});
  TargetOptions options;
  options.weights = {0.5, 0.25, 0.25};
  Targets targets = Targets::in_memory(y, options);
  CHECK(targets.count() == 3);
  CHECK(targets.width() == 2);
  CHECK(targets.point_shape() == Shape{2, 1});
  CHECK_SAME(targets.mean(), f32({3, 2}, {2}));
  // |y - mean|^2 = 4, 4, 20
  CHECK(apart(targets.scale(), std::sqrt(0.5 * 4 + 0.25 * 4 + 0.25 * 20), 1e-12) == "");
  Tensor expected = f32({-2, 0, 0, 2, 4, -2}, {3, 2});
  kernel::unary(expected, expected, {Unary::affine, 1 / targets.scale(), 0});
  CHECK_CLOSE(targets.rows(0, 3), expected, 1e-7, 0);
  for (int64_t i = 0; i < 3; ++i)
    CHECK(apart(targets.score_std()[size_t(i)], std::sqrt(dot(targets.rows(0, 3), i, i)), 1e-7) == "");
  CHECK_SAME(targets.points(from({2, 0}, {2}, DType::i64)), f32({7, 0, 1, 2}, {2, 2}));
  CHECK_SAME(plain_targets(y).rows(0, 3), y.view({3, 2}));
}

TEST_CASE("targets that no heights can serve are refused, naming the place", "[ot][targets]") {
  auto refused = [](const Tensor& y, const TargetOptions& options = {}) {
    return caught([&] { Targets::in_memory(y, options); });
  };
  Tensor y = f32({0, 0, 1, 0, 0, 1}, {3, 2});
  CHECK(refused(empty({0, 2})).kind == Error::Kind::argument);
  CHECK(refused(y.to(DType::f64)).says("needs f32"));
  Tensor bad = y.clone();
  bad.data<float>()[3] = std::numeric_limits<float>::quiet_NaN();
  CHECK(refused(bad).kind == Error::Kind::data);
  CHECK(refused(bad).says("number 1 of target 1 is nan"));
  TargetOptions options;
  options.weights = {0.5, 0.5};
  CHECK(refused(y, options).says("2 weights for 3 targets"));
  options.weights = {0.5, 0, 0.5};
  CHECK(refused(y, options).says("weight 1 is 0"));
  options.weights = {0.5, 0.25, 0.26};
  CHECK(refused(y, options).says("sum to 1.01 instead of 1"));
  options.weights = {0.5, std::numeric_limits<double>::quiet_NaN(), 0.5};
  CHECK(refused(y, options).says("weight 1 is nan"));
  options = {};
  options.dtype = DType::f64;
  CHECK(refused(y, options).kind == Error::Kind::argument);
}

TEST_CASE("equal targets are refused, or merged into one with the sum of their weights", "[ot][targets]") {
  Tensor y = f32({0, 0, 1, 0, 0, 0, 1, 0, 2, 5}, {5, 2});
  TargetOptions options;
  options.weights = {0.1, 0.2, 0.3, 0.15, 0.25};
  Caught error = caught([&] { Targets::in_memory(y, options); });
  CHECK(error.kind == Error::Kind::data);
  CHECK(error.says("targets 0 and 2 are equal"));
  options.merge_duplicates = true;
  Targets merged = Targets::in_memory(y, options);
  REQUIRE(merged.count() == 3);
  CHECK_CLOSE(from(merged.weights(), {3}, DType::f64), from({0.4, 0.35, 0.25}, {3}, DType::f64), 1e-15, 0);
  CHECK(merged.given(1) == 1);
  CHECK(merged.given(2) == 4);
  CHECK_SAME(merged.points(from({0, 1, 2}, {3}, DType::i64)), f32({0, 0, 1, 0, 2, 5}, {3, 2}));
  // Apart in f32, equal after rounding to bf16.
  Tensor close = f32({1, 1.0001, -1, 3}, {4, 1});
  options = {};
  options.centre = options.scale = false;
  CHECK(Targets::in_memory(close, options).count() == 4);
  options.dtype = DType::bf16;
  CHECK(caught([&] { Targets::in_memory(close, options); }).says("targets 0 and 1 are equal in bf16"));
}

TEST_CASE("a subset keeps rows and scale, and its weights sum to 1", "[ot][targets]") {
  TargetOptions options;
  options.weights = {0.1, 0.2, 0.3, 0.4};
  Targets targets = Targets::in_memory(draw({4, 3}, 1), options), some = targets.subset({3, 1});
  CHECK_SAME(some.rows(0, 1), targets.rows(3, 4));
  CHECK_SAME(some.rows(1, 2), targets.rows(1, 2));
  CHECK(apart(some.weights()[0], 0.4 / 0.6, 1e-15) == "");
  CHECK(some.given(1) == 1);
  CHECK(some.scale() == targets.scale());
  CHECK(some.hash() != targets.hash());
  CHECK(caught([&] { targets.subset({}); }).kind == Error::Kind::argument);
  CHECK(caught([&] { targets.subset({4}); }).says("no target 4 of 4"));
  CHECK(caught([&] { targets.subset({1, 1}); }).says("target 1 is twice"));
}

// ---- Targets in a file ---------------------------------------------------------------------------------------------

TEST_CASE("targets in a file of bytes have the rows, hash and points that they have in memory", "[ot][targets]") {
  ScratchFolder folder;
  int64_t N = 500, D = 6, stride = 9, offset = 5;
  std::vector<uint8_t> bytes = some_bytes(offset, stride, N);
  write_bytes(folder.path("rows"), bytes);
  Tensor y = empty({N, D});
  for (int64_t i = 0; i < N; ++i)
    for (int64_t d = 0; d < D; ++d)
      y.data<float>()[i * D + d] = float(-1 + double(bytes[size_t(offset + i * stride + d)]) * 2 / 255);
  for (DType dtype : {DType::f32, DType::bf16}) {
    TargetOptions options;
    options.dtype = dtype;
    options.chunk_bytes = 1;  // one block of targets at a time
    Targets file = Targets::out_of_core({folder.path("rows"), offset, stride, N, D}, options),
            memory = Targets::in_memory(y, options);
    CHECK(file.hash() == memory.hash());
    CHECK(file.chunks().size() == 3);
    CHECK(memory.chunks().size() == 1);
    CHECK(same_bits(file.rows(200, 460), memory.rows(200, 460)));
    Tensor index = from({499, 0, 1, 7}, {4}, DType::i64);
    CHECK_SAME(file.points(index), memory.points(index));
    Targets some = file.subset({400, 3, 4}), same = memory.subset({400, 3, 4});
    CHECK(some.hash() == same.hash());
    CHECK(same_bits(some.rows(0, 3), same.rows(0, 3)));
  }
}

TEST_CASE("an idx file is read from its header on; packed, short or other files are refused", "[ot][targets]") {
  ScratchFolder folder;
  std::vector<uint8_t> idx = {0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2};
  for (uint8_t byte : {0, 255, 10, 20, 30, 40}) idx.push_back(byte);
  write_bytes(folder.path("good"), idx);
  Targets targets = Targets::out_of_core(idx_rows(folder.path("good")));
  CHECK(targets.count() == 3);
  CHECK(targets.width() == 2);
  CHECK_CLOSE(targets.points(from({0, 2}, {2}, DType::i64)), f32({-1, 1, 30 / 127.5 - 1, 40 / 127.5 - 1}, {2, 2}), 1e-6,
              0);
  idx.pop_back();
  write_bytes(folder.path("short"), idx);
  Caught error = caught([&] { Targets::out_of_core(idx_rows(folder.path("short"))); });
  CHECK(error.kind == Error::Kind::data);
  CHECK(error.says("cannot be read"));
  idx[3] = 1;
  write_bytes(folder.path("labels"), idx);
  CHECK(caught([&] { idx_rows(folder.path("labels")); }).says("2049"));
  idx[0] = 0x1f, idx[1] = 0x8b;
  write_bytes(folder.path("packed"), idx);
  CHECK(caught([&] { idx_rows(folder.path("packed")); }).says("gzip"));
  CHECK(caught([&] { idx_rows(folder.path("none")); }).kind == Error::Kind::data);
  CHECK(caught([&] { Targets::out_of_core({folder.path("good"), 0, 1, 3, 2}); }).kind == Error::Kind::argument);
}

// ---- Rank reduction ------------------------------------------------------------------------------------------------

TEST_CASE("fewer targets than dimensions are solved in their span: the same products, one dimension less than targets",
          "[ot][rank]") {
  for (int64_t N : {2, 5, 70, 150}) {  // the larger ones take several blocks of columns
    Targets targets = Targets::in_memory(draw({N, 200}, 4));
    std::optional<Targets> reduced = reduce_rank(targets);
    REQUIRE(reduced);
    CHECK(reduced->width() == N - 1);
    Tensor wide = targets.rows(0, N), narrow = reduced->rows(0, N);
    double worst = 0;
    for (int64_t i = 0; i < N; ++i)
      for (int64_t j = 0; j <= i; ++j) worst = std::max(worst, std::abs(dot(wide, i, j) - dot(narrow, i, j)));
    INFO("N " << N);
    CHECK(worst < 1e-6);  // |row| is about 1 and coordinates are rounded to f32
  }
  CHECK(!reduce_rank(Targets::in_memory(draw({50, 20}, 4))));
}

TEST_CASE("targets on a line in many dimensions are reduced to one", "[ot][rank]") {
  Tensor y = empty({7, 40}), direction = draw({40}, 2);
  for (int64_t i = 0; i < 7; ++i)
    for (int64_t d = 0; d < 40; ++d) y.data<float>()[i * 40 + d] = float(i * i) * direction.data<float>()[d];
  std::optional<Targets> reduced = reduce_rank(Targets::in_memory(y));
  REQUIRE(reduced);
  CHECK(reduced->width() == 1);
}
