// norm.cu - GroupNorm over [N, H, W, C], optionally followed by SiLU. Its backward is in norm_backward.cu.
#include "tensor/cuda/norm.cuh"

namespace mote::MOTE_CUDA_NAMESPACE {
namespace {

/// A channel's sum of deviations from its first pixel, and of their squares: a large common offset costs no digits.
template <class T>
MOTE_DEVICE void deviation_sums(const Norm& norm, int64_t part, hw::Ptr<const T> x, int64_t stride,
                                compute_t<T>& sum, compute_t<T>& square) {
  using C = compute_t<T>;
  C pivot = C(T(x[0])), a = 0, b = 0;
  norm.for_pixels(part, [&](int64_t pixel) {
    C deviation = C(T(x[pixel * stride])) - pivot;
    a = a + deviation;
    b = math::fma(deviation, deviation, b);
  });
  sum = a;
  square = b;
}

/// Mean and 1 / deviation of a group: channel means and squares about them, folded. pivot(c), total and square: of its
/// channels.
template <class C, class Pivot>
MOTE_DEVICE void group_statistics(const Norm& norm, Pivot&& pivot, hw::Ptr<const double> total,
                                  hw::Ptr<const double> square, double eps, C& mean, C& rstd) {
  double share = 1 / double(norm.pixels);   // infinite without pixels: the mean of nothing is NaN
  double group_mean = 0, about = 0;
  for (int64_t c = 0; c < norm.width; ++c) group_mean += double(C(pivot(c))) + double(total[c]) * share;
  group_mean /= double(norm.width);
  for (int64_t c = 0; c < norm.width; ++c) {
    double own = double(total[c]) * share, apart = double(C(pivot(c))) + own - group_mean;
    about += double(square[c]) - double(total[c]) * own + double(norm.pixels) * apart * apart;
  }
  double variance = about / double(norm.pixels * norm.width);
  mean = C(group_mean);
  rstd = C(1 / math::sqrt((variance < 0 ? 0 : variance) + eps));
}

template <class C>
MOTE_DEVICE C activated(C u, bool silu) { return silu ? u * math::sigmoid(u) : u; }

template <class T>
struct GroupNorm {
  static constexpr int kThreads = 256, kMinBlocks = 3;
  using C = compute_t<T>;
  hw::Ptr<T> y;
  hw::Ptr<C> mean, rstd;
  hw::Ptr<const T> x, gamma, beta;
  Norm norm;
  int64_t span;
  double eps;
  bool silu, aligned;

  MOTE_DEVICE void operator()() const {
    Tile<T> tile(norm, span, aligned);
    hw::Ptr<const T> in = tile.tile(0);
    hw::Ptr<double> total = tile.totals(1);
    hw::Ptr<C> numbers = tile.numbers(1), middle = numbers, scale = middle + span, shift = scale + span,
               a = shift + span, b = a + norm.parts * span;
    tile.load(0, x);
    hw::barrier();
    tile.each_part(a, b, [&](int64_t part, int64_t c, C& sum, C& square) {
      deviation_sums<T>(norm, part, in + c, span, sum, square);
    });
    hw::barrier();
    tile.fold(total, a, b);
    hw::barrier();
    for (int64_t begin = hw::thread() * norm.width; begin < span; begin += hw::threads() * norm.width) {
      C group_mean, group_rstd;
      auto pivot = [&](int64_t c) { return norm.pixels ? C(T(in[begin + c])) : C(0); };
      group_statistics(norm, pivot, hw::Ptr<const double>(total + begin), hw::Ptr<const double>(total + (span + begin)),
                       eps, group_mean, group_rstd);
      int64_t at = tile.image * norm.groups + quotient(tile.first + begin, norm.width);
      mean[at] = group_mean;
      rstd[at] = group_rstd;
      for (int64_t c = begin; c < begin + norm.width; ++c) {
        middle[c] = group_mean;
        scale[c] = C(T(gamma[tile.first + c])) * group_rstd;
        shift[c] = C(T(beta[tile.first + c]));
      }
    }
    hw::barrier();
    tile.each_pack([&](int64_t pixel, int64_t c) {
      C pack[Tile<T>::V];
      load_pack(pack, in + pixel * span, c, span, aligned);
      for (int k = 0; k < Tile<T>::V; ++k) {
        if (c + k >= span) break;
        Affine<C> affine{C(middle[c + k]), C(scale[c + k]), C(shift[c + k])};
        pack[k] = activated(affine(pack[k]), silu);
      }
      store_pack(y + (tile.base() + pixel * norm.channels), c, span, aligned, pack);
    });
  }
};

/// a, b [N][parts][C]: the sums of a group that does not fit into a block.
template <class T>
struct NormSums {
  using C = compute_t<T>;
  hw::Ptr<C> a, b;
  hw::Ptr<const T> x;
  Norm norm;
  MOTE_DEVICE void operator()(int64_t item) const {
    int64_t row = quotient(item, norm.channels), c = item - row * norm.channels, n = quotient(row, norm.parts);
    C sum, square;
    deviation_sums<T>(norm, row - n * norm.parts, x + (n * norm.pixels * norm.channels + c), norm.channels, sum,
                      square);
    a[item] = sum;
    b[item] = square;
  }
};

template <class T>
struct NormStatistics {
  using C = compute_t<T>;
  hw::Ptr<C> mean, rstd;
  hw::Ptr<const T> x;
  hw::Ptr<const double> total;
  Norm norm;
  double eps;
  MOTE_DEVICE void operator()(int64_t item) const {
    int64_t n = quotient(item, norm.groups), first = (item - n * norm.groups) * norm.width;
    int64_t at = n * norm.channels + first;
    C group_mean, group_rstd;
    hw::Ptr<const T> in = x + (n * norm.pixels * norm.channels + first);
    group_statistics(norm, [&](int64_t c) { return C(T(in[c])); }, total + at,
                     total + (norm.images * norm.channels + at), eps, group_mean, group_rstd);
    mean[item] = group_mean;
    rstd[item] = group_rstd;
  }
};

template <class T>
struct NormApply {
  static constexpr int V = kPack<T>;
  using C = compute_t<T>;
  hw::Ptr<T> y;
  hw::Ptr<const C> mean, rstd;
  hw::Ptr<const T> x, gamma, beta;
  Norm norm;
  int64_t per_pixel;
  bool silu, aligned;
  MOTE_DEVICE void operator()(int64_t item) const {
    int64_t row = quotient(item, per_pixel), c = (item - row * per_pixel) * V, at = row * norm.channels;
    int64_t statistics = quotient(row, norm.pixels) * norm.groups;
    C pack[V];
    load_pack(pack, x + at, c, norm.channels, aligned);
    for (int k = 0; k < V; ++k) {
      if (c + k >= norm.channels) break;
      int64_t group = statistics + quotient(c + k, norm.width);
      Affine<C> affine{C(mean[group]), C(T(gamma[c + k])) * C(rstd[group]), C(T(beta[c + k]))};
      pack[k] = activated(affine(pack[k]), silu);
    }
    store_pack(y + at, c, norm.channels, aligned, pack);
  }
};

}  // namespace

void group_norm(Tensor& y, Tensor& mean, Tensor& rstd, const Tensor& x, const Tensor& gamma, const Tensor& beta,
                int64_t groups, double eps, bool silu) {
  Norm norm(x, groups);
  for_floating("group_norm", x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    Span span(norm, 1, sizeof(T), sizeof(C));
    bool aligned = is_aligned(y, x) && norm.channels % kPack<T> == 0;
    if (span.channels) {
      using Kernel = GroupNorm<T>;
      hw::launch("group_norm", {norm.images * (norm.channels / span.channels), Kernel::kThreads, span.bytes},
                 Kernel{hw::ptr<T>(y), hw::ptr<C>(mean), hw::ptr<C>(rstd), hw::ptr<T>(x), hw::ptr<T>(gamma),
                        hw::ptr<T>(beta), norm, span.channels, eps, silu, aligned && span.channels % kPack<T> == 0});
      return;
    }
    Tensor a = empty({norm.images, norm.parts, norm.channels}, dtype_of<C>, x.device()), b = empty_like(a);
    Tensor total = empty({2, norm.images, norm.channels}, DType::f64, x.device());
    for_each("group_norm", a.numel(), NormSums<T>{hw::ptr<C>(a), hw::ptr<C>(b), hw::ptr<T>(x), norm});
    for_each("group_norm", total.numel(),
             NormFold<C>{hw::ptr<double>(total), hw::ptr<C>(std::as_const(a)), hw::ptr<C>(std::as_const(b)), norm});
    for_each("group_norm", norm.images * groups,
             NormStatistics<T>{hw::ptr<C>(mean), hw::ptr<C>(rstd), hw::ptr<T>(x),
                               hw::ptr<double>(std::as_const(total)), norm, eps});
    int64_t per_pixel = packs(norm.channels, kPack<T>);
    for_each("group_norm", norm.images * norm.pixels * per_pixel,
             NormApply<T>{hw::ptr<T>(y), hw::ptr<C>(std::as_const(mean)), hw::ptr<C>(std::as_const(rstd)),
                          hw::ptr<T>(x), hw::ptr<T>(gamma), hw::ptr<T>(beta), norm, per_pixel, silu, aligned});
  });
}

}  // namespace mote::MOTE_CUDA_NAMESPACE
