#include "diffusion/samplers/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "diffusion/samplers/method.h"

namespace mote {

// ---- The methods ---------------------------------------------------------------------------------------------------

namespace {

const std::array kMethods = {&kDdpm,   &kDdim, &kSPndm,   &kFPndm,   &kPlms,       &kIpndm, &kFon,  &kPfEuler,
                             &kPfRk45, &kHeun, &kDpmpp2m, &kDpmpp3m, &kDpmppSde2m, &kUnipc, &kDeis, &kLangevin};

const Method& method_named(const std::string& name) {
  for (const Method* method : kMethods)
    if (name == method->name) return *method;
  std::string list;
  for (const std::string& known : sampler_names()) list += (list.empty() ? "" : ", ") + known;
  fail(Error::Kind::usage, "sampler '", name, "' is unknown: choose one of ", list);
}

}  // namespace

const std::vector<std::string>& sampler_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const Method* method : kMethods) list.emplace_back(method->name);
    return list;
  }();
  return names;
}

// ---- The plan ------------------------------------------------------------------------------------------------------

namespace {

/// An option that differs from its default is one that was asked for; it must be one that the method takes.
void check_options(const Method& method, const SamplerOptions& options) {
  const SamplerOptions usual;
  auto check_taken = [&](unsigned flag, const char* option, bool is_usual, const auto& value) {
    if (is_usual || (method.takes & flag)) return;
    std::string owners;
    for (const Method* other : kMethods)
      if (other->takes & flag) owners += (owners.empty() ? "" : ", ") + std::string(other->name);
    fail(Error::Kind::usage, method.name, ": ", option, " = ", value, " is given, but only ", owners,
         std::count(owners.begin(), owners.end(), ',') ? " take it" : " takes it");
  };
  check_taken(kTakesEta, "eta", options.eta == usual.eta, options.eta);
  check_taken(kTakesVariance, "variance", options.variance == usual.variance, options.variance);
  check_taken(kTakesOrder, "order", options.order == usual.order, options.order);
  check_taken(kTakesSolver, "solver", options.solver == usual.solver, options.solver);
  check_taken(kTakesThird, "third", options.third == usual.third, options.third);
  check_taken(kTakesLowerOrderEnd, "lower_order_end", !options.lower_order_end, options.lower_order_end.value_or(true));
  check_taken(kTakesBasis, "basis", options.basis == usual.basis, options.basis);
  check_taken(kTakesRate, "rate", options.rate == usual.rate, options.rate);
  check_taken(kTakesTolerance, "tolerance", options.tolerance == usual.tolerance, options.tolerance);
}

}  // namespace

Path sampler_path(const Schedule& schedule, const SamplerOptions& options) {
  const Method& method = method_named(options.name);
  SamplerOptions full = resolved(options);
  if (method.start != nullptr) full.steps = 1;   // pf-rk45 needs the two ends only
  bool has_start = options.start >= 0 && options.start < schedule.steps();   // path_of refuses another
  int64_t most = has_start ? options.start + 1 : schedule.steps();
  if (full.steps < method.fewest_steps || full.steps > most)
    fail(Error::Kind::usage, method.name, ": ", full.steps, " sampling steps asked for, needs ", method.fewest_steps,
         " to ", has_start ? "start + 1" : "T", " = ", most);
  return path_of(schedule, method.family, full);
}

namespace {

std::vector<StepPlan> plan_on(const Method& method, const Path& path, const SamplerOptions& options) {
  if (path.steps() < method.fewest_steps)
    fail(Error::Kind::usage, method.name, ": a path of ", path.steps(), " steps is given, needs ", method.fewest_steps,
         " or more");
  if (method.family == Family::flow && !path.curve)
    fail(Error::Kind::usage, method.name, ": needs a path in continuous time");
  return method.plan(path, options);
}

}  // namespace

SamplerOptions resolved(const SamplerOptions& options) {
  const Method& method = method_named(options.name);
  check_options(method, options);
  SamplerOptions full = options;
  if (full.grid.empty()) {
    bool is_karras = &method == &kHeun && full.convention == "ours";
    full.grid = is_karras ? "karras" : full.start >= 0 ? "trailing" : "uniform";
  }
  if (full.order == 0 && (method.takes & kTakesOrder)) full.order = &method == &kDeis ? 3 : 2;
  return full;
}

std::vector<StepPlan> plan_sampler(const Schedule& schedule, const SamplerOptions& options) {
  return plan_sampler(sampler_path(schedule, options), options);
}

std::vector<StepPlan> plan_sampler(const Path& path, const SamplerOptions& options) {
  return plan_on(method_named(options.name), path, resolved(options));
}

int64_t network_calls(const std::vector<StepPlan>& plan) {
  int64_t calls = 0;
  for (const StepPlan& step : plan) calls += int64_t(step.calls.size());
  return calls;
}

SamplerOptions with_network_calls(const Schedule& schedule, SamplerOptions options, int64_t calls) {
  const Method& method = method_named(options.name);
  if (method.start != nullptr) fail(Error::Kind::usage, options.name, ": its network calls depend on the state");
  int64_t most = std::min(calls, options.start >= 0 ? options.start + 1 : schedule.steps());
  for (options.steps = most; options.steps >= method.fewest_steps; --options.steps)   // no step goes without a call
    if (network_calls(plan_sampler(schedule, options)) == calls) return options;
  fail(Error::Kind::usage, options.name, ": no number of steps calls the network exactly ", calls, " times",
       options.start >= 0 ? concat_text(" from level ", options.start) : std::string());
}

// ---- The loop ------------------------------------------------------------------------------------------------------

namespace {

bool is_finite(const Tensor& x) {
  Tensor squares = empty(Shape{1}, DType::f64, x.device());
  kernel::sum_squares(squares, x);
  return std::isfinite(squares.item());
}

}  // namespace

Tensor image_noise(const Shape& shape, DType dtype, Generator generator, int64_t first, Device device) {
  check(shape.ndim() >= 1 && first >= 0, "image_noise: needs a shape [N, ...] and first >= 0, got ", shape, " and ",
        first);
  int64_t N = shape[0], per_block = dtype == DType::f64 ? 2 : 4;   // elements of a Philox block
  int64_t each = shape.without(0).numel(), blocks = (each + per_block - 1) / per_block;
  generator.offset += uint64_t(first * blocks);
  if (each == blocks * per_block) return normal(shape, dtype, generator, device);
  Tensor padded = normal({N, blocks * per_block}, dtype, generator, device);
  return narrow(padded, 1, 0, each).view(shape);
}

Tensor run_sampler(const Schedule& schedule, const SamplerOptions& options, const Network& network, Tensor x,
                   Generator noise, const Observer& observer, int64_t first) {
  return run_sampler(sampler_path(schedule, options), options, network, x, noise, observer, first);
}

Tensor run_sampler(const Path& path, const SamplerOptions& options, const Network& network, Tensor x, Generator noise,
                   const Observer& observer, int64_t first) {
  check(x.defined(), "run_sampler: the state is undefined");
  auto draw = [=, shape = x.shape(), dtype = x.dtype(), device = x.device()](int64_t k) {
    return image_noise(shape, dtype, noise.fork(uint64_t(k)), first, device);
  };
  return run_sampler_with(path, options, network, std::move(x), draw, observer);
}

Tensor run_sampler_with(const Path& path, const SamplerOptions& options, const Network& network, Tensor x,
                        const StepNoise& noise, const Observer& observer) {
  const Method& method = method_named(options.name);
  SamplerOptions full = resolved(options);
  std::vector<StepPlan> plan = plan_on(method, path, full);
  check(network != nullptr, "run_sampler: no network given");
  // bf16 keeps 8 bits: a state summed over many steps would be rounded away
  check(x.defined() && (x.dtype() == DType::f32 || x.dtype() == DType::f64),
        "run_sampler: the state must be f32 or f64, got ", describe(x));

  NoGrad no_grad;
  x = x.detach();
  std::unique_ptr<Trajectory> trajectory = method.start ? method.start(path, full) : start_planned(plan);
  Evaluate evaluate = [&](const Tensor& state, const Level& level) {
    Denoised both = denoise(options.prediction, network(state, level.t), state, level, options.clip && !options.project);
    return options.project ? denoise(Prediction::x0, options.project(both.x0), state, level, false) : both;
  };
  int64_t total = int64_t(plan.size());
  for (int64_t k = 0; k < total; ++k) {
    Draw draw = [&] { return noise(k); };
    Trajectory::Stepped stepped = trajectory->step(k, x, evaluate, draw);
    x = stepped.x;
    if (!is_finite(x))
      fail(Error::Kind::numeric, "run_sampler: ", options.name, " step ", k + 1, " of ", total, " (t ", plan[k].from.t,
           " to ", plan[k].to.t, ") gave a state that is not finite");
    if (observer) observer(x, stepped.x0, k + 1, total);
  }
  return x;
}

}  // namespace mote
