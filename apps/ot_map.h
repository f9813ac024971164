// ot_map.h - the file of a transport map: heights, the points they choose from, and everything that says what the map
// is of and how good it is. `mote ot` writes it; `mote sample` and `mote compare` draw with it.
#pragma once
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "apps/checkpoint.h"
#include "apps/draw.h"
#include "diffusion/ot/pipeline.h"
#include "diffusion/ot/solver.h"

namespace mote::apps {

/// What the images of a map are for: a level of one trained network.
struct MapNetwork {
  std::string checkpoint_hash, schedule;
  int64_t T = 0;
  int64_t level = 0;  // M, from 0 (least noisy)
  ot::Latents latents = ot::Latents::fresh;
};

struct OtMap {
  Tensor points;                      // u8 [N, H, W, C] images, or f32 [N, D]
  std::vector<double> weights;        // empty: equal
  Tensor heights;                     // f32 [N], mean 0
  std::optional<MapNetwork> network;  // of a map of images
  std::string data, data_hash;        // the SPEC (and split) or file of the points, hash of what was read

  ot::Source::Kind source = ot::Source::Kind::gaussian;
  DType dtype = DType::f32;  // of the operands
  uint64_t seed = 0;         // of the solver, and of stored noise
  std::string recipe;        // ours or paper
  double wanted_chi2 = 0;
  ot::SolverResult result;  // its heights are not used

  std::string hash, path;  // of the file; set by save and load

  bool is_images() const { return points.dtype() == DType::u8; }
  int64_t count() const { return points.size(0); }
  int64_t width() const { return points.numel() / points.size(0); }
  /// The points as the solver saw them: images in [-1, 1], with the stored noise where latents are stored.
  ot::Targets targets() const;
};

/// One safetensors file, written atomically; sets map.hash and map.path. Throws Error(resource) if it cannot be
/// written.
void save_ot_map(const std::string& path, OtMap& map);

/// Everything read and checked. Throws Error(checkpoint) naming file and cause, Error(data) if it cannot be opened.
OtMap load_ot_map(const std::string& path);

/// Throws Error(checkpoint) unless the map is one of images of this network: size, channels, schedule, T and
/// checkpoint.
void require_map_of(const OtMap& map, const Checkpoint& checkpoint);

/// What a table says of a map: chi2 with its interval, samples, seconds and flops of the solve.
nlohmann::ordered_json describe_map(const OtMap& map);
std::string map_text(const OtMap& map);  // the same in one line

// ---- dpm-ot as a sampler -------------------------------------------------------------------------------------------

/// "dpm-ot[:LEVEL[:FINISH]][@FILE]": the level defaults to the map's, the sampler that goes on from there to `finish`,
/// the file to `file`. "copy[@FILE]" takes the chosen targets as they are.
struct DpmOtName {
  std::string text, file, finish;
  int64_t level = -1;  // the map's
  bool is_copy = false;
  /// dpm-ot:300:ddim or copy: what tables and files call it.
  std::string label(const OtMap& map) const;
};
bool is_dpm_ot(const std::string& name);
/// Throws Error(usage) for another form, an unknown finish, or if neither the name nor `file` names a map.
DpmOtName dpm_ot_name(const std::string& name, const std::string& file, const std::string& finish);

/// The level M that states are made at. Throws Error(usage) for one outside the schedule, or another than the map's if
/// its latents are stored.
int64_t start_level(const OtMap& map, int64_t wanted);

/// `base` with the sampler, the start level and the number of steps that call the network `calls` times after the jump.
/// Throws Error(usage) if there is no such number, or an option of `base` is one that the finish does not take.
SamplerOptions finish_options(const OtMap& map, const DpmOtName& name, SamplerOptions base, int64_t calls);

/// A map ready to draw with: the states of image first, first + 1, ... of a seed, and the targets chosen for them.
class Jump {
 public:
  explicit Jump(OtMap map) : map_(std::move(map)), targets_(map_.targets()) {}
  const OtMap& map() const { return map_; }
  ot::Start start(const Schedule& schedule, int64_t level, uint64_t seed, int64_t first, int64_t count) const;
  /// Numbers of the points chosen for images 0 .. count - 1, and those points as bytes.
  std::vector<int64_t> chosen(uint64_t seed, int64_t count) const;

 private:
  ot::Source source() const { return {.kind = map_.source, .width = map_.width()}; }
  OtMap map_;
  ot::Targets targets_;
};

}  // namespace mote::apps
