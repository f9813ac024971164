// attention.cu - attention and attention_backward: which kernel of attention.cuh, and its launch.
#include "tensor/cuda/attention.cuh"

#include <utility>

#include "tensor/kernels.h"

namespace mote::MOTE_CUDA_NAMESPACE {
namespace {

/// Calls fn with the smallest width that kernels are made for and that holds a head of `width`.
template <class Fn>
void for_width(const char* op, int64_t width, Fn&& fn) {
  check(width <= 256, op, ": heads are ", width, " wide, on a GPU they may be at most 256");
  if (width <= 32) return fn(std::integral_constant<int, 32>{});
  if (width <= 64) return fn(std::integral_constant<int, 64>{});
  if (width <= 128) return fn(std::integral_constant<int, 128>{});
  fn(std::integral_constant<int, 256>{});
}

bool is_aligned(const Tensor& tensor, int64_t width) {
  return reinterpret_cast<uintptr_t>(tensor.raw()) % 16 == 0 && width * size_of(tensor.dtype()) % 16 == 0;
}

template <class T>
Heads<T> heads_of(const Tensor& qkv, int64_t heads) {
  int64_t channels = qkv.size(2) / 3, width = channels / heads;
  double scale = 1 / std::sqrt(double(width));
  return {hw::ptr<T>(qkv), qkv.size(1), int(width), int(channels), int(heads), is_aligned(qkv, width),
          compute_t<T>(scale), compute_t<T>(scale * 1.44269504088896340736)};
}

}  // namespace

void attention(Tensor& y, Tensor& lse, const Tensor& qkv, int64_t heads) {
  if (y.numel() == 0) return;
  for_floating("attention", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    Heads<T> all = heads_of<T>(qkv, heads);
    all.aligned = all.aligned && is_aligned(y, all.width);
    for_width("attention", all.width, [&](auto width) {
      using Kernel = Attention<T, width()>;
      int64_t blocks = (all.tokens + Kernel::kRows - 1) / Kernel::kRows;
      hw::launch("attention", {y.size(0) * heads * blocks, Kernel::kThreads, Kernel::Size::kShared},
                 Kernel{all, hw::ptr<T>(y), hw::ptr<compute_t<T>>(lse)});
    });
  });
}

void attention_backward(Tensor& dqkv, const Tensor& qkv, const Tensor& y, const Tensor& lse, const Tensor& dy,
                        int64_t heads) {
  if (y.numel() == 0) return;
  for_floating("attention_backward", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    Heads<T> all = heads_of<T>(qkv, heads);
    all.aligned = all.aligned && is_aligned(dy, all.width) && is_aligned(dqkv, all.width);
    Tensor delta = empty(lse.shape(), lse.dtype(), lse.device());
    hw::launch("attention_backward", {hw::blocks_for(32 * delta.numel(), 256), 256},
               AttentionDelta<T>{all, hw::ptr<T>(y), hw::ptr<T>(dy), hw::ptr<C>(delta), delta.numel()});
    for_width("attention_backward", all.width, [&](auto width) {
      using Dq = AttentionDq<T, width()>;
      using Dkv = AttentionDkv<T, width()>;
      constexpr size_t kShared = Dq::Size::kSharedBack;
      hw::Ptr<const C> sums = hw::ptr<C>(lse), deltas = hw::ptr<C>(std::as_const(delta));
      int64_t blocks = y.size(0) * heads * ((all.tokens + Dq::kRows - 1) / Dq::kRows);
      hw::launch("attention_backward", {blocks, Dq::kThreads, kShared},
                 Dq{all, hw::ptr<T>(dy), sums, deltas, hw::ptr<T>(dqkv)});
      hw::launch("attention_backward", {{blocks, width() / Dkv::kSlice}, Dkv::kThreads, kShared},
                 Dkv{all, hw::ptr<T>(dy), sums, deltas, hw::ptr<T>(dqkv)});
    });
  });
}

}  // namespace mote::MOTE_CUDA_NAMESPACE
