#include "diffusion/metrics/labels.h"

#include <cmath>

#include "tensor/error.h"

namespace mote::metrics {

double LabelHistogram::entropy() const {
  double sum = 0;
  for (int64_t count : counts) {
    double p = double(count) / double(total);
    if (count > 0) sum -= p * std::log(p);
  }
  return sum;
}

LabelHistogram label_histogram(const Tensor& labels, int64_t classes) {
  check(
      labels.defined() && labels.ndim() == 1 && labels.dtype() == DType::i64 && labels.numel() > 0 && !labels.is_cuda(),
      "label_histogram: needs labels i64 [N] on the CPU, N >= 1, got ", describe(labels));
  check(classes >= 1, "label_histogram: needs 1 class or more, got ", classes);
  LabelHistogram histogram{std::vector<int64_t>(size_t(classes), 0), labels.numel()};
  for (int64_t i = 0; i < labels.numel(); ++i) {
    int64_t label = labels.data<int64_t>()[i];
    check(label >= 0 && label < classes, "label_histogram: label ", i, " is ", label, ", outside 0..", classes - 1);
    ++histogram.counts[size_t(label)];
  }
  return histogram;
}

double total_variation(const LabelHistogram& a, const LabelHistogram& b) {
  check(a.counts.size() == b.counts.size(), "total_variation: the histograms have ", a.counts.size(), " and ",
        b.counts.size(), " classes");
  double sum = 0;
  for (size_t k = 0; k < a.counts.size(); ++k)
    sum += std::abs(double(a.counts[k]) / double(a.total) - double(b.counts[k]) / double(b.total));
  return sum / 2;
}

}  // namespace mote::metrics
