// canvas.h - small pictures of the plane: points, lines and coloured areas over a square window.
#pragma once
#include <cstdint>
#include <string>

#include "tensor/tensor.h"

namespace mote::apps {

struct Colour {
  uint8_t red, green, blue;
};
/// Hues that go once around in `count` steps; `light` is paler, for areas under points.
Colour hue(int64_t index, int64_t count, bool light = false);

class Canvas {
 public:
  /// size x size pixels, white, of the window [low, high]^2 with the second axis upwards.
  Canvas(int64_t size, double low, double high);
  /// A disc of `radius` pixels; what lies outside the window is left out.
  void dot(double x, double y, Colour colour, double radius = 2);
  void line(double x0, double y0, double x1, double y1, Colour colour);
  /// Middles of the pixels, f32 [size * size, 2], row by row from the top: for colours that are computed all at once.
  Tensor middles() const;
  void set(int64_t pixel, Colour colour);
  const Tensor& picture() const { return pixels_; }  // u8 [size, size, 3]

 private:
  int64_t size_;
  double low_, high_;
  Tensor pixels_;
};

}  // namespace mote::apps
