// cmd_sample.cpp - `mote sample`: draws images with a checkpoint; no flag of the network or the training is typed again.
#include <CLI/CLI.hpp>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/checkpoint.h"
#include "apps/commands.h"
#include "apps/common.h"
#include "apps/draw.h"
#include "apps/image_out.h"
#include "apps/ot_map.h"
#include "apps/progress.h"
#include "apps/signals.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"

namespace mote::apps {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct SampleOptions {
  CommonOptions common;
  std::string run, ckpt, weights = "ema";
  std::string sampler = "ddim", grid, variance = "large", convention = "ours", end, solver = "bh2", basis = "u",
              lower_order_end;
  int64_t offset = 0, order = 0;
  double third = 2, tolerance = 1e-5, rate = 0.5;
  int64_t steps = -1;                      // unset: 50, or all of them for ddpm, or 10 for dpm-ot
  std::string map, finish = "ddim";        // dpm-ot
  double eta = 0;
  ClipChoice clip;
  int64_t count = 64, batch = 64;
  std::string class_text;
  double guidance = 1;
  ImageOutputs images;
  std::string trajectory;
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
  require(o.steps == -1 || o.steps >= 1, "--steps: must be 1 or more, got ", o.steps);
  require(o.steps == -1 || o.sampler != "pf-rk45", "--steps: pf-rk45 chooses its steps by --tolerance");
  require(o.lower_order_end.empty() || o.lower_order_end == "on" || o.lower_order_end == "off",
          "--lower-order-end: '", o.lower_order_end, "' is not known; on and off are");
  require_weights(o.weights);
  require(!o.guidance_given || !o.class_text.empty(), "--guidance needs --class: it moves away from the unconditional image");
  require(o.map.empty() || is_dpm_ot(o.sampler), "--map: only dpm-ot takes a map; --sampler is ", o.sampler);
  require(o.dry_run || o.images.is_any() || !o.trajectory.empty(),
          "nothing would be written; give --out grid.png, --dir DIR, --npy FILE or --trajectory FILE (or --dry-run)");
}

SamplerOptions sampler_options(const SampleOptions& o, const Checkpoint& checkpoint) {
  SamplerOptions sampler;
  sampler.name = o.sampler;
  sampler.steps = o.steps > 0 ? o.steps : o.sampler == "ddpm" ? checkpoint.T : std::min<int64_t>(50, checkpoint.T);
  sampler.grid = o.grid;
  sampler.eta = o.eta;
  sampler.variance = o.variance;
  sampler.prediction = checkpoint.prediction;
  sampler.convention = o.convention;
  sampler.end = o.end;
  sampler.offset = o.offset;
  sampler.order = o.order;
  sampler.solver = o.solver;
  sampler.basis = o.basis;
  sampler.third = o.third;
  if (!o.lower_order_end.empty()) sampler.lower_order_end = o.lower_order_end == "on";
  sampler.tolerance = o.tolerance;
  sampler.rate = o.rate;
  return is_dpm_ot(o.sampler) ? sampler : o.clip.applied(resolved(sampler));
}

/// The map of dpm-ot, and what goes on from its level. Nothing for the other samplers.
std::optional<Jump> jump_of(const SampleOptions& o, const Checkpoint& checkpoint, SamplerOptions& sampler) {
  if (!is_dpm_ot(o.sampler)) return {};
  DpmOtName name = dpm_ot_name(o.sampler, o.map, o.finish);
  if (name.is_copy)
    fail(Error::Kind::usage, "--sampler: copy calls no network; `mote ot eval` and `mote compare` show it");
  if (!o.class_text.empty())
    fail(Error::Kind::usage, "--class: the map of dpm-ot chooses among the targets of all classes");
  Jump jump(load_ot_map(name.file));
  require_map_of(jump.map(), checkpoint);
  sampler = o.clip.applied(finish_options(jump.map(), name, sampler, o.steps > 0 ? o.steps : 10));
  return jump;
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

bool is_adaptive(const SamplerOptions& sampler) { return sampler.name == "pf-rk45"; }

/// 900 rather than 900.0 where a level is whole.
Json time_json(double t) { return t == std::floor(t) ? Json(int64_t(t)) : Json(t); }

const char* name_of(Source source) {
  switch (source) {
    case Source::state: return "x";
    case Source::input: return "input";
    case Source::x0: return "x0";
    case Source::eps: return "eps";
    case Source::noise: break;
  }
  return "z";
}

/// The update of one stage: factors of the state, of the newest call's x0 and eps, of noise; older calls in `history`.
Json describe_stage(const Stage& stage, int64_t newest) {
  Json json = {{"t", stage.call ? time_json(stage.call->t) : Json()},
               {"keep", 0.0}, {"from_x0", 0.0}, {"from_eps", 0.0}, {"noise", 0.0}};
  for (const PlanTerm& term : stage.terms) {
    bool is_newest = term.call == newest;
    if (term.source == Source::state) json["keep"] = term.factor;
    else if (term.source == Source::noise) json["noise"] = term.factor;
    else if (term.source == Source::x0 && is_newest) json["from_x0"] = term.factor;
    else if (term.source == Source::eps && is_newest) json["from_eps"] = term.factor;
    else json["history"].push_back({{"call", term.call}, {"of", name_of(term.source)}, {"factor", term.factor}});
  }
  return json;
}

Json describe_plan(const SampleOptions& o, const SamplerOptions& sampler, const std::vector<StepPlan>& plan) {
  Json steps = Json::array();
  int64_t newest = -1;
  for (const StepPlan& step : plan) {
    Json json = {{"t", time_json(step.from.t)}, {"t_prev", time_json(step.to.t)}}, stages = Json::array();
    json["calls"] = Json::array();
    for (double t : step.calls) json["calls"].push_back(time_json(t));
    for (const Stage& stage : step.stages) {
      if (stage.call) ++newest;
      stages.push_back(describe_stage(stage, newest));
    }
    if (!stages.empty()) {
      Json last = stages.back();   // what the step does in the end stands beside its levels, what comes before apart
      last.erase("t");
      json.update(last);
      stages.erase(stages.size() - 1);
    }
    if (!stages.empty()) json["before"] = stages;
    steps.push_back(json);
  }
  Json json = {{"sampler", sampler.name}, {"grid", sampler.grid}};
  if (!is_adaptive(sampler)) json["steps"] = int64_t(plan.size());
  json["convention"] = sampler.convention;
  if (!sampler.end.empty()) json["end"] = sampler.end;
  if (sampler.offset != 0) json["offset"] = sampler.offset;
  if (sampler.name == "ddim") json["eta"] = sampler.eta;
  if (sampler.name == "ddpm") json["variance"] = sampler.variance;
  if (sampler.name == "unipc" || sampler.name == "deis") json["order"] = sampler.order;
  if (sampler.name == "unipc") json["solver"] = sampler.solver;
  if (sampler.name == "deis") json["basis"] = sampler.basis;
  if (sampler.name == "dpmpp-3m") json["third"] = sampler.third;
  if (sampler.lower_order_end) json["lower_order_end"] = *sampler.lower_order_end;
  if (sampler.name == "langevin") json["rate"] = sampler.rate;
  if (sampler.start >= 0) json["start"] = sampler.start;
  if (is_adaptive(sampler)) json["tolerance"] = sampler.tolerance;
  json["clip"] = o.clip.mode(sampler.name);
  json["guidance"] = o.class_text.empty() ? Json() : Json(o.guidance);
  json["network_calls"] = is_adaptive(sampler) ? Json() : Json(network_calls(plan));
  json["plan"] = steps;
  return json;
}

void print_plan(const SamplerOptions& sampler, const std::vector<StepPlan>& plan, int64_t T) {
  if (is_adaptive(sampler)) {
    std::printf("sampler %s: from t %s to %s; steps and network calls follow from tolerance %s and the images\n",
                sampler.name.c_str(), number_text(plan[0].from.t).c_str(), number_text(plan[0].to.t).c_str(),
                number_text(sampler.tolerance).c_str());
    return;
  }
  std::printf("sampler %s: %zu steps of %lld levels, grid %s, convention %s, %lld network calls an image\n",
              sampler.name.c_str(), plan.size(), static_cast<long long>(T), sampler.grid.c_str(),
              sampler.convention.c_str(), static_cast<long long>(network_calls(plan)));
  std::printf("A line calls the network where it says so, then the state becomes the sum. x is the state at the\n"
              "step's beginning, z noise; eps.k and x0.k are what call k gave, input.k the state it was made at.\n");
  size_t width = 6;   // fractional times have up to 17 digits
  for (const StepPlan& step : plan)
    for (double t : {step.from.t, step.to.t}) width = std::max(width, number_text(t).size());
  int columns = int(width);
  std::printf("%*s %*s  %-*s %s\n", columns, "t", columns, "t_prev", columns + 8, "call", "state");
  int64_t calls = 0;
  for (const StepPlan& step : plan) {
    std::string from = number_text(step.from.t), to = number_text(step.to.t);
    for (const Stage& stage : step.stages) {
      std::string call = stage.call ? concat_text(calls, " at ", number_text(stage.call->t)) : "-", sum;
      if (stage.call) ++calls;
      for (const PlanTerm& term : stage.terms) {
        sum += sum.empty() ? (term.factor < 0 ? "-" : "") : (term.factor < 0 ? " - " : " + ");
        sum += number_text(std::abs(term.factor)) + " " + name_of(term.source);
        if (term.call >= 0) sum += concat_text(".", term.call);
      }
      std::printf("%*s %*s  %-*s %s\n", columns, from.c_str(), columns, to.c_str(), columns + 8, call.c_str(),
                  sum.c_str());
      from.clear();
      to.clear();
    }
  }
}

/// Two rows for each of the first images at evenly spaced moments: its states, from noise at the left to the image at
/// the right, and below them the images that the network took them for (black under the noise, before any call).
class TrajectoryStrip {
 public:
  TrajectoryStrip(int64_t images, int64_t steps) : images_(images) {
    int64_t columns = std::min<int64_t>(11, steps + 1);
    for (int64_t column = 0; column < columns; ++column)
      moments_.push_back((column * steps + (columns - 1) / 2) / (columns - 1));
  }
  void add_states(int64_t first, const Tensor& x, int64_t done) { add(first, x, done, 0); }
  void add_predictions(int64_t first, const Tensor& x0, int64_t done) { add(first, x0, done, 1); }
  void save(const std::string& path) const { io::save_png(path, io::image_grid(cells_, int64_t(moments_.size()))); }

 private:
  void add(int64_t first, const Tensor& x, int64_t done, int64_t row) {
    int64_t columns = int64_t(moments_.size());
    for (int64_t column = 0; column < columns; ++column) {
      if (moments_[size_t(column)] != done) continue;
      if (!cells_.defined()) cells_ = full({2 * images_ * columns, x.size(1), x.size(2), x.size(3)}, -1);
      for (int64_t i = 0; i < x.size(0) && first + i < images_; ++i) {
        int64_t cell = (2 * (first + i) + row) * columns + column;
        cells_.rows(cell, cell + 1).copy_(x.rows(i, i + 1));
      }
    }
  }

  int64_t images_;
  std::vector<int64_t> moments_;
  Tensor cells_;
};

// ---- The command ---------------------------------------------------------------------------------------------------

void run_sample(const SampleOptions& o) {
  check_usage(o);
  o.images.check();
  check_writable("--trajectory", o.trajectory);
  Device device = start(o.common);

  if (o.dry_run) {
    std::string path = o.run.empty() ? o.ckpt : checkpoint_path(o.run);
    Checkpoint checkpoint = read_checkpoint_summary(path).checkpoint;
    SamplerOptions sampler = sampler_options(o, checkpoint);
    jump_of(o, checkpoint, sampler);
    class_ids(o, checkpoint);
    std::vector<StepPlan> plan = plan_sampler(Schedule::named(checkpoint.schedule, checkpoint.T), sampler);
    if (o.common.json)
      std::cout << describe_plan(o, sampler, plan).dump(2) << "\n";
    else
      print_plan(sampler, plan, checkpoint.T);
    return;
  }

  Checkpoint checkpoint = load(o);
  Schedule schedule = Schedule::named(checkpoint.schedule, checkpoint.T);
  DrawOptions draw{.sampler = sampler_options(o, checkpoint), .count = o.count, .batch = o.batch,
                   .seed = o.common.seed, .class_ids = class_ids(o, checkpoint), .guidance = o.guidance};
  std::optional<Jump> jump = jump_of(o, checkpoint, draw.sampler);
  if (jump)
    draw.start = [&](int64_t first, int64_t count) {
      return jump->start(schedule, draw.sampler.start, draw.seed, first, count).x;
    };
  std::vector<StepPlan> plan = plan_sampler(schedule, draw.sampler);

  nn::UNet unet(checkpoint.unet, 0);
  unet.load_state(as_map(weights_of(checkpoint, o.weights)));
  unet.to(device);
  unet.set_precision(precision_named(o.common.precision));

  watch_signals("\nmote: stopping\n");
  auto begun = std::chrono::steady_clock::now();
  int64_t batches = (o.count + o.batch - 1) / o.batch, steps = int64_t(plan.size());
  TrajectoryStrip strip(std::min<int64_t>(8, o.count), steps);
  if (!o.trajectory.empty()) {
    Shape shape{std::min<int64_t>(8, o.count), checkpoint.unet.size, checkpoint.unet.size, checkpoint.unet.channels};
    strip.add_states(0, draw.start ? draw.start(0, shape[0])
                                   : image_noise(shape, DType::f32, start_stream(draw.seed), 0), 0);
  }
  int64_t calls = 0;
  draw.on_call = [&] {
    exit_if_stopped();   // a step of pf-rk45 is a whole run
    ++calls;
  };
  if (!o.trajectory.empty())
    draw.on_x0 = [&](int64_t first, const Tensor& x0, int64_t done, int64_t) {
      strip.add_predictions(first, x0, (done - 1) % steps + 1);
    };
  Progress progress("sample", 0, batches * steps, "step", o.common.quiet);
  Tensor images = draw_images(unet, schedule, draw, device, [&](int64_t first, const Tensor& x, int64_t done, int64_t) {
    exit_if_stopped();
    if (!o.trajectory.empty()) strip.add_states(first, x, (done - 1) % steps + 1);
    progress.update(done);
  });
  progress.finish();
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();

  Json json = {{"command", command_line()}, {"seed", o.common.seed}, {"count", o.count}};
  Json described = describe_plan(o, draw.sampler, plan);
  for (const auto& [key, value] : described.items())
    if (key != "plan") json[key] = value;
  if (is_adaptive(draw.sampler)) json["network_calls"] = double(calls) / double(batches);   // the batches' mean
  json["timesteps"] = Json::array();
  for (const StepPlan& step : plan) json["timesteps"].push_back(time_json(step.from.t));
  json["class"] = o.class_text.empty() ? Json() : Json(o.class_text);
  json["weights"] = o.weights;
  json["precision"] = o.common.precision;
  json["checkpoint"] = checkpoint.path;
  json["checkpoint_hash"] = checkpoint.hash;
  json["checkpoint_step"] = checkpoint.step;
  if (jump) json["dpm_ot"] = describe_map(jump->map());

  std::vector<std::string> files = o.images.save(images, json);
  if (!o.trajectory.empty()) {
    strip.save(o.trajectory);
    io::write_file_atomic(o.trajectory + ".json", json.dump(2) + "\n");
    files.push_back(o.trajectory);
  }

  json["files"] = files;
  json["seconds"] = seconds;
  json["images_per_s"] = double(o.count) / seconds;
  if (o.common.json)
    std::cout << json.dump(2) << "\n";
  else
    std::cout << o.count << " images, " << draw.sampler.name << ", " << json["network_calls"] << " network calls each, "
              << seconds_text(seconds) << ": " << joined(files) << "\n";
}

}  // namespace

void add_sample_command(CLI::App& app) {
  auto o = std::make_shared<SampleOptions>();
  CLI::App& sub = add_command(
      app, "sample", "Draw images with a trained network",
      "mote sample --run runs/first --sampler ddim --steps 50 --count 64 --seed 1 --out a.png\n"
      "  mote sample --run runs/first --sampler f-pndm --steps 20 --out a.png --trajectory way.png   (29 network calls)\n"
      "  mote sample --run runs/first --sampler f-pndm --convention pndm-repo --steps 10 --dry-run\n"
      "  mote sample --run runs/first --sampler unipc --order 3 --grid lambda-uniform --steps 10 --out a.png\n"
      "  mote sample --run runs/first --sampler heun --steps 18 --out a.png                          (35 network calls)\n"
      "  mote sample --run runs/first --sampler pf-rk45 --tolerance 1e-4 --out a.png\n"
      "  mote sample --run runs/first --sampler dpm-ot --map map.safetensors --steps 10 --out a.png   (see mote ot fit)",
      o->common, [o] { run_sample(*o); });
  sub.add_option("--run", o->run, "run folder; its newest checkpoint is used")->group("Network");
  sub.add_option("--ckpt", o->ckpt, "checkpoint file, instead of --run")->group("Network");
  sub.add_option("--weights", o->weights, "ema (averaged) or model")->group("Network")->capture_default_str();
  sub.add_option("--sampler", o->sampler, joined(sampler_names()) + ", or dpm-ot[:LEVEL[:FINISH]][@MAP]")
      ->group("Sampler")->capture_default_str();
  sub.add_option("--steps", o->steps, "sampler steps (default: 50; all for ddpm); s-pndm and plms call the network once "
                 "more, f-pndm and fon 9 times more, heun twice a step but the last; for dpm-ot the network calls "
                 "after the jump (default: 10)")->group("Sampler");
  sub.add_option("--map", o->map, "dpm-ot: the map of `mote ot fit`")->group("Sampler");
  sub.add_option("--finish", o->finish, "dpm-ot: the sampler that goes on from the map's level")
      ->group("Sampler")->capture_default_str();
  sub.add_option("--grid", o->grid, "which levels: " + joined(path_grid_names()) + " (default: karras for heun, uniform)")
      ->group("Sampler");
  sub.add_option("--convention", o->convention, "which abar belongs to which level: " + joined(convention_names()))
      ->group("Sampler")->capture_default_str();
  sub.add_option("--end", o->end, "clean, or first: stop at the first noisy level (default: the convention's)")
      ->group("Sampler");
  sub.add_option("--offset", o->offset, "convention diffusers: added to every level")
      ->group("Sampler")->capture_default_str();
  sub.add_option("--eta", o->eta, "ddim: 0 is deterministic, 1 as noisy as ddpm")->group("Sampler")->capture_default_str();
  sub.add_option("--variance", o->variance, "ddpm: large or small")->group("Sampler")->capture_default_str();
  sub.add_option("--order", o->order, "unipc: 1 to 3 (default 2); deis: 1 to 4 (default 3)")->group("Sampler");
  sub.add_option("--solver", o->solver, "unipc: bh1 or bh2")->group("Sampler")->capture_default_str();
  sub.add_option("--basis", o->basis, "deis: polynomials in u or log-u")->group("Sampler")->capture_default_str();
  sub.add_option("--third", o->third, "dpmpp-3m: 2 is exact, 1 as commonly shipped")
      ->group("Sampler")->capture_default_str();
  sub.add_option("--lower-order-end", o->lower_order_end, "fewer past values in the last steps, on or off "
                 "(default: on for dpmpp-* and unipc, off for deis)")->group("Sampler");
  sub.add_option("--tolerance", o->tolerance, "pf-rk45: error of a step; it looks at a batch as a whole")
      ->group("Sampler")->capture_default_str();
  sub.add_option("--rate", o->rate, "langevin: length of a step over sigma^2")
      ->group("Sampler")->capture_default_str();
  o->clip.add_options(sub, "Sampler");
  sub.add_option("--class", o->class_text, "class of all images, or all for one after another")->group("Sampler");
  sub.add_option_function<double>("--guidance", [o](double w) { o->guidance = w; o->guidance_given = true; },
                                  "weight of classifier-free guidance; 1 is none")->group("Sampler");
  sub.add_option("--count", o->count, "images")->group("Output")->capture_default_str();
  sub.add_option("--batch", o->batch, "images at a time; changes speed and memory only")
      ->group("Output")->capture_default_str();
  o->images.add_options(sub);
  sub.add_option("--trajectory", o->trajectory, "a PNG with the way of the first images from noise: x_t, and below it "
                 "the predicted x0")->group("Output");
  sub.add_flag("--dry-run", o->dry_run, "print timesteps, coefficients and the number of network calls, draw nothing")
      ->group("Output");
}

}  // namespace mote::apps
