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
    Draw draw = [&] { return image_noise(x.shape(), x.dtype(), noise.fork(uint64_t(k)), first, x.device()); };
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
