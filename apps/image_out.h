// image_out.h - where drawn images go: a grid, single PNGs, an array, each with a JSON sidecar that tells how they were
// made. Shared by the commands that draw.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace CLI {
class App;
}

namespace mote::apps {

/// Fails now rather than after an hour of work: Error(usage) if `path` is a folder, Error(resource) if nothing can be
/// written beside it. An empty path is none.
void check_writable(const char* flag, const std::string& path);

struct ImageOutputs {
  std::string out, dir, npy;  // a PNG with all images, a folder of single PNGs, a NumPy array
  int64_t columns = -1;       // of `out`; -1: as square as can be

  /// --out, --columns, --dir, --npy.
  void add_options(CLI::App& sub);
  bool is_any() const { return !(out.empty() && dir.empty() && npy.empty()); }
  /// Throws Error(usage) or Error(resource) for what could not be written.
  void check() const;
  /// Writes images f32 [N, H, W, C] in [-1, 1] and `sidecar` beside each file (FILE.json, DIR/samples.json), all
  /// atomically; returns what was written. Throws Error(resource).
  std::vector<std::string> save(const Tensor& images, const nlohmann::ordered_json& sidecar) const;
};

}  // namespace mote::apps
