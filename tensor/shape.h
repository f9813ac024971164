// shape.h - the sizes of a tensor's axes. Dense and row-major: strides follow from the sizes and are never stored.
#pragma once
#include <array>
#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <string>
#include <vector>

namespace mote {

inline constexpr int kMaxAxes = 6;

class Shape {
 public:
  Shape() = default;                                  // a scalar: no axes, one element
  Shape(std::initializer_list<int64_t> sizes);        // throws Error on a negative size or more than kMaxAxes axes
  explicit Shape(const std::vector<int64_t>& sizes);

  int ndim() const { return ndim_; }
  int64_t operator[](int axis) const { return sizes_[axis]; }
  /// Size of `axis`, which may count from the end (-1 is the last). Throws outside -ndim..ndim-1.
  int64_t at(int axis) const;
  /// Product of the sizes; 1 for a scalar. Cannot overflow: the constructor has checked it.
  int64_t numel() const;
  /// Elements between neighbours along `axis`.
  int64_t stride(int axis) const;
  /// A copy with `axis` set to `size`, removed, or put in before position `axis`.
  Shape with(int axis, int64_t size) const;
  Shape without(int axis) const;
  Shape inserted(int axis, int64_t size) const;
  const int64_t* begin() const { return sizes_.data(); }
  const int64_t* end() const { return sizes_.data() + ndim_; }
  std::vector<int64_t> to_vector() const { return {begin(), end()}; }
  bool operator==(const Shape& other) const;

 private:
  void validate() const;
  std::array<int64_t, kMaxAxes> sizes_{};
  int ndim_ = 0;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape);   // [2, 3]

/// Position of `axis` counted from the front; negative values count from the end. Throws Error naming `op`.
int normalize_axis(const char* op, int axis, int ndim);

/// The common shape of a and b: axes are aligned at the end, a size of 1 stretches. Throws Error naming `op`.
Shape broadcast_shape(const char* op, const Shape& a, const Shape& b);

}  // namespace mote
