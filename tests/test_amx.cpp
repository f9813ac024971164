// The tiles of AMX: who may use them, what the plain functions in their place check and compute, the micro-kernel, and
// that kernels go through it. test_ops.cpp compares whole ops.
#include <cmath>
#include <cstring>

#include "autograd/ops.h"
#include "tensor/cpu/amx_kernel.h"
#include "tensor/kernels.h"
#include "tests/support.h"

namespace mote::test {
namespace {

using namespace mote::cpu;

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

int asked = 0;
bool grant() { return ++asked > 0; }
bool refuse() { return ++asked == 0; }

/// Tiles 0 (sums), 1 (a) and 2 (b) for a product of rows x pairs by pairs x columns.
TileConfig shapes(int rows, int pairs, int columns) {
  TileConfig config;
  config.rows[0] = uint8_t(rows), config.row_bytes[0] = uint16_t(4 * columns);
  config.rows[1] = uint8_t(rows), config.row_bytes[1] = uint16_t(4 * pairs);
  config.rows[2] = uint8_t(pairs), config.row_bytes[2] = uint16_t(4 * columns);
  return config;
}

struct Operands {
  bf16 a[16][32], b[16][16][2];   // pairs along the rows of a; [pair][column][2] of b
  float sums[16][16];
};

Operands draw_operands(uint64_t seed) {
  Operands drawn;
  std::vector<double> values = normal({16 * 32 * 2 + 16 * 16}, DType::f64, Generator{seed}).to_vector();
  size_t next = 0;
  for (auto& row : drawn.a)
    for (bf16& value : row) value = bf16(float(values[next++]));
  for (auto& row : drawn.b)
    for (auto& pair : row)
      for (bf16& value : pair) value = bf16(float(values[next++]));
  for (auto& row : drawn.sums)
    for (float& value : row) value = float(values[next++]);
  return drawn;
}

/// sums + a b with the instructions of Which. What lies outside the shapes is NaN, to show whether it is touched.
template <class Which>
std::vector<float> product(const Operands& drawn, int rows, int pairs, int columns) {
  Operands in = drawn;
  bf16 nan(NAN);
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < 32; ++k)
      if (m >= rows || k >= 2 * pairs) in.a[m][k] = nan;
  for (int k = 0; k < 16; ++k)
    for (int n = 0; n < 16; ++n)
      if (k >= pairs || n >= columns) in.b[k][n][0] = in.b[k][n][1] = nan;
  Which::configure(shapes(rows, pairs, columns));
  Which::template load<0>(in.sums, sizeof in.sums[0]);
  Which::template load<1>(in.a, sizeof in.a[0]);
  Which::template load<2>(in.b, sizeof in.b[0]);
  Which::template dot<0, 1, 2>();
  std::vector<float> out(16 * 16, -7.0f);
  Which::template store<0>(out.data(), 16 * sizeof(float));
  Which::release();
  return out;
}

/// For tests that need tiles, real or plain: false, with the reason in the output, where there cannot be any.
bool have_tiles() {
  if (AmxSwitch::possible()) return true;
  WARN("skipped: tiles need a build with AVX512-BF16, and AMX in the machine where it is compiled in");
  return false;
}

}  // namespace

// ---- Whether -------------------------------------------------------------------------------------------------------

TEST_CASE("tiles are used only if compiled in, in the processor, granted and not turned off", "[amx]") {
  asked = 0;
  CHECK(decide_amx("0", true, true, grant) == AmxUse::turned_off);
  CHECK(decide_amx("", false, true, grant) == AmxUse::not_compiled);
  CHECK(decide_amx("", true, false, grant) == AmxUse::no_processor);
  CHECK(asked == 0);   // the system is not asked for what would not be used
  CHECK(decide_amx("", true, true, grant) == AmxUse::tiles);
  CHECK(decide_amx("1", true, true, grant) == AmxUse::tiles);
  CHECK(asked == 2);
}

TEST_CASE("a system that refuses the tiles leaves bf16 to the other kernels", "[amx]") {
  asked = 0;
  CHECK(decide_amx("", true, true, refuse) == AmxUse::refused);
  CHECK(decide_amx("1", true, true, refuse) == AmxUse::refused);
  CHECK(asked == 2);
  CHECK(name_of(AmxUse::refused) == "off (the operating system refused)");
}

TEST_CASE("an unknown value of MOTE_AMX is refused, and so are plain tiles beside real ones", "[amx]") {
  CHECK(error_of([] { decide_amx("yes", true, true, grant); }) == "MOTE_AMX: needs 0, 1 or plain, got 'yes'");
  CHECK(error_of([] { decide_amx("plain", true, true, grant); }) ==
        "MOTE_AMX=plain: needs a build with AVX512-BF16 and without AMX");
  if (kPairs) CHECK(decide_amx("plain", false, false, refuse) == AmxUse::plain);
}

TEST_CASE("a switch of the tiles holds while it lives", "[amx]") {
  bool before = amx_enabled();
  {
    AmxSwitch off(false);
    CHECK(!amx_enabled());
    if (have_tiles()) {
      AmxSwitch on(true);
      CHECK(amx_enabled());
    }
    CHECK(!amx_enabled());
  }
  CHECK(amx_enabled() == before);
}

// ---- The instructions ----------------------------------------------------------------------------------------------

TEST_CASE("a configuration beyond 8 tiles of 16 rows of 64 bytes is refused", "[amx]") {
  auto with = [](auto&& change) {
    TileConfig config = shapes(16, 16, 16);
    change(config);
    return error_of([&] { PlainTiles::configure(config); });
  };
  CHECK(with([](TileConfig&) {}) == "no error");
  CHECK(with([](TileConfig& c) { c.rows[3] = 17, c.row_bytes[3] = 64; }) ==
        "LDTILECFG: tile 3 has 17 rows of 64 bytes, more than 16 of 64");
  CHECK(with([](TileConfig& c) { c.rows[3] = 16, c.row_bytes[3] = 68; }) ==
        "LDTILECFG: tile 3 has 16 rows of 68 bytes, more than 16 of 64");
  CHECK(with([](TileConfig& c) { c.rows[3] = 4; }) == "LDTILECFG: tile 3 has 4 rows of 0 bytes; both or none must be 0");
  CHECK(with([](TileConfig& c) { c.rows[8] = 4, c.row_bytes[8] = 4; }) == "LDTILECFG: tile 8 does not exist; there are 8");
  CHECK(with([](TileConfig& c) { c.palette = 2; }) == "LDTILECFG: palette must be 1, got 2");
  CHECK(with([](TileConfig& c) { c.start_row = 3; }) == "LDTILECFG: start_row must be 0, got 3");
  CHECK(with([](TileConfig& c) { c.reserved[13] = 1; }) == "LDTILECFG: a reserved byte is 1, needs 0");
  PlainTiles::release();
}

TEST_CASE("a tile is used only after a configuration that gives it rows", "[amx]") {
  char memory[16 * 64] = {};
  PlainTiles::release();
  CHECK(error_of([&] { PlainTiles::load<1>(memory, 64); }) == "TILELOADD: tile 1 is used before a configuration is loaded");
  CHECK(error_of([&] { PlainTiles::store<1>(memory, 64); }) == "TILESTORED: tile 1 is used before a configuration is loaded");
  CHECK(error_of([] { PlainTiles::zero<1>(); }) == "TILEZERO: tile 1 is used before a configuration is loaded");
  CHECK(error_of([] { PlainTiles::dot<0, 1, 2>(); }) == "TDPBF16PS: tile 0 is used before a configuration is loaded");
  PlainTiles::configure(shapes(16, 16, 16));
  CHECK(error_of([] { PlainTiles::dot<0, 1, 2>(); }) == "no error");
  CHECK(error_of([] { PlainTiles::zero<3>(); }) == "TILEZERO: tile 3 has no rows in the configuration");
  CHECK(error_of([] { PlainTiles::dot<0, 1, 1>(); }) == "TDPBF16PS: needs three different tiles, got 0, 1, 1");
  TileConfig config = shapes(16, 16, 16);
  config.rows[2] = 8;
  PlainTiles::configure(config);
  CHECK(error_of([] { PlainTiles::dot<0, 1, 2>(); }) ==
        "TDPBF16PS: shapes do not match: sums of 16 x 16, a of 16 x 16 pairs, b of 8 pairs x 16");
  PlainTiles::release();
}

TEST_CASE("a configuration clears the tiles", "[amx]") {
  float ones[16 * 16], out[16 * 16];
  std::fill(ones, ones + 16 * 16, 1.0f);
  PlainTiles::configure(shapes(16, 16, 16));
  PlainTiles::load<0>(ones, 64);
  PlainTiles::configure(shapes(16, 16, 16));
  PlainTiles::store<0>(out, 64);
  PlainTiles::release();
  CHECK(std::count(out, out + 16 * 16, 0.0f) == 16 * 16);
}

TEST_CASE("a product of tiles adds to the sums inside its shape and touches nothing outside", "[amx]") {
  Operands drawn = draw_operands(3);
  for (auto [rows, pairs, columns] : {std::tuple{16, 16, 16}, {1, 1, 1}, {7, 16, 16}, {16, 3, 5}, {13, 11, 16}}) {
    INFO(rows << " rows, " << pairs << " pairs, " << columns << " columns");
    std::vector<float> got = product<PlainTiles>(drawn, rows, pairs, columns);
    int wrong = 0;
    for (int m = 0; m < 16; ++m)
      for (int n = 0; n < 16; ++n) {
        double expected = drawn.sums[m][n];
        for (int k = 0; k < 2 * pairs; ++k) expected += double(drawn.a[m][k]) * double(drawn.b[k / 2][n][k % 2]);
        bool inside = m < rows && n < columns;
        wrong += inside ? std::abs(got[m * 16 + n] - expected) > 1e-5 : got[m * 16 + n] != -7.0f;   // 34 roundings near 1
      }
    CHECK(wrong == 0);
  }
}

TEST_CASE("a product of tiles counts denormals as zero and sums even and odd elements apart", "[amx]") {
  Operands drawn{};
  auto at = [&](int k, float a, float b) { drawn.a[0][k] = bf16(a), drawn.b[k / 2][0][k % 2] = bf16(b); };
  auto result = [&] { return product<PlainTiles>(drawn, 1, 16, 1)[0]; };
  at(0, 1e-39f, 1.0f);
  CHECK(result() == 0.0f);                                   // a denormal operand
  at(0, 1e-20f, 1e-20f);
  CHECK(result() == 0.0f);                                   // a denormal product
  drawn.sums[0][0] = 1e-39f;
  CHECK(result() == 0.0f);                                   // a denormal sum
  // In one chain 2^24 + 1 rounds to 2^24 each time; apart, the ones reach 15 before they meet 2^24.
  drawn = Operands{};
  at(0, 4096, 4096);
  for (int k = 1; k < 31; k += 2) at(k, 1, 1);
  CHECK(result() == 16777216.0f + 16);                       // 15 is halfway between 14 and 16: to even
  at(2, -4096, 4096);
  CHECK(result() == 15.0f);
}

TEST_CASE("the instructions give the bits of the plain functions", "[amx]") {
  if (!kAmxCompiled || !AmxSwitch::possible()) {
    WARN("skipped: this build or this machine has no AMX, so only the plain functions can run");
    return;
  }
  AmxSwitch on(true);   // has asked for the permission
  for (uint64_t seed = 1; seed <= 50; ++seed) {
    Operands drawn = draw_operands(seed);
    int rows = 1 + int(seed * 7 % 16), pairs = 1 + int(seed * 5 % 16), columns = 1 + int(seed * 3 % 16);
    INFO("seed " << seed << ": " << rows << " rows, " << pairs << " pairs, " << columns << " columns");
    CHECK(product<Tiles>(drawn, rows, pairs, columns) == product<PlainTiles>(drawn, rows, pairs, columns));
  }
}

// ---- The micro-kernel ----------------------------------------------------------------------------------------------

TEST_CASE("the micro-kernel sums two runs of rows by a panel of any width", "[amx]") {
  if (!have_tiles()) return;
  AmxSwitch on(true);
  constexpr int64_t kLength = 3 * kAmxDepth, kLd = kLength + 32;
  std::vector<double> values = normal({32 * kLd + kLength * kAmxColumns}, DType::f64, Generator{5}).to_vector();
  std::vector<bf16> a, b;
  for (int64_t i = 0; i < int64_t(values.size()); ++i) (i < 32 * kLd ? a : b).push_back(bf16(float(values[i])));
  AmxRegion region;
  for (auto [first, second, columns] : {std::tuple<int64_t, int64_t, int64_t>{16, 16, 32}, {16, 16, 16}, {14, 14, 17},
                                        {14, 0, 32}, {1, 0, 1}, {5, 3, 20}, {16, 1, 9}, {3, 16, 31}}) {
    INFO(first << " + " << second << " rows, " << columns << " columns");
    int64_t rows = 0, wrong = 0;
    region.run(first, second, columns, [&](auto sums) { sums.add(kLength, a.data(), a.data() + 16 * kLd, kLd, b.data()); },
               [&](int64_t row, bool in_second, auto tile) {
      float got[kAmxColumns];
      tile.store(got, 0, columns);
      for (int64_t column = 0; column < columns; ++column) {
        double expected = 0;
        for (int64_t k = 0; k < kLength; ++k)
          expected += double(a[(row + 16 * in_second) * kLd + k]) * double(b[(k / 2 * kAmxColumns + column) * 2 + k % 2]);
        wrong += std::abs(got[column] - expected) > 1e-4;   // sums of 96 products of normals, in f32
      }
      ++rows;
    });
    CHECK(rows == first + second);
    CHECK(wrong == 0);
  }
}

TEST_CASE("the loop that measures the ceiling counts four products of 16 x 32 x 16 a round", "[amx]") {
  {
    AmxSwitch off(false);
    CHECK(error_of([] { amx_loop(1); }).starts_with("amx_loop: needs tiles, which are "));
  }
  if (!have_tiles()) return;
  AmxSwitch on(true);
  CHECK(amx_loop(3) == 3 * 4 * 2 * 16 * 32 * 16);
}

// ---- The kernels ---------------------------------------------------------------------------------------------------

namespace {

/// 96 numbers in three tiles of k: 2^12, 32 ones, -2^12. Their dot product with |themselves| is 32 if each tile is summed
/// apart; in one chain of f32 every 1 is lost beside 2^24.
std::vector<double> cancelling(double sign) {
  std::vector<double> values(96, 0.0);
  values[0] = 4096, values[64] = sign * 4096;
  std::fill(values.begin() + 32, values.begin() + 64, 1.0);
  return values;
}

}  // namespace

TEST_CASE("bf16 products, convolutions and attention go through tiles where they are on", "[amx]") {
  if (!have_tiles()) return;
  auto row = [](double sign, const Shape& shape) { return from(cancelling(sign), shape, DType::bf16); };
  for (bool on : {false, true}) {
    INFO("tiles " << (on ? "on" : "off"));
    AmxSwitch tiles(on);
    double expected = on ? 32 : 0;
    CHECK(matmul(row(-1, {1, 96}), row(1, {96, 1}), false, false).to_vector()[0] == expected);
    CHECK(matmul(row(-1, {1, 1, 96}), row(1, {1, 96, 1}), false, false).to_vector()[0] == expected);
    Tensor out = zeros({1, 1, 1, 1}, DType::bf16);
    kernel::conv2d(out, row(-1, {1, 1, 1, 96}), row(1, {1, 1, 96, 1}), {}, {}, {}, Conv2dSpec{});
    CHECK(out.to_vector()[0] == expected);
    kernel::conv2d_dx(out, row(-1, {1, 1, 1, 96}), row(1, {1, 1, 1, 96}), Conv2dSpec{});
    CHECK(out.to_vector()[0] == expected);
    kernel::conv2d_dw(out, row(-1, {1, 1, 96, 1}), row(1, {1, 1, 96, 1}), Conv2dSpec{});
    CHECK(out.to_vector()[0] == expected);
    // Two tokens: q and k of the first cancel, those of the second are zero; v is 1 for the first. The score of the first
    // with itself is 32 / sqrt(96).
    std::vector<double> qkv(2 * 3 * 96, 0.0), q = cancelling(-1), k = cancelling(1);
    std::copy(q.begin(), q.end(), qkv.begin());
    std::copy(k.begin(), k.end(), qkv.begin() + 96);
    std::fill(qkv.begin() + 2 * 96, qkv.begin() + 3 * 96, 1.0);
    double share = attention(from(qkv, {1, 2, 3 * 96}, DType::bf16), 1).to_vector()[0];
    CHECK(share == Approx(1 / (1 + std::exp(-expected / std::sqrt(96.0)))).epsilon(1.0 / 256));   // bf16
  }
}

TEST_CASE("3x3 convolutions of bf16 leave Winograd's way for the tiles, others do not", "[amx]") {
  if (!have_tiles()) return;
  Tensor x = normal({2, 12, 12, 32}, DType::bf16, Generator{1}), w = normal({3, 3, 32, 32}, DType::bf16, Generator{2});
  Tensor narrow = normal({2, 12, 12, 32}, DType::f32, Generator{1}), narrow_w = normal({3, 3, 32, 32}, DType::f32, Generator{2});
  auto both = [](const Tensor& x, const Tensor& w) {
    std::vector<std::vector<double>> results;
    for (bool on : {false, true}) {
      AmxSwitch tiles(on);
      results.push_back(conv2d(x, w, {}, Conv2dSpec::same(3)).to_vector());
    }
    return results;
  };
  auto bf16_results = both(x, w), f32_results = both(narrow, narrow_w);
  CHECK(bf16_results[0] != bf16_results[1]);
  CHECK(f32_results[0] == f32_results[1]);
}

}  // namespace mote::test
