// The scores of segmentation.h that measure distances between boundaries.
#include <algorithm>
#include <cmath>
#include <limits>

#include "diffusion/metrics/bootstrap.h"
#include "diffusion/metrics/segmentation.h"
#include "tensor/error.h"

namespace mote::metrics {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

void require_mask(const char* op, const Tensor& mask) {
  check(mask.defined() && mask.dtype() == DType::u8 && mask.ndim() == 2 && mask.numel() > 0 && !mask.is_cuda(), op,
        ": needs a mask u8 [H, W] on the CPU, got ", describe(mask));
}

void require_two(const char* op, const Tensor& a, const Tensor& b) {
  require_mask(op, a);
  require_mask(op, b);
  check(a.shape() == b.shape(), op, ": the masks differ in shape: ", describe(a), " and ", describe(b));
}

int64_t area(const Tensor& mask) {
  const uint8_t* m = mask.data<uint8_t>();
  return std::count_if(m, m + mask.numel(), [](uint8_t v) { return v != 0; });
}

/// to[q] = min over p of (q - p)^2 + from[p]: the lower envelope of parabolas. Infinite ones take no part.
void envelope(const std::vector<double>& from, std::vector<double>& to) {
  std::vector<int64_t> apex;
  std::vector<double> begin;   // parabola k is the lowest from begin[k] on
  auto n = int64_t(from.size());
  for (int64_t q = 0; q < n; ++q) {
    double height = from[size_t(q)];
    if (height == kInfinity) continue;
    double meets = -kInfinity;
    while (!apex.empty()) {
      int64_t p = apex.back();
      meets = (height + double(q * q) - from[size_t(p)] - double(p * p)) / double(2 * (q - p));
      if (meets > begin.back()) break;
      apex.pop_back();
      begin.pop_back();
    }
    begin.push_back(apex.empty() ? -kInfinity : meets);
    apex.push_back(q);
  }
  size_t k = 0;
  for (int64_t q = 0; q < n; ++q) {
    while (k + 1 < apex.size() && begin[k + 1] < double(q)) ++k;
    to[size_t(q)] = apex.empty() ? kInfinity : double((q - apex[k]) * (q - apex[k])) + from[size_t(apex[k])];
  }
}

/// For pixels of `of` (nonzero), the squared distances to the nearest pixel of `to`.
std::vector<double> distances_between(const Tensor& of, const Tensor& to) {
  Tensor distance = squared_distances(to);
  std::vector<double> values;
  for (int64_t i = 0; i < of.numel(); ++i)
    if (of.data<uint8_t>()[i] != 0) values.push_back(distance.data<double>()[i]);
  return values;
}

}  // namespace

Tensor squared_distances(const Tensor& mask) {
  require_mask("squared_distances", mask);
  int64_t H = mask.size(0), W = mask.size(1);
  Tensor result = empty(mask.shape(), DType::f64);
  double* distance = result.data<double>();
  for (int64_t i = 0; i < mask.numel(); ++i) distance[i] = mask.data<uint8_t>()[i] != 0 ? 0 : kInfinity;
  auto along = [&](int64_t lines, int64_t line_step, int64_t length, int64_t step) {
    std::vector<double> from(static_cast<size_t>(length)), to(from);
    for (int64_t line = 0; line < lines; ++line) {
      double* first = distance + line * line_step;
      for (int64_t i = 0; i < length; ++i) from[size_t(i)] = first[i * step];
      envelope(from, to);
      for (int64_t i = 0; i < length; ++i) first[i * step] = to[size_t(i)];
    }
  };
  along(W, 1, H, W);
  along(H, W, W, 1);
  return result;
}

Tensor boundary(const Tensor& mask) {
  require_mask("boundary", mask);
  int64_t H = mask.size(0), W = mask.size(1);
  const uint8_t* m = mask.data<uint8_t>();
  Tensor edge = zeros(mask.shape(), DType::u8);
  auto inside = [&](int64_t y, int64_t x) { return y >= 0 && y < H && x >= 0 && x < W && m[y * W + x] != 0; };
  for (int64_t y = 0; y < H; ++y)
    for (int64_t x = 0; x < W; ++x)
      edge.data<uint8_t>()[y * W + x] = inside(y, x) && !(inside(y - 1, x) && inside(y + 1, x) && inside(y, x - 1) &&
                                                          inside(y, x + 1));
  return edge;
}

double boundary_f(const Tensor& predicted, const Tensor& truth, int radii) {
  require_two("boundary_f", predicted, truth);
  check(radii >= 1, "boundary_f: needs a radius of 1 or more, got ", radii);
  Tensor a = boundary(predicted), b = boundary(truth);
  std::vector<double> of_a = distances_between(a, b), of_b = distances_between(b, a);
  if (of_a.empty() || of_b.empty()) return of_a.empty() && of_b.empty() ? 1 : 0;
  double sum = 0;
  for (int radius = 1; radius <= radii; ++radius) {
    auto share = [&](const std::vector<double>& squared) {
      auto near = std::count_if(squared.begin(), squared.end(), [&](double d) { return d <= radius * radius; });
      return double(near) / double(squared.size());
    };
    double precision = share(of_a), recall = share(of_b);
    if (precision + recall > 0) sum += 2 * precision * recall / (precision + recall);
  }
  return sum / radii;
}

double hd95(const Tensor& predicted, const Tensor& truth) {
  require_two("hd95", predicted, truth);
  Tensor a = boundary(predicted), b = boundary(truth);
  std::vector<double> of_a = distances_between(a, b), of_b = distances_between(b, a);
  if (of_a.empty() && of_b.empty()) return 0;
  if (of_a.empty() || of_b.empty()) return std::numeric_limits<double>::quiet_NaN();
  double largest = 0;
  for (std::vector<double>* directed : {&of_a, &of_b}) {
    for (double& value : *directed) value = std::sqrt(value);
    largest = std::max(largest, linear_quantile(*directed, 0.95));
  }
  return largest;
}

double area_ratio(const Tensor& predicted, const Tensor& truth) {
  require_two("area_ratio", predicted, truth);
  int64_t a = area(predicted), b = area(truth);
  return std::max(a, b) == 0 ? 1 : double(std::min(a, b)) / double(std::max(a, b));
}

}  // namespace mote::metrics
