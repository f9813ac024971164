// cmd_sample.cpp - `mote sample`: draws images with a checkpoint; no flag of the network or the training is typed again.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/checkpoint.h"
#include "apps/commands.h"
#include "apps/common.h"
#include "apps/draw.h"
#include "apps/progress.h"
#include "apps/signals.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"
#include "tensor/io/npy.h"

namespace mote::apps {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct SampleOptions {
  CommonOptions common;
  std::string run, ckpt, weights = "ema";
  std::string sampler = "ddim", grid = "uniform", variance = "large";
  int64_t steps = -1;                      // unset: 50, or all of them for ddpm
  double eta = 0;
  bool no_clip = false;
  int64_t count = 64, batch = 64, columns = -1;   // columns unset: as square as can be
  std::string class_text;
  double guidance = 1;
  std::string out, dir, npy, trajectory;
  bool dry_run = false;
  bool guidance_given = false;
};

// ---- Reading the flags ---------------------------------------------------------------------------------------------

void check_usage(const SampleOptions& o) {
  auto require = [](bool holds, const auto&... parts) {
    if (!holds) fail(Error::Kind::usage, parts...);
  };
  require(o.run.empty() != o.ckpt.empty(), "give --run DIR or --ckpt FILE, one of them");
  require(o.count >= 1 && o.count <= 10000000, "--count: must be 1 to 10000000, got ", o.count);
  require(o.batch >= 1, "--batch: must be 1 or more, got ", o.batch);
  require(o.columns == -1 || o.columns >= 1, "--columns: must be 1 or more, got ", o.columns);
  require(o.steps == -1 || o.steps >= 1, "--steps: must be 1 or more, got ", o.steps);
  require(o.weights == "ema" || o.weights == "model", "--weights: '", o.weights, "' is not known; ema and model are");
  require(!o.guidance_given || !o.class_text.empty(), "--guidance needs --class: it moves away from the unconditional image");
  require(o.dry_run || !(o.out.empty() && o.dir.empty() && o.npy.empty() && o.trajectory.empty()),
          "nothing would be written; give --out grid.png, --dir DIR, --npy FILE or --trajectory FILE (or --dry-run)");
}

/// Fails now rather than after an hour of sampling.
void check_writable(const char* flag, const std::string& path) {
  if (path.empty()) return;
  std::string parent = fs::path(path).parent_path().string();
  if (parent.empty()) parent = ".";
  if (fs::is_directory(path)) fail(Error::Kind::usage, flag, ": ", path, " is a folder; a file name is needed");
  if (access(parent.c_str(), W_OK | X_OK) != 0)
    fail(Error::Kind::resource, flag, ": cannot write into ", parent, ": ", std::strerror(errno));
}

SamplerOptions sampler_options(const SampleOptions& o, const Checkpoint& checkpoint) {
  SamplerOptions sampler;
  sampler.name = o.sampler;
  sampler.steps = o.steps > 0 ? o.steps : o.sampler == "ddpm" ? checkpoint.T : std::min<int64_t>(50, checkpoint.T);
  sampler.grid = o.grid;
  sampler.eta = o.eta;
  sampler.variance = o.variance;
  sampler.prediction = checkpoint.prediction;
  sampler.clip = !o.no_clip;
  return sampler;
}

/// One id an image: k for all, "all" in turn, the null class without --class. Undefined for an unconditional network.
Tensor class_ids(const SampleOptions& o, const Checkpoint& checkpoint) {
  int64_t classes = checkpoint.unet.classes;
  if (classes == 0) {
    if (!o.class_text.empty())
      fail(Error::Kind::usage, "--class: this run was trained without classes; train with --class-cond for them");
    return {};
  }
  if (o.class_text.empty()) return full({o.count}, double(classes), DType::i64);
  if (o.class_text == "all") {
    Tensor ids = arange(o.count);
    for (int64_t i = 0; i < o.count; ++i) ids.data<int64_t>()[i] = i % classes;
    return ids;
  }
  int64_t id = -1;
  const char* end = o.class_text.data() + o.class_text.size();
  auto [stop, error] = std::from_chars(o.class_text.data(), end, id);
  if (error != std::errc() || stop != end || id < 0 || id >= classes) {
    std::string names;
    if (!checkpoint.class_names.empty()) names = " (" + joined(checkpoint.class_names) + ")";
    fail(Error::Kind::usage, "--class: '", o.class_text, "' is not a class of this run; they are 0 to ", classes - 1, names,
         ", or all for one after another");
  }
  return full({o.count}, double(id), DType::i64);
}

Checkpoint load(const SampleOptions& o) {
  if (o.run.empty()) return load_checkpoint(o.ckpt);
  if (!fs::is_directory(o.run)) fail(Error::Kind::checkpoint, "--run: there is no run at ", o.run);
  return load_from_run(o.run, "to use it, give --ckpt {} instead of --run");
}

// ---- Writing -------------------------------------------------------------------------------------------------------

Json describe_plan(const SampleOptions& o, const SamplerOptions& sampler, const std::vector<StepPlan>& plan) {
  Json steps = Json::array();
  for (const StepPlan& step : plan)
    steps.push_back({{"t", step.step.t}, {"t_prev", step.step.t_prev}, {"keep", step.keep}, {"from_x0", step.from_x0},
                     {"from_eps", step.from_eps}, {"noise", step.noise}, {"calls", step.calls}});
  Json json = {{"sampler", sampler.name}, {"grid", sampler.grid}, {"steps", sampler.steps}};
  if (sampler.name == "ddim") json["eta"] = sampler.eta;
  if (sampler.name == "ddpm") json["variance"] = sampler.variance;
  json["clip"] = sampler.clip;
  json["guidance"] = o.class_text.empty() ? Json() : Json(o.guidance);
  json["network_calls"] = network_calls(plan);
  json["plan"] = steps;
  return json;
}

void print_plan(const Json& json, int64_t T) {
  std::printf("sampler %s: %lld steps of %lld levels, grid %s, %lld network calls an image\n",
              json["sampler"].get<std::string>().c_str(), json["steps"].get<long long>(), static_cast<long long>(T),
              json["grid"].get<std::string>().c_str(), json["network_calls"].get<long long>());
  std::printf("x' = keep x + from_x0 x0 + from_eps eps + noise z\n");
  std::printf("%6s %6s %24s %24s %24s %24s\n", "t", "t_prev", "keep", "from_x0", "from_eps", "noise");
  for (const Json& step : json["plan"]) {
    std::printf("%6lld %6lld", step["t"].get<long long>(), step["t_prev"].get<long long>());
    for (const char* key : {"keep", "from_x0", "from_eps", "noise"})
      std::printf(" %24s", number_text(step[key].get<double>()).c_str());
    std::printf("\n");
  }
}

/// States of the first images at evenly spaced moments, noise at the left and the image at the right.
class TrajectoryStrip {
 public:
  TrajectoryStrip(int64_t rows, int64_t steps) : rows_(rows) {
    int64_t columns = std::min<int64_t>(11, steps + 1);
    for (int64_t column = 0; column < columns; ++column)
      moments_.push_back((column * steps + (columns - 1) / 2) / (columns - 1));
  }
  void add(int64_t first, const Tensor& x, int64_t done) {
    for (size_t column = 0; column < moments_.size(); ++column) {
      if (moments_[column] != done) continue;
      for (int64_t i = 0; i < x.size(0) && first + i < rows_; ++i) {
        if (!states_.defined())
          states_ = zeros({rows_ * int64_t(moments_.size()), x.size(1), x.size(2), x.size(3)});
        int64_t cell = (first + i) * int64_t(moments_.size()) + int64_t(column);
        states_.rows(cell, cell + 1).copy_(x.rows(i, i + 1));
      }
    }
  }
  void save(const std::string& path) const { io::save_png(path, io::image_grid(states_, int64_t(moments_.size()))); }

 private:
  int64_t rows_;
  std::vector<int64_t> moments_;
  Tensor states_;
};

void save_folder(const std::string& folder, const Tensor& images) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail(Error::Kind::resource, "--dir: cannot make ", folder, ": ", error.message());
  for (int64_t i = 0; i < images.size(0); ++i) {
    char name[32];
    std::snprintf(name, sizeof name, "/%06lld.png", static_cast<long long>(i));
    io::save_png(folder + name, io::image_grid(images.rows(i, i + 1), 1, 0));
  }
}

// ---- The command ---------------------------------------------------------------------------------------------------

void run_sample(const SampleOptions& o) {
  check_usage(o);
  check_writable("--out", o.out);
  check_writable("--npy", o.npy);
  check_writable("--trajectory", o.trajectory);
  Device device = start(o.common);

  if (o.dry_run) {
    std::string path = o.run.empty() ? o.ckpt : checkpoint_path(o.run);
    Checkpoint checkpoint = read_checkpoint_summary(path).checkpoint;
    SamplerOptions sampler = sampler_options(o, checkpoint);
    class_ids(o, checkpoint);
    Json json = describe_plan(o, sampler, plan_sampler(Schedule::named(checkpoint.schedule, checkpoint.T), sampler));
    if (o.common.json)
      std::cout << json.dump(2) << "\n";
    else
      print_plan(json, checkpoint.T);
    return;
  }

  Checkpoint checkpoint = load(o);
  Schedule schedule = Schedule::named(checkpoint.schedule, checkpoint.T);
  DrawOptions draw{.sampler = sampler_options(o, checkpoint), .count = o.count, .batch = o.batch,
                   .seed = o.common.seed, .class_ids = class_ids(o, checkpoint), .guidance = o.guidance};
  std::vector<StepPlan> plan = plan_sampler(schedule, draw.sampler);

  const nn::NamedTensors& weights = o.weights == "ema" ? checkpoint.ema : checkpoint.model;
  if (weights.empty())
    fail(Error::Kind::checkpoint, checkpoint.path, ": holds no ", o.weights == "ema" ? "averaged" : "plain",
         " weights; give --weights ", o.weights == "ema" ? "model" : "ema", " to use the others");
  nn::UNet unet(checkpoint.unet, 0);
  unet.load_state(as_map(weights));
  unet.to(device);
  unet.set_precision(precision_named(o.common.precision));

  watch_signals("\nmote: stopping\n");
  auto begun = std::chrono::steady_clock::now();
  int64_t batches = (o.count + o.batch - 1) / o.batch, steps = int64_t(plan.size());
  TrajectoryStrip strip(std::min<int64_t>(8, o.count), steps);
  if (!o.trajectory.empty()) {
    Shape shape{std::min<int64_t>(8, o.count), checkpoint.unet.size, checkpoint.unet.size, checkpoint.unet.channels};
    strip.add(0, image_noise(shape, DType::f32, start_stream(draw.seed), 0), 0);
  }
  Progress progress("sample", 0, batches * steps, "step", o.common.quiet);
  Tensor images = draw_images(unet, schedule, draw, device, [&](int64_t first, const Tensor& x, int64_t done, int64_t) {
    exit_if_stopped();
    if (!o.trajectory.empty()) strip.add(first, x, (done - 1) % steps + 1);
    progress.update(done);
  });
  progress.finish();
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();

  Json json = {{"command", command_line()}, {"seed", o.common.seed}, {"count", o.count}};
  Json described = describe_plan(o, draw.sampler, plan);
  for (const auto& [key, value] : described.items())
    if (key != "plan") json[key] = value;
  json["timesteps"] = Json::array();
  for (const StepPlan& step : plan) json["timesteps"].push_back(step.step.t);
  json["class"] = o.class_text.empty() ? Json() : Json(o.class_text);
  json["weights"] = o.weights;
  json["precision"] = o.common.precision;
  json["checkpoint"] = checkpoint.path;
  json["checkpoint_hash"] = checkpoint.hash;
  json["checkpoint_step"] = checkpoint.step;

  std::vector<std::string> files;
  auto sidecar = [&](const std::string& file) {
    io::write_file_atomic(file + ".json", json.dump(2) + "\n");
    files.push_back(file);
  };
  if (!o.out.empty()) {
    io::save_png(o.out, io::image_grid(images, o.columns > 0 ? o.columns : grid_columns(o.count)));
    sidecar(o.out);
  }
  if (!o.trajectory.empty()) {
    strip.save(o.trajectory);
    sidecar(o.trajectory);
  }
  if (!o.npy.empty()) {
    io::save_npy(o.npy, images);
    sidecar(o.npy);
  }
  if (!o.dir.empty()) {
    save_folder(o.dir, images);
    io::write_file_atomic(o.dir + "/samples.json", json.dump(2) + "\n");
    files.push_back(o.dir);
  }

  json["files"] = files;
  json["seconds"] = seconds;
  json["images_per_s"] = double(o.count) / seconds;
  if (o.common.json)
    std::cout << json.dump(2) << "\n";
  else
    std::cout << o.count << " images, " << draw.sampler.name << ", " << network_calls(plan) << " network calls each, "
              << seconds_text(seconds) << ": " << joined(files) << "\n";
}

}  // namespace

void add_sample_command(CLI::App& app) {
  auto o = std::make_shared<SampleOptions>();
  CLI::App& sub = add_command(app, "sample", "Draw images with a trained network",
                              "mote sample --run runs/first --sampler ddim --steps 50 --count 64 --seed 1 --out a.png",
                              o->common, [o] { run_sample(*o); });
  sub.add_option("--run", o->run, "run folder; its newest checkpoint is used")->group("Network");
  sub.add_option("--ckpt", o->ckpt, "checkpoint file, instead of --run")->group("Network");
  sub.add_option("--weights", o->weights, "ema (averaged) or model")->group("Network")->capture_default_str();
  sub.add_option("--sampler", o->sampler, joined(sampler_names()))->group("Sampler")->capture_default_str();
  sub.add_option("--steps", o->steps, "sampler steps (default: 50; all for ddpm)")->group("Sampler");
  sub.add_option("--grid", o->grid, "which levels: uniform, quadratic, trailing, linspace")
      ->group("Sampler")->capture_default_str();
  sub.add_option("--eta", o->eta, "ddim: 0 is deterministic, 1 as noisy as ddpm")->group("Sampler")->capture_default_str();
  sub.add_option("--variance", o->variance, "ddpm: large or small")->group("Sampler")->capture_default_str();
  sub.add_flag("--no-clip", o->no_clip, "do not clamp the predicted image to [-1, 1]")->group("Sampler");
  sub.add_option("--class", o->class_text, "class of all images, or all for one after another")->group("Sampler");
  sub.add_option_function<double>("--guidance", [o](double w) { o->guidance = w; o->guidance_given = true; },
                                  "weight of classifier-free guidance; 1 is none")->group("Sampler");
  sub.add_option("--count", o->count, "images")->group("Output")->capture_default_str();
  sub.add_option("--batch", o->batch, "images at a time; changes speed and memory only")
      ->group("Output")->capture_default_str();
  sub.add_option("--out", o->out, "a PNG with all images; FILE.json beside it tells how they were made")->group("Output");
  sub.add_option("--columns", o->columns, "images a row of --out (default: as square as can be)")->group("Output");
  sub.add_option("--dir", o->dir, "a folder for single PNGs")->group("Output");
  sub.add_option("--npy", o->npy, "all images as a NumPy array, f32 [N, H, W, C]")->group("Output");
  sub.add_option("--trajectory", o->trajectory, "a PNG with the way of the first images from noise")->group("Output");
  sub.add_flag("--dry-run", o->dry_run, "print timesteps, coefficients and the number of network calls, draw nothing")
      ->group("Output");
}

}  // namespace mote::apps
