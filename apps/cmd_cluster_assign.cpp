// cmd_cluster_assign.cpp - `mote cluster assign`: which cluster each image belongs to, as CSV, and a picture a cluster.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "apps/cluster_draw.h"
#include "apps/cluster_trainer.h"
#include "apps/cmd_cluster.h"
#include "apps/image_source.h"
#include "apps/progress.h"
#include "apps/run_log.h"
#include "apps/signals.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"

namespace mote::apps {
namespace {

using Json = nlohmann::ordered_json;

struct AssignOptions : ClusterSource, ClusterImages {
  std::string out, grids;
  int64_t each = 64;
};

/// A line an image: its number, cluster, the probability of that cluster, the probabilities of all, and its label.
std::string csv_text(const cluster::Posterior& posterior, const Tensor& labels) {
  int64_t N = posterior.labels.size(0), K = posterior.probabilities.size(1);
  const double* p = posterior.probabilities.data<double>();
  const int64_t* cluster = posterior.labels.data<int64_t>();
  std::string text = "image,cluster,probability";
  for (int64_t k = 0; k < K; ++k) text += concat_text(",p", k);
  text += labels.defined() ? ",label\n" : "\n";
  char number[32];
  for (int64_t n = 0; n < N; ++n) {
    std::snprintf(number, sizeof number, ",%.9g", p[n * K + cluster[n]]);
    text += concat_text(n, ",", cluster[n], number);
    for (int64_t k = 0; k < K; ++k) {
      std::snprintf(number, sizeof number, ",%.9g", p[n * K + k]);
      text += number;
    }
    if (labels.defined()) text += concat_text(",", labels.data<int64_t>()[n]);
    text += "\n";
  }
  return text;
}

/// FOLDER/cluster_00.png, ...: the images that a cluster is surest of, the surest first.
std::vector<std::string> save_grids(const std::string& folder, const Tensor& images, const cluster::Posterior& posterior,
                                    int64_t each) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail(Error::Kind::resource, "--grids: cannot make ", folder, ": ", error.message());
  int64_t N = images.size(0), K = posterior.probabilities.size(1);
  std::vector<std::string> files;
  for (int64_t k = 0; k < K; ++k) {
    std::vector<int64_t> members;
    for (int64_t n = 0; n < N; ++n)
      if (posterior.labels.data<int64_t>()[n] == k) members.push_back(n);
    if (members.empty()) continue;
    auto sureness = [&](int64_t n) { return posterior.probabilities.data<double>()[n * K + k]; };
    std::stable_sort(members.begin(), members.end(), [&](int64_t a, int64_t b) { return sureness(a) > sureness(b); });
    if (int64_t(members.size()) > each) members.resize(size_t(each));
    char name[32];
    std::snprintf(name, sizeof name, "/cluster_%02lld.png", static_cast<long long>(k));
    files.push_back(folder + name);
    io::save_png(files.back(), io::image_grid(to_unit(take_rows(images, members)), grid_columns(int64_t(members.size()))));
  }
  return files;
}

void run_assign(const AssignOptions& o) {
  if (o.out.empty() && o.grids.empty())
    fail(Error::Kind::usage, "nothing would be written; give --out FILE.csv or --grids DIR");
  if (o.each < 1) fail(Error::Kind::usage, "--each: must be 1 or more, got ", o.each);
  Device device = start(o.common);
  ClusterCheckpoint checkpoint = o.ClusterSource::load();
  const cluster::Mixture& mixture = mixture_of(checkpoint);
  Dataset data = o.ClusterImages::load(checkpoint);
  std::unique_ptr<cluster::Model> model = model_of(checkpoint, o.weights);
  model->to(device);
  watch_signals("\nmote: stopping\n");
  Progress progress("encode", 0, data.count(), "image", o.common.quiet);
  cluster::Codes codes = encode_images(*model, data.images, device, [&](int64_t done) {
    exit_if_stopped();
    progress.update(done);
  });
  progress.finish();
  cluster::Posterior posterior = cluster::label_codes(mixture, codes, view_of(checkpoint));
  std::vector<std::string> files;
  if (!o.out.empty()) {
    io::write_file_atomic(o.out, csv_text(posterior, data.labels));
    files.push_back(o.out);
  }
  if (!o.grids.empty())
    for (const std::string& file : save_grids(o.grids, data.images, posterior, o.each)) files.push_back(file);

  std::vector<int64_t> counts(size_t(mixture.components()));
  for (int64_t n = 0; n < data.count(); ++n) ++counts[size_t(posterior.labels.data<int64_t>()[n])];
  ClusterScores scores = score_labels(posterior.labels, data.labels);
  Json json = {{"data", data.name}, {"images", data.count()}, {"k", mixture.components()}, {"counts", counts},
               {"log_likelihood", posterior.mean_log_likelihood}, {"accuracy", number_json(scores.accuracy)},
               {"nmi", number_json(scores.nmi)}, {"ari", number_json(scores.ari)}, {"checkpoint", checkpoint.path},
               {"checkpoint_hash", checkpoint.hash}, {"files", files}};
  if (o.common.json) {
    std::cout << json.dump(2) << "\n";
    return;
  }
  std::cout << data.count() << " images in " << mixture.components() << " clusters of";
  for (int64_t count : counts) std::cout << " " << count;
  if (std::isfinite(scores.accuracy))
    std::cout << "; against the labels ACC " << scores.accuracy << ", NMI " << scores.nmi << ", ARI " << scores.ari;
  std::cout << "\n" << joined(files, "\n") << "\n";
}

}  // namespace

void add_cluster_assign(CLI::App& cluster) {
  auto o = std::make_shared<AssignOptions>();
  CLI::App& sub = add_command(cluster, "assign", "Which cluster each image belongs to, and how surely",
                              "mote cluster assign --run runs/clusters --out clusters.csv --grids clusters\n"
                              "  mote cluster assign --run runs/clusters --split test --out test.csv",
                              o->common, [o] { run_assign(*o); });
  o->ClusterSource::add_flags(sub);
  o->ClusterImages::add_flags(sub);
  sub.add_option("--out", o->out, "CSV: image, cluster, its probability, all probabilities, label if there is one")
      ->group("Output");
  sub.add_option("--grids", o->grids, "a folder for a picture a cluster, the surest images first")->group("Output");
  sub.add_option("--each", o->each, "images of such a picture, at most")->group("Output")->capture_default_str();
}

}  // namespace mote::apps
