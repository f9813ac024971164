// The GPU's convolutions on the emulated GPU against the CPU: forward, dx, dw.
#include "tensor/tf32.h"
#include "tests/cuda_host/emulator.h"
#include "tests/cuda_host/gpu.h"
#include "tests/cuda_parity.h"
#include "tests/skips.h"

using namespace mote;
using namespace mote::test;

namespace {

double absolute_of(DType dtype) { return dtype == DType::f64 ? 1e-12 : dtype == DType::f32 ? 1e-4 : 1e-3; }
double relative_of(DType dtype) { return dtype == DType::bf16 ? 1.0 / 128 : 0; }   // one rounding to the neighbour

struct Conv {
  const char* name;
  Shape x, w;
  Conv2dSpec spec;
  bool bias = false, shift = false, residual = false;
};

/// Empty if forward, dx and dw agree.
std::string conv_disagreement(const Conv& c, DType dtype, int64_t offset, double absolute, double relative) {
  int64_t height = (c.x[1] + c.spec.top + c.spec.bottom - c.w[0]) / c.spec.stride + 1;
  int64_t width = (c.x[2] + c.spec.left + c.spec.right - c.w[1]) / c.spec.stride + 1;
  Shape y{c.x[0], height, width, c.w[3]};
  Tensor x = draw_at(offset, c.x, dtype, 1), w = draw_at(offset, c.w, dtype, 2), dy = draw_at(offset, y, dtype, 3);
  Tensor bias = c.bias ? draw_at(offset, {c.w[3]}, dtype, 4) : Tensor();
  Tensor shift = c.shift ? draw_at(offset, {c.x[0], c.w[3]}, dtype, 5) : Tensor();
  Tensor residual = c.residual ? draw_at(offset, y, dtype, 6) : Tensor();
  return disagreement({stale(y, dtype), stale(c.x, dtype), stale(c.w, dtype)}, offset, [&](auto on, auto& out) {
    on.conv2d(out[0], x, w, bias, shift, residual, c.spec);
    on.conv2d_dx(out[1], dy, w, c.spec);
    on.conv2d_dw(out[2], x, dy, c.spec);
  }, absolute, relative);
}

const Conv2dSpec kSame = Conv2dSpec::same(3), kPlain, kDown{2, 0, 1, 0, 1};

/// Plays a device with so many multiprocessors: with one, no tile is too large.
class Processors {
 public:
  explicit Processors(int count) { cuda_host::host::settings().processors = count; }
  ~Processors() { cuda_host::host::settings().processors = before_; }

 private:
  int before_ = cuda_host::host::settings().processors;
};

}  // namespace

TEST_CASE("convolutions on the GPU agree with the CPU for every kernel, stride, padding and start", "[cuda-host]") {
  const std::vector<Conv> convs = {
      {"3x3", {2, 5, 4, 3}, {3, 3, 3, 5}, kSame, true, true, true},
      {"3x3, whole chunks", {1, 4, 5, 8}, {3, 3, 8, 16}, kSame, true, true, true},
      {"1 channel to 1", {1, 4, 5, 1}, {3, 3, 1, 1}, kSame, true, false, false},
      {"1 channel to 33", {1, 3, 4, 1}, {3, 3, 1, 33}, kSame, false, true, false},
      {"33 channels to 1", {1, 3, 4, 33}, {3, 3, 33, 1}, kSame, false, false, true},
      {"1x1", {2, 3, 4, 5}, {1, 1, 5, 3}, kPlain, true, true, true},
      {"1x1 with stride 2", {2, 4, 5, 3}, {1, 1, 3, 2}, {2, 0, 0, 0, 0}, true},
      {"downwards, even", {2, 4, 6, 8}, {3, 3, 8, 8}, kDown, true},
      {"downwards, odd", {1, 5, 7, 2}, {3, 3, 2, 3}, kDown, true},
      {"stride 3, padded differently", {1, 7, 8, 2}, {3, 3, 2, 2}, {3, 2, 0, 1, 2}, true, true, true},
      {"2x4 kernel", {1, 5, 6, 2}, {2, 4, 2, 3}, {1, 1, 0, 2, 1}, true},
      {"4x4 with stride 2", {1, 6, 4, 2}, {4, 4, 2, 2}, {2, 1, 1, 1, 1}, true},
      {"padding wider than the kernel", {1, 2, 2, 2}, {2, 2, 2, 2}, {1, 3, 3, 3, 3}, true},
      {"stride beyond the kernel", {1, 7, 7, 2}, {2, 2, 2, 2}, {4, 0, 0, 0, 0}, true},
      {"one pixel", {3, 1, 1, 4}, {3, 3, 4, 2}, kSame, true, true, true},
      {"one element", {1, 1, 1, 1}, {1, 1, 1, 1}, kPlain, true, true, true},
      {"no images", {0, 3, 3, 2}, {3, 3, 2, 2}, kSame, true, true, true},
      {"no input channels", {2, 3, 3, 0}, {3, 3, 0, 2}, kSame, true},
  };
  for (DType dtype : {DType::f32, DType::bf16, DType::f64})
    for (const Conv& c : convs) {
      INFO(dtype << ": " << c.name);
      CHECK(conv_disagreement(c, dtype, 0, absolute_of(dtype), relative_of(dtype)) == "");
    }
}

TEST_CASE("convolutions on the GPU read and write memory that begins anywhere", "[cuda-host]") {
  Conv c{"", {1, 4, 5, 8}, {3, 3, 8, 16}, kSame, true, true, true};
  for (DType dtype : {DType::f32, DType::bf16})
    CHECK(conv_disagreement(c, dtype, 1, absolute_of(dtype), relative_of(dtype)) == "");
}

TEST_CASE("the large tiles of a convolution on the GPU give what the small ones give", "[cuda-host]") {
  // With one multiprocessor every tile that fits is taken: 128 x 128 for bf16 and more than 64 channels, else 128 x 64.
  for (const Conv& c : {Conv{"", {1, 5, 7, 16}, {3, 3, 16, 72}, kSame, true, true, true},
                        Conv{"", {3, 7, 7, 8}, {1, 1, 8, 40}, kPlain, true, false, true}})
    for (DType dtype : {DType::f32, DType::bf16}) {
      INFO(dtype << ": " << c.w);
      CHECK(conv_disagreement(c, dtype, 0, absolute_of(dtype), relative_of(dtype)) == "");
      Shape y{c.x[0], c.x[1], c.x[2], c.w[3]};
      Tensor x = draw_at(0, c.x, dtype, 1), w = draw_at(0, c.w, dtype, 2);
      Tensor large = stale(y, dtype), small = stale(y, dtype);
      cuda_host::conv2d(large, x, w, {}, {}, {}, c.spec);
      Processors many(1000);
      cuda_host::conv2d(small, x, w, {}, {}, {}, c.spec);
      CHECK(same_bits(large, small));
    }
}

TEST_CASE("convolutions by warpgroups agree with the CPU on every cut into boxes", "[cuda-host]") {
  struct Hopper {   // with shared memory and instructions of sm_90a
    cuda_host::host::Settings before = cuda_host::host::settings();
    Hopper() {
      cuda_host::host::settings().architecture = 90;
      cuda_host::host::settings().shared_limit = 227 * 1024;
    }
    ~Hopper() { cuda_host::host::settings() = before; }
  } hopper;
  const std::vector<Conv> convs = {
      {"boxes of several images", {3, 4, 4, 64}, {3, 3, 64, 64}, kSame, true, true, true},
      {"boxes of rows, the last overhanging", {1, 11, 14, 64}, {3, 3, 64, 128}, kSame, true},
      {"wider than a box", {1, 2, 130, 64}, {1, 1, 64, 64}, kPlain, false, false, true},
      {"two chunks of channels, padded differently", {1, 5, 6, 128}, {2, 3, 128, 64}, {1, 1, 0, 0, 2}, true},
      {"splits of pixels", {10, 8, 8, 64}, {1, 1, 64, 128}, kPlain},
  };
  for (const Conv& c : convs) {
    INFO(c.name);
    CHECK(conv_disagreement(c, DType::bf16, 0, absolute_of(DType::bf16), relative_of(DType::bf16)) == "");
  }
}

TEST_CASE("the weight gradient on the GPU sums its splits of pixels", "[cuda-host]") {
  // 1 x 1 with few channels: 10 x 55 = 550 pixels are 17 stages of bf16, 34 of f32: two and four splits.
  Conv c{"", {10, 5, 11, 3}, {1, 1, 3, 2}, kPlain};
  for (DType dtype : {DType::f32, DType::bf16, DType::f64})
    CHECK(conv_disagreement(c, dtype, 0, absolute_of(dtype), relative_of(dtype)) == "");
}

TEST_CASE("f32 convolutions on the GPU round to TF32 only where that is allowed", "[cuda-host]") {
  Conv c{"", {1, 5, 7, 16}, {3, 3, 16, 24}, kSame, true, true, true};
  struct AllowTf32 {
    AllowTf32() { allow_tf32(true); }
    ~AllowTf32() { allow_tf32(false); }
  } allowed;
  CHECK(conv_disagreement(c, DType::f32, 0, absolute_of(DType::f32), 0) != "");
  CHECK(conv_disagreement(c, DType::f32, 0, 5e-2, 0) == "");
  c = {"", {1, 3, 3, 3}, {3, 3, 3, 5}, kSame, true, true, true};   // the small tile
  CHECK(conv_disagreement(c, DType::f32, 0, 5e-2, 0) == "");
}

TEST_CASE("a Hopper GPU takes the convolutions by warpgroups", "[cuda]") {
  RealGpu gpu;
  if (!gpu.is_there()) return skip(gpu.why_not);
  // 70 x 5 x 14 pixels with 128 channels: the check at first use has been passed if bits differ from those of mma.sync only
  // where sums do; the CPU has the last word.
  Shape shape_x{70, 5, 14, 128}, shape_w{3, 3, 128, 192}, shape_y{70, 5, 14, 192};
  Tensor x = draw_at(0, shape_x, DType::bf16, 1), w = draw_at(0, shape_w, DType::bf16, 2);
  Tensor dy = draw_at(0, shape_y, DType::bf16, 3);
  auto run = [&](Device device) {
    Tensor y = empty(shape_y, DType::bf16, device), dx = empty(shape_x, DType::bf16, device);
    Tensor dw = empty(shape_w, DType::bf16, device);
    kernel::conv2d(y, x.to(device), w.to(device), {}, {}, {}, kSame);
    kernel::conv2d_dx(dx, dy.to(device), w.to(device), kSame);
    kernel::conv2d_dw(dw, x.to(device), dy.to(device), kSame);
    return std::vector<Tensor>{y.to(Device{}), dx.to(Device{}), dw.to(Device{})};
  };
  std::vector<Tensor> got = run(gpu.device), expected = run(Device{});
  for (size_t i = 0; i < 3; ++i) {
    INFO("output " << i << " of y, dx, dw");
    CHECK_CLOSE(got[i], expected[i], 1e-4 * (i == 2 ? 130 : 40), relative_of(DType::bf16));
  }
}

TEST_CASE("the large tiles of a convolution on a GPU agree with the CPU", "[cuda]") {
  RealGpu gpu;
  if (!gpu.is_there()) return skip(gpu.why_not);
  // 17 x 32 x 32 pixels are 136 tiles of 128: with 128 channels out enough of 128 x 128 for an H100, else of 128 x 64.
  for (int64_t channels : {128, 64})
    for (int64_t stride : {1, 2})
      for (DType dtype : {DType::f32, DType::bf16}) {
        INFO(dtype << ", " << channels << " channels, stride " << stride);
        Conv2dSpec spec = stride == 1 ? kSame : kDown;
        int64_t side = stride == 1 ? 32 : 64;
        Shape shape_x{17, side, side, 32}, shape_y{17, 32, 32, channels}, shape_w{3, 3, 32, channels};
        Tensor x = draw_at(0, shape_x, dtype, 1), w = draw_at(0, shape_w, dtype, 2), dy = draw_at(0, shape_y, dtype, 3);
        Tensor bias = draw_at(0, {channels}, dtype, 4), shift = draw_at(0, {17, channels}, dtype, 5);
        Tensor residual = draw_at(0, shape_y, dtype, 6);
        auto run = [&](Device device) {
          auto on = [&](const Tensor& tensor) { return tensor.to(device); };
          Tensor y = on(stale(shape_y, dtype)), dx = on(stale(shape_x, dtype)), dw = on(stale(shape_w, dtype));
          kernel::conv2d(y, on(x), on(w), on(bias), on(shift), on(residual), spec);
          kernel::conv2d_dx(dx, on(dy), on(w), spec);
          kernel::conv2d_dw(dw, on(x), on(dy), spec);
          return std::vector<Tensor>{y.to(Device{}), dx.to(Device{}), dw.to(Device{})};
        };
        std::vector<Tensor> got = run(gpu.device), again = run(gpu.device), expected = run(Device{});
        for (size_t i = 0; i < 3; ++i) {
          INFO("output " << i << " of y, dx, dw");
          double size = i == 2 ? 130 : 20;   // of sums of 17408 and of some 300 products
          double absolute = dtype == DType::f32 ? 1e-5 * size : 1e-4 * size;
          CHECK_CLOSE(got[i], expected[i], absolute, relative_of(dtype));
          CHECK(same_bits(got[i], again[i]));
        }
      }
}
