#include "tensor/random.h"

#include "tensor/kernels.h"
#include "tensor/random_math.h"

namespace mote {
namespace {

uint64_t blocks_for(int64_t numel, DType dtype) {
  int64_t each = dtype == DType::f64 || dtype == DType::i64 ? 2 : 4;
  return uint64_t((numel + each - 1) / each);
}

template <class Launch>
Tensor draw(const char* op, const Shape& shape, DType dtype, Generator& generator, Device device, Launch launch) {
  check(is_floating(dtype) || dtype == DType::i64, op, ": needs a floating dtype, got ", dtype);
  Tensor y = empty(shape, dtype, device);
  launch(y, generator.seed, generator.offset);
  generator.offset += blocks_for(y.numel(), dtype);
  return y;
}

}  // namespace

Generator Generator::fork(uint64_t key) const {
  // The new seed is a Philox output itself, from a counter half that draws do not reach (offset + 2^63).
  philox::Block word = philox::block(seed ^ (key * 0x9E3779B97F4A7C15u), (key + offset) | (uint64_t(1) << 63));
  return {uint64_t(word.word[0]) << 32 | word.word[1], 0};
}

Tensor uniform(const Shape& shape, DType dtype, Generator& generator, Device device) {
  return draw("uniform", shape, dtype, generator, device, kernel::random_uniform);
}
Tensor normal(const Shape& shape, DType dtype, Generator& generator, Device device) {
  return draw("normal", shape, dtype, generator, device, kernel::random_normal);
}
Tensor uniform(const Shape& shape, DType dtype, Generator&& generator, Device device) {
  return uniform(shape, dtype, generator, device);
}
Tensor normal(const Shape& shape, DType dtype, Generator&& generator, Device device) {
  return normal(shape, dtype, generator, device);
}

Tensor randint(int64_t low, int64_t high, const Shape& shape, Generator& generator, Device device) {
  check(low < high, "randint: needs low < high, got ", low, " and ", high);
  return draw("randint", shape, DType::i64, generator, device,
              [&](Tensor& y, uint64_t seed, uint64_t offset) { kernel::random_int(y, low, high, seed, offset); });
}

uint64_t random_bits(const Generator& generator, uint64_t index) {
  philox::Block word = philox::block(generator.seed, generator.offset + index / 2);
  int first = index % 2 ? 2 : 0;
  return uint64_t(word.word[first]) << 32 | word.word[first + 1];
}

}  // namespace mote
