// Arena, AdamW, EMA and schedules against a plain f64 reference.
#include "nn/optim.h"

#include <limits>

#include "nn/layers.h"
#include "tensor/profile.h"
#include "tests/nn_support.h"

using namespace mote;
using namespace mote::nn;
using namespace mote::test;

namespace {

constexpr int64_t kElements = 3 * 5 + 5;   // of Net

struct Net : Module {
  Net() : layer(3, 5, Init(1)) { add_child("layer", layer); }
  Linear layer;
};

/// Writes formula values, times `scale`, into all gradients and returns them in f64, parameter after parameter.
std::vector<double> set_gradients(Arena& arena, uint64_t stream, double scale) {
  std::vector<double> all;
  for (auto& [name, grad] : arena.views(arena.grads())) {
    grad.copy_(formula_tensor(grad.shape(), stream, scale));
    std::vector<double> values = grad.to_vector();
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

std::vector<double> flat(const Arena& arena, const Tensor& tensor) {
  std::vector<double> all;
  for (const auto& [name, value] : arena.views(tensor)) {
    std::vector<double> values = value.to_vector();
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

double norm_of(const std::vector<double>& x) {
  double squares = 0;
  for (double v : x) squares += v * v;
  return std::sqrt(squares);
}

/// AdamW as its paper writes it, one number at a time, in f64.
struct Reference {
  std::vector<double> p, m, v, ema;
  void step(const OptimizerOptions& o, std::vector<double> g, int64_t s) {
    double norm = norm_of(g), scale = o.clip > 0 && norm > o.clip ? o.clip / norm : 1;
    double lr = o.lr * (o.warmup > 0 ? std::min(1.0, double(s + 1) / double(o.warmup)) : 1);
    if (o.schedule == "cosine") lr *= 0.5 * (1 + std::cos(M_PI * double(s) / double(o.total_steps)));
    double decay = s == 0 ? 0 : std::min(o.ema, (1.0 + double(s)) / (10.0 + double(s)));
    for (size_t i = 0; i < p.size(); ++i) {
      g[i] *= scale;
      m[i] = o.beta1 * m[i] + (1 - o.beta1) * g[i];
      v[i] = o.beta2 * v[i] + (1 - o.beta2) * g[i] * g[i];
      double m_hat = m[i] / (1 - std::pow(o.beta1, double(s + 1)));
      double v_hat = v[i] / (1 - std::pow(o.beta2, double(s + 1)));
      p[i] -= lr * (m_hat / (std::sqrt(v_hat) + o.eps) + o.weight_decay * p[i]);
      ema[i] = decay * ema[i] + (1 - decay) * p[i];
    }
  }
};

}  // namespace

// ---- Arena ---------------------------------------------------------------------------------------------------------

TEST_CASE("an arena keeps every value and makes parameters and gradients views of flat memory", "[optim]") {
  Net net;
  NamedTensors before;
  for (const auto& [name, value] : net.parameters()) before.emplace_back(name, value.clone());
  Arena arena(net);
  CHECK(arena.values().shape() == Shape{16 + 16});   // 15 and 5 elements, each rounded up to 16
  NamedTensors after = net.parameters();
  for (size_t i = 0; i < after.size(); ++i) {
    CHECK_SAME(after[i].second, before[i].second);
    CHECK(after[i].second.needs_grad());
    CHECK(after[i].second.raw() == arena.values().data<float>() + 16 * i);
    CHECK(after[i].second.grad().raw() == arena.grads().data<float>() + 16 * i);
  }
}

TEST_CASE("backward adds into the arena of gradients and zero_grad clears it", "[optim]") {
  Net net;
  Arena arena(net);
  Tensor x = from({1, 2, 3}, {1, 3});
  for (int pass = 1; pass <= 2; ++pass) {
    backward(sum(net.layer.forward(x)));
    NamedTensors grads = arena.views(arena.grads());
    CHECK_SAME(grads[0].second, affine(from({1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3}, {3, 5}), pass, 0));
    CHECK_SAME(grads[1].second, full({5}, pass));
  }
  CHECK(arena.grad_norm() == Approx(2 * std::sqrt(5 * (1 + 4 + 9) + 5)).epsilon(1e-12));   // exact in f32
  arena.zero_grad();
  CHECK(arena.grad_norm() == 0);
  CHECK_SAME(net.parameters()[0].second.grad(), zeros({3, 5}));
}

TEST_CASE("a layer computes with the arena's memory", "[optim]") {
  Net net;
  Arena arena(net);
  arena.values().fill_(1);
  CHECK_SAME(net.layer.forward(from({1, 2, 3}, {1, 3})), full({1, 5}, 7));
}

TEST_CASE("bf16 layers read one copy of the arena, converted in one pass after each change", "[optim]") {
  struct Two : Module {
    Two() : first(3, 5, Init(1)), second(5, 2, Init(2)) {
      add_child("first", first);
      add_child("second", second);
    }
    Tensor forward(const Tensor& x) const { return second.forward(first.forward(x)); }
    Linear first, second;
  } net;
  Arena arena(net);
  Optimizer optimizer(arena, {});
  Tensor x = from({1, 2, 3}, {1, 3}, DType::bf16);
  auto converted = [&](auto&& work) {
    Profile profile;
    work();
    int64_t calls = 0;
    for (const KernelCost& cost : profile.costs())
      if (cost.name == "convert") calls += cost.calls;
    return calls;
  };
  CHECK(converted([&] { net.forward(x); }) == 1);
  CHECK(converted([&] { net.forward(x); }) == 0);
  CHECK(converted([&] { backward(sum(cast(net.forward(x), DType::f32))); }) == 2);   // of the loss, there and back
  for (const auto& [name, grad] : arena.views(arena.grads())) {
    INFO(name);
    CHECK(norm_of(grad.to_vector()) > 0);   // gradients arrived in the f32 arena
  }
  optimizer.step();
  CHECK(converted([&] { net.forward(x); }) == 1);
  for (const auto& [name, value] : arena.views(arena.values())) {
    const Parameter& parameter = name.starts_with("first") ? (name.ends_with("weight") ? net.first.weight() : net.first.bias())
                                                           : (name.ends_with("weight") ? net.second.weight() : net.second.bias());
    CHECK_SAME(parameter.in(DType::bf16), value.to(DType::bf16));
  }
  const char* start = static_cast<const char*>(net.first.weight().in(DType::bf16).raw());
  CHECK(net.second.bias().in(DType::bf16).raw() == start + 2 * (16 + 16 + 16));   // laid out like values()
}

TEST_CASE("a module in an arena can neither be moved nor put into a second one", "[optim]") {
  Net net;
  {
    Arena arena(net);
    CHECK(contains(error_of([&] { net.to(DType::f64); }), "'layer.weight' lies in an Arena"));
    CHECK(contains(error_of([&] { Arena again(net); }), "'layer.weight' lies in another Arena"));
  }
  Arena fresh(net);   // the first one is gone
  CHECK(fresh.values().shape() == Shape{32});
  Net wide;
  wide.to(DType::f64);
  CHECK(contains(error_of([&] { Arena arena(wide); }), "'layer.weight' is f64[3, 5]"));
}

TEST_CASE("views belong to a tensor laid out like the arena", "[optim]") {
  Net net;
  Arena arena(net);
  CHECK(arena.like().shape() == arena.values().shape());
  CHECK(contains(error_of([&] { arena.views(zeros({31})); }), "f32[31]"));
}

// ---- AdamW ---------------------------------------------------------------------------------------------------------

TEST_CASE("AdamW follows its formula through clipping, weight decay, warm-up and EMA", "[optim]") {
  OptimizerOptions plain;
  plain.lr = 0.01;
  OptimizerOptions decayed = plain;
  decayed.weight_decay = 0.1;
  decayed.beta1 = 0.8;
  decayed.beta2 = 0.99;
  OptimizerOptions unclipped = plain;
  unclipped.clip = 0;
  unclipped.schedule = "cosine";
  unclipped.total_steps = 12;
  OptimizerOptions warm = decayed;
  warm.warmup = 5;
  warm.ema = 0.4;   // below the ramp from step 6 on
  for (const OptimizerOptions& options : {plain, decayed, unclipped, warm}) {
    Net net;
    set_by_formula(net);
    Arena arena(net);
    Optimizer optimizer(arena, options);
    Reference reference{flat(arena, arena.values()), std::vector<double>(kElements), std::vector<double>(kElements),
                        std::vector<double>(kElements)};
    for (int64_t s = 0; s < 10; ++s) {
      // Norms from 0.1 to 10 around the clip of 1: both branches are taken.
      std::vector<double> g = set_gradients(arena, 100 + s, s % 2 ? 30 : 0.3);
      CHECK((norm_of(g) > 1) == (s % 2 == 1));
      CHECK(optimizer.lr() == learning_rate(options, s));
      CHECK(optimizer.step() == Approx(norm_of(g)).epsilon(1e-12));
      reference.step(options, g, s);
      auto compare = [&](const Tensor& got, const std::vector<double>& expected) {
        // Ten steps of a few f32 roundings each on numbers of size 1/10.
        CHECK_CLOSE(from(flat(arena, got), {kElements}, DType::f64), from(expected, {kElements}, DType::f64), 3e-7,
                    2e-6);
      };
      INFO("step " << s);
      compare(arena.values(), reference.p);
      compare(optimizer.m(), reference.m);
      compare(optimizer.v(), reference.v);
      compare(optimizer.ema(), reference.ema);
    }
    CHECK(optimizer.steps() == 10);
  }
}

TEST_CASE("the gaps between parameters stay zero", "[optim]") {
  Net net;
  Arena arena(net);
  OptimizerOptions options;
  options.weight_decay = 0.1;
  Optimizer optimizer(arena, options);
  for (int s = 0; s < 3; ++s) {
    set_gradients(arena, s, 1);
    optimizer.step();
  }
  for (Tensor* tensor : {&arena.values(), &arena.grads(), &optimizer.m(), &optimizer.v(), &optimizer.ema()}) {
    std::vector<double> all = tensor->to_vector();
    CHECK(all[15] == 0);
    for (int i = 21; i < 32; ++i) CHECK(all[i] == 0);
    CHECK(norm_of(all) > 0);
  }
}

TEST_CASE("a gradient that is not finite names its parameter and changes nothing", "[optim]") {
  for (double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    Net net;
    Arena arena(net);
    Optimizer optimizer(arena, {});
    set_gradients(arena, 1, 1);
    optimizer.step();
    std::vector<Tensor> before;
    for (Tensor* tensor : {&arena.values(), &optimizer.m(), &optimizer.v(), &optimizer.ema()})
      before.push_back(tensor->clone());
    arena.views(arena.grads())[1].second.data<float>()[3] = float(bad);
    std::string message = error_of([&] { optimizer.step(); }, Error::Kind::numeric);
    CHECK(contains(message, "'layer.bias' is not finite at step 1"));
    CHECK(optimizer.steps() == 1);
    size_t i = 0;
    for (Tensor* tensor : {&arena.values(), &optimizer.m(), &optimizer.v(), &optimizer.ema()})
      CHECK_SAME(*tensor, before[i++]);
  }
}

TEST_CASE("queued steps are the steps, and their outcomes come out in order", "[optim]") {
  OptimizerOptions options;
  options.warmup = 4;
  Net here, there;
  Arena arena(here), other_arena(there);
  Optimizer optimizer(arena, options), other(other_arena, options);
  std::vector<StepOutcome> expected;
  for (int s = 0; s < 5; ++s) {
    Tensor loss = full({}, 0.5 + s);
    set_gradients(arena, s, s % 2 ? 30 : 0.3);
    set_gradients(other_arena, s, s % 2 ? 30 : 0.3);
    expected.push_back(optimizer.step(loss));
    other.queue(loss);
    CHECK(other.steps() == s + 1);
    CHECK(other.queued() == s + 1);
  }
  std::vector<StepOutcome> got = other.read();
  REQUIRE(got.size() == expected.size());
  for (size_t s = 0; s < got.size(); ++s) {
    CHECK(got[s].loss == 0.5 + double(s));
    CHECK(got[s].loss == expected[s].loss);
    CHECK(got[s].grad_norm == expected[s].grad_norm);
  }
  CHECK(other.read().empty());
  CHECK_SAME(other_arena.values(), arena.values());
  CHECK_SAME(other.m(), optimizer.m());
  CHECK_SAME(other.v(), optimizer.v());
  CHECK_SAME(other.ema(), optimizer.ema());
}

TEST_CASE("after a queued step that was not finite nothing changes until it has been read", "[optim]") {
  for (bool bad_loss : {false, true}) {
    Net net;
    Arena arena(net);
    Optimizer optimizer(arena, {});
    auto state = [&] {
      std::vector<Tensor> all;
      for (Tensor* tensor : {&arena.values(), &optimizer.m(), &optimizer.v(), &optimizer.ema()}) all.push_back(tensor->clone());
      return all;
    };
    std::vector<Tensor> kept;
    for (int s = 0; s < 6; ++s) {
      set_gradients(arena, s, 1);
      if (s == 3 && !bad_loss) arena.views(arena.grads())[0].second.data<float>()[1] = NAN;
      if (s == 3) kept = state();
      optimizer.queue(full({}, s == 3 && bad_loss ? double(INFINITY) : 1));
    }
    CHECK_THROWS_AS(optimizer.step(), Error);   // there are unread ones
    CHECK_THROWS_AS(optimizer.set_steps(2), Error);
    std::vector<StepOutcome> outcomes = optimizer.read();
    REQUIRE(outcomes.size() == 4);
    CHECK(outcomes[2].is_finite());
    CHECK_FALSE(outcomes[3].is_finite());
    CHECK(optimizer.steps() == 3);
    std::vector<Tensor> now = state();
    for (size_t i = 0; i < now.size(); ++i) CHECK_SAME(now[i], kept[i]);
    set_gradients(arena, 3, 1);
    CHECK(optimizer.step() > 0);   // goes on from there
    CHECK(optimizer.steps() == 4);
    CHECK(norm_of(arena.values().to_vector()) != norm_of(kept[0].to_vector()));
  }
  Net net;
  Arena arena(net);
  Optimizer optimizer(arena, {});
  set_gradients(arena, 1, 1);
  CHECK(contains(error_of([&] { optimizer.step(full({1}, NAN)); }, Error::Kind::numeric), "the loss is nan at step 0"));
  for (int64_t s = 0; s < Optimizer::kMostQueued; ++s) optimizer.queue({});
  CHECK(contains(error_of([&] { optimizer.queue({}); }), "no more can wait"));
}

TEST_CASE("gradients of 1e30 have a finite norm and are clipped", "[optim]") {
  Net net;
  Arena arena(net);
  Optimizer optimizer(arena, {});
  arena.views(arena.grads())[1].second.fill_(1e30);   // their squares do not fit into an f32
  CHECK(optimizer.step() == Approx(std::sqrt(5.0) * 1e30).epsilon(1e-6));
  for (double v : arena.values().to_vector()) CHECK(std::isfinite(v));
}

TEST_CASE("a graph recorded before an optimizer step cannot be walked after it", "[optim]") {
  Net net;
  Arena arena(net);
  Optimizer optimizer(arena, {});
  Tensor loss = sum(net.layer.forward(from({1, 2, 3}, {1, 3}).requires_grad()));   // dx needs the old weights
  optimizer.step();
  CHECK_THROWS_AS(backward(loss), Error);
}

TEST_CASE("a run resumed from its arenas and step count goes on bit for bit", "[optim]") {
  OptimizerOptions options;
  options.warmup = 4;
  Net straight, resumed;
  Arena arena(straight), other_arena(resumed);
  Optimizer optimizer(arena, options), other(other_arena, options);
  for (int s = 0; s < 3; ++s) {
    set_gradients(arena, s, 1);
    optimizer.step();
  }
  other_arena.values().copy_(arena.values());
  other.m().copy_(optimizer.m());
  other.v().copy_(optimizer.v());
  other.ema().copy_(optimizer.ema());
  other.set_steps(optimizer.steps());
  for (int s = 3; s < 6; ++s) {
    set_gradients(arena, s, 1);
    set_gradients(other_arena, s, 1);
    optimizer.step();
    other.step();
  }
  CHECK_SAME(other_arena.values(), arena.values());
  CHECK_SAME(other.ema(), optimizer.ema());
}

TEST_CASE("the EMA is the parameters at first and absent when it is switched off", "[optim]") {
  Net net;
  Arena arena(net);
  Optimizer optimizer(arena, {});
  CHECK_SAME(optimizer.ema(), arena.values());
  set_gradients(arena, 1, 1);
  optimizer.step();
  CHECK_SAME(optimizer.ema(), arena.values());   // the first update copies
  OptimizerOptions without;
  without.ema = 0;
  Optimizer plain(arena, without);
  CHECK_FALSE(plain.ema().defined());
  plain.step();
}

// ---- Schedules -----------------------------------------------------------------------------------------------------

TEST_CASE("the learning rate warms up linearly and follows the cosine to zero", "[optim]") {
  OptimizerOptions options;
  options.lr = 2;
  CHECK(learning_rate(options, 0) == 2);
  CHECK(learning_rate(options, 1000000) == 2);
  options.warmup = 4;
  CHECK(learning_rate(options, 0) == 0.5);
  CHECK(learning_rate(options, 3) == 2);
  CHECK(learning_rate(options, 50) == 2);
  options.schedule = "cosine";
  options.total_steps = 100;
  CHECK(learning_rate(options, 0) == 0.5);
  CHECK(learning_rate(options, 50) == Approx(1));
  CHECK(learning_rate(options, 25) == Approx(1 + std::sqrt(0.5)));
  CHECK(learning_rate(options, 100) == 0);
  CHECK(learning_rate(options, 200) == 0);   // it does not come back
}

TEST_CASE("the EMA decay grows from a copy to its final value", "[optim]") {
  OptimizerOptions options;
  CHECK(ema_decay(options, 0) == 0);
  CHECK(ema_decay(options, 1) == 2.0 / 11);
  CHECK(ema_decay(options, 90) == 0.91);
  CHECK(ema_decay(options, 10000000) == 0.9999);
}

TEST_CASE("optimizer options outside their range are reported together", "[optim]") {
  OptimizerOptions options;
  options.lr = -1;
  options.beta2 = 1;
  options.schedule = "cosine";   // without total_steps
  options.ema = 1.5;
  Net net;
  Arena arena(net);
  std::string message = error_of([&] { Optimizer optimizer(arena, options); }, Error::Kind::usage);
  for (const char* part : {"lr must be", "got -1", "beta2 must be", "total_steps > 0", "ema must be", "got 1.5"})
    CHECK(contains(message, part));
  CHECK_FALSE(contains(message, "beta1"));
  options = {};
  options.schedule = "linear";
  CHECK(contains(error_of([&] { options.validate(); }, Error::Kind::usage), "got 'linear'"));
}
