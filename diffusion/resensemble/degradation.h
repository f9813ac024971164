// degradation.h - damaged pictures made from clean ones: noise, blur, holes, coarse sampling, haze, rain.
// What happens to a picture is a function of (seed, number of the picture, pixel) alone: neither the batch that it
// stands in nor the number of threads changes it.
#pragma once
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace mote::resensemble {

enum class Damage { noise, blur, holes, halved, quartered, haze, rain };

/// By the name of the task that undoes it: denoise, deblur, inpaint, sr2, sr4, haze, rain; Error(usage) otherwise.
Damage damage_of(const std::string& task);
const std::vector<std::string>& restoration_tasks();

struct Degradation {
  Damage damage = Damage::noise;
  double sigma_low = 25, sigma_high = 25;   // noise: its deviation in grey levels of 255, one a picture from this range
  double poisson = 0;                       // noise: above 0, instead: photons that white stands for
  bool screen = false;                      // rain: 1 - (1 - x)(1 - s) instead of x + s
  int64_t side = 32;                        // the side of the pictures trained on: what is measured in pixels and not
                                            // given here follows it, also in pictures of another size
  /// Throws Error(usage) naming the flag for a value out of range.
  void validate() const;
};

/// The damaged picture, in the size and scale of the clean one. With x the clean picture in [0, 1]:
///   noise      x + sigma n / 255, n ~ N(0, 1); or Poisson(P x) / P with P = poisson
///   blur       x under a Gaussian of s ~ U(0.8, 2) pixels, then noise of sigma 5
///   holes      squares of a quarter of `side` pixels at random places, until they cover 25 % or more, are mid-grey
///   halved     x shrunk to half of its sides, rounded up, and enlarged again by resize_bicubic; quartered likewise
///   haze       x tau + A (1 - tau), tau = exp(-b d), d = 0.3 + 0.7 row / H + 0.3 f held in [0.1, 1.3],
///              b ~ U(0.6, 1.8), A ~ U(0.7, 1), f a field of 4 x 4 numbers ~ U(0, 1) with bilinear values between
///   rain       x + s held in [0, 1]: drops ~ U(0.5, 1) at a share p ~ U(0.01, 0.04) of the pixels become lines of 5, 7
///              or 9 pixels (9, 15 or 21 from side 64 on), 0.7 wide, 30 degrees or less off the vertical; s is their
///              sum times a ~ U(0.3, 0.8)
///   clean      f32 [H, W, C] in [-1, 1] on the CPU; the result may leave that range where noise is added
/// Throws Error(argument) for another tensor.
Tensor degraded(const Tensor& clean, const Degradation& degradation, uint64_t seed, int64_t image);

/// The same for [N, H, W, C], the pictures number first, first + 1, ...
Tensor degraded_batch(const Tensor& clean, const Degradation& degradation, uint64_t seed, int64_t first);

}  // namespace mote::resensemble
