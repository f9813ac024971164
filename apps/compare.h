// compare.h - what `mote compare` keeps and shows: one file a cell (sampler, steps, seed), and the table, CSV, curves
// and page made from them. Drawing and scoring are in cmd_compare.cpp.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "apps/scores.h"
#include "tensor/tensor.h"

namespace mote::apps {

struct Cell {
  std::string sampler;
  int64_t steps = 0;
  uint64_t seed = 0;
  int64_t calls = 0;           // network calls an image; 0 if the sampler refuses
  std::string refused;         // why the sampler does not take these steps; empty if it does
  std::string failed;          // why drawing broke off, such as samples that are not finite
  bool is_done = false;        // scored, now or in an earlier run; refused and failed cells are not
  Scores scores;
  double seconds = 0;          // drawing took
  std::string name() const;    // ddim-50-seed1
  const char* state() const;   // done, refused, failed or open
  const std::string& reason() const { return refused.empty() ? failed : refused; }
};

/// The first images of a cell that is being drawn.
struct PartOfCell {
  Tensor images;               // u8 [n, H, W, C], n images of the cell's seed; undefined if n = 0
  double seconds = 0;          // drawing them took
  int64_t count() const { return images.defined() ? images.size(0) : 0; }
};

/// The scores of real images against real ones, in the place of samples.
struct Floor {
  std::string how;             // train against test
  int64_t count = 0;           // images each
  bool is_done = false;
  Scores scores;
};

/// A folder of finished cells. Each is one JSON file, written atomically, that also holds the settings it was made
/// with: numbers made in two ways never stand in one table.
class CellStore {
 public:
  using Json = nlohmann::ordered_json;
  /// Makes no folder yet.
  explicit CellStore(std::string folder) : folder_(std::move(folder)) {}
  const std::string& folder() const { return folder_; }

  /// Fills in what is stored of a cell, or of the floor. Throws Error(data) on a file that is no cell, Error(usage)
  /// listing every setting that differs from `settings`; a key that `settings` lacks is not compared.
  void load(Cell& cell, const Json& settings) const;
  void load(Floor& floor, const Json& settings) const;
  void save(const Cell& cell, const Json& settings) const;
  void save(const Floor& floor, const Json& settings) const;

  /// What an interrupted run has left of a cell, for the next one to go on with. Throws as `load` does, Error(checkpoint)
  /// if the file is damaged.
  PartOfCell load_part(const Cell& cell, const Json& settings) const;
  void save_part(const Cell& cell, const PartOfCell& part, const Json& settings) const;
  void remove_part(const Cell& cell) const;

  /// Removes all stored cells and parts; other files stay.
  void clear() const;

 private:
  Json read(const std::string& path, const Json& settings) const;
  void write(const std::string& name, const Json& json) const;
  void make_folder() const;
  std::string folder_;
};

/// Everything that the table and the page show.
struct Comparison {
  std::vector<Cell> cells;               // all seeds of (sampler, steps) stand together
  Floor floor;
  std::vector<Metric> metrics;           // the ones shown, in order
  std::string features;                  // LeNet-1a2b3c
  int64_t count = 0;
  std::string title;                     // the run
  std::vector<std::pair<std::string, std::string>> facts;   // name and value, for the page
};

/// A line for each (sampler, steps): network calls and each metric, mean +- standard deviation over the seeds.
std::string table_text(const Comparison& comparison);
/// A line for each cell and the floor, with all metrics that are stored. Numbers read back as the same doubles.
std::string csv_text(const Comparison& comparison);
/// Each metric against network calls, a line a sampler; a whole SVG file with its own colours.
std::string svg_text(const Comparison& comparison);
/// A page that needs no other file: facts, curves, table, refused cells.
std::string html_text(const Comparison& comparison);
nlohmann::ordered_json to_json(const Comparison& comparison);

}  // namespace mote::apps
