#include "diffusion/metrics/features.h"

#include <cmath>

#include "tensor/error.h"

namespace mote::metrics {
namespace {

template <class T>
void require_finite(const char* op, const char* name, const Tensor& x) {
  const T* value = x.data<T>();
  for (int64_t i = 0; i < x.numel(); ++i)
    if (!std::isfinite(value[i]))
      fail(Error::Kind::data, op, ": ", name, ' ', describe(x), " is not finite: row ", i / x.size(1), ", column ",
           i % x.size(1), " is ", value[i]);
}

}  // namespace

void require_features(const char* op, const char* name, const Tensor& x) {
  check(x.defined() && x.ndim() == 2 && x.numel() > 0 && (x.dtype() == DType::f32 || x.dtype() == DType::f64) &&
            !x.is_cuda(),
        op, ": ", name, " must be f32 or f64 [N, D] on the CPU with at least one row, got ", describe(x));
  if (x.dtype() == DType::f32) require_finite<float>(op, name, x);
  else require_finite<double>(op, name, x);
}

void require_pair(const char* op, const Tensor& x, const Tensor& y) {
  require_features(op, "x", x);
  require_features(op, "y", y);
  if (x.size(1) != y.size(1))
    fail(Error::Kind::data, op, ": both sides need features of one width: x is ", describe(x), ", y is ", describe(y));
}

}  // namespace mote::metrics
