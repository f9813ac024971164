// Masks as channels and back, folds, losses, networks and training of ResEnsemble-DDPM.
#include <cmath>
#include <set>

#include "autograd/gradcheck.h"
#include "diffusion/resensemble/classes.h"
#include "diffusion/resensemble/folds.h"
#include "diffusion/resensemble/model.h"
#include "nn/e2e_net.h"
#include "nn/optim.h"
#include "nn/segmentation_losses.h"
#include "tests/diffusion_support.h"

using namespace mote;
using namespace mote::test;
using namespace mote::resensemble;

namespace {

Tensor ids_of(const std::vector<double>& values, const Shape& shape) { return from(values, shape, DType::i64); }

}  // namespace

// ---- Classes --------------------------------------------------------------------------------------------------------

TEST_CASE("masks of every coding come back", "[resensemble]") {
  for (int64_t classes : {2, 3, 5, 8, 11}) {
    Tensor ids = empty({2, 3, 11}, DType::i64);
    for (int64_t i = 0; i < ids.numel(); ++i) ids.data<int64_t>()[i] = i % classes;
    for (Coding coding : {Coding::binary, Coding::one_hot, Coding::bits}) {
      if (coding == Coding::binary && classes != 2) continue;
      INFO(name_of(coding) << " " << classes);
      Tensor x0 = encode(coding, ids, classes);
      CHECK(x0.size(3) == channels_of(coding, classes));
      CHECK_SAME(decode(coding, x0, classes), ids);
      CHECK_SAME(decode(coding, affine(x0, 0.01, 0), classes), ids);
    }
  }
  CHECK(channels_of(Coding::bits, 11) == 4);
  CHECK(channels_of(Coding::bits, 8) == 3);
  CHECK(channels_of(Coding::bits, 2) == 1);
}

TEST_CASE("a code without a class goes to the nearest class that there is", "[resensemble]") {
  // 5 classes, 3 bits: (1, 1, 1) is 7. Weakest bit 0: 6 is no class either; of 0..4, 3 = (1, 1, -1) differs in bit 2
  // alone and 4 = (-1, -1, 1) in two.
  CHECK_SAME(decode(Coding::bits, from({0.9, 0.9, 0.1}, {1, 1, 1, 3}), 5), ids_of({3}, {1, 1, 1}));
  CHECK_SAME(decode(Coding::bits, from({0.1, 0.1, 0.9}, {1, 1, 1, 3}), 5), ids_of({4}, {1, 1, 1}));
}

TEST_CASE("priors from probabilities have the planes and bits of the coding", "[resensemble]") {
  Tensor p = from({0.1, 0.2, 0.7}, {1, 1, 1, 3});
  Tensor one_hot = encode_probabilities(Coding::one_hot, p);
  CHECK_CLOSE(one_hot, from({-0.8, -0.6, 0.4}, {1, 1, 1, 3}), 1e-6, 0);
  CHECK(apart(sum(one_hot).item(), 2 - 3, 1e-6) == "");
  CHECK_CLOSE(encode_probabilities(Coding::bits, p), from({2 * 0.2 - 1, 2 * 0.7 - 1}, {1, 1, 1, 2}), 1e-6, 0);
  Tensor y = from({1, 0, 0.5, 2, 2, 2}, {1, 1, 2, 3}), plane = to_plane(y);
  CHECK_CLOSE(sum(plane, {3}), full({1, 1, 2}, -1), 1e-6, 0);
  CHECK_CLOSE(plane, from({1 - 2.5 / 3, 0 - 2.5 / 3, 0.5 - 2.5 / 3, -1. / 3, -1. / 3, -1. / 3}, {1, 1, 2, 3}), 1e-6, 0);
  CHECK_SAME(decode(Coding::one_hot, plane, 3), decode(Coding::one_hot, y, 3));
}

TEST_CASE("ignored pixels have no residual and do not count", "[resensemble]") {
  Tensor ids = ids_of({0, 255, 1, 255}, {1, 2, 2}), f = from({0.1, 0.2, 0.3, 0.4}, {1, 2, 2, 1});
  Tensor x0 = fill_ignored(encode(Coding::binary, ids, 2, 255), f, ids, 255);
  CHECK_SAME(x0, from({-1, 0.2, 1, 0.4}, {1, 2, 2, 1}));
  CHECK_SAME(counted(ids, 255), from({1, 0, 1, 0}, {1, 2, 2, 1}));
  Caught wrong = caught([&] { encode(Coding::binary, ids, 2, -1); });
  CHECK(wrong.kind == Error::Kind::data);
  CHECK(wrong.says("pixel 1 of mask 0 has class 255"));
  CHECK(caught([] { channels_of(Coding::binary, 3); }).kind == Error::Kind::usage);
  CHECK(caught([] { channels_of(Coding::one_hot, 1); }).kind == Error::Kind::usage);
  CHECK(caught([] { coding_named("onehot"); }).kind == Error::Kind::usage);
}

TEST_CASE("class probabilities are smoothed frequencies", "[resensemble]") {
  Tensor ys =
      concat({encode(Coding::one_hot, ids_of({0}, {1, 1, 1}), 3), encode(Coding::one_hot, ids_of({2}, {1, 1, 1}), 3),
              encode(Coding::one_hot, ids_of({2}, {1, 1, 1}), 3)},
             0);
  Tensor p = class_probabilities(Coding::one_hot, ys.view({3, 1, 1, 1, 3}), 3);
  CHECK_CLOSE(p, from({1.5 / 4.5, 0.5 / 4.5, 2.5 / 4.5}, {1, 1, 1, 3}), 1e-6, 0);
}

TEST_CASE("samples of a one-hot target stay in the plane of the classes", "[resensemble]") {
  Schedule schedule = schedule_named("scaled", 25);
  Target target = target_named("residual");
  Tensor f = encode_probabilities(Coding::one_hot, softmax(normal({2, 3, 3, 4}, DType::f32, Generator{1})));
  EnsembleOptions options;
  options.sampler = {.name = "ddim", .steps = 25, .prediction = Prediction::x0};
  options.plane = true;
  options.clip_x0 = false;
  EnsembleNetwork network = [](const Tensor& x, double, const std::vector<int64_t>&) { return affine(x, 0.7, 0.2); };
  Tensor y = estimate_of(target, sample_ensemble(schedule, target, options, network, f).view(f.shape()), f);
  CHECK_CLOSE(sum(y, {3}), full({2, 3, 3}, 2 - 4), 1e-4, 0);
}

// ---- Folds ----------------------------------------------------------------------------------------------------------

TEST_CASE("folds are even, repeatable and keep groups together", "[resensemble]") {
  std::vector<int64_t> fold_of = assign_folds(23, 5, 3), sizes(5, 0);
  for (int64_t fold : fold_of) ++sizes[size_t(fold)];
  CHECK(sizes == std::vector<int64_t>{5, 5, 5, 4, 4});
  CHECK(assign_folds(23, 5, 3) == fold_of);
  CHECK(assign_folds(23, 5, 4) != fold_of);
  std::vector<std::string> groups;
  for (int i = 0; i < 40; ++i) groups.push_back("g" + std::to_string(i % 7));
  std::vector<int64_t> grouped = assign_folds(40, 3, 1, groups);
  for (int i = 7; i < 40; ++i) CHECK(grouped[size_t(i)] == grouped[size_t(i % 7)]);
  std::vector<int64_t> inside = members(grouped, 1, true), outside = members(grouped, 1, false);
  CHECK(inside.size() + outside.size() == 40);
  CHECK(std::is_sorted(outside.begin(), outside.end()));
  CHECK(caught([] { assign_folds(3, 4, 0); }).says("4 asked for, needs 2 to the number of examples, 3"));
  CHECK(caught([&] { assign_folds(40, 8, 0, groups); }).kind == Error::Kind::usage);
  CHECK(caught([] { assign_folds(3, 1, 0); }).kind == Error::Kind::usage);
  CHECK(caught([&] { assign_folds(3, 2, 0, groups); }).kind == Error::Kind::argument);
}

// ---- Losses ---------------------------------------------------------------------------------------------------------

TEST_CASE("segmentation losses have their printed values", "[resensemble]") {
  Tensor logits = from({0, 0, 0, 0}, {1, 2, 2, 1}), truth = from({1, 1, 0, 0}, {1, 2, 2, 1});
  double dice = 1 - (2 * 1.0 + 1) / (2 + 2 + 1);   // p = 1/2 everywhere
  CHECK(apart(nn::bce_dice_loss(logits, truth).item(), std::log(2) + dice, 1e-6) == "");
  Tensor sure = from({50, 50, -50, -50}, {1, 2, 2, 1});
  CHECK(apart(nn::bce_dice_loss(sure, truth).item(), 0, 1e-6) == "");
  CHECK(apart(nn::bce_dice_loss(affine(sure, -1, 0), truth).item(), 50 + 1 - 1. / 5, 1e-4) == "");
  // a pixel that does not count changes nothing, whatever is in it
  Tensor weight = from({1, 1, 1, 0}, {1, 2, 2, 1});
  double before = nn::bce_dice_loss(logits, truth, weight).item();
  CHECK(nn::bce_dice_loss(from({0, 0, 0, 9}, {1, 2, 2, 1}), truth, weight).item() == before);
  Tensor ids = ids_of({0, 2, 1, 255}, {1, 2, 2}), wide = normal({1, 2, 2, 3}, DType::f32, Generator{5});
  double classes = nn::class_dice_loss(wide, ids, 255).item();
  Tensor other = wide.clone();
  other.data<float>()[11] += 3;
  CHECK(nn::class_dice_loss(other, ids, 255).item() == classes);
  CHECK(caught([&] { nn::class_dice_loss(wide, ids); }).kind == Error::Kind::data);
  CHECK(caught([&] {
          nn::class_dice_loss(wide, full({1, 2, 2}, 255, DType::i64), 255);
        }).says("every pixel is ignored"));
  Tensor flat = zeros({1, 1, 1, 3});
  CHECK(apart(nn::class_dice_loss(flat, ids_of({1}, {1, 1, 1})).item(),
              std::log(3) + (2 * (1 - 1 / (4. / 3)) + (1 - (5. / 3) / (7. / 3))) / 3, 1e-6) == "");
  CHECK(apart(nn::l1_loss(from({1, -2}, {2}), from({0, 0}, {2})).item(), 1.5, 1e-7) == "");
  CHECK(apart(nn::charbonnier_loss(from({0, 0}, {2}), from({0, 0}, {2})).item(), 1e-3, 1e-8) == "");
}

TEST_CASE("segmentation losses match differences", "[resensemble]") {
  Tensor logits = normal({2, 3, 2, 1}, DType::f64, Generator{1}),
         truth = from({1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0}, {2, 3, 2, 1}, DType::f64);
  Tensor weight = from({1, 1, 0, 1, 1, 1, 1, 1, 1, 0, 1, 1}, {2, 3, 2, 1}, DType::f64);
  auto worst = [](const std::function<Tensor(In)>& fn, const std::vector<Tensor>& inputs) {
    GradReport report = gradcheck(fn, inputs);
    INFO(report.where);
    return report.worst_relative;
  };
  CHECK(worst([&](In x) { return nn::bce_dice_loss(x[0], truth); }, {logits}) < 1e-8);
  CHECK(worst([&](In x) { return nn::bce_dice_loss(x[0], truth, weight); }, {logits}) < 1e-8);
  Tensor ids = ids_of({0, 1, 2, 2, 255, 1, 0, 0, 0, 1, 2, 255}, {2, 3, 2}),
         wide = normal({2, 3, 2, 3}, DType::f64, Generator{2});
  CHECK(worst([&](In x) { return nn::class_dice_loss(x[0], ids, 255); }, {wide}) < 1e-8);
  CHECK(worst([&](In x) { return nn::charbonnier_loss(x[0], x[1]); }, {logits, truth}) <
        1e-6);   // near 0 it bends within 1e-3
  CHECK(worst([&](In x) { return nn::l1_loss(x[0], x[1]); }, {logits, truth}) < 1e-8);
}

TEST_CASE("a temperature undoes the factor that logits were multiplied with", "[resensemble]") {
  int64_t N = 4000;
  Generator draw{3};
  Tensor z = normal({1, N, 1, 1}, DType::f32, draw), u = uniform({1, N, 1, 1}, DType::f32, draw), p = sigmoid(z);
  Tensor ids = empty({1, N, 1}, DType::i64);
  for (int64_t i = 0; i < N; ++i) ids.data<int64_t>()[i] = u.data<float>()[i] < p.data<float>()[i];
  double tau = nn::fit_temperature(z, ids);
  CHECK(apart(tau, 1, 0.12) == "");   // truth drawn from the probabilities: about 3 deviations
  CHECK(apart(nn::fit_temperature(affine(z, 3, 0), ids), 3 * tau, 0, 1e-3) == "");
  Tensor two = concat({zeros({1, N, 1, 1}), z}, 3);   // softmax of (0, z) is sigmoid(z)
  CHECK(apart(nn::fit_temperature(two, ids), tau, 0, 1e-3) == "");
  CHECK_CLOSE(nn::probabilities(affine(z, 2, 0), 2), p, 1e-6, 0);
}

// ---- Networks -------------------------------------------------------------------------------------------------------

TEST_CASE("networks have the parameters of the tables", "[resensemble]") {
  auto e2e = [](const char* name, int64_t channels) {
    nn::E2ENetConfig config = nn::E2ENetConfig::preset(name);
    config.channels_in = channels;
    return nn::E2ENet(config, 1).parameter_count();
  };
  CHECK(e2e("e-28", 1) == 118625);      // 0.119 M
  CHECK(e2e("e-64", 3) == 488705);      // 0.489 M
  CHECK(e2e("e-128", 3) == 7852545);    // 7.85 M
  CHECK(e2e("e-weak", 1) == 72305);     // 0.03 to 0.1 M
  const std::pair<const char*, double> denoisers[] = {{"d28-cpu", 0.280}, {"d28", 1.113}, {"d32-rgb-cpu", 0.282},
                                                      {"d64-cpu", 0.791}, {"d64-s2d", 1.545}, {"d64-gpu", 12.56},
                                                      {"d128-gpu", 13.2}};
  for (auto [name, millions] : denoisers) {
    nn::DenoiserConfig config = nn::DenoiserConfig::preset(name);
    config.fit(config.size, config.channels, config.image_channels, true);
    INFO(name);
    CHECK(apart(double(nn::Denoiser(config, 1).parameter_count()) / 1e6, millions, 0, 0.01) == "");
  }
}

TEST_CASE("configurations survive json, and bad ones are refused", "[resensemble]") {
  nn::E2ENetConfig e2e = nn::E2ENetConfig::preset("e-weak");
  e2e.channels_out = 11;
  CHECK(nn::e2e_net_config_from_json(nn::to_json(e2e)) == e2e);
  ModelConfig model;
  model.net = nn::DenoiserConfig::preset("d64-s2d");
  model.net.condition = "sum";
  model.net.fit(32, 4, 1, true);
  model.target = "residual:2";
  model.schedule = "scaled";
  model.T = 100;
  CHECK(model_config_from_json(to_json(model)) == model);
  CHECK(caught([] { model_config_from_json("{}"); }).kind == Error::Kind::checkpoint);
  CHECK(caught([] { nn::e2e_net_config_from_json("[]"); }).kind == Error::Kind::checkpoint);
  CHECK(caught([] { nn::DenoiserConfig::preset("d29"); }).says("there are tiny, d28-cpu"));
  CHECK(caught([] { nn::DenoiserConfig::preset("d28").fit(27, 1, 1, false); }).kind == Error::Kind::usage);
  CHECK(caught([] { nn::E2ENetConfig::preset("e28"); }).kind == Error::Kind::usage);
  model.target = "resfusion";
  model.T = 11;
  CHECK(caught([&] { model.validate(); }).kind == Error::Kind::usage);
}

TEST_CASE("end-to-end networks differentiate, and pad what does not divide", "[resensemble]") {
  for (const char* kind : {"unet", "fcn"}) {
    nn::E2ENetConfig config;
    config.kind = kind;
    config.widths = {8, 8};
    nn::E2ENet net(config, 3);
    CHECK(net.forward(zeros({2, 7, 9, 1})).shape() == Shape{2, 7, 9, 1});
    net.to(DType::f64);
    std::vector<Tensor> inputs{normal({1, 5, 6, 1}, DType::f64, Generator{4})};
    GradReport report = gradcheck([&](In x) { return net.forward(x[0]); }, inputs, 1e-6, 40);
    INFO(kind << " " << report.where);
    CHECK(report.worst_relative < 1e-6);
  }
  nn::E2ENetConfig restoring;
  restoring.widths = {8, 8};
  restoring.residual = true;
  Tensor x = normal({1, 6, 6, 1}, DType::f32, Generator{5});
  CHECK_CLOSE(nn::E2ENet(restoring, 1).forward(x), x, 1e-3, 0);   // starts as the identity
}

TEST_CASE("bilinear enlargement keeps planes and differentiates", "[resensemble]") {
  Tensor x = from({0, 1, 2, 3}, {1, 2, 2, 1}, DType::f64);   // 2 row + column
  Tensor y = nn::upsample_bilinear(x, 2);
  CHECK_CLOSE(
      y, from({0, .25, .75, 1, .5, .75, 1.25, 1.5, 1.5, 1.75, 2.25, 2.5, 2, 2.25, 2.75, 3}, {1, 4, 4, 1}, DType::f64),
      1e-12, 0);
  CHECK(gradcheck([](In t) { return nn::upsample_bilinear(t[0], 3); }, {normal({2, 2, 3, 2}, DType::f64, Generator{1})})
            .worst_relative < 1e-8);
}

TEST_CASE("space to depth and back is the identity, in the order row, column, channel", "[resensemble]") {
  Tensor x = arange(32).to(DType::f32).view({1, 4, 4, 2});
  Tensor deep = nn::space_to_depth(x, 2);
  CHECK(deep.shape() == Shape{1, 2, 2, 8});
  CHECK_SAME(deep.view({4, 8}).rows(0, 1), from({0, 1, 2, 3, 8, 9, 10, 11}, {1, 8}));
  CHECK_SAME(nn::depth_to_space(deep, 2), x);
}

TEST_CASE("denoisers differentiate through the state, the image and the prior", "[resensemble]") {
  for (const char* condition : {"concat", "sum"}) {
    nn::DenoiserConfig config = nn::DenoiserConfig::preset("tiny");
    config.condition = condition;
    config.unet.base = 4;
    config.unet.multipliers = {1};
    config.unet.attention = {};
    config.fold = 2;
    config.fit(4, 1, 2, true);
    nn::Denoiser net(config, 2);
    for (auto& [name, value] : net.parameters())   // the last convolutions start at about 0, which would hide the rest
      value.copy_(affine(normal(value.shape(), DType::f32, Generator{uint64_t(value.numel())}), 0.1, 0));
    net.to(DType::f64);
    Generator draw{6};
    std::vector<Tensor> inputs{normal({1, 4, 4, 1}, DType::f64, draw), normal({1, 4, 4, 2}, DType::f64, draw),
                               normal({1, 4, 4, 1}, DType::f64, draw)};
    GradReport report = gradcheck([&](In x) { return net.forward(x[0], full({1}, 3.5), x[1], x[2]); }, inputs, 1e-6, 8);
    INFO(condition << " " << report.where);
    CHECK(report.worst_relative < 1e-6);
    Tensor out = net.forward(inputs[0], full({1}, 3.5), inputs[1], inputs[2]);
    for (size_t i = 1; i < 3; ++i) {   // both are heard
      std::vector<Tensor> changed = inputs;
      changed[i] = affine(changed[i], 1, 1);
      CHECK(difference(net.forward(changed[0], full({1}, 3.5), changed[1], changed[2]), out, 1e-4, 0) != "");
    }
  }
}

// ---- Training and sampling with a network ---------------------------------------------------------------------------

namespace {

ModelConfig tiny_model(const char* condition = "concat") {
  ModelConfig config;
  config.net = nn::DenoiserConfig::preset("tiny");
  config.net.condition = condition;
  config.net.fit(8, 1, 1, true);
  config.schedule = "scaled";
  config.T = 50;
  return config;
}

struct Images {
  Tensor image = normal({3, 8, 8, 1}, DType::f32, Generator{31});
  Tensor f = affine(uniform({3, 8, 8, 1}, DType::f32, Generator{32}), 2, -1);
};

}  // namespace

TEST_CASE("the image is encoded once, whatever the number of samples and steps", "[resensemble]") {
  ModelConfig config = tiny_model("sum");
  nn::Denoiser net(config.net, 4);
  Images data;
  Schedule schedule = config.levels();
  EnsembleOptions options;
  options.sampler = {.name = "ddim", .steps = 4};
  options.samples = 3;
  options.batch = 4;
  Tensor cached = sample_model(net, config, schedule, options, data.image, data.f);
  CHECK(net.encodings() == 3);
  options.sampler.steps = 7;
  options.samples = 5;
  sample_model(net, config, schedule, options, data.image, data.f);
  CHECK(net.encodings() == 6);
  // the same with the encoding computed anew at every call
  options.sampler.steps = 4;
  options.samples = 3;
  net.train(false);
  EnsembleNetwork anew = [&](const Tensor& x, double t, const std::vector<int64_t>& rows) {
    std::vector<Tensor> images, priors;
    for (int64_t row : rows) {
      images.push_back(data.image.rows(row, row + 1));
      priors.push_back(data.f.rows(row, row + 1));
    }
    return net.forward(x, full({x.size(0)}, t), concat(images, 0), concat(priors, 0));
  };
  CHECK_SAME(sample_ensemble(schedule, config.map(), options, anew, data.f), cached);
  CHECK(net.encodings() > 6 + 3 * 4);
}

TEST_CASE("a batch of samples equals single ones with a real network", "[resensemble]") {
  ModelConfig config = tiny_model();
  nn::Denoiser net(config.net, 4);
  Images data;
  Schedule schedule = config.levels();
  EnsembleOptions options;
  options.sampler = {.name = "ddpm", .steps = 5, .variance = "small"};
  options.samples = 4;
  options.seed = 8;
  Tensor together = sample_model(net, config, schedule, options, data.image, data.f);
  CHECK_SAME(sample_model(net, config, schedule, options, data.image, data.f), together);
  options.batch = 1;
  CHECK_SAME(sample_model(net, config, schedule, options, data.image, data.f), together);
  Threads three(3);
  CHECK_SAME(sample_model(net, config, schedule, options, data.image, data.f), together);
}

TEST_CASE("training leaves the end-to-end model as it was and ignores what has no truth", "[resensemble]") {
  nn::E2ENet e2e(nn::E2ENetConfig::preset("e-28"), 1);
  std::vector<std::pair<std::string, Tensor>> before;
  for (const auto& [name, value] : e2e.parameters()) before.emplace_back(name, value.clone());
  Images data;
  Tensor prior;
  {
    NoGrad no_grad;
    prior = affine(nn::probabilities(e2e.forward(data.image)), 2, -1);
  }
  ModelConfig config = tiny_model();
  nn::Denoiser net(config.net, 2);
  nn::Arena arena(net);
  nn::Optimizer optimizer(arena, {});
  Schedule schedule = config.levels();
  Tensor step = from({0, 20, 49}, {3}, DType::i64), noise = normal(data.f.shape(), DType::f32, Generator{9});
  Tensor x0 = from(std::vector<double>(192, 1), {3, 8, 8, 1});
  Tensor loss = training_loss(net, config, schedule, data.image, x0, prior, step, noise);
  backward(loss);
  CHECK(optimizer.step() > 0);
  nn::NamedTensors after = e2e.parameters();
  for (size_t i = 0; i < before.size(); ++i) {
    const Tensor& value = after[i].second;
    CHECK_SAME(value, before[i].second);
    CHECK_FALSE(value.grad().defined());
  }
  // the loss of ignored pixels: whatever the noise asks for there does not count
  Tensor weight = full({3, 8, 8, 1}, 1);
  NoGrad no_grad;
  double plain = training_loss(net, config, schedule, data.image, x0, prior, step, noise).item();
  CHECK(apart(training_loss(net, config, schedule, data.image, x0, prior, step, noise, weight).item(), plain, 1e-5) ==
        "");
  CHECK(caught([&] { training_loss(net, config, schedule, data.image, x0, prior, step, noise, zeros(weight.shape())); })
            .says("every pixel of the batch is ignored"));
}

namespace {

/// eps = a_t x + b_t I + c_t: the family that holds the optimum of the scalar toy.
class LinearModel : public nn::Module {
 public:
  explicit LinearModel(int64_t T)
      : a_(add_parameter("a", zeros({T, 1}))),
        b_(add_parameter("b", zeros({T, 1}))),
        c_(add_parameter("c", zeros({T, 1}))) {}
  Tensor forward(const Tensor& x, const Tensor& image, const Tensor& t) const {
    return embedding(a_.value, t) * x + embedding(b_.value, t) * image + embedding(c_.value, t);
  }

 private:
  nn::Parameter &a_, &b_, &c_;
};

}  // namespace

TEST_CASE("training finds the linear optimum of the toy", "[resensemble]") {
  if (kSanitized) {
    WARN("skipped under sanitizers: 2500 steps of a model without code of its own");
    return;
  }
  constexpr int64_t T = 50, N = 3000, kSteps = 2500;
  Schedule schedule = schedule_named("scaled", T);
  Target target = target_named("residual");
  LinearModel model(T);
  nn::Arena arena(model);
  nn::OptimizerOptions options;
  options.lr = 0.03;
  options.schedule = "cosine";
  options.total_steps = kSteps;
  options.clip = 0;
  options.ema = 0;
  nn::Optimizer optimizer(arena, options);
  Generator draw{77};
  double tail = 0, optimum = 0;
  for (int64_t n = 0; n < T; ++n) {
    Level level = schedule.level(n);
    optimum += level.abar * 1.44 / (level.abar * 1.44 + level.variance) / T;
  }
  for (int64_t s = 0; s < kSteps; ++s) {
    Tensor image = normal({N, 1}, DType::f32, draw), n = normal({N, 1}, DType::f32, draw),
           eps = normal({N, 1}, DType::f32, draw);
    Tensor step = randint(0, T, {N}, draw);
    Tensor x0 = affine(image, 0.8, 0) + affine(n, 0.6, 0), f = affine(image, 0.5, 0);
    Tensor x = q_sample(schedule, target_of(target, x0, f), step, eps);
    arena.zero_grad();
    Tensor loss = mse_loss(model.forward(x, image, step), eps);
    backward(loss);
    optimizer.step();
    if (s >= kSteps - 500) tail += loss.item() / 500;
  }
  nn::NamedTensors parameters = model.parameters();
  for (int64_t n = 0; n < T; ++n) {
    Level level = schedule.level(n);
    double a = level.sigma() / (level.abar * 1.44 + level.variance);
    INFO("level " << n);
    CHECK(apart(parameters[0].second.to_vector()[size_t(n)], a, 0.02) == "");
    CHECK(apart(parameters[1].second.to_vector()[size_t(n)], -1.1 * level.a() * a, 0.02) == "");
    CHECK(apart(parameters[2].second.to_vector()[size_t(n)], 0, 0.02) == "");
  }
  CHECK(apart(tail, optimum, 0.005) == "");
}

TEST_CASE("one pair can be learnt by heart", "[resensemble]") {
  if (kSanitized) {
    WARN("skipped under sanitizers: it trains for seconds");
    return;
  }
  constexpr int64_t kSide = 14;
  ModelConfig config = tiny_model();
  config.net = nn::DenoiserConfig::preset("tiny");
  config.net.unet.attention = {};   // the middle has it anyway
  config.net.fit(kSide, 1, 1, true);
  config.T = 100;
  Schedule schedule = config.levels();
  nn::Denoiser net(config.net, 1);
  nn::Arena arena(net);
  nn::OptimizerOptions options;
  options.lr = 5e-3;
  options.schedule = "cosine";
  options.total_steps = 500;
  options.warmup = 20;
  options.ema = 0;
  nn::Optimizer optimizer(arena, options);
  constexpr int64_t kBatch = 8;
  Tensor x0 = full({1, kSide, kSide, 1}, -1), f = full({1, kSide, kSide, 1}, -0.6), image = full({1, kSide, kSide, 1}, -0.5);
  for (int64_t row = 4; row < 10; ++row)
    for (int64_t col = 3; col < 11; ++col) {
      x0.data<float>()[row * kSide + col] = 1;
      f.data<float>()[row * kSide + col] = col < 9 ? 0.7f : -0.3f;   // a prior that misses a quarter of it
      image.data<float>()[row * kSide + col] = 0.5f;
    }
  auto repeated = [&](const Tensor& x) { return concat(std::vector<Tensor>(kBatch, x), 0); };
  Tensor x0s = repeated(x0), fs = repeated(f), images = repeated(image);
  Generator draw{5};
  double tail = 0;
  for (int64_t s = 0; s < options.total_steps; ++s) {
    Tensor step = randint(config.T / 10, config.T, {kBatch}, draw), noise = normal(x0s.shape(), DType::f32, draw);
    arena.zero_grad();
    Tensor loss = training_loss(net, config, schedule, images, x0s, fs, step, noise);
    backward(loss);
    optimizer.step();
    if (s >= options.total_steps - 50) tail += loss.item() / 50;
  }
  CHECK(tail < 0.02);
  EnsembleOptions sampling;
  sampling.sampler = {.name = "ddim", .steps = 20};
  Tensor xbar = sample_model(net, config, schedule, sampling, image, f);
  Tensor y = estimates(config.map(), xbar, f).mean;
  CHECK_SAME(decode(Coding::binary, y, 2), decode(Coding::binary, x0, 2));
  CHECK(difference(decode(Coding::binary, f, 2), decode(Coding::binary, x0, 2), 0, 0) != "");
}
