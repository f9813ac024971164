#include "tensor/cpu/gemm.h"

#include "tensor/kernels.h"

namespace mote::cpu {
namespace {

/// One product with all threads: panels of B packed once, rows of C divided.
template <class C, class T>
void gemm_parallel(int64_t M, int64_t N, int64_t K, const Matrix<T>& a, const Matrix<T>& b, C* c, const C* bias) {
  Scratch<C> panels(packed_size<C>(K, N));
  parallel_for(panels_of<C>(N), kGrain / (kPanel<C> * std::max<int64_t>(K, 1)), [&](int64_t first, int64_t last) {
    for (int64_t panel = first; panel < last; ++panel)
      pack_panel(panels.data() + panel * kPanel<C> * K, b, K, N, panel);
  });
  // Work is handed out in whole tiles; a thread should have some 10^5 multiplications to do.
  int64_t tiles = (M + kTileRows - 1) / kTileRows;
  ThreadScratch<C> block(kBlockElements);
  parallel_for(tiles, (int64_t(1) << 17) / std::max<int64_t>(kTileRows * N * K, 1), [&](int64_t first, int64_t last) {
    gemm_rows(first * kTileRows, std::min(M, last * kTileRows), N, K, a, static_cast<const C*>(panels.data()), c, N,
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
    const T* in_a = a.data<T>();
    const T* in_w = w.data<T>();
    int64_t lda = trans_a ? M : K, ldw = trans_w ? K : N;
    // bf16 results are summed in f32 over all of K before the one rounding.
    bool narrow = !std::is_same_v<T, C>;
    Scratch<C> wide(narrow ? y.numel() : 0), wide_bias(bias.defined() ? N : 0);
    C* out = narrow ? wide.data() : reinterpret_cast<C*>(y.raw());
    if (bias.defined()) std::copy(bias.data<T>(), bias.data<T>() + N, wide_bias.data());
    const C* start = bias.defined() ? wide_bias.data() : nullptr;
    if (batch == 1) {
      gemm_parallel<C, T>(M, N, K, {in_a, lda, trans_a}, {in_w, ldw, trans_w}, out, start);
    } else {
      ThreadScratch<C> work(packed_size<C>(K, N) + kBlockElements);
      parallel_for(batch, 1, [&](int64_t first, int64_t last) {
        for (int64_t index = first; index < last; ++index)
          gemm_serial(M, N, K, Matrix<T>{in_a + index * M * K, lda, trans_a},
                      Matrix<T>{in_w + index * K * N, ldw, trans_w}, out + index * M * N, N, false, work.mine(), start);
      });
    }
    if (narrow) {
      T* to = y.data<T>();
      parallel_for(y.numel(), kGrain, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) to[i] = T(out[i]);
      });
    }
  });
}

}  // namespace mote::cpu
