// scores.h - how well a clustering agrees with known classes: accuracy after the best matching, normalised mutual
// information, adjusted Rand index. All three are functions of one table of counts; none depends on how labels are named.
#pragma once
#include <vector>

#include "tensor/tensor.h"

namespace mote::cluster {

/// How often each predicted label meets each true one. Row r belongs to predicted[r], column c to truth[c].
struct Contingency {
  std::vector<int64_t> predicted, truth;   // the labels that occur, ascending
  std::vector<int64_t> counts;             // [predicted.size(), truth.size()], row-major
  std::vector<int64_t> row_sums, column_sums;
  int64_t total = 0;
  int64_t rows() const { return int64_t(predicted.size()); }
  int64_t columns() const { return int64_t(truth.size()); }
  int64_t at(int64_t row, int64_t column) const { return counts[size_t(row * columns() + column)]; }
};

/// The table of two labellings of the same N >= 1 points.
///   predicted, truth  i64 [N], any values: labels are names
/// Throws Error(argument) for another dtype or shape, Error(data) if the lengths differ, N = 0, or so many labels occur
/// that the table would have more than 2^26 cells.
Contingency contingency(const Tensor& predicted, const Tensor& truth);

/// The true label of each row of the table under the best one-to-one matching, and the share of points it gets right:
/// ACC = max over matchings m of sum_r n[r, m(r)] / N. With more clusters than classes some rows stay without a class.
struct Matching {
  std::vector<int64_t> column;   // of each row of the table, -1 for none
  double accuracy = 0;
};
Matching best_matching(const Contingency& table);
double accuracy(const Contingency& table);

/// I(Y; P) in nats: sum n_rc / N ln(N n_rc / (a_r b_c)).
double mutual_information(const Contingency& table);

/// What I(Y; P) is divided by: a mean of the two entropies.
enum class EntropyMean { arithmetic, geometric, min, max };
/// NMI = I(Y; P) / mean(H(Y), H(P)), in [0, 1]. If one entropy is 0, I is 0 and so is NMI, unless both are: two
/// partitions of a single cluster each agree, NMI = 1.                                                  [Strehl 2002]
double nmi(const Contingency& table, EntropyMean mean = EntropyMean::arithmetic);

/// ARI = (sum_rc C(n_rc, 2) - E) / ((A + B) / 2 - E) with A = sum_r C(a_r, 2), B = sum_c C(b_c, 2), E = A B / C(N, 2).
/// 0 expected for independent labels; may be negative. Where the denominator is 0 both partitions are the same trivial
/// one (a single cluster, or every point its own), and ARI = 1.                                          [Hubert 1985]
double ari(const Contingency& table);

}  // namespace mote::cluster
