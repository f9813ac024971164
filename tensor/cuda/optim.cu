// optim.cu - AdamW with gradient scaling and the running average of the weights: one launch, one pass over memory.
#include "tensor/cuda/pack.cuh"

namespace mote::MOTE_CUDA_NAMESPACE {
namespace {

struct ClipScale {
  hw::Ptr<float> scale;
  hw::Ptr<const double> squares, loss;
  double max_norm;
  MOTE_DEVICE void operator()(int64_t) const { scale[0] = clip_factor(scale[0], squares[0], loss[0], max_norm); }
};

struct Adam {
  static constexpr int V = kPack<float>;
  hw::Ptr<float> parameter, m, v, ema;   // ema may be null
  hw::Ptr<const float> grad, scale;
  int64_t n;
  bool aligned;
  AdamWStep step;
  MOTE_DEVICE void operator()(int64_t item) const {
    float factor = scale[0];
    if (factor != factor) return;
    float p[V], g[V], first[V], second[V];
    int64_t at = item * V;
    load_pack(p, parameter, at, n, aligned);
    load_pack(g, grad, at, n, aligned);
    load_pack(first, m, at, n, aligned);
    load_pack(second, v, at, n, aligned);
    for (int k = 0; k < V; ++k) step.update(p[k], first[k], second[k], factor * g[k]);
    store_pack(parameter, at, n, aligned, p);
    store_pack(m, at, n, aligned, first);
    store_pack(v, at, n, aligned, second);
    if (!ema) return;
    float average[V];
    load_pack(average, ema, at, n, aligned);
    for (int k = 0; k < V; ++k) average[k] = step.average(average[k], p[k]);
    store_pack(ema, at, n, aligned, average);
  }
};

}  // namespace

void clip_scale(Tensor& scale, const Tensor& squares, const Tensor& loss, double max_norm) {
  for_each("clip_scale", 1, ClipScale{hw::ptr<float>(scale), hw::ptr<double>(squares), hw::ptr<double>(loss), max_norm});
}

void adamw(Tensor& parameter, const Tensor& grad, const Tensor& scale, Tensor& m, Tensor& v, Tensor& ema,
           const AdamW& options) {
  for_each("adamw", packs(parameter.numel(), Adam::V),
           Adam{hw::ptr<float>(parameter), hw::ptr<float>(m), hw::ptr<float>(v), hw::ptr<float>(ema),
                hw::ptr<float>(grad), hw::ptr<float>(scale), parameter.numel(),
                is_aligned(parameter, m, v, ema, grad), AdamWStep(options)});
}

}  // namespace mote::MOTE_CUDA_NAMESPACE
