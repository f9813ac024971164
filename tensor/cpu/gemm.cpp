#include "tensor/cpu/gemm.h"

#include "tensor/kernels.h"

namespace mote::cpu {
namespace {

/// One product with all threads: panels of B packed once, rows of C divided.
template <class E, class T, class TC>
void gemm_parallel(int64_t M, int64_t N, int64_t K, const Matrix<T>& a, const Matrix<T>& b, TC* c, const compute_t<E>* bias) {
  constexpr int64_t kColumns = kPanel<compute_t<E>>;
  int64_t panels = panels_of<compute_t<E>>(N);
  Scratch<E> packed(packed_size<E>(K, N));
  parallel_for(panels, kGrain / (kColumns * std::max<int64_t>(K, 1)), [&](int64_t first, int64_t last) {
    for (int64_t panel = first; panel < last; ++panel)
      pack_panel(packed.data() + panel * kColumns * packed_k<E>(K), b, K, N, panel);
  });
  // Work is handed out in whole tiles; a thread should have some 10^5 multiplications to do.
  int64_t height = std::is_same_v<E, bf16> && amx_enabled() ? kAmxRows : kTileRows, tiles = (M + height - 1) / height;
  ThreadScratch<E> block(kBlockElements<E>);
  parallel_for(tiles, (int64_t(1) << 17) / std::max<int64_t>(height * N * K, 1), [&](int64_t first, int64_t last) {
    gemm_rows(first * height, std::min(M, last * height), N, K, a, static_cast<const E*>(packed.data()), c, N,
              bias, false, block.mine());
  });
}

}  // namespace

void matmul(Tensor& y, const Tensor& a, const Tensor& w, bool trans_a, bool trans_w, const Tensor& bias) {
  int64_t M = y.size(-2), N = y.size(-1), K = a.size(trans_a ? -2 : -1);
  int64_t batch = y.ndim() == 3 ? y.size(0) : 1;
  if (y.numel() == 0) return;
  for_floating("matmul", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    using E = operand_t<T>;
    Matrix<T> matrix_a{a.data<T>(), trans_a ? M : K, trans_a}, matrix_w{w.data<T>(), trans_w ? K : N, trans_w};
    Scratch<C> wide_bias(bias.defined() ? N : 0);
    for (int64_t i = 0; bias.defined() && i < N; ++i) wide_bias.data()[i] = C(bias.data<T>()[i]);
    const C* start = bias.defined() ? wide_bias.data() : nullptr;
    auto multiply = [&](auto* out) {
      if (batch == 1) return gemm_parallel<E>(M, N, K, matrix_a, matrix_w, out, start);
      ThreadScratch<E> work(packed_size<E>(K, N) + kBlockElements<E>);
      parallel_for(batch, 1, [&](int64_t first, int64_t last) {
        for (int64_t index = first; index < last; ++index) {
          Matrix<T> one_a = matrix_a, one_w = matrix_w;
          one_a.data += index * M * K;
          one_w.data += index * K * N;
          gemm_serial(M, N, K, one_a, one_w, out + index * M * N, N, false, work.mine(), start);
        }
      });
    };
    if (std::is_same_v<T, C> || K <= kBlockK<E>) return multiply(y.data<T>());
    // Sums over several blocks of k wait in the compute type for the one rounding.
    Scratch<C> wide(y.numel());
    multiply(wide.data());
    T* to = y.data<T>();
    const C* from = wide.data();
    parallel_for(y.numel(), kGrain, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) to[i] = T(from[i]);
    });
  });
}

}  // namespace mote::cpu
