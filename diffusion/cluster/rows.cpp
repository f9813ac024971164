#include "diffusion/cluster/rows.h"

#include <vector>

namespace mote::cluster {
namespace {

template <class T>
Tensor means_of(const Tensor& x, const Tensor& weight) {
  int64_t width = x.size(1);
  Chunks chunks(x.size(0));
  std::vector<double> sums(size_t(chunks.number() * (width + 1)), 0.0);   // of the columns, and of the weights
  chunks.each_block([&](int64_t chunk, int64_t begin, int64_t end) {
    double* sum = sums.data() + chunk * (width + 1);
    for (int64_t row = begin; row < end; ++row) {
      const T* from = x.data<T>() + row * width;
      double w = weight.defined() ? weight.data<double>()[row] : 1;
      for (int64_t d = 0; d < width; ++d) sum[d] += w * double(from[d]);
      sum[width] += w;
    }
  });
  for (int64_t chunk = 1; chunk < chunks.number(); ++chunk)
    for (int64_t d = 0; d <= width; ++d) sums[size_t(d)] += sums[size_t(chunk * (width + 1) + d)];
  Tensor means = empty({width}, DType::f64);
  for (int64_t d = 0; d < width; ++d) means.data<double>()[d] = sums[size_t(d)] / sums[size_t(width)];
  return means;
}

}  // namespace

Tensor column_means(const Tensor& x, const Tensor& weight) {
  return x.dtype() == DType::f32 ? means_of<float>(x, weight) : means_of<double>(x, weight);
}

}  // namespace mote::cluster
