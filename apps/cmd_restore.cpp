// cmd_restore.cpp - `mote restore`: its subcommands, the flags they share, and `mote restore train`; the run itself is
// in restore_trainer.cpp.
#include "apps/cmd_restore.h"

#include <CLI/CLI.hpp>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/config_flags.h"
#include "apps/image_source.h"
#include "apps/restore_trainer.h"
#include "apps/run_log.h"

namespace mote::apps {
namespace {

using Json = nlohmann::ordered_json;

void print_result(const RestoreResult& r, bool json) {
  if (json) {
    Json out = {{"run", r.run},
                {"step", r.step},
                {"images", r.images},
                {"parameters", r.parameters},
                {"e2e_parameters", r.e2e_parameters},
                {"precision", r.precision},
                {"loss", number_json(r.loss)},
                {"seconds", r.seconds},
                {"images_per_s", r.images_per_s},
                {"checkpoint", r.checkpoint},
                {"checkpoint_hash", r.checkpoint_hash},
                {"report", r.report},
                {"stopped_by_signal", r.signal}};
    std::cout << out.dump(2) << "\n";
    return;
  }
  std::cout << (r.signal ? "stopped" : "done") << " at step " << r.step << " (" << count_text(r.images)
            << " images) after " << seconds_text(r.seconds);
  if (std::isfinite(r.loss)) std::cout << ", loss " << r.loss;
  std::cout << "\n" << r.checkpoint << "\n" << r.report << "\n";
  if (r.signal) std::cout << "continue with: mote restore train --out " << r.run << " --resume\n";
  std::cout << std::flush;
}

}  // namespace

// ---- What the subcommands share ------------------------------------------------------------------------------------

void RestoreFlags::add_flags(CLI::App& command) {
  const char* group = "Sampling";
  command.add_option("--sampler", sampler, "any of mote sample; resfusion runs have their own")
      ->group(group)->capture_default_str();
  command.add_option("--steps", steps, "steps of the sampler")->group(group)->capture_default_str();
  command.add_option("--eta", eta, "ddim: 0 deterministic to 1")->group(group)->capture_default_str();
  command.add_option("--overlap", overlap, "pixels by which tiles overlap (default: a third of a tile)")->group(group);
  command.add_option("--tiles", tiles, "tiles in a network at a time; changes memory and speed only")
      ->group(group)->capture_default_str();
  command.add_option("--blend", blend, "steps: blend tiles at every step; final: sample each tile, blend the results")
      ->group(group)->capture_default_str();
  command.add_option("--weights", weights, "ema (averaged) or model")->group(group)->capture_default_str();
}

RestoreDraw RestoreFlags::draw(const RestoreCheckpoint& checkpoint, int64_t samples, uint64_t seed) const {
  if (blend != "steps" && blend != "final")
    fail(Error::Kind::usage, "--blend: '", blend, "' is not known; steps and final are");
  RestoreDraw draw{.sampler = {.name = sampler, .steps = steps, .eta = eta}, .samples = samples, .seed = seed,
                   .overlap = overlap, .batch = tiles, .blend_steps = blend == "steps"};
  if (!checkpoint.config.is_resfusion()) plan_sampler(checkpoint.config.levels(), draw.sampler);
  tiling_of({checkpoint.config, nullptr, nullptr, DType::f32, {}}, draw);
  return draw;
}

LoadedRestorer load_restorer(const std::string& path, const std::string& weights, Device device) {
  LoadedRestorer run;
  if (std::filesystem::is_directory(path))
    run.checkpoint = load_newest(path, "to use it, give {} itself", load_restore_checkpoint);
  else
    run.checkpoint = load_restore_checkpoint(path);
  run.train = restore_config_from_json(run.checkpoint.train);
  run.nets = nets_of(run.checkpoint, weights, device);
  if (!run.nets.denoiser && !run.nets.e2e)
    fail(Error::Kind::checkpoint, run.checkpoint.path, ": nothing has been trained yet: the run stands at step 0");
  run.device = device;
  return run;
}

Tensor restored_mean(const LoadedRestorer& run, const Tensor& xbar, const Tensor& prior, int64_t K) {
  return resensemble::estimates(resensemble::sampled_target(run.checkpoint.config), xbar, prior, K).mean;
}

Tensor picture_bytes(const Tensor& pictures, int64_t n) {
  Tensor bytes = to_bytes(pictures.rows(n, n + 1));
  return bytes.view(pictures.shape().without(0));
}

// ---- train ---------------------------------------------------------------------------------------------------------

void add_restore_train(CLI::App& restore) {
  add_training_command<RestoreJob>(
      restore, "train", "Train the restoration of damaged pictures: a diffusion, and an end-to-end network before it",
      "mote restore train --task denoise --sigma 25 --data fashion-mnist --out runs/denoise --seed 1\n"
      "  mote restore train --task denoise --data folder:pictures --size 32 --e2e-steps 5000 --steps 20000 "
      "--out runs/pictures\n"
      "  mote restore train --out runs/denoise --resume --steps 20000",
      [](const RestoreJob& job) {
        RestoreResult result = train_restoration(job);
        print_result(result, job.common.json);
        return result.signal;
      });
}

void add_restore_command(CLI::App& app) {
  CLI::App* restore = app.add_subcommand("restore", "Restore damaged pictures with ResEnsemble-DDPM");
  restore->require_subcommand(1);
  restore->footer("Example:\n  mote restore train --task denoise --data fashion-mnist --out runs/denoise\n"
                  "  mote restore apply --run runs/denoise --in noisy/ --out restored/");
  add_restore_train(*restore);
  add_restore_apply(*restore);
  add_restore_eval(*restore);
}

}  // namespace mote::apps
