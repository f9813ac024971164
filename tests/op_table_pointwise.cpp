// The rows of autograd/ops_pointwise.cpp.
#include <cmath>

#include "tests/op_table.h"

namespace mote::test {
namespace {

using Table = std::vector<Row>;
using Scalar = double (*)(double);
using Scalar2 = double (*)(double, double);

// ---- One tensor ----------------------------------------------------------------------------------------------------

void add_unary(Table& table, const std::string& op, Tensor (*fn)(const Tensor&), const Draw& draw, Scalar formula) {
  Run run = [fn](In x, In) { return fn(x[0]); };
  Reference reference = [formula](const Arrays& x, const Arrays&) {
    Array y(x[0].shape());
    each_index(y.shape(), [&](const Index& i) { y.at(i) = formula(x[0].at(i)); });
    return y;
  };
  table.push_back(Row{op, "", {{3, 5, 7}}, run, reference}.drawn(draw).with_large({{37, 4099}}));
  table.push_back(Row{op, "scalar", {{}}, run, reference}.drawn(draw));
  table.push_back(Row{op, "empty", {{0, 3}}, run, reference}.drawn(draw));
}

void add_unary_rows(Table& table) {
  Draw any = draw_normal, positive = draw_positive, nonzero = draw_away_from({0});
  add_unary(table, "affine", [](const Tensor& x) { return affine(x, -1.75, 0.5); }, any,
            [](double x) { return -1.75 * x + 0.5; });
  add_unary(table, "neg", neg, any, [](double x) { return -x; });
  add_unary(table, "exp", exp, any, [](double x) { return std::exp(x); });
  add_unary(table, "log", log, positive, [](double x) { return std::log(x); });
  add_unary(table, "sqrt", sqrt, positive, [](double x) { return std::sqrt(x); });
  add_unary(table, "square", square, any, [](double x) { return x * x; });
  add_unary(table, "reciprocal", reciprocal, positive, [](double x) { return 1 / x; });
  add_unary(table, "abs", abs, nonzero, [](double x) { return std::abs(x); });
  add_unary(table, "sin", sin, any, [](double x) { return std::sin(x); });
  add_unary(table, "cos", cos, any, [](double x) { return std::cos(x); });
  add_unary(table, "sigmoid", sigmoid, any, [](double x) { return 1 / (1 + std::exp(-x)); });
  add_unary(table, "silu", silu, any, [](double x) { return x / (1 + std::exp(-x)); });
  add_unary(table, "gelu", gelu, any, [](double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); });
  add_unary(table, "tanh", tanh, any, [](double x) { return std::tanh(x); });
  add_unary(table, "relu", relu, nonzero, [](double x) { return larger(x, 0); });
  add_unary(table, "softplus", softplus, any, [](double x) { return std::log(1 + std::exp(x)); });
  add_unary(table, "clamp", [](const Tensor& x) { return clamp(x, -0.5, 0.75); }, draw_away_from({-0.5, 0.75}),
            [](double x) { return std::isnan(x) ? x : x < -0.5 ? -0.5 : x > 0.75 ? 0.75 : x; });
  add_unary(table, "pow", [](const Tensor& x) { return pow(x, 2.5); }, positive,
            [](double x) { return std::pow(x, 2.5); });
  add_unary(table, "pow", [](const Tensor& x) { return pow(x, 3); }, any, [](double x) { return x * x * x; });
  table.back().variant = "empty, whole exponent";
  (table.end() - 2)->variant = "scalar, whole exponent";
  (table.end() - 3)->variant = "whole exponent of a negative base";
  add_unary(table, "cast", [](const Tensor& x) { return cast(x, DType::f64); }, any, [](double x) { return x; });
}

// ---- Two tensors ---------------------------------------------------------------------------------------------------

void add_binary(Table& table, const std::string& op, Tensor (*fn)(const Tensor&, const Tensor&), const Draw& draw,
                Scalar2 formula) {
  auto add = [&](const std::string& variant, const Shape& a, const Shape& b) -> Row& {
    Run run = [fn](In x, In) { return fn(x[0], x[1]); };
    Reference reference = [formula](const Arrays& x, const Arrays&) {
      Array y(broadcast_shape("reference", x[0].shape(), x[1].shape()));
      each_index(y.shape(), [&](const Index& i) { y.at(i) = formula(stretched(x[0], i), stretched(x[1], i)); });
      return y;
    };
    table.push_back(Row{op, variant, {a, b}, run, reference}.drawn(draw));
    return table.back();
  };
  add("same shapes", {3, 5, 7}, {3, 5, 7}).with_large({{37, 4099}, {37, 4099}});
  add("a row", {5, 7}, {7}).with_large({{331, 511}, {511}});
  add("column and row", {5, 1}, {7}).with_large({{331, 1}, {511}});
  add("a scalar first", {}, {4, 3});
  add("middle axes", {2, 1, 5, 1}, {3, 1, 7}).with_large({{7, 1, 45, 1}, {19, 1, 33}});
  add("one an image and channel", {2, 3, 5, 7}, {2, 1, 1, 7}).with_large({{3, 41, 37, 33}, {3, 1, 1, 33}});
  add("a leading axis of one", {1, 3}, {4, 3});
  add("one element", {1}, {1, 1});
  add("empty", {0, 3}, {3});
  add("an empty axis against a stretched one", {4, 0}, {4, 1});
}

void add_binary_rows(Table& table) {
  Draw any = draw_normal;
  Draw divisor = [](const Shape& shape, size_t which, Generator& generator) {
    return which == 0 ? draw_normal(shape, 0, generator) : draw_positive(shape, 1, generator);
  };
  Draw logits_and_targets = [](const Shape& shape, size_t which, Generator& generator) {
    return which == 0 ? normal(shape, DType::f64, generator) : uniform(shape, DType::f64, generator);
  };
  add_binary(table, "add", add, any, [](double a, double b) { return a + b; });
  add_binary(table, "sub", sub, any, [](double a, double b) { return a - b; });
  add_binary(table, "mul", mul, any, [](double a, double b) { return a * b; });
  add_binary(table, "div", div, divisor, [](double a, double b) { return a / b; });
  add_binary(table, "maximum", maximum, any, larger);
  add_binary(table, "minimum", minimum, any, [](double a, double b) { return -larger(-a, -b); });
  add_binary(table, "bce_with_logits", bce_with_logits, logits_and_targets, [](double x, double t) {
    double p = 1 / (1 + std::exp(-x));
    return -(t * std::log(p) + (1 - t) * std::log(1 - p));
  });
  // With one argument a constant, mul and div keep less and take another way back.
  auto constant = [&](const std::string& op, const std::string& variant, const Shape& x, const Shape& factor, Run run,
                      Scalar2 formula) {
    Reference reference = [formula](const Arrays& x, const Arrays& fixed) {
      Array y(broadcast_shape("reference", x[0].shape(), fixed[0].shape()));
      each_index(y.shape(), [&](const Index& i) { y.at(i) = formula(stretched(x[0], i), stretched(fixed[0], i)); });
      return y;
    };
    // Powers of two, so that the constant is the same number in every dtype.
    table.push_back(Row{op, variant, {x}, run, reference}.with_fixed([factor](auto&, Generator& generator) {
      std::vector<double> values = randint(-3, 4, factor, generator).to_vector();
      for (double& value : values) value = std::exp2(value);
      return std::vector<Tensor>{from(values, factor, DType::f64)};
    }));
  };
  auto product = [](double a, double b) { return a * b; };
  constant("mul", "by a constant row", {4, 3}, {3}, [](In x, In c) { return mul(x[0], c[0].to(x[0].dtype())); }, product);
  constant("mul", "a constant column by", {3}, {4, 1}, [](In x, In c) { return mul(c[0].to(x[0].dtype()), x[0]); },
           product);
  constant("div", "by a constant row", {1, 3}, {4, 3}, [](In x, In c) { return div(x[0], c[0].to(x[0].dtype())); },
           [](double a, double b) { return a / b; });
  constant("div", "a constant by", {4, 3}, {3}, [](In x, In c) { return div(c[0].to(x[0].dtype()), x[0]); },
           [](double a, double b) { return b / a; });
  table.back().draw = draw_positive;
}

// ---- Others --------------------------------------------------------------------------------------------------------

void add_combine_rows(Table& table) {
  auto add = [&](const std::string& variant, const Shape& shape) -> Row& {
    Run run = [](In x, In fixed) { return combine_rows(x[0], x[1], fixed[0], fixed[1]); };
    Reference reference = [](const Arrays& x, const Arrays& fixed) {
      Array y(x[0].shape());
      each_index(y.shape(), [&](const Index& i) {
        y.at(i) = fixed[0](i[0]) * x[0].at(i) + fixed[1](i[0]) * x[1].at(i);
      });
      return y;
    };
    table.push_back(Row{"combine_rows", variant, {shape, shape}, run, reference}.with_fixed(
        [](const std::vector<Shape>& shapes, Generator& generator) {
          Tensor a = normal({shapes[0][0]}, DType::f64, generator);
          return std::vector<Tensor>{a, normal({shapes[0][0]}, DType::f64, generator)};
        }));
    return table.back();
  };
  add("", {3, 5, 4, 3}).with_large({{9, 64, 65, 5}, {9, 64, 65, 5}});
  add("one number a row", {5}).with_large({{150001}, {150001}});
  add("one element", {1});
  add("no rows", {0, 3});
  add("empty rows", {3, 0});
}

void add_dropout(Table& table) {
  constexpr double p = 0.3;
  constexpr Generator start{77, 12};
  auto add = [&](const std::string& variant, const Shape& shape) -> Row& {
    Run run = [=](In x, In) {
      Generator generator = start;
      return dropout(x[0], p, generator);
    };
    Reference reference = [=](const Arrays& x, const Arrays&) {
      Generator generator = start;
      Array draw(uniform(x[0].shape(), DType::f32, generator)), y(x[0].shape());
      each_index(y.shape(), [&](const Index& i) { y.at(i) = draw.at(i) >= p ? x[0].at(i) / (1 - p) : 0; });
      return y;
    };
    table.push_back(Row{"dropout", variant, {shape}, run, reference});
    return table.back();
  };
  add("", {7, 5, 3}).with_large({{37, 4099}});
  add("one element", {1, 1});
  add("empty", {0, 3});
  table.push_back({"dropout", "p = 0", {{3, 2}},
                   [=](In x, In) {
                     Generator generator = start;
                     return dropout(x[0], 0, generator);
                   },
                   [](const Arrays& x, const Arrays&) { return x[0]; }});
}

}  // namespace

void add_pointwise_rows(std::vector<Row>& table) {
  add_unary_rows(table);
  add_binary_rows(table);
  add_combine_rows(table);
  add_dropout(table);
}

}  // namespace mote::test
