#include "diffusion/ot/source.h"

#include <cmath>

#include "tensor/kernels.h"
#include "tensor/random.h"

namespace mote::ot {
namespace {

/// Draws of samples first .. first + count - 1, each from a Philox block of its own on, f32 [count, width].
Tensor draw(const Source& source, const Generator& stream, int64_t first, int64_t count) {
  int64_t blocks = (source.width + 3) / 4;
  Tensor whole = empty({count, 4 * blocks});
  uint64_t offset = stream.offset + uint64_t(first) * uint64_t(blocks);
  if (source.kind == Source::Kind::gaussian) {
    kernel::random_normal(whole, stream.seed, offset);
  } else {
    kernel::random_uniform(whole, stream.seed, offset);
    double factor = std::sqrt(12.0);
    kernel::unary(whole, whole, {Unary::affine, factor, -factor / 2});
  }
  if (whole.size(1) == source.width) return whole;
  Tensor samples = empty({count, source.width});
  kernel::get_box(samples, whole, {0, 0});
  return samples;
}

}  // namespace

Tensor Source::samples(uint64_t iteration, int64_t first, int64_t count, DType dtype) const {
  check(width >= 1, "ot::Source: needs a width of 1 or more, got ", width);
  check(first >= 0 && count >= 0, "ot::Source: samples ", first, " .. ", first + count - 1, " do not exist");
  check(dtype == DType::f32 || dtype == DType::bf16, "ot::Source: samples are f32 or bf16, ", dtype, " was asked for");
  Generator stream = Generator{seed}.fork(iteration);
  if (!antithetic) return draw(*this, stream, first, count).to(dtype);
  // Draw j stands for samples 2 j and 2 j + 1.
  int64_t begin = first / 2, pairs = (first + count + 1) / 2 - begin;
  Tensor drawn = draw(*this, stream, begin, pairs), samples = empty({count, width});
  for (int64_t i = 0; i < count; ++i) {
    const float* from = drawn.data<float>() + ((first + i) / 2 - begin) * width;
    float sign = (first + i) % 2 == 0 ? 1.0f : -1.0f, *to = samples.data<float>() + i * width;
    for (int64_t d = 0; d < width; ++d) to[d] = sign * from[d];
  }
  return samples.to(dtype);
}

Source::Kind source_named(const std::string& name) {
  if (name == "gaussian") return Source::Kind::gaussian;
  if (name == "cube") return Source::Kind::cube;
  fail(Error::Kind::usage, "ot: no source '", name, "'; there are gaussian, cube");
}

std::string name_of(Source::Kind kind) { return kind == Source::Kind::gaussian ? "gaussian" : "cube"; }

}  // namespace mote::ot
