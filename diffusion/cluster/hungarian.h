// hungarian.h - the assignment problem: which column for each row, so that the sum of the costs is least. Clusters are
// matched with classes by it (scores.h).
#pragma once
#include <vector>

#include "tensor/tensor.h"

namespace mote::cluster {

struct Assignment {
  std::vector<int64_t> column;   // of each row; -1 for a row that is left over (more rows than columns)
  double cost = 0;               // sum of the costs of the pairs
};

/// Pairs min(R, C) rows and columns, each used once, such that the sum of cost[row, column] is least (greatest for
/// max_assignment), by shortest augmenting paths with potentials, O(n^3) for n = max(R, C). [Kuhn 1955; Jonker 1987]
///   cost  f64 [R, C], finite, any sign; a rectangle is padded to a square with zeros
/// Exact if the costs and their sums are whole numbers below 2^53.
/// Throws Error(argument) for another shape or dtype, Error(numeric) for a cost that is not finite.
Assignment min_assignment(const Tensor& cost);
Assignment max_assignment(const Tensor& gain);

}  // namespace mote::cluster
