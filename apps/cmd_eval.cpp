// cmd_eval.cpp - `mote eval fd|kid|prdc|mix|nearest`: scores images against a reference. What real images score against
// real ones, the floor, is always printed beside: without it a number says little.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>

#include "apps/commands.h"
#include "apps/common.h"
#include "apps/image_source.h"
#include "apps/pixel_distance.h"
#include "apps/scores.h"
#include "apps/signals.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"

namespace mote::apps {
namespace {

using Json = nlohmann::ordered_json;

struct EvalOptions {
  CommonOptions common;
  std::vector<std::string> sources, features;
  DataOptions images;  // split, size, channels, limit; for both sides
  int64_t count = 0;   // 0: as many as the smaller side has
  std::string classifier, data;
  ScoreOptions score;
  std::string out;  // nearest: a picture of the closest pairs
};

void print_json(const Json& json) { std::cout << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n"; }

std::string short_number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

// ---- The two sides -------------------------------------------------------------------------------------------------

void require_two(const EvalOptions& o, bool takes_features) {
  bool by_features = takes_features && !o.features.empty();
  size_t given = by_features ? o.features.size() : o.sources.size();
  if (by_features && !o.sources.empty())
    fail(Error::Kind::usage, "give two sources of images or --features FILE FILE, not both");
  if (given != 2)
    fail(Error::Kind::usage, by_features ? "--features: " : "", "two are needed, SAMPLES and then REFERENCE, got ",
         given,
         by_features ? "" : "; each is a folder of pictures, a .npy of images or a data SPEC such as fashion-mnist");
  if (o.count < 0) fail(Error::Kind::usage, "--count: must be 1 or more (0: all that both sides have), got ", o.count);
}

/// How many images of each side are compared.
int64_t compared_count(const EvalOptions& o, const std::string& samples, int64_t of_samples,
                       const std::string& reference, int64_t of_reference) {
  int64_t most = std::min(of_samples, of_reference);
  if (o.count > most)
    fail(Error::Kind::usage, "--count: ", o.count, " images are asked for, but ",
         of_samples < of_reference ? samples : reference, " has ", most);
  return o.count > 0 ? o.count : most;
}

struct Images {
  Dataset samples, reference;
  Dataset other;    // the reference's other split; without images if it has none
  std::string how;  // what the floor compares
};

Images load_both(const EvalOptions& o) {
  Images images{load_images(o.sources[0], o.images), load_images(o.sources[1], o.images), {}, {}};
  const Tensor &a = images.samples.images, &b = images.reference.images;
  if (!(a.shape().without(0) == b.shape().without(0)))
    fail(Error::Kind::data, "the two sides differ in the size of their images: ", o.sources[0], " is ", describe(a),
         ", ", o.sources[1], " is ", describe(b),
         " (number, height, width, channels); --size and --channels make them equal");
  images.how = concat_text("two halves of ", o.sources[1]);
  if (!is_data_spec(o.sources[1])) return images;
  std::vector<std::string> splits = dataset_splits(o.sources[1]);
  std::string other = o.images.split == "train" ? "test" : "train";
  if (std::find(splits.begin(), splits.end(), other) == splits.end()) return images;
  DataOptions options = o.images;
  options.split = other;
  images.other = load_images(o.sources[1], options);
  images.how = concat_text(o.sources[1], ", ", o.images.split, " against ", other);
  return images;
}

FeatureNet net_for(const EvalOptions& o) {
  DataOptions options = o.images;
  options.spec = o.data;
  bool has_file = !o.classifier.empty() && std::filesystem::exists(o.classifier);
  // A file that is named alone is taken as it is; its hash stands in the name of the score.
  if (o.data.empty() && !has_file) options.spec = o.sources[1].ends_with(".npy") ? "" : o.sources[1];
  if (!options.spec.empty() && !is_data_spec(options.spec)) options.spec = "folder:" + options.spec;
  return feature_net(o.classifier, options, o.common.quiet);
}

// ---- fd, kid, prdc -------------------------------------------------------------------------------------------------

struct Evaluation {
  std::string features;  // the name of what was compared: LeNet-1a2b3c
  int64_t count = 0, floor_count = 0;
  Scores values, floor;
  std::string how;       // the floor
  std::string no_floor;  // why there is none
  Json about;
};

/// The floor's scores, or why its images are too few for them.
void add_floor(Evaluation& e, const ImageFeatures& one, const ImageFeatures& other, int64_t classes,
               const std::vector<std::string>& keys, const ScoreOptions& options) {
  e.floor_count = one.features.size(0);
  try {
    e.floor = score(other, one, classes, keys, options);
  } catch (const Error& error) {
    if (error.kind() != Error::Kind::data) throw;
    e.no_floor = error.what();
  }
}

Evaluation evaluate_features(const EvalOptions& o, const std::vector<std::string>& keys) {
  Tensor samples = load_features(o.features[0]), reference = load_features(o.features[1]);
  Evaluation e;
  e.features = "features";
  e.count = compared_count(o, o.features[0], samples.size(0), o.features[1], reference.size(0));
  e.how = concat_text("two halves of ", o.features[1]);
  e.about = {{"samples", o.features[0]}, {"reference", o.features[1]}, {"width", reference.size(1)}};
  auto rows = [&](const Tensor& x) {
    return ImageFeatures{take_rows(x, choose_rows(x.size(0), e.count, o.common.seed)), {}};
  };
  e.values = score(rows(samples), rows(reference), 0, keys, o.score);
  auto [one, other] = choose_halves(reference.size(0), e.count, o.common.seed);
  if (one.empty()) e.no_floor = concat_text(o.features[1], " has a single row");
  else add_floor(e, {take_rows(reference, one), {}}, {take_rows(reference, other), {}}, 0, keys, o.score);
  return e;
}

Evaluation evaluate_images(const EvalOptions& o, const std::vector<std::string>& keys) {
  Images images = load_both(o);
  Evaluation e;
  e.count = compared_count(o, o.sources[0], images.samples.count(), o.sources[1], images.reference.count());
  FeatureNet net = net_for(o);
  e.features = net.name();
  e.how = images.how;
  e.about = {
      {"samples", {{"source", o.sources[0]}, {"images", images.samples.count()}, {"hash", images.samples.hash}}},
      {"reference", {{"source", o.sources[1]}, {"images", images.reference.count()}, {"hash", images.reference.hash}}},
      {"classifier",
       {{"hash", net.hash}, {"accuracy", net.accuracy}, {"held_out", net.held_out}, {"data_hash", net.data_hash}}}};
  int64_t classes = net.network->config().classes;
  auto chosen = [&](const Dataset& data, int64_t count) {
    return image_features(net, take_rows(data.images, choose_rows(data.count(), count, o.common.seed)));
  };
  ImageFeatures reference = chosen(images.reference, e.count);
  e.values = score(chosen(images.samples, e.count), reference, classes, keys, o.score);
  exit_if_stopped();
  if (images.other.images.defined()) {
    int64_t count = std::min(e.count, images.other.count());
    add_floor(e, count == e.count ? reference : chosen(images.reference, count), chosen(images.other, count), classes,
              keys, o.score);
    return e;
  }
  auto [one, other] = choose_halves(images.reference.count(), e.count, o.common.seed);
  if (one.empty()) e.no_floor = concat_text(o.sources[1], " has a single image");
  else
    add_floor(e, image_features(net, take_rows(images.reference.images, one)),
              image_features(net, take_rows(images.reference.images, other)), classes, keys, o.score);
  return e;
}

/// Scores of features in another precision are other numbers.
void require_f32(const CommonOptions& common) {
  if (common.precision != "f32")
    fail(Error::Kind::usage, "--precision ", common.precision, ": features are computed in f32; leave the flag out");
}

void run_scores(const EvalOptions& o, const std::vector<std::string>& keys) {
  require_f32(o.common);
  require_two(o, true);
  start_on_cpu(o.common);
  watch_signals("\nmote: stopping\n");
  Evaluation e = o.features.empty() ? evaluate_images(o, keys) : evaluate_features(o, keys);
  std::string settings = settings_text(keys, o.score, e.count);
  if (o.common.json) {
    Json json = {{"command", command_line()}, {"seed", o.common.seed}, {"features", e.features}, {"count", e.count}};
    for (const auto& [key, value] : e.about.items()) json[key] = value;
    json["scores"] = Json::object();
    for (const std::string& key : keys)
      json["scores"][score_name(e.features, metric_named(key), e.count)] = e.values.at(key);
    json["values"] = e.values;
    json["floor"] = {{"compares", e.how}, {"count", e.floor_count}, {"values", e.floor}};
    if (!e.no_floor.empty()) json["floor"]["missing"] = e.no_floor;
    json["settings"] = settings;
    return print_json(json);
  }
  for (const std::string& key : keys) {
    std::cout << score_name(e.features, metric_named(key), e.count) << "  " << short_number(e.values.at(key));
    if (key == "kid") std::cout << " +- " << short_number(e.values.at("kid_std"));
    std::cout << "  floor " << (e.floor.count(key) ? short_number(e.floor.at(key)) : "-");
    if (key == "kid" && e.floor.count(key)) std::cout << " +- " << short_number(e.floor.at("kid_std"));
    std::cout << "\n";
  }
  if (!settings.empty()) std::cout << settings << "\n";
  std::cout << "floor: " << e.how << ", " << count_text(e.floor_count) << " images each";
  if (e.floor_count != e.count) std::cout << ", not " << count_text(e.count) << ": there are no more";
  std::cout << (e.no_floor.empty() ? "" : "; missing, because " + e.no_floor) << "\n";
}

// ---- nearest -------------------------------------------------------------------------------------------------------

/// Pairs of a sample and its nearest image side by side, the closest pair first.
void save_pairs(const std::string& path, const Tensor& samples, const Tensor& reference,
                const std::vector<int64_t>& order, const PixelDistances& nearest) {
  constexpr int64_t kPairs = 32, kColumns = 8;
  std::vector<int64_t> left, right;
  for (size_t i = 0; i < std::min<size_t>(kPairs, order.size()); ++i) {
    left.push_back(order[i]);
    right.push_back(nearest.index[size_t(order[i])]);
  }
  Tensor a = take_rows(samples, left), b = take_rows(reference, right);
  Tensor pairs = empty(a.shape().with(0, 2 * a.size(0)));
  int64_t numel = a.numel() / a.size(0);
  for (int64_t i = 0; i < pairs.numel(); ++i) {
    int64_t image = i / numel;
    const Tensor& from = image % 2 == 0 ? a : b;
    pairs.data<float>()[i] = float(from.data<uint8_t>()[image / 2 * numel + i % numel]) / 127.5f - 1;
  }
  io::save_png(path, io::image_grid(pairs, 2 * kColumns));
}

void run_nearest(const EvalOptions& o) {
  require_f32(o.common);
  require_two(o, false);
  start_on_cpu(o.common);
  watch_signals("\nmote: stopping\n");
  constexpr double kCloser = 0.01;  // of the floor's distances
  Images images = load_both(o);
  int64_t count = o.count > 0 ? o.count : images.samples.count();
  if (count > images.samples.count())
    fail(Error::Kind::usage, "--count: ", count, " images are asked for, but ", o.sources[0], " has ",
         images.samples.count());
  std::vector<int64_t> rows = choose_rows(images.samples.count(), count, o.common.seed);
  Tensor samples = take_rows(images.samples.images, rows), reference = images.reference.images;
  PixelDistances nearest = nearest_images(samples, reference);
  std::vector<double> &distance = nearest.distance, floor;
  exit_if_stopped();

  // The floor: how near other real images come to the reference, or one half of it to the other half.
  if (images.other.images.defined()) {
    std::vector<int64_t> chosen = choose_rows(images.other.count(), count, o.common.seed);
    floor = nearest_images(take_rows(images.other.images, chosen), reference).distance;
  } else if (images.reference.count() > 1) {
    auto [one, other] = choose_halves(images.reference.count(), images.reference.count() / 2, o.common.seed);
    floor = nearest_images(take_rows(reference, one), take_rows(reference, other)).distance;
  }
  double limit = floor.empty() ? NAN : quantile(floor, kCloser);
  auto copies = std::count(distance.begin(), distance.end(), 0.0);
  double closer =
      double(std::count_if(distance.begin(), distance.end(), [&](double d) { return d < limit; })) / double(count);

  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), int64_t(0));
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return distance[size_t(a)] < distance[size_t(b)]; });
  if (!o.out.empty()) save_pairs(o.out, samples, reference, order, nearest);

  if (o.common.json) {
    Json json = {
        {"command", command_line()},
        {"unit", "root mean square difference of the pixels, levels of 255"},
        {"samples", {{"source", o.sources[0]}, {"hash", images.samples.hash}, {"count", count}}},
        {"reference", {{"source", o.sources[1]}, {"hash", images.reference.hash}, {"count", images.reference.count()}}},
        {"median", quantile(distance, 0.5)},
        {"min", distance[size_t(order[0])]},
        {"copies", copies},
        {"closer_than_1_percent_of_floor", floor.empty() ? Json() : Json(closer)},
        {"floor",
         {{"compares", images.how},
          {"count", floor.size()},
          {"median", floor.empty() ? Json() : Json(quantile(floor, 0.5))},
          {"one_percent", floor.empty() ? Json() : Json(limit)}}},
        {"sample", rows},
        {"index", nearest.index},
        {"distance", distance}};
    if (!o.out.empty()) json["out"] = o.out;
    return print_json(json);
  }
  std::cout << "nearest of " << count_text(images.reference.count()) << " images of " << o.sources[1] << " to each of "
            << count_text(count) << " of " << o.sources[0]
            << ", root mean square difference of the pixels in levels of 255\n";
  std::cout << "median " << short_number(quantile(distance, 0.5)) << ", smallest "
            << short_number(distance[size_t(order[0])]) << ", exact copies " << copies << "\n";
  if (floor.empty()) std::cout << "floor: missing, because " << o.sources[1] << " has a single image\n";
  else
    std::cout << "floor: median " << short_number(quantile(floor, 0.5)) << " (" << images.how << ", "
              << count_text(int64_t(floor.size())) << " images); closer than 99% of those, at " << short_number(limit)
              << ": " << short_number(100 * closer) << "% of the samples\n";
  for (size_t i = 0; i < std::min<size_t>(5, order.size()); ++i)
    std::cout << "sample " << rows[size_t(order[i])] << ": image " << nearest.index[size_t(order[i])] << " at "
              << short_number(distance[size_t(order[i])]) << "\n";
  if (!o.out.empty()) std::cout << o.out << "\n";
}

// ---- The commands --------------------------------------------------------------------------------------------------

CLI::App& add_action(CLI::App& parent, const std::string& name, const std::string& what, const std::string& example,
                     const std::shared_ptr<EvalOptions>& o, std::function<void()> run) {
  CLI::App& sub = add_command(parent, name, what, example, o->common, std::move(run));
  sub.add_option(
      "sources", o->sources,
      "SAMPLES REFERENCE: each a folder of pictures, a .npy of images [N, H, W, C] in [-1, 1], or a data SPEC "
      "(fashion-mnist, idx:DIR, cifar10:DIR, folder:DIR, csv:FILE, synthetic:NAME)");
  sub.add_option("--count", o->count, "images of each side, chosen by --seed (0: as many as there are)")
      ->group("Images");
  sub.add_option("--split", o->images.split, "train or test, where a side is a data SPEC")
      ->group("Images")
      ->capture_default_str();
  sub.add_option("--size", o->images.size, "resize the middle square of each image to SIZE x SIZE (0: as it is)")
      ->group("Images");
  sub.add_option("--channels", o->images.channels, "1 for grey, 3 for colour (0: as it is)")->group("Images");
  sub.add_option("--limit", o->images.limit, "read only the first N images of a side (0: all)")->group("Images");
  return sub;
}

void add_scores(CLI::App& parent, const std::string& name, const std::string& what, const std::string& example,
                const std::vector<std::string>& keys) {
  auto o = std::make_shared<EvalOptions>();
  CLI::App& sub = add_action(parent, name, what, example, o, [o, keys] {
    o->score.seed = o->common.seed;
    run_scores(*o, keys);
  });
  const char* group = "Features";
  sub.add_option("--classifier", o->classifier,
                 "file of the classifier whose features are compared; trained and written if it is not there")
      ->group(group);
  sub.add_option("--data", o->data, "labelled data SPEC to train the classifier on (default: REFERENCE)")->group(group);
  sub.add_option("--features", o->features,
                 "two files of features computed elsewhere, .npy or .safetensors [N, D], instead of images")
      ->group(group)
      ->type_name("SAMPLES REFERENCE");
  if (name == "kid")
    sub.add_option("--subsets", o->score.kid_subsets, "subsets, of 1000 images or half of --count")
        ->group(group)
        ->capture_default_str()
        ->check(CLI::Range(1, 100000));
  if (name == "prdc") {
    sub.add_option("--k", o->score.prdc.k_manifold, "neighbour number of precision and recall")
        ->group(group)
        ->capture_default_str()
        ->check(CLI::Range(1, 100000));
    sub.add_option("--k-density", o->score.prdc.k_density, "neighbour number of density and coverage")
        ->group(group)
        ->capture_default_str()
        ->check(CLI::Range(1, 100000));
  }
}

}  // namespace

void add_eval_command(CLI::App& app) {
  CLI::App* eval = app.add_subcommand("eval", "Score images against a reference, or labels against classes");
  eval->require_subcommand(1);
  eval->footer("Example:\n  mote eval fd samples.npy fashion-mnist --classifier lenet.safetensors");
  add_scores(*eval, "fd", "Frechet distance of features; FID, if they are Inception features given with --features",
             "mote eval fd samples.npy fashion-mnist --count 5000 --classifier lenet.safetensors\n"
             "  mote eval fd --features samples-inception.npy train-inception.npy",
             {"fd"});
  add_scores(*eval, "kid", "Kernel distance of features, an estimate without bias",
             "mote eval kid samples.npy fashion-mnist --classifier lenet.safetensors", {"kid"});
  add_scores(*eval, "prdc", "Precision, recall, density and coverage of features",
             "mote eval prdc samples.npy fashion-mnist --classifier lenet.safetensors",
             {"prec", "rec", "density", "coverage"});
  std::vector<std::string> mixture;
  for (const Metric& metric : all_metrics())
    if (metric.key.starts_with("mix")) mixture.push_back(metric.key);
  add_scores(*eval, "mix",
             "Mode mixture: the share of images in which the classifier sees two classes, for a list of tau",
             "mote eval mix samples.npy fashion-mnist --classifier lenet.safetensors", mixture);
  auto o = std::make_shared<EvalOptions>();
  CLI::App& nearest =
      add_action(*eval, "nearest", "The nearest reference image of each sample: are they copies?",
                 "mote eval nearest samples.npy fashion-mnist --out pairs.png", o, [o] { run_nearest(*o); });
  nearest.add_option("--out", o->out, "a PNG of the closest pairs, the sample at the left")->group("Images");
  add_eval_cluster_command(*eval);
}

}  // namespace mote::apps
