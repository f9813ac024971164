// Softmax over the last axis, and the losses built on it.
#include "tensor/cpu/parallel.h"
#include "tensor/kernels.h"

namespace mote::cpu {
namespace {

/// Largest element (NaN wins) and log of the sum of e^(x - max) in C; the row has at least one element.
template <class C, class T>
void log_sum_exp(const T* row, int64_t length, C& largest, C& log_sum) {
  largest = C(row[0]);
  for (int64_t i = 1; i < length; ++i) largest = math::max(C(row[i]), largest);
  double sum = 0;
  for (int64_t i = 0; i < length; ++i) sum += double(math::exp(C(row[i]) - largest));
  log_sum = C(std::log(sum));
}

}  // namespace

void softmax(Tensor& y, const Tensor& x, bool log) {
  if (y.numel() == 0) return;
  int64_t length = y.ndim() ? y.size(-1) : 1, rows = y.numel() / length;
  for_floating("softmax", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    parallel_for(rows, kGrain / length, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        const T* in = x.data<T>() + r * length;
        T* out = y.data<T>() + r * length;
        C largest, log_sum;
        log_sum_exp(in, length, largest, log_sum);
        for (int64_t i = 0; i < length; ++i) {
          C logit = C(in[i]) - largest - log_sum;
          out[i] = T(log ? logit : math::exp(logit));
        }
      }
    });
  });
}

void softmax_backward(Tensor& dx, const Tensor& y, const Tensor& dy, bool log) {
  // dx = y (dy - sum dy y), or for the logarithm dx = dy - e^y sum dy.
  if (dx.numel() == 0) return;
  int64_t length = y.ndim() ? y.size(-1) : 1, rows = y.numel() / length;
  for_floating("softmax_backward", dx.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    parallel_for(rows, kGrain / length, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        const T *out = y.data<T>() + r * length, *dout = dy.data<T>() + r * length;
        T* to = dx.data<T>() + r * length;
        double dot = 0;
        for (int64_t i = 0; i < length; ++i) dot += double(C(dout[i])) * (log ? 1.0 : double(C(out[i])));
        for (int64_t i = 0; i < length; ++i) {
          C p = log ? math::exp(C(out[i])) : C(out[i]);
          to[i] = T(log ? C(dout[i]) - p * C(dot) : p * (C(dout[i]) - C(dot)));
        }
      }
    });
  });
}

void cross_entropy(Tensor& loss, const Tensor& logits, const Tensor& target) {
  int64_t rows = logits.size(0), classes = logits.size(1);
  for_floating("cross_entropy", logits.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const int64_t* label = target.data<int64_t>();
    C* out = loss.data<C>();
    parallel_for(rows, kGrain / classes, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        const T* row = logits.data<T>() + r * classes;
        C largest, log_sum;
        log_sum_exp(row, classes, largest, log_sum);
        out[r] = log_sum + (largest - C(row[label[r]]));
      }
    });
  });
}

void cross_entropy_backward(Tensor& dlogits, const Tensor& logits, const Tensor& target, const Tensor& dloss) {
  int64_t rows = logits.size(0), classes = logits.size(1);
  for_floating("cross_entropy_backward", logits.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    const int64_t* label = target.data<int64_t>();
    parallel_for(rows, kGrain / classes, [&](int64_t first, int64_t last) {
      for (int64_t r = first; r < last; ++r) {
        const T* row = logits.data<T>() + r * classes;
        T* out = dlogits.data<T>() + r * classes;
        C largest, log_sum, scale = dloss.data<C>()[r];
        log_sum_exp(row, classes, largest, log_sum);
        for (int64_t k = 0; k < classes; ++k)
          out[k] = T(scale * (math::exp(C(row[k]) - largest - log_sum) - C(k == label[r] ? 1 : 0)));
      }
    });
  });
}

}  // namespace mote::cpu
