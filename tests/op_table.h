// op_table.h - one row an op and variant: how to run it, inputs, and a plain reference in f64. The generic checks of
// test_ops.cpp run for every row; a new op gets them all by adding its rows to op_table.cpp.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "autograd/gradcheck.h"
#include "autograd/ops.h"

namespace mote::test {

/// A tensor for references: f64, read and written by index. Every index is checked.
class Array {
 public:
  explicit Array(const Shape& shape, double value = 0) : shape_(shape), values_(size_t(shape.numel()), value) {}
  explicit Array(const Tensor& tensor) : shape_(tensor.shape()), values_(tensor.to_vector()) {}

  const Shape& shape() const { return shape_; }
  int64_t size(int axis) const { return shape_.at(axis); }
  template <class... Index>
  double& operator()(Index... index) {
    return at({int64_t(index)...});
  }
  template <class... Index>
  double operator()(Index... index) const {
    return const_cast<Array&>(*this).at({int64_t(index)...});
  }
  double& at(const std::vector<int64_t>& index) {
    check(int(index.size()) == shape_.ndim(), "Array: ", index.size(), " indices for ", shape_);
    int64_t position = 0;
    for (int axis = 0; axis < shape_.ndim(); ++axis) {
      check(index[axis] >= 0 && index[axis] < shape_[axis], "Array: index ", index[axis], " outside ", shape_);
      position = position * shape_[axis] + index[axis];
    }
    return values_[position];
  }
  double at(const std::vector<int64_t>& index) const { return const_cast<Array&>(*this).at(index); }
  const std::vector<double>& values() const { return values_; }
  Tensor tensor() const { return from(values_, shape_, DType::f64); }

 private:
  Shape shape_;
  std::vector<double> values_;
};
using Arrays = std::vector<Array>;

using Run = std::function<Tensor(In x, In fixed)>;
using Reference = std::function<Array(const Arrays& x, const Arrays& fixed)>;
/// Values of input number `which`, in f64.
using Draw = std::function<Tensor(const Shape& shape, size_t which, Generator& generator)>;
/// What is not differentiated (ids, factors), from the shapes of the inputs.
using Fixed = std::function<std::vector<Tensor>(const std::vector<Shape>& shapes, Generator& generator)>;

struct Row {
  std::string op;                // as in autograd/ops.h
  std::string variant;
  std::vector<Shape> shapes;     // of the floating inputs
  Run run;
  Reference reference;
  std::vector<Shape> large = {};   // so large that kernels use all threads and fast paths; compared with f64
  Draw draw = {};                  // normal by default
  Fixed fixed = {};
  std::string no_gradient = {};    // why there is none
  std::string any_dtype = {};      // why integers are not refused
  double f32_tolerance = 1e-5;     // of the largest |reference|; f32 sums of a few hundred terms stay within it
  double bf16_tolerance = 1.0 / 256;   // of each value, and of the largest: the output is rounded once, by 2^-9
  double bf16_gradient_tolerance = 1.0 / 64;   // of the largest: dy, what was kept and dx are rounded
  // A NaN may reach more outputs than the reference says: whether padding times a NaN weight is NaN is left open.
  bool nan_spreads = false;

  Row& with_large(std::vector<Shape> shapes) { large = std::move(shapes); return *this; }
  Row& drawn(Draw how) { draw = std::move(how); return *this; }
  Row& with_fixed(Fixed how) { fixed = std::move(how); return *this; }
  Row& without_gradient(std::string why) { no_gradient = std::move(why); return *this; }
  Row& of_any_dtype(std::string why) { any_dtype = std::move(why); return *this; }

  std::string name() const { return variant.empty() ? op : op + " (" + variant + ")"; }
  bool is_empty() const;        // some input has no elements
  bool is_one_element() const;  // every input has at most one
  uint64_t seed() const;        // from the name, so that a new row changes no other
  std::vector<Tensor> make_inputs(const std::vector<Shape>& shapes) const;   // f64
  std::vector<Tensor> make_fixed(const std::vector<Shape>& shapes) const;
};

const std::vector<Row>& op_table();

// The parts of the table, one a file op_table_*.cpp, named after autograd/ops_*.cpp.
void add_pointwise_rows(std::vector<Row>& table);
void add_shape_rows(std::vector<Row>& table);
void add_matrix_rows(std::vector<Row>& table);
void add_nn_rows(std::vector<Row>& table);

// ---- Draws ---------------------------------------------------------------------------------------------------------

Tensor draw_normal(const Shape& shape, size_t which, Generator& generator);
/// |z| + 0.3.
Tensor draw_positive(const Shape& shape, size_t which, Generator& generator);
/// Normal, but at least 0.1 away from each of `kinks`: differences across one would say nothing about the derivative.
Draw draw_away_from(std::vector<double> kinks);
/// i64 ids in 0..count-1.
Tensor draw_ids(const Shape& shape, int64_t count, Generator& generator);

// ---- For references ------------------------------------------------------------------------------------------------

using Index = std::vector<int64_t>;

/// Calls fn(index) for every index of `shape`, the last axis fastest.
void each_index(const Shape& shape, const std::function<void(const Index&)>& fn);
/// a at `index` of a tensor that it is stretched to.
double stretched(const Array& a, const Index& index);
/// The larger one, NaN if either is.
double larger(double a, double b);

/// A call outside an op's contract, which must throw an Error that starts with the op's name.
struct BadCall {
  std::string op;
  std::string what;
  std::function<void()> call;
  std::string message = {};   // a part of the message, where it is worth fixing
};
const std::vector<BadCall>& bad_calls();

}  // namespace mote::test
