#include "apps/cluster_report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "apps/checkpoint_file.h"
#include "apps/cluster_checkpoint.h"
#include "apps/common.h"
#include "apps/page.h"
#include "apps/run_log.h"
#include "apps/svg.h"

namespace mote::apps {
namespace {

namespace fs = std::filesystem;

bool any_finite(const std::vector<double>& values) {
  return std::any_of(values.begin(), values.end(), [](double value) { return std::isfinite(value); });
}

void add_numbers(Page& page, const std::string& folder, const RunLog& log) {
  page.html("<div class=\"numbers\">\n");
  std::string problem;
  try {
    ClusterCheckpoint c = load_cluster_checkpoint(folder + "/" + kCheckpointFile);
    page.number("steps in the checkpoint", count_text(c.step));
    page.number("steps of pretraining", count_text(c.pretrain_steps));
    page.number("data", c.data + " (" + count_text(c.data_count) + ")");
    page.number("image, code", concat_text(c.config.net.size, " x ", c.config.net.size, " x ", c.config.net.channels, ", ",
                                           c.config.net.latent));
    page.number("seed", std::to_string(c.seed));
    page.number("checkpoint hash", c.hash);
    if (c.mixture) {
      page.number("clusters", std::to_string(c.mixture->components()));
      page.number("F_lambda of the last E-step", short_number(c.free_energy));
      page.number("noise loss a pixel", short_number(c.noise));
      page.number("matching, nats an image", short_number(c.matching));
    }
  } catch (const Error& error) {
    problem = error.what();
  }
  if (!log.others.empty())
    for (const char* key : {"accuracy", "nmi", "ari"})
      if (double value = number_of(log.others.back(), key); std::isfinite(value))
        page.number(concat_text(key, ", against the labels, which training does not read"), short_number(value));
  page.html("</div>\n");
  if (!problem.empty()) page.note("The checkpoint could not be read: " + problem);
}

void add_curves(Page& page, const RunLog& log) {
  page.heading("Curves");
  if (log.training.empty() && log.others.empty()) return page.note("No record in log.jsonl yet.");
  page.html("<div class=\"plots\">\n");
  std::vector<double> epochs = column(log.others, "epoch"), steps = column(log.training, "step");
  if (!log.others.empty()) {
    page.html(svg_plot({"F_lambda after each E-step", "epoch", {{"", epochs, column(log.others, "free_energy")}}}));
    std::vector<Series> scores;
    for (const char* key : {"accuracy", "nmi"})
      if (std::vector<double> values = column(log.others, key); any_finite(values)) scores.push_back({key, epochs, values});
    if (!scores.empty()) page.html(svg_plot({"Against the labels", "epoch", scores}));
    page.html(svg_plot({"Matching, nats an image", "epoch", {{"", epochs, column(log.others, "probe_matching")}}}));
  }
  if (!log.training.empty()) {
    page.html(svg_plot({"Noise loss a pixel", "step", {{"", steps, column(log.training, "loss")}}, true}));
    page.html(svg_plot({"Gradient norm before clipping", "step", {{"", steps, column(log.training, "grad_norm")}}, true}));
    page.html(svg_plot({"Images a second", "step", {{"", steps, column(log.training, "images_per_s")}}}));
  }
  page.html("</div>\n");
  if (log.bad_lines > 0) page.note(concat_text(log.bad_lines, " lines of log.jsonl could not be read."));
}

void add_weights(Page& page, const RunLog& log) {
  if (log.others.empty()) return;
  page.heading("Clusters");
  std::vector<std::vector<std::string>> rows{{"cluster", "weight"}};
  std::vector<double> weights = log.others.back().value("weights", std::vector<double>());
  for (size_t k = 0; k < weights.size(); ++k) rows.push_back({std::to_string(k), short_number(weights[k])});
  page.table(rows);
}

void add_grid(Page& page, const std::string& folder) {
  page.heading("Samples, a row a cluster");
  std::string newest;
  std::error_code error;
  for (fs::directory_iterator at(folder + "/samples", error), end; !error && at != end; at.increment(error))
    if (at->path().extension() == ".png") newest = std::max(newest, at->path().string());
  if (newest.empty()) return page.note("No sample grid yet.");
  page.figure(newest, "last", "draws of every component", fs::path(newest).stem().string());
}

}  // namespace

bool is_cluster_run(const std::string& folder) { return is_run_of(folder, kClusterFormat); }

std::string write_cluster_report(const std::string& folder) {
  if (!fs::is_directory(folder)) fail(Error::Kind::data, "report: there is no run folder at ", folder);
  RunLog log = read_run_log(folder + "/log.jsonl", "e_step");
  Page page(run_name(folder));
  page.html("<p class=\"sub\">Clusters found with mote</p>\n");
  add_numbers(page, folder, log);
  add_grid(page, folder);
  add_weights(page, log);
  add_curves(page, log);
  return write_page(page, folder);
}

}  // namespace mote::apps
