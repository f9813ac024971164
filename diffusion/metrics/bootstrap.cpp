#include "diffusion/metrics/bootstrap.h"

#include <algorithm>
#include <cmath>

#include "tensor/cpu/parallel.h"
#include "tensor/error.h"
#include "tensor/random.h"

namespace mote::metrics {
namespace {

constexpr uint64_t kBootstrapKey = 0x626f6f74;   // "boot"

}  // namespace

Interval bootstrap(const std::vector<double>& values, uint64_t seed, int64_t resamples, double level) {
  check(resamples >= 1 && level > 0 && level < 1, "bootstrap: needs 1 resample or more and a level in (0, 1), got ",
        resamples, " and ", level);
  std::vector<double> kept;
  std::copy_if(values.begin(), values.end(), std::back_inserter(kept), [](double v) { return !std::isnan(v); });
  check(!kept.empty(), "bootstrap: needs a value or more, got none of ", values.size());
  auto N = uint64_t(kept.size());
  Generator generator = Generator{seed}.fork(kBootstrapKey);
  std::vector<double> means(static_cast<size_t>(resamples));
  cpu::parallel_for(resamples, std::max<int64_t>(1, cpu::kGrain / int64_t(N)), [&](int64_t first, int64_t last) {
    for (int64_t resample = first; resample < last; ++resample) {
      double sum = 0;
      for (uint64_t place = 0; place < N; ++place) {
        uint64_t bits = random_bits(generator, uint64_t(resample) * N + place);
        sum += kept[size_t(static_cast<unsigned __int128>(bits) * N >> 64)];
      }
      means[size_t(resample)] = sum / double(N);
    }
  });
  Interval interval;
  for (double value : kept) interval.mean += value / double(N);
  interval.low = linear_quantile(means, (1 - level) / 2);
  interval.high = linear_quantile(std::move(means), (1 + level) / 2);
  return interval;
}

Interval paired_bootstrap(const std::vector<double>& a, const std::vector<double>& b, uint64_t seed, int64_t resamples,
                          double level) {
  check(a.size() == b.size(), "paired_bootstrap: needs as many values on both sides, got ", a.size(), " and ",
        b.size());
  std::vector<double> differences(a.size());
  std::transform(a.begin(), a.end(), b.begin(), differences.begin(), std::minus<>());
  return bootstrap(differences, seed, resamples, level);
}

double linear_quantile(std::vector<double> values, double q) {
  check(!values.empty() && q >= 0 && q <= 1, "linear_quantile: needs values and a share in [0, 1], got ",
        values.size(), " values and ", q);
  std::sort(values.begin(), values.end());
  double place = q * double(values.size() - 1);
  auto left = size_t(place);
  if (left + 1 == values.size()) return values[left];
  return values[left] + (place - double(left)) * (values[left + 1] - values[left]);
}

}  // namespace mote::metrics
