#include "diffusion/ot/pipeline.h"

#include <cmath>

namespace mote::ot {
namespace {

// Keys of the streams of a seed. The solver's iterations have a small number in their upper 16 bits (method.h), so with
// the same seed too a map is never applied to the samples that it was fitted to.
constexpr uint64_t kJump = 0x6a756d7000000000, kLatents = 0x6c617465, kStored = 0x73746f72;  // "jump", "late", "stor"

}  // namespace

Latents latents_named(const std::string& name) {
  if (name == "fresh") return Latents::fresh;
  if (name == "stored") return Latents::stored;
  fail(Error::Kind::usage, "latents '", name, "' are unknown: choose fresh or stored");
}

const char* name_of(Latents latents) { return latents == Latents::fresh ? "fresh" : "stored"; }

Level level_of_u(double u, double t) {
  check(u > 0 && std::isfinite(u), "level_of_u: needs a positive number, got ", u);
  return Level::of_lambda(t, -std::log(u));
}

Tensor noised(const Level& level, const Tensor& x, const Generator& noise, int64_t first) {
  check(x.defined() && x.dtype() == DType::f32 && x.ndim() >= 1, "noised: needs f32 [N, ...], got ", describe(x));
  Tensor eps = image_noise(x.shape(), DType::f32, noise, first, x.device()), result = empty_like(x);
  kernel::combine(result, {{level.a(), x}, {level.sigma(), eps}});
  return result;
}

Tensor stored_states(const Level& level, const Tensor& images, uint64_t seed) {
  return noised(level, images, Generator{seed}.fork(kStored));
}

Tensor chosen_targets(const Targets& targets, const Tensor& heights, const Source& source, uint64_t seed, int64_t first,
                      int64_t count) {
  Source samples = source;
  samples.seed = seed;
  return assign(targets, heights, samples.samples(kJump, first, count));
}

Start start_states(const Targets& targets, const Tensor& heights, const Source& source, Latents latents,
                   const Level& level, uint64_t seed, int64_t first, int64_t count) {
  Start start;
  start.index = chosen_targets(targets, heights, source, seed, first, count);
  start.x = targets.points(start.index).view(targets.point_shape().inserted(0, count));
  if (latents == Latents::fresh) start.x = noised(level, start.x, Generator{seed}.fork(kLatents), first);
  return start;
}

}  // namespace mote::ot
