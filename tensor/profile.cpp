#include "tensor/profile.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <utility>

#include "tensor/error.h"

namespace mote {
namespace {

std::atomic<bool> is_active{false};
thread_local bool is_dry = false;
std::mutex costs_mutex;
std::map<std::string, KernelCost> costs_by_name;

}  // namespace

Profile::Profile() {
  check(!is_active, "Profile: one is alive already");
  std::lock_guard lock(costs_mutex);
  costs_by_name.clear();
  is_active = true;
}

Profile::~Profile() { is_active = false; }

bool Profile::active() { return is_active.load(std::memory_order_relaxed); }

void Profile::add(const char* kernel, double seconds, double flops, double bytes) {
  std::lock_guard lock(costs_mutex);
  KernelCost& cost = costs_by_name[kernel];
  cost.name = kernel;
  ++cost.calls;
  cost.seconds += seconds;
  cost.flops += flops;
  cost.bytes += bytes;
}

std::vector<KernelCost> Profile::costs() const {
  std::lock_guard lock(costs_mutex);
  std::vector<KernelCost> sorted;
  for (const auto& [name, cost] : costs_by_name) sorted.push_back(cost);
  std::sort(sorted.begin(), sorted.end(), [](const KernelCost& a, const KernelCost& b) { return a.seconds > b.seconds; });
  return sorted;
}

DryRun::DryRun() : before_(std::exchange(is_dry, true)) {}
DryRun::~DryRun() { is_dry = before_; }
bool DryRun::active() { return is_dry; }

}  // namespace mote
