// cuda_parity.h - one call of a kernel on the CPU and on the emulated GPU, and whether the results are the same.
#pragma once
#include <cmath>
#include <vector>

#include "tensor/random.h"
#include "tests/cuda_host/kernels.h"
#include "tests/support.h"

namespace mote::test {

#define MOTE_KERNEL(name, parameters, arguments) \
  static void name parameters { cpu::name arguments; }
struct OnCpu {
#include "tensor/kernels.h"
};
#undef MOTE_KERNEL
#define MOTE_KERNEL(name, parameters, arguments) \
  static void name parameters { cuda_host::name arguments; }
struct OnGpu {
#include "tensor/kernels.h"
};
#undef MOTE_KERNEL

/// A copy of `values` that begins `offset` elements into its memory: offset 0 is aligned to any pack, 1 is not.
inline Tensor inside(const Tensor& values, int64_t offset) {
  Tensor all = empty({values.numel() + 2 * offset}, values.dtype());
  Tensor copy = all.rows(offset, offset + values.numel()).view(values.shape());
  copy.copy_(values);
  return copy;
}

/// Normal numbers of any floating dtype, `offset` elements into their memory.
inline Tensor draw_at(int64_t offset, const Shape& shape, DType dtype, uint64_t seed) {
  return inside(normal(shape, DType::f32, Generator{seed}).to(dtype), offset);
}

/// Whether two tensors have the same bits, but for those of a NaN.
inline bool same_values(const Tensor& a, const Tensor& b) {
  if (same_bits(a, b)) return true;
  if (a.dtype() != b.dtype() || !difference(a, b, 0, 0).empty()) return false;
  std::vector<double> x = a.to_vector(), y = b.to_vector();
  for (size_t i = 0; i < x.size(); ++i)
    if (!std::isnan(x[i]) && std::signbit(x[i]) != std::signbit(y[i])) return false;
  return true;
}

/// Runs call(on, outputs) with `on` the CPU's kernels and then the GPU's, each on copies of `outputs` at `offset` (the
/// undefined stay so). Empty if the results agree: as same_values says, or, with a tolerance, as `difference` does.
template <class Call>
std::string disagreement(const std::vector<Tensor>& outputs, int64_t offset, Call&& call, double absolute = 0,
                         double relative = 0) {
  auto copies = [&] {
    std::vector<Tensor> made;
    for (const Tensor& output : outputs) made.push_back(output.defined() ? inside(output, offset) : Tensor());
    return made;
  };
  std::vector<Tensor> expected = copies(), got = copies();
  call(OnCpu{}, expected);
  call(OnGpu{}, got);
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].defined()) continue;
    bool exact = absolute == 0 && relative == 0;
    if (exact && same_values(got[i], expected[i])) continue;
    std::string text = difference(got[i], expected[i], absolute, relative);
    if (text.empty() && exact) text = "equal, but the sign of a zero";
    if (!text.empty()) return "output " + std::to_string(i) + ": " + text;
  }
  return "";
}

/// An output whose old contents must not matter.
inline Tensor stale(const Shape& shape, DType dtype) { return full(shape, is_floating(dtype) ? NAN : 77, dtype); }

}  // namespace mote::test
