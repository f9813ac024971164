// Philox, the distributions, and that draws depend on nothing but (seed, offset, index).
#include "tensor/random.h"

#include <algorithm>

#include "tensor/io/file.h"
#include "tensor/random_math.h"
#include "tests/support.h"

using namespace mote;
using Catch::Matchers::Contains;

namespace {

struct Moments {
  double mean = 0, variance = 0, skewness = 0, kurtosis = 0;
};
Moments moments(const Tensor& x) {
  Moments m;
  std::vector<double> values = x.to_vector();
  double n = double(values.size());
  for (double v : values) m.mean += v / n;
  for (double v : values) {
    double d = v - m.mean;
    m.variance += d * d / n;
    m.skewness += d * d * d / n;
    m.kurtosis += d * d * d * d / n;
  }
  return m;
}

/// Largest distance between the empirical distribution of x and the one with this distribution function.
template <class Cdf>
double kolmogorov(const Tensor& x, Cdf&& cdf) {
  std::vector<double> values = x.to_vector();
  std::sort(values.begin(), values.end());
  double worst = 0, n = double(values.size());
  for (size_t i = 0; i < values.size(); ++i)
    worst = std::max({worst, std::abs(cdf(values[i]) - double(i) / n), std::abs(cdf(values[i]) - double(i + 1) / n)});
  return worst;
}

std::string hash_of(const Tensor& x) { return io::hash_hex(x.raw(), size_t(x.nbytes())); }

}  // namespace

TEST_CASE("Philox4x32-10 gives the published answer for counter and key zero", "[random]") {
  philox::Block word = philox::block(0, 0);   // Salmon 2011, known-answer vectors of the reference library
  CHECK(word.word[0] == 0x6627e8d5u);
  CHECK(word.word[1] == 0xe169c58du);
  CHECK(word.word[2] == 0xbc57ac4cu);
  CHECK(word.word[3] == 0x9b00dbd8u);
}

TEST_CASE("the first 2^20 draws are those of every machine", "[random]") {
  // Hashes of the raw bits. They may never change: every stored seed would mean other numbers.
  CHECK(hash_of(uniform({1 << 20}, DType::f32, Generator{1})) == "ce71be8375570c14");
  CHECK(hash_of(normal({1 << 20}, DType::f32, Generator{1})) == "6df99c687d012173");
  CHECK(hash_of(normal({1 << 20}, DType::f64, Generator{1})) == "e48b9c446d48da1e");
}

TEST_CASE("draws have the same bits for any number of threads and wherever they are cut", "[random]") {
  for (DType dtype : {DType::f32, DType::f64}) {
    int64_t per_block = dtype == DType::f64 ? 2 : 4;
    test::Threads single(1);
    Tensor one = normal({100'003}, dtype, Generator{7});
    Tensor flat = uniform({100'003}, dtype, Generator{7});
    for (int count : {2, 3, 7}) {
      test::Threads threads(count);
      CHECK_SAME(normal({100'003}, dtype, Generator{7}), one);
      CHECK_SAME(uniform({100'003}, dtype, Generator{7}), flat);
    }
    // Element i of a draw at offset o is element i + 4 o of the draw at 0.
    CHECK_SAME(normal({1000}, dtype, Generator{7, 25}), one.rows(25 * per_block, 25 * per_block + 1000));
  }
}

TEST_CASE("a draw advances the generator so that two draws share no block", "[random]") {
  Generator generator{3};
  Tensor a = normal({5}, DType::f32, generator);
  CHECK(generator.offset == 2);
  Tensor b = normal({3}, DType::f64, generator);
  CHECK(generator.offset == 4);
  Tensor c = randint(0, 10, {1}, generator);
  CHECK(generator.offset == 5);
  CHECK_SAME(normal({5}, DType::f32, Generator{3}), a);
  CHECK_SAME(normal({3}, DType::f64, Generator{3, 2}), b);
}

TEST_CASE("uniform draws are uniform in [0, 1)", "[random]") {
  for (DType dtype : {DType::f32, DType::f64}) {
    Tensor x = uniform({1 << 18}, dtype, Generator{11});
    std::vector<double> values = x.to_vector();
    CHECK(*std::min_element(values.begin(), values.end()) >= 0);
    CHECK(*std::max_element(values.begin(), values.end()) < 1);
    CHECK(kolmogorov(x, [](double v) { return v; }) < 1.95 / std::sqrt(double(1 << 18)));   // 1 in 1000 by chance
  }
}

TEST_CASE("normal draws have the moments and the distribution of N(0, 1)", "[random]") {
  for (DType dtype : {DType::f32, DType::f64}) {
    int64_t n = 1 << 20;
    Tensor x = normal({n}, dtype, Generator{6});
    Moments m = moments(x);
    double root = std::sqrt(double(n));
    CHECK(std::abs(m.mean) < 4 / root);
    CHECK(std::abs(m.variance - 1) < 4 * std::sqrt(2.0) / root);
    CHECK(std::abs(m.skewness) < 4 * std::sqrt(15.0) / root);
    CHECK(std::abs(m.kurtosis - 3) < 4 * std::sqrt(96.0) / root);
    CHECK(kolmogorov(x.rows(0, 1 << 18), [](double v) { return 0.5 * std::erfc(-v / std::sqrt(2.0)); }) <
          1.95 / std::sqrt(double(1 << 18)));
  }
}

TEST_CASE("Box-Muller agrees with the functions of the C library", "[random]") {
  double worst = 0, worst64 = 0;
  for (uint32_t i = 0; i < 200'000; ++i) {
    philox::Block word = philox::block(99, i);
    double u = double(word.word[0]) * 0x1p-32 + 0x1p-33, angle = 2 * M_PI * double(word.word[1]) * 0x1p-32;
    double r = std::sqrt(-2 * std::log(double(float(u))));   // u is rounded to float first
    philox::SinCos<float> got = philox::normal_pair(word.word[0], word.word[1]);
    worst = std::max({worst, std::abs(got.cos - r * std::cos(angle)), std::abs(got.sin - r * std::sin(angle))});
    double u64 = philox::uniform(word.word[0], word.word[1]) + 0x1p-54, angle64 = 2 * M_PI * double(word.word[2]) * 0x1p-32;
    double r64 = std::sqrt(-2 * std::log(u64));
    philox::SinCos<double> got64 = philox::normal_pair64(word.word[0], word.word[1], word.word[2]);
    worst64 = std::max({worst64, std::abs(got64.cos - r64 * std::cos(angle64)), std::abs(got64.sin - r64 * std::sin(angle64))});
  }
  INFO("f32 " << worst << ", f64 " << worst64);
  CHECK(worst < 2e-6);
  CHECK(worst64 < 1e-14);
}

TEST_CASE("integers fill their range evenly, and a range that is empty is refused", "[random]") {
  Generator generator{13};
  std::vector<int64_t> count(7, 0);
  Tensor x = randint(-3, 4, {70'000}, generator);
  for (int64_t i = 0; i < x.numel(); ++i) ++count.at(size_t(x.data<int64_t>()[i] + 3));
  double chi2 = 0;
  for (int64_t c : count) chi2 += double((c - 10'000) * (c - 10'000)) / 10'000;
  CHECK(chi2 < 22.5);   // 6 degrees of freedom, 1 in 1000
  Tensor wide = randint(INT64_MIN, INT64_MAX, {100}, generator);
  std::vector<double> values = wide.to_vector();
  CHECK(*std::min_element(values.begin(), values.end()) < -4e18);
  CHECK(*std::max_element(values.begin(), values.end()) > 4e18);
  CHECK_THROWS_WITH(randint(4, 4, {1}, generator), Contains("needs low < high, got 4 and 4"));
}

TEST_CASE("forked generators are streams of their own", "[random]") {
  Generator base{21};
  CHECK(base.fork(1) == Generator{21}.fork(1));
  CHECK_FALSE(base.fork(1) == base.fork(2));
  CHECK_FALSE(base.fork(1) == Generator{22}.fork(1));
  Tensor a = normal({1 << 16}, DType::f64, base.fork(1)), b = normal({1 << 16}, DType::f64, base.fork(2));
  double correlation = 0;
  for (int64_t i = 0; i < a.numel(); ++i) correlation += a.data<double>()[i] * b.data<double>()[i] / double(a.numel());
  CHECK(std::abs(correlation) < 4.0 / 256);
  CHECK(random_bits(base, 0) != random_bits(base, 1));
  CHECK(random_bits(base, 5) == random_bits(Generator{21}, 5));
}
