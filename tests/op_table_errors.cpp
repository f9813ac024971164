// Calls outside the contract of each op. Undefined tensors, integers and mixed dtypes are tried by test_ops.cpp for every row.
#include <cmath>

#include "tests/op_table.h"

namespace mote::test {

const std::vector<BadCall>& bad_calls() {
  static const std::vector<BadCall> calls = [] {
    std::vector<BadCall> list;
    auto bad = [&](const std::string& op, const std::string& what, std::function<void()> call,
                   const std::string& message = "") { list.push_back({op, what, call, message}); };
    auto z = [](const Shape& shape, DType dtype = DType::f32) { return zeros(shape, dtype); };

    // ---- Pointwise
    using Fn = Tensor (*)(const Tensor&);
    const std::pair<const char*, Fn> unary[] = {
        {"neg", neg}, {"exp", exp}, {"log", log}, {"sqrt", sqrt}, {"square", square}, {"reciprocal", reciprocal},
        {"abs", abs}, {"sin", sin}, {"cos", cos}, {"sigmoid", sigmoid}, {"silu", silu}, {"gelu", gelu}, {"tanh", tanh}, {"relu", relu},
        {"softplus", softplus}};
    for (const auto& [name, fn] : unary)
      bad(name, "integers", [=, fn = fn] { fn(z({2, 3}, DType::i64)); }, "x must be floating (f32, bf16 or f64), got i64[2, 3]");
    bad("affine", "bytes", [=] { affine(z({2}, DType::u8), 2, 0); }, "got u8[2]");
    bad("clamp", "bounds the wrong way round", [=] { clamp(z({2}), 1, 0); }, "low = 1, high = 0");
    bad("clamp", "a bound that is no number", [=] { clamp(z({2}), NAN, 0); });
    bad("pow", "an infinite exponent", [=] { pow(z({2}), INFINITY); }, "got inf");
    bad("cast", "to integers", [=] { cast(z({2}), DType::i32); }, "got i32");
    bad("cast", "from integers", [=] { cast(z({2}, DType::i32), DType::f32); }, "got i32[2]");
    using Fn2 = Tensor (*)(const Tensor&, const Tensor&);
    const std::pair<const char*, Fn2> binary[] = {{"add", add}, {"sub", sub}, {"mul", mul}, {"div", div},
                                                  {"maximum", maximum}, {"minimum", minimum},
                                                  {"bce_with_logits", bce_with_logits}};
    for (const auto& [name, fn] : binary) {
      bad(name, "shapes that do not broadcast", [=, fn = fn] { fn(z({2, 3}), z({2})); }, "[2, 3] and [2]");
      bad(name, "two dtypes", [=, fn = fn] { fn(z({2}), z({2}, DType::bf16)); }, "bf16[2]");
    }
    bad("combine_rows", "shapes differ", [=] { combine_rows(z({2, 3}), z({2, 4}), z({2}, DType::f64), z({2}, DType::f64)); });
    bad("combine_rows", "too few factors", [=] { combine_rows(z({2, 3}), z({2, 3}), z({1}, DType::f64), z({2}, DType::f64)); },
        "a is f64[1]");
    bad("combine_rows", "factors in f32", [=] { combine_rows(z({2, 3}), z({2, 3}), z({2}, DType::f64), z({2})); }, "b is f32[2]");
    bad("combine_rows", "scalars", [=] { combine_rows(z({}), z({}), z({1}, DType::f64), z({1}, DType::f64)); });
    for (double p : {-0.1, 1.0, double(NAN)})
      bad("dropout", "p outside [0, 1)", [=] {
        Generator generator;
        dropout(z({2}), p, generator);
      }, "[0, 1)");

    // ---- Shape
    bad("reshape", "another number of elements", [=] { reshape(z({2, 3}), Shape{4}); }, "f32[2, 3] (6 elements)");
    bad("reshape", "two open sizes", [=] { reshape(z({2, 3}), {-1, -1}); }, "[-1, -1]");
    bad("reshape", "an open size that does not divide", [=] { reshape(z({2, 3}), {-1, 4}); });
    bad("reshape", "an open size beside a zero", [=] { reshape(z({0, 3}), {-1, 0}); });
    bad("reshape", "a negative size", [=] { reshape(z({2, 3}), {-2, -3}); });
    bad("reshape", "sizes whose product overflows", [=] { reshape(z({2, 3}), {int64_t(1) << 62, 8}); });
    bad("slice", "beyond the end", [=] { slice(z({3, 2}), 1, 4); }, "rows 1 to 4");
    bad("slice", "backwards", [=] { slice(z({3, 2}), 2, 1); });
    bad("slice", "before the start", [=] { slice(z({3, 2}), -1, 1); });
    bad("slice", "a scalar", [=] { slice(z({}), 0, 0); });
    bad("permute", "too few axes", [=] { permute(z({2, 3}), {0}); });
    bad("permute", "an axis twice", [=] { permute(z({2, 3}), {0, -2}); }, "axis 0 comes twice");
    bad("permute", "an axis that is not there", [=] { permute(z({2, 3}), {0, 2}); }, "axis 2");
    bad("transpose", "an axis that is not there", [=] { transpose(z({2, 3}), 0, 2); }, "axis 2");
    bad("concat", "nothing", [=] { concat({}, 0); });
    bad("concat", "other axes differ", [=] { concat({z({2, 3}), z({2, 4})}, 0); }, "part 1 is f32[2, 4]");
    bad("concat", "numbers of axes differ", [=] { concat({z({2, 3}), z({2, 3, 1})}, 1); });
    bad("concat", "an axis that is not there", [=] { concat({z({2, 3})}, 2); });
    bad("split", "sizes that do not add up", [=] { split(z({2, 5}), {2, 2}, 1); }, "add up to 4");
    bad("split", "a negative size", [=] { split(z({2, 5}), {6, -1}, 1); });
    bad("split", "an axis that is not there", [=] { split(z({2, 5}), {2}, 2); });
    bad("split", "undefined", [=] { split(Tensor(), {2}, 0); });
    bad("narrow", "beyond the end", [=] { narrow(z({2, 5}), 1, 3, 3); }, "start 3 and length 3");
    bad("narrow", "a negative start", [=] { narrow(z({2, 5}), 1, -1, 3); });
    bad("narrow", "a negative length", [=] { narrow(z({2, 5}), 1, 3, -1); });
    bad("narrow", "a sum that overflows", [=] { narrow(z({2, 5}), 1, 3, INT64_MAX); });
    bad("pad", "too few numbers", [=] { pad(z({2, 5}), {1}, {1, 1}); }, "before has 1");
    bad("pad", "a negative number", [=] { pad(z({2, 5}), {0, 0}, {0, -1}); });
    bad("pad", "a size that overflows", [=] { pad(z({2, 5}), {0, INT64_MAX}, {0, 0}); });
    bad("broadcast_to", "an axis that is not 1", [=] { broadcast_to(z({2, 3}), {4, 3}); });
    bad("broadcast_to", "to something smaller", [=] { broadcast_to(z({2, 3}), {1, 3}); }, "asked for [1, 3]");
    bad("broadcast_to", "to fewer axes", [=] { broadcast_to(z({1, 3}), {3}); });
    bad("sum", "an axis twice", [=] { sum(z({2, 3}), {0, -2}); });
    bad("sum", "an axis that is not there", [=] { sum(z({2, 3}), {2}); }, "axis 2");
    bad("mean", "an axis twice", [=] { mean(z({2, 3}), {1, 1}); });
    bad("mean", "integers", [=] { mean(z({2, 3}, DType::i64)); });
    bad("max", "an axis that is not there", [=] { max(z({2, 3}), 2); });
    bad("max", "an axis without elements", [=] { max(z({2, 0}), 1); }, "f32[2, 0]");
    bad("max", "an axis without elements in an empty tensor", [=] { max(z({0, 0}), 1); });
    bad("argmax", "an axis without elements", [=] { argmax(z({2, 0}), 1); });
    bad("argmax", "a scalar", [=] { argmax(z({}), 0); });

    // ---- Products
    bad("matmul", "inner sizes differ", [=] { matmul(z({2, 3}), z({2, 3})); }, "a is f32[2, 3] (3), b is f32[2, 3] (2)");
    bad("matmul", "inner sizes differ when transposed", [=] { matmul(z({2, 3}), z({3, 2}), true, false); }, "transposed");
    bad("matmul", "a vector", [=] { matmul(z({3}), z({3, 2})); });
    bad("matmul", "a batch with a matrix", [=] { matmul(z({2, 2, 3}), z({3, 2})); });
    bad("matmul", "batch sizes differ", [=] { matmul(z({2, 2, 3}), z({3, 3, 2})); }, "batch sizes");
    bad("linear", "input channels", [=] { linear(z({4, 3}), z({2, 3}), {}); }, "(expects C = 2)");
    bad("linear", "a weight with three axes", [=] { linear(z({4, 3}), z({3, 3, 2}), {}); }, "[C, K]");
    bad("linear", "a bias of another width", [=] { linear(z({4, 3}), z({3, 2}), z({3})); }, "(K = 2), bias is f32[3]");
    bad("linear", "a scalar", [=] { linear(z({}), z({1, 2}), {}); });
    auto conv = [=](const std::string& what, const Shape& x, const Shape& w, const Conv2dSpec& spec,
                    const std::string& message, std::vector<Shape> others = {}) {
      bad("conv2d", what, [=] {
        Tensor extra[3];
        for (size_t i = 0; i < others.size(); ++i)
          if (others[i].ndim()) extra[i] = z(others[i]);
        conv2d(z(x), z(w), extra[0], spec, extra[1], extra[2]);
      }, message);
    };
    Conv2dSpec same = Conv2dSpec::same(3);
    conv("input channels", {8, 32, 32, 3}, {3, 3, 4, 64}, same,
         "x is f32[8, 32, 32, 3] (C = 3), weight is f32[3, 3, 4, 64] (expects C = 4)");
    conv("an image without a batch axis", {4, 4, 3}, {3, 3, 3, 2}, same, "[N, H, W, C]");
    conv("a weight with three axes", {1, 4, 4, 3}, {3, 3, 3}, same, "[P, Q, C, K]");
    conv("no stride", {1, 4, 4, 3}, {3, 3, 3, 2}, {0, 1, 1, 1, 1}, "stride must be at least 1, got 0");
    conv("negative padding", {1, 4, 4, 3}, {3, 3, 3, 2}, {1, 1, 1, -1, 1}, "left -1");
    conv("a kernel larger than the image", {1, 2, 4, 3}, {3, 3, 3, 2}, {}, "larger than the padded image");
    conv("a kernel without extent", {1, 2, 4, 3}, {0, 3, 3, 2}, same, "no extent");
    conv("a bias of another width", {1, 4, 4, 3}, {3, 3, 3, 2}, same, "(K = 2), bias is f32[3]", {{3}});
    conv("a shift without an image axis", {1, 4, 4, 3}, {3, 3, 3, 2}, same, "shift must be [N, K] = [1, 2]", {{}, {2}});
    conv("a residual like the input", {1, 4, 4, 3}, {3, 3, 3, 2}, same, "[1, 4, 4, 2], got f32[1, 4, 4, 3]",
         {{}, {}, {1, 4, 4, 3}});

    auto transposed = [=](const std::string& what, const Shape& x, const Shape& w, const std::string& message,
                          const Shape& bias = {}) {
      bad("conv2d_transposed", what, [=] { conv2d_transposed(z(x), z(w), bias.ndim() ? z(bias) : Tensor()); }, message);
    };
    transposed("input channels", {2, 4, 4, 3}, {4, 2, 2, 5}, "(C = 3), weight is f32[4, 2, 2, 5] (expects C = 4)");
    transposed("an image without a batch axis", {4, 4, 3}, {3, 2, 2, 5}, "[N, H, W, C]");
    transposed("a weight with three axes", {2, 4, 4, 3}, {3, 4, 5}, "[C, f, f, K]");
    transposed("a kernel that is not square", {2, 4, 4, 3}, {3, 2, 3, 5}, "f32[3, 2, 3, 5]");
    transposed("a kernel without extent", {2, 4, 4, 3}, {3, 0, 0, 5}, "f >= 1");
    transposed("a bias of another width", {2, 4, 4, 3}, {3, 2, 2, 5}, "(K = 5), bias is f32[3]", {3});

    // ---- Network ops
    bad("group_norm", "groups that do not divide", [=] { group_norm(z({1, 2, 2, 6}), z({6}), z({6}), 4); },
        "(C = 6), groups = 4");
    bad("group_norm", "no groups", [=] { group_norm(z({1, 2, 2, 6}), z({6}), z({6}), 0); });
    bad("group_norm", "a gamma of another width", [=] { group_norm(z({1, 2, 2, 6}), z({2}), z({6}), 2); }, "gamma is f32[2]");
    bad("group_norm", "two axes", [=] { group_norm(z({2, 6}), z({6}), z({6}), 2); }, "[N, H, W, C]");
    bad("group_norm", "eps of zero", [=] { group_norm(z({1, 2, 2, 6}), z({6}), z({6}), 2, 0); });
    bad("softmax", "a scalar", [=] { softmax(z({})); });
    bad("log_softmax", "a scalar", [=] { log_softmax(z({})); });
    bad("attention", "a width that is not three times C", [=] { attention(z({1, 2, 7}), 1); }, "f32[1, 2, 7]");
    bad("attention", "heads that do not divide", [=] { attention(z({1, 2, 12}), 3); }, "(C = 4), heads = 3");
    bad("attention", "no heads", [=] { attention(z({1, 2, 12}), 0); });
    bad("attention", "two axes", [=] { attention(z({2, 12}), 1); }, "[N, T, 3 C]");
    bad("upsample_nearest", "a factor of zero", [=] { upsample_nearest(z({1, 2, 2, 3}), 0); });
    bad("upsample_nearest", "three axes", [=] { upsample_nearest(z({2, 2, 3}), 2); }, "[N, H, W, C]");
    bad("avg_pool", "sizes that the factor does not divide", [=] { avg_pool(z({1, 4, 5, 3}), 2); }, "f32[1, 4, 5, 3]");
    bad("avg_pool", "a factor of zero", [=] { avg_pool(z({1, 4, 4, 3}), 0); });
    bad("avg_pool", "three axes", [=] { avg_pool(z({4, 4, 3}), 2); });
    bad("max_pool", "sizes that the factor does not divide", [=] { max_pool(z({1, 4, 5, 3}), 2); }, "f32[1, 4, 5, 3]");
    bad("max_pool", "a factor of zero", [=] { max_pool(z({1, 4, 4, 3}), 0); });
    bad("max_pool", "three axes", [=] { max_pool(z({4, 4, 3}), 2); }, "[N, H, W, C]");
    bad("embedding", "an id beyond the table", [=] { embedding(z({3, 2}), from({0, 3}, {2}, DType::i64)); },
        "id 1 is 3, outside the 3 rows");
    bad("embedding", "a negative id", [=] { embedding(z({3, 2}), from({-1}, {1}, DType::i64)); }, "id 0 is -1");
    bad("embedding", "ids in i32", [=] { embedding(z({3, 2}), z({2}, DType::i32)); }, "ids must be i64");
    bad("embedding", "a table with three axes", [=] { embedding(z({3, 2, 2}), z({2}, DType::i64)); });
    bad("embedding", "ids with six axes", [=] { embedding(z({3, 2}), z({1, 1, 1, 1, 1, 1}, DType::i64)); });
    bad("timestep_embedding", "an odd width", [=] { timestep_embedding(z({2}), 7); }, "got 7");
    bad("timestep_embedding", "a width of two", [=] { timestep_embedding(z({2}), 2); });
    bad("timestep_embedding", "steps in i64", [=] { timestep_embedding(z({2}, DType::i64), 8); }, "got i64[2]");
    bad("timestep_embedding", "two axes of steps", [=] { timestep_embedding(z({2, 1}), 8); });
    bad("timestep_embedding", "a shift of half the width", [=] { timestep_embedding(z({2}), 8, DType::f32, {false, 4}); },
        "got 4");
    bad("timestep_embedding", "an integer result", [=] { timestep_embedding(z({2}), 8, DType::i32); });

    // ---- Losses
    bad("mse_loss", "shapes that would broadcast", [=] { mse_loss(z({2, 3}), z({2, 1})); }, "target is f32[2, 1]");
    bad("cross_entropy", "a target beyond the classes", [=] { cross_entropy(z({2, 3}), from({0, 3}, {2}, DType::i64)); },
        "target 1 is 3, outside the 3 classes");
    bad("cross_entropy", "a negative target", [=] { cross_entropy(z({1, 3}), from({-1}, {1}, DType::i64)); });
    bad("cross_entropy", "too few targets", [=] { cross_entropy(z({2, 3}), z({1}, DType::i64)); }, "target is i64[1]");
    bad("cross_entropy", "targets in f32", [=] { cross_entropy(z({2, 3}), z({2})); });
    bad("cross_entropy", "three axes", [=] { cross_entropy(z({2, 3, 4}), z({2}, DType::i64)); }, "[N, K]");
    bad("bce_with_logits_loss", "shapes that would broadcast", [=] { bce_with_logits_loss(z({2, 3}), z({3})); });
    return list;
  }();
  return calls;
}

}  // namespace mote::test
