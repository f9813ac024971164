// The rows of autograd/ops_matrix.cpp.
#include "tests/op_table.h"

namespace mote::test {
namespace {

// ---- matmul, linear ------------------------------------------------------------------------------------------------

Array reference_matmul(const Array& a, const Array& b, bool trans_a, bool trans_b) {
  bool batched = a.shape().ndim() == 3;
  auto entry = [batched](const Array& m, bool transposed, int64_t image, int64_t row, int64_t column) {
    if (transposed) std::swap(row, column);
    return batched ? m(image, row, column) : m(row, column);
  };
  int64_t images = batched ? a.size(0) : 1;
  int64_t rows = a.size(trans_a ? -1 : -2), inner = a.size(trans_a ? -2 : -1), columns = b.size(trans_b ? -2 : -1);
  Array y(batched ? Shape{images, rows, columns} : Shape{rows, columns});
  for (int64_t image = 0; image < images; ++image)
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t column = 0; column < columns; ++column) {
        double sum = 0;
        for (int64_t k = 0; k < inner; ++k)
          sum += entry(a, trans_a, image, row, k) * entry(b, trans_b, image, k, column);
        (batched ? y(image, row, column) : y(row, column)) = sum;
      }
  return y;
}

void add_matmul(std::vector<Row>& table) {
  auto add = [&](const std::string& variant, const Shape& a, const Shape& b, bool trans_a, bool trans_b) -> Row& {
    table.push_back({"matmul", variant, {a, b}, [=](In x, In) { return matmul(x[0], x[1], trans_a, trans_b); },
                     [=](const Arrays& x, const Arrays&) { return reference_matmul(x[0], x[1], trans_a, trans_b); }});
    return table.back();
  };
  for (bool trans_a : {false, true})
    for (bool trans_b : {false, true}) {
      std::string which = std::string(trans_a ? "a^T" : "a") + (trans_b ? " b^T" : " b");
      auto turned = [](bool transposed, int64_t rows, int64_t columns) {
        return transposed ? Shape{columns, rows} : Shape{rows, columns};
      };
      auto batch = [&](int64_t images, bool transposed, int64_t rows, int64_t columns) {
        return turned(transposed, rows, columns).inserted(0, images);
      };
      add(which, turned(trans_a, 5, 7), turned(trans_b, 7, 3), trans_a, trans_b)
          .with_large({turned(trans_a, 261, 133), turned(trans_b, 133, 197)});
      add("batched " + which, batch(3, trans_a, 5, 2), batch(3, trans_b, 2, 7), trans_a, trans_b)
          .with_large({batch(5, trans_a, 67, 65), batch(5, trans_b, 65, 97)});
      add("tall " + which, turned(trans_a, 33, 1), turned(trans_b, 1, 1), trans_a, trans_b)
          .with_large({turned(trans_a, 4099, 17), turned(trans_b, 17, 9)});
      add("a long sum " + which, turned(trans_a, 1, 65), turned(trans_b, 65, 2), trans_a, trans_b)
          .with_large({turned(trans_a, 9, 4099), turned(trans_b, 4099, 17)});
    }
  add("one element", {1, 1}, {1, 1}, false, false);
  add("no rows", {0, 3}, {3, 2}, false, false);
  add("sums of nothing", {2, 0}, {0, 3}, false, false);
  add("no columns", {2, 3}, {0, 3}, false, true);
  add("an empty batch", {0, 2, 3}, {0, 3, 2}, false, false);
}

void add_linear(std::vector<Row>& table) {
  auto add = [&](const std::string& variant, const Shape& x, int64_t out, bool with_bias) -> Row& {
    std::vector<Shape> shapes{x, {x.at(-1), out}};
    if (with_bias) shapes.push_back({out});
    table.push_back({"linear", variant, shapes,
                     [=](In x, In) { return linear(x[0], x[1], with_bias ? x[2] : Tensor()); },
                     [=](const Arrays& x, const Arrays&) {
                       Array y(x[0].shape().with(-1, x[1].size(1)));
                       each_index(y.shape(), [&](const Index& i) {
                         double sum = with_bias ? x[2](i.back()) : 0;
                         Index at = i;
                         for (int64_t c = 0; c < x[1].size(0); ++c) {
                           at.back() = c;
                           sum += x[0].at(at) * x[1](c, i.back());
                         }
                         y.at(i) = sum;
                       });
                       return y;
                     }});
    return table.back();
  };
  add("rows", {5, 7}, 3, true).with_large({{517, 131}, {131, 97}, {97}});
  add("without bias", {5, 7}, 3, false).with_large({{517, 131}, {131, 97}});
  add("images", {2, 3, 5, 4}, 6, true).with_large({{3, 13, 17, 64}, {64, 192}, {192}});
  add("a single vector", {7}, 3, true);
  add("33 to 1", {3, 33}, 1, true);
  add("one element", {1}, 1, true);
  add("no rows", {0, 3}, 2, true);
  add("no channels", {3, 0}, 2, true);
}

// ---- conv2d --------------------------------------------------------------------------------------------------------

Array reference_conv2d(const Array& x, const Array& w, const Conv2dSpec& spec) {
  int64_t height = (x.size(1) + spec.top + spec.bottom - w.size(0)) / spec.stride + 1;
  int64_t width = (x.size(2) + spec.left + spec.right - w.size(1)) / spec.stride + 1;
  Array y({x.size(0), height, width, w.size(3)});
  each_index(y.shape(), [&](const Index& at) {
    double sum = 0;
    for (int64_t p = 0; p < w.size(0); ++p)
      for (int64_t q = 0; q < w.size(1); ++q) {
        int64_t row = at[1] * spec.stride + p - spec.top, column = at[2] * spec.stride + q - spec.left;
        if (row < 0 || row >= x.size(1) || column < 0 || column >= x.size(2)) continue;   // padding is zero
        for (int64_t c = 0; c < x.size(3); ++c) sum += x(at[0], row, column, c) * w(p, q, c, at[3]);
      }
    y.at(at) = sum;
  });
  return y;
}

struct Extras {
  bool bias = false, shift = false, residual = false;
};

void add_conv2d(std::vector<Row>& table) {
  auto shapes_of = [](const Shape& x, const Shape& w, const Conv2dSpec& spec, const Extras& extras) {
    std::vector<Shape> shapes{x, w};
    if (extras.bias) shapes.push_back({w[3]});
    if (extras.shift) shapes.push_back({x[0], w[3]});
    if (extras.residual)
      shapes.push_back({x[0], (x[1] + spec.top + spec.bottom - w[0]) / spec.stride + 1,
                        (x[2] + spec.left + spec.right - w[1]) / spec.stride + 1, w[3]});
    return shapes;
  };
  auto add = [&](const std::string& variant, const Shape& x, const Shape& w, const Conv2dSpec& spec, Extras extras = {},
                 const Shape& large_x = {}, const Shape& large_w = {}) {
    Run run = [=](In x, In) {
      size_t next = 2;
      Tensor bias = extras.bias ? x[next++] : Tensor(), shift = extras.shift ? x[next++] : Tensor();
      return conv2d(x[0], x[1], bias, spec, shift, extras.residual ? x[next] : Tensor());
    };
    Reference reference = [=](const Arrays& x, const Arrays&) {
      Array y = reference_conv2d(x[0], x[1], spec);
      each_index(y.shape(), [&](const Index& at) {
        size_t next = 2;
        if (extras.bias) y.at(at) += x[next++](at[3]);
        if (extras.shift) y.at(at) += x[next++](at[0], at[3]);
        if (extras.residual) y.at(at) += x[next].at(at);
      });
      return y;
    };
    table.push_back({"conv2d", variant, shapes_of(x, w, spec, extras), run, reference});
    if (large_x.ndim()) table.back().with_large(shapes_of(large_x, large_w, spec, extras));
    table.back().nan_spreads = true;
  };
  Conv2dSpec same = Conv2dSpec::same(3), plain;
  Conv2dSpec down{2, 0, 1, 0, 1};   // the UNet's: stride 2, padded at the end only
  Extras all{true, true, true}, bias{true, false, false};
  add("3x3", {2, 5, 4, 3}, {3, 3, 3, 5}, same, {}, {2, 29, 31, 32}, {3, 3, 32, 32});
  add("3x3 with bias", {2, 5, 4, 2}, {3, 3, 2, 4}, same, bias, {2, 28, 28, 16}, {3, 3, 16, 24});
  add("3x3 with shift", {2, 3, 4, 2}, {3, 3, 2, 4}, same, {false, true, false});
  add("3x3 with residual", {2, 3, 4, 2}, {3, 3, 2, 2}, same, {false, false, true});
  add("3x3 with everything", {2, 4, 3, 3}, {3, 3, 3, 4}, same, all, {3, 17, 19, 33}, {3, 3, 33, 17});
  add("1 channel to 1", {1, 4, 5, 1}, {3, 3, 1, 1}, same, bias, {3, 57, 55, 1}, {3, 3, 1, 1});
  add("1 channel to 33", {1, 3, 4, 1}, {3, 3, 1, 33}, same, bias, {3, 28, 28, 1}, {3, 3, 1, 33});
  add("33 channels to 1", {1, 3, 4, 33}, {3, 3, 33, 1}, same, bias, {3, 28, 28, 33}, {3, 3, 33, 1});
  add("3 channels to 33", {1, 4, 3, 3}, {3, 3, 3, 33}, same, bias, {3, 28, 28, 3}, {3, 3, 3, 33});
  // Multiples of 16 channels go through Winograd's method where there are enough pixels.
  add("3x3, 16 channels to 48", {1, 5, 4, 16}, {3, 3, 16, 4}, same, {}, {2, 13, 18, 16}, {3, 3, 16, 48});
  add("3x3, 48 channels to 16, padded differently", {1, 4, 5, 3}, {3, 3, 3, 2}, {1, 0, 2, 2, 0}, all, {3, 15, 10, 48}, {3, 3, 48, 16});
  add("3x3, no padding, 64 channels", {1, 5, 4, 2}, {3, 3, 2, 3}, plain, bias, {2, 20, 19, 64}, {3, 3, 64, 64});
  add("3x3, more padding than the kernel", {1, 2, 3, 2}, {3, 3, 2, 2}, {1, 3, 4, 4, 3}, bias, {2, 12, 11, 32}, {3, 3, 32, 16});
  add("3x3, 4x4 pixels", {1, 4, 4, 2}, {3, 3, 2, 2}, same, all, {17, 4, 4, 32}, {3, 3, 32, 64});
  add("1x1", {2, 3, 4, 5}, {1, 1, 5, 3}, plain, all, {2, 31, 29, 67}, {1, 1, 67, 35});
  add("1x1 with stride 2", {2, 4, 5, 3}, {1, 1, 3, 2}, {2, 0, 0, 0, 0}, bias, {2, 31, 29, 16}, {1, 1, 16, 35});
  add("3x3 downwards, even size", {2, 4, 6, 3}, {3, 3, 3, 2}, down, bias, {3, 32, 32, 32}, {3, 3, 32, 33});
  add("3x3 downwards, odd size", {1, 5, 7, 2}, {3, 3, 2, 3}, down, bias, {3, 31, 33, 17}, {3, 3, 17, 32});
  add("each side padded differently", {1, 4, 3, 2}, {3, 3, 2, 3}, {1, 0, 2, 3, 1}, bias, {2, 23, 21, 16}, {3, 3, 16, 16});
  add("stride 3, padded differently", {1, 7, 8, 2}, {3, 3, 2, 2}, {3, 2, 0, 1, 2}, all, {2, 43, 41, 16}, {3, 3, 16, 16});
  add("no padding", {2, 5, 6, 2}, {3, 3, 2, 3}, plain, bias, {2, 37, 35, 16}, {3, 3, 16, 16});
  add("2x4 kernel", {1, 5, 6, 2}, {2, 4, 2, 3}, {1, 1, 0, 2, 1}, bias, {2, 37, 35, 16}, {2, 4, 16, 16});
  add("5x5", {1, 5, 6, 2}, {5, 5, 2, 2}, Conv2dSpec::same(5), bias, {2, 23, 21, 16}, {5, 5, 16, 16});
  add("4x4 with stride 2", {1, 6, 4, 2}, {4, 4, 2, 2}, {2, 1, 1, 1, 1}, bias, {2, 32, 30, 16}, {4, 4, 16, 32});
  add("padding wider than the kernel", {1, 2, 2, 2}, {2, 2, 2, 2}, {1, 3, 3, 3, 3}, bias);
  add("stride beyond the kernel", {1, 7, 7, 2}, {2, 2, 2, 2}, {4, 0, 0, 0, 0}, bias);
  add("the kernel is the image", {2, 3, 3, 2}, {3, 3, 2, 2}, plain, bias);
  add("one pixel", {3, 1, 1, 4}, {3, 3, 4, 2}, same, all);
  add("one element", {1, 1, 1, 1}, {1, 1, 1, 1}, plain, all);
  add("no images", {0, 3, 3, 2}, {3, 3, 2, 2}, same, all);
  add("no images of a shape for Winograd", {0, 8, 8, 16}, {3, 3, 16, 16}, same, all);
  add("no input channels", {2, 3, 3, 0}, {3, 3, 0, 2}, same, bias);
}

// ---- conv2d_transposed ---------------------------------------------------------------------------------------------

void add_conv2d_transposed(std::vector<Row>& table) {
  auto add = [&](const std::string& variant, const Shape& x, int64_t factor, int64_t channels, bool bias) -> Row& {
    std::vector<Shape> shapes{x, {x[3], factor, factor, channels}};
    if (bias) shapes.push_back({channels});
    table.push_back({"conv2d_transposed", variant, shapes,
                     [bias](In x, In) { return conv2d_transposed(x[0], x[1], bias ? x[2] : Tensor()); },
                     [bias, factor, channels](const Arrays& x, const Arrays&) {
                       const Array &a = x[0], &w = x[1];
                       Array y({a.size(0), a.size(1) * factor, a.size(2) * factor, channels});
                       each_index(y.shape(), [&](const Index& i) {
                         double sum = bias ? x[2](i[3]) : 0;
                         for (int64_t c = 0; c < a.size(3); ++c)
                           sum += a(i[0], i[1] / factor, i[2] / factor, c) * w(c, i[1] % factor, i[2] % factor, i[3]);
                         y.at(i) = sum;
                       });
                       return y;
                     }});
    return table.back();
  };
  auto large = [](const Shape& x, int64_t factor, int64_t channels) {
    return std::vector<Shape>{x, {x[3], factor, factor, channels}, {channels}};
  };
  add("by 2", {2, 3, 4, 5}, 2, 3, true).with_large(large({3, 13, 11, 65}, 2, 33));
  add("by 7 from one pixel", {3, 1, 1, 4}, 7, 2, true).with_large(large({17, 1, 1, 33}, 7, 17));
  add("by 2 without bias", {1, 2, 3, 2}, 2, 3, false);
  add("by 1", {1, 2, 2, 3}, 1, 2, true);
  add("one element", {1, 1, 1, 1}, 1, 1, true);
  add("no images", {0, 2, 2, 3}, 2, 2, true);
}

}  // namespace

void add_matrix_rows(std::vector<Row>& table) {
  add_matmul(table);
  add_linear(table);
  add_conv2d(table);
  add_conv2d_transposed(table);
}

}  // namespace mote::test
