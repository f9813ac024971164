// hardware.h - the only way kernels reach the GPU: indices, shared memory, barriers, warp operations, integer atomics,
// asynchronous copies, tensor cores, and the launch. tests/cuda_host/hardware.h is the same interface on the host, so
// that a .cu file is compiled twice: by nvcc for the device, and by the host compiler for the tests, where it runs on
// CPU tensors and every fault is reported. Both define MOTE_DEVICE, MOTE_SHARED and MOTE_CUDA_NAMESPACE.
//
// How a kernel file looks (tensor/cuda/NAME.cu; kernels that two files need go into a .cuh that both include):
//
//   #include "tensor/cuda/hardware.h"            // the host build has included its twin before: this one is then empty
//   namespace mote::MOTE_CUDA_NAMESPACE {        // cuda on the device, cuda_host in the tests
//   namespace {
//   template <class T>
//   struct Halve {                                       // arguments are members, or parameters of operator()
//     static constexpr int kThreads = 256;               // the most threads of a block; a multiple of 32
//     hw::Ptr<T> y;
//     hw::Ptr<const T> x;
//     int64_t n;
//     MOTE_DEVICE void operator()() const {
//       for (int64_t i = hw::global_thread(); i < n; i += hw::global_threads()) y[i] = T(0.5f * float(x[i]));
//     }
//   };
//   }  // namespace
//   void halve(Tensor& y, const Tensor& x) {             // declared in kernels.h
//     for_floating("halve", x.dtype(), [&]<class T>(T) {
//       hw::launch("halve", {hw::blocks_for(x.numel(), 256), 256}, Halve<T>{hw::ptr<T>(y), hw::ptr<T>(x), x.numel()});
//     });
//   }
//   }
//
// Rules that the host checks: memory is reached through hw::Ptr only (a plain pointer on the device); all threads of a
// block reach the same barrier and all 32 lanes of a warp the same warp operation (no early return before one); shared
// memory is written before it is read; between a write and another thread's access to the same shared bytes stands a
// barrier (or, inside one warp, sync_warp); asynchronous copies are waited for, then a barrier. Code must not read the
// address of a Ref, and writes float(x[i]) where the type of an element matters.
#pragma once
#ifndef MOTE_CUDA_HOST

#include <cuda_runtime.h>

#include <type_traits>

#include "tensor/cuda/runtime.h"
#include "tensor/tensor.h"

#define MOTE_DEVICE __device__ __forceinline__
#define MOTE_CUDA_NAMESPACE cuda
/// `hw::Ptr<T> name`: room for `count` (a constant) elements that the block shares, aligned to 16 bytes.
#define MOTE_SHARED(T, name, count)                                                         \
  __shared__ __align__(16) unsigned char name##_bytes[sizeof(T) * (count)];                 \
  ::mote::cuda::hw::Ptr<T> const name = reinterpret_cast<T*>(name##_bytes)

namespace mote::cuda::hw {

/// Memory of the device or shared memory of the block; the host's class of this name checks each access.
template <class T>
using Ptr = T*;

/// The elements of a tensor for a kernel; null if the tensor is undefined.
template <class T> Ptr<T> ptr(Tensor& tensor) { return tensor.defined() ? tensor.data<T>() : nullptr; }
template <class T> Ptr<const T> ptr(const Tensor& tensor) { return tensor.defined() ? tensor.data<T>() : nullptr; }
/// The same memory as elements of U.
template <class U, class T> __host__ MOTE_DEVICE Ptr<U> cast(T* p) { return reinterpret_cast<U*>(p); }

// ---- Indices: blocks are one-dimensional, grids have up to three axes ----------------------------------------------

struct Index {
  int x, y, z;
};
MOTE_DEVICE int thread() { return int(threadIdx.x); }
MOTE_DEVICE int threads() { return int(blockDim.x); }
MOTE_DEVICE int lane() { return int(threadIdx.x % 32); }
MOTE_DEVICE int warp() { return int(threadIdx.x / 32); }
MOTE_DEVICE int warps() { return int(blockDim.x / 32); }
MOTE_DEVICE Index block() { return {int(blockIdx.x), int(blockIdx.y), int(blockIdx.z)}; }
MOTE_DEVICE Index blocks() { return {int(gridDim.x), int(gridDim.y), int(gridDim.z)}; }
/// This thread's number along the first axis of the grid, and how many there are: for grid-stride loops.
MOTE_DEVICE int64_t global_thread() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
MOTE_DEVICE int64_t global_threads() { return int64_t(gridDim.x) * blockDim.x; }

// ---- Shared memory and barriers ------------------------------------------------------------------------------------

/// The launch's dynamic shared memory from byte `offset` on; the start is aligned to 128 bytes.
template <class T>
MOTE_DEVICE Ptr<T> dynamic_shared(size_t offset = 0) {
  extern __shared__ __align__(128) unsigned char mote_dynamic_shared[];
  return reinterpret_cast<T*>(mote_dynamic_shared + offset);
}
/// Waits for every thread of the block; what they wrote before is visible after.
MOTE_DEVICE void barrier() { __syncthreads(); }
/// The same for the 32 lanes of a warp.
MOTE_DEVICE void sync_warp() { __syncwarp(); }
/// What this thread wrote to global memory before is seen by every block before what it writes after.
MOTE_DEVICE void fence() { __threadfence(); }

// ---- Warp operations: all 32 lanes take part -----------------------------------------------------------------------

/// The value of lane + delta (own value beyond the last lane), of lane ^ mask, of lane `source`. T of 4 or 8 bytes.
template <class T> MOTE_DEVICE T shuffle_down(T value, int delta) { return __shfl_down_sync(~0u, value, delta); }
template <class T> MOTE_DEVICE T shuffle_xor(T value, int mask) { return __shfl_xor_sync(~0u, value, mask); }
template <class T> MOTE_DEVICE T shuffle(T value, int source) { return __shfl_sync(~0u, value, source); }
/// Bit i is set where lane i's predicate holds.
MOTE_DEVICE uint32_t ballot(bool predicate) { return __ballot_sync(~0u, predicate); }

// ---- Atomics on integers (sums of floats would depend on the order): each returns the value before -----------------

MOTE_DEVICE int32_t atomic_add(Ptr<int32_t> p, int32_t value) { return atomicAdd(p, value); }
MOTE_DEVICE int64_t atomic_add(Ptr<int64_t> p, int64_t value) {
  return int64_t(atomicAdd(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(value)));
}
MOTE_DEVICE int32_t atomic_max(Ptr<int32_t> p, int32_t value) { return atomicMax(p, value); }
MOTE_DEVICE int64_t atomic_max(Ptr<int64_t> p, int64_t value) {
  return int64_t(atomicMax(reinterpret_cast<long long*>(p), static_cast<long long>(value)));
}

// ---- Loads and stores of up to 16 bytes ----------------------------------------------------------------------------

/// N elements moved by one instruction; sizeof(T) N is 2, 4, 8 or 16.
template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  T at[N];
  MOTE_HD T& operator[](int i) { return at[i]; }
  MOTE_HD const T& operator[](int i) const { return at[i]; }
};

namespace detail {
template <size_t kBytes> struct Word;
template <> struct Word<1> { using type = unsigned char; };
template <> struct Word<2> { using type = unsigned short; };
template <> struct Word<4> { using type = unsigned int; };
template <> struct Word<8> { using type = uint2; };
template <> struct Word<16> { using type = uint4; };
/// By value: from a reference to memory nvcc would load byte by byte.
template <class To, class From>
MOTE_DEVICE To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  return __builtin_bit_cast(To, from);
}
}  // namespace detail

/// p[0..N-1]; p is aligned to the size of all N, in global or shared memory.
template <int N, class T>
MOTE_DEVICE Vec<std::remove_const_t<T>, N> load(T* p) {
  using V = Vec<std::remove_const_t<T>, N>;
  return detail::bits_as<V>(*reinterpret_cast<const typename detail::Word<sizeof(V)>::type*>(p));
}
/// The same from global memory that no thread writes while the kernel runs: through the read-only cache.
template <int N, class T>
MOTE_DEVICE Vec<std::remove_const_t<T>, N> load_constant(T* p) {
  using V = Vec<std::remove_const_t<T>, N>;
  return detail::bits_as<V>(__ldg(reinterpret_cast<const typename detail::Word<sizeof(V)>::type*>(p)));
}
template <class T, int N>
MOTE_DEVICE void store(T* p, const Vec<T, N>& value) {
  using Word = typename detail::Word<sizeof value>::type;
  *reinterpret_cast<Word*>(p) = detail::bits_as<Word>(value);
}

// ---- Asynchronous copies from global to shared memory --------------------------------------------------------------

/// Copies kBytes (4, 8 or 16; both addresses aligned to it) without waiting; zeros are written and nothing is read
/// unless `valid`. The destination must not be touched before cp_async_wait of this thread and a barrier.
template <int kBytes, class T>
MOTE_DEVICE void cp_async(T* to, const T* from, bool valid = true) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  unsigned address = unsigned(__cvta_generic_to_shared(to));
  int bytes = valid ? kBytes : 0;
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" :: "r"(address), "l"(from), "r"(bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;"
                 :: "r"(address), "l"(from), "n"(kBytes), "r"(bytes) : "memory");
}
/// Closes the group of copies since the last commit (it may be empty).
MOTE_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most kPending of this thread's newest groups are still under way.
template <int kPending>
MOTE_DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(kPending) : "memory"); }

// ---- Tensor cores: warp operations on fragments, by the layouts of the PTX manual (section mma) --------------------
// With g = lane / 4 and t = lane % 4, a register of two bf16 holding the lower column or row in its lower half:
//   A 16x16 bf16   a[0] (g, 2t..2t+1)   a[1] (g+8, 2t..)   a[2] (g, 2t+8..)   a[3] (g+8, 2t+8..)
//   B 16x8  bf16   b[0] (2t..2t+1, g)   b[1] (2t+8.., g)
//   A 16x8  tf32   a[0] (g, t)          a[1] (g+8, t)      a[2] (g, t+4)      a[3] (g+8, t+4)
//   B 8x8   tf32   b[0] (t, g)          b[1] (t+4, g)
//   D 16x8  f32    d[0..1] (g, 2t..2t+1)   d[2..3] (g+8, 2t..2t+1)

/// d += A B, m16n8k16: bf16 inputs, sums in f32.
MOTE_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/// d += A B, m16n8k8: inputs from to_tf32, sums in f32.
MOTE_DEVICE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/// The float with 10 bits of mantissa nearest to x (ties away from zero), as mma_tf32 takes it.
MOTE_DEVICE uint32_t to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}
/// Two bf16 in a register, `low` in the lower half.
MOTE_DEVICE uint32_t pack(bf16 low, bf16 high) { return uint32_t(high.bits) << 16 | low.bits; }
/// The same of floats, rounded as bf16() rounds; of NaN the bits may differ.
MOTE_DEVICE uint32_t pack(float low, float high) {
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
}

/// kCount (1, 2 or 4) 8x8 matrices of 16-bit elements out of shared memory: lane 8 m + r gives the address of row r of
/// matrix m (16 bytes, aligned; lanes from 8 kCount on are ignored but pass a valid address). r[m] of lane l
/// is row l/4, columns 2 (l%4) and the next, of matrix m; of its transpose with _transposed.
template <int kCount, class T>
MOTE_DEVICE void ldmatrix(uint32_t (&r)[kCount], T* row) {
  static_assert(sizeof(T) == 2 && (kCount == 1 || kCount == 2 || kCount == 4));
  unsigned address = unsigned(__cvta_generic_to_shared(row));
  if constexpr (kCount == 4)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
  else if constexpr (kCount == 2)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(address) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(address) : "memory");
}
template <int kCount, class T>
MOTE_DEVICE void ldmatrix_transposed(uint32_t (&r)[kCount], T* row) {
  static_assert(sizeof(T) == 2 && (kCount == 1 || kCount == 2 || kCount == 4));
  unsigned address = unsigned(__cvta_generic_to_shared(row));
  if constexpr (kCount == 4)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
  else if constexpr (kCount == 2)
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1]) : "r"(address) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(address) : "memory");
}

// ---- Launch --------------------------------------------------------------------------------------------------------

/// A number that every draw adds to its place in the stream of its seed: 0 except while a graph is replayed.
inline Ptr<const uint64_t> random_shift() { return current().random_shift; }

/// Shared memory that one block may have, static and dynamic together, and the number of multiprocessors.
inline size_t shared_limit() { return current().shared_limit; }
inline int processors() { return current().processors; }

namespace detail {
template <class K> concept HasMinBlocks = requires { K::kMinBlocks; };
template <class K>
constexpr int min_blocks() {
  if constexpr (HasMinBlocks<K>) return K::kMinBlocks;
  else return 1;
}
template <class K, class... Arguments>
__global__ void __launch_bounds__(K::kThreads, min_blocks<K>()) run(const __grid_constant__ K kernel, const Arguments... arguments) {
  kernel(arguments...);
}
}  // namespace detail
}  // namespace mote::cuda::hw

#include "tensor/cuda/launch.h"

namespace mote::cuda::hw {

/// Runs kernel(arguments...) in every thread of `shape` on the current device's stream; returns without waiting.
///   K::kThreads    the most threads of a block, a multiple of 32
///   K::kMinBlocks  optional: how many blocks a multiprocessor should hold at once, which bounds the registers
/// A grid with an axis of size 0 does nothing. Throws Error naming op, file and line if the shape breaks a limit
/// (argument) or the device refuses (resource).
template <class K, class... Arguments>
void launch(const char* op, const Launch& shape, const K& kernel, Arguments... arguments) {
  static_assert(K::kThreads % 32 == 0 && K::kThreads <= 1024);
  if (!check_launch(op, shape, K::kThreads, shared_limit())) return;
  auto* function = detail::run<K, Arguments...>;
  Call call{op, "launch", shape.file, shape.line};
  if (shape.shared > 48 * 1024)
    succeed(call, cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shape.shared)));
  function<<<dim3(shape.grid.x, shape.grid.y, shape.grid.z), shape.threads, shape.shared, current().stream>>>(
      kernel, arguments...);
  launched(call);
}

}  // namespace mote::cuda::hw

#include "tensor/cuda/collective.h"

#endif
