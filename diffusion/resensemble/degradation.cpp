#include "diffusion/resensemble/degradation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "diffusion/resensemble/filters.h"
#include "tensor/error.h"
#include "tensor/random.h"

namespace mote::resensemble {

const std::vector<std::string>& restoration_tasks() {
  static const std::vector<std::string> names = {"denoise", "deblur", "inpaint", "sr2", "sr4", "haze", "rain"};
  return names;
}

Damage damage_of(const std::string& task) {
  const std::vector<std::string>& names = restoration_tasks();
  for (size_t i = 0; i < names.size(); ++i)
    if (names[i] == task) return Damage(i);
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
  fail(Error::Kind::usage, "--task: '", task, "' is not known; there are ", list);
}

namespace {

constexpr double kMostPhotons = 500;   // a draw walks through the distribution from 0, whose first term is e^-mean
constexpr uint64_t kStream = 0x646d67; // "dmg": key of the stream of a seed
enum Part : uint64_t { kChoices, kPixels, kField };   // streams of a picture

/// Numbers of one picture: choices for all of it, and draws by the pixel.
class Draws {
 public:
  Draws(uint64_t seed, int64_t image) : stream_(Generator{seed}.fork(kStream).fork(uint64_t(image))) {}
  /// The next number of U(low, high).
  double between(double low, double high) {
    uint64_t bits = random_bits(stream_.fork(kChoices), next_++);
    return low + (high - low) * double(bits >> 11) * 0x1p-53;
  }
  int64_t below(int64_t count) { return std::min(count - 1, int64_t(between(0, double(count)))); }
  Generator part(Part which) const { return stream_.fork(which); }

 private:
  Generator stream_;
  uint64_t next_ = 0;
};

template <class Fn>
Tensor by_pixel(const Tensor& picture, const Fn& fn) {   // fn(value, index)
  Tensor result = empty_like(picture);
  const float* from = picture.data<float>();
  float* to = result.data<float>();
  for (int64_t i = 0; i < picture.numel(); ++i) to[i] = fn(from[i], i);
  return result;
}

// ---- Noise ---------------------------------------------------------------------------------------------------------

Tensor with_noise(const Tensor& clean, double sigma, const Draws& draws) {
  Tensor noise = normal(clean.shape(), DType::f32, draws.part(kPixels));
  const float* n = noise.data<float>();
  float scale = float(2 * sigma / 255);   // [-1, 1] is twice as wide as [0, 1]
  return by_pixel(clean, [&](float value, int64_t i) { return value + scale * n[i]; });
}

/// The Poisson number of this mean that has `chance` at or below it, by walking up from 0.   [Devroye 1986, ch. X.3.3]
int64_t poisson_at(double mean, double chance) {
  int64_t count = 0, most = int64_t(mean + 40 * std::sqrt(mean)) + 100;   // beyond it every term is below 2^-53
  double term = std::exp(-mean), below = term;
  while (below < chance && count < most) below += term *= mean / double(++count);
  return count;
}

Tensor with_photons(const Tensor& clean, double photons, const Draws& draws) {
  Tensor chance = uniform(clean.shape(), DType::f64, draws.part(kPixels));
  const double* u = chance.data<double>();
  return by_pixel(clean, [&](float value, int64_t i) {
    double mean = photons * std::clamp((double(value) + 1) / 2, 0.0, 1.0);
    return float(2 * double(poisson_at(mean, u[i])) / photons - 1);
  });
}

// ---- Holes, coarse sampling ----------------------------------------------------------------------------------------

Tensor with_holes(const Tensor& clean, int64_t side, Draws& draws) {
  int64_t H = clean.size(0), W = clean.size(1), C = clean.size(2);
  int64_t hole = std::max<int64_t>(1, side / 4), rows = std::min(hole, H), columns = std::min(hole, W);
  std::vector<bool> covered(size_t(H * W));
  int64_t missing = 0;
  while (4 * missing < H * W) {
    int64_t top = draws.below(H - rows + 1), left = draws.below(W - columns + 1);
    for (int64_t y = top; y < top + rows; ++y)
      for (int64_t x = left; x < left + columns; ++x) {
        missing += !covered[size_t(y * W + x)];
        covered[size_t(y * W + x)] = true;
      }
  }
  return by_pixel(clean, [&](float value, int64_t i) { return covered[size_t(i / C)] ? 0.0f : value; });
}

Tensor coarse(const Tensor& clean, int64_t factor) {
  int64_t H = clean.size(0), W = clean.size(1);
  return resize_bicubic(resize_bicubic(clean, (H + factor - 1) / factor, (W + factor - 1) / factor), H, W);
}

// ---- Haze ----------------------------------------------------------------------------------------------------------

/// A field of 4 x 4 random numbers, stretched over H x W pixels with bilinear values between.
std::vector<double> smooth_field(int64_t H, int64_t W, const Draws& draws) {
  constexpr int64_t kNodes = 4;
  Tensor nodes = uniform({kNodes, kNodes}, DType::f64, draws.part(kField));
  const double* node = nodes.data<double>();
  auto place = [&](int64_t pixel, int64_t n) { return (double(pixel) + 0.5) / double(n) * double(kNodes - 1); };
  std::vector<double> field(size_t(H * W));
  for (int64_t y = 0; y < H; ++y)
    for (int64_t x = 0; x < W; ++x) {
      double row = place(y, H), column = place(x, W);
      auto r = int64_t(row), c = int64_t(column);   // below kNodes - 1: a pixel's centre lies inside
      double down = row - double(r), right = column - double(c);
      const double* at = node + r * kNodes + c;
      field[size_t(y * W + x)] = (1 - down) * ((1 - right) * at[0] + right * at[1]) +
                                 down * ((1 - right) * at[kNodes] + right * at[kNodes + 1]);
    }
  return field;
}

Tensor with_haze(const Tensor& clean, Draws& draws) {
  int64_t H = clean.size(0), W = clean.size(1), C = clean.size(2);
  double density = draws.between(0.6, 1.8), air = 2 * draws.between(0.7, 1) - 1;   // in [-1, 1] as the picture
  std::vector<double> field = smooth_field(H, W, draws);
  return by_pixel(clean, [&](float value, int64_t i) {
    int64_t pixel = i / C;
    double depth = std::clamp(0.3 + 0.7 * double(pixel / W) / double(H) + 0.3 * field[size_t(pixel)], 0.1, 1.3);
    double seen = std::exp(-density * depth);
    return float(double(value) * seen + air * (1 - seen));
  });
}

// ---- Rain ----------------------------------------------------------------------------------------------------------

/// Brightness of streaks in [H, W]. Drops also fall beyond the edges, so that the rain is as dense there as inside.
std::vector<double> streaks(int64_t H, int64_t W, int64_t side, Draws& draws) {
  constexpr std::array<int64_t, 3> kShort{5, 7, 9}, kLong{9, 15, 21};
  constexpr int64_t kLongFrom = 64;
  constexpr double kDeviation = 0.35;   // of the profile across: 0.7 pixels wide
  double share = draws.between(0.01, 0.04), tilt = draws.between(-30, 30) * std::numbers::pi / 180;
  int64_t length = (side >= kLongFrom ? kLong : kShort)[size_t(draws.below(3))];
  double strength = draws.between(0.3, 0.8), sine = std::sin(tilt), cosine = std::cos(tilt);
  int64_t reach = length / 2 + 1, rows = H + 2 * reach, columns = W + 2 * reach, width = 2 * reach + 1;
  std::vector<double> line;
  for (int64_t v = -reach; v <= reach; ++v)
    for (int64_t u = -reach; u <= reach; ++u) {
      double forth = double(u) * sine + double(v) * cosine, across = double(u) * cosine - double(v) * sine;
      line.push_back(std::clamp(0.5 * double(length) + 0.5 - std::abs(forth), 0.0, 1.0) *
                     std::exp(-0.5 * across * across / (kDeviation * kDeviation)));
    }
  Tensor chances = uniform({rows * columns, 2}, DType::f32, draws.part(kPixels));
  const float* chance = chances.data<float>();
  std::vector<double> light(size_t(H * W));
  for (int64_t drop = 0; drop < rows * columns; ++drop) {
    if (double(chance[2 * drop]) >= share) continue;
    double value = strength * (0.5 + 0.5 * double(chance[2 * drop + 1]));
    int64_t top = drop / columns - 2 * reach, left = drop % columns - 2 * reach;
    for (int64_t v = std::max<int64_t>(0, -top); v < width && top + v < H; ++v)
      for (int64_t u = std::max<int64_t>(0, -left); u < width && left + u < W; ++u)
        light[size_t((top + v) * W + left + u)] += value * line[size_t(v * width + u)];
  }
  return light;
}

Tensor with_rain(const Tensor& clean, const Degradation& degradation, Draws& draws) {
  int64_t C = clean.size(2);
  std::vector<double> light = streaks(clean.size(0), clean.size(1), degradation.side, draws);
  return by_pixel(clean, [&](float value, int64_t i) {
    double x = (double(value) + 1) / 2, s = light[size_t(i / C)];
    double wet = degradation.screen ? 1 - (1 - x) * (1 - std::min(s, 1.0)) : x + s;
    return float(2 * std::clamp(wet, 0.0, 1.0) - 1);
  });
}

}  // namespace

// ---- All of them ---------------------------------------------------------------------------------------------------

void Degradation::validate() const {
  if (!(sigma_low >= 0 && sigma_low <= sigma_high && sigma_high <= 255))
    fail(Error::Kind::usage, "--sigma: must be 0 to 255, or LOW:HIGH in that range, got ", sigma_low, " to ",
         sigma_high);
  if (!(poisson == 0 || (poisson > 0 && poisson <= kMostPhotons)))
    fail(Error::Kind::usage, "--poisson: must be 0 (Gaussian noise) or at most ", kMostPhotons, ", got ", poisson);
  if (poisson > 0 && damage != Damage::noise) fail(Error::Kind::usage, "--poisson: only with --task denoise");
  if (screen && damage != Damage::rain) fail(Error::Kind::usage, "--screen: only with --task rain");
  if (side < 1) fail(Error::Kind::usage, "--size: must be 1 or more, got ", side);
}

Tensor degraded(const Tensor& clean, const Degradation& degradation, uint64_t seed, int64_t image) {
  check(clean.defined() && clean.dtype() == DType::f32 && clean.ndim() == 3 && clean.numel() > 0 && !clean.is_cuda(),
        "degraded: a picture f32 [H, W, C] on the CPU is needed, got ",
        clean.defined() ? concat_text(describe(clean)) : "none");
  constexpr double kBlurNoise = 5;
  Draws draws(seed, image);
  switch (degradation.damage) {
    case Damage::noise:
      if (degradation.poisson > 0) return with_photons(clean, degradation.poisson, draws);
      return with_noise(clean, draws.between(degradation.sigma_low, degradation.sigma_high), draws);
    case Damage::blur: return with_noise(gaussian_blur(clean, draws.between(0.8, 2)), kBlurNoise, draws);
    case Damage::holes: return with_holes(clean, degradation.side, draws);
    case Damage::halved: return coarse(clean, 2);
    case Damage::quartered: return coarse(clean, 4);
    case Damage::haze: return with_haze(clean, draws);
    case Damage::rain: break;
  }
  return with_rain(clean, degradation, draws);
}

Tensor degraded_batch(const Tensor& clean, const Degradation& degradation, uint64_t seed, int64_t first) {
  check(clean.defined() && clean.ndim() == 4, "degraded_batch: pictures [N, H, W, C] are needed");
  Tensor result = empty_like(clean);
  for (int64_t n = 0; n < clean.size(0); ++n) {
    Tensor one = clean.rows(n, n + 1).view(clean.shape().without(0));
    result.rows(n, n + 1).copy_(degraded(one, degradation, seed, first + n).view(clean.shape().with(0, 1)));
  }
  return result;
}

}  // namespace mote::resensemble
