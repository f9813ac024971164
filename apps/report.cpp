#include "apps/report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "apps/checkpoint.h"
#include "apps/common.h"
#include "apps/page.h"
#include "apps/svg.h"
#include "apps/train_config.h"
#include "tensor/io/file.h"

namespace mote::apps {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostGrids = 12;           // more would make the file heavy and say little

// ---- What the folder holds -----------------------------------------------------------------------------------------

struct Log {
  std::vector<double> step, loss, lr, grad_norm, images_per_s, data_ms, rss_mib;
  double images = 0, seconds = 0;
  int64_t bad_lines = 0;
};

Log read_log(const std::string& path) {
  Log log;
  std::ifstream in(path);
  std::string line;
  double images_before = 0;
  while (std::getline(in, line)) {
    nlohmann::json record = nlohmann::json::parse(line, nullptr, false);
    if (!record.is_object() || !record.contains("step") || !record["step"].is_number()) {
      ++log.bad_lines;
      continue;
    }
    auto number = [&](const char* key) {
      auto found = record.find(key);
      return found != record.end() && found->is_number() ? found->get<double>() : NAN;
    };
    log.step.push_back(number("step"));
    log.loss.push_back(number("loss"));
    log.lr.push_back(number("lr"));
    log.grad_norm.push_back(number("grad_norm"));
    log.images_per_s.push_back(number("images_per_s"));
    log.data_ms.push_back(number("data_ms"));
    log.rss_mib.push_back(number("rss_mib"));
    log.images = number("images");
    if (number("images_per_s") > 0) log.seconds += (log.images - images_before) / number("images_per_s");
    images_before = log.images;
  }
  return log;
}

/// Mean of the records around each one, a fortieth of the log to either side: no lag, unlike an exponential average.
std::vector<double> smoothed(const std::vector<double>& values) {
  size_t reach = std::max<size_t>(2, values.size() / 40);
  std::vector<double> smooth;
  for (size_t i = 0; i < values.size(); ++i) {
    // As far to one side as to the other, or the ends of a falling curve would be bent.
    size_t near = std::min({reach, i, values.size() - 1 - i});
    double sum = 0;
    for (size_t k = i - near; k <= i + near; ++k) sum += values[k];
    smooth.push_back(sum / double(2 * near + 1));
  }
  return smooth;
}

/// Mean of the last twentieth, at least of five records.
double recent(const std::vector<double>& values) {
  size_t count = std::min(values.size(), std::max<size_t>(5, values.size() / 20));
  double sum = 0;
  for (size_t k = values.size() - count; k < values.size(); ++k) sum += values[k];
  return sum / double(count);
}

/// Paths of samples/*.png in order of their names, thinned to kMostGrids; the last one stays.
std::vector<std::string> grid_files(const std::string& folder) {
  std::vector<std::string> all, some;
  std::error_code error;
  for (fs::directory_iterator at(folder + "/samples", error), end; !error && at != end; at.increment(error))
    if (at->path().extension() == ".png") all.push_back(at->path().string());
  std::sort(all.begin(), all.end());
  if (all.size() <= kMostGrids) return all;
  for (size_t i = 0; i < kMostGrids; ++i) some.push_back(all[i * (all.size() - 1) / (kMostGrids - 1)]);
  return some;
}

// ---- The page ------------------------------------------------------------------------------------------------------

double median(std::vector<double> values) {
  std::erase_if(values, [](double value) { return !std::isfinite(value); });
  if (values.empty()) return NAN;
  std::nth_element(values.begin(), values.begin() + long(values.size() / 2), values.end());
  return values[values.size() / 2];
}

void add_checkpoint_numbers(Page& page, const std::string& folder) {
  CheckpointSummary summary = read_checkpoint_summary(folder + "/" + kCheckpointFile);
  const Checkpoint& c = summary.checkpoint;
  page.number("steps in the checkpoint", count_text(c.step));
  page.number("images seen", count_text(c.images));
  page.number("epochs", short_number(c.data_count > 0 ? double(c.images) / double(c.data_count) : 0));
  page.number("parameters", count_text(summary.elements["model"]));
  page.number("data", c.data + " (" + count_text(c.data_count) + ")");
  page.number("image", concat_text(c.unet.size, " x ", c.unet.size, " x ", c.unet.channels));
  page.number("schedule, T", c.schedule + ", " + count_text(c.T));
  if (!c.train.empty()) page.number("precision", train_config_from_json(c.train).precision);
  page.number("seed", std::to_string(c.seed));
  page.number("checkpoint", bytes_text(summary.bytes));
  page.number("checkpoint hash", c.hash);
}

void add_numbers(Page& page, const std::function<void(Page&)>& of_checkpoint, const Log& log) {
  page.html("<div class=\"numbers\">\n");
  std::string problem;
  try {
    of_checkpoint(page);
  } catch (const Error& error) {
    problem = error.what();
  }
  if (!log.step.empty()) {
    page.number("loss, mean of the last records", short_number(recent(log.loss)));
    page.number("loss, last record", short_number(log.loss.back()));
    page.number("images a second, median", short_number(median(log.images_per_s)));
    page.number("waiting for data, median", short_number(median(log.data_ms)) + " ms");
    page.number("training time", seconds_text(log.seconds));
    double most = 0;
    for (double value : log.rss_mib)
      if (value > most) most = value;
    page.number("memory, largest", short_number(most) + " MiB");
  }
  page.html("</div>\n");
  if (!problem.empty()) page.note("The checkpoint could not be read: " + problem);
}

void add_curves(Page& page, const Log& log) {
  page.heading("Curves");
  if (log.step.empty()) return page.note("No record in log.jsonl yet.");
  auto [least, most] = std::minmax_element(log.loss.begin(), log.loss.end());
  page.html("<div class=\"plots\"><div class=\"loss\">\n");
  page.html(svg_plot({"Loss", "step", {{"each record", log.step, log.loss}, {"smoothed", log.step, smoothed(log.loss)}},
                      *least > 0 && *most > 4 * *least}));
  page.html("</div>\n");
  page.html(svg_plot({"Learning rate", "step", {{"", log.step, log.lr}}, false}));
  page.html(svg_plot({"Gradient norm before clipping", "step", {{"", log.step, log.grad_norm}}, true}));
  page.html(svg_plot({"Images a second", "step", {{"", log.step, log.images_per_s}}, false}));
  page.html("</div>\n");
  if (log.bad_lines > 0) page.note(concat_text(log.bad_lines, " lines of log.jsonl could not be read."));
}

void add_grids(Page& page, const std::string& folder) {
  page.heading("Samples");
  std::vector<std::string> files = grid_files(folder);
  if (files.empty()) return page.note("No sample grid yet.");
  auto figure = [&](const std::string& file, const char* style) {
    std::string name = fs::path(file).stem().string();
    std::string digits = name.substr(name.find('_') + 1);
    digits.erase(0, std::min(digits.find_first_not_of('0'), digits.size() - 1));
    page.figure(file, style, "samples after step " + digits, "after step " + digits);
  };
  figure(files.back(), "last");
  files.pop_back();
  if (files.empty()) return;
  page.html("<div class=\"grids\">\n");
  for (const std::string& file : files) figure(file, "earlier");
  page.html("</div>\n");
}

}  // namespace

std::string write_report(const std::string& folder) {
  return write_report(folder, "A diffusion model trained with mote",
                      [&](Page& page) { add_checkpoint_numbers(page, folder); });
}

std::string write_report(const std::string& folder, const std::string& what,
                         const std::function<void(Page&)>& numbers) {
  if (!fs::is_directory(folder)) fail(Error::Kind::data, "report: there is no run folder at ", folder);
  if (!fs::exists(folder + "/config.toml") && !fs::exists(folder + "/log.jsonl") && !fs::exists(folder + "/" + kCheckpointFile))
    fail(Error::Kind::data, "report: ", folder, " is not a run: it has no config.toml, log.jsonl or ", kCheckpointFile);
  Log log = read_log(folder + "/log.jsonl");
  Page page(run_name(folder));
  page.html("<p class=\"sub\">" + escape_html(what) + "</p>\n");
  add_numbers(page, numbers, log);
  add_grids(page, folder);
  add_curves(page, log);
  return write_page(page, folder);
}

}  // namespace mote::apps
