#include "tensor/shape.h"

#include <algorithm>

#include "tensor/error.h"

namespace mote {

Shape::Shape(std::initializer_list<int64_t> sizes) {
  check(sizes.size() <= size_t(kMaxAxes), "Shape: at most ", kMaxAxes, " axes, got ", sizes.size());
  for (int64_t size : sizes) sizes_[ndim_++] = size;
  validate();
}

Shape::Shape(const std::vector<int64_t>& sizes) {
  check(sizes.size() <= size_t(kMaxAxes), "Shape: at most ", kMaxAxes, " axes, got ", sizes.size());
  for (int64_t size : sizes) sizes_[ndim_++] = size;
  validate();
}

void Shape::validate() const {
  // Zero sizes are skipped so that [0, 2^62, 2^62], whose strides overflow, is refused too.
  int64_t product = 1;
  for (int64_t size : *this) {
    check(size >= 0, "Shape: sizes cannot be negative: ", *this);
    if (size > 0)
      check(!__builtin_mul_overflow(product, size, &product) && product <= (int64_t(1) << 58),
            "Shape: too many elements: ", *this);
  }
}

int64_t Shape::at(int axis) const { return sizes_[normalize_axis("Shape::at", axis, ndim_)]; }

int64_t Shape::numel() const {
  int64_t product = 1;
  for (int64_t size : *this) product *= size;
  return product;
}

int64_t Shape::stride(int axis) const {
  int64_t product = 1;
  for (int after = axis + 1; after < ndim_; ++after) product *= sizes_[after];
  return product;
}

Shape Shape::with(int axis, int64_t size) const {
  std::vector<int64_t> sizes = to_vector();
  sizes[normalize_axis("Shape::with", axis, ndim_)] = size;
  return Shape(sizes);
}

Shape Shape::without(int axis) const {
  std::vector<int64_t> sizes = to_vector();
  sizes.erase(sizes.begin() + normalize_axis("Shape::without", axis, ndim_));
  return Shape(sizes);
}

Shape Shape::inserted(int axis, int64_t size) const {
  std::vector<int64_t> sizes = to_vector();
  sizes.insert(sizes.begin() + normalize_axis("Shape::inserted", axis, ndim_ + 1), size);
  return Shape(sizes);
}

bool Shape::operator==(const Shape& other) const { return std::equal(begin(), end(), other.begin(), other.end()); }

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  out << '[';
  for (int axis = 0; axis < shape.ndim(); ++axis) out << (axis ? ", " : "") << shape[axis];
  return out << ']';
}

int normalize_axis(const char* op, int axis, int ndim) {
  check(axis >= -ndim && axis < ndim, op, ": axis ", axis, " is outside a tensor of ", ndim, " axes");
  return axis < 0 ? axis + ndim : axis;
}

Shape broadcast_shape(const char* op, const Shape& a, const Shape& b) {
  int ndim = std::max(a.ndim(), b.ndim());
  std::vector<int64_t> sizes(ndim);
  for (int back = 1; back <= ndim; ++back) {
    int64_t size_a = back <= a.ndim() ? a[a.ndim() - back] : 1;
    int64_t size_b = back <= b.ndim() ? b[b.ndim() - back] : 1;
    check(size_a == size_b || size_a == 1 || size_b == 1, op, ": shapes do not broadcast: ", a, " and ", b,
          " differ on axis ", -back, " (", size_a, " and ", size_b, ")");
    sizes[ndim - back] = size_a == 1 ? size_b : size_a;
  }
  return Shape(sizes);
}

}  // namespace mote
