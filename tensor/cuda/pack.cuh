// pack.cuh - what kernels that look at each element once share: a loop over items, and packs of elements that a thread
// loads and stores 16 bytes at a time, or one by one where memory is not aligned to that or fewer are left.
#pragma once
#include <algorithm>
#include <utility>

#include "tensor/cuda/hardware.h"
#include "tensor/kernels.h"
#include "tensor/walk.h"

/// Before a loop of unknown length: the device loads for `count` turns before it waits. The host's compiler takes none.
#ifdef MOTE_CUDA_HOST
#define MOTE_UNROLL(count)
#else
#define MOTE_PRAGMA(text) _Pragma(#text)
#define MOTE_UNROLL(count) MOTE_PRAGMA(unroll count)
#endif

namespace mote::MOTE_CUDA_NAMESPACE {

// Kernels that other kernels call (kernels.h).
void fill(Tensor& y, double value);
void convert(Tensor& y, const Tensor& x);

/// body(i) for i = 0..n-1, in any order.
template <class Body>
struct Each {
  static constexpr int kThreads = 256;
  int64_t n;
  Body body;
  MOTE_DEVICE void operator()() const {
    for (int64_t i = hw::global_thread(); i < n; i += hw::global_threads()) body(i);
  }
};
template <class Body>
void for_each(const char* op, int64_t n, const Body& body, const char* file = __builtin_FILE(),
              int line = __builtin_LINE()) {
  using Kernel = Each<Body>;
  hw::launch(op, hw::Launch(hw::blocks_for(n, Kernel::kThreads), Kernel::kThreads, 0, file, line), Kernel{n, body});
}

/// Elements of T in 16 bytes.
template <class T> inline constexpr int kPack = 16 / int(sizeof(T));
inline int64_t packs(int64_t n, int width) { return (n + width - 1) / width; }

/// Whether the tensors that are defined begin at multiples of 16 bytes.
template <class... Tensors>
bool is_aligned(const Tensors&... tensors) {
  return ((reinterpret_cast<uintptr_t>(tensors.raw()) % 16 == 0) && ...);
}

/// A tensor's memory as elements of a type of for_element_size.
template <class Unit>
hw::Ptr<Unit> units(Tensor& tensor) {
  hw::Ptr<Unit> found{};
  for_any(tensor.dtype(), [&](auto zero) { found = hw::cast<Unit>(hw::ptr<decltype(zero)>(tensor)); });
  return found;
}
template <class Unit>
hw::Ptr<const Unit> units(const Tensor& tensor) {
  hw::Ptr<const Unit> found{};
  for_any(tensor.dtype(), [&](auto zero) { found = hw::cast<const Unit>(hw::ptr<decltype(zero)>(tensor)); });
  return found;
}

/// pack[k] = x[first + k], converted, for those below n; zero for the others. aligned: x is to 16 bytes, and first is a
/// multiple of V.
template <class C, int V, class T>
MOTE_DEVICE void load_pack(C (&pack)[V], hw::Ptr<T> x, int64_t first, int64_t n, bool aligned) {
  using Element = std::remove_const_t<T>;
  constexpr int kWidth = V < kPack<Element> ? V : kPack<Element>;
  if (aligned && first + V <= n) {
    for (int part = 0; part < V; part += kWidth) {
      auto loaded = hw::load<kWidth>(x + (first + part));
      for (int k = 0; k < kWidth; ++k) pack[part + k] = C(loaded[k]);
    }
  } else {
    for (int k = 0; k < V; ++k) pack[k] = first + k < n ? C(Element(x[first + k])) : C(0);
  }
}

/// y[first + k] = pack[k], converted, for those below n.
template <class C, int V, class T>
MOTE_DEVICE void store_pack(hw::Ptr<T> y, int64_t first, int64_t n, bool aligned, const C (&pack)[V]) {
  constexpr int kWidth = V < kPack<T> ? V : kPack<T>;
  if (aligned && first + V <= n) {
    for (int part = 0; part < V; part += kWidth) {
      hw::Vec<T, kWidth> stored;
      for (int k = 0; k < kWidth; ++k) stored[k] = T(pack[part + k]);
      hw::store(y + (first + part), stored);
    }
  } else {
    for (int k = 0; k < V; ++k)
      if (first + k < n) y[first + k] = T(pack[k]);
  }
}

}  // namespace mote::MOTE_CUDA_NAMESPACE
