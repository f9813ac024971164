// segment_e2e.cpp - training an end-to-end model (train_e2e), and what both trainings share of data and pictures.
#include <algorithm>
#include <cmath>

#include "apps/image_source.h"
#include "apps/seg_folder.h"
#include "apps/segment_loop.h"
#include "apps/segment_prior.h"
#include "diffusion/metrics/segmentation.h"
#include "diffusion/resensemble/folds.h"
#include "nn/segmentation_losses.h"

namespace mote::apps {

// ---- Data -----------------------------------------------------------------------------------------------------------

std::vector<int64_t> folds_of(const Pairs& data, const std::string& spec, int64_t folds) {
  std::vector<std::string> groups;
  const std::string prefix = "pairs:";
  if (spec.starts_with(prefix)) {
    PairFolder folder = open_folder(spec.substr(prefix.size()));
    for (const std::string& name : data.names) {
      auto found = folder.groups.find(name);
      groups.push_back(found == folder.groups.end() ? "image " + name : "group " + found->second);
    }
  }
  return resensemble::assign_folds(data.count(), folds, 0, groups);
}

Pairs pairs_at(const Pairs& data, const std::vector<int64_t>& numbers) {
  Pairs part = data;
  part.images = take_rows(data.images, numbers);
  part.masks = take_rows(data.masks, numbers);
  if (data.probability.defined()) part.probability = take_rows(data.probability, numbers);
  if (data.truths.defined()) part.truths = take_rows(data.truths, numbers);
  part.names.clear();
  for (int64_t i : numbers) part.names.push_back(data.names[size_t(i)]);
  part.hash = pairs_hash(part);
  return part;
}

double segment_score(const Tensor& predicted, const Tensor& masks, int64_t classes) {
  if (classes > 2) return metrics::class_scores(predicted, masks, classes).mean_iou;
  double sum = 0;
  int64_t N = masks.size(0);
  for (int64_t i = 0; i < N; ++i)
    sum += metrics::dice(metrics::count_pixels(predicted.rows(i, i + 1), masks.rows(i, i + 1)));
  return N > 0 ? sum / double(N) : NAN;
}

// ---- Pictures -------------------------------------------------------------------------------------------------------

Tensor segment_picture(const Tensor& images, const Tensor& masks, int64_t classes, const Tensor& f, const Tensor& mean,
                       const Tensor& residual, const Tensor& variance, resensemble::Coding coding) {
  int64_t N = images.size(0), H = images.size(1), W = images.size(2), K = f.size(3), C = images.size(3);
  constexpr int64_t kPanels = 6, kGap = 2;
  int64_t height = N * (H + kGap) - kGap, width = kPanels * (W + kGap) - kGap;
  Tensor picture = full({height, width, 3}, 255, DType::u8);
  Tensor guessed = resensemble::decode(coding, f, classes), decided = resensemble::decode(coding, mean, classes);
  auto grey = [](double v) { return uint8_t(std::lround(std::clamp(v, 0.0, 1.0) * 255)); };
  for (int64_t n = 0; n < N; ++n)
    for (int64_t i = 0; i < H * W; ++i) {
      int64_t pixel = n * H * W + i;
      auto put = [&](int64_t panel, uint8_t r, uint8_t g, uint8_t b) {
        uint8_t* at = picture.data<uint8_t>() + ((n * (H + kGap) + i / W) * width + panel * (W + kGap) + i % W) * 3;
        at[0] = r;
        at[1] = g;
        at[2] = b;
      };
      auto put_class = [&](int64_t panel, int64_t id) {
        if (id == kIgnored) return put(panel, 255, 0, 0);
        uint8_t v = grey(double(id) / double(classes - 1));
        put(panel, v, v, v);
      };
      auto largest = [&](const Tensor& x) {
        const float* at = x.data<float>() + pixel * K;
        return *std::max_element(at, at + K);
      };
      const uint8_t* image = images.data<uint8_t>() + pixel * C;
      put(0, image[0], image[C == 3 ? 1 : 0], image[C == 3 ? 2 : 0]);
      put_class(1, masks.data<uint8_t>()[pixel]);
      if (K == 1) {   // probabilities in grey; of several classes, decisions
        uint8_t prior = grey((f.data<float>()[pixel] + 1) / 2), y = grey((mean.data<float>()[pixel] + 1) / 2);
        put(2, prior, prior, prior);
        put(3, y, y, y);
      } else {
        put_class(2, guessed.data<int64_t>()[pixel]);
        put_class(3, decided.data<int64_t>()[pixel]);
      }
      uint8_t wrong = grey(largest(residual)), spread = grey(std::sqrt(double(largest(variance))));
      put(4, wrong, wrong, wrong);
      put(5, spread, spread, spread);
    }
  return picture;
}

// ---- End-to-end training -------------------------------------------------------------------------------------------

namespace {

class E2ETask : public SegmentTask {
 public:
  E2ETask(const E2EConfig& config, Device device, const SegmentCheckpoint* from)
      : config_(config), device_(device), train_(load_pairs(pair_options(config, "train"))), name_(train_.name) {
    Pairs val;
    if (config.folds > 0) {
      std::vector<int64_t> fold_of = folds_of(train_, config.data, config.folds);
      train_ = pairs_at(train_, resensemble::members(fold_of, config.fold, false));
    }
    val_ = load_pairs(pair_options(config, "val"));
    require_same_data(from, train_);
    net_.emplace(e2e_net_config(config, train_), config.seed);
    moves_ = {config.batch, config.mirror, config.turn, config.shift, config.crop};
  }

  int64_t epoch_steps() const { return std::max<int64_t>(1, (train_.count() + config_.batch / 2) / config_.batch); }
  nn::Module& module() override { return *net_; }
  Generator& random() override { return random_; }

  Tensor loss(int64_t step) override {
    PairBatch batch = pair_batch(train_, {}, moves_, config_.seed, step);
    Tensor ids = class_ids(batch.masks), logits = net_->forward(batch.images.to(device_));
    if (train_.classes > 2) return nn::class_dice_loss(logits, ids, kIgnored);
    Tensor weight = resensemble::counted(ids, kIgnored), truth = empty(weight.shape());
    for (int64_t i = 0; i < ids.numel(); ++i) truth.data<float>()[i] = ids.data<int64_t>()[i] == 1 ? 1 : 0;
    return nn::bce_dice_loss(logits, truth.to(device_), weight.to(device_));
  }

  nlohmann::ordered_json validate(int64_t step, const RunDir&,
                                  const std::function<void(const std::string&)>& say) override {
    Tensor logits = e2e_logits(*net_, val_.images, device_, [&](int64_t done) {
      say(concat_text("validating ", done, "/", val_.count()));
    });
    resensemble::Coding coding = val_.classes == 2 ? resensemble::Coding::binary : resensemble::Coding::one_hot;
    Tensor predicted = resensemble::decode(coding, logits, val_.classes).to(DType::u8);
    double score = segment_score(predicted, val_.masks, val_.classes);
    if (score > best_score_) {
      best_score_ = score;
      best_step_ = step;
      temperature_ = nn::fit_temperature(logits, class_ids(val_.masks), kIgnored);
      best_.clear();
      for (const auto& [name, value] : net_->parameters()) best_.emplace_back(name, value.detach().clone());
    }
    return {{"score", score}, {"best_score", best_score_}, {"best_step", best_step_}, {"temperature", temperature_}};
  }

  void describe(SegmentCheckpoint& c) const override {
    c.kind = "e2e";
    c.net = nn::to_json(net_->config());
    c.data = config_.data;
    c.data_hash = train_.hash;
    c.data_count = train_.count();
    c.class_names = train_.class_names;
    c.classes = train_.classes;
    c.height = train_.images.size(1);
    c.width = train_.images.size(2);
    c.channels = train_.images.size(3);
    c.temperature = temperature_;
    c.best_score = best_score_;
    c.best_step = best_step_;
    c.best = best_;
  }
  void restore(const SegmentCheckpoint& c) override {
    temperature_ = c.temperature;
    best_score_ = c.best_score;
    best_step_ = c.best_step;
    best_ = c.best;
  }
  void finish(SegmentResult& result) const override {
    result.score = best_score_ < 0 ? NAN : best_score_;
    result.best_step = best_step_;
    result.temperature = temperature_;
  }
  std::string plan() const override {
    return concat_text("data       ", name_, ": ", count_text(train_.count()), " images of ", train_.images.size(1),
                       "x", train_.images.size(2), "x", train_.images.size(3), ", ", train_.classes, " classes",
                       config_.folds > 0 ? concat_text(", without fold ", config_.fold, " of ", config_.folds) : "",
                       "; ", count_text(val_.count()), " to validate\nnetwork    ", config_.net, ": ",
                       count_text(net_->parameter_count()), " parameters\n");
  }

 private:
  E2EConfig config_;
  Device device_;
  Pairs train_, val_;
  std::string name_;
  std::optional<nn::E2ENet> net_;
  BatchOptions moves_;
  Generator random_;   // this network has no dropout
  double temperature_ = 1, best_score_ = -1;
  int64_t best_step_ = -1;
  nn::NamedTensors best_;
};

}  // namespace

SegmentResult train_e2e(const SegmentJob<E2EConfig>& job) {
  auto run = [&](Device device, RunDir& folder, const E2EConfig& config, const SegmentCheckpoint* from) {
    E2ETask task(config, device, from);
    int64_t epoch = task.epoch_steps(), steps = config.epochs * epoch;
    LoopOptions options;
    options.name = "end to end";
    options.config_toml = keys_to_toml("segment train-e2e", config, [](Key) { return false; });
    options.config_json = keys_to_json(config);
    options.optimizer = config_keys::optimizer_of(config, config.lr, steps);
    options.steps = steps;
    options.batch = config.batch;
    options.log_every = config.log_every;
    options.save_every = config.save_every;
    options.validate_every = epoch;
    options.seed = config.seed;
    options.quiet = job.common.quiet;
    options.overwrite = job.overwrite;
    options.keep_current = job.ckpt.empty();
    return run_loop(task, folder, options, device, from);
  };
  return run_job(job, "end-to-end configuration", "e2e", run);
}

}  // namespace mote::apps
