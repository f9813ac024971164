#include "apps/segment_report.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "apps/common.h"
#include "apps/page.h"
#include "apps/run_log.h"
#include "apps/segment_checkpoint.h"
#include "apps/svg.h"

namespace mote::apps {
namespace {

namespace fs = std::filesystem;

void add_numbers(Page& page, const std::string& folder) {
  page.html("<div class=\"numbers\">\n");
  std::string problem;
  try {
    SegmentCheckpoint c = load_segment_checkpoint(folder + "/" + kCheckpointFile);
    page.number("kind", c.kind == "e2e" ? "end-to-end model" : "residual DDPM");
    page.number("steps in the checkpoint", count_text(c.step));
    page.number("data", c.data + " (" + count_text(c.data_count) + ")");
    page.number("image", concat_text(c.height, " x ", c.width, " x ", c.channels));
    page.number("classes", std::to_string(c.classes));
    page.number("seed", std::to_string(c.seed));
    if (c.kind == "e2e") {
      page.number("best validation, step", concat_text(short_number(c.best_score), ", ", c.best_step));
      page.number("temperature", short_number(c.temperature));
    } else {
      page.number("prior", c.prior);
      page.number("masks as", c.coding);
    }
    page.number("checkpoint hash", c.hash);
  } catch (const Error& error) {
    problem = error.what();
  }
  page.html("</div>\n");
  if (!problem.empty()) page.note("The checkpoint could not be read: " + problem);
}

void add_curves(Page& page, const RunLog& log) {
  page.heading("Curves");
  if (log.training.empty()) return page.note("No record in log.jsonl yet.");
  page.html("<div class=\"plots\">\n");
  std::vector<double> steps = column(log.training, "step");
  page.html(svg_plot({"Loss", "step", {{"", steps, column(log.training, "loss")}}, true}));
  if (!log.others.empty()) {
    std::vector<double> at = column(log.others, "step"), of_f = column(log.others, "score_of_f");
    std::vector<Series> lines{{"model", at, column(log.others, "score")}};
    if (std::any_of(of_f.begin(), of_f.end(), [](double v) { return std::isfinite(v); }))
      lines.push_back({"f alone", at, of_f});
    page.html(svg_plot({"Validation: Dice of two classes, mean IoU of more", "step", lines}));
  }
  page.html(
      svg_plot({"Gradient norm before clipping", "step", {{"", steps, column(log.training, "grad_norm")}}, true}));
  page.html(svg_plot({"Images a second", "step", {{"", steps, column(log.training, "images_per_s")}}}));
  page.html("</div>\n");
  if (log.bad_lines > 0) page.note(concat_text(log.bad_lines, " lines of log.jsonl could not be read."));
}

void add_picture(Page& page, const std::string& folder) {
  std::string newest;
  std::error_code error;
  for (fs::directory_iterator at(folder + "/samples", error), end; !error && at != end; at.increment(error))
    if (at->path().extension() == ".png") newest = std::max(newest, at->path().string());
  if (newest.empty()) return;
  page.heading("Validation: image, truth, f, estimate, |R|, deviation of the samples");
  page.figure(newest, "last", "validation images", fs::path(newest).stem().string());
}

}  // namespace

std::string write_segment_report(const std::string& folder) {
  if (!fs::is_directory(folder)) fail(Error::Kind::data, "report: there is no run folder at ", folder);
  RunLog log = read_run_log(folder + "/log.jsonl", "validation");
  Page page(run_name(folder));
  page.html("<p class=\"sub\">Segmentation trained with mote</p>\n");
  add_numbers(page, folder);
  add_picture(page, folder);
  add_curves(page, log);
  return write_page(page, folder);
}

}  // namespace mote::apps
