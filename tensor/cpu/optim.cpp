// AdamW, with gradient scaling and the running average of the weights, in one pass over memory.
#include "tensor/cpu/parallel.h"
#include "tensor/kernels.h"

namespace mote::cpu {

void adamw(Tensor& parameter, const Tensor& grad, Tensor& m, Tensor& v, Tensor& ema, const AdamW& options) {
  // m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2;  p <- p - lr (m / c1 / (sqrt(v / c2) + eps) + wd p),
  // c1 = 1 - b1^step, c2 = 1 - b2^step                                              [Loshchilov 2019, algorithm 2]
  float beta1 = float(options.beta1), beta2 = float(options.beta2), rest1 = float(1 - options.beta1),
        rest2 = float(1 - options.beta2), scale = float(options.grad_scale), eps = float(options.eps),
        lr = float(options.lr), decay = float(options.lr * options.weight_decay);
  float inverse1 = float(1 / (1 - std::pow(options.beta1, double(options.step))));
  float inverse2 = float(1 / (1 - std::pow(options.beta2, double(options.step))));
  float keep = float(options.ema_decay), take = float(1 - options.ema_decay);
  float *p = parameter.data<float>(), *pm = m.data<float>(), *pv = v.data<float>();
  float* average = ema.defined() ? ema.data<float>() : nullptr;
  const float* g = grad.data<float>();
  parallel_for(parameter.numel(), kGrain, [=](int64_t first, int64_t last) {
    constexpr int64_t kBlock = 1024;   // the average reads parameters that are still in the first cache
    for (int64_t begin = first; begin < last; begin += kBlock) {
      int64_t end = std::min(last, begin + kBlock);
#pragma GCC ivdep
      for (int64_t i = begin; i < end; ++i) {
        float gradient = g[i] * scale;
        pm[i] = beta1 * pm[i] + rest1 * gradient;
        pv[i] = beta2 * pv[i] + rest2 * gradient * gradient;
        p[i] -= lr * (pm[i] * inverse1) / (math::sqrt(pv[i] * inverse2) + eps) + decay * p[i];
      }
      if (!average) continue;
#pragma GCC ivdep
      for (int64_t i = begin; i < end; ++i) average[i] = keep * average[i] + take * p[i];
    }
  });
}

}  // namespace mote::cpu
