// The networks of ClusterDDPM: sizes against the published ones, gradients, and what must not depend on what.
#include "nn/cluster_net.h"

#include "autograd/gradcheck.h"
#include "diffusion/cluster/model.h"
#include "tests/nn_support.h"

using namespace mote;
using namespace mote::nn;
using namespace mote::test;

namespace {

ClusterNetConfig small_net(bool batch_norm = false) { return {.size = 8, .channels = 2, .width = 8, .latent = 3, .batch_norm = batch_norm}; }

cluster::Model small_model(bool batch_norm = false) {
  return cluster::Model({.net = small_net(batch_norm), .unet = {}, .schedule = "cosine", .T = 50}, 3);
}

Tensor images_of(int64_t count, uint64_t seed, DType dtype = DType::f32) {
  return normal({count, 8, 8, 2}, DType::f64, Generator{seed}).to(dtype);
}

}  // namespace

// ---- BatchNorm -----------------------------------------------------------------------------------------------------

TEST_CASE("BatchNorm takes the statistics of the batch in training and its running ones in evaluation", "[nn][cluster]") {
  BatchNorm norm(2, 1e-5, 0.1);
  Tensor x = from({1, 10, 2, 20, 3, 30, 6, 40}, {2, 1, 2, 2});   // channels 1 2 3 6 and 10 20 30 40
  Tensor y = norm.forward(x);
  double a = 1 / std::sqrt(3.5 + 1e-5), b = 1 / std::sqrt(125 + 1e-5);   // variances 3.5 and 125, means 3 and 25
  CHECK_CLOSE(y, from({-2 * a, -15 * b, -a, -5 * b, 0, 5 * b, 3 * a, 15 * b}, {2, 1, 2, 2}), 1e-6, 0);
  std::map<std::string, Tensor> kept;
  for (const auto& [name, value] : norm.buffers()) kept[name] = value;
  REQUIRE(kept.size() == 2);
  CHECK_CLOSE(kept["running_mean"], from({0.3, 2.5}, {2}), 1e-6, 0);
  CHECK_CLOSE(kept["running_var"], from({0.9 + 0.1 * 3.5 * 4 / 3, 0.9 + 0.1 * 125 * 4 / 3}, {2}), 1e-6, 1e-6);   // Bessel
  norm.train(false);
  y = norm.forward(x.rows(0, 1));
  double c = 1 / std::sqrt(0.9 + 0.1 * 3.5 * 4 / 3 + 1e-5), d = 1 / std::sqrt(0.9 + 0.1 * 125 * 4 / 3 + 1e-5);
  CHECK_CLOSE(y, from({0.7 * c, 7.5 * d, 1.7 * c, 17.5 * d}, {1, 1, 2, 2}), 1e-6, 1e-6);
  CHECK_CLOSE(kept["running_mean"], from({0.3, 2.5}, {2}), 1e-6, 0);   // evaluation leaves them
}

TEST_CASE("BatchNorm's gradients match differences in training and in evaluation", "[nn][cluster][grad]") {
  BatchNorm norm(3);
  norm.to(DType::f64);
  Tensor x = normal({2, 3, 2, 3}, DType::f64, Generator{4});
  for (bool training : {true, false}) {
    norm.train(training);
    GradReport report = gradcheck([&](In in) { return norm.forward(in[0]); }, {x});
    INFO("training " << training << ": " << report.where);
    CHECK(report.worst_relative < 1e-7);
  }
}

TEST_CASE("BatchNorm refuses one value a channel and another width", "[nn][cluster]") {
  BatchNorm norm(3);
  CHECK(contains(error_of([&] { norm.forward(zeros({1, 1, 1, 3})); }), "has no variance"));
  CHECK(contains(error_of([&] { norm.forward(zeros({1, 2, 2, 4})); }), "[N, H, W, 3], got f32[1, 2, 2, 4]"));
}

// ---- Sizes ---------------------------------------------------------------------------------------------------------

TEST_CASE("encoder and gated UNet have the published numbers of parameters", "[nn][cluster]") {
  for (bool batch_norm : {false, true}) {   // either norm has two numbers a channel
    ClusterNetConfig config{.size = 28, .channels = 1, .width = 64, .latent = 32, .batch_norm = batch_norm};
    CHECK(ClusterUNet(config, Init(1)).parameter_count() == 1654529);
    CHECK(ClusterEncoder(config, Init(1)).parameter_count() == 342144);
    CHECK(ClusterEncoder(config, Init(1)).buffers().size() == (batch_norm ? 12u : 0u));
    config.width = 128;
    CHECK(ClusterUNet(config, Init(1)).parameter_count() == 6594049);
    CHECK(ClusterEncoder(config, Init(1)).parameter_count() == 1347776);
  }
}

TEST_CASE("the networks take images of any size that is a multiple of four, grey or coloured", "[nn][cluster]") {
  NoGrad no_grad;
  for (auto [size, channels] : {std::pair<int64_t, int64_t>{4, 1}, {12, 1}, {16, 3}}) {
    ClusterNetConfig config{.size = size, .channels = channels, .width = 8, .latent = 5, .batch_norm = false};
    Tensor x = normal({2, size, size, channels}, DType::f32, Generator{1});
    auto [mean, log_variance] = ClusterEncoder(config, Init(1)).forward(x);
    CHECK(mean.shape() == Shape{2, 5});
    CHECK(log_variance.shape() == Shape{2, 5});
    CHECK(ClusterUNet(config, Init(1)).forward(x, full({2}, 0.5), mean).shape() == x.shape());
  }
}

TEST_CASE("a configuration that cannot be built is refused with every problem named", "[nn][cluster]") {
  ClusterNetConfig config{.size = 30, .channels = 0, .width = 12, .latent = 0, .batch_norm = false};
  std::string message = error_of([&] { config.validate(); }, Error::Kind::usage);
  for (const char* part : {"size must be 4 to 1024 in steps of 4, got 30", "channels must be", "width must be", "latent must be"})
    CHECK(contains(message, part));
  ClusterUNet unet(small_net(), Init(1));
  Tensor x = images_of(2, 1), time = zeros({2}), code = zeros({2, 3});
  CHECK(contains(error_of([&] { unet.forward(zeros({2, 4, 4, 2}), time, code); }), "[N, 8, 8, 2], got f32[2, 4, 4, 2]"));
  CHECK(contains(error_of([&] { unet.forward(x, zeros({3}), code); }), "time is f32[3]"));
  CHECK(contains(error_of([&] { unet.forward(x, time, zeros({2, 4})); }), "code is f32[2, 4]"));
  CHECK(contains(error_of([&] { ClusterEncoder(small_net(), Init(1)).forward(zeros({2, 8, 8, 1})); }), "got f32[2, 8, 8, 1]"));
}

// ---- Gradients and dependences ---------------------------------------------------------------------------------------

TEST_CASE("gradients of the networks match differences in images and codes", "[nn][cluster][grad]") {
  for (bool batch_norm : {false, true}) {
    ClusterEncoder encoder(small_net(batch_norm), Init(1));
    ClusterUNet unet(small_net(batch_norm), Init(1));
    encoder.to(DType::f64);
    unet.to(DType::f64);
    Tensor x = images_of(2, 5, DType::f64), code = normal({2, 3}, DType::f64, Generator{6}), time = from({0.2, 0.9}, {2});
    GradReport report = gradcheck([&](In in) {
      auto [mean, log_variance] = encoder.forward(in[0]);
      return concat({mean, log_variance}, 1);
    }, {x}, 1e-6, 40);
    INFO("batch norm " << batch_norm << ", encoder: " << report.where);
    CHECK(report.worst_relative < 1e-6);   // of the largest maxima some lie closer than the step
    report = gradcheck([&](In in) { return unet.forward(in[0], time, in[1]); }, {x, code}, 1e-6, 40);
    INFO("UNet: " << report.where);
    CHECK(report.worst_relative < 1e-6);
  }
}

TEST_CASE("in bf16 the networks come close to f32, and codes stay f32", "[nn][cluster]") {
  NoGrad no_grad;
  cluster::Model model = small_model();
  Tensor x = images_of(4, 8), t = from({3, 10, 25, 49}, {4});
  cluster::Codes wide = model.encode(x);
  Tensor predicted = model.denoise(x, t, wide.mean);
  model.set_precision(DType::bf16);
  cluster::Codes narrow = model.encode(x);
  CHECK(narrow.mean.dtype() == DType::f32);
  CHECK_CLOSE(narrow.mean, wide.mean, 0.02, 0.02);
  Tensor rounded = model.denoise(x, t, wide.mean);
  CHECK(rounded.dtype() == DType::f32);
  CHECK_CLOSE(rounded, predicted, 0.05, 0.05);
  CHECK_FALSE(difference(rounded, predicted, 0, 0).empty());
}

TEST_CASE("what the denoiser gives depends on code and time, and on no code where it is hidden", "[nn][cluster]") {
  NoGrad no_grad;
  cluster::ModelConfig general{.net = small_net(), .unet = UNetConfig::preset("tiny").fit(8, 2), .schedule = "cosine", .T = 50};
  for (bool is_general : {false, true}) {
    cluster::Model model(is_general ? general : small_model().config(), 3);
    for (auto [name, value] : model.parameters())   // a fresh UNet gives almost nothing: its last layers start near 0
      if (is_general) value.copy_(affine(normal(value.shape(), DType::f32, Generator{uint64_t(name.size())}), 0.1, 0));
    INFO("general UNet " << is_general);
    Tensor x = images_of(2, 8), t = full({2}, 20), one = normal({2, 3}, DType::f32, Generator{1}),
           other = normal({2, 3}, DType::f32, Generator{2});
    Tensor y = model.denoise(x, t, one);
    CHECK(y.shape() == x.shape());
    CHECK_FALSE(difference(model.denoise(x, t, other), y, 1e-5, 0).empty());
    CHECK_FALSE(difference(model.denoise(x, full({2}, 40), one), y, 1e-5, 0).empty());
    std::vector<bool> all = {true, true}, none = {false, false}, first = {true, false};
    CHECK_SAME(model.denoise(x, t, model.hide(one, all)), model.denoise(x, t, model.hide(other, all)));
    CHECK_SAME(model.hide(one, all), model.null_codes(2));
    CHECK_SAME(model.hide(one, none), one);
    CHECK_SAME(model.hide(one, first).rows(1, 2), one.rows(1, 2));
  }
}

TEST_CASE("the hidden code is learned", "[nn][cluster]") {
  cluster::Model model = small_model();
  backward(sum(model.hide(full({2, 3}, 5), {true, false})));
  for (const auto& [name, value] : model.parameters())
    if (name == "null_code") CHECK_SAME(value.grad(), full({1, 3}, 1));   // from the one hidden row
}

TEST_CASE("guidance mixes the coded and the uncoded prediction", "[nn][cluster]") {
  NoGrad no_grad;
  cluster::Model model = small_model();
  Tensor x = images_of(2, 8), codes = normal({2, 3}, DType::f32, Generator{1}), t = full({2}, 20);
  Tensor coded = model.denoise(x, t, codes), uncoded = model.denoise(x, t, model.null_codes(2));
  CHECK_SAME(cluster::coded_network(model, codes)(x, 20), coded);
  CHECK_CLOSE(cluster::coded_network(model, codes, 2)(x, 20), 3 * coded - 2 * uncoded, 1e-6, 1e-6);
  CHECK(contains(error_of([&] { cluster::coded_network(model, codes)(images_of(3, 1), 20); }), "there are 2 codes"));
}

// ---- Schedule and config -------------------------------------------------------------------------------------------

TEST_CASE("the paper's schedule has its golden levels", "[cluster][schedule]") {
  Schedule short_one = cluster::cluster_schedule("paper", 400), long_one = cluster::cluster_schedule("paper", 1000);
  CHECK(short_one.steps() == 401);
  for (auto [t, abar] : {std::pair<int64_t, double>{1, 0.99975026}, {100, 0.76967804}, {200, 0.35932851},
                         {300, 0.10148758}, {400, 0.01729698}})
    CHECK(short_one.abar(t) == Approx(abar).margin(5e-9));
  for (auto [t, abar] : {std::pair<int64_t, double>{250, 0.52175014}, {500, 0.07799232}, {750, 0.00331891}})
    CHECK(long_one.abar(t) == Approx(abar).margin(5e-9));
  CHECK(long_one.abar(1000) == Approx(3.995e-5).margin(5e-9));
  CHECK(contains(error_of([] { cluster::cluster_schedule("sine", 10); }, Error::Kind::usage), "cosine, linear and paper"));
}

TEST_CASE("a model's config goes through json and back, and a damaged one is refused", "[cluster]") {
  cluster::ModelConfig config{.net = small_net(true), .unet = UNetConfig::preset("tiny").fit(8, 2), .schedule = "paper", .T = 400};
  CHECK(cluster::model_config_from_json(cluster::to_json(config)) == config);
  config.unet.reset();
  std::string text = cluster::to_json(config);
  CHECK(cluster::model_config_from_json(text) == config);
  auto refused = [](const std::string& damaged) {
    return error_of([&] { cluster::model_config_from_json(damaged); }, Error::Kind::checkpoint);
  };
  CHECK(contains(refused("{"), "cluster model"));
  nlohmann::json object = nlohmann::json::parse(text);
  object["depth"] = 3;
  CHECK(contains(refused(object.dump()), "unknown key 'depth'"));
  object = nlohmann::json::parse(text);
  object.erase("width");
  CHECK(contains(refused(object.dump()), "width"));
  object = nlohmann::json::parse(text);
  object["size"] = 30;
  CHECK(contains(refused(object.dump()), "steps of 4, got 30"));
}

// ---- Against PyTorch -------------------------------------------------------------------------------------------------

// golden/cluster_torch.py, which needs PyTorch, writes the numbers; the weights follow from `formula`.
TEST_CASE("codes, noise, loss and all gradients of the networks agree with PyTorch", "[nn][cluster]") {
  nlohmann::json expected = golden("cluster_torch.json");
  auto values_of = [](const nlohmann::json& list) {
    std::vector<double> values = list.get<std::vector<double>>();
    return from(values, {int64_t(values.size())}, DType::f64);
  };
  for (bool batch_norm : {false, true}) {
    const nlohmann::json& wanted = expected["cases"][batch_norm ? "batch" : "group"];
    ClusterNetConfig config{.size = expected["size"], .channels = expected["channels"], .width = expected["width"],
                            .latent = expected["latent"], .batch_norm = batch_norm};
    // Both under one roof, as in the script, but without the null code that a whole model has beside them.
    struct Both : Module {
      ClusterEncoder encoder;
      ClusterUNet denoiser;
      explicit Both(const ClusterNetConfig& config) : encoder(config, Init(1)), denoiser(config, Init(1)) {
        add_child("encoder", encoder);
        add_child("denoiser", denoiser);
      }
    } both(config);
    set_by_formula(both);
    both.to(DType::f64);
    Shape shape{3, config.size, config.size, config.channels};
    auto image = [&](uint64_t k) { return formula_tensor(shape, k, 16, 0, DType::f64); };
    auto [mean, log_variance] = both.encoder.forward(image(1000));
    Tensor y = both.denoiser.forward(image(1001), from(expected["times"].get<std::vector<double>>(), {3}), mean);
    INFO("batch norm " << batch_norm);
    CHECK_CLOSE(reshape(mean, {-1}), values_of(wanted["mean"]), 1e-9, 1e-9);   // the file keeps 12 digits
    CHECK_CLOSE(reshape(log_variance, {-1}), values_of(wanted["log_variance"]), 1e-9, 1e-9);
    std::vector<double> all = y.to_vector(), some;
    for (size_t i = 0; i < all.size(); i += expected["every"].get<size_t>()) some.push_back(all[i]);
    CHECK_CLOSE(from(some, {int64_t(some.size())}, DType::f64), values_of(wanted["output"]), 1e-9, 1e-9);
    Tensor loss = mse_loss(y, image(1002)) + mote::mean(square(log_variance));
    CHECK(loss.item() == Approx(wanted["loss"].get<double>()).epsilon(1e-10));
    backward(loss);
    NamedTensors parameters = both.parameters();
    std::sort(parameters.begin(), parameters.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    CHECK(parameters.size() == wanted["slopes"].size());
    for (size_t k = 0; k < parameters.size(); ++k) {
      const auto& [name, value] = parameters[k];
      INFO(name);
      Tensor along = formula_tensor(value.shape(), 2000 + k, 1, 0, DType::f64);
      CHECK(sum(value.grad() * along).item() == Approx(wanted["slopes"].at(name).get<double>()).epsilon(1e-7).margin(1e-9));
    }
  }
}
