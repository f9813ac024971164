// softmax.cu - softmax over the last axis, and the losses built on it. A row is worked on by a warp, a long one by a
// block; sums over a row are in double, each thread's own and then folded in a fixed order.
#include "tensor/cuda/pack.cuh"

namespace mote::MOTE_CUDA_NAMESPACE {
namespace {

inline constexpr int kRowThreads = 256;

/// The kLanes threads (a warp or the block) that work on a row together.
template <int kLanes>
struct Team {
  MOTE_DEVICE static int lane() { return kLanes == 32 ? hw::lane() : hw::thread(); }
  MOTE_DEVICE static int64_t first_row() { return hw::global_thread() / kLanes; }
  MOTE_DEVICE static int64_t teams() { return hw::global_threads() / kLanes; }
  template <class T, class Op>
  MOTE_DEVICE static T reduce(T value, Op op) {
    if constexpr (kLanes == 32) {
      return hw::warp_reduce(value, op);
    } else {
      MOTE_SHARED(T, scratch, 32);
      return hw::block_reduce(value, op, scratch);
    }
  }

  /// Largest element (NaN wins) and log of the sum of e^(x - max); the row has at least one element.
  template <class C, class T>
  MOTE_DEVICE static void log_sum_exp(hw::Ptr<const T> row, int64_t length, C& largest, C& log_sum) {
    largest = C(T(row[0]));
    for (int64_t i = lane(); i < length; i += kLanes) largest = math::max(C(T(row[i])), largest);
    largest = reduce(largest, hw::Max{});
    double sum = 0;
    for (int64_t i = lane(); i < length; i += kLanes) sum += double(math::exp(C(T(row[i])) - largest));
    log_sum = C(math::log(reduce(sum, hw::Sum{})));
  }
};

/// Launches Kernel<T, kLanes> for rows of that length.
template <template <class, int> class Kernel, class T, class... Members>
void launch_rows(const char* op, int64_t rows, int64_t length, const Members&... members) {
  auto run = [&](auto lanes) {
    using K = Kernel<T, lanes()>;
    hw::launch(op, {hw::blocks_for(rows * lanes(), K::kThreads), K::kThreads}, K{rows, length, members...});
  };
  if (length > 2048) run(std::integral_constant<int, kRowThreads>{});
  else run(std::integral_constant<int, 32>{});
}

}  // namespace

// ---- Softmax -------------------------------------------------------------------------------------------------------

namespace {

template <class T, int kLanes>
struct Softmax {
  static constexpr int kThreads = kRowThreads;
  int64_t rows, length;
  hw::Ptr<T> y;
  hw::Ptr<const T> x;
  bool log;
  MOTE_DEVICE void operator()() const {
    using C = compute_t<T>;
    for (int64_t row = Team<kLanes>::first_row(); row < rows; row += Team<kLanes>::teams()) {
      hw::Ptr<const T> in = x + row * length;
      C largest, log_sum;
      Team<kLanes>::log_sum_exp(in, length, largest, log_sum);
      for (int64_t i = Team<kLanes>::lane(); i < length; i += kLanes) {
        C logit = C(T(in[i])) - largest - log_sum;
        y[row * length + i] = T(log ? logit : math::exp(logit));
      }
    }
  }
};

/// dx = y (dy - sum dy y), or for the logarithm dx = dy - e^y sum dy.
template <class T, int kLanes>
struct SoftmaxBackward {
  static constexpr int kThreads = kRowThreads;
  int64_t rows, length;
  hw::Ptr<T> dx;
  hw::Ptr<const T> y, dy;
  bool log;
  MOTE_DEVICE void operator()() const {
    using C = compute_t<T>;
    for (int64_t row = Team<kLanes>::first_row(); row < rows; row += Team<kLanes>::teams()) {
      hw::Ptr<const T> out = y + row * length, dout = dy + row * length;
      double own = 0;
      for (int64_t i = Team<kLanes>::lane(); i < length; i += kLanes)
        own += double(C(T(dout[i]))) * (log ? 1.0 : double(C(T(out[i]))));
      C dot = C(Team<kLanes>::reduce(own, hw::Sum{}));
      for (int64_t i = Team<kLanes>::lane(); i < length; i += kLanes) {
        C value = C(T(out[i])), grad = C(T(dout[i])), p = log ? math::exp(value) : value;
        dx[row * length + i] = T(log ? grad - p * dot : p * (grad - dot));
      }
    }
  }
};

}  // namespace

void softmax(Tensor& y, const Tensor& x, bool log) {
  if (y.numel() == 0) return;
  int64_t length = y.ndim() ? y.size(-1) : 1, rows = y.numel() / length;
  for_floating("softmax", y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    launch_rows<Softmax, T>("softmax", rows, length, hw::ptr<T>(y), hw::ptr<T>(x), log);
  });
}

void softmax_backward(Tensor& dx, const Tensor& y, const Tensor& dy, bool log) {
  if (dx.numel() == 0) return;
  int64_t length = y.ndim() ? y.size(-1) : 1, rows = y.numel() / length;
  for_floating("softmax_backward", dx.dtype(), [&](auto zero) {
    using T = decltype(zero);
    launch_rows<SoftmaxBackward, T>("softmax_backward", rows, length, hw::ptr<T>(dx), hw::ptr<T>(y), hw::ptr<T>(dy),
                                    log);
  });
}

// ---- Cross entropy -------------------------------------------------------------------------------------------------

namespace {

template <class T, int kLanes>
struct CrossEntropy {
  static constexpr int kThreads = kRowThreads;
  int64_t rows, length;
  hw::Ptr<compute_t<T>> loss;
  hw::Ptr<const T> logits;
  hw::Ptr<const int64_t> target;
  MOTE_DEVICE void operator()() const {
    using C = compute_t<T>;
    for (int64_t row = Team<kLanes>::first_row(); row < rows; row += Team<kLanes>::teams()) {
      hw::Ptr<const T> in = logits + row * length;
      C largest, log_sum;
      Team<kLanes>::log_sum_exp(in, length, largest, log_sum);
      if (Team<kLanes>::lane() == 0) loss[row] = log_sum + (largest - C(T(in[target[row]])));
    }
  }
};

template <class T, int kLanes>
struct CrossEntropyBackward {
  static constexpr int kThreads = kRowThreads;
  int64_t rows, length;
  hw::Ptr<T> dlogits;
  hw::Ptr<const T> logits;
  hw::Ptr<const int64_t> target;
  hw::Ptr<const compute_t<T>> dloss;
  MOTE_DEVICE void operator()() const {
    using C = compute_t<T>;
    for (int64_t row = Team<kLanes>::first_row(); row < rows; row += Team<kLanes>::teams()) {
      hw::Ptr<const T> in = logits + row * length;
      int64_t label = target[row];
      C largest, log_sum, scale = C(dloss[row]);
      Team<kLanes>::log_sum_exp(in, length, largest, log_sum);
      for (int64_t k = Team<kLanes>::lane(); k < length; k += kLanes)
        dlogits[row * length + k] =
            T(scale * (math::exp(C(T(in[k])) - largest - log_sum) - (k == label ? C(1) : C(0))));
    }
  }
};

}  // namespace

void cross_entropy(Tensor& loss, const Tensor& logits, const Tensor& target) {
  for_floating("cross_entropy", logits.dtype(), [&](auto zero) {
    using T = decltype(zero);
    launch_rows<CrossEntropy, T>("cross_entropy", logits.size(0), logits.size(1), hw::ptr<compute_t<T>>(loss),
                                 hw::ptr<T>(logits), hw::ptr<int64_t>(target));
  });
}

void cross_entropy_backward(Tensor& dlogits, const Tensor& logits, const Tensor& target, const Tensor& dloss) {
  for_floating("cross_entropy_backward", logits.dtype(), [&](auto zero) {
    using T = decltype(zero);
    launch_rows<CrossEntropyBackward, T>("cross_entropy_backward", logits.size(0), logits.size(1), hw::ptr<T>(dlogits),
                                         hw::ptr<T>(logits), hw::ptr<int64_t>(target),
                                         hw::ptr<compute_t<T>>(dloss));
  });
}

}  // namespace mote::MOTE_CUDA_NAMESPACE
