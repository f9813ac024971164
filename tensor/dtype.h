// dtype.h - the element types of a tensor, the bf16 storage type, and the switch from a DType to a C++ type.
#pragma once
#include <bit>
#include <cstdint>
#include <ostream>
#include <string_view>
#include <type_traits>

#include "tensor/error.h"
#include "tensor/math.h"

namespace mote {

enum class DType : uint8_t { f32, bf16, f64, i32, i64, u8 };

/// Storage only: the upper half of an f32. Conversion rounds to nearest, ties to even; NaN stays NaN.
struct bf16 {
  uint16_t bits = 0;
  bf16() = default;
  MOTE_HD explicit bf16(float value) {
    uint32_t wide = std::bit_cast<uint32_t>(value);
    bool is_nan = (wide & 0x7fffffffu) > 0x7f800000u;
    bits = is_nan ? uint16_t((wide >> 16) | 0x40) : uint16_t((wide + 0x7fff + ((wide >> 16) & 1)) >> 16);
  }
  MOTE_HD operator float() const { return std::bit_cast<float>(uint32_t(bits) << 16); }
};
static_assert(sizeof(bf16) == 2);

/// Arithmetic on T happens in compute_t<T>: float for f32 and bf16, double for f64.
template <class T>
using compute_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class T> struct DTypeOf;
template <> struct DTypeOf<float> { static constexpr DType value = DType::f32; };
template <> struct DTypeOf<bf16> { static constexpr DType value = DType::bf16; };
template <> struct DTypeOf<double> { static constexpr DType value = DType::f64; };
template <> struct DTypeOf<int32_t> { static constexpr DType value = DType::i32; };
template <> struct DTypeOf<int64_t> { static constexpr DType value = DType::i64; };
template <> struct DTypeOf<uint8_t> { static constexpr DType value = DType::u8; };
template <class T> inline constexpr DType dtype_of = DTypeOf<T>::value;

constexpr int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f32: case DType::i32: return 4;
    case DType::bf16: return 2;
    case DType::f64: case DType::i64: return 8;
    case DType::u8: return 1;
  }
  return 0;
}
constexpr bool is_floating(DType dtype) { return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f64; }
constexpr std::string_view name_of(DType dtype) {
  switch (dtype) {
    case DType::f32: return "f32";
    case DType::bf16: return "bf16";
    case DType::f64: return "f64";
    case DType::i32: return "i32";
    case DType::i64: return "i64";
    case DType::u8: return "u8";
  }
  return "?";
}
inline std::ostream& operator<<(std::ostream& out, DType dtype) { return out << name_of(dtype); }

/// Calls fn(T{}) with the C++ type of a floating dtype; other dtypes throw Error naming `op`.
template <class Fn>
void for_floating(const char* op, DType dtype, Fn&& fn) {
  switch (dtype) {
    case DType::f32: return fn(float{});
    case DType::bf16: return fn(bf16{});
    case DType::f64: return fn(double{});
    default: fail(Error::Kind::argument, op, ": needs a floating dtype (f32, bf16 or f64), got ", dtype);
  }
}

/// Calls fn(T{}) with the C++ type of any dtype.
template <class Fn>
void for_any(DType dtype, Fn&& fn) {
  switch (dtype) {
    case DType::f32: return fn(float{});
    case DType::bf16: return fn(bf16{});
    case DType::f64: return fn(double{});
    case DType::i32: return fn(int32_t{});
    case DType::i64: return fn(int64_t{});
    case DType::u8: return fn(uint8_t{});
  }
}

}  // namespace mote
