#include "apps/cluster_draw.h"

#include <algorithm>

#include "apps/checkpoint.h"
#include "apps/dataset.h"
#include "autograd/ops.h"

namespace mote::apps {
namespace {

constexpr int64_t kEncodeBatch = 256;
constexpr uint64_t kCodes = 0x636f646573;   // "codes": key of the stream that component_codes draws from

}  // namespace

cluster::Codes encode_images(cluster::Model& model, const Tensor& images, Device device,
                             const std::function<void(int64_t)>& done) {
  EvaluationMode mode(model);
  int64_t N = images.size(0), latent = model.config().net.latent;
  cluster::Codes all{empty({N, latent}), empty({N, latent})};
  for (int64_t first = 0; first < N; first += kEncodeBatch) {
    int64_t end = std::min(N, first + kEncodeBatch);
    cluster::Codes codes = model.encode(to_unit(images.rows(first, end)).to(device));
    all.mean.rows(first, end).copy_(codes.mean);
    all.log_variance.rows(first, end).copy_(codes.log_variance);
    if (done) done(end);
  }
  require_finite("codes", {{"mean", all.mean}, {"log_variance", all.log_variance}});
  return all;
}

Tensor draw_coded(cluster::Model& model, const Tensor& codes, const CodedDraw& options, Device device) {
  EvaluationMode mode(model);
  const nn::ClusterNetConfig& net = model.config().net;
  int64_t N = codes.size(0), batches = (N + options.batch - 1) / options.batch, before = 0;
  auto steps = int64_t(plan_sampler(model.schedule(), options.sampler).size());
  Tensor images = empty({N, net.size, net.size, net.channels});
  for (int64_t first = 0; first < N; first += options.batch) {
    int64_t end = std::min(N, first + options.batch);
    Tensor x = image_noise({end - first, net.size, net.size, net.channels}, DType::f32, start_stream(options.seed), first,
                           device);
    Tensor own = codes.rows(first, end).clone().to(device);
    Observer watch = [&](const Tensor&, const Tensor&, int64_t done, int64_t) {
      if (options.on_step) options.on_step(before + done, batches * steps);
    };
    Tensor drawn = run_sampler(model.schedule(), options.sampler, cluster::coded_network(model, own, options.guidance), x,
                               step_stream(options.seed), watch, first);
    images.rows(first, end).copy_(clamp(drawn, -1, 1));
    before += steps;
  }
  return images;
}

Tensor component_codes(const cluster::Mixture& mixture, const std::vector<int64_t>& components, int64_t each,
                       uint64_t seed) {
  Tensor codes = empty({int64_t(components.size()) * each, mixture.width()});
  int64_t row = 0;
  for (int64_t component : components) {
    Generator generator = Generator{seed}.fork(kCodes).fork(uint64_t(component));
    codes.rows(row, row + each).copy_(cluster::sample_component(mixture, component, each, generator));
    row += each;
  }
  return codes;
}

}  // namespace mote::apps
