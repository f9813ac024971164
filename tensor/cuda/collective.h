// collective.h - reductions over a warp and over a block, written on the operations of hardware.h (which includes this
// file) and so the same on the device and in the host's tests. The order of the sums is fixed.
#ifndef MOTE_CUDA_COLLECTIVE
#define MOTE_CUDA_COLLECTIVE

namespace mote::MOTE_CUDA_NAMESPACE::hw {

struct Sum {
  template <class T> MOTE_DEVICE T operator()(T a, T b) const { return a + b; }
};
struct Max {   // NaN wins
  template <class T> MOTE_DEVICE T operator()(T a, T b) const { return math::max(a, b); }
};

/// value combined over the 32 lanes in a fixed order; every lane gets the same bits. `op` must be commutative.
template <class T, class Op>
MOTE_DEVICE T warp_reduce(T value, Op op) {
  for (int mask = 16; mask > 0; mask /= 2) value = op(value, shuffle_xor(value, mask));
  return value;
}
template <class T> MOTE_DEVICE T warp_sum(T value) { return warp_reduce(value, Sum{}); }
template <class T> MOTE_DEVICE T warp_max(T value) { return warp_reduce(value, Max{}); }

/// value combined over all threads of the block; every thread gets the same bits. scratch: shared, 32 elements, free
/// for other uses after the call. All threads take part; holds three barriers.
template <class T, class Op>
MOTE_DEVICE T block_reduce(T value, Op op, Ptr<T> scratch) {
  value = warp_reduce(value, op);
  barrier();   // whoever used scratch before is done
  if (lane() == 0) scratch[warp()] = value;
  barrier();
  value = scratch[0];
  for (int w = 1; w < warps(); ++w) value = op(value, T(scratch[w]));
  barrier();
  return value;
}

}  // namespace mote::MOTE_CUDA_NAMESPACE::hw
#endif
