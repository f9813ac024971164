// The GPU's attention on the emulated GPU against the CPU, both passes.
#include "tests/cuda_host/gpu.h"
#include "tests/cuda_parity.h"
#include "tests/skips.h"

using namespace mote;
using namespace mote::test;

namespace {

/// Of values around 1. bf16: probabilities are rounded by 2^-9 on both sides, relative to other maxima.
double tolerance_of(DType dtype) { return dtype == DType::f64 ? 1e-12 : dtype == DType::f32 ? 2e-5 : 2e-2; }

struct Case {
  int64_t images, tokens, heads, width;
};

Tensor queries(const Case& c, DType dtype, int64_t offset) {
  return draw_at(offset, {c.images, c.tokens, 3 * c.heads * c.width}, dtype, 1);
}

/// Empty if y and lse agree, and then dqkv made from them, which is a sum of more roundings.
std::string attention_disagreement(const Case& c, DType dtype, int64_t offset, const Tensor& qkv,
                                   double backward_tolerance = 0) {
  Shape shape{c.images, c.tokens, c.heads * c.width}, sums{c.images, c.heads, c.tokens};
  DType wide = dtype == DType::f64 ? DType::f64 : DType::f32;
  double tolerance = tolerance_of(dtype);
  std::string forward = disagreement({stale(shape, dtype), stale(sums, wide)}, offset, [&](auto on, auto& out) {
    on.attention(out[0], out[1], qkv, c.heads);
  }, tolerance, tolerance);
  if (!forward.empty()) return "forward, " + forward;
  Tensor y = empty(shape, dtype), lse = empty(sums, wide), dy = draw_at(offset, shape, dtype, 2);
  cpu::attention(y, lse, qkv, c.heads);
  return disagreement({stale(qkv.shape(), dtype)}, offset, [&](auto on, auto& out) {
    on.attention_backward(out[0], qkv, y, lse, dy, c.heads);
  }, backward_tolerance > 0 ? backward_tolerance : 2 * tolerance, tolerance);
}

}  // namespace

TEST_CASE("attention on the GPU agrees with the CPU for heads of every width, both passes", "[cuda-host]") {
  const std::vector<Case> cases = {
      {1, 1, 1, 1},   {2, 5, 3, 3},      {1, 17, 2, 8},   // narrower than any kernel
      {1, 67, 1, 32}, {1, 70, 1, 40},                     // more than a block of queries, and a tile that is not full
      {1, 33, 1, 64}, {1, 18, 1, 100}, {1, 19, 1, 128}, {1, 17, 1, 256},
      {0, 4, 2, 8},
  };
  for (DType dtype : {DType::f32, DType::bf16, DType::f64})
    for (const Case& c : cases) {
      if (dtype == DType::f64 && c.width > 32) continue;   // slow here; 256 asks for more memory than there is
      if (kSanitized && c.width > 64) continue;
      INFO(dtype << ": " << c.images << " images, " << c.tokens << " tokens, " << c.heads << " heads of " << c.width);
      CHECK(attention_disagreement(c, dtype, 0, queries(c, dtype, 0)) == "");
    }
}

TEST_CASE("attention on the GPU walks over many tiles", "[cuda-host]") {
  Case c{1, 201, 1, 16};
  CHECK(attention_disagreement(c, DType::bf16, 0, queries(c, DType::bf16, 0)) == "");
}

TEST_CASE("attention on the GPU reads and writes memory that begins anywhere", "[cuda-host]") {
  Case c{1, 9, 2, 16};
  for (DType dtype : {DType::f32, DType::bf16}) CHECK(attention_disagreement(c, dtype, 1, queries(c, dtype, 1)) == "");
}

TEST_CASE("attention on the GPU neither overflows nor forgets a score that comes late", "[cuda-host]") {
  // Scores of some 10^3 that grow from tile to tile: each new maximum takes the sums before it down to nothing.
  Case c{1, 70, 1, 4};
  Tensor qkv = empty({1, 70, 12});
  for (int64_t t = 0; t < 70; ++t)
    for (int64_t i = 0; i < 12; ++i) qkv.data<float>()[12 * t + i] = i < 4 ? 10.0f : i < 8 ? float(t) : float(t % 7);
  // dq is k times the difference of two sums around 10, whose roundings, 10^-6, k = 69 makes 10^-4.
  CHECK(attention_disagreement(c, DType::f32, 0, qkv, 1e-3) == "");
}

TEST_CASE("attention on the GPU keeps NaN in its row", "[cuda-host]") {
  Case c{1, 3, 1, 4};
  Tensor qkv = queries(c, DType::f32, 0);
  qkv.data<float>()[12] = NAN;   // q of token 1
  Tensor y = stale({1, 3, 4}, DType::f32), lse = stale({1, 1, 3}, DType::f32);
  cuda_host::attention(y, lse, qkv, 1);
  for (int64_t t = 0; t < 3; ++t) {
    CHECK(std::isnan(y.data<float>()[4 * t]) == (t == 1));
    CHECK(std::isnan(lse.data<float>()[t]) == (t == 1));
  }
}

TEST_CASE("attention on the GPU refuses heads wider than its kernels", "[cuda-host]") {
  Tensor y = zeros({1, 2, 257}), lse = zeros({1, 1, 2}), qkv = zeros({1, 2, 3 * 257});
  CHECK_THROWS_WITH(cuda_host::attention(y, lse, qkv, 1), Catch::Matchers::Contains("heads are 257 wide"));
}

TEST_CASE("attention on a GPU agrees with the CPU on many tokens and heads", "[cuda]") {
  RealGpu gpu;
  if (!gpu.is_there()) return skip(gpu.why_not);
  for (const Case& c : {Case{2, 256, 4, 64}, {1, 1000, 2, 32}, {2, 300, 1, 128}, {1, 260, 1, 256}, {1, 515, 2, 20}})
    for (DType dtype : {DType::f32, DType::bf16}) {
      INFO(dtype << ": " << c.images << " images, " << c.tokens << " tokens, " << c.heads << " heads of " << c.width);
      Shape shape{c.images, c.tokens, c.heads * c.width};
      Tensor qkv = queries(c, dtype, 0), dy = draw_at(0, shape, dtype, 2);
      auto run = [&](Device device) {
        Tensor y = stale(shape, dtype).to(device), dqkv = stale(qkv.shape(), dtype).to(device);
        Tensor lse = stale({c.images, c.heads, c.tokens}, DType::f32).to(device);
        kernel::attention(y, lse, qkv.to(device), c.heads);
        kernel::attention_backward(dqkv, qkv.to(device), y, lse, dy.to(device), c.heads);
        return std::vector<Tensor>{y.to(Device{}), lse.to(Device{}), dqkv.to(Device{})};
      };
      std::vector<Tensor> got = run(gpu.device), again = run(gpu.device), expected = run(Device{});
      double tolerance = tolerance_of(dtype);
      for (size_t i = 0; i < 3; ++i) {
        INFO("output " << i << " of y, lse, dqkv");
        CHECK_CLOSE(got[i], expected[i], i == 2 ? 4 * tolerance : tolerance, tolerance);
        CHECK(same_bits(got[i], again[i]));
      }
    }
}
