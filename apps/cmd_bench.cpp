// cmd_bench.cpp - `mote bench`: single ops and whole training steps, as speed and as a share of the ceilings that the
// same process has measured. Shapes are those of the UNets, so that the numbers say where a step spends its time.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/bench.h"
#include "apps/commands.h"
#include "apps/common.h"
#include "apps/ot_curve.h"
#include "apps/progress.h"
#include "autograd/ops.h"
#include "diffusion/cluster/mixture.h"
#include "nn/optim.h"
#include "nn/unet.h"
#include "tensor/allocator.h"
#include "tensor/graph.h"

namespace mote::apps {
namespace {

struct BenchOptions : CommonOptions {
  std::vector<std::string> what = {"all"};
  std::string unet = "fmnist";
  int64_t batch = 64;
  int runs = 20;
  bool profile = false;
  const CLI::Option* precision_flag = nullptr;   // whether it was given
  std::string against;
  OtCurveOptions curve;                          // of ot-curve
};

const std::vector<std::string> kSubjects = {"gemm", "conv", "norm", "attention", "ot", "gmm", "train", "sample"};

std::string named(const char* format, auto... values) {
  char text[128];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

/// Subjects in one dtype; single ops in f32 and bf16 unless --precision chooses.
class Bench {
 public:
  Bench(const BenchOptions& options, const Ceilings& ceilings, Device device)
      : options_(options), ceilings_(ceilings), device_(device) {}

  void run(const std::string& subject) {
    if (subject == "gmm") return gmm();
    bool is_network = subject == "train" || subject == "sample";
    std::vector<DType> dtypes = {precision_named(options_.precision)};
    if (!is_network && options_.precision_flag->count() == 0) dtypes = {DType::f32, DType::bf16};
    for (DType dtype : dtypes) {
      dtype_ = dtype;
      name_ = name_of(dtype);
      if (subject == "gemm") gemm();
      if (subject == "conv") conv();
      if (subject == "norm") norm();
      if (subject == "attention") attention_op();
      if (subject == "ot") scores();
      if (is_network) network(subject == "train");
    }
  }

  const std::vector<Result>& results() const { return results_; }

 private:
  void measure(const std::string& name, const char* unit, double amount, double ceiling, const std::function<void()>& work) {
    results_.push_back(make_result(name, unit, amount / 1e9, time_runs(options_.runs, work, device_), ceiling));
  }

  Tensor draw(const Shape& shape, uint64_t seed, DType dtype = DType::f32) {
    return normal(shape, DType::f32, Generator{seed}).to(dtype).to(device_);
  }
  /// Images of a case: what keeps two cores busy would not fill a GPU.
  int64_t many(int64_t images) const { return device_.is_cuda() ? 16 * images : images; }

  void gemm() {
    for (int64_t n : {512, 1024, 2048}) {
      if (device_.is_cuda()) n *= 4;
      Tensor a = draw({n, n}, 1, dtype_), b = draw({n, n}, 2, dtype_), y = empty_like(a);
      measure(named("gemm %ld^3 %s", n, name_.c_str()), kGflops, 2.0 * double(n * n * n), ceilings_.gflops(dtype_),
              [&] { kernel::matmul(y, a, b, false, false, {}); });
    }
  }

  void conv() {
    struct Case { int64_t images, size, in, out; };
    for (Case c : {Case{32, 28, 32, 32}, {32, 14, 64, 64}, {32, 32, 128, 128}, {32, 16, 256, 256}, {32, 8, 256, 256}, {8, 64, 64, 64}}) {
      c.images = many(c.images);
      Tensor x = draw({c.images, c.size, c.size, c.in}, 1, dtype_), w = draw({3, 3, c.in, c.out}, 2, dtype_);
      Tensor y = draw({c.images, c.size, c.size, c.out}, 3, dtype_), dx = empty_like(x), dw = empty_like(w);
      Conv2dSpec spec = Conv2dSpec::same(3);
      double flop = 2.0 * double(y.numel() * 9 * c.in);
      std::string shape = named("3x3 %ld->%ld, %ldx%ldx%ld %s", c.in, c.out, c.images, c.size, c.size, name_.c_str());
      measure("conv " + shape + " forward", kDirectGflops, flop, ceilings_.gflops(dtype_),
              [&] { kernel::conv2d(y, x, w, {}, {}, {}, spec); });
      measure("conv " + shape + " fwd+bwd", kDirectGflops, 3 * flop, ceilings_.gflops(dtype_), [&] {
        kernel::conv2d(y, x, w, {}, {}, {}, spec);
        kernel::conv2d_dx(dx, y, w, spec);
        kernel::conv2d_dw(dw, x, y, spec);
      });
    }
  }

  void norm() {
    struct Case { int64_t images, size, channels, groups; };
    for (Case c : {Case{64, 28, 32, 8}, {64, 14, 64, 16}, {32, 32, 128, 32}, {32, 16, 256, 32}}) {
      c.images = many(c.images);
      Tensor x = draw({c.images, c.size, c.size, c.channels}, 1, dtype_), y = empty_like(x), dx = empty_like(x);
      Tensor gamma = full({c.channels}, 1, dtype_, device_), beta = zeros({c.channels}, dtype_, device_);
      Tensor dgamma = empty_like(gamma), dbeta = empty_like(beta);
      Tensor mean = empty({c.images, c.groups}, DType::f32, device_), rstd = empty_like(mean);
      std::string shape = named("%ldx%ldx%ldx%ld %s", c.images, c.size, c.size, c.channels, name_.c_str());
      measure("group_norm+silu " + shape + " forward", kGbs, 2.0 * double(x.nbytes()), ceilings_.bandwidth_gbs,
              [&] { kernel::group_norm(y, mean, rstd, x, gamma, beta, c.groups, 1e-6, true); });
      measure("group_norm+silu " + shape + " backward", kGbs, 3.0 * double(x.nbytes()), ceilings_.bandwidth_gbs, [&] {
        kernel::group_norm_backward(dx, dgamma, dbeta, y, x, mean, rstd, gamma, beta, c.groups, true);
      });
    }
  }

  void attention_op() {
    struct Case { int64_t images, tokens, channels; };
    for (Case c : {Case{64, 196, 64}, {64, 49, 64}, {16, 256, 256}, {16, 16, 256}}) {
      c.images = many(c.images);
      Tensor qkv = draw({c.images, c.tokens, 3 * c.channels}, 1, dtype_);
      Tensor y = empty({c.images, c.tokens, c.channels}, dtype_, device_);
      Tensor lse = empty({c.images, 1, c.tokens}, DType::f32, device_), dqkv = empty_like(qkv);
      double flop = 4.0 * double(y.numel() * c.tokens);
      std::string shape = named("%ldx%ldx%ld %s", c.images, c.tokens, c.channels, name_.c_str());
      measure("attention " + shape + " forward", kGflops, flop, ceilings_.gflops(dtype_),
              [&] { kernel::attention(y, lse, qkv, 1); });
      measure("attention " + shape + " backward", kGflops, 2.5 * flop, ceilings_.gflops(dtype_),
              [&] { kernel::attention_backward(dqkv, qkv, y, lse, y, 1); });
    }
  }

  /// One iteration of EM on 70,000 f32 vectors of width 32, ten components. It computes in f64: half of the f32 ceiling.
  void gmm() {
    int64_t N = 70000, D = 32, K = 10;
    cluster::Points points{normal({N, D}, DType::f32, Generator{1})};
    cluster::MixtureOptions em;
    em.components = K;
    em.max_iterations = 1;
    for (cluster::Covariance covariance : {cluster::Covariance::diagonal, cluster::Covariance::tied, cluster::Covariance::full}) {
      em.covariance = covariance;
      cluster::Mixture mixture = cluster::fit_mixture({points.mean.rows(0, 2000)}, em).mixture;
      // Multiplications and additions a point: densities by a product or by triangular solves, then the sums.
      double triangle = double(D * (D + 1)), densities = 0, sums = 0;
      if (covariance == cluster::Covariance::diagonal) densities = sums = 4.0 * double(K * D);
      if (covariance == cluster::Covariance::tied) densities = triangle + 2.0 * double(K * D), sums = triangle + 2.0 * double(K * D);
      if (covariance == cluster::Covariance::full) densities = double(K) * triangle, sums = double(K) * (triangle + 2.0 * double(D));
      measure(named("gmm EM iteration %s, %ldx%ld, K %ld", cluster::name_of(covariance), N, D, K), kGflops,
              double(N) * (densities + sums), ceilings_.fma_gflops / 2,
              [&] { cluster::m_step(cluster::e_step(mixture, points), mixture, em, 1e-6); });
    }
  }

  /// Scores of samples against targets beside the product that would store them all. The four take turns, so that what
  /// slows the machine for a while slows all of them.
  void scores() {
    struct Case { int64_t samples, targets, width; };
    for (Case c : {Case{1024, 4000, 784}, {1024, 4000, 3072}}) {
      Tensor x = draw({c.samples, c.width}, 1, dtype_), y = draw({c.targets, c.width}, 2, dtype_);
      auto blank = [&](const Shape& shape, DType dtype = DType::f32) { return zeros(shape, dtype, device_); };
      Tensor h = blank({c.targets}), all = empty({c.samples, c.targets}, dtype_, device_);
      Tensor one = blank({c.samples, 1}, DType::i64), eight = blank({c.samples, 8}, DType::i64);
      Tensor largest = blank({c.samples}), total = blank({c.samples}), share = blank({c.targets}, DType::f64);
      double epsilon = 0.25 * std::sqrt(double(c.width));   // about the gap between the two best scores
      struct Kernel { const char* name; std::function<void()> run; };
      const std::vector<Kernel> kernels = {
          {"product, stored", [&] { kernel::matmul(all, x, y, false, true, {}); }},
          {"argmax", [&] { kernel::score_top(one, x, y, h, 0); }},
          {"top 8", [&] { kernel::score_top(eight, x, y, h, 0); }},
          {"softmax sums", [&] { kernel::score_softmax(largest, total, share, x, y, h, epsilon, SoftmaxPass::both); }}};
      std::vector<std::vector<double>> seconds(kernels.size());
      for (int run = 0; run < options_.runs; ++run)
        for (size_t k = 0; k < kernels.size(); ++k) seconds[k].push_back(time_runs(1, kernels[k].run, device_).median);
      double product = 0, flop = 2.0 * double(c.samples * c.targets * c.width);
      for (size_t k = 0; k < kernels.size(); ++k) {
        std::sort(seconds[k].begin(), seconds[k].end());
        Timing timing{seconds[k][seconds[k].size() / 2], seconds[k].front(), seconds[k].back()};
        std::string name = named("ot %s %ldx%ldx%ld %s", kernels[k].name, c.samples, c.targets, c.width, name_.c_str());
        Result result = make_result(name, kGflops, flop / 1e9, timing, ceilings_.gflops(dtype_));
        if (k == 0) product = result.median;
        else result.of_product = result.median / product;
        results_.push_back(result);
      }
    }
  }

  /// A whole training step (noise, forward, backward, clip, AdamW, EMA) or one noise prediction.
  void network(bool training) {
    nn::UNetConfig config = nn::UNetConfig::preset(options_.unet);
    nn::UNet unet(config, 1);
    unet.set_precision(dtype_);
    unet.to(device_);
    unet.train(training);
    std::optional<nn::Arena> arena;
    std::optional<nn::Optimizer> optimizer;
    if (training) optimizer.emplace(arena.emplace(unet), nn::OptimizerOptions{});
    Tensor x = draw({options_.batch, config.size, config.size, config.channels}, 1);
    Generator generator{2};
    Tensor t = randint(0, 1000, {options_.batch}, generator).to(DType::f32).to(device_);
    std::optional<Graph> graph;   // not while kernels are timed one by one
    Tensor noise = empty_like(x), y;
    auto pass = [&] {
      if (training) arena->zero_grad();
      y = unet.forward(x, t);
      if (training) backward(y = mse_loss(y, noise));
    };
    auto work = [&] {
      std::optional<NoGrad> no_grad;
      if (training) noise.copy_(normal(x.shape(), DType::f32, generator, device_));
      else no_grad.emplace();
      if (graph) graph->run(pass, unet.generator());
      else pass();
      if (!training) return;
      optimizer->queue(y);
      if (device_.is_cpu() || optimizer->queued() == 10) optimizer->read();   // as `train` does with --log-every 10
    };
    Allocator& allocator = Allocator::of(device_);
    double flop = 0;
    std::vector<KernelCost> costs;
    {
      // A step counts as three forward passes: either gradient of a product is one more product of its size. What is
      // computed twice to save memory is no more work done.
      NoGrad no_grad;
      Profile profile;
      unet.forward(x, t);
      for (const KernelCost& cost : profile.costs()) flop += (training ? 3 : 1) * cost.flops;
    }
    {
      work();
      Profile profile;
      work();
      costs = profile.costs();
    }
    graph.emplace(device_);
    allocator.reset_peak();
    Timing timing = time_runs(options_.runs, work, device_);
    std::string name = named("%s %s, batch %ld %s", training ? "train step" : "noise prediction", options_.unet.c_str(),
                             options_.batch, name_.c_str());
    Result result = make_result(name, kDirectGflops, flop / 1e9, timing, ceilings_.gflops(dtype_));
    result.images_per_s = double(options_.batch) / timing.median;
    result.peak_mib = double(allocator.stats().peak) / (1 << 20);
    result.costs = costs;
    results_.push_back(result);
  }

  const BenchOptions& options_;
  const Ceilings& ceilings_;
  const Device device_;
  DType dtype_ = DType::f32;
  std::string name_;
  std::vector<Result> results_;
};

void run_ot_curve(const BenchOptions& options) {
  start_on_cpu(options);
  OtCurveOptions curve_options = options.curve;
  curve_options.dtype = precision_named(options.precision);
  curve_options.seed = options.seed;
  OtCurve curve = measure_ot_curve(curve_options, [&](const std::string& text) {
    if (!options.quiet) std::fprintf(stderr, "ot-curve: %s\n", text.c_str());
  });
  std::fputs((options.json ? ot_curve_json(curve) : ot_curve_table(curve)).c_str(), stdout);
}

void run_bench(const BenchOptions& options) {
  if (options.what == std::vector<std::string>{"ot-curve"}) return run_ot_curve(options);
  if (options.batch < 1) fail(Error::Kind::usage, "--batch: needs at least 1, got ", options.batch);
  if (options.runs < 1) fail(Error::Kind::usage, "--runs: needs at least 1, got ", options.runs);
  std::vector<std::string> subjects;
  for (const std::string& what : options.what) {
    if (what == "all") subjects.insert(subjects.end(), kSubjects.begin(), kSubjects.end());
    else if (std::find(kSubjects.begin(), kSubjects.end(), what) != kSubjects.end()) subjects.push_back(what);
    else fail(Error::Kind::usage, "bench: no subject '", what, "'", did_you_mean(what, kSubjects), "; there are ", joined(kSubjects), ", all");
  }
  std::optional<Baseline> baseline;
  if (!options.against.empty()) baseline = read_baseline(options.against);
  Device device = start(options);
  if (device.is_cuda()) {   // the ceilings are those of one device
    if (std::find(options.what.begin(), options.what.end(), "gmm") != options.what.end())
      fail(Error::Kind::usage, "bench: gmm runs on the CPU; measure it with --device cpu");
    std::erase(subjects, "gmm");
  }
  Progress progress("bench", 0, int64_t(subjects.size()) + 1, "subject", options.quiet);
  progress.update(0, "ceilings");
  Ceilings ceilings = measure_ceilings(device);
  Bench bench(options, ceilings, device);
  for (size_t i = 0; i < subjects.size(); ++i) {
    progress.update(int64_t(i) + 1, subjects[i]);
    bench.run(subjects[i]);
  }
  progress.update(int64_t(subjects.size()) + 1);
  progress.finish();

  const Baseline* against = baseline ? &*baseline : nullptr;
  if (options.json)
    std::printf("%s\n", to_json(ceilings, bench.results(), against, options.profile).dump(2).c_str());
  else
    std::fputs(table(ceilings, bench.results(), against, options.profile).c_str(), stdout);
}

}  // namespace

void add_bench_command(CLI::App& app) {
  static BenchOptions options;
  CLI::App& command = add_command(app, "bench", "measure speed against the ceilings of this machine",
                                  "mote bench train --unet fmnist --batch 64 --precision bf16 --profile", options, [] { run_bench(options); });
  options.precision_flag = command.get_option("--precision")->description("f32, bf16, or on a GPU tf32; left out, single ops run in f32 and bf16");
  command.add_option("what", options.what,
                     "gemm, conv, norm, attention, ot, gmm, train, sample or all; or ot-curve alone: chi2 of the "
                     "transport solver");
  command.add_option("--unet", options.unet, "preset for train and sample")->capture_default_str();
  command.add_option("--batch", options.batch, "images a step for train and sample")->capture_default_str();
  command.add_option("--runs", options.runs, "timed runs of each case; the median is reported")->capture_default_str();
  command.add_flag("--profile", options.profile, "cost of each kernel in a train or sample step");
  command.add_option("--data", options.curve.data.spec, "ot-curve: images that are the targets")->default_val("fashion-mnist");
  command.add_option("--split", options.curve.data.split, "ot-curve: train or test")->default_val("test");
  command.add_option("--limit", options.curve.data.limit, "ot-curve: only so many targets; 0: all")->capture_default_str();
  command.add_option("--source", options.curve.source, "ot-curve: gaussian or cube")->capture_default_str();
  command.add_option("--method", options.curve.method, "ot-curve: sgd, or paper (the published recipe)")->capture_default_str();
  command.add_option("--samples", options.curve.samples, "ot-curve: samples a target at the end")->capture_default_str();
  command.add_option("--chi2", options.curve.chi2, "ot-curve: what the certificate has to show")->capture_default_str();
  command.add_option("--ot-batch", options.curve.batch, "ot-curve: samples a step; 0: chosen")->capture_default_str();
  command.add_option("--against", options.against, "JSON of an earlier run to compare with, row by row");
}

}  // namespace mote::apps
