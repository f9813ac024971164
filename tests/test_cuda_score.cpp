// The kernels on scores of samples against targets, on the emulated GPU: small integers, whose sums are exact in any
// order, give the very keys of the CPU, ties included; other numbers agree within their rounding.
#include <cmath>

#include "tests/cuda_parity.h"

using namespace mote;
using namespace mote::test;

namespace {

Tensor integers(const Shape& shape, DType dtype, uint64_t seed) {
  Generator generator{seed};
  return inside(randint(-3, 4, shape, generator).to(dtype), 1);
}

Tensor no_keys(int64_t S, int64_t K) {
  Tensor keys = empty({S, K}, DType::i64);
  std::fill_n(keys.data<int64_t>(), keys.numel(), kNoKey);
  return keys;
}

struct Size { int64_t S, N, D; };

}  // namespace

TEST_CASE("the largest scores on the GPU are those of the CPU, ties by number", "[cuda-host]") {
  for (DType dtype : {DType::f32, DType::bf16})
    for (auto [S, N, D] : {Size{1, 1, 1}, {5, 30, 3}, {40, 500, 2}, {33, 225, 17}, {0, 5, 2}, {3, 0, 2}})
      for (int64_t K : {1, 3, 64}) {
        if (K == 64 && (S > 33 || dtype == DType::bf16)) continue;   // the emulator takes its time
        INFO(dtype << ": " << S << " samples, " << N << " targets in " << D << " dimensions, the best " << K);
        Tensor x = integers({S, D}, dtype, 1), y = integers({N, D}, dtype, 2), h = integers({N}, DType::f32, 3);
        CHECK(disagreement({no_keys(S, K)}, 1, [&](auto on, auto& out) { on.score_top(out[0], x, y, h, 7); }) == "");
      }
}

TEST_CASE("the largest scores on the GPU do not depend on the calls that targets are split into", "[cuda-host]") {
  Tensor x = integers({9, 4}, DType::f32, 1), y = integers({300, 4}, DType::f32, 2), h = integers({300}, DType::f32, 3);
  Tensor whole = no_keys(9, 5), parts = no_keys(9, 5);
  cuda_host::score_top(whole, x, y, h, 0);
  for (int64_t first : {250, 0, 100}) {
    int64_t last = first == 0 ? 100 : first == 100 ? 250 : 300;
    cuda_host::score_top(parts, x, y.rows(first, last), h.rows(first, last), first);
  }
  CHECK(same_bits(whole, parts));
}

TEST_CASE("scores that are NaN or -inf are left out on the GPU", "[cuda-host]") {
  Tensor x = from({1, 0, NAN, 0}, {2, 2}), y = integers({40, 2}, DType::f32, 2), h = integers({40}, DType::f32, 3);
  h.rows(3, 4).fill_(-INFINITY);
  h.rows(5, 6).fill_(NAN);
  CHECK(disagreement({no_keys(2, 64)}, 0, [&](auto on, auto& out) { on.score_top(out[0], x, y, h, 0); }) == "");
}

TEST_CASE("the softmax of scores on the GPU agrees with the CPU in each pass", "[cuda-host]") {
  for (DType dtype : {DType::f32, DType::bf16})
    for (auto [S, N, D] : {Size{1, 1, 1}, {7, 30, 3}, {40, 300, 5}, {290, 40, 2}, {0, 5, 2}, {3, 0, 2}})
      for (double epsilon : {0.3, 5.0}) {
        if (S * N > 1000 && (epsilon > 1) == (dtype == DType::f32)) continue;   // the emulator takes its time
        INFO(dtype << ": " << S << " samples, " << N << " targets in " << D << " dimensions, epsilon " << epsilon);
        Tensor x = draw_at(1, {S, D}, dtype, 1), y = draw_at(1, {N, D}, dtype, 2), h = draw_at(1, {N}, DType::f32, 3);
        Tensor largest = full({S}, -INFINITY), total = zeros({S}), share = stale({N}, DType::f64);
        // A score moves by 1e-6 with the order of its sum, its exponential by that over epsilon; bf16 is rounded alike.
        double tolerance = 2e-5;
        CHECK(disagreement({largest, total, share}, 1, [&](auto on, auto& out) {
                on.score_softmax(out[0], out[1], out[2], x, y, h, epsilon, SoftmaxPass::both);
              }, tolerance, tolerance) == "");
        if (S > 256) continue;   // its groups of samples have been seen above
        CHECK(disagreement({largest, total}, 1, [&](auto on, auto& out) {
                Tensor none;
                on.score_softmax(out[0], out[1], none, x, y, h, epsilon, SoftmaxPass::sums);
                on.score_softmax(out[0], out[1], none, x, y, h, epsilon, SoftmaxPass::sums);   // twice as much
              }, tolerance, tolerance) == "");
        Tensor none;
        cpu::score_softmax(largest, total, none, x, y, h, epsilon, SoftmaxPass::sums);
        CHECK(disagreement({share}, 1, [&](auto on, auto& out) {
                Tensor most = largest, sum = total;
                on.score_softmax(most, sum, out[0], x, y, h, epsilon, SoftmaxPass::shares);
              }, tolerance, tolerance) == "");
      }
}

TEST_CASE("the softmax of scores on the GPU has the same bits however targets are split at its rows", "[cuda-host]") {
  int64_t N = 2 * kScoreRows + 30;
  Tensor x = draw_at(0, {9, 3}, DType::f32, 1), y = draw_at(0, {N, 3}, DType::f32, 2);
  Tensor h = draw_at(0, {N}, DType::f32, 3);
  Tensor none, whole = empty({N}, DType::f64), parts = empty({N}, DType::f64);
  Tensor largest = full({9}, -INFINITY), total = zeros({9}), other_largest = full({9}, -INFINITY), other = zeros({9});
  cuda_host::score_softmax(largest, total, whole, x, y, h, 0.5, SoftmaxPass::both);
  for (SoftmaxPass pass : {SoftmaxPass::sums, SoftmaxPass::shares})
    for (int64_t first = 0; first < N; first += kScoreRows) {
      int64_t last = std::min(N, first + kScoreRows);
      Tensor share = parts.rows(first, last);
      cuda_host::score_softmax(other_largest, other, share, x, y.rows(first, last), h.rows(first, last), 0.5, pass);
    }
  CHECK(same_bits(largest, other_largest));
  CHECK(same_bits(total, other));
  CHECK(same_bits(whole, parts));
}
