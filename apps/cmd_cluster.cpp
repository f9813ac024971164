// cmd_cluster.cpp - `mote cluster`: its subcommands, and `mote cluster train`; the run itself is in cluster_trainer.cpp.
#include "apps/cmd_cluster.h"

#include <CLI/CLI.hpp>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/cluster_trainer.h"
#include "apps/commands.h"
#include "apps/config_flags.h"
#include "apps/run_log.h"

namespace mote::apps {
namespace {

using Json = nlohmann::ordered_json;

void print_result(const ClusterResult& r, bool json) {
  if (json) {
    Json out = {{"run", r.run},
                {"step", r.step},
                {"images", r.images},
                {"parameters", r.parameters},
                {"precision", r.precision},
                {"k", r.components},
                {"loss", number_json(r.loss)},
                {"free_energy", number_json(r.free_energy)},
                {"noise", number_json(r.noise)},
                {"matching", number_json(r.matching)},
                {"accuracy", number_json(r.accuracy)},
                {"nmi", number_json(r.nmi)},
                {"ari", number_json(r.ari)},
                {"seconds", r.seconds},
                {"images_per_s", r.images_per_s},
                {"checkpoint", r.checkpoint},
                {"checkpoint_hash", r.checkpoint_hash},
                {"report", r.report},
                {"stopped_by_signal", r.signal}};
    std::cout << out.dump(2) << "\n";
    return;
  }
  std::cout << (r.signal ? "stopped" : "done") << " at step " << r.step << " (" << count_text(r.images) << " images) after "
            << seconds_text(r.seconds);
  if (std::isfinite(r.free_energy)) std::cout << ", F " << r.free_energy << ", " << r.components << " clusters";
  if (std::isfinite(r.accuracy)) std::cout << "; against the labels ACC " << r.accuracy << ", NMI " << r.nmi << ", ARI " << r.ari;
  std::cout << "\n" << r.checkpoint << "\n" << r.report << "\n";
  if (r.signal) std::cout << "continue with: mote cluster train --out " << r.run << " --resume\n";
  std::cout << std::flush;
}

}  // namespace

void ClusterSource::add_flags(CLI::App& command) {
  command.add_option("--run", run, "run folder of mote cluster train; its newest checkpoint is used")->group("Run");
  command.add_option("--ckpt", ckpt, "checkpoint file, instead of --run")->group("Run");
  command.add_option("--weights", weights, "ema (averaged) or model")->group("Run")->capture_default_str();
}

ClusterCheckpoint ClusterSource::load() const {
  if (run.empty() == ckpt.empty()) fail(Error::Kind::usage, "give --run DIR or --ckpt FILE, one of them");
  require_weights(weights);
  if (!ckpt.empty()) return load_cluster_checkpoint(ckpt);
  if (!std::filesystem::is_directory(run)) fail(Error::Kind::checkpoint, "--run: there is no run at ", run);
  return load_newest(run, "to use it, give --ckpt {} instead of --run", load_cluster_checkpoint);
}

void ClusterImages::add_flags(CLI::App& command) {
  command.add_option("--data", data, "images (default: those of the run)")->group("Data");
  command.add_option("--split", split, "train or test")->group("Data")->capture_default_str();
  command.add_option("--limit", limit, "only the first N images (default: as many as the run; 0: all)")->group("Data");
}

cluster::CodeView view_of(const ClusterCheckpoint& checkpoint) {
  return cluster::code_view_named(cluster_config_from_json(checkpoint.train).view);
}

DataOptions ClusterImages::options(const ClusterCheckpoint& checkpoint) const {
  ClusterConfig config = cluster_config_from_json(checkpoint.train);
  DataOptions options{.spec = config.data, .split = split, .size = config.size, .channels = config.channels,
                      .limit = limit >= 0 ? limit : config.limit};
  if (!data.empty()) {
    options.spec = data;
    options.size = checkpoint.config.net.size;
    options.channels = checkpoint.config.net.channels;
  }
  return options;
}

Dataset ClusterImages::load(const ClusterCheckpoint& checkpoint) const {
  Dataset images = load_dataset(options(checkpoint));
  const nn::ClusterNetConfig& net = checkpoint.config.net;
  if (!(images.images.shape().without(0) == Shape{net.size, net.size, net.channels}))
    fail(Error::Kind::data, "--data: the networks of ", checkpoint.path, " are for images of ", net.size, " x ", net.size,
         " x ", net.channels, ", these are ", describe(images.images));
  return images;
}

void add_cluster_train(CLI::App& cluster) {
  add_training_command<ClusterJob>(
      cluster, "train", "Find clusters of images: an encoder, a denoiser and a Gaussian mixture over codes, in turn",
      "mote cluster train --data fashion-mnist --limit 20000 --k 10 --precision bf16 --out runs/clusters --seed 1\n"
      "  mote cluster train --out runs/clusters --resume --epochs 40\n"
      "  mote cluster train --data synthetic:shapes --width 16 --latent 8 --k 4 --out runs/shapes\n"
      "  as published: --schedule paper --T 400 --loss official --paper-norm --pretrain-lr 1e-4 --lr 1e-4 --pretrain-kl 0\n"
      "    --lambda-warmup 0 --view sampled --starts 1 --damping 1 --ema 0 --clip 0 --warmup 0 --epochs 570",
      [](const ClusterJob& job) {
        ClusterResult result = train_clusters(job);
        print_result(result, job.common.json);
        return result.signal;
      });
}

void add_cluster_command(CLI::App& app) {
  CLI::App* cluster = app.add_subcommand("cluster", "Cluster images with ClusterDDPM");
  cluster->require_subcommand(1);
  cluster->footer("Example:\n  mote cluster train --data synthetic:shapes --width 16 --latent 8 --k 4 --out runs/shapes\n"
                  "  mote cluster assign --run runs/shapes --out clusters.csv");
  add_cluster_train(*cluster);
  add_cluster_assign(*cluster);
  add_cluster_sample(*cluster);
  add_cluster_eval(*cluster);
  add_cluster_features(*cluster);
  add_cluster_spectral(*cluster);
  add_cluster_judge(*cluster);
}

}  // namespace mote::apps
