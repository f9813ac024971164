// cmd_cluster_spectral.cpp - `mote cluster spectral`: clusters of images from the graph of their nearest neighbours, where
// two images are as far apart as the nearest of their distorted copies.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "apps/cluster_trainer.h"
#include "apps/cmd_cluster.h"
#include "apps/commands.h"
#include "apps/network_features.h"
#include "apps/ot_commands.h"
#include "apps/progress.h"
#include "apps/signals.h"
#include "diffusion/cluster/distortion.h"
#include "diffusion/cluster/kmeans.h"
#include "diffusion/cluster/pca.h"
#include "diffusion/cluster/spectral.h"
#include "tensor/error.h"
#include "tensor/io/file.h"
#include "tensor/io/npy.h"

namespace mote::apps {
namespace {

constexpr uint64_t kDistortions = 0x646973746f7274;   // "distort": key of the stream that they are drawn from

struct SpectralJob {
  CommonOptions common;
  DataOptions data;
  std::string run, ckpt;
  FeatureOptions features;
  int64_t pca = 0, k = 10, copies = 40, width = 0, restarts = 10;
  cluster::DistortionRange range;
  cluster::SpectralOptions spectral;
  std::string out, embedding;
};

void check_usage(const SpectralJob& o) {
  auto require = [](bool holds, const auto&... rule) {
    if (!holds) fail(Error::Kind::usage, rule...);
  };
  require(!o.out.empty(), "--out: name the file for the clusters, FILE.csv");
  o.features.check();
  require(o.k >= 1, "--k: must be 1 or more, got ", o.k);
  require(o.pca >= 0, "--pca: must be 0 (none) or more, got ", o.pca);
  require(o.copies >= 0, "--copies: must be 0 (none) or more, got ", o.copies);
  require(o.width >= 0, "--width: must be 0 (--k) or more, got ", o.width);
  require(o.restarts >= 1, "--restarts: must be 1 or more, got ", o.restarts);
  require(o.spectral.neighbours >= 1, "--neighbours: must be 1 or more, got ", o.spectral.neighbours);
  require(o.spectral.scale >= 1, "--scale: must be 1 or more, got ", o.spectral.scale);
  const cluster::DistortionRange& r = o.range;
  for (auto [flag, value] : {std::pair{"--turn", r.turn}, {"--slant", r.slant}, {"--stretch", r.stretch}, {"--move", r.move}})
    require(value >= 0 && value < 1e3, flag, ": must be 0 or more, got ", value);
}

void run_spectral(SpectralJob o) {
  check_usage(o);
  bool has_network = !o.run.empty() || !o.ckpt.empty();
  Device device = start(o.common);
  std::optional<NetworkFeatures> network;
  Dataset data;
  if (has_network) {
    Checkpoint checkpoint = checkpoint_of(o.run, o.ckpt);
    network.emplace(checkpoint, o.features, o.common, device);
    data = fit_dataset(network_data(checkpoint, o.data.spec, o.data.split), {.spec = o.data.spec, .limit = o.data.limit});
  } else {
    if (o.data.spec.empty()) fail(Error::Kind::usage, "--data SPEC names the images");
    data = load_dataset(o.data);
  }
  int64_t N = data.count();
  if (o.k > N) fail(Error::Kind::data, "--k: there are ", o.k, " clusters to find, but only ", N, " images");
  watch_signals("\nmote: stopping\n");
  auto begun = std::chrono::steady_clock::now();
  Progress progress("spectral", 0, o.copies + 1, "copy", o.common.quiet);
  int64_t copy = 0;
  std::optional<cluster::Pca> pca;   // of the images as they are
  auto vectors = [&](const Tensor& images) {
    exit_if_stopped();
    progress.update(copy);
    Tensor rows = network ? (*network)(images,
                                       [&](int64_t done) {
                                         exit_if_stopped();
                                         progress.update(copy, concat_text("features of ", done, " images"));
                                       })
                          : images.view({N, -1});
    if (o.pca == 0) return rows;
    if (o.pca > rows.size(1))
      fail(Error::Kind::usage, "--pca: ", o.pca, " components are asked for, the vectors have ", rows.size(1), " numbers");
    if (!pca) {
      progress.update(copy, "principal components");
      pca = cluster::principal_components(rows, o.pca);
    }
    return cluster::project(*pca, rows).to(DType::f32);
  };
  Tensor images = to_unit(data.images);
  Generator stream = Generator{o.common.seed}.fork(kDistortions);
  cluster::Neighbours near = cluster::nearest_under(vectors(images), o.copies, [&](int64_t c) {
    copy = c + 1;
    Generator own = stream.fork(uint64_t(c));
    return vectors(distorted(images, cluster::draw_distortion(o.range, own)));
  }, o.spectral.neighbours);
  exit_if_stopped();
  o.spectral.width = o.width > 0 ? o.width : o.k;
  o.spectral.seed = o.common.seed;
  o.spectral.progress = [&](int round, double residual) {
    progress.update(o.copies + 1, concat_text("eigenvectors, round ", round, ", residual ", residual));
    return stop_signal() == 0;
  };
  cluster::Spectral spectral = cluster::spectral_embedding(near, o.spectral);
  exit_if_stopped();
  cluster::KMeansOptions options;
  options.clusters = o.k;
  options.restarts = int(o.restarts);
  options.seed = o.common.seed;
  cluster::KMeans found = cluster::kmeans(spectral.y, options);
  progress.finish();
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();

  std::string csv = "row,cluster\n";
  for (int64_t n = 0; n < N; ++n) csv += concat_text(n, ",", found.labels.data<int64_t>()[n], "\n");
  io::write_file_atomic(o.out, csv);
  if (!o.embedding.empty()) io::save_npy(o.embedding, spectral.y.to(DType::f32));

  std::vector<double> values = spectral.values.to_vector();
  auto parts = std::count_if(values.begin(), values.end(), [](double value) { return value > 1 - 1e-9; });
  std::optional<ClusterScores> scores;
  if (data.labels.defined()) scores = score_labels(found.labels, data.labels);
  if (o.common.json) {
    nlohmann::ordered_json json = {{"command", command_line()}, {"data", data.name}, {"images", N}, {"k", o.k},
                                   {"pca", o.pca}, {"copies", o.copies}, {"counts", found.counts}, {"inertia", found.inertia},
                                   {"eigenvalues", values}, {"seconds", seconds}, {"out", o.out}};
    if (scores) json["scores"] = {{"acc", scores->accuracy}, {"nmi", scores->nmi}, {"ari", scores->ari}};
    std::cout << json.dump(2) << "\n";
    return;
  }
  std::printf("%s: %s images in %ld clusters of", o.out.c_str(), count_text(N).c_str(), long(o.k));
  for (int64_t count : found.counts) std::printf(" %ld", long(count));
  std::printf("; %.1f s\neigenvalues", seconds);
  for (double value : values) std::printf(" %.4f", value);
  std::printf("\n");
  if (parts > 1)
    std::printf("the graph has %ld parts or more without a connection; --neighbours joins those that are small\n", long(parts));
  if (scores) std::printf("beside the labels of the set: ACC %.3f, NMI %.3f, ARI %.3f\n", scores->accuracy, scores->nmi, scores->ari);
}

}  // namespace

void add_cluster_spectral(CLI::App& cluster) {
  auto o = std::make_shared<SpectralJob>();
  CLI::App& sub = add_command(cluster, "spectral", "Clusters of images from the graph of nearest neighbours under distortions",
                              "mote cluster spectral --data idx:mnist --limit 20000 --k 10 --out clusters.csv\n"
                              "  mote train --data idx:mnist --limit 20000 --labels clusters.csv --class-cond --out runs/told\n"
                              "  mote sample --run runs/told --class all --count 80 --columns 10 --out clusters.png",
                              o->common, [o] { run_spectral(*o); });
  sub.add_option("--data", o->data.spec, "images, as for mote train (with --run, default: those of the run)")->group("Data");
  sub.add_option("--split", o->data.split, "train or test")->group("Data")->capture_default_str();
  sub.add_option("--size", o->data.size, "resize images to this height and width (0: as they are); with --run: its own")->group("Data")->capture_default_str();
  sub.add_option("--limit", o->data.limit, "only the first N images (0: all)")->group("Data")->capture_default_str();
  sub.add_option("--run", o->run, "distances between vectors of this run's network, not between pixels")->group("Network");
  sub.add_option("--ckpt", o->ckpt, "checkpoint file, instead of --run")->group("Network");
  o->features.add_options(sub);
  sub.add_option("--pca", o->pca, "distances between the first N principal components (0: between whole vectors): much faster")
      ->group("Features")
      ->capture_default_str();
  const char* copies = "Distortions";
  sub.add_option("--copies", o->copies, "maps that images are compared under (0: as they are only)")->group(copies)->capture_default_str();
  sub.add_option("--turn", o->range.turn, "at most so many radians")->group(copies)->capture_default_str();
  sub.add_option("--slant", o->range.slant, "a column moves by at most this share of its height")->group(copies)->capture_default_str();
  sub.add_option("--stretch", o->range.stretch, "height and width change by at most a factor e^this")->group(copies)->capture_default_str();
  sub.add_option("--move", o->range.move, "at most so many pixels")->group(copies)->capture_default_str();
  const char* clusters = "Clusters";
  sub.add_option("--k", o->k, "clusters")->group(clusters)->capture_default_str();
  sub.add_option("--neighbours", o->spectral.neighbours, "edges of an image in the graph")->group(clusters)->capture_default_str();
  sub.add_option("--scale", o->spectral.scale, "an edge is as heavy as it is short beside the distance to this neighbour")
      ->group(clusters)
      ->capture_default_str();
  sub.add_option("--width", o->width, "eigenvectors of the graph that k-means sees (0: --k)")->group(clusters)->capture_default_str();
  sub.add_option("--restarts", o->restarts, "k-means++ starts; the least inertia is kept")->group(clusters)->capture_default_str();
  sub.add_option("--out", o->out, "CSV: row, cluster")->group("Output");
  sub.add_option("--embedding", o->embedding, "FILE.npy for the coordinates, f32 [images, width]")->group("Output");
}

}  // namespace mote::apps
