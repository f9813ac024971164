#include "diffusion/ot/keys.h"

#include <algorithm>
#include <cmath>

#include "tensor/error.h"
#include "tensor/kernels.h"

namespace mote::ot {

void require_heights(const char* op, const Targets& targets, const Tensor& heights) {
  check(heights.defined() && heights.dtype() == DType::f32 && heights.shape() == Shape{targets.count()} &&
            !heights.is_cuda(),
        op, ": needs a height a target: heights are ", describe(heights), ", there are ", targets.count(), " targets");
  for (int64_t i = 0; i < heights.numel(); ++i)
    if (!std::isfinite(heights.data<float>()[i]))
      fail(Error::Kind::numeric, op, ": height ", i, " is ", heights.data<float>()[i]);
}

Tensor top_keys(const Targets& targets, const Tensor& heights, const Tensor& x, int64_t k) {
  Tensor keys = empty({x.size(0), k}, DType::i64);
  std::fill_n(keys.data<int64_t>(), keys.numel(), kNoKey);
  for (auto [first, last] : targets.chunks())
    kernel::score_top(keys, x, targets.rows(first, last), heights.rows(first, last), first);
  for (int64_t s = 0; s < x.size(0); ++s)
    if (keys.data<int64_t>()[s * k + k - 1] == kNoKey)
      fail(Error::Kind::numeric, "ot: sample ", s, " of ", describe(x), " has fewer than ", k, " finite scores");
  return keys;
}

int64_t samples_at_a_time(const Targets& targets) {
  int64_t fit = (int64_t(64) << 20) / (4 * targets.width()) / 256;
  return std::clamp<int64_t>(fit, 1, 32) * 256;
}

}  // namespace mote::ot
