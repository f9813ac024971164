#include "apps/cluster_trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <numeric>

#include "apps/cluster_draw.h"
#include "apps/cluster_report.h"
#include "apps/dataset.h"
#include "apps/progress.h"
#include "apps/run_dir.h"
#include "apps/run_log.h"
#include "apps/signals.h"
#include "apps/training_meter.h"
#include "apps/trainer.h"
#include "apps/weights.h"
#include "diffusion/cluster/scores.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"

namespace mote::apps {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

constexpr uint64_t kCodeNoise = 0x7a, kProbe = 0x70726f6265;   // "z", "probe": keys of streams of the seed
constexpr int64_t kProbeImages = 512;                          // whose noise loss stands for all in F_lambda
constexpr int64_t kGridColumns = 8;                            // images of a cluster in a grid
constexpr int64_t kFewestOrders = 2;                           // --k auto tries this many clusters and more

// ---- The run -------------------------------------------------------------------------------------------------------

class ClusterTrainer {
 public:
  ClusterTrainer(const ClusterJob& job, Device device, RunDir& run, const ClusterConfig& config,
                 const ClusterCheckpoint* from);
  ClusterResult run();

 private:
  void say_plan() const;
  void begin_phase();
  void step();
  void log();
  void save();
  void e_step();
  cluster::MixtureFit fit(const cluster::Points& points);
  double probe_noise();
  void sample();
  std::string loss_text() const;
  double lambda() const;
  bool is_pretraining() const { return step_ < pretrain_steps_; }
  bool e_step_is_due() const;
  bool due(int64_t every) const { return every > 0 && step_ % every == 0; }

  const ClusterJob& job_;
  Device device_;
  RunDir& run_;
  ClusterConfig config_;
  Dataset data_;
  cluster::Model model_;
  int64_t epoch_steps_, pretrain_steps_, total_steps_;
  std::optional<nn::Arena> arena_;
  std::optional<nn::Optimizer> optimizer_;   // of the phase
  std::optional<BatchLoader> loader_;
  Progress progress_;

  std::optional<cluster::Mixture> mixture_;
  std::optional<cluster::MixtureTerms> terms_;   // of mixture_, for the losses
  int64_t fitted_step_ = -1;
  double free_energy_ = NAN, noise_ = NAN, matching_ = NAN;
  ClusterScores scores_{NAN, NAN, NAN};

  int64_t step_ = 0;        // steps done
  int64_t saved_step_ = -1, saved_fit_ = -1, sampled_step_ = -1;
  std::string saved_hash_;
  bool keep_current_ = true;   // as the previous checkpoint; false if the run goes on from another one
  // since the last log record
  TrainingMeter meter_;   // of both losses together
  double window_noise_ = 0, window_matching_ = 0, grad_norm_ = 0, lr_ = 0;
};

/// Batches that come nearest to a pass over the images: batches are always full, and epochs follow without a gap.
int64_t steps_of_epoch(int64_t images, int64_t batch) { return std::max<int64_t>(1, (images + batch / 2) / batch); }

ClusterTrainer::ClusterTrainer(const ClusterJob& job, Device device, RunDir& run, const ClusterConfig& config,
                               const ClusterCheckpoint* from)
    : job_(job), device_(device), run_(run), config_(config),
      data_(load_square_dataset({.spec = config.data, .split = "train", .size = config.size,
                                 .channels = config.channels, .limit = config.limit})),
      model_(model_config(config, data_.images.size(1), data_.images.size(3)), config.seed),
      epoch_steps_(steps_of_epoch(data_.count(), config.batch)),
      pretrain_steps_(config.pretrain * epoch_steps_),
      total_steps_(pretrain_steps_ + config.epochs * epoch_steps_),
      progress_("cluster", from ? from->step : 0, total_steps_, "step", job.common.quiet) {
  model_.set_precision(precision_named(config_.precision));
  int64_t most = config_.k == "auto" ? kFewestOrders : cluster_count(config_);
  if (most > data_.count())
    fail(Error::Kind::data, "--k: there are ", most, " clusters to find, but only ", data_.count(), " images");
  if (from) {
    if (data_.hash != from->data_hash)
      fail(Error::Kind::data, "--resume: the data of '", config.data, "' is not what this run was trained on: its hash is ",
           data_.hash, " (", data_.count(), " images), the run has ", from->data_hash, " (", from->data_count,
           " images of '", from->data, "')");
    if (!(model_.config() == from->config))
      fail(Error::Kind::checkpoint, from->path, ": holds other networks than this run: ", cluster::to_json(from->config),
           "\n  expected ", cluster::to_json(model_.config()));
    model_.load_state(as_map(from->model));
    copy_into(model_.buffers(), from->buffers);
    model_.generator() = from->random;
    step_ = saved_step_ = from->step;
    saved_hash_ = from->hash;
    if (from->mixture) mixture_ = from->mixture;
    fitted_step_ = saved_fit_ = from->fitted_step;
    if (mixture_) std::tie(noise_, matching_, free_energy_) = std::tuple(from->noise, from->matching, from->free_energy);
    keep_current_ = job.ckpt.empty();
    if (!keep_current_) saved_step_ = -1;
  }
  model_.to(device_);
  arena_.emplace(model_);
  begin_phase();
  if (mixture_) terms_.emplace(*mixture_, DType::f32, device_);
  if (from) {
    if (step_ != pretrain_steps_) {   // there the second phase begins, and the moments of the first one are not its own
      copy_into(arena_->views(optimizer_->m()), from->m);
      copy_into(arena_->views(optimizer_->v()), from->v);
    }
    resume_average(*arena_, *optimizer_, from->ema, from->path);
  }
}

/// The optimiser of the phase, at the step it stands at. The second phase begins with fresh moments, as published.
void ClusterTrainer::begin_phase() {
  int64_t begin = is_pretraining() ? 0 : pretrain_steps_, end = is_pretraining() ? pretrain_steps_ : total_steps_;
  optimizer_.emplace(*arena_, optimizer_options(config_, is_pretraining(), std::max<int64_t>(1, end - begin)));
  optimizer_->set_steps(step_ - begin);
}

void ClusterTrainer::say_plan() const {
  if (job_.common.quiet) return;
  const nn::ClusterNetConfig& net = model_.config().net;
  auto number = [](int64_t value) { return static_cast<long long>(value); };
  std::fprintf(stderr, "data       %s: %s images of %lldx%lldx%lld\n", data_.name.c_str(), count_text(data_.count()).c_str(),
               number(net.size), number(net.size), number(net.channels));
  std::fprintf(stderr, "networks   encoder and %s denoiser: %s parameters, codes of %lld numbers; computes in %s\n",
               config_.net.c_str(), count_text(model_.parameter_count()).c_str(), number(net.latent),
               config_.precision.c_str());
  std::fprintf(stderr, "run        %s: %lld epochs of pretraining and %lld with a mixture, %lld steps each, from step %lld on %s\n",
               run_.path().c_str(), number(config_.pretrain), number(config_.epochs), number(epoch_steps_),
               number(step_ + 1), concat_text(device_).c_str());
}

// ---- M-step --------------------------------------------------------------------------------------------------------

double ClusterTrainer::lambda() const {
  if (is_pretraining()) return config_.pretrain_kl;
  double epochs = double(step_ - pretrain_steps_) / double(epoch_steps_);
  return config_.lambda * (config_.lambda_warmup > 0 ? std::min(1.0, epochs / config_.lambda_warmup) : 1.0);
}

void ClusterTrainer::step() {
  Clock::time_point begun = Clock::now();
  Tensor images = loader_->next().images;
  double waited = seconds_since(begun);
  apps::StepDraws drawn = draw_step(config_.seed, step_, images.shape(), model_.schedule().steps(), config_.code_dropout);
  drawn.hidden.resize(size_t(images.size(0)), false);   // empty without dropout
  cluster::StepDraws draws{drawn.t.to(device_), drawn.noise.to(device_), {}, drawn.hidden};
  draws.code_noise = normal({images.size(0), config_.latent}, DType::f32,
                            Generator{config_.seed}.fork(kCodeNoise).fork(uint64_t(step_)), device_);
  cluster::StepOptions options{is_pretraining() ? nullptr : &*terms_, cluster::matching_named(config_.loss),
                               !config_.detach, lambda()};
  lr_ = optimizer_->lr();
  arena_->zero_grad();
  cluster::StepLosses losses = cluster::step_losses(model_, images.to(device_), draws, options);
  backward(losses.total);
  double noise = losses.noise.item(), matching = losses.matching.item();
  nn::StepOutcome done = step_or_end(
      *optimizer_, losses.total, "cluster", step_, saved_step_,
      concat_text("the noise loss is ", noise, ", the matching loss ", matching, "; a smaller --lr (now ",
                  number_text(lr_), ") or --lambda (now ", number_text(config_.lambda), ") may help"));
  grad_norm_ = done.grad_norm;
  ++step_;
  window_noise_ += noise;
  window_matching_ += matching;
  meter_.add(done.loss, waited, seconds_since(begun));
}

// ---- E-step --------------------------------------------------------------------------------------------------------

bool ClusterTrainer::e_step_is_due() const {
  if (is_pretraining() || fitted_step_ == step_) return false;
  return step_ == total_steps_ || (step_ - pretrain_steps_) % (config_.e_every * epoch_steps_) == 0;
}

/// The first fit, with --k auto over all orders, or one that goes on from the mixture so far.
cluster::MixtureFit ClusterTrainer::fit(const cluster::Points& points) {
  if (mixture_)
    return cluster::fit_codes(points, &*mixture_, mixture_options(config_, mixture_->components(), false));
  int64_t count = cluster_count(config_);
  if (count > 0) return cluster::fit_codes(points, nullptr, mixture_options(config_, count, true));
  std::vector<int64_t> orders(size_t(std::min(config_.k_max, data_.count()) - kFewestOrders + 1));
  std::iota(orders.begin(), orders.end(), kFewestOrders);
  std::string csv = "k,bic,log_likelihood\n";
  std::vector<cluster::OrderFit> fits = cluster::fit_orders(
      points, orders, mixture_options(config_, kFewestOrders, true), [&](const cluster::OrderFit& order) {
        csv += concat_text(order.components, ",", number_text(order.criteria.bic), ",",
                           number_text(order.criteria.log_likelihood), "\n");
        progress_.update(step_, concat_text("trying ", order.components, " clusters"));
        if (stop_signal()) throw Stopped{};
      });
  io::write_file_atomic(run_.file("bic.csv"), csv);
  const cluster::OrderFit& best = fits[cluster::best_order(fits)];
  progress_.say(concat_text("--k auto: the least BIC of ", orders.front(), " to ", orders.back(), " clusters is at ",
                            best.components, " (bic.csv); a guess: codes that are no Gaussians ask for too many"));
  return best.fit;
}

/// Noise loss, a mean over pixels, of the first images at fixed draws: the same question after every E-step.
double ClusterTrainer::probe_noise() {
  EvaluationMode mode(model_);
  int64_t count = std::min(kProbeImages, data_.count()), batch = 128;
  double total = 0;
  for (int64_t first = 0; first < count; first += batch) {
    int64_t end = std::min(count, first + batch);
    Tensor images = to_unit(data_.images.rows(first, end));
    apps::StepDraws drawn = draw_step(Generator{config_.seed}.fork(kProbe).seed, first, images.shape(),
                                      model_.schedule().steps(), 0);
    Tensor code_noise = normal({end - first, config_.latent}, DType::f32, Generator{config_.seed}.fork(kProbe).fork(uint64_t(first)));
    cluster::StepDraws draws{drawn.t.to(device_), drawn.noise.to(device_), code_noise.to(device_),
                             std::vector<bool>(size_t(end - first), false)};
    total += cluster::step_losses(model_, images.to(device_), draws, {.lambda = 0}).noise.item() * double(end - first);
  }
  return total / double(count);
}

void ClusterTrainer::e_step() {
  Clock::time_point begun = Clock::now();
  SwappedWeights averaged(arena_->values(), optimizer_->ema());
  cluster::Codes codes = encode_images(model_, data_.images, device_, [&](int64_t done) {
    if (stop_signal()) throw Stopped{};
    progress_.update(step_, concat_text("encoding ", done, "/", data_.count()));
  });
  cluster::CodeView view = cluster::code_view_named(config_.view);
  Tensor noise = normal(codes.mean.shape(), DType::f32, Generator{config_.seed}.fork(kCodeNoise).fork(~uint64_t(step_)));
  cluster::Points points = cluster::code_points(codes, view, noise);
  cluster::MixtureFit fitted = fit(points);

  NoGrad no_grad;
  Tensor probe = cluster::draw_codes(codes, normal(codes.mean.shape(), DType::f32, Generator{config_.seed}.fork(kProbe)));
  int64_t pixels = data_.images.numel() / data_.count();
  double before = mixture_ ? cluster::sampled_matching(codes, probe, *mixture_) : NAN;
  noise_ = probe_noise();
  matching_ = cluster::sampled_matching(codes, probe, fitted.mixture);
  free_energy_ = cluster::free_energy(noise_, matching_, config_.lambda, pixels);
  scores_ = {NAN, NAN, NAN};
  if (data_.labels.defined())
    scores_ = score_labels(cluster::label_codes(fitted.mixture, codes, view).labels, data_.labels);
  mixture_ = fitted.mixture;
  terms_.emplace(*mixture_, DType::f32, device_);
  fitted_step_ = step_;

  double epoch = double(step_) / double(epoch_steps_);
  Json record = {{"step", step_}, {"e_step", true}, {"epoch", epoch}, {"k", mixture_->components()},
                 {"log_likelihood", fitted.mean_log_likelihood}, {"iterations", fitted.iterations},
                 {"repaired", fitted.repaired}, {"floored", fitted.floored}, {"probe_noise", noise_},
                 {"probe_matching", matching_},
                 {"free_energy_before", number_json(cluster::free_energy(noise_, before, config_.lambda, pixels))},
                 {"free_energy", free_energy_}, {"weights", mixture_->weights.to_vector()},
                 {"accuracy", number_json(scores_.accuracy)}, {"nmi", number_json(scores_.nmi)},
                 {"ari", number_json(scores_.ari)}, {"seconds", seconds_since(begun)}};
  run_.append_log(record.dump());
  char text[200];
  std::snprintf(text, sizeof text, "epoch %g: F %.4f (noise %.5f a pixel, matching %.3f nats), %lld EM iterations", epoch,
                free_energy_, noise_, matching_, static_cast<long long>(fitted.iterations));
  std::string line = text;
  if (fitted.repaired > 0) line += concat_text(", ", fitted.repaired, " dead components given half of another");
  if (std::isfinite(scores_.accuracy)) {
    std::snprintf(text, sizeof text, "; ACC %.4f, NMI %.4f", scores_.accuracy, scores_.nmi);
    line += text;
  }
  progress_.say(line);
}

// ---- Log, checkpoint, grid -----------------------------------------------------------------------------------------

std::string ClusterTrainer::loss_text() const {
  return meter_.loss_text(is_pretraining() ? ", pretraining" : "");
}

void ClusterTrainer::log() {
  double steps = double(meter_.steps());
  Json record = {{"step", step_}, {"images", step_ * config_.batch}, {"loss", window_noise_ / steps},
                 {"matching", window_matching_ / steps}, {"lambda", lambda()}, {"lr", lr_}, {"grad_norm", grad_norm_},
                 {"images_per_s", meter_.images_per_s(config_.batch)},
                 {"data_ms", meter_.data_ms()}, {"rss_mib", double(resident_bytes()) / (1 << 20)}};
  run_.append_log(record.dump());
  meter_.clear_window();
  window_noise_ = window_matching_ = 0;
}

void ClusterTrainer::save() {
  if (saved_step_ == step_ && saved_fit_ == fitted_step_) return;   // the last E-step comes after the last step's save
  ClusterCheckpoint c;
  c.step = step_;
  c.images = step_ * config_.batch;
  c.pretrain_steps = pretrain_steps_;
  c.fitted_step = fitted_step_;
  if (mixture_) std::tie(c.noise, c.matching, c.free_energy) = std::tuple(noise_, matching_, free_energy_);
  c.seed = config_.seed;
  c.random = model_.generator();
  c.config = model_.config();
  c.data = config_.data;
  c.data_hash = data_.hash;
  c.data_count = data_.count();
  c.class_names = data_.class_names;
  c.train = to_json(config_);
  c.model = arena_->views(arena_->values());
  c.m = arena_->views(optimizer_->m());
  c.v = arena_->views(optimizer_->v());
  if (optimizer_->ema().defined()) c.ema = arena_->views(optimizer_->ema());
  c.buffers = model_.buffers();
  c.mixture = mixture_;
  replace_in_run(run_.path(), [&](const std::string& path) { save_cluster_checkpoint(path, c); }, keep_current_);
  keep_current_ = true;
  saved_step_ = step_;
  saved_fit_ = fitted_step_;
  saved_hash_ = c.hash;
}

/// A row a cluster: draws of its component.
void ClusterTrainer::sample() {
  if (config_.sample_steps == 0 || !mixture_ || sampled_step_ == step_) return;
  std::vector<int64_t> all(size_t(mixture_->components()));
  std::iota(all.begin(), all.end(), 0);
  SwappedWeights averaged(arena_->values(), optimizer_->ema());
  CodedDraw draw;
  draw.sampler = ClipChoice{}.applied({.name = "ddim", .steps = std::min(config_.sample_steps, model_.schedule().steps())});
  draw.on_step = [&](int64_t done, int64_t total) {
    if (stop_signal()) throw Stopped{};
    progress_.update(step_, concat_text("drawing samples ", done, "/", total));
  };
  Tensor images = draw_coded(model_, component_codes(*mixture_, all, kGridColumns, 0), draw, device_);
  io::save_png(run_.sample_file(step_), io::image_grid(images, kGridColumns));
  sampled_step_ = step_;
}

// ---- All of it -----------------------------------------------------------------------------------------------------

ClusterResult ClusterTrainer::run() {
  if (job_.overwrite) run_.clear();
  std::filesystem::create_directories(run_.file("samples"));
  io::write_file_atomic(run_.file("config.toml"), to_toml(config_));
  run_.truncate_log(step_);
  say_plan();
  watch_signals("\nmote: finishing this step and saving; once more to stop at once\n");
  Clock::time_point begun = Clock::now();
  if (step_ < total_steps_) loader_.emplace(data_, config_.batch, config_.seed, false, step_);
  else if (fitted_step_ == step_)
    progress_.say(concat_text("the run already has its ", config_.epochs, " epochs; a larger --epochs would continue it"));
  try {
    while (!stop_signal()) {
      if (e_step_is_due()) {
        e_step();
        if (step_ == pretrain_steps_ && step_ < total_steps_) begin_phase();
      }
      if (step_ == total_steps_) break;
      step();
      progress_.update(step_, loss_text());
      if (due(config_.log_every) || step_ == total_steps_) log();
      if (due(config_.save_every)) save();
      if (!is_pretraining() && due(config_.sample_every * epoch_steps_)) sample();
    }
    if (!stop_signal()) {
      save();   // before the last grid, which takes a while
      sample();
    }
  } catch (const Stopped&) {
  }
  save();
  progress_.finish();

  ClusterResult result;
  result.run = run_.path();
  result.checkpoint = run_.file(kCheckpointFile);
  result.checkpoint_hash = saved_hash_;
  result.precision = config_.precision;
  result.step = step_;
  result.images = step_ * config_.batch;
  result.parameters = model_.parameter_count();
  result.components = mixture_ ? mixture_->components() : 0;
  result.loss = meter_.shown_loss();
  result.seconds = seconds_since(begun);
  result.images_per_s = meter_.total_images_per_s(config_.batch);
  std::tie(result.free_energy, result.noise, result.matching) = std::tuple(free_energy_, noise_, matching_);
  std::tie(result.accuracy, result.nmi, result.ari) = std::tuple(scores_.accuracy, scores_.nmi, scores_.ari);
  result.signal = stop_signal();
  result.report = write_cluster_report(run_.path());
  return result;
}

}  // namespace

ClusterScores score_labels(const Tensor& predicted, const Tensor& truth) {
  if (!truth.defined()) return {NAN, NAN, NAN};
  cluster::Contingency table = cluster::contingency(predicted, truth);
  return {cluster::accuracy(table), cluster::nmi(table), cluster::ari(table)};
}

ClusterResult train_clusters(const ClusterJob& job) {
  RunDir::Open how = opening_of(job);
  if (!job.resume) validate(job.config);
  Device device = start(job.common);
  RunDir run(job.out, how);
  if (!job.resume) return ClusterTrainer(job, device, run, job.config, nullptr).run();
  ClusterCheckpoint from = job.ckpt.empty()
                               ? load_newest(job.out, "to continue from it, add --ckpt {}", load_cluster_checkpoint)
                               : load_cluster_checkpoint(job.ckpt);
  ClusterConfig config = merge_keys(cluster_config_from_json(from.train), job.config, job.given);
  validate(config);
  ClusterTrainer trainer(job, device, run, config, &from);
  from = {};   // its tensors have been copied
  return trainer.run();
}

}  // namespace mote::apps
