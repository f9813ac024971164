#include "tensor/cpu/amx.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "tensor/cpu/tile.h"
#include "tensor/error.h"

namespace mote::cpu {

// ---- Whether -------------------------------------------------------------------------------------------------------

namespace {

bool processor_has_amx() {
#ifdef __x86_64__
  __builtin_cpu_init();
  return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16");
#else
  return false;
#endif
}

/// The 8 KiB of tiles are no part of a thread's state until the process has asked for them.
///                                                             [Linux: Documentation/arch/x86/xstate.rst]
bool request_tiles() {
#if defined(__linux__) && defined(__x86_64__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool& enabled() {
  static bool on = amx_use() == AmxUse::tiles || amx_use() == AmxUse::plain;
  return on;
}

}  // namespace

AmxUse decide_amx(std::string_view wish, bool compiled, bool processor, bool (*request)()) {
  if (wish != "" && wish != "0" && wish != "1" && wish != "plain")
    fail(Error::Kind::usage, "MOTE_AMX: needs 0, 1 or plain, got '", wish, "'");
  if (wish == "plain" && (compiled || !kPairs))
    fail(Error::Kind::usage, "MOTE_AMX=plain: needs a build with AVX512-BF16 and without AMX");
  if (wish == "0") return AmxUse::turned_off;
  if (wish == "plain") return AmxUse::plain;
  if (!compiled) return AmxUse::not_compiled;
  if (!processor) return AmxUse::no_processor;
  return request() ? AmxUse::tiles : AmxUse::refused;
}

AmxUse amx_use() {
  static const AmxUse use = [] {
    const char* wish = std::getenv("MOTE_AMX");
    return decide_amx(wish ? wish : "", kAmxCompiled && kPairs, processor_has_amx(), request_tiles);
  }();
  return use;
}

std::string_view name_of(AmxUse use) {
  switch (use) {
    case AmxUse::tiles: return "used";
    case AmxUse::plain: return "plain C++ in its place (MOTE_AMX=plain)";
    case AmxUse::turned_off: return "off (MOTE_AMX=0)";
    case AmxUse::not_compiled: return "off (not compiled in)";
    case AmxUse::no_processor: return "off (not in this processor)";
    case AmxUse::refused: return "off (the operating system refused)";
  }
  return "?";
}

bool amx_enabled() { return enabled(); }

bool AmxSwitch::possible() {
  if (!kPairs) return false;
  return !kAmxCompiled || amx_use() == AmxUse::tiles || (processor_has_amx() && request_tiles());
}

AmxSwitch::AmxSwitch(bool on) : before_(enabled()) {
  if (on && !possible())
    fail(Error::Kind::resource, "AmxSwitch: tiles are ", name_of(amx_use()), 
         "; needs a build with AVX512-BF16, and AMX where it is compiled in");
  enabled() = on;
}

AmxSwitch::~AmxSwitch() { enabled() = before_; }

// ---- The instructions in plain C++ ---------------------------------------------------------------------------------

namespace {

struct TileState {
  TileConfig config{.palette = 0};   // 0: no tile has a shape
  alignas(64) uint8_t data[kTiles][kTileMaxRows][kTileMaxBytes] = {};
};
thread_local TileState state;

void check_shaped(const char* what, int tile) {
  check(state.config.palette == 1, what, ": tile ", tile, " is used before a configuration is loaded");
  check(state.config.rows[tile] > 0, what, ": tile ", tile, " has no rows in the configuration");
}

/// Denormals are read and written as zeros of their sign.
float flushed(float x) { return std::abs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x; }

}  // namespace

void PlainTiles::configure(const TileConfig& config) {
  check(config.palette == 1, "LDTILECFG: palette must be 1, got ", int(config.palette));
  check(config.start_row == 0, "LDTILECFG: start_row must be 0, got ", int(config.start_row));
  for (uint8_t byte : config.reserved) check(byte == 0, "LDTILECFG: a reserved byte is ", int(byte), ", needs 0");
  for (int tile = 0; tile < 16; ++tile) {
    int rows = config.rows[tile], bytes = config.row_bytes[tile];
    check(tile < kTiles || (rows == 0 && bytes == 0), "LDTILECFG: tile ", tile, " does not exist; there are ", kTiles);
    check(rows <= kTileMaxRows && bytes <= kTileMaxBytes, "LDTILECFG: tile ", tile, " has ", rows, " rows of ", bytes,
          " bytes, more than ", kTileMaxRows, " of ", kTileMaxBytes);
    check((rows == 0) == (bytes == 0), "LDTILECFG: tile ", tile, " has ", rows, " rows of ", bytes,
          " bytes; both or none must be 0");
  }
  state.config = config;
  std::memset(state.data, 0, sizeof state.data);
}

void PlainTiles::release() {
  state.config = TileConfig{.palette = 0};
  std::memset(state.data, 0, sizeof state.data);
}

void PlainTiles::load(int tile, const void* from, int64_t stride) {
  check_shaped("TILELOADD", tile);
  std::memset(state.data[tile], 0, sizeof state.data[tile]);   // what lies outside the shape becomes zero
  for (int row = 0; row < state.config.rows[tile]; ++row)
    std::memcpy(state.data[tile][row], static_cast<const char*>(from) + row * stride, state.config.row_bytes[tile]);
}

void PlainTiles::store(int tile, void* to, int64_t stride) {
  check_shaped("TILESTORED", tile);
  for (int row = 0; row < state.config.rows[tile]; ++row)
    std::memcpy(static_cast<char*>(to) + row * stride, state.data[tile][row], state.config.row_bytes[tile]);
}

void PlainTiles::zero(int tile) {
  check_shaped("TILEZERO", tile);
  std::memset(state.data[tile], 0, sizeof state.data[tile]);
}

void PlainTiles::dot(int sum, int a, int b) {
  for (int tile : {sum, a, b}) check_shaped("TDPBF16PS", tile);
  check(sum != a && sum != b && a != b, "TDPBF16PS: needs three different tiles, got ", sum, ", ", a, ", ", b);
  int rows = state.config.rows[sum], depth = state.config.row_bytes[a] / 4, bytes = state.config.row_bytes[sum];
  check(bytes % 4 == 0 && state.config.row_bytes[a] % 4 == 0, "TDPBF16PS: rows must hold whole f32 and whole pairs, have ",
        bytes, " and ", int(state.config.row_bytes[a]), " bytes");
  check(state.config.rows[a] == rows && state.config.row_bytes[b] == bytes && state.config.rows[b] == depth,
        "TDPBF16PS: shapes do not match: sums of ", rows, " x ", bytes / 4, ", a of ", int(state.config.rows[a]), " x ",
        depth, " pairs, b of ", int(state.config.rows[b]), " pairs x ", state.config.row_bytes[b] / 4);
  constexpr int kColumns = kTileMaxBytes / 4;
  for (int m = 0; m < rows; ++m) {
    // The two elements of the pairs are summed apart from zero, then together, then with what the tile holds.
    float even[kColumns] = {}, odd[kColumns] = {}, total[kColumns];
    for (int k = 0; k < depth; ++k) {
      uint32_t left, right[kColumns];
      std::memcpy(&left, state.data[a][m] + 4 * k, sizeof left);
      std::memcpy(right, state.data[b][k], sizeof right);
      for (int n = 0; n < kColumns; ++n) {
        auto low = [](uint32_t pair) { return flushed(std::bit_cast<float>(pair << 16)); };
        auto high = [](uint32_t pair) { return flushed(std::bit_cast<float>(pair & 0xffff0000u)); };
        even[n] = flushed(std::fma(low(left), low(right[n]), even[n]));
        odd[n] = flushed(std::fma(high(left), high(right[n]), odd[n]));
      }
    }
    std::memcpy(total, state.data[sum][m], sizeof total);
    for (int n = 0; n < bytes / 4; ++n) total[n] = flushed(flushed(total[n]) + flushed(even[n] + odd[n]));
    std::memcpy(state.data[sum][m], total, sizeof total);
  }
}

// ---- The ceiling ---------------------------------------------------------------------------------------------------

double amx_loop(int64_t rounds) {
  check(amx_enabled(), "amx_loop: needs tiles, which are ", name_of(amx_use()));
  TileConfig config;
  std::fill_n(config.rows, kTiles, uint8_t(kTileMaxRows));
  std::fill_n(config.row_bytes, kTiles, uint16_t(kTileMaxBytes));
  Tiles::configure(config);   // clears all tiles: the operands are zeros, which take as long as others
  for (int64_t round = 0; round < rounds; ++round) {
    Tiles::dot<0, 4, 6>();
    Tiles::dot<1, 4, 7>();
    Tiles::dot<2, 5, 6>();
    Tiles::dot<3, 5, 7>();
  }
  Tiles::release();
  constexpr double kProducts = double(kTileMaxRows) * (kTileMaxBytes / 4) * (kTileMaxBytes / 2);
  return 4 * 2 * kProducts * double(rounds);
}

}  // namespace mote::cpu
