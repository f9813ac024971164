// The emulated GPU: that it computes what the device computes, and that it reports each fault it is there for.
#include "tests/cuda_host/hardware.h"

#include <array>
#include <numeric>

#include "tests/support.h"

using namespace mote;
using namespace mote::cuda_host;
using Catch::Matchers::Contains;

namespace {

/// Runs `body` in each thread of one block, or of `blocks`.
template <class Body>
struct Kernel {
  static constexpr int kThreads = 1024;
  const Body* body;
  MOTE_DEVICE void operator()() const { (*body)(); }
};
template <class Body>
void run(int threads, const Body& body, int64_t blocks = 1, size_t shared = 0) {
  hw::launch("test", {blocks, threads, shared}, Kernel<Body>{&body});
}
template <class Body>
std::string fault(int threads, const Body& body, size_t shared = 0) {
  try {
    run(threads, body, 1, shared);
  } catch (const host::Fault& fault) {
    return fault.what();
  }
  return "no fault";
}

}  // namespace

// ---- What it computes ----------------------------------------------------------------------------------------------

TEST_CASE("an emulated grid visits each element once", "[cuda_host]") {
  Tensor y = zeros({100000}, DType::i32);
  auto p = hw::ptr<int32_t>(y);
  run(256, [&] {
    for (int64_t i = hw::global_thread(); i < y.numel(); i += hw::global_threads()) p[i] += 1;
  }, hw::blocks_for(y.numel(), 256));
  auto values = y.to_vector();
  CHECK(std::count(values.begin(), values.end(), 1.0) == 100000);
  CHECK(hw::blocks_for(0, 256) == 0);
  CHECK(hw::blocks_for(1000000, 256) == 32 * hw::processors());
}

TEST_CASE("emulated warp operations exchange lanes as the device does", "[cuda_host]") {
  std::array<int, 64> down{}, crossed{}, third{};
  std::array<uint32_t, 64> bits{};
  std::array<float, 64> sum{}, largest{};
  std::array<int64_t, 64> wide{};
  run(64, [&] {
    size_t i = size_t(hw::thread());
    down[i] = hw::shuffle_down(hw::thread(), 5);
    crossed[i] = hw::shuffle_xor(hw::thread(), 3);
    third[i] = hw::shuffle(hw::thread(), 3);
    bits[i] = hw::ballot(hw::lane() % 3 == hw::warp());
    sum[i] = hw::warp_sum(float(hw::thread()));
    largest[i] = hw::warp_max(hw::lane() == 7 ? NAN : 1.0f);
    wide[i] = hw::shuffle_xor(int64_t(hw::thread()) << 40, 1);
  });
  for (int i = 0; i < 64; ++i) {
    int warp = i / 32, lane = i % 32;
    CAPTURE(i);
    CHECK(down[size_t(i)] == (lane + 5 < 32 ? i + 5 : i));
    CHECK(crossed[size_t(i)] == (i ^ 3));
    CHECK(third[size_t(i)] == 32 * warp + 3);
    CHECK(bits[size_t(i)] == (warp == 0 ? 0x49249249u : 0x92492492u));
    CHECK(sum[size_t(i)] == (warp == 0 ? 496 : 1520));
    CHECK(std::isnan(largest[size_t(i)]));
    CHECK(wide[size_t(i)] == int64_t(i ^ 1) << 40);
  }
}

TEST_CASE("a block's reduction gives each thread the same sum, again and again", "[cuda_host]") {
  for (int threads : {32, 96, 1024}) {
    std::vector<double> first(size_t(threads), 0), second(size_t(threads), 0);
    run(threads, [&] {
      MOTE_SHARED(double, scratch, 32);
      first[size_t(hw::thread())] = hw::block_reduce(double(hw::thread()), hw::Sum{}, scratch);
      second[size_t(hw::thread())] = hw::block_reduce(double(hw::thread()), hw::Max{}, scratch);
    });
    CHECK(first == std::vector<double>(size_t(threads), threads * (threads - 1) / 2));
    CHECK(second == std::vector<double>(size_t(threads), threads - 1));
  }
}

TEST_CASE("atomics on shared and global integers count each thread", "[cuda_host]") {
  Tensor y = zeros({2}, DType::i64), count = zeros({1}, DType::i32);
  auto p = hw::ptr<int64_t>(y);
  run(64, [&] {
    MOTE_SHARED(int64_t, largest, 1);
    MOTE_SHARED(int32_t, threads, 1);
    if (hw::thread() == 0) largest[0] = INT64_MIN, threads[0] = 0;
    hw::barrier();
    hw::atomic_max(largest, int64_t(hw::thread() ^ 21) << 33);
    hw::atomic_add(threads, 1);
    hw::atomic_add(hw::ptr<int32_t>(count), 1);
    hw::barrier();
    if (hw::thread() == 0) p[0] = largest[0], hw::atomic_add(p + 1, threads[0]);
  }, 3);
  CHECK(y.to_vector() == std::vector<double>{double(int64_t(63) << 33), 192});
  CHECK(count.item() == 192);
}

TEST_CASE("vectors of 2 to 16 bytes are loaded and stored whole", "[cuda_host]") {
  Tensor x = arange(64).to(DType::bf16), y = zeros({64}, DType::bf16);
  run(32, [&] {
    auto from = hw::ptr<bf16>(static_cast<const Tensor&>(x));
    auto to = hw::ptr<bf16>(y);
    if (hw::thread() < 4) hw::store(to + 8 * hw::thread(), hw::load<8>(from + 8 * (3 - hw::thread())));
    if (hw::thread() == 5) hw::store(to + 32, hw::load_constant<2>(from + 2));
    if (hw::thread() == 6) hw::store(to + 36, hw::load<4>(from + 60));
  });
  CHECK(y.to_vector()[0] == 24);
  CHECK(y.to_vector()[31] == 7);
  CHECK(y.to_vector()[33] == 3);
  CHECK(y.to_vector()[39] == 63);
}

TEST_CASE("tensor core products through ldmatrix equal the plain product", "[cuda_host]") {
  // Small integers are exact in bf16 and their sums in f32, so every element must agree to the last bit.
  std::vector<float> a(16 * 16), b(16 * 8), d(16 * 8);
  for (size_t i = 0; i < a.size(); ++i) a[i] = float(int(i * 7 % 23) - 11);
  for (size_t i = 0; i < b.size(); ++i) b[i] = float(int(i * 5 % 19) - 9);
  bool transposed = GENERATE(false, true);   // B as [K][N] read transposed, or as [N][K] read plainly
  run(32, [&] {
    constexpr int kRow = 24;   // padded: rows start at different banks
    MOTE_SHARED(bf16, sa, 16 * kRow);
    MOTE_SHARED(bf16, sb, 16 * kRow);
    for (int i = hw::lane(); i < 256; i += 32) sa[i / 16 * kRow + i % 16] = bf16(a[size_t(i)]);
    for (int i = hw::lane(); i < 128; i += 32) {
      int k = i / 8, n = i % 8;
      sb[transposed ? k * kRow + n : n * kRow + k] = bf16(b[size_t(i)]);
    }
    hw::sync_warp();
    uint32_t fa[4], fb[2];
    float fd[4] = {1, 1, 1, 1};
    hw::ldmatrix(fa, sa + hw::lane() % 16 * kRow + hw::lane() / 16 * 8);
    if (transposed) hw::ldmatrix_transposed(fb, sb + hw::lane() % 16 * kRow);
    else hw::ldmatrix(fb, sb + hw::lane() % 8 * kRow + hw::lane() / 8 % 2 * 8);
    hw::mma_bf16(fd, fa, fb);
    for (int i = 0; i < 4; ++i) d[size_t((hw::lane() / 4 + i / 2 * 8) * 8 + hw::lane() % 4 * 2 + i % 2)] = fd[i];
  });
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 8; ++j) {
      float expected = 1;
      for (int k = 0; k < 16; ++k) expected += a[size_t(i * 16 + k)] * b[size_t(k * 8 + j)];
      CAPTURE(i, j, transposed);
      CHECK(d[size_t(i * 8 + j)] == expected);
    }
}

TEST_CASE("tf32 products take the leading bits of each factor", "[cuda_host]") {
  std::vector<float> d(16 * 8);
  auto a = [](int i, int k) { return float(i * 8 + k) / 16; };
  auto b = [](int k, int j) { return float(k * 3 - j); };
  run(32, [&] {
    int g = hw::lane() / 4, t = hw::lane() % 4;
    uint32_t fa[4] = {hw::to_tf32(a(g, t)), hw::to_tf32(a(g + 8, t)), hw::to_tf32(a(g, t + 4)),
                      hw::to_tf32(a(g + 8, t + 4))};
    uint32_t fb[2] = {hw::to_tf32(b(t, g)), hw::to_tf32(b(t + 4, g))};
    float fd[4] = {};
    hw::mma_tf32(fd, fa, fb);
    for (int i = 0; i < 4; ++i) d[size_t((g + i / 2 * 8) * 8 + 2 * t + i % 2)] = fd[i];
  });
  for (int i = 0; i < 16; ++i)
    for (int j = 0; j < 8; ++j) {
      float expected = 0;
      for (int k = 0; k < 8; ++k) expected += a(i, k) * b(k, j);
      CAPTURE(i, j);
      CHECK(d[size_t(i * 8 + j)] == expected);
    }
  CHECK(std::bit_cast<float>(hw::to_tf32(1 + 0x1p-11f)) == 1 + 0x1p-10f);   // a tie goes away from zero
  CHECK(std::bit_cast<float>(hw::to_tf32(-1 - 0x1p-12f)) == -1);
}

TEST_CASE("asynchronous copies arrive after the wait and the barrier", "[cuda_host]") {
  Tensor x = arange(256).to(DType::f32);
  auto from = hw::ptr<float>(static_cast<const Tensor&>(x));
  std::vector<float> sums(64);
  run(64, [&] {
    auto tile = hw::dynamic_shared<float>();   // [2][256]: two stages
    int i = 4 * hw::thread();
    hw::cp_async<16>(tile + i, from + i);
    hw::cp_async_commit();
    hw::cp_async<16>(tile + 256 + i, from + 512, false);   // beyond the end: zeros
    hw::cp_async_commit();
    hw::cp_async_wait<1>();
    hw::barrier();
    float sum = tile[255 - i];
    hw::cp_async_wait<0>();
    hw::barrier();
    for (int k = 0; k < 4; ++k) sum += tile[256 + (i + 4 + k) % 256];
    sums[size_t(hw::thread())] = sum;
  }, 1, 2048);
  CHECK(sums[0] == 255);
  CHECK(sums[63] == 3);
}

// ---- What it reports -----------------------------------------------------------------------------------------------

TEST_CASE("accesses out of bounds name the launch, the thread and the bytes", "[cuda_host]") {
  Tensor x = zeros({64}, DType::f32);
  auto p = hw::ptr<float>(x);
  hw::Ptr<const float> constant = p;
  run(64, [&] { p[hw::thread()] = 1; });
  auto text = fault(64, [&] { p[hw::thread() + 1] = 1; });
  CHECK_THAT(text, Contains("test: launch at") && Contains("test_cuda_host.cpp") && Contains("thread 63") &&
                       Contains("writes 4 bytes at byte 256 of global memory of 256 bytes"));
  CHECK_THAT(fault(32, [&] { (void)float(constant[hw::thread() - 1]); }), Contains("reads 4 bytes at byte -4"));
  CHECK_THAT(fault(32, [&] { (void)hw::load<4>(p + 62); }), Contains("reads 16 bytes at byte 248"));
  CHECK_THAT(fault(32, [&] { (void)hw::load<4>(p + 2); }), Contains("not aligned to 16"));
  CHECK_THAT(fault(32, [&] { hw::atomic_add(hw::cast<int32_t>(p + 64), 1); }), Contains("writes 4 bytes at byte 256"));
  CHECK_THAT(fault(32, [&] { (void)float(hw::Ptr<const float>(nullptr)[0]); }), Contains("null pointer"));
  CHECK_THAT(fault(32, [&] {
    MOTE_SHARED(float, tile, 33);
    MOTE_SHARED(float, other, 33);
    (void)other;
    tile[33] = 1;
  }), Contains("writes 4 bytes at byte 132 of shared memory of 132 bytes"));
  CHECK_THAT(fault(32, [&] { hw::dynamic_shared<float>()[hw::thread()] = 1; }, 124),
             Contains("thread 31") && Contains("of shared memory of 124 bytes"));
}

TEST_CASE("shared memory that two threads touch without a barrier between is reported", "[cuda_host]") {
  auto neighbour = [](auto&& write, auto&& sync, auto&& read) {
    return fault(64, [&] {
      MOTE_SHARED(float, tile, 64);
      write(tile);
      sync();
      read(tile);
    });
  };
  auto own = [](auto tile) { tile[hw::thread()] = float(hw::thread()); };
  auto next = [](auto tile) { (void)float(tile[(hw::thread() + 1) % 64]); };
  auto next_of_warp = [](auto tile) { (void)float(tile[hw::warp() * 32 + (hw::lane() + 1) % 32]); };
  auto one = [](auto tile) { tile[0] = 1; };
  auto none = [] {};
  auto block = [] { hw::barrier(); };
  auto warp = [] { hw::sync_warp(); };
  CHECK(neighbour(own, none, own) == "no fault");
  CHECK(neighbour(own, block, next) == "no fault");
  CHECK(neighbour(own, warp, next_of_warp) == "no fault");
  CHECK_THAT(neighbour(own, none, next_of_warp), Contains("without a barrier between") || Contains("before it is"));
  CHECK_THAT(neighbour(own, [] { hw::shuffle_xor(1, 1); }, next_of_warp),
             Contains("thread 31: reads byte 0 of shared memory, which thread 0 wrote, without a barrier between"));
  CHECK_THAT(neighbour(own, warp, [](auto tile) { if (hw::warp() == 1) (void)float(tile[hw::lane()]); }),
             Contains("thread 63: reads byte 124 of shared memory, which thread 31 wrote, without a barrier between"));
  CHECK_THAT(neighbour(one, none, own), Contains("which thread 0 wrote, without a barrier between"));
  CHECK_THAT(fault(64, [&] {   // every thread reads, then one writes
    MOTE_SHARED(float, tile, 64);
    own(tile);
    hw::barrier();
    next(tile);
    if (hw::thread() == 40) tile[20] = 1;
  }), Contains("thread 40: writes byte 80 of shared memory, which thread 19 reads, without a barrier between"));
  CHECK_THAT(fault(64, [&] {
    MOTE_SHARED(int32_t, tile, 1);
    if (hw::thread() == 0) tile[0] = 0;
    hw::barrier();
    hw::atomic_add(tile, 1);
    if (hw::thread() == 63) (void)int32_t(tile[0]);
  }), Contains("writes byte 0 of shared memory, which thread 63 reads, without a barrier between"));
}

TEST_CASE("shared memory that was not written holds NaN and may not be read", "[cuda_host]") {
  CHECK_THAT(fault(32, [] {
    MOTE_SHARED(float, tile, 32);
    if (hw::thread() != 5) tile[hw::thread()] = 1;
    (void)float(tile[hw::thread()]);
  }), Contains("thread 5: reads byte 20 of shared memory before it is written"));
  // The block before has written it: that does not count.
  CHECK_THAT([] {
    try {
      run(32, [] {
        MOTE_SHARED(float, tile, 32);
        if (hw::block().x == 0) tile[hw::thread()] = 1;
        (void)float(tile[hw::thread()]);
      }, 2);
      return std::string("no fault");
    } catch (const host::Fault& fault) {
      return std::string(fault.what());
    }
  }(), Contains("block (1, 0, 0)") && Contains("before it is written"));
}

TEST_CASE("an asynchronous copy that is not waited for is reported", "[cuda_host]") {
  Tensor x = zeros({128}, DType::f32);
  auto from = hw::ptr<float>(static_cast<const Tensor&>(x));
  auto copied = [&](auto&& wait, int reads) {
    return fault(32, [&] {
      MOTE_SHARED(float, tile, 128);
      hw::cp_async<16>(tile + 4 * hw::thread(), from + 4 * hw::thread());
      hw::cp_async_commit();
      wait();
      (void)float(tile[4 * ((hw::thread() + reads) % 32)]);
    });
  };
  CHECK(copied([] { hw::cp_async_wait<0>(); }, 0) == "no fault");
  CHECK_THAT(copied([] {}, 0), Contains("while the asynchronous copy of thread 0 is under way"));
  CHECK_THAT(copied([] { hw::barrier(); }, 1), Contains("asynchronous copy"));
  CHECK_THAT(copied([] { hw::cp_async_wait<1>(); hw::barrier(); }, 1), Contains("asynchronous copy"));
  CHECK_THAT(copied([] { hw::cp_async_wait<0>(); hw::shuffle_xor(1, 1); }, 1), Contains("without a barrier between"));
  CHECK(copied([] { hw::cp_async_wait<0>(); hw::barrier(); }, 1) == "no fault");
  CHECK_THAT(fault(32, [&] { MOTE_SHARED(float, tile, 4); hw::cp_async<16>(tile, from + 5); }), Contains("aligned"));
  CHECK_THAT(fault(32, [&] { MOTE_SHARED(float, tile, 4); hw::cp_async<16>(tile, from + 128); }),
             Contains("reads 16 bytes at byte 512"));
}

TEST_CASE("threads that part at a barrier or a warp operation are reported", "[cuda_host]") {
  CHECK_THAT(fault(64, [] { if (hw::thread() != 9) hw::barrier(); }),
             Contains("divergence: thread 0 waits in barrier at") && Contains("thread 9 has returned"));
  auto two_barriers = [] {   // outside the macro, which puts all its lines on one
    if (hw::warp() == 0) hw::barrier();
    else hw::barrier();
  };
  CHECK_THAT(fault(64, two_barriers), Contains("divergence: thread 0") && Contains("thread 32 waits in barrier"));
  CHECK_THAT(fault(32, [] { if (hw::lane() < 16) hw::shuffle_xor(1, 1); }), Contains("thread 16 has returned"));
  CHECK_THAT(fault(32, [] {
    if (hw::lane() < 31) hw::shuffle_xor(1, 1);
    else hw::barrier();
  }), Contains("shuffle_xor") && Contains("thread 31 waits in barrier"));
  // The other warp need not take part.
  CHECK(fault(64, [] { if (hw::warp() == 0) hw::warp_sum(1.0f); }) == "no fault");
}

TEST_CASE("a launch beyond the limits of a device is refused", "[cuda_host]") {
  auto text = [](hw::Grid grid, int threads, size_t shared) -> std::string {
    auto body = [] {};
    try {
      hw::launch("test", {grid, threads, shared}, Kernel<decltype(body)>{&body});
    } catch (const Error& error) {
      return error.what();
    }
    return "ran";
  };
  CHECK(text({2, 3, 1}, 64, 1024) == "ran");
  CHECK(text({0}, 64, 0) == "ran");
  CHECK_THAT(text({1}, 100, 0), Contains("test: launch at") && Contains("100 threads a block"));
  CHECK_THAT(text({1}, 2048, 0), Contains("2048 threads"));
  CHECK_THAT(text({1, 65536}, 32, 0), Contains("1 x 65536 x 1"));
  CHECK_THAT(text({1}, 32, 100 * 1024), Contains("102400 bytes of shared memory, a block may have 101376"));
}
