// The UNet: its layout against the published one, its numbers against PyTorch, its gradients, its training step.
#include "nn/unet.h"

#include "nn/optim.h"
#include "tensor/allocator.h"
#include "tensor/profile.h"
#include "tests/nn_support.h"

using namespace mote;
using namespace mote::nn;
using namespace mote::test;

namespace {

using Shapes = std::map<std::string, Shape>;

// ---- The table of google/ddpm-cifar10-32, with convolutions as [kh, kw, in, out] and linear layers as [in, out] -----

void add_layer(Shapes& into, const std::string& name, const Shape& weight) {
  into[name + ".weight"] = weight;
  into[name + ".bias"] = {weight.at(-1)};
}

void add_resnet(Shapes& into, const std::string& name, int64_t in, int64_t out) {
  add_layer(into, name + ".norm1", {in});
  add_layer(into, name + ".conv1", {3, 3, in, out});
  add_layer(into, name + ".time_emb_proj", {512, out});
  add_layer(into, name + ".norm2", {out});
  add_layer(into, name + ".conv2", {3, 3, out, out});
  if (in != out) add_layer(into, name + ".conv_shortcut", {1, 1, in, out});
}

void add_attention(Shapes& into, const std::string& name) {
  add_layer(into, name + ".group_norm", {256});
  for (const char* part : {".to_q", ".to_k", ".to_v", ".to_out.0"}) add_layer(into, name + part, {256, 256});
}

Shapes cifar10_shapes() {
  Shapes all;
  add_layer(all, "conv_in", {3, 3, 3, 128});
  add_layer(all, "time_embedding.linear_1", {128, 512});
  add_layer(all, "time_embedding.linear_2", {512, 512});
  struct Row { std::string name; int64_t in, out; };
  for (const Row& row : std::vector<Row>{
           {"down_blocks.0.resnets.0", 128, 128}, {"down_blocks.0.resnets.1", 128, 128},
           {"down_blocks.1.resnets.0", 128, 256}, {"down_blocks.1.resnets.1", 256, 256},
           {"down_blocks.2.resnets.0", 256, 256}, {"down_blocks.2.resnets.1", 256, 256},
           {"down_blocks.3.resnets.0", 256, 256}, {"down_blocks.3.resnets.1", 256, 256},
           {"mid_block.resnets.0", 256, 256}, {"mid_block.resnets.1", 256, 256},
           {"up_blocks.0.resnets.0", 512, 256}, {"up_blocks.0.resnets.1", 512, 256},
           {"up_blocks.0.resnets.2", 512, 256}, {"up_blocks.1.resnets.0", 512, 256},
           {"up_blocks.1.resnets.1", 512, 256}, {"up_blocks.1.resnets.2", 512, 256},
           {"up_blocks.2.resnets.0", 512, 256}, {"up_blocks.2.resnets.1", 512, 256},
           {"up_blocks.2.resnets.2", 384, 256}, {"up_blocks.3.resnets.0", 384, 128},
           {"up_blocks.3.resnets.1", 256, 128}, {"up_blocks.3.resnets.2", 256, 128}})
    add_resnet(all, row.name, row.in, row.out);
  for (const char* name : {"down_blocks.1.attentions.0", "down_blocks.1.attentions.1", "mid_block.attentions.0",
                           "up_blocks.2.attentions.0", "up_blocks.2.attentions.1", "up_blocks.2.attentions.2"})
    add_attention(all, name);
  add_layer(all, "down_blocks.0.downsamplers.0.conv", {3, 3, 128, 128});
  for (const char* name : {"down_blocks.1.downsamplers.0.conv", "down_blocks.2.downsamplers.0.conv",
                           "up_blocks.0.upsamplers.0.conv", "up_blocks.1.upsamplers.0.conv",
                           "up_blocks.2.upsamplers.0.conv"})
    add_layer(all, name, {3, 3, 256, 256});
  add_layer(all, "conv_norm_out", {128});
  add_layer(all, "conv_out", {3, 3, 128, 3});
  return all;
}

/// One training step on images, noise and times made by formula; returns the loss.
double train_step(UNet& unet, Arena& arena, Optimizer& optimizer, int64_t step, int64_t batch) {
  const UNetConfig& config = unet.config();
  Shape shape{batch, config.size, config.size, config.channels};
  Tensor x = formula_tensor(shape, 500 + 2 * step, 8), target = formula_tensor(shape, 501 + 2 * step, 8);
  Tensor t = formula_tensor({batch}, 900 + step, 4000, 500);   // 0 to 1000
  arena.zero_grad();
  Tensor loss = mse_loss(unet.forward(x, t), target);
  backward(loss);
  optimizer.step();
  return loss.item();
}

bool all_finite(const Tensor& x) {
  for (double v : x.to_vector())
    if (!std::isfinite(v)) return false;
  return true;
}

double dot(const Tensor& a, const Tensor& b) {
  std::vector<double> x = a.to_vector(), y = b.to_vector();
  double total = 0;
  for (size_t i = 0; i < x.size(); ++i) total += x[i] * y[i];
  return total;
}

}  // namespace

// ---- Layout --------------------------------------------------------------------------------------------------------

TEST_CASE("the cifar10 network has the 328 tensors and 35,746,307 parameters of the published one", "[unet]") {
  UNet unet(UNetConfig::preset("cifar10"), 1);
  Shapes expected = cifar10_shapes();
  CHECK(expected.size() == 328);
  CHECK(unet.parameters().size() == 328);
  CHECK(unet.parameter_count() == 35746307);
  for (const auto& [name, value] : unet.parameters()) {
    INFO(name);
    REQUIRE(expected.count(name) == 1);
    CHECK(value.shape() == expected[name]);
    expected.erase(name);
  }
  CHECK(expected.empty());
}

TEST_CASE("the fmnist and tiny networks have their known sizes", "[unet]") {
  // What a PyTorch UNet of the same layout counts.
  CHECK(UNet(UNetConfig::preset("fmnist"), 1).parameter_count() == 1623169);
  CHECK(UNet(UNetConfig::preset("tiny"), 1).parameter_count() == 176849);
}

TEST_CASE("every preset maps images to images of the same shape", "[unet]") {
  for (const char* name : {"tiny", "fmnist", "cifar10"}) {
    UNetConfig config = UNetConfig::preset(name);
    UNet unet(config, 1);
    unet.train(false);
    NoGrad no_grad;
    int64_t batch = std::string(name) == "cifar10" ? 1 : 2;
    Tensor x = formula_tensor({batch, config.size, config.size, config.channels}, 1, 8);
    Tensor y = unet.forward(x, full({batch}, 10));
    INFO(name);
    CHECK(y.shape() == x.shape());
    CHECK(y.dtype() == DType::f32);
    // The last convolution starts with weights of about 1e-6, so does the output.
    double size = std::sqrt(dot(y, y) / double(y.numel()));
    CHECK(size > 0);
    CHECK(size < 1e-4);
  }
}

TEST_CASE("parameters depend on the seed and keep their draws when a layer is added", "[unet]") {
  auto values = [](const UNetConfig& config, uint64_t seed) {
    std::map<std::string, Tensor> all;
    UNet unet(config, seed);
    for (const auto& [name, value] : unet.parameters()) all[name] = value;
    return all;
  };
  UNetConfig config = small_config(), conditional = config;
  conditional.classes = 4;
  conditional.attention = {8, 4};
  auto first = values(config, 1), again = values(config, 1), other = values(config, 2), larger = values(conditional, 1);
  CHECK(larger.size() > first.size());
  for (const auto& [name, value] : first) {
    INFO(name);
    CHECK_SAME(again[name], value);
    CHECK_SAME(larger[name], value);
    if (value.ndim() > 1) CHECK_FALSE(difference(other[name], value, 0, 0).empty());   // vectors start as 0 or 1
  }
}

// ---- Config --------------------------------------------------------------------------------------------------------

TEST_CASE("an unknown preset is refused with the list of presets", "[unet]") {
  CHECK(contains(error_of([] { UNetConfig::preset("imagenet"); }, Error::Kind::usage), "tiny, fmnist, cifar10"));
}

TEST_CASE("fit moves attention to the same level of another image size", "[unet]") {
  UNetConfig config = UNetConfig::preset("fmnist").fit(32, 3);
  CHECK(config.size == 32);
  CHECK(config.channels == 3);
  CHECK(config.attention == std::vector<int64_t>{16});
  config.attention = {32, 8};
  CHECK(config.fit(28, 1).attention == std::vector<int64_t>{28, 7});
  CHECK(UNetConfig::preset("cifar10").fit(32, 3) == UNetConfig::preset("cifar10"));
  UNetConfig kept = UNetConfig::preset("cifar10");
  std::string message = error_of([&] { kept.fit(28, 1); }, Error::Kind::usage);   // 28 cannot be halved three times
  CHECK(contains(message, "size 28 must divide by 8"));
  CHECK(kept == UNetConfig::preset("cifar10"));
}

TEST_CASE("validate reports everything that is wrong with a config", "[unet]") {
  UNetConfig config;
  config.size = 30;
  config.channels = 0;
  config.blocks = 0;
  config.dropout = 1;
  std::string message = error_of([&] { config.validate(); }, Error::Kind::usage);
  for (const char* part : {"size 30 must divide by 4", "channels must be", "blocks must be", "dropout must be"})
    CHECK(contains(message, part));
  auto problem = [](auto change) {
    UNetConfig config;
    change(config);
    return error_of([&] { UNet unet(config, 1); }, Error::Kind::usage);
  };
  CHECK(contains(problem([](UNetConfig& c) { c.attention = {16}; }), "attention resolution 16 is none of the levels"));
  CHECK(contains(problem([](UNetConfig& c) { c.base = 30; }), "base must be"));
  CHECK(contains(problem([](UNetConfig& c) { c.base = 48; }), "144 channels does not divide into 32 groups"));
  CHECK(contains(problem([](UNetConfig& c) { c.heads = 3; }), "3 heads do not divide a width of 64"));
  CHECK(contains(problem([](UNetConfig& c) { c.multipliers = {}; }), "multipliers must have"));
  CHECK(contains(problem([](UNetConfig& c) { c.multipliers = {1, 0}; }), "multipliers must be"));
  CHECK(contains(problem([](UNetConfig& c) { c.classes = -1; }), "classes must be"));
  CHECK(contains(problem([](UNetConfig& c) { c.norm_groups = 24; }), "32 channels does not divide into 24 groups"));
  CHECK(contains(problem([](UNetConfig& c) { c.norm_eps = 0; }), "norm_eps must be in (0, 1)"));
  CHECK(contains(problem([](UNetConfig& c) { c.head_width = 48; }), "heads of 48 channels do not divide a width of 64"));
  CHECK(contains(problem([](UNetConfig& c) { c.head_width = c.heads = 2; }), "heads and head_width exclude each other"));
  CHECK(contains(problem([](UNetConfig& c) { c.freq_shift = 16; }), "freq_shift must be 0 or more and below base / 2, 16"));
}

TEST_CASE("a config goes through json and back", "[unet]") {
  UNetConfig config = UNetConfig::preset("cifar10");
  config.dropout = 0.3;
  config.classes = 10;
  config.heads = 4;
  CHECK(unet_config_from_json(to_json(config)) == config);
  CHECK(to_json(UNetConfig::preset("tiny")) ==
        R"({"size":28,"channels":1,"base":16,"multipliers":[1,2],"blocks":1,"attention":[14],"heads":1,)"
        R"("dropout":0.0,"classes":0})");
  // What differs from Ho 2020 is written only where it does, so that other checkpoints stay as they were.
  config = UNetConfig::preset("tiny");
  config.norm_eps = 1e-5;
  config.pad_evenly = true;
  CHECK(contains(to_json(config), R"("classes":0,"norm_eps":1e-05,"pad_evenly":true})"));
  CHECK(unet_config_from_json(to_json(config)) == config);
  CHECK(unet_config_from_json(to_json(published_config())) == published_config());
}

TEST_CASE("a damaged config is refused with every problem named", "[unet]") {
  nlohmann::json object = nlohmann::json::parse(to_json(UNetConfig::preset("tiny")));
  object.erase("heads");
  object["depth"] = 3;
  object["base"] = 16.5;
  object["multipliers"] = {1, "2"};
  object["pad_evenly"] = 1;
  std::string message = error_of([&] { unet_config_from_json(object.dump()); }, Error::Kind::checkpoint);
  for (const char* part : {"missing key 'heads'", "unknown key 'depth'", "'base' has a value of the wrong type: 16.5",
                           "'multipliers' has a value of the wrong type", "'pad_evenly' has a value of the wrong type: 1"})
    CHECK(contains(message, part));
  CHECK(contains(error_of([] { unet_config_from_json("{"); }, Error::Kind::checkpoint), "not a json object"));
  CHECK(contains(error_of([] { unet_config_from_json("[1]"); }, Error::Kind::checkpoint), "not a json object"));
  object = nlohmann::json::parse(to_json(UNetConfig::preset("tiny")));
  object["size"] = 27;
  message = error_of([&] { unet_config_from_json(object.dump()); }, Error::Kind::checkpoint);
  CHECK(contains(message, "size 27 must divide"));
}

// ---- Numbers -------------------------------------------------------------------------------------------------------

TEST_CASE("the time embedding is sin and cos of 10000^(-i / (D/2 - 1)) t", "[unet]") {
  std::vector<double> times{0, 1, 962.5, 999};
  Tensor y = timestep_embedding(from(times, {4}), 128, DType::f64);
  std::vector<double> expected;
  for (double t : times)
    for (int half = 0; half < 2; ++half)
      for (int i = 0; i < 64; ++i) {
        double angle = t * std::pow(10000.0, -i / 63.0);
        expected.push_back(half == 0 ? std::sin(angle) : std::cos(angle));
      }
  CHECK_CLOSE(y, from(expected, {4, 128}, DType::f64), 1e-12, 0);   // 999 radians carry an error of 1e-13
  // In f32 the angle itself is rounded: 999 has a spacing of 6e-5.
  CHECK_CLOSE(timestep_embedding(from(times, {4}), 128), from(expected, {4, 128}), 1e-4, 0);
  CHECK(y.to_vector()[128 + 0] == Approx(0.8414709848078965).epsilon(1e-14));         // sin 1
  CHECK(y.to_vector()[2 * 128 + 63] == Approx(0.0961014578192950).epsilon(1e-14));   // sin 0.09625
}

// golden/unet_torch.py, which needs PyTorch, writes the numbers; the weights follow from `formula`. Two images, three
// levels, two residual blocks in each, attention with two heads in the middle level, classes, a fractional time.
TEST_CASE("outputs, loss and all gradients agree with PyTorch", "[unet]") {
  nlohmann::json expected = golden("unet_torch.json"), layout = expected["config"];
  UNetConfig config;
  config.size = layout["size"];
  config.channels = layout["channels"];
  config.base = layout["base"];
  config.multipliers = layout["multipliers"].get<std::vector<int64_t>>();
  config.blocks = layout["blocks"];
  config.attention = layout["attention"].get<std::vector<int64_t>>();
  config.heads = layout["heads"];
  config.classes = layout["classes"];
  config.dropout = 0;
  UNet unet(config, 1);
  CHECK(unet.parameter_count() == expected["parameters"].get<int64_t>());
  set_by_formula(unet);
  Shape shape{2, config.size, config.size, config.channels};
  Tensor t = from(expected["times"].get<std::vector<double>>(), {2});
  Tensor ids = from(expected["classes"].get<std::vector<double>>(), {2}, DType::i64);
  std::vector<double> every = expected["output"].get<std::vector<double>>();
  auto sampled = [&](const Tensor& y) {
    std::vector<double> all = y.to_vector(), some;
    for (size_t i = 0; i < all.size(); i += expected["every"].get<size_t>()) some.push_back(all[i]);
    return from(some, {int64_t(some.size())}, DType::f64);
  };
  Tensor wanted = from(every, {int64_t(every.size())}, DType::f64);
  {
    NoGrad no_grad;
    Tensor y = unet.forward(formula_tensor(shape, 1000, 16), t, ids);
    CHECK_CLOSE(sampled(y), wanted, 1e-5, 1e-5);   // f32 through about 40 layers
  }
  unet.to(DType::f64);
  Tensor y = unet.forward(formula_tensor(shape, 1000, 16, 0, DType::f64), t, ids);
  CHECK_CLOSE(sampled(y), wanted, 1e-9, 1e-9);   // the file keeps 12 digits
  Tensor loss = mse_loss(y, formula_tensor(shape, 1001, 16, 0, DType::f64));
  CHECK(loss.item() == Approx(expected["loss"].get<double>()).epsilon(1e-10));
  backward(loss);
  NamedTensors parameters = unet.parameters();
  std::sort(parameters.begin(), parameters.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  CHECK(parameters.size() == expected["slopes"].size());
  for (size_t k = 0; k < parameters.size(); ++k) {
    const auto& [name, value] = parameters[k];
    INFO(name);
    double slope = dot(value.grad(), formula_tensor(value.shape(), 2000 + k, 1, 0, DType::f64));
    CHECK(slope == Approx(expected["slopes"].at(name).get<double>()).epsilon(1e-8).margin(1e-10));
  }
}

TEST_CASE("the network is finite at all times, and they matter", "[unet]") {
  UNet unet(small_config(), 1);
  set_by_formula(unet);
  NoGrad no_grad;
  Tensor x = zeros({4, 8, 8, 2}), y = unet.forward(x, from({0, 962, 962.5, 999}, {4}));
  CHECK(all_finite(y));
  for (int64_t i = 0; i < 3; ++i) CHECK_FALSE(difference(y.rows(i, i + 1), y.rows(i + 1, i + 2), 0, 1e-3).empty());
}

TEST_CASE("an image's output does not depend on its neighbours in the batch", "[unet]") {
  UNet unet(small_config(), 1);
  set_by_formula(unet);
  NoGrad no_grad;
  Tensor x = formula_tensor({3, 8, 8, 2}, 1, 8), t = from({5, 500, 900}, {3});
  Tensor all = unet.forward(x, t);
  for (int64_t i = 0; i < 3; ++i)
    CHECK_CLOSE(unet.forward(x.rows(i, i + 1), t.rows(i, i + 1)), all.rows(i, i + 1), 1e-5, 1e-5);
}

TEST_CASE("what the network makes of an image comes from the first block on the way up and what lies before it", "[unet]") {
  UNetConfig config = small_config();
  UNet unet(config, 5);
  unet.train(false);
  NoGrad no_grad;
  Tensor x = normal({3, config.size, config.size, config.channels}, DType::f32, Generator{1}), t = from({3, 40, 700}, {3});
  Tensor whole = unet.represent(x, t);
  int64_t last = config.levels() - 1;
  CHECK(whole.shape() == Shape{3, config.size >> last, config.size >> last, config.width(last)});
  CHECK_CLOSE(unet.represent(x.rows(1, 2), t.rows(1, 2)), whole.rows(1, 2), 1e-6, 1e-6);
  // By its own definition: the output of the block, as the network passes it on.
  Tensor seen;
  {
    std::vector<Tensor> lowest;   // every output at the lowest resolution that has the width of its blocks
    Watch watch([&](const char*, const Tensor& y) {
      if (y.ndim() == 4 && y.size(1) == whole.size(1) && y.size(3) == whole.size(3)) lowest.push_back(y);
    });
    unet.represent(x, t);
    seen = lowest.back();
  }
  CHECK_CLOSE(whole, seen, 1e-6, 1e-6);
  auto shifted = [&](const std::string& prefix) {
    UNet other(config, 5);
    other.train(false);
    for (auto& [name, value] : other.parameters())
      if (name.starts_with(prefix)) value.copy_(affine(value, 1, 0.1));
    return difference(other.represent(x, t), whole, 0, 0) != "";
  };
  CHECK(shifted("conv_in"));
  CHECK(shifted("mid_block"));
  CHECK(shifted("up_blocks.0.resnets.0"));
  CHECK_FALSE(shifted("up_blocks.0.resnets.1"));
  CHECK_FALSE(shifted("up_blocks.1"));
  CHECK_FALSE(shifted("conv_out"));
}

TEST_CASE("class ids change the output, the null class is one of them, others are refused", "[unet]") {
  UNetConfig config = small_config();
  config.classes = 3;
  UNet unet(config, 1);
  set_by_formula(unet);
  NoGrad no_grad;
  Tensor x = formula_tensor({1, 8, 8, 2}, 1, 8), t = full({1}, 10);
  std::vector<Tensor> outputs;
  for (double id : {0, 1, 2, 3}) outputs.push_back(unet.forward(x, t, from({id}, {1}, DType::i64)));
  for (size_t i = 0; i < outputs.size(); ++i)
    for (size_t j = 0; j < i; ++j) CHECK_FALSE(difference(outputs[i], outputs[j], 0, 1e-3).empty());
  CHECK(contains(error_of([&] { unet.forward(x, t, from({4}, {1}, DType::i64)); }),
                 "while running unet.class_embedding"));
  CHECK(contains(error_of([&] { unet.forward(x, t); }), "a network of 3 classes needs one i64 class id an image"));
}

TEST_CASE("inputs outside the contract are refused with what was needed", "[unet]") {
  UNet unet(small_config(), 1);
  Tensor x = zeros({2, 8, 8, 2}), t = zeros({2});
  CHECK(contains(error_of([&] { unet.forward(zeros({2, 2, 8, 8}), t); }), "[N, 8, 8, 2], got f32[2, 2, 8, 8]"));
  CHECK(contains(error_of([&] { unet.forward(zeros({8, 8, 2}), t); }), "got f32[8, 8, 2]"));
  CHECK(contains(error_of([&] { unet.forward(zeros({2, 8, 8, 2}, DType::u8), t); }), "x must be a floating"));
  CHECK(contains(error_of([&] { unet.forward(x, zeros({3})); }), "t is f32[3]"));
  CHECK(contains(error_of([&] { unet.forward(x, zeros({2}, DType::i64)); }), "t is i64[2]"));
  CHECK(contains(error_of([&] { unet.forward(x, t, zeros({2}, DType::i64)); }), "unconditional"));
}

TEST_CASE("a network in bf16 takes and returns f32, near the f32 network, and its gradients are f32", "[unet]") {
  UNet unet(small_config(), 1);
  set_by_formula(unet);
  Tensor x = formula_tensor({2, 8, 8, 2}, 1, 8), t = from({10, 900}, {2});
  Tensor exact = unet.forward(x, t).detach();
  unet.set_precision(DType::bf16);
  Tensor y = unet.forward(x, t);
  CHECK(y.dtype() == DType::f32);
  Tensor error = y.detach() - exact;
  double off = std::sqrt(dot(error, error) / dot(exact, exact));
  CHECK(off < 0.03);    // 8 bits: 0.4 % a rounding at most, some 30 layers one after another
  CHECK(off > 1e-4);    // and bf16 was on
  backward(sum(y));
  for (const auto& [name, value] : unet.parameters()) CHECK(value.grad().dtype() == DType::f32);
  UNet wide(small_config(), 1);
  wide.set_precision(DType::bf16);   // for f32 images; others are computed in their own dtype
  wide.to(DType::f64);
  CHECK(wide.forward(x.to(DType::f64), t).dtype() == DType::f64);
  CHECK(contains(error_of([&] { unet.set_precision(DType::f64); }), "f32 or bf16 needed, got f64"));
}

TEST_CASE("bf16 images give a bf16 forward pass near the f32 one and f32 gradients", "[unet]") {
  UNet unet(small_config(), 1);
  set_by_formula(unet);
  Tensor x = formula_tensor({1, 8, 8, 2}, 1, 8), t = full({1}, 10);
  Tensor exact = unet.forward(x, t).detach(), y = unet.forward(cast(x, DType::bf16), t);
  CHECK(y.dtype() == DType::bf16);
  Tensor error = y.detach().to(DType::f32) - exact;
  CHECK(std::sqrt(dot(error, error) / dot(exact, exact)) < 0.03);   // 8 bits: 0.4 % a rounding, some 30 layers
  backward(sum(cast(y, DType::f32)));
  for (const auto& [name, value] : unet.parameters()) {
    INFO(name);
    REQUIRE(value.grad().defined());
    CHECK(value.grad().dtype() == DType::f32);
  }
}

// ---- Gradients -----------------------------------------------------------------------------------------------------

TEST_CASE("gradients of a whole network match differences along a random direction in every layer", "[unet]") {
  Threads one(1);   // passes this small gain nothing from more, and on a busy machine threads wait 100 times as long
  UNetConfig config = GENERATE(small_config(), published_config());
  config.classes = 2;
  UNet unet(config, 1);
  set_by_formula(unet);   // the initial network has ~0 gradients almost everywhere: a check of it would check nothing
  unet.to(DType::f64);
  Tensor x = formula_tensor({1, 8, 8, 2}, 1, 8, 0, DType::f64).requires_grad();
  Tensor t = from({3.25}, {1}), ids = from({2}, {1}, DType::i64);
  Tensor cotangent = normal(x.shape(), DType::f64, Generator{11});
  backward(unet.forward(x, t, ids), cotangent);

  std::map<std::string, std::vector<Tensor>> layers{{"x", {x}}};   // weight and bias move together
  for (const auto& [name, value] : unet.parameters()) layers[name.substr(0, name.rfind('.'))].push_back(value);
  NoGrad no_grad;
  double step = 1e-6;
  Generator generator{12};
  for (auto& [name, tensors] : layers) {
    std::vector<Tensor> directions, starts;
    double slope = 0;
    for (const Tensor& tensor : tensors) {
      directions.push_back(normal(tensor.shape(), DType::f64, generator));
      starts.push_back(tensor.detach().clone());
      slope += dot(tensor.grad(), directions.back());
    }
    auto move = [&](double distance) {
      for (size_t i = 0; i < tensors.size(); ++i) tensors[i].copy_(starts[i] + affine(directions[i], distance, 0));
    };
    auto loss_at = [&](double distance) {
      move(distance);
      return dot(unet.forward(x, t, ids), cotangent);
    };
    double difference = (loss_at(step) - loss_at(-step)) / (2 * step);
    move(0);
    INFO(name << ": backward " << slope << ", central difference " << difference);
    // Truncation is step^2 times third derivatives along directions as long as sqrt(numel), rounding 1e-15 / step.
    CHECK(std::abs(slope - difference) <= 1e-7 + 1e-6 * std::abs(difference));
    CHECK(std::abs(slope) > 1e-5);   // far above the tolerance: a gradient of 0 would not pass
  }
}

TEST_CASE("recomputing blocks gives the same bits as keeping them, with dropout and classes", "[unet]") {
  UNetConfig config = small_config();
  config.dropout = 0.3;
  config.classes = 2;
  auto run = [&](DType precision, bool recompute) {
    UNet unet(config, 1);
    set_by_formula(unet);
    unet.set_precision(precision);
    unet.set_recompute(recompute);
    Tensor x = formula_tensor({2, 8, 8, 2}, 1, 8).requires_grad();
    Tensor y = unet.forward(x, from({3, 700.25}, {2}), from({0, 2}, {2}, DType::i64));
    backward(y, formula_tensor(y.shape(), 2));
    std::vector<std::pair<std::string, Tensor>> results{{"y", y.detach()}, {"dx", x.grad()}};
    for (const auto& [name, value] : unet.parameters()) results.emplace_back(name, value.grad());
    // Backward leaves the generator where forward did: the next draw is the same too.
    results.emplace_back("next draw", uniform({4}, DType::f32, unet.generator()));
    return results;
  };
  for (DType precision : {DType::f32, DType::bf16}) {
    auto kept = run(precision, false), recomputed = run(precision, true);
    REQUIRE(kept.size() == recomputed.size());
    for (size_t i = 0; i < kept.size(); ++i) {
      INFO(precision << " " << kept[i].first);
      CHECK_SAME(recomputed[i].second, kept[i].second);
    }
  }
}

TEST_CASE("bf16 and recomputing blocks each lower the peak memory of a step", "[unet]") {
  UNetConfig config = UNetConfig::preset("fmnist");
  auto peak = [&](DType precision, bool recompute) {
    UNet unet(config, 1);
    unet.set_precision(precision);
    unet.set_recompute(recompute);
    Arena arena(unet);
    Tensor x = zeros({8, 28, 28, 1}), t = zeros({8});
    unet.forward(x.rows(0, 1), t.rows(0, 1));   // makes the working copy of the weights, which is not compared
    Allocator& allocator = Allocator::of({});
    int64_t before = allocator.stats().in_use;
    allocator.reset_peak();
    DryRun dry;
    backward(mse_loss(unet.forward(x, t), x));
    return double(allocator.stats().peak - before);
  };
  double kept = peak(DType::f32, false), recomputed = peak(DType::f32, true), half = peak(DType::bf16, false);
  INFO("kept " << kept << " bytes, recomputed " << recomputed << ", bf16 " << half);
  CHECK(recomputed < 0.9 * kept);
  CHECK(half < 0.6 * kept);
  CHECK(peak(DType::bf16, true) < 0.9 * half);
}

// ---- Training ------------------------------------------------------------------------------------------------------

TEST_CASE("a train step has the same bits with 1, 2, 3 and 7 threads", "[unet]") {
  DType precision = GENERATE(DType::f32, DType::bf16);
  auto values_after = [precision](int count) {
    Threads threads(count);
    UNetConfig config = UNetConfig::preset("tiny");
    config.dropout = 0.1;
    UNet unet(config, 1);
    set_by_formula(unet);
    unet.set_precision(precision);
    Arena arena(unet);
    Optimizer optimizer(arena, {});
    train_step(unet, arena, optimizer, 0, 3);
    return std::pair(arena.values().clone(), arena.grads().clone());
  };
  auto [values, grads] = values_after(1);
  CHECK(dot(grads, grads) > 0);
  for (int count : {2, 3, 7}) {
    auto [other_values, other_grads] = values_after(count);
    INFO(precision << ", " << count << " threads");
    CHECK_SAME(other_grads, grads);
    CHECK_SAME(other_values, values);
  }
}

TEST_CASE("ten steps on synthetic data follow the recorded losses", "[unet]") {
  Threads one(1);   // as above; the bits are those of any other count
  UNet unet(small_config(), 1);
  Arena arena(unet);
  OptimizerOptions options;
  options.lr = 2e-3;
  options.warmup = 3;
  Optimizer optimizer(arena, options);
  std::vector<double> losses;
  // The targets have nothing to do with the images; the loss drops because one batch is fitted again and again.
  for (int step = 0; step < 10; ++step) losses.push_back(train_step(unet, arena, optimizer, 0, 4));
  std::vector<double> expected = golden("unet_losses.json").get<std::vector<double>>();
  INFO("got " << nlohmann::json(losses).dump());   // how the file was made
  // Rounding differs between instruction sets by about 1e-6 a step and grows as training amplifies it.
  CHECK_CLOSE(from(losses, {10}, DType::f64), from(expected, {10}, DType::f64), 0, 1e-3);
  CHECK(losses.back() < 0.95 * losses.front());
}

TEST_CASE("30 steps in bf16 follow the losses of f32", "[unet]") {
  Threads one(1);
  auto losses = [](DType precision) {
    UNet unet(small_config(), 1);
    unet.set_precision(precision);
    Arena arena(unet);
    OptimizerOptions options;
    options.lr = 2e-3;
    options.warmup = 3;
    Optimizer optimizer(arena, options);
    std::vector<double> all;
    for (int step = 0; step < 30; ++step) all.push_back(train_step(unet, arena, optimizer, step % 2, 4));
    return all;
  };
  std::vector<double> exact = losses(DType::f32), half = losses(DType::bf16);
  INFO("f32 " << nlohmann::json(exact).dump() << "\nbf16 " << nlohmann::json(half).dump());
  CHECK(exact.back() < 0.8 * exact.front());   // there is something to follow
  // A forward pass is off by 1 to 2 % of the output, at random (above): far less in a mean of squares. The two paths of
  // the weights part slowly; at the end, where the loss is a fifteenth of the first, by some hundredths of itself.
  CHECK_CLOSE(from(half, {30}, DType::f64), from(exact, {30}, DType::f64), 0.01 * exact.front(), 0);
  CHECK(half != exact);   // bf16 was on
}

TEST_CASE("a train step after the first asks the system for no memory", "[unet]") {
  for (DType precision : {DType::f32, DType::bf16})
    for (double dropout : {0.0, 0.1})
      for (bool recompute : {false, true}) {
        UNetConfig config = small_config();
        config.dropout = dropout;
        UNet unet(config, 1);
        unet.set_precision(precision);
        unet.set_recompute(recompute);
        Arena arena(unet);
        Optimizer optimizer(arena, {});
        Allocator::of({}).trim();
        train_step(unet, arena, optimizer, 0, 2);
        int64_t calls = Allocator::of({}).stats().system_calls;
        for (int step = 1; step < 4; ++step) train_step(unet, arena, optimizer, step, 2);
        INFO(precision << ", dropout " << dropout << ", recompute " << recompute);
        CHECK(Allocator::of({}).stats().system_calls == calls);
      }
}
