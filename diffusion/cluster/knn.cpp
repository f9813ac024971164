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

constexpr int64_t kColumns = 1024;  // of the reference against a block of queries at a time

/// The rows nearest to one query so far, the nearest first.
template <class T>
class Nearest {
 public:
  explicit Nearest(int64_t most)
      : distance_(size_t(most), std::numeric_limits<T>::infinity()), row_(size_t(most), -1) {}
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
  const T* from = wide.data<T>();
  const double* centre = mean.data<double>();
  T* to = moved.data<T>();
  cpu::parallel_for(x.size(0), std::max<int64_t>(1, cpu::kGrain / D), [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t d = 0; d < D; ++d) to[row * D + d] = T(double(from[row * D + d]) - centre[d]);
  });
  return moved;
}

/// skip_same: row i of the queries is not told of row i of the reference.
template <class T>
Neighbours nearest_in(const Tensor& reference, const Tensor& queries, int64_t k, bool skip_same) {
  int64_t N = reference.size(0), M = queries.size(0), D = reference.size(1);
  Tensor mean = column_means(reference);
  Tensor y = centred<T>(reference, mean), x = queries.raw() == reference.raw() ? y : centred<T>(queries, mean);
  // |x - y|^2 orders the y of one x as |y|^2 / 2 - x y does: a product with -1/2 |y|^2 to start from.
  std::vector<T> half(static_cast<size_t>(N));
  std::vector<T> origin(static_cast<size_t>(D));
  for (int64_t row = 0; row < N; ++row)
    half[size_t(row)] = T(-0.5 * squared_distance(y.data<T>() + row * D, origin.data(), D));
  int64_t per_part = cpu::packed_size<T>(D, kColumns), parts = (N + kColumns - 1) / kColumns;
  cpu::Scratch<T> packed(parts * per_part);
  cpu::parallel_for(parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part)
      cpu::pack_panels(packed.data() + part * per_part, cpu::Matrix<T>{y.data<T>() + part * kColumns * D, D, true}, D,
                       std::min(kColumns, N - part * kColumns));
  });

  Neighbours found{empty({M, k}, DType::i64), empty({M, k}, DType::f64)};
  cpu::ThreadScratch<T> work(cpu::kBlockElements<T> + kBlockRows * kColumns);
  Chunks(M).each_block([&](int64_t, int64_t begin, int64_t end) {
    T *block = work.mine(), *product = block + cpu::kBlockElements<T>;
    std::vector<Nearest<T>> nearest(size_t(end - begin), Nearest<T>(k));
    for (int64_t part = 0; part < parts; ++part) {
      int64_t first = part * kColumns, columns = std::min(kColumns, N - first);
      cpu::gemm_rows<T, T>(0, end - begin, columns, D, cpu::Matrix<T>{x.data<T>() + begin * D, D},
                           packed.data() + part * per_part, product, columns, half.data() + first, false, block);
      for (int64_t query = begin; query < end; ++query)
        for (int64_t column = 0; column < columns; ++column)
          if (!skip_same || first + column != query)
            nearest[size_t(query - begin)].offer(-product[(query - begin) * columns + column], first + column);
    }
    for (int64_t query = begin; query < end; ++query)
      for (int64_t place = 0; place < k; ++place) {
        int64_t row = nearest[size_t(query - begin)].row(place);
        found.rows.data<int64_t>()[query * k + place] = row;
        found.squared.data<double>()[query * k + place] =
            squared_distance(x.data<T>() + query * D, y.data<T>() + row * D, D);
      }
  });
  return found;
}

/// Squared distances and rows.
using Candidates = std::vector<std::pair<double, int64_t>>;

/// Each row once, with its least distance; the k nearest, in order.
void keep_nearest(Candidates& candidates, int64_t k) {
  auto by_row = [](const auto& a, const auto& b) { return std::pair(a.second, a.first) < std::pair(b.second, b.first); };
  std::sort(candidates.begin(), candidates.end(), by_row);
  auto same = [](const auto& a, const auto& b) { return a.second == b.second; };
  candidates.erase(std::unique(candidates.begin(), candidates.end(), same), candidates.end());
  std::sort(candidates.begin(), candidates.end());
  if (int64_t(candidates.size()) > k) candidates.resize(size_t(k));
}

Neighbours checked_nearest(const char* op, const Tensor& reference, const Tensor& queries, int64_t k, bool skip_itself) {
  metrics::require_pair(op, reference, queries);
  int64_t most = reference.size(0) - skip_itself;
  check(k >= 1, op, ": k must be 1 or more, got ", k);
  if (k > most) fail(Error::Kind::data, op, ": k = ", k, " neighbours are asked for, there are ", most);
  bool is_f32 = reference.dtype() == DType::f32 && queries.dtype() == DType::f32;
  return is_f32 ? nearest_in<float>(reference, queries, k, skip_itself)
                : nearest_in<double>(reference, queries, k, skip_itself);
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
  for (int64_t k : ks) check(k >= 1, "knn_scores: k must be 1 or more, got ", k);
  int64_t most = *std::max_element(ks.begin(), ks.end()), M = queries.size(0);
  Neighbours found = checked_nearest("knn_scores", reference, queries, most, skip_itself);
  std::vector<KnnScore> scores;
  for (int64_t k : ks) {
    int64_t right = 0, shared = 0;
    for (int64_t query = 0; query < M; ++query) {
      std::map<int64_t, int64_t> votes;
      for (int64_t place = 0; place < k; ++place)
        ++votes[labels.data<int64_t>()[found.rows.data<int64_t>()[query * most + place]]];
      auto winner = std::max_element(votes.begin(), votes.end(), [](auto& a, auto& b) { return a.second < b.second; });
      int64_t truth = query_labels.data<int64_t>()[query];
      right += winner->first == truth;
      shared += votes.count(truth) ? votes[truth] : 0;
    }
    scores.push_back({k, double(right) / double(M), double(shared) / double(M * k)});
  }
  return scores;
}

}  // namespace

Neighbours nearest_rows(const Tensor& reference, const Tensor& queries, int64_t k) {
  return checked_nearest("nearest_rows", reference, queries, k, false);
}

Neighbours nearest_rows(const Tensor& x, int64_t k) { return checked_nearest("nearest_rows", x, x, k, true); }

Neighbours nearest_under(const Tensor& x, int64_t copies, const std::function<Tensor(int64_t)>& copy, int64_t k) {
  std::vector<Candidates> of(size_t(x.size(0)));
  for (int64_t c = -1; c < copies; ++c) {
    Neighbours found = checked_nearest("nearest_under", c < 0 ? x : copy(c), x, k, true);
    for (int64_t i = 0; i < x.size(0); ++i) {
      for (int64_t place = i * k; place < (i + 1) * k; ++place)
        of[size_t(i)].push_back({found.squared.data<double>()[place], found.rows.data<int64_t>()[place]});
      keep_nearest(of[size_t(i)], k);
    }
  }
  std::vector<Candidates> both = of;
  for (size_t i = 0; i < of.size(); ++i)
    for (auto [squared, row] : of[i]) both[size_t(row)].push_back({squared, int64_t(i)});
  Neighbours result{empty({x.size(0), k}, DType::i64), empty({x.size(0), k}, DType::f64)};
  for (size_t i = 0; i < both.size(); ++i) {
    keep_nearest(both[i], k);
    for (size_t place = 0; place < size_t(k); ++place) {
      result.rows.data<int64_t>()[i * size_t(k) + place] = both[i][place].second;
      result.squared.data<double>()[i * size_t(k) + place] = both[i][place].first;
    }
  }
  return result;
}

std::vector<KnnScore> knn_scores(const Tensor& reference, const Tensor& reference_labels, const Tensor& queries,
                                 const Tensor& query_labels, const std::vector<int64_t>& ks) {
  return checked_scores(reference, reference_labels, queries, query_labels, ks, false);
}

std::vector<KnnScore> knn_scores(const Tensor& x, const Tensor& labels, const std::vector<int64_t>& ks) {
  return checked_scores(x, labels, x, labels, ks, true);
}

}  // namespace mote::cluster
