#include "diffusion/metrics/restoration.h"

#include <array>
#include <cmath>

#include "tensor/cpu/parallel.h"
#include "tensor/error.h"

namespace mote::metrics {
namespace {

constexpr int64_t kWindow = 11;   // pixels of a window of SSIM
constexpr double kSigma = 1.5;

void require_picture(const char* op, const Tensor& image) {
  check(image.defined() && image.dtype() == DType::u8 && image.ndim() == 3 && image.numel() > 0 &&
            (image.size(2) == 1 || image.size(2) == 3) && !image.is_cuda(),
        op, ": a picture u8 [H, W, 1 or 3] on the CPU is needed, got ",
        image.defined() ? concat_text(describe(image)) : "none");
}

void require_pair(const char* op, const Tensor& image, const Tensor& truth) {
  require_picture(op, image);
  require_picture(op, truth);
  check(image.shape() == truth.shape(), op, ": the pictures must have one shape: ", image.shape(), " and ",
        truth.shape());
}

/// What is compared, channel after channel, in grey levels.
std::vector<std::vector<double>> planes_of(const Tensor& image, Channels channels) {
  int64_t pixels = image.size(0) * image.size(1), C = image.size(2);
  const uint8_t* value = image.data<uint8_t>();
  std::vector<std::vector<double>> planes(channels == Channels::luma ? 1 : size_t(C));
  for (std::vector<double>& plane : planes) plane.resize(size_t(pixels));
  for (int64_t i = 0; i < pixels; ++i) {
    if (channels == Channels::all) {
      for (int64_t c = 0; c < C; ++c) planes[size_t(c)][size_t(i)] = value[i * C + c];
    } else {
      double red = value[i * C], green = value[i * C + (C == 3 ? 1 : 0)], blue = value[i * C + (C == 3 ? 2 : 0)];
      planes[0][size_t(i)] = 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255;
    }
  }
  return planes;
}

// ---- SSIM ----------------------------------------------------------------------------------------------------------

const std::array<double, kWindow>& window() {
  static const std::array<double, kWindow> weights = [] {
    std::array<double, kWindow> w;
    double total = 0;
    for (int64_t i = 0; i < kWindow; ++i) {
      double distance = double(i - kWindow / 2) / kSigma;
      total += w[size_t(i)] = std::exp(-0.5 * distance * distance);
    }
    for (double& weight : w) weight /= total;
    return w;
  }();
  return weights;
}

struct Moments {
  double m = 0, n = 0, mm = 0, nn = 0, mn = 0;
  void add(double weight, const Moments& o) {
    m += weight * o.m;
    n += weight * o.n;
    mm += weight * o.mm;
    nn += weight * o.nn;
    mn += weight * o.mn;
  }
  double similarity() const {
    constexpr double kC1 = 0.01 * 255 * 0.01 * 255, kC2 = 0.03 * 255 * 0.03 * 255;
    double v = mm - m * m, w = nn - n * n, c = mn - m * n;
    return (2 * m * n + kC1) * (2 * c + kC2) / ((m * m + n * n + kC1) * (v + w + kC2));
  }
};

/// The window is a product of a column and a row: each row of windows is summed down first, then along.
double plane_ssim(const std::vector<double>& a, const std::vector<double>& b, int64_t H, int64_t W) {
  int64_t rows = H - kWindow + 1, columns = W - kWindow + 1;
  std::vector<double> row_sums(static_cast<size_t>(rows));
  cpu::parallel_for(rows, 4, [&](int64_t begin, int64_t end) {
    std::vector<Moments> down(static_cast<size_t>(W));
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t x = 0; x < W; ++x) {
        Moments sum;
        for (int64_t k = 0; k < kWindow; ++k) {
          double p = a[size_t((row + k) * W + x)], q = b[size_t((row + k) * W + x)];
          sum.add(window()[size_t(k)], {p, q, p * p, q * q, p * q});
        }
        down[size_t(x)] = sum;
      }
      double total = 0;
      for (int64_t x = 0; x < columns; ++x) {
        Moments sum;
        for (int64_t k = 0; k < kWindow; ++k) sum.add(window()[size_t(k)], down[size_t(x + k)]);
        total += sum.similarity();
      }
      row_sums[size_t(row)] = total;
    }
  });
  double total = 0;
  for (double sum : row_sums) total += sum;
  return total / double(rows * columns);
}

}  // namespace

// ---- Scores --------------------------------------------------------------------------------------------------------

double psnr(const Tensor& image, const Tensor& truth, Channels channels) {
  require_pair("psnr", image, truth);
  std::vector<std::vector<double>> a = planes_of(image, channels), b = planes_of(truth, channels);
  double squares = 0;
  for (size_t plane = 0; plane < a.size(); ++plane)
    for (size_t i = 0; i < a[plane].size(); ++i) squares += (a[plane][i] - b[plane][i]) * (a[plane][i] - b[plane][i]);
  return 10 * std::log10(255.0 * 255.0 * double(a.size() * a[0].size()) / squares);
}

double ssim(const Tensor& image, const Tensor& truth, Channels channels) {
  require_pair("ssim", image, truth);
  int64_t H = image.size(0), W = image.size(1);
  check(H >= kWindow && W >= kWindow, "ssim: sides of ", kWindow, " pixels or more are needed, the pictures are ", H,
        " x ", W);
  std::vector<std::vector<double>> a = planes_of(image, channels), b = planes_of(truth, channels);
  double total = 0;
  for (size_t plane = 0; plane < a.size(); ++plane) total += plane_ssim(a[plane], b[plane], H, W);
  return total / double(a.size());
}

double gradient_magnitude(const Tensor& image, Channels channels) {
  require_picture("gradient_magnitude", image);
  int64_t H = image.size(0), W = image.size(1);
  check(H >= 2 && W >= 2, "gradient_magnitude: a side of 2 pixels or more is needed, the picture is ", H, " x ", W);
  double total = 0;
  std::vector<std::vector<double>> planes = planes_of(image, channels);
  for (const std::vector<double>& plane : planes)
    for (int64_t y = 0; y + 1 < H; ++y)
      for (int64_t x = 0; x + 1 < W; ++x) {
        const double* here = plane.data() + y * W + x;
        total += std::hypot(here[1] - here[0], here[W] - here[0]);
      }
  return total / double(int64_t(planes.size()) * (H - 1) * (W - 1));
}

RestorationScore restoration_score(const Tensor& image, const Tensor& truth, Channels channels) {
  require_pair("restoration_score", image, truth);
  int64_t side = std::min(image.size(0), image.size(1));
  RestorationScore score;
  score.psnr = psnr(image, truth, channels);
  score.ssim = side >= kWindow ? ssim(image, truth, channels) : NAN;
  if (side >= 2) {
    score.gradient = gradient_magnitude(image, channels);
    score.true_gradient = gradient_magnitude(truth, channels);
  }
  return score;
}

RestorationMeans restoration_means(const std::vector<RestorationScore>& scores) {
  check(!scores.empty(), "restoration_means: no scores given");
  RestorationMeans means;
  int64_t with_ssim = 0;
  double gradient = 0, true_gradient = 0;
  means.count = int64_t(scores.size());
  for (const RestorationScore& score : scores) {
    if (std::isinf(score.psnr)) ++means.identical;
    else means.psnr += score.psnr;
    if (!std::isnan(score.ssim)) {
      means.ssim += score.ssim;
      ++with_ssim;
    }
    gradient += score.gradient;
    true_gradient += score.true_gradient;
  }
  means.psnr = means.identical == means.count ? INFINITY : means.psnr / double(means.count - means.identical);
  means.ssim = with_ssim > 0 ? means.ssim / double(with_ssim) : NAN;
  means.sharpness = true_gradient > 0 ? gradient / true_gradient : NAN;
  return means;
}

}  // namespace mote::metrics
