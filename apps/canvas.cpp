#include "apps/canvas.h"

#include <algorithm>
#include <cmath>

namespace mote::apps {

Colour hue(int64_t index, int64_t count, bool light) {
  double turn = 6 * double(index % count) / double(count);
  auto channel = [&](double shift) {  // a trapezoid around the circle of hues
    double place = std::fmod(turn + shift, 6.0);
    double value = std::clamp(std::abs(place - 3) - 1, 0.0, 1.0);
    return uint8_t(std::lround(light ? 175 + 65 * value : 25 + 180 * value));
  };
  return {channel(0), channel(4), channel(2)};
}

Canvas::Canvas(int64_t size, double low, double high) : size_(size), low_(low), high_(high) {
  pixels_ = empty({size, size, 3}, DType::u8);
  std::fill_n(pixels_.data<uint8_t>(), pixels_.numel(), uint8_t(255));
}

void Canvas::set(int64_t pixel, Colour colour) {
  uint8_t* at = pixels_.data<uint8_t>() + 3 * pixel;
  at[0] = colour.red;
  at[1] = colour.green;
  at[2] = colour.blue;
}

Tensor Canvas::middles() const {
  Tensor points = empty({size_ * size_, 2});
  double step = (high_ - low_) / double(size_);
  for (int64_t pixel = 0; pixel < size_ * size_; ++pixel) {
    points.data<float>()[2 * pixel] = float(low_ + (double(pixel % size_) + 0.5) * step);
    points.data<float>()[2 * pixel + 1] = float(high_ - (double(pixel / size_) + 0.5) * step);
  }
  return points;
}

void Canvas::dot(double x, double y, Colour colour, double radius) {
  double scale = double(size_) / (high_ - low_), column = (x - low_) * scale, row = (high_ - y) * scale;
  if (!(std::abs(column) < 1e6 && std::abs(row) < 1e6)) return;  // far outside, or not finite
  for (auto r = int64_t(std::floor(row - radius)); double(r) <= row + radius; ++r)
    for (auto c = int64_t(std::floor(column - radius)); double(c) <= column + radius; ++c) {
      double dr = double(r) + 0.5 - row, dc = double(c) + 0.5 - column;
      if (r >= 0 && r < size_ && c >= 0 && c < size_ && dr * dr + dc * dc <= radius * radius)
        set(r * size_ + c, colour);
    }
}

void Canvas::line(double x0, double y0, double x1, double y1, Colour colour) {
  double length = std::hypot(x1 - x0, y1 - y0) * double(size_) / (high_ - low_);
  auto steps = std::max<int64_t>(1, std::min<int64_t>(int64_t(std::ceil(length)), 8 * size_));
  for (int64_t step = 0; step <= steps; ++step) {
    double part = double(step) / double(steps);
    dot(x0 + part * (x1 - x0), y0 + part * (y1 - y0), colour, 0.71);
  }
}

}  // namespace mote::apps
