// cmd_data.cpp - `mote data info|check|grid`: what a data set holds, whether all of it can be read, how it looks.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <iomanip>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/canvas.h"
#include "apps/commands.h"
#include "apps/common.h"
#include "apps/dataset.h"
#include "apps/pairs.h"
#include "apps/seg_batch.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"

namespace mote::apps {
namespace {

using Json = nlohmann::ordered_json;

std::string problems_text(size_t count) { return concat_text(count, count == 1 ? " problem" : " problems"); }

struct DataCommand {
  CommonOptions common;
  DataOptions data;
  PairOptions masks;   // classes, ignore and colours, of sets with masks
  std::string out;
  int64_t count = 64, columns = 0;  // columns 0: as square as can be
  bool shuffle = false;
};

void require_data(const DataCommand& o) {
  if (o.data.spec.empty())
    fail(Error::Kind::usage,
         "--data SPEC is needed: fashion-mnist, idx:DIR, cifar10:DIR, folder:DIR, csv:FILE, pairs:DIR or "
         "synthetic:NAME");
  if (is_pair_spec(o.data.spec)) return;
  if (o.masks.classes != 0 || o.masks.ignore != -1 || !o.masks.colours.empty())
    fail(Error::Kind::usage, "--classes, --ignore and --colours are for images with masks (pairs:DIR), not for ",
         o.data.spec);
}

PairOptions pair_options(const DataCommand& o) {
  PairOptions options = o.masks;
  options.spec = o.data.spec;
  options.split = o.data.split;
  options.height = options.width = o.data.size;
  options.channels = o.data.channels;
  options.limit = o.data.limit;
  options.seed = o.common.seed;
  return options;
}

void print_json(const Json& json) { std::cout << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n"; }

// ---- info ----------------------------------------------------------------------------------------------------------

/// Mean and standard deviation of each channel, of values in [0, 1].
std::pair<std::vector<double>, std::vector<double>> channel_statistics(const Tensor& images) {
  int64_t C = images.size(3), pixels = images.numel() / C;
  const uint8_t* value = images.data<uint8_t>();
  std::vector<int64_t> sum(size_t(C), 0), squares(size_t(C), 0);  // exact: 255^2 2^47 fits
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    for (int64_t c = 0; c < C; ++c, ++value) {
      sum[size_t(c)] += *value;
      squares[size_t(c)] += int64_t(*value) * *value;
    }
  }
  std::vector<double> mean, deviation;
  for (int64_t c = 0; c < C; ++c) {
    double m = double(sum[size_t(c)]) / double(pixels), variance = double(squares[size_t(c)]) / double(pixels) - m * m;
    mean.push_back(m / 255);
    deviation.push_back(std::sqrt(std::max(0.0, variance)) / 255);
  }
  return {mean, deviation};
}

std::vector<int64_t> class_counts(const Dataset& data) {
  std::vector<int64_t> counts(size_t(data.classes()), 0);
  for (int64_t n = 0; n < (data.labels.defined() ? data.labels.numel() : 0); ++n)
    ++counts[size_t(data.labels.data<int64_t>()[n])];
  return counts;
}

/// Share of the pixels of each class, and last that of ignored ones.
std::vector<double> class_shares(const Pairs& pairs) {
  std::vector<double> shares(size_t(pairs.classes) + 1, 0.0);
  for (int64_t i = 0; i < pairs.masks.numel(); ++i)
    ++shares[std::min(size_t(pairs.masks.data<uint8_t>()[i]), size_t(pairs.classes))];
  for (double& share : shares) share /= double(pairs.masks.numel());
  return shares;
}

void run_pairs_info(const DataCommand& o) {
  Pairs pairs = load_pairs(pair_options(o));
  auto [mean, deviation] = channel_statistics(pairs.images);
  std::vector<double> shares = class_shares(pairs);
  double ignored = shares.back();
  shares.pop_back();
  if (o.common.json) {
    print_json({{"data", pairs.name},
                {"split", pairs.split},
                {"count", pairs.count()},
                {"height", pairs.images.size(1)},
                {"width", pairs.images.size(2)},
                {"channels", pairs.images.size(3)},
                {"classes", pairs.classes},
                {"class_names", pairs.class_names},
                {"class_shares", shares},
                {"ignored_share", ignored},
                {"mean", mean},
                {"std", deviation},
                {"hash", pairs.hash}});
    return;
  }
  std::cout << pairs.name << ", " << pairs.split << ": " << count_text(pairs.count()) << " images of "
            << pairs.images.size(1) << " x " << pairs.images.size(2) << " x " << pairs.images.size(3) << " with masks, "
            << pairs.classes << " classes\n";
  std::cout << std::fixed << std::setprecision(4);
  for (size_t c = 0; c < mean.size(); ++c)
    std::cout << "channel " << c << ": mean " << mean[c] << ", standard deviation " << deviation[c] << " (of 0..1)\n";
  for (size_t label = 0; label < shares.size(); ++label)
    std::cout << "class " << label << (pairs.class_names.empty() ? "" : " " + pairs.class_names[label]) << ": "
              << shares[label] << " of the pixels\n";
  if (ignored > 0) std::cout << "ignored: " << ignored << " of the pixels\n";
  std::cout << "hash " << pairs.hash << "\n";
}

void run_info(const DataCommand& o) {
  require_data(o);
  if (is_pair_spec(o.data.spec)) return run_pairs_info(o);
  Dataset data = load_dataset(o.data);
  auto [mean, deviation] = channel_statistics(data.images);
  std::vector<int64_t> counts = class_counts(data);
  if (o.common.json) {
    print_json({{"data", data.name},
                {"split", o.data.split},
                {"count", data.count()},
                {"height", data.images.size(1)},
                {"width", data.images.size(2)},
                {"channels", data.images.size(3)},
                {"classes", data.classes()},
                {"class_names", data.class_names},
                {"class_counts", counts},
                {"mean", mean},
                {"std", deviation},
                {"hash", data.hash}});
    return;
  }
  std::cout << data.name << ", " << o.data.split << ": " << count_text(data.count()) << " images of "
            << data.images.size(1) << " x " << data.images.size(2) << " x " << data.images.size(3) << ", "
            << (counts.empty() ? "no labels" : concat_text(counts.size(), " classes")) << "\n";
  std::cout << std::fixed << std::setprecision(4);
  for (size_t c = 0; c < mean.size(); ++c)
    std::cout << "channel " << c << ": mean " << mean[c] << ", standard deviation " << deviation[c] << " (of 0..1)\n";
  for (size_t label = 0; label < counts.size(); ++label)
    std::cout << "class " << label << (label < data.class_names.size() ? " " + data.class_names[label] : "") << ": "
              << count_text(counts[label]) << "\n";
  std::cout << "hash " << data.hash << "\n";
}

// ---- check ---------------------------------------------------------------------------------------------------------

void run_check(const DataCommand& o) {
  require_data(o);
  std::vector<std::string> splits{o.data.split};
  bool has_masks = is_pair_spec(o.data.spec);
  if (o.data.split.empty()) splits = has_masks ? pair_splits(o.data.spec) : dataset_splits(o.data.spec);
  Json counts = Json::object(), problems = Json::array();
  for (const std::string& split : splits) {
    DataOptions options = o.data;
    options.split = split;
    PairOptions with_masks = pair_options(o);
    with_masks.split = split;
    DatasetReport report = has_masks ? check_pairs(with_masks) : check_dataset(options);
    counts[split] = report.count;
    for (const std::string& problem : report.problems) problems.push_back(problem);
    if (o.common.json) continue;
    for (const std::string& problem : report.problems) std::cout << problem << "\n";
    std::cout << o.data.spec << ", " << split << ": " << count_text(report.count) << " images can be used, "
              << problems_text(report.problems.size()) << "\n";
  }
  if (o.common.json)
    print_json({{"data", o.data.spec}, {"count", counts}, {"problems", problems}, {"ok", problems.empty()}});
  if (!problems.empty()) fail(Error::Kind::data, "data check: ", o.data.spec, " has ", problems_text(problems.size()));
}

// ---- grid ----------------------------------------------------------------------------------------------------------

/// Each image with its mask at its right, as one set f32 [2 N, H, W, 3]. Of two classes the foreground is white, more
/// are hues; ignored pixels are grey.
Tensor beside_masks(const PairBatch& batch, int64_t classes) {
  int64_t N = batch.images.size(0), H = batch.images.size(1), W = batch.images.size(2), C = batch.images.size(3);
  Tensor both = empty({2 * N, H, W, 3});
  float* to = both.data<float>();
  auto to_float = [](uint8_t v) { return float(v) / 127.5f - 1; };
  for (int64_t n = 0; n < N; ++n) {
    const float* image = batch.images.data<float>() + n * H * W * C;
    for (int64_t i = 0; i < H * W; ++i)
      for (int64_t c = 0; c < 3; ++c) *to++ = image[i * C + std::min(c, C - 1)];
    const uint8_t* mask = batch.masks.data<uint8_t>() + n * H * W;
    for (int64_t i = 0; i < H * W; ++i) {
      auto level = uint8_t(mask[i] == 0 ? 0 : 255);
      Colour colour = mask[i] == kIgnored ? Colour{128, 128, 128}
                      : classes == 2      ? Colour{level, level, level}
                                          : hue(mask[i], classes);
      for (uint8_t value : {colour.red, colour.green, colour.blue}) *to++ = to_float(value);
    }
  }
  return both;
}

struct GridContent {
  Tensor images;   // f32 [N, H, W, C] in [-1, 1]
  int64_t count;
  std::string hash;
};

GridContent pairs_of(const DataCommand& o) {
  Pairs pairs = load_pairs(pair_options(o));
  int64_t count = std::min(o.count, pairs.count());
  PairBatch batch = o.shuffle
                        ? pair_batch(pairs, {}, {.batch = count, .mirror = false, .turn = false}, o.common.seed, 0)
                        : pair_rows(pairs, {}, 0, count);
  return {beside_masks(batch, pairs.classes), count, pairs.hash};
}

GridContent images_of(const DataCommand& o) {
  Dataset data = load_dataset(o.data);
  int64_t count = std::min(o.count, data.count());
  Tensor images = o.shuffle ? BatchLoader::make(data, count, o.common.seed, false, 0).images
                            : to_unit(data.images.rows(0, count));
  return {images, count, data.hash};
}

void run_grid(const DataCommand& o) {
  require_data(o);
  if (o.out.empty()) fail(Error::Kind::usage, "--out FILE is needed: the picture to write");
  if (o.count < 1) fail(Error::Kind::usage, "--count is ", o.count, "; 1 or more is needed");
  if (o.columns < 0)
    fail(Error::Kind::usage, "--columns is ", o.columns, "; 0 (as square as can be) or more is needed");
  bool has_masks = is_pair_spec(o.data.spec);
  GridContent content = has_masks ? pairs_of(o) : images_of(o);
  int64_t columns = o.columns > 0 ? o.columns : int64_t(std::ceil(std::sqrt(double(content.count))));
  Tensor grid = io::image_grid(content.images, has_masks ? 2 * columns : columns);
  io::save_png(o.out, grid);
  Json about = {{"command", command_line()},
                {"data", o.data.spec},
                {"split", o.data.split},
                {"count", content.count},
                {"shuffle", o.shuffle},
                {"seed", o.common.seed},
                {"data_hash", content.hash}};
  io::write_file_atomic(o.out + ".json", about.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  if (o.common.json)
    print_json({{"out", o.out},
                {"data", o.data.spec},
                {"split", o.data.split},
                {"count", content.count},
                {"height", grid.size(0)},
                {"width", grid.size(1)},
                {"data_hash", content.hash}});
  else
    std::cout << o.out << ": " << content.count << (has_masks ? " images with masks of " : " images of ") << o.data.spec
              << ", " << o.data.split << ", " << grid.size(1) << " x " << grid.size(0) << " pixels\n";
}

CLI::App& add_action(CLI::App& parent, const std::string& name, const std::string& what, const std::string& example,
                     const std::shared_ptr<DataCommand>& o, void (*run)(const DataCommand&)) {
  CLI::App& sub = add_command(parent, name, what, example, o->common, [o, run] { run(*o); });
  sub.add_option("--data", o->data.spec,
                 "fashion-mnist, idx:DIR, cifar10:DIR, folder:DIR, csv:FILE, synthetic:NAME; pairs:DIR with masks")
      ->group("Data");
  sub.add_option("--split", o->data.split, "train or test; val too where there are masks")
      ->group("Data")
      ->capture_default_str();
  sub.add_option("--size", o->data.size, "resize the middle square of each image to SIZE x SIZE (0: as it is)")
      ->group("Data");
  sub.add_option("--channels", o->data.channels, "1 for grey, 3 for colour (0: as it is)")->group("Data");
  sub.add_option("--limit", o->data.limit, "at most this many images (0: all)")->group("Data");
  const char* masks = "Masks";
  sub.add_option("--classes", o->masks.classes, "classes of the masks (0: as classes.txt or the masks say)")
      ->group(masks);
  sub.add_option("--ignore", o->masks.ignore, "a value of the masks that belongs to no class (-1: as classes.txt says)")
      ->group(masks);
  sub.add_option("--colours", o->masks.colours, "a file of lines `r g b class`, for palette and colour masks")
      ->group(masks);
  return sub;
}

}  // namespace

void add_data_command(CLI::App& app) {
  CLI::App* data = app.add_subcommand("data", "Look at a data set");
  data->require_subcommand(1);
  data->footer("Example:\n  mote data info --data fashion-mnist");

  auto info = std::make_shared<DataCommand>();
  add_action(*data, "info", "Count, sizes, classes, mean and hash", "mote data info --data fashion-mnist --split test",
             info, run_info);

  auto checked = std::make_shared<DataCommand>();
  checked->data.split = "";
  add_action(*data, "check", "Read everything once and report all that is broken",
             "mote data check --data folder:pictures", checked, run_check)
      .get_option("--split")
      ->description("train or test (default: all there are)");

  auto grid = std::make_shared<DataCommand>();
  CLI::App& sub = add_action(*data, "grid", "Write images as one PNG",
                             "mote data grid --data fashion-mnist --count 100 --out grid.png", grid, run_grid);
  sub.add_option("--out", grid->out, "the PNG; FILE.json beside it tells how it was made")->group("Output");
  sub.add_option("--count", grid->count, "images")->group("Output")->capture_default_str();
  sub.add_option("--columns", grid->columns, "images a row (default: as square as can be)")->group("Output");
  sub.add_flag("--shuffle", grid->shuffle, "images in the order of --seed instead of the first ones")->group("Output");
}

}  // namespace mote::apps
