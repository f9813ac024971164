// Pointwise kernels: one loop over contiguous memory, or the broadcasting walk of `binary`.
#include <array>
#include <cstring>
#include <utility>

#include "tensor/cpu/parallel.h"
#include "tensor/kernels.h"
#include "tensor/walk.h"

namespace mote::cpu {

// ---- Fill and convert ----------------------------------------------------------------------------------------------

void fill(Tensor& y, double value) {
  for_any(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* out = y.data<T>();
    T converted = T(compute_t<T>(value));
    if constexpr (!std::is_same_v<T, bf16>) converted = T(value);
    parallel_for(y.numel(), kGrain, [&](int64_t begin, int64_t end) { std::fill(out + begin, out + end, converted); });
  });
}

void convert(Tensor& y, const Tensor& x) {
  if (y.dtype() == x.dtype()) {
    int64_t bytes = y.nbytes();
    char* out = static_cast<char*>(y.raw());
    const char* in = static_cast<const char*>(x.raw());
    parallel_for(bytes, 4 * kGrain, [&](int64_t begin, int64_t end) { std::memmove(out + begin, in + begin, size_t(end - begin)); });
    return;
  }
  for_any(y.dtype(), [&](auto to_zero) {
    for_any(x.dtype(), [&](auto from_zero) {
      using To = decltype(to_zero);
      using From = decltype(from_zero);
      To* out = y.data<To>();
      const From* in = x.data<From>();
      parallel_for(y.numel(), kGrain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          if constexpr (std::is_same_v<To, bf16>) out[i] = bf16(float(in[i]));
          else if constexpr (std::is_same_v<From, bf16>) out[i] = To(float(in[i]));
          else out[i] = To(in[i]);
        }
      });
    });
  });
}

// ---- Unary ---------------------------------------------------------------------------------------------------------

void unary(Tensor& y, const Tensor& x, const Unary& op) {
  for_floating("unary", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    T* out = y.data<T>();
    const T* in = x.data<T>();
    visit(op, [&](auto f) {
      parallel_for(y.numel(), kGrain, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) out[i] = T(f.fwd(C(in[i])));
      });
    });
  });
}

void unary_backward(Tensor& dx, const Tensor& kept, const Tensor& dy, const Unary& op) {
  for_floating("unary_backward", dx.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    T* out = dx.data<T>();
    const T* dout = dy.data<T>();
    const T* in = kept.defined() ? kept.data<T>() : dout;   // Keep::nothing: the functor does not look at it
    visit(op, [&](auto f) {
      parallel_for(dx.numel(), kGrain, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) out[i] = T(f.bwd(C(in[i]), C(dout[i])));
      });
    });
  });
}

// ---- Binary with broadcasting --------------------------------------------------------------------------------------

namespace {

/// Calls row(y_offset, a_offset, b_offset, length) for each run of the innermost axis inside elements begin..end-1.
template <class Row>
void for_rows(const BroadcastWalk& walk, int64_t begin, int64_t end, Row&& row) {
  int64_t inner = walk.size[walk.ndim - 1];
  while (begin < end) {
    int64_t column = begin % inner, length = std::min(inner - column, end - begin), a, b;
    walk.offsets(begin / inner, a, b);
    row(begin, a + column * walk.stride_a[walk.ndim - 1], b + column * walk.stride_b[walk.ndim - 1], length);
    begin += length;
  }
}

/// out[i] = fn(a[i step_a], b[i step_b], i), the innermost strides being 0 or 1: each case is a loop that vectorises.
template <class C, class TA, class TB, class Fn>
void inner_loop(const TA* a, const TB* b, int64_t step_a, int64_t step_b, int64_t length, Fn&& fn) {
  if (step_a && step_b) {
    for (int64_t i = 0; i < length; ++i) fn(i, C(a[i]), C(b[i]));
  } else if (step_a) {
    C fixed = length ? C(*b) : C(0);
    for (int64_t i = 0; i < length; ++i) fn(i, C(a[i]), fixed);
  } else if (step_b) {
    C fixed = length ? C(*a) : C(0);
    for (int64_t i = 0; i < length; ++i) fn(i, fixed, C(b[i]));
  } else {
    C fixed_a = length ? C(*a) : C(0), fixed_b = length ? C(*b) : C(0);
    for (int64_t i = 0; i < length; ++i) fn(i, fixed_a, fixed_b);
  }
}

}  // namespace

void binary(Tensor& y, const Tensor& a, const Tensor& b, Binary op) {
  for_floating("binary", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    T* out = y.data<T>();
    const T* in_a = a.data<T>();
    const T* in_b = b.data<T>();
    BroadcastWalk walk(y.shape(), a.shape(), b.shape());
    int64_t step_a = walk.stride_a[walk.ndim - 1], step_b = walk.stride_b[walk.ndim - 1];
    visit(op, [&](auto f) {
      parallel_for(y.numel(), kGrain, [&](int64_t begin, int64_t end) {
        for_rows(walk, begin, end, [&](int64_t at, int64_t at_a, int64_t at_b, int64_t length) {
          T* row = out + at;
          inner_loop<C>(in_a + at_a, in_b + at_b, step_a, step_b, length,
                        [row, f](int64_t i, C va, C vb) { row[i] = T(f.fwd(va, vb)); });
        });
      });
    });
  });
}

void binary_backward(const Tensor& dy, Tensor& da, Tensor& db, const Tensor& a, const Tensor& b, Binary op) {
  for_floating("binary_backward", dy.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const T* dout = dy.data<T>();
    const T* in_a = a.data<T>();
    const T* in_b = b.data<T>();
    T* out_a = da.defined() ? da.data<T>() : nullptr;
    T* out_b = db.defined() ? db.data<T>() : nullptr;
    BroadcastWalk walk(dy.shape(), a.shape(), b.shape());
    int64_t step_a = walk.stride_a[walk.ndim - 1], step_b = walk.stride_b[walk.ndim - 1];
    visit(op, [&](auto f) {
      parallel_for(dy.numel(), kGrain, [&](int64_t begin, int64_t end) {
        for_rows(walk, begin, end, [&](int64_t at, int64_t at_a, int64_t at_b, int64_t length) {
          const T* g = dout + at;
          if (out_a) {
            T* row = out_a + at;
            inner_loop<C>(in_a + at_a, in_b + at_b, step_a, step_b, length,
                          [row, g, f](int64_t i, C va, C vb) { row[i] = T(f.bwd_a(va, vb, C(g[i]))); });
          }
          if (out_b) {
            T* row = out_b + at;
            inner_loop<C>(in_a + at_a, in_b + at_b, step_a, step_b, length,
                          [row, g, f](int64_t i, C va, C vb) { row[i] = T(f.bwd_b(va, vb, C(g[i]))); });
          }
        });
      });
    });
  });
}

void broadcast(Tensor& y, const Tensor& x) {
  for_floating("broadcast", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* out = y.data<T>();
    const T* in = x.data<T>();
    BroadcastWalk walk(y.shape(), x.shape(), x.shape());
    bool moves = walk.stride_a[walk.ndim - 1] != 0;
    parallel_for(y.numel(), kGrain, [&](int64_t begin, int64_t end) {
      for_rows(walk, begin, end, [&](int64_t at, int64_t from, int64_t, int64_t length) {
        if (moves) std::copy(in + from, in + from + length, out + at);
        else std::fill(out + at, out + at + length, in[from]);
      });
    });
  });
}

// ---- Sums of tensors -----------------------------------------------------------------------------------------------

void accumulate(Tensor& y, const Tensor& x) {
  for_floating("accumulate", y.dtype(), [&](auto zero) {
    for_floating("accumulate", x.dtype(), [&](auto zero_x) {
      using T = decltype(zero);
      using C = compute_t<T>;
      T* out = y.data<T>();
      const auto* in = x.data<decltype(zero_x)>();
      parallel_for(y.numel(), kGrain, [=](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) out[i] = T(C(out[i]) + C(in[i]));
      });
    });
  });
}

namespace {

/// out = sum of factor[k] * in[k] over K terms: with K known the loop keeps all factors in registers and is one pass.
template <size_t K, class T>
void combine_terms(T* out, const std::array<const T*, 8>& in, const std::array<compute_t<T>, 8>& factor, int64_t numel) {
  using C = compute_t<T>;
  parallel_for(numel, kGrain, [=](int64_t begin, int64_t end) {
#pragma omp simd   // element i reads and writes place i only, so y may be one of the terms
    for (int64_t i = begin; i < end; ++i) {
      C sum = factor[0] * C(in[0][i]);
      for (size_t k = 1; k < K; ++k) sum += factor[k] * C(in[k][i]);
      out[i] = T(sum);
    }
  });
}

}  // namespace

void combine(Tensor& y, const std::vector<Term>& terms) {
  check(terms.size() >= 1 && terms.size() <= 8, "combine: takes 1 to 8 terms, got ", terms.size());
  for_floating("combine", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* out = y.data<T>();
    std::array<const T*, 8> in{};
    std::array<compute_t<T>, 8> factor{};
    for (size_t k = 0; k < terms.size(); ++k) {
      in[k] = terms[k].tensor.template data<T>();
      factor[k] = compute_t<T>(terms[k].factor);
    }
    auto run = [&]<size_t... K>(std::index_sequence<K...>) {
      ((terms.size() == K + 1 ? combine_terms<K + 1>(out, in, factor, y.numel()) : void()), ...);
    };
    run(std::make_index_sequence<8>());
  });
}

void combine_rows(Tensor& y, const Tensor& x, const Tensor& e, const Tensor& a, const Tensor& b) {
  for_floating("combine_rows", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    T* out = y.data<T>();
    const T* in_x = x.data<T>();
    const T* in_e = e.data<T>();
    int64_t images = y.size(0), pixels = images ? y.numel() / images : 0;
    parallel_for(images, kGrain / std::max<int64_t>(pixels, 1), [&](int64_t first, int64_t last) {
      for (int64_t n = first; n < last; ++n) {
        C fa = C(a.data<double>()[n]), fb = C(b.data<double>()[n]);
        for (int64_t i = n * pixels; i < (n + 1) * pixels; ++i) out[i] = T(fa * C(in_x[i]) + fb * C(in_e[i]));
      }
    });
  });
}

}  // namespace mote::cpu
