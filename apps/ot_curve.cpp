#include "apps/ot_curve.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <nlohmann/json.hpp>

#include "apps/common.h"
#include "tensor/kernels.h"

namespace mote::apps {
namespace {

/// Wall and processor time since it was made or asked.
class Clocks {
 public:
  struct Times {
    double seconds = 0, cpu_seconds = 0;
  };
  Times lap() {
    auto now = std::chrono::steady_clock::now();
    std::clock_t cpu = std::clock();
    Times times{std::chrono::duration<double>(now - began_).count(), double(cpu - cpu_began_) / CLOCKS_PER_SEC};
    began_ = now, cpu_began_ = cpu;
    return times;
  }

 private:
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
  std::clock_t cpu_began_ = std::clock();
};

template <class... Values>
std::string line(const char* format, Values... values) {
  char text[256];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

/// What no solver gets below with independent samples, in the limit of many.
double bound_of(const OtCurve& curve, double samples) {
  return samples > 0 ? (1 - 1 / double(curve.targets)) / samples : 0;
}

}  // namespace

OtCurve measure_ot_curve(const OtCurveOptions& options, const std::function<void(const std::string&)>& say) {
  Dataset data = load_dataset(options.data);
  Tensor images = data.images.to(DType::f32);
  kernel::unary(images, images, {Unary::affine, 1 / 127.5, -1});
  ot::TargetOptions target_options;
  target_options.dtype = options.dtype;
  target_options.merge_duplicates = true;
  ot::Targets targets = ot::Targets::in_memory(images, target_options);
  ot::Source source;
  source.kind = ot::source_named(options.source);
  source.width = targets.width();
  OtCurve curve;
  curve.targets = targets.count(), curve.width = targets.width(), curve.score_scale = targets.scale();

  ot::SolverOptions solver_options;
  solver_options.method = options.method;
  solver_options.batch = options.batch;
  solver_options.seed = options.seed;
  solver_options.max_samples = 2 * options.samples;
  solver_options.chi2 = 1e-9;  // no certificate before the end of the curve
  double N = double(curve.targets);
  solver_options.measure_samples = std::max(2.0, std::sqrt(2 * N) / 0.003 / N);  // a standard deviation of 0.003
  for (double at : {0, 5, 10, 15, 20, 25, 30, 40, 60, 80, 120, 160, 240, 320, 500, 1000, 1500, 2000, 3000, 4000})
    if (at <= options.samples) solver_options.measure_at.push_back(at);
  OtCurve::Point steps;
  Clocks clocks;
  ot::Solver(targets, source, solver_options).run([&](const ot::SolverProgress& progress) {
    Clocks::Times times = clocks.lap();
    if (!progress.measured) {
      steps.seconds += times.seconds, steps.cpu_seconds += times.cpu_seconds;
      return true;
    }
    curve.points.push_back({progress.samples_per_target, *progress.measured, steps.seconds, steps.cpu_seconds});
    say(line("%.1f samples a target: chi2 %.4f", progress.samples_per_target, progress.measured->chi2));
    return curve.points.size() < solver_options.measure_at.size();
  });

  solver_options.measure_at.clear();
  solver_options.chi2 = options.chi2;
  solver_options.finish_empty = false;
  clocks.lap();
  curve.solved = ot::Solver(targets, source, solver_options).run();
  curve.cpu_seconds = clocks.lap().cpu_seconds;
  return curve;
}

std::string ot_curve_table(const OtCurve& curve) {
  std::string text =
      line("%ld targets of %ld numbers\n%10s %9s %9s %9s %9s %7s %9s %9s %9s\n", long(curve.targets), long(curve.width),
           "samples/N", "chi2", "low", "high", "bound", "empty", "largest", "seconds", "CPU s");
  for (const OtCurve::Point& point : curve.points)
    text += line("%10.2f %9.4f %9.4f %9.4f %9.4f %7ld %9.2f %9.2f %9.2f\n", point.samples, point.quality.chi2,
                 point.quality.low, point.quality.high, bound_of(curve, point.samples), long(point.quality.empty),
                 point.quality.largest, point.seconds, point.cpu_seconds);
  const ot::SolverResult& solved = curve.solved;
  double N = double(curve.targets);
  return text + line(
                    "certificate: chi2 %.4f, 95 %% interval %.4f .. %.4f (%s), %.1f samples a target and %.1f for "
                    "certificates,\n"
                    "             %.2f s, %.2f CPU s, %.1f GFLOP, %.1f GFLOP a CPU second\n",
                    solved.quality.chi2, solved.quality.low, solved.quality.high,
                    solved.converged ? "reached" : "not reached", double(solved.samples) / N,
                    double(solved.certificate_samples) / N, solved.seconds, curve.cpu_seconds, solved.flops / 1e9,
                    solved.flops / 1e9 / curve.cpu_seconds);
}

std::string ot_curve_json(const OtCurve& curve) {
  auto quality = [](const ot::Quality& q) {
    return nlohmann::ordered_json{{"chi2", q.chi2},       {"low", q.low},     {"high", q.high},
                                  {"samples", q.samples}, {"empty", q.empty}, {"largest", q.largest}};
  };
  nlohmann::ordered_json out = {{"targets", curve.targets}, {"width", curve.width}, {"scale", curve.score_scale}};
  out["curve"] = nlohmann::ordered_json::array();
  for (const OtCurve::Point& point : curve.points)
    out["curve"].push_back({{"samples_per_target", point.samples},
                            {"bound", bound_of(curve, point.samples)},
                            {"quality", quality(point.quality)},
                            {"seconds", point.seconds},
                            {"cpu_seconds", point.cpu_seconds}});
  const ot::SolverResult& solved = curve.solved;
  out["solved"] = {{"converged", solved.converged}, {"quality", quality(solved.quality)},
                   {"samples", solved.samples},     {"certificate_samples", solved.certificate_samples},
                   {"seconds", solved.seconds},     {"cpu_seconds", curve.cpu_seconds},
                   {"flops", solved.flops}};
  return out.dump(2) + "\n";
}

}  // namespace mote::apps
