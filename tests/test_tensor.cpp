// Shape, dtype, Tensor, allocator, scalar functions, profile.
#include "tensor/tensor.h"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <limits>
#include <thread>

#include "tensor/allocator.h"
#include "tensor/kernels.h"
#include "tensor/profile.h"
#include "tensor/random.h"
#include "tests/support.h"

using namespace mote;
using Catch::Matchers::Contains;

// ---- Shape ---------------------------------------------------------------------------------------------------------

TEST_CASE("a shape knows its elements, strides and ends", "[tensor]") {
  Shape shape{2, 3, 4};
  CHECK(shape.ndim() == 3);
  CHECK(shape.numel() == 24);
  CHECK(shape.stride(0) == 12);
  CHECK(shape.stride(2) == 1);
  CHECK(shape.at(-1) == 4);
  CHECK(shape.with(1, 7) == Shape{2, 7, 4});
  CHECK(shape.without(-3) == Shape{3, 4});
  CHECK(shape.inserted(3, 5) == Shape{2, 3, 4, 5});
  CHECK(Shape{}.numel() == 1);
  CHECK_FALSE(Shape{2} == Shape{2, 1});
}

TEST_CASE("shapes that cannot be are refused", "[tensor]") {
  CHECK_THROWS_WITH((Shape{2, -1}), Contains("negative"));
  CHECK_THROWS_WITH((Shape{1, 1, 1, 1, 1, 1, 1}), Contains("at most 6 axes"));
  int64_t large = int64_t(1) << 40;
  CHECK_THROWS_WITH((Shape{large, large}), Contains("too many elements"));
  CHECK_THROWS_WITH((Shape{0, large, large}), Contains("too many elements"));   // its strides would overflow
  CHECK_THROWS_WITH((Shape{2, 3}.at(2)), Contains("axis 2 is outside"));
}

TEST_CASE("broadcasting aligns shapes at the end", "[tensor]") {
  CHECK(broadcast_shape("op", {3, 1}, {4}) == Shape{3, 4});
  CHECK(broadcast_shape("op", {}, {2, 2}) == Shape{2, 2});
  CHECK(broadcast_shape("op", {0}, {1}) == Shape{0});
  CHECK_THROWS_WITH(broadcast_shape("op", {3}, {4}), Contains("op: shapes do not broadcast: [3] and [4]"));
}

// ---- bf16 ----------------------------------------------------------------------------------------------------------

TEST_CASE("bf16 rounds to nearest, ties to even, and keeps infinities and NaN", "[tensor]") {
  CHECK(float(bf16(1.0f)) == 1.0f);
  CHECK(float(bf16(1.0f + 0x1p-8f)) == 1.0f);                  // a tie: 1 is even
  CHECK(float(bf16(1.0f + 3 * 0x1p-8f)) == 1.0f + 4 * 0x1p-8f);   // a tie: the upper neighbour is even
  CHECK(float(bf16(1.0f + 0x1.02p-8f)) == 1.0f + 0x1p-7f);
  CHECK(float(bf16(-3e38f)) == -0x1.c4p127f);
  CHECK(std::isinf(float(bf16(std::numeric_limits<float>::max()))));   // rounds up past the largest bf16
  CHECK(std::isinf(float(bf16(-INFINITY))));
  CHECK(std::isnan(float(bf16(std::bit_cast<float>(0x7f800001u)))));   // the NaN's bits are all in the lost half
}

// ---- Tensor --------------------------------------------------------------------------------------------------------

TEST_CASE("views and rows share storage, clones do not", "[tensor]") {
  Tensor x = from({0, 1, 2, 3, 4, 5}, {3, 2});
  Tensor view = x.view({2, -1}), middle = x.rows(1, 2), copy = x.clone();
  x.data<float>()[2] = 9;
  CHECK_SAME(view, from({0, 1, 9, 3, 4, 5}, {2, 3}));
  CHECK_SAME(middle, from({9, 3}, {1, 2}));
  CHECK_SAME(copy, from({0, 1, 2, 3, 4, 5}, {3, 2}));
  CHECK(x.rows(3, 3).numel() == 0);
  CHECK_THROWS_WITH(x.view({4, -1}), Contains("does not divide"));
  CHECK_THROWS_WITH(x.view({-1, -1}), Contains("only one size may be -1"));
  CHECK_THROWS_WITH(x.view({5}), Contains("has 6 elements"));
  CHECK_THROWS_WITH(x.rows(2, 4), Contains("2..4 is outside f32[3, 2]"));
  CHECK_THROWS_WITH(x.data<double>(), Contains("f32[3, 2], read as f64"));
}

TEST_CASE("every dtype converts to every other", "[tensor]") {
  for (DType a : {DType::f32, DType::bf16, DType::f64, DType::i32, DType::i64, DType::u8})
    for (DType b : {DType::f32, DType::bf16, DType::f64, DType::i32, DType::i64, DType::u8}) {
      INFO(a << " to " << b);
      Tensor x = from({0, 1, 2, 100}, {4}, a).to(b);
      CHECK(x.dtype() == b);
      CHECK(x.to_vector() == std::vector<double>{0, 1, 2, 100});
    }
}

TEST_CASE("copy_ and fill_ write in place and count as writes", "[tensor]") {
  Tensor x = zeros({2, 2}), part = x.rows(1, 2);
  uint64_t before = x.version();
  part.fill_(3);
  CHECK(x.version() > before);
  part.copy_(from({1, 2}, {1, 2}, DType::f64));
  CHECK_SAME(x, from({0, 0, 1, 2}, {2, 2}));
  CHECK_THROWS_WITH(x.copy_(part), Contains("shapes differ"));
  CHECK(full({}, 2.5).item() == 2.5);
  CHECK_THROWS_WITH(x.item(), Contains("needs one element"));
  CHECK_SAME(arange(3), from({0, 1, 2}, {3}));
}

TEST_CASE("printing shows dtype, shape and shortened axes", "[tensor]") {
  std::ostringstream text;
  text << from({1, 2.5, -3, 4}, {2, 2}) << '\n' << arange(9) << '\n' << Tensor();
  CHECK(text.str() == "f32[2, 2]\n[[1, 2.5],\n [-3, 4]]\ni64[9]\n[0, 1, 2, ..., 6, 7, 8]\nundefined");
}

TEST_CASE("an error tells which module was running", "[tensor]") {
  Scope outer("unet"), inner("mid.attn");
  CHECK_THROWS_WITH(check(false, "op: wrong"), "op: wrong\n  while running unet.mid.attn");
}

// ---- Allocator -----------------------------------------------------------------------------------------------------

TEST_CASE("size classes waste at most an eighth", "[allocator]") {
  for (size_t bytes : {1, 64, 65, 1000, 4096, 4097, 1'000'000, 16'777'217}) {
    size_t size = size_class(bytes);
    CHECK(size >= bytes);
    CHECK(size % 64 == 0);
    CHECK(double(size) <= std::max(64.0, double(bytes) * 1.125 + 64));
    CHECK(size_class(size) == size);
  }
}

TEST_CASE("a released block is used again and the statistics follow", "[allocator]") {
  Allocator& allocator = Allocator::of({});
  int64_t bytes = 123'457;
  { Tensor warm = empty({bytes}, DType::u8); }
  AllocatorStats before = allocator.stats();
  void* block;
  {
    Tensor x = empty({bytes}, DType::u8);
    block = x.raw();
    CHECK(allocator.stats().in_use == before.in_use + int64_t(size_class(size_t(bytes))));
  }
  Tensor again = empty({bytes}, DType::u8);
  CHECK(again.raw() == block);
  CHECK(allocator.stats().system_calls == before.system_calls);
  allocator.reset_peak();
  CHECK(allocator.stats().peak == allocator.stats().in_use);
  allocator.trim();
  CHECK(allocator.stats().cached == 0);
}

TEST_CASE("memory that cannot be had is an error with the numbers, not a crash", "[allocator]") {
  try {
    empty({int64_t(1) << 46}, DType::u8);
    FAIL("no error");
  } catch (const Error& error) {
    CHECK(error.kind() == Error::Kind::resource);
    CHECK_THAT(error.what(), Contains("70368744177664 bytes asked"));
  }
}

TEST_CASE("poisoned memory reads as NaN", "[allocator]") {
  Allocator::of({}).set_debug(true, false);
  Tensor x = empty({1000}), y = empty({1000}, DType::f64), z = empty({1000}, DType::bf16);
  Allocator::of({}).set_debug(false, false);
  CHECK(std::isnan(x.to_vector()[999]));
  CHECK(std::isnan(y.to_vector()[0]));
  CHECK(std::isnan(z.to_vector()[500]));
}

TEST_CASE("a write past the end of a guarded block stops the program when the block is released", "[allocator]") {
  pid_t child = fork();
  if (child == 0) {
    close(STDERR_FILENO);
    signal(SIGABRT, SIG_DFL);
    Allocator::of({}).trim();
    try {
      Allocator::of({}).set_debug(false, true);
    } catch (const Error&) {
      _exit(7);   // some tensor of static lifetime is alive: guards cannot be switched on
    }
    { Tensor inside = zeros({10}); }
    {
      Tensor x = zeros({10});
      static_cast<volatile float*>(x.raw())[10] = 1;
    }
    _exit(0);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGABRT);
}

// ---- Scalar functions ----------------------------------------------------------------------------------------------

namespace {

/// Distance of got from the exact value in units of the last place of a float.
double ulps(float got, double exact) {
  float rounded = float(exact);
  double ulp = double(std::nextafter(std::abs(rounded), INFINITY)) - double(std::abs(rounded));
  return std::abs(double(got) - exact) / ulp;
}

}  // namespace

TEST_CASE("float exp and sigmoid keep their error bounds over the whole range", "[math]") {
  double worst_exp = 0, worst_sigmoid = 0;
  for (int i = 0; i <= 1'000'000; ++i) {
    float x = -87.0f + 175.0f * float(i) / 1e6f;
    worst_exp = std::max(worst_exp, ulps(math::exp(x), std::exp(double(x))));
    worst_sigmoid = std::max(worst_sigmoid, ulps(math::sigmoid(x), 1 / (1 + std::exp(-double(x)))));
  }
  INFO("exp " << worst_exp << " ulp, sigmoid " << worst_sigmoid << " ulp");
  CHECK(worst_exp <= 1.5);
  CHECK(worst_sigmoid <= 3);
  CHECK(math::exp(0.0f) == 1.0f);
  CHECK(math::exp(-INFINITY) == 0.0f);
  CHECK(math::exp(INFINITY) == INFINITY);
  CHECK(std::isnan(math::exp(NAN)));
  CHECK(std::isnan(math::sigmoid(NAN)));
  CHECK(math::sigmoid(0.0f) == 0.5f);
  CHECK(math::sigmoid(-INFINITY) == 0.0f);
  CHECK(math::sigmoid(INFINITY) == 1.0f);
  CHECK(math::sigmoid(-89.0f) == 0.0f);
  CHECK(math::sigmoid(-88.0f) > 0.0f);
  CHECK(math::sigmoid(-88.0f) < 2e-38f);
}

// ---- Profile -------------------------------------------------------------------------------------------------------

TEST_CASE("a profile counts launches, multiplications and bytes", "[profile]") {
  Tensor a = zeros({5, 7}), b = zeros({7, 3}), y = empty({5, 3});
  Tensor x = zeros({2, 6, 6, 4}), w = zeros({3, 3, 4, 8}), z = empty({2, 6, 6, 8});
  kernel::fill(y, 0);   // before the profile: not counted
  Profile profile;
  kernel::matmul(y, a, b, false, false, {});
  kernel::matmul(y, a, b, false, false, {});
  kernel::conv2d(z, x, w, {}, {}, {}, Conv2dSpec::same(3));
  std::vector<KernelCost> costs = profile.costs();
  REQUIRE(costs.size() == 2);
  for (const KernelCost& cost : costs) {
    if (cost.name == "matmul") {
      CHECK(cost.calls == 2);
      CHECK(cost.flops == 2 * 2 * 5 * 7 * 3);
      CHECK(cost.bytes == 2 * 4 * (35 + 21 + 15));
    } else {
      CHECK(cost.name == "conv2d");
      CHECK(cost.flops == 2.0 * 2 * 6 * 6 * 8 * 9 * 4);
    }
    CHECK(cost.seconds > 0);
  }
  CHECK_THROWS_WITH(Profile(), Contains("one is alive already"));
}

TEST_CASE("a dry run launches nothing, on its thread only, and asks for the memory of the results alone", "[profile]") {
  Tensor a = full({64, 64}, 2), y = full({64, 64}, 7);
  int64_t before = Allocator::of({}).stats().in_use;
  {
    DryRun dry;
    kernel::matmul(y, a, a, false, false, {});
    Tensor z = empty({64, 64});
    kernel::fill(z, 1);
    CHECK(Allocator::of({}).stats().in_use - before < 2 * z.nbytes());
    std::thread([&] { kernel::fill(a, 3); }).join();
    CHECK(DryRun::active());
  }
  CHECK(!DryRun::active());
  CHECK_SAME(y, full({64, 64}, 7));
  CHECK_SAME(a, full({64, 64}, 3));
  kernel::fill(y, 1);
  CHECK_SAME(y, full({64, 64}, 1));
}
