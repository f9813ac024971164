// bench.h - timing against the ceilings of this machine: medians of many runs, their spread, the share of the ceiling.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "tensor/device.h"
#include "tensor/dtype.h"
#include "tensor/profile.h"

namespace mote::apps {

/// What this machine can do at most, measured in this process with the threads that the ops use.
struct Ceilings {
  double fma_gflops = 0;       // f32 fused multiply-adds in registers
  double bf16_gflops = 0;      // products of bf16 summed in f32, in registers
  const char* bf16_by = "";    // the instruction that does it: f32 multiply-adds where there is none for bf16
  double bandwidth_gbs = 0;    // a[i] = b[i] + s c[i] over arrays larger than the caches, 3 streams counted;
                               // on a GPU of a copy, 2 streams counted
  std::string device = "cpu";
  double gflops(DType dtype) const { return dtype == DType::bf16 ? bf16_gflops : fma_gflops; }
};
Ceilings measure_ceilings(Device device);

struct Timing {
  double median = 0, min = 0, max = 0;   // seconds
};
/// `runs` timings of `work` after two unmeasured calls. On a GPU, where a launch returns before its work is done and some
/// kernels take less time than the wait for them, a timing is the mean of as many calls as fill a few milliseconds.
Timing time_runs(int runs, const std::function<void()>& work, Device device = {});

inline constexpr const char* kGflops = "GFLOP/s";
/// For work with 3x3 convolutions: counted as the direct sum does it, so an algorithm that multiplies less may pass the
/// ceiling.
inline constexpr const char* kDirectGflops = "GFLOP/s of the direct method";
inline constexpr const char* kGbs = "GB/s";

struct Result {
  std::string name, unit;
  double median = 0, min = 0, max = 0;   // in unit; larger is better
  double share = 0;                      // of the ceiling it is held to, 0 if none; may pass 1 in kDirectGflops
  double images_per_s = 0, peak_mib = 0; // train and sample only, as is
  double of_product = 0;                 // ot only: of the speed of the plain product of the same operands, 0 if none
  std::vector<KernelCost> costs;         // the cost of one step by kernel
};

/// A result from timings of something that does `amount` (in units times seconds) of work a run.
Result make_result(const std::string& name, const std::string& unit, double amount, const Timing& timing, double ceiling);

/// An earlier run to compare with, by name.
struct Baseline {
  std::string path;
  std::vector<std::pair<std::string, double>> medians;
  /// The median of a row, 0 if there is none of this name.
  double of(const std::string& name) const;
};
/// Throws Error(data) if the file is not what to_json writes.
Baseline read_baseline(const std::string& path);

/// The object that `mote bench --json` prints. With `against` each row has `ratio`, its median over that of the row of
/// the same name (null if there is none), and `not_measured` lists the rows that only the earlier run has. `profile`
/// adds the costs to rows that have them.
nlohmann::ordered_json to_json(const Ceilings& ceilings, const std::vector<Result>& results, const Baseline* against,
                               bool profile);
/// The same for people.
std::string table(const Ceilings& ceilings, const std::vector<Result>& results, const Baseline* against, bool profile);

}  // namespace mote::apps
