#include "tensor/cuda/ceiling.h"

#include "tensor/cuda/hardware.h"

namespace mote::MOTE_CUDA_NAMESPACE {
namespace {

constexpr int kChains = 8;   // independent sums a warp keeps under way, enough to hide the latency of one

struct ProductLoop {
  static constexpr int kThreads = 256;
  hw::Ptr<float> sink;
  int64_t rounds;
  MOTE_DEVICE void operator()() const {
    const uint32_t a[4] = {0x3c003c00u, 0x3c003c00u, 0x3c003c00u, 0x3c003c00u}, b[2] = {0x3c003c00u, 0x3c003c00u};
    float d[kChains][4] = {};
    for (int64_t round = 0; round < rounds; ++round)
      for (int i = 0; i < kChains; ++i) hw::mma_bf16(d[i], a, b);
    float sum = 0;
    for (int i = 0; i < kChains; ++i) sum += d[i][0] + d[i][1] + d[i][2] + d[i][3];
    if (sum < 0) sink[0] = sum;   // never, but the compiler cannot know
  }
};

struct FmaLoop {
  static constexpr int kThreads = 256;
  hw::Ptr<float> sink;
  int64_t rounds;
  float factor, addend;   // arguments, so that the compiler cannot foresee the result
  MOTE_DEVICE void operator()() const {
    float x[kChains];
    for (int i = 0; i < kChains; ++i) x[i] = float(i);
    for (int64_t round = 0; round < rounds; ++round)
      for (int i = 0; i < kChains; ++i) x[i] = math::fma(x[i], factor, addend);
    float sum = 0;
    for (int i = 0; i < kChains; ++i) sum += x[i];
    if (sum < 0) sink[0] = sum;
  }
};

}  // namespace

double compute_loop(Tensor& sink, DType dtype, int64_t rounds) {
  constexpr int kBlocks = 8, kThreads = 256;   // as many as a processor holds
  int64_t blocks = int64_t(kBlocks) * hw::processors();
  double threads = double(blocks * kThreads), chains = double(kChains * rounds);
  if (dtype == DType::bf16) {
    hw::launch("compute_loop", {blocks, kThreads}, ProductLoop{hw::ptr<float>(sink), rounds});
    return threads / 32 * chains * 2 * 16 * 8 * 16;
  }
  hw::launch("compute_loop", {blocks, kThreads}, FmaLoop{hw::ptr<float>(sink), rounds, 0.999f, 0.001f});
  return threads * chains * 2;
}

}  // namespace mote::MOTE_CUDA_NAMESPACE
