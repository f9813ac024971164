// The engine: how records are made, walked and freed; and gradcheck, which has to catch wrong gradients.
#include <thread>

#include "autograd/gradcheck.h"
#include "autograd/ops.h"
#include "tensor/allocator.h"
#include "tests/support.h"

namespace mote::test {
namespace {

Tensor leaf(const std::vector<double>& values, const Shape& shape, DType dtype = DType::f32) {
  return from(values, shape, dtype).requires_grad();
}

std::string message_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

/// y = 2 x whose backward returns whatever `backward` does.
Tensor doubled(const Tensor& x, BackwardFn backward, const char* op = "doubled") {
  return record(op, affine(x.detach(), 2, 0), {x}, std::move(backward));
}

}  // namespace

// ---- Gradients -----------------------------------------------------------------------------------------------------

TEST_CASE("the gradient of a broadcast add sums over the broadcast axis", "[autograd]") {
  Tensor x = leaf({1, 2}, {2, 1});
  backward(sum(add(x, zeros({2, 3}))));
  CHECK_SAME(x.grad(), from({3, 3}, {2, 1}));   // three copies of each element
}

TEST_CASE("a tensor that is used twice gets the sum of both gradients", "[autograd]") {
  Tensor x = leaf({1, -2}, {2});
  backward(sum(add(x, x)));
  CHECK_SAME(x.grad(), from({2, 2}, {2}));

  Tensor z = leaf({3, 5}, {2});
  backward(sum(mul(z, z)));
  CHECK_SAME(z.grad(), from({6, 10}, {2}));
}

TEST_CASE("a diamond hands each branch's gradient on once", "[autograd]") {
  // y = x^2, loss = sum(3 y + y * y): d/dx = (3 + 2 x^2) 2 x
  Tensor x = leaf({1, 2}, {2});
  Tensor y = square(x);
  backward(sum(add(affine(y, 3, 0), mul(y, y))));
  CHECK_SAME(x.grad(), from({10, 44}, {2}));
}

TEST_CASE("a chain of diamonds takes linear time, not exponential", "[autograd]") {
  Tensor x = leaf({1}, {1}, DType::f64);
  Tensor y = x;
  for (int i = 0; i < 60; ++i) y = affine(add(y, y), 0.5, 0);   // 2^60 paths
  backward(y);
  CHECK_SAME(x.grad(), from({1}, {1}, DType::f64));
}

TEST_CASE("a gradient that two tensors share is not summed into in place", "[autograd]") {
  // add hands the same dy to both branches; the sum that then arrives at y must not change what z still has to read.
  Tensor x = leaf({1}, {1}), w = leaf({1}, {1});
  Tensor y = affine(x, 1, 0), z = affine(w, 1, 0);
  Tensor both = add(y, z);
  backward(add(both, affine(y, 10, 0)));
  CHECK_SAME(x.grad(), from({11}, {1}));
  CHECK_SAME(w.grad(), from({1}, {1}));
}

TEST_CASE("the cotangent that is given to backward is left as it was", "[autograd]") {
  Tensor x = leaf({1, 2}, {2}), dy = from({5, 7}, {2});
  Tensor y = reshape(x, {2});
  backward(add(y, y), dy);
  CHECK_SAME(dy, from({5, 7}, {2}));
  CHECK_SAME(x.grad(), from({10, 14}, {2}));

  Tensor direct = leaf({1, 2}, {2});
  backward(reshape(direct, {2}), dy);
  backward(reshape(direct, {2}), dy);   // accumulates into the leaf's own memory, not into dy
  CHECK_SAME(dy, from({5, 7}, {2}));
  CHECK_SAME(direct.grad(), from({10, 14}, {2}));
}

TEST_CASE("backward of a leaf is its cotangent", "[autograd]") {
  Tensor x = leaf({4}, {1});
  backward(x);
  backward(x, from({2}, {1}));
  CHECK_SAME(x.grad(), from({3}, {1}));
}

TEST_CASE("inputs that no gradient reaches keep none", "[autograd]") {
  Tensor x = leaf({1, 2, 3}, {3}), unused = leaf({1}, {1});
  Tensor other = mul(unused, unused);
  backward(sum(slice(x, 1, 2)));
  CHECK_SAME(x.grad(), from({0, 1, 0}, {3}));
  CHECK(!unused.grad().defined());
}

TEST_CASE("gradients stop at detach", "[autograd]") {
  Tensor x = leaf({3}, {1});
  Tensor y = mul(x, square(x).detach());
  CHECK(!square(x).detach().needs_grad());
  backward(y);
  CHECK_SAME(x.grad(), from({9}, {1}));
}

// ---- Leaves --------------------------------------------------------------------------------------------------------

TEST_CASE("gradients accumulate over two backward calls until they are dropped", "[autograd]") {
  Tensor x = leaf({2}, {1});
  backward(square(x));
  CHECK_SAME(x.grad(), from({4}, {1}));
  backward(square(x));
  CHECK_SAME(x.grad(), from({8}, {1}));
  x.set_grad({});
  CHECK(!x.grad().defined());
  backward(square(x));
  CHECK_SAME(x.grad(), from({4}, {1}));
}

TEST_CASE("backward adds into the buffer that set_grad gave, a view included", "[autograd]") {
  Tensor arena = zeros({5});
  Tensor x = leaf({1, 2}, {2, 1}), w = leaf({3}, {1});
  x.set_grad(arena.rows(1, 3).view({2, 1}));
  w.set_grad(arena.rows(4, 5));
  backward(sum(mul(x, w)));
  CHECK_SAME(arena, from({0, 3, 3, 0, 3}, {5}));
  backward(sum(mul(x, w)));
  CHECK_SAME(arena, from({0, 6, 6, 0, 6}, {5}));
  CHECK(x.grad().raw() == arena.rows(1, 3).raw());
}

TEST_CASE("set_grad refuses a buffer of another shape or dtype, and tensors that are no leaf", "[autograd][errors]") {
  Tensor x = leaf({1, 2}, {2});
  CHECK(contains(message_of([&] { x.set_grad(zeros({3})); }), "tensor is f32[2] on cpu, gradient is f32[3] on cpu"));
  CHECK(contains(message_of([&] { x.set_grad(zeros({2}, DType::bf16)); }), "gradient is bf16[2]"));
  CHECK(contains(message_of([&] { square(x).set_grad(zeros({2})); }), "set_grad: only a leaf"));
  Tensor plain = zeros({2});
  CHECK(contains(message_of([&] { plain.set_grad(zeros({2})); }), "set_grad: only a leaf"));
}

TEST_CASE("only floating tensors that are no result of an op become leaves", "[autograd][errors]") {
  Tensor ids = zeros({2}, DType::i64), nothing, x = leaf({1}, {1});
  CHECK(contains(message_of([&] { ids.requires_grad(); }), "requires_grad: only a floating tensor"));
  CHECK(contains(message_of([&] { nothing.requires_grad(); }), "undefined"));
  Tensor y = square(x);
  CHECK(contains(message_of([&] { y.requires_grad(); }), "the result of square"));
  CHECK(x.requires_grad().needs_grad());       // asking again changes nothing
  CHECK(!x.requires_grad(false).needs_grad());
  CHECK(!square(x).needs_grad());
}

TEST_CASE("copies of a leaf share its gradient", "[autograd]") {
  Tensor x = leaf({2}, {1});
  Tensor copy = x;
  backward(square(copy));
  CHECK_SAME(x.grad(), from({4}, {1}));
}

// ---- Records -------------------------------------------------------------------------------------------------------

TEST_CASE("under NoGrad nothing is recorded, and recording comes back after it", "[autograd]") {
  Tensor x = leaf({2}, {1});
  {
    NoGrad outer;
    {
      NoGrad inner;
      CHECK(!square(x).needs_grad());
    }
    CHECK(NoGrad::active());
    CHECK(!square(x).needs_grad());
  }
  CHECK(!NoGrad::active());
  CHECK(square(x).needs_grad());
}

TEST_CASE("NoGrad on one thread leaves the others recording", "[autograd]") {
  NoGrad no_grad;
  bool recorded = false;
  std::thread([&] { recorded = square(leaf({2}, {1})).needs_grad(); }).join();
  CHECK(recorded);
}

TEST_CASE("ops on tensors without gradients record nothing", "[autograd]") {
  CHECK(!add(zeros({2}), zeros({2})).needs_grad());
  CHECK(!argmax(leaf({1, 2}, {2}), 0).needs_grad());
}

TEST_CASE("a second backward over a used graph is an Error that names the op", "[autograd][errors]") {
  Tensor x = leaf({2}, {1});
  Tensor y = square(x);
  backward(y);
  CHECK(contains(message_of([&] { backward(y); }), "backward: the record of square has been used"));
  CHECK_SAME(x.grad(), from({4}, {1}));   // and adds nothing

  Tensor shared = exp(x);
  backward(affine(shared, 2, 0));
  CHECK(contains(message_of([&] { backward(affine(shared, 3, 0)); }), "the record of exp has been used"));
}

TEST_CASE("backward needs a record and one element, or a cotangent that fits", "[autograd][errors]") {
  Tensor x = leaf({1, 2}, {2});
  CHECK(contains(message_of([&] { backward(zeros({1})); }), "has no record"));
  CHECK(contains(message_of([&] { backward({}); }), "undefined"));
  CHECK(contains(message_of([&] { backward(square(x)); }), "f32[2] has 2 elements"));
  CHECK(contains(message_of([&] { backward(square(x), zeros({1})); }), "loss is f32[2] on cpu, dloss is f32[1]"));
  CHECK(contains(message_of([&] { backward(square(x), zeros({2}, DType::f64)); }), "dloss is f64[2]"));
}

TEST_CASE("an op whose backward returns a wrong shape, dtype or number of gradients is named", "[autograd][errors]") {
  Tensor x = leaf({1, 2}, {2});
  auto message = [&](BackwardFn fn) {
    return message_of([&] { backward(doubled(x, std::move(fn)), zeros({2})); });
  };
  CHECK(message([](const Tensor&) -> Grads { return {zeros({3})}; }) ==
        "doubled: its backward returned f32[3] as the gradient of input 0, which is f32[2]");
  CHECK(contains(message([](const Tensor&) -> Grads { return {zeros({2}, DType::f64)}; }), "f64[2] as the gradient"));
  CHECK(contains(message([](const Tensor&) -> Grads { return {}; }), "doubled: its backward returned 0 gradients for 1"));
  CHECK(message([](const Tensor&) -> Grads { return {Tensor()}; }) == "no error");   // no gradient is no mistake
}

TEST_CASE("a stand-in of another dtype leads its gradient to the leaf, in the dtype of the leaf", "[autograd]") {
  Tensor w = leaf({1, 2, 3}, {3});
  Tensor copy = stand_in(from({1, 2, 3}, {3}, DType::bf16), w);
  for (int pass = 1; pass <= 2; ++pass) {   // the first makes the gradient, the second adds to it
    backward(sum(cast(square(copy), DType::f32)));
    CHECK(w.grad().dtype() == DType::f32);
    CHECK_SAME(w.grad(), from({2. * pass, 4. * pass, 6. * pass}, {3}));
  }
  CHECK(contains(message_of([&] { stand_in(zeros({2}, DType::bf16), w); }), "copy is bf16[2], leaf is f32[3]"));
  CHECK(contains(message_of([&] { stand_in(zeros({3}, DType::i32), w); }), "i32[3]"));
  CHECK(contains(message_of([&] { stand_in(zeros({3}), square(w)); }), "needs a floating copy of a leaf"));
}

// ---- Results that are made again -----------------------------------------------------------------------------------

TEST_CASE("a remade result is not kept, and gives backward the same bits", "[autograd]") {
  int64_t made = 0;
  auto gradient = [&](bool remake) {
    Tensor x = normal({64, 1024}, DType::f32, Generator{5}).requires_grad();
    int64_t before = Allocator::of({}).stats().in_use;
    Tensor y = affine(x, 2, 1);   // keeps nothing itself
    if (remake)
      y = remade(y, [x_ = Saved(x), &made] {
        ++made;
        return affine(x_.get(), 2, 1);
      });
    Tensor z = square(y);
    y = {};
    int64_t kept = Allocator::of({}).stats().in_use - before;
    backward(z, normal(z.shape(), DType::f32, Generator{6}));
    return std::pair(x.grad(), kept);
  };
  auto [plain, kept] = gradient(false);
  auto [again, remade_kept] = gradient(true);
  CHECK_SAME(again, plain);
  CHECK(made == 1);
  CHECK(kept - remade_kept >= 64 * 1024 * 4);
}

TEST_CASE("norm, dropout and upsampling before a convolution are made again in backward instead of being kept", "[autograd]") {
  // x 1 MiB; its normalised and dropped-out copies would be two more, the upsampled one four.
  Tensor x = normal({16, 16, 16, 64}, DType::f32, Generator{1}).requires_grad();
  Tensor gamma = full({64}, 1).requires_grad(), beta = zeros({64}).requires_grad();
  Tensor w = normal({1, 1, 64, 1}, DType::f32, Generator{2}).requires_grad();
  auto kept_by = [&](const std::function<Tensor()>& forward) {
    int64_t before = Allocator::of({}).stats().in_use;
    Tensor y = forward();
    int64_t kept = Allocator::of({}).stats().in_use - before;
    backward(y, full(y.shape(), 1));
    return kept;
  };
  Generator generator{3};
  CHECK(kept_by([&] { return conv2d(group_norm(x, gamma, beta, 8, 1e-6, true), w, {}, {}); }) < x.nbytes() / 8);
  CHECK(kept_by([&] { return conv2d(dropout(group_norm(x, gamma, beta, 8), 0.5, generator), w, {}, {}); }) < x.nbytes() / 8);
  CHECK(kept_by([&] { return conv2d(upsample_nearest(x), w, {}, {}); }) < x.nbytes() / 8);
  // Without a norm in front, dropout's own output is as cheap to keep as its input: it is kept.
  CHECK(kept_by([&] { return conv2d(dropout(x, 0.5, generator), w, {}, {}); }) > x.nbytes());
}

TEST_CASE("what a remade result is made from may not be overwritten before backward", "[autograd][errors]") {
  Tensor x = normal({1, 4, 4, 8}, DType::f32, Generator{1}), gamma = full({8}, 1), beta = zeros({8});
  Tensor w = normal({1, 1, 8, 1}, DType::f32, Generator{2}).requires_grad();
  Tensor y = conv2d(upsample_nearest(affine(x, 1, 0).requires_grad()), w, {}, {});
  backward(y, full(y.shape(), 1));   // the input died with its name: the record holds it
  Tensor z = x.requires_grad();
  y = conv2d(upsample_nearest(z), w, {}, {});
  z.fill_(1);
  CHECK(contains(message_of([&] { backward(y, full(y.shape(), 1)); }), "was overwritten in place"));
}

TEST_CASE("only a floating result can be recorded", "[autograd][errors]") {
  Tensor x = leaf({1}, {1});
  std::string message = message_of([&] {
    record("rounding", zeros({1}, DType::i64), {x}, [](const Tensor& dy) -> Grads { return {dy}; });
  });
  CHECK(contains(message, "rounding: only a floating result"));
}

TEST_CASE("a saved tensor that is overwritten before backward is an Error that names the op", "[autograd][errors]") {
  Tensor x = leaf({1, 2}, {2});
  Tensor y = square(x);
  x.detach().fill_(3);
  CHECK(contains(message_of([&] { backward(y, zeros({2})); }),
                 "square: a tensor saved for backward, f32[2], was overwritten in place"));

  Tensor kept_output = exp(x);
  kept_output.detach().rows(0, 1).copy_(zeros({1}));   // through a view
  CHECK(contains(message_of([&] { backward(kept_output, zeros({2})); }), "exp: a tensor saved"));

  Tensor untouched = affine(x, 2, 0);   // keeps nothing, so nothing can be overwritten
  x.detach().fill_(4);
  CHECK(message_of([&] { backward(untouched, zeros({2})); }) == "no error");
}

TEST_CASE("what records keep is freed as backward goes, and with the graph otherwise", "[autograd]") {
  Tensor a = zeros({4}), b = zeros({4}), x = leaf({1, 2, 3, 4}, {4});
  {
    Tensor y = mul(x, a), z = mul(y, b);
    CHECK(a.use_count() == 2);
    backward(z, zeros({4}));
    CHECK(a.use_count() == 1);   // although y and z are still here
    CHECK(b.use_count() == 1);
  }
  {
    Tensor y = mul(x, a);
    CHECK(a.use_count() == 2);
  }
  CHECK(a.use_count() == 1);
}

TEST_CASE("gradients of tensors in the middle are freed as soon as they are used", "[autograd]") {
  // A chain of 20 keeps one gradient alive at a time, plus the one that is being made.
  constexpr int64_t kBytes = 1 << 20;
  Tensor x = zeros({kBytes / 4}).requires_grad();
  Tensor y = x;
  for (int i = 0; i < 20; ++i) y = affine(y, 1, 1);   // affine keeps nothing
  Tensor dy = zeros(y.shape());
  Allocator& memory = Allocator::of({});
  memory.reset_peak();
  int64_t before = memory.stats().in_use;
  backward(y, dy);
  CHECK(memory.stats().peak - before < 4 * kBytes);
}

TEST_CASE("a failure in the middle of backward leaves the graph usable where it was not run", "[autograd][errors]") {
  Tensor x = leaf({2}, {1});
  Tensor y = square(x);
  Tensor broken = doubled(y, [](const Tensor&) -> Grads { throw Error(Error::Kind::numeric, "broken"); });
  CHECK(message_of([&] { backward(add(affine(y, 5, 0), broken)); }) == "broken");
  CHECK(!NoGrad::active());
  backward(y);   // what the failed walk had brought to y is gone
  CHECK_SAME(x.grad(), from({4}, {1}));
}

// ---- Depth ---------------------------------------------------------------------------------------------------------

TEST_CASE("a graph of a million nodes is destroyed without overflowing the stack", "[autograd]") {
  Tensor x = leaf({1}, {1});
  {
    Tensor y = x;
    for (int i = 0; i < 1'000'000; ++i)   // the records alone: kernels would take most of the time
      y = record("step", x.detach(), {y}, [](const Tensor& dy) -> Grads { return {dy}; });
  }
  CHECK(x.node().use_count() == 1);   // every node has gone
}

TEST_CASE("backward through a million nodes needs no recursion", "[autograd]") {
  Tensor x = leaf({1}, {1});
  Tensor y = x;
  for (int i = 0; i < 1'000'000; ++i)
    y = record("step", x.detach(), {y}, [](const Tensor& dy) -> Grads { return {dy}; });
  backward(y, from({3}, {1}));
  CHECK_SAME(x.grad(), from({3}, {1}));
}

TEST_CASE("a graph that hangs together through its closures is destroyed without recursion too", "[autograd]") {
  Tensor x = leaf({1}, {1});
  {
    Tensor y = x;
    for (int i = 0; i < 300'000; ++i)
      y = record("step", x.detach(), {x}, [before = y](const Tensor& dy) -> Grads { return {dy}; });
  }
  CHECK(x.node().use_count() == 1);
}

// ---- checkpoint ----------------------------------------------------------------------------------------------------

namespace {

struct Outcome {
  Tensor y, dx, dw;
  Generator generator;
};

void check_same(const Outcome& got, const Outcome& expected) {
  CHECK(same_bits(got.y, expected.y));
  CHECK(same_bits(got.dx, expected.dx));
  CHECK(same_bits(got.dw, expected.dw));
  CHECK(got.generator == expected.generator);
}

/// Two blocks of linear, SiLU and dropout; `around` runs each.
Outcome two_blocks(const std::function<Tensor(const std::function<Tensor(const std::vector<Tensor>&)>&, const Tensor&,
                                              Generator&)>& around) {
  Tensor x = normal({33, 17}, DType::f32, Generator{1}).requires_grad();
  Tensor w = normal({17, 17}, DType::f32, Generator{2}).requires_grad();
  Generator generator{3, 40};
  Tensor y = x;
  for (int block = 0; block < 2; ++block)
    y = around([&](const std::vector<Tensor>& in) { return dropout(silu(linear(in[0], w, {})), 0.3, generator); }, y,
               generator);
  Tensor last = dropout(y, 0.5, generator);   // a draw between the forward pass and backward
  backward(last, normal(last.shape(), DType::f32, Generator{4}));
  return {last.detach(), x.grad(), w.grad(), generator};
}

}  // namespace

TEST_CASE("checkpoint gives the same bits as running plainly, with dropout inside", "[autograd][checkpoint]") {
  Outcome plain = two_blocks([](const auto& fn, const Tensor& x, Generator&) { return fn({x}); });
  Outcome recomputed =
      two_blocks([](const auto& fn, const Tensor& x, Generator& generator) { return checkpoint(fn, {x}, &generator); });
  check_same(recomputed, plain);
}

TEST_CASE("checkpoints nest", "[autograd][checkpoint]") {
  Outcome plain = two_blocks([](const auto& fn, const Tensor& x, Generator&) { return fn({x}); });
  Outcome nested = two_blocks([](const auto& fn, const Tensor& x, Generator& generator) {
    return checkpoint([fn, &generator](const std::vector<Tensor>& in) { return checkpoint(fn, in, &generator); }, {x},
                      &generator);
  });
  check_same(nested, plain);
}

TEST_CASE("checkpoint keeps its inputs only, and runs its function once more in backward", "[autograd][checkpoint]") {
  Tensor x = leaf({1, 2, 3}, {3}), constant = from({2, 2, 2}, {3});
  int runs = 0;
  Tensor y = checkpoint(
      [&](const std::vector<Tensor>& in) {
        ++runs;
        return mul(square(in[0]), in[1]);
      },
      {x, constant});
  CHECK(runs == 1);
  CHECK(x.use_count() == 2);
  backward(y, full({3}, 1.0));
  CHECK(runs == 2);
  CHECK_SAME(x.grad(), from({4, 8, 12}, {3}));
  CHECK(!constant.needs_grad());
  CHECK(x.use_count() == 1);
}

TEST_CASE("a checkpoint whose inputs need no gradient still reaches the weights used inside", "[autograd][checkpoint]") {
  Tensor w = leaf({3}, {1}), x = from({5}, {1});
  Tensor y = checkpoint([&](const std::vector<Tensor>& in) { return mul(in[0], w); }, {x});
  REQUIRE(y.needs_grad());
  backward(y);
  CHECK_SAME(w.grad(), from({5}, {1}));
}

TEST_CASE("a checkpoint that touches nothing differentiable records nothing", "[autograd][checkpoint]") {
  Tensor x = from({5}, {1}), w = leaf({3}, {1});
  CHECK(!checkpoint([](const std::vector<Tensor>& in) { return square(in[0]); }, {x}).needs_grad());
  NoGrad no_grad;
  CHECK(!checkpoint([&](const std::vector<Tensor>& in) { return mul(in[0], w); }, {x}).needs_grad());
}

TEST_CASE("a checkpoint that hands its input on passes the gradient through", "[autograd][checkpoint]") {
  Tensor x = leaf({5}, {1});
  Tensor y = checkpoint([](const std::vector<Tensor>& in) { return in[0]; }, {affine(x, 2, 0)});
  backward(y);
  CHECK_SAME(x.grad(), from({2}, {1}));
}

TEST_CASE("an input of a checkpoint that is overwritten before backward is an Error", "[autograd][checkpoint][errors]") {
  Tensor x = leaf({5}, {1});
  Tensor y = checkpoint([](const std::vector<Tensor>& in) { return square(in[0]); }, {x});
  x.detach().fill_(1);
  CHECK(contains(message_of([&] { backward(y); }), "checkpoint: a tensor saved for backward"));
}

TEST_CASE("an Error while a checkpoint runs again leaves generator and recording as they were",
          "[autograd][checkpoint][errors]") {
  Tensor x = leaf({5}, {1});
  Generator generator{1, 10};
  int runs = 0;
  Tensor y = checkpoint(
      [&](const std::vector<Tensor>& in) {
        check(++runs == 1, "second run");
        return dropout(in[0], 0.5, generator);
      },
      {x}, &generator);
  generator.offset = 99;
  CHECK(message_of([&] { backward(y); }) == "second run");
  CHECK(generator == Generator{1, 99});
  CHECK(!NoGrad::active());
  CHECK(square(x).needs_grad());
}

TEST_CASE("a checkpoint whose function changes its shape is an Error", "[autograd][checkpoint][errors]") {
  Tensor x = leaf({5, 6}, {2});
  int64_t rows = 2;
  Tensor y = checkpoint([&](const std::vector<Tensor>& in) { return slice(in[0], 0, rows); }, {x});
  rows = 1;
  CHECK(contains(message_of([&] { backward(y, zeros({2})); }), "checkpoint: fn must give the same shape"));
}

// ---- gradcheck -----------------------------------------------------------------------------------------------------

TEST_CASE("softmax backward matches differences under a random cotangent", "[autograd][grad]") {
  // sum(y) is constant for softmax, so an all-ones cotangent would accept any multiple of the gradient
  auto report = gradcheck([](In t) { return softmax(t[0]); }, {normal({3, 5}, DType::f64, Generator{7})});
  INFO(report.where);
  CHECK(report.worst_relative < 1e-7);   // f64, step 1e-5: truncation about 1e-10
  CHECK(report.checked == 15);
}

namespace {

/// softmax with a gradient that is `factor` times too large.
Tensor softmax_times(const Tensor& x, double factor) {
  Tensor y = softmax(x.detach());
  return record("softmax_times", y, {x}, [y, factor](const Tensor& dy) -> Grads {
    Tensor dx = empty_like(dy);
    kernel::softmax_backward(dx, y, dy, false);
    return {affine(dx, factor, 0)};
  });
}

}  // namespace

TEST_CASE("gradcheck catches a softmax backward that is wrong by a factor of two", "[autograd][grad]") {
  Tensor x = normal({3, 5}, DType::f64, Generator{7});
  CHECK(gradcheck([](In t) { return softmax_times(t[0], 1); }, {x}).worst_relative < 1e-7);
  CHECK(gradcheck([](In t) { return softmax_times(t[0], 2); }, {x}).worst_relative > 1e-2);
  // The constant cotangent that it avoids sees a gradient of zero, whatever the factor.
  Tensor probe = x.clone().requires_grad();
  backward(sum(softmax_times(probe, 2)));
  CHECK_CLOSE(probe.grad(), zeros({3, 5}, DType::f64), 1e-15, 0);
}

TEST_CASE("gradcheck catches a wrong sign, a missing gradient, one wrong element, and NaN", "[autograd][grad]") {
  Tensor x = normal({7}, DType::f64, Generator{8});
  auto worst = [&](BackwardFn fn) { return gradcheck([&](In t) { return doubled(t[0], fn); }, {x}).worst_relative; };
  CHECK(worst([](const Tensor& dy) -> Grads { return {affine(dy, 2, 0)}; }) < 1e-9);
  CHECK(worst([](const Tensor& dy) -> Grads { return {affine(dy, -2, 0)}; }) > 0.1);
  CHECK(worst([](const Tensor&) -> Grads { return {Tensor()}; }) > 0.1);
  CHECK(worst([](const Tensor& dy) -> Grads {
          Tensor dx = affine(dy, 2, 0);
          dx.rows(4, 5).fill_(100);
          return {dx};
        }) > 0.1);
  CHECK(worst([](const Tensor& dy) -> Grads { return {affine(dy, NAN, 0)}; }) == INFINITY);
}

TEST_CASE("gradcheck names the input and the element that is worst", "[autograd][grad]") {
  Tensor a = normal({5}, DType::f64, Generator{8}), b = normal({5}, DType::f64, Generator{9});
  auto report = gradcheck(
      [](In t) {
        return add(t[0], doubled(t[1], [](const Tensor& dy) -> Grads {
                     Tensor dx = affine(dy, 2, 0);
                     dx.rows(3, 4).fill_(100);
                     return {dx};
                   }));
      },
      {a, b});
  INFO(report.where);
  CHECK(report.where.rfind("input 1, element 3: backward 100, ", 0) == 0);
  CHECK(report.checked == 10);
}

TEST_CASE("gradcheck spreads a limited number of elements over the input", "[autograd][grad]") {
  Tensor x = normal({1000}, DType::f64, Generator{8});
  CHECK(gradcheck([](In t) { return square(t[0]); }, {x}, 1e-5, 10).checked == 10);
}

TEST_CASE("gradcheck refuses what it cannot check", "[autograd][grad][errors]") {
  Tensor x = zeros({2}, DType::f64);
  CHECK(contains(message_of([&] { gradcheck([](In t) { return square(t[0]); }, {zeros({2})}); }), "inputs must be f64"));
  CHECK(contains(message_of([&] { gradcheck([](In t) { return t[0].detach(); }, {x}); }), "not differentiable"));
  CHECK(contains(message_of([&] { gradcheck([](In t) { return cast(t[0], DType::f32); }, {x}); }), "must give f64"));
  CHECK(contains(message_of([&] { gradcheck([](In t) { return square(t[0]); }, {x}, 0); }), "must be positive"));
}

}  // namespace mote::test
