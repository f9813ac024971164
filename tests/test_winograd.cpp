// Winograd's method against the direct one: its error is bounded, and it is used where it should be.
#include "autograd/ops.h"
#include "tensor/cpu/winograd.h"
#include "tests/support.h"

namespace mote::test {
namespace {

double largest(const Tensor& x) {
  double most = 0;
  for (double value : x.to_vector()) most = std::max(most, std::abs(value));
  return most;
}

/// Largest error of `got` relative to the largest value of the f64 result.
double relative_error(const Tensor& got, const Tensor& exact) {
  Tensor difference = empty_like(exact);
  kernel::combine(difference, {{1, got.to(DType::f64)}, {-1, exact}});
  return largest(difference) / largest(exact);
}

}  // namespace

TEST_CASE("a 3x3 convolution of 256 channels in f32 is within 1e-5 of f64, forward and backward", "[winograd]") {
  // The direct method in f32 is at about 1e-6 here; the transforms cost a factor of two to three.
  Tensor x = normal({2, 12, 13, 256}, DType::f64, Generator{1}), w = normal({3, 3, 256, 256}, DType::f64, Generator{2});
  Tensor dy = normal(x.shape(), DType::f64, Generator{3});
  Conv2dSpec same = Conv2dSpec::same(3);
  REQUIRE(cpu::WinogradShape{2, 12, 13, 256, 12, 13, 256, 1, 1}.pays<float>());
  auto run = [&](DType dtype) {
    Tensor a = x.to(dtype).clone(), b = w.to(dtype).clone(), g = dy.to(dtype), y = empty_like(a), da = empty_like(a), db = empty_like(b);
    kernel::conv2d(y, a, b, {}, {}, {}, same);
    kernel::conv2d_dx(da, g, b, same);
    kernel::conv2d_dw(db, a, g, same);
    return std::vector<Tensor>{y, da, db};
  };
  std::vector<Tensor> exact = run(DType::f64), fast = run(DType::f32);
  for (size_t i = 0; i < exact.size(); ++i) {
    INFO("result " << i);
    double error = relative_error(fast[i], exact[i]);
    CHECK(error < 1e-5);
    CHECK(error > 0);
  }
}

TEST_CASE("an image far from zero loses no more digits in Winograd's method than its size says", "[winograd]") {
  // The input transform takes differences of pixels: a constant of 100 must not cost more than a constant times eps 100.
  Tensor noise = normal({2, 16, 16, 32}, DType::f64, Generator{4}), x = empty_like(noise);
  kernel::combine(x, {{1, noise}, {100, full(noise.shape(), 1, DType::f64)}});
  Tensor w = normal({3, 3, 32, 32}, DType::f64, Generator{5}), exact = empty_like(x), y = empty({2, 16, 16, 32});
  kernel::conv2d(exact, x, w, {}, {}, {}, Conv2dSpec::same(3));
  kernel::conv2d(y, x.to(DType::f32), w.to(DType::f32), {}, {}, {}, Conv2dSpec::same(3));
  CHECK(relative_error(y, exact) < 1e-5);
}

TEST_CASE("Winograd's method is left for the direct one where shapes do not fit it", "[winograd]") {
  CHECK(cpu::WinogradShape{64, 28, 28, 32, 28, 28, 32, 1, 1}.pays<float>());
  CHECK_FALSE(cpu::WinogradShape{64, 28, 28, 1, 28, 28, 32, 1, 1}.pays<float>());    // channels that fill no vector
  CHECK_FALSE(cpu::WinogradShape{64, 28, 28, 32, 28, 28, 33, 1, 1}.pays<float>());
  CHECK_FALSE(cpu::WinogradShape{64, 4, 4, 256, 4, 4, 256, 1, 1}.pays<float>());     // 16 pixels: the weights cost more
}

TEST_CASE("an image has the same bits in a batch of one and of seven", "[winograd]") {
  // Also in matrix products and attention: a network's samples must not depend on how many are drawn together.
  Tensor x = normal({7, 14, 14, 64}, DType::f32, Generator{8}), w = normal({3, 3, 64, 64}, DType::f32, Generator{9});
  for (DType dtype : {DType::f32, DType::bf16}) {
    Tensor all = conv2d(x.to(dtype), w.to(dtype), {}, Conv2dSpec::same(3));
    Tensor one = conv2d(x.rows(3, 4).to(dtype), w.to(dtype), {}, Conv2dSpec::same(3));
    CHECK(difference(one, all.rows(3, 4), 0, 0) == "");
    Tensor tokens = x.view({7, 196, 64}).to(dtype), weight = w.view({9, 64, 64}).rows(0, 1).view({64, 64}).to(dtype);
    Tensor qkv = concat({tokens, tokens, tokens}, 2);
    CHECK(difference(attention(qkv.rows(3, 4), 1), attention(qkv, 1).rows(3, 4), 0, 0) == "");
    CHECK(difference(linear(tokens.rows(3, 4), weight, {}), linear(tokens, weight, {}).rows(3, 4), 0, 0) == "");
  }
}

TEST_CASE("one infinite pixel leaves the outputs of far tiles finite", "[winograd]") {
  Tensor x = normal({1, 16, 16, 16}, DType::f32, Generator{6}), w = normal({3, 3, 16, 16}, DType::f32, Generator{7});
  x.data<float>()[0] = std::numeric_limits<float>::infinity();
  Tensor y = empty_like(x);
  kernel::conv2d(y, x, w, {}, {}, {}, Conv2dSpec::same(3));
  CHECK_FALSE(std::isfinite(y.to_vector()[0]));
  bool finite = true;
  for (double value : y.rows(0, 1).view({16, 16 * 16}).rows(8, 16).to_vector()) finite &= std::isfinite(value);
  CHECK(finite);
}

}  // namespace mote::test
