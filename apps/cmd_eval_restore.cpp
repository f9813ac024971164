// cmd_eval_restore.cpp - `mote eval restore`: how near restored pictures are to the true ones, file by file.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/cmd_restore.h"
#include "apps/commands.h"
#include "apps/common.h"
#include "apps/dataset.h"
#include "apps/restore_scores.h"
#include "tensor/error.h"
#include "tensor/io/image.h"

namespace mote::apps {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  CommonOptions common;
  std::string pred, truth;
  bool luma = false;
};

/// Files of a folder by their names without ending.
std::map<std::string, std::string> files_of(const char* flag, const std::string& folder) {
  std::map<std::string, std::string> files;
  for (const std::string& name : picture_names(folder)) {
    auto [at, is_new] = files.emplace(std::filesystem::path(name).stem().string(), folder + "/" + name);
    if (!is_new)
      fail(Error::Kind::data, flag, ": ", at->second, " and ", name, " differ in their ending alone; one must go");
  }
  if (files.empty()) fail(Error::Kind::data, flag, ": ", folder, " has no pictures (png, jpg, bmp, pgm, ppm)");
  return files;
}

void require_same_names(const Options& o, const std::map<std::string, std::string>& pred,
                        const std::map<std::string, std::string>& truth) {
  std::vector<std::string> missing;
  for (const auto& [name, file] : truth)
    if (!pred.count(name)) missing.push_back(concat_text(file, " has no partner in ", o.pred));
  for (const auto& [name, file] : pred)
    if (!truth.count(name)) missing.push_back(concat_text(file, " has no partner in ", o.truth));
  constexpr size_t kMostListed = 10;
  if (missing.size() > kMostListed) {
    missing[kMostListed] = concat_text("and ", missing.size() - kMostListed, " more");
    missing.resize(kMostListed + 1);
  }
  if (!missing.empty()) fail(Error::Kind::data, "pictures are compared by name:\n  ", joined(missing, "\n  "));
}

void run(const Options& o) {
  if (o.pred.empty() || o.truth.empty())
    fail(Error::Kind::usage, "--pred DIR and --truth DIR are needed: restored and true pictures of the same names");
  start(o.common);
  std::map<std::string, std::string> pred = files_of("--pred", o.pred), truth = files_of("--truth", o.truth);
  require_same_names(o, pred, truth);
  metrics::Channels channels = o.luma ? metrics::Channels::luma : metrics::Channels::all;
  std::vector<metrics::RestorationScore> scores;
  Json pictures = Json::array();
  for (const auto& [name, file] : truth) {
    Tensor image = io::load_image(pred.at(name)), clean = io::load_image(file);
    if (!(image.shape() == clean.shape()))
      fail(Error::Kind::data, pred.at(name), " is ", image.shape(), ", but ", file, " is ", clean.shape(),
           " (height, width, channels); only equal ones can be compared");
    scores.push_back(metrics::restoration_score(image, clean, channels));
    Json row = json_of(metrics::restoration_means({scores.back()}));
    row["picture"] = name;
    pictures.push_back(row);
  }
  metrics::RestorationMeans means = metrics::restoration_means(scores);
  if (o.common.json) {
    Json json = {{"command", command_line()}, {"pred", o.pred}, {"truth", o.truth},
                 {"protocol", score_protocol(channels)}};
    json.update(json_of(means));
    json["pictures"] = pictures;
    std::cout << json.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
    return;
  }
  std::printf("PSNR %s dB  SSIM %s  sharpness %s\n", number_or_dash(means.psnr, 2).c_str(),
              number_or_dash(means.ssim, 4).c_str(), number_or_dash(means.sharpness, 3).c_str());
  std::printf("%s pictures, %s; %s identical, left out of PSNR\n", count_text(means.count).c_str(),
              score_protocol(channels).c_str(), count_text(means.identical).c_str());
}

}  // namespace

void add_eval_restore_command(CLI::App& eval) {
  auto o = std::make_shared<Options>();
  CLI::App& sub = add_command(eval, "restore", "PSNR, SSIM and sharpness of restored pictures against the true ones",
                              "mote eval restore --pred restored/ --truth clean/ --y", o->common, [o] { run(*o); });
  sub.add_option("--pred", o->pred, "folder of restored pictures");
  sub.add_option("--truth", o->truth, "folder of the true ones, of the same names; endings may differ");
  sub.add_flag("--y", o->luma, "compare the luma Y of BT.601 (16 to 235) instead of all channels");
}

}  // namespace mote::apps
