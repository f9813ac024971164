#include "diffusion/resensemble/classes.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/engine.h"
#include "autograd/ops.h"

namespace mote::resensemble {

// ---- Codings --------------------------------------------------------------------------------------------------------

Coding coding_named(const std::string& name) {
  if (name == "binary") return Coding::binary;
  if (name == "one-hot") return Coding::one_hot;
  if (name == "bits") return Coding::bits;
  fail(Error::Kind::usage, "coding '", name, "' is unknown: choose binary, one-hot or bits");
}

const char* name_of(Coding coding) {
  switch (coding) {
    case Coding::binary: return "binary";
    case Coding::one_hot: return "one-hot";
    case Coding::bits: return "bits";
  }
  return "?";
}

int64_t channels_of(Coding coding, int64_t classes) {
  constexpr int64_t kMost = 256;
  if (classes < 2 || classes > kMost || (coding == Coding::binary && classes != 2))
    fail(Error::Kind::usage, "coding ", name_of(coding), ": ", classes, " classes, needs ",
         coding == Coding::binary ? "2" : "2 to 256");
  if (coding == Coding::binary) return 1;
  if (coding == Coding::one_hot) return classes;
  int64_t bits = 1;
  while ((int64_t(1) << bits) < classes) ++bits;
  return bits;
}

namespace {

/// The code of a class on one channel, 1 or -1.
double code(Coding coding, int64_t id, int64_t channel) {
  bool on = coding == Coding::one_hot ? id == channel : (id >> channel) & 1;
  return on ? 1 : -1;
}

void check_ids(const char* op, const Tensor& ids) {
  check(ids.defined() && ids.dtype() == DType::i64 && ids.ndim() == 3, op, ": ids must be i64 [N, H, W], got ",
        describe(ids));
}

/// The class of one pixel's channels.
template <class T>
int64_t decoded(Coding coding, const T* y, int64_t channels, int64_t classes) {
  if (coding == Coding::binary) return y[0] > 0;
  if (coding == Coding::one_hot) return std::max_element(y, y + channels) - y;
  int64_t id = 0;
  for (int64_t c = 0; c < channels; ++c) id |= int64_t(y[c] > 0) << c;
  if (id < classes) return id;
  double best = std::numeric_limits<double>::infinity();
  for (int64_t valid = 0; valid < classes; ++valid) {
    double distance = 0;
    for (int64_t c = 0; c < channels; ++c) distance += std::abs(double(y[c]) - code(coding, valid, c));
    if (distance < best) {
      best = distance;
      id = valid;
    }
  }
  return id;
}

}  // namespace

Tensor encode(Coding coding, const Tensor& ids, int64_t classes, int64_t ignore) {
  check_ids("encode", ids);
  int64_t channels = channels_of(coding, classes);
  Tensor x0 = empty(ids.shape().inserted(3, channels));
  const int64_t* id = ids.data<int64_t>();
  float* x = x0.data<float>();
  for (int64_t i = 0; i < ids.numel(); ++i) {
    bool ignored = ignore >= 0 && id[i] == ignore;
    if (!ignored && (id[i] < 0 || id[i] >= classes))
      fail(Error::Kind::data, "encode: pixel ", i % (ids.size(1) * ids.size(2)), " of mask ",
           i / (ids.size(1) * ids.size(2)), " has class ", id[i], ", there are ", classes);
    for (int64_t c = 0; c < channels; ++c) x[i * channels + c] = ignored ? 0 : float(code(coding, id[i], c));
  }
  return x0;
}

Tensor encode_probabilities(Coding coding, const Tensor& probabilities) {
  check(probabilities.defined() && probabilities.ndim() == 4 && probabilities.dtype() == DType::f32,
        "encode_probabilities: f32 [N, H, W, C] needed, got ", describe(probabilities));
  NoGrad no_grad;
  int64_t C = probabilities.size(3);
  if (coding == Coding::binary)
    check(C == 1, "encode_probabilities: one channel, P(class 1), for binary, got ", describe(probabilities));
  if (coding != Coding::bits) return affine(probabilities, 2, -1);
  int64_t bits = channels_of(coding, C);
  Tensor f = empty(probabilities.shape().with(3, bits));
  const float* p = probabilities.data<float>();
  for (int64_t i = 0; i < probabilities.numel() / C; ++i)
    for (int64_t b = 0; b < bits; ++b) {
      double set = 0;
      for (int64_t c = 0; c < C; ++c)
        if ((c >> b) & 1) set += p[i * C + c];
      f.data<float>()[i * bits + b] = float(std::clamp(2 * set - 1, -1.0, 1.0));
    }
  return f;
}

Tensor decode(Coding coding, const Tensor& given, int64_t classes) {
  int64_t channels = channels_of(coding, classes);
  check(given.defined() && given.ndim() == 4 && given.size(3) == channels && is_floating(given.dtype()),
        "decode: an estimate [N, H, W, ", channels, "] needed, got ", describe(given));
  Tensor y = given.to(Device{}).to(DType::f32), ids = empty(y.shape().without(3), DType::i64);
  for (int64_t i = 0; i < ids.numel(); ++i)
    ids.data<int64_t>()[i] = decoded(coding, y.data<float>() + i * channels, channels, classes);
  return ids;
}

// ---- Ignored pixels -------------------------------------------------------------------------------------------------

Tensor counted(const Tensor& ids, int64_t ignore) {
  check_ids("counted", ids);
  Tensor weight = empty(ids.shape().inserted(3, 1));
  for (int64_t i = 0; i < ids.numel(); ++i)
    weight.data<float>()[i] = ignore >= 0 && ids.data<int64_t>()[i] == ignore ? 0 : 1;
  return weight;
}

Tensor fill_ignored(const Tensor& x0, const Tensor& f, const Tensor& ids, int64_t ignore) {
  check_ids("fill_ignored", ids);
  check(x0.shape() == f.shape() && x0.dtype() == DType::f32 && f.dtype() == DType::f32 && x0.ndim() == 4 &&
            x0.shape().without(3) == ids.shape(),
        "fill_ignored: x0 and f must be f32 [N, H, W, C] of the ids: x0 is ", describe(x0), ", f is ", describe(f),
        ", ids are ", describe(ids));
  Tensor filled = x0.clone();
  int64_t channels = x0.size(3);
  for (int64_t i = 0; ignore >= 0 && i < ids.numel(); ++i)
    if (ids.data<int64_t>()[i] == ignore)
      std::copy_n(f.data<float>() + i * channels, channels, filled.data<float>() + i * channels);
  return filled;
}

// ---- One-hot and samples -------------------------------------------------------------------------------------------

Tensor to_plane(const Tensor& y) {
  check(y.defined() && y.ndim() >= 1 && is_floating(y.dtype()), "to_plane: a floating [..., C] needed, got ",
        describe(y));
  NoGrad no_grad;
  double channels = double(y.size(-1));
  return y - affine(mean(y, {y.ndim() - 1}, true), 1, -(2 - channels) / channels);
}

Tensor class_probabilities(Coding coding, const Tensor& ys, int64_t classes) {
  check(ys.defined() && ys.ndim() == 5, "class_probabilities: samples [K, N, H, W, C] needed, got ", describe(ys));
  constexpr double kSmooth = 0.5;
  int64_t K = ys.size(0);
  Shape pixels = ys.shape().without(0).without(3);
  Tensor p = full(pixels.inserted(3, classes), kSmooth / (double(K) + double(classes) * kSmooth));
  for (int64_t k = 0; k < K; ++k) {
    Tensor ids = decode(coding, ys.rows(k, k + 1).view(ys.shape().without(0)), classes);
    for (int64_t i = 0; i < ids.numel(); ++i)
      p.data<float>()[i * classes + ids.data<int64_t>()[i]] += float(1 / (double(K) + double(classes) * kSmooth));
  }
  return p;
}

}  // namespace mote::resensemble
