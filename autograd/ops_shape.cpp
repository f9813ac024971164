// ops_shape.cpp - ops that move elements, and reductions. Only reshape and slice share storage with their input.
#include <numeric>

#include "autograd/checks.h"
#include "autograd/ops.h"

namespace mote {
namespace {

using Sizes = std::vector<int64_t>;

std::string list_text(const Sizes& sizes) {
  std::ostringstream out;
  out << '[';
  for (size_t i = 0; i < sizes.size(); ++i) out << (i ? ", " : "") << sizes[i];
  out << ']';
  return out.str();
}

Sizes start_at(int ndim, int axis, int64_t position) {
  Sizes start(ndim, 0);
  start[axis] = position;
  return start;
}

Tensor box_of(const Tensor& x, const Sizes& start, const Shape& shape) {
  Tensor y = empty(shape, x.dtype(), x.device());
  kernel::get_box(y, x, start);
  return y;
}

/// Zeros with `x` put in: the gradient of taking that box out.
Tensor zeros_around(const Tensor& x, const Sizes& start, const Shape& shape) {
  Tensor y = zeros(shape, x.dtype(), x.device());
  kernel::put_box(y, x, start);
  return y;
}

// ---- Views ---------------------------------------------------------------------------------------------------------

Tensor reshape_to(const Tensor& x, Sizes sizes) {
  check_defined("reshape", {"x", x});
  int64_t* open = nullptr;
  int64_t known = 1;
  for (int64_t& size : sizes) {
    check(size >= -1, "reshape: sizes cannot be negative, except one of -1: ", list_text(sizes));
    if (size == -1) {
      check(!open, "reshape: only one size may be -1: ", list_text(sizes));
      open = &size;
    } else {
      check(!__builtin_mul_overflow(known, size, &known), "reshape: too many elements: ", list_text(sizes));
    }
  }
  bool fits = open ? known > 0 && x.numel() % known == 0 : known == x.numel();
  check(fits, "reshape: the number of elements changes: x is ", describe(x), " (", x.numel(), " elements), asked for ",
        list_text(sizes));
  check(sizes.size() <= size_t(kMaxAxes), "reshape: at most ", kMaxAxes, " axes, asked for ", list_text(sizes));
  if (open) *open = x.numel() / known;
  Tensor y = record("reshape", x.view(Shape(sizes)), {x},
                    [shape = x.shape()](const Tensor& dy) -> Grads { return {dy.view(shape)}; });
  return y.needs_grad() ? remade(y, x, [x_ = Saved(x), shape = y.shape()] { return x_.get().view(shape); }) : y;
}

Tensor permute_as(const char* op, const Tensor& x, const std::vector<int>& order) {
  Axes axes{}, inverse{};
  Sizes sizes(order.size());
  for (int i = 0; i < x.ndim(); ++i) {
    axes[i] = order[i];
    inverse[order[i]] = i;
    sizes[i] = x.shape()[order[i]];
  }
  Tensor y = empty(Shape(sizes), x.dtype(), x.device());
  kernel::permute(y, x, axes);
  return record(op, y, {x}, [inverse, shape = x.shape()](const Tensor& dy) -> Grads {
    Tensor dx = empty(shape, dy.dtype(), dy.device());
    kernel::permute(dx, dy, inverse);
    return {dx};
  });
}

Tensor narrow_as(const char* op, const Tensor& x, int axis, int64_t start, int64_t length) {
  Sizes corner = start_at(x.ndim(), axis, start);
  Tensor y = box_of(x, corner, x.shape().with(axis, length));
  return record(op, y, {x}, [corner, shape = x.shape()](const Tensor& dy) -> Grads {
    return {zeros_around(dy, corner, shape)};
  });
}

}  // namespace

Tensor reshape(const Tensor& x, const Shape& shape) { return reshape_to(x, shape.to_vector()); }
Tensor reshape(const Tensor& x, std::initializer_list<int64_t> sizes) { return reshape_to(x, Sizes(sizes)); }

Tensor slice(const Tensor& x, int64_t begin, int64_t end) {
  check_defined("slice", {"x", x});
  check(x.ndim() >= 1, "slice: x must have a first axis, got ", describe(x));
  check(0 <= begin && begin <= end && end <= x.size(0), "slice: rows ", begin, " to ", end, " are not within x, ",
        describe(x));
  return record("slice", x.rows(begin, end), {x}, [begin, shape = x.shape()](const Tensor& dy) -> Grads {
    return {zeros_around(dy, start_at(shape.ndim(), 0, begin), shape)};
  });
}

// ---- Copies --------------------------------------------------------------------------------------------------------

Tensor permute(const Tensor& x, const std::vector<int>& axes) {
  check_defined("permute", {"x", x});
  check(int(axes.size()) == x.ndim(), "permute: needs each axis once: x is ", describe(x), ", got ", axes.size(),
        " axes");
  std::vector<int> order;
  std::vector<bool> seen(axes.size(), false);
  for (int axis : axes) {
    order.push_back(normalize_axis("permute", axis, x.ndim()));
    check(!seen[order.back()], "permute: needs each axis once, axis ", order.back(), " comes twice");
    seen[order.back()] = true;
  }
  return permute_as("permute", x, order);
}

Tensor transpose(const Tensor& x, int axis_a, int axis_b) {
  check_defined("transpose", {"x", x});
  std::vector<int> order(x.ndim());
  std::iota(order.begin(), order.end(), 0);
  axis_a = normalize_axis("transpose", axis_a, x.ndim());
  axis_b = normalize_axis("transpose", axis_b, x.ndim());
  std::swap(order[axis_a], order[axis_b]);
  return permute_as("transpose", x, order);
}

Tensor concat(const std::vector<Tensor>& parts, int axis) {
  check(!parts.empty(), "concat: needs at least one part");
  for (const Tensor& part : parts) check_defined("concat", {"a part", part});
  const Tensor& first = parts[0];
  axis = normalize_axis("concat", axis, first.ndim());
  int64_t length = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Tensor& part = parts[i];
    check_same_kind("concat", {"part 0", first}, {"another part", part});
    check(part.ndim() == first.ndim() && part.shape().with(axis, 0) == first.shape().with(axis, 0),
          "concat: parts may differ along axis ", axis, " only: part 0 is ", describe(first), ", part ", i, " is ",
          describe(part));
    length += part.size(axis);
  }
  Tensor y = empty(first.shape().with(axis, length), first.dtype(), first.device());
  std::vector<Shape> shapes;
  std::vector<bool> needed;
  int64_t position = 0;
  for (const Tensor& part : parts) {
    kernel::put_box(y, part, start_at(y.ndim(), axis, position));
    position += part.size(axis);
    shapes.push_back(part.shape());
    needed.push_back(part.needs_grad());
  }
  return record("concat", y, parts, [=](const Tensor& dy) {
    Grads gradients(shapes.size());
    int64_t position = 0;
    for (size_t i = 0; i < shapes.size(); ++i) {
      if (needed[i]) gradients[i] = box_of(dy, start_at(dy.ndim(), axis, position), shapes[i]);
      position += shapes[i][axis];
    }
    return gradients;
  });
}

std::vector<Tensor> split(const Tensor& x, const std::vector<int64_t>& sizes, int axis) {
  check_defined("split", {"x", x});
  axis = normalize_axis("split", axis, x.ndim());
  int64_t total = 0;
  for (int64_t size : sizes) {
    check(size >= 0, "split: sizes cannot be negative: ", list_text(sizes));
    check(!__builtin_add_overflow(total, size, &total), "split: sizes are too large: ", list_text(sizes));
  }
  check(total == x.size(axis), "split: the sizes must add up to axis ", axis, " of x: x is ", describe(x), ", sizes ",
        list_text(sizes), " add up to ", total);
  std::vector<Tensor> parts;
  int64_t position = 0;
  for (int64_t size : sizes) {
    parts.push_back(narrow_as("split", x, axis, position, size));
    position += size;
  }
  return parts;
}

Tensor narrow(const Tensor& x, int axis, int64_t start, int64_t length) {
  check_defined("narrow", {"x", x});
  axis = normalize_axis("narrow", axis, x.ndim());
  check(start >= 0 && length >= 0 && start <= x.size(axis) && length <= x.size(axis) - start, "narrow: start ", start,
        " and length ", length, " are not within axis ", axis, " of x, ", describe(x));
  return narrow_as("narrow", x, axis, start, length);
}

Tensor pad(const Tensor& x, const std::vector<int64_t>& before, const std::vector<int64_t>& after, double value) {
  check_defined("pad", {"x", x});
  check(before.size() == size_t(x.ndim()) && after.size() == size_t(x.ndim()),
        "pad: needs one number an axis on each side: x is ", describe(x), ", before has ", before.size(),
        ", after has ", after.size());
  Sizes sizes;
  for (int axis = 0; axis < x.ndim(); ++axis) {
    check(before[axis] >= 0 && after[axis] >= 0, "pad: cannot take away: axis ", axis, " gets ", before[axis],
          " before and ", after[axis], " after");
    int64_t size = x.size(axis);
    check(!__builtin_add_overflow(size, before[axis], &size) && !__builtin_add_overflow(size, after[axis], &size),
          "pad: axis ", axis, " becomes too long");
    sizes.push_back(size);
  }
  Tensor y = full(Shape(sizes), value, x.dtype(), x.device());
  kernel::put_box(y, x, before);
  return record("pad", y, {x}, [before, shape = x.shape()](const Tensor& dy) -> Grads {
    return {box_of(dy, before, shape)};
  });
}

Tensor broadcast_to(const Tensor& x, const Shape& shape) {
  check_floating("broadcast_to", {"x", x});
  check(broadcast_shape("broadcast_to", x.shape(), shape) == shape, "broadcast_to: x cannot be stretched: x is ",
        describe(x), ", asked for ", shape);
  Tensor y = empty(shape, x.dtype(), x.device());
  kernel::broadcast(y, x);
  return record("broadcast_to", y, {x}, [from = x.shape()](const Tensor& dy) -> Grads {
    Tensor dx = empty(from, dy.dtype(), dy.device());
    kernel::sum_to(dx, dy);
    return {dx};
  });
}

// ---- Reductions ----------------------------------------------------------------------------------------------------

namespace {

/// factor * sum of x over `axes`.
Tensor scaled_sum(const char* op, const Tensor& x, const std::vector<bool>& summed, bool keep_axes, double factor) {
  Shape kept = x.shape();
  Sizes left;
  for (int axis = 0; axis < x.ndim(); ++axis) {
    if (summed[axis]) kept = kept.with(axis, 1);
    if (!summed[axis] || keep_axes) left.push_back(kept[axis]);
  }
  Tensor total = empty(kept, x.dtype(), x.device());
  kernel::sum_to(total, x);
  if (factor != 1) kernel::combine(total, {{factor, total}});
  return record(op, total.view(Shape(left)), {x}, [kept, factor, shape = x.shape()](const Tensor& dy) -> Grads {
    Tensor share = dy.view(kept);
    if (factor != 1) {
      share = empty_like(share);
      kernel::combine(share, {{factor, dy.view(kept)}});
    }
    Tensor dx = empty(shape, dy.dtype(), dy.device());
    kernel::broadcast(dx, share);
    return {dx};
  });
}

std::vector<bool> axes_to_sum(const char* op, const Tensor& x, const std::vector<int>& axes) {
  check_floating(op, {"x", x});
  std::vector<bool> summed(x.ndim(), false);
  for (int axis : axes) {
    int position = normalize_axis(op, axis, x.ndim());
    check(!summed[position], op, ": axis ", position, " comes twice");
    summed[position] = true;
  }
  return summed;
}

std::vector<bool> all_axes(const char* op, const Tensor& x) {
  check_floating(op, {"x", x});
  return std::vector<bool>(x.ndim(), true);
}

/// 1 / how many elements go into one; infinite where there are none, so that the mean of nothing is NaN.
double share_of_one(const Tensor& x, const std::vector<bool>& summed) {
  double count = 1;
  for (int axis = 0; axis < x.ndim(); ++axis) count *= summed[axis] ? double(x.size(axis)) : 1;
  return 1 / count;
}

/// Checks for max and argmax; returns the shape without `axis`.
Shape shape_without(const char* op, const Tensor& x, int& axis) {
  check_floating(op, {"x", x});
  axis = normalize_axis(op, axis, x.ndim());
  check(x.size(axis) > 0, op, ": axis ", axis, " has no elements: x is ", describe(x));
  return x.shape().without(axis);
}

}  // namespace

Tensor sum(const Tensor& x) { return scaled_sum("sum", x, all_axes("sum", x), false, 1); }

Tensor sum(const Tensor& x, const std::vector<int>& axes, bool keep_axes) {
  return scaled_sum("sum", x, axes_to_sum("sum", x, axes), keep_axes, 1);
}

Tensor mean(const Tensor& x) {
  std::vector<bool> summed = all_axes("mean", x);
  return scaled_sum("mean", x, summed, false, share_of_one(x, summed));
}

Tensor mean(const Tensor& x, const std::vector<int>& axes, bool keep_axes) {
  std::vector<bool> summed = axes_to_sum("mean", x, axes);
  return scaled_sum("mean", x, summed, keep_axes, share_of_one(x, summed));
}

Tensor max(const Tensor& x, int axis) {
  Shape shape = shape_without("max", x, axis);
  Tensor y = empty(shape, x.dtype(), x.device()), index = empty(shape, DType::i64, x.device());
  kernel::max_axis(y, index, x, axis);
  if (!x.needs_grad()) return y;
  return record("max", y, {x}, [index_ = Saved(index), axis, shape = x.shape()](const Tensor& dy) -> Grads {
    Tensor dx = empty(shape, dy.dtype(), dy.device());
    kernel::max_axis_backward(dx, index_.get(), dy, axis);
    return {dx};
  });
}

Tensor argmax(const Tensor& x, int axis) {
  Shape shape = shape_without("argmax", x, axis);
  Tensor y = empty(shape, x.dtype(), x.device()), index = empty(shape, DType::i64, x.device());
  kernel::max_axis(y, index, x, axis);
  return index;
}

}  // namespace mote
