// test_combine.cpp - kernel::combine, the one pass over memory that a sampler's update is.
#include "tensor/kernels.h"
#include "tensor/random.h"
#include "tests/diffusion_support.h"

namespace mote {
namespace {

using test::caught;

std::vector<Term> random_terms(size_t count, const Shape& shape, DType dtype) {
  std::vector<Term> terms;
  for (size_t k = 0; k < count; ++k)
    terms.push_back({0.3 - 0.7 * double(k), normal(shape, DType::f64, Generator{50 + k}).to(dtype)});
  return terms;
}

/// Element by element, in the compute type of f64 or f32, from the first term to the last.
template <class C>
std::vector<double> slow_sum(const std::vector<Term>& terms) {
  std::vector<double> sums;
  std::vector<std::vector<double>> values;
  for (const Term& term : terms) values.push_back(term.tensor.to_vector());
  for (size_t i = 0; i < values[0].size(); ++i) {
    volatile C sum = C(terms[0].factor) * C(values[0][i]);   // volatile: no fusing here either
    for (size_t k = 1; k < terms.size(); ++k) {
      volatile C product = C(terms[k].factor) * C(values[k][i]);
      sum = sum + product;
    }
    sums.push_back(double(sum));
  }
  return sums;
}

TEST_CASE("a combination of 1 to 8 terms is the sum of the products, taken in order", "[combine]") {
  for (int64_t numel : {0, 1, 15, 16, 17, 1001})
    for (size_t count = 1; count <= 8; ++count) {
      INFO(numel << " elements, " << count << " terms");
      std::vector<Term> wide = random_terms(count, {numel}, DType::f64);
      std::vector<Term> narrow = random_terms(count, {numel}, DType::f32);
      Tensor y = empty({numel}, DType::f64), z = empty({numel}, DType::f32);
      kernel::combine(y, wide);
      kernel::combine(z, narrow);
      if (numel == 0) continue;
      CHECK(y.to_vector() == slow_sum<double>(wide));
      CHECK(z.to_vector() == slow_sum<float>(narrow));
    }
}

TEST_CASE("a combination in bf16 is rounded once, from float", "[combine]") {
  std::vector<Term> terms = random_terms(6, {37}, DType::bf16);
  Tensor y = empty({37}, DType::bf16);
  kernel::combine(y, terms);
  CHECK_SAME(y, from(slow_sum<float>(terms), {37}, DType::f32).to(DType::bf16));
}

TEST_CASE("a combination may overwrite any of its terms", "[combine]") {
  for (size_t target = 0; target < 5; ++target) {
    std::vector<Term> terms = random_terms(5, {131}, DType::f32);
    std::vector<double> expected = slow_sum<float>(terms);
    Tensor y = terms[target].tensor;
    kernel::combine(y, terms);
    CHECK(y.to_vector() == expected);
  }
}

TEST_CASE("a combination of slices that start mid-buffer reads and writes only them", "[combine]") {
  Tensor x = normal({9, 7}, DType::f32, Generator{60}), y = zeros({9, 7});
  Tensor inner = y.rows(2, 5);
  kernel::combine(inner, {{2, x.rows(1, 4)}, {-1, x.rows(5, 8)}});
  std::vector<double> got = y.to_vector(), in = x.to_vector();
  for (size_t i = 0; i < got.size(); ++i) {
    bool is_inside = i >= 14 && i < 35;
    REQUIRE(got[i] == (is_inside ? double(2 * float(in[i - 7]) - float(in[i + 21])) : 0));
  }
}

TEST_CASE("a combination has the same bits with 1, 2, 3 and 7 threads", "[combine]") {
  std::vector<Term> terms = random_terms(8, {100003}, DType::f32);
  Tensor expected;
  for (int count : {1, 2, 3, 7}) {
    test::Threads threads(count);
    Tensor y = empty({100003});
    kernel::combine(y, terms);
    if (!expected.defined()) expected = y;
    CHECK_SAME(y, expected);
  }
}

TEST_CASE("a combination of no terms or of nine is refused", "[combine]") {
  Tensor y = zeros({3});
  CHECK(caught([&] { kernel::combine(y, {}); }).says("1 to 8 terms, got 0"));
  CHECK(caught([&] { kernel::combine(y, random_terms(9, {3}, DType::f32)); }).says("1 to 8 terms, got 9"));
}

}  // namespace
}  // namespace mote
