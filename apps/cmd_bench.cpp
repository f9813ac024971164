// cmd_bench.cpp - `mote bench`: single ops and whole training steps, as speed and as a share of the ceilings that the
// same process has measured. Shapes are those of the UNets, so that the numbers say where a step spends its time.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "apps/bench.h"
#include "apps/commands.h"
#include "apps/common.h"
#include "autograd/ops.h"
#include "nn/optim.h"
#include "nn/unet.h"
#include "tensor/allocator.h"
#include "tensor/io/file.h"
#include "tensor/profile.h"

namespace mote::apps {
namespace {

struct BenchOptions : CommonOptions {
  std::vector<std::string> what = {"all"};
  std::string unet = "fmnist";
  int64_t batch = 64;
  int runs = 20;
  bool profile = false;
  std::string against;
};

const std::vector<std::string> kSubjects = {"gemm", "conv", "norm", "attention", "train", "sample"};

Tensor draw(const Shape& shape, uint64_t seed) { return normal(shape, DType::f32, Generator{seed}); }

std::string named(const char* format, auto... values) {
  char text[128];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

class Bench {
 public:
  Bench(const BenchOptions& options, const Ceilings& ceilings) : options_(options), ceilings_(ceilings) {}

  void run(const std::string& subject) {
    if (subject == "gemm") gemm();
    if (subject == "conv") conv();
    if (subject == "norm") norm();
    if (subject == "attention") attention_op();
    if (subject == "train") network(true);
    if (subject == "sample") network(false);
  }

  const std::vector<Result>& results() const { return results_; }
  const std::vector<KernelCost>& costs() const { return costs_; }

 private:
  void flops(const std::string& name, double flop, const std::function<void()>& work) {
    results_.push_back(make_result(name, "GFLOP/s", flop / 1e9, time_runs(options_.runs, work), ceilings_.fma_gflops));
  }
  void bytes(const std::string& name, double byte, const std::function<void()>& work) {
    results_.push_back(make_result(name, "GB/s", byte / 1e9, time_runs(options_.runs, work), ceilings_.bandwidth_gbs));
  }

  void gemm() {
    for (int64_t n : {512, 1024, 2048}) {
      Tensor a = draw({n, n}, 1), b = draw({n, n}, 2), y = empty({n, n});
      flops(named("gemm %ld^3 f32", n), 2.0 * double(n * n * n), [&] { kernel::matmul(y, a, b, false, false, {}); });
    }
  }

  void conv() {
    struct Case { int64_t images, size, in, out; };
    for (Case c : {Case{32, 28, 32, 32}, {32, 14, 64, 64}, {32, 32, 128, 128}, {32, 16, 256, 256}, {32, 8, 256, 256}, {8, 64, 64, 64}}) {
      Tensor x = draw({c.images, c.size, c.size, c.in}, 1), w = draw({3, 3, c.in, c.out}, 2), dw = empty_like(w);
      Tensor y = draw({c.images, c.size, c.size, c.out}, 3), dx = empty_like(x);
      Conv2dSpec spec = Conv2dSpec::same(3);
      double flop = 2.0 * double(y.numel() * 9 * c.in);
      std::string shape = named("3x3 %ld->%ld, %ldx%ldx%ld f32", c.in, c.out, c.images, c.size, c.size);
      flops("conv " + shape + " forward", flop, [&] { kernel::conv2d(y, x, w, {}, {}, {}, spec); });
      flops("conv " + shape + " fwd+bwd", 3 * flop, [&] {
        kernel::conv2d(y, x, w, {}, {}, {}, spec);
        kernel::conv2d_dx(dx, y, w, spec);
        kernel::conv2d_dw(dw, x, y, spec);
      });
    }
  }

  void norm() {
    struct Case { int64_t images, size, channels, groups; };
    for (Case c : {Case{64, 28, 32, 8}, {64, 14, 64, 16}, {32, 32, 128, 32}, {32, 16, 256, 32}}) {
      Tensor x = draw({c.images, c.size, c.size, c.channels}, 1), y = empty_like(x), dx = empty_like(x);
      Tensor gamma = full({c.channels}, 1), beta = zeros({c.channels}), dgamma = empty_like(gamma), dbeta = empty_like(beta);
      Tensor mean = empty({c.images, c.groups}), rstd = empty_like(mean);
      std::string shape = named("%ldx%ldx%ldx%ld f32", c.images, c.size, c.size, c.channels);
      bytes("group_norm+silu " + shape + " forward", 2.0 * double(x.nbytes()),
            [&] { kernel::group_norm(y, mean, rstd, x, gamma, beta, c.groups, 1e-6, true); });
      bytes("group_norm+silu " + shape + " backward", 3.0 * double(x.nbytes()), [&] {
        kernel::group_norm_backward(dx, dgamma, dbeta, y, x, mean, rstd, gamma, beta, c.groups, true);
      });
    }
  }

  void attention_op() {
    struct Case { int64_t images, tokens, channels; };
    for (Case c : {Case{64, 196, 64}, {64, 49, 64}, {16, 256, 256}, {16, 16, 256}}) {
      Tensor qkv = draw({c.images, c.tokens, 3 * c.channels}, 1), y = empty({c.images, c.tokens, c.channels});
      Tensor lse = empty({c.images, 1, c.tokens}), dqkv = empty_like(qkv);
      double flop = 4.0 * double(y.numel() * c.tokens);
      std::string shape = named("%ldx%ldx%ld f32", c.images, c.tokens, c.channels);
      flops("attention " + shape + " forward", flop, [&] { kernel::attention(y, lse, qkv, 1); });
      flops("attention " + shape + " backward", 2.5 * flop, [&] { kernel::attention_backward(dqkv, qkv, y, lse, y, 1); });
    }
  }

  /// A whole training step (noise, forward, backward, clip, AdamW, EMA) or one noise prediction.
  void network(bool training) {
    nn::UNetConfig config = nn::UNetConfig::preset(options_.unet);
    nn::UNet unet(config, 1);
    unet.train(training);
    nn::Arena arena(unet);
    nn::OptimizerOptions optimizer_options;
    std::optional<nn::Optimizer> optimizer;
    if (training) optimizer.emplace(arena, optimizer_options);
    Tensor x = draw({options_.batch, config.size, config.size, config.channels}, 1);
    Generator generator{2};
    Tensor t = randint(0, 1000, {options_.batch}, generator).to(DType::f32);
    auto work = [&] {
      if (!training) {
        NoGrad no_grad;
        unet.forward(x, t);
        return;
      }
      Tensor noise = normal(x.shape(), DType::f32, generator);
      arena.zero_grad();
      backward(mse_loss(unet.forward(x, t), noise));
      optimizer->step();
    };
    double flop = 0;
    {   // one step under the profile counts its multiplications, one more after a warm-up is the cost table
      work();
      Profile profile;
      work();
      costs_ = profile.costs();
      for (const KernelCost& cost : costs_) flop += cost.flops;
    }
    Allocator& allocator = Allocator::of({});
    allocator.reset_peak();
    Timing timing = time_runs(options_.runs, work);
    std::string name = named("%s %s, batch %ld f32", training ? "train step" : "noise prediction", options_.unet.c_str(), options_.batch);
    Result result = make_result(name, "GFLOP/s", flop / 1e9, timing, ceilings_.fma_gflops);
    result.images_per_s = double(options_.batch) / timing.median;
    result.peak_mib = double(allocator.stats().peak) / (1 << 20);
    results_.push_back(result);
  }

  const BenchOptions& options_;
  const Ceilings& ceilings_;
  std::vector<Result> results_;
  std::vector<KernelCost> costs_;
};

void print_profile(const std::vector<KernelCost>& costs) {
  double total = 0;
  for (const KernelCost& cost : costs) total += cost.seconds;
  std::printf("\n%-28s %6s %10s %7s %10s %8s\n", "kernel, one step", "calls", "ms", "share", "GFLOP/s", "GB/s");
  for (const KernelCost& cost : costs)
    std::printf("%-28s %6ld %10.2f %6.1f%% %10.1f %8.1f\n", cost.name.c_str(), cost.calls, 1e3 * cost.seconds,
                100 * cost.seconds / total, cost.flops / cost.seconds / 1e9, cost.bytes / cost.seconds / 1e9);
  std::printf("%-28s %6s %10.2f\n", "all kernels", "", 1e3 * total);
}

nlohmann::json read_baseline(const std::string& path) {
  io::Bytes bytes = io::read_file(path, 16 << 20);
  nlohmann::json baseline = nlohmann::json::parse(bytes.begin(), bytes.end(), nullptr, false);
  bool complete = baseline.is_object() && baseline.contains("results") && baseline["results"].is_array();
  if (complete)
    for (const auto& row : baseline["results"])
      complete &= row.is_object() && row.contains("name") && row["name"].is_string() && row.contains("median") && row["median"].is_number();
  if (!complete) fail(Error::Kind::data, path, ": is not the output of `mote bench --json`");
  return baseline;
}

void run_bench(const BenchOptions& options) {
  if (options.batch < 1) fail(Error::Kind::usage, "--batch: needs at least 1, got ", options.batch);
  if (options.runs < 1) fail(Error::Kind::usage, "--runs: needs at least 1, got ", options.runs);
  require_f32(options, "bench");
  std::vector<std::string> subjects;
  for (const std::string& what : options.what) {
    if (what == "all") subjects.insert(subjects.end(), kSubjects.begin(), kSubjects.end());
    else if (std::find(kSubjects.begin(), kSubjects.end(), what) != kSubjects.end()) subjects.push_back(what);
    else fail(Error::Kind::usage, "bench: no subject '", what, "'", did_you_mean(what, kSubjects), "; there are ", joined(kSubjects), ", all");
  }
  nlohmann::json baseline;
  if (!options.against.empty()) baseline = read_baseline(options.against);
  start(options);
  Ceilings ceilings = measure_ceilings();
  Bench bench(options, ceilings);
  for (const std::string& subject : subjects) bench.run(subject);

  const nlohmann::json* against = options.against.empty() ? nullptr : &baseline;
  if (options.json) {
    std::printf("%s\n", to_json(ceilings, bench.results()).dump(2).c_str());
    return;
  }
  std::printf("ceilings: %.1f GFLOP/s f32 multiply-add, %.1f GB/s memory\n\n", ceilings.fma_gflops, ceilings.bandwidth_gbs);
  std::fputs(table(bench.results(), against).c_str(), stdout);
  for (const Result& result : bench.results())
    if (result.images_per_s > 0) std::printf("%s: %.1f images/s\n", result.name.c_str(), result.images_per_s);
  if (options.profile) print_profile(bench.costs());
}

}  // namespace

void add_bench_command(CLI::App& app) {
  static BenchOptions options;
  CLI::App& command = add_command(app, "bench", "measure speed against the ceilings of this machine",
                                  "mote bench train --unet fmnist --batch 64 --profile", options, [] { run_bench(options); });
  command.add_option("what", options.what, "gemm, conv, norm, attention, train, sample or all");
  command.add_option("--unet", options.unet, "preset for train and sample")->capture_default_str();
  command.add_option("--batch", options.batch, "images a step for train and sample")->capture_default_str();
  command.add_option("--runs", options.runs, "timed runs of each case; the median is reported")->capture_default_str();
  command.add_flag("--profile", options.profile, "cost of each kernel in the last train or sample step");
  command.add_option("--against", options.against, "JSON of an earlier run to compare with");
}

}  // namespace mote::apps
