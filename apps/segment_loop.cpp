#include "apps/segment_loop.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <optional>

#include "apps/progress.h"
#include "apps/segment_report.h"
#include "apps/signals.h"
#include "apps/training_meter.h"
#include "apps/weights.h"
#include "tensor/io/file.h"

namespace mote::apps {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

class Loop {
 public:
  Loop(SegmentTask& task, RunDir& run, const LoopOptions& options, Device device, const SegmentCheckpoint* from)
      : task_(task), run_(run), o_(options), device_(device),
        progress_(options.name, from ? from->step : 0, options.steps, "step", options.quiet) {
    nn::Module& module = task.module();
    if (from) {
      module.load_state(as_map(from->model));
      task.random() = from->random;
      task.restore(*from);
      step_ = from->step;
      keep_current_ = options.keep_current;
      if (keep_current_) saved_step_ = step_;
      saved_hash_ = from->hash;
    }
    module.to(device);
    arena_.emplace(module);
    optimizer_.emplace(*arena_, options.optimizer);
    if (!from) return;
    copy_into(arena_->views(optimizer_->m()), from->m);
    copy_into(arena_->views(optimizer_->v()), from->v);
    resume_average(*arena_, *optimizer_, from->ema, from->path);
    optimizer_->set_steps(step_);
  }

  SegmentResult run() {
    if (o_.overwrite) run_.clear();
    std::filesystem::create_directories(run_.file("samples"));
    io::write_file_atomic(run_.file("config.toml"), o_.config_toml);
    run_.truncate_log(step_);
    if (!o_.quiet)
      std::fprintf(stderr, "%srun        %s, steps %lld to %lld on %s\n", task_.plan().c_str(), run_.path().c_str(),
                   static_cast<long long>(step_ + 1), static_cast<long long>(o_.steps), concat_text(device_).c_str());
    watch_signals("\nmote: finishing this step and saving; once more to stop at once\n");
    Clock::time_point begun = Clock::now();
    if (step_ >= o_.steps) progress_.say(concat_text("the run already has its ", step_, " steps"));
    try {
      while (step_ < o_.steps && !stop_signal()) {
        step();
        progress_.update(step_, meter_.loss_text());
        bool is_last = step_ == o_.steps;
        if (step_ % o_.log_every == 0 || is_last) log();
        // Before the save: a checkpoint of this step must know what the validation of this step has found.
        if (is_last || (o_.validate_every > 0 && step_ % o_.validate_every == 0)) validate();
        if (o_.save_every > 0 && step_ % o_.save_every == 0) save();
      }
    } catch (const Stopped&) {
    }
    save();
    progress_.finish();
    SegmentResult result;
    result.run = run_.path();
    result.checkpoint = run_.file(kCheckpointFile);
    result.checkpoint_hash = saved_hash_;
    result.step = step_;
    result.images = step_ * o_.batch;
    result.parameters = task_.module().parameter_count();
    result.loss = meter_.shown_loss();
    result.score = score_;
    result.seconds = seconds_since(begun);
    result.images_per_s = meter_.total_images_per_s(o_.batch);
    result.signal = stop_signal();
    task_.finish(result);
    result.report = write_segment_report(run_.path());
    return result;
  }

 private:
  void step() {
    Clock::time_point begun = Clock::now();
    lr_ = optimizer_->lr();
    arena_->zero_grad();
    Tensor loss = task_.loss(step_);
    backward(loss);
    nn::StepOutcome done = step_or_end(*optimizer_, loss, "training", step_, saved_step_,
                                       concat_text("a smaller --lr (now ", number_text(o_.optimizer.lr), ") may help"));
    grad_norm_ = done.grad_norm;
    ++step_;
    meter_.add(done.loss, 0, seconds_since(begun));
  }

  void log() {
    Json record = {{"step", step_}, {"images", step_ * o_.batch}, {"loss", meter_.loss()}, {"lr", lr_},
                   {"grad_norm", grad_norm_}, {"images_per_s", meter_.images_per_s(o_.batch)},
                   {"rss_mib", double(resident_bytes()) / (1 << 20)}};
    run_.append_log(record.dump());
    meter_.clear_window();
  }

  void validate() {
    SwappedWeights averaged(arena_->values(), optimizer_->ema());
    Json found = task_.validate(step_, run_, [&](const std::string& text) { progress_.update(step_, text); });
    if (found.is_null()) return;
    Json record = {{"step", step_}, {"validation", true}};
    record.update(found);
    run_.append_log(record.dump());
    auto score = found.find("score");
    score_ = score != found.end() && score->is_number() ? score->get<double>() : NAN;
    char text[64];
    std::snprintf(text, sizeof text, "step %lld: validation %.4f", static_cast<long long>(step_), score_);
    progress_.say(text);
  }

  void save() {
    if (saved_step_ == step_) return;
    SegmentCheckpoint c;
    c.step = step_;
    c.images = step_ * o_.batch;
    c.seed = o_.seed;
    c.random = task_.random();
    c.train = o_.config_json;
    c.model = arena_->views(arena_->values());
    c.m = arena_->views(optimizer_->m());
    c.v = arena_->views(optimizer_->v());
    if (optimizer_->ema().defined()) c.ema = arena_->views(optimizer_->ema());
    task_.describe(c);
    replace_in_run(run_.path(), [&](const std::string& path) { save_segment_checkpoint(path, c); }, keep_current_);
    keep_current_ = true;
    saved_step_ = step_;
    saved_hash_ = c.hash;
  }

  SegmentTask& task_;
  RunDir& run_;
  const LoopOptions& o_;
  Device device_;
  Progress progress_;
  std::optional<nn::Arena> arena_;
  std::optional<nn::Optimizer> optimizer_;
  int64_t step_ = 0, saved_step_ = -1;   // step_: done
  bool keep_current_ = true;
  std::string saved_hash_;
  TrainingMeter meter_;
  double grad_norm_ = 0, lr_ = 0, score_ = NAN;
};

}  // namespace

SegmentResult run_loop(SegmentTask& task, RunDir& run, const LoopOptions& options, Device device,
                       const SegmentCheckpoint* from) {
  return Loop(task, run, options, device, from).run();
}

void require_same_data(const SegmentCheckpoint* from, const Pairs& data) {
  if (from && from->data_hash != data.hash)
    fail(Error::Kind::data, "--resume: the data of '", data.name, "' is not what this run was trained on: its hash is ",
         data.hash, " (", data.count(), " images), the run has ", from->data_hash, " (", from->data_count,
         " images of '", from->data, "')");
}

}  // namespace mote::apps
