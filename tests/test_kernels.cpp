// Kernels that move or reduce memory, against slow references, on sizes that take each of their paths: runs and chunks
// with and without a rest, vectors and what is left over, boxes whose axes merge and those that do not.
#include "tensor/kernels.h"

#include <cstring>

#include "autograd/ops.h"
#include "tensor/random_math.h"
#include "tests/support.h"

using namespace mote;

namespace {

Tensor draw(const Shape& shape, DType dtype, uint64_t seed) {
  return normal(shape, DType::f32, Generator{seed}).to(dtype);
}

/// Calls fn(index) for every index of `shape`, the last axis fastest.
template <class Fn>
void each_index(const Shape& shape, Fn&& fn) {
  std::vector<int64_t> index(size_t(shape.ndim()), 0);
  for (int64_t count = shape.numel(); count > 0; --count) {
    fn(index);
    for (int axis = shape.ndim() - 1; axis >= 0; --axis) {
      if (++index[size_t(axis)] < shape[axis]) break;
      index[size_t(axis)] = 0;
    }
  }
}

int64_t offset_of(const Shape& shape, const std::vector<int64_t>& index, const std::vector<int64_t>& start) {
  int64_t offset = 0;
  for (int axis = 0; axis < shape.ndim(); ++axis)
    offset += (index[size_t(axis)] + start[size_t(axis)]) * shape.stride(axis);
  return offset;
}

}  // namespace

// ---- Scalar functions in vectors -----------------------------------------------------------------------------------

TEST_CASE("exp, sigmoid, silu and gelu have the same bits in a vector, in its remainder and alone", "[kernels][math]") {
  test::Threads one(1);
  for (DType dtype : {DType::f32, DType::bf16}) {
    Tensor x = affine(draw({1037}, dtype, 1), 30, 0);   // past both limits
    for (Unary::Kind kind : {Unary::exp, Unary::sigmoid, Unary::silu, Unary::gelu}) {
      Tensor whole = empty_like(x), single = empty_like(x);
      kernel::unary(whole, x, {kind});
      for (int64_t i = 0; i < x.numel(); ++i) {
        Tensor y = single.rows(i, i + 1);
        kernel::unary(y, x.rows(i, i + 1), {kind});
      }
      INFO("kind " << int(kind) << " in " << dtype);
      CHECK(test::same_bits(whole, single));
    }
  }
}

TEST_CASE("rounding to bf16 in a vector gives the bits of the scalar conversion, for every upper half", "[kernels]") {
  // Each upper half of a float with lower halves around the tie: numbers, denormals, infinities, every kind of NaN.
  const std::vector<uint32_t> low = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
  Tensor x = empty({int64_t(low.size()) << 16}), y = empty(x.shape(), DType::bf16);
  float* in = x.data<float>();
  for (size_t k = 0; k < low.size(); ++k)
    for (uint32_t high = 0; high < 0x10000; ++high) {
      uint32_t bits = high << 16 | low[k];
      std::memcpy(in + (k << 16) + high, &bits, sizeof bits);
    }
  kernel::convert(y, x);
  int64_t wrong = 0;
  for (int64_t i = 0; i < x.numel(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, in + i, sizeof bits);
    bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
    // To nearest, ties to even; a NaN keeps its upper half and becomes quiet.
    uint32_t expected = is_nan ? bits >> 16 | 0x40 : (bits >> 16) + ((bits & 0xffff) + (bits >> 16 & 1) > 0x8000);
    wrong += y.data<bf16>()[i].bits != expected;
  }
  CHECK(wrong == 0);
}

// ---- Random numbers ------------------------------------------------------------------------------------------------

TEST_CASE("draws are the words of Philox blocks, also where the counter passes 32 bits", "[kernels][random]") {
  for (uint64_t offset : {uint64_t(0), (uint64_t(1) << 32) - 5, uint64_t(0xfedcba9876543210)})
    for (int64_t n : {1, 3, 4, 31, 255, 256, 257, 2049}) {
      uint64_t seed = 0x123456789abcdef0;
      Tensor y = uniform({n}, DType::f32, Generator{seed, offset});
      int64_t wrong = 0;
      for (int64_t i = 0; i < n; ++i) {
        philox::Block block = philox::block(seed, offset + uint64_t(i / 4));
        wrong += y.data<float>()[i] != philox::uniform(block.word[i % 4]);
      }
      INFO(n << " from " << offset);
      CHECK(wrong == 0);
    }
}

TEST_CASE("dropout keeps the elements whose uniform draw is at least p", "[kernels][random]") {
  for (DType dtype : {DType::f32, DType::bf16, DType::f64})
    for (double p : {0.1, 0.25, 1 - 0x1p-24, 0x1p-24})
      for (int64_t n : {1, 5, 255, 256, 257, 40'003}) {
        Tensor x = draw({n}, dtype, 1), y = empty_like(x), expected = empty_like(x);
        Tensor u = uniform({n}, DType::f32, Generator{9, 3});
        kernel::dropout(y, x, p, 9, 3);
        for_floating("test", dtype, [&](auto zero) {
          using T = decltype(zero);
          using C = compute_t<T>;
          for (int64_t i = 0; i < n; ++i)
            expected.data<T>()[i] = T(u.data<float>()[i] >= float(p) ? C(1 / (1 - p)) * C(x.data<T>()[i]) : C(0));
        });
        INFO(dtype << ", " << n << " elements, p = " << p);
        CHECK(test::same_bits(y, expected));
        for (int count : {2, 3, 7}) {
          test::Threads threads(count);
          kernel::dropout(y, x, p, 9, 3);
          CHECK(test::same_bits(y, expected));
        }
      }
}

// ---- Boxes ---------------------------------------------------------------------------------------------------------

TEST_CASE("a box is put and got element by element, whichever of its axes fill the large tensor", "[kernels]") {
  struct Case { Shape large, small; std::vector<int64_t> start; };
  const std::vector<Case> cases = {
      {{3, 5, 7, 64}, {3, 5, 7, 16}, {0, 0, 0, 48}},       // all outer axes merge; runs of whole vectors
      {{3, 5, 7, 64}, {2, 5, 7, 33}, {1, 0, 0, 5}},        // runs of no whole vector
      {{3, 5, 7, 64}, {3, 2, 7, 64}, {0, 3, 0, 0}},        // long runs
      {{3, 5, 7, 16}, {2, 3, 4, 16}, {1, 1, 2, 0}},        // nothing merges
      {{2, 3, 4, 5, 6}, {2, 1, 4, 2, 6}, {0, 2, 0, 3, 0}}, // an axis of one between
      {{2, 3, 4, 5, 6}, {1, 1, 1, 1, 1}, {1, 2, 3, 4, 5}},
      {{40, 9, 100}, {40, 8, 64}, {0, 1, 36}},             // enough for several threads
      {{1500, 48}, {1500, 32}, {0, 16}},
      {{7}, {3}, {2}},
      {{4, 5}, {4, 5}, {0, 0}},
      {{4, 5}, {0, 5}, {2, 0}},
      {{}, {}, {}},
  };
  for (DType dtype : {DType::u8, DType::bf16, DType::f32, DType::f64})
    for (const Case& c : cases)
      for (int count : {1, 2, 3, 7}) {
        test::Threads threads(count);
        INFO(dtype << ": " << c.small << " in " << c.large << ", " << count << " threads");
        std::vector<double> in(size_t(c.large.numel()));
        for (size_t i = 0; i < in.size(); ++i) in[i] = double(i * 37 % 199);   // exact in every dtype
        Tensor large = from(in, c.large, dtype), small = empty(c.small, dtype);
        kernel::get_box(small, large, c.start);
        std::vector<double> got = small.to_vector();
        int64_t wrong = 0, at = 0;
        each_index(c.small, [&](const std::vector<int64_t>& index) {
          wrong += got[size_t(at++)] != in[size_t(offset_of(c.large, index, c.start))];
        });
        CHECK(wrong == 0);

        Tensor part = full(c.small, 201, dtype), into = large.clone();
        kernel::put_box(into, part, c.start);
        each_index(c.small, [&](const std::vector<int64_t>& index) {
          in[size_t(offset_of(c.large, index, c.start))] = 201;
        });
        CHECK(into.to_vector() == in);
      }
}

// ---- Sums ----------------------------------------------------------------------------------------------------------

TEST_CASE("a sum over leading axes is that of its columns, with the same bits for any number of threads", "[kernels]") {
  struct Case { int64_t outer, length, inner; };
  for (DType dtype : {DType::f32, DType::bf16, DType::f64})
    for (Case c : {Case{1, 5, 3}, {1, 513, 32}, {3, 1025, 32}, {2, 64, 300}, {2, 65, 300}, {1, 16385, 2}, {5, 784, 33},
                   {1, 4097, 64}, {1, 1, 7}}) {
      Tensor x = draw({c.outer, c.length, c.inner}, dtype, 3);
      Tensor y = empty({c.outer, 1, c.inner}, dtype), all = empty({c.inner}, dtype);
      std::vector<double> in = x.to_vector(), expected(size_t(c.outer * c.inner), 0.0), total(size_t(c.inner), 0.0);
      for (int64_t o = 0; o < c.outer; ++o)
        for (int64_t l = 0; l < c.length; ++l)
          for (int64_t i = 0; i < c.inner; ++i) {
            double value = in[size_t((o * c.length + l) * c.inner + i)];
            expected[size_t(o * c.inner + i)] += value;
            total[size_t(i)] += value;
          }
      INFO(dtype << " [" << c.outer << ", " << c.length << ", " << c.inner << "]");
      // At most 64 f32 additions of sums that grow like a root, then double; bf16 rounds the result by 2^-8 at most.
      double relative = dtype == DType::f64 ? 1e-12 : dtype == DType::f32 ? 1e-6 : 1.0 / 256;
      double absolute = dtype == DType::f64 ? 1e-12 : 4e-7 * std::sqrt(double(c.outer * c.length));
      Tensor first, first_all;
      for (int count : {1, 2, 3, 7}) {
        test::Threads threads(count);
        kernel::sum_to(y, x);
        kernel::sum_to(all, x);
        if (count == 1) {
          CHECK_CLOSE(y, from(expected, y.shape(), DType::f64), absolute, relative);
          CHECK_CLOSE(all, from(total, all.shape(), DType::f64), absolute, relative);
          first = y.clone();
          first_all = all.clone();
        }
        CHECK(test::same_bits(y, first));
        CHECK(test::same_bits(all, first_all));
      }
    }
}

// ---- GroupNorm -----------------------------------------------------------------------------------------------------

TEST_CASE("gradients of gamma and beta do not depend on whether that of x is wanted", "[kernels]") {
  for (DType dtype : {DType::f32, DType::bf16, DType::f64})
    for (bool silu : {false, true})
      for (int64_t channels : {6, 32, 300}) {
        Tensor x = draw({3, 11, 13, channels}, dtype, 1), dy = draw(x.shape(), dtype, 2), y = empty_like(x);
        Tensor gamma = draw({channels}, dtype, 3), beta = draw({channels}, dtype, 4);
        Tensor mean = empty({3, 2}, dtype == DType::f64 ? DType::f64 : DType::f32), rstd = empty_like(mean);
        kernel::group_norm(y, mean, rstd, x, gamma, beta, 2, 1e-6, silu);
        Tensor dx = empty_like(x), dgamma = empty_like(gamma), dbeta = empty_like(beta), none;
        kernel::group_norm_backward(dx, dgamma, dbeta, dy, x, mean, rstd, gamma, beta, 2, silu);
        Tensor dgamma_only = empty_like(gamma), dbeta_only = empty_like(beta), dx_only = empty_like(x);
        kernel::group_norm_backward(none, dgamma_only, none, dy, x, mean, rstd, gamma, beta, 2, silu);
        kernel::group_norm_backward(none, none, dbeta_only, dy, x, mean, rstd, gamma, beta, 2, silu);
        kernel::group_norm_backward(dx_only, none, none, dy, x, mean, rstd, gamma, beta, 2, silu);
        INFO(dtype << ", " << channels << " channels, silu " << silu);
        CHECK(test::same_bits(dgamma_only, dgamma));
        CHECK(test::same_bits(dbeta_only, dbeta));
        CHECK(test::same_bits(dx_only, dx));
      }
}

TEST_CASE("group_norm of data far from zero keeps the digits of the deviations", "[kernels]") {
  Tensor small = draw({2, 9, 7, 12}, DType::f64, 5), x = affine(small, 1, 4096).to(DType::f32);
  Tensor gamma = full({12}, 1), beta = zeros({12}), y = empty_like(x), mean = empty({2, 3}), rstd = empty({2, 3});
  kernel::group_norm(y, mean, rstd, x, gamma, beta, 3, 1e-6, false);
  Tensor wide = group_norm(x.to(DType::f64), gamma.to(DType::f64), beta.to(DType::f64), 3, 1e-6, false);
  // The mean is rounded to f32 at 4096: half a unit is 2.4e-4 of a standard deviation near 1, for all elements alike.
  CHECK_CLOSE(y, wide, 3e-4, 1e-5);
  Tensor error = sub(y.to(DType::f64), wide);
  double spread = 0;
  for (int64_t i = 0; i + 12 < error.numel() / 2; ++i)
    spread = std::max(spread, std::abs(error.data<double>()[i] - error.data<double>()[i + 12]));
  CHECK(spread < 2e-6);
}

// ---- Optimiser -----------------------------------------------------------------------------------------------------

TEST_CASE("the clip factor is that of the norm, and NaN once anything was not finite", "[kernels]") {
  auto factor = [](float before, double squares, double loss, double max_norm) {
    Tensor scale = full({1}, before);
    kernel::clip_scale(scale, full({1}, squares, DType::f64), full({1}, loss, DType::f64), max_norm);
    return scale.item();
  };
  CHECK(factor(1, 16, 3, 1) == 0.25);
  CHECK(factor(0.5f, 16, 3, 8) == 1);
  CHECK(factor(1, 1e60, 3, 0) == 1);   // no clipping
  CHECK(factor(1, 0, 0, 1) == 1);
  for (double bad : {double(NAN), double(INFINITY), -double(INFINITY)}) {
    CHECK(std::isnan(factor(1, bad, 3, 1)));
    CHECK(std::isnan(factor(1, 16, bad, 1)));
  }
  CHECK(std::isnan(factor(NAN, 16, 3, 1)));
}

TEST_CASE("adamw over several blocks equals its formula in double, for any number of threads", "[kernels]") {
  for (int64_t n : {1, 1023, 1024, 1025, 70'001}) {
    Tensor p0 = draw({n}, DType::f32, 1), g = draw({n}, DType::f32, 2), m0 = draw({n}, DType::f32, 3);
    Tensor v0 = uniform({n}, DType::f32, Generator{4}), e0 = draw({n}, DType::f32, 5);
    AdamW options;
    options.lr = 0.01;
    options.weight_decay = 0.1;
    options.step = 3;
    options.ema_decay = 0.9;
    Tensor first_p, first_ema;
    for (int count : {1, 2, 3, 7}) {
      test::Threads threads(count);
      Tensor p = p0.clone(), m = m0.clone(), v = v0.clone(), ema = e0.clone();
      kernel::adamw(p, g, full({1}, 0.5), m, v, ema, options);
      INFO(n << " parameters, " << count << " threads");
      if (count == 1) {
        int64_t wrong = 0;
        for (int64_t i = 0; i < n; ++i) {
          double gradient = 0.5 * g.data<float>()[i];
          double mean = 0.9 * m0.data<float>()[i] + 0.1 * gradient;
          double square = 0.999 * v0.data<float>()[i] + 0.001 * gradient * gradient;
          double step = mean / (1 - std::pow(0.9, 3)) / (std::sqrt(square / (1 - std::pow(0.999, 3))) + 1e-8);
          double value = p0.data<float>()[i] * (1 - 0.01 * 0.1) - 0.01 * step;
          double average = 0.9 * e0.data<float>()[i] + 0.1 * value;
          wrong += !(std::abs(p.data<float>()[i] - value) < 1e-6 * (1 + std::abs(value) + std::abs(0.01 * step)));
          wrong += !(std::abs(ema.data<float>()[i] - average) < 1e-6 * (1 + std::abs(average) + std::abs(0.01 * step)));
        }
        CHECK(wrong == 0);
        first_p = p.clone();
        first_ema = ema.clone();
      }
      CHECK(test::same_bits(p, first_p));
      CHECK(test::same_bits(ema, first_ema));
    }
  }
}
