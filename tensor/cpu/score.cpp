// Scores of samples against targets, and what is asked of them: the largest, and softmax sums over either side. Scores
// are made in blocks of kScoreRows targets by a panel of samples, transposed as in attention.cpp: what belongs to a
// sample (its best target, its sums) runs along the lanes, and no block leaves the cache.
#include "tensor/scores.h"

#include <cmath>

#include "tensor/cpu/gemm.h"
#include "tensor/kernels.h"

namespace mote::cpu {
namespace {

using Lanes = Vector<float>;
using Marks = Vector<int32_t>;
constexpr int64_t kSamples = kPanel<float>;   // of a panel
constexpr int64_t kGroupSamples = 256;        // share a packed block of targets; sums over samples are folded in groups
constexpr int64_t kGroupPanels = kGroupSamples / kSamples;
static_assert(kScoreRows <= kBlockM);

/// The operands of a call.
template <class T>
struct Problem {
  const T *x, *y;
  const float* h;
  int64_t S, N, D;
  Problem(const Tensor& samples, const Tensor& targets, const Tensor& heights)
      : x(samples.data<T>()), y(targets.data<T>()), h(heights.data<float>()), S(samples.size(0)), N(targets.size(0)),
        D(targets.size(1)) {}
};

/// Calls fn(T{}) for the operands' dtype.
template <class Fn>
void for_operands(const char* op, DType dtype, Fn&& fn) {
  if (dtype == DType::f32) return fn(float{});
  if (dtype == DType::bf16) return fn(bf16{});
  fail(Error::Kind::argument, op, ": needs f32 or bf16, got ", dtype);
}

/// Panels of a group: as many as fit into 32 MiB when packed, at most `most`.
template <class E>
int64_t group_panels(int64_t D, int64_t most) {
  return std::clamp<int64_t>((int64_t(32) << 20) / (packed_size<E>(D, kSamples) * int64_t(sizeof(E))), 1, most);
}

/// A thread's packed operands: the panels of a group of samples, and a block of targets.
template <class E>
struct Packed {
  E *samples, *block;
  static int64_t count(int64_t D, int64_t panels) { return panels * packed_size<E>(D, kSamples) + kBlockElements<E>; }
  Packed(E* memory, int64_t D, int64_t panels)
      : samples(memory), block(memory + panels * packed_size<E>(D, kSamples)) {}
};

template <class E, class T>
void pack_samples(const Packed<E>& packed, const Problem<T>& problem, int64_t first_panel, int64_t panels) {
  for (int64_t p = 0; p < panels; ++p)
    pack_panel(packed.samples + p * packed_size<E>(problem.D, kSamples), Matrix<T>{problem.x, problem.D, true},
               problem.D, problem.S, first_panel + p);
}

/// Products of the group's samples with targets begin .. end - 1: place(panel, row) is where the products of a block
/// that starts at a row lie, [rows][kSamples]; fn(panel, row, rows, products) is called when they are complete.
template <class E, class T, class Place, class Fn>
void for_blocks(const Packed<E>& packed, const Problem<T>& problem, int64_t panels, int64_t begin, int64_t end,
                Place&& place, Fn&& fn) {
  int64_t D = problem.D, panel_size = packed_size<E>(D, kSamples);
  for (int64_t row = begin; row < end; row += kScoreRows) {
    int64_t rows = std::min(kScoreRows, end - row);
    for (int64_t k = 0; k < D; k += kBlockK<E>) {
      int64_t length = std::min(kBlockK<E>, D - k), ld = block_ld<E>(length);
      pack_block(packed.block, ld, Matrix<T>{problem.y, D}, row, rows, k, length);
      for (int64_t panel = 0; panel < panels; ++panel) {
        float* products = place(panel, row);
        gemm_block<float, E>(rows, kSamples, packed_k<E>(length), packed.block, ld,
                             packed.samples + panel * panel_size + k * kSamples, panel_size, products, kSamples,
                             nullptr, k > 0);
        if (k + length == D) fn(panel, row, rows, products);
      }
    }
  }
}

/// products[row][lane] + h[row]. Heights are added last, and h + 0 has no -0: so no score is -0 (scores.h).
MOTE_INLINE Lanes score_of(const float* products, int vector, float h) {
  return load_vector(products + vector * kLanes<float>) + (h + 0.0f);
}

// ---- The largest ---------------------------------------------------------------------------------------------------

/// The best target of each sample of a panel; target -1 if there is none.
struct Best {
  float score[kSamples];
  int32_t target[kSamples];

  void clear() {
    std::fill(score, score + kSamples, -std::numeric_limits<float>::infinity());
    std::fill(target, target + kSamples, -1);
  }
  void take(const float* products, const float* h, int64_t row, int64_t rows) {
    for (int v = 0; v < kTileVectors; ++v) {
      Lanes best = load_vector(score + v * kLanes<float>);
      Marks at = load_vector(target + v * kLanes<float>);
      for (int64_t r = 0; r < rows; ++r) {
        Lanes next = score_of(products + r * kSamples, v, h[row + r]);
        Marks above = next > best;   // not if equal: the smallest number stays
        best = above ? next : best;
        at = above ? Marks{} + int32_t(row + r) : at;
      }
      store_vector(score + v * kLanes<float>, best);
      store_vector(target + v * kLanes<float>, at);
    }
  }
};

/// The K best targets of each sample of a panel. Few blocks hold any after the first ones, so a sample's scores are
/// looked at one by one only where the largest of them passes the least one kept.
class BestFew {
 public:
  BestFew(int64_t K, float* scores, int32_t* targets) : K_(K), scores_(scores), targets_(targets) {
    std::fill(scores_, scores_ + K * kSamples, -std::numeric_limits<float>::infinity());
    std::fill(targets_, targets_ + K * kSamples, -1);
  }
  void take(const float* products, const float* h, int64_t row, int64_t rows) {
    float largest[kSamples];
    for (int v = 0; v < kTileVectors; ++v) {
      Lanes most = Lanes{} - std::numeric_limits<float>::infinity();
      for (int64_t r = 0; r < rows; ++r) {
        Lanes next = score_of(products + r * kSamples, v, h[row + r]);
        most = next > most ? next : most;
      }
      store_vector(largest + v * kLanes<float>, most);
    }
    for (int64_t lane = 0; lane < kSamples; ++lane) {
      float* kept = scores_ + lane * K_;
      if (!(largest[lane] > kept[K_ - 1])) continue;
      for (int64_t r = 0; r < rows; ++r) {
        float next = products[r * kSamples + lane] + (h[row + r] + 0.0f);
        if (next > kept[K_ - 1]) insert(lane, next, int32_t(row + r));
      }
    }
  }
  float score(int64_t lane, int64_t k) const { return scores_[lane * K_ + k]; }
  int32_t target(int64_t lane, int64_t k) const { return targets_[lane * K_ + k]; }

 private:
  void insert(int64_t lane, float score, int32_t target) {
    float* kept = scores_ + lane * K_;
    int32_t* at = targets_ + lane * K_;
    int64_t place = K_ - 1;
    for (; place > 0 && kept[place - 1] < score; --place) kept[place] = kept[place - 1], at[place] = at[place - 1];
    kept[place] = score, at[place] = target;
  }

  int64_t K_;
  float* scores_;      // [kSamples][K], falling
  int32_t* targets_;
};

/// The K largest of two falling lists; `mine` is read and overwritten.
void merge_keys(int64_t* mine, const int64_t* other, int64_t K) {
  int64_t both[kMaxTop], a = 0, b = 0;
  for (int64_t k = 0; k < K; ++k) both[k] = mine[a] >= other[b] ? mine[a++] : other[b++];
  std::copy(both, both + K, mine);
}

}  // namespace

void score_top(Tensor& key, const Tensor& x, const Tensor& y, const Tensor& h, int64_t first) {
  int64_t K = key.size(1);
  if (key.numel() == 0 || y.size(0) == 0) return;
  int64_t* keys = key.data<int64_t>();
  for_operands("score_top", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using E = operand_t<T>;
    Problem<T> problem(x, y, h);
    int64_t most = group_panels<E>(problem.D, kGroupPanels), kept = K > 1 ? K * kSamples * most : 0;
    ThreadScratch<E> operands(Packed<E>::count(problem.D, most));
    ThreadScratch<float> products(most * kScoreRows * kSamples + kept);
    ThreadScratch<int32_t> targets(kept);
    auto merge = [&](int64_t panel, auto&& score, auto&& target) {
      int64_t found[kMaxTop];
      for (int64_t lane = 0; lane < std::min(kSamples, problem.S - panel * kSamples); ++lane) {
        for (int64_t k = 0; k < K; ++k)
          found[k] = target(lane, k) < 0 ? kNoKey : score_key(score(lane, k), first + target(lane, k));
        merge_keys(keys + (panel * kSamples + lane) * K, found, K);
      }
    };
    parallel_for(panels_of<float>(problem.S), (int64_t(1) << 17) / (kSamples * problem.N * problem.D),
                 [&](int64_t begin, int64_t end) {
      Packed<E> packed(operands.mine(), problem.D, most);
      int64_t groups = (end - begin + most - 1) / most;
      for (int64_t g = 0; g < groups; ++g) {
        int64_t panel = begin + (end - begin) * g / groups, panels = begin + (end - begin) * (g + 1) / groups - panel;
        pack_samples(packed, problem, panel, panels);
        auto place = [&](int64_t p, int64_t) { return products.mine() + p * kScoreRows * kSamples; };
        if (K == 1) {
          Best best[kGroupPanels];
          for (int64_t p = 0; p < panels; ++p) best[p].clear();
          for_blocks(packed, problem, panels, 0, problem.N, place,
                     [&](int64_t p, int64_t row, int64_t rows, const float* block) {
                       best[p].take(block, problem.h, row, rows);
                     });
          for (int64_t p = 0; p < panels; ++p)
            merge(panel + p, [&](int64_t lane, int64_t) { return best[p].score[lane]; },
                  [&](int64_t lane, int64_t) { return best[p].target[lane]; });
        } else {
          float* scores = products.mine() + most * kScoreRows * kSamples;
          std::vector<BestFew> best;
          for (int64_t p = 0; p < panels; ++p)
            best.emplace_back(K, scores + p * K * kSamples, targets.mine() + p * K * kSamples);
          for_blocks(packed, problem, panels, 0, problem.N, place,
                     [&](int64_t p, int64_t row, int64_t rows, const float* block) {
                       best[size_t(p)].take(block, problem.h, row, rows);
                     });
          for (int64_t p = 0; p < panels; ++p)
            merge(panel + p, [&](int64_t lane, int64_t k) { return best[size_t(p)].score(lane, k); },
                  [&](int64_t lane, int64_t k) { return best[size_t(p)].target(lane, k); });
        }
      }
    });
  });
}

// ---- Softmax over targets ------------------------------------------------------------------------------------------

namespace {

constexpr int64_t kKeptBytes = int64_t(64) << 20;      // of scores that wait for the second pass, a thread
constexpr int64_t kAllKeptBytes = int64_t(4) << 30;   // all threads

/// The sums of a panel's samples over targets.
struct Sums {
  float largest[kSamples], total[kSamples];

  /// Takes in a block of targets.
  void take(const float* products, const float* h, int64_t rows, float scale) {
    float most[kSamples], sum[kSamples] = {};
    each_lane<float>([&](int64_t lane) MOTE_INLINE_LAMBDA { most[lane] = products[lane] + h[0]; });
    for (int64_t r = 1; r < rows; ++r) {
      const float* row = products + r * kSamples;
      each_lane<float>([&](int64_t lane) MOTE_INLINE_LAMBDA { most[lane] = std::max(most[lane], row[lane] + h[r]); });
    }
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = products + r * kSamples;
      each_lane<float>([&](int64_t lane) MOTE_INLINE_LAMBDA {
        sum[lane] += math::exp((row[lane] + h[r] - most[lane]) * scale);
      });
    }
    each_lane<float>([&](int64_t lane) MOTE_INLINE_LAMBDA {
      float now = std::max(largest[lane], most[lane]);
      // Before the first block `largest` is -inf and its sum 0: e^-inf is 0.
      total[lane] = total[lane] * math::exp((largest[lane] - now) * scale) +
                    sum[lane] * math::exp((most[lane] - now) * scale);
      largest[lane] = now;
    });
  }

  /// shares[r] += the softmax of target r summed over the samples; `inverse` is 1 / total, 0 where there is no sample.
  void add_shares(float* shares, const float* products, const float* h, int64_t rows, float scale,
                  const float* inverse) const {
    for (int64_t r = 0; r < rows; ++r) {
      const float* row = products + r * kSamples;
      float share[kSamples];
      each_lane<float>([&](int64_t lane) MOTE_INLINE_LAMBDA {
        share[lane] = math::exp((row[lane] + h[r] - largest[lane]) * scale) * inverse[lane];
      });
      for (int64_t half = kSamples / 2; half > 0; half /= 2)
        for (int64_t lane = 0; lane < half; ++lane) share[lane] += share[lane + half];
      shares[r] += share[0];
    }
  }
};

}  // namespace

void score_softmax(Tensor& largest, Tensor& total, Tensor& share, const Tensor& x, const Tensor& y, const Tensor& h,
                   double epsilon, SoftmaxPass pass) {
  int64_t S = x.size(0), N = y.size(0);
  bool wants_sums = pass != SoftmaxPass::shares, wants_shares = pass != SoftmaxPass::sums;
  double* out = wants_shares ? share.data<double>() : nullptr;
  if (wants_shares) std::fill_n(out, N, 0.0);
  if (S == 0 || N == 0) return;
  float scale = float(1 / epsilon);
  for_operands("score_softmax", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using E = operand_t<T>;
    Problem<T> problem(x, y, h);
    int64_t groups = (S + kGroupSamples - 1) / kGroupSamples, most = group_panels<E>(problem.D, kGroupPanels);
    int64_t kept_bytes = N * most * kSamples * int64_t(sizeof(float));
    bool keep = pass == SoftmaxPass::both && kept_bytes <= kKeptBytes &&
                kept_bytes * omp_get_max_threads() <= kAllKeptBytes;
    int64_t height = keep ? N : kScoreRows;   // rows of scores that are kept
    ThreadScratch<E> operands(Packed<E>::count(problem.D, most));
    ThreadScratch<float> products(most * height * kSamples);
    Scratch<float> partial(wants_shares ? groups * N : 0);   // shares of each group
    if (wants_shares) std::fill_n(partial.data(), groups * N, 0.0f);
    // The samples of panels first .. last - 1, which are of one group.
    auto run = [&](int64_t first, int64_t last, float* shares) {
      Packed<E> packed(operands.mine(), problem.D, most);
      pack_samples(packed, problem, first, last - first);
      Sums sums[kGroupPanels];
      auto place = [&](int64_t p, int64_t row) { return products.mine() + (p * height + (keep ? row : 0)) * kSamples; };
      for (int64_t panel = first; panel < last; ++panel) {
        int64_t begin = panel * kSamples, samples = std::min(kSamples, S - begin);
        Sums& of = sums[panel - first];
        std::fill_n(std::copy_n(largest.data<float>() + begin, samples, of.largest), kSamples - samples, 0.0f);
        std::fill_n(std::copy_n(total.data<float>() + begin, samples, of.total), kSamples - samples, 0.0f);
      }
      if (wants_sums)
        for_blocks(packed, problem, last - first, 0, N, place,
                   [&](int64_t p, int64_t row, int64_t rows, const float* block) {
                     sums[p].take(block, problem.h + row, rows, scale);
                   });
      float inverse[kGroupPanels][kSamples] = {};
      for (int64_t panel = first; panel < last; ++panel) {
        int64_t begin = panel * kSamples, samples = std::min(kSamples, S - begin);
        const Sums& of = sums[panel - first];
        std::copy_n(of.largest, samples, largest.data<float>() + begin);
        std::copy_n(of.total, samples, total.data<float>() + begin);
        for (int64_t lane = 0; lane < samples; ++lane) inverse[panel - first][lane] = 1 / of.total[lane];
      }
      auto add = [&](int64_t p, int64_t row, int64_t rows, const float* block) {
        sums[p].add_shares(shares + row, block, problem.h + row, rows, scale, inverse[p]);
      };
      if (wants_shares && keep)
        for (int64_t p = 0; p < last - first; ++p) add(p, 0, N, place(p, 0));
      else if (wants_shares)
        for_blocks(packed, problem, last - first, 0, N, place, add);
    };
    parallel_for(groups, 1, [&](int64_t begin, int64_t end) {
      for (int64_t group = begin; group < end; ++group) {
        int64_t last = std::min(panels_of<float>(S), (group + 1) * kGroupPanels);
        for (int64_t first = group * kGroupPanels; first < last; first += most)
          run(first, std::min(last, first + most), wants_shares ? partial.data() + group * N : nullptr);
      }
    });
    if (wants_shares)
      parallel_for(N, kGrain / groups, [&](int64_t begin, int64_t end) {
        for (int64_t group = 0; group < groups; ++group)
          for (int64_t i = begin; i < end; ++i) out[i] += double(partial.data()[group * N + i]);
      });
  });
}

}  // namespace mote::cpu
