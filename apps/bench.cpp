#include "apps/bench.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "tensor/cpu/tile.h"
#include "tensor/tensor.h"

namespace mote::apps {

Timing time_runs(int runs, const std::function<void()>& work) {
  std::vector<double> seconds;
  for (int run = -2; run < runs; ++run) {
    auto start = std::chrono::steady_clock::now();
    work();
    std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    if (run >= 0) seconds.push_back(elapsed.count());
  }
  std::sort(seconds.begin(), seconds.end());
  return {seconds[seconds.size() / 2], seconds.front(), seconds.back()};
}

namespace {

/// Independent chains of fused multiply-adds, enough to hide their latency: 8 FLOP a lane and round.
double fma_loop(int64_t rounds) {
  constexpr int kChains = 12;
  cpu::Vector<float> chain[kChains], factor = cpu::Vector<float>{} + 0.999f, addend = cpu::Vector<float>{} + 0.001f;
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) chain[i] = cpu::Vector<float>{} + float(i);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) chain[i] = chain[i] * factor + addend;
  }
  float sum = 0;
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) sum += chain[i][0];
  volatile float sink = sum;   // the loop must not be dropped
  (void)sink;
  return 2.0 * kChains * cpu::kLanes<float> * double(rounds);
}

}  // namespace

Ceilings measure_ceilings() {
  Ceilings ceilings;
  int threads = omp_get_max_threads();
  constexpr int64_t kRounds = 4'000'000;
  double flops = 0;
  // The best of several: a ceiling is what the machine can do, not what it does beside other work.
  Timing fma = time_runs(7, [&] {
    double total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
    total += fma_loop(kRounds);
    flops = total;
  });
  ceilings.fma_gflops = flops / fma.min / 1e9;

  int64_t n = int64_t(16) << 20;   // 64 MiB an array
  Tensor a = zeros({n}), b = zeros({n}), c = zeros({n});
  float *pa = a.data<float>(), *pb = b.data<float>(), *pc = c.data<float>();
  Timing triad = time_runs(7, [&] {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < n; ++i) pa[i] = pb[i] + 0.5f * pc[i];
  });
  ceilings.bandwidth_gbs = 3.0 * double(n) * 4 / triad.min / 1e9;
  return ceilings;
}

Result make_result(const std::string& name, const std::string& unit, double amount, const Timing& timing, double ceiling) {
  Result result{name, unit, amount / timing.median, amount / timing.max, amount / timing.min, 0, 0, 0};
  if (ceiling > 0) result.share = result.median / ceiling;
  return result;
}

nlohmann::json to_json(const Ceilings& ceilings, const std::vector<Result>& results) {
  nlohmann::json out;
  out["ceilings"] = {{"fma_gflops", ceilings.fma_gflops}, {"bandwidth_gbs", ceilings.bandwidth_gbs}};
  out["threads"] = omp_get_max_threads();
  out["tile"] = cpu::kTileName;
  out["results"] = nlohmann::json::array();
  for (const Result& result : results) {
    nlohmann::json row = {{"name", result.name}, {"unit", result.unit},   {"median", result.median},
                          {"min", result.min},   {"max", result.max},     {"share", result.share}};
    if (result.images_per_s > 0) {
      row["images_per_s"] = result.images_per_s;
      row["peak_mib"] = result.peak_mib;
    }
    out["results"].push_back(row);
  }
  return out;
}

std::string table(const std::vector<Result>& results, const nlohmann::json* against) {
  std::string text;
  char line[256];
  std::snprintf(line, sizeof line, "%-44s %10s %10s %10s  %-8s %6s%s\n", "name", "median", "min", "max", "unit", "share",
                against ? "   ratio" : "");
  text += line;
  for (const Result& result : results) {
    std::snprintf(line, sizeof line, "%-44s %10.1f %10.1f %10.1f  %-8s", result.name.c_str(), result.median, result.min,
                  result.max, result.unit.c_str());
    text += line;
    if (result.share > 0) std::snprintf(line, sizeof line, " %5.1f%%", 100 * result.share);
    else std::snprintf(line, sizeof line, " %6s", "-");
    text += line;
    if (result.peak_mib > 0) {
      std::snprintf(line, sizeof line, "   peak %.0f MiB", result.peak_mib);
      text += line;
    }
    if (against) {
      for (const auto& row : against->at("results"))
        if (row.at("name") == result.name) {
          std::snprintf(line, sizeof line, "   %.2fx", result.median / row.at("median").get<double>());
          text += line;
        }
    }
    text += '\n';
  }
  return text;
}

}  // namespace mote::apps
