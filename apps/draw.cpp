#include "apps/draw.h"

#include <algorithm>
#include <cmath>

#include "autograd/engine.h"
#include "diffusion/guidance.h"

namespace mote::apps {
namespace {

constexpr uint64_t kStart = 0x73746172, kSteps = 0x73746570;   // "star", "step": keys of the two streams of a seed

}  // namespace

Generator start_stream(uint64_t seed) { return Generator{seed}.fork(kStart); }
Generator step_stream(uint64_t seed) { return Generator{seed}.fork(kSteps); }

Tensor draw_images(nn::UNet& unet, const Schedule& schedule, const DrawOptions& options, Device device,
                   const DrawObserver& observer) {
  EvaluationMode mode(unet);
  const nn::UNetConfig& config = unet.config();
  auto steps = int64_t(plan_sampler(schedule, options.sampler).size());
  int64_t batches = (options.count + options.batch - 1) / options.batch, done_before = 0;
  Tensor images = empty({options.count, config.size, config.size, config.channels});
  for (int64_t first = 0; first < options.count; first += options.batch) {
    int64_t N = std::min(options.batch, options.count - first);
    Shape shape{N, config.size, config.size, config.channels};
    int64_t image = options.first + first;
    Tensor x = options.start ? options.start(image, N).to(device)
                             : image_noise(shape, DType::f32, start_stream(options.seed), image, device);
    check(x.shape() == shape, "draw_images: needs start states ", shape, ", got ", describe(x));
    auto times = [&](const Tensor& state, double t) {
      if (options.on_call) options.on_call();
      return full({state.size(0)}, t, DType::f32, device);
    };
    Network network;
    if (config.classes > 0) {
      check(options.class_ids.defined(), "draw_images: a conditional network needs class ids");
      Tensor ids = options.class_ids.rows(first, first + N).clone().to(device);
      auto conditional = [&](const Tensor& state, double t, const Tensor& classes) {
        return unet.forward(state, times(state, t), classes);
      };
      network = guided(conditional, ids, config.classes, options.guidance);
    } else {
      network = [&](const Tensor& state, double t) { return unet.forward(state, times(state, t)); };
    }
    auto watch = [&](const Tensor& state, const Tensor& x0, int64_t done, int64_t) {
      if (options.on_x0) options.on_x0(first, x0, done_before + done, batches * steps);
      if (observer) observer(first, state, done_before + done, batches * steps);
    };
    Tensor drawn = run_sampler(schedule, options.sampler, network, x, step_stream(options.seed), watch, image);
    images.rows(first, first + N).copy_(drawn);
    done_before += steps;
  }
  return images;
}

int64_t grid_columns(int64_t count) {
  return std::max<int64_t>(1, int64_t(std::ceil(std::sqrt(double(count)))));
}

}  // namespace mote::apps
