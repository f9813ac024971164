// hopper.h - the host's twin of tensor/cuda/hopper.h, which has the contracts. Boxes arrive when their gate is looked at;
// until then their place holds NaN. Products read shared memory by the operand's descriptor, bit by bit as documented.
#pragma once
#include <array>

#include "tests/cuda_host/hardware.h"

namespace mote::cuda_host::hw {

inline constexpr bool kHopperCode = true;
inline bool is_hopper() { return host::settings().architecture == 90; }

struct TensorMap {
  const char* base;
  std::array<int64_t, 4> size;
  std::array<int, 4> box;
};
inline TensorMap tensor_map(const char* op, const Tensor& tensor, const int64_t (&size)[4], const int (&box)[4]) {
  TensorMap map{static_cast<const char*>(tensor.raw()), {}, {}};
  for (size_t i = 0; i < 4; ++i) {
    map.size[i] = size[i];
    map.box[i] = box[i];
    mote::check(box[i] >= 1 && box[i] <= 256, op, ": a box of ", box[i], " along axis ", i);
  }
  mote::check(reinterpret_cast<uintptr_t>(map.base) % 16 == 0 && size[0] % 8 == 0 && box[0] == 64, op,
              ": rows for boxes are not aligned");
  return map;
}

template <class T> unsigned align_1024(Ptr<T> p) { return -unsigned(host::shared_offset(p.address())) & 1023; }

using Gate = Ptr<uint64_t>;
inline void gate_init(Gate gate, int arrivals) { host::gate_init(gate.address(), arrivals); }
inline void gates_ready() {}
inline void gate_arrive(Gate gate) { host::gate_arrive(gate.address(), 0); }
inline void gate_expect(Gate gate, int bytes) { host::gate_arrive(gate.address(), bytes); }
inline void gate_wait(Gate gate, int parity) { host::gate_wait(gate.address(), parity); }

inline void copy_box(Ptr<bf16> to, const TensorMap& map, Gate gate, int c0, int c1, int c2, int c3) {
  int64_t rows = int64_t(map.box[1]) * map.box[2] * map.box[3];
  size_t at = host::shared_offset(to.address());
  if (at % 1024 != 0 || to.address() + rows * 128 > to.range().end)
    host::raise("copy_box writes ", rows, " rows at byte ", at, " of shared memory, which do not fit or are not aligned");
  std::memset(to.address(), 0xff, size_t(rows) * 128);
  char* target = to.address();
  host::gate_copy(gate.address(), rows * 128, [=] {
    int64_t row = 0;
    for (int64_t d = c3; d < c3 + map.box[3]; ++d)
      for (int64_t c = c2; c < c2 + map.box[2]; ++c)
        for (int64_t b = c1; b < c1 + map.box[1]; ++b, ++row)
          for (int64_t chunk = 0; chunk < 8; ++chunk) {
            int64_t a = c0 + 8 * chunk;
            bool inside = a >= 0 && a < map.size[0] && b >= 0 && b < map.size[1] && c >= 0 && c < map.size[2] && d >= 0 &&
                          d < map.size[3];
            char* place = target + row * 128 + ((chunk ^ (row % 8)) * 16);
            if (inside)
              std::memcpy(place, map.base + 2 * (((d * map.size[2] + c) * map.size[1] + b) * map.size[0] + a), 16);
            else
              std::memset(place, 0, 16);
          }
  });
}

template <bool kKFast>
uint64_t operand(Ptr<bf16> start, int panel) {
  constexpr uint64_t kEightRows = 1024 >> 4, kSwizzle128 = uint64_t(1) << 62;
  uint64_t leading = kKFast ? 1 : uint64_t(panel) >> 4;
  return uint64_t(host::shared_offset(start.address()) >> 4 & 0x3fff) | leading << 16 | kEightRows << 32 | kSwizzle128;
}
template <bool kKFast>
uint64_t next_k(uint64_t operand, int sixteens) {
  return operand + uint64_t(sixteens * (kKFast ? 32 : 16 * 128) >> 4);
}

inline void fence_for_wgmma() {}
inline void wgmma_begin() {}
inline void wgmma_commit() {}
template <int kPending> void wgmma_wait() {}
template <int kCount> void wgmma_sums(float (&)[kCount]) {}

namespace detail {
struct WgmmaInput {
  float* d;
  uint64_t a, b;
};
/// Element (line, k) of an operand: line is m or n.
template <bool kKFast>
float operand_element(uint64_t descriptor, int line, int k) {
  size_t start = size_t(descriptor & 0x3fff) << 4, leading = size_t(descriptor >> 16 & 0x3fff) << 4,
         stride = size_t(descriptor >> 32 & 0x3fff) << 4;
  size_t at = kKFast ? start + size_t(line / 8) * stride + size_t(line % 8 * 128 + k * 2)
                     : start + size_t(line / 64) * leading + size_t(k / 8) * stride + size_t(k % 8 * 128 + line % 64 * 2);
  at ^= (at >> 7 & 7) << 4;
  uint16_t bits;
  std::memcpy(&bits, host::shared_at(at), 2);
  return std::bit_cast<float>(uint32_t(bits) << 16);
}
}  // namespace detail

/// One warp's sixteen rows; the four warps of a group need not come together here.
template <bool kAKFast, bool kBKFast, int kCount>
void wgmma(float (&d)[kCount], uint64_t a, uint64_t b, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  static_assert(kCount == 32 || kCount == 64);
  detail::WgmmaInput in{d, a, b};
  char none;
  host::warp_operation("wgmma", &in, sizeof in, &none, 1, [](host::Lanes& lanes) {
    constexpr int kN = 2 * kCount;
    const auto first = lanes.input<detail::WgmmaInput>(0);
    for (int lane = 1; lane < 32; ++lane) {
      const auto& other = lanes.input<detail::WgmmaInput>(lane);
      if (other.a != first.a || other.b != first.b) host::raise("wgmma: lane ", lane, " has other operands than lane 0");
    }
    if (first.a >> 62 != 1 || first.b >> 62 != 1) host::raise("wgmma: an operand without the 128-byte swizzle");
    int row0 = host::thread() / 32 % 4 * 16;
    float rows[16][16], columns[kN][16];
    for (int k = 0; k < 16; ++k) {
      for (int m = 0; m < 16; ++m) rows[m][k] = detail::operand_element<kAKFast>(first.a, row0 + m, k);
      for (int n = 0; n < kN; ++n) columns[n][k] = detail::operand_element<kBKFast>(first.b, n, k);
    }
    for (int lane = 0; lane < 32; ++lane) {
      float* sums = lanes.input<detail::WgmmaInput>(lane).d;
      for (int i = 0; i < kCount; ++i) {
        int m = lane / 4 + i / 2 % 2 * 8, n = i / 4 * 8 + lane % 4 * 2 + i % 2;
        double sum = sums[i];
        for (int k = 0; k < 16; ++k) sum += double(rows[m][k]) * double(columns[n][k]);
        sums[i] = float(sum);
      }
    }
  }, file, line);
}

}  // namespace mote::cuda_host::hw
