#include "nn/segmentation_losses.h"

#include <cmath>
#include <numbers>

namespace mote::nn {
namespace {

/// Per image and channel 1 - (2 sum p g + 1) / (sum p + sum g + 1), and the mean of them.
Tensor dice_loss(const Tensor& p, const Tensor& g) {
  const std::vector<int> pixels = {1, 2};
  Tensor both = affine(sum(p * g, pixels), 2, 1), all = affine(sum(p, pixels) + sum(g, pixels), 1, 1);
  return affine(mean(both / all), -1, 1);
}

double total(const Tensor& weight) {
  double sum = 0;
  for (double w : weight.to_vector()) sum += w;
  if (sum == 0) fail(Error::Kind::data, "segmentation loss: every pixel is ignored");
  return sum;
}

Tensor counted_pixels(const Tensor& ids, int64_t ignore, int64_t classes) {
  Tensor weight = empty(ids.shape().inserted(3, 1));
  for (int64_t i = 0; i < ids.numel(); ++i) {
    int64_t id = ids.data<int64_t>()[i];
    bool ignored = ignore >= 0 && id == ignore;
    if (!ignored && (id < 0 || id >= classes))
      fail(Error::Kind::data, "segmentation loss: a pixel of class ", id, ", there are ", classes);
    weight.data<float>()[i] = ignored ? 0 : 1;
  }
  return weight;
}

void check_logits(const char* op, const Tensor& logits, const Tensor& ids) {
  check(logits.defined() && logits.ndim() == 4 && is_floating(logits.dtype()) && ids.defined() &&
            ids.dtype() == DType::i64 && logits.shape().without(3) == ids.shape(),
        op, ": logits [N, H, W, C] and ids i64 [N, H, W] needed, got ", describe(logits), " and ", describe(ids));
}

}  // namespace

Tensor bce_dice_loss(const Tensor& logits, const Tensor& truth, const Tensor& weight) {
  check(logits.defined() && logits.ndim() == 4 && logits.size(3) == 1 && logits.shape() == truth.shape() &&
            logits.dtype() == truth.dtype(),
        "bce_dice_loss: logits and truth must be [N, H, W, 1] of one dtype, got ", describe(logits), " and ",
        describe(truth));
  Tensor p = sigmoid(logits);
  if (!weight.defined()) return bce_with_logits_loss(logits, truth) + dice_loss(p, truth);
  check(weight.shape() == logits.shape() && weight.dtype() == logits.dtype(),
        "bce_dice_loss: weight must be like the logits, ", describe(logits), ", got ", describe(weight));
  Tensor bce = affine(sum(bce_with_logits(logits, truth) * weight), 1 / total(weight), 0);
  return bce + dice_loss(p * weight, truth * weight);
}

Tensor class_dice_loss(const Tensor& logits, const Tensor& ids, int64_t ignore) {
  check_logits("class_dice_loss", logits, ids);
  int64_t classes = logits.size(3);
  Tensor host = ids.to(Device{}), weight = counted_pixels(host, ignore, classes);
  double pixels = total(weight);
  Tensor one_hot = zeros(logits.shape());
  for (int64_t i = 0; i < host.numel(); ++i)
    if (weight.data<float>()[i] > 0) one_hot.data<float>()[i * classes + host.data<int64_t>()[i]] = 1;
  one_hot = one_hot.to(logits.dtype()).to(logits.device());
  weight = weight.to(logits.dtype()).to(logits.device());
  Tensor log_p = log_softmax(logits);
  Tensor entropy = affine(sum(log_p * one_hot), -1 / pixels, 0);   // one_hot is 0 where ignored
  return entropy + dice_loss(exp(log_p) * weight, one_hot);
}

Tensor l1_loss(const Tensor& x, const Tensor& target) { return mean(abs(x - target)); }

Tensor charbonnier_loss(const Tensor& x, const Tensor& target, double eps) {
  check(eps > 0, "charbonnier_loss: eps must be positive, got ", eps);
  return mean(sqrt(affine(square(x - target), 1, eps)));
}

// ---- Temperature ----------------------------------------------------------------------------------------------------

double fit_temperature(const Tensor& logits, const Tensor& ids, int64_t ignore) {
  check_logits("fit_temperature", logits, ids);
  Tensor z = logits.detach().to(Device{}).to(DType::f32), truth = ids.to(Device{});
  int64_t channels = z.size(3), classes = channels == 1 ? 2 : channels;
  total(counted_pixels(truth, ignore, classes));
  auto loss = [&](double tau) {
    double sum = 0;
    for (int64_t i = 0; i < truth.numel(); ++i) {
      int64_t id = truth.data<int64_t>()[i];
      if (ignore >= 0 && id == ignore) continue;
      const float* pixel = z.data<float>() + i * channels;
      if (channels == 1) {
        double u = (id == 1 ? -pixel[0] : pixel[0]) / tau;   // log(1 + e^u)
        sum += std::max(u, 0.0) + std::log1p(std::exp(-std::abs(u)));
        continue;
      }
      double top = pixel[0], exponentials = 0;
      for (int64_t c = 1; c < channels; ++c) top = std::max(top, double(pixel[c]));
      for (int64_t c = 0; c < channels; ++c) exponentials += std::exp((pixel[c] - top) / tau);
      sum += (top - pixel[id]) / tau + std::log(exponentials);
    }
    return sum;
  };
  // Convex in 1 / tau, so with one minimum in log tau: golden section.
  double low = std::log(1.0 / 20), high = std::log(20.0), ratio = std::numbers::phi - 1;
  double left = high - ratio * (high - low), right = low + ratio * (high - low);
  double at_left = loss(std::exp(left)), at_right = loss(std::exp(right));
  while (high - low > 1e-4) {
    if (at_left <= at_right) {
      high = right;
      right = left;
      at_right = at_left;
      at_left = loss(std::exp(left = high - ratio * (high - low)));
    } else {
      low = left;
      left = right;
      at_left = at_right;
      at_right = loss(std::exp(right = low + ratio * (high - low)));
    }
  }
  return std::exp((low + high) / 2);
}

Tensor probabilities(const Tensor& logits, double temperature) {
  check(temperature > 0, "probabilities: the temperature must be positive, got ", temperature);
  Tensor z = affine(logits, 1 / temperature, 0);
  return logits.size(-1) == 1 ? sigmoid(z) : softmax(z);
}

}  // namespace mote::nn
