// cmd_eval_cluster.cpp - `mote eval cluster`: scores the labels of a clustering against known classes.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/common.h"
#include "apps/vectors.h"
#include "diffusion/cluster/scores.h"
#include "tensor/error.h"

namespace mote::apps {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  CommonOptions common;
  std::string predicted, truth, mean = "arithmetic";
};

cluster::EntropyMean mean_named(const std::string& name) {
  if (name == "arithmetic") return cluster::EntropyMean::arithmetic;
  if (name == "geometric") return cluster::EntropyMean::geometric;
  if (name == "min") return cluster::EntropyMean::min;
  if (name == "max") return cluster::EntropyMean::max;
  fail(Error::Kind::usage, "--nmi-mean: '", name, "' is not known; there are arithmetic, geometric, min, max");
}

void run(const Options& o) {
  if (o.predicted.empty() || o.truth.empty())
    fail(Error::Kind::usage, "--pred FILE and --truth FILE are needed: labels as .npy or CSV");
  cluster::EntropyMean mean = mean_named(o.mean);
  start_on_cpu(o.common);
  Tensor predicted = load_labels(o.predicted), truth = load_labels(o.truth);
  if (predicted.numel() != truth.numel())
    fail(Error::Kind::data, "the labels differ in number: ", o.predicted, " has ", predicted.numel(), ", ", o.truth,
         " has ", truth.numel());
  cluster::Contingency table = cluster::contingency(predicted, truth);
  cluster::Matching matching = cluster::best_matching(table);
  double nmi = cluster::nmi(table, mean), ari = cluster::ari(table);
  if (o.common.json) {
    Json matched = Json::object();
    for (int64_t row = 0; row < table.rows(); ++row) {
      int64_t column = matching.column[size_t(row)];
      matched[std::to_string(table.predicted[size_t(row)])] = column < 0 ? Json() : Json(table.truth[size_t(column)]);
    }
    Json json = {
        {"command", command_line()}, {"count", table.total}, {"clusters", table.rows()}, {"classes", table.columns()},
        {"acc", matching.accuracy},  {"nmi", nmi},           {"nmi_mean", o.mean},       {"ari", ari},
        {"matching", matched}};
    std::cout << json.dump(2) << "\n";
    return;
  }
  std::printf("ACC %.4f  NMI %.4f (%s mean)  ARI %.4f\n", matching.accuracy, nmi, o.mean.c_str(), ari);
  std::printf("%s points, %ld clusters, %ld classes\n", count_text(table.total).c_str(), long(table.rows()),
              long(table.columns()));
}

}  // namespace

void add_eval_cluster_command(CLI::App& eval) {
  auto o = std::make_shared<Options>();
  CLI::App& sub =
      add_command(eval, "cluster", "Agreement of a clustering with known classes: ACC, NMI, ARI",
                  "mote eval cluster --pred assignments.csv --truth labels.npy", o->common, [o] { run(*o); });
  sub.add_option("--pred", o->predicted,
                 "labels of the clustering: .npy of integers, or CSV (one column, or one called cluster)");
  sub.add_option("--truth", o->truth, "the known classes, likewise");
  sub.add_option("--nmi-mean", o->mean,
                 "what mutual information is divided by: arithmetic, geometric, min or max of the entropies")
      ->capture_default_str();
}

}  // namespace mote::apps
