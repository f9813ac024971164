// AdamW, with gradient scaling and the running average of the weights, in one pass over memory.
#include <cmath>

#include "tensor/cpu/parallel.h"
#include "tensor/kernels.h"

namespace mote::cpu {

void clip_scale(Tensor& scale, const Tensor& squares, const Tensor& loss, double max_norm) {
  float& factor = *scale.data<float>();
  factor = clip_factor(factor, *squares.data<double>(), *loss.data<double>(), max_norm);
}

void adamw(Tensor& parameter, const Tensor& grad, const Tensor& scale, Tensor& m, Tensor& v, Tensor& ema,
           const AdamW& options) {
  const AdamWStep step(options);
  const float factor = *scale.data<float>();
  if (std::isnan(factor)) return;
  float *p = parameter.data<float>(), *pm = m.data<float>(), *pv = v.data<float>();
  float* average = ema.defined() ? ema.data<float>() : nullptr;
  const float* g = grad.data<float>();
  parallel_for(parameter.numel(), kGrain, [=](int64_t first, int64_t last) {
    constexpr int64_t kBlock = 1024;   // the average reads parameters that are still in the first cache
    for (int64_t begin = first; begin < last; begin += kBlock) {
      int64_t end = std::min(last, begin + kBlock);
#pragma GCC ivdep
      for (int64_t i = begin; i < end; ++i) step.update(p[i], pm[i], pv[i], factor * g[i]);
      if (!average) continue;
#pragma GCC ivdep
      for (int64_t i = begin; i < end; ++i) average[i] = step.average(average[i], p[i]);
    }
  });
}

}  // namespace mote::cpu
