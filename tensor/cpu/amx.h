// amx.h - AMX: whether it is used, and its instructions as functions. A thread has eight tiles of up to 16 rows of 64
// bytes; one instruction multiplies a tile of 16 x 32 bf16 by one of 32 x 16 and adds to 16 x 16 sums in f32.
// Where the compiler may not use the instructions, the same functions are plain C++ (amx.cpp): slow, and off unless a
// test asks, but then every line above this header runs. amx_kernel.h is the micro-kernel; gemm.h and conv.cpp use it.
#pragma once
#include <cstdint>
#include <string_view>
#include <type_traits>

namespace mote::cpu {

// ---- Whether -------------------------------------------------------------------------------------------------------

enum class AmxUse : uint8_t { tiles, plain, turned_off, not_compiled, no_processor, refused };

/// Decides from what the environment variable MOTE_AMX says (empty or "1": where possible; "0": never; "plain": the
/// plain functions, in a build without the instructions), whether the instructions are compiled in, and whether the
/// processor has them. Only if all of that allows it is the operating system asked; request() is true if it agrees.
/// Throws Error(usage) for other values of MOTE_AMX, and for "plain" where this build cannot.
AmxUse decide_amx(std::string_view wish, bool compiled, bool processor, bool (*request)());

/// What was decided for this process, at the first call. The permission holds for all its threads.
AmxUse amx_use();
std::string_view name_of(AmxUse use);

/// Whether bf16 is multiplied in tiles.
bool amx_enabled();

/// Turns tiles on or off while it lives, for tests; no kernel may be running. A build without the instructions uses the
/// plain functions. Throws Error(resource) if tiles are asked for where they cannot be had.
class AmxSwitch {
 public:
  explicit AmxSwitch(bool on);
  ~AmxSwitch();
  AmxSwitch(const AmxSwitch&) = delete;
  AmxSwitch& operator=(const AmxSwitch&) = delete;
  /// Whether AmxSwitch(true) is possible.
  static bool possible();

 private:
  bool before_;
};

// ---- Instructions                                              [Intel SDM, vol. 1 ch. 18, vol. 2 LDTILECFG and others]

inline constexpr int kTiles = 8, kTileMaxRows = 16, kTileMaxBytes = 64;   // rows of a tile, bytes of a row: the most

/// The operand of LDTILECFG. Tile t has rows[t] rows of row_bytes[t] bytes; both are 0 if it is not used.
struct TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

/// The instructions in plain C++, with their checks: what the processor answers with a fault throws Error here.
struct PlainTiles {
  static void configure(const TileConfig& config);
  static void release();
  template <int tile> static void load(const void* from, int64_t stride) { load(tile, from, stride); }
  template <int tile> static void store(void* to, int64_t stride) { store(tile, to, stride); }
  template <int tile> static void zero() { zero(tile); }
  template <int sum, int a, int b> static void dot() { dot(sum, a, b); }

 private:
  static void load(int tile, const void* from, int64_t stride);
  static void store(int tile, void* to, int64_t stride);
  static void zero(int tile);
  static void dot(int sum, int a, int b);
};

#if defined(__AMX_TILE__) && defined(__AMX_BF16__)
inline constexpr bool kAmxCompiled = true;

/// In assembly, because the intrinsics of GCC 12 do not say that they read memory: stores into a configuration or into
/// packed operands would be dropped or moved behind them.
struct AmxTiles {
  /// Sets the shapes of all tiles and clears them.
  static void configure(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }
  /// Leaves the tiles without shape: the operating system then has nothing of them to save.
  static void release() { asm volatile("tilerelease"); }
  /// Row r is read from, or written to, `stride` bytes times r behind the first.
  template <int tile>
  static void load(const void* from, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(tile) : "memory");
  }
  template <int tile>
  static void store(void* to, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(tile) : "memory");
  }
  template <int tile>
  static void zero() { asm volatile("tilezero %%tmm%c0" : : "i"(tile)); }
  /// sum[m][n] += sum over k of a[m][k][0] b[k][n][0] + a[m][k][1] b[k][n][1]. Denormals count as zero.
  template <int sum, int a, int b>
  static void dot() { asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sum), "i"(a), "i"(b)); }
};
using Tiles = AmxTiles;
#else
inline constexpr bool kAmxCompiled = false;
using Tiles = PlainTiles;
#endif

/// The most that tiles can do, for benchmarks: `rounds` times four independent products in registers, on the calling
/// thread. Returns the FLOP done. Needs amx_enabled().
double amx_loop(int64_t rounds);

}  // namespace mote::cpu
