#include "apps/restore_trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "apps/draw.h"
#include "apps/progress.h"
#include "apps/restore_data.h"
#include "apps/restore_draw.h"
#include "apps/run_dir.h"
#include "apps/signals.h"
#include "apps/training_meter.h"
#include "apps/trainer.h"
#include "apps/weights.h"
#include "nn/segmentation_losses.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"

namespace mote::apps {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

constexpr uint64_t kE2E = 0x653265;      // "e2e": key of the stream that its initial weights are drawn from
constexpr uint64_t kGridSeed = 0;        // of the grids: the same at every step, so that they can be compared

// ---- The run -------------------------------------------------------------------------------------------------------

class RestoreTrainer {
 public:
  RestoreTrainer(const RestoreJob& job, Device device, RunDir& run, const RestoreConfig& config,
                 const RestoreCheckpoint* from);
  RestoreResult run();

 private:
  void take_over(const RestoreCheckpoint& from);
  void begin_phase();
  void say_plan();
  void step();
  Tensor loss_of(const RestoreBatch& batch);
  void log();
  void save();
  void sample();
  std::string loss_text() const;
  bool trains_e2e() const { return step_ < config_.e2e_steps; }
  bool due(int64_t every) const { return every > 0 && step_ % every == 0; }
  nn::Module& trained() { return trains_e2e() ? static_cast<nn::Module&>(*e2e_) : denoiser_; }

  const RestoreJob& job_;
  Device device_;
  RunDir& run_;
  RestoreConfig config_;
  PictureSet pictures_;
  int64_t side_;
  resensemble::Degradation degradation_;
  resensemble::ModelConfig model_;
  Schedule schedule_;
  DType precision_;
  nn::Denoiser denoiser_;
  std::optional<nn::E2ENet> e2e_;
  int64_t total_steps_;
  std::optional<nn::Arena> arena_;           // of the network that is in training
  std::optional<nn::Optimizer> optimizer_;
  std::optional<RestoreBatches> batches_;
  Progress progress_;

  int64_t step_ = 0;        // steps done
  int64_t saved_step_ = -1, sampled_step_ = -1;
  std::string saved_hash_;
  bool keep_current_ = true;   // as the previous checkpoint; false if the run goes on from another one
  TrainingMeter meter_;
  double grad_norm_ = 0, lr_ = 0;
};

RestoreTrainer::RestoreTrainer(const RestoreJob& job, Device device, RunDir& run, const RestoreConfig& config,
                               const RestoreCheckpoint* from)
    : job_(job), device_(device), run_(run), config_(config),
      pictures_(load_pictures({.spec = config.data, .channels = config.channels, .limit = config.limit})),
      side_(square_side(pictures_, config.size)), degradation_(degradation_of(config, side_)),
      model_(model_config(config, side_, pictures_.images[0].size(2))), schedule_(model_.levels()),
      precision_(precision_named(config.precision)), denoiser_(model_.net, config.seed),
      total_steps_(config.e2e_steps + config.steps),
      progress_("restore", from ? from->step : 0, total_steps_, "step", job.common.quiet) {
  if (auto net = e2e_config(config_, side_, pictures_.images[0].size(2)))
    e2e_.emplace(*net, Generator{config_.seed}.fork(kE2E).seed);
  denoiser_.unet().set_precision(precision_);
  if (config_.sample_count > 0 && !model_.is_resfusion())
    plan_sampler(schedule_, {.name = "ddim", .steps = std::min(config_.sample_steps, schedule_.steps())});
  if (from) take_over(*from);
  denoiser_.to(device_);
  if (e2e_) e2e_->to(device_);
  begin_phase();
  if (!from) return;
  copy_into(arena_->views(optimizer_->m()), from->m);
  copy_into(arena_->views(optimizer_->v()), from->v);
  resume_average(*arena_, *optimizer_, trains_e2e() ? from->e2e_ema : from->ema, from->path);
}

/// Weights and counters of the checkpoint that the run goes on from.
void RestoreTrainer::take_over(const RestoreCheckpoint& from) {
  if (pictures_.hash != from.data_hash)
    fail(Error::Kind::data, "--resume: the data of '", config_.data, "' is not what this run was trained on: its hash ",
         "is ", pictures_.hash, " (", pictures_.count(), " pictures), the run has ", from.data_hash, " (",
         from.data_count, " of '", from.data, "')");
  if (!(model_ == from.config) || from.e2e_steps != config_.e2e_steps ||
      (e2e_ && !(e2e_->config() == *from.e2e_config)))
    fail(Error::Kind::checkpoint, from.path, ": holds other networks than this run: ", to_json(from.config),
         "\n  expected ", to_json(model_));
  if (!from.model.empty()) denoiser_.load_state(as_map(from.model));
  if (e2e_) e2e_->load_state(as_map(from.e2e));
  denoiser_.unet().generator() = from.random;
  step_ = saved_step_ = from.step;
  saved_hash_ = from.hash;
  // Going on from another file than the newest, because that one is damaged: it must not push out a whole one.
  keep_current_ = job_.ckpt.empty();
  if (!keep_current_) saved_step_ = -1;
}

/// Arena and optimiser of the network whose steps come now. The end-to-end network leaves with its averaged weights.
void RestoreTrainer::begin_phase() {
  if (arena_ && !trains_e2e() && optimizer_->ema().defined()) arena_->values().copy_(optimizer_->ema());
  optimizer_.reset();
  arena_.reset();
  if (e2e_) e2e_->train(trains_e2e());
  arena_.emplace(trained());
  optimizer_.emplace(*arena_, optimizer_options(config_, trains_e2e()));
  optimizer_->set_steps(trains_e2e() ? step_ : step_ - config_.e2e_steps);
}

void RestoreTrainer::say_plan() {
  if (job_.common.quiet) return;
  auto number = [](int64_t value) { return static_cast<long long>(value); };
  std::fprintf(stderr, "data       %s: %s pictures, squares of %lldx%lldx%lld; %s\n", pictures_.name.c_str(),
               count_text(pictures_.count()).c_str(), number(side_), number(side_), number(model_.net.channels),
               config_.task.c_str());
  if (e2e_)
    std::fprintf(stderr, "end-to-end %s: %s parameters, %s steps\n", config_.e2e_net.c_str(),
                 count_text(e2e_->parameter_count()).c_str(), count_text(config_.e2e_steps).c_str());
  std::fprintf(stderr, "network    %s: %s parameters, %s; %s schedule, %lld levels; computes in %s\n",
               config_.net.c_str(), count_text(denoiser_.parameter_count()).c_str(), config_.method.c_str(),
               schedule_.name().c_str(), number(schedule_.steps()), config_.precision.c_str());
  std::fprintf(stderr, "run        %s, steps %lld to %lld on %s\n", run_.path().c_str(), number(step_ + 1),
               number(total_steps_), concat_text(device_).c_str());
  std::string warning = model_.is_resfusion() ? "" : resensemble::start_warning(schedule_);
  if (!warning.empty()) std::fprintf(stderr, "mote: warning: %s\n", warning.c_str());
}

// ---- A step --------------------------------------------------------------------------------------------------------

Tensor RestoreTrainer::loss_of(const RestoreBatch& batch) {
  Tensor clean = batch.clean.to(device_), damaged = batch.damaged.to(device_);
  if (trains_e2e()) {
    Tensor restored = cast(e2e_->forward(cast(damaged, precision_)), DType::f32);
    return config_.e2e_loss == "l1" ? nn::l1_loss(restored, clean) : nn::charbonnier_loss(restored, clean);
  }
  Tensor prior = damaged;
  if (e2e_) {
    NoGrad frozen;
    prior = cast(e2e_->forward(cast(damaged, precision_)), DType::f32);
  }
  StepDraws draws = draw_step(config_.seed, step_, clean.shape(), schedule_.steps(), 0);
  return resensemble::training_loss(denoiser_, model_, schedule_, damaged, clean, prior, draws.t.to(device_),
                                    draws.noise.to(device_));
}

void RestoreTrainer::step() {
  Clock::time_point begun = Clock::now();
  RestoreBatch batch = batches_->next();
  double waited = seconds_since(begun);
  lr_ = optimizer_->lr();
  arena_->zero_grad();
  Tensor loss = loss_of(batch);
  backward(loss);
  nn::StepOutcome done =
      step_or_end(*optimizer_, loss, "restore", step_, saved_step_,
                  concat_text("a smaller ", trains_e2e() ? "--e2e-lr" : "--lr", " (now ", number_text(lr_), ") may help"));
  grad_norm_ = done.grad_norm;
  ++step_;
  meter_.add(done.loss, waited, seconds_since(begun));
}

// ---- Log, checkpoint, grid -----------------------------------------------------------------------------------------

std::string RestoreTrainer::loss_text() const {
  return meter_.loss_text(trains_e2e() ? ", end-to-end" : "");
}

/// Called before the next phase begins: a record holds losses of one network.
void RestoreTrainer::log() {
  if (meter_.steps() == 0) return;
  Json record = {{"step", step_}, {"images", step_ * config_.batch},
                 {"phase", step_ <= config_.e2e_steps ? "end-to-end" : "diffusion"}, {"loss", meter_.loss()},
                 {"lr", lr_}, {"grad_norm", grad_norm_},
                 {"images_per_s", meter_.images_per_s(config_.batch)},
                 {"data_ms", meter_.data_ms()},
                 {"rss_mib", double(resident_bytes()) / (1 << 20)}};
  run_.append_log(record.dump());
  meter_.clear_window();
}

void RestoreTrainer::save() {
  if (saved_step_ == step_) return;
  RestoreCheckpoint c;
  c.step = step_;
  c.images = step_ * config_.batch;
  c.e2e_steps = config_.e2e_steps;
  c.seed = config_.seed;
  c.random = denoiser_.unet().generator();
  c.config = model_;
  if (e2e_) c.e2e_config = e2e_->config();
  c.data = config_.data;
  c.data_hash = pictures_.hash;
  c.data_count = pictures_.count();
  c.train = to_json(config_);
  if (e2e_) c.e2e = e2e_->parameters();
  if (!trains_e2e()) c.model = denoiser_.parameters();
  c.m = arena_->views(optimizer_->m());
  c.v = arena_->views(optimizer_->v());
  if (optimizer_->ema().defined()) (trains_e2e() ? c.e2e_ema : c.ema) = arena_->views(optimizer_->ema());
  replace_in_run(run_.path(), [&](const std::string& path) { save_restore_checkpoint(path, c); }, keep_current_);
  keep_current_ = true;
  saved_step_ = step_;
  saved_hash_ = c.hash;
}

/// A row a picture: damaged, prior if there is an end-to-end network, one sample once the diffusion has begun, clean.
void RestoreTrainer::sample() {
  if (config_.sample_count == 0 || sampled_step_ == step_) return;
  int64_t count = std::min(config_.sample_count, pictures_.count());
  std::vector<Tensor> squares;
  for (int64_t n = 0; n < count; ++n) {
    Tensor square = middle_square(pictures_.images[size_t(n)], side_);
    squares.push_back(square.view(square.shape().inserted(0, 1)));
  }
  Tensor clean = concat(squares, 0), damaged = degraded_batch(clean, degradation_, kGridSeed, 0);
  SwappedWeights averaged(arena_->values(), optimizer_->ema());
  EvaluationMode mode(trained());
  Restorer restorer{model_, &denoiser_, e2e_ ? &*e2e_ : nullptr, precision_, device_};
  RestoreDraw draw{.sampler = {.name = "ddim", .steps = std::min(config_.sample_steps, schedule_.steps())},
                   .seed = kGridSeed, .batch = std::min<int64_t>(count, 64)};
  draw.on_step = [&](int64_t done, int64_t total) {
    if (stop_signal()) throw Stopped{};
    progress_.update(step_, concat_text("restoring samples ", done, "/", total));
  };
  Tensor prior = prior_of(restorer, damaged, draw);
  std::vector<Tensor> columns{damaged};
  if (e2e_) columns.push_back(prior);
  if (step_ > config_.e2e_steps) {
    Tensor xbar = draw_restored(restorer, damaged, prior, draw);
    columns.push_back(resensemble::estimates(resensemble::sampled_target(model_), xbar, prior).mean);
  }
  columns.push_back(clean);
  std::vector<Tensor> cells;
  for (int64_t n = 0; n < count; ++n)
    for (const Tensor& column : columns) cells.push_back(column.rows(n, n + 1));
  io::save_png(run_.sample_file(step_), io::image_grid(concat(cells, 0), int64_t(columns.size())));
  sampled_step_ = step_;
  progress_.update(step_, loss_text());
}

// ---- All of it -----------------------------------------------------------------------------------------------------

RestoreResult RestoreTrainer::run() {
  if (job_.overwrite) run_.clear();
  std::filesystem::create_directories(run_.file("samples"));
  io::write_file_atomic(run_.file("config.toml"), to_toml(config_));
  run_.truncate_log(step_);
  say_plan();
  watch_signals("\nmote: finishing this step and saving; once more to stop at once\n");
  Clock::time_point begun = Clock::now();
  if (step_ < total_steps_)
    batches_.emplace(pictures_, side_, config_.batch, config_.seed, config_.flip, degradation_, step_);
  else
    progress_.say(concat_text("the run already has its ", step_, " steps; a larger --steps would continue it"));
  try {
    while (step_ < total_steps_ && !stop_signal()) {
      step();
      progress_.update(step_, loss_text());
      bool phase_ends = step_ == config_.e2e_steps;
      if (due(config_.log_every) || step_ == total_steps_ || phase_ends) log();
      if (phase_ends) {
        begin_phase();
        meter_.forget_loss();
      }
      if (due(config_.save_every)) save();
      if (due(config_.sample_every)) sample();
    }
    if (!stop_signal()) {
      save();   // before the last grid, which takes a while
      sample();
    }
  } catch (const Stopped&) {
  }
  save();
  progress_.finish();

  RestoreResult result;
  result.run = run_.path();
  result.checkpoint = run_.file(kCheckpointFile);
  result.checkpoint_hash = saved_hash_;
  result.precision = config_.precision;
  result.step = step_;
  result.images = step_ * config_.batch;
  result.parameters = denoiser_.parameter_count();
  result.e2e_parameters = e2e_ ? e2e_->parameter_count() : 0;
  result.loss = meter_.shown_loss();
  result.seconds = seconds_since(begun);
  result.images_per_s = meter_.total_images_per_s(config_.batch);
  result.signal = stop_signal();
  result.report = write_restore_report(run_.path());
  return result;
}

}  // namespace

RestoreResult train_restoration(const RestoreJob& job) {
  RunDir::Open how = opening_of(job);
  if (!job.resume) validate(job.config);
  Device device = start(job.common);
  RunDir run(job.out, how);
  if (!job.resume) return RestoreTrainer(job, device, run, job.config, nullptr).run();
  RestoreCheckpoint from = job.ckpt.empty()
                               ? load_newest(job.out, "to continue from it, add --ckpt {}", load_restore_checkpoint)
                               : load_restore_checkpoint(job.ckpt);
  RestoreConfig config = merge_keys(restore_config_from_json(from.train), job.config, job.given);
  validate(config);
  RestoreTrainer trainer(job, device, run, config, &from);
  from = {};   // its tensors have been copied
  return trainer.run();
}

}  // namespace mote::apps
