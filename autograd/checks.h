// checks.h - the argument checks that many ops share. Internal to autograd/: ops_*.cpp include it, nobody else.
// Each throws Error(argument) in the order op, rule, what came.
#pragma once
#include <initializer_list>

#include "tensor/tensor.h"

namespace mote {

/// A tensor argument and what the op calls it.
struct Argument {
  const char* name;
  const Tensor& tensor;
};

inline void check_defined(const char* op, const Argument& x) {
  check(x.tensor.defined(), op, ": ", x.name, " is undefined");
}

inline void check_floating(const char* op, const Argument& x) {
  check_defined(op, x);
  check(is_floating(x.tensor.dtype()), op, ": ", x.name, " must be floating (f32, bf16 or f64), got ",
        describe(x.tensor));
}

inline void check_same_device(const char* op, const Argument& a, const Argument& b) {
  check(a.tensor.device() == b.tensor.device(), op, ": arguments lie on different devices: ", a.name, " is on ",
        a.tensor.device(), ", ", b.name, " is on ", b.tensor.device());
}

inline void check_same_kind(const char* op, const Argument& a, const Argument& b) {
  check(a.tensor.dtype() == b.tensor.dtype(), op, ": dtypes differ: ", a.name, " is ", describe(a.tensor), ", ",
        b.name, " is ", describe(b.tensor));
  check_same_device(op, a, b);
}

/// `x` is defined and floating; the others share its dtype and device, or are undefined.
inline void check_floating(const char* op, const Argument& x, std::initializer_list<Argument> others) {
  check_floating(op, x);
  for (const Argument& other : others)
    if (other.tensor.defined()) check_same_kind(op, x, other);
}

inline void check_axes(const char* op, const Argument& x, int ndim, const char* meaning) {
  check(x.tensor.ndim() == ndim, op, ": ", x.name, " must have the axes ", meaning, ", got ", describe(x.tensor));
}

inline void check_same_shape(const char* op, const Argument& a, const Argument& b) {
  check(a.tensor.shape() == b.tensor.shape(), op, ": shapes differ: ", a.name, " is ", describe(a.tensor), ", ",
        b.name, " is ", describe(b.tensor));
}

}  // namespace mote
