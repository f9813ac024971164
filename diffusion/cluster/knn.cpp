#include "diffusion/cluster/knn.h"

#include <algorithm>
#include <limits>
#include <map>

#include "diffusion/cluster/rows.h"
#include "diffusion/metrics/features.h"
#include "tensor/cpu/gemm.h"
#include "tensor/error.h"

namespace mote::cluster {
namespace {

constexpr int64_t kColumns = 1024;   // of the reference against a block of queries at a time

/// The rows nearest to one query so far, the nearest first.
template <class T>
class Nearest {
 public:
  explicit Nearest(int64_t most) : distance_(size_t(most), std::numeric_limits<T>::infinity()), row_(size_t(most), -1) {}
  // Rows come in their order: at an equal distance the earlier one stays in front.
  void offer(T distance, int64_t row) {
    if (!(distance < distance_.back())) return;
    size_t place = distance_.size() - 1;
    for (; place > 0 && distance_[place - 1] > distance; --place) {
      distance_[place] = distance_[place - 1];
      row_[place] = row_[place - 1];
    }
    distance_[place] = distance;
    row_[place] = row;
  }
  int64_t row(int64_t place) const { return row_[size_t(place)]; }

 private:
  std::vector<T> distance_;
  std::vector<int64_t> row_;
};

/// Rows of x less the mean, in T.
template <class T>
Tensor centred(const Tensor& x, const Tensor& mean) {
  Tensor moved = empty(x.shape(), dtype_of<T>), wide = x.dtype() == dtype_of<T> ? x : x.to(dtype_of<T>);
  int64_t D = x.size(1);
  cpu::parallel_for(x.size(0), std::max<int64_t>(1, cpu::kGrain / D), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * D; i < end * D; ++i)
      moved.data<T>()[i] = T(double(wide.data<T>()[i]) - mean.data<double>()[i % D]);
  });
  return moved;
}

template <class T>
std::vector<KnnScore> scores_in(const Tensor& reference, const Tensor& labels, const Tensor& queries,
                                const Tensor& query_labels, const std::vector<int64_t>& ks, bool skip_itself) {
  int64_t N = reference.size(0), M = queries.size(0), D = reference.size(1);
  int64_t most = *std::max_element(ks.begin(), ks.end());
  Tensor mean = column_means(reference);
  Tensor y = centred<T>(reference, mean), x = skip_itself ? y : centred<T>(queries, mean);
  // |x - y|^2 orders the y of one x as |y|^2 / 2 - x y does: a product with -1/2 |y|^2 to start from.
  std::vector<T> half(static_cast<size_t>(N));
  std::vector<T> origin(static_cast<size_t>(D));
  for (int64_t row = 0; row < N; ++row) half[size_t(row)] = T(-0.5 * squared_distance(y.data<T>() + row * D, origin.data(), D));
  int64_t per_part = cpu::packed_size<T>(D, kColumns), parts = (N + kColumns - 1) / kColumns;
  cpu::Scratch<T> packed(parts * per_part);
  cpu::parallel_for(parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part)
      cpu::pack_panels(packed.data() + part * per_part, cpu::Matrix<T>{y.data<T>() + part * kColumns * D, D, true}, D,
                       std::min(kColumns, N - part * kColumns));
  });

  Chunks chunks(M);
  std::vector<double> right(size_t(chunks.number()) * ks.size(), 0.0), shares(right);
  cpu::ThreadScratch<T> work(cpu::kBlockElements<T> + kBlockRows * kColumns);
  chunks.each_block([&](int64_t chunk, int64_t begin, int64_t end) {
    T *block = work.mine(), *product = block + cpu::kBlockElements<T>;
    std::vector<Nearest<T>> nearest(size_t(end - begin), Nearest<T>(most));
    for (int64_t part = 0; part < parts; ++part) {
      int64_t first = part * kColumns, columns = std::min(kColumns, N - first);
      cpu::gemm_rows<T, T>(0, end - begin, columns, D, cpu::Matrix<T>{x.data<T>() + begin * D, D},
                           packed.data() + part * per_part, product, columns, half.data() + first, false, block);
      for (int64_t query = begin; query < end; ++query)
        for (int64_t column = 0; column < columns; ++column)
          if (!skip_itself || first + column != query)
            nearest[size_t(query - begin)].offer(-product[(query - begin) * columns + column], first + column);
    }
    for (int64_t query = begin; query < end; ++query)
      for (size_t i = 0; i < ks.size(); ++i) {
        std::map<int64_t, int64_t> votes;
        for (int64_t place = 0; place < ks[i]; ++place)
          ++votes[labels.data<int64_t>()[nearest[size_t(query - begin)].row(place)]];
        auto winner = std::max_element(votes.begin(), votes.end(), [](auto& a, auto& b) { return a.second < b.second; });
        int64_t truth = query_labels.data<int64_t>()[query];
        right[size_t(chunk) * ks.size() + i] += winner->first == truth;
        shares[size_t(chunk) * ks.size() + i] += votes.count(truth) ? double(votes[truth]) / double(ks[i]) : 0;
      }
  });
  std::vector<KnnScore> scores;
  for (size_t i = 0; i < ks.size(); ++i) {
    KnnScore score{ks[i]};
    for (size_t chunk = 0; chunk < size_t(chunks.number()); ++chunk) {
      score.accuracy += right[chunk * ks.size() + i] / double(M);
      score.share += shares[chunk * ks.size() + i] / double(M);
    }
    scores.push_back(score);
  }
  return scores;
}

std::vector<KnnScore> checked_scores(const Tensor& reference, const Tensor& labels, const Tensor& queries,
                                     const Tensor& query_labels, const std::vector<int64_t>& ks, bool skip_itself) {
  metrics::require_pair("knn_scores", reference, queries);
  auto require_labels = [](const char* name, const Tensor& x, const Tensor& of) {
    check(x.defined() && x.dtype() == DType::i64 && x.shape() == Shape{of.size(0)} && !x.is_cuda(),
          "knn_scores: ", name, " must be i64 [", of.size(0), "] on the CPU, got ", describe(x));
  };
  require_labels("reference_labels", labels, reference);
  require_labels("query_labels", query_labels, queries);
  check(!ks.empty(), "knn_scores: no number of neighbours is given");
  int64_t most = reference.size(0) - skip_itself;
  for (int64_t k : ks) {
    check(k >= 1, "knn_scores: k must be 1 or more, got ", k);
    if (k > most) fail(Error::Kind::data, "knn_scores: k = ", k, " neighbours are asked for, there are ", most);
  }
  bool is_f32 = reference.dtype() == DType::f32 && queries.dtype() == DType::f32;
  return is_f32 ? scores_in<float>(reference, labels, queries, query_labels, ks, skip_itself)
                : scores_in<double>(reference, labels, queries, query_labels, ks, skip_itself);
}

}  // namespace

std::vector<KnnScore> knn_scores(const Tensor& reference, const Tensor& reference_labels, const Tensor& queries,
                                 const Tensor& query_labels, const std::vector<int64_t>& ks) {
  return checked_scores(reference, reference_labels, queries, query_labels, ks, false);
}

std::vector<KnnScore> knn_scores(const Tensor& x, const Tensor& labels, const std::vector<int64_t>& ks) {
  return checked_scores(x, labels, x, labels, ks, true);
}

}  // namespace mote::cluster
