// cmd_segment_predict.cpp - `mote segment predict`: mask, probability, variance and |R| of pictures, as PNG and npy.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "apps/cmd_segment.h"
#include "apps/image_out.h"
#include "apps/segment_model.h"
#include "apps/signals.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"
#include "tensor/io/npy.h"

namespace mote::apps {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct PredictOptions {
  CommonOptions common;
  std::string run, images, data, split = "test", out;
  PriorSource prior;
  SamplingFlags sampling;
  int64_t samples = 9, limit = 0;
  double weight = -1, threshold = 0.5;
  bool tta = false;
};

/// Pictures to predict, as they were and at the size of the models.
struct Pictures {
  Pairs at_size;                  // images and names; no masks
  std::vector<Tensor> originals;  // u8 [H, W, C] each; empty: as at_size
};

std::vector<std::string> picture_files(const std::string& given) {
  std::error_code error;
  if (!fs::exists(given, error)) fail(Error::Kind::data, "--images: there is nothing at ", given);
  if (!fs::is_directory(given)) return {given};
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(given)) {
    std::string end = entry.path().extension().string();
    std::transform(end.begin(), end.end(), end.begin(), [](unsigned char c) { return char(std::tolower(c)); });
    for (const char* known : {".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".pnm"})
      if (end == known) files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  if (files.empty()) fail(Error::Kind::data, "--images: ", given, " holds no pictures (png, jpg, bmp, pnm)");
  return files;
}

Pictures read_pictures(const PredictOptions& o, const SegmentCheckpoint& c) {
  Pictures pictures;
  std::vector<std::string> files = picture_files(o.images);
  if (o.limit > 0 && int64_t(files.size()) > o.limit) files.resize(size_t(o.limit));
  Pairs& pairs = pictures.at_size;
  pairs.name = o.images;
  pairs.split = "predict";
  pairs.classes = c.classes;
  pairs.images = empty({int64_t(files.size()), c.height, c.width, c.channels}, DType::u8);
  for (size_t i = 0; i < files.size(); ++i) {
    exit_if_stopped();
    std::string name = fs::path(files[i]).stem().string();
    if (std::find(pairs.names.begin(), pairs.names.end(), name) != pairs.names.end())
      fail(Error::Kind::data, "--images: two pictures are called ", name, "; the results would overwrite each other");
    pairs.names.push_back(name);
    Tensor picture = io::load_image(files[i], int(c.channels));
    pictures.originals.push_back(picture);
    Tensor resized = picture.size(0) == c.height && picture.size(1) == c.width
                         ? picture : io::resize_image(picture, c.height, c.width);
    pairs.images.rows(int64_t(i), int64_t(i) + 1).view(resized.shape()).copy_(resized);
  }
  pairs.masks = zeros(pairs.images.shape().without(3), DType::u8);
  pairs.hash = pairs_hash(pairs);
  return pictures;
}

Pictures load_part(const PredictOptions& o, const SegmentCheckpoint& c) {
  SegmentData told;
  if (c.kind == "e2e") told = keys_from_json<E2EConfig>("end-to-end configuration", c.train);
  else told = keys_from_json<DdpmConfig>("residual DDPM configuration", c.train);
  if (!o.data.empty() && o.data != told.data) {
    told.data = o.data;
    told.size = c.height;
    told.channels = c.channels;
    told.limit = 0;
  }
  if (o.limit > 0) told.limit = o.limit;
  return {load_pairs(pair_options(told, o.split)), {}};
}

/// What is written of one picture, each [H, W, K] of the models' size.
struct Maps {
  Tensor mean, probability, variance, residual;   // probability in [0, 1]: one channel, or one a class
};

uint8_t level(double value) { return uint8_t(std::lround(std::clamp(value, 0.0, 1.0) * 255)); }

/// Grey picture of scale * the largest channel.
Tensor grey_of(const Tensor& map, double scale) {
  int64_t K = map.size(2);
  Tensor picture = empty({map.size(0), map.size(1), 1}, DType::u8);
  for (int64_t i = 0; i < picture.numel(); ++i) {
    const float* at = map.data<float>() + i * K;
    picture.data<uint8_t>()[i] = level(scale * double(*std::max_element(at, at + K)));
  }
  return picture;
}

/// Class numbers by nearest pixel at another size.
Tensor resized_classes(const Tensor& ids, int64_t height, int64_t width) {
  Tensor big = empty({height, width, 1}, DType::u8);
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x) {
      int64_t from_y = (2 * y + 1) * ids.size(0) / (2 * height), from_x = (2 * x + 1) * ids.size(1) / (2 * width);
      big.data<uint8_t>()[y * width + x] = ids.data<uint8_t>()[from_y * ids.size(1) + from_x];
    }
  return big;
}

/// The picture with the outline of every class but 0 in red.
Tensor overlay(const Tensor& picture, const Tensor& mask) {
  Tensor shown = io::convert_channels(picture, 3).clone();
  int64_t H = mask.size(0), W = mask.size(1);
  const uint8_t* at = mask.data<uint8_t>();
  for (int64_t y = 0; y < H; ++y)
    for (int64_t x = 0; x < W; ++x) {
      uint8_t here = at[y * W + x];
      bool edge = here != 0 && ((y > 0 && at[(y - 1) * W + x] != here) || (y + 1 < H && at[(y + 1) * W + x] != here) ||
                                (x > 0 && at[y * W + x - 1] != here) || (x + 1 < W && at[y * W + x + 1] != here));
      if (!edge) continue;
      uint8_t* pixel = shown.data<uint8_t>() + (y * W + x) * 3;
      pixel[0] = 255;
      pixel[1] = pixel[2] = 32;
    }
  return shown;
}

/// Writes what belongs to one picture; PNGs are of its original size.
Json save_maps(const std::string& folder, const std::string& name, const Tensor& original, const Maps& maps,
               int64_t classes, double threshold, resensemble::Coding coding) {
  int64_t height = original.size(0), width = original.size(1);
  bool same = maps.mean.size(0) == height && maps.mean.size(1) == width;
  auto fitted = [&](const Tensor& picture) { return same ? picture : io::resize_image(picture, height, width); };
  Tensor mask;
  if (classes == 2) {
    // decided on the enlarged map, so that an outline is not made of large steps
    Tensor soft = coding == resensemble::Coding::one_hot
                      ? narrow(affine(maps.mean, 0.5, 0.5), 2, 1, 1) : affine(maps.mean, 0.5, 0.5);
    Tensor shown = same ? grey_of(soft, 1) : io::resize_image(grey_of(soft, 1), height, width);
    mask = empty(shown.shape(), DType::u8);
    for (int64_t i = 0; i < mask.numel(); ++i)
      mask.data<uint8_t>()[i] = same ? soft.data<float>()[i] > threshold : shown.data<uint8_t>()[i] > 255 * threshold;
  } else {
    Tensor ids = resensemble::decode(coding, maps.mean.view(maps.mean.shape().inserted(0, 1)), classes).to(DType::u8);
    mask = resized_classes(ids.view({maps.mean.size(0), maps.mean.size(1)}), height, width);
  }
  Json files = Json::array();
  auto save = [&](const std::string& what, const Tensor& picture) {
    std::string path = folder + "/" + name + "_" + what + ".png";
    io::save_png(path, picture);
    files.push_back(path);
  };
  auto save_array = [&](const std::string& what, const Tensor& map) {
    std::string path = folder + "/" + name + "_" + what + ".npy";
    io::save_npy(path, map);
    files.push_back(path);
  };
  Tensor shown_mask = mask.clone();
  if (classes == 2)
    for (int64_t i = 0; i < mask.numel(); ++i) shown_mask.data<uint8_t>()[i] = mask.data<uint8_t>()[i] ? 255 : 0;
  save("mask", shown_mask);
  save("overlay", overlay(original, mask));
  save("probability", fitted(grey_of(maps.probability, 1)));
  save_array("probability", maps.probability);
  if (!maps.variance.defined()) return files;
  save("variance", fitted(grey_of(maps.variance, 1)));
  save("residual", fitted(grey_of(maps.residual, 1)));
  save_array("variance", maps.variance);
  save_array("residual", maps.residual);
  save_array("estimate", maps.mean);
  return files;
}

/// The smoothed share of samples in each class, [N, H, W, C].
Tensor of_classes(const DdpmModel& model, const Tensor& xbar, const Tensor& f, int64_t classes, double weight) {
  Tensor ys = empty_like(xbar);
  for (int64_t k = 0; k < xbar.size(0); ++k) {
    Tensor one = xbar.rows(k, k + 1);
    ys.rows(k, k + 1).copy_(resensemble::estimates(model.target(), one, f, 1, weight).mean.view(one.shape()));
  }
  return resensemble::class_probabilities(model.coding, ys, classes);
}

void check(const PredictOptions& o) {
  if (o.out.empty()) fail(Error::Kind::usage, "--out: the folder for the results is missing");
  if (o.run.empty() && o.prior.e2e.empty())
    fail(Error::Kind::usage, "give --run (a residual DDPM), or --e2e alone to predict with the end-to-end model");
  if (!o.images.empty() && !o.data.empty()) fail(Error::Kind::usage, "give --images or --data, one of them");
  if (int(!o.prior.e2e.empty()) + int(!o.prior.f.empty()) + int(!o.prior.f_dir.empty()) > 1)
    fail(Error::Kind::usage, "--e2e, --f and --f-dir name the same thing, the prior; give one of them");
  if (o.weight > 1 || (o.weight < 0 && o.weight != -1))
    fail(Error::Kind::usage, "--weight: must be 0 to 1, or -1 for the target's own, got ", o.weight);
  if (!(o.threshold > 0 && o.threshold < 1))
    fail(Error::Kind::usage, "--threshold: must lie between 0 and 1, got ", o.threshold);
  if (o.limit < 0) fail(Error::Kind::usage, "--limit: must be 0 (all) or more, got ", o.limit);
  if (o.tta && (!o.run.empty())) fail(Error::Kind::usage, "--tta: only with --e2e alone");
}

void run_predict(const PredictOptions& o) {
  check(o);
  Device device = start(o.common);
  std::optional<DdpmModel> model;
  std::optional<E2EModel> alone;
  if (!o.run.empty()) model.emplace(load_ddpm("--run", o.run, o.sampling.weights, device));
  else alone.emplace(load_e2e("--e2e", o.prior.e2e, device));
  const SegmentCheckpoint& c = model ? model->checkpoint : alone->checkpoint;
  if (model && o.prior.is_none() && (model->target().prior != 0 || model->model.is_resfusion() || model->config.see_f))
    fail(Error::Kind::usage, "--run: this model needs a prior: give --e2e RUN, --f FILE or --f-dir DIR");
  std::optional<resensemble::EnsembleOptions> options;
  if (model) options = o.sampling.options(*model, o.samples, o.common.seed);
  std::error_code error;
  fs::create_directories(o.out, error);
  if (error) fail(Error::Kind::resource, "--out: cannot make ", o.out, ": ", error.message());
  watch_signals("\nmote: stopping\n");
  Pictures pictures = o.images.empty() ? load_part(o, c) : read_pictures(o, c);
  const Pairs& data = pictures.at_size;
  Json files = Json::array();
  auto save = [&](int64_t i, const Maps& maps) {
    Tensor original = pictures.originals.empty() ? data.images.rows(i, i + 1).view(data.images.shape().without(0))
                                                 : pictures.originals[size_t(i)];
    resensemble::Coding coding = model ? model->coding
                                 : data.classes == 2 ? resensemble::Coding::binary : resensemble::Coding::one_hot;
    for (const Json& file : save_maps(o.out, data.names[size_t(i)], original, maps, data.classes, o.threshold, coding))
      files.push_back(file);
  };
  auto row = [](const Tensor& x, int64_t i) { return x.rows(i, i + 1).clone().view(x.shape().without(0)); };
  double seconds = 0;
  std::string about;
  if (alone) {
    require_fits(*alone, data.images, data.classes);
    Tensor p = e2e_probabilities(*alone, data.images, device, o.tta);
    NoGrad no_grad;
    Tensor y = affine(p, 2, -1);
    for (int64_t i = 0; i < data.count(); ++i) save(i, {row(y, i), row(p, i), {}, {}});
    about = "end-to-end model " + alone->checkpoint.hash;
  } else {
    Prior prior = load_prior(o.prior, data, device, o.common.quiet);
    about = prior.about;
    seconds = prior.seconds + sample_images(*model, data.images, prior.probability, data.classes, *options, device,
                                            "segment", o.common.quiet,
        [&](int64_t first, const Tensor& xbar, const Tensor& f) {
          resensemble::Estimates e = resensemble::estimates(model->target(), xbar, f, 0, o.weight);
          if (data.classes > 2) e.probability = of_classes(*model, xbar, f, data.classes, o.weight);
          for (int64_t i = 0; i < f.size(0); ++i)
            save(first + i, {row(e.mean, i), row(e.probability, i), row(e.variance, i), row(e.residual, i)});
        });
  }
  Json json = {{"command", command_line()}, {"images", data.count()}, {"checkpoint", c.path},
               {"checkpoint_hash", c.hash}, {"prior", about},         {"seed", o.common.seed},
               {"threshold", o.threshold}};
  if (model) {
    json["samples"] = o.samples;
    json["sampler"] = o.sampling.text();
    json["weight"] = o.weight < 0 ? Json() : Json(o.weight);
    json["ms_per_image"] = 1000 * seconds / double(std::max<int64_t>(1, data.count()));
  }
  json["files"] = files;
  io::write_file_atomic(o.out + "/predictions.json", json.dump(2) + "\n");
  if (o.common.json) std::cout << json.dump(2) << "\n";
  else std::cout << data.count() << " images, " << files.size() << " files in " << o.out << "\n";
}

}  // namespace

void add_segment_predict(CLI::App& segment) {
  auto o = std::make_shared<PredictOptions>();
  CLI::App& command = add_command(
      segment, "predict", "Masks of pictures, with probability, variance and predicted error of the prior",
      "mote segment predict --run runs/res --e2e runs/e2e --images photos --samples 9 --out masks\n"
      "  mote segment predict --e2e runs/e2e --split test --tta --out masks\n"
      "  mote segment predict --run runs/res --f-dir my-probabilities --images photos --out masks",
      o->common, [o] { run_predict(*o); });
  command.add_option("--run", o->run, "run folder or checkpoint of train-ddpm")->group("Model");
  command.add_option("--e2e", o->prior.e2e, "run of train-e2e: the prior, or without --run the predictor")
      ->group("Model");
  command.add_option("--f", o->prior.f, "file of cache-f, as the prior")->group("Model");
  command.add_option("--f-dir", o->prior.f_dir, "folder with a probability map (png, npy) a picture, as the prior")
      ->group("Model");
  command.add_flag("--tta", o->tta, "with --e2e alone: the mean over all symmetries")->group("Model");
  command.add_option("--images", o->images, "a picture or a folder of pictures, resized to the size of the model")
      ->group("Data");
  command.add_option("--data", o->data, "images with masks instead (default: those of the run)")->group("Data");
  command.add_option("--split", o->split, "train, val or test of them")->group("Data")->capture_default_str();
  command.add_option("--limit", o->limit, "only N pictures (0: all)")->group("Data");
  command.add_option("--samples", o->samples, "K, samples of every picture")->group("Sampling")->capture_default_str();
  command.add_option("--weight", o->weight, "fusion w xbar + (1 - w) f (default: the target's own, 1/2 of the paper)")
      ->group("Sampling");
  command.add_option("--threshold", o->threshold, "of the probability scale, for two classes")->group("Sampling")
      ->capture_default_str();
  o->sampling.add_flags(command);
  command.add_option("--out", o->out,
                     "folder for NAME_mask.png, _overlay.png, _probability, _variance and _residual .png and .npy, "
                     "_estimate.npy, predictions.json")->group("Output");
}

}  // namespace mote::apps
