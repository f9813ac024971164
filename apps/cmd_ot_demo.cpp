// cmd_ot_demo.cpp - `mote ot demo`: the method in the plane, on data whose perfect network is a formula. Pictures of
// the targets, the cells of the map and what it transports, few-step DDIM against DPM-OT with the points that lie in no
// mode in red, the sampled heights against exact ones; one page with all of it. The points are transported by exact
// heights.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>

#include "apps/canvas.h"
#include "apps/common.h"
#include "apps/ot_commands.h"
#include "apps/page.h"
#include "apps/progress.h"
#include "apps/signals.h"
#include "apps/svg.h"
#include "diffusion/ot/power_cells.h"
#include "diffusion/ot/toys.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"

namespace mote::apps {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr int64_t kPixels = 420;
constexpr double kWindow = 1.1;       // of the data, which lie in [-1, 1]
const double kCube = std::sqrt(3.0);  // the source is uniform on [-sqrt(3), sqrt(3)]^2
constexpr double kPictured = 0.15;    // u = sigma / a of the level that is drawn
constexpr int64_t kPicturedCalls = 5;

struct DemoOptions {
  CommonOptions common;
  std::string out = "ot-demo";
  int64_t targets = 512, samples = 2000;
  double chi2 = 0.02, max_samples = 2000;
};

double seconds_since(Clock::time_point begun) { return std::chrono::duration<double>(Clock::now() - begun).count(); }

// ---- One data set --------------------------------------------------------------------------------------------------

/// The level whose sigma / a is nearest to u.
int64_t level_near(const Schedule& schedule, double u) {
  int64_t n = 0;
  while (n + 1 < schedule.steps() && schedule.level(n).u() < u) ++n;
  return n;
}

struct Run {
  std::string sampler;  // ddim, dpm-ot:ddim, ...
  double u = 0;         // sigma / a of the level where it starts; 0: from noise
  int64_t level = -1, calls = 0;
  int64_t mixed = 0;
  double least_share = 0;  // of the samples in the mode that got the fewest, times the number of modes
};

struct ToyResult {
  std::string name;
  std::vector<std::pair<std::string, std::string>> pictures;  // file and caption
  std::vector<Run> runs;
  int64_t modes = 0;
  ot::SolverResult solve;
  double exact_chi2 = 0;    // of the sampled heights, by the areas of their cells
  double height_error = 0;  // largest difference from the exact heights
  int64_t newton_steps = 0;
  double newton_seconds = 0;
};

class Toy {
 public:
  Toy(const DemoOptions& o, const std::string& name)
      : o_(o),
        name_(name),
        data_(ot::toy_named(name)),
        targets_(ot::Targets::in_memory(ot::draw_mixture(data_, o.targets, o.common.seed))),
        of_target_(ot::modes_of(data_, targets_.points(arange(o.targets))).nearest) {}

  ToyResult run() {
    ToyResult result;
    result.name = name_;
    result.modes = int64_t(data_.means.size());
    solve(result);
    draw_targets(result);
    draw_cells(result);
    for (int64_t calls : {3, 5, 10}) {
      add(result, "ddim", 0, calls);
      for (double u : {0.05, kPictured, 0.5, 1.5}) add(result, "dpm-ot:ddim", u, calls);
      add(result, "dpm-ot:dpmpp-2m", kPictured, calls);
      add(result, "dpm-ot:langevin", kPictured, calls);
      add(result, "dpm-ot blended:ddim", kPictured, calls);
    }
    return result;
  }

 private:
  Colour colour_of(int64_t mode, bool light = false) const { return hue(mode, int64_t(data_.means.size()), light); }

  void save(ToyResult& result, const Canvas& canvas, const std::string& what, const std::string& caption) const {
    std::string file = name_ + "-" + what + ".png";
    io::save_png(o_.out + "/" + file, canvas.picture());
    result.pictures.emplace_back(file, caption);
  }

  /// Sampled heights, and the exact ones that they should be.
  void solve(ToyResult& result) {
    ot::SolverOptions options;
    options.chi2 = o_.chi2;
    options.max_samples = o_.max_samples;
    options.seed = o_.common.seed;
    ot::Solver solver(targets_, source_, options);
    result.solve = solver.run([](const ot::SolverProgress&) { return stop_signal() == 0; });
    exit_if_stopped();
    sampled_ = result.solve.heights;

    Clock::time_point begun = Clock::now();
    std::vector<double> rows = targets_.rows(0, targets_.count()).to_vector(), heights = sampled_.to_vector();
    std::vector<ot::Point> points;
    for (size_t i = 0; i < rows.size(); i += 2) points.push_back({rows[i], rows[i + 1]});
    ot::Polygon square = ot::rectangle({-kCube, -kCube}, {kCube, kCube});
    ot::ExactMap exact = ot::solve_exact(points, targets_.weights(), square);
    result.newton_steps = exact.steps;
    result.newton_seconds = seconds_since(begun);
    ot::PowerCells sampled = ot::power_cells(points, heights, square);
    for (size_t i = 0; i < points.size(); ++i) {
      double off = sampled.masses[i] - targets_.weights()[i];
      result.exact_chi2 += off * off / targets_.weights()[i];
      result.height_error = std::max(result.height_error, std::abs(heights[i] - exact.heights[i]));
    }
    heights_ = from(exact.heights, {targets_.count()});
    exact_cells_ = exact.cells;
  }

  void draw_targets(ToyResult& result) const {
    Canvas canvas(kPixels, -kWindow, kWindow);
    std::vector<double> points = targets_.points(arange(targets_.count())).to_vector();
    for (size_t i = 0; i < of_target_.size(); ++i)
      canvas.dot(points[2 * i], points[2 * i + 1], colour_of(of_target_[i]));
    save(result, canvas, "targets", concat_text(targets_.count(), " targets, coloured by mode"));
  }

  void draw_cells(ToyResult& result) const {
    Canvas canvas(kPixels, -kCube, kCube);
    Tensor index = ot::assign(targets_, sampled_, canvas.middles());
    for (int64_t pixel = 0; pixel < index.numel(); ++pixel)
      canvas.set(pixel, colour_of(of_target_[size_t(index.data<int64_t>()[pixel])], true));
    for (const ot::Polygon& cell : exact_cells_.polygons)
      for (size_t k = 0; k < cell.size(); ++k) {
        ot::Point a = cell[k], b = cell[(k + 1) % cell.size()];
        canvas.line(a.x, a.y, b.x, b.y, {90, 90, 90});
      }
    save(result, canvas, "cells",
         "the noise: areas by sampled heights, in the colour of their target's mode; lines: the "
         "exact cells");
  }

  /// The states x_M of the samples, from the map or from a blend of its two highest planes.
  Tensor start(const Level& level, bool is_blended) const {
    uint64_t seed = o_.common.seed;
    if (!is_blended)
      return ot::start_states(targets_, heights_, source_, ot::Latents::fresh, level, seed, 0, o_.samples).x;
    ot::Source source = source_;
    source.seed = seed;
    constexpr uint64_t kBlended = 0x626c656e00000000;  // "blen": an iteration of its own
    ot::Planes planes = ot::top_planes(targets_, heights_, source.samples(kBlended, 0, o_.samples), 2);
    Tensor weights = ot::softmax_weights(planes, ot::plane_angles(targets_, planes), M_PI, 0.1);
    return ot::noised(level, ot::blend(targets_, planes, weights), Generator{seed}.fork(kBlended));
  }

  /// One way of drawing: counted, and drawn where it is one of those pictured.
  void add(ToyResult& result, const std::string& sampler, double u, int64_t calls) const {
    Run run{.sampler = sampler, .u = u, .calls = calls};
    SamplerOptions options{.name = sampler.substr(sampler.find(':') + 1), .grid = "trailing"};
    Generator noise = Generator{o_.common.seed}.fork(2);
    Tensor x;
    if (u > 0) {
      run.level = options.start = level_near(schedule_, u);
      run.u = schedule_.level(run.level).u();
      x = start(schedule_.level(run.level), sampler.find("blended") != std::string::npos);
    } else {
      x = image_noise({o_.samples, 2}, DType::f32, noise.fork(1), 0);
    }
    options = with_network_calls(schedule_, options, calls);
    Tensor samples = run_sampler(schedule_, options, exact_network(data_, schedule_), x, noise);
    exit_if_stopped();
    ot::Modes modes = ot::modes_of(data_, samples);
    run.mixed = modes.mixed;
    std::vector<int64_t> counts(data_.means.size(), 0);
    for (size_t i = 0; i < modes.nearest.size(); ++i) counts[size_t(modes.nearest[i])] += !modes.is_mixed[i];
    run.least_share =
        double(*std::min_element(counts.begin(), counts.end())) * double(counts.size()) / double(o_.samples);
    result.runs.push_back(run);
    if (calls != kPicturedCalls || (u > 0 && u != kPictured)) return;
    if (sampler == "ddim") draw_samples(result, samples, modes, "ddim", "DDIM from noise");
    if (sampler != "dpm-ot:ddim") return;
    draw_states(result, x, schedule_.level(run.level));
    draw_samples(result, samples, modes, "dpm-ot", concat_text("DPM-OT from level ", run.level));
  }

  void draw_states(ToyResult& result, const Tensor& x, const Level& level) const {
    Canvas canvas(kPixels, -kWindow, kWindow);
    std::vector<double> values = x.to_vector();
    std::vector<int64_t> index = [&] {
      Tensor chosen = ot::chosen_targets(targets_, heights_, source_, o_.common.seed, 0, o_.samples);
      return std::vector<int64_t>(chosen.data<int64_t>(), chosen.data<int64_t>() + chosen.numel());
    }();
    for (size_t i = 0; i < index.size(); ++i)
      canvas.dot(values[2 * i] / level.a(), values[2 * i + 1] / level.a(), colour_of(of_target_[size_t(index[i])]),
                 1.5);
    char caption[96];
    std::snprintf(caption, sizeof caption, "%lld transported points with the noise of level M, sigma / a = %.2f",
                  static_cast<long long>(o_.samples), level.u());
    save(result, canvas, "transported", caption);
  }

  void draw_samples(ToyResult& result, const Tensor& samples, const ot::Modes& modes, const std::string& what,
                    const std::string& title) const {
    Canvas canvas(kPixels, -kWindow, kWindow);
    std::vector<double> values = samples.to_vector();
    for (bool mixed : {false, true})  // the red ones on top
      for (size_t i = 0; i < modes.nearest.size(); ++i)
        if (modes.is_mixed[i] == mixed)
          canvas.dot(values[2 * i], values[2 * i + 1], mixed ? Colour{220, 20, 30} : Colour{70, 90, 120},
                     mixed ? 2 : 1.5);
    save(result, canvas, what,
         concat_text(title, ", ", kPicturedCalls, " network calls: ", modes.mixed, " of ", o_.samples,
                     " points in no mode (red)"));
  }

  const DemoOptions& o_;
  std::string name_;
  Mixture data_;
  ot::Targets targets_;
  std::vector<int64_t> of_target_;  // mode of each target
  Schedule schedule_ = Schedule::cosine();
  ot::Source source_{.kind = ot::Source::Kind::cube, .width = 2};
  Tensor heights_, sampled_;  // exact, and the solver's
  ot::PowerCells exact_cells_;
};

// ---- The page ------------------------------------------------------------------------------------------------------

std::string solve_text(const ToyResult& toy) {
  char text[360];
  std::snprintf(
      text, sizeof text,
      "sampled heights: %.0f samples a target in %.2f s, chi2 %.4f (95%%: %.4f to %.4f)%s; by the areas of their "
      "cells it is %.4f, and they differ by at most %.4f from the exact ones (%lld Newton steps, %.2f s)",
      double(toy.solve.samples) / double(toy.solve.heights.numel()), toy.solve.seconds, toy.solve.quality.chi2,
      toy.solve.quality.low, toy.solve.quality.high, toy.solve.converged ? "" : ", not converged", toy.exact_chi2,
      toy.height_error, static_cast<long long>(toy.newton_steps), toy.newton_seconds);
  return text;
}

std::string page_text(const DemoOptions& o, const std::vector<ToyResult>& toys) {
  Page page("One jump, then a few network calls");
  page.html("<p class=\"sub\">" + escape_html(command_line()) + "</p>\n");
  for (const ToyResult& toy : toys) {
    page.heading(toy.name);
    page.html("<div class=\"grids\">\n");
    for (const auto& [file, caption] : toy.pictures) page.figure(o.out + "/" + file, "toy", caption, caption);
    page.html("</div>\n");
    page.note(solve_text(toy));
    std::vector<std::vector<std::string>> rows = {
        {"sampler", "level M", "sigma / a", "network calls", "points in no mode", "emptiest mode"}};
    for (const Run& run : toy.runs) {
      bool has_level = run.level >= 0;
      rows.push_back({run.sampler, has_level ? std::to_string(run.level) : "-",
                      has_level ? number_text(std::round(run.u * 1000) / 1000) : "-", std::to_string(run.calls),
                      std::to_string(run.mixed), short_number(run.least_share)});
    }
    page.table(rows);
  }
  page.note(concat_text("Points in no mode: farther than 4 standard deviations from all centres, of ", o.samples,
                        " samples. Emptiest mode: share of the mode that got the fewest samples, times the number of "
                        "modes. The network is the exact one of the data, and so are the heights that dpm-ot transports "
                        "by."));
  return page.finish();
}

Json to_json(const ToyResult& toy) {
  Json json = {{"name", toy.name},
               {"modes", toy.modes},
               {"solve",
                {{"converged", toy.solve.converged},
                 {"chi2", toy.solve.quality.chi2},
                 {"chi2_interval", {toy.solve.quality.low, toy.solve.quality.high}},
                 {"exact_chi2", toy.exact_chi2},
                 {"height_error", toy.height_error},
                 {"samples", toy.solve.samples},
                 {"seconds", toy.solve.seconds},
                 {"newton_steps", toy.newton_steps},
                 {"newton_seconds", toy.newton_seconds}}},
               {"runs", Json::array()}};
  for (const Run& run : toy.runs)
    json["runs"].push_back({{"sampler", run.sampler},
                            {"level", run.level < 0 ? Json() : Json(run.level)},
                            {"u", run.level < 0 ? Json() : Json(run.u)},
                            {"network_calls", run.calls},
                            {"mixed", run.mixed},
                            {"emptiest_mode", run.least_share}});
  for (const auto& [file, caption] : toy.pictures) json["pictures"].push_back({{"file", file}, {"caption", caption}});
  return json;
}

void print_toy(const ToyResult& toy) {
  std::printf("%s: %s\n%-22s %6s %8s %6s %8s %9s\n", toy.name.c_str(), solve_text(toy).c_str(), "", "level", "sigma/a",
              "calls", "in no mode", "emptiest");
  for (const Run& run : toy.runs) {
    char u[16] = "-";
    if (run.level >= 0) std::snprintf(u, sizeof u, "%.3f", run.u);
    std::printf("%-22s %6s %8s %6lld %10lld %9.2f\n", run.sampler.c_str(),
                run.level < 0 ? "-" : std::to_string(run.level).c_str(), u, static_cast<long long>(run.calls),
                static_cast<long long>(run.mixed), run.least_share);
  }
}

void run_demo(const DemoOptions& o) {
  if (o.targets < 1 || o.targets > 20000) fail(Error::Kind::usage, "--targets: must be 1 to 20000, got ", o.targets);
  if (o.samples < 1 || o.samples > 1000000)
    fail(Error::Kind::usage, "--samples: must be 1 to 1000000, got ", o.samples);
  if (!(o.chi2 > 0)) fail(Error::Kind::usage, "--chi2: must be positive, got ", o.chi2);
  if (!(o.max_samples > 0)) fail(Error::Kind::usage, "--max-samples: must be positive, got ", o.max_samples);
  start_on_cpu(o.common);
  std::error_code error;
  fs::create_directories(o.out, error);
  if (error) fail(Error::Kind::resource, "--out: cannot make ", o.out, ": ", error.message());
  watch_signals("\nmote: stopping\n");
  Progress progress("ot demo", 0, int64_t(ot::toy_names().size()), "data set", o.common.quiet);
  std::vector<ToyResult> toys;
  Json json = {{"command", command_line()}, {"seed", o.common.seed}, {"targets", o.targets}, {"samples", o.samples}};
  for (const std::string& name : ot::toy_names()) {
    toys.push_back(Toy(o, name).run());
    json["toys"].push_back(to_json(toys.back()));
    progress.update(int64_t(toys.size()), name);
  }
  progress.finish();
  io::write_file_atomic(o.out + "/demo.json", json.dump(2) + "\n");
  io::write_file_atomic(o.out + "/index.html", page_text(o, toys));
  if (o.common.json) {
    std::cout << json.dump(2) << "\n";
    return;
  }
  for (const ToyResult& toy : toys) print_toy(toy);
  std::printf("%s/index.html\n", o.out.c_str());
}

}  // namespace

void add_ot_demo(CLI::App& ot) {
  auto o = std::make_shared<DemoOptions>();
  CLI::App& sub = add_command(ot, "demo", "The method in the plane: pictures and counts", "mote ot demo --out ot-demo",
                              o->common, [o] { run_demo(*o); });
  sub.add_option("--out", o->out, "folder for the pictures, demo.json and index.html")
      ->group("Output")
      ->capture_default_str();
  sub.add_option("--targets", o->targets, "of each data set")->group("Demo")->capture_default_str();
  sub.add_option("--samples", o->samples, "drawn in each way")->group("Demo")->capture_default_str();
  sub.add_option("--chi2", o->chi2, "of the sampled heights")->group("Demo")->capture_default_str();
  sub.add_option("--max-samples", o->max_samples, "a target: give up beyond")->group("Demo")->capture_default_str();
}

}  // namespace mote::apps
