#include "apps/draw.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "autograd/engine.h"
#include "autograd/ops.h"
#include "diffusion/guidance.h"
#include "tensor/graph.h"

namespace mote::apps {
namespace {

constexpr uint64_t kStart = 0x73746172, kSteps = 0x73746570;   // "star", "step": keys of the two streams of a seed

/// The network in evaluation mode, called again and again: recorded once for each batch size and replayed on a GPU.
class Replayed {
 public:
  Replayed(nn::UNet& unet, Device device) : unet_(unet), device_(device) {}

  Tensor operator()(const Tensor& state, double t, const Tensor& class_ids = {}) {
    int64_t N = state.size(0);
    if (device_.is_cpu()) return unet_.forward(state, full({N}, t), class_ids);
    auto [place, is_new] = recordings_.try_emplace(N);
    Recording& r = place->second;
    if (is_new) {
      r.x = empty_like(state);
      r.t = empty({N}, DType::f32, device_);
      if (class_ids.defined()) r.class_ids = empty_like(class_ids);
      r.graph.emplace(device_);
    }
    r.x.copy_(state);
    r.t.fill_(t);
    if (class_ids.defined()) r.class_ids.copy_(class_ids);
    r.graph->run([&] { r.y = unet_.forward(r.x, r.t, r.class_ids); });
    return r.y.clone();   // samplers keep what the network said at earlier steps
  }

 private:
  struct Recording {
    Tensor x, t, class_ids;
    std::optional<Graph> graph;
    Tensor y;   // last: its memory belongs to the graph
  };
  nn::UNet& unet_;
  Device device_;
  std::map<int64_t, Recording> recordings_;   // by number of images
};

}  // namespace

void ClipChoice::add_options(CLI::App& sub, const char* group) {
  CLI::Option* clip = sub.add_option("--clip", given, "clamp the predicted image to [-1, 1] at every step: off, x0 (eps stays "
                                                      "as it was), both (eps follows); default: both for ddim, else x0, which "
                                                      "methods that step with eps alone see nothing of");
  clip->check(CLI::IsMember({"off", "x0", "both"}))->group(group);
  sub.add_flag_callback("--no-clip", [this] { given = "off"; }, "the same as --clip off")->group(group)->excludes(clip);
}

SamplerOptions ClipChoice::applied(SamplerOptions options) const {
  std::string chosen = mode(options.name);
  options.clip = chosen != "off";
  if (chosen == "both") options.project = [](const Tensor& x0) { return clamp(x0, -1, 1); };
  return options;
}

Generator start_stream(uint64_t seed) { return Generator{seed}.fork(kStart); }
Generator step_stream(uint64_t seed) { return Generator{seed}.fork(kSteps); }

Tensor draw_images(nn::UNet& unet, const Schedule& schedule, const DrawOptions& options, Device device,
                   const DrawObserver& observer) {
  EvaluationMode mode(unet);
  Replayed replayed(unet, device);
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
    auto call = [&](const Tensor& state, double t, const Tensor& classes) {
      if (options.on_call) options.on_call();
      return replayed(state, t, classes);
    };
    Network network;
    if (config.classes > 0) {
      check(options.class_ids.defined(), "draw_images: a conditional network needs class ids");
      Tensor ids = options.class_ids.rows(first, first + N).clone().to(device);
      network = guided(call, ids, config.classes, options.guidance);
    } else {
      network = [&](const Tensor& state, double t) { return call(state, t, {}); };
    }
    auto watch = [&](const Tensor& state, const Tensor& x0, int64_t done, int64_t) {
      if (options.on_x0) options.on_x0(first, x0, done_before + done, batches * steps);
      if (observer) observer(first, state, done_before + done, batches * steps);
    };
    Tensor drawn = run_sampler(schedule, options.sampler, network, x, step_stream(options.seed), watch, image);
    images.rows(first, first + N).copy_(clamp(drawn, -1, 1));
    done_before += steps;
  }
  return images;
}

int64_t grid_columns(int64_t count) {
  return std::max<int64_t>(1, int64_t(std::ceil(std::sqrt(double(count)))));
}

}  // namespace mote::apps
