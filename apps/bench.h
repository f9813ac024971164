// bench.h - timing against the ceilings of this machine: medians of many runs, their spread, the share of the ceiling.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace mote::apps {

/// What this machine can do at most, measured in this process with the threads that the ops use.
struct Ceilings {
  double fma_gflops = 0;       // f32 fused multiply-adds in registers
  double bandwidth_gbs = 0;    // a[i] = b[i] + s c[i] over arrays larger than the caches, 3 streams counted
};
Ceilings measure_ceilings();

struct Timing {
  double median = 0, min = 0, max = 0;   // seconds
};
/// `runs` timings of `work` after two unmeasured calls.
Timing time_runs(int runs, const std::function<void()>& work);

struct Result {
  std::string name, unit;
  double median = 0, min = 0, max = 0;   // in unit; larger is better
  double share = 0;                      // of the ceiling it is held to, 0 if none
  double images_per_s = 0, peak_mib = 0; // train and sample only
};

/// A result from timings of something that does `amount` (in units times seconds) of work a run.
Result make_result(const std::string& name, const std::string& unit, double amount, const Timing& timing, double ceiling);

nlohmann::json to_json(const Ceilings& ceilings, const std::vector<Result>& results);
/// The table for people; with `against` (the json of another run) each line also shows the ratio to it.
std::string table(const std::vector<Result>& results, const nlohmann::json* against);

}  // namespace mote::apps
