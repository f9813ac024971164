// The rows of autograd/ops_shape.cpp.
#include <cmath>

#include "tests/op_table.h"

namespace mote::test {
namespace {

const char* const kMovesOnly = "moves elements without looking at them";

/// A row of an op that moves elements: output index -> where it comes from.
Row moving(const std::string& op, const std::string& variant, const Shape& shape, const Shape& to, Run run,
           std::function<Index(const Index&)> source) {
  Reference reference = [=](const Arrays& x, const Arrays&) {
    Array y(to);
    each_index(to, [&](const Index& i) { y.at(i) = x[0].at(source(i)); });
    return y;
  };
  return Row{op, variant, {shape}, run, reference}.of_any_dtype(kMovesOnly);
}

// ---- Views ---------------------------------------------------------------------------------------------------------

void add_views(std::vector<Row>& table) {
  auto add = [&](const std::string& variant, const Shape& from_shape, const Shape& to, Run run) {
    Reference reference = [to](const Arrays& x, const Arrays&) { return Array(from(x[0].values(), to, DType::f64)); };
    table.push_back(Row{"reshape", variant, {from_shape}, run, reference}.of_any_dtype(kMovesOnly));
  };
  add("", {2, 3, 4}, {4, 6}, [](In x, In) { return reshape(x[0], Shape{4, 6}); });
  add("one size open", {2, 3, 4}, {6, 4}, [](In x, In) { return reshape(x[0], {-1, 4}); });
  add("to a scalar", {1, 1}, {}, [](In x, In) { return reshape(x[0], Shape{}); });
  add("empty", {0, 3}, {3, 0, 2}, [](In x, In) { return reshape(x[0], {3, 0, 2}); });

  auto add_slice = [&](const std::string& variant, const Shape& shape, int64_t begin, int64_t end) {
    table.push_back(moving("slice", variant, shape, shape.with(0, end - begin),
                           [=](In x, In) { return slice(x[0], begin, end); }, [=](Index i) {
                             i[0] += begin;
                             return i;
                           }));
  };
  add_slice("", {5, 3}, 1, 4);
  add_slice("everything", {5, 3}, 0, 5);
  add_slice("one element", {1}, 0, 1);
  add_slice("nothing", {5, 3}, 2, 2);
  add_slice("of nothing", {0, 3}, 0, 0);
}

// ---- Copies --------------------------------------------------------------------------------------------------------

void add_permutes(std::vector<Row>& table) {
  auto add = [&](const std::string& variant, const Shape& shape, const std::vector<int>& axes) -> Row& {
    auto order = [axes](int ndim) {
      std::vector<int> from_front;
      for (int axis : axes) from_front.push_back(axis < 0 ? axis + ndim : axis);
      return from_front;
    };
    Reference reference = [order](const Arrays& x, const Arrays&) {
      std::vector<int> axes = order(x[0].shape().ndim());
      Index sizes;
      for (int axis : axes) sizes.push_back(x[0].size(axis));
      Array y{Shape(sizes)};
      each_index(y.shape(), [&](const Index& i) {
        Index from_index(i.size());
        for (size_t k = 0; k < i.size(); ++k) from_index[axes[k]] = i[k];
        y.at(i) = x[0].at(from_index);
      });
      return y;
    };
    table.push_back(Row{"permute", variant, {shape}, [axes](In x, In) { return permute(x[0], axes); }, reference}
                        .of_any_dtype(kMovesOnly));
    return table.back();
  };
  add("images to channels first", {2, 3, 5, 7}, {0, 3, 1, 2}).with_large({{5, 37, 41, 33}});
  add("channels first to images", {2, 7, 3, 5}, {0, 2, 3, 1}).with_large({{5, 33, 37, 41}});
  add("all reversed, six axes", {2, 3, 1, 2, 3, 2}, {-1, -2, -3, -4, -5, -6});
  add("nothing moves", {4, 3}, {0, 1});
  add("a rotation", {2, 3, 4}, {2, 0, 1}).with_large({{61, 53, 59}});
  add("scalar", {}, {});
  add("empty", {3, 0, 2}, {1, 2, 0});

  auto add_transpose = [&](const std::string& variant, const Shape& shape, const Shape& to, int a, int b) -> Row& {
    table.push_back(moving("transpose", variant, shape, to, [=](In x, In) { return transpose(x[0], a, b); },
                           [=, ndim = shape.ndim()](Index i) {
                             std::swap(i[a < 0 ? a + ndim : a], i[b < 0 ? b + ndim : b]);
                             return i;
                           }));
    return table.back();
  };
  add_transpose("matrix", {5, 7}, {7, 5}, 0, 1).with_large({{401, 399}});
  add_transpose("last axes of a batch", {2, 3, 5}, {2, 5, 3}, -1, -2);
  add_transpose("outer axes", {2, 3, 5}, {5, 3, 2}, 0, 2);
  add_transpose("one element", {1, 1}, {1, 1}, 0, 1);
  add_transpose("empty", {0, 4}, {4, 0}, 0, 1);
}

void add_concats(std::vector<Row>& table) {
  auto add = [&](const std::string& variant, const std::vector<Shape>& shapes, int axis) -> Row& {
    Reference reference = [axis](const Arrays& x, const Arrays&) {
      int along = axis < 0 ? axis + x[0].shape().ndim() : axis;
      int64_t length = 0;
      for (const Array& part : x) length += part.size(along);
      Array y(x[0].shape().with(along, length));
      int64_t before = 0;
      for (const Array& part : x) {
        each_index(part.shape(), [&](Index i) {
          double value = part.at(i);
          i[along] += before;
          y.at(i) = value;
        });
        before += part.size(along);
      }
      return y;
    };
    table.push_back(Row{"concat", variant, shapes, [axis](In x, In) { return concat(x, axis); }, reference}
                        .of_any_dtype(kMovesOnly));
    return table.back();
  };
  add("channels", {{2, 3, 5, 3}, {2, 3, 5, 1}, {2, 3, 5, 7}}, -1)
      .with_large({{3, 41, 37, 33}, {3, 41, 37, 1}, {3, 41, 37, 16}});
  add("rows", {{2, 3}, {1, 3}}, 0);
  add("a middle axis", {{2, 1, 3}, {2, 4, 3}}, 1);
  add("one part", {{2, 3}}, 1);
  add("one part is empty", {{2, 3}, {2, 0}, {2, 2}}, 1);
  add("one element", {{1}}, 0);
  add("empty", {{0, 3}, {0, 2}}, 1);
}

void add_boxes(std::vector<Row>& table) {
  auto shifted = [](int axis, int64_t by) {
    return [=](Index i) {
      i[axis] += by;
      return i;
    };
  };
  auto part = [](size_t which, std::vector<int64_t> sizes, int axis) {
    return [=](In x, In) { return split(x[0], sizes, axis)[which]; };
  };
  table.push_back(moving("split", "first of three", {2, 6, 3}, {2, 1, 3}, part(0, {1, 2, 3}, 1), shifted(1, 0)));
  table.push_back(moving("split", "last of three", {2, 6, 3}, {2, 3, 3}, part(2, {1, 2, 3}, 1), shifted(1, 3)));
  table.push_back(moving("split", "rows", {5, 3}, {2, 3}, part(1, {3, 2}, 0), shifted(0, 3)));
  table.push_back(moving("split", "last axis", {3, 5}, {3, 4}, part(1, {1, 4}, -1), shifted(1, 1)));
  table.push_back(moving("split", "an empty part", {3, 5}, {3, 0}, part(1, {2, 0, 3}, 1), shifted(1, 2)));
  table.push_back(moving("split", "one element", {1}, {1}, part(0, {1}, 0), shifted(0, 0)));
  table.push_back(moving("split", "of nothing", {0, 2}, {0, 1}, part(1, {1, 1}, 1), shifted(1, 1)));
  table.push_back(moving("split", "all parts, in another order", {4, 5}, {4, 5},
                         [](In x, In) {
                           std::vector<Tensor> parts = split(x[0], {2, 3}, 1);
                           return concat({parts[1], parts[0]}, 1);
                         },
                         [](Index i) {
                           i[1] = (i[1] + 2) % 5;
                           return i;
                         }));

  auto add_narrow = [&](const std::string& variant, const Shape& shape, int axis, int64_t start, int64_t length) {
    int from_front = axis < 0 ? axis + shape.ndim() : axis;
    table.push_back(moving("narrow", variant, shape, shape.with(axis, length),
                           [=](In x, In) { return narrow(x[0], axis, start, length); }, shifted(from_front, start)));
  };
  add_narrow("", {2, 7, 3}, 1, 2, 4);
  add_narrow("rows", {5, 3}, 0, 1, 3);
  add_narrow("last axis", {2, 3, 5}, -1, 4, 1);
  add_narrow("one element", {1, 1}, 1, 0, 1);
  add_narrow("nothing", {2, 3}, 1, 3, 0);
  add_narrow("of nothing", {0, 3}, 1, 1, 2);

  auto add_pad = [&](const std::string& variant, const Shape& shape, Index before, Index after, double value) -> Row& {
    Reference reference = [=](const Arrays& x, const Arrays&) {
      Index sizes;
      for (int axis = 0; axis < x[0].shape().ndim(); ++axis)
        sizes.push_back(before[axis] + x[0].size(axis) + after[axis]);
      Array y(Shape(sizes), value);
      each_index(x[0].shape(), [&](Index i) {
        double inside = x[0].at(i);
        for (size_t axis = 0; axis < i.size(); ++axis) i[axis] += before[axis];
        y.at(i) = inside;
      });
      return y;
    };
    table.push_back(Row{"pad", variant, {shape}, [=](In x, In) { return pad(x[0], before, after, value); }, reference}
                        .of_any_dtype(kMovesOnly));
    return table.back();
  };
  add_pad("images", {2, 3, 5, 3}, {0, 1, 2, 0}, {0, 0, 1, 0}, 0).with_large({{3, 41, 37, 33}});
  add_pad("with a value", {2, 3}, {1, 2}, {3, 0}, -1.5);
  add_pad("with nothing", {2, 3}, {0, 0}, {0, 0}, 9);
  add_pad("one element", {1}, {1}, {2}, 0.5);
  add_pad("empty", {0, 2}, {1, 0}, {1, 1}, 2);
  add_pad("scalar", {}, {}, {}, 2);
}

void add_broadcasts(std::vector<Row>& table) {
  auto add = [&](const std::string& variant, const Shape& shape, const Shape& to) {
    Reference reference = [to](const Arrays& x, const Arrays&) {
      Array y(to);
      each_index(to, [&](const Index& i) { y.at(i) = stretched(x[0], i); });
      return y;
    };
    table.push_back({"broadcast_to", variant, {shape}, [to](In x, In) { return broadcast_to(x[0], to); }, reference});
  };
  add("a row", {3}, {4, 3});
  add("a column", {4, 1}, {4, 3});
  add("middle axes", {2, 1, 3, 1}, {2, 5, 3, 4});
  add("large", {1, 33}, {5003, 33});
  add("a scalar", {}, {2, 3});
  add("to itself", {2, 3}, {2, 3});
  add("one element", {1, 1}, {1, 1});
  add("to nothing", {1, 3}, {0, 3});
  add("empty", {0, 1}, {0, 3});
}

// ---- Reductions ----------------------------------------------------------------------------------------------------

Array reference_sum(const Array& x, std::vector<int> axes, bool keep_axes, bool average) {
  std::vector<bool> summed(x.shape().ndim(), false);
  for (int axis : axes) summed[axis < 0 ? axis + x.shape().ndim() : axis] = true;
  auto project = [&](const Index& index) {
    Index left;
    for (size_t axis = 0; axis < index.size(); ++axis)
      if (!summed[axis] || keep_axes) left.push_back(summed[axis] ? 0 : index[axis]);
    return left;
  };
  Index sizes;
  double count = 1;
  for (int axis = 0; axis < x.shape().ndim(); ++axis) {
    if (!summed[axis] || keep_axes) sizes.push_back(summed[axis] ? 1 : x.size(axis));
    if (summed[axis]) count *= double(x.size(axis));
  }
  Array y{Shape(sizes)};
  each_index(x.shape(), [&](const Index& i) { y.at(project(i)) += x.at(i); });
  if (average) each_index(y.shape(), [&](const Index& i) { y.at(i) /= count; });
  return y;
}

void add_sums(std::vector<Row>& table) {
  for (bool average : {false, true}) {
    std::string op = average ? "mean" : "sum";
    auto add_all = [&](const std::string& variant, const Shape& shape) -> Row& {
      Reference reference = [=](const Arrays& x, const Arrays&) {
        std::vector<int> axes;
        for (int axis = 0; axis < x[0].shape().ndim(); ++axis) axes.push_back(axis);
        return reference_sum(x[0], axes, false, average);
      };
      table.push_back({op, variant, {shape}, [=](In x, In) { return average ? mean(x[0]) : sum(x[0]); }, reference});
      return table.back();
    };
    add_all("everything", {3, 5, 7}).with_large({{37, 4099}});
    add_all("a scalar", {});
    add_all("one element", {1, 1, 1});
    add_all("nothing", {0, 3});

    auto add = [&](const std::string& variant, const Shape& shape, std::vector<int> axes, bool keep) -> Row& {
      Reference reference = [=](const Arrays& x, const Arrays&) { return reference_sum(x[0], axes, keep, average); };
      table.push_back({op, variant, {shape},
                       [=](In x, In) { return average ? mean(x[0], axes, keep) : sum(x[0], axes, keep); }, reference});
      return table.back();
    };
    add("first axis", {5, 7}, {0}, false).with_large({{4099, 37}});
    add("last axis, kept", {5, 7}, {-1}, true).with_large({{37, 4099}});
    add("middle axes", {2, 3, 5, 7}, {1, 2}, false).with_large({{3, 41, 37, 33}});
    add("outer and inner axis, kept", {2, 3, 5, 7}, {3, 0}, true).with_large({{3, 41, 37, 33}});
    add("alternating axes", {2, 3, 2, 3}, {1, 3}, false);
    add("no axis", {2, 3}, {}, false);
    add("rows of nothing", {3, 0}, {1}, false);
    add("no rows", {0, 3}, {1}, true);
  }
}

void add_maxima(std::vector<Row>& table) {
  for (bool index_wanted : {false, true}) {
    auto add = [&](const std::string& variant, const Shape& shape, int axis) -> Row& {
      Run run = [=](In x, In) { return index_wanted ? argmax(x[0], axis) : max(x[0], axis); };
      Reference reference = [=](const Arrays& x, const Arrays&) {
        int along = axis < 0 ? axis + x[0].shape().ndim() : axis;
        Array best(x[0].shape().without(along)), where(best.shape());
        each_index(best.shape(), [&](const Index& i) {
          Index full = i;
          full.insert(full.begin() + along, 0);
          best.at(i) = x[0].at(full);
          for (full[along] = 1; full[along] < x[0].size(along); ++full[along]) {
            double value = x[0].at(full);
            if (std::isnan(best.at(i)) || !(value > best.at(i) || std::isnan(value))) continue;
            best.at(i) = value;
            where.at(i) = double(full[along]);
          }
        });
        return index_wanted ? where : best;
      };
      table.push_back({index_wanted ? "argmax" : "max", variant, {shape}, run, reference});
      if (index_wanted) table.back().without_gradient("an index does not change under a small change of x");
      return table.back();
    };
    add("last axis", {3, 5}, -1).with_large({{37, 4099}});
    add("first axis", {5, 3}, 0).with_large({{4099, 37}});
    add("middle axis", {2, 5, 3}, 1).with_large({{33, 71, 67}});
    add("an axis of one", {3, 1}, 1);
    add("one element", {1}, 0);
    add("empty", {0, 3}, 1);
  }
}

}  // namespace

void add_shape_rows(std::vector<Row>& table) {
  add_views(table);
  add_permutes(table);
  add_concats(table);
  add_boxes(table);
  add_broadcasts(table);
  add_sums(table);
  add_maxima(table);
}

}  // namespace mote::test
