// labels.h - how a set divides among the classes: a generator that forgets one shows it here at once.
#pragma once
#include <vector>

#include "tensor/tensor.h"

namespace mote::metrics {

struct LabelHistogram {
  std::vector<int64_t> counts;   // one a class
  int64_t total = 0;
  /// -sum p log p in nats, p = counts / total: log K if all K classes are equally frequent, 0 if there is only one.
  double entropy() const;
};

/// How often each class occurs in labels i64 [N], N >= 1, 0 <= label < classes. Throws Error(argument) otherwise.
LabelHistogram label_histogram(const Tensor& labels, int64_t classes);

/// Total variation distance of the shares: 1/2 sum |p - q|, 0 for equal ones, 1 for disjoint ones. Throws
/// Error(argument) if the numbers of classes differ.
double total_variation(const LabelHistogram& a, const LabelHistogram& b);

}  // namespace mote::metrics
