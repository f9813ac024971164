// device.h - where a tensor's memory lies and its kernels run.
#pragma once
#include <cstdint>
#include <ostream>

namespace mote {

struct Device {
  enum Kind : uint8_t { cpu, cuda };
  Kind kind = cpu;
  int8_t index = 0;
  bool is_cpu() const { return kind == cpu; }
  bool is_cuda() const { return kind == cuda; }
  bool operator==(const Device&) const = default;
};

inline std::ostream& operator<<(std::ostream& out, Device device) {
  if (device.is_cpu()) return out << "cpu";
  return out << "cuda:" << int(device.index);
}

/// Throws Error(resource) unless kernels can run on `device` in this build and on this machine.
void require_device(Device device);

}  // namespace mote
