#include "apps/segment_model.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>

#include "apps/progress.h"
#include "apps/signals.h"

namespace mote::apps {

DdpmModel load_ddpm(const std::string& flag, const std::string& run, const std::string& weights, Device device) {
  require_weights(weights);
  SegmentCheckpoint c = load_segment(flag, run, "ddpm");
  resensemble::ModelConfig config = resensemble::model_config_from_json(c.net);
  auto net = std::make_unique<nn::Denoiser>(config.net, 0);
  net->load_state(as_map(weights == "ema" && !c.ema.empty() ? c.ema : c.model));
  net->train(false);
  DdpmConfig told = keys_from_json<DdpmConfig>("residual DDPM configuration", c.train);
  net->unet().set_precision(precision_named(told.precision));
  net->to(device);
  resensemble::Coding coding = resensemble::coding_named(c.coding);
  for (nn::NamedTensors* part : {&c.model, &c.ema, &c.m, &c.v}) part->clear();
  Schedule schedule = config.levels();
  return {std::move(c), told, config, coding, schedule, std::move(net)};
}

void require_fits(const DdpmModel& model, const Tensor& images, int64_t classes) {
  const SegmentCheckpoint& c = model.checkpoint;
  if (images.size(1) != c.height || images.size(2) != c.width || images.size(3) != c.channels || classes != c.classes)
    fail(Error::Kind::checkpoint, c.path, ": this denoiser is for images of ", c.height, " x ", c.width, " x ",
         c.channels, " and ", c.classes, " classes; these are ", images.size(1), " x ", images.size(2), " x ",
         images.size(3), " and ", classes, " classes");
}

void SamplingFlags::add_flags(CLI::App& command) {
  const char* group = "Sampling";
  command.add_option("--sampler", sampler, joined(sampler_names()))->group(group)->capture_default_str();
  command.add_option("--sampling-steps", steps, "steps of the sampler; at most T (resfusion: always its own)")
      ->group(group)->capture_default_str();
  command.add_option("--grid", grid, "which levels it visits, as mote sample (default: the sampler's)")->group(group);
  command.add_option("--eta", eta, "ddim: 0 deterministic to 1 ancestral")->group(group)->capture_default_str();
  command.add_option("--variance", variance, "ddpm: small (beta tilde, the paper's) or large (beta)")
      ->group(group)->capture_default_str();
  command.add_option("--clip", clip, "pixel: every prediction to where the estimate lies in [-1, 1]; off")
      ->group(group)->capture_default_str();
  command.add_option("--start", start, "corrected: noise less sqrt(abar) f; plain: noise")->group(group)
      ->capture_default_str();
  command.add_option("--warm", warm, "begin at this level from a noisy f instead (0 to T - 1; -1: from noise)")
      ->group(group)->capture_default_str();
  command.add_option("--weights", weights, "ema (averaged) or model")->group(group)->capture_default_str();
  command.add_option("--batch", batch, "states in the network at a time")->group(group)->capture_default_str();
}

resensemble::EnsembleOptions SamplingFlags::options(const DdpmModel& model, int64_t samples, uint64_t seed) const {
  if (clip != "pixel" && clip != "off")
    fail(Error::Kind::usage, "--clip: '", clip, "' is not known; pixel and off are");
  if (start != "corrected" && start != "plain")
    fail(Error::Kind::usage, "--start: '", start, "' is not known; corrected and plain are");
  if (batch < 1) fail(Error::Kind::usage, "--batch: must be 1 or more, got ", batch);
  if (samples < 1) fail(Error::Kind::usage, "--samples: must be 1 or more, got ", samples);
  if (steps < 1) fail(Error::Kind::usage, "--sampling-steps: must be 1 or more, got ", steps);
  resensemble::EnsembleOptions options;
  options.sampler.name = sampler;
  options.sampler.steps = std::min(steps, model.schedule.steps());
  options.sampler.grid = grid;
  options.sampler.eta = eta;
  options.sampler.start = warm;
  if (sampler == "ddpm") options.sampler.variance = variance;
  options.samples = samples;
  options.seed = seed;
  options.batch = batch;
  options.clip_x0 = clip == "pixel";
  options.correct_start = start == "corrected";
  options.plane = model.coding == resensemble::Coding::one_hot;
  if (!model.model.is_resfusion()) sampler_path(model.schedule, options.sampler);   // throws now, not after an hour
  return options;
}

std::string SamplingFlags::text() const {
  return concat_text(sampler, ", ", steps, " steps", clip == "off" ? ", no clip" : "",
                     start == "plain" ? ", plain start" : "", warm >= 0 ? concat_text(", warm from ", warm) : "");
}

double sample_images(DdpmModel& model, const Tensor& images, const Tensor& probability, int64_t classes,
                     const resensemble::EnsembleOptions& given, Device device, const std::string& what, bool quiet,
                     const OnChunk& on_chunk) {
  require_fits(model, images, classes);
  constexpr int64_t kImages = 64;   // of a chunk: their samples are in memory together
  int64_t N = images.size(0);
  Progress progress(what, 0, N, "image", quiet);
  double seconds = 0;
  for (int64_t first = 0; first < N; first += kImages) {
    int64_t end = std::min(N, first + kImages);
    auto begun = std::chrono::steady_clock::now();
    Tensor f = prior_in(model.coding, probability.rows(first, end), classes, model.config.hard_f);
    resensemble::EnsembleOptions options = given;
    options.first = first;
    options.observer = [&](const Tensor&, const Tensor&, int64_t done, int64_t total) {
      exit_if_stopped();
      progress.update(first + (end - first) * done / total);
    };
    Tensor image = to_unit(images.rows(first, end)).to(device);
    Tensor xbar = resensemble::sample_model(*model.net, model.model, model.schedule, options, image, f.to(device));
    xbar = xbar.to(Device{});
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
    on_chunk(first, xbar, f);
  }
  progress.finish();
  return seconds;
}

}  // namespace mote::apps
