// cmd_train.cpp - `mote train`: the flags of a run; the run itself is in trainer.cpp.
#include <CLI/CLI.hpp>
#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/config_flags.h"
#include "apps/trainer.h"

namespace mote::apps {
namespace {

void print_result(const TrainResult& result, bool json) {
  if (json) {
    nlohmann::ordered_json out = {{"run", result.run},
                                  {"step", result.step},
                                  {"images", result.images},
                                  {"parameters", result.parameters},
                                  {"precision", result.precision},
                                  {"loss", std::isfinite(result.loss) ? nlohmann::ordered_json(result.loss) : nullptr},
                                  {"seconds", result.seconds},
                                  {"images_per_s", result.images_per_s},
                                  {"peak_mib", double(result.peak_bytes) / (1 << 20)},
                                  {"plan_mib", double(result.plan_bytes) / (1 << 20)},
                                  {"step_mib", double(result.step_bytes) / (1 << 20)},
                                  {"checkpoint", result.checkpoint},
                                  {"checkpoint_hash", result.checkpoint_hash},
                                  {"report", result.report},
                                  {"stopped_by_signal", result.signal}};
    std::cout << out.dump(2) << "\n";
    return;
  }
  std::cout << (result.signal ? "stopped" : "done") << " at step " << result.step << " (" << count_text(result.images)
            << " images) after " << seconds_text(result.seconds);
  if (std::isfinite(result.loss)) std::cout << ", loss " << result.loss;
  if (result.images_per_s > 0) std::cout << ", " << int64_t(std::llround(result.images_per_s)) << " images/s";
  std::cout << "\n" << result.checkpoint << "\n" << result.report << "\n";
  if (result.signal) std::cout << "continue with: mote train --out " << result.run << " --resume\n";
  std::cout << std::flush;
}

}  // namespace

void add_train_command(CLI::App& app) {
  add_training_command<TrainJob>(
      app, "train", "Train a diffusion model on images",
      "mote train --data fashion-mnist --unet fmnist --steps 1500 --batch 64 --out runs/first --seed 1\n"
      "  mote train --out runs/first --resume --steps 3000",
      [](const TrainJob& job) {
        TrainResult result = train(job);
        print_result(result, job.common.json);
        return result.signal;
      });
}

}  // namespace mote::apps
