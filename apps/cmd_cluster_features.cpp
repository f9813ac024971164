// cmd_cluster_features.cpp - `mote cluster features`: vectors of images out of an unconditional diffusion network, for
// `mote gmm` to find clusters in.
#include <CLI/CLI.hpp>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/cmd_cluster.h"
#include "apps/commands.h"
#include "apps/network_features.h"
#include "apps/ot_commands.h"
#include "apps/progress.h"
#include "apps/signals.h"
#include "apps/vectors.h"
#include "diffusion/cluster/pca.h"
#include "tensor/error.h"
#include "tensor/io/npy.h"

namespace mote::apps {
namespace {

struct FeatureJob {
  CommonOptions common;
  std::string run, ckpt, data, split = "train", out, labels;
  FeatureOptions features;
  int64_t limit = 0, pca = 0;
};

void run_features(const FeatureJob& o) {
  auto require = [](bool holds, const auto&... rule) {
    if (!holds) fail(Error::Kind::usage, rule...);
  };
  require(!o.out.empty(), "--out: name the file for the features, FILE.npy");
  require(o.limit >= 0, "--limit: must be 0 (all) or more, got ", o.limit);
  o.features.check();
  require(o.pca >= 0, "--pca: must be 0 (none) or more, got ", o.pca);
  Device device = start(o.common);
  Checkpoint checkpoint = checkpoint_of(o.run, o.ckpt);
  NetworkFeatures network(checkpoint, o.features, o.common, device);
  Dataset data = network_data(checkpoint, o.data, o.split);
  require(o.labels.empty() || data.labels.defined(), "--labels: the images of ", data.name, " have no labels");
  int64_t count = o.limit > 0 ? std::min(o.limit, data.count()) : data.count();
  watch_signals("\nmote: stopping\n");
  Progress progress("features", 0, count, "image", o.common.quiet);
  Tensor features = network(to_unit(data.images.rows(0, count)), [&](int64_t done) {
    exit_if_stopped();
    progress.update(done);
  });
  if (o.pca > 0) {
    require(o.pca <= features.size(1), "--pca: ", o.pca, " components are asked for, the vectors have ", features.size(1),
            " numbers");
    progress.update(count, "principal components");
    Tensor x = standardized(features, columns_of(features));
    features = cluster::project(cluster::principal_components(x, o.pca), x).to(DType::f32);
  }
  progress.finish();
  io::save_npy(o.out, features);
  if (!o.labels.empty()) io::save_npy(o.labels, data.labels.rows(0, count));
  if (o.common.json) {
    nlohmann::ordered_json json = {{"file", o.out}, {"images", count}, {"width", features.size(1)},
                                   {"levels", network.levels()}, {"pool", o.features.pool}, {"draws", o.features.draws},
                                   {"pca", o.pca}, {"data", data.name}, {"checkpoint", checkpoint.path},
                                   {"checkpoint_hash", checkpoint.hash}};
    std::cout << json.dump(2) << "\n";
    return;
  }
  std::cout << o.out << ": " << count_text(count) << " images of " << data.name << ", " << features.size(1)
            << " numbers each\n";
}

}  // namespace

void add_cluster_features(CLI::App& cluster) {
  auto o = std::make_shared<FeatureJob>();
  CLI::App& sub = add_command(cluster, "features", "Vectors of images out of a trained diffusion network, for mote gmm",
                              "mote cluster features --run runs/first --limit 20000 --out f.npy --labels labels.npy\n"
                              "  mote gmm fit f.npy --k 10 --covariance full --standardize --restarts 10 --out mixture.safetensors \\\n"
                              "    --assignments clusters.csv\n"
                              "  mote eval cluster --pred clusters.csv --truth labels.npy",
                              o->common, [o] { run_features(*o); });
  sub.add_option("--run", o->run, "run folder of mote train; its newest checkpoint is used")->group("Network");
  sub.add_option("--ckpt", o->ckpt, "checkpoint file, instead of --run")->group("Network");
  sub.add_option("--data", o->data, "images (default: those of the run)")->group("Data");
  sub.add_option("--split", o->split, "train or test")->group("Data")->capture_default_str();
  sub.add_option("--limit", o->limit, "only the first N images (0: all)")->group("Data")->capture_default_str();
  o->features.add_options(sub);
  sub.add_option("--pca", o->pca, "of the columns, scaled to variance 1, the first N principal components (0: as they are)")
      ->group("Features")
      ->capture_default_str();
  sub.add_option("--out", o->out, "FILE.npy, f32 [images, width]")->group("Output");
  sub.add_option("--labels", o->labels, "FILE.npy for the labels of the images, for mote eval cluster")->group("Output");
}

}  // namespace mote::apps
