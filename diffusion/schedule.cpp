#include "diffusion/schedule.h"

#include <algorithm>
#include <charconv>
#include <numbers>

#include "tensor/error.h"

namespace mote {

// ---- Schedule ------------------------------------------------------------------------------------------------------

namespace {

void require_steps(const char* name, int64_t steps) {
  if (steps < 1 || steps > Schedule::kMaxSteps)
    fail(Error::Kind::usage, name, " schedule: T = ", steps, " steps asked for, needs 1 to ", Schedule::kMaxSteps);
}

std::string list_of(const std::vector<std::string>& names) {
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
  return list;
}

}  // namespace

Schedule::Schedule(std::string name, std::vector<double> beta) : name_(std::move(name)), beta_(std::move(beta)) {
  double abar = 1, variance = 0;
  for (double b : beta_) {
    variance += b * abar;   // 1 - (1 - b) abar = (1 - abar) + b abar: a sum of positive terms never cancels
    abar *= 1 - b;
    abar_.push_back(abar);
    variance_.push_back(variance);
  }
}

Schedule Schedule::linear(int64_t steps, double b0, double b1) {
  require_steps("linear", steps);
  if (!(b0 > 0 && b0 <= b1 && b1 < 1))
    fail(Error::Kind::usage, "linear schedule: needs 0 < b0 <= b1 < 1, got b0 = ", b0, ", b1 = ", b1);
  std::vector<double> beta(steps, b0);
  for (int64_t n = 1; n < steps; ++n) beta[n] = b0 + (b1 - b0) * double(n) / double(steps - 1);
  return Schedule("linear", std::move(beta));
}

Schedule Schedule::cosine(int64_t steps) {
  require_steps("cosine", steps);
  constexpr double kShift = 0.008, kCap = 0.999;
  auto angle = [&](int64_t i) { return (double(i) / double(steps) + kShift) / (1 + kShift) * std::numbers::pi / 2; };
  std::vector<double> beta(steps);
  for (int64_t n = 0; n < steps; ++n) {
    // 1 - cos^2 q / cos^2 p = sin(q - p) sin(q + p) / cos^2 p: the left side loses five digits at small n
    double p = angle(n), q = angle(n + 1);
    double cos_p = std::cos(p);
    beta[n] = std::min(std::sin(q - p) * std::sin(q + p) / (cos_p * cos_p), kCap);
  }
  return Schedule("cosine", std::move(beta));
}

Schedule Schedule::of_betas(std::string name, std::vector<double> beta) {
  require_steps(name.c_str(), int64_t(beta.size()));
  for (double b : beta)
    if (!(b > 0 && b < 1)) fail(Error::Kind::usage, name, " schedule: a beta of ", b, ", needs 0 < beta < 1");
  return Schedule(std::move(name), std::move(beta));
}

Schedule Schedule::named(const std::string& name, int64_t steps) {
  if (name == "linear") return linear(steps);
  if (name == "cosine") return cosine(steps);
  if (name.starts_with("linear:")) {
    const char* end = name.data() + name.size();
    double b0 = 0, b1 = 0;
    auto first = std::from_chars(name.data() + 7, end, b0);
    if (first.ec == std::errc() && first.ptr < end && *first.ptr == ',') {
      auto second = std::from_chars(first.ptr + 1, end, b1);
      if (second.ec == std::errc() && second.ptr == end) return linear(steps, b0, b1);
    }
    fail(Error::Kind::usage, "schedule '", name, "': two numbers are needed, as in linear:0.0001,0.02");
  }
  fail(Error::Kind::usage, "schedule '", name, "' is unknown: choose linear or cosine");
}

double Schedule::beta(int64_t n) const {
  check(n >= 0 && n < steps(), "Schedule::beta: step ", n, " lies outside 0..", steps() - 1);
  return beta_[n];
}

Level Schedule::level(int64_t n) const {
  check(n >= -1 && n < steps(), "Schedule: level ", n, " lies outside -1..", steps() - 1);
  if (n < 0) return {};
  return {double(n), abar_[n], variance_[n]};
}

Level Level::of_lambda(double t, double lambda) {
  return {t, 1 / (1 + std::exp(-2 * lambda)), 1 / (1 + std::exp(2 * lambda))};
}

Level Schedule::at(double t) const {
  check((t >= 0 && t <= double(steps() - 1)) || t == -1, "Schedule: level ", t, " lies outside 0..", steps() - 1,
        " and is not the clean one, -1");
  double below = std::floor(t), share = t - below;
  Level low = level(int64_t(below));
  if (share == 0) return low;
  double lambda = low.lambda();
  return Level::of_lambda(t, lambda + share * (level(int64_t(below) + 1).lambda() - lambda));
}

Level Schedule::at_lambda(double lambda) const {
  double first = level(0).lambda(), last = level(steps() - 1).lambda();
  double slack = 1e-12 * (1 + std::abs(lambda));
  check(lambda <= first + slack && lambda >= last - slack, "Schedule: lambda = ", lambda, " lies outside ", last, "..",
        first);
  if (lambda >= first) return level(0);
  if (lambda <= last) return level(steps() - 1);
  int64_t low = 0, high = steps() - 1;   // lambda(low) > lambda >= lambda(high)
  while (high - low > 1) {
    int64_t middle = (low + high) / 2;
    (level(middle).lambda() > lambda ? low : high) = middle;
  }
  double above = level(low).lambda();
  return Level::of_lambda(double(low) + (above - lambda) / (above - level(high).lambda()), lambda);
}

double jump_beta(const Level& from, const Level& to) {
  // (abar_to - abar_from) / abar_to; abar and variance differ by the same amount, and the smaller of the two carries
  // the smaller rounding error: variances at the clean end, abars at the noisy one
  double fall = to.variance < to.abar ? from.variance - to.variance : to.abar - from.abar;
  return fall / to.abar;
}

// ---- Continuous time -----------------------------------------------------------------------------------------------

VpSchedule::VpSchedule(double b0, double b1, double scale) : b0_(b0), b1_(b1), scale_(scale) {
  if (!(b0 > 0 && b0 <= b1 && std::isfinite(b1) && scale > 0 && std::isfinite(scale)))
    fail(Error::Kind::usage, "VpSchedule: needs 0 < b0 <= b1 and scale > 0, got b0 = ", b0, ", b1 = ", b1, ", scale = ",
         scale);
}

VpSchedule VpSchedule::limit_of(const Schedule& schedule) {
  int64_t T = schedule.steps();
  if (schedule.name() != "linear" || T < 2)
    fail(Error::Kind::usage, "VpSchedule: continuous time needs a linear schedule of 2 or more steps, this one is ",
         schedule.name(), " with T = ", T);
  return VpSchedule(double(T) * schedule.beta(0), double(T) * schedule.beta(T - 1), double(T - 1));
}

Level VpSchedule::at(double t) const {
  check(t > 0 && t <= scale_ * (1 + 1e-12), "VpSchedule: t = ", t, " lies outside 0 < t <= ", scale_);
  double s = t / scale_, log_abar = -s * (s * (b1_ - b0_) / 2 + b0_);
  return {t, std::exp(log_abar), -std::expm1(log_abar)};
}

Level VpSchedule::at_lambda(double lambda) const {
  check(std::isfinite(lambda), "VpSchedule: lambda = ", lambda, " is not finite");
  // (b1 - b0) / 4 s^2 + b0 / 2 s = fall, and the root written so that nothing cancels when s is small
  double fall = 0.5 * std::log1p(std::exp(-2 * lambda));
  double s = 2 * fall / (b0_ / 2 + std::sqrt(b0_ * b0_ / 4 + (b1_ - b0_) * fall));
  check(s <= 1 + 1e-12, "VpSchedule: lambda = ", lambda, " is noisier than the process gets, lambda = ",
        at(scale_).lambda());
  return Level::of_lambda(scale_ * s, lambda);
}

double VpSchedule::rate(double t) const { return (b0_ + t / scale_ * (b1_ - b0_)) / (2 * scale_); }

// ---- Timesteps -----------------------------------------------------------------------------------------------------

namespace {

std::vector<int64_t> ascending_grid(int64_t T, int64_t N, const std::string& grid) {
  std::vector<int64_t> list(N);
  for (int64_t i = 0; i < N; ++i) {
    if (grid == "uniform") {
      list[i] = i * (T / N);
    } else if (grid == "quadratic") {
      // floor(0.8 T i^2 / (N - 1)^2) in integers: in floating point a square that should be whole may fall just below
      int64_t square = 4 * T * i * i / (5 * (N - 1) * (N - 1));   // below 2^62 for T <= kMaxSteps
      list[i] = i == 0 ? 0 : std::max(square, list[i - 1] + 1);
    } else if (grid == "trailing") {
      list[N - 1 - i] = int64_t(std::nearbyint(double(T) - double(i * T) / double(N))) - 1;
    } else {
      list[i] = int64_t(std::nearbyint(double(i * (T - 1)) / double(N - 1)));
    }
  }
  return list;
}

}  // namespace

const std::vector<std::string>& grid_names() {
  static const std::vector<std::string> names = {"uniform", "quadratic", "trailing", "linspace"};
  return names;
}

std::vector<TimeStep> timesteps(int64_t T, int64_t N, const std::string& grid) {
  const std::vector<std::string>& names = grid_names();
  if (std::find(names.begin(), names.end(), grid) == names.end())
    fail(Error::Kind::usage, "timestep grid '", grid, "' is unknown: choose one of ", list_of(names));
  if (T < 1 || T > Schedule::kMaxSteps)
    fail(Error::Kind::usage, "timesteps: T = ", T, " training steps, needs 1 to ", Schedule::kMaxSteps);
  if (N < 1 || N > T)
    fail(Error::Kind::usage, "timesteps: ", N, " sampling steps asked for, needs 1 to T = ", T);
  std::vector<int64_t> levels = N == 1 ? std::vector<int64_t>{T - 1} : ascending_grid(T, N, grid);
  std::vector<TimeStep> steps(N);
  for (int64_t i = 0; i < N; ++i) steps[N - 1 - i] = {levels[i], i == 0 ? -1 : levels[i - 1]};
  return steps;
}

}  // namespace mote
