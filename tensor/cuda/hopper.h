// hopper.h - what sm_90a has beyond hardware.h: copies of boxes of a tensor into shared memory by the copy engine (TMA),
// barriers in shared memory that count bytes (mbarrier), and products of a warpgroup, four warps, straight out of shared
// memory (wgmma). tests/cuda_host/hopper.h is the host's twin.
//
// Swizzled rows. Operands lie in shared memory in rows of 64 bf16 (128 bytes) whose eight chunks of 16 bytes are exchanged:
// chunk c of row r stands at c ^ (r % 8), as the copy engine writes and wgmma reads them. Eight rows are 1024 bytes, and
// every operand begins at a multiple of that. An operand of more than 64 in its fast axis is several panels of such rows.
#pragma once
#include "tensor/cuda/hardware.h"

#ifndef MOTE_CUDA_HOST
#include <cuda.h>   // types alone: the driver's functions are found through the runtime

namespace mote::cuda::hw {

/// Whether what is compiled is for sm_90a; other devices get kernels without a body, which is_hopper keeps from running.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
inline constexpr bool kHopperCode = true;
#else
inline constexpr bool kHopperCode = false;
#endif
/// True on a device and in a build that have all of this: compute capability 9.0, compiled for sm_90a.
bool is_hopper();

// ---- Boxes ---------------------------------------------------------------------------------------------------------

/// A dense bf16 tensor of up to four axes, the fast one first, and the boxes that are copied from it.
struct TensorMap {
  CUtensorMap map;
};
/// size[0] is a multiple of 8, box[0] is 64, other sides of a box are at most 256; base is aligned to 16 bytes.
/// Throws Error(resource) if the driver refuses.
TensorMap tensor_map(const char* op, const Tensor& tensor, const int64_t (&size)[4], const int (&box)[4]);

/// Bytes from p to the next multiple of 1024 in shared memory.
template <class T> MOTE_DEVICE unsigned align_1024(T* p) { return -unsigned(__cvta_generic_to_shared(p)) & 1023; }

/// A barrier in shared memory: phases 0, 1, 2, ... end when all arrivals and all expected bytes of the phase are there.
using Gate = Ptr<uint64_t>;
namespace detail {
template <class T> MOTE_DEVICE unsigned shared_address(T* p) { return unsigned(__cvta_generic_to_shared(p)); }
}  // namespace detail
/// By one thread; then gates_ready() by it, and a barrier of the block.
MOTE_DEVICE void gate_init(Gate gate, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(detail::shared_address(gate)), "r"(arrivals) : "memory");
}
MOTE_DEVICE void gates_ready() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
MOTE_DEVICE void gate_arrive(Gate gate) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(detail::shared_address(gate)) : "memory");
}
/// Arrives, and lets the phase wait for so many bytes of copies.
MOTE_DEVICE void gate_expect(Gate gate, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
               :: "r"(detail::shared_address(gate)), "r"(bytes) : "memory");
}
/// Waits until a phase whose number is even (parity 0) or odd (1) has ended; of a fresh gate that holds for 1.
MOTE_DEVICE void gate_wait(Gate gate, int parity) {
  unsigned done = 0;
  do {
    asm volatile("{\n .reg .pred p;\n mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n selp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done) : "r"(detail::shared_address(gate)), "r"(parity) : "memory");
  } while (!done);
}

/// By one thread: starts to copy the box that begins at (c0, c1, c2, c3) to rows at `to`, swizzled, zeros where it leaves
/// the tensor. All its bytes count at `gate`, those of zeros too.
MOTE_DEVICE void copy_box(Ptr<bf16> to, const TensorMap& map, Gate gate, int c0, int c1, int c2, int c3) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
               "[%0], [%1, {%3, %4, %5, %6}], [%2];"
               :: "r"(detail::shared_address(to)), "l"(&map.map), "r"(detail::shared_address(gate)), "r"(c0), "r"(c1),
                  "r"(c2), "r"(c3) : "memory");
}

// ---- Products ------------------------------------------------------------------------------------------------------

/// An operand of wgmma at `start`: its K of 16 lies along the rows (kKFast), or down them. `panel`: bytes from a panel of
/// 64 to the next, used where the rows are M or N.
template <bool kKFast>
MOTE_DEVICE uint64_t operand(Ptr<bf16> start, int panel) {
  constexpr uint64_t kEightRows = 1024 >> 4, kSwizzle128 = uint64_t(1) << 62;
  uint64_t leading = kKFast ? 1 : uint64_t(panel) >> 4;
  return uint64_t(detail::shared_address(start) >> 4 & 0x3fff) | leading << 16 | kEightRows << 32 | kSwizzle128;
}
/// The same 16 k further on.
template <bool kKFast>
MOTE_DEVICE uint64_t next_k(uint64_t operand, int sixteens) {
  return operand + uint64_t(sixteens * (kKFast ? 32 : 16 * 128) >> 4);
}

/// What ordinary stores wrote to shared memory before is seen by wgmma after (and a barrier).
MOTE_DEVICE void fence_for_wgmma() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
/// Before the first product of a group, after anything else has touched the sums.
MOTE_DEVICE void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
MOTE_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits until at most kPending groups are under way.
template <int kPending>
MOTE_DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(kPending) : "memory"); }
/// Keeps reads of the sums behind the wait.
template <int kCount>
MOTE_DEVICE void wgmma_sums(float (&d)[kCount]) {
#pragma unroll
  for (float& one : d) asm volatile("" : "+f"(one) :: "memory");
}

#define MOTE_W4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define MOTE_W16(i) MOTE_W4(i), MOTE_W4(i + 4), MOTE_W4(i + 8), MOTE_W4(i + 12)
/// d += A B, 64 x 2 kCount, K = 16, bf16 inputs: all 128 threads of a warpgroup. With g = lane / 4 and t = lane % 4,
/// d[4 j .. 4 j + 3] of warp w are (16 w + g, 8 j + 2 t), the next column, and both again 8 rows further down.
template <bool kAKFast, bool kBKFast>
MOTE_DEVICE void wgmma(float (&d)[32], uint64_t a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
               "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,"
               "%28,%29,%30,%31}, %32, %33, 1, 1, 1, %34, %35;"
               : MOTE_W16(0), MOTE_W16(16) : "l"(a), "l"(b), "n"(kAKFast ? 0 : 1), "n"(kBKFast ? 0 : 1));
}
template <bool kAKFast, bool kBKFast>
MOTE_DEVICE void wgmma(float (&d)[64], uint64_t a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
               "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,"
               "%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,"
               "%54,%55,%56,%57,%58,%59,%60,%61,%62,%63}, %64, %65, 1, 1, 1, %66, %67;"
               : MOTE_W16(0), MOTE_W16(16), MOTE_W16(32), MOTE_W16(48)
               : "l"(a), "l"(b), "n"(kAKFast ? 0 : 1), "n"(kBKFast ? 0 : 1));
}
#undef MOTE_W16
#undef MOTE_W4

}  // namespace mote::cuda::hw
#endif
