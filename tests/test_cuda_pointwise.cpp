// The GPU kernels that look at each element once, on the emulated GPU against the CPU: the same bits, because both call
// the same functors. Sizes: nothing, one, no multiple of a pack, more than the grid has threads; memory that begins
// where a pack may and where it may not.
#include "autograd/ops.h"
#include "tests/cuda_parity.h"

using namespace mote;
using namespace mote::test;

namespace {

const std::vector<DType> kFloating = {DType::f32, DType::bf16, DType::f64};
const std::vector<int64_t> kOffsets = {0, 1};

}  // namespace

// ---- Unary and binary ----------------------------------------------------------------------------------------------

TEST_CASE("unary functions on the GPU have the bits of the CPU, both passes", "[cuda-host]") {
  const std::vector<Unary> ops = {{Unary::affine, 1.5, -0.25}, {Unary::exp},     {Unary::log},  {Unary::sqrt},
                                  {Unary::square},             {Unary::reciprocal}, {Unary::abs}, {Unary::sin},
                                  {Unary::cos},                {Unary::sigmoid}, {Unary::silu}, {Unary::gelu},
                                  {Unary::tanh},               {Unary::relu},    {Unary::softplus},
                                  {Unary::clamp, -0.5, 0.75},  {Unary::pow, 2.5}};
  REQUIRE(ops.size() == size_t(Unary::pow) + 1);
  for (DType dtype : kFloating)
    for (const Unary& op : ops)
      for (int64_t n : {0, 1, 8, 77}) {
        for (int64_t offset : kOffsets) {
          Tensor x = draw_at(offset, {n}, dtype, 1), dy = draw_at(offset, {n}, dtype, 2), y = stale({n}, dtype);
          INFO(dtype << ", function " << int(op.kind) << ", " << n << " elements from " << offset);
          CHECK(disagreement({y}, offset, [&](auto on, auto& out) { on.unary(out[0], x, op); }) == "");
          CHECK(disagreement({y}, offset, [&](auto on, auto& out) { on.unary_backward(out[0], x, dy, op); }) == "");
        }
      }
}

TEST_CASE("a unary function goes round the grid more than once", "[cuda-host]") {
  for (DType dtype : {DType::f32, DType::bf16}) {
    Tensor x = draw_at(0, {70'001}, dtype, 1);
    CHECK(disagreement({stale(x.shape(), dtype)}, 0,
                       [&](auto on, auto& out) { on.unary(out[0], x, {Unary::silu}); }) == "");
  }
}

TEST_CASE("the backward of an affine function reads dy only", "[cuda-host]") {
  Tensor dy = draw_at(0, {5}, DType::f32, 1);
  CHECK(disagreement({stale({5}, DType::f32)}, 0,
                     [&](auto on, auto& out) { on.unary_backward(out[0], {}, dy, {Unary::affine, 3, 1}); }) == "");
}

TEST_CASE("binary functions on the GPU broadcast as the CPU does, both passes", "[cuda-host]") {
  struct Case { Shape a, b, y; };
  const std::vector<Case> cases = {
      {{37}, {37}, {37}},                               // one run
      {{3, 16}, {16}, {3, 16}},                         // rows of whole packs
      {{3, 5, 7}, {7}, {3, 5, 7}},                      // rows of no whole pack
      {{3, 5, 1}, {3, 1, 16}, {3, 5, 16}},              // both stretched
      {{2, 3, 4, 8}, {2, 1, 1, 8}, {2, 3, 4, 8}},       // a time embedding
      {{1}, {2, 9}, {2, 9}},
      {{4, 1}, {1}, {4, 1}},
      {{}, {}, {}},
      {{0, 3}, {3}, {0, 3}},
      {{1, 2, 1, 3, 1, 8}, {2, 2, 1, 1, 3, 8}, {2, 2, 1, 3, 3, 8}},
  };
  for (DType dtype : kFloating)
    for (Binary op : {Binary::add, Binary::sub, Binary::mul, Binary::div, Binary::maximum, Binary::minimum,
                      Binary::bce_with_logits})
      for (const Case& c : cases) {
        if (dtype == DType::f64 && op != Binary::mul) continue;   // the walk is the same for all functions
        for (int64_t offset : kOffsets) {
          Tensor a = draw_at(offset, c.a, dtype, 1), b = draw_at(offset, c.b, dtype, 2), y = stale(c.y, dtype);
          Tensor dy = draw_at(offset, c.y, dtype, 3);
          INFO(dtype << ", function " << int(op) << ": " << c.a << " and " << c.b << " from " << offset);
          CHECK(disagreement({y}, offset, [&](auto on, auto& out) { on.binary(out[0], a, b, op); }) == "");
          for (const std::vector<Tensor>& wanted : {std::vector<Tensor>{y, y}, {y, {}}, {{}, y}})
            CHECK(disagreement(wanted, offset, [&](auto on, auto& out) {
                    on.binary_backward(dy, out[0], out[1], a, b, op);
                  }) == "");
        }
      }
}

TEST_CASE("ties of maximum and minimum share the gradient on the GPU", "[cuda-host]") {
  Tensor a = from({1, 2, 3, NAN}, {4}), b = from({1, 3, 2, 1}, {4}), dy = from({1, 1, 1, 1}, {4});
  for (Binary op : {Binary::maximum, Binary::minimum})
    CHECK(disagreement({stale({4}, DType::f32), stale({4}, DType::f32)}, 0, [&](auto on, auto& out) {
            on.binary_backward(dy, out[0], out[1], a, b, op);
          }) == "");
}

TEST_CASE("sums of tensors on the GPU have the bits of the CPU", "[cuda-host]") {
  for (DType dtype : kFloating)
    for (int64_t offset : kOffsets)
      for (int64_t n : {0, 1, 40}) {
        INFO(dtype << ", " << n << " elements from " << offset);
        std::vector<Tensor> x;
        for (uint64_t k = 0; k < 8; ++k) x.push_back(draw_at(offset, {n}, dtype, k + 1));
        for (DType other : kFloating) {
          Tensor more = draw_at(offset, {n}, other, 9);
          CHECK(disagreement({x[0]}, offset, [&](auto on, auto& out) { on.accumulate(out[0], more); }) == "");
        }
        for (size_t count : {1, 2, 5, 8})
          CHECK(disagreement({x[0]}, offset, [&](auto on, auto& out) {
                  std::vector<Term> terms = {{0.5, out[0]}};   // the output is a term
                  while (terms.size() < count) terms.push_back({-1.25 * double(terms.size()), x[terms.size()]});
                  on.combine(out[0], terms);
                }) == "");
        for (int64_t images : {1, 3}) {
          Tensor rows = draw_at(offset, {images, n}, dtype, 1), e = draw_at(offset, {images, n}, dtype, 2);
          Tensor a = normal({images}, DType::f64, Generator{3}), b = normal({images}, DType::f64, Generator{4});
          CHECK(disagreement({stale(rows.shape(), dtype)}, offset,
                             [&](auto on, auto& out) { on.combine_rows(out[0], rows, e, a, b); }) == "");
        }
      }
}

// ---- Fill, convert, move -------------------------------------------------------------------------------------------

TEST_CASE("fill and convert on the GPU know every dtype", "[cuda-host]") {
  const std::vector<DType> all = {DType::f32, DType::bf16, DType::f64, DType::i32, DType::i64, DType::u8};
  for (DType from_dtype : all)
    for (int64_t offset : kOffsets)
      for (int64_t n : {0, 1, 39}) {
        INFO(from_dtype << ", " << n << " elements from " << offset);
        CHECK(disagreement({stale({n}, from_dtype)}, offset, [&](auto on, auto& out) { on.fill(out[0], 3.75); }) == "");
        Tensor x = inside(affine(uniform({n}, DType::f32, Generator{1}), 120, 0).to(from_dtype), offset);
        for (DType to : all)
          CHECK(disagreement({stale({n}, to)}, offset, [&](auto on, auto& out) { on.convert(out[0], x); }) == "");
      }
}

TEST_CASE("the GPU converts integers of 64 bits, NaN and infinity as the CPU does", "[cuda-host]") {
  Tensor wide = empty({3}, DType::i64);
  wide.data<int64_t>()[0] = (int64_t(1) << 53) + 1;
  wide.data<int64_t>()[1] = -(int64_t(1) << 62) - 3;
  wide.data<int64_t>()[2] = 16777217;   // rounded once to f32
  for (DType to : {DType::i64, DType::f32, DType::bf16, DType::f64})
    CHECK(disagreement({stale({3}, to)}, 0, [&](auto on, auto& out) { on.convert(out[0], wide); }) == "");
  Tensor odd = from({NAN, INFINITY, -INFINITY, -0.0, 1e-40, 3.3e38, 1 + 1.0 / 256, 1 + 3.0 / 256}, {8});
  for (DType to : kFloating)
    CHECK(disagreement({stale({8}, to)}, 0, [&](auto on, auto& out) { on.convert(out[0], odd); }) == "");
}

TEST_CASE("boxes, permutations and broadcasts on the GPU move what the CPU moves", "[cuda-host]") {
  struct Box { Shape large, small; std::vector<int64_t> start; };
  const std::vector<Box> boxes = {
      {{3, 5, 7, 16}, {3, 5, 7, 8}, {0, 0, 0, 8}}, {{3, 5, 7, 6}, {2, 5, 7, 3}, {1, 0, 0, 2}},
      {{2, 3, 4, 5, 6}, {2, 1, 4, 2, 6}, {0, 2, 0, 3, 0}}, {{7}, {3}, {2}}, {{4, 5}, {4, 5}, {0, 0}},
      {{4, 5}, {0, 5}, {2, 0}}, {{}, {}, {}}};
  struct Order { Shape x; Axes axes; };
  const std::vector<Order> orders = {{{}, {}}, {{5}, {0}}, {{3, 5}, {1, 0}}, {{2, 3, 4}, {0, 2, 1}},
                                     {{2, 3, 1, 4}, {3, 2, 0, 1}}, {{2, 0, 3}, {2, 1, 0}},
                                     {{2, 1, 3, 2, 2}, {0, 1, 2, 4, 3}}};
  struct Stretch { Shape x, y; };
  const std::vector<Stretch> stretches = {
      {{1}, {5}}, {{3, 1, 4}, {3, 2, 4}}, {{16}, {3, 16}}, {{}, {2, 3}}, {{1, 0}, {4, 0}}};
  for (DType dtype : {DType::u8, DType::bf16, DType::f32, DType::f64})
    for (int64_t offset : kOffsets) {
      auto numbers = [&](const Shape& shape) { return inside(arange(shape.numel()).to(dtype).view(shape), offset); };
      for (const Box& box : boxes) {
        INFO(dtype << ": " << box.small << " in " << box.large << " from " << offset);
        Tensor large = numbers(box.large), small = numbers(box.small);
        CHECK(disagreement({large}, offset, [&](auto on, auto& out) { on.put_box(out[0], small, box.start); }) == "");
        CHECK(disagreement({small}, offset, [&](auto on, auto& out) { on.get_box(out[0], large, box.start); }) == "");
      }
      for (const Order& order : orders) {
        std::vector<int64_t> sizes;
        for (int axis = 0; axis < order.x.ndim(); ++axis) sizes.push_back(order.x[order.axes[size_t(axis)]]);
        INFO(dtype << ": " << order.x << " to " << Shape(sizes));
        Tensor x = numbers(order.x);
        CHECK(disagreement({stale(Shape(sizes), dtype)}, offset,
                           [&](auto on, auto& out) { on.permute(out[0], x, order.axes); }) == "");
      }
      for (const Stretch& stretch : stretches) {
        if (!is_floating(dtype)) continue;
        INFO(dtype << ": " << stretch.x << " to " << stretch.y);
        Tensor x = numbers(stretch.x);
        CHECK(disagreement({stale(stretch.y, dtype)}, offset,
                           [&](auto on, auto& out) { on.broadcast(out[0], x); }) == "");
      }
    }
}

// ---- Random numbers, the optimiser ---------------------------------------------------------------------------------

TEST_CASE("draws on the GPU have the bits of the CPU, also where the counter passes 32 bits", "[cuda-host][random]") {
  uint64_t seed = 0x123456789abcdef0;
  for (uint64_t at : {uint64_t(0), (uint64_t(1) << 32) - 5, uint64_t(0xfedcba9876543210)})
    for (int64_t offset : kOffsets)
      for (int64_t n : {0, 1, 3, 31, 1030}) {
        INFO(n << " elements, block " << at << ", from " << offset);
        for (DType dtype : kFloating) {
          Tensor y = stale({n}, dtype), x = draw_at(offset, {n}, dtype, 1);
          CHECK(disagreement({y}, offset, [&](auto on, auto& out) { on.random_uniform(out[0], seed, at); }) == "");
          CHECK(disagreement({y}, offset, [&](auto on, auto& out) { on.random_normal(out[0], seed, at); }) == "");
          for (double p : {0.1, 1 - 0x1p-24})
            CHECK(disagreement({y}, offset, [&](auto on, auto& out) { on.dropout(out[0], x, p, seed, at); }) == "");
        }
        CHECK(disagreement({stale({n}, DType::i64)}, offset, [&](auto on, auto& out) {
                on.random_int(out[0], -3, int64_t(1) << 62, seed, at);
              }) == "");
      }
}

TEST_CASE("the clip factor on the GPU has the bits of the CPU", "[cuda-host]") {
  for (float before : {1.0f, NAN})
    for (double squares : {0.25, 10.0, 1e60, double(INFINITY)})
      for (double loss : {0.5, double(NAN)})
        CHECK(disagreement({full({1}, before)}, 0, [&](auto on, auto& out) {
                on.clip_scale(out[0], full({1}, squares, DType::f64), full({1}, loss, DType::f64), 1);
              }) == "");
}

TEST_CASE("a step of AdamW on the GPU has the bits of the CPU, with and without an average", "[cuda-host]") {
  AdamW options{.lr = 1e-2, .weight_decay = 0.1, .step = 7, .ema_decay = 0.9};
  for (int64_t offset : kOffsets)
    for (int64_t n : {0, 1, 4, 1027}) {
      Tensor p = normal({n}, DType::f32, Generator{1}), g = draw_at(offset, {n}, DType::f32, 2);
      Tensor m = normal({n}, DType::f32, Generator{3}), v = uniform({n}, DType::f32, Generator{4});
      for (const Tensor& ema : {normal({n}, DType::f32, Generator{5}), Tensor()}) {
        for (float scale : {0.3f, NAN}) {
          INFO(n << " parameters from " << offset << ", scale " << scale);
          CHECK(disagreement({p, m, v, ema}, offset, [&](auto on, auto& out) {
                  on.adamw(out[0], g, full({1}, scale), out[1], out[2], out[3], options);
                }) == "");
        }
      }
    }
}
