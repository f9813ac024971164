// cmd_segment_train.cpp - `mote segment train-e2e`, `train-ddpm` and `cache-f` (cross-fitted predictions); the runs
// themselves are in segment_e2e.cpp and segment_ddpm.cpp.
#include <CLI/CLI.hpp>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/cmd_segment.h"
#include "apps/config_flags.h"
#include "apps/page.h"
#include "apps/progress.h"
#include "apps/run_log.h"
#include "apps/segment_prior.h"
#include "apps/segment_trainer.h"
#include "apps/signals.h"
#include "diffusion/resensemble/folds.h"

namespace mote::apps {
namespace {

using Json = nlohmann::ordered_json;

void print_result(const SegmentResult& r, const std::string& command, bool is_e2e, bool json) {
  if (json) {
    Json out = {{"run", r.run},
                {"step", r.step},
                {"images", r.images},
                {"parameters", r.parameters},
                {"loss", number_json(r.loss)},
                {"score", number_json(r.score)},
                {"seconds", r.seconds},
                {"images_per_s", r.images_per_s},
                {"checkpoint", r.checkpoint},
                {"checkpoint_hash", r.checkpoint_hash},
                {"report", r.report},
                {"stopped_by_signal", r.signal}};
    if (is_e2e) {
      out["best_step"] = r.best_step;
      out["temperature"] = r.temperature;
    }
    std::cout << out.dump(2) << "\n";
    return;
  }
  std::cout << (r.signal ? "stopped" : "done") << " at step " << r.step << " (" << count_text(r.images)
            << " images) after " << seconds_text(r.seconds);
  if (std::isfinite(r.score)) std::cout << ", validation " << short_number(r.score);
  if (is_e2e && r.best_step >= 0)
    std::cout << " at step " << r.best_step << ", temperature " << short_number(r.temperature);
  std::cout << "\n" << r.checkpoint << "\n" << r.report << "\n";
  if (r.signal) std::cout << "continue with: mote segment " << command << " --out " << r.run << " --resume\n";
  std::cout << std::flush;
}

template <class Config, class Train>
void add_training(CLI::App& segment, const std::string& name, const std::string& what, const std::string& example,
                  const Train& train) {
  add_training_command<SegmentJob<Config>>(segment, name, what, example, [=](const SegmentJob<Config>& job) {
    SegmentResult result = train(job);
    print_result(result, name, std::is_same_v<Config, E2EConfig>, job.common.json);
    return result.signal;
  });
}

// ---- cache-f -------------------------------------------------------------------------------------------------------

struct CacheOptions {
  SegmentJob<E2EConfig> job;
  std::string e2e;   // of which val and test are predicted, or everything without folds
};

/// Mean |f - x0| over pixels that count: of the training part it must be near that of the validation part.
double mean_residual(const Pairs& data, const Tensor& p) {
  NoGrad no_grad;
  resensemble::Coding coding = data.classes == 2 ? resensemble::Coding::binary : resensemble::Coding::one_hot;
  Tensor ids = class_ids(data.masks), f = resensemble::encode_probabilities(coding, p);
  Tensor x0 = resensemble::encode(coding, ids, data.classes, kIgnored);
  Tensor weight = resensemble::counted(ids, kIgnored);
  return sum(abs(f - x0) * weight).item() / (sum(weight).item() * double(f.size(3)));
}

/// Trains the models of all folds, each in a run folder of its own; one that is there is continued.
std::vector<std::string> train_folds(const CacheOptions& o) {
  std::vector<std::string> runs;
  for (int64_t fold = 0; fold < o.job.config.folds; ++fold) {
    SegmentJob<E2EConfig> job = o.job;
    job.config.fold = fold;
    job.out = concat_text(o.job.out, "/fold_", fold);
    job.resume = !job.overwrite && std::filesystem::exists(job.out + "/" + kCheckpointFile);
    job.given.push_back("fold");
    SegmentResult result = train_e2e(job);
    if (result.signal) throw Exit{128 + result.signal};
    if (!job.common.quiet)
      std::cerr << "fold " << fold + 1 << " of " << job.config.folds << ": validation " << short_number(result.score)
                << "\n";
    runs.push_back(job.out);
  }
  return runs;
}

void run_cache(CacheOptions& o) {
  E2EConfig& config = o.job.config;
  if (o.job.out.empty()) fail(Error::Kind::usage, "--out: the folder is missing");
  if (config.folds == 0 && o.e2e.empty())
    fail(Error::Kind::usage,
         "give --folds K to train the models of K folds, or --e2e RUN to predict everything with one "
         "model, which knows its training images");
  if (config.fold != 0) fail(Error::Kind::usage, "--fold: cache-f trains all folds");
  validate(config);
  Device device = start(o.job.common);
  std::error_code error;
  std::filesystem::create_directories(o.job.out, error);
  if (error) fail(Error::Kind::resource, "--out: cannot make ", o.job.out, ": ", error.message());
  std::vector<std::string> runs = train_folds(o);
  watch_signals("\nmote: stopping\n");
  std::vector<E2EModel> models;
  for (const std::string& run : runs) models.push_back(load_e2e("--out", run, device));
  std::optional<E2EModel> whole;
  if (!o.e2e.empty()) whole.emplace(load_e2e("--e2e", o.e2e, device));

  CachedF cached;
  cached.folds = config.folds;
  cached.source = config.folds > 0 ? concat_text(config.folds, " folds of ", config.net)
                                   : "one model, " + whole->checkpoint.hash + ", which knows its training images";
  if (config.folds > 0)
    cached.source += whole ? "; val and test by " + whole->checkpoint.hash : "; val and test their mean";
  Json residuals;
  for (const std::string& part : pair_splits(config.data)) {
    Pairs data = load_pairs(pair_options(config, part));
    for (const E2EModel& model : models) require_fits(model, data.images, data.classes);
    if (whole) require_fits(*whole, data.images, data.classes);
    Progress progress("f of " + part, 0, data.count(), "image", o.job.common.quiet);
    auto predict = [&](const E2EModel& model, const Tensor& images) {
      return e2e_probabilities(model, images, device, false, [&](int64_t done) {
        exit_if_stopped();
        progress.update(done);
      });
    };
    Tensor p;
    if (part == "train" && config.folds > 0) {
      std::vector<int64_t> fold_of = folds_of(data, config.data, config.folds);
      for (int64_t fold = 0; fold < config.folds; ++fold) {
        std::vector<int64_t> inside = resensemble::members(fold_of, fold, true);
        Tensor own = predict(models[size_t(fold)], pairs_at(data, inside).images);
        if (!p.defined()) p = empty(own.shape().with(0, data.count()));
        for (size_t i = 0; i < inside.size(); ++i)
          p.rows(inside[i], inside[i] + 1).copy_(own.rows(int64_t(i), int64_t(i) + 1));
      }
    } else if (whole) {
      p = predict(*whole, data.images);
    } else {
      NoGrad no_grad;
      for (const E2EModel& model : models) {
        Tensor own = predict(model, data.images);
        p = p.defined() ? p + own : own;
      }
      p = affine(p, 1 / double(models.size()), 0);
    }
    progress.finish();
    cached.probabilities[part] = p;
    cached.hashes[part] = data.hash;
    residuals[part] = mean_residual(data, p);
  }
  std::string file = o.job.out + "/f.safetensors";
  save_cached_f(file, cached);
  double shift = residuals.value("val", NAN) / residuals.value("train", NAN);
  if (o.job.common.json) {
    std::cout << Json{{"file", file}, {"folds", config.folds}, {"source", cached.source}, {"mean_residual", residuals},
                      {"val_over_train", number_json(shift)}}.dump(2) << "\n";
    return;
  }
  std::cout << file << "\nmean |f - x0|:";
  for (const auto& [part, value] : residuals.items())
    std::cout << " " << part << " " << short_number(value.get<double>());
  if (std::isfinite(shift)) std::cout << "; val is " << short_number(shift) << " times train (cross-fitting aims at 1)";
  std::cout << "\n";
}

void add_cache(CLI::App& segment) {
  auto o = std::make_shared<CacheOptions>();
  auto names = std::make_shared<FlagNames>();
  CLI::App& command = add_command(
      segment, "cache-f", "Predictions for every image by models that have not seen it (cross-fitting), kept in a file",
      "mote segment cache-f --data synthetic:fashionseg28 --folds 5 --epochs 10 --out runs/folds\n"
      "  mote segment train-ddpm --f runs/folds/f.safetensors --out runs/res",
      o->job.common, [o, names] {
        o->job.given = given_flags(*names);
        o->job.config.seed = o->job.common.seed;
        o->job.config.precision = o->job.common.precision;
        run_cache(*o);
      });
  command.add_option("--out", o->job.out, "folder: a run a fold, and f.safetensors. Folds that are there are continued")
      ->group("Run");
  command.add_flag("--overwrite", o->job.overwrite, "train the folds anew")->group("Run");
  command.add_option("--e2e", o->e2e, "run of train-e2e that predicts val and test (default: the mean of the folds)")
      ->group("Run");
  add_key_flags(command, o->job.config, *names);
}

}  // namespace

void add_segment_train_commands(CLI::App& segment) {
  add_training<E2EConfig>(segment, "train-e2e", "Train the end-to-end model whose output is the prior f",
                          "mote segment train-e2e --data synthetic:fashionseg28 --epochs 10 --out runs/e2e\n"
                          "  mote segment train-e2e --data pairs:nuclei --size 64 --net e-64 --turn --out runs/e2e",
                          train_e2e);
  add_cache(segment);
  add_training<DdpmConfig>(segment, "train-ddpm", "Train the denoiser of the residual target on a frozen prior",
                           "mote segment train-ddpm --e2e runs/e2e --steps 5000 --out runs/res\n"
                           "  mote segment train-ddpm --f runs/folds/f.safetensors --see-f --out runs/res-f\n"
                           "  mote segment train-ddpm --target plain --out runs/plain",
                           train_segment_ddpm);
}

}  // namespace mote::apps
