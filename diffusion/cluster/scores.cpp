#include "diffusion/cluster/scores.h"

#include <algorithm>
#include <cmath>

#include "diffusion/cluster/hungarian.h"
#include "tensor/error.h"

namespace mote::cluster {
namespace {

constexpr int64_t kMostCells = int64_t(1) << 26;

std::vector<int64_t> distinct(const Tensor& labels) {
  std::vector<int64_t> values(labels.data<int64_t>(), labels.data<int64_t>() + labels.numel());
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  return values;
}

size_t place(const std::vector<int64_t>& sorted, int64_t value) {
  return size_t(std::lower_bound(sorted.begin(), sorted.end(), value) - sorted.begin());
}

void require_labels(const char* name, const Tensor& labels) {
  check(labels.defined() && labels.ndim() == 1 && labels.dtype() == DType::i64 && !labels.is_cuda(),
        "contingency: ", name, " must be i64 [N] on the CPU, got ", describe(labels));
}

/// -sum p ln p of counts that add up to total.
double entropy(const std::vector<int64_t>& counts, int64_t total) {
  double sum = 0;
  for (int64_t count : counts)
    if (count > 0) sum -= double(count) * std::log(double(count) / double(total));
  return sum / double(total);
}

/// How many pairs there are among n points.
double pairs(int64_t n) { return 0.5 * double(n) * double(n - 1); }

double pairs_within(const std::vector<int64_t>& counts) {
  double sum = 0;
  for (int64_t count : counts) sum += pairs(count);
  return sum;
}

}  // namespace

Contingency contingency(const Tensor& predicted, const Tensor& truth) {
  require_labels("predicted", predicted);
  require_labels("truth", truth);
  int64_t n = predicted.size(0);
  if (n != truth.size(0))
    fail(Error::Kind::data, "contingency: the labellings differ in length: predicted has ", n, " labels, truth has ",
         truth.size(0));
  if (n == 0) fail(Error::Kind::data, "contingency: needs at least 1 label, got none");
  Contingency table;
  table.predicted = distinct(predicted);
  table.truth = distinct(truth);
  table.total = n;
  if (table.rows() > kMostCells / table.columns())
    fail(Error::Kind::data, "contingency: ", table.rows(), " different predicted labels and ", table.columns(),
         " different true ones make a table of more than ", kMostCells, " cells; are these labels at all?");
  table.counts.assign(size_t(table.rows() * table.columns()), 0);
  table.row_sums.assign(size_t(table.rows()), 0);
  table.column_sums.assign(size_t(table.columns()), 0);
  for (int64_t i = 0; i < n; ++i) {
    size_t row = place(table.predicted, predicted.data<int64_t>()[i]), column = place(table.truth, truth.data<int64_t>()[i]);
    ++table.counts[row * size_t(table.columns()) + column];
    ++table.row_sums[row];
    ++table.column_sums[column];
  }
  return table;
}

Matching best_matching(const Contingency& table) {
  Tensor gain = empty({table.rows(), table.columns()}, DType::f64);
  std::copy(table.counts.begin(), table.counts.end(), gain.data<double>());
  Assignment assignment = max_assignment(gain);
  return {assignment.column, assignment.cost / double(table.total)};
}

double accuracy(const Contingency& table) { return best_matching(table).accuracy; }

double mutual_information(const Contingency& table) {
  double sum = 0, total = double(table.total);
  for (int64_t row = 0; row < table.rows(); ++row)
    for (int64_t column = 0; column < table.columns(); ++column) {
      double count = double(table.at(row, column));
      // Quotients first: N n may pass 2^53, and independent labels give ln 1 = 0 exactly.
      if (count > 0)
        sum += count * std::log((count / double(table.row_sums[size_t(row)])) /
                                (double(table.column_sums[size_t(column)]) / total));
    }
  return std::max(0.0, sum / total);
}

double nmi(const Contingency& table, EntropyMean mean) {
  double h_predicted = entropy(table.row_sums, table.total), h_truth = entropy(table.column_sums, table.total);
  if (table.rows() == 1 && table.columns() == 1) return 1;
  if (table.rows() == 1 || table.columns() == 1) return 0;
  double divisor = 0;
  switch (mean) {
    case EntropyMean::arithmetic: divisor = 0.5 * (h_predicted + h_truth); break;
    case EntropyMean::geometric: divisor = std::sqrt(h_predicted * h_truth); break;
    case EntropyMean::min: divisor = std::min(h_predicted, h_truth); break;
    case EntropyMean::max: divisor = std::max(h_predicted, h_truth); break;
  }
  return std::min(1.0, mutual_information(table) / divisor);
}

double ari(const Contingency& table) {
  double together = pairs_within(table.counts), a = pairs_within(table.row_sums), b = pairs_within(table.column_sums);
  bool one_each = table.rows() == 1 && table.columns() == 1;
  bool all_apart = table.rows() == table.total && table.columns() == table.total;
  if (one_each || all_apart) return 1;
  double expected = a * (b / pairs(table.total));
  return (together - expected) / (0.5 * (a + b) - expected);
}

}  // namespace mote::cluster
