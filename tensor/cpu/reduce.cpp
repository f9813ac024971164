// Reductions. Sums run in chunks of fixed size, folded in order: the same bits for any thread count.
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/scratch.h"
#include "tensor/kernels.h"
#include "tensor/walk.h"

namespace mote::cpu {
namespace {

/// y[o, i] = sum over l of x[o, l, i]. T in, C out: sums are kept in the compute type, chunks folded in double.
template <class C, class T>
void sum_middle(C* y, const T* x, int64_t outer, int64_t length, int64_t inner) {
  if (inner == 1) {
    if (outer == 1) {
      y[0] = C(chunked_sum<C>(length, [x](int64_t i) { return C(x[i]); }));
      return;
    }
    parallel_for(outer, kGrain / std::max<int64_t>(length, 1), [=](int64_t first, int64_t last) {
      for (int64_t o = first; o < last; ++o) {
        const T* row = x + o * length;
        y[o] = C(chunked_sum<C>(length, [row](int64_t i) { return C(row[i]); }));
      }
    });
    return;
  }
  // Rows are added `repeat` at a time, which makes the inner loop long where rows are short: the sums of a chunk are
  // `repeat` rows themselves.
  constexpr int64_t kLanes = 256, kTimes = 64;
  int64_t repeat = std::max<int64_t>(kLanes / inner, 1), lanes = repeat * inner, chunk_rows = kTimes * repeat;
  int64_t chunks = std::max<int64_t>((length + chunk_rows - 1) / chunk_rows, 1);
  Scratch<double> partial(outer * chunks * inner);
  ThreadScratch<C> scratch(lanes);
  parallel_for(outer * chunks, kGrain / (kTimes * lanes), [&](int64_t first, int64_t last) {
    C* sums = scratch.mine();
    for (int64_t item = first; item < last; ++item) {
      int64_t o = item / chunks, begin = item % chunks * chunk_rows, end = std::min(length, begin + chunk_rows);
      const T* from = x + (o * length + begin) * inner;
      std::fill(sums, sums + lanes, C(0));
      for (int64_t left = (end - begin) * inner; left > 0; left -= lanes, from += lanes) {
        int64_t count = std::min(left, lanes);
#pragma GCC ivdep
        for (int64_t i = 0; i < count; ++i) sums[i] += C(from[i]);
      }
      double* into = partial.data() + item * inner;
      for (int64_t i = 0; i < inner; ++i) into[i] = double(sums[i]);
      for (int64_t row = 1; row < repeat; ++row)
        for (int64_t i = 0; i < inner; ++i) into[i] += double(sums[row * inner + i]);
    }
  });
  parallel_for(outer * inner, kGrain / chunks, [&](int64_t first, int64_t last) {
    for (int64_t item = first; item < last; ++item) {
      int64_t o = item / inner, i = item % inner;
      double total = 0;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) total += partial.data()[(o * chunks + chunk) * inner + i];
      y[item] = C(total);
    }
  });
}

}  // namespace

void sum_to(Tensor& y, const Tensor& x) {
  for_floating("sum_to", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    T* out = y.data<T>();
    std::vector<AxisRun> runs = axis_runs(x.shape(), y.shape());
    if (x.numel() == 0) return std::fill(out, out + y.numel(), T(C(0)));
    // The innermost summed run goes first, straight from x; any others follow on the shrunken intermediate.
    std::vector<C> sums;
    bool from_x = true;
    for (size_t at = runs.size(); at-- > 0;) {
      if (!runs[at].summed) continue;
      int64_t outer = 1, inner = 1;
      for (size_t k = 0; k < runs.size(); ++k) (k < at ? outer : k > at ? inner : outer) *= k == at ? 1 : runs[k].size;
      std::vector<C> next(size_t(outer * inner));
      if (from_x) sum_middle(next.data(), x.data<T>(), outer, runs[at].size, inner);
      else sum_middle(next.data(), sums.data(), outer, runs[at].size, inner);
      sums = std::move(next);
      from_x = false;
      runs[at].size = 1;
    }
    if (from_x) std::copy(x.data<T>(), x.data<T>() + x.numel(), out);
    else for (int64_t i = 0; i < y.numel(); ++i) out[i] = T(sums[size_t(i)]);
  });
}

void max_axis(Tensor& y, Tensor& index, const Tensor& x, int axis) {
  int64_t length = x.shape()[axis], inner = x.shape().stride(axis);
  int64_t* best_index = index.data<int64_t>();
  for_floating("max_axis", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    T* out = y.data<T>();
    const T* in = x.data<T>();
    parallel_for(y.numel(), kGrain / length, [&](int64_t first, int64_t last) {
      for (int64_t item = first; item < last; ++item) {
        const T* column = in + item / inner * length * inner + item % inner;
        int64_t best = 0;
        for (int64_t l = 1; l < length; ++l) {
          C value = C(column[l * inner]), so_far = C(column[best * inner]);
          if (value > so_far || (value != value && so_far == so_far)) best = l;
        }
        out[item] = column[best * inner];
        best_index[item] = best;
      }
    });
  });
}

void max_axis_backward(Tensor& dx, const Tensor& index, const Tensor& dy, int axis) {
  int64_t length = dx.shape()[axis], inner = dx.shape().stride(axis);
  const int64_t* best = index.data<int64_t>();
  for_floating("max_axis_backward", dx.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* out = dx.data<T>();
    const T* dout = dy.data<T>();
    parallel_for(dy.numel(), kGrain / length, [&](int64_t first, int64_t last) {
      for (int64_t item = first; item < last; ++item) {
        T* column = out + item / inner * length * inner + item % inner;
        for (int64_t l = 0; l < length; ++l) column[l * inner] = l == best[item] ? dout[item] : T(compute_t<T>(0));
      }
    });
  });
}

void sum_squares(Tensor& y, const Tensor& x) {
  for_floating("sum_squares", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* in = x.data<T>();
    // In double from the start: the square of a finite f32 above 1.8e19 is infinite in f32.
    y.data<double>()[0] = chunked_sum<double>(x.numel(), [in](int64_t i) {
      double value = compute_t<T>(in[i]);
      return value * value;
    });
  });
}

}  // namespace mote::cpu
