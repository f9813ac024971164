#include "apps/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "apps/dataset.h"
#include "apps/draw.h"
#include "apps/memory_plan.h"
#include "apps/progress.h"
#include "apps/report.h"
#include "apps/run_dir.h"
#include "apps/signals.h"
#include "apps/training_meter.h"
#include "apps/weights.h"
#include "tensor/allocator.h"
#include "tensor/graph.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"

namespace mote::apps {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

constexpr uint64_t kTrain = 0x747261696e;   // "train": key of the stream that steps draw from
constexpr uint64_t kGridSeed = 0;           // noise of the grids: the same at every step, so that they can be compared

// ---- Before the first step -----------------------------------------------------------------------------------------

void check_job(const TrainJob& job) {
  auto given = [&](const char* name) { return std::find(job.given.begin(), job.given.end(), name) != job.given.end(); };
  if (job.resume) return;   // the network is that of the run; merge_for_resume compares the flags
  for (const char* name : {"base", "mult", "blocks", "attention", "heads", "groups"})
    if (given(name) && job.config.unet != "custom")
      fail(Error::Kind::usage, "--", name, ": only with --unet custom (it is '", job.config.unet, "')");
  validate(job.config);
}

Checkpoint load_to_resume(const TrainJob& job) {
  Checkpoint checkpoint =
      job.ckpt.empty() ? load_from_run(job.out, "to continue from it, add --ckpt {}") : load_checkpoint(job.ckpt);
  if (checkpoint.train.empty() || checkpoint.m.empty() || checkpoint.v.empty() || checkpoint.model.empty())
    fail(Error::Kind::checkpoint, checkpoint.path,
         ": holds weights only (it was exported); a run is resumed from a checkpoint that training wrote");
  return checkpoint;
}

Dataset load_data(const TrainConfig& config) {
  Dataset data = load_square_dataset({.spec = config.data, .split = "train", .size = config.size,
                                      .channels = config.channels, .limit = config.limit, .labels = config.labels});
  if (config.class_cond && data.classes() == 0)
    fail(Error::Kind::usage, "--class-cond: the data of --data ", config.data, " has no labels");
  return data;
}

// ---- The run -------------------------------------------------------------------------------------------------------

class Trainer {
 public:
  Trainer(const TrainJob& job, Device device, RunDir& run, const TrainConfig& config, const Checkpoint* from);
  TrainResult run();

 private:
  void say_plan() const;
  void step();
  void read_outcomes();
  void log();
  void save();
  void sample();
  bool due(int64_t every) const { return every > 0 && step_ % every == 0; }
  [[noreturn]] void diagnose(int64_t step, double loss, const Generator& dropout);

  /// What the network reads in a step, on the device.
  struct Inputs {
    Tensor x, t, ids, target;
  };
  Inputs prepare(const Batch& batch, int64_t step) const;
  Tensor loss_of(const Inputs& in);

  const TrainJob& job_;
  Device device_;
  RunDir& run_;
  TrainConfig config_;
  Dataset data_;
  Schedule schedule_;
  Prediction prediction_;
  nn::UNet unet_;
  std::optional<nn::Arena> arena_;
  std::optional<nn::Optimizer> optimizer_;
  std::optional<MemoryPlan> plan_;   // if there is a step to do
  std::optional<BatchLoader> loader_;
  Progress progress_;

  int64_t step_ = 0;        // steps done
  int64_t saved_step_ = -1, sampled_step_ = -1;
  std::string saved_hash_;
  bool keep_current_ = true;   // as the previous checkpoint; false if the run goes on from another one
  Graph graph_;             // zeroing, forward and backward
  Inputs inputs_;           // the same tensors at each step on a GPU, where a replay reads them
  Tensor loss_;
  std::vector<Generator> dropout_;   // of the steps whose outcome has not been read, to repeat one that failed
  TrainingMeter meter_;
  double grad_norm_ = 0, lr_ = 0;
};

Trainer::Trainer(const TrainJob& job, Device device, RunDir& run, const TrainConfig& config, const Checkpoint* from)
    : job_(job), device_(device), run_(run), config_(config), data_(load_data(config)),
      schedule_(Schedule::named(config.schedule, config.T)), prediction_(prediction_named(config.prediction)),
      unet_(unet_config(config, data_.images.size(1), data_.images.size(3), config.class_cond ? data_.classes() : 0),
            config.seed),
      progress_("train", from ? from->step : 0, config.steps, "step", job.common.quiet), graph_(device) {
  config_.dropout = unet_.config().dropout;
  unet_.set_recompute(config_.recompute);
  unet_.set_precision(precision_named(config_.precision));
  if (config_.sample_count > 0)
    plan_sampler(schedule_, {.name = "ddim", .steps = std::min(config_.sample_steps, config_.T)});
  if (from) {
    if (data_.hash != from->data_hash)
      fail(Error::Kind::data, "--resume: the data of '", config.data, "' is not what this run was trained on: its hash is ",
           data_.hash, " (", data_.count(), " images), the run has ", from->data_hash, " (", from->data_count,
           " images of '", from->data, "')");
    if (!(unet_.config() == from->unet))
      fail(Error::Kind::checkpoint, from->path, ": holds another UNet than this run: ", nn::to_json(from->unet),
           "\n  expected ", nn::to_json(unet_.config()));
    unet_.load_state(as_map(from->model));
    unet_.generator() = from->random;
    step_ = saved_step_ = from->step;
    saved_hash_ = from->hash;
    // Going on from another file than the newest, because that one is damaged: it must not push out a whole one.
    keep_current_ = job.ckpt.empty();
    if (!keep_current_) saved_step_ = -1;
  }
  unet_.to(device_);
  arena_.emplace(unet_);
  optimizer_.emplace(*arena_, optimizer_options(config_));
  if (from) {
    copy_into(arena_->views(optimizer_->m()), from->m);
    copy_into(arena_->views(optimizer_->v()), from->v);
    resume_average(*arena_, *optimizer_, from->ema, from->path);
    optimizer_->set_steps(from->step);
  }
}

void Trainer::say_plan() const {
  if (job_.common.quiet) return;
  const nn::UNetConfig& unet = unet_.config();
  std::fprintf(stderr, "data       %s: %s images of %lldx%lldx%lld%s\n", data_.name.c_str(),
               count_text(data_.count()).c_str(), static_cast<long long>(unet.size), static_cast<long long>(unet.size),
               static_cast<long long>(unet.channels),
               unet.classes > 0 ? concat_text(", ", unet.classes, " classes").c_str() : "");
  std::fprintf(stderr, "network    %s: %s parameters, predicts %s; %s schedule, T %lld; computes in %s\n",
               config_.unet.c_str(), count_text(unet_.parameter_count()).c_str(), name_of(prediction_),
               config_.schedule.c_str(), static_cast<long long>(config_.T), config_.precision.c_str());
  if (plan_) {
    std::string parts;
    auto part = [&](const char* name, int64_t bytes) {
      if (bytes > 0) parts += concat_text(parts.empty() ? "" : ", ", name, " ", bytes_text(bytes));
    };
    part("weights", plan_->weights);
    part("bf16 copy", plan_->working);
    part("gradients", plan_->gradients);
    part("moments", plan_->moments);
    part("average", plan_->average);
    part("data", plan_->others);
    part("batches", plan_->batches);
    part("activations", plan_->activations);
    part("workspace", plan_->workspace);
    std::fprintf(stderr, "memory     %s at the peak of a step: %s\n", bytes_text(plan_->peak()).c_str(), parts.c_str());
  }
  std::fprintf(stderr, "run        %s, steps %lld to %lld on %s\n", run_.path().c_str(), static_cast<long long>(step_ + 1),
               static_cast<long long>(config_.steps), concat_text(device_).c_str());
}

Trainer::Inputs Trainer::prepare(const Batch& batch, int64_t step) const {
  double label_dropout = unet_.config().classes > 0 ? config_.label_dropout : 0;
  StepDraws draws = draw_step(config_.seed, step, batch.images.shape(), config_.T, label_dropout);
  Tensor x0 = batch.images.to(device_), noise = draws.noise.to(device_);
  const Tensor& t = draws.t;   // stays where it was drawn: to read it back from a GPU would stop the stream
  Inputs in;
  in.x = q_sample(schedule_, x0, t, noise);
  in.t = t.to(DType::f32).to(device_);
  in.target = training_target(schedule_, prediction_, x0, t, noise);
  if (unet_.config().classes > 0) {
    Tensor labels = batch.labels.clone();
    for (size_t i = 0; i < draws.hidden.size(); ++i)
      if (draws.hidden[i]) labels.data<int64_t>()[i] = unet_.config().classes;
    in.ids = labels.to(device_);
  }
  return in;
}

Tensor Trainer::loss_of(const Inputs& in) { return mse_loss(unet_.forward(in.x, in.t, in.ids), in.target); }

void Trainer::step() {
  Clock::time_point begun = Clock::now();
  Batch batch = loader_->next();
  double waited = seconds_since(begun);
  Inputs fresh = prepare(batch, step_);
  if (device_.is_cpu() || !inputs_.x.defined()) {
    inputs_ = fresh;
  } else {
    inputs_.x.copy_(fresh.x);
    inputs_.t.copy_(fresh.t);
    inputs_.target.copy_(fresh.target);
    if (inputs_.ids.defined()) inputs_.ids.copy_(fresh.ids);
  }
  fresh = {};
  lr_ = optimizer_->lr();
  dropout_.push_back(unet_.generator());
  graph_.run([this] {
    arena_->zero_grad();
    loss_ = loss_of(inputs_);
    backward(loss_);
  }, unet_.generator());
  optimizer_->queue(loss_);
  ++step_;
  // The outcome of a GPU's step is read when it is wanted, so that the host runs ahead.
  bool unread = device_.is_cuda() && optimizer_->queued() < nn::Optimizer::kMostQueued && meter_.total_seconds() > 0;
  if (!unread) read_outcomes();
  meter_.add_time(waited, seconds_since(begun));
}

/// Takes in what the queued steps have found; waits for a GPU.
void Trainer::read_outcomes() {
  std::vector<nn::StepOutcome> outcomes = optimizer_->read();
  for (size_t i = 0; i < outcomes.size(); ++i) {
    if (!outcomes[i].is_finite()) diagnose(optimizer_->steps(), outcomes[i].loss, dropout_[i]);
    meter_.add_loss(outcomes[i].loss);
    grad_norm_ = outcomes[i].grad_norm;
  }
  dropout_.clear();
}

/// Does step `step` (from 0), which left the weights as they were, once more, and fails naming the first tensor that is
/// not finite: a weight, the input, the output of an op, or a gradient.
void Trainer::diagnose(int64_t step, double loss, const Generator& dropout) {
  std::string found = std::isfinite(loss) ? "" : concat_text("the loss is ", loss);
  try {
    require_finite("parameter", arena_->views(arena_->values()));
    Batch batch = BatchLoader::make(data_, config_.batch, config_.seed, config_.flip, step);
    require_finite("input", {{"images", batch.images}});
    Inputs in = prepare(batch, step);
    unet_.generator() = dropout;
    {
      NoGrad no_grad;
      Watch watch([](const char* op, const Tensor& y) { require_finite("output of", {{op, y}}); });
      loss_of(in);
    }
    unet_.generator() = dropout;
    arena_->zero_grad();
    backward(loss_of(in));
    std::string bad = optimizer_->bad_gradient();
    found += concat_text(found.empty() ? "" : "; ", bad.empty() ? "done once more, the step is finite"
                                                                : "the gradient of '" + bad + "' is not finite");
  } catch (const Error& error) {
    if (error.kind() != Error::Kind::numeric) throw;
    found += concat_text(found.empty() ? "" : "; ", "the first bad tensor: ", error.what());
  }
  std::string kept = saved_step_ > 0 ? concat_text("the checkpoint of step ", saved_step_, " (",
                                                    run_.file(kCheckpointFile), ") is kept")
                                      : std::string("no checkpoint had been written yet");
  fail(Error::Kind::numeric, "training step ", step + 1, ": ", found, "\n  ", kept,
       "; a smaller --lr (now ", number_text(config_.lr), ") or a smaller --clip may help");
}

void Trainer::log() {
  Clock::time_point begun = Clock::now();
  read_outcomes();
  meter_.add_time(0, seconds_since(begun));
  nlohmann::ordered_json record = {{"step", step_}, {"images", step_ * config_.batch},
                                   {"loss", meter_.loss()}, {"lr", lr_},
                                   {"grad_norm", grad_norm_},
                                   {"images_per_s", meter_.images_per_s(config_.batch)},
                                   {"data_ms", meter_.data_ms()},
                                   {"rss_mib", double(resident_bytes()) / (1 << 20)}};
  run_.append_log(record.dump());
  meter_.clear_window();
}

void Trainer::save() {
  if (saved_step_ == step_) return;
  read_outcomes();   // after a step that failed nothing is saved
  Checkpoint c;
  c.step = step_;
  c.images = step_ * config_.batch;
  c.seed = config_.seed;
  c.random = unet_.generator();
  c.unet = unet_.config();
  c.schedule = config_.schedule;
  c.T = config_.T;
  c.prediction = prediction_;
  c.data = config_.data;
  c.data_hash = data_.hash;
  c.data_count = data_.count();
  c.class_names = data_.class_names;
  c.train = to_json(config_);
  c.model = arena_->views(arena_->values());
  c.m = arena_->views(optimizer_->m());
  c.v = arena_->views(optimizer_->v());
  if (optimizer_->ema().defined()) c.ema = arena_->views(optimizer_->ema());
  save_in_run(run_.path(), c, keep_current_);
  keep_current_ = true;
  saved_step_ = step_;
  saved_hash_ = c.hash;
}

void Trainer::sample() {
  if (config_.sample_count == 0 || sampled_step_ == step_) return;
  DrawOptions draw{.sampler = ClipChoice{}.applied({.name = "ddim", .steps = std::min(config_.sample_steps, config_.T),
                                                    .prediction = prediction_}),
                   .count = config_.sample_count, .batch = std::min<int64_t>(config_.sample_count, 64), .seed = kGridSeed,
                   .class_ids = {}};
  if (int64_t classes = unet_.config().classes; classes > 0) {
    draw.class_ids = arange(draw.count);
    for (int64_t i = 0; i < draw.count; ++i) draw.class_ids.data<int64_t>()[i] = i % classes;
  }
  SwappedWeights averaged(arena_->values(), optimizer_->ema());
  Tensor images = draw_images(unet_, schedule_, draw, device_, [&](int64_t, const Tensor&, int64_t done, int64_t total) {
    if (stop_signal()) throw Stopped{};
    progress_.update(step_, concat_text("drawing samples ", done, "/", total));
  });
  io::save_png(run_.sample_file(step_), io::image_grid(images, grid_columns(draw.count)));
  sampled_step_ = step_;
  progress_.update(step_, meter_.loss_text());
}

TrainResult Trainer::run() {
  if (job_.overwrite) run_.clear();
  std::filesystem::create_directories(run_.file("samples"));
  io::write_file_atomic(run_.file("config.toml"), to_toml(config_));
  run_.truncate_log(step_);
  Allocator& allocator = Allocator::of(device_);
  int64_t loaded_peak = allocator.stats().peak, step_peak = 0;
  if (step_ < config_.steps) plan_ = plan_memory(unet_, *arena_, *optimizer_, config_.batch, device_);
  say_plan();
  watch_signals("\nmote: finishing this step and saving; once more to stop at once\n");
  Clock::time_point begun = Clock::now();
  if (step_ < config_.steps)
    loader_.emplace(data_, config_.batch, config_.seed, config_.flip, step_);
  else
    progress_.say(concat_text("the run already has its ", step_, " steps; a larger --steps would continue it"));
  allocator.reset_peak();   // from here on it is that of steps, not of loading or planning
  try {
    while (step_ < config_.steps && !stop_signal()) {
      step();
      if (step_peak == 0) {
        step_peak = allocator.stats().peak;
        progress_.say(concat_text("the first step took ", seconds_text(meter_.total_seconds()), ", memory at its peak ",
                                  bytes_text(step_peak)));
      }
      progress_.update(step_, meter_.loss_text());
      if (due(config_.log_every) || step_ == config_.steps) log();
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

  TrainResult result;
  result.run = run_.path();
  result.checkpoint = run_.file(kCheckpointFile);
  result.checkpoint_hash = saved_hash_;
  result.step = step_;
  result.images = step_ * config_.batch;
  result.parameters = unet_.parameter_count();
  result.precision = config_.precision;
  result.peak_bytes = std::max(loaded_peak, allocator.stats().peak);
  result.plan_bytes = plan_ ? plan_->peak() : 0;
  result.step_bytes = step_peak;
  result.loss = meter_.shown_loss();
  result.seconds = seconds_since(begun);
  result.images_per_s = meter_.total_images_per_s(config_.batch);
  result.signal = stop_signal();
  result.report = write_report(run_.path());
  return result;
}

}  // namespace

StepDraws draw_step(uint64_t seed, int64_t step, const Shape& images, int64_t T, double label_dropout) {
  Generator generator = Generator{seed}.fork(kTrain).fork(uint64_t(step));
  StepDraws draws;
  draws.t = randint(0, T, {images[0]}, generator);
  draws.noise = normal(images, DType::f32, generator);
  if (label_dropout > 0) {
    Tensor chance = uniform({images[0]}, DType::f32, generator);
    for (int64_t i = 0; i < images[0]; ++i) draws.hidden.push_back(chance.data<float>()[i] < label_dropout);
  }
  return draws;
}

TrainResult train(const TrainJob& job) {
  RunDir::Open how = opening_of(job);
  check_job(job);
  Device device = start(job.common);
  RunDir run(job.out, how);
  if (!job.resume) return Trainer(job, device, run, job.config, nullptr).run();
  Checkpoint from = load_to_resume(job);
  TrainConfig config = merge_for_resume(train_config_from_json(from.train), job.config, job.given);
  validate(config);
  Trainer trainer(job, device, run, config, &from);
  from = {};   // its tensors have been copied
  return trainer.run();
}

}  // namespace mote::apps
