// tf32.h - whether f32 products on a GPU may round their operands to TF32.
#pragma once
#include <atomic>

namespace mote {

namespace detail {
inline std::atomic<bool> tf32_allowed{false};
}

/// Lets f32 products and convolutions on CUDA devices run on tensor cores with operands rounded to TF32 (10 bits of
/// mantissa, relative error about 5e-4 a factor; sums stay f32). Off at the start; the CPU takes no notice of it.
inline void allow_tf32(bool on) { detail::tf32_allowed = on; }
inline bool tf32_allowed() { return detail::tf32_allowed; }

}  // namespace mote
