#include "diffusion/ot/toys.h"

#include <cmath>
#include <numbers>

namespace mote::ot {

using std::numbers::pi;

const std::vector<std::string>& toy_names() {
  static const std::vector<std::string> names = {"8-gaussians", "25-gaussians", "swiss-roll"};
  return names;
}

Mixture toy_named(const std::string& name) {
  Mixture toy;
  double std = 0.02;
  if (name == "8-gaussians") {
    std = 0.03;
    for (int k = 0; k < 8; ++k) toy.means.push_back({0.8 * std::cos(k * pi / 4), 0.8 * std::sin(k * pi / 4)});
  } else if (name == "25-gaussians") {
    for (int row = -2; row <= 2; ++row)
      for (int column = -2; column <= 2; ++column) toy.means.push_back({0.4 * column, 0.4 * row});
  } else if (name == "swiss-roll") {
    constexpr int kCentres = 120;
    // The arc length of r = c s, angle w s is nearly proportional to s^2 where w s > 1, so s^2 goes in even steps.
    for (int k = 0; k < kCentres; ++k) {
      double s = std::sqrt(0.0625 + (1 - 0.0625) * k / (kCentres - 1));
      toy.means.push_back({0.85 * s * std::cos(3.5 * pi * s), 0.85 * s * std::sin(3.5 * pi * s)});
    }
  } else {
    std::string list;
    for (const std::string& known : toy_names()) list += (list.empty() ? "" : ", ") + known;
    fail(Error::Kind::usage, "toy '", name, "' is unknown: choose one of ", list);
  }
  toy.weights.assign(toy.means.size(), 1);
  toy.stds.assign(toy.means.size(), std);
  return toy;
}

Tensor draw_mixture(const Mixture& data, int64_t N, uint64_t seed) {
  check(!data.means.empty() && data.means.size() == data.weights.size() && data.means.size() == data.stds.size(),
        "draw_mixture: needs as many weights and stds as means");
  int64_t K = int64_t(data.means.size()), D = int64_t(data.means[0].size());
  double total = 0;
  for (double weight : data.weights) total += weight;
  Tensor points = image_noise({N, D}, DType::f32, Generator{seed}, 0);
  Tensor where = image_noise({N, 1}, DType::f64, Generator{seed}.fork(1), 0);
  for (int64_t i = 0; i < N; ++i) {
    double below = total * std::erfc(-where.data<double>()[i] / std::numbers::sqrt2) / 2;  // uniform
    int64_t k = 0;
    while (k + 1 < K && below >= data.weights[size_t(k)]) below -= data.weights[size_t(k++)];
    for (int64_t d = 0; d < D; ++d) {
      float& value = points.data<float>()[i * D + d];
      value = float(data.means[size_t(k)][size_t(d)] + data.stds[size_t(k)] * double(value));
    }
  }
  return points;
}

Modes modes_of(const Mixture& data, const Tensor& x, double limit) {
  check(x.defined() && x.ndim() == 2 && !data.means.empty() && x.size(1) == int64_t(data.means[0].size()),
        "modes_of: needs points [N, D] of the mixture's width, got ", describe(x));
  std::vector<double> values = x.to_vector();
  Modes modes;
  for (int64_t i = 0; i < x.size(0); ++i) {
    double least = INFINITY;
    int64_t nearest = 0;
    for (size_t k = 0; k < data.means.size(); ++k) {
      double square = 0;
      for (int64_t d = 0; d < x.size(1); ++d) {
        double offset = (values[size_t(i * x.size(1) + d)] - data.means[k][size_t(d)]) / data.stds[k];
        square += offset * offset;
      }
      if (square < least) {
        least = square;
        nearest = int64_t(k);
      }
    }
    modes.nearest.push_back(nearest);
    modes.is_mixed.push_back(least > limit * limit);
    modes.mixed += modes.is_mixed.back();
  }
  return modes;
}

}  // namespace mote::ot
