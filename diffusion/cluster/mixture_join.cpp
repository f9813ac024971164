// Components of a mixture joined into groups, where a cluster is no Gaussian.
#include <algorithm>
#include <limits>
#include <vector>

#include "diffusion/cluster/mixture.h"
#include "tensor/error.h"

namespace mote::cluster {

Tensor join_components(const Mixture& mixture, int64_t groups) {
  require_mixture("join_components", mixture);
  int64_t K = mixture.components(), D = mixture.width();
  check(groups >= 1 && groups <= K, "join_components: needs 1 <= groups <= ", K, ", got ", groups);
  struct Group {
    double weight;
    std::vector<double> mean;
    std::vector<int64_t> members;
  };
  std::vector<Group> all;
  const double *weight = mixture.weights.data<double>(), *mean = mixture.means.data<double>();
  for (int64_t k = 0; k < K; ++k) all.push_back({weight[k], {mean + k * D, mean + (k + 1) * D}, {k}});
  auto cost = [&](const Group& a, const Group& b) {
    double squared = 0, total = a.weight + b.weight;
    for (size_t d = 0; d < size_t(D); ++d) squared += (a.mean[d] - b.mean[d]) * (a.mean[d] - b.mean[d]);
    return total > 0 ? a.weight * b.weight / total * squared : 0;
  };
  while (int64_t(all.size()) > groups) {
    size_t first = 0, second = 1;
    double least = std::numeric_limits<double>::infinity();
    for (size_t a = 0; a < all.size(); ++a)
      for (size_t b = a + 1; b < all.size(); ++b)
        if (double c = cost(all[a], all[b]); c < least) least = c, first = a, second = b;
    Group &into = all[first], &from = all[second];
    double total = into.weight + from.weight, share = total > 0 ? from.weight / total : 0;
    for (size_t d = 0; d < size_t(D); ++d) into.mean[d] += share * (from.mean[d] - into.mean[d]);
    into.weight = total;
    into.members.insert(into.members.end(), from.members.begin(), from.members.end());
    all.erase(all.begin() + int64_t(second));
  }
  Tensor group = empty({K}, DType::i64);   // the first member of a group is its smallest: joins go into the earlier one
  for (size_t g = 0; g < all.size(); ++g)
    for (int64_t k : all[g].members) group.data<int64_t>()[k] = int64_t(g);
  return group;
}

Posterior joined(const Posterior& posterior, const Tensor& groups) {
  int64_t N = posterior.probabilities.size(0), K = posterior.probabilities.size(1);
  check(groups.defined() && groups.dtype() == DType::i64 && groups.shape() == Shape{K}, "joined: groups must be i64 [", K,
        "], got ", describe(groups));
  const int64_t* group = groups.data<int64_t>();
  int64_t G = 1 + *std::max_element(group, group + K);
  Posterior result = posterior;
  result.probabilities = zeros({N, G}, DType::f64);
  result.labels = empty({N}, DType::i64);
  for (int64_t n = 0; n < N; ++n) {
    double* row = result.probabilities.data<double>() + n * G;
    for (int64_t k = 0; k < K; ++k) row[group[k]] += posterior.probabilities.data<double>()[n * K + k];
    result.labels.data<int64_t>()[n] = std::max_element(row, row + G) - row;
  }
  return result;
}

}  // namespace mote::cluster
