#include "apps/scatter.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "tensor/error.h"

namespace mote::apps {
namespace {

constexpr int64_t kMargin = 12;     // pixels
constexpr double kRadius = 2.2;     // of a dot
// Ten hues that differ in brightness too, then the same ten darker.
constexpr std::array<std::array<uint8_t, 3>, 10> kHues = {{{31, 119, 180}, {255, 127, 14}, {44, 160, 44}, {214, 39, 40},
                                                           {148, 103, 189}, {140, 86, 75}, {227, 119, 194}, {90, 90, 90},
                                                           {188, 189, 34}, {23, 190, 207}}};

std::array<uint8_t, 3> colour_of(int64_t label) {
  std::array<uint8_t, 3> colour = kHues[size_t(label % 10 + 10) % 10];
  if ((label / 10) % 2 != 0)
    for (uint8_t& part : colour) part = uint8_t(part * 6 / 10);
  return colour;
}

}  // namespace

Tensor scatter_picture(const Tensor& points, const Tensor& labels, int64_t side) {
  check(points.defined() && points.ndim() == 2 && points.size(1) == 2 && is_floating(points.dtype()),
        "scatter_picture: points must be floating [N, 2], got ", describe(points));
  check(!labels.defined() || (labels.dtype() == DType::i64 && labels.shape() == Shape{points.size(0)}),
        "scatter_picture: labels must be i64 [N]: points are ", describe(points), ", labels ", describe(labels));
  check(side > 2 * kMargin, "scatter_picture: the side must be above ", 2 * kMargin, " pixels, got ", side);
  std::vector<double> at = points.to_vector();
  double low[2] = {INFINITY, INFINITY}, high[2] = {-INFINITY, -INFINITY};
  for (size_t i = 0; i < at.size(); ++i) {
    check(std::isfinite(at[i]), "scatter_picture: point ", i / 2, " is not finite");
    low[i % 2] = std::min(low[i % 2], at[i]);
    high[i % 2] = std::max(high[i % 2], at[i]);
  }
  double span = std::max({high[0] - low[0], high[1] - low[1], 1e-12}), scale = double(side - 2 * kMargin) / span;
  Tensor picture = full({side, side, 3}, 255, DType::u8);
  uint8_t* pixels = picture.data<uint8_t>();
  for (int64_t n = 0; n < points.size(0); ++n) {
    double x = double(side) / 2 + (at[size_t(2 * n)] - (low[0] + high[0]) / 2) * scale;
    double y = double(side) / 2 - (at[size_t(2 * n + 1)] - (low[1] + high[1]) / 2) * scale;
    std::array<uint8_t, 3> colour = colour_of(labels.defined() ? labels.data<int64_t>()[n] : 0);
    for (auto row = int64_t(y - kRadius); row <= int64_t(y + kRadius); ++row)
      for (auto column = int64_t(x - kRadius); column <= int64_t(x + kRadius); ++column)
        if (std::hypot(double(column) + 0.5 - x, double(row) + 0.5 - y) <= kRadius)
          std::copy(colour.begin(), colour.end(), pixels + (row * side + column) * 3);
  }
  return picture;
}

}  // namespace mote::apps
