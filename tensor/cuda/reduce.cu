// reduce.cu - reductions, in the order of tensor/cpu/reduce.cpp, so that sums have the bits of the CPU: chunks whose
// lanes are threads here, then the sums of the chunks in order, in double.
#include "tensor/cuda/pack.cuh"

namespace mote::MOTE_CUDA_NAMESPACE {

// ---- Sums along the last axis --------------------------------------------------------------------------------------

namespace {

inline constexpr int64_t kChunk = 4096;
inline constexpr int kChunkLanes = 16;

template <class C>
struct Plain {
  template <class T> MOTE_DEVICE C operator()(T x) const { return C(x); }
};
/// In double from the start: the square of a finite f32 above 1.8e19 is infinite in f32.
template <class T>
struct Squared {
  MOTE_DEVICE double operator()(T x) const {
    double value = double(compute_t<T>(x));
    return value * value;
  }
};

/// partial[row][chunk] = sum of term(x) over a chunk of a row: half a warp a chunk, each of its lanes one of the sums.
template <class C, class T, class Term>
struct ChunkSums {
  static constexpr int kThreads = 256;
  hw::Ptr<double> partial;
  hw::Ptr<const T> x;
  int64_t rows, length, chunks;
  Term term;
  MOTE_DEVICE void operator()() const {
    int lane = hw::lane() % kChunkLanes, first_lane = hw::lane() - lane;
    int64_t count = rows * chunks, halves = hw::global_threads() / kChunkLanes;
    int64_t mine = hw::global_thread() / kChunkLanes;
    for (int64_t base = mine & ~int64_t(1); base < count; base += halves) {   // both halves of a warp stay together
      int64_t item = base + (mine & 1), row = quotient(item, chunks), begin = (item - row * chunks) * kChunk;
      bool valid = item < count;
      int64_t end = begin + kChunk < length ? begin + kChunk : length, full = (end - begin) / kChunkLanes * kChunkLanes;
      int left = int(end - begin - full);
      C sum = C(0), rest = C(0);
      if (valid) {
        hw::Ptr<const T> from = x + (row * length + begin + lane);
        MOTE_UNROLL(8)
        for (int64_t i = 0; i < full; i += kChunkLanes) sum = sum + term(T(from[i]));
        if (lane < left) rest = term(T(from[full]));
      }
      double total = 0;
      for (int k = 0; k < kChunkLanes; ++k) total += double(hw::shuffle(sum, first_lane + k));
      for (int k = 0; k < kChunkLanes; ++k) {
        double next = double(hw::shuffle(rest, first_lane + k));
        if (k < left) total += next;
      }
      if (valid && lane == 0) partial[item] = total;
    }
  }
};

/// y[row] = sum of partial[row][chunk] over chunks in order: a warp a row.
template <class Y>
struct FoldChunks {
  static constexpr int kThreads = 128;
  hw::Ptr<Y> y;
  hw::Ptr<const double> partial;
  int64_t rows, chunks;
  MOTE_DEVICE void operator()() const {
    for (int64_t row = hw::global_thread() / 32; row < rows; row += hw::global_threads() / 32) {
      double total = 0;
      for (int64_t first = 0; first < chunks; first += 32) {
        int64_t left = chunks - first;
        double mine = hw::lane() < left ? double(partial[row * chunks + first + hw::lane()]) : 0.0;
        for (int k = 0; k < 32; ++k) {
          double next = hw::shuffle(mine, k);
          if (k < left) total += next;
        }
      }
      if (hw::lane() == 0) y[row] = Y(compute_t<Y>(total));
    }
  }
};

template <class C, class T, class Term, class Y>
void sum_rows(const char* op, hw::Ptr<Y> y, hw::Ptr<const T> x, int64_t rows, int64_t length, Term term,
              Device device) {
  using Sums = ChunkSums<C, T, Term>;
  using Fold = FoldChunks<Y>;
  int64_t chunks = (length + kChunk - 1) / kChunk;
  Tensor partial = empty({rows, chunks}, DType::f64, device);
  hw::launch(op, {hw::blocks_for(rows * chunks * kChunkLanes, Sums::kThreads), Sums::kThreads},
             Sums{hw::ptr<double>(partial), x, rows, length, chunks, term});
  hw::launch(op, {hw::blocks_for(rows * 32, Fold::kThreads), Fold::kThreads},
             Fold{y, hw::ptr<double>(std::as_const(partial)), rows, chunks});
}

}  // namespace

// ---- Sums along another axis ---------------------------------------------------------------------------------------

namespace {

/// partial[o][chunk][lane] = sum over kTimes rows of `lanes` elements, which are `repeat` rows of x[o]: a thread a sum.
template <class C, class T>
struct ColumnSums {
  static constexpr int64_t kLanes = 256, kTimes = 64;
  hw::Ptr<C> partial;
  hw::Ptr<const T> x;
  int64_t elements, lanes, chunks;   // elements: of x[o]
  MOTE_DEVICE void operator()(int64_t item) const {
    int64_t chunk = quotient(item, lanes), lane = item - chunk * lanes, o = quotient(chunk, chunks);
    int64_t begin = (chunk - o * chunks) * kTimes * lanes, end = begin + kTimes * lanes;
    if (end > elements) end = elements;
    hw::Ptr<const T> from = x + o * elements;
    C sum = C(0);
    MOTE_UNROLL(8)
    for (int64_t at = begin + lane; at < end; at += lanes) sum = sum + C(T(from[at]));
    partial[item] = sum;
  }
};

/// y[o][i] = sum over chunks in order of the sum over the rows of a chunk.
template <class C, class Y>
struct FoldColumns {
  hw::Ptr<Y> y;
  hw::Ptr<const C> partial;
  int64_t inner, repeat, chunks;
  MOTE_DEVICE void operator()(int64_t item) const {
    int64_t o = quotient(item, inner), i = item - o * inner;
    hw::Ptr<const C> from = partial + (o * chunks * repeat * inner + i);
    double total = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      double sum = double(C(from[chunk * repeat * inner]));
      for (int64_t row = 1; row < repeat; ++row) sum += double(C(from[(chunk * repeat + row) * inner]));
      total += sum;
    }
    y[item] = Y(C(total));
  }
};

/// y[o, i] = sum over l of x[o, l, i].
template <class C, class T, class Y>
void sum_middle(hw::Ptr<Y> y, hw::Ptr<const T> x, int64_t outer, int64_t length, int64_t inner, Device device) {
  if (inner == 1) return sum_rows<C>("sum_to", y, x, outer, length, Plain<C>{}, device);
  using Sums = ColumnSums<C, T>;
  int64_t repeat = std::max<int64_t>(Sums::kLanes / inner, 1), lanes = repeat * inner;
  int64_t chunk_rows = Sums::kTimes * repeat, chunks = std::max<int64_t>((length + chunk_rows - 1) / chunk_rows, 1);
  Tensor partial = empty({outer * chunks * lanes}, dtype_of<C>, device);
  for_each("sum_to", partial.numel(), Sums{hw::ptr<C>(partial), x, length * inner, lanes, chunks});
  for_each("sum_to", outer * inner,
           FoldColumns<C, Y>{y, hw::ptr<C>(std::as_const(partial)), inner, repeat, chunks});
}

}  // namespace

void sum_to(Tensor& y, const Tensor& x) {
  std::vector<AxisRun> runs = axis_runs(x.shape(), y.shape());
  if (x.numel() == 0) return fill(y, 0);
  int64_t summed = std::count_if(runs.begin(), runs.end(), [](const AxisRun& run) { return run.summed; });
  if (summed == 0) return convert(y, x);
  for_floating("sum_to", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    // The innermost summed run goes first, straight from x; any others follow on the shrunken intermediate.
    Tensor sums;
    for (size_t at = runs.size(); at-- > 0;) {
      if (!runs[at].summed) continue;
      int64_t outer = 1, inner = 1, length = runs[at].size;
      for (size_t k = 0; k < runs.size(); ++k)
        if (k != at) (k < at ? outer : inner) *= runs[k].size;
      bool from_x = !sums.defined(), into_y = --summed == 0;
      Tensor next = into_y ? y : empty({outer * inner}, dtype_of<C>, y.device());
      auto run = [&](auto out, auto in) { sum_middle<C>(out, in, outer, length, inner, y.device()); };
      hw::Ptr<const T> in_x = from_x ? hw::ptr<T>(x) : hw::Ptr<const T>{};
      hw::Ptr<const C> in_sums = from_x ? hw::Ptr<const C>{} : hw::ptr<C>(std::as_const(sums));
      if (from_x && into_y) run(hw::ptr<T>(next), in_x);
      else if (from_x) run(hw::ptr<C>(next), in_x);
      else if (into_y) run(hw::ptr<T>(next), in_sums);
      else run(hw::ptr<C>(next), in_sums);
      sums = next;
      runs[at].size = 1;
    }
  });
}

void sum_squares(Tensor& y, const Tensor& x) {
  for_floating("sum_squares", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    sum_rows<double>("sum_squares", hw::ptr<double>(y), hw::ptr<T>(x), 1, x.numel(), Squared<T>{}, x.device());
  });
}

// ---- The largest ---------------------------------------------------------------------------------------------------

namespace {

/// The largest value so far and the smallest index that has it; NaN is larger than any number.
template <class T>
struct Largest {
  compute_t<T> value;
  int64_t index;   // -1: none
  MOTE_DEVICE void take(compute_t<T> other, int64_t at) {
    bool is_nan = value != value, other_is_nan = other != other;
    bool larger = index < 0 || (other_is_nan ? !is_nan : other > value);
    bool equal = other_is_nan ? is_nan : other == value;
    if (at >= 0 && (larger || (equal && at < index))) {
      value = other;
      index = at;
    }
  }
};

/// Columns x[o, :, i] are walked by kLanes threads each: 32 where neighbouring columns are few and lie far apart.
template <class T, int kLanes>
struct MaxAxis {
  static constexpr int kThreads = 256;
  hw::Ptr<T> y;
  hw::Ptr<int64_t> index;
  hw::Ptr<const T> x;
  int64_t columns, length, inner;
  MOTE_DEVICE void operator()() const {
    for (int64_t item = hw::global_thread() / kLanes; item < columns; item += hw::global_threads() / kLanes) {
      int64_t o = quotient(item, inner);
      hw::Ptr<const T> column = x + (o * length * inner + item - o * inner);
      Largest<T> best{compute_t<T>(0), -1};
      int lane = kLanes == 1 ? 0 : hw::lane();
      for (int64_t l = lane; l < length; l += kLanes) best.take(compute_t<T>(T(column[l * inner])), l);
      if constexpr (kLanes > 1)
        for (int mask = kLanes / 2; mask > 0; mask /= 2) {
          compute_t<T> value = hw::shuffle_xor(best.value, mask);
          int64_t at = hw::shuffle_xor(best.index, mask);
          best.take(value, at);
        }
      if (lane == 0) {
        y[item] = T(column[best.index * inner]);
        index[item] = best.index;
      }
    }
  }
};

}  // namespace

void max_axis(Tensor& y, Tensor& index, const Tensor& x, int axis) {
  int64_t length = x.shape()[axis], inner = x.shape().stride(axis), columns = y.numel();
  for_floating("max_axis", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    auto run = [&](auto lanes) {
      using Kernel = MaxAxis<T, lanes()>;
      hw::launch("max_axis", {hw::blocks_for(columns * lanes(), Kernel::kThreads), Kernel::kThreads},
                 Kernel{hw::ptr<T>(y), hw::ptr<int64_t>(index), hw::ptr<T>(x), columns, length, inner});
    };
    if (inner < 32) run(std::integral_constant<int, 32>{});
    else run(std::integral_constant<int, 1>{});
  });
}

namespace {

/// Elements of an unsigned type of their size.
template <class Unit>
struct MaxAxisBackward {
  hw::Ptr<Unit> dx;
  hw::Ptr<const int64_t> index;
  hw::Ptr<const Unit> dy;
  int64_t length, inner;
  MOTE_DEVICE void operator()(int64_t i) const {
    int64_t above = quotient(i, inner), o = quotient(above, length), item = o * inner + i - above * inner;
    dx[i] = index[item] == above - o * length ? Unit(dy[item]) : Unit(0);   // +0 is all zero bits
  }
};

}  // namespace

void max_axis_backward(Tensor& dx, const Tensor& index, const Tensor& dy, int axis) {
  int64_t length = dx.shape()[axis], inner = dx.shape().stride(axis);
  for_element_size(dx.dtype(), [&](auto zero) {
    using Unit = decltype(zero);
    for_each("max_axis_backward", dx.numel(),
             MaxAxisBackward<Unit>{units<Unit>(dx), hw::ptr<int64_t>(index), units<Unit>(dy), length, inner});
  });
}

}  // namespace mote::MOTE_CUDA_NAMESPACE
