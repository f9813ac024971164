// cmd_restore_apply.cpp - `mote restore apply`: restores pictures of any size, or damages clean ones first.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>

#include "apps/cmd_restore.h"
#include "apps/dataset.h"
#include "apps/progress.h"
#include "apps/restore_scores.h"
#include "apps/signals.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"

namespace mote::apps {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

struct Options {
  CommonOptions common;
  RestoreFlags flags;
  std::string run, ckpt, in, out, sigma;
  double poisson = -1;
  int64_t samples = 1, limit = 0;
  bool degrade = false;
};

struct Scored {
  std::vector<metrics::RestorationScore> input, e2e, result;   // empty without --degrade
};

/// Files by the names of their results, which are PNGs.
std::vector<std::pair<std::string, std::string>> inputs_of(const Options& o) {
  std::vector<std::pair<std::string, std::string>> files;
  std::error_code error;
  if (fs::is_directory(o.in, error)) {
    for (const std::string& name : picture_names(o.in)) {
      std::string stem = fs::path(name).stem().string();
      if (!files.empty() && files.back().first == stem)
        fail(Error::Kind::data, "--in: ", files.back().second, " and ", name, " would be written to one file, ", stem,
             ".png; one must go");
      files.emplace_back(stem, o.in + "/" + name);
    }
    if (files.empty()) fail(Error::Kind::data, "--in: ", o.in, " has no pictures (png, jpg, bmp, pgm, ppm)");
  } else {
    if (!fs::exists(o.in, error)) fail(Error::Kind::data, "--in: there is no file and no folder ", o.in);
    files.emplace_back(fs::path(o.in).stem().string(), o.in);
  }
  if (o.limit > 0 && o.limit < int64_t(files.size())) files.resize(size_t(o.limit));
  return files;
}

void make_folder(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail(Error::Kind::resource, "--out: cannot make ", folder, ": ", error.message());
}

void require_options(const Options& o) {
  auto require = [](bool holds, const auto&... parts) {
    if (!holds) fail(Error::Kind::usage, parts...);
  };
  require(o.run.empty() != o.ckpt.empty(), "give --run DIR or --ckpt FILE, one of them");
  require(!o.in.empty(), "--in: a picture or a folder of pictures is needed");
  require(!o.out.empty(), "--out: a folder for the results is needed");
  require(o.samples >= 1 && o.samples <= 1024, "--samples: must be 1 to 1024, got ", o.samples);
  require(o.limit >= 0, "--limit: must be 0 (all) or more, got ", o.limit);
  require(o.degrade || (o.sigma.empty() && o.poisson < 0), "--sigma and --poisson: only with --degrade");
  std::error_code error;
  std::string folder = fs::is_directory(o.in, error) ? o.in : fs::path(o.in).parent_path().string();
  require(!fs::equivalent(folder.empty() ? "." : folder, o.out, error), "--out: ", o.out,
          " is where the pictures of --in are; their results would overwrite them");
}

void print(const Options& o, const Json& json, const Scored& scores, int64_t count) {
  if (o.common.json) {
    std::cout << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
    return;
  }
  auto line = [](const char* name, const std::vector<metrics::RestorationScore>& of) {
    if (of.empty()) return;
    metrics::RestorationMeans means = metrics::restoration_means(of);
    std::printf("%-10s PSNR %s dB  SSIM %s  sharpness %s\n", name, number_or_dash(means.psnr, 2).c_str(),
                number_or_dash(means.ssim, 4).c_str(), number_or_dash(means.sharpness, 3).c_str());
  };
  line("input", scores.input);
  line("end-to-end", scores.e2e);
  line("restored", scores.result);
  std::printf("%s pictures in %s, %s a picture\n", count_text(count).c_str(), o.out.c_str(),
              seconds_text(json["seconds_per_picture"].get<double>()).c_str());
}

void run(const Options& o) {
  require_options(o);
  Device device = start(o.common);
  LoadedRestorer run = load_restorer(o.run.empty() ? o.ckpt : o.run, o.flags.weights, device);
  const RestoreCheckpoint& checkpoint = run.checkpoint;
  resensemble::Degradation degradation = run.degradation();
  if (o.degrade && (!o.sigma.empty() || o.poisson >= 0)) {
    if (degradation.damage != resensemble::Damage::noise)
      fail(Error::Kind::usage, "--sigma and --poisson: this run undoes ", run.train.task, ", not noise");
    set_noise(degradation, o.sigma.empty() ? run.train.sigma : o.sigma, o.poisson >= 0 ? o.poisson : 0);
  }
  RestoreDraw draw = o.flags.draw(checkpoint, o.samples, o.common.seed);
  std::vector<std::pair<std::string, std::string>> files = inputs_of(o);
  make_folder(o.out);
  if (o.degrade) make_folder(o.out + "/input");
  if (run.nets.e2e) make_folder(o.out + "/end-to-end");
  watch_signals("\nmote: stopping after this step\n");
  if (!run.nets.denoiser && !o.common.quiet)
    std::fprintf(stderr, "mote: the diffusion of this run has no steps yet: its end-to-end network restores alone\n");

  Progress progress("restore", 0, int64_t(files.size()), "picture", o.common.quiet);
  Json pictures = Json::array();
  Scored scores;
  double seconds = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    const auto& [name, file] = files[i];
    Tensor given = io::load_image(file, int(checkpoint.config.net.channels));
    Tensor one = to_unit(given);
    if (o.degrade) one = degraded(one, degradation, o.common.seed, int64_t(i));
    Tensor damaged = one.view(one.shape().inserted(0, 1));
    draw.first = int64_t(i);
    draw.on_step = [&](int64_t done, int64_t total) {
      exit_if_stopped();
      progress.update(int64_t(i), concat_text("step ", done, "/", total));
    };
    Clock::time_point begun = Clock::now();
    Tensor prior = prior_of(run.restorer(), damaged, draw), restored = prior;
    if (run.nets.denoiser)
      restored = restored_mean(run, draw_restored(run.restorer(), damaged, prior, draw), prior, o.samples);
    seconds += std::chrono::duration<double>(Clock::now() - begun).count();
    exit_if_stopped();
    auto keep = [&](const std::string& folder, const Tensor& x, std::vector<metrics::RestorationScore>& into) {
      Tensor bytes = picture_bytes(x, 0);
      io::save_png(concat_text(o.out, folder, "/", name, ".png"), bytes);
      if (o.degrade) into.push_back(metrics::restoration_score(bytes, given));
    };
    if (o.degrade) keep("/input", damaged, scores.input);
    if (run.nets.e2e) keep("/end-to-end", prior, scores.e2e);
    keep("", restored, scores.result);
    Json row = {{"file", file}, {"height", given.size(0)}, {"width", given.size(1)}};
    if (o.degrade) row["restored"] = json_of(metrics::restoration_means({scores.result.back()}));
    pictures.push_back(row);
    progress.update(int64_t(i) + 1);
  }
  progress.finish();

  bool samples = run.nets.denoiser != nullptr, own_sampler = checkpoint.config.is_resfusion();
  Json json = {{"command", command_line()}, {"checkpoint", checkpoint.path}, {"checkpoint_hash", checkpoint.hash},
               {"task", run.train.task}, {"method", samples ? run.train.method : "end-to-end"},
               {"seed", o.common.seed}, {"degraded_here", o.degrade},
               {"samples", samples ? o.samples : 0}, {"sampler", own_sampler ? "resfusion" : draw.sampler.name},
               {"steps", own_sampler ? checkpoint.config.levels().steps() : draw.sampler.steps},
               {"tile", checkpoint.config.net.size}, {"overlap", tiling_of(run.restorer(), draw).overlap},
               {"blend", o.flags.blend}, {"seconds_per_picture", seconds / double(files.size())}};
  if (o.degrade) {
    json["protocol"] = score_protocol(metrics::Channels::all);
    json["input"] = json_of(metrics::restoration_means(scores.input));
    if (!scores.e2e.empty()) json["end_to_end"] = json_of(metrics::restoration_means(scores.e2e));
    json["restored"] = json_of(metrics::restoration_means(scores.result));
  }
  json["pictures"] = pictures;
  io::write_file_atomic(o.out + "/restore.json", json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  print(o, json, scores, int64_t(files.size()));
}

}  // namespace

void add_restore_apply(CLI::App& restore) {
  auto o = std::make_shared<Options>();
  CLI::App& sub = add_command(restore, "apply", "Restore pictures of any size",
                              "mote restore apply --run runs/denoise --in noisy/ --out restored/ --samples 8\n"
                              "  mote restore apply --run runs/denoise --in clean.png --out both/ --degrade --seed 3",
                              o->common, [o] { run(*o); });
  sub.add_option("--run", o->run, "run folder of mote restore train; its newest checkpoint is used")->group("Run");
  sub.add_option("--ckpt", o->ckpt, "checkpoint file, instead of --run")->group("Run");
  sub.add_option("--in", o->in, "a picture, or a folder of them; converted to the channels of the run")
      ->group("Pictures");
  sub.add_option("--out", o->out, "folder for NAME.png of each, and restore.json")->group("Pictures");
  sub.add_option("--limit", o->limit, "only the first N pictures of a folder (0: all)")->group("Pictures");
  sub.add_flag("--degrade", o->degrade,
               "the pictures are clean: damage them first, by --seed; writes input/NAME.png and scores")
      ->group("Pictures");
  sub.add_option("--sigma", o->sigma, "with --degrade: other noise than the run's, as LEVEL or LOW:HIGH")
      ->group("Pictures");
  sub.add_option("--poisson", o->poisson, "with --degrade: photons that white stands for")->group("Pictures");
  sub.add_option("--samples", o->samples, "samples that are averaged")->group("Sampling")->capture_default_str();
  o->flags.add_flags(sub);
}

}  // namespace mote::apps
