#include "apps/cluster_report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "apps/cluster_checkpoint.h"
#include "apps/common.h"
#include "apps/page.h"
#include "apps/svg.h"
#include "tensor/io/file.h"
#include "tensor/io/safetensors.h"

namespace mote::apps {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

struct Log {
  std::vector<Json> training, e_steps;   // records of log.jsonl in order
  int64_t bad_lines = 0;
};

Log read_log(const std::string& path) {
  Log log;
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    Json record = Json::parse(line, nullptr, false);
    if (!record.is_object() || !record.contains("step")) ++log.bad_lines;
    else (record.contains("e_step") ? log.e_steps : log.training).push_back(std::move(record));
  }
  return log;
}

double number_of(const Json& record, const char* key) {
  auto found = record.find(key);
  return found != record.end() && found->is_number() ? found->get<double>() : NAN;
}

std::vector<double> column(const std::vector<Json>& records, const char* key) {
  std::vector<double> values;
  for (const Json& record : records) values.push_back(number_of(record, key));
  return values;
}

bool any_finite(const std::vector<double>& values) {
  return std::any_of(values.begin(), values.end(), [](double value) { return std::isfinite(value); });
}

void add_numbers(Page& page, const std::string& folder, const Log& log) {
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
  if (!log.e_steps.empty())
    for (const char* key : {"accuracy", "nmi", "ari"})
      if (double value = number_of(log.e_steps.back(), key); std::isfinite(value))
        page.number(concat_text(key, ", against the labels, which training does not read"), short_number(value));
  page.html("</div>\n");
  if (!problem.empty()) page.note("The checkpoint could not be read: " + problem);
}

void add_curves(Page& page, const Log& log) {
  page.heading("Curves");
  if (log.training.empty() && log.e_steps.empty()) return page.note("No record in log.jsonl yet.");
  page.html("<div class=\"plots\">\n");
  std::vector<double> epochs = column(log.e_steps, "epoch"), steps = column(log.training, "step");
  if (!log.e_steps.empty()) {
    page.html(svg_plot({"F_lambda after each E-step", "epoch", {{"", epochs, column(log.e_steps, "free_energy")}}}));
    std::vector<Series> scores;
    for (const char* key : {"accuracy", "nmi"})
      if (std::vector<double> values = column(log.e_steps, key); any_finite(values)) scores.push_back({key, epochs, values});
    if (!scores.empty()) page.html(svg_plot({"Against the labels", "epoch", scores}));
    page.html(svg_plot({"Matching, nats an image", "epoch", {{"", epochs, column(log.e_steps, "probe_matching")}}}));
  }
  if (!log.training.empty()) {
    page.html(svg_plot({"Noise loss a pixel", "step", {{"", steps, column(log.training, "loss")}}, true}));
    page.html(svg_plot({"Gradient norm before clipping", "step", {{"", steps, column(log.training, "grad_norm")}}, true}));
    page.html(svg_plot({"Images a second", "step", {{"", steps, column(log.training, "images_per_s")}}}));
  }
  page.html("</div>\n");
  if (log.bad_lines > 0) page.note(concat_text(log.bad_lines, " lines of log.jsonl could not be read."));
}

void add_weights(Page& page, const Log& log) {
  if (log.e_steps.empty()) return;
  page.heading("Clusters");
  std::vector<std::vector<std::string>> rows{{"cluster", "weight"}};
  std::vector<double> weights = log.e_steps.back().value("weights", std::vector<double>());
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

bool is_cluster_run(const std::string& folder) {
  std::error_code error;
  std::string path = folder + "/" + kCheckpointFile;
  if (!fs::exists(path, error)) return false;
  try {
    auto metadata = io::read_safetensors_header(path).second;
    auto format = metadata.find("format");
    return format != metadata.end() && format->second == kClusterFormat;
  } catch (const Error&) {
    return false;   // the report of an ordinary run says what is wrong with the file
  }
}

std::string write_cluster_report(const std::string& folder) {
  if (!fs::is_directory(folder)) fail(Error::Kind::data, "report: there is no run folder at ", folder);
  Log log = read_log(folder + "/log.jsonl");
  Page page(run_name(folder));
  page.html("<p class=\"sub\">Clusters found with mote</p>\n");
  add_numbers(page, folder, log);
  add_grid(page, folder);
  add_weights(page, log);
  add_curves(page, log);
  page.heading("Configuration");
  std::string config = read_text(folder + "/config.toml");
  if (config.empty()) page.note("config.toml is missing.");
  else page.html("<pre>" + escape_html(config) + "</pre>\n");
  std::string path = folder + "/report.html";
  io::write_file_atomic(path, page.finish());
  return path;
}

}  // namespace mote::apps
