// The alternation of ClusterDDPM: what a step minimises, that an E-step never raises it, and the gate: on four kinds of
// shapes the clusters found after pretraining survive training with the default loss.
#include "diffusion/cluster/em.h"

#include "apps/cluster_trainer.h"
#include "nn/optim.h"
#include "tests/nn_support.h"

using namespace mote;
using namespace mote::cluster;
using namespace mote::test;

namespace {

ModelConfig tiny_config() {
  return {.net = {.size = 8, .channels = 1, .width = 8, .latent = 4, .batch_norm = false}, .unet = {}, .schedule = "cosine",
          .T = 50};
}

StepDraws draws_of(int64_t count, int64_t size, int64_t latent, int64_t T, uint64_t seed, double hidden = 0) {
  Generator generator{seed};
  StepDraws draws;
  draws.t = randint(0, T, {count}, generator);
  draws.noise = normal({count, size, size, 1}, DType::f32, generator);
  draws.code_noise = normal({count, latent}, DType::f32, generator);
  for (int64_t i = 0; i < count; ++i) draws.hidden.push_back(double(i) < hidden * double(count));
  return draws;
}

/// Draws of three Gaussians in four dimensions with uncertainty, as codes.
Codes codes_of(int64_t count, uint64_t seed) {
  Generator generator{seed};
  Tensor mean = normal({count, 4}, DType::f64, generator);
  for (int64_t i = 0; i < count; ++i) mean.data<double>()[4 * i + i % 3] += 5;
  return {mean, affine(normal({count, 4}, DType::f64, generator), 0.5, -1)};
}

MixtureOptions plain_em(int64_t components, int iterations) {
  MixtureOptions options;
  options.components = components;
  options.max_iterations = iterations;
  options.tolerance = 0;
  options.variance_floor = 1e-12;
  options.relative_floor = options.dead_share = 0;
  return options;
}

}  // namespace

// ---- The losses of a step --------------------------------------------------------------------------------------------

TEST_CASE("without lambda a step of either phase has the noise loss alone, D times which is the sum over pixels",
          "[cluster][em]") {
  NoGrad no_grad;
  Model model(tiny_config(), 1);
  Tensor images = normal({5, 8, 8, 1}, DType::f32, Generator{2});
  StepDraws draws = draws_of(5, 8, 4, 50, 3);
  Mixture mixture{Covariance::diagonal, full({2}, 0.5, DType::f64), normal({2, 4}, DType::f64, Generator{4}),
                  full({2, 4}, 1, DType::f64)};
  MixtureTerms terms(mixture, DType::f32);
  StepLosses pretraining = step_losses(model, images, draws, {.lambda = 0});
  StepLosses training = step_losses(model, images, draws, {.mixture = &terms, .lambda = 0});
  CHECK(pretraining.total.item() == pretraining.noise.item());
  CHECK(training.total.item() == pretraining.total.item());
  Tensor x = q_sample(model.schedule(), images, draws.t, draws.noise);
  Codes codes = model.encode(images);
  Tensor error = model.denoise(x, draws.t.to(DType::f32), draw_codes(codes, draws.code_noise)) - draws.noise;
  double summed = sum(square(error)).item() / 5;   // sum over pixels, mean over images
  CHECK(free_energy(training.noise.item(), 123, 0, 64) == Approx(summed).epsilon(1e-5));
}

TEST_CASE("lambda weighs the matching loss by lambda / 784 whatever the image size", "[cluster][em]") {
  NoGrad no_grad;
  Model model(tiny_config(), 1);
  Tensor images = normal({5, 8, 8, 1}, DType::f32, Generator{2});
  StepLosses losses = step_losses(model, images, draws_of(5, 8, 4, 50, 3), {.lambda = 7.84});
  CHECK(losses.total.item() == Approx(losses.noise.item() + 0.01 * losses.matching.item()).epsilon(1e-6));
  CHECK(losses.matching.item() == Approx(standard_normal_kl(model.encode(images)).item()).epsilon(1e-6));
}

TEST_CASE("the noise loss reaches the encoder through codes that are not hidden, and only through them", "[cluster][em]") {
  Model model(tiny_config(), 1);
  Tensor images = normal({4, 8, 8, 1}, DType::f32, Generator{2});
  auto encoder_gradient = [&](double hidden) {
    for (auto [name, value] : model.parameters()) value.set_grad({});
    backward(step_losses(model, images, draws_of(4, 8, 4, 50, 3, hidden), {.lambda = 0}).total);
    double total = 0;
    for (const auto& [name, value] : model.parameters())
      if (name.starts_with("encoder.") && value.grad().defined())
        for (double slope : value.grad().to_vector()) total += slope * slope;
    return total;
  };
  CHECK(encoder_gradient(0) > 1e-12);
  CHECK(encoder_gradient(1) == 0);
}

TEST_CASE("eight images can be learned by heart", "[cluster][em]") {
  Model model({.net = {.size = 8, .channels = 1, .width = 16, .latent = 4, .batch_norm = false}, .unet = {},
               .schedule = "cosine", .T = 50}, 1);
  nn::Arena arena(model);
  nn::OptimizerOptions options;
  options.lr = 4e-3;
  options.schedule = "cosine";
  constexpr int64_t kSteps = kSanitized ? 60 : 500;
  options.total_steps = kSteps;
  options.ema = 0;
  nn::Optimizer optimizer(arena, options);
  Tensor images = empty({64, 8, 8, 1}), eight = uniform({8, 8, 8, 1}, DType::f32, Generator{5});
  for (int64_t i = 0; i < 64; ++i)   // each eight times, at eight levels a step; pixels are -1 or 1
    for (int64_t pixel = 0; pixel < 64; ++pixel)
      images.data<float>()[64 * i + pixel] = eight.data<float>()[64 * (i % 8) + pixel] < 0.5f ? -1.0f : 1.0f;
  double recent = 0;
  for (int64_t step = 0; step < kSteps; ++step) {
    arena.zero_grad();
    Tensor loss = step_losses(model, images, draws_of(64, 8, 4, 50, 100 + uint64_t(step)), {.lambda = 0}).total;
    backward(loss);
    optimizer.step();
    if (step >= kSteps - 30) recent += loss.item() / 30;
  }
  INFO("noise loss a pixel of the last 30 steps: " << recent);
  CHECK(recent < (kSanitized ? 0.5 : 0.05));   // 1 is what an untrained network has
}

// ---- E-step --------------------------------------------------------------------------------------------------------

TEST_CASE("an E-step on fixed draws of the codes never raises F_lambda", "[cluster][em]") {
  Codes codes = codes_of(300, 7);
  Tensor z = draw_codes(codes, normal(codes.mean.shape(), DType::f64, Generator{8}));
  Points points{z, {}, {}};
  Mixture mixture = fit_codes(points, nullptr, plain_em(3, 1)).mixture;
  double before = sampled_matching(codes, z, mixture), first = before;
  for (int round = 0; round < 12; ++round) {
    mixture = fit_codes(points, &mixture, plain_em(3, 1)).mixture;
    double after = sampled_matching(codes, z, mixture);
    INFO("round " << round << ": from " << before << " to " << after);
    CHECK(free_energy(0.3, after, 0.1, 784) <= free_energy(0.3, before, 0.1, 784) + 1e-9);
    before = after;
  }
  CHECK(before < first);   // the start is no optimum, so something was gained
}

TEST_CASE("what the mixture sees is the mean, a draw, or the whole Gaussian of each code", "[cluster][em]") {
  Codes codes = codes_of(12, 9);
  Tensor eps = normal({12, 4}, DType::f64, Generator{1});
  CHECK_SAME(code_points(codes, CodeView::mean).mean, codes.mean);
  CHECK_FALSE(code_points(codes, CodeView::mean).variance.defined());
  CHECK_SAME(code_points(codes, CodeView::sampled, eps).mean, draw_codes(codes, eps));
  CHECK_SAME(code_points(codes, CodeView::uncertain).variance, exp(codes.log_variance));
  for (CodeView view : {CodeView::mean, CodeView::sampled, CodeView::uncertain}) CHECK(code_view_named(name_of(view)) == view);
  // A mixture fitted to draws is asked about means.
  Mixture mixture = fit_codes(code_points(codes, CodeView::mean), nullptr, plain_em(2, 5)).mixture;
  CHECK_SAME(label_codes(mixture, codes, CodeView::sampled).probabilities, label_codes(mixture, codes, CodeView::mean).probabilities);
  CHECK_FALSE(difference(label_codes(mixture, codes, CodeView::uncertain).probabilities,
                         label_codes(mixture, codes, CodeView::mean).probabilities, 1e-6, 0).empty());
  CHECK(contains(error_of([] { code_view_named("best"); }, Error::Kind::usage), "uncertain, mean and sampled"));
}

TEST_CASE("the fit of uncertain codes finds the spread of their draws, that of their means a smaller one", "[cluster][em]") {
  // Means N(0, 1) with s^2 = 3: the codes as a whole are N(0, 4).
  Codes codes{normal({20000, 2}, DType::f64, Generator{3}), full({20000, 2}, std::log(3), DType::f64)};
  auto spread = [&](CodeView view) {
    Tensor eps = normal({20000, 2}, DType::f64, Generator{4});
    return fit_codes(code_points(codes, view, eps), nullptr, plain_em(1, 2)).mixture.covariances.to_vector()[0];
  };
  CHECK(spread(CodeView::uncertain) == Approx(4).epsilon(0.02));
  CHECK(spread(CodeView::sampled) == Approx(4).epsilon(0.05));
  CHECK(spread(CodeView::mean) == Approx(1).epsilon(0.05));
}

TEST_CASE("more clusters than images are refused", "[cluster][em]") {
  CHECK(contains(error_of([] { fit_codes({zeros({3, 2}, DType::f64), {}, {}}, nullptr, plain_em(4, 1)); }, Error::Kind::data),
                 "4 clusters to find, but only 3 images"));
}

// ---- The gate ------------------------------------------------------------------------------------------------------

TEST_CASE("four kinds of shapes are found without labels and kept through EM with the default loss, for three seeds",
          "[cluster][em][gate]") {
  for (uint64_t seed : {1, 2, 3}) {
    ScratchFolder folder;
    apps::ClusterJob job;
    job.out = folder.path("run");
    job.common.quiet = true;
    job.common.device = "cpu";
    job.config.seed = seed;
    job.config.data = "synthetic:shapes";
    job.config.k = "4";
    job.config.width = 16;
    job.config.latent = 8;
    job.config.batch = 64;
    job.config.pretrain = 8;
    job.config.epochs = 6;
    job.config.lambda_warmup = 2;
    job.config.warmup = 20;
    job.config.sample_steps = 0;
    if (kSanitized) {   // one short run: that nothing is wrong in memory, not that clusters are found
      job.config.limit = 128;
      job.config.pretrain = job.config.epochs = 1;
    }
    apps::ClusterResult result = apps::train_clusters(job);
    INFO("seed " << seed << ": ACC " << result.accuracy << ", F " << result.free_energy);
    CHECK(std::isfinite(result.free_energy));
    if (kSanitized) break;
    CHECK(result.accuracy >= 0.99);
  }
}
