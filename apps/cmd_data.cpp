// cmd_data.cpp - `mote data info|check|grid`: what a data set holds, whether all of it can be read, how it looks.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <iomanip>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/common.h"
#include "apps/dataset.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"

namespace mote::apps {
namespace {

using Json = nlohmann::ordered_json;

std::string problems_text(size_t count) { return concat_text(count, count == 1 ? " problem" : " problems"); }

struct DataCommand {
  CommonOptions common;
  DataOptions data;
  std::string out;
  int64_t count = 64, columns = 0;  // columns 0: as square as can be
  bool shuffle = false;
};

void require_data(const DataCommand& o) {
  if (o.data.spec.empty())
    fail(Error::Kind::usage,
         "--data SPEC is needed: fashion-mnist, idx:DIR, cifar10:DIR, folder:DIR, csv:FILE or synthetic:NAME");
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

void run_info(const DataCommand& o) {
  require_data(o);
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
  if (o.data.split.empty()) splits = dataset_splits(o.data.spec);
  Json counts = Json::object(), problems = Json::array();
  for (const std::string& split : splits) {
    DataOptions options = o.data;
    options.split = split;
    DatasetReport report = check_dataset(options);
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

void run_grid(const DataCommand& o) {
  require_data(o);
  if (o.out.empty()) fail(Error::Kind::usage, "--out FILE is needed: the picture to write");
  if (o.count < 1) fail(Error::Kind::usage, "--count is ", o.count, "; 1 or more is needed");
  if (o.columns < 0)
    fail(Error::Kind::usage, "--columns is ", o.columns, "; 0 (as square as can be) or more is needed");
  Dataset data = load_dataset(o.data);
  int64_t count = std::min(o.count, data.count());
  Tensor images;
  if (o.shuffle) {
    images = BatchLoader::make(data, count, o.common.seed, false, 0).images;
  } else {
    images = empty(data.images.shape().with(0, count));
    const uint8_t* from = data.images.data<uint8_t>();
    std::transform(from, from + images.numel(), images.data<float>(), [](uint8_t v) { return float(v) / 127.5f - 1; });
  }
  int64_t columns = o.columns > 0 ? o.columns : int64_t(std::ceil(std::sqrt(double(count))));
  Tensor grid = io::image_grid(images, columns);
  io::save_png(o.out, grid);
  Json about = {{"command", command_line()}, {"data", data.name},     {"split", o.data.split}, {"count", count},
                {"shuffle", o.shuffle},      {"seed", o.common.seed}, {"data_hash", data.hash}};
  io::write_file_atomic(o.out + ".json", about.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  if (o.common.json)
    print_json({{"out", o.out},
                {"data", data.name},
                {"split", o.data.split},
                {"count", count},
                {"height", grid.size(0)},
                {"width", grid.size(1)},
                {"data_hash", data.hash}});
  else
    std::cout << o.out << ": " << count << " images of " << data.name << ", " << o.data.split << ", " << grid.size(1)
              << " x " << grid.size(0) << " pixels\n";
}

CLI::App& add_action(CLI::App& parent, const std::string& name, const std::string& what, const std::string& example,
                     const std::shared_ptr<DataCommand>& o, void (*run)(const DataCommand&)) {
  CLI::App& sub = add_command(parent, name, what, example, o->common, [o, run] { run(*o); });
  sub.add_option("--data", o->data.spec, "fashion-mnist, idx:DIR, cifar10:DIR, folder:DIR, csv:FILE, synthetic:NAME")
      ->group("Data");
  sub.add_option("--split", o->data.split, "train or test")->group("Data")->capture_default_str();
  sub.add_option("--size", o->data.size, "resize the middle square of each image to SIZE x SIZE (0: as it is)")
      ->group("Data");
  sub.add_option("--channels", o->data.channels, "1 for grey, 3 for colour (0: as it is)")->group("Data");
  sub.add_option("--limit", o->data.limit, "at most this many images (0: all)")->group("Data");
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
