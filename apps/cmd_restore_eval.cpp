// cmd_restore_eval.cpp - `mote restore eval`: the damaged pictures, classical filters and the networks of one or
// several runs beside each other, on the same damage: a table, eval.json and eval.html.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>

#include "apps/cmd_restore.h"
#include "apps/page.h"
#include "apps/pictures.h"
#include "apps/progress.h"
#include "apps/restore_scores.h"
#include "apps/signals.h"
#include "diffusion/metrics/bootstrap.h"
#include "diffusion/resensemble/filters.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"

namespace mote::apps {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

constexpr int64_t kLargestCell = 96;   // pixels of a side in the report's picture; of larger ones the middle is shown

struct Options {
  CommonOptions common;
  RestoreFlags flags;
  std::vector<std::string> runs;
  std::string data, split = "test", samples = "1,8", out;
  int64_t limit = 100, pictures = 8;
  bool luma = false;
};

constexpr const char* kEndToEnd = "end-to-end U-Net";

/// A line of the table: what it is, and the scores of all pictures.
struct Row {
  std::string name, run;
  int64_t samples = 0, steps = 0;   // 0: has none
  double seconds = 0;               // for all pictures
  std::vector<metrics::RestorationScore> scores = {};
  std::vector<Tensor> shown = {};   // u8, of the first pictures
};

std::string method_name(const RestoreConfig& config) {
  std::string name = config.method == "plain"       ? "plain DDPM"
                     : config.method == "resfusion" ? "Resfusion"
                                                    : "ResEnsemble";
  if (config.method != "plain") name += config.e2e_steps > 0 ? ", end-to-end prior" : ", the image as prior";
  return config.with_prior ? name + ", which it sees" : name;
}

/// Filters that need no training, for this damage: bicubic enlargement is the input of sr2 and sr4 already.
struct Classical {
  std::string name;
  std::function<Tensor(const Tensor&)> filter;
};
std::vector<Classical> classical_for(const resensemble::Degradation& degradation) {
  using resensemble::Damage;
  std::vector<Classical> filters;
  if (degradation.damage == Damage::halved || degradation.damage == Damage::quartered) return filters;
  filters.push_back({"median 3x3", [](const Tensor& x) { return resensemble::median_filter(x); }});
  bool known_noise = degradation.damage == Damage::noise && degradation.poisson == 0 && degradation.sigma_low > 0 &&
                     degradation.sigma_low == degradation.sigma_high;
  if (known_noise)
    filters.push_back({"local Wiener 5x5", [sigma = 2 * degradation.sigma_low / 255](const Tensor& x) {
                         return resensemble::wiener_filter(x, sigma);
                       }});
  return filters;
}

/// The middle of a picture, at most kLargestCell pixels a side, as f32 in [-1, 1].
Tensor cell_of(const Tensor& picture) {
  int64_t H = std::min(kLargestCell, picture.size(0)), W = std::min(kLargestCell, picture.size(1));
  Tensor x = to_unit(picture).view(picture.shape().inserted(0, 1));
  return narrow(narrow(x, 1, (picture.size(0) - H) / 2, H), 2, (picture.size(1) - W) / 2, W);
}

std::vector<double> psnrs_of(const Row& row) {
  std::vector<double> values;   // bootstrap leaves out NaN, the mean over pictures identical ones
  for (const metrics::RestorationScore& score : row.scores) values.push_back(std::isinf(score.psnr) ? NAN : score.psnr);
  return values;
}

/// PSNR over that of another row, picture by picture, with its 95 % interval; none if there is nothing to compare.
std::optional<metrics::Interval> gain_over(const Row& row, const Row& other, uint64_t seed) {
  std::vector<double> a = psnrs_of(row), b = psnrs_of(other);
  bool any = false;
  for (size_t i = 0; i < a.size(); ++i) any = any || !std::isnan(a[i] - b[i]);
  if (!any) return {};
  return metrics::paired_bootstrap(a, b, seed);
}

// ---- Scoring -------------------------------------------------------------------------------------------------------

class Evaluation {
 public:
  Evaluation(const Options& o, std::vector<LoadedRestorer>& runs, PictureSet pictures, std::vector<int64_t> counts)
      : o_(o), runs_(runs), pictures_(std::move(pictures)), counts_(std::move(counts)),
        degradation_(runs[0].degradation()), classical_(classical_for(degradation_)),
        channels_(o.luma ? metrics::Channels::luma : metrics::Channels::all) {
    bool enlarges = runs[0].train.task.starts_with("sr");
    rows_.push_back({enlarges ? "bicubic enlargement (the input)" : "damaged input", ""});
    for (const Classical& filter : classical_) rows_.push_back({filter.name, ""});
    for (size_t i = 0; i < runs_.size(); ++i) {
      const LoadedRestorer& run = runs_[i];
      draws_.push_back(o.flags.draw(run.checkpoint, counts_.back(), o.common.seed));
      int64_t steps = run.checkpoint.config.is_resfusion() ? run.checkpoint.config.levels().steps() : o.flags.steps;
      if (run.nets.e2e) rows_.push_back({kEndToEnd, o.runs[i]});
      if (!run.nets.denoiser) continue;
      for (int64_t K : counts_) rows_.push_back({method_name(run.train), o.runs[i], K, steps});
    }
  }

  void score_all() {
    Progress progress("evaluate", 0, pictures_.count(), "picture", o_.common.quiet);
    for (int64_t first = 0; first < pictures_.count();) {
      int64_t end = first + 1;
      const Shape& shape = pictures_.images[size_t(first)].shape();
      while (end < pictures_.count() && end - first < o_.flags.tiles && pictures_.images[size_t(end)].shape() == shape)
        ++end;
      score_group(first, end, progress);
      first = end;
      progress.update(first);
    }
    progress.finish();
  }

  const std::vector<Row>& rows() const { return rows_; }
  const PictureSet& pictures() const { return pictures_; }
  metrics::Channels channels() const { return channels_; }

 private:
  /// Pictures first .. end - 1, all of one shape.
  void score_group(int64_t first, int64_t end, Progress& progress) {
    Shape shape = pictures_.images[size_t(first)].shape();
    Tensor clean = empty(shape.inserted(0, end - first));
    for (int64_t n = first; n < end; ++n)
      clean.rows(n - first, n - first + 1).copy_(to_unit(pictures_.images[size_t(n)]).view(shape.inserted(0, 1)));
    Tensor damaged = degraded_batch(clean, degradation_, o_.common.seed, first);
    size_t row = 0;
    add(row++, damaged, first, 0);
    for (const Classical& filter : classical_) {
      Clock::time_point begun = Clock::now();
      Tensor filtered = empty_like(damaged);
      for (int64_t n = 0; n < end - first; ++n)
        filtered.rows(n, n + 1).copy_(filter.filter(damaged.rows(n, n + 1).view(shape)).view(shape.inserted(0, 1)));
      add(row++, filtered, first, seconds_since(begun));
    }
    for (size_t i = 0; i < runs_.size(); ++i) {
      RestoreDraw& draw = draws_[i];
      draw.first = first;
      draw.on_step = [&](int64_t done, int64_t total) {
        exit_if_stopped();
        progress.update(first, concat_text("run ", i + 1, " of ", runs_.size(), ", step ", done, "/", total));
      };
      Clock::time_point begun = Clock::now();
      Tensor prior = prior_of(runs_[i].restorer(), damaged, draw);
      double prior_seconds = seconds_since(begun);
      if (runs_[i].nets.e2e) add(row++, prior, first, prior_seconds);
      if (!runs_[i].nets.denoiser) continue;
      begun = Clock::now();
      Tensor xbar = draw_restored(runs_[i].restorer(), damaged, prior, draw);
      double drawn_seconds = seconds_since(begun);
      for (int64_t K : counts_)   // the first K samples took their share of the time
        add(row++, restored_mean(runs_[i], xbar, prior, K), first,
            prior_seconds + drawn_seconds * double(K) / double(counts_.back()));
    }
    exit_if_stopped();
  }

  void add(size_t row, const Tensor& restored, int64_t first, double seconds) {
    rows_[row].seconds += seconds;
    for (int64_t n = 0; n < restored.size(0); ++n) {
      Tensor bytes = picture_bytes(restored, n);
      rows_[row].scores.push_back(
          metrics::restoration_score(bytes, pictures_.images[size_t(first + n)], channels_));
      if (first + n < o_.pictures) rows_[row].shown.push_back(bytes);
    }
  }

  static double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  const Options& o_;
  std::vector<LoadedRestorer>& runs_;
  PictureSet pictures_;
  std::vector<int64_t> counts_;   // of samples, ascending
  resensemble::Degradation degradation_;
  std::vector<Classical> classical_;
  metrics::Channels channels_;
  std::vector<RestoreDraw> draws_;
  std::vector<Row> rows_;
};

// ---- What is compared ----------------------------------------------------------------------------------------------

/// Runs that undo the same damage of pictures of the same channels; what is measured in pixels follows the side.
void require_same_task(const std::vector<std::string>& paths, const std::vector<LoadedRestorer>& runs) {
  for (size_t i = 1; i < runs.size(); ++i) {
    const RestoreConfig &a = runs[0].train, &b = runs[i].train;
    bool same = a.task == b.task && a.sigma == b.sigma && a.poisson == b.poisson && a.screen == b.screen &&
                runs[0].checkpoint.config.net.size == runs[i].checkpoint.config.net.size &&
                runs[0].checkpoint.config.net.channels == runs[i].checkpoint.config.net.channels;
    if (!same)
      fail(Error::Kind::usage, "--run: ", paths[0], " and ", paths[i],
           " were trained for other damage, side or channels; only runs for the same can be compared");
  }
}

PictureSet pictures_for(const Options& o, const LoadedRestorer& run) {
  std::string spec = o.data.empty() ? run.train.data : o.data;
  if (std::filesystem::is_directory(spec)) spec = "folder:" + spec;
  std::vector<std::string> splits = dataset_splits(spec);
  bool whole_folder = !o.data.empty() && splits.size() == 1 && o.split == "test";   // another folder is all test
  std::string split = whole_folder ? "train" : o.split;
  if (std::find(splits.begin(), splits.end(), split) == splits.end())
    fail(Error::Kind::usage, "--data ", spec, " has no ", split, " part; give other pictures with --data, or --split ",
         splits[0], " for those of training");
  return load_pictures({.spec = spec, .split = split, .channels = run.checkpoint.config.net.channels,
                        .limit = o.limit});
}

// ---- What is written -----------------------------------------------------------------------------------------------

/// The first end-to-end row, what the others are measured against; else the input.
const Row& reference_of(const std::vector<Row>& rows) {
  for (const Row& row : rows)
    if (row.name == kEndToEnd) return row;
  return rows[0];
}

std::vector<std::vector<std::string>> table_of(const Options& o, const Evaluation& evaluation) {
  const Row& reference = reference_of(evaluation.rows());
  std::vector<std::vector<std::string>> table{{"method", "PSNR", "SSIM", "sharpness", "K", "steps", "ms/image",
                                               reference.run.empty() ? "over input" : "over end-to-end", "run"}};
  auto count = [](int64_t value) { return value > 0 ? std::to_string(value) : std::string("-"); };
  for (const Row& row : evaluation.rows()) {
    metrics::RestorationMeans means = metrics::restoration_means(row.scores);
    double ms = row.seconds > 0 ? 1000 * row.seconds / double(row.scores.size()) : NAN;
    std::string gain;
    if (auto interval = gain_over(row, reference, o.common.seed); interval && &row != &reference) {
      char text[80];
      std::snprintf(text, sizeof text, "%+.2f [%+.2f, %+.2f]", interval->mean, interval->low, interval->high);
      gain = text;
    }
    table.push_back({row.name, number_or_dash(means.psnr, 2), number_or_dash(means.ssim, 4),
                     number_or_dash(means.sharpness, 3), count(row.samples), count(row.steps), number_or_dash(ms, 1),
                     gain, row.run.empty() ? "" : run_name(row.run)});
  }
  return table;
}

Json result_json(const Options& o, const Evaluation& evaluation, const std::vector<LoadedRestorer>& runs) {
  Json rows = Json::array(), of_runs = Json::array();
  for (const Row& row : evaluation.rows()) {
    Json line = {{"method", row.name}, {"run", row.run}, {"samples", row.samples}, {"steps", row.steps}};
    line.update(json_of(metrics::restoration_means(row.scores)));
    if (auto gain = gain_over(row, reference_of(evaluation.rows()), o.common.seed))
      line["psnr_gain"] = {{"over", reference_of(evaluation.rows()).name}, {"mean", gain->mean},
                           {"low", gain->low}, {"high", gain->high}};
    line["ms_per_image"] = row.seconds > 0 ? Json(1000 * row.seconds / double(row.scores.size())) : Json();
    rows.push_back(line);
  }
  for (size_t i = 0; i < runs.size(); ++i)
    of_runs.push_back({{"run", o.runs[i]}, {"step", runs[i].checkpoint.step}, {"method", runs[i].train.method},
                       {"e2e_steps", runs[i].train.e2e_steps}, {"seed", runs[i].train.seed},
                       {"checkpoint_hash", runs[i].checkpoint.hash}});
  const RestoreConfig& train = runs[0].train;
  return {{"command", command_line()}, {"task", train.task}, {"sigma", train.sigma}, {"poisson", train.poisson},
          {"data", evaluation.pictures().name}, {"data_hash", evaluation.pictures().hash},
          {"images", evaluation.pictures().count()}, {"seed", o.common.seed}, {"sampler", o.flags.sampler},
          {"weights", o.flags.weights}, {"blend", o.flags.blend}, {"protocol", score_protocol(evaluation.channels())},
          {"runs", of_runs}, {"rows", rows}};
}

/// Clean, then a column for each row of the table; a line for each of the first pictures of the first one's shape.
void add_picture(Page& page, const std::string& folder, const Evaluation& evaluation) {
  const std::vector<Row>& rows = evaluation.rows();
  size_t shown = rows[0].shown.size();
  if (shown == 0) return;
  std::vector<Tensor> cells;
  Shape shape = cell_of(evaluation.pictures().images[0]).shape();
  for (size_t n = 0; n < shown; ++n) {
    Tensor clean = cell_of(evaluation.pictures().images[n]);
    if (!(clean.shape() == shape)) continue;
    cells.push_back(clean);
    for (const Row& row : rows) cells.push_back(cell_of(row.shown[n]));
  }
  std::string file = folder + "/eval.png", caption = "from left to right: the truth";
  io::save_png(file, io::image_grid(concat(cells, 0), int64_t(rows.size()) + 1));
  for (const Row& row : rows) {
    caption += "; " + row.name;
    if (row.samples > 0) caption += concat_text(" (K = ", row.samples, ")");
  }
  page.heading("Pictures");
  page.figure(file, "last", "restored pictures", caption);
}

void print(const std::vector<std::vector<std::string>>& table) {
  std::vector<size_t> width(table[0].size());
  for (const auto& line : table)
    for (size_t i = 0; i < line.size(); ++i) width[i] = std::max(width[i], line[i].size());
  for (const auto& line : table) {
    std::string text;
    for (size_t i = 0; i < line.size(); ++i) {
      std::string gap(width[i] - line[i].size(), ' ');
      bool left = i == 0 || i + 1 == line.size();
      text += (i ? "  " : "") + (left ? line[i] + gap : gap + line[i]);
    }
    text.erase(text.find_last_not_of(' ') + 1);
    std::printf("%s\n", text.c_str());
  }
}

void run(const Options& o) {
  auto require = [](bool holds, const auto&... parts) {
    if (!holds) fail(Error::Kind::usage, parts...);
  };
  require(!o.runs.empty(), "no run given, for instance: mote restore eval runs/plain runs/resensemble");
  require(o.limit >= 0, "--limit: must be 0 (all) or more, got ", o.limit);
  require(o.pictures >= 0 && o.pictures <= 64, "--pictures: must be 0 to 64, got ", o.pictures);
  std::vector<int64_t> counts = int_list("--samples", o.samples);
  std::sort(counts.begin(), counts.end());
  counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
  require(!counts.empty() && counts.front() >= 1 && counts.back() <= 1024,
          "--samples: numbers of samples from 1 to 1024 are needed, got '", o.samples, "'");
  Device device = start(o.common);
  std::vector<LoadedRestorer> runs;
  for (const std::string& path : o.runs) runs.push_back(load_restorer(path, o.flags.weights, device));
  require_same_task(o.runs, runs);
  bool is_folder = std::filesystem::is_directory(o.runs[0]);
  require(!o.out.empty() || is_folder, "--out: a folder is needed where the first run is a file");
  std::string folder = o.out.empty() ? o.runs[0] + "/eval" : o.out;
  Evaluation evaluation(o, runs, pictures_for(o, runs[0]), counts);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail(Error::Kind::resource, "--out: cannot make ", folder, ": ", error.message());
  watch_signals("\nmote: stopping after this step\n");
  evaluation.score_all();

  Json json = result_json(o, evaluation, runs);
  std::vector<std::vector<std::string>> table = table_of(o, evaluation);
  Page page(runs[0].train.task + ", evaluated");
  page.heading(concat_text(evaluation.pictures().count(), " pictures of ", evaluation.pictures().name));
  page.table(table);
  page.note("Scores: " + score_protocol(evaluation.channels()) +
            ". Sharpness: mean gradient over that of the truth. K: samples averaged; the time of K samples is their "
            "share of that of the largest K. Gains: mean difference of PSNR over the same pictures, with the 95 % "
            "interval of 10,000 resamples.");
  add_picture(page, folder, evaluation);
  io::write_file_atomic(folder + "/eval.json", json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  io::write_file_atomic(folder + "/eval.html", page.finish());
  json["report"] = folder + "/eval.html";
  if (o.common.json) {
    std::cout << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
    return;
  }
  print(table);
  std::printf("%s/eval.html\n", folder.c_str());
}

}  // namespace

void add_restore_eval(CLI::App& restore) {
  auto o = std::make_shared<Options>();
  CLI::App& sub = add_command(restore, "eval", "PSNR, SSIM and sharpness of runs beside the input and simple filters",
                              "mote restore eval runs/plain runs/resensemble runs/with-e2e --limit 200 --samples 1,8\n"
                              "  mote restore eval runs/denoise --data folder:pictures --y",
                              o->common, [o] { run(*o); });
  sub.add_option("--run,runs", o->runs, "run folders or checkpoint files, for the same task")->group("Run");
  sub.add_option("--data", o->data, "pictures, of any size (default: those of the first run)")->group("Data");
  sub.add_option("--split", o->split, "test or train; a folder without splits given with --data is all test")
      ->group("Data")->capture_default_str();
  sub.add_option("--limit", o->limit, "only the first N pictures (0: all)")->group("Data")->capture_default_str();
  sub.add_option("--samples", o->samples, "numbers of samples that are averaged, a row each")
      ->group("Sampling")->capture_default_str();
  o->flags.add_flags(sub);
  sub.add_flag("--y", o->luma, "score the luma Y of BT.601 instead of all channels")->group("Output");
  sub.add_option("--pictures", o->pictures, "pictures shown on the page")->group("Output")->capture_default_str();
  sub.add_option("--out", o->out, "folder for eval.html, eval.json, eval.png (default: eval in the first run)")
      ->group("Output");
}

}  // namespace mote::apps
