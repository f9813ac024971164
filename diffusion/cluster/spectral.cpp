#include "diffusion/cluster/spectral.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "diffusion/cluster/rows.h"
#include "diffusion/metrics/eigen.h"
#include "tensor/error.h"
#include "tensor/kernels.h"
#include "tensor/random.h"

namespace mote::cluster {
namespace {

constexpr int64_t kGuard = 10;       // vectors beyond those asked for: the filter parts the two
constexpr int kDegree = 20;          // of the filter
constexpr int64_t kRowsAtOnce = 256; // of a product, for one thread

/// A symmetric matrix by its rows.
struct Sparse {
  int64_t size;
  std::vector<int64_t> begin;    // [size + 1], into the other two
  std::vector<int64_t> column;   // ascending in a row
  std::vector<double> value;
};

/// s_i, and 1 where a point has so many duplicates that it is 0: their edges have weight 1.
std::vector<double> local_scales(const Neighbours& near, int64_t place) {
  int64_t N = near.rows.size(0), k = near.rows.size(1);
  std::vector<double> scale(static_cast<size_t>(N));
  for (int64_t i = 0; i < N; ++i) {
    const double* squared = near.squared.data<double>() + i * k;
    const double* positive = std::find_if(squared + std::min(place, k) - 1, squared + k, [](double d) { return d > 0; });
    scale[size_t(i)] = positive == squared + k ? 1 : std::sqrt(*positive);
  }
  return scale;
}

/// D^-1/2 W D^-1/2.
Sparse normalised_graph(const Neighbours& near, int64_t scale_place) {
  int64_t N = near.rows.size(0), k = near.rows.size(1);
  std::vector<double> scale = local_scales(near, scale_place);
  struct Edge {
    int64_t to;
    double weight;
    bool operator<(const Edge& other) const { return to < other.to; }
  };
  std::vector<std::vector<Edge>> edges(static_cast<size_t>(N));
  for (int64_t i = 0; i < N; ++i)
    for (int64_t place = 0; place < k; ++place) {
      int64_t j = near.rows.data<int64_t>()[i * k + place];
      double weight = std::exp(-near.squared.data<double>()[i * k + place] / (scale[size_t(i)] * scale[size_t(j)]));
      edges[size_t(i)].push_back({j, weight});
      edges[size_t(j)].push_back({i, weight});
    }
  Sparse graph{N, {0}, {}, {}};
  std::vector<double> degree;
  for (std::vector<Edge>& row : edges) {
    std::stable_sort(row.begin(), row.end());   // an edge seen from both ends stands here twice
    row.erase(std::unique(row.begin(), row.end(), [](const Edge& a, const Edge& b) { return a.to == b.to; }), row.end());
    double sum = 0;
    for (const Edge& edge : row) {
      graph.column.push_back(edge.to);
      graph.value.push_back(edge.weight);
      sum += edge.weight;
    }
    graph.begin.push_back(int64_t(graph.column.size()));
    degree.push_back(std::max(sum, std::numeric_limits<double>::min()));
  }
  for (int64_t i = 0; i < N; ++i)
    for (int64_t e = graph.begin[size_t(i)]; e < graph.begin[size_t(i) + 1]; ++e)
      graph.value[size_t(e)] /= std::sqrt(degree[size_t(i)] * degree[size_t(graph.column[size_t(e)])]);
  return graph;
}

/// out = scale (A x - shift x) - minus prior, over rows; prior may be `out`.   x, out, prior [N, columns]
void filter_step(const Sparse& a, const Tensor& x, double scale, double shift, double minus, const Tensor& prior,
                 Tensor& out) {
  int64_t columns = x.size(1);
  const double *from = x.data<double>(), *before = prior.data<double>();
  double* to = out.data<double>();
  cpu::parallel_for(a.size, kRowsAtOnce, [&](int64_t first, int64_t last) {
    std::vector<double> row(static_cast<size_t>(columns));
    for (int64_t i = first; i < last; ++i) {
      for (int64_t c = 0; c < columns; ++c) row[size_t(c)] = -shift * from[i * columns + c];
      for (int64_t e = a.begin[size_t(i)]; e < a.begin[size_t(i) + 1]; ++e) {
        const double* other = from + a.column[size_t(e)] * columns;
        for (int64_t c = 0; c < columns; ++c) row[size_t(c)] += a.value[size_t(e)] * other[c];
      }
      for (int64_t c = 0; c < columns; ++c)
        to[i * columns + c] = scale * row[size_t(c)] - minus * before[i * columns + c];
    }
  });
}

/// T_degree of A with [-1, cut] mapped to [-1, 1]: what lies above the cut grows, the rest stays small.
Tensor filtered(const Sparse& a, const Tensor& x, double cut) {
  double centre = (cut - 1) / 2, half = (cut + 1) / 2;
  Tensor before = x, now = empty_like(x);
  filter_step(a, x, 1 / half, centre, 0, x, now);
  for (int degree = 2; degree <= kDegree; ++degree) {
    Tensor next = empty_like(x);
    filter_step(a, now, 2 / half, centre, 1, before, next);
    before = now;
    now = next;
  }
  return now;
}

/// The columns of x at right angles and of length 1, twice by Gram and Schmidt. Worked on as rows.
Tensor orthonormal(const Tensor& x) {
  int64_t N = x.size(0), columns = x.size(1);
  Tensor rows = empty({columns, N}, DType::f64);
  double* row = rows.data<double>();
  for (int64_t i = 0; i < N; ++i)
    for (int64_t c = 0; c < columns; ++c) row[c * N + i] = x.data<double>()[i * columns + c];
  for (int64_t c = 0; c < columns; ++c) {
    double* own = row + c * N;
    for (int pass = 0; pass < 2; ++pass) {
      double length = std::sqrt(std::inner_product(own, own + N, own, 0.0));
      if (!(length > 0)) fail(Error::Kind::numeric, "spectral_embedding: a vector of the subspace has become 0");
      std::for_each(own, own + N, [&](double& value) { value /= length; });
      for (int64_t other = 0; other < c; ++other) {
        double along = std::inner_product(own, own + N, row + other * N, 0.0);
        for (int64_t i = 0; i < N; ++i) own[i] -= along * row[other * N + i];
      }
    }
    double length = std::sqrt(std::inner_product(own, own + N, own, 0.0));
    std::for_each(own, own + N, [&](double& value) { value /= length; });
  }
  Tensor result = empty_like(x);
  for (int64_t i = 0; i < N; ++i)
    for (int64_t c = 0; c < columns; ++c) result.data<double>()[i * columns + c] = row[c * N + i];
  return result;
}

Tensor product(const Tensor& a, const Tensor& b, bool a_turned, bool b_turned) {
  Tensor y = empty({a_turned ? a.size(1) : a.size(0), b_turned ? b.size(0) : b.size(1)}, DType::f64);
  kernel::matmul(y, a, b, a_turned, b_turned, {});
  return y;
}

/// The vectors of the subspace that are eigenvectors in it, by falling value, and their largest residual.
struct Ritz {
  Tensor x, values;   // [N, columns], [columns]
  double residual;    // over the first `width`
};

Ritz ritz(const Sparse& a, const Tensor& basis, int64_t width) {
  int64_t N = basis.size(0), columns = basis.size(1);
  Tensor image = empty_like(basis);
  filter_step(a, basis, 1, 0, 0, basis, image);
  metrics::SymmetricEigen eigen = metrics::symmetric_eigen(product(basis, image, true, false));
  Tensor turn = empty({columns, columns}, DType::f64), values = empty({columns}, DType::f64);
  for (int64_t c = 0; c < columns; ++c) {   // eigenvalues are ascending
    values.data<double>()[c] = eigen.values.data<double>()[columns - 1 - c];
    std::copy_n(eigen.vectors.data<double>() + (columns - 1 - c) * columns, columns, turn.data<double>() + c * columns);
  }
  Ritz result{product(basis, turn, false, true), values, 0};
  Tensor turned = product(image, turn, false, true);
  for (int64_t c = 0; c < width; ++c) {
    double sum = 0;
    for (int64_t i = 0; i < N; ++i) {
      double off = turned.data<double>()[i * columns + c] - values.data<double>()[c] * result.x.data<double>()[i * columns + c];
      sum += off * off;
    }
    result.residual = std::max(result.residual, std::sqrt(sum));
  }
  return result;
}

}  // namespace

Spectral spectral_embedding(const Tensor& x, const SpectralOptions& options) {
  return spectral_embedding(nearest_rows(x, options.neighbours), options);
}

Spectral spectral_embedding(const Neighbours& near, const SpectralOptions& options) {
  check(options.width >= 1, "spectral_embedding: width must be 1 or more, got ", options.width);
  check(options.scale >= 1, "spectral_embedding: scale must be 1 or more, got ", options.scale);
  check(options.tolerance > 0, "spectral_embedding: tolerance must be above 0, got ", options.tolerance);
  int64_t N = near.rows.size(0), columns = options.width + kGuard;
  if (columns > N)
    fail(Error::Kind::data, "spectral_embedding: ", options.width, " coordinates need ", columns, " points, there are ", N);
  Sparse graph = normalised_graph(near, options.scale);

  Generator generator{options.seed};
  Ritz now = ritz(graph, orthonormal(normal({N, columns}, DType::f64, generator)), options.width);
  for (int round = 0; now.residual > options.tolerance; ++round) {
    if (options.progress && !options.progress(round, now.residual)) break;
    if (round == options.max_rounds)
      fail(Error::Kind::numeric, "spectral_embedding: after ", round, " rounds the residual is ", now.residual, ", above ",
           options.tolerance);
    double cut = std::min(now.values.data<double>()[columns - 1], 1 - 1e-9);
    now = ritz(graph, orthonormal(filtered(graph, now.x, cut)), options.width);
  }

  Spectral result{empty({N, options.width}, DType::f64), empty({options.width}, DType::f64), now.residual};
  for (int64_t c = 0; c < options.width; ++c) {
    const double* column = now.x.data<double>() + c;
    double largest = 0;
    for (int64_t i = 0; i < N; ++i)
      if (std::abs(column[i * columns]) > std::abs(largest)) largest = column[i * columns];
    for (int64_t i = 0; i < N; ++i)
      result.y.data<double>()[i * options.width + c] = largest < 0 ? -column[i * columns] : column[i * columns];
    result.values.data<double>()[c] = now.values.data<double>()[c];
  }
  if (options.unit_rows)
    for (int64_t i = 0; i < N; ++i) {
      double* row = result.y.data<double>() + i * options.width;
      double length = std::sqrt(std::inner_product(row, row + options.width, row, 0.0));
      if (length > 0) std::for_each(row, row + options.width, [&](double& value) { value /= length; });
    }
  return result;
}

}  // namespace mote::cluster
