#include "tests/op_table.h"

#include <cmath>

namespace mote::test {

const std::vector<Row>& op_table() {
  static const std::vector<Row> table = [] {
    std::vector<Row> rows;
    add_pointwise_rows(rows);
    add_shape_rows(rows);
    add_matrix_rows(rows);
    add_nn_rows(rows);
    return rows;
  }();
  return table;
}

bool Row::is_empty() const {
  for (const Shape& shape : shapes)
    if (shape.numel() == 0) return true;
  for (const Tensor& tensor : make_fixed(shapes))
    if (tensor.numel() == 0) return true;
  return false;
}

bool Row::is_one_element() const {
  for (const Shape& shape : shapes)
    if (shape.numel() != 1) return false;
  for (const Tensor& tensor : make_fixed(shapes))
    if (tensor.numel() != 1) return false;
  return true;
}

uint64_t Row::seed() const {
  uint64_t hash = 14695981039346656037ull;   // FNV-1a
  for (char letter : name()) hash = (hash ^ uint8_t(letter)) * 1099511628211ull;
  return hash;
}

std::vector<Tensor> Row::make_inputs(const std::vector<Shape>& shapes) const {
  Generator generator{seed()};
  std::vector<Tensor> inputs;
  for (size_t which = 0; which < shapes.size(); ++which)
    inputs.push_back(draw ? draw(shapes[which], which, generator) : draw_normal(shapes[which], which, generator));
  return inputs;
}

std::vector<Tensor> Row::make_fixed(const std::vector<Shape>& shapes) const {
  Generator generator = Generator{seed()}.fork(1);
  return fixed ? fixed(shapes, generator) : std::vector<Tensor>();
}

// ---- Draws ---------------------------------------------------------------------------------------------------------

Tensor draw_normal(const Shape& shape, size_t, Generator& generator) { return normal(shape, DType::f64, generator); }

Tensor draw_positive(const Shape& shape, size_t, Generator& generator) {
  std::vector<double> values = normal(shape, DType::f64, generator).to_vector();
  for (double& value : values) value = std::abs(value) + 0.3;
  return from(values, shape, DType::f64);
}

Draw draw_away_from(std::vector<double> kinks) {
  return [kinks](const Shape& shape, size_t, Generator& generator) {
    std::vector<double> values = normal(shape, DType::f64, generator).to_vector();
    for (double& value : values)
      for (double kink : kinks)
        if (std::abs(value - kink) < 0.1) value = kink + (value < kink ? -0.1 : 0.1);
    return from(values, shape, DType::f64);
  };
}

Tensor draw_ids(const Shape& shape, int64_t count, Generator& generator) {
  return randint(0, count, shape, generator);
}

// ---- For references ------------------------------------------------------------------------------------------------

void each_index(const Shape& shape, const std::function<void(const Index&)>& fn) {
  Index index(shape.ndim(), 0);
  for (int64_t count = shape.numel(); count > 0; --count) {
    fn(index);
    for (int axis = shape.ndim() - 1; axis >= 0; --axis) {
      if (++index[axis] < shape[axis]) break;
      index[axis] = 0;
    }
  }
}

double stretched(const Array& a, const Index& index) {
  Index own(index.end() - a.shape().ndim(), index.end());
  for (int axis = 0; axis < a.shape().ndim(); ++axis)
    if (a.size(axis) == 1) own[axis] = 0;
  return a.at(own);
}

double larger(double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return NAN;
  return a > b ? a : b;
}

}  // namespace mote::test
