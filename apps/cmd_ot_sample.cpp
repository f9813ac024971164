// cmd_ot_sample.cpp - `mote ot sample` draws images by DPM-OT, `mote ot eval` tabulates how near they come to the
// targets and to the training images. A map may do no more than hand out its targets, so every table says how far from
// copying its images are, and has the copies themselves as a row.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>
#include <set>

#include "apps/common.h"
#include "apps/image_out.h"
#include "apps/image_source.h"
#include "apps/ot_commands.h"
#include "apps/pixel_distance.h"
#include "apps/progress.h"
#include "apps/signals.h"

namespace mote::apps {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

struct DpmOtOptions {
  CommonOptions common;
  std::string run, ckpt, weights = "ema", map, finish = "ddim", data;
  int64_t level = -1, calls = 10;
  std::string levels, call_list = "5,10,20";  // eval
  int64_t count = 64, batch = 64;
  double eta = 0, rate = 0.5;
  ClipChoice clip;
  ImageOutputs images;
};

void check_usage(const DpmOtOptions& o) {
  auto require = [](bool holds, const auto&... parts) {
    if (!holds) fail(Error::Kind::usage, parts...);
  };
  require(!o.map.empty(), "--map: the file of the map is missing");
  require(o.count >= 1 && o.count <= 10000000, "--count: must be 1 to 10000000, got ", o.count);
  require(o.batch >= 1, "--batch: must be 1 or more, got ", o.batch);
  require(o.calls >= 1, "--calls: must be 1 or more, got ", o.calls);
  require(o.level >= -1, "--level: must be 0 or more, got ", o.level);
  require_weights(o.weights);
}

// ---- Drawing -------------------------------------------------------------------------------------------------------

/// A network with a map for it.
class Drawer {
 public:
  explicit Drawer(const DpmOtOptions& o)
      : o_(o),
        device_(start(o.common)),
        checkpoint_(checkpoint_of(o.run, o.ckpt)),
        jump_(load_ot_map(o.map)),
        schedule_(Schedule::named(checkpoint_.schedule, checkpoint_.T)),
        unet_(checkpoint_.unet, 0) {
    require_map_of(jump_.map(), checkpoint_);
    unet_.load_state(as_map(weights_of(checkpoint_, o.weights)));
    unet_.to(device_);
    unet_.set_precision(precision_named(o.common.precision));
  }

  const Checkpoint& checkpoint() const { return checkpoint_; }
  const Schedule& schedule() const { return schedule_; }
  const Jump& jump() const { return jump_; }

  SamplerOptions sampler(int64_t level, int64_t calls) const {
    DpmOtName name = dpm_ot_name("dpm-ot", o_.map, o_.finish);
    name.level = level;
    SamplerOptions base{.eta = o_.finish == "ddim" ? o_.eta : 0,
                        .prediction = checkpoint_.prediction,
                        .rate = o_.finish == "langevin" ? o_.rate : SamplerOptions{}.rate};
    return o_.clip.applied(finish_options(jump_.map(), name, base, calls));
  }

  Tensor draw(const SamplerOptions& sampler, Progress& progress, int64_t done_before) {
    DrawOptions draw{.sampler = sampler, .count = o_.count, .batch = o_.batch, .seed = o_.common.seed, .class_ids = {}};
    if (int64_t classes = checkpoint_.unet.classes; classes > 0)
      draw.class_ids = full({o_.count}, double(classes), DType::i64);  // the null class
    draw.start = [&](int64_t first, int64_t count) {
      return jump_.start(schedule_, sampler.start, draw.seed, first, count).x;
    };
    return draw_images(unet_, schedule_, draw, device_, [&](int64_t, const Tensor&, int64_t done, int64_t) {
      exit_if_stopped();
      progress.update(done_before + done);
    });
  }

 private:
  const DpmOtOptions& o_;
  Device device_;
  Checkpoint checkpoint_;
  Jump jump_;
  Schedule schedule_;
  nn::UNet unet_;
};

// ---- How honest the images are -------------------------------------------------------------------------------------

struct Honesty {
  std::string what;  // dpm-ot:300:ddim, copy, floor
  int64_t level = -1, calls = 0;
  double seconds = 0;
  double target = NAN, least_target = NAN;      // distance to the nearest target: median, smallest
  double training = NAN, least_training = NAN;  // to the nearest training image
  int64_t copies = 0;                           // samples that are a training image, pixel by pixel
  int64_t hit = 0;                              // different targets among those chosen
};

void add_distances(Honesty& row, const Tensor& images, const Tensor& targets, const Tensor& training) {
  std::vector<double> to_target = nearest_images(images, targets).distance;
  std::vector<double> to_training = nearest_images(images, training).distance;
  row.target = quantile(to_target, 0.5);
  row.least_target = *std::min_element(to_target.begin(), to_target.end());
  row.training = quantile(to_training, 0.5);
  row.least_training = *std::min_element(to_training.begin(), to_training.end());
  row.copies = std::count(to_training.begin(), to_training.end(), 0.0);
}

Json to_json(const Honesty& row, const Schedule& schedule) {
  Json json = {{"what", row.what}};
  if (row.level >= 0) {
    json["level"] = row.level;
    json["sigma"] = schedule.sigma(row.level);
    json["abar"] = schedule.abar(row.level);
  }
  json["network_calls"] = row.calls;
  json["nearest_target"] = {{"median", row.target}, {"min", row.least_target}};
  json["nearest_training"] = {{"median", row.training}, {"min", row.least_training}, {"copies", row.copies}};
  if (row.hit > 0) json["targets_hit"] = row.hit;
  json["seconds"] = row.seconds;
  return json;
}

void print_table(const std::vector<Honesty>& rows, const Schedule& schedule) {
  std::printf("%-22s %6s %8s %6s  %15s  %17s %7s %6s %9s\n", "", "level", "sigma_M", "calls", "nearest target",
              "nearest training", "copies", "hit", "seconds");
  for (const Honesty& row : rows) {
    char level[32] = "-", sigma[32] = "-", hit[32] = "-";
    if (row.level >= 0) {
      std::snprintf(level, sizeof level, "%lld", static_cast<long long>(row.level));
      std::snprintf(sigma, sizeof sigma, "%.4f", schedule.sigma(row.level));
    }
    if (row.hit > 0) std::snprintf(hit, sizeof hit, "%lld", static_cast<long long>(row.hit));
    std::printf("%-22s %6s %8s %6lld  %6.2f (%6.2f)  %8.2f (%6.2f) %7lld %6s %9.1f\n", row.what.c_str(), level, sigma,
                static_cast<long long>(row.calls), row.target, row.least_target, row.training, row.least_training,
                static_cast<long long>(row.copies), hit, row.seconds);
  }
  std::printf("nearest: median (smallest) of root mean square differences of the pixels, levels of 255\n");
}

Honesty honesty_of(const Drawer& drawer, const SamplerOptions& sampler, const DpmOtOptions& o, const Tensor& images,
                   const Tensor& training, double seconds) {
  Honesty row{.what = concat_text("dpm-ot:", sampler.start, ":", sampler.name), .level = sampler.start};
  row.calls = network_calls(plan_sampler(drawer.schedule(), sampler));
  row.seconds = seconds;
  std::vector<int64_t> chosen = drawer.jump().chosen(o.common.seed, o.count);
  row.hit = int64_t(std::set<int64_t>(chosen.begin(), chosen.end()).size());
  add_distances(row, to_bytes(images), drawer.jump().map().points, training);
  return row;
}

/// The chosen targets as they are.
Honesty copy_row(const Drawer& drawer, const DpmOtOptions& o, const Tensor& training) {
  Honesty row{.what = "copy"};
  Clock::time_point begun = Clock::now();
  std::vector<int64_t> chosen = drawer.jump().chosen(o.common.seed, o.count);
  row.seconds = std::chrono::duration<double>(Clock::now() - begun).count();
  row.hit = int64_t(std::set<int64_t>(chosen.begin(), chosen.end()).size());
  add_distances(row, take_rows(drawer.jump().map().points, chosen), drawer.jump().map().points, training);
  return row;
}

// ---- sample --------------------------------------------------------------------------------------------------------

void run_sample(const DpmOtOptions& o) {
  check_usage(o);
  if (!o.images.is_any())
    fail(Error::Kind::usage, "nothing would be written; give --out grid.png, --dir DIR or --npy FILE");
  o.images.check();
  Drawer drawer(o);
  SamplerOptions sampler = drawer.sampler(o.level, o.calls);
  Dataset training = network_data(drawer.checkpoint(), o.data, "train");
  watch_signals("\nmote: stopping\n");
  int64_t steps = int64_t(plan_sampler(drawer.schedule(), sampler).size());
  Progress progress("ot sample", 0, (o.count + o.batch - 1) / o.batch * steps, "step", o.common.quiet);
  Clock::time_point begun = Clock::now();
  Tensor images = drawer.draw(sampler, progress, 0);
  double seconds = std::chrono::duration<double>(Clock::now() - begun).count();
  progress.finish();
  Honesty row = honesty_of(drawer, sampler, o, images, training.images, seconds);

  Json json = {{"command", command_line()}, {"seed", o.common.seed}, {"count", o.count}, {"sampler", row.what}};
  json["timesteps"] = Json::array();
  for (const StepPlan& step : plan_sampler(drawer.schedule(), sampler)) json["timesteps"].push_back(step.from.t);
  json["honesty"] = to_json(row, drawer.schedule());
  json["network_calls"] = row.calls;
  json["map"] = describe_map(drawer.jump().map());
  json["weights"] = o.weights;
  json["precision"] = o.common.precision;
  json["checkpoint"] = drawer.checkpoint().path;
  json["checkpoint_hash"] = drawer.checkpoint().hash;
  std::vector<std::string> files = o.images.save(images, json);
  json["files"] = files;
  if (o.common.json) {
    std::cout << json.dump(2) << "\n";
    return;
  }
  print_table({row}, drawer.schedule());
  std::cout << map_text(drawer.jump().map()) << "\n" << joined(files) << "\n";
}

// ---- eval ----------------------------------------------------------------------------------------------------------

void run_eval(const DpmOtOptions& o) {
  check_usage(o);
  Drawer drawer(o);
  std::vector<int64_t> levels = {-1}, calls = int_list("--calls", o.call_list);
  if (!o.levels.empty()) levels = int_list("--levels", o.levels);
  std::vector<SamplerOptions> samplers;
  int64_t total = 0, batches = (o.count + o.batch - 1) / o.batch, done = 0;
  for (int64_t level : levels)
    for (int64_t each : calls) {
      samplers.push_back(drawer.sampler(level, each));
      total += batches * int64_t(plan_sampler(drawer.schedule(), samplers.back()).size());
    }
  Dataset training = network_data(drawer.checkpoint(), o.data, "train");
  watch_signals("\nmote: stopping\n");
  Progress progress("ot eval", 0, total, "step", o.common.quiet);
  std::vector<Honesty> rows;
  for (const SamplerOptions& sampler : samplers) {
    Clock::time_point begun = Clock::now();
    Tensor images = drawer.draw(sampler, progress, done);
    double seconds = std::chrono::duration<double>(Clock::now() - begun).count();
    done += batches * int64_t(plan_sampler(drawer.schedule(), sampler).size());
    rows.push_back(honesty_of(drawer, sampler, o, images, training.images, seconds));
    exit_if_stopped();
  }
  progress.finish();
  rows.push_back(copy_row(drawer, o, training.images));
  std::string spec = o.data.empty() ? drawer.checkpoint().data : o.data;
  std::vector<std::string> splits = dataset_splits(spec);
  if (std::find(splits.begin(), splits.end(), "test") != splits.end()) {  // what other real images score
    Dataset test = network_data(drawer.checkpoint(), spec, "test");
    Honesty floor{.what = "floor (test images)"};
    int64_t count = std::min(o.count, test.count());
    add_distances(floor, take_rows(test.images, choose_rows(test.count(), count, o.common.seed)),
                  drawer.jump().map().points, training.images);
    rows.push_back(floor);
  }
  if (o.common.json) {
    Json json = {{"command", command_line()},
                 {"seed", o.common.seed},
                 {"count", o.count},
                 {"unit", "root mean square difference of the pixels, levels of 255"},
                 {"map", describe_map(drawer.jump().map())},
                 {"checkpoint_hash", drawer.checkpoint().hash},
                 {"rows", Json::array()}};
    for (const Honesty& row : rows) json["rows"].push_back(to_json(row, drawer.schedule()));
    std::cout << json.dump(2) << "\n";
    return;
  }
  print_table(rows, drawer.schedule());
  std::cout << map_text(drawer.jump().map()) << "\n";
}

CLI::App& add_action(CLI::App& ot, const std::string& name, const std::string& what, const std::string& example,
                     const std::shared_ptr<DpmOtOptions>& o, std::function<void()> run) {
  CLI::App& sub = add_command(ot, name, what, example, o->common, std::move(run));
  sub.add_option("--run", o->run, "run folder; its newest checkpoint is used")->group("Network");
  sub.add_option("--ckpt", o->ckpt, "checkpoint file, instead of --run")->group("Network");
  sub.add_option("--weights", o->weights, "ema (averaged) or model")->group("Network")->capture_default_str();
  sub.add_option("--map", o->map, "file of `mote ot fit` for this network")->group("Sampler");
  sub.add_option("--finish", o->finish, "sampler that goes on from the level: " + joined(sampler_names()))
      ->group("Sampler")
      ->capture_default_str();
  sub.add_option("--eta", o->eta, "ddim: 0 is deterministic")->group("Sampler")->capture_default_str();
  sub.add_option("--rate", o->rate, "langevin: length of a step over sigma^2")->group("Sampler")->capture_default_str();
  o->clip.add_options(sub, "Sampler");
  sub.add_option("--count", o->count, "images")->group("Output")->capture_default_str();
  sub.add_option("--batch", o->batch, "images at a time; changes speed and memory only")
      ->group("Output")
      ->capture_default_str();
  sub.add_option("--data", o->data,
                 "data SPEC whose training images are looked through for copies (default: the run's)")
      ->group("Output");
  return sub;
}

}  // namespace

void add_ot_sample(CLI::App& ot) {
  auto o = std::make_shared<DpmOtOptions>();
  CLI::App& sub =
      add_action(ot, "sample", "Draw images: one jump by the map, then a few network calls",
                 "mote ot sample --run runs/first --map map.safetensors --calls 10 --count 64 --out a.png\n"
                 "  mote ot sample --run runs/first --map map.safetensors --level 500 --finish dpmpp-2m --out a.png",
                 o, [o] { run_sample(*o); });
  sub.add_option("--level", o->level, "level M (default: the map's); another one needs fresh latents")
      ->group("Sampler");
  sub.add_option("--calls", o->calls, "network calls after the jump")->group("Sampler")->capture_default_str();
  o->images.add_options(sub);
}

void add_ot_eval(CLI::App& ot) {
  auto o = std::make_shared<DpmOtOptions>();
  o->count = 256;
  CLI::App& sub =
      add_action(ot, "eval", "How far images of DPM-OT are from the targets and the training images",
                 "mote ot eval --run runs/first --map map.safetensors --levels 200,400 --calls 5,10 --count 1000", o,
                 [o] { run_eval(*o); });
  sub.add_option("--levels", o->levels, "comma-separated levels M (default: the map's)")->group("Sampler");
  sub.add_option("--calls", o->call_list, "comma-separated numbers of network calls")
      ->group("Sampler")
      ->capture_default_str();
}

}  // namespace mote::apps
