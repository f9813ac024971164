#include "apps/memory_plan.h"

#include <algorithm>

#include "autograd/ops.h"
#include "tensor/allocator.h"
#include "tensor/profile.h"

namespace mote::apps {
namespace {

constexpr int64_t kRealImages = 4;        // enough for the workspace to be seen, and done in a fraction of a second
constexpr int64_t kPreparedBatches = 4;   // the one of the step, two that are ready, and one that is being made

/// What forward and backward of one batch read.
struct Inputs {
  Tensor x, t, ids, target;
  Inputs(const nn::UNetConfig& config, int64_t images, Device device)
      : x(zeros({images, config.size, config.size, config.channels}, DType::f32, device)),
        t(zeros({images}, DType::f32, device)), target(zeros_like(x)) {
    if (config.classes > 0) ids = zeros({images}, DType::i64, device);
  }
};

}  // namespace

int64_t MemoryPlan::peak() const {
  return weights + gradients + moments + average + working + others + batches + activations + workspace;
}

MemoryPlan plan_memory(nn::UNet& unet, nn::Arena& arena, nn::Optimizer& optimizer, int64_t batch, Device device) {
  Allocator& allocator = Allocator::of(device);
  auto held = [](const Tensor& tensor) { return tensor.defined() ? int64_t(size_class(size_t(tensor.nbytes()))) : 0; };
  MemoryPlan plan;
  plan.weights = held(arena.values());
  plan.gradients = held(arena.grads());
  plan.moments = held(optimizer.m()) + held(optimizer.v());
  plan.average = held(optimizer.ema());
  int64_t before = allocator.stats().in_use;
  plan.others = before - plan.weights - plan.gradients - plan.moments - plan.average;

  Generator random = unet.generator();
  auto peak_of_pass = [&](const Inputs& in) {
    int64_t start = allocator.stats().in_use;
    allocator.reset_peak();
    backward(mse_loss(unet.forward(in.x, in.t, in.ids), in.target));
    return allocator.stats().peak - start;
  };
  int64_t images = std::min(batch, kRealImages);
  Inputs few(unet.config(), images, device), all(unet.config(), batch, device);
  {
    NoGrad no_grad;   // one image, for the working copy to be made
    unet.forward(few.x.rows(0, 1), few.t.rows(0, 1), few.ids.defined() ? few.ids.rows(0, 1) : Tensor());
  }
  plan.working = allocator.stats().in_use - before - held(few.x) - held(few.t) - held(few.ids) - held(few.target) -
                 held(all.x) - held(all.t) - held(all.ids) - held(all.target);
  int64_t real = peak_of_pass(few);
  {
    DryRun dry;   // after a real pass: a working copy made here would be of no numbers
    plan.workspace = std::max<int64_t>(real - peak_of_pass(few), 0);
    plan.activations = peak_of_pass(all);
  }
  plan.batches = (kPreparedBatches + 2) * held(all.x);   // and the noise and the noisy images
  unet.generator() = random;
  arena.zero_grad();
  allocator.trim();
  return plan;
}

}  // namespace mote::apps
