#include "diffusion/cluster/mixture.h"

#include <algorithm>
#include <cmath>

#include "diffusion/cluster/cholesky.h"
#include "diffusion/cluster/mixture_pass.h"
#include "tensor/error.h"
#include "tensor/io/safetensors.h"
#include "tensor/kernels.h"

namespace mote::cluster {
namespace {

void require_host_f64(const char* op, const char* name, const Tensor& tensor, const Shape& shape) {
  check(tensor.defined() && tensor.dtype() == DType::f64 && tensor.shape() == shape && !tensor.is_cuda(),
        op, ": ", name, " must be f64", shape, " on the CPU, got ", describe(tensor));
  const double* values = tensor.data<double>();
  for (int64_t i = 0; i < tensor.numel(); ++i)
    if (!std::isfinite(values[i]))
      fail(Error::Kind::numeric, op, ": element ", i, " of ", name, " ", describe(tensor), " is ", values[i]);
}

void require_together(const char* op, const Mixture& mixture, const Points& points) {
  require_mixture(op, mixture);
  require_points(op, points);
  if (points.width() != mixture.width())
    fail(Error::Kind::data, op, ": the widths differ: the points are ", describe(points.mean), ", the mixture has ",
         mixture.components(), " components of width ", mixture.width());
}

/// fn(block, i) for every point of every block, whose joint then holds responsibilities.
template <class Fn>
void each_point(const Mixture& mixture, const Points& points, Fn&& fn) {
  Densities densities(mixture, column_means(points.mean, points.weight));
  densities.each_block(points, Chunks(points.count()), [&](int64_t, Block& block) {
    softmax(block, mixture.components());
    for (int64_t i = 0; i < block.count; ++i) fn(block, i);
  });
}

double weight_of(const Points& points, size_t i) { return points.weight.defined() ? points.weight.data<double>()[i] : 1; }

double total_weight(const Points& points) {
  double total = 0;
  for (size_t i = 0; i < size_t(points.count()); ++i) total += weight_of(points, i);
  return total;
}

/// The weighted sum of one value a point.
double weighted_sum(const Points& points, const std::vector<double>& values) {
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i)
    if (double weight = weight_of(points, i); weight > 0) sum += weight * values[i];
  return sum;
}

/// The lower factor of the covariance of component k.
std::vector<double> factor_of(const char* op, const Mixture& mixture, int64_t k) {
  int64_t D = mixture.width();
  std::vector<double> l(size_t(D * D), 0.0);
  const double* covariances = mixture.covariances.data<double>();
  if (mixture.covariance == Covariance::diagonal) {
    for (int64_t d = 0; d < D; ++d) l[size_t(d * D + d)] = std::sqrt(covariances[k * D + d]);
    return l;
  }
  std::copy_n(covariances + (mixture.covariance == Covariance::full ? k * D * D : 0), D * D, l.data());
  if (!cholesky(l.data(), D))
    fail(Error::Kind::numeric, op, ": the covariance of component ", k, " is not positive definite");
  return l;
}

}  // namespace

// ---- The mixture ---------------------------------------------------------------------------------------------------

const char* name_of(Covariance covariance) {
  switch (covariance) {
    case Covariance::diagonal: return "diag";
    case Covariance::tied: return "tied";
    case Covariance::full: return "full";
  }
  return "?";
}

Covariance covariance_named(const std::string& name) {
  for (Covariance covariance : {Covariance::diagonal, Covariance::tied, Covariance::full})
    if (name == name_of(covariance)) return covariance;
  fail(Error::Kind::usage, "covariance: '", name, "' is not known; there are diag, tied, full");
}

int64_t Mixture::parameters() const {
  int64_t K = components(), D = width(), triangle = D * (D + 1) / 2;
  int64_t of_covariances = covariance == Covariance::diagonal ? K * D : covariance == Covariance::tied ? triangle : K * triangle;
  return K - 1 + K * D + of_covariances;
}

void require_mixture(const char* op, const Mixture& mixture) {
  check(mixture.weights.defined() && mixture.weights.ndim() == 1 && mixture.weights.numel() > 0 &&
            mixture.means.defined() && mixture.means.ndim() == 2 && mixture.means.numel() > 0 && mixture.covariances.defined(),
        op, ": a mixture needs weights [K], means [K, D] and covariances");
  int64_t K = mixture.components(), D = mixture.width();
  require_host_f64(op, "weights", mixture.weights, {K});
  require_host_f64(op, "means", mixture.means, {K, D});
  require_host_f64(op, "covariances", mixture.covariances,
                   mixture.covariance == Covariance::diagonal ? Shape{K, D}
                   : mixture.covariance == Covariance::tied   ? Shape{D, D}
                                                              : Shape{K, D, D});
  double sum = 0;
  for (int64_t k = 0; k < K; ++k) {
    double weight = mixture.weights.data<double>()[k];
    if (weight < 0) fail(Error::Kind::numeric, op, ": the weight of component ", k, " is negative: ", weight);
    sum += weight;
  }
  if (std::abs(sum - 1) > 1e-6) fail(Error::Kind::numeric, op, ": the weights sum to ", sum, ", not to 1");
}

// ---- Asking a mixture ----------------------------------------------------------------------------------------------

Tensor log_joint(const Mixture& mixture, const Points& points) {
  require_together("log_joint", mixture, points);
  int64_t K = mixture.components();
  Tensor joint = empty({points.count(), K}, DType::f64);
  Densities densities(mixture, column_means(points.mean, points.weight));
  densities.each_block(points, Chunks(points.count()), [&](int64_t, Block& block) {
    double* to = joint.data<double>() + block.begin * K;
    for (int64_t i = 0; i < block.count; ++i)
      for (int64_t k = 0; k < K; ++k) to[i * K + k] = block.joint[k * Block::kJoint + i];
  });
  return joint;
}

Posterior posterior(const Mixture& mixture, const Points& points) {
  require_together("posterior", mixture, points);
  int64_t N = points.count(), K = mixture.components();
  Posterior result{empty({N, K}, DType::f64), empty({N}, DType::i64), empty({N}, DType::f64)};
  each_point(mixture, points, [&](const Block& block, int64_t i) {
    double* to = result.probabilities.data<double>() + (block.begin + i) * K;
    for (int64_t k = 0; k < K; ++k) to[k] = block.joint[k * Block::kJoint + i];
    result.labels.data<int64_t>()[block.begin + i] = std::max_element(to, to + K) - to;
    result.log_likelihood.data<double>()[block.begin + i] = block.row_work[i];
  });
  result.mean_log_likelihood = weighted_sum(points, result.log_likelihood.to_vector()) / total_weight(points);
  return result;
}

double mean_log_likelihood(const Mixture& mixture, const Points& points) {
  require_together("mean_log_likelihood", mixture, points);
  std::vector<double> values(size_t(points.count()));
  each_point(mixture, points,
             [&](const Block& block, int64_t i) { values[size_t(block.begin + i)] = block.row_work[i]; });
  return weighted_sum(points, values) / total_weight(points);
}

Criteria criteria(const Mixture& mixture, const Points& points) {
  require_together("criteria", mixture, points);
  std::vector<double> values(size_t(points.count())), entropies(values);
  each_point(mixture, points, [&](const Block& block, int64_t i) {
    values[size_t(block.begin + i)] = block.row_work[i];
    for (int64_t k = 0; k < mixture.components(); ++k)
      if (double r = block.joint[k * Block::kJoint + i]; r > 0) entropies[size_t(block.begin + i)] -= r * std::log(r);
  });
  Criteria result;
  double parameters = double(mixture.parameters());
  result.log_likelihood = weighted_sum(points, values);
  result.bic = parameters * std::log(total_weight(points)) - 2 * result.log_likelihood;
  result.aic = 2 * parameters - 2 * result.log_likelihood;
  result.icl = result.bic + 2 * weighted_sum(points, entropies);
  return result;
}

// ---- Draws ---------------------------------------------------------------------------------------------------------

Tensor sample_component(const Mixture& mixture, int64_t component, int64_t count, Generator& generator) {
  require_mixture("sample_component", mixture);
  check(component >= 0 && component < mixture.components(), "sample_component: there is no component ", component,
        " in a mixture of ", mixture.components());
  check(count >= 0, "sample_component: count must be 0 or more, got ", count);
  int64_t D = mixture.width();
  Tensor x = empty({count, D}, DType::f64);
  if (count == 0) return x;
  Tensor z = normal({count, D}, DType::f64, generator);
  Tensor factor = from(factor_of("sample_component", mixture, component), {D, D}, DType::f64);
  Tensor mean = from(mixture.means.rows(component, component + 1).to_vector(), {D}, DType::f64);
  kernel::matmul(x, z, factor, false, true, mean);
  return x;
}

MixtureSample sample_mixture(const Mixture& mixture, int64_t count, Generator& generator) {
  require_mixture("sample_mixture", mixture);
  check(count >= 0, "sample_mixture: count must be 0 or more, got ", count);
  int64_t D = mixture.width(), K = mixture.components();
  MixtureSample sample{empty({count, D}, DType::f64), empty({count}, DType::i64)};
  if (count == 0) return sample;
  Tensor u = uniform({count}, DType::f64, generator);
  std::vector<std::vector<int64_t>> rows(static_cast<size_t>(K));
  for (int64_t i = 0; i < count; ++i) {
    double left = u.data<double>()[i];
    int64_t k = 0;
    while (k < K - 1 && left >= mixture.weights.data<double>()[k]) left -= mixture.weights.data<double>()[k++];
    sample.labels.data<int64_t>()[i] = k;
    rows[size_t(k)].push_back(i);
  }
  for (int64_t k = 0; k < K; ++k) {
    Tensor drawn = sample_component(mixture, k, int64_t(rows[size_t(k)].size()), generator);
    for (size_t i = 0; i < rows[size_t(k)].size(); ++i)
      std::copy_n(drawn.data<double>() + int64_t(i) * D, D, sample.x.data<double>() + rows[size_t(k)][i] * D);
  }
  return sample;
}

Mixture rescaled(const Mixture& mixture, const Tensor& scale, const Tensor& shift) {
  require_mixture("rescaled", mixture);
  int64_t D = mixture.width();
  require_host_f64("rescaled", "scale", scale, {D});
  require_host_f64("rescaled", "shift", shift, {D});
  const double *a = scale.data<double>(), *b = shift.data<double>();
  for (int64_t d = 0; d < D; ++d) check(a[d] != 0, "rescaled: scale must not be 0, element ", d, " is");
  Mixture result{mixture.covariance, mixture.weights.clone(), mixture.means.clone(), mixture.covariances.clone()};
  double *means = result.means.data<double>(), *covariances = result.covariances.data<double>();
  bool is_diagonal = mixture.covariance == Covariance::diagonal;
  for (int64_t i = 0; i < result.means.numel(); ++i) means[i] = a[i % D] * means[i] + b[i % D];
  for (int64_t i = 0; i < result.covariances.numel(); ++i)
    covariances[i] *= a[i % D] * a[is_diagonal ? i % D : i / D % D];
  return result;
}

// ---- Files ---------------------------------------------------------------------------------------------------------

void save_mixture(const std::string& path, const Mixture& mixture, const std::map<std::string, std::string>& metadata) {
  require_mixture("save_mixture", mixture);
  std::map<std::string, std::string> all = metadata;
  all["mixture.covariance"] = name_of(mixture.covariance);
  io::save_safetensors(path,
                       {{"weights", mixture.weights}, {"means", mixture.means}, {"covariances", mixture.covariances}}, all);
}

Mixture load_mixture(const std::string& path, std::map<std::string, std::string>* metadata) {
  io::Safetensors file = io::load_safetensors(path);
  auto kind = file.metadata.find("mixture.covariance");
  if (kind == file.metadata.end() || !file.tensors.count("weights") || !file.tensors.count("means") ||
      !file.tensors.count("covariances"))
    fail(Error::Kind::checkpoint, path, ": is no mixture: the tensors weights, means, covariances and the metadata "
         "mixture.covariance are needed");
  try {
    Mixture mixture{covariance_named(kind->second), file.tensors["weights"], file.tensors["means"], file.tensors["covariances"]};
    require_mixture("mixture", mixture);
    Densities densities(mixture, zeros({mixture.width()}, DType::f64));   // every covariance has a factor
    if (metadata) *metadata = file.metadata;
    return mixture;
  } catch (const Error& error) {
    fail(Error::Kind::checkpoint, path, ": ", error.what());
  }
}

}  // namespace mote::cluster
