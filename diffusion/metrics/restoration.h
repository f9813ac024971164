// restoration.h - how near a restored picture is to the true one: PSNR, SSIM, and whether it is as sharp.
// Pictures are 8-bit here, as they are saved: scores of unrounded values would be other numbers. Published scores also
// differ in the channels, the window of SSIM and the place of rounding; the choices here are the ones written below.
#pragma once
#include <vector>

#include "tensor/tensor.h"

namespace mote::metrics {

/// What is compared: every channel, or the luma of television alone, unrounded:
///   Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255, a grey picture having R = G = B                   [ITU-R BT.601]
enum class Channels { all, luma };

/// 10 log10(255^2 / MSE) in dB, MSE over all pixels and channels; infinite for equal pictures.
///   image, truth u8 [H, W, 1 or 3], same shape
/// Throws Error(argument) otherwise.
double psnr(const Tensor& image, const Tensor& truth, Channels channels = Channels::all);

/// Mean of (2 m n + C1)(2 c + C2) / ((m^2 + n^2 + C1)(v + w + C2)) over the positions where a window of 11 x 11
/// pixels lies inside, then over channels; means m, n, variances v, w and covariance c under Gaussian weights of sigma
/// 1.5 that sum to 1, C1 = (0.01 255)^2, C2 = (0.03 255)^2.                                     [Wang 2004, sec. III]
///   image, truth as for psnr, H and W >= 11; throws Error(argument) otherwise
double ssim(const Tensor& image, const Tensor& truth, Channels channels = Channels::all);

/// Mean length of the gradient: sqrt((right - here)^2 + (below - here)^2) in grey levels, over the pixels that have
/// both neighbours and over channels. Throws Error(argument) unless image is u8 [H, W, 1 or 3] with H and W >= 2.
double gradient_magnitude(const Tensor& image, Channels channels = Channels::all);

/// Scores of one picture; ssim is NaN if a side has fewer than 11 pixels.
struct RestorationScore {
  double psnr = 0, ssim = 0;
  double gradient = 0, true_gradient = 0;   // gradient_magnitude of the picture and of the truth
};

/// The three above. A side of one pixel has no gradient: 0.
RestorationScore restoration_score(const Tensor& image, const Tensor& truth, Channels channels = Channels::all);

/// Means over pictures: of the PSNR, not the PSNR of the mean error.
struct RestorationMeans {
  int64_t count = 0;
  int64_t identical = 0;     // pictures of infinite PSNR, which are left out of its mean
  double psnr = 0;           // infinite if all are identical
  double ssim = 0;           // over the pictures that have one; NaN if none has
  double sharpness = 0;      // mean gradient over mean true gradient: below 1 is blurred; NaN if the truth is flat
};

/// Throws Error(argument) if there are no scores.
RestorationMeans restoration_means(const std::vector<RestorationScore>& scores);

}  // namespace mote::metrics
