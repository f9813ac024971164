// cmd_ot_fit.cpp - `mote ot fit` solves for the heights of a map, `mote ot apply` carries points over with it.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <memory>

#include "apps/common.h"
#include "apps/image_out.h"
#include "apps/image_source.h"
#include "apps/ot_commands.h"
#include "apps/progress.h"
#include "apps/read_points.h"
#include "apps/signals.h"
#include "tensor/io/file.h"
#include "tensor/io/npy.h"

namespace mote::apps {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// ---- fit -----------------------------------------------------------------------------------------------------------

struct FitOptions {
  CommonOptions common;
  std::string run, ckpt, data, split = "train", points, weights;
  int64_t targets = 0, level = -1;
  double t = -1;
  std::string latents = "fresh", source = "gaussian", recipe = "ours";
  double chi2 = 0.02, max_samples = 400;
  int64_t batch = 0;
  bool merge = false, resume = false;
  std::string out;
};

constexpr uint64_t kTargetsSeed = 0;  // which images are the targets: not a matter of --seed, which draws samples
constexpr double kUsualT = 0.3;

void check_usage(const FitOptions& o) {
  auto require = [](bool holds, const auto&... parts) {
    if (!holds) fail(Error::Kind::usage, parts...);
  };
  int given = !o.run.empty() + !o.ckpt.empty() + !o.points.empty();
  require(given == 1, "give --run DIR, --ckpt FILE or --points FILE, one of them");
  require(o.points.empty() || (o.data.empty() && o.level == -1 && o.t < 0 && o.targets == 0),
          "--points: the file is all there is; --data, --targets, --level and --t belong to --run and --ckpt");
  require(o.weights.empty() || !o.points.empty(), "--weights: belongs to --points; images have equal weights");
  require(!o.out.empty(), "--out: the file of the map is missing");
  require(o.level == -1 || o.t < 0, "--level and --t name the same thing; give one of them");
  require(o.t < 0 || o.t <= 1, "--t: must be 0 to 1, got ", o.t);
  require(o.level >= -1, "--level: must be 0 or more, got ", o.level);
  require(o.targets >= 0, "--targets: must be 1 or more (0: all), got ", o.targets);
  require(o.recipe == "ours" || o.recipe == "paper", "--recipe: '", o.recipe, "' is not known; ours and paper are");
  require(o.chi2 > 0 && std::isfinite(o.chi2), "--chi2: must be positive, got ", o.chi2);
  require(o.max_samples > 0 && std::isfinite(o.max_samples), "--max-samples: must be positive, got ", o.max_samples);
}

/// The points with what they are of; heights and result are still open.
OtMap read_targets(const FitOptions& o) {
  OtMap map;
  map.source = ot::source_named(o.source);
  map.dtype = precision_named(o.common.precision);
  map.seed = o.common.seed;
  map.recipe = o.recipe;
  map.wanted_chi2 = o.chi2;
  if (!o.points.empty()) {
    map.points = load_points(o.points);
    map.data = o.points;
    map.data_hash = io::hash_hex(map.points.data<float>(), size_t(map.points.numel()) * sizeof(float));
    if (!o.weights.empty()) map.weights = load_points(o.weights).to_vector();
    return map;
  }
  Checkpoint checkpoint = checkpoint_of(o.run, o.ckpt);
  ot::Latents latents = ot::latents_named(o.latents);
  int64_t level = o.level;
  if (level == -1) level = std::llround((o.t < 0 ? kUsualT : o.t) * double(checkpoint.T - 1));
  if (level >= checkpoint.T)
    fail(Error::Kind::usage, "--level: ", level,
         " lies outside the schedule, which has 0 to T - 1 = ", checkpoint.T - 1);
  map.network = MapNetwork{checkpoint.hash, checkpoint.schedule, checkpoint.T, level, latents};
  Dataset data = network_data(checkpoint, o.data, o.split);
  if (o.targets > data.count())
    fail(Error::Kind::usage, "--targets: ", o.targets, " are asked for, but ", data.name, " has ", data.count());
  map.points = o.targets > 0 ? take_rows(data.images, choose_rows(data.count(), o.targets, kTargetsSeed)) : data.images;
  map.data = (o.data.empty() ? checkpoint.data : o.data) + (o.split == "train" ? "" : " (" + o.split + ")");
  map.data_hash = data.hash;
  return map;
}

/// Equal points become one with the sum of their weights, in the map as in what is solved.
void merge_equal(OtMap& map) {
  ot::Targets merged = ot::Targets::in_memory(map.is_images() ? to_unit(map.points) : map.points,
                                              {.dtype = map.dtype, .weights = map.weights, .merge_duplicates = true});
  if (merged.count() == map.count()) return;
  std::vector<int64_t> kept;
  for (int64_t i = 0; i < merged.count(); ++i) kept.push_back(merged.given(i));
  map.points = take_rows(map.points, kept);
  map.weights = merged.weights();
}

/// The state of an unfinished solve lies beside the map.
std::string state_path(const std::string& out) { return out + ".state"; }

/// The state is saved at the beginning, which finds out at once whether it can be, and then every few seconds.
ot::SolverResult solve(const FitOptions& o, const OtMap& map, ot::Solver& solver) {
  constexpr double kSaveEvery = 20;
  using Clock = std::chrono::steady_clock;
  Clock::time_point saved = Clock::now();
  solver.save(state_path(o.out));
  Progress progress("ot fit", 0, std::llround(o.max_samples * double(map.count())), "sample", o.common.quiet);
  std::string certificate;
  ot::SolverResult result = solver.run([&](const ot::SolverProgress& p) {
    char text[96];
    if (p.certificate) {
      std::snprintf(text, sizeof text, "chi2 %.4f (%.4f to %.4f)", p.certificate->chi2, p.certificate->low,
                    p.certificate->high);
      certificate = text;
    }
    std::snprintf(text, sizeof text, "%.1f samples a target, about %s to chi2 %g  ", p.samples_per_target,
                  seconds_text(p.seconds_left).c_str(), o.chi2);
    progress.update(p.samples, text + certificate);
    if (std::chrono::duration<double>(Clock::now() - saved).count() > kSaveEvery) {
      solver.save(state_path(o.out));
      saved = Clock::now();
    }
    return stop_signal() == 0;
  });
  progress.finish();
  return result;
}

void run_fit(const FitOptions& o) {
  check_usage(o);
  check_writable("--out", o.out);
  start_on_cpu(o.common);
  OtMap map = read_targets(o);
  if (o.merge) merge_equal(map);
  ot::Targets targets = map.targets();
  ot::SolverOptions options;
  options.method = o.recipe == "ours" ? "sgd" : "paper";
  options.chi2 = o.chi2;
  options.max_samples = o.max_samples;
  options.batch = o.batch;
  options.seed = o.common.seed;
  ot::Source source{.kind = map.source, .width = targets.width()};
  std::string state = state_path(o.out);
  if (o.resume && !fs::exists(state))
    fail(Error::Kind::checkpoint, "--resume: there is no unfinished solve at ", state);
  watch_signals("\nmote: stopping; the heights so far are kept\n");
  ot::Solver solver(targets, source, options);
  if (o.resume) solver.load(state);
  map.result = solve(o, map, solver);
  map.heights = map.result.heights;
  if (map.result.stopped || !map.result.converged) solver.save(state);
  if (map.result.stopped) {
    if (!o.common.quiet)
      std::cerr << state << ": stopped after " << map.result.samples << " samples; --resume goes on\n";
    exit_if_stopped();
  }
  save_ot_map(o.out, map);
  const ot::Quality& quality = map.result.quality;
  if (!map.result.converged)
    fail(Error::Kind::numeric, "ot fit: not converged: chi2 ", quality.chi2, " (95%: ", quality.low, " to ",
         quality.high, ") after ", o.max_samples, " samples a target, ", o.chi2,
         " was asked for; the heights are kept in ", o.out, ", and --resume with a larger --max-samples goes on");
  fs::remove(state);
  if (!o.common.json) {
    std::cout << map_text(map) << "\n";
    return;
  }
  Json json = {{"command", command_line()}};
  json.update(describe_map(map));
  std::cout << json.dump(2) << "\n";
}

// ---- apply ---------------------------------------------------------------------------------------------------------

struct ApplyOptions {
  CommonOptions common;
  std::string map, in, out, index;
  int64_t count = 1000, k = 1;
  double max_angle = -1, epsilon = 0.1;
};

constexpr uint64_t kApply = 0x6170706c00000000;  // "appl": the iteration of the source that --count draws from

void run_apply(const ApplyOptions& o) {
  auto require = [](bool holds, const auto&... parts) {
    if (!holds) fail(Error::Kind::usage, parts...);
  };
  require(!o.map.empty(), "--map: the file of the map is missing");
  require(!o.out.empty() || !o.index.empty(), "nothing would be written; give --out FILE.npy or --index FILE.npy");
  require(o.count >= 1, "--count: must be 1 or more, got ", o.count);
  require(o.k >= 1 && o.k <= 64, "--k: must be 1 to 64, got ", o.k);
  require(o.max_angle < 0 || o.k >= 2, "--max-angle: compares planes; give --k 2 or more");
  require(o.epsilon > 0, "--epsilon: must be positive, got ", o.epsilon);
  check_writable("--out", o.out);
  check_writable("--index", o.index);
  start_on_cpu(o.common);
  OtMap map = load_ot_map(o.map);
  if (o.k > map.count()) fail(Error::Kind::usage, "--k: ", o.k, " planes are asked for, the map has ", map.count());
  ot::Targets targets = map.targets();
  ot::Source source{.kind = map.source, .width = targets.width(), .seed = o.common.seed};
  Tensor x = o.in.empty() ? source.samples(kApply, 0, o.count) : load_points(o.in);
  if (x.size(1) != targets.width())
    fail(Error::Kind::data, o.in, ": holds points of ", x.size(1), " numbers, the map is of ", targets.width());

  ot::Planes planes = ot::top_planes(targets, map.heights, x, o.k);
  Tensor angles = ot::plane_angles(targets, planes);
  double widest = o.max_angle < 0 ? M_PI : o.max_angle;
  std::vector<int64_t> kept;
  Tensor inside = ot::accepted(angles, widest);
  for (int64_t i = 0; i < inside.numel(); ++i) kept.push_back(inside.data<int64_t>()[i]);
  planes = {take_rows(planes.index, kept), take_rows(planes.score, kept)};
  angles = take_rows(angles, kept);
  Tensor y = kept.empty() ? empty({0, targets.width()})
                          : ot::blend(targets, planes, ot::softmax_weights(planes, angles, widest, o.epsilon));
  Tensor first = empty({int64_t(kept.size())}, DType::i64);
  for (size_t i = 0; i < kept.size(); ++i)
    first.data<int64_t>()[i] = targets.given(planes.index.data<int64_t>()[int64_t(i) * o.k]);
  if (!o.out.empty()) io::save_npy(o.out, y);
  if (!o.index.empty()) io::save_npy(o.index, first);
  Json json = {{"command", command_line()},
               {"map", o.map},
               {"map_hash", map.hash},
               {"points", x.size(0)},
               {"kept", kept.size()}};
  if (!o.out.empty()) json["out"] = o.out;
  if (!o.index.empty()) json["index"] = o.index;
  if (o.common.json) std::cout << json.dump(2) << "\n";
  else
    std::cout << count_text(int64_t(kept.size())) << " of " << count_text(x.size(0))
              << " points carried over: " << (o.out.empty() ? o.index : o.out) << "\n";
}

}  // namespace

void add_ot_fit(CLI::App& ot) {
  auto o = std::make_shared<FitOptions>();
  CLI::App& sub = add_command(ot, "fit", "Solve for a map from noise to images or points",
                              "mote ot fit --run runs/first --targets 10000 --level 300 --out map.safetensors\n"
                              "  mote ot fit --points cloud.csv --source cube --out cloud.safetensors",
                              o->common, [o] { run_fit(*o); });
  sub.add_option("--run", o->run, "run folder: targets are images, for its newest checkpoint")->group("Targets");
  sub.add_option("--ckpt", o->ckpt, "checkpoint file, instead of --run")->group("Targets");
  sub.add_option("--data", o->data, "data SPEC of the images (default: what the run was trained on)")->group("Targets");
  sub.add_option("--split", o->split, "train or test")->group("Targets")->capture_default_str();
  sub.add_option("--targets", o->targets, "how many of the images (0: all)")->group("Targets");
  sub.add_option("--points", o->points, "targets from FILE.npy or FILE.csv, one point a row, instead of images")
      ->group("Targets");
  sub.add_option("--weights", o->weights,
                 "with --points: FILE.npy or FILE.csv of N weights that sum to 1 (default: equal)")
      ->group("Targets");
  sub.add_flag("--merge-duplicates", o->merge, "equal targets become one with the sum of their weights")
      ->group("Targets");
  sub.add_option("--level", o->level, "noise level M where the sampler goes on, 0 to T - 1")->group("Level");
  sub.add_option("--t", o->t, "the same as a share of T - 1 (default: 0.3)")->group("Level");
  sub.add_option("--latents", o->latents,
                 "fresh: clean images are solved for, and new noise is added to the chosen one; "
                 "stored: the noised images themselves, as published")
      ->group("Level")
      ->capture_default_str();
  sub.add_option("--source", o->source, "gaussian or cube")->group("Solver")->capture_default_str();
  sub.add_option("--recipe", o->recipe, "ours (averaged SGD with decreasing entropy) or paper (Adam)")
      ->group("Solver")
      ->capture_default_str();
  sub.add_option("--chi2", o->chi2, "stop when the 95% interval of chi2 lies below")
      ->group("Solver")
      ->capture_default_str();
  sub.add_option("--max-samples", o->max_samples, "a target: give up beyond, with exit code 6")
      ->group("Solver")
      ->capture_default_str();
  sub.add_option("--batch", o->batch, "samples a step (default: chosen from the number of targets)")->group("Solver");
  sub.add_option("--out", o->out, "file of the map; FILE.state beside it holds an unfinished solve")->group("Output");
  sub.add_flag("--resume", o->resume, "go on with an unfinished solve")->group("Output");
}

void add_ot_apply(CLI::App& ot) {
  auto o = std::make_shared<ApplyOptions>();
  CLI::App& sub = add_command(ot, "apply", "Carry points over with a map",
                              "mote ot apply --map cloud.safetensors --count 5000 --seed 1 --out y.npy --index i.npy\n"
                              "  mote ot apply --map cloud.safetensors --in x.npy --k 2 --max-angle 0.7 --out y.npy",
                              o->common, [o] { run_apply(*o); });
  sub.add_option("--map", o->map, "file of `mote ot fit`")->group("Map");
  sub.add_option("--in", o->in, "points of the source (mean 0, variance 1), FILE.npy or FILE.csv")->group("Map");
  sub.add_option("--count", o->count, "without --in: so many fresh ones")->group("Map")->capture_default_str();
  sub.add_option("--k", o->k, "highest planes that are blended; 1: the map itself")
      ->group("Map")
      ->capture_default_str();
  sub.add_option("--max-angle", o->max_angle, "drop points where two planes meet at a larger angle (radians)")
      ->group("Map");
  sub.add_option("--epsilon", o->epsilon, "of the blend: weights e^(score / epsilon)")
      ->group("Map")
      ->capture_default_str();
  sub.add_option("--out", o->out, "where they go, f32 [S, D]")->group("Output");
  sub.add_option("--index", o->index, "numbers of their targets, i64 [S]")->group("Output");
}

}  // namespace mote::apps
