// segment_ddpm.cpp - training the residual DDPM (train_segment_ddpm); the loop is in segment_loop.cpp.
#include <algorithm>
#include <cmath>

#include "apps/signals.h"
#include "apps/segment_loop.h"
#include "apps/segment_prior.h"
#include "apps/trainer.h"
#include "tensor/io/image.h"

namespace mote::apps {
namespace {

constexpr int64_t kValidationSamples = 3;   // of every image
constexpr uint64_t kValidationSeed = 1;     // the same noise at every validation
constexpr int64_t kPictureRows = 8;

class DdpmTask : public SegmentTask {
 public:
  DdpmTask(const DdpmConfig& config, Device device, const SegmentCheckpoint* from, bool quiet)
      : config_(config), device_(device), train_(load_pairs(pair_options(config, "train"))) {
    require_same_data(from, train_);
    model_ = model_config(config, train_);
    coding_ = coding_of(config, train_.classes);
    PriorSource source{config.e2e, config.f, config.f_dir};
    prior_ = load_prior(source, train_, device, quiet);
    if (from && from->prior_hash != prior_.hash)
      fail(Error::Kind::data, "--resume: the prior is not what this run was trained on: the hash of its values is ",
           prior_.hash, " (", prior_.about, "), the run has ", from->prior_hash, " (", from->prior, ")");
    if (config.target_scale == "auto") model_.scale = measured_scale();
    schedule_.emplace(model_.levels());
    if (model_.is_resfusion() || prior_.about != "none") uses_prior_ = true;
    if (config.sample_count > 0) {
      PairOptions options = pair_options(config, "val");
      options.limit = options.limit > 0 ? std::min(options.limit, config.sample_count) : config.sample_count;
      if (config.f.empty()) {
        val_ = load_pairs(options);
        val_f_ = prior_in(coding_, load_prior(source, *val_, device, quiet).probability, val_->classes, config.hard_f);
      } else {   // the file holds the whole part
        Pairs whole = load_pairs(pair_options(config, "val"));
        Tensor p = load_prior(source, whole, device, quiet).probability;
        int64_t count = std::min(config.sample_count, whole.count());
        std::vector<int64_t> first(static_cast<size_t>(count));
        for (int64_t i = 0; i < count; ++i) first[size_t(i)] = i;
        val_ = pairs_at(whole, first);
        val_f_ = prior_in(coding_, p.rows(0, count).clone(), whole.classes, config.hard_f);
      }
    }
    net_.emplace(model_.net, config.seed);
    net_->unet().set_precision(precision_named(config.precision));
    moves_ = {config.batch, config.mirror, config.turn, config.shift, 0};
  }

  nn::Module& module() override { return *net_; }
  Generator& random() override { return net_->unet().generator(); }

  Tensor loss(int64_t step) override {
    PairBatch batch = pair_batch(train_, prior_.probability, moves_, config_.seed, step);
    Tensor ids = class_ids(batch.masks);
    Tensor f = prior_in(coding_, batch.guess, train_.classes, config_.hard_f);
    Tensor x0 = truth(ids, f), weight = weights(ids);
    StepDraws drawn = draw_step(config_.seed, step, x0.shape(), schedule_->steps(), 0);
    return resensemble::training_loss(*net_, model_, *schedule_, batch.images.to(device_), x0.to(device_),
                                      f.to(device_), drawn.t.to(device_), drawn.noise.to(device_),
                                      weight.defined() ? weight.to(device_) : weight);
  }

  nlohmann::ordered_json validate(int64_t step, const RunDir& run,
                                  const std::function<void(const std::string&)>& say) override {
    if (!val_) return {};
    resensemble::EnsembleOptions options;
    options.sampler = {.name = "ddim", .steps = std::min(config_.sample_steps, schedule_->steps())};
    options.samples = kValidationSamples;
    options.seed = kValidationSeed;
    options.plane = coding_ == resensemble::Coding::one_hot;
    options.observer = [&](const Tensor&, const Tensor&, int64_t done, int64_t total) {
      if (stop_signal()) throw Stopped{};
      say(concat_text("validating ", done, "/", total));
    };
    Tensor image = to_unit(val_->images).to(device_), f = val_f_.to(device_);
    Tensor xbar = resensemble::sample_model(*net_, model_, *schedule_, options, image, f);
    resensemble::Estimates e = resensemble::estimates(resensemble::sampled_target(model_), xbar, f);
    auto score = [&](const Tensor& y) {
      return segment_score(resensemble::decode(coding_, y, val_->classes).to(DType::u8), val_->masks, val_->classes);
    };
    int64_t rows = std::min(kPictureRows, val_->count());
    io::save_png(run.sample_file(step),
                 segment_picture(val_->images.rows(0, rows), val_->masks.rows(0, rows), val_->classes,
                                 val_f_.rows(0, rows), e.mean.rows(0, rows), e.residual.rows(0, rows),
                                 e.variance.rows(0, rows), coding_));
    double own = score(e.mean);
    nlohmann::ordered_json found = {{"score", own}};
    if (uses_prior_) found["score_of_f"] = score(val_f_);
    return found;
  }

  void describe(SegmentCheckpoint& c) const override {
    c.kind = "ddpm";
    c.net = resensemble::to_json(model_);
    c.data = config_.data;
    c.data_hash = train_.hash;
    c.data_count = train_.count();
    c.class_names = train_.class_names;
    c.classes = train_.classes;
    c.height = train_.images.size(1);
    c.width = train_.images.size(2);
    c.channels = train_.images.size(3);
    c.coding = name_of(coding_);
    c.prior = prior_.about;
    c.prior_hash = prior_.hash;
  }
  void restore(const SegmentCheckpoint&) override {}
  void finish(SegmentResult&) const override {}
  std::string plan() const override {
    std::string warning = resensemble::start_warning(*schedule_);
    return concat_text("data       ", train_.name, ": ", count_text(train_.count()), " images of ", model_.net.size,
                       "x", model_.net.size, "x", model_.net.image_channels, ", ", train_.classes, " classes as ",
                       name_of(coding_), "\nprior      ", prior_.about, ", mean |R| ", short_residual(),
                       "\nnetwork    ", config_.net, ": ", count_text(net_->parameter_count()), " parameters; target ",
                       model_.target, ", schedule ", model_.is_resfusion() ? "resfusion" : model_.schedule, ", T ",
                       model_.T, "\n", warning.empty() || model_.is_resfusion() ? "" : "warning    " + warning + "\n");
  }

 private:
  Tensor truth(const Tensor& ids, const Tensor& f) const {
    return resensemble::fill_ignored(resensemble::encode(coding_, ids, train_.classes, kIgnored), f, ids, kIgnored);
  }

  /// 0 where ignored, 1 + foreground where not of class 0; undefined if all are 1.
  Tensor weights(const Tensor& ids) const {
    Tensor weight = resensemble::counted(ids, kIgnored);
    bool all = config_.foreground == 0;
    for (int64_t i = 0; i < ids.numel(); ++i) {
      int64_t id = ids.data<int64_t>()[i];
      all = all && id != kIgnored;
      if (id != kIgnored && id != 0) weight.data<float>()[i] += float(config_.foreground);
    }
    return all ? Tensor{} : weight;
  }

  double measured_scale() const {
    Tensor ids = class_ids(train_.masks), f = prior_in(coding_, prior_.probability, train_.classes, config_.hard_f);
    return resensemble::target_rms(resensemble::target_named(config_.target), truth(ids, f), f);
  }

  std::string short_residual() const {
    Tensor f = prior_in(coding_, prior_.probability, train_.classes, config_.hard_f);
    Tensor x0 = truth(class_ids(train_.masks), f);
    char text[32];
    NoGrad no_grad;
    std::snprintf(text, sizeof text, "%.4f", mean(abs(f - x0)).item());
    return text;
  }

  DdpmConfig config_;
  Device device_;
  Pairs train_;
  resensemble::ModelConfig model_;
  resensemble::Coding coding_ = resensemble::Coding::binary;
  Prior prior_;
  bool uses_prior_ = false;
  std::optional<Schedule> schedule_;
  std::optional<Pairs> val_;   // unless nothing is to be sampled
  Tensor val_f_;
  std::optional<nn::Denoiser> net_;
  BatchOptions moves_;
};

}  // namespace

SegmentResult train_segment_ddpm(const SegmentJob<DdpmConfig>& job) {
  auto run = [&](Device device, RunDir& folder, const DdpmConfig& config, const SegmentCheckpoint* from) {
    DdpmTask task(config, device, from, job.common.quiet);
    LoopOptions options;
    options.name = "train";
    options.config_toml = keys_to_toml("segment train-ddpm", config, [](Key) { return false; });
    options.config_json = keys_to_json(config);
    options.optimizer = config_keys::optimizer_of(config, config.lr, config.steps);
    options.steps = config.steps;
    options.batch = config.batch;
    options.log_every = config.log_every;
    options.save_every = config.save_every;
    options.validate_every = config.sample_every;
    options.seed = config.seed;
    options.quiet = job.common.quiet;
    options.overwrite = job.overwrite;
    options.keep_current = job.ckpt.empty();
    return run_loop(task, folder, options, device, from);
  };
  return run_job(job, "residual DDPM configuration", "ddpm", run);
}

}  // namespace mote::apps
