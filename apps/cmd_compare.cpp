// cmd_compare.cpp - `mote compare`: quality against network calls for several samplers. Every sampler starts from the
// same noise; a finished cell (sampler, steps, seed) is a file, so that a rerun goes on where the last one was stopped.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <set>
#include <sstream>

#include "apps/checkpoint.h"
#include "apps/commands.h"
#include "apps/common.h"
#include "apps/compare.h"
#include "apps/draw.h"
#include "apps/image_source.h"
#include "apps/ot_map.h"
#include "apps/pixel_distance.h"
#include "apps/progress.h"
#include "apps/signals.h"
#include "apps/train_config.h"
#include "tensor/io/file.h"

namespace mote::apps {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr double kSaveEvery = 20;       // seconds between two savings of the images of an unfinished cell
constexpr uint64_t kReferenceSeed = 0;  // which real images are compared: not a matter of --seed, which draws samples

struct CompareOptions {
  CommonOptions common;
  std::string run, out, weights = "ema";
  std::string map, finish = "ddim";  // dpm-ot
  std::string samplers = "ddim", steps = "10,20,50", calls, metrics = "fd,kid,prec,rec";
  int64_t count = 5000, seeds = 1, batch = 64;
  std::string grid, variance = "large";
  double eta = 0;
  ClipChoice clip;
  bool all_classes = false;
  std::string classifier, data;
  ScoreOptions score;
  bool dry_run = false, overwrite = false;
};

double seconds_since(Clock::time_point begun) { return std::chrono::duration<double>(Clock::now() - begun).count(); }

// ---- Reading the flags ---------------------------------------------------------------------------------------------

std::vector<std::string> words(const std::string& flag, const std::string& text) {
  std::vector<std::string> list;
  std::istringstream in(text);
  for (std::string word; std::getline(in, word, ',');) {
    if (word.empty() || std::find(list.begin(), list.end(), word) != list.end())
      fail(Error::Kind::usage, flag, ": '", text, "' has an empty or a repeated entry");
    list.push_back(word);
  }
  if (list.empty()) fail(Error::Kind::usage, flag, ": the list is empty");
  return list;
}

/// An entry of --samplers: NAME or NAME=STEPS.
struct Entry {
  std::string sampler;
  int64_t steps;  // 0: those of --steps or --calls
};

Entry entry_of(const std::string& word) {
  size_t equals = word.find('=');
  std::string name = word.substr(0, equals);
  if (equals == std::string::npos || is_dpm_ot(name)) return {word, 0};  // the name of a map's file may hold one
  std::vector<int64_t> steps = int_list("--samplers", word.substr(equals + 1));
  if (steps.size() != 1 || steps[0] < 1)
    fail(Error::Kind::usage, "--samplers: '", word, "' is not NAME=STEPS with 1 step or more");
  return {name, steps[0]};
}

void check_usage(const CompareOptions& o) {
  auto require = [](bool holds, const auto&... parts) {
    if (!holds) fail(Error::Kind::usage, parts...);
  };
  require(!o.run.empty(), "--run: the run folder is missing");
  int64_t fewest = std::max<int64_t>({10, o.score.prdc.k_manifold + 1, o.score.prdc.k_density + 1});
  require(o.count >= fewest && o.count <= 10000000, "--count: must be ", fewest, " to 10000000, got ", o.count);
  require(o.seeds >= 1 && o.seeds <= 1000, "--seeds: must be 1 to 1000, got ", o.seeds);
  require(o.batch >= 1, "--batch: must be 1 or more, got ", o.batch);
  require_weights(o.weights);
  for (const std::string& word : words("--samplers", o.samplers)) {
    std::string name = entry_of(word).sampler;
    std::vector<std::string> known = sampler_names();
    known.insert(known.end(), {"dpm-ot", "copy"});
    if (is_dpm_ot(name)) dpm_ot_name(name, o.map, o.finish);
    else require(std::find(known.begin(), known.end(), name) != known.end(), "--samplers: '", name,
            "' is unknown: choose from ", joined(known), did_you_mean(name, known));
  }
  for (const auto& [flag, text] : {std::pair{"--steps", &o.steps}, std::pair{"--calls", &o.calls}}) {
    if (text->empty() && text == &o.calls) continue;
    words(flag, *text);
    for (int64_t number : int_list(flag, *text)) require(number >= 1, flag, ": must be 1 or more, got ", number);
  }
}

std::vector<Metric> chosen_metrics(const CompareOptions& o) {
  std::vector<Metric> metrics;
  for (const std::string& key : words("--metric", o.metrics)) metrics.push_back(metric_named(key));
  return metrics;
}

SamplerOptions sampler_options(const CompareOptions& o, const Checkpoint& checkpoint, const std::string& name,
                               int64_t steps) {
  return o.clip.applied({.name = name,
                         .steps = steps,
                         .grid = o.grid,
                         .eta = name == "ddim" ? o.eta : 0,
                         .variance = name == "ddpm" ? o.variance : "large",
                         .prediction = checkpoint.prediction});
}

/// dpm-ot and copy by what the table calls them, each with its map.
struct Jumper {
  DpmOtName name;
  std::shared_ptr<Jump> jump;
};
using Jumpers = std::map<std::string, Jumper>;

SamplerOptions cell_options(const CompareOptions& o, const Checkpoint& checkpoint, const Jumper* jumper,
                            const std::string& sampler, int64_t steps) {
  if (!jumper) return sampler_options(o, checkpoint, sampler, steps);
  SamplerOptions base = sampler_options(o, checkpoint, jumper->name.finish, steps);
  return finish_options(jumper->jump->map(), jumper->name, base, steps);
}

/// The samplers as the table calls them, in the order given; loads the maps, each file once.
std::vector<Entry> labelled_samplers(const CompareOptions& o, const Checkpoint& checkpoint, Jumpers& jumpers) {
  std::map<std::string, std::shared_ptr<Jump>> loaded;
  std::vector<Entry> entries;
  for (const std::string& word : words("--samplers", o.samplers)) {
    entries.push_back(entry_of(word));
    std::string& label = entries.back().sampler;
    if (!is_dpm_ot(label)) continue;
    DpmOtName name = dpm_ot_name(label, o.map, o.finish);
    std::shared_ptr<Jump>& jump = loaded[name.file];
    if (!jump) {
      jump = std::make_shared<Jump>(load_ot_map(name.file));
      require_map_of(jump->map(), checkpoint);
    }
    label = name.label(jump->map());
    if (name.file != o.map) label += "@" + fs::path(name.file).stem().string();
    if (!jumpers.emplace(label, Jumper{name, jump}).second)
      fail(Error::Kind::usage, "--samplers: two of them would be called ", label, " in the table");
  }
  return entries;
}

/// Every sampler with every number of steps and every seed; what a sampler does not take is marked, not thrown. Steps
/// of dpm-ot are network calls after the jump; copy has none.
std::vector<Cell> make_cells(const CompareOptions& o, const Checkpoint& checkpoint,
                             const std::vector<Entry>& entries, const Jumpers& jumpers) {
  Schedule schedule = Schedule::named(checkpoint.schedule, checkpoint.T);
  std::vector<Cell> cells;
  for (const auto& [sampler, own_steps] : entries) {
    auto found = jumpers.find(sampler);
    const Jumper* jumper = found == jumpers.end() ? nullptr : &found->second;
    bool is_copy = jumper && jumper->name.is_copy;
    bool by_calls = !o.calls.empty() && own_steps == 0;
    std::vector<int64_t> numbers = {is_copy ? 0 : own_steps};
    if (!is_copy && own_steps == 0) numbers = int_list("--steps", by_calls ? o.calls : o.steps);
    for (int64_t steps : numbers) {
      Cell cell{.sampler = sampler, .steps = steps, .refused = {}, .failed = {}, .scores = {}};
      try {
        if (by_calls && !jumper)
          steps = cell.steps = with_network_calls(schedule, sampler_options(o, checkpoint, sampler, 1), steps).steps;
        if (!is_copy)
          cell.calls = network_calls(plan_sampler(schedule, cell_options(o, checkpoint, jumper, sampler, steps)));
        if (cell.calls == 0 && !is_copy)   // pf-rk45
          fail(Error::Kind::usage, sampler, ": its network calls depend on the state; `mote sample` counts them");
      } catch (const Error& error) {
        if (error.kind() != Error::Kind::usage) throw;
        cell.refused = error.what();
      }
      auto is_same = [&](const Cell& other) {
        return other.refused.empty() && other.sampler == cell.sampler && other.steps == cell.steps;
      };
      if (cell.refused.empty() && std::any_of(cells.begin(), cells.end(), is_same))
        fail(Error::Kind::usage, "--samplers: ", cell.sampler, " with ", cell.steps, " steps is asked for twice");
      for (int64_t k = 0; k < o.seeds; ++k) {
        cell.seed = o.common.seed + uint64_t(k);
        cells.push_back(cell);
      }
    }
  }
  return cells;
}

bool is_open(const Cell& cell) { return !cell.is_done && cell.reason().empty(); }

/// Whatever changes a number in a cell. The classifier and the reference are added once they are known.
Json settings_of(const CompareOptions& o, const Checkpoint& checkpoint) {
  Json json = {{"checkpoint", checkpoint.hash},
               {"weights", o.weights},
               {"precision", o.common.precision},
               {"count", o.count},
               {"grid", o.grid},
               {"eta", o.eta},
               {"variance", o.variance},
               {"clip", o.clip.given.empty() ? "by sampler" : o.clip.given},
               {"kid_subsets", o.score.kid_subsets},
               {"k", o.score.prdc.k_manifold},
               {"k_density", o.score.prdc.k_density}};
  if (checkpoint.unet.classes > 0) json["class"] = o.all_classes ? "all" : "none";
  return json;
}

/// The images the run was trained on, or those of --data, which the samples are compared with.
DataOptions reference_options(const CompareOptions& o, const Checkpoint& checkpoint) {
  DataOptions options{.spec = o.data.empty() ? checkpoint.data : o.data,
                      .split = "train",
                      .size = checkpoint.unet.size,
                      .channels = checkpoint.unet.channels,
                      .limit = 0};
  if (options.channels != 1 && options.channels != 3) options.channels = 0;
  if (!o.data.empty() || checkpoint.train.empty()) return options;
  TrainConfig config = train_config_from_json(checkpoint.train);
  options.size = config.size;
  options.channels = config.channels;
  options.limit = config.limit;
  options.labels = config.labels;
  return options;
}

// ---- Scoring -------------------------------------------------------------------------------------------------------

/// All metrics that `count` images allow: a cell holds them all, so that --metric can be changed without drawing again.
std::vector<std::string> keys_for(int64_t count, const FeatureNet& net, const ScoreOptions& options) {
  std::vector<std::string> keys = {"tv"};
  for (const Metric& metric : all_metrics())
    if (metric.key.starts_with("mix")) keys.push_back(metric.key);
  if (count >= 4) keys.push_back("kid");
  if (count > net.network->config().features) keys.push_back("fd");
  if (count > std::max(options.prdc.k_manifold, options.prdc.k_density))
    keys.push_back("prec");  // with its three companions
  return keys;
}

Dataset load_reference(const CompareOptions& o, const Checkpoint& checkpoint) {
  Dataset data = load_dataset(reference_options(o, checkpoint));
  if (o.data.empty() && data.hash != checkpoint.data_hash)
    fail(Error::Kind::data, "the data of '", checkpoint.data, "' is not what this run was trained on: its hash is ",
         data.hash, ", the run has ", checkpoint.data_hash, "; --data SPEC names the images to compare with");
  if (o.count > data.count())
    fail(Error::Kind::usage, "--count: ", o.count, " images are asked for, but ", data.name, " has ", data.count(),
         " to compare them with");
  return data;
}

ImageFeatures chosen_features(const FeatureNet& net, const Dataset& data, int64_t count) {
  return image_features(net, take_rows(data.images, choose_rows(data.count(), count, kReferenceSeed)));
}

Floor score_floor(const CompareOptions& o, const Checkpoint& checkpoint, const FeatureNet& net,
                  const Dataset& reference) {
  DataOptions options = reference_options(o, checkpoint);
  std::vector<std::string> splits = dataset_splits(options.spec);
  Floor floor;
  ImageFeatures one, other;
  Tensor one_images = reference.images, other_images;   // what is near: to all training images, or to one half
  if (std::find(splits.begin(), splits.end(), "test") != splits.end()) {
    options.split = "test";
    options.labels.clear();
    Dataset test = load_dataset(options);
    floor.how = concat_text(options.spec, ", train against test");
    floor.count = std::min(o.count, test.count());
    one = chosen_features(net, reference, floor.count);
    other_images = take_rows(test.images, choose_rows(test.count(), floor.count, kReferenceSeed));
    other = image_features(net, other_images);
  } else {
    auto [first, second] = choose_halves(reference.count(), o.count, kReferenceSeed);
    floor.how = concat_text("two halves of ", options.spec);
    floor.count = int64_t(first.size());
    one_images = take_rows(reference.images, first);
    other_images = take_rows(reference.images, second);
    one = image_features(net, one_images);
    other = image_features(net, other_images);
  }
  floor.scores = score(other, one, net.network->config().classes, keys_for(floor.count, net, o.score), o.score);
  floor.scores["near"] = quantile(nearest_images(other_images, one_images).distance, 0.5);
  floor.is_done = true;
  return floor;
}

// ---- What will be done ---------------------------------------------------------------------------------------------

/// Seconds that one network call on one image takes: from cells drawn before, else from one batch run now.
double seconds_a_call(const CompareOptions& o, const std::vector<Cell>& cells, std::string& source) {
  double seconds = 0, calls = 0;
  for (const Cell& cell : cells)
    if (cell.is_done) {
      seconds += cell.seconds;
      calls += double(cell.calls) * double(o.count);
    }
  if (calls > 0 && seconds > 0) {
    source = "finished cells";
    return seconds / calls;
  }
  Checkpoint checkpoint = load_from_run(o.run, "mote sample --ckpt {} draws from it");
  nn::UNet unet(checkpoint.unet, 0);
  unet.set_precision(precision_named(o.common.precision));
  unet.train(false);
  NoGrad no_grad;
  int64_t N = std::min(o.batch, o.count), classes = checkpoint.unet.classes;
  Tensor x = zeros({N, checkpoint.unet.size, checkpoint.unet.size, checkpoint.unet.channels}), t = zeros({N});
  Tensor ids = classes > 0 ? full({N}, double(classes), DType::i64) : Tensor();
  unet.forward(x, t, ids);  // the first call makes memory
  Clock::time_point begun = Clock::now();
  unet.forward(x, t, ids);
  source = "one network call";
  return seconds_since(begun) / double(N);
}

void print_plan(const CompareOptions& o, const std::vector<Cell>& cells) {
  double calls = 0;
  int64_t open = 0;
  for (const Cell& cell : cells) {
    if (!is_open(cell)) continue;
    ++open;
    calls += double(cell.calls) * double(o.count);
  }
  std::string source = "nothing to draw";
  double seconds = open > 0 ? calls * seconds_a_call(o, cells, source) : 0;
  if (o.common.json) {
    Json json = {{"count", o.count}, {"cells", Json::array()}};
    for (const Cell& cell : cells) {
      json["cells"].push_back({{"sampler", cell.sampler},
                               {"steps", cell.steps},
                               {"seed", cell.seed},
                               {"network_calls", cell.calls},
                               {"state", cell.state()}});
      if (!cell.reason().empty()) json["cells"].back()["reason"] = cell.reason();
    }
    json["open"] = open;
    json["network_calls_left"] = calls;
    json["seconds_left"] = seconds;
    json["estimated_from"] = source;
    std::cout << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
    return;
  }
  int widest = 12;
  for (const Cell& cell : cells) widest = std::max(widest, int(cell.sampler.size()));
  std::printf("%-*s %6s %10s %6s  %s\n", widest, "sampler", "steps", "seed", "calls", "state");
  for (const Cell& cell : cells)
    std::printf("%-*s %6lld %10llu %6lld  %s%s%s\n", widest, cell.sampler.c_str(), static_cast<long long>(cell.steps),
                static_cast<unsigned long long>(cell.seed), static_cast<long long>(cell.calls), cell.state(),
                cell.reason().empty() ? "" : ": ", cell.reason().c_str());
  std::printf(
      "%lld of %zu cells to draw, %s images each, %s network calls on an image, about %s by %s (scoring not counted)\n",
      static_cast<long long>(open), cells.size(), count_text(o.count).c_str(), count_text(int64_t(calls)).c_str(),
      seconds_text(seconds).c_str(), source.c_str());
}

// ---- The command ---------------------------------------------------------------------------------------------------

class Compare {
 public:
  Compare(const CompareOptions& o, Device device)
      : o_(o), device_(device), store_(o.out.empty() ? o.run + "/compare" : o.out) {}
  void run();

 private:
  void load_cells(bool with_floor);
  /// u8 [count, H, W, C]: the images of `part`, then the others by `draw_batch`, saved every few seconds on the way.
  Tensor draw_cell(Cell& cell, PartOfCell part,
                   const std::function<Tensor(int64_t first, int64_t count)>& draw_batch) const;
  void draw(const std::vector<Cell*>& open, const ImageFeatures& reference, const Tensor& training);
  Json settings_for(const Cell& cell) const;
  const Jumper* jumper_of(const Cell& cell) const;
  void write_files() const;

  const CompareOptions& o_;
  Device device_;
  CellStore store_;
  Checkpoint checkpoint_;
  FeatureNet net_;
  Json settings_;
  Jumpers jumpers_;
  Comparison comparison_;
};

const Jumper* Compare::jumper_of(const Cell& cell) const {
  auto found = jumpers_.find(cell.sampler);
  return found == jumpers_.end() ? nullptr : &found->second;
}

/// A cell of dpm-ot is also one of its map.
Json Compare::settings_for(const Cell& cell) const {
  Json settings = settings_;
  if (const Jumper* jumper = jumper_of(cell)) settings["map"] = jumper->jump->map().hash;
  return settings;
}

void Compare::load_cells(bool with_floor) {
  if (o_.overwrite) return;
  for (Cell& cell : comparison_.cells)
    if (cell.refused.empty()) store_.load(cell, settings_for(cell));
  if (with_floor) store_.load(comparison_.floor, settings_);
}

void Compare::write_files() const {
  io::write_file_atomic(store_.folder() + "/compare.csv", csv_text(comparison_));
  io::write_file_atomic(store_.folder() + "/compare.svg", svg_text(comparison_));
  io::write_file_atomic(store_.folder() + "/compare.html", html_text(comparison_));
}

Tensor Compare::draw_cell(Cell& cell, PartOfCell part,
                          const std::function<Tensor(int64_t first, int64_t count)>& draw_batch) const {
  const nn::UNetConfig& unet = checkpoint_.unet;
  Tensor images = empty({o_.count, unet.size, unet.size, unet.channels}, DType::u8);
  int64_t done = part.count();
  if (done > 0) images.rows(0, done).copy_(part.images);
  Clock::time_point begun = Clock::now(), saved = begun;
  double seconds_before = part.seconds;
  while (done < o_.count) {
    int64_t N = std::min(o_.batch, o_.count - done);
    images.rows(done, done + N).copy_(draw_batch(done, N));
    done += N;
    cell.seconds = seconds_before + seconds_since(begun);
    if (done < o_.count && seconds_since(saved) > kSaveEvery) {
      store_.save_part(cell, {images.rows(0, done), cell.seconds}, settings_for(cell));
      saved = Clock::now();
    }
  }
  return images;
}

void Compare::draw(const std::vector<Cell*>& open, const ImageFeatures& reference, const Tensor& training) {
  const nn::NamedTensors& weights = weights_of(checkpoint_, o_.weights);
  nn::UNet unet(checkpoint_.unet, 0);
  unet.set_precision(precision_named(o_.common.precision));
  unet.load_state(as_map(weights));
  unet.to(device_);
  Schedule schedule = Schedule::named(checkpoint_.schedule, checkpoint_.T);
  Tensor class_ids;
  if (int64_t classes = checkpoint_.unet.classes; classes > 0) {
    class_ids = full({o_.count}, double(classes), DType::i64);
    for (int64_t i = 0; o_.all_classes && i < o_.count; ++i) class_ids.data<int64_t>()[i] = i % classes;
  }
  std::vector<std::string> keys = keys_for(o_.count, net_, o_.score);
  int64_t total = 0, before = 0;  // network calls on an image
  std::vector<PartOfCell> parts;
  for (const Cell* cell : open) {
    parts.push_back(store_.load_part(*cell, settings_for(*cell)));
    total += cell->calls * o_.count;
    before += cell->calls * parts.back().count();
  }
  Progress progress("compare", before, total, "call", o_.common.quiet);
  for (size_t k = 0; k < open.size(); ++k) {
    Cell& cell = *open[k];
    const Jumper* jumper = jumper_of(cell);
    bool is_copy = jumper && jumper->name.is_copy;
    std::string label = concat_text(cell.name(), " (", k + 1, "/", open.size(), ")");
    int64_t goal = before + cell.calls * (o_.count - parts[k].count());
    auto draw_batch = [&](int64_t first, int64_t count) {
      DrawOptions options{.sampler = cell_options(o_, checkpoint_, jumper, cell.sampler, cell.steps),
                          .first = first,
                          .count = count,
                          .batch = count,
                          .seed = cell.seed,
                          .class_ids = class_ids.defined() ? class_ids.rows(first, first + count) : Tensor()};
      if (jumper)
        options.start = [&, level = options.sampler.start](int64_t from, int64_t n) {
          return jumper->jump->start(schedule, level, cell.seed, from, n).x;
        };
      auto watch = [&](int64_t, const Tensor&, int64_t done, int64_t steps) {
        exit_if_stopped();
        progress.update(before + cell.calls * count * done / steps, label);
      };
      Tensor images = to_bytes(draw_images(unet, schedule, options, device_, watch));
      before += cell.calls * count;
      return images;
    };
    try {
      Tensor images = is_copy ? take_rows(jumper->jump->map().points, jumper->jump->chosen(cell.seed, o_.count))
                              : draw_cell(cell, std::move(parts[k]), draw_batch);
      cell.scores = score(image_features(net_, images), reference, net_.network->config().classes, keys, o_.score);
      cell.scores["near"] = quantile(nearest_images(images, training).distance, 0.5);
      if (jumper) {
        std::vector<int64_t> chosen = jumper->jump->chosen(cell.seed, o_.count);
        cell.scores["hit"] = double(std::set<int64_t>(chosen.begin(), chosen.end()).size());
        cell.scores["near_target"] = quantile(nearest_images(images, jumper->jump->map().points).distance, 0.5);
      }
      cell.is_done = true;
    } catch (const Error& error) {
      if (error.kind() != Error::Kind::numeric) throw;
      cell.failed = error.what();
      progress.say(label + ": " + cell.failed);
    }
    store_.save(cell, settings_for(cell));
    store_.remove_part(cell);
    before = goal;  // a cell that failed has left some out
    write_files();
    exit_if_stopped();
  }
  progress.finish();
}

void Compare::run() {
  std::vector<Metric> metrics = chosen_metrics(o_);
  checkpoint_ = o_.dry_run ? read_checkpoint_summary(checkpoint_path(o_.run)).checkpoint
                           : load_from_run(o_.run, "mote ckpt info {} shows it");
  settings_ = settings_of(o_, checkpoint_);
  std::vector<Entry> entries = labelled_samplers(o_, checkpoint_, jumpers_);
  comparison_ = {.cells = make_cells(o_, checkpoint_, entries, jumpers_),
                 .floor = {},
                 .metrics = metrics,
                 .features = {},
                 .count = o_.count,
                 .title = fs::path(o_.run).lexically_normal().string(),
                 .facts = {}};
  load_cells(false);  // other settings are found before a classifier is trained for minutes
  if (o_.dry_run) return print_plan(o_, comparison_.cells);

  std::string classifier = o_.classifier.empty() ? o_.run + "/classifier.safetensors" : o_.classifier;
  DataOptions data = reference_options(o_, checkpoint_);
  bool wants_fd = std::any_of(metrics.begin(), metrics.end(), [](const Metric& metric) { return metric.key == "fd"; });
  auto require_enough = [&](int64_t features) {
    if (wants_fd && o_.count <= features)
      fail(Error::Kind::usage, "--count: fd compares ", features, " features and needs ", features + 1,
           " images or more, got ", o_.count, "; leave fd out of --metric for fewer");
  };
  if (!fs::exists(classifier)) require_enough(nn::ClassifierConfig{}.features);
  watch_signals("\nmote: stopping; finished cells are kept\n");
  // A file named by --classifier is taken as it is; its hash stands in every name.
  if (!o_.classifier.empty() && fs::exists(classifier)) data.spec.clear();
  net_ = feature_net(classifier, data, o_.common.quiet);
  require_enough(net_.network->config().features);
  Dataset reference = load_reference(o_, checkpoint_);
  settings_["classifier"] = net_.hash;
  settings_["reference"] = reference.hash;
  load_cells(true);
  std::vector<Cell*> open;
  for (Cell& cell : comparison_.cells)
    if (is_open(cell)) open.push_back(&cell);
  comparison_.features = net_.name();
  comparison_.facts = {
      {"run", o_.run},
      {"checkpoint", concat_text(checkpoint_.hash, ", step ", checkpoint_.step, ", ", o_.weights, " weights")},
      {"data", concat_text(reference.name, ", ", count_text(o_.count), " training images; hash ", reference.hash)},
      {"classifier", concat_text(net_.name(), " (", net_.hash, "), finds the class of ", 100 * net_.accuracy, "% of ",
                                 count_text(net_.held_out), " held-out images; ", net_.recipe)},
      {"metrics", settings_text({"kid", "prec", "density"}, o_.score, o_.count)},
      {"samplers",
       concat_text("grid ", o_.grid, ", eta ", o_.eta, ", variance ", o_.variance, ", clip ",
                   o_.clip.given.empty() ? "by sampler" : o_.clip.given)},
      {"seeds", concat_text(o_.common.seed, " to ", o_.common.seed + uint64_t(o_.seeds) - 1,
                            ", the same noise for every sampler")},
      {"command", command_line()}};
  for (const auto& [label, jumper] : jumpers_)
    comparison_.facts.emplace_back(label, map_text(jumper.jump->map()));
  if (o_.overwrite) store_.clear();  // all that can be wrong has been checked
  if (!comparison_.floor.is_done) {
    comparison_.floor = score_floor(o_, checkpoint_, net_, reference);
    store_.save(comparison_.floor, settings_);
  }
  exit_if_stopped();
  if (!open.empty()) draw(open, chosen_features(net_, reference, o_.count), reference.images);
  write_files();
  if (!o_.common.json) {
    std::cout << table_text(comparison_) << store_.folder() << "/compare.html\n";
    return;
  }
  Json json = {{"command", command_line()},
               {"checkpoint_hash", checkpoint_.hash},
               {"classifier", {{"hash", net_.hash}, {"accuracy", net_.accuracy}, {"held_out", net_.held_out}}}};
  json.update(to_json(comparison_));
  for (const auto& [label, jumper] : jumpers_) json["maps"][label] = describe_map(jumper.jump->map());
  for (const char* file : {"csv", "svg", "html"}) json["files"].push_back(store_.folder() + "/compare." + file);
  std::cout << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
}

void run_compare(const CompareOptions& o) {
  check_usage(o);
  Device device = start(o.common);
  if (!fs::is_directory(o.run)) fail(Error::Kind::checkpoint, "--run: there is no run at ", o.run);
  Compare(o, device).run();
}

}  // namespace

void add_compare_command(CLI::App& app) {
  auto o = std::make_shared<CompareOptions>();
  CLI::App& sub = add_command(app, "compare", "Compare samplers: quality against network calls",
                              "mote compare --run runs/first --samplers ddpm,ddim --steps 5,10,20,50 --count 5000\n"
                              "  mote compare --run runs/first --map map.safetensors --calls 5,10 "
                              "--samplers ddim,dpm-ot:300,dpm-ot:500,copy\n"
                              "  The same command again goes on after a stop; --dry-run tells how long it takes.",
                              o->common, [o] { run_compare(*o); });
  sub.add_option("--run", o->run, "run folder; its newest checkpoint is used")->group("Network");
  sub.add_option("--weights", o->weights, "ema (averaged) or model")->group("Network")->capture_default_str();
  const char* cells = "Cells";
  sub.add_option("--samplers", o->samplers,
                 "comma-separated: " + joined(sampler_names()) +
                     ", dpm-ot[:LEVEL[:FINISH]][@MAP], copy[@MAP]; NAME=STEPS (not of dpm-ot) has its own number of steps")
      ->group(cells)
      ->capture_default_str();
  sub.add_option("--steps", o->steps, "comma-separated numbers of steps; of dpm-ot: network calls after the jump")
      ->group(cells)
      ->capture_default_str();
  sub.add_option("--calls", o->calls,
                 "instead of --steps: as many steps as make exactly these numbers of network calls")
      ->group(cells);
  sub.add_option("--map", o->map, "dpm-ot, copy: the map of `mote ot fit`")->group(cells);
  sub.add_option("--finish", o->finish, "dpm-ot: the sampler that goes on from the map's level")
      ->group(cells)
      ->capture_default_str();
  sub.add_option("--seeds", o->seeds, "draw every cell with this many seeds, from --seed on")
      ->group(cells)
      ->capture_default_str();
  sub.add_option("--count", o->count, "images a cell, compared with as many training images")
      ->group(cells)
      ->capture_default_str();
  sub.add_option("--batch", o->batch, "images at a time; changes speed and memory only")
      ->group(cells)
      ->capture_default_str();
  sub.add_option("--grid", o->grid, "which levels, as for `mote sample` (default: the sampler's own)")
      ->group(cells)
      ->capture_default_str();
  sub.add_option("--eta", o->eta, "ddim: 0 is deterministic, 1 as noisy as ddpm")->group(cells)->capture_default_str();
  sub.add_option("--variance", o->variance, "ddpm: large or small")->group(cells)->capture_default_str();
  o->clip.add_options(sub, cells);
  sub.add_flag("--all-classes", o->all_classes, "a conditional network draws its classes in turn (default: no class)")
      ->group(cells);
  const char* group = "Metrics";
  std::string keys;
  for (const Metric& metric : all_metrics())
    keys += (keys.empty() ? "" : ", ") + metric.key + " (" + metric.about + ")";
  sub.add_option("--metric", o->metrics, "which are shown, comma-separated: " + keys + "; cells keep all of them")
      ->group(group)
      ->capture_default_str();
  sub.add_option(
         "--classifier", o->classifier,
         "file of the classifier whose features are compared (default: RUN/classifier.safetensors); trained and "
         "written if it is not there")
      ->group(group);
  sub.add_option("--data", o->data, "data SPEC to compare with (default: what the run was trained on)")->group(group);
  sub.add_option("--subsets", o->score.kid_subsets, "kid: subsets of 1000 images or half of --count")
      ->group(group)
      ->capture_default_str()
      ->check(CLI::Range(1, 100000));
  sub.add_option("--k", o->score.prdc.k_manifold, "prec, rec: neighbour number")
      ->group(group)
      ->capture_default_str()
      ->check(CLI::Range(1, 100000));
  sub.add_option("--k-density", o->score.prdc.k_density, "density, coverage: neighbour number")
      ->group(group)
      ->capture_default_str()
      ->check(CLI::Range(1, 100000));
  sub.add_option("--out", o->out, "folder for cells, compare.csv, compare.svg and compare.html (default: RUN/compare)")
      ->group("Output");
  sub.add_flag("--overwrite", o->overwrite, "draw all cells anew")->group("Output");
  sub.add_flag("--dry-run", o->dry_run,
               "print the cells, the number of network calls and an estimate of the time, draw nothing")
      ->group("Output");
}

}  // namespace mote::apps
