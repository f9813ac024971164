// cmd_cluster_judge.cpp - `mote cluster judge`: draws from a network that was told clusters (mote train --class-cond
// --labels), and what a classifier of the known classes sees in them.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/cluster_eval.h"
#include "apps/cmd_cluster.h"
#include "apps/commands.h"
#include "apps/draw.h"
#include "apps/ot_commands.h"
#include "apps/progress.h"
#include "apps/signals.h"
#include "apps/train_config.h"
#include "tensor/error.h"
#include "tensor/io/image.h"

namespace mote::apps {
namespace {

struct JudgeOptions {
  CommonOptions common;
  std::string run, ckpt, weights = "ema", sampler = "ddim", classifier, out;
  int64_t each = 40, steps = 50, batch = 64;
  double guidance = 1;
  ClipChoice clip;
};

void run_judge(const JudgeOptions& o) {
  auto require = [](bool holds, const auto&... rule) {
    if (!holds) fail(Error::Kind::usage, rule...);
  };
  require_weights(o.weights);
  require(o.each >= 1 && o.each <= 100000, "--each: must be 1 to 100000, got ", o.each);
  require(o.steps >= 1, "--steps: must be 1 or more, got ", o.steps);
  require(o.batch >= 1, "--batch: must be 1 or more, got ", o.batch);
  Device device = start(o.common);
  Checkpoint checkpoint = checkpoint_of(o.run, o.ckpt);
  int64_t K = checkpoint.unet.classes;
  require(K > 0, checkpoint.path, ": this network is told no classes; train one with --class-cond --labels clusters.csv");
  require(!checkpoint.train.empty(), checkpoint.path, ": does not say which images it was trained on");
  Dataset told = network_data(checkpoint, "", "train");   // its labels are the clusters
  TrainConfig config = train_config_from_json(checkpoint.train);
  DataOptions options{.spec = config.data, .split = "train", .size = config.size, .channels = config.channels, .limit = config.limit};
  Dataset known = load_dataset(options);
  require(known.labels.defined(), config.data, " has no known classes to judge by");
  watch_signals("\nmote: stopping\n");

  nn::UNet unet(checkpoint.unet, 0);
  unet.load_state(as_map(weights_of(checkpoint, o.weights)));
  unet.to(device);
  unet.set_precision(precision_named(o.common.precision));
  Schedule schedule = Schedule::named(checkpoint.schedule, checkpoint.T);
  DrawOptions draw{.sampler = o.clip.applied({.name = o.sampler, .steps = std::min(o.steps, checkpoint.T),
                                              .prediction = checkpoint.prediction}),
                   .count = K * o.each, .batch = o.batch, .seed = o.common.seed, .class_ids = arange(K * o.each),
                   .guidance = o.guidance};
  for (int64_t i = 0; i < draw.count; ++i) draw.class_ids.data<int64_t>()[i] = i / o.each;
  plan_sampler(schedule, draw.sampler);   // what is wrong with it is said before the classifier is trained
  FeatureNet net = feature_net(o.classifier, options, o.common.quiet);
  Progress progress("draw", 0, 1, "set", o.common.quiet);
  Tensor drawn = draw_images(unet, schedule, draw, device, [&](int64_t, const Tensor&, int64_t done, int64_t total) {
    exit_if_stopped();
    progress.update(0, concat_text("step ", done, "/", total));
  });
  progress.finish();
  if (!o.out.empty()) io::save_png(o.out, io::image_grid(drawn, o.each));
  ClusterImagesSeen seen = classify_drawn(net, drawn, o.each, told.labels, known.labels, K);
  if (o.common.json) {
    nlohmann::ordered_json json = {{"command", command_line()}, {"checkpoint", checkpoint.path},
                                   {"checkpoint_hash", checkpoint.hash}, {"each", o.each}, {"steps", draw.sampler.steps}};
    json.update(json_of(seen, net));
    std::cout << json.dump(2) << "\n";
    return;
  }
  for (const std::vector<std::string>& line : table_of(seen, known.class_names))
    std::printf("%-10s %-18s %-12s %s\n", line[0].c_str(), line[1].c_str(), line[2].c_str(), line[3].c_str());
  std::printf("%s puts %s of the draws into the commonest class of their cluster; of held-out images it finds the class of %s\n",
              net.name().c_str(), score_text(seen.mean_share, 0, 1).c_str(), score_text(net.accuracy, 0, 1).c_str());
}

}  // namespace

void add_cluster_judge(CLI::App& cluster) {
  auto o = std::make_shared<JudgeOptions>();
  CLI::App& sub = add_command(cluster, "judge", "What a classifier sees in draws of a network that was told clusters",
                              "mote train --data fashion-mnist --class-cond --labels clusters.csv --limit 20000 --out runs/told\n"
                              "  mote cluster judge --run runs/told --each 40 --out draws.png",
                              o->common, [o] { run_judge(*o); });
  sub.add_option("--run", o->run, "run folder of mote train --class-cond --labels FILE")->group("Network");
  sub.add_option("--ckpt", o->ckpt, "checkpoint file, instead of --run")->group("Network");
  sub.add_option("--weights", o->weights, "ema (averaged) or model")->group("Network")->capture_default_str();
  sub.add_option("--each", o->each, "draws of every cluster")->group("Sampler")->capture_default_str();
  sub.add_option("--sampler", o->sampler, "as for mote sample")->group("Sampler")->capture_default_str();
  sub.add_option("--steps", o->steps, "of the sampler")->group("Sampler")->capture_default_str();
  sub.add_option("--guidance", o->guidance, "weight of classifier-free guidance; 1 is none")->group("Sampler")->capture_default_str();
  o->clip.add_options(sub, "Sampler");
  sub.add_option("--batch", o->batch, "images at a time; changes speed and memory only")->group("Sampler")->capture_default_str();
  sub.add_option("--classifier", o->classifier, "file of the classifier; trained on the known classes and kept there if missing")
      ->group("Output");
  sub.add_option("--out", o->out, "PNG, a row of draws for each cluster")->group("Output");
}

}  // namespace mote::apps
