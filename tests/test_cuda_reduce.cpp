// The GPU kernels that sum, normalise and resample, on the emulated GPU against the CPU. Sums that both make in the
// same order have the same bits; a softmax folds its row in another order, in double.
#include "tests/cuda_host/emulator.h"
#include "tests/cuda_parity.h"

using namespace mote;
using namespace mote::test;

namespace {

const std::vector<DType> kFloating = {DType::f32, DType::bf16, DType::f64};
const std::vector<int64_t> kOffsets = {0, 1};

/// A row's sum in double in another order may be rounded to the other neighbour: then results differ by a rounding or
/// two of the compute type, or by a bf16's last bit.
double softmax_tolerance(DType dtype) { return dtype == DType::f64 ? 1e-13 : dtype == DType::f32 ? 1e-6 : 1.0 / 128; }

/// Plays a device whose blocks have so much shared memory.
class SharedLimit {
 public:
  explicit SharedLimit(size_t bytes) { cuda_host::host::settings().shared_limit = bytes; }
  ~SharedLimit() { cuda_host::host::settings().shared_limit = before_; }

 private:
  size_t before_ = cuda_host::host::settings().shared_limit;
};

}  // namespace

// ---- Sums ----------------------------------------------------------------------------------------------------------

TEST_CASE("sums on the GPU have the bits of the CPU, along every axis", "[cuda-host]") {
  struct Case { Shape x, y; };
  const std::vector<Case> cases = {
      {{1}, {1}},           {{5}, {}},            {{37}, {1}},             {{3, 37}, {3, 1}},
      {{9000}, {1}},                              // chunks, lanes, and a rest
      {{2, 4113}, {2, 1}},  {{4113, 3}, {3}},     // short rows are added many at a time
      {{70, 300}, {300}},                         // long rows one at a time, in chunks
      {{3, 4, 5}, {3, 1, 5}}, {{3, 4, 5}, {1, 4, 1}}, {{2, 3, 2, 3, 2}, {2, 1, 2, 1, 2}}, {{2, 3, 2, 3}, {3, 1, 1}},
      {{0, 3}, {3}},        {{3, 0}, {3, 1}},     {{2, 3}, {2, 3}},        {{1, 3}, {3}},
      {{8, 40}, {}},
  };
  for (DType dtype : kFloating)
    for (const Case& c : cases)
      for (int64_t offset : kOffsets) {
        INFO(dtype << ": " << c.x << " to " << c.y << " from " << offset);
        Tensor x = draw_at(offset, c.x, dtype, 1);
        CHECK(disagreement({stale(c.y, dtype)}, offset, [&](auto on, auto& out) { on.sum_to(out[0], x); }) == "");
        CHECK(disagreement({stale({1}, DType::f64)}, 0, [&](auto on, auto& out) { on.sum_squares(out[0], x); }) == "");
      }
}

TEST_CASE("a sum of squares on the GPU passes 1e38 and keeps infinity and NaN", "[cuda-host]") {
  for (const std::vector<double>& values : {std::vector<double>{2e19, 3e19}, {1, INFINITY}, {NAN, 1}}) {
    Tensor x = from(values, {2});
    CHECK(disagreement({stale({1}, DType::f64)}, 0, [&](auto on, auto& out) { on.sum_squares(out[0], x); }) == "");
  }
}

TEST_CASE("the largest along an axis on the GPU is the first of equals and NaN before all", "[cuda-host]") {
  struct Case { Shape x; int axis; };
  const std::vector<Case> cases = {{{1}, 0},         {{70}, 0},         {{5, 7}, 1}, {{5, 7}, 0},
                                   {{3, 9, 40}, 1}, {{2, 3, 65}, 2},   {{0, 3}, 1}};
  for (DType dtype : kFloating)
    for (const Case& c : cases) {
      // Few different numbers, so that most are ties; one NaN, then two.
      Generator generator{1};
      Tensor x = inside(randint(-2, 3, c.x, generator).to(dtype), 1);
      for (int nans = 0; nans < 3; ++nans) {
        if (nans > 0 && x.numel() > 4) x.view({-1}).rows(nans * 2, nans * 2 + 1).fill_(NAN);
        INFO(dtype << ": " << c.x << " along " << c.axis << ", " << nans << " NaN");
        Tensor y = stale(c.x.without(c.axis), dtype), index = stale(y.shape(), DType::i64);
        CHECK(disagreement({y, index}, 1, [&](auto on, auto& out) { on.max_axis(out[0], out[1], x, c.axis); }) == "");
        cpu::max_axis(y, index, x, c.axis);
        Tensor dy = draw_at(1, y.shape(), dtype, 2);
        CHECK(disagreement({stale(c.x, dtype)}, 1,
                           [&](auto on, auto& out) { on.max_axis_backward(out[0], index, dy, c.axis); }) == "");
      }
    }
}

// ---- Softmax and cross entropy -------------------------------------------------------------------------------------

TEST_CASE("softmax and its logarithm on the GPU agree with the CPU, both passes", "[cuda-host]") {
  for (DType dtype : kFloating)
    for (const Shape& shape :
         {Shape{}, Shape{1}, Shape{3, 10}, Shape{9, 33}, Shape{2, 2500}, Shape{0, 4}, Shape{3, 0}}) {
      if (dtype == DType::f64 && shape.numel() > 1000) continue;
      for (bool log : {false, true}) {
        INFO(dtype << shape << (log ? " logarithm" : ""));
        double tolerance = softmax_tolerance(dtype);
        Tensor x = draw_at(1, shape, dtype, 1), dy = draw_at(1, shape, dtype, 2), y = empty_like(x);
        CHECK(disagreement({stale(shape, dtype)}, 1, [&](auto on, auto& out) { on.softmax(out[0], x, log); }, tolerance,
                           tolerance) == "");
        cpu::softmax(y, x, log);
        CHECK(disagreement({stale(shape, dtype)}, 1,
                           [&](auto on, auto& out) { on.softmax_backward(out[0], y, dy, log); }, tolerance,
                           tolerance) == "");
      }
    }
}

TEST_CASE("softmax on the GPU keeps NaN in its row, and takes logits of any size", "[cuda-host]") {
  Tensor x = from({1, NAN, 2, 1e4, -1e4, 0, -INFINITY, 0, 1}, {3, 3});
  for (bool log : {false, true})
    CHECK(disagreement({stale({3, 3}, DType::f32)}, 0, [&](auto on, auto& out) { on.softmax(out[0], x, log); }, 1e-6,
                       1e-6) == "");
}

TEST_CASE("cross entropy on the GPU agrees with the CPU, both passes", "[cuda-host]") {
  for (DType dtype : kFloating)
    for (const Shape& shape : {Shape{1, 1}, Shape{7, 10}, Shape{33, 3}, Shape{0, 5}, Shape{2, 2100}}) {
      if (dtype == DType::f64 && shape.numel() > 1000) continue;
      INFO(dtype << shape);
      DType compute = dtype == DType::f64 ? DType::f64 : DType::f32;
      double tolerance = softmax_tolerance(dtype), loss_tolerance = softmax_tolerance(compute);
      Generator generator{3};
      Tensor x = draw_at(1, shape, dtype, 1), target = randint(0, shape[1], {shape[0]}, generator);
      Tensor dloss = draw_at(1, {shape[0]}, compute, 2);
      CHECK(disagreement({stale({shape[0]}, compute)}, 1,
                         [&](auto on, auto& out) { on.cross_entropy(out[0], x, target); }, loss_tolerance,
                         loss_tolerance) == "");
      CHECK(disagreement({stale(shape, dtype)}, 1,
                         [&](auto on, auto& out) { on.cross_entropy_backward(out[0], x, target, dloss); }, tolerance,
                         tolerance) == "");
    }
}

// ---- Group norm ----------------------------------------------------------------------------------------------------

TEST_CASE("group norm on the GPU has the bits of the CPU, in shared memory and without", "[cuda-host]") {
  struct Case { Shape x; int64_t groups; };
  const std::vector<Case> cases = {
      {{1, 1, 1, 1}, 1},  {{2, 3, 5, 12}, 3}, {{2, 4, 4, 32}, 8},   // several groups a block
      {{3, 7, 5, 6}, 2},                                            // groups of no whole pack
      {{1, 9, 8, 256}, 32},                                         // more than a chunk of pixels
      {{1, 30, 10, 64}, 16},                                        // four pixels a run, more than a chunk of them
      {{0, 4, 4, 8}, 2},  {{2, 0, 3, 4}, 2},
  };
  for (size_t limit : {size_t(99) << 10, size_t(1) << 10}) {
    SharedLimit shared(limit);
    for (DType dtype : kFloating)
      for (const Case& c : cases)
        for (bool silu : {false, true}) {
          if (c.x.numel() > 10'000 && (dtype == DType::f64 || !silu)) continue;
          int64_t offset = c.groups % 2;
          INFO(dtype << c.x << ", " << c.groups << " groups" << (silu ? ", silu" : "") << ", " << limit << " bytes");
          DType compute = dtype == DType::f64 ? DType::f64 : DType::f32;
          Shape channels{c.x[3]}, statistics{c.x[0], c.groups};
          Tensor x = draw_at(offset, c.x, dtype, 1), dy = draw_at(offset, c.x, dtype, 2);
          Tensor gamma = draw_at(offset, channels, dtype, 3), beta = draw_at(offset, channels, dtype, 4);
          CHECK(disagreement({stale(c.x, dtype), stale(statistics, compute), stale(statistics, compute)}, offset,
                             [&](auto on, auto& out) {
                               on.group_norm(out[0], out[1], out[2], x, gamma, beta, c.groups, 1e-5, silu);
                             }) == "");
          Tensor y = empty_like(x), mean = empty(statistics, compute), rstd = empty(statistics, compute);
          cpu::group_norm(y, mean, rstd, x, gamma, beta, c.groups, 1e-5, silu);
          for (const std::vector<Tensor>& wanted :
               {std::vector<Tensor>{y, gamma, beta}, {y, {}, {}}, {{}, gamma, beta}, {y, gamma, {}}}) {
            if (c.x.numel() > 10'000 && !(wanted[0].defined() && wanted[2].defined())) continue;
            CHECK(disagreement(wanted, offset, [&](auto on, auto& out) {
                    on.group_norm_backward(out[0], out[1], out[2], dy, x, mean, rstd, gamma, beta, c.groups, silu);
                  }) == "");
          }
        }
  }
}

// ---- Resampling and lookup -----------------------------------------------------------------------------------------

TEST_CASE("resampling on the GPU has the bits of the CPU, both passes", "[cuda-host]") {
  struct Case { Shape small; int64_t factor; };
  const std::vector<Case> cases = {
      {{1, 1, 1, 1}, 1}, {{2, 3, 2, 8}, 2}, {{1, 2, 3, 5}, 3}, {{3, 2, 2, 16}, 2}, {{0, 2, 2, 4}, 2}};
  for (DType dtype : kFloating)
    for (const Case& c : cases)
      for (int64_t offset : kOffsets) {
        INFO(dtype << c.small << " times " << c.factor << " from " << offset);
        Shape large_shape{c.small[0], c.small[1] * c.factor, c.small[2] * c.factor, c.small[3]};
        Tensor small = draw_at(offset, c.small, dtype, 1), large = draw_at(offset, large_shape, dtype, 2);
        Tensor to_small = stale(c.small, dtype), to_large = stale(large_shape, dtype);
        auto check = [&](const Tensor& to, auto call) { CHECK(disagreement({to}, offset, call) == ""); };
        check(to_large, [&](auto on, auto& out) { on.upsample_nearest(out[0], small, c.factor); });
        check(to_small, [&](auto on, auto& out) { on.upsample_nearest_backward(out[0], large, c.factor); });
        check(to_small, [&](auto on, auto& out) { on.avg_pool(out[0], large, c.factor); });
        check(to_large, [&](auto on, auto& out) { on.avg_pool_backward(out[0], small, c.factor); });
        Generator generator{3};   // few different numbers: ties; and a NaN
        Tensor x = inside(randint(0, 3, large_shape, generator).to(dtype), offset);
        if (x.numel() > 8) x.view({-1}).rows(7, 8).fill_(NAN);
        check(to_small, [&](auto on, auto& out) { on.max_pool(out[0], x, c.factor); });
        check(to_large, [&](auto on, auto& out) { on.max_pool_backward(out[0], small, x, c.factor); });
      }
}

TEST_CASE("rows are looked up and their gradients added on the GPU as on the CPU", "[cuda-host]") {
  for (DType dtype : kFloating)
    for (int64_t width : {1, 5, 16})
      for (int64_t count : {0, 1, 9}) {
        Generator generator{3};
        Tensor table = draw_at(1, {4, width}, dtype, 1), dy = draw_at(1, {count, width}, dtype, 2);
        Tensor ids = inside(randint(0, 3, {count}, generator), 1);   // row 3 is nobody's
        INFO(dtype << ", " << count << " rows of " << width);
        for (int64_t offset : kOffsets)
          CHECK(disagreement({stale({count, width}, dtype)}, offset,
                             [&](auto on, auto& out) { on.gather_rows(out[0], table, ids); }) == "");
        CHECK(disagreement({stale({4, width}, dtype)}, 1,
                           [&](auto on, auto& out) { on.gather_rows_backward(out[0], ids, dy); }) == "");
      }
}

TEST_CASE("the time embedding on the GPU has the bits of the CPU in its variants", "[cuda-host]") {
  Tensor t = from({0, 1, 0.5, 999}, {4});
  for (DType dtype : kFloating)
    for (int64_t width : {4, 10, 64})
      for (const TimeEmbedding& kind : {TimeEmbedding{}, TimeEmbedding{true, 0}})
        for (int64_t count : {0, 4}) {
          Tensor steps = t.rows(0, count);
          CHECK(disagreement({stale({count, width}, dtype)}, 1,
                             [&](auto on, auto& out) { on.timestep_embedding(out[0], steps, kind); }) == "");
        }
}
