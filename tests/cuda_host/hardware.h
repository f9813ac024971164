// hardware.h - the host's twin of tensor/cuda/hardware.h, which has the contracts: same names, run by the emulator
// (emulator.h). Included before a .cu file, it makes that file a part of the tests, in namespace mote::cuda_host.
#pragma once
#define MOTE_CUDA_HOST
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "tensor/error.h"
#include "tensor/math.h"
#include "tensor/tensor.h"
#include "tests/cuda_host/emulator.h"

#define MOTE_DEVICE inline
#define MOTE_CUDA_NAMESPACE cuda_host
#define MOTE_SHARED(T, name, count)                                                                        \
  ::mote::cuda_host::hw::Ptr<T> const name(                                                                \
      ::mote::cuda_host::host::static_shared(__PRETTY_FUNCTION__, #name, sizeof(T) * (count)))

namespace mote::cuda_host::hw {

// ---- Pointers ------------------------------------------------------------------------------------------------------

template <class T> class Ref;

/// A pointer that knows what it may touch. Elements of a const T are read by value, others through a Ref.
template <class T>
class Ptr {
 public:
  using Value = std::remove_const_t<T>;
  Ptr() = default;
  Ptr(std::nullptr_t) {}
  explicit Ptr(const host::Range& range) : address_(range.begin), range_(range) {}
  Ptr(char* address, const host::Range& range) : address_(address), range_(range) {}
  operator Ptr<const T>() const requires (!std::is_const_v<T>) { return {address_, range_}; }
  explicit operator bool() const { return address_ != nullptr; }

  auto operator[](int64_t i) const {
    if constexpr (std::is_const_v<T>) return (*this + i).get();
    else return Ref<T>(*this + i);
  }
  auto operator*() const { return (*this)[0]; }
  Ptr operator+(int64_t n) const { return {address_ + n * int64_t(sizeof(T)), range_}; }
  Ptr operator-(int64_t n) const { return *this + -n; }
  Ptr& operator+=(int64_t n) { return *this = *this + n; }
  Ptr& operator-=(int64_t n) { return *this = *this - n; }
  Ptr& operator++() { return *this += 1; }
  int64_t operator-(const Ptr& other) const { return (address_ - other.address_) / int64_t(sizeof(T)); }
  auto operator<=>(const Ptr& other) const { return address_ <=> other.address_; }
  bool operator==(const Ptr& other) const { return address_ == other.address_; }
  bool operator==(std::nullptr_t) const { return address_ == nullptr; }

  Value get() const {
    touch(host::Access::read, sizeof(T));
    Value value;
    std::memcpy(&value, address_, sizeof value);
    return value;
  }
  void set(const Value& value) const requires (!std::is_const_v<T>) {
    touch(host::Access::write, sizeof(T));
    std::memcpy(address_, &value, sizeof value);
  }
  void touch(host::Access access, size_t bytes) const { host::touch(access, address_, bytes, bytes, range_); }
  char* address() const { return address_; }
  const host::Range& range() const { return range_; }

 private:
  char* address_ = nullptr;
  host::Range range_;
};

/// One element to be read or written at once; it cannot be kept (`auto v = p[i]` does not convert later).
template <class T>
class Ref {
 public:
  explicit Ref(Ptr<T> p) : p_(p) {}
  Ref(const Ref&) = delete;
  operator T() const&& { return p_.get(); }
  explicit operator float() const&& requires std::is_same_v<T, bf16> { return float(p_.get()); }
  const Ref& operator=(const T& value) const&& { return p_.set(value), *this; }
  const Ref& operator=(Ref&& other) && { return p_.set(other.p_.get()), *this; }
  const Ref& operator+=(const T& value) const&& { return p_.set(p_.get() + value), *this; }
  const Ref& operator-=(const T& value) const&& { return p_.set(p_.get() - value), *this; }
  const Ref& operator*=(const T& value) const&& { return p_.set(p_.get() * value), *this; }

 private:
  Ptr<T> p_;
};

template <class T>
Ptr<T> ptr(Tensor& tensor) {
  if (!tensor.defined()) return nullptr;
  char* begin = reinterpret_cast<char*>(tensor.data<T>());
  return Ptr<T>(host::Range{begin, begin + tensor.nbytes(), false});
}
template <class T>
Ptr<const T> ptr(const Tensor& tensor) {
  return ptr<T>(const_cast<Tensor&>(tensor));
}
template <class U, class T>
Ptr<U> cast(Ptr<T> p) {
  static_assert(std::is_const_v<U> || !std::is_const_v<T>);
  return {p.address(), p.range()};
}

// ---- Indices -------------------------------------------------------------------------------------------------------

struct Index {
  int x, y, z;
};
inline int thread() { return host::thread(); }
inline int threads() { return host::threads(); }
inline int lane() { return host::thread() % 32; }
inline int warp() { return host::thread() / 32; }
inline int warps() { return host::threads() / 32; }
inline Index block() { return {int(host::block().x), int(host::block().y), int(host::block().z)}; }
inline Index blocks() { return {int(host::grid().x), int(host::grid().y), int(host::grid().z)}; }
inline int64_t global_thread() { return host::block().x * host::threads() + host::thread(); }
inline int64_t global_threads() { return host::grid().x * host::threads(); }

// ---- Shared memory and barriers ------------------------------------------------------------------------------------

template <class T>
Ptr<T> dynamic_shared(size_t offset = 0) {
  host::Range range = host::dynamic_shared();
  return {range.begin + offset, range};
}
inline void barrier(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { host::barrier(file, line); }
inline void sync_warp(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { host::sync_warp(file, line); }
inline void fence() {}   // blocks run one after the other

// ---- Warp operations -----------------------------------------------------------------------------------------------

namespace detail {
template <class T>
struct Exchange {
  T value;
  int source;
};
template <class T>
T exchange(const char* name, T value, int source, const char* file, int line) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  Exchange<T> in{value, source};
  T out;
  host::warp_operation(name, &in, sizeof in, &out, sizeof out, [](host::Lanes& lanes) {
    for (int lane = 0; lane < 32; ++lane)
      lanes.output<T>(lane) = lanes.input<Exchange<T>>(lanes.input<Exchange<T>>(lane).source & 31).value;
  }, file, line);
  return out;
}
}  // namespace detail

template <class T>
T shuffle_down(T value, int delta, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  int source = lane() + delta;
  return detail::exchange("shuffle_down", value, source < 32 ? source : lane(), file, line);
}
template <class T>
T shuffle_xor(T value, int mask, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return detail::exchange("shuffle_xor", value, lane() ^ mask, file, line);
}
template <class T>
T shuffle(T value, int source, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return detail::exchange("shuffle", value, source, file, line);
}
inline uint32_t ballot(bool predicate, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  uint32_t out;
  host::warp_operation("ballot", &predicate, 1, &out, sizeof out, [](host::Lanes& lanes) {
    uint32_t bits = 0;
    for (int lane = 0; lane < 32; ++lane) bits |= uint32_t(lanes.input<bool>(lane)) << lane;
    for (int lane = 0; lane < 32; ++lane) lanes.output<uint32_t>(lane) = bits;
  }, file, line);
  return out;
}

// ---- Atomics -------------------------------------------------------------------------------------------------------

namespace detail {
template <class T, class Fn>
T atomic(Ptr<T> p, Fn&& next) {
  p.touch(host::Access::atomic, sizeof(T));
  T before, after;
  std::memcpy(&before, p.address(), sizeof before);
  after = next(before);
  std::memcpy(p.address(), &after, sizeof after);
  return before;
}
template <class T> T wrapping_add(T a, T b) {
  using Unsigned = std::make_unsigned_t<T>;
  return T(Unsigned(a) + Unsigned(b));
}
}  // namespace detail

inline int32_t atomic_add(Ptr<int32_t> p, int32_t value) {
  return detail::atomic(p, [&](int32_t old) { return detail::wrapping_add(old, value); });
}
inline int64_t atomic_add(Ptr<int64_t> p, int64_t value) {
  return detail::atomic(p, [&](int64_t old) { return detail::wrapping_add(old, value); });
}
inline int32_t atomic_max(Ptr<int32_t> p, int32_t value) {
  return detail::atomic(p, [&](int32_t old) { return old > value ? old : value; });
}
inline int64_t atomic_max(Ptr<int64_t> p, int64_t value) {
  return detail::atomic(p, [&](int64_t old) { return old > value ? old : value; });
}

// ---- Loads and stores ----------------------------------------------------------------------------------------------

template <class T, int N>
struct alignas(sizeof(T) * N) Vec {
  static_assert(sizeof(T) * N == 2 || sizeof(T) * N == 4 || sizeof(T) * N == 8 || sizeof(T) * N == 16);
  T at[N];
  T& operator[](int i) { return at[i]; }
  const T& operator[](int i) const { return at[i]; }
};
template <int N, class T>
Vec<std::remove_const_t<T>, N> load(Ptr<T> p) {
  return cast<const Vec<std::remove_const_t<T>, N>>(p).get();
}
template <int N, class T>
Vec<std::remove_const_t<T>, N> load_constant(Ptr<T> p) {
  return load<N>(p);
}
template <class T, int N>
void store(Ptr<T> p, const Vec<T, N>& value) {
  cast<Vec<T, N>>(p).set(value);
}

// ---- Asynchronous copies -------------------------------------------------------------------------------------------

template <int kBytes, class T, class U>
void cp_async(Ptr<T> to, Ptr<U> from, bool valid = true) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  static_assert(std::is_same_v<T, std::remove_const_t<U>>);
  host::cp_async(to.address(), to.range(), from.address(), from.range(), kBytes, valid);
}
inline void cp_async_commit() { host::cp_async_commit(); }
template <int kPending>
void cp_async_wait() {
  host::cp_async_wait(kPending);
}

// ---- Tensor cores --------------------------------------------------------------------------------------------------

inline uint32_t pack(bf16 low, bf16 high) { return uint32_t(high.bits) << 16 | low.bits; }
inline uint32_t pack(float low, float high) { return pack(bf16(low), bf16(high)); }

/// Half of the last kept bit is added to the magnitude and the rest dropped.
inline uint32_t to_tf32(float x) {
  uint32_t bits = std::bit_cast<uint32_t>(x);
  if (std::isnan(x)) return 0x7fffffff;
  return std::isinf(x) ? bits : (bits + 0x1000) & 0xffffe000;
}

namespace detail {
struct MmaInput {
  float d[4];
  uint32_t a[4], b[2];
};
inline float half_word(uint32_t word, int half) {
  return std::bit_cast<float>(half ? word & 0xffff0000 : word << 16);
}
/// A [16][K] and B [K][8] are gathered from the fragments, D += A B in f64 and rounded once.
template <int K, class ReadA, class ReadB>
void multiply(host::Lanes& lanes, ReadA&& read_a, ReadB&& read_b) {
  float a[16][K], b[K][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& in = lanes.input<MmaInput>(lane);
    read_a(a, in.a, lane / 4, lane % 4);
    read_b(b, in.b, lane / 4, lane % 4);
  }
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      int row = lane / 4 + (i / 2) * 8, column = lane % 4 * 2 + i % 2;
      double sum = lanes.input<MmaInput>(lane).d[i];
      for (int k = 0; k < K; ++k) sum += double(a[row][k]) * double(b[k][column]);
      lanes.output<float[4]>(lane)[i] = float(sum);
    }
}
inline void mma(const char* name, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                void (*compute)(host::Lanes&), const char* file, int line) {
  MmaInput in;
  std::memcpy(in.d, d, sizeof d);
  std::memcpy(in.a, a, sizeof a);
  std::memcpy(in.b, b, sizeof b);
  host::warp_operation(name, &in, sizeof in, d, sizeof d, compute, file, line);
}
}  // namespace detail

inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char* file = __builtin_FILE(),
                     int line = __builtin_LINE()) {
  detail::mma("mma_bf16", d, a, b, [](host::Lanes& lanes) {
    detail::multiply<16>(lanes, [](auto& m, const uint32_t* r, int g, int t) {
      for (int i = 0; i < 4; ++i)
        for (int half = 0; half < 2; ++half) m[g + i % 2 * 8][2 * t + half + i / 2 * 8] = detail::half_word(r[i], half);
    }, [](auto& m, const uint32_t* r, int g, int t) {
      for (int i = 0; i < 2; ++i)
        for (int half = 0; half < 2; ++half) m[2 * t + half + i * 8][g] = detail::half_word(r[i], half);
    });
  }, file, line);
}
inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const char* file = __builtin_FILE(),
                     int line = __builtin_LINE()) {
  detail::mma("mma_tf32", d, a, b, [](host::Lanes& lanes) {
    auto value = [](uint32_t bits) { return std::bit_cast<float>(bits & 0xffffe000); };   // the rest is not wired
    detail::multiply<8>(lanes, [&](auto& m, const uint32_t* r, int g, int t) {
      for (int i = 0; i < 4; ++i) m[g + i % 2 * 8][t + i / 2 * 4] = value(r[i]);
    }, [&](auto& m, const uint32_t* r, int g, int t) {
      for (int i = 0; i < 2; ++i) m[t + i * 4][g] = value(r[i]);
    });
  }, file, line);
}

namespace detail {
template <int kCount, bool kTransposed, class T>
void ldmatrix(const char* name, uint32_t (&r)[kCount], Ptr<T> row, const char* file, int line) {
  static_assert(sizeof(T) == 2 && (kCount == 1 || kCount == 2 || kCount == 4));
  uint16_t in[8] = {};
  if (lane() < 8 * kCount) {
    row.touch(host::Access::read, 16);
    std::memcpy(in, row.address(), 16);
  }
  host::warp_operation(name, in, sizeof in, r, sizeof r, [](host::Lanes& lanes) {
    auto element = [&](int matrix, int row, int column) -> uint32_t {
      return lanes.input<uint16_t[8]>(8 * matrix + row)[column];
    };
    for (int lane = 0; lane < 32; ++lane)
      for (int m = 0; m < kCount; ++m) {
        int major = lane / 4, minor = lane % 4 * 2;
        lanes.output<uint32_t[kCount]>(lane)[m] =
            kTransposed ? element(m, minor, major) | element(m, minor + 1, major) << 16
                        : element(m, major, minor) | element(m, major, minor + 1) << 16;
      }
  }, file, line);
}
}  // namespace detail

template <int kCount, class T>
void ldmatrix(uint32_t (&r)[kCount], Ptr<T> row, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  detail::ldmatrix<kCount, false>("ldmatrix", r, row, file, line);
}
template <int kCount, class T>
void ldmatrix_transposed(uint32_t (&r)[kCount], Ptr<T> row, const char* file = __builtin_FILE(),
                         int line = __builtin_LINE()) {
  detail::ldmatrix<kCount, true>("ldmatrix_transposed", r, row, file, line);
}

// ---- Launch --------------------------------------------------------------------------------------------------------

inline Ptr<const uint64_t> random_shift() {
  char* word = reinterpret_cast<char*>(&host::settings().random_shift);
  return Ptr<const uint64_t>(host::Range{word, word + sizeof(uint64_t), false});
}
inline size_t shared_limit() { return host::settings().shared_limit; }
inline int processors() { return host::settings().processors; }

}  // namespace mote::cuda_host::hw

#include "tensor/cuda/launch.h"

namespace mote::cuda_host::hw {

template <class K, class... Arguments>
void launch(const char* op, const Launch& shape, const K& kernel, Arguments... arguments) {
  static_assert(K::kThreads % 32 == 0 && K::kThreads <= 1024);
  static_assert(std::is_trivially_copyable_v<K>, "arguments are copied to the device byte by byte");
  if (!check_launch(op, shape, K::kThreads, shared_limit())) return;
  host::run(op, shape.file, shape.line, {shape.grid.x, shape.grid.y, shape.grid.z}, shape.threads, shape.shared,
            [=] { kernel(arguments...); });   // copied, as a launch does
}

}  // namespace mote::cuda_host::hw

#include "tensor/cuda/collective.h"

#include "tests/cuda_host/hopper.h"
