// cmd_segment_eval.cpp - `mote segment eval`: end-to-end model, its symmetries, an ensemble of models, and every
// residual DDPM given, side by side on the same images; the scores are in segment_eval.h.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/cmd_segment.h"
#include "apps/page.h"
#include "apps/segment_eval.h"
#include "apps/segment_model.h"
#include "apps/segment_trainer.h"
#include "apps/signals.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"

namespace mote::apps {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

struct EvalOptions {
  CommonOptions common;
  std::vector<std::string> runs;      // NAME=DIR, or DIR
  PriorSource prior;
  std::string ensemble, split = "test", samples = "1,9", out;
  SamplingFlags sampling;
  int64_t limit = -1, val_limit = 200;
};

struct NamedRun {
  std::string name, path;
};

std::vector<NamedRun> named_runs(const std::vector<std::string>& given) {
  std::vector<NamedRun> runs;
  for (const std::string& word : given) {
    size_t at = word.find('=');
    NamedRun run =
        at == std::string::npos ? NamedRun{run_name(word), word} : NamedRun{word.substr(0, at), word.substr(at + 1)};
    if (run.name.empty() || run.path.empty()) fail(Error::Kind::usage, "--run: '", word, "' is not NAME=DIR");
    for (const NamedRun& other : runs)
      if (other.name == run.name) fail(Error::Kind::usage, "--run: the name '", run.name, "' is given twice");
    runs.push_back(run);
  }
  return runs;
}

std::vector<std::string> listed(const std::string& text) {
  std::vector<std::string> list;
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find(',', at), text.size());
    if (end > at) list.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return list;
}

/// A row of a DDPM: its own estimate, or a weighted fusion of its samples and f.
std::string family_of(const DdpmModel& model) {
  if (model.model.is_resfusion()) return "resfusion";
  resensemble::Target target = resensemble::target_named(model.model.target);
  if (target.prior == 0) return "plain";
  return model.model.target.starts_with("scaled") ? "scaled" : "residual";
}

Tensor flat(const Tensor& x) { return x.view(x.shape().without(x.ndim() - 1)); }   // [N, H, W, 1] -> [N, H, W]

/// The guess of estimates whose chunks have been gathered.
class Gathered {
 public:
  Gathered(const Pairs& data, resensemble::Coding coding) : data_(data), coding_(coding) {
    Shape map = data.masks.shape();
    if (data.classes > 2) guess_.predicted = empty(map, DType::u8);
    else for (Tensor* part : {&guess_.soft, &guess_.probability, &guess_.residual}) *part = empty(map);
  }

  void add(int64_t first, const resensemble::Estimates& e) {
    NoGrad no_grad;
    int64_t n = e.mean.size(0);
    auto add_up = [&](double& total, const Tensor& x) { total += sum(x).item(); };
    add_up(variance_, e.variance);
    add_up(distance_, square(e.residual));
    count_ += double(e.mean.numel());
    auto put = [&](Tensor& whole, const Tensor& part) { whole.rows(first, first + n).copy_(part); };
    if (data_.classes > 2) return put(guess_.predicted, resensemble::decode(coding_, e.mean, data_.classes));
    bool one_hot = coding_ == resensemble::Coding::one_hot;   // of two classes: the channel of class 1
    auto channel = [&](const Tensor& x) { return flat(one_hot ? narrow(x, 3, 1, 1) : x); };
    put(guess_.soft, affine(channel(e.mean), 0.5, 0.5));
    put(guess_.probability, channel(e.probability));
    put(guess_.residual, channel(e.residual));
  }
  const Guess& guess() const { return guess_; }
  double variance() const { return variance_ / count_; }
  double distance() const { return distance_ / count_; }

 private:
  const Pairs& data_;
  resensemble::Coding coding_;
  Guess guess_;
  double variance_ = 0, distance_ = 0, count_ = 0;   // sums over pixels
};

Guess guess_of(const Tensor& p, int64_t classes) {
  NoGrad no_grad;
  if (classes > 2) return {{}, {}, {}, argmax(p, 3).to(DType::u8)};
  return {flat(p), flat(p), {}, {}};
}

// ---- The rows -------------------------------------------------------------------------------------------------------

class Evaluation {
 public:
  Evaluation(const EvalOptions& o, Device device) : o_(o), device_(device), runs_(named_runs(o.runs)) {
    ks_ = int_list("--samples", o.samples);
    std::sort(ks_.begin(), ks_.end());
    if (ks_.empty() || ks_.front() < 1)
      fail(Error::Kind::usage, "--samples: numbers of 1 or more needed, got ", o.samples);
    if (o.prior.e2e.empty() && runs_.empty()) fail(Error::Kind::usage, "give --e2e RUN, --run NAME=DIR, or both");
    for (const NamedRun& run : runs_) models_.push_back(load_ddpm("--run", run.path, o.sampling.weights, device));
    if (!o.prior.e2e.empty()) e2e_.emplace(load_e2e("--e2e", o.prior.e2e, device));
    for (const DdpmModel& model : models_) o.sampling.options(model, ks_.back(), o.common.seed);
    SegmentData told =
        models_.empty() ? static_cast<SegmentData>(e2e_->config) : static_cast<SegmentData>(models_[0].config);
    if (o.limit >= 0) told.limit = o.limit;
    data_ = load_pairs(pair_options(told, o.split));
    for (const DdpmModel& model : models_) require_fits(model, data_.images, data_.classes);
    if (e2e_) require_fits(*e2e_, data_.images, data_.classes);
    for (const std::string& run : listed(o.ensemble)) {
      members_.push_back(load_e2e("--ensemble", run, device));
      require_fits(members_.back(), data_.images, data_.classes);
    }
    if (members_.size() == 1) fail(Error::Kind::usage, "--ensemble: two or more runs needed, as in --ensemble a,b,c");
    prior_ = load_prior(o.prior, data_, device, o.common.quiet);
    bool sampled_val = o.val_limit > 0 && o.split != "val";
    if (sampled_val) {
      val_ = load_pairs(pair_options(told, "val"));
      val_prior_ = load_prior(o.prior, val_, device, o.common.quiet);
      if (val_.count() > o.val_limit) {
        std::vector<int64_t> some;
        for (int64_t i = 0; i < o.val_limit; ++i) some.push_back(i * val_.count() / o.val_limit);
        Tensor p = empty(val_prior_.probability.shape().with(0, o.val_limit));
        for (size_t i = 0; i < some.size(); ++i)
          p.rows(int64_t(i), int64_t(i) + 1).copy_(val_prior_.probability.rows(some[i], some[i] + 1));
        val_prior_.probability = p;
        val_ = pairs_at(val_, some);
      }
    }
    has_val_ = sampled_val;
    if (data_.classes == 2) {
      f_wrong_ = empty(data_.masks.shape(), DType::u8);
      for (int64_t i = 0; i < f_wrong_.numel(); ++i) {
        uint8_t truth = data_.masks.data<uint8_t>()[i];
        f_wrong_.data<uint8_t>()[i] =
            truth == kIgnored ? kIgnored : uint8_t((prior_.probability.data<float>()[i] > 0.5) != (truth == 1));
      }
    }
  }

  std::vector<SegmentRow> rows() {
    add_floor();
    add_end_to_end();
    for (size_t i = 0; i < models_.size(); ++i) add_model(runs_[i].name, models_[i]);
    return rows_;
  }
  const Pairs& data() const { return data_; }
  const Prior& prior() const { return prior_; }
  bool has_validation() const { return has_val_; }
  int64_t validation_count() const { return has_val_ ? val_.count() : 0; }
  const Tensor& picture() const { return picture_; }

 private:
  void add(SegmentRow row, const std::string& family, double ms) {
    row.family = family;
    row.ms = ms;
    rows_.push_back(std::move(row));
  }
  void tune(SegmentRow& row, const Tensor& soft, const Tensor& val_soft) {
    if (has_val_ && data_.classes == 2) score_at(row, soft, data_.masks, best_threshold(val_soft, val_.masks));
  }

  void add_floor() {
    if (data_.classes != 2 || data_.images.size(3) != 1) return;
    Clock::time_point begun = Clock::now();
    Tensor soft = empty(data_.masks.shape());
    for (int64_t i = 0; i < data_.count(); ++i) {
      Tensor grey = data_.images.rows(i, i + 1).view(data_.masks.shape().without(0));
      soft.rows(i, i + 1).copy_(metrics::otsu_mask(grey).view(soft.shape().with(0, 1)));
    }
    add(score_guess("threshold (Otsu)", {soft, {}, {}, {}}, data_, {}), "otsu", per_image(begun));
  }

  double per_image(Clock::time_point begun) const {
    return 1000 * std::chrono::duration<double>(Clock::now() - begun).count() /
           double(std::max<int64_t>(1, data_.count()));
  }

  void add_predictor(const std::string& name, const std::string& family,
                     const std::function<Tensor(const Tensor& images)>& predict) {
    Clock::time_point begun = Clock::now();
    Guess guess = guess_of(predict(data_.images), data_.classes);
    double ms = per_image(begun);
    SegmentRow row = score_guess(name, guess, data_, {});
    if (has_val_ && data_.classes == 2) tune(row, guess.soft, flat(predict(val_.images)));
    add(std::move(row), family, ms);
  }

  void add_end_to_end() {
    auto stoppable = [](int64_t) { exit_if_stopped(); };
    if (e2e_) {
      add_predictor("E2E", "e2e",
                    [&](const Tensor& x) { return e2e_probabilities(*e2e_, x, device_, false, stoppable); });
      add_predictor("E2E + TTA", "tta",
                    [&](const Tensor& x) { return e2e_probabilities(*e2e_, x, device_, true, stoppable); });
    } else if (!o_.prior.is_none()) {
      Guess guess = guess_of(prior_.probability, data_.classes);
      SegmentRow row = score_guess("f as given", guess, data_, {});
      if (has_val_ && data_.classes == 2) tune(row, guess.soft, flat(val_prior_.probability));
      add(std::move(row), "e2e", 0);
    }
    if (members_.empty()) return;
    add_predictor(concat_text(members_.size(), " E2E ensemble"), "ensemble", [&](const Tensor& x) {
      NoGrad no_grad;
      Tensor sum;
      for (const E2EModel& model : members_) {
        Tensor p = e2e_probabilities(model, x, device_, false, stoppable);
        sum = sum.defined() ? sum + p : p;
      }
      return affine(sum, 1 / double(members_.size()), 0);
    });
  }

  /// One estimator of a model: its samples fused with a weight (below 0: the target's own) for one K.
  struct Estimator {
    int64_t K;
    double weight;
    std::string label, family;
  };

  /// Weight of every K on the validation part, from the samples themselves.
  std::vector<double> best_weights(DdpmModel& model, std::vector<std::vector<Tensor>>& means) const {
    std::vector<double> weights;
    Tensor f = prior_in(model.coding, val_prior_.probability, val_.classes, model.config.hard_f);
    Tensor ids = class_ids(val_.masks);
    Tensor x0 =
        resensemble::fill_ignored(resensemble::encode(model.coding, ids, val_.classes, kIgnored), f, ids, kIgnored);
    for (size_t k = 0; k < ks_.size(); ++k) weights.push_back(resensemble::best_weight(concat(means[k], 0), f, x0));
    return weights;
  }

  void add_model(const std::string& name, DdpmModel& model) {
    resensemble::EnsembleOptions options = o_.sampling.options(model, ks_.back(), o_.common.seed);
    std::string family = family_of(model);
    if (o_.prior.is_none() && (family != "plain" || model.config.see_f))
      fail(Error::Kind::usage, "--run ", name, ": this model needs a prior: give --e2e RUN, --f FILE or --f-dir DIR");
    // Weights that undo a target's scale belong to xbar in units of x0, so they are fitted to the paper's form alone.
    bool can_weigh = family == "residual" && model.model.target == "residual" && model.model.scale == 1;
    bool can_average = family == "plain" && model.target().truth == 1 && !o_.prior.is_none();
    std::vector<Estimator> list;
    for (int64_t K : ks_) {
      list.push_back({K, -1, name, family});
      if (can_average) list.push_back({K, 0.5, name + ", naive average", "naive"});
    }
    std::vector<Gathered> on_val;
    if (has_val_) {
      std::vector<std::vector<Tensor>> means(ks_.size());
      std::vector<std::pair<Tensor, Tensor>> chunks;   // kept: the weights are known only at the end
      sample_images(model, val_.images, val_prior_.probability, val_.classes, options, device_, name + " on val",
                    o_.common.quiet, [&](int64_t, const Tensor& xbar, const Tensor& f) {
                      NoGrad no_grad;
                      chunks.emplace_back(xbar, f);
                      if (!can_weigh) return;
                      for (size_t k = 0; k < ks_.size(); ++k)
                        means[k].push_back(mean(xbar.rows(0, ks_[k]), {0}));
                    });
      if (can_weigh) {
        std::vector<double> weights = best_weights(model, means);
        for (size_t k = 0; k < ks_.size(); ++k) list.push_back({ks_[k], weights[k], name + ", tuned w", "weighted"});
      }
      for (const Estimator& e : list) {
        on_val.emplace_back(val_, model.coding);
        int64_t first = 0;
        for (const auto& [xbar, f] : chunks) {
          on_val.back().add(first, resensemble::estimates(model.target(), xbar, f, e.K, e.weight));
          first += f.size(0);
        }
      }
    }
    std::vector<Gathered> gathered;
    for (size_t i = 0; i < list.size(); ++i) gathered.emplace_back(data_, model.coding);
    double seconds = sample_images(
        model, data_.images, prior_.probability, data_.classes, options, device_, name, o_.common.quiet,
        [&](int64_t first, const Tensor& xbar, const Tensor& f) {
          for (size_t i = 0; i < list.size(); ++i)
            gathered[i].add(first, resensemble::estimates(model.target(), xbar, f, list[i].K, list[i].weight));
          if (first == 0 && (family == "residual" || !picture_.defined())) show(model, xbar, f);
        });
    double ms = 1000 * seconds / double(std::max<int64_t>(1, data_.count()));
    double ms_of_f = 1000 * prior_.seconds / double(std::max<int64_t>(1, data_.count()));
    for (size_t i = 0; i < list.size(); ++i) {
      SegmentRow row = score_guess(list[i].label, gathered[i].guess(), data_, f_wrong_);
      row.samples = list[i].K;
      row.weight = list[i].weight;
      row.variance = gathered[i].variance();
      row.distance = gathered[i].distance();
      if (has_val_ && data_.classes == 2) tune(row, gathered[i].guess().soft, on_val[i].guess().soft);
      // All K were drawn in one run; a smaller K costs its share of it.
      add(std::move(row), list[i].family, ms_of_f + ms * double(list[i].K) / double(ks_.back()));
    }
  }

  void show(const DdpmModel& model, const Tensor& xbar, const Tensor& f) {
    constexpr int64_t kRows = 8;
    int64_t n = std::min(kRows, f.size(0));
    resensemble::Estimates e = resensemble::estimates(model.target(), xbar, f);
    picture_ = segment_picture(data_.images.rows(0, n), data_.masks.rows(0, n), data_.classes, f.rows(0, n),
                               e.mean.rows(0, n), e.residual.rows(0, n), e.variance.rows(0, n), model.coding);
  }

  const EvalOptions& o_;
  Device device_;
  std::vector<NamedRun> runs_;
  std::vector<int64_t> ks_;
  std::vector<DdpmModel> models_;
  std::optional<E2EModel> e2e_;
  std::vector<E2EModel> members_;
  Pairs data_, val_;
  Prior prior_, val_prior_;
  bool has_val_ = false;
  Tensor f_wrong_, picture_;
  std::vector<SegmentRow> rows_;
};

void write_page(const EvalOptions& o, const Evaluation& evaluation, const std::vector<std::vector<std::string>>& table,
                const std::vector<std::vector<std::string>>& differences) {
  Page page("Segmentation of " + evaluation.data().name);
  page.html("<p class=\"sub\">mote segment eval</p>\n");
  page.note(concat_text(evaluation.data().count(), " images of part ", evaluation.data().split, "; prior: ",
                        evaluation.prior().about, "; ", o.sampling.text(), "; thresholds and weights from ",
                        evaluation.validation_count(), " validation images"));
  page.table(table);
  if (differences.size() > 1) {
    page.heading("Differences over the same images");
    page.table(differences);
    page.note(
        "Mean difference of Dice and IoU at threshold 1/2, 95 % intervals of 10,000 paired resamples of the images. "
        "better: the interval of Dice lies above 0.");
  }
  if (evaluation.picture().defined()) {
    io::save_png(o.out + "/pictures.png", evaluation.picture());
    page.heading("Image, truth, f, estimate, |R|, deviation of the samples");
    page.figure(o.out + "/pictures.png", "last", "first images", "the first images");
  }
  page.html("<pre>" + command_line() + "</pre>\n");
  io::write_file_atomic(o.out + "/report.html", page.finish());
}

void run_eval(const EvalOptions& o) {
  if (int(!o.prior.e2e.empty()) + int(!o.prior.f.empty()) + int(!o.prior.f_dir.empty()) > 1)
    fail(Error::Kind::usage, "--e2e, --f and --f-dir name the same thing, the prior; give one of them");
  if (o.val_limit < 0) fail(Error::Kind::usage, "--val-limit: must be 0 (no tuning) or more, got ", o.val_limit);
  Device device = start(o.common);
  watch_signals("\nmote: stopping\n");
  Evaluation evaluation(o, device);
  if (!o.out.empty()) {
    std::error_code error;
    fs::create_directories(o.out, error);
    if (error) fail(Error::Kind::resource, "--out: cannot make ", o.out, ": ", error.message());
  }
  std::vector<SegmentRow> rows = evaluation.rows();
  std::vector<Comparison> comparisons = compare_rows(rows, o.common.seed);
  auto table = table_of(rows, evaluation.data().classes), differences = table_of(comparisons);
  Json json = {{"command", command_line()}, {"data", evaluation.data().name}, {"split", o.split},
               {"data_hash", evaluation.data().hash}, {"images", evaluation.data().count()},
               {"prior", evaluation.prior().about}, {"sampling", o.sampling.text()}, {"seed", o.common.seed},
               {"protocol", {{"threshold", 0.5}, {"tuned_on", evaluation.has_validation() ? Json("val") : Json()},
                             {"validation_images", evaluation.validation_count()}, {"ece_bins", 15},
                             {"max_f_beta2", 0.3}, {"bootstrap_resamples", 10000}}},
               {"rows", json_of(rows, evaluation.data().classes)}, {"comparisons", json_of(comparisons)}};
  if (!o.out.empty()) {
    write_page(o, evaluation, table, differences);
    io::write_file_atomic(o.out + "/eval.json", json.dump(2) + "\n");
  }
  if (o.common.json) {
    std::cout << json.dump(2) << "\n";
    return;
  }
  std::cout << text_of(table);
  if (!comparisons.empty()) std::cout << "\n" << text_of(differences);
  if (!o.out.empty()) std::cout << "\n" << o.out << "/report.html\n";
}

}  // namespace

void add_segment_eval(CLI::App& segment) {
  auto o = std::make_shared<EvalOptions>();
  CLI::App& command = add_command(
      segment, "eval", "Scores of end-to-end model, symmetries, ensembles and residual DDPMs on the same images",
      "mote segment eval --e2e runs/e2e --run plain=runs/plain --run res=runs/res --samples 1,9 --out runs/eval\n"
      "  mote segment eval --e2e runs/e2e --ensemble runs/e2e,runs/e2e-2,runs/e2e-3 --run res=runs/res",
      o->common, [o] { run_eval(*o); });
  command.add_option("--run", o->runs, "NAME=DIR of train-ddpm; may be given several times")->group("Models")
      ->take_all();
  command.add_option("--e2e", o->prior.e2e, "run of train-e2e: rows of its own, and the prior")->group("Models");
  command.add_option("--f", o->prior.f, "file of cache-f, as the prior instead")->group("Models");
  command.add_option("--f-dir", o->prior.f_dir, "folder with a probability map an image, as the prior instead")
      ->group("Models");
  command.add_option("--ensemble", o->ensemble, "runs of train-e2e, as a,b,c: their mean probability")->group("Models");
  command.add_option("--split", o->split, "test, val or train")->group("Data")->capture_default_str();
  command.add_option("--limit", o->limit, "only N images (default: as the runs; 0: all)")->group("Data");
  command.add_option("--val-limit", o->val_limit, "validation images for thresholds and weights (0: none are tuned)")
      ->group("Data")->capture_default_str();
  command.add_option("--samples", o->samples, "K, as in 1,4,9: rows for each")
      ->group("Sampling")
      ->capture_default_str();
  o->sampling.add_flags(command);
  command.add_option("--out", o->out, "folder for report.html, eval.json and pictures.png")->group("Output");
}

}  // namespace mote::apps
