// score.cu - scores of samples against targets (scores.h), and what is asked of them: the largest, and softmax sums
// over either side. A block makes the scores of kSamples samples against a block of kScoreRows targets in shared memory,
// where its warps then read them; no score reaches global memory. Results do not depend on how blocks are shared out.
#include "tensor/scores.h"

#include "tensor/cuda/pack.cuh"

namespace mote::MOTE_CUDA_NAMESPACE {
namespace {

inline constexpr int kSamples = 32, kTargets = int(kScoreRows), kDepth = 16;
inline constexpr int kSampleLd = kSamples + 4, kTargetLd = kTargets + 1;   // off the powers of two: banks differ
inline constexpr int kBlock = 256, kWarps = kBlock / 32, kOwnSamples = kSamples / kWarps;
inline constexpr int kOwnTargets = kTargets / 32;
static_assert(kTargets % 32 == 0 && kSamples == 32 && kOwnSamples == 4);
inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

/// The operands of a call, and a block's scores: scores[sample kTargetLd + target] in shared memory.
template <class T>
struct Scores {
  static constexpr size_t kFloats = size_t(kSamples) * kTargetLd + kDepth * (kSampleLd + kTargetLd + 3);
  static constexpr size_t kBytes = (kFloats * sizeof(float) + 15) / 16 * 16;
  hw::Ptr<const T> x, y;
  hw::Ptr<const float> h;
  int64_t S, N, D;

  Scores(const Tensor& x, const Tensor& y, const Tensor& h)
      : x(hw::ptr<T>(x)), y(hw::ptr<T>(y)), h(hw::ptr<float>(h)), S(x.size(0)), N(y.size(0)), D(y.size(1)) {}

  int64_t sample_blocks() const { return packs(S, kSamples); }
  int64_t target_blocks() const { return packs(N, kTargets); }

  /// The block's scores, from the beginning of its dynamic shared memory.
  MOTE_DEVICE static hw::Ptr<float> tile() { return hw::dynamic_shared<float>(); }

  /// Fills tile() with the scores of the samples from `sample` on against the targets from `target` on; -inf beyond the
  /// last of either. All threads take part; the scores are complete when it returns.
  MOTE_DEVICE void fill(int64_t sample, int64_t target) const {
    // Products of k = 0, 1, ... are added in this order. Four samples of a thread are its warp's; its targets are 32
    // apart.
    hw::Ptr<float> scores = tile(), xs = scores + kSamples * kTargetLd, ys = xs + kDepth * kSampleLd;
    float sums[kOwnSamples][kOwnTargets] = {};
    for (int64_t first = 0; first < D; first += kDepth) {
      hw::barrier();   // whoever read the operands or the scores before is done
      load<kSamples, kSampleLd>(xs, x, sample, S, first);
      load<kTargets, kTargetLd>(ys, y, target, N, first);
      hw::barrier();
      MOTE_UNROLL(4)
      for (int k = 0; k < kDepth; ++k) {
        auto own = hw::load<kOwnSamples>(xs + (k * kSampleLd + hw::warp() * kOwnSamples));
        for (int j = 0; j < kOwnTargets; ++j) {
          float other = ys[k * kTargetLd + j * 32 + hw::lane()];
          for (int i = 0; i < kOwnSamples; ++i) sums[i][j] = math::fma(own[i], other, sums[i][j]);
        }
      }
    }
    hw::barrier();
    for (int j = 0; j < kOwnTargets; ++j) {
      int64_t at = target + j * 32 + hw::lane();
      float height = at < N ? float(h[at]) + 0.0f : 0.0f;   // h + 0 has no -0, so no score is -0 (scores.h)
      for (int i = 0; i < kOwnSamples; ++i) {
        int own = hw::warp() * kOwnSamples + i;
        bool valid = at < N && sample + own < S;
        scores[own * kTargetLd + j * 32 + hw::lane()] = valid ? sums[i][j] + height : kMinusInfinity;
      }
    }
    hw::barrier();
  }

  /// to[k ld + row] = from[first_row + row][first + k] for kRows rows, zero beyond the last row and column.
  template <int kRows, int kLd>
  MOTE_DEVICE void load(hw::Ptr<float> to, hw::Ptr<const T> from, int64_t first_row, int64_t rows,
                        int64_t first) const {
    int k = hw::thread() % kDepth;
    for (int row = hw::thread() / kDepth; row < kRows; row += kBlock / kDepth) {
      bool valid = first_row + row < rows && first + k < D;
      to[k * kLd + row] = valid ? float(T(from[(first_row + row) * D + first + k])) : 0.0f;
    }
  }
};

/// Calls fn(T{}) for the operands' dtype.
template <class Fn>
void for_operands(const char* op, DType dtype, Fn&& fn) {
  if (dtype == DType::f32) return fn(float{});
  if (dtype == DType::bf16) return fn(bf16{});
  fail(Error::Kind::argument, op, ": needs f32 or bf16, got ", dtype);
}

// ---- The largest ---------------------------------------------------------------------------------------------------

/// found [parts][S][K]: the K largest keys of each sample among a part of the targets, falling.
template <class T>
struct TopKeys {
  static constexpr int kThreads = kBlock;
  hw::Ptr<int64_t> found;
  Scores<T> of;
  int64_t K, first, parts, blocks;   // blocks: of targets, in a part
  MOTE_DEVICE void operator()() const {
    int64_t panel = quotient(hw::block().x, parts), part = hw::block().x - panel * parts, sample = panel * kSamples;
    hw::Ptr<int64_t> lists = hw::dynamic_shared<int64_t>(Scores<T>::kBytes);
    for (int64_t i = hw::thread(); i < kSamples * K; i += kBlock) lists[i] = kNoKey;
    int64_t begin = part * blocks * kTargets, end = begin + blocks * kTargets;
    if (end > of.N) end = of.N;
    hw::barrier();
    for (int64_t target = begin; target < end; target += kTargets) {
      of.fill(sample, target);
      for (int i = 0; i < kOwnSamples; ++i) {
        int own = hw::warp() * kOwnSamples + i;
        take(lists + own * K, of.tile() + own * kTargetLd, target);
      }
    }
    hw::barrier();
    int64_t samples = of.S - sample < kSamples ? of.S - sample : kSamples;
    for (int64_t i = hw::thread(); i < samples * K; i += kBlock)
      found[(part * of.S + sample) * K + i] = int64_t(lists[i]);
  }

  /// A warp puts what passes the last key of the list into it.
  MOTE_DEVICE void take(hw::Ptr<int64_t> list, hw::Ptr<const float> scores, int64_t target) const {
    for (int j = 0; j < kOwnTargets; ++j) {
      int at = j * 32 + hw::lane();
      float score = scores[at];
      int64_t key = score > kMinusInfinity ? score_key(score, first + target + at) : kNoKey;   // NaN is not
      int64_t least = list[K - 1];
      for (uint32_t pending = hw::ballot(key > least); pending != 0; pending &= pending - 1) {
        int source = 0;
        while (!(pending >> source & 1)) ++source;
        insert(list, hw::shuffle(key, source));
      }
    }
  }
  MOTE_DEVICE void insert(hw::Ptr<int64_t> list, int64_t key) const {
    int64_t low = hw::lane(), high = low + 32;   // the places of this lane
    int64_t at_low = low < K ? int64_t(list[low]) : kNoKey, at_high = high < K ? int64_t(list[high]) : kNoKey;
    uint32_t above_low = hw::ballot(at_low > key), above_high = hw::ballot(at_high > key);
    bool falls_low = !(above_low >> hw::lane() & 1), falls_high = !(above_high >> hw::lane() & 1);
    hw::sync_warp();
    if (falls_low && low + 1 < K) list[low + 1] = at_low;
    if (falls_high && high + 1 < K) list[high + 1] = at_high;
    // The first place whose key falls takes the new one.
    if (falls_low && low < K && (above_low == (uint32_t(1) << hw::lane()) - 1)) list[low] = key;
    if (falls_high && high < K && above_low == ~uint32_t(0) && above_high == (uint32_t(1) << hw::lane()) - 1)
      list[high] = key;
    hw::sync_warp();
  }
};

/// key [S][K]: merged with the lists that were found.
struct MergeKeys {
  hw::Ptr<int64_t> key;
  hw::Ptr<const int64_t> found;
  int64_t S, K, parts;
  MOTE_DEVICE void operator()(int64_t sample) const {
    int64_t best[kMaxTop], both[kMaxTop];
    for (int64_t k = 0; k < K; ++k) best[k] = key[sample * K + k];
    for (int64_t part = 0; part < parts; ++part) {
      hw::Ptr<const int64_t> other = found + (part * S + sample) * K;
      int64_t a = 0, b = 0;
      for (int64_t k = 0; k < K; ++k) {
        int64_t next = other[b];
        both[k] = best[a] >= next ? best[a++] : (++b, next);
      }
      for (int64_t k = 0; k < K; ++k) best[k] = both[k];
    }
    for (int64_t k = 0; k < K; ++k) key[sample * K + k] = best[k];
  }
};

}  // namespace

void score_top(Tensor& key, const Tensor& x, const Tensor& y, const Tensor& h, int64_t first) {
  int64_t K = key.size(1);
  if (key.numel() == 0 || y.size(0) == 0) return;
  for_operands("score_top", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using Kernel = TopKeys<T>;
    Scores<T> of(x, y, h);
    // Few samples: targets are shared out too, so that every multiprocessor has several blocks.
    int64_t panels = of.sample_blocks(), all = of.target_blocks();
    int64_t parts = std::clamp<int64_t>(4 * hw::processors() / panels, 1, std::min<int64_t>(all, 64));
    int64_t blocks = (all + parts - 1) / parts;
    parts = (all + blocks - 1) / blocks;
    Tensor found = empty({parts, of.S, K}, DType::i64, key.device());
    hw::launch("score_top",
               {panels * parts, Kernel::kThreads, Scores<T>::kBytes + size_t(kSamples * K) * sizeof(int64_t)},
               Kernel{hw::ptr<int64_t>(found), of, K, first, parts, blocks});
    for_each("score_top", of.S,
             MergeKeys{hw::ptr<int64_t>(key), hw::ptr<int64_t>(std::as_const(found)), of.S, K, parts});
  });
}

// ---- Softmax over targets ------------------------------------------------------------------------------------------

namespace {

/// most, sum [target blocks][S]: the largest score of each sample in a block of targets, and the sum of
/// e^((score - most) scale).
template <class T>
struct BlockSums {
  static constexpr int kThreads = kBlock;
  hw::Ptr<float> most, sum;
  Scores<T> of;
  int64_t blocks;   // of targets
  float scale;
  MOTE_DEVICE void operator()() const {
    int64_t panel = quotient(hw::block().x, blocks), block = hw::block().x - panel * blocks;
    int64_t sample = panel * kSamples, left = of.N - block * kTargets;
    of.fill(sample, block * kTargets);
    for (int i = 0; i < kOwnSamples; ++i) {
      int own = hw::warp() * kOwnSamples + i;
      hw::Ptr<const float> scores = of.tile() + own * kTargetLd;
      float largest = kMinusInfinity, total = 0;
      for (int at = hw::lane(); at < kTargets; at += 32) largest = math::max(float(scores[at]), largest);
      largest = hw::warp_max(largest);
      for (int at = hw::lane(); at < kTargets; at += 32)
        if (at < left) total = total + math::exp((float(scores[at]) - largest) * scale);
      total = hw::warp_sum(total);
      if (hw::lane() == 0 && sample + own < of.S) {
        most[block * of.S + sample + own] = largest;
        sum[block * of.S + sample + own] = total;
      }
    }
  }
};

/// Takes the blocks of targets in, in order.
struct FoldBlocks {
  hw::Ptr<float> largest, total;
  hw::Ptr<const float> most, sum;
  int64_t S, blocks;
  float scale;
  MOTE_DEVICE void operator()(int64_t sample) const {
    float before = largest[sample], all = total[sample];
    for (int64_t block = 0; block < blocks; ++block) {
      float next = most[block * S + sample], more = sum[block * S + sample], now = before < next ? next : before;
      // Before the first block `largest` is -inf and its sum 0: e^-inf is 0.
      all = all * math::exp((before - now) * scale) + more * math::exp((next - now) * scale);
      before = now;
    }
    largest[sample] = before;
    total[sample] = all;
  }
};

inline constexpr int64_t kGroupSamples = 256;   // sums over samples are folded in groups

/// share [groups][N]: the softmax of each target summed over the samples of a group.
template <class T>
struct GroupShares {
  static constexpr int kThreads = kBlock;
  hw::Ptr<float> share;
  hw::Ptr<const float> largest, total;
  Scores<T> of;
  int64_t blocks;   // of targets
  float scale;
  MOTE_DEVICE void operator()() const {
    int64_t group = quotient(hw::block().x, blocks), target = (hw::block().x - group * blocks) * kTargets;
    float shares[kTargets / kWarps] = {};   // of the targets of this warp, which are kWarps apart
    for (int64_t sample = group * kGroupSamples; sample < of.S && sample < (group + 1) * kGroupSamples;
         sample += kSamples) {
      of.fill(sample, target);
      bool valid = sample + hw::lane() < of.S;   // a lane is a sample
      float most = valid ? float(largest[sample + hw::lane()]) : 0.0f;
      float inverse = valid ? 1.0f / float(total[sample + hw::lane()]) : 0.0f;
      for (int j = 0; j < kTargets / kWarps; ++j) {
        float score = of.tile()[hw::lane() * kTargetLd + j * kWarps + hw::warp()];
        shares[j] = shares[j] + hw::warp_sum(valid ? math::exp((score - most) * scale) * inverse : 0.0f);
      }
    }
    if (hw::lane() != 0) return;
    for (int j = 0; j < kTargets / kWarps; ++j) {
      int64_t at = target + j * kWarps + hw::warp();
      if (at < of.N) share[group * of.N + at] = shares[j];
    }
  }
};

struct FoldGroups {
  hw::Ptr<double> share;
  hw::Ptr<const float> partial;
  int64_t N, groups;
  MOTE_DEVICE void operator()(int64_t i) const {
    double sum = 0;
    for (int64_t group = 0; group < groups; ++group) sum += double(float(partial[group * N + i]));
    share[i] = sum;
  }
};

}  // namespace

void score_softmax(Tensor& largest, Tensor& total, Tensor& share, const Tensor& x, const Tensor& y, const Tensor& h,
                   double epsilon, SoftmaxPass pass) {
  const char* op = "score_softmax";
  bool wants_sums = pass != SoftmaxPass::shares, wants_shares = pass != SoftmaxPass::sums;
  if (x.size(0) == 0 || y.size(0) == 0) {
    if (wants_shares) fill(share, 0);
    return;
  }
  float scale = float(1 / epsilon);
  for_operands(op, x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    Scores<T> of(x, y, h);
    int64_t blocks = of.target_blocks();
    if (wants_sums) {
      Tensor most = empty({blocks, of.S}, DType::f32, x.device()), sum = empty_like(most);
      hw::launch(op, {of.sample_blocks() * blocks, kBlock, Scores<T>::kBytes},
                 BlockSums<T>{hw::ptr<float>(most), hw::ptr<float>(sum), of, blocks, scale});
      for_each(op, of.S,
               FoldBlocks{hw::ptr<float>(largest), hw::ptr<float>(total), hw::ptr<float>(std::as_const(most)),
                          hw::ptr<float>(std::as_const(sum)), of.S, blocks, scale});
    }
    if (wants_shares) {
      int64_t groups = packs(of.S, int(kGroupSamples));
      Tensor partial = empty({groups, of.N}, DType::f32, x.device());
      hw::launch(op, {groups * blocks, kBlock, Scores<T>::kBytes},
                 GroupShares<T>{hw::ptr<float>(partial), hw::ptr<float>(std::as_const(largest)),
                                hw::ptr<float>(std::as_const(total)), of, blocks, scale});
      for_each(op, of.N,
               FoldGroups{hw::ptr<double>(share), hw::ptr<float>(std::as_const(partial)), of.N, groups});
    }
  });
}

}  // namespace mote::MOTE_CUDA_NAMESPACE
