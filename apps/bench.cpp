#include "apps/bench.h"

#include <omp.h>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "tensor/cpu/amx.h"
#include "tensor/cpu/tile.h"
#include "tensor/cuda/backend.h"
#include "tensor/io/file.h"
#include "tensor/kernels.h"
#include "tensor/tensor.h"

namespace mote::apps {

Timing time_runs(int runs, const std::function<void()>& work, Device device) {
  constexpr double kShortest = 3e-3;   // seconds of a timing on a GPU
  std::vector<double> seconds;
  auto timed = [&](int64_t calls) {
    auto start = std::chrono::steady_clock::now();
    for (int64_t call = 0; call < calls; ++call) work();
    if (device.is_cuda()) cuda::backend().synchronize(device.index);
    std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    return elapsed.count() / double(calls);
  };
  int64_t calls = 1;
  for (int run = -2; run < runs; ++run) {
    double one = timed(calls);
    if (run == -1 && device.is_cuda()) calls = std::max<int64_t>(1, int64_t(kShortest / one));
    if (run >= 0) seconds.push_back(one);
  }
  std::sort(seconds.begin(), seconds.end());
  return {seconds[seconds.size() / 2], seconds.front(), seconds.back()};
}

// ---- Ceilings ------------------------------------------------------------------------------------------------------

namespace {

constexpr int kChains = 12;   // independent sums, enough to hide the latency of one

/// Chains of fused multiply-adds in registers; returns the floating-point operations done.
double fma_loop(int64_t rounds) {
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

#if defined(__AVX512BF16__)
/// The same with vdpbf16ps: each of the 16 sums takes two products of bf16.
double dot_loop(int64_t rounds) {
  __m512 chain[kChains];
  __m512bh a = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3f80)), b = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3a80));
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) chain[i] = _mm512_set1_ps(float(i));
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) chain[i] = _mm512_dpbf16_ps(chain[i], a, b);
  }
  float sum = 0;
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) sum += chain[i][0];
  volatile float sink = sum;
  (void)sink;
  return 2.0 * 2 * kChains * 16 * double(rounds);
}
#endif

/// GFLOP/s of a loop on all threads. The best of many runs, each shorter than a time slice: a ceiling is what the machine
/// can do, not what it does beside other work.
double peak_of(double (*loop)(int64_t rounds)) {
  constexpr int64_t kRounds = 400'000;
  int threads = omp_get_max_threads();
  double flops = 0;
  Timing timing = time_runs(100, [&] {
    double total = 0;
#pragma omp parallel num_threads(threads) reduction(+ : total)
    total += loop(kRounds);
    flops = total;
  });
  return flops / timing.min / 1e9;
}

/// The same of a GPU: loops that touch no memory, and a copy of more than the caches hold.
Ceilings measure_gpu(Device device) {
  cuda::Backend& gpu = cuda::backend();
  Ceilings ceilings;
  ceilings.device = concat_text(device);
  auto peak = [&](DType dtype) {
    constexpr int64_t kRounds = 20'000;
    double flops = 0;
    Timing timing = time_runs(20, [&] { flops = gpu.compute_loop(device.index, dtype, kRounds); }, device);
    return flops / timing.min / 1e9;
  };
  ceilings.fma_gflops = peak(DType::f32);
  ceilings.bf16_gflops = peak(DType::bf16);
  ceilings.bf16_by = "mma.sync";
  // Later devices have faster instructions than that one, which the product of the toolkit uses.
  constexpr int64_t n = 8192;
  Tensor a = zeros({n, n}, DType::bf16, device), b = zeros_like(a), y = empty_like(a);
  Timing product = time_runs(20, [&] { kernel::matmul(y, a, b, false, false, {}); }, device);
  if (double gflops = 2.0 * n * n * n / product.min / 1e9; gflops > ceilings.bf16_gflops) {
    ceilings.bf16_gflops = gflops;
    ceilings.bf16_by = "a product of 8192^3";
  }
  size_t bytes = size_t(1) << 29;
  Tensor to = empty({int64_t(bytes)}, DType::u8, device), from = empty_like(to);
  gpu.fill(device.index, from.raw(), 0, bytes);
  Timing copy = time_runs(20, [&] { gpu.copy(device, to.raw(), device, from.raw(), bytes); }, device);
  ceilings.bandwidth_gbs = 2.0 * double(bytes) / copy.min / 1e9;
  return ceilings;
}

}  // namespace

Ceilings measure_ceilings(Device device) {
  if (device.is_cuda()) return measure_gpu(device);
  Ceilings ceilings;
  ceilings.fma_gflops = peak_of(fma_loop);
  ceilings.bf16_gflops = ceilings.fma_gflops;
  ceilings.bf16_by = "f32 multiply-add";
#if defined(__AVX512BF16__)
  ceilings.bf16_gflops = peak_of(dot_loop);
  ceilings.bf16_by = "vdpbf16ps";
#endif
  if (cpu::kAmxCompiled && cpu::amx_enabled()) {
    ceilings.bf16_gflops = peak_of(cpu::amx_loop);
    ceilings.bf16_by = "tdpbf16ps";
  }

  int64_t n = int64_t(16) << 20;   // 64 MiB an array
  int threads = omp_get_max_threads();
  Tensor a = zeros({n}), b = zeros({n}), c = zeros({n});
  float *pa = a.data<float>(), *pb = b.data<float>(), *pc = c.data<float>();
  constexpr int64_t kParts = 8;   // a run walks one, so that it is short too; all of them together leave no cache warm
  int64_t part = n / kParts, run = 0;
  Timing triad = time_runs(10 * kParts, [&] {
    int64_t first = run++ % kParts * part;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = first; i < first + part; ++i) pa[i] = pb[i] + 0.5f * pc[i];
  });
  ceilings.bandwidth_gbs = 3.0 * double(part) * 4 / triad.min / 1e9;
  return ceilings;
}

// ---- Results -------------------------------------------------------------------------------------------------------

Result make_result(const std::string& name, const std::string& unit, double amount, const Timing& timing, double ceiling) {
  Result result{name, unit, amount / timing.median, amount / timing.max, amount / timing.min, 0, 0, 0, 0, {}};
  if (ceiling > 0) result.share = result.median / ceiling;
  return result;
}

double Baseline::of(const std::string& name) const {
  for (const auto& [known, median] : medians)
    if (known == name) return median;
  return 0;
}

Baseline read_baseline(const std::string& path) {
  io::Bytes bytes = io::read_file(path, 16 << 20);
  nlohmann::json json = nlohmann::json::parse(bytes.begin(), bytes.end(), nullptr, false);
  Baseline baseline{path, {}};
  auto is_row = [](const nlohmann::json& row) {
    return row.is_object() && row.contains("name") && row["name"].is_string() && row.contains("median") &&
           row["median"].is_number() && row["median"].get<double>() > 0;
  };
  bool complete = json.is_object() && json.contains("results") && json["results"].is_array() &&
                  std::all_of(json["results"].begin(), json["results"].end(), is_row);
  if (!complete) fail(Error::Kind::data, path, ": is not the output of `mote bench --json`");
  for (const nlohmann::json& row : json["results"])
    baseline.medians.emplace_back(row["name"].get<std::string>(), row["median"].get<double>());
  return baseline;
}

namespace {

/// Rows of the earlier run that this one has not measured.
std::vector<std::string> not_measured(const std::vector<Result>& results, const Baseline& against) {
  std::vector<std::string> names;
  for (const auto& row : against.medians)
    if (std::none_of(results.begin(), results.end(), [&](const Result& result) { return result.name == row.first; }))
      names.push_back(row.first);
  return names;
}

template <class... Values>
void print(std::string& text, const char* format, Values... values) {
  char line[256];
  std::snprintf(line, sizeof line, format, values...);
  text += line;
}

void print_costs(std::string& text, const Result& result) {
  double total = 0;
  for (const KernelCost& cost : result.costs) total += cost.seconds;
  print(text, "\n%s, by kernel\n", result.name.c_str());
  print(text, "%-28s %6s %10s %7s %10s %8s\n", "kernel, one step", "calls", "ms", "share", "GFLOP/s", "GB/s");
  for (const KernelCost& cost : result.costs)
    print(text, "%-28s %6ld %10.2f %6.1f%% %10.1f %8.1f\n", cost.name.c_str(), long(cost.calls), 1e3 * cost.seconds,
          100 * cost.seconds / total, cost.flops / cost.seconds / 1e9, cost.bytes / cost.seconds / 1e9);
  print(text, "%-28s %6s %10.2f\n", "all kernels", "", 1e3 * total);
}

}  // namespace

nlohmann::ordered_json to_json(const Ceilings& ceilings, const std::vector<Result>& results, const Baseline* against,
                               bool profile) {
  nlohmann::ordered_json out;
  out["device"] = ceilings.device;
  out["ceilings"] = {{"fma_gflops", ceilings.fma_gflops}, {"bf16_gflops", ceilings.bf16_gflops},
                     {"bf16_by", ceilings.bf16_by}, {"bandwidth_gbs", ceilings.bandwidth_gbs}};
  out["threads"] = omp_get_max_threads();
  out["tile"] = cpu::kTileName;
  out["results"] = nlohmann::ordered_json::array();
  for (const Result& result : results) {
    nlohmann::ordered_json row = {{"name", result.name}, {"unit", result.unit}, {"median", result.median},
                                  {"min", result.min},   {"max", result.max},   {"share", result.share}};
    if (result.images_per_s > 0) {
      row["images_per_s"] = result.images_per_s;
      row["peak_mib"] = result.peak_mib;
    }
    if (result.of_product > 0) row["of_product"] = result.of_product;
    if (against) {
      double before = against->of(result.name);
      row["ratio"] = before > 0 ? nlohmann::ordered_json(result.median / before) : nullptr;
    }
    if (profile && !result.costs.empty()) {
      row["profile"] = nlohmann::ordered_json::array();
      for (const KernelCost& cost : result.costs)
        row["profile"].push_back({{"kernel", cost.name}, {"calls", cost.calls}, {"seconds", cost.seconds},
                                  {"flops", cost.flops}, {"bytes", cost.bytes}});
    }
    out["results"].push_back(row);
  }
  if (against) out["not_measured"] = not_measured(results, *against);
  return out;
}

std::string table(const Ceilings& ceilings, const std::vector<Result>& results, const Baseline* against, bool profile) {
  std::string text;
  print(text, "ceilings of %s: %.1f GFLOP/s f32 multiply-add, %.1f GFLOP/s bf16 (%s), %.1f GB/s memory\n\n",
        ceilings.device.c_str(), ceilings.fma_gflops, ceilings.bf16_gflops, ceilings.bf16_by, ceilings.bandwidth_gbs);
  print(text, "%-44s %10s %10s %10s  %-8s %7s%s\n", "name", "median", "min", "max", "unit", "share", against ? "   ratio" : "");
  bool any_direct = false;
  for (const Result& result : results) {
    bool direct = result.unit == kDirectGflops;
    any_direct |= direct;
    print(text, "%-44s %10.1f %10.1f %10.1f  %-8s", result.name.c_str(), result.median, result.min, result.max,
          direct ? "GFLOP/s*" : result.unit.c_str());
    if (result.share > 0) print(text, " %6.1f%%", 100 * result.share);
    else print(text, " %7s", "-");
    if (against && against->of(result.name) > 0) print(text, "   %.2fx", result.median / against->of(result.name));
    else if (against) print(text, "   is not in %s", against->path.c_str());
    if (result.images_per_s > 0) print(text, "   %.1f images/s, peak %.0f MiB", result.images_per_s, result.peak_mib);
    if (result.of_product > 0) print(text, "   %.0f%% of the product", 100 * result.of_product);
    text += '\n';
  }
  if (any_direct) print(text, "* %s\n", kDirectGflops);
  if (against)
    for (const std::string& name : not_measured(results, *against))
      print(text, "only in %s: %s\n", against->path.c_str(), name.c_str());
  if (profile)
    for (const Result& result : results)
      if (!result.costs.empty()) print_costs(text, result);
  return text;
}

}  // namespace mote::apps
