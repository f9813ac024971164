// norm_backward.cu - backward of GroupNorm, optionally followed by SiLU. With z = (x - mean) rstd, u = gamma z + beta:
// du = dy act'(u),  dgamma = sum du z,  dbeta = sum du,  dx = rstd (gamma du - m1 - z m2), m1 and m2 the group means of
// gamma du and gamma du z. du is computed twice, from x and dy in shared memory or in L2, rather than kept.
#include "tensor/cuda/norm.cuh"

namespace mote::MOTE_CUDA_NAMESPACE {
namespace {

template <class C>
MOTE_DEVICE C slope(const Affine<C>& affine, C x, bool silu) { return silu ? math::silu_slope(affine(x)) : C(1); }

/// A channel's sums of du and of du (x - mean).
template <class T>
MOTE_DEVICE void gradient_sums(const Norm& norm, int64_t part, hw::Ptr<const T> x, hw::Ptr<const T> dy, int64_t stride,
                               const Affine<compute_t<T>>& affine, bool silu, compute_t<T>& sum_du,
                               compute_t<T>& sum_dud) {
  using C = compute_t<T>;
  C a = 0, b = 0;
  norm.for_pixels(part, [&](int64_t pixel) {
    C value = C(T(x[pixel * stride])), du = C(T(dy[pixel * stride])) * slope(affine, value, silu);
    a = a + du;
    b = math::fma(du, value - affine.mean, b);
  });
  sum_du = a;
  sum_dud = b;
}

/// dx = scale du + (x - mean) tilt + offset, the same tilt and offset for all channels of a group. total_du, total_dud,
/// gamma: of its channels; sum_du and sum_duz take what they give to dbeta and dgamma.
template <class C, class T>
MOTE_DEVICE void group_gradient(const Norm& norm, C rstd, hw::Ptr<const double> total_du,
                                hw::Ptr<const double> total_dud, hw::Ptr<const T> gamma, hw::Ptr<double> sum_du,
                                hw::Ptr<double> sum_duz, C& tilt, C& offset) {
  double first = 0, second = 0;
  for (int64_t c = 0; c < norm.width; ++c) {
    double du = total_du[c], own = norm.pixels ? double(rstd) * double(total_dud[c]) : 0;
    double weight = double(C(T(gamma[c])));
    sum_du[c] = du;
    sum_duz[c] = own;
    first += weight * du;
    second += weight * own;
  }
  double share = double(rstd) / double(norm.pixels * norm.width);
  tilt = C(-share * second * double(rstd));
  offset = C(-share * first);
}

/// dx of one element.
template <class C>
MOTE_DEVICE C input_gradient(const Affine<C>& affine, C tilt, C offset, C x, C dy, bool silu) {
  C du = dy * slope(affine, x, silu);
  return math::fma(affine.scale, du, math::fma(x - affine.mean, tilt, offset));
}

template <class T>
struct GroupNormBackward {
  static constexpr int kThreads = 256, kMinBlocks = 3;
  using C = compute_t<T>;
  hw::Ptr<T> dx;                     // may be null
  hw::Ptr<double> sum_du, sum_duz;   // [N, C]
  hw::Ptr<const T> dy, x, gamma, beta;
  hw::Ptr<const C> mean, rstd;
  Norm norm;
  int64_t span;
  bool silu, aligned;

  MOTE_DEVICE void operator()() const {
    Tile<T> tile(norm, span, aligned);
    hw::Ptr<const T> in = tile.tile(0), grad = tile.tile(1);
    hw::Ptr<double> total = tile.totals(2);
    hw::Ptr<C> middle = tile.numbers(2), scale = middle + span, shift = scale + span, tilt = shift + span,
               offset = tilt + span, a = offset + span, b = a + norm.parts * span;
    tile.load(0, x);
    tile.load(1, dy);
    for (int64_t c = hw::thread(); c < span; c += hw::threads()) {
      int64_t group = tile.image * norm.groups + quotient(tile.first + c, norm.width);
      middle[c] = C(mean[group]);
      scale[c] = C(T(gamma[tile.first + c])) * C(rstd[group]);
      shift[c] = C(T(beta[tile.first + c]));
    }
    hw::barrier();
    auto affine = [&](int64_t c) { return Affine<C>{C(middle[c]), C(scale[c]), C(shift[c])}; };
    tile.each_part(a, b, [&](int64_t part, int64_t c, C& du, C& dud) {
      gradient_sums<T>(norm, part, in + c, grad + c, span, affine(c), silu, du, dud);
    });
    hw::barrier();
    tile.fold(total, a, b);
    hw::barrier();
    for (int64_t begin = hw::thread() * norm.width; begin < span; begin += hw::threads() * norm.width) {
      int64_t group = tile.image * norm.groups + quotient(tile.first + begin, norm.width);
      int64_t at = tile.image * norm.channels + tile.first + begin;
      C own_tilt, own_offset;
      group_gradient<C, T>(norm, C(rstd[group]), total + begin, total + (span + begin), gamma + (tile.first + begin),
                           sum_du + at, sum_duz + at, own_tilt, own_offset);
      for (int64_t c = begin; c < begin + norm.width; ++c) {
        tilt[c] = own_tilt;
        offset[c] = own_offset;
      }
    }
    hw::barrier();
    if (!dx) return;
    tile.each_pack([&](int64_t pixel, int64_t c) {
      C pack[Tile<T>::V], value[Tile<T>::V];
      load_pack(pack, grad + pixel * span, c, span, aligned);
      load_pack(value, in + pixel * span, c, span, aligned);
      for (int k = 0; k < Tile<T>::V; ++k) {
        if (c + k >= span) break;
        pack[k] = input_gradient(affine(c + k), C(tilt[c + k]), C(offset[c + k]), value[k], pack[k], silu);
      }
      store_pack(dx + (tile.base() + pixel * norm.channels), c, span, aligned, pack);
    });
  }
};

// ---- Where a group does not fit into a block -----------------------------------------------------------------------

/// What belongs to a channel c of image n, out of the tensors of a call.
template <class T>
struct Operands {
  using C = compute_t<T>;
  hw::Ptr<const T> dy, x, gamma, beta;
  hw::Ptr<const C> mean, rstd;
  Norm norm;
  bool silu;
  MOTE_DEVICE Affine<C> affine(int64_t n, int64_t c) const {
    int64_t group = n * norm.groups + quotient(c, norm.width);
    return {C(mean[group]), C(T(gamma[c])) * C(rstd[group]), C(T(beta[c]))};
  }
};

/// a, b [N][parts][C]: sums of du and of du (x - mean).
template <class T>
struct GradientSums {
  using C = compute_t<T>;
  hw::Ptr<C> a, b;
  Operands<T> of;
  MOTE_DEVICE void operator()(int64_t item) const {
    const Norm& norm = of.norm;
    int64_t row = quotient(item, norm.channels), c = item - row * norm.channels, n = quotient(row, norm.parts);
    int64_t at = n * norm.pixels * norm.channels + c;
    C du, dud;
    gradient_sums<T>(norm, row - n * norm.parts, of.x + at, of.dy + at, norm.channels, of.affine(n, c), of.silu, du,
                     dud);
    a[item] = du;
    b[item] = dud;
  }
};

template <class T>
struct GroupGradients {
  using C = compute_t<T>;
  hw::Ptr<C> tilt, offset;           // [N, groups]
  hw::Ptr<double> sum_du, sum_duz;   // [N, C]
  hw::Ptr<const double> total;       // [2, N, C]
  Operands<T> of;
  MOTE_DEVICE void operator()(int64_t item) const {
    const Norm& norm = of.norm;
    int64_t n = quotient(item, norm.groups), first = (item - n * norm.groups) * norm.width;
    int64_t at = n * norm.channels + first;
    C own_tilt, own_offset;
    group_gradient<C, T>(norm, C(of.rstd[item]), total + at, total + (norm.images * norm.channels + at),
                         of.gamma + first, sum_du + at, sum_duz + at, own_tilt, own_offset);
    tilt[item] = own_tilt;
    offset[item] = own_offset;
  }
};

template <class T>
struct InputGradient {
  static constexpr int V = kPack<T>;
  using C = compute_t<T>;
  hw::Ptr<T> dx;
  hw::Ptr<const C> tilt, offset;
  Operands<T> of;
  int64_t per_pixel;
  bool aligned;
  MOTE_DEVICE void operator()(int64_t item) const {
    const Norm& norm = of.norm;
    int64_t row = quotient(item, per_pixel), c = (item - row * per_pixel) * V, at = row * norm.channels;
    int64_t n = quotient(row, norm.pixels);
    C pack[V], value[V];
    load_pack(pack, of.dy + at, c, norm.channels, aligned);
    load_pack(value, of.x + at, c, norm.channels, aligned);
    for (int k = 0; k < V; ++k) {
      if (c + k >= norm.channels) break;
      int64_t group = n * norm.groups + quotient(c + k, norm.width);
      pack[k] = input_gradient(of.affine(n, c + k), C(tilt[group]), C(offset[group]), value[k], pack[k], of.silu);
    }
    store_pack(dx + at, c, norm.channels, aligned, pack);
  }
};

/// dgamma, dbeta [C]: sums over images in order. Either may be null.
template <class T>
struct FoldImages {
  using C = compute_t<T>;
  hw::Ptr<T> dgamma, dbeta;
  hw::Ptr<const double> sum_duz, sum_du;
  int64_t images, channels;
  MOTE_DEVICE void operator()(int64_t c) const {
    if (dgamma) dgamma[c] = T(C(total(sum_duz, c)));
    if (dbeta) dbeta[c] = T(C(total(sum_du, c)));
  }
  MOTE_DEVICE double total(hw::Ptr<const double> from, int64_t c) const {
    double sum = 0;
    for (int64_t n = 0; n < images; ++n) sum += double(from[n * channels + c]);
    return sum;
  }
};

}  // namespace

void group_norm_backward(Tensor& dx, Tensor& dgamma, Tensor& dbeta, const Tensor& dy, const Tensor& x,
                         const Tensor& mean, const Tensor& rstd, const Tensor& gamma, const Tensor& beta,
                         int64_t groups, bool silu) {
  const char* op = "group_norm_backward";
  Norm norm(x, groups);
  for_floating(op, x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    Tensor sum_du = empty({norm.images, norm.channels}, DType::f64, x.device()), sum_duz = empty_like(sum_du);
    Operands<T> of{hw::ptr<T>(dy),  hw::ptr<T>(x), hw::ptr<T>(gamma), hw::ptr<T>(beta), hw::ptr<C>(mean),
                   hw::ptr<C>(rstd), norm,          silu};
    Span span(norm, 2, sizeof(T), sizeof(C));
    bool aligned = is_aligned(dx, dy, x) && norm.channels % kPack<T> == 0;
    if (span.channels) {
      using Kernel = GroupNormBackward<T>;
      hw::launch(op, {norm.images * (norm.channels / span.channels), Kernel::kThreads, span.bytes},
                 Kernel{hw::ptr<T>(dx), hw::ptr<double>(sum_du), hw::ptr<double>(sum_duz), of.dy, of.x, of.gamma,
                        of.beta, of.mean, of.rstd, norm, span.channels, silu,
                        aligned && span.channels % kPack<T> == 0});
    } else {
      Tensor a = empty({norm.images, norm.parts, norm.channels}, dtype_of<C>, x.device()), b = empty_like(a);
      Tensor total = empty({2, norm.images, norm.channels}, DType::f64, x.device());
      Tensor tilt = empty({norm.images, groups}, dtype_of<C>, x.device()), offset = empty_like(tilt);
      for_each(op, a.numel(), GradientSums<T>{hw::ptr<C>(a), hw::ptr<C>(b), of});
      for_each(op, total.numel(),
               NormFold<C>{hw::ptr<double>(total), hw::ptr<C>(std::as_const(a)), hw::ptr<C>(std::as_const(b)), norm});
      for_each(op, norm.images * groups,
               GroupGradients<T>{hw::ptr<C>(tilt), hw::ptr<C>(offset), hw::ptr<double>(sum_du),
                                 hw::ptr<double>(sum_duz), hw::ptr<double>(std::as_const(total)), of});
      int64_t per_pixel = packs(norm.channels, kPack<T>);
      if (dx.defined())
        for_each(op, norm.images * norm.pixels * per_pixel,
                 InputGradient<T>{hw::ptr<T>(dx), hw::ptr<C>(std::as_const(tilt)), hw::ptr<C>(std::as_const(offset)),
                                  of, per_pixel, aligned});
    }
    if (dgamma.defined() || dbeta.defined())
      for_each(op, norm.channels,
               FoldImages<T>{hw::ptr<T>(dgamma), hw::ptr<T>(dbeta), hw::ptr<double>(std::as_const(sum_duz)),
                             hw::ptr<double>(std::as_const(sum_du)), norm.images, norm.channels});
  });
}

}  // namespace mote::MOTE_CUDA_NAMESPACE
