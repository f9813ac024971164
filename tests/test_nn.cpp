// Module and the layers: names, loading, initial values, and each layer against arithmetic that can be done by hand.
#include "nn/layers.h"
#include "tests/nn_support.h"

using namespace mote;
using namespace mote::nn;
using namespace mote::test;

namespace {

/// Two linear layers, one of them below a dotted name, and a parameter of its own.
struct Pair : Module {
  explicit Pair(const Init& init) : first(2, 3, init.at("first")), second(3, 1, init.at("second")) {
    scale = &add_parameter("scale", full({1}, 2)).value;
    add_child("first", first);
    add_child("blocks.0", second);
  }
  template <class M> M& add(const std::string& name, M& child) { return add_child(name, child); }
  Tensor* scale;
  Linear first, second;
};

std::map<std::string, Tensor> state_of(const Module& module) {
  std::map<std::string, Tensor> state;
  for (const auto& [name, value] : module.parameters()) state[name] = value.clone();
  return state;
}

void set(const Module& module, const std::string& wanted, const Tensor& value) {
  for (auto& [name, parameter] : module.parameters())
    if (name == wanted) {
      parameter.copy_(value);
      return;
    }
  FAIL("no parameter " << wanted);
}

Tensor parameter_of(const Module& module, const std::string& wanted) {
  for (auto& [name, parameter] : module.parameters())
    if (name == wanted) return parameter;
  FAIL("no parameter " << wanted);
  return {};
}

Tensor eye(int64_t n) {
  Tensor y = zeros({n, n});
  for (int64_t i = 0; i < n; ++i) y.data<float>()[i * n + i] = 1;
  return y;
}

}  // namespace

// ---- Module --------------------------------------------------------------------------------------------------------

TEST_CASE("parameters are listed in registration order under dotted names", "[nn]") {
  Pair pair(Init(1));
  std::vector<std::string> names;
  for (const auto& [name, value] : pair.parameters()) {
    names.push_back(name);
    CHECK(value.needs_grad());
  }
  CHECK(names == std::vector<std::string>{"scale", "first.weight", "first.bias", "blocks.0.weight", "blocks.0.bias"});
  CHECK(pair.parameter_count() == 1 + 6 + 3 + 3 + 1);
}

TEST_CASE("a name can be registered only once, and not be empty", "[nn]") {
  Pair pair(Init(1));
  Linear more(1, 1, Init(2));
  CHECK(contains(error_of([&] { pair.add("first", more); }), "'first' is empty or taken"));
  CHECK(contains(error_of([&] { pair.add("scale", more); }), "'scale' is empty or taken"));
  CHECK(contains(error_of([&] { pair.add("", more); }), "'' is empty or taken"));
}

TEST_CASE("load_state takes over every value and converts the dtype", "[nn]") {
  Pair from_one(Init(1)), to_other(Init(2));
  std::map<std::string, Tensor> state = state_of(from_one);
  for (auto& [name, value] : state) value = value.to(DType::f64);
  Tensor held = *to_other.scale;
  to_other.load_state(state);
  for (const auto& [name, value] : to_other.parameters()) {
    CHECK_SAME(value, parameter_of(from_one, name));
    CHECK(value.needs_grad());
  }
  CHECK_SAME(held, from({2}, {1}));   // written in place: whoever held the parameter sees the new value
}

TEST_CASE("load_state reports every problem in one message and changes nothing", "[nn]") {
  Pair pair(Init(1));
  std::map<std::string, Tensor> before = state_of(pair), state = state_of(pair);
  state.erase("scale");
  state["first.weight"] = zeros({3, 2});
  state["blocks.0.bias"] = zeros({1}, DType::i32);
  state["blocks.1.bias"] = zeros({1});
  state["first.bias"] = full({3}, 9);   // fits, and must still not be loaded
  std::string message = error_of([&] { pair.load_state(state); }, Error::Kind::checkpoint);
  INFO(message);
  CHECK(contains(message, "problems: 4"));
  CHECK(contains(message, "missing: 'scale' [1]"));
  CHECK(contains(message, "'first.weight' is f32[3, 2], needs f32[2, 3]"));
  CHECK(contains(message, "'blocks.0.bias' is i32[1], needs f32[1]"));
  CHECK(contains(message, "unexpected: 'blocks.1.bias' f32[1]"));
  for (const auto& [name, value] : pair.parameters()) CHECK_SAME(value, before[name]);
}

TEST_CASE("training mode reaches every layer below a module", "[nn]") {
  Pair pair(Init(1));
  CHECK(pair.second.is_training());
  pair.train(false);
  CHECK_FALSE(pair.is_training());
  CHECK_FALSE(pair.second.is_training());
  pair.train();
  CHECK(pair.second.is_training());
}

TEST_CASE("a module converts to f64 and stays differentiable", "[nn]") {
  Pair pair(Init(1));
  std::map<std::string, Tensor> before = state_of(pair);
  pair.to(DType::f64);
  for (const auto& [name, value] : pair.parameters()) {
    CHECK_SAME(value, before[name].to(DType::f64));
    CHECK(value.needs_grad());
  }
  CHECK(pair.first.forward(zeros({1, 2}, DType::f64)).dtype() == DType::f64);   // the layer sees the new parameter
  CHECK(contains(error_of([&] { pair.to(DType::i32); }), "parameters are floating"));
}

TEST_CASE("an error inside a layer names the path of modules", "[nn]") {
  struct Net : Module {
    Net() : Module("net"), block(8, 8, 4, 0, Init(1)) { add_child("down_blocks.0.resnets.1", block); }
    Tensor forward(const Tensor& x, Generator& generator) {
      Scope scope(name());
      return block.forward(x, zeros({1, 4}), generator);
    }
    ResBlock block;
  } net;
  Generator generator{1};
  std::string message = error_of([&] { net.forward(zeros({1, 2, 2, 16}), generator); });
  CHECK(contains(message, "while running net.down_blocks.0.resnets.1.norm1"));
  CHECK(Scope::path().empty());
}

// ---- Initial values ------------------------------------------------------------------------------------------------

TEST_CASE("initial weights fill the fan-average bound and biases are zero", "[nn]") {
  // bound = sqrt(3 / ((9 * 16 + 9 * 64) / 2)) = sqrt(3 / 360)
  Conv2d conv(16, 64, 3, Init(5));
  double bound = std::sqrt(3.0 / 360), largest = 0, squares = 0, total = 0;
  std::vector<double> values = parameter_of(conv, "weight").to_vector();
  for (double v : values) {
    largest = std::max(largest, std::abs(v));
    squares += v * v;
    total += v;
  }
  CHECK(largest <= bound * (1 + 1e-6));
  CHECK(largest > 0.99 * bound);
  CHECK(squares / double(values.size()) == Approx(bound * bound / 3).epsilon(0.05));   // 9216 draws: 1 sigma is 1 %
  CHECK(std::abs(total / double(values.size())) < 0.03 * bound);                        // 1 sigma is 0.6 %
  CHECK_SAME(parameter_of(conv, "bias"), zeros({64}));
}

TEST_CASE("a scale of 0 stands for 1e-10: weights of about 1e-6, not zeros", "[nn]") {
  Linear layer(64, 64, Init(5), 0);
  double bound = std::sqrt(3e-10 / 64), largest = 0;
  for (double v : parameter_of(layer, "weight").to_vector()) largest = std::max(largest, std::abs(v));
  CHECK(largest <= bound * (1 + 1e-6));
  CHECK(largest > 0.9 * bound);
}

TEST_CASE("draws depend on the seed and the place in the tree, and on nothing else", "[nn]") {
  auto draw = [](const Init& init) { return init.normal({8}); };
  CHECK_SAME(draw(Init(3).at("a").at("b")), draw(Init(3).at("a").at("b")));
  CHECK_FALSE(difference(draw(Init(3).at("a")), draw(Init(3).at("b")), 0, 0).empty());
  CHECK_FALSE(difference(draw(Init(3).at("a")), draw(Init(4).at("a")), 0, 0).empty());
  Generator generator{3};
  Tensor first = draw(Init(generator)), second = draw(Init(generator));   // a running generator: each Init is fresh
  CHECK_FALSE(difference(first, second, 0, 0).empty());
}

// ---- Layers of one op ----------------------------------------------------------------------------------------------

TEST_CASE("linear multiplies rows by the weight and adds the bias", "[nn]") {
  Linear layer(2, 3, Init(1));
  set(layer, "weight", from({1, 2, 3, 4, 5, 6}, {2, 3}));
  set(layer, "bias", from({10, 20, 30}, {3}));
  CHECK_SAME(layer.forward(from({1, 0, 0, 1, 1, 1, 2, -1}, {2, 2, 2})),
             from({11, 22, 33, 14, 25, 36, 15, 27, 39, 8, 19, 30}, {2, 2, 3}));
}

TEST_CASE("a 3x3 convolution keeps the size and sees zeros outside the image", "[nn]") {
  Conv2d conv(1, 1, 3, Init(1));
  set(conv, "weight", full({3, 3, 1, 1}, 1));
  set(conv, "bias", from({0.5}, {1}));
  Tensor x = full({1, 3, 3, 1}, 1);
  CHECK_SAME(conv.forward(x), from({4.5, 6.5, 4.5, 6.5, 9.5, 6.5, 4.5, 6.5, 4.5}, {1, 3, 3, 1}));
  Tensor residual = arange(9, DType::f32).view({1, 3, 3, 1});
  CHECK_SAME(conv.forward(x, from({100}, {1, 1}), residual),
             from({104.5, 107.5, 106.5, 109.5, 113.5, 111.5, 110.5, 113.5, 112.5}, {1, 3, 3, 1}));
}

TEST_CASE("a 1x1 convolution is a linear layer at every pixel", "[nn]") {
  Conv2d conv(5, 7, 1, Init(2));
  Linear layer(5, 7, Init(3));
  set(layer, "weight", parameter_of(conv, "weight").view({5, 7}));
  Tensor x = formula_tensor({2, 3, 4, 5}, 1, 8);
  CHECK_CLOSE(conv.forward(x), layer.forward(x), 1e-6, 1e-6);   // sums of 5 products of size 1, in any order
}

TEST_CASE("group norm makes each group of each image mean 0 and variance 1", "[nn]") {
  GroupNorm norm(8, 2);
  std::vector<double> y = norm.forward(formula_tensor({2, 4, 4, 8}, 1, 8, 3)).to_vector();
  for (int n = 0; n < 2; ++n)
    for (int group = 0; group < 2; ++group) {
      double total = 0, squares = 0;
      for (int pixel = 0; pixel < 16; ++pixel)
        for (int c = 0; c < 4; ++c) {
          double v = y[(n * 16 + pixel) * 8 + group * 4 + c];
          total += v;
          squares += v * v;
        }
      CHECK(std::abs(total / 64) < 1e-5);
      CHECK(squares / 64 == Approx(1).epsilon(1e-4));   // eps = 1e-6 against a variance of 1/3
    }
}

TEST_CASE("group norm with silu is silu after group norm", "[nn]") {
  GroupNorm norm(8, 2);
  set(norm, "weight", formula_tensor({8}, 1, 1, 1));
  set(norm, "bias", formula_tensor({8}, 2));
  Tensor x = formula_tensor({2, 3, 5, 8}, 3, 8);
  CHECK_CLOSE(norm.forward(x, true), silu(norm.forward(x)), 1e-6, 1e-5);
  CHECK(contains(error_of([] { GroupNorm(8, 3); }), "3 groups of 8 channels"));
}

TEST_CASE("dropout zeroes its share in training mode and does nothing otherwise", "[nn]") {
  Dropout drop(0.25);
  Generator generator{7}, untouched = generator;
  Tensor x = full({10000}, 3);
  drop.train(false);
  CHECK_SAME(drop.forward(x, generator), x);
  CHECK(generator == untouched);
  drop.train();
  int64_t zero = 0;
  for (double v : drop.forward(x, generator).to_vector()) {
    zero += v == 0;
    if (v != 0) REQUIRE(v == 4);
  }
  CHECK(std::abs(zero - 2500) < 200);   // 1 sigma is 43
  CHECK_FALSE(generator == untouched);
  CHECK(contains(error_of([] { Dropout(1.0); }), "[0, 1)"));
}

TEST_CASE("an embedding looks up rows and refuses ids it does not have", "[nn]") {
  Embedding table(3, 2, Init(1));
  set(table, "weight", from({0, 1, 10, 11, 20, 21}, {3, 2}));
  CHECK_SAME(table.forward(from({2, 0, 2}, {3}, DType::i64)), from({20, 21, 0, 1, 20, 21}, {3, 2}));
  CHECK(table.forward(from({1}, {1}, DType::i64), DType::bf16).dtype() == DType::bf16);
  CHECK_THROWS_AS(table.forward(from({3}, {1}, DType::i64)), Error);
}

TEST_CASE("bf16 activations run in bf16 and leave f32 gradients on the f32 weights", "[nn]") {
  Linear layer(2, 2, Init(1));
  set(layer, "weight", from({1, 2, 3, 4}, {2, 2}));
  Tensor y = layer.forward(from({1, 2}, {1, 2}, DType::bf16));
  CHECK_SAME(y, from({7, 10}, {1, 2}, DType::bf16));
  backward(y, from({1, 10}, {1, 2}, DType::bf16));
  CHECK_SAME(parameter_of(layer, "weight").grad(), from({1, 10, 2, 20}, {2, 2}));
  CHECK_SAME(parameter_of(layer, "bias").grad(), from({1, 10}, {2}));
}

TEST_CASE("a working copy follows the weights it was made from", "[nn]") {
  Linear layer(2, 2, Init(1));
  Tensor x = from({1, 2}, {1, 2}, DType::bf16);
  for (double scale : {1, 3}) {
    set(layer, "weight", from({scale, 2 * scale, 3 * scale, 4 * scale}, {2, 2}));
    CHECK_SAME(layer.forward(x), from({7 * scale, 10 * scale}, {1, 2}, DType::bf16));
  }
  Tensor y = layer.forward(x), first = layer.weight().in(DType::bf16);
  CHECK(layer.weight().in(DType::bf16).raw() == first.raw());   // not made again while the weights stay as they are
  CHECK(layer.weight().in(DType::f32).raw() == layer.weight().value.raw());
  // A graph that was recorded with the old copy cannot be walked once there is a new one in its place.
  y = layer.forward(x.clone().requires_grad());
  set(layer, "weight", zeros({2, 2}));
  layer.forward(x);
  CHECK(contains(error_of([&] { backward(y, full({1, 2}, 1, DType::bf16)); }), "overwritten in place"));
}

// ---- Blocks --------------------------------------------------------------------------------------------------------

TEST_CASE("attention with equal scores adds the projected mean of the values", "[nn]") {
  AttentionBlock block(4, 1, Init(1));
  set(block, "to_q.weight", zeros({4, 4}));   // all scores 0: every pixel looks at all others alike
  set(block, "to_v.weight", eye(4));
  set(block, "to_v.bias", from({1, 2, 3, 4}, {4}));
  set(block, "to_out.0.weight", affine(eye(4), 10, 0));
  set(block, "to_out.0.bias", full({4}, 0.5));
  Tensor x = formula_tensor({2, 3, 3, 4}, 1, 8);
  // One group of 4 channels; the mean over pixels of norm(x) + b is projected by 10 and shifted by 0.5.
  Tensor normed = group_norm(x, full({4}, 1), zeros({4}), 1);
  Tensor expected = x + affine(mean(normed, {1, 2}, true) + from({1, 2, 3, 4}, {4}), 10, 0.5);
  CHECK_CLOSE(block.forward(x), expected, 1e-4, 1e-5);
}

TEST_CASE("attention agrees with the products and the softmax written out", "[nn]") {
  for (int64_t heads : {1, 2}) {
    AttentionBlock block(8, heads, Init(1));
    set_by_formula(block);
    block.to(DType::f64);
    Tensor x = formula_tensor({2, 3, 2, 8}, 1, 8, 0, DType::f64);
    Tensor tokens = reshape(group_norm(x, parameter_of(block, "group_norm.weight"),
                                       parameter_of(block, "group_norm.bias"), 2), {2, 6, 8});
    auto project = [&](const Tensor& h, const std::string& name) {
      return linear(h, parameter_of(block, name + ".weight"), parameter_of(block, name + ".bias"));
    };
    Tensor q = project(tokens, "to_q"), k = project(tokens, "to_k"), v = project(tokens, "to_v");
    std::vector<Tensor> mixed;
    int64_t width = 8 / heads;
    for (int64_t head = 0; head < heads; ++head) {
      auto part = [&](const Tensor& t) { return narrow(t, 2, head * width, width); };
      Tensor scores = softmax(affine(matmul(part(q), part(k), false, true), 1 / std::sqrt(double(width)), 0));
      mixed.push_back(matmul(scores, part(v)));
    }
    Tensor expected = x + reshape(project(concat(mixed, 2), "to_out.0"), x.shape());
    INFO(heads << " heads");
    CHECK_CLOSE(block.forward(x), expected, 1e-12, 1e-12);
  }
}

TEST_CASE("heads must divide the channels of an attention block", "[nn]") {
  CHECK(contains(error_of([] { AttentionBlock(8, 3, Init(1)); }), "3 heads of 8 channels"));
}

TEST_CASE("a residual block starts as its shortcut", "[nn]") {
  Generator generator{1};
  Tensor x = formula_tensor({2, 4, 4, 8}, 1, 8), time = formula_tensor({2, 6}, 2, 8);
  ResBlock same(8, 8, 6, 0.1, Init(1));
  CHECK_CLOSE(same.forward(x, time, generator), x, 1e-4, 0);   // conv2's weights are of size 1e-6
  ResBlock wider(8, 16, 6, 0.1, Init(1));
  Tensor shortcut = linear(x, parameter_of(wider, "conv_shortcut.weight").view({8, 16}), {});
  CHECK_CLOSE(wider.forward(x, time, generator), shortcut, 1e-4, 0);
}

TEST_CASE("a residual block agrees with its formula written in single ops", "[nn]") {
  for (int64_t in : {8, 12}) {
    ResBlock block(in, 8, 6, 0, Init(1));
    set_by_formula(block);
    block.to(DType::f64);
    Generator generator{1};
    Tensor x = formula_tensor({2, 4, 4, in}, 1, 8, 0, DType::f64), time = formula_tensor({2, 6}, 2, 8, 0, DType::f64);
    auto p = [&](const std::string& name) { return parameter_of(block, name); };
    Tensor h = silu(group_norm(x, p("norm1.weight"), p("norm1.bias"), in / 4));
    h = conv2d(h, p("conv1.weight"), p("conv1.bias"), Conv2dSpec::same(3));
    h = h + reshape(linear(time, p("time_emb_proj.weight"), p("time_emb_proj.bias")), {2, 1, 1, 8});
    h = silu(group_norm(h, p("norm2.weight"), p("norm2.bias"), 2));
    h = conv2d(h, p("conv2.weight"), p("conv2.bias"), Conv2dSpec::same(3));
    Tensor shortcut = in == 8 ? x : linear(x, reshape(p("conv_shortcut.weight"), {in, 8}), p("conv_shortcut.bias"));
    INFO(in << " channels in");
    CHECK_CLOSE(block.forward(x, time, generator), shortcut + h, 1e-12, 1e-12);
  }
}

TEST_CASE("a residual block drops activations in training mode only", "[nn]") {
  ResBlock block(8, 8, 6, 0.5, Init(1));
  set_by_formula(block);
  Tensor x = formula_tensor({1, 4, 4, 8}, 1, 8), time = formula_tensor({1, 6}, 2, 8);
  Generator generator{1};
  Tensor first = block.forward(x, time, generator), second = block.forward(x, time, generator);
  CHECK_FALSE(difference(first, second, 0, 0).empty());
  block.train(false);
  CHECK_SAME(block.forward(x, time, generator), block.forward(x, time, generator));
}
