// filters.h - classical filters over pictures: what degradations are made of, and what restoration is compared with.
// Pictures are f32 [H, W, C] on the CPU, of any scale; beyond its edges a picture goes on mirrored.
#pragma once
#include "tensor/tensor.h"

namespace mote::resensemble {

/// Picture of height x width pixels by the cubic kernel with a = -0.5, pixel centres at halves. An axis that shrinks by
/// a factor s is read through the kernel widened s times, so that what is too fine for the result is averaged away.
/// The weights of a pixel sum to 1, and a picture of the same size is returned as it is.            [Keys 1981, eq. 4]
/// Throws Error(argument) unless height and width are 1 or more.
Tensor resize_bicubic(const Tensor& picture, int64_t height, int64_t width);

/// Convolution with a Gaussian of standard deviation `sigma` pixels, cut off at 4 sigma. sigma > 0.
Tensor gaussian_blur(const Tensor& picture, double sigma);

/// Median over side x side pixels around each, channel by channel. side is odd.
Tensor median_filter(const Tensor& picture, int64_t side = 3);

/// m + max(v - sigma^2, 0) / max(v, sigma^2) (x - m), with mean m and variance v of the side x side pixels around each,
/// channel by channel: the linear filter of least squared error for noise of deviation `sigma` (in units of the
/// picture) if mean and variance are those of the true picture.                                         [Lee 1980]
///   side odd, sigma > 0
Tensor wiener_filter(const Tensor& picture, double sigma, int64_t side = 5);

}  // namespace mote::resensemble
