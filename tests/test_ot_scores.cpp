// The kernels on scores of samples against targets: largest scores and softmax sums against plain ones in f64, ties,
// limits, and the same bits however the work is split.
#include <algorithm>
#include <limits>
#include <numeric>

#include "tensor/cpu/amx.h"
#include "tensor/kernels.h"
#include "tests/ot_support.h"

using namespace mote;
using namespace mote::test;

namespace {

const double kInfinity = std::numeric_limits<double>::infinity();

Tensor no_keys(int64_t S, int64_t K) {
  Tensor keys = empty({S, K}, DType::i64);
  std::fill_n(keys.data<int64_t>(), keys.numel(), kNoKey);
  return keys;
}

Tensor top(const Tensor& x, const Tensor& y, const Tensor& h, int64_t K = 1, int64_t first = 0) {
  Tensor keys = no_keys(x.size(0), K);
  kernel::score_top(keys, x, y, h, first);
  return keys;
}

struct Softmax {
  Tensor largest, total, share;
  bool operator==(const Softmax& other) const {
    return same_bits(largest, other.largest) && same_bits(total, other.total) && same_bits(share, other.share);
  }
};

Softmax softmax(const Tensor& x, const Tensor& y, const Tensor& h, double epsilon) {
  Softmax result{full({x.size(0)}, -kInfinity), zeros({x.size(0)}), empty({y.size(0)}, DType::f64)};
  kernel::score_softmax(result.largest, result.total, result.share, x, y, h, epsilon, SoftmaxPass::both);
  return result;
}

/// The same in parts of the targets.
Softmax softmax_in_parts(const Tensor& x, const Tensor& y, const Tensor& h, double epsilon, int64_t rows) {
  Softmax result{full({x.size(0)}, -kInfinity), zeros({x.size(0)}), empty({y.size(0)}, DType::f64)};
  int64_t N = y.size(0);
  for (SoftmaxPass pass : {SoftmaxPass::sums, SoftmaxPass::shares})
    for (int64_t first = 0; first < N; first += rows) {
      int64_t last = std::min(N, first + rows);
      Tensor share = result.share.rows(first, last);
      kernel::score_softmax(result.largest, result.total, share, x, y.rows(first, last), h.rows(first, last), epsilon,
                            pass);
    }
  return result;
}

/// How far rounding may move a score: D sums in f32 of products of numbers within +-6.
double score_error(int64_t D) { return 1e-6 * double(D) + 1e-6; }

/// Checks the K keys of each sample against plain scores: falling, of K different targets, and none left out that is
/// larger by more than rounding.
void check_top(const Tensor& keys, const std::vector<std::vector<double>>& scores, double error) {
  int64_t K = keys.size(1), wrong = 0;
  for (int64_t s = 0; s < keys.size(0); ++s) {
    const std::vector<double>& row = scores[size_t(s)];
    std::vector<double> sorted = row;
    std::sort(sorted.rbegin(), sorted.rend());
    std::vector<int64_t> found;
    for (int64_t k = 0; k < K; ++k) {
      int64_t key = keys.data<int64_t>()[s * K + k];
      if (k >= int64_t(row.size())) {
        wrong += key != kNoKey;
        continue;
      }
      int64_t target = target_of_key(key);
      REQUIRE(target < int64_t(row.size()));
      found.push_back(target);
      wrong += std::abs(double(score_of_key(key)) - row[size_t(target)]) > error;
      wrong += std::abs(row[size_t(target)] - sorted[size_t(k)]) > 2 * error;
      wrong += k > 0 && key >= keys.data<int64_t>()[s * K + k - 1];
    }
    std::sort(found.begin(), found.end());
    wrong += std::unique(found.begin(), found.end()) != found.end();
  }
  CHECK(wrong == 0);
}

struct Size {
  int64_t S, N, D;
};
// One of each; nothing that a panel, a block of targets or a block of k divides; several blocks of k and of targets.
const std::vector<Size> kSizes = {{1, 1, 1},     {1, 7, 3},      {5, 1, 2},    {33, 225, 17},
                                  {64, 448, 32}, {31, 97, 1031}, {300, 230, 5}};

}  // namespace

TEST_CASE("keys have the order of scores, then the reverse order of targets, and give both back", "[ot][scores]") {
  const std::vector<float> scores = {
      -std::numeric_limits<float>::infinity(), -3e38f, -1.5f, -1e-45f, 0.0f, 1e-45f, 1.0f, 1.0000001f, 3e38f};
  const std::vector<int64_t> targets = {0xffffffff, 0x80000000, 7, 1, 0};
  int64_t before = kNoKey;
  for (float score : scores)
    for (int64_t target : targets) {
      int64_t key = score_key(score, target);
      CHECK(key > before);
      CHECK(score_of_key(key) == score);
      CHECK(target_of_key(key) == target);
      before = key;
    }
}

TEST_CASE("the largest scores are those of plain products, in f32 and bf16, for any number of them", "[ot][scores]") {
  for (auto [S, N, D] : kSizes)
    for (DType dtype : {DType::f32, DType::bf16}) {
      Tensor x = draw({S, D}, 1, dtype), y = draw({N, D}, 2, dtype), h = draw({N}, 3);
      auto scores = plain_scores(x, y, h);
      for (int64_t K : {1, 2, 7, 64}) {
        INFO("S " << S << ", N " << N << ", D " << D << " " << dtype << ", K " << K);
        check_top(top(x, y, h, K), scores, score_error(D));
      }
    }
}

TEST_CASE("the largest scores in tiles of AMX are those of plain products", "[ot][scores][amx]") {
  if (!cpu::AmxSwitch::possible()) {
    WARN("skipped: this build multiplies bf16 in f32, never in tiles");
    return;
  }
  cpu::AmxSwitch on(true);
  Tensor x = draw({35, 70}, 1, DType::bf16), y = draw({41, 70}, 2, DType::bf16), h = draw({41}, 3);
  check_top(top(x, y, h, 1), plain_scores(x, y, h), score_error(70));
  check_top(top(x, y, h, 3), plain_scores(x, y, h), score_error(70));
}

TEST_CASE("the largest scores have the same bits for any threads, split of samples and order of parts of targets",
          "[ot][scores]") {
  int64_t S = 300, N = 700, D = 37;
  for (DType dtype : {DType::f32, DType::bf16}) {
    Tensor x = draw({S, D}, 1, dtype), y = draw({N, D}, 2, dtype), h = draw({N}, 3);
    for (int64_t K : {1, 5}) {
      Tensor whole;
      {
        Threads one(1);
        whole = top(x, y, h, K);
      }
      for (int threads : {2, 3, 7}) {
        Threads several(threads);
        CHECK(same_bits(top(x, y, h, K), whole));
      }
      Tensor parts = no_keys(S, K);
      const std::vector<std::pair<int64_t, int64_t>> spans = {{431, 700}, {0, 1}, {225, 431}, {1, 225}};
      for (auto [first, last] : spans) kernel::score_top(parts, x, y.rows(first, last), h.rows(first, last), first);
      CHECK(same_bits(parts, whole));
      Tensor rows = no_keys(S, K);
      for (int64_t first = 0; first < S; first += 77) {
        int64_t last = std::min(S, first + 77);
        Tensor some = rows.rows(first, last);
        kernel::score_top(some, x.rows(first, last), y, h, 0);
      }
      CHECK(same_bits(rows, whole));
    }
  }
}

TEST_CASE("of equal scores the target with the smallest number wins, also between parts", "[ot][scores]") {
  int64_t S = 40, D = 9;
  Tensor x = draw({S, D}, 1), few = draw({3, D}, 2), y = empty({600, D}), h = empty({600});
  for (int64_t i = 0; i < 600; ++i) {  // target i equals target i % 3
    y.rows(i, i + 1).copy_(few.rows(i % 3, i % 3 + 1));
    h.data<float>()[i] = 0.25f * float(i % 3);
  }
  Tensor whole = top(x, y, h, 4), parts = no_keys(S, 4);
  for (int64_t first : {300, 0})
    kernel::score_top(parts, x, y.rows(first, first + 300), h.rows(first, first + 300), first);
  CHECK(same_bits(parts, whole));
  for (int64_t s = 0; s < S; ++s) {
    int64_t best = target_of_key(whole.data<int64_t>()[4 * s]);
    CHECK(best < 3);
    for (int64_t k = 1; k < 4; ++k) CHECK(target_of_key(whole.data<int64_t>()[4 * s + k]) == best + 3 * k);
  }
}

TEST_CASE("a score of -0 ties with +0: the smaller number wins", "[ot][scores]") {
  // Ordered as bits, -0 would lose to a later +0 although it is not less. -1e-30 * 1e-30 is rounded to -0.
  Tensor x = f32({-1e-30}, {1, 1}), y = f32({1e-30, 0}, {2, 1}), h = f32({-0.0, 0.0}, {2});
  CHECK(target_of_key(top(x, y, h).data<int64_t>()[0]) == 0);
  Tensor parts = no_keys(1, 1);
  for (int64_t i : {1, 0}) kernel::score_top(parts, x, y.rows(i, i + 1), h.rows(i, i + 1), i);
  CHECK(target_of_key(parts.data<int64_t>()[0]) == 0);
  parts = no_keys(1, 2);
  for (int64_t i : {1, 0}) kernel::score_top(parts, x, y.rows(i, i + 1), h.rows(i, i + 1), i);
  CHECK(target_of_key(parts.data<int64_t>()[0]) == 0);
}

TEST_CASE("heights of +-1e30 decide, and scores that are no number are left out", "[ot][scores]") {
  Tensor x = draw({50, 6}, 1), y = draw({230, 6}, 2), h = full({230}, -1e30);
  h.data<float>()[229] = 1e30f;
  h.data<float>()[17] = 0;
  Tensor keys = top(x, y, h, 2);
  for (int64_t s = 0; s < 50; ++s) {
    CHECK(target_of_key(keys.data<int64_t>()[2 * s]) == 229);
    CHECK(target_of_key(keys.data<int64_t>()[2 * s + 1]) == 17);
  }
  for (double bad : {std::numeric_limits<double>::quiet_NaN(), -kInfinity}) {
    h = full({230}, bad);
    CHECK(top(x, y, h).data<int64_t>()[3] == kNoKey);
    h.data<float>()[5] = -1e30f;
    CHECK(target_of_key(top(x, y, h, 2).data<int64_t>()[6]) == 5);
    CHECK(top(x, y, h, 2).data<int64_t>()[7] == kNoKey);
  }
}

TEST_CASE("no samples, or no targets, leave the keys as they are", "[ot][scores]") {
  Tensor keys = no_keys(3, 2);
  kernel::score_top(keys, draw({3, 4}, 1), empty({0, 4}), empty({0}), 0);
  CHECK(same_bits(keys, no_keys(3, 2)));
  Tensor none = no_keys(0, 2);
  kernel::score_top(none, empty({0, 4}), draw({5, 4}, 2), draw({5}, 3), 0);
  CHECK(none.numel() == 0);
}

TEST_CASE("softmax sums and shares are those of plain scores", "[ot][scores]") {
  for (auto [S, N, D] : kSizes)
    for (DType dtype : {DType::f32, DType::bf16}) {
      Tensor x = draw({S, D}, 1, dtype), y = draw({N, D}, 2, dtype), h = draw({N}, 3);
      auto scores = plain_scores(x, y, h);
      for (double epsilon : {0.3, 5.0}) {
        Softmax got = softmax(x, y, h, epsilon);
        std::vector<double> share(size_t(N), 0.0), lse, expected;
        for (int64_t s = 0; s < S; ++s) {
          const std::vector<double>& row = scores[size_t(s)];
          double most = *std::max_element(row.begin(), row.end()), sum = 0;
          for (double score : row) sum += std::exp((score - most) / epsilon);
          for (int64_t i = 0; i < N; ++i) share[size_t(i)] += std::exp((row[size_t(i)] - most) / epsilon) / sum;
          lse.push_back(double(got.largest.data<float>()[s]) + epsilon * std::log(double(got.total.data<float>()[s])));
          expected.push_back(most + epsilon * std::log(sum));
        }
        INFO("S " << S << ", N " << N << ", D " << D << " " << dtype << ", epsilon " << epsilon);
        CHECK_CLOSE(from(lse, {S}, DType::f64), from(expected, {S}, DType::f64), score_error(D), 1e-6);
        // An error of a score changes a share by that over epsilon, at most so much of it.
        CHECK_CLOSE(got.share, from(share, {N}, DType::f64), 1e-6, 2e-5 + 3 * score_error(D) / epsilon);
      }
    }
}

TEST_CASE("softmax sums have the same bits for any threads and for parts of whole blocks of targets", "[ot][scores]") {
  int64_t S = 600, N = 3 * kScoreRows + 50, D = 19;
  for (DType dtype : {DType::f32, DType::bf16}) {
    Tensor x = draw({S, D}, 1, dtype), y = draw({N, D}, 2, dtype), h = draw({N}, 3);
    Threads one(1);
    Softmax whole = softmax(x, y, h, 0.7);
    for (int threads : {2, 3, 7}) {
      Threads several(threads);
      CHECK(softmax(x, y, h, 0.7) == whole);
    }
    CHECK(softmax_in_parts(x, y, h, 0.7, N) == whole);
    CHECK(softmax_in_parts(x, y, h, 0.7, kScoreRows) == whole);
    CHECK(softmax_in_parts(x, y, h, 0.7, 2 * kScoreRows) == whole);
  }
}

TEST_CASE("more targets than scores are kept for make the same shares as two passes do", "[ot][scores]") {
  int64_t N = 70'000;  // 256 of them take more than 64 MiB
  Tensor x = draw({40, 2}, 1), y = draw({N, 2}, 2), h = draw({N}, 3);
  CHECK(softmax(x, y, h, 0.2) == softmax_in_parts(x, y, h, 0.2, N));
}

TEST_CASE("with small epsilon the shares are counts, with large epsilon equal, and scores of 1e4 overflow nothing",
          "[ot][scores]") {
  int64_t S = 400, N = 60, D = 8;
  Tensor x = draw({S, D}, 1), y = draw({N, D}, 2), h = zeros({N});
  Tensor keys = top(x, y, h), counts = zeros({N}, DType::f64);
  for (int64_t s = 0; s < S; ++s) counts.data<double>()[target_of_key(keys.data<int64_t>()[s])] += 1;
  CHECK_CLOSE(softmax(x, y, h, 1e-7).share, counts, 1e-3, 0);
  CHECK_CLOSE(softmax(x, y, h, 1e7).share, full({N}, double(S) / double(N), DType::f64), 0, 1e-5);
  Tensor far = f32({1e4, -1e4, 1e4, 9.9e3}, {4}), flat = zeros({4, D});
  Softmax stable = softmax(x, flat, far, 10);
  double last = std::exp(-10.0), sum = 2 + last;
  CHECK_CLOSE(stable.share, from({S / sum, 0, S / sum, S * last / sum}, {4}, DType::f64), 0, 1e-5);
  CHECK_CLOSE(stable.total, full({S}, sum), 0, 1e-6);
}
