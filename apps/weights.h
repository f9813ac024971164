// weights.h - filling parameter arenas (nn/optim.h) from a checkpoint, and with other weights for a while.
#pragma once
#include "apps/checkpoint.h"
#include "nn/optim.h"

namespace mote::apps {

/// Overwrites each view with the saved tensor of its name; every name must be there.
inline void copy_into(const nn::NamedTensors& views, const nn::NamedTensors& saved) {
  std::map<std::string, Tensor> by_name = as_map(saved);
  for (auto [name, view] : views) view.copy_(by_name.at(name));
}

/// Fills the averaged weights of an optimizer that keeps some with those of the checkpoint at `path`, which must have them.
inline void resume_average(nn::Arena& arena, nn::Optimizer& optimizer, const nn::NamedTensors& saved,
                           const std::string& path) {
  if (!optimizer.ema().defined()) return;
  if (saved.empty()) fail(Error::Kind::checkpoint, path, ": the averaged weights (ema.*) are missing");
  copy_into(arena.views(optimizer.ema()), saved);
}

/// The arena holds other weights while it lives, such as the averaged ones for a grid; none if `others` is undefined.
class SwappedWeights {
 public:
  SwappedWeights(Tensor& values, const Tensor& others) : values_(values) {
    if (!others.defined()) return;
    kept_ = values.clone();
    values.copy_(others);
  }
  ~SwappedWeights() {
    if (kept_.defined()) values_.copy_(kept_);
  }
  SwappedWeights(const SwappedWeights&) = delete;
  SwappedWeights& operator=(const SwappedWeights&) = delete;

 private:
  Tensor& values_;
  Tensor kept_;
};

}  // namespace mote::apps
