// cmd_eval_seg.cpp - `mote eval seg`: masks or probability maps against the truth, with intervals, and the floor that
// Otsu's threshold sets.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "apps/common.h"
#include "apps/pairs.h"
#include "apps/run_log.h"
#include "diffusion/metrics/bootstrap.h"
#include "diffusion/metrics/calibration.h"
#include "diffusion/metrics/segmentation.h"
#include "tensor/error.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"
#include "tensor/io/npy.h"

namespace mote::apps {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

struct Options {
  CommonOptions common;
  std::string predicted, truth, against, csv, size;
  PairOptions data;
  double threshold = 0.5;
  bool otsu = false, skip_empty = false;
};

struct Truth {
  std::string name;
  Tensor mask, image;   // u8 [H, W]; the image u8 [H, W, C] with --data
};

// ---- Reading -------------------------------------------------------------------------------------------------------

void require_options(const Options& o) {
  auto wrong = [](const auto&... parts) { fail(Error::Kind::usage, parts...); };
  if (o.truth.empty() == o.data.spec.empty())
    wrong("the truth is needed once: --truth DIR, a folder of masks, or --data SPEC, images with masks");
  if (o.predicted.empty() != o.otsu)
    wrong("what is scored is needed once: --pred DIR, a folder of predictions, or --otsu, the floor");
  if (o.otsu && o.data.spec.empty()) wrong("--otsu: needs the pictures; give --data pairs:DIR instead of --truth");
  if (!(o.threshold >= 0 && o.threshold < 1)) wrong("--threshold is ", o.threshold, "; 0 <= threshold < 1 is needed");
  if (o.data.classes != 0 && (o.data.classes < 2 || o.data.classes >= kIgnored))
    wrong("--classes is ", o.data.classes, "; 0 (two, or as the data says) or 2 to ", kIgnored - 1, " are allowed");
  if (o.data.ignore < -1 || o.data.ignore > 255)
    wrong("--ignore is ", o.data.ignore, "; -1 (none) or 0 to 255 is allowed");
  if (!o.truth.empty() && (!o.size.empty() || !o.data.colours.empty()))
    wrong("--size and --colours are for --data; masks of --truth are read as they are");
}

/// Name without ending -> path, of pictures and .npy files.
std::map<std::string, std::string> list_by_name(const std::string& folder) {
  std::vector<std::string> names = picture_names(folder);
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".npy") names.push_back(entry.path().filename().string());
  std::map<std::string, std::string> paths;
  for (const std::string& name : names) {
    auto [known, is_new] = paths.emplace(fs::path(name).stem().string(), folder + "/" + name);
    if (!is_new) fail(Error::Kind::data, folder, "/", name, ": ", known->second, " has the same name");
  }
  if (paths.empty()) fail(Error::Kind::data, folder, ": has no pictures and no .npy files");
  return paths;
}

std::vector<Truth> load_truth(const Options& o, int64_t& classes, std::string& hash) {
  std::vector<Truth> all;
  if (o.data.spec.empty()) {
    classes = o.data.classes > 0 ? o.data.classes : 2;
    io::Hasher hasher;
    for (const auto& [name, path] : list_by_name(o.truth)) {
      all.push_back({name, load_mask(path, classes, o.data.ignore), {}});
      hasher.update(all.back().mask.raw(), size_t(all.back().mask.nbytes()));
    }
    hash = hasher.hex();
    return all;
  }
  PairOptions options = o.data;
  options.seed = o.common.seed;
  if (!o.size.empty()) parse_size("--size", o.size, options.height, options.width);
  Pairs pairs = load_pairs(options);
  classes = pairs.classes;
  hash = pairs.hash;
  for (int64_t n = 0; n < pairs.count(); ++n)
    all.push_back({pairs.names[size_t(n)], pairs.masks.rows(n, n + 1).view(pairs.masks.shape().without(0)),
                   pairs.images.rows(n, n + 1).view(pairs.images.shape().without(0))});
  return all;
}

/// A prediction of two classes: p f32 [H, W] in [0, 1], of a grey picture v / 255.
Tensor load_probability(const std::string& path) {
  if (path.ends_with(".npy")) {
    Tensor map = io::load_npy(path);
    if (map.ndim() != 2 || (map.dtype() != DType::f32 && map.dtype() != DType::f64))
      fail(Error::Kind::data, path, ": needs probabilities f32 or f64 [H, W], is ", describe(map));
    map = map.to(DType::f32);
    for (int64_t i = 0; i < map.numel(); ++i)
      if (float p = map.data<float>()[i]; !(p >= 0 && p <= 1))
        fail(Error::Kind::data, path, ": the value in row ", i / map.size(1), ", column ", i % map.size(1), " is ", p,
             ", no probability");
    return map;
  }
  Tensor picture = io::load_image(path);
  if (picture.size(2) != 1)
    fail(Error::Kind::data, path, ": is in colour; a mask or probability map is grey, 0 to 255");
  Tensor map = empty({picture.size(0), picture.size(1)});
  std::transform(picture.data<uint8_t>(), picture.data<uint8_t>() + picture.numel(), map.data<float>(),
                 [](uint8_t v) { return float(v) / 255; });
  return map;
}

/// Two classes: probabilities f32 [H, W]; more: class numbers u8 [H, W]. One a truth.
std::vector<Tensor> load_predictions(const std::string& folder, const std::vector<Truth>& truth, int64_t classes,
                                     int64_t& left_over) {
  std::map<std::string, std::string> paths = list_by_name(folder);
  std::vector<Tensor> predictions;
  for (const Truth& t : truth) {
    auto found = paths.find(t.name);
    if (found == paths.end()) {
      auto missing = std::count_if(truth.begin(), truth.end(), [&](const Truth& u) { return !paths.count(u.name); });
      fail(Error::Kind::data, folder, ": has no prediction for ", t.name,
           missing > 1 ? concat_text(" (and ", missing - 1, " more)") : "", "; names must be those of the truth");
    }
    Tensor p = classes == 2 ? load_probability(found->second) : load_mask(found->second, classes, -1);
    if (!(p.shape() == t.mask.shape()))
      fail(Error::Kind::data, found->second, ": is ", p.shape(), ", the truth is ", t.mask.shape(), " (height, width)");
    predictions.push_back(p);
  }
  left_over = int64_t(paths.size() - truth.size());
  return predictions;
}

std::vector<Tensor> otsu_predictions(const std::vector<Truth>& truth) {
  std::vector<Tensor> predictions;
  for (const Truth& t : truth)
    predictions.push_back(metrics::otsu_mask(io::convert_channels(t.image, 1).view(t.mask.shape())).to(DType::f32));
  return predictions;
}

/// All of them in a row, for scores of pooled pixels.
Tensor joined_pixels(const std::vector<Tensor>& parts) {
  int64_t total = 0;
  for (const Tensor& part : parts) total += part.numel();
  Tensor all = empty({total}, parts[0].dtype());
  total = 0;
  for (const Tensor& part : parts) {
    all.rows(total, total + part.numel()).copy_(part.view({part.numel()}));
    total += part.numel();
  }
  return all;
}

// ---- Scoring -------------------------------------------------------------------------------------------------------

Json to_json(const metrics::Interval& i) { return {{"mean", number_json(i.mean)}, {"low", i.low}, {"high", i.high}}; }

std::string interval_text(const metrics::Interval& i) {
  char text[64];
  std::snprintf(text, sizeof text, "%.4f [%.4f, %.4f]", i.mean, i.low, i.high);
  return text;
}

std::vector<metrics::ImageScores> score_all(const std::vector<Tensor>& predictions, const std::vector<Truth>& truth,
                                            double threshold) {
  std::vector<metrics::ImageScores> scores;
  for (size_t n = 0; n < truth.size(); ++n)
    scores.push_back(metrics::score_image(predictions[n], truth[n].mask, threshold));
  return scores;
}

std::vector<double> column(const std::vector<metrics::ImageScores>& scores, double metrics::ImageScores::*member) {
  std::vector<double> values;
  for (const metrics::ImageScores& image : scores) values.push_back(image.*member);
  return values;
}

void save_csv(const std::string& path, const std::vector<Truth>& truth,
              const std::vector<metrics::ImageScores>& scores) {
  std::string text = "name,tp,fp,fn,tn,iou,dice,s,adaptive_f,boundary_f,hd95\n";
  for (size_t n = 0; n < scores.size(); ++n) {
    const metrics::ImageScores& s = scores[n];
    text += concat_text(truth[n].name, ",", s.counts.tp, ",", s.counts.fp, ",", s.counts.fn, ",", s.counts.tn);
    for (double value : {s.iou, s.dice, s.s, s.adaptive_f, s.boundary_f, s.hd95})
      text.append(",").append(std::isnan(value) ? "" : number_text(value));
    text += "\n";
  }
  io::write_file_atomic(path, text);
}

/// The scores of two classes, as text on stdout or into `json`.
void report_two(const Options& o, const std::vector<Truth>& truth, const std::vector<Tensor>& predictions, Json& json) {
  std::vector<metrics::ImageScores> scores = score_all(predictions, truth, o.threshold);
  metrics::SetScores set = metrics::summarize(scores);
  metrics::Interval iou = metrics::bootstrap(column(scores, &metrics::ImageScores::iou), o.common.seed);
  metrics::Interval dice = metrics::bootstrap(column(scores, &metrics::ImageScores::dice), o.common.seed);
  std::vector<Tensor> masks;
  for (const Truth& t : truth) masks.push_back(t.mask);
  metrics::Calibration calibration = metrics::calibration(joined_pixels(predictions), joined_pixels(masks));
  json["threshold"] = o.threshold;
  json["iou"] = to_json(iou);
  json["dice"] = to_json(dice);
  json["pooled"] = {{"iou", set.pooled_iou},          {"dice", set.pooled_dice}, {"background_iou", set.background_iou},
                    {"mean_iou", set.mean_iou},       {"accuracy", set.accuracy}, {"balanced_accuracy", set.balanced},
                    {"tp", set.pooled.tp},            {"fp", set.pooled.fp},      {"fn", set.pooled.fn},
                    {"tn", set.pooled.tn}};
  json["s_measure"] = number_json(set.s);
  json["f_0.3"] = {{"max", set.max_f}, {"mean", set.mean_f}, {"adaptive", set.adaptive_f}};
  json["boundary_f"] = set.boundary_f;
  json["hd95"] = {{"mean", number_json(set.hd95)}, {"images_left_out", set.hd95_missing}};
  json["calibration"] = {{"ece", calibration.ece}, {"brier", calibration.brier}, {"nll", calibration.nll}};
  if (!o.csv.empty()) save_csv(o.csv, truth, scores);
  if (!o.common.json) {
    std::cout << "IoU  " << interval_text(iou) << "  mean over images, 95% interval; pooled ";
    std::printf("%.4f, with background %.4f\n", set.pooled_iou, set.mean_iou);
    std::cout << "Dice " << interval_text(dice) << "  pooled ";
    std::printf("%.4f\n", set.pooled_dice);
    std::printf("accuracy %.4f  balanced %.4f  S %.4f  F0.3 max %.4f mean %.4f adaptive %.4f\n", set.accuracy,
                set.balanced, set.s, set.max_f, set.mean_f, set.adaptive_f);
    std::printf("boundary F %.4f  HD95 %.2f pixels (%ld images with one empty mask left out)\n", set.boundary_f,
                set.hd95, long(set.hd95_missing));
    std::printf("ECE %.4f  Brier %.4f  NLL %.4f\n", calibration.ece, calibration.brier, calibration.nll);
  }
  if (o.against.empty()) return;
  int64_t left_over = 0;
  std::vector<metrics::ImageScores> others =
      score_all(load_predictions(o.against, truth, 2, left_over), truth, o.threshold);
  json["against"] = {{"source", o.against}};
  for (auto [key, title, member] : {std::tuple{"iou", "IoU ", &metrics::ImageScores::iou},
                                    {"dice", "Dice", &metrics::ImageScores::dice}}) {
    metrics::Interval gain = metrics::paired_bootstrap(column(scores, member), column(others, member), o.common.seed);
    json["against"][key] = to_json(gain);
    if (!o.common.json) std::cout << title << " above " << o.against << " by " << interval_text(gain) << "\n";
  }
}

void report_classes(const Options& o, const std::vector<Truth>& truth, const std::vector<Tensor>& predictions,
                    int64_t classes, Json& json) {
  std::vector<Tensor> masks;
  for (const Truth& t : truth) masks.push_back(t.mask);
  metrics::ClassScores scores = metrics::class_scores(joined_pixels(predictions), joined_pixels(masks), classes);
  json["pooled"] = {{"mean_iou", scores.mean_iou},
                    {"accuracy", scores.accuracy},
                    {"mean_class_accuracy", scores.mean_class_accuracy},
                    {"iou", Json::array()}};
  for (double value : scores.iou) json["pooled"]["iou"].push_back(number_json(value));
  if (o.common.json) return;
  std::printf("mean IoU %.4f  accuracy %.4f  mean class accuracy %.4f\n", scores.mean_iou, scores.accuracy,
              scores.mean_class_accuracy);
  for (size_t k = 0; k < scores.iou.size(); ++k)
    std::cout << "class " << k << ": IoU " << (std::isnan(scores.iou[k]) ? "-" : number_text(scores.iou[k])) << "\n";
}

void run(const Options& o) {
  require_options(o);
  start(o.common);
  int64_t classes = 0, left_over = 0;
  std::string hash;
  std::vector<Truth> truth = load_truth(o, classes, hash);
  if (classes > 2 && (o.otsu || !o.csv.empty() || !o.against.empty() || o.skip_empty))
    fail(Error::Kind::usage, "--otsu, --csv, --against and --skip-empty are for two classes; the truth has ", classes);
  size_t all = truth.size();
  if (o.skip_empty)
    std::erase_if(truth, [](const Truth& t) { return metrics::count_pixels(t.mask, t.mask).tp == 0; });
  if (truth.empty()) fail(Error::Kind::data, "--skip-empty: all ", all, " masks of the truth are empty");
  std::vector<Tensor> predictions =
      o.otsu ? otsu_predictions(truth) : load_predictions(o.predicted, truth, classes, left_over);
  Json json = {{"command", command_line()},
               {"predictions", o.otsu ? "Otsu's threshold" : o.predicted},
               {"truth", o.data.spec.empty() ? o.truth : o.data.spec},
               {"split", o.data.spec.empty() ? Json() : Json(o.data.split)},
               {"truth_hash", hash},
               {"images", truth.size()},
               {"empty_left_out", all - truth.size()},
               {"predictions_left_over", left_over},
               {"classes", classes},
               {"ignore", o.data.ignore < 0 ? Json() : Json(o.data.ignore)},
               {"bootstrap", {{"resamples", 10000}, {"level", 0.95}, {"seed", o.common.seed}}}};
  if (classes == 2) report_two(o, truth, predictions, json);
  else report_classes(o, truth, predictions, classes, json);
  if (o.common.json) {
    std::cout << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
    return;
  }
  std::cout << count_text(int64_t(truth.size())) << " images";
  if (all > truth.size()) std::cout << ", " << all - truth.size() << " with an empty truth left out";
  if (left_over > 0) std::cout << "; " << left_over << " predictions have no truth";
  std::cout << "\n";
}

}  // namespace

void add_eval_seg_command(CLI::App& eval) {
  auto o = std::make_shared<Options>();
  o->data.split = "test";
  CLI::App& sub = add_command(
      eval, "seg", "Agreement of masks with the truth: IoU, Dice, S, F, boundaries, calibration",
      "mote eval seg --pred masks --truth truth\n"
      "  mote eval seg --pred probabilities --data pairs:nuclei --split test --against other\n"
      "  mote eval seg --otsu --data pairs:nuclei --split test",
      o->common, [o] { run(*o); });
  sub.add_option("--pred", o->predicted,
                 "predictions, named as the truth: grey pictures (p = v / 255; class numbers if there are more than two "
                 "classes) or .npy of probabilities");
  sub.add_option("--truth", o->truth, "a folder of masks: 0 and 255, or class numbers");
  sub.add_option("--data", o->data.spec, "images with masks, instead of --truth: pairs:DIR, synthetic:discs28, ...");
  sub.add_option("--split", o->data.split, "part of --data: train, val or test")->capture_default_str();
  sub.add_option("--size", o->size, "of --data: a side, or HEIGHTxWIDTH (default: as they are)");
  sub.add_option("--colours", o->data.colours, "of --data: what the colours of masks mean, `r g b class` a line");
  sub.add_option("--threshold", o->threshold, "foreground is p > THRESHOLD")->capture_default_str();
  sub.add_option("--classes", o->data.classes, "classes of the masks (default: 2, or as --data says)");
  sub.add_option("--ignore", o->data.ignore, "a value of the truth's masks that is left out (default: none)");
  sub.add_option("--against", o->against, "other predictions of the same images: the gain over them, with interval");
  sub.add_flag("--otsu", o->otsu, "score Otsu's threshold of the pictures instead of predictions: the floor");
  sub.add_flag("--skip-empty", o->skip_empty, "leave out images whose truth has no foreground");
  sub.add_option("--csv", o->csv, "write the scores of each image");
}

}  // namespace mote::apps
