// cmd_cluster_sample.cpp - `mote cluster sample`: images of a cluster, of all clusters, or like a given image.
#include <CLI/CLI.hpp>
#include <charconv>
#include <chrono>
#include <cmath>
#include <iostream>
#include <nlohmann/json.hpp>
#include <numeric>

#include "apps/cluster_draw.h"
#include "apps/cmd_cluster.h"
#include "apps/progress.h"
#include "apps/signals.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"
#include "tensor/io/npy.h"

namespace mote::apps {
namespace {

using Json = nlohmann::ordered_json;

struct ClusterSampleOptions : ClusterSource {
  std::string cluster = "all", like;
  SamplerOptions sampler;
  int64_t steps = -1;   // unset: 50, or all of them for ddpm
  ClipChoice clip;
  double guidance = 0;
  int64_t each = 8, batch = 64;
  std::string out, npy;
};

std::vector<int64_t> chosen_clusters(const std::string& text, int64_t components) {
  std::vector<int64_t> chosen;
  if (text == "all") {
    chosen.resize(size_t(components));
    std::iota(chosen.begin(), chosen.end(), 0);
    return chosen;
  }
  int64_t id = -1;
  auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  if (error != std::errc() || stop != text.data() + text.size() || id < 0 || id >= components)
    fail(Error::Kind::usage, "--cluster: '", text, "' is not a cluster of this run; they are 0 to ", components - 1,
         ", or all for a row each");
  return {id};
}

/// `each` draws of q(z | x) for the picture in `path`.
Tensor codes_like(cluster::Model& model, const std::string& path, int64_t each, uint64_t seed, Device device) {
  const nn::ClusterNetConfig& net = model.config().net;
  Tensor image = io::load_image(path, int(net.channels));
  if (!(image.shape() == Shape{net.size, net.size, net.channels})) image = io::resize_image(image, net.size, net.size);
  cluster::Codes one = encode_images(model, image.view({1, net.size, net.size, net.channels}), device);
  NoGrad no_grad;
  cluster::Codes all{broadcast_to(one.mean, {each, net.latent}), broadcast_to(one.log_variance, {each, net.latent})};
  return cluster::draw_codes(all, normal({each, net.latent}, DType::f32, Generator{seed}.fork(1)));
}

void run_sample(const ClusterSampleOptions& o) {
  auto require = [](bool holds, const auto&... parts) {
    if (!holds) fail(Error::Kind::usage, parts...);
  };
  require(!o.out.empty() || !o.npy.empty(), "nothing would be written; give --out grid.png or --npy FILE");
  require(o.each >= 1 && o.each <= 100000, "--each: must be 1 to 100000, got ", o.each);
  require(o.batch >= 1, "--batch: must be 1 or more, got ", o.batch);
  require(o.steps == -1 || o.steps >= 1, "--steps: must be 1 or more, got ", o.steps);
  require(o.like.empty() || o.cluster == "all", "--like draws around an image, --cluster around a component; give one of them");
  Device device = start(o.common);
  ClusterCheckpoint checkpoint = o.load();
  std::unique_ptr<cluster::Model> model = model_of(checkpoint, o.weights);
  model->to(device);
  model->set_precision(precision_named(o.common.precision));
  CodedDraw draw;
  draw.sampler = o.clip.applied(o.sampler);
  int64_t levels = model->schedule().steps();
  draw.sampler.steps = o.steps > 0 ? o.steps : o.sampler.name == "ddpm" ? levels : std::min<int64_t>(50, levels);
  draw.sampler = resolved(draw.sampler);
  draw.seed = o.common.seed;
  draw.batch = o.batch;
  draw.guidance = o.guidance;
  std::vector<StepPlan> plan = plan_sampler(model->schedule(), draw.sampler);

  std::vector<int64_t> clusters;
  Tensor codes;
  if (o.like.empty()) {
    const cluster::Mixture& mixture = mixture_of(checkpoint);
    clusters = chosen_clusters(o.cluster, mixture.components());
    codes = component_codes(mixture, clusters, o.each, o.common.seed);
  } else {
    codes = codes_like(*model, o.like, o.each, o.common.seed, device);
  }
  watch_signals("\nmote: stopping\n");
  auto begun = std::chrono::steady_clock::now();
  int64_t count = codes.size(0), batches = (count + o.batch - 1) / o.batch;
  Progress progress("sample", 0, batches * int64_t(plan.size()), "step", o.common.quiet);
  draw.on_step = [&](int64_t done, int64_t) {
    exit_if_stopped();
    progress.update(done);
  };
  Tensor images = draw_coded(*model, codes, draw, device);
  progress.finish();
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();

  int64_t calls = network_calls(plan) * (o.guidance == 0 ? 1 : 2);
  Json json = {{"command", command_line()}, {"seed", o.common.seed}, {"count", count}, {"clusters", clusters},
               {"each", o.each}, {"like", o.like.empty() ? Json() : Json(o.like)}, {"sampler", draw.sampler.name},
               {"steps", draw.sampler.steps}, {"network_calls", calls}, {"guidance", o.guidance},
               {"weights", o.weights}, {"precision", o.common.precision}, {"checkpoint", checkpoint.path},
               {"checkpoint_hash", checkpoint.hash}, {"checkpoint_step", checkpoint.step}};
  json["timesteps"] = Json::array();
  for (const StepPlan& step : plan) json["timesteps"].push_back(step.from.t);
  std::vector<std::string> files;
  if (!o.out.empty()) {
    io::save_png(o.out, io::image_grid(images, o.like.empty() ? o.each : grid_columns(count)));
    files.push_back(o.out);
  }
  if (!o.npy.empty()) {
    io::save_npy(o.npy, images);
    files.push_back(o.npy);
  }
  for (const std::string& file : files) io::write_file_atomic(file + ".json", json.dump(2) + "\n");
  json["files"] = files;
  json["seconds"] = seconds;
  if (o.common.json)
    std::cout << json.dump(2) << "\n";
  else
    std::cout << count << " images, " << draw.sampler.name << ", " << calls << " network calls each, "
              << seconds_text(seconds) << ": " << joined(files) << "\n";
}

}  // namespace

void add_cluster_sample(CLI::App& cluster) {
  auto o = std::make_shared<ClusterSampleOptions>();
  CLI::App& sub = add_command(cluster, "sample", "Draw images of clusters, or images like a given one",
                              "mote cluster sample --run runs/clusters --each 10 --out clusters.png   (a row a cluster)\n"
                              "  mote cluster sample --run runs/clusters --cluster 3 --each 64 --sampler dpmpp-2m --steps 15 --out three.png\n"
                              "  mote cluster sample --run runs/clusters --like shoe.png --out like.png",
                              o->common, [o] { run_sample(*o); });
  o->add_flags(sub);
  sub.add_option("--cluster", o->cluster, "number of a cluster, or all")->group("What")->capture_default_str();
  sub.add_option("--like", o->like, "a picture: z is drawn from its own Gaussian")->group("What");
  sub.add_option("--each", o->each, "images of each cluster")->group("What")->capture_default_str();
  sub.add_option("--sampler", o->sampler.name, joined(sampler_names()))->group("Sampler")->capture_default_str();
  sub.add_option("--steps", o->steps, "sampler steps (default: 50; all for ddpm)")->group("Sampler");
  sub.add_option("--grid", o->sampler.grid, "which levels: " + joined(path_grid_names()))->group("Sampler");
  sub.add_option("--eta", o->sampler.eta, "ddim: 0 is deterministic, 1 as noisy as ddpm")
      ->group("Sampler")->capture_default_str();
  sub.add_option("--variance", o->sampler.variance, "ddpm: large or small")->group("Sampler")->capture_default_str();
  sub.add_option("--order", o->sampler.order, "unipc: 1 to 3 (default 2); deis: 1 to 4 (default 3)")->group("Sampler");
  o->clip.add_options(sub, "Sampler");
  sub.add_option("--guidance", o->guidance, "w of (1 + w) eps(z) - w eps(no code); 0 is none")
      ->group("Sampler")->capture_default_str();
  sub.add_option("--batch", o->batch, "images at a time; changes speed and memory only")
      ->group("Output")->capture_default_str();
  sub.add_option("--out", o->out, "a PNG with a row a cluster; FILE.json beside it tells how they were made")->group("Output");
  sub.add_option("--npy", o->npy, "all images as a NumPy array, f32 [N, H, W, C]")->group("Output");
}

}  // namespace mote::apps
