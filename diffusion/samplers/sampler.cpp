#include "diffusion/samplers/sampler.h"

#include <array>
#include <cmath>

#include "diffusion/samplers/method.h"

namespace mote {

// ---- The methods ---------------------------------------------------------------------------------------------------

namespace {

const std::array kMethods = {&kDdpm, &kDdim};

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

std::vector<StepPlan> plan_sampler(const Schedule& schedule, const SamplerOptions& options) {
  return method_named(options.name).plan(schedule, options);
}

int64_t network_calls(const std::vector<StepPlan>& plan) {
  int64_t calls = 0;
  for (const StepPlan& step : plan) calls += int64_t(step.calls.size());
  return calls;
}

// ---- The loop ------------------------------------------------------------------------------------------------------

namespace {

bool is_finite(const Tensor& x) {
  Tensor squares = empty(Shape{1}, DType::f64, x.device());
  kernel::sum_squares(squares, x);
  return std::isfinite(squares.item());
}

}  // namespace

Tensor run_sampler(const Schedule& schedule, const SamplerOptions& options, const Network& network, Tensor x,
                   Generator noise, const Observer& observer) {
  const Method& method = method_named(options.name);
  std::vector<StepPlan> plan = method.plan(schedule, options);
  check(network != nullptr, "run_sampler: no network given");
  // bf16 keeps 8 bits: a state summed over many steps would be rounded away
  check(x.defined() && (x.dtype() == DType::f32 || x.dtype() == DType::f64),
        "run_sampler: the state must be f32 or f64, got ", describe(x));

  NoGrad no_grad;
  x = x.detach();
  std::unique_ptr<Trajectory> trajectory = method.start(schedule, options);
  Evaluate evaluate = [&](const Tensor& state, const Level& level) {
    return denoise(options.prediction, network(state, level.t), state, level, options.clip);
  };
  int64_t total = int64_t(plan.size());
  for (int64_t k = 0; k < total; ++k) {
    Draw draw = [&] { return normal(x.shape(), x.dtype(), noise.fork(uint64_t(k)), x.device()); };
    Trajectory::Stepped stepped = trajectory->step(k, x, evaluate, draw);
    x = stepped.x;
    if (!is_finite(x))
      fail(Error::Kind::numeric, "run_sampler: ", options.name, " step ", k + 1, " of ", total, " (t ", plan[k].step.t,
           " to ", plan[k].step.t_prev, ") gave a state that is not finite");
    if (observer) observer(x, stepped.x0, k + 1, total);
  }
  return x;
}

}  // namespace mote
