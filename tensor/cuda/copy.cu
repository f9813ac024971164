// copy.cu - fill, convert, and the kernels that move elements without looking at them: any dtype, by element size.
#include "tensor/cuda/pack.cuh"

namespace mote::MOTE_CUDA_NAMESPACE {

// ---- Fill, copy, convert -------------------------------------------------------------------------------------------

namespace {

template <class T>
struct Fill {
  hw::Ptr<T> y;
  T value;
  int64_t n;
  bool aligned;
  MOTE_DEVICE void operator()(int64_t item) const {
    T pack[kPack<T>];
    for (T& at : pack) at = value;
    store_pack(y, item * kPack<T>, n, aligned, pack);
  }
};

/// Elements of an unsigned type of their size.
template <class T>
struct Copy {
  hw::Ptr<T> y;
  hw::Ptr<const T> x;
  int64_t n;
  bool aligned;
  MOTE_DEVICE void operator()(int64_t item) const {
    T pack[kPack<T>];
    load_pack(pack, x, item * kPack<T>, n, aligned);
    store_pack(y, item * kPack<T>, n, aligned, pack);
  }
};

template <class To, class From>
struct Convert {
  static constexpr int V = 8;
  hw::Ptr<To> y;
  hw::Ptr<const From> x;
  int64_t n;
  bool aligned;
  MOTE_DEVICE void operator()(int64_t item) const {
    float pack[V];
    load_pack(pack, x, item * V, n, aligned);
    store_pack(y, item * V, n, aligned, pack);
  }
};

/// Any type to any other, one element at a time: a number waits as f64 or as i64, which hold all the others.
struct ConvertAny {
  hw::Ptr<uint8_t> y;
  hw::Ptr<const uint8_t> x;
  DType to, from;
  MOTE_DEVICE void operator()(int64_t i) const {
    switch (from) {
      case DType::f32: return put(i, double(get<float>(i)));
      case DType::bf16: return put(i, double(float(get<bf16>(i))));
      case DType::f64: return put(i, get<double>(i));
      case DType::i32: return put(i, int64_t(get<int32_t>(i)));
      case DType::i64: return put(i, get<int64_t>(i));
      case DType::u8: return put(i, int64_t(get<uint8_t>(i)));
    }
  }
  template <class Number>
  MOTE_DEVICE void put(int64_t i, Number number) const {
    switch (to) {
      case DType::f32: return set(i, float(number));
      case DType::bf16: return set(i, bf16(float(number)));
      case DType::f64: return set(i, double(number));
      case DType::i32: return set(i, int32_t(number));
      case DType::i64: return set(i, int64_t(number));
      case DType::u8: return set(i, uint8_t(number));
    }
  }
  template <class T> MOTE_DEVICE T get(int64_t i) const { return hw::cast<const T>(x)[i]; }
  template <class T> MOTE_DEVICE void set(int64_t i, T value) const { hw::cast<T>(y)[i] = value; }
};

}  // namespace

void fill(Tensor& y, double value) {
  for_any(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T converted;
    if constexpr (std::is_same_v<T, bf16>) converted = bf16(float(value));
    else converted = T(value);
    for_each("fill", packs(y.numel(), kPack<T>), Fill<T>{hw::ptr<T>(y), converted, y.numel(), is_aligned(y)});
  });
}

void convert(Tensor& y, const Tensor& x) {
  int64_t n = y.numel();
  bool aligned = is_aligned(y, x);
  auto run = [&](auto to, auto from) {
    using To = decltype(to);
    using From = decltype(from);
    for_each("convert", packs(n, 8), Convert<To, From>{hw::ptr<To>(y), hw::ptr<From>(x), n, aligned});
  };
  if (y.dtype() == x.dtype())
    for_element_size(y.dtype(), [&](auto zero) {
      using T = decltype(zero);
      for_each("convert", packs(n, kPack<T>),
               Copy<T>{units<T>(y), units<T>(x), n, aligned});
    });
  else if (y.dtype() == DType::bf16 && x.dtype() == DType::f32) run(bf16{}, float{});
  else if (y.dtype() == DType::f32 && x.dtype() == DType::bf16) run(float{}, bf16{});
  else for_each("convert", n, ConvertAny{units<uint8_t>(y), units<uint8_t>(x), y.dtype(), x.dtype()});
}

// ---- Boxes ---------------------------------------------------------------------------------------------------------

namespace {

/// Copies between `small` and the box of `large`, kUnits elements of Unit at a time.
template <class Unit, int kUnits>
struct CopyBox {
  static constexpr int64_t kBytes = int64_t(sizeof(Unit)) * kUnits;
  hw::Ptr<Unit> destination;
  hw::Ptr<const Unit> source;
  BoxWalk walk;
  int64_t pieces;    // of a run
  bool into_large;
  MOTE_DEVICE void operator()(int64_t item) const {
    int64_t row = quotient(item, pieces), within = item - row * pieces;
    int64_t in_large = walk.offset(row) / int64_t(sizeof(Unit)) + within * kUnits, in_small = item * kUnits;
    int64_t to = into_large ? in_large : in_small, from = into_large ? in_small : in_large;
    if constexpr (kUnits == 1) destination[to] = Unit(source[from]);
    else hw::store(destination + to, hw::load<kUnits>(source + from));
  }
};

template <class Unit, int kUnits>
void copy_box_by(const char* op, Tensor& destination, const Tensor& source, const BoxWalk& walk, bool into_large) {
  using Body = CopyBox<Unit, kUnits>;
  int64_t pieces = walk.run / Body::kBytes;
  for_each(op, walk.rows * pieces, Body{units<Unit>(destination), units<Unit>(source), walk, pieces, into_large});
}

void copy_box(const char* op, Tensor& destination, const Tensor& source, const std::vector<int64_t>& start,
              bool into_large) {
  const Tensor &large = into_large ? destination : source, &small = into_large ? source : destination;
  if (small.numel() == 0) return;
  BoxWalk walk(large.shape(), small.shape(), size_of(small.dtype()), start);
  // The largest power of two, up to 16, of which every address and length is a multiple.
  uint64_t all = 16 | uint64_t(walk.run) | uint64_t(walk.base) | reinterpret_cast<uintptr_t>(destination.raw()) |
                 reinterpret_cast<uintptr_t>(source.raw());
  for (int axis = 0; axis < walk.ndim; ++axis) all |= uint64_t(walk.step[axis]);
  switch (all & -all) {
    case 1: return copy_box_by<uint8_t, 1>(op, destination, source, walk, into_large);
    case 2: return copy_box_by<uint16_t, 1>(op, destination, source, walk, into_large);
    case 4: return copy_box_by<uint32_t, 1>(op, destination, source, walk, into_large);
    case 8: return copy_box_by<uint32_t, 2>(op, destination, source, walk, into_large);
    default: return copy_box_by<uint32_t, 4>(op, destination, source, walk, into_large);
  }
}

}  // namespace

void put_box(Tensor& y, const Tensor& x, const std::vector<int64_t>& start) { copy_box("put_box", y, x, start, true); }
void get_box(Tensor& y, const Tensor& x, const std::vector<int64_t>& start) { copy_box("get_box", y, x, start, false); }

// ---- Permute -------------------------------------------------------------------------------------------------------

namespace {

template <class Unit>
struct Permute {
  hw::Ptr<Unit> y;
  hw::Ptr<const Unit> x;
  int ndim;
  int64_t size[kMaxAxes], stride[kMaxAxes];   // of y; of x along each axis of y
  MOTE_DEVICE void operator()(int64_t i) const {
    int64_t rest = i, from = 0;
    for (int axis = ndim - 1; axis >= 0; --axis) {
      int64_t above = quotient(rest, size[axis]);
      from += (rest - above * size[axis]) * stride[axis];
      rest = above;
    }
    y[i] = Unit(x[from]);
  }
};

}  // namespace

void permute(Tensor& y, const Tensor& x, const Axes& axes) {
  for_element_size(y.dtype(), [&](auto zero) {
    using Unit = decltype(zero);
    Permute<Unit> body{units<Unit>(y), units<Unit>(x), 0, {}, {}};
    for (int axis = 0; axis < y.ndim(); ++axis) {
      int64_t size = y.shape()[axis], stride = x.shape().stride(axes[size_t(axis)]);
      if (size == 1) continue;
      bool merges = body.ndim > 0 && body.stride[body.ndim - 1] == stride * size;   // neighbours in x as in y
      if (!merges) body.size[body.ndim++] = 1;
      body.size[body.ndim - 1] *= size;
      body.stride[body.ndim - 1] = stride;
    }
    for_each("permute", y.numel(), body);
  });
}

}  // namespace mote::MOTE_CUDA_NAMESPACE
