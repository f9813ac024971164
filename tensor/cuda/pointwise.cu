// pointwise.cu - unary and binary functions with broadcasting, sums of tensors.
// A thread works on packs of 16 bytes (pack.cuh). Which function is asked for is a switch inside the kernel, the same
// for all threads: memory is what a pack waits for, and one kernel a type stands where there would be seventeen.
#include "tensor/cuda/pack.cuh"

namespace mote::MOTE_CUDA_NAMESPACE {

// ---- Unary ---------------------------------------------------------------------------------------------------------

namespace {

template <class T>
struct UnaryForward {
  static constexpr int V = kPack<T>;
  hw::Ptr<T> y;
  hw::Ptr<const T> x;
  int64_t n;
  bool aligned;
  Unary op;
  MOTE_DEVICE void operator()(int64_t item) const {
    compute_t<T> pack[V];
    load_pack(pack, x, item * V, n, aligned);
    visit(op, [&](auto f) {
      for (int k = 0; k < V; ++k) pack[k] = f.fwd(pack[k]);
    });
    store_pack(y, item * V, n, aligned, pack);
  }
};

template <class T>
struct UnaryBackward {
  static constexpr int V = kPack<T>;
  hw::Ptr<T> dx;
  hw::Ptr<const T> kept, dy;
  int64_t n;
  bool aligned;
  Unary op;
  MOTE_DEVICE void operator()(int64_t item) const {
    compute_t<T> in[V], grad[V];
    load_pack(in, kept, item * V, n, aligned);
    load_pack(grad, dy, item * V, n, aligned);
    visit(op, [&](auto f) {
      for (int k = 0; k < V; ++k) grad[k] = f.bwd(in[k], grad[k]);
    });
    store_pack(dx, item * V, n, aligned, grad);
  }
};

}  // namespace

void unary(Tensor& y, const Tensor& x, const Unary& op) {
  for_floating("unary", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    for_each("unary", packs(y.numel(), kPack<T>),
             UnaryForward<T>{hw::ptr<T>(y), hw::ptr<T>(x), y.numel(), is_aligned(y, x), op});
  });
}

void unary_backward(Tensor& dx, const Tensor& kept, const Tensor& dy, const Unary& op) {
  for_floating("unary_backward", dx.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const Tensor& in = kept.defined() ? kept : dy;   // Keep::nothing: the functor does not look at it
    for_each("unary_backward", packs(dx.numel(), kPack<T>),
             UnaryBackward<T>{hw::ptr<T>(dx), hw::ptr<T>(in), hw::ptr<T>(dy), dx.numel(), is_aligned(dx, in, dy), op});
  });
}

// ---- Binary with broadcasting --------------------------------------------------------------------------------------

namespace {

/// Packs of the innermost axis of a broadcasting walk; the last pack of a row may be short.
struct RowPacks {
  BroadcastWalk walk;
  int64_t inner, per_row, rows;
  bool moves_a, moves_b;   // whether an operand runs on along the innermost axis; else one element serves all

  RowPacks(const BroadcastWalk& how, int64_t numel, int width)
      : walk(how), inner(how.size[how.ndim - 1]), per_row(packs(inner, width)), rows(inner ? numel / inner : 0),
        moves_a(how.stride_a[how.ndim - 1] != 0), moves_b(how.stride_b[how.ndim - 1] != 0) {}

  /// Whether all packs begin at multiples of `width` elements from the operands' beginnings.
  bool in_step(int width) const {
    for (int axis = 0; axis + 1 < walk.ndim; ++axis)
      if ((moves_a && walk.stride_a[axis] % width) || (moves_b && walk.stride_b[axis] % width)) return false;
    return rows <= 1 || inner % width == 0;
  }

  /// Pack `item`: its row, the column where it begins, and where the rows of the operands begin.
  MOTE_DEVICE void find(int64_t item, int width, int64_t& row, int64_t& column, int64_t& a, int64_t& b) const {
    row = quotient(item, per_row);
    column = (item - row * per_row) * width;
    walk.offsets(row, a, b);
  }
};

/// pack = elements of one operand: a pack, or one element V times.
template <class C, class T, int V>
MOTE_DEVICE void load_operand(C (&pack)[V], hw::Ptr<const T> row, bool moves, int64_t column, int64_t inner,
                              bool aligned) {
  if (moves) return load_pack(pack, row, column, inner, aligned);
  C fixed = C(T(row[0]));
  for (int k = 0; k < V; ++k) pack[k] = fixed;
}

template <class T>
struct BinaryForward {
  static constexpr int V = kPack<T>;
  hw::Ptr<T> y;
  hw::Ptr<const T> a, b;
  RowPacks rows;
  bool aligned;
  Binary op;
  MOTE_DEVICE void operator()(int64_t item) const {
    int64_t row, column, at_a, at_b;
    rows.find(item, V, row, column, at_a, at_b);
    compute_t<T> left[V], right[V];
    load_operand(left, a + at_a, rows.moves_a, column, rows.inner, aligned);
    load_operand(right, b + at_b, rows.moves_b, column, rows.inner, aligned);
    visit(op, [&](auto f) {
      for (int k = 0; k < V; ++k) left[k] = f.fwd(left[k], right[k]);
    });
    store_pack(y + row * rows.inner, column, rows.inner, aligned, left);
  }
};

template <class T>
struct BinaryBackward {
  static constexpr int V = kPack<T>;
  hw::Ptr<const T> dy;
  hw::Ptr<T> da, db;   // null: not wanted
  hw::Ptr<const T> a, b;
  RowPacks rows;
  bool aligned;
  Binary op;
  MOTE_DEVICE void operator()(int64_t item) const {
    int64_t row, column, at_a, at_b;
    rows.find(item, V, row, column, at_a, at_b);
    compute_t<T> left[V], right[V], grad[V], into_a[V] = {}, into_b[V] = {};
    load_operand(left, a + at_a, rows.moves_a, column, rows.inner, aligned);
    load_operand(right, b + at_b, rows.moves_b, column, rows.inner, aligned);
    load_pack(grad, dy + row * rows.inner, column, rows.inner, aligned);
    visit(op, [&](auto f) {
      for (int k = 0; k < V; ++k) {
        into_a[k] = f.bwd_a(left[k], right[k], grad[k]);
        into_b[k] = f.bwd_b(left[k], right[k], grad[k]);
      }
    });
    if (da) store_pack(da + row * rows.inner, column, rows.inner, aligned, into_a);
    if (db) store_pack(db + row * rows.inner, column, rows.inner, aligned, into_b);
  }
};

}  // namespace

void binary(Tensor& y, const Tensor& a, const Tensor& b, Binary op) {
  for_floating("binary", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    RowPacks rows(BroadcastWalk(y.shape(), a.shape(), b.shape()), y.numel(), kPack<T>);
    bool aligned = is_aligned(y, a, b) && rows.in_step(kPack<T>);
    for_each("binary", rows.rows * rows.per_row,
             BinaryForward<T>{hw::ptr<T>(y), hw::ptr<T>(a), hw::ptr<T>(b), rows, aligned, op});
  });
}

void binary_backward(const Tensor& dy, Tensor& da, Tensor& db, const Tensor& a, const Tensor& b, Binary op) {
  for_floating("binary_backward", dy.dtype(), [&](auto zero) {
    using T = decltype(zero);
    RowPacks rows(BroadcastWalk(dy.shape(), a.shape(), b.shape()), dy.numel(), kPack<T>);
    bool aligned = is_aligned(dy, da, db, a, b) && rows.in_step(kPack<T>);
    for_each("binary_backward", rows.rows * rows.per_row,
             BinaryBackward<T>{hw::ptr<T>(dy), hw::ptr<T>(da), hw::ptr<T>(db), hw::ptr<T>(a), hw::ptr<T>(b), rows,
                               aligned, op});
  });
}

namespace {

/// Elements of an unsigned type of their size.
template <class T>
struct Broadcast {
  static constexpr int V = kPack<T>;
  hw::Ptr<T> y;
  hw::Ptr<const T> x;
  RowPacks rows;
  bool aligned;
  MOTE_DEVICE void operator()(int64_t item) const {
    int64_t row, column, from, unused;
    rows.find(item, V, row, column, from, unused);
    T pack[V];
    load_operand(pack, x + from, rows.moves_a, column, rows.inner, aligned);
    store_pack(y + row * rows.inner, column, rows.inner, aligned, pack);
  }
};

}  // namespace

void broadcast(Tensor& y, const Tensor& x) {
  for_element_size(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    RowPacks rows(BroadcastWalk(y.shape(), x.shape(), x.shape()), y.numel(), kPack<T>);
    bool aligned = is_aligned(y, x) && rows.in_step(kPack<T>);
    for_each("broadcast", rows.rows * rows.per_row,
             Broadcast<T>{units<T>(y), units<T>(x), rows, aligned});
  });
}

// ---- Sums of tensors -----------------------------------------------------------------------------------------------

namespace {

template <class T, class X>
struct Accumulate {
  static constexpr int V = kPack<T> > kPack<X> ? kPack<T> : kPack<X>;
  hw::Ptr<T> y;
  hw::Ptr<const X> x;
  int64_t n;
  bool aligned;
  MOTE_DEVICE void operator()(int64_t item) const {
    compute_t<T> sum[V], more[V];
    load_pack(sum, y, item * V, n, aligned);
    load_pack(more, x, item * V, n, aligned);
    for (int k = 0; k < V; ++k) sum[k] = sum[k] + more[k];
    store_pack(y, item * V, n, aligned, sum);
  }
};

}  // namespace

void accumulate(Tensor& y, const Tensor& x) {
  for_floating("accumulate", y.dtype(), [&](auto zero) {
    for_floating("accumulate", x.dtype(), [&](auto zero_x) {
      using Body = Accumulate<decltype(zero), decltype(zero_x)>;
      for_each("accumulate", packs(y.numel(), Body::V),
               Body{hw::ptr<decltype(zero)>(y), hw::ptr<decltype(zero_x)>(x), y.numel(), is_aligned(y, x)});
    });
  });
}

namespace {

inline constexpr int kMaxTerms = 8;

template <class T>
struct Combine {
  static constexpr int V = kPack<T>;
  hw::Ptr<T> y;
  hw::Ptr<const T> x[kMaxTerms];
  compute_t<T> factor[kMaxTerms];
  int terms;
  int64_t n;
  bool aligned;
  MOTE_DEVICE void operator()(int64_t item) const {
    compute_t<T> sum[V], next[V];
    load_pack(next, x[0], item * V, n, aligned);
    for (int k = 0; k < V; ++k) sum[k] = factor[0] * next[k];
    for (int term = 1; term < terms; ++term) {
      load_pack(next, x[term], item * V, n, aligned);
      for (int k = 0; k < V; ++k) sum[k] = sum[k] + factor[term] * next[k];
    }
    store_pack(y, item * V, n, aligned, sum);
  }
};

}  // namespace

void combine(Tensor& y, const std::vector<Term>& terms) {
  check(terms.size() >= 1 && terms.size() <= size_t(kMaxTerms), "combine: takes 1 to 8 terms, got ", terms.size());
  for_floating("combine", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    Combine<T> body{hw::ptr<T>(y), {}, {}, int(terms.size()), y.numel(), is_aligned(y)};
    for (size_t k = 0; k < terms.size(); ++k) {
      body.x[k] = hw::ptr<T>(terms[k].tensor);
      body.factor[k] = compute_t<T>(terms[k].factor);
      body.aligned = body.aligned && is_aligned(terms[k].tensor);
    }
    for_each("combine", packs(y.numel(), kPack<T>), body);
  });
}

namespace {

template <class T>
struct CombineRows {
  static constexpr int V = kPack<T>;
  hw::Ptr<T> y;
  hw::Ptr<const T> x, e;
  hw::Ptr<const double> a, b;
  int64_t pixels, per_row;
  bool aligned;
  MOTE_DEVICE void operator()(int64_t item) const {
    using C = compute_t<T>;
    int64_t row = quotient(item, per_row), column = (item - row * per_row) * V, at = row * pixels;
    C fa = C(double(a[row])), fb = C(double(b[row])), in_x[V], in_e[V];
    load_pack(in_x, x + at, column, pixels, aligned);
    load_pack(in_e, e + at, column, pixels, aligned);
    for (int k = 0; k < V; ++k) in_x[k] = fa * in_x[k] + fb * in_e[k];
    store_pack(y + at, column, pixels, aligned, in_x);
  }
};

}  // namespace

void combine_rows(Tensor& y, const Tensor& x, const Tensor& e, const Tensor& a, const Tensor& b) {
  for_floating("combine_rows", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    int64_t images = y.size(0), pixels = images ? y.numel() / images : 0, per_row = packs(pixels, kPack<T>);
    bool aligned = is_aligned(y, x, e) && (images == 1 || pixels % kPack<T> == 0);
    for_each("combine_rows", images * per_row,
             CombineRows<T>{hw::ptr<T>(y), hw::ptr<T>(x), hw::ptr<T>(e), hw::ptr<double>(a), hw::ptr<double>(b), pixels,
                            per_row, aligned});
  });
}

}  // namespace mote::MOTE_CUDA_NAMESPACE
