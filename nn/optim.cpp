#include "nn/optim.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace mote::nn {
namespace {

double norm(const Tensor& x) {
  Tensor squares = empty({1}, DType::f64, x.device());
  kernel::sum_squares(squares, x);
  return std::sqrt(squares.item());
}

// 64 bytes, one cache line: no two parameters share one, and vector loads at a parameter's start are aligned.
constexpr int64_t kAlignment = 16;

}  // namespace

// ---- Arena ---------------------------------------------------------------------------------------------------------

Arena::Arena(Module& module) : alive_(std::make_shared<char>()) {
  auto slots = module.slots();
  check(!slots.empty(), "Arena: the module has no parameters");
  Device device = slots.front().second->value.device();
  int64_t total = 0;
  for (const auto& [name, parameter] : slots) {
    const Tensor& value = parameter->value;
    check(value.dtype() == DType::f32 && value.device() == device, "Arena: parameters must be f32 on one device: '",
          name, "' is ", describe(value), " on ", value.device(), ", the first one is on ", device);
    check(parameter->arena.expired(), "Arena: '", name, "' lies in another Arena");
    names_.push_back(name);
    shapes_.push_back(value.shape());
    offsets_.push_back(total);
    total += (value.numel() + kAlignment - 1) / kAlignment * kAlignment;
  }
  values_ = zeros({total}, DType::f32, device);
  grads_ = zeros({total}, DType::f32, device);
  auto copy = std::make_shared<WorkingCopy>(values_);
  NamedTensors values = views(values_), grads = views(grads_);
  for (size_t i = 0; i < slots.size(); ++i) {
    Parameter& parameter = *slots[i].second;
    Tensor& value = values[i].second;
    value.copy_(parameter.value);
    parameter.set(value);
    parameter.value.set_grad(grads[i].second);
    parameter.copy = copy;
    parameter.offset = offsets_[i];
    parameter.arena = alive_;
  }
}

double Arena::grad_norm() const { return norm(grads_); }

NamedTensors Arena::views(const Tensor& flat) const {
  check(flat.shape() == values_.shape(), "Arena::views: needs a tensor laid out like ", describe(values_), ", got ",
        describe(flat));
  NamedTensors all;
  for (size_t i = 0; i < names_.size(); ++i)
    all.emplace_back(names_[i], flat.detach().rows(offsets_[i], offsets_[i] + shapes_[i].numel()).view(shapes_[i]));
  return all;
}

// ---- Schedules -----------------------------------------------------------------------------------------------------

void OptimizerOptions::validate() const {
  std::string problems;
  auto require = [&](bool holds, const auto&... parts) {
    if (!holds) problems += concat_text("\n  ", parts...);
  };
  require(lr >= 0 && std::isfinite(lr), "lr must be finite and not negative, got ", lr);
  require(beta1 >= 0 && beta1 < 1, "beta1 must be in [0, 1), got ", beta1);
  require(beta2 >= 0 && beta2 < 1, "beta2 must be in [0, 1), got ", beta2);
  require(eps > 0 && std::isfinite(eps), "eps must be finite and positive, got ", eps);
  require(weight_decay >= 0 && std::isfinite(weight_decay), "weight_decay must be finite and not negative, got ",
          weight_decay);
  require(clip >= 0, "clip must not be negative (0: no clipping), got ", clip);
  require(warmup >= 0, "warmup must not be negative, got ", warmup);
  require(schedule == "constant" || schedule == "cosine", "schedule must be constant or cosine, got '", schedule, "'");
  require(schedule != "cosine" || total_steps > 0, "a cosine schedule needs total_steps > 0, got ", total_steps);
  require(ema >= 0 && ema < 1, "ema must be in [0, 1) (0: none), got ", ema);
  if (!problems.empty()) fail(Error::Kind::usage, "optimizer options:", problems);
}

double learning_rate(const OptimizerOptions& options, int64_t step) {
  double rate = options.lr;
  if (options.warmup > 0) rate *= std::min(double(step + 1) / double(options.warmup), 1.0);
  if (options.schedule == "cosine") {
    double done = std::min(double(step) / double(options.total_steps), 1.0);
    rate *= (1 + std::cos(std::numbers::pi * done)) / 2;
  }
  return rate;
}

double ema_decay(const OptimizerOptions& options, int64_t step) {
  return step == 0 ? 0 : std::min(options.ema, double(1 + step) / double(10 + step));
}

// ---- Optimizer -----------------------------------------------------------------------------------------------------

Optimizer::Optimizer(Arena& arena, const OptimizerOptions& options) : arena_(arena), options_(options) {
  options_.validate();
  m_ = arena_.like();
  v_ = arena_.like();
  if (options_.ema > 0) ema_ = arena_.values().clone();
  outcomes_ = zeros({2 * kMostQueued}, DType::f64, arena_.values().device());
  scale_ = full({1}, 1, DType::f32, arena_.values().device());
}

void Optimizer::set_steps(int64_t steps) {
  check(steps >= 0 && queued_ == 0, "Optimizer::set_steps: steps must not be negative, got ", steps,
        ", and none may be unread, there are ", queued_);
  steps_ = steps;
}

StepOutcome Optimizer::step(const Tensor& loss) {
  check(queued_ == 0, "Optimizer::step: ", queued_, " queued steps have not been read");
  double rate = lr();
  queue(loss);
  StepOutcome outcome = read().front();
  if (!std::isfinite(outcome.loss))
    fail(Error::Kind::numeric, "Optimizer::step: the loss is ", outcome.loss, " at step ", steps_, "; nothing was changed");
  if (std::isfinite(outcome.grad_norm)) return outcome;
  std::string bad = bad_gradient();
  // Every parameter is finite, yet their sum is not: a gap was written, which breaks what AdamW relies on.
  if (bad.empty()) fail(Error::Kind::numeric, "Optimizer::step: the gradient arena is not finite between its parameters");
  fail(Error::Kind::numeric, "Optimizer::step: the gradient of '", bad, "' is not finite at step ", steps_,
       " (learning rate ", rate, "); nothing was changed");
}

void Optimizer::queue(const Tensor& loss) {
  check(queued_ < kMostQueued, "Optimizer::queue: ", queued_, " steps have not been read, and no more can wait");
  Tensor value = outcomes_.rows(2 * queued_, 2 * queued_ + 1), squares = outcomes_.rows(2 * queued_ + 1, 2 * queued_ + 2);
  if (loss.defined()) value.copy_(loss.detach().view({1}));
  else value.fill_(0);
  kernel::sum_squares(squares, arena_.grads());
  kernel::clip_scale(scale_, squares, value, options_.clip);
  AdamW update;
  update.lr = lr();
  update.beta1 = options_.beta1;
  update.beta2 = options_.beta2;
  update.eps = options_.eps;
  update.weight_decay = options_.weight_decay;
  update.step = steps_ + 1;
  update.ema_decay = ema_decay(options_, steps_);
  kernel::adamw(arena_.values(), arena_.grads(), scale_, m_, v_, ema_, update);
  arena_.values().bump_version();   // a graph recorded before this step must not be walked after it (Saved)
  ++steps_;
  ++queued_;
}

std::vector<StepOutcome> Optimizer::read() {
  std::vector<StepOutcome> outcomes;
  if (queued_ == 0) return outcomes;
  std::vector<double> numbers = outcomes_.rows(0, 2 * queued_).to_vector();
  for (int64_t i = 0; i < queued_; ++i) {
    outcomes.push_back({numbers[size_t(2 * i)], std::sqrt(numbers[size_t(2 * i + 1)])});
    if (outcomes.back().is_finite()) continue;
    steps_ -= queued_ - i;
    scale_.fill_(1);
    break;
  }
  queued_ = 0;
  return outcomes;
}

std::string Optimizer::bad_gradient() const {
  for (const auto& [name, grad] : arena_.views(arena_.grads()))
    if (!std::isfinite(norm(grad))) return name;
  return "";
}

}  // namespace mote::nn
