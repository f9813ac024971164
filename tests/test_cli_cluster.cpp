// `mote cluster` as a user meets it: runs that resume bit for bit, tables, pictures, exit codes and messages. Runs the
// binary on synthetic shapes of 8 x 8 pixels with networks of some thousand weights, one thread.
#include <cstring>

#include "apps/checkpoint.h"
#include "apps/cluster_checkpoint.h"
#include "apps/cluster_eval.h"
#include "apps/dataset.h"
#include "apps/scatter.h"
#include "apps/vectors.h"
#include "autograd/ops.h"
#include "tensor/io/image.h"
#include "tensor/io/npy.h"
#include "tensor/io/safetensors.h"
#include "tests/run_mote.h"

using namespace mote;
using namespace mote::test;
namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

/// `mote cluster ARGS` running in `folder`.
Result cluster_in(const std::string& folder, const Args& args) { return Process(folder, Args{"cluster"} + args).wait(); }

/// Three steps an epoch: one of pretraining, two with a mixture.
Args train_args(const std::string& out, const Args& more = {}) {
  Args args = {"train", "--data", "synthetic:shapes", "--size", "8", "--limit", "48", "--width", "8", "--latent", "3",
               "--T", "20", "--k", "3", "--batch", "16", "--pretrain", "1", "--epochs", "2", "--warmup", "2",
               "--lambda-warmup", "1", "--view", "mean", "--pretrain-kl", "0", "--ema", "0.8", "--starts", "2", "--seed", "3", "--threads", "1", "--quiet",
               "--log-every", "1", "--sample-steps", "2", "--out", out};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

/// One finished run that tests only read, saved after every step.
const std::string& trained() {
  static test::ScratchFolder folder;
  static std::string run = [] {
    Result result = cluster_in(folder.path(), train_args("run", {"--save-every", "1"}));
    if (result.code != 0) FAIL("the run that other tests read could not be made: " + result.out + result.err);
    return folder.path("run");
  }();
  return run;
}

/// Tensors, and what is resumed from.
std::string checkpoint_difference(const std::string& a, const std::string& b) {
  return test::checkpoint_difference(
      a, b, {"step", "fitted_step", "noise", "matching", "free_energy", "random_offset", "data_hash"});
}

std::string checkpoint_in(const std::string& run) { return run + "/checkpoint.safetensors"; }

}  // namespace

// ---- Usage ---------------------------------------------------------------------------------------------------------

TEST_CASE("every subcommand of mote cluster explains itself", "[cli][cluster]") {
  test::ScratchFolder folder;
  for (const char* command : {"train", "assign", "sample", "eval", "choose", "features", "spectral"}) {
    Result help = cluster_in(folder.path(), {command, "--help"});
    done(help);
    CHECK(contains(help.out, "Example"));
    CHECK(contains(help.out, "--device"));
  }
}

TEST_CASE("a wrong mote cluster command line ends with exit code 2 and says what would be right", "[cli][cluster]") {
  test::ScratchFolder folder;
  struct Wrong {
    Args args;
    std::string words;
  };
  for (const Wrong& wrong : std::vector<Wrong>{
           {{"tarin"}, "did you mean 'train'"},
           {train_args("r", {"--k", "0"}), "--k: is given 2 times"},
           {{"train", "--out", "r", "--k", "0"}, "--k: must be a whole number of 1 or more, or auto, got 0"},
           {{"train", "--out", "r", "--k", "few"}, "or auto, got few"},
           {{"train", "--out", "r", "--loss", "best"}, "closed-form, softmax and official"},
           {{"train", "--out", "r", "--view", "best"}, "uncertain, mean and sampled"},
           {{"train", "--out", "r", "--schedule", "sqrt"}, "cosine, linear and paper"},
           {{"train", "--out", "r", "--damping", "0"}, "--damping: must be more than 0"},
           {{"train", "--out", "r", "--lambda", "-1"}, "--lambda: must be 0 or more"},
           {{"train", "--out", "r", "--pretrain", "0", "--epochs", "0"}, "--epochs"},
           {{"train", "--out", "r", "--precision", "f16"}, "f32, bf16 and tf32"},
           {{"train", "--out", "r", "--resume", "--overwrite"}, "one of them"},
           {{"train", "--out", "r", "--data", "synthetic:shapes", "--size", "10"}, "give --size 12 or --size 8"},
           {{"train", "--out", "r", "--data", "synthetic:shapes", "--width", "12"}, "width must be 8 to 1024 in steps of 8"},
           {{"train", "--out", "r", "--data", "synthetic:shapes", "--net", "huge"}, "tiny, fmnist, cifar10"},
           {{"assign", "--out", "a.csv"}, "--run DIR or --ckpt FILE"},
           {{"assign", "--run", trained()}, "nothing would be written"},
           {{"sample", "--run", trained()}, "nothing would be written"},
           {{"sample", "--run", trained(), "--out", "a.png", "--cluster", "3"}, "they are 0 to 2"},
           {{"sample", "--run", trained(), "--out", "a.png", "--weights", "best"}, "ema and model"},
           {{"sample", "--run", trained(), "--out", "a.png", "--sampler", "euler"}, "ddpm, ddim"},
           {{"sample", "--run", trained(), "--out", "a.png", "--each", "0"}, "--each: must be 1"},
           {{"eval", "--run", trained(), "--tries", "-1"}, "--tries"},
           {{"choose"}, "no run given"},
           {{"features", "--run", "r"}, "--out: name the file"},
           {{"features", "--out", "f.npy"}, "--run DIR or --ckpt FILE"},
           {{"features", "--run", "r", "--out", "f.npy", "--draws", "0"}, "--draws: must be 1"},
       }) {
    INFO(wrong.args[0] + " ... " + wrong.args.back());
    CHECK_EXIT(cluster_in(folder.path(), wrong.args), 2, wrong.words);
    CHECK_FALSE(fs::exists(folder.path("r")));
  }
}

TEST_CASE("features of a diffusion network are a row an image, and do not depend on how many are asked for", "[cli][cluster]") {
  test::ScratchFolder folder;
  Args train = {"train", "--data", "synthetic:shapes", "--size", "12", "--limit", "70", "--unet", "custom", "--base", "8",
                "--mult", "1,2", "--blocks", "1", "--attention", "6", "--batch", "8", "--steps", "2", "--sample-count", "0",
                "--threads", "1", "--quiet"};
  Args plain = train, told = train;
  plain.insert(plain.end(), {"--out", "plain"});
  told.insert(told.end(), {"--out", "told", "--class-cond"});
  done(mote_in(folder, plain));
  done(mote_in(folder, told));
  auto features = [&](const Args& more) {
    Args args = {"features", "--run", "plain", "--threads", "1", "--quiet"};
    args.insert(args.end(), more.begin(), more.end());
    return cluster_in(folder.path(), args);
  };
  done(features({"--out", "all.npy", "--labels", "labels.npy"}));
  done(features({"--out", "few.npy", "--limit", "10", "--seed", "0"}));
  done(features({"--out", "other.npy", "--limit", "10", "--seed", "1"}));
  done(features({"--out", "map.npy", "--pool", "none", "--level", "50,300"}));
  Tensor all = io::load_npy(folder.path("all.npy")), few = io::load_npy(folder.path("few.npy"));
  CHECK(all.shape() == Shape{70, 16});
  CHECK(io::load_npy(folder.path("labels.npy")).shape() == Shape{70});
  CHECK_CLOSE(few, all.rows(0, 10), 1e-5, 1e-5);
  CHECK(difference(io::load_npy(folder.path("other.npy")), few, 1e-4, 1e-4) != "");
  // Two levels side by side, of 6x6 pixels each; the mean over those of the first is what --pool mean gives.
  Tensor map = io::load_npy(folder.path("map.npy"));
  CHECK(map.shape() == Shape{70, 2 * 36 * 16});
  Tensor first = empty({70, 36 * 16});
  for (int64_t n = 0; n < 70; ++n) first.rows(n, n + 1).copy_(map.rows(n, n + 1).view({72 * 16}).rows(0, 36 * 16).view({1, -1}));
  CHECK_CLOSE(mean(first.view({70, 36, 16}), {1}), all, 1e-5, 1e-5);
  CHECK_EXIT(features({"--out", "f.npy", "--level", "5,1000"}), 2, "--level: must be 0 to 999");
  CHECK_EXIT(features({"--out", "f.npy", "--pool", "max"}), 2, "--pool: 'max' is not known");
  CHECK_EXIT(cluster_in(folder.path(), {"features", "--run", "told", "--out", "f.npy"}), 2, "is told classes");
  CHECK_EXIT(cluster_in(folder.path(), {"features", "--run", "none", "--out", "f.npy"}), 4, "there is no run at");
  done(features({"--out", "few-axes.npy", "--pca", "3"}));
  CHECK(io::load_npy(folder.path("few-axes.npy")).shape() == Shape{70, 3});
  CHECK_EXIT(features({"--out", "f.npy", "--pca", "17"}), 2, "the vectors have 16 numbers");
  // The same network's vectors as the space of a graph.
  Json json = done(cluster_in(folder.path(), {"spectral", "--run", "plain", "--limit", "70", "--k", "4", "--copies", "2",
                                              "--pca", "5", "--threads", "1", "--out", "c.csv", "--json"})).json();
  CHECK(json["images"] == 70);
  CHECK_EXIT(cluster_in(folder.path(), {"spectral", "--run", "plain", "--k", "4", "--pca", "17", "--out", "c.csv"}), 2,
             "the vectors have 16 numbers");
}

TEST_CASE("the graph of shapes under distortions finds them, and a conditional network is trained on what was found",
          "[cli][cluster]") {
  test::ScratchFolder folder;
  Args find = {"spectral", "--data", "synthetic:shifted-shapes", "--limit", "300", "--k", "4", "--copies", "12", "--turn", "0",
               "--slant", "0", "--stretch", "0", "--move", "1", "--threads", "1", "--seed", "2"};
  Json json = done(cluster_in(folder.path(), find + Args{"--out", "c.csv", "--embedding", "e.npy", "--json"})).json();
  CHECK(json["scores"]["acc"] > 0.99);
  CHECK(io::load_npy(folder.path("e.npy")).shape() == Shape{300, 4});
  Tensor labels = apps::load_labels(folder.path("c.csv"));
  CHECK(labels.shape() == Shape{300});
  std::string text = done(cluster_in(folder.path(), find + Args{"--out", "again.csv"})).out;
  CHECK(text.find("4 clusters of") != std::string::npos);
  CHECK(read_text(folder.path("again.csv")) == read_text(folder.path("c.csv")));
  CHECK_EXIT(cluster_in(folder.path(), {"spectral", "--k", "4", "--out", "c.csv"}), 2, "--data SPEC");
  CHECK_EXIT(cluster_in(folder.path(), {"spectral", "--data", "synthetic:shapes", "--move", "-1", "--out", "d.csv"}), 2, "--move: must be 0 or more");
  CHECK_EXIT(cluster_in(folder.path(), {"spectral", "--data", "synthetic:shapes", "--limit", "3", "--k", "4", "--out", "d.csv"}), 3,
             "there are 4 clusters to find, but only 3 images");

  Args train = {"train", "--data", "synthetic:shifted-shapes", "--limit", "300", "--labels", "c.csv", "--class-cond", "--unet",
                "custom", "--base", "8", "--mult", "1,2", "--blocks", "1", "--attention", "6", "--batch", "8", "--steps", "2",
                "--sample-count", "0", "--threads", "1", "--quiet"};
  done(mote_in(folder, train + Args{"--out", "told"}));
  apps::Dataset relabelled = apps::load_dataset({.spec = "synthetic:shifted-shapes", .limit = 300, .labels = folder.path("c.csv")});
  CHECK_SAME(relabelled.labels, labels);
  CHECK(relabelled.class_names.empty());
  CHECK(relabelled.hash == apps::load_from_run(folder.path("told"), "").data_hash);
  CHECK(relabelled.hash != apps::load_dataset({.spec = "synthetic:shifted-shapes", .limit = 300}).hash);
  done(mote_in(folder, {"sample", "--run", "told", "--class", "3", "--steps", "2", "--count", "2", "--out", "three.png"}));
  done(mote_in(folder, {"train", "--out", "told", "--resume", "--steps", "3", "--quiet"}));
  Args judge = {"judge", "--run", "told", "--each", "3", "--steps", "2", "--classifier", "lenet.safetensors", "--threads", "1"};
  Json seen = done(cluster_in(folder.path(), judge + Args{"--out", "drawn.png", "--json", "--quiet"})).json();
  CHECK(seen["clusters"].size() == 4);
  for (const Json& cluster : seen["clusters"]) CHECK(cluster["purity"] > 0.99);   // of the real images, as found above
  CHECK(seen["drawn_in_majority_class"] >= 0);
  CHECK(io::load_image(folder.path("drawn.png")).size(0) > 3 * 12);   // four rows of three
  CHECK_EXIT(cluster_in(folder.path(), judge + Args{"--sampler", "f-pndm"}), 2, "f-pndm");
  CHECK_EXIT(cluster_in(folder.path(), {"judge", "--run", "none"}), 4, "there is no run at");
  std::ofstream(folder.path("few.csv")) << "0\n1\n";
  std::string below = "-1\n";
  for (int64_t n = 1; n < 300; ++n) below += "0\n";
  std::ofstream(folder.path("below.csv")) << below;
  CHECK_EXIT(mote_in(folder, {"train", "--data", "synthetic:shapes", "--limit", "300", "--labels", "few.csv", "--class-cond",
                              "--out", "r"}), 3, "few.csv holds 2 labels");
  CHECK_EXIT(mote_in(folder, {"train", "--data", "synthetic:shapes", "--limit", "300", "--labels", "below.csv", "--class-cond",
                              "--out", "r"}), 3, "the label of image 0 is -1");
}

TEST_CASE("data that cannot be clustered end with exit code 3, files that are no run with 4", "[cli][cluster]") {
  test::ScratchFolder folder;
  CHECK_EXIT(cluster_in(folder.path(), {"train", "--data", "synthetic:shapes", "--limit", "5", "--k", "6", "--out", "r"}), 3,
             "there are 6 clusters to find, but only 5 images");
  CHECK_EXIT(cluster_in(folder.path(), {"assign", "--run", trained(), "--data", "synthetic:nothing", "--out", "a.csv"}), 2,
             "synthetic:shapes");
  CHECK_EXIT(cluster_in(folder.path(), {"assign", "--run", folder.path("none"), "--out", "a.csv"}), 4, "there is no run at");
  std::string damaged = folder.path("damaged.safetensors"), bytes = read_text(checkpoint_in(trained()));
  bytes[bytes.size() - 100] ^= 1;
  std::ofstream(damaged, std::ios::binary) << bytes;
  CHECK_EXIT(cluster_in(folder.path(), {"sample", "--ckpt", damaged, "--out", "a.png"}), 4, "damaged.safetensors");
  std::string other = folder.path("other.safetensors");
  io::save_safetensors(other, {{"x", zeros({2})}}, {{"format", "mote-checkpoint"}});
  CHECK_EXIT(cluster_in(folder.path(), {"sample", "--ckpt", other, "--out", "a.png"}), 4, "no checkpoint of mote cluster");
  apps::ClusterCheckpoint narrow = apps::load_cluster_checkpoint(checkpoint_in(trained()));
  narrow.mixture->means = zeros({3, 2}, DType::f64);
  narrow.mixture->covariances = full({3, 2}, 1, DType::f64);
  apps::save_cluster_checkpoint(folder.path("narrow.safetensors"), narrow);
  CHECK_EXIT(cluster_in(folder.path(), {"sample", "--ckpt", "narrow.safetensors", "--out", "a.png"}), 4,
             "the mixture is of width 2, the codes have 3 numbers");
  CHECK_FALSE(fs::exists(folder.path("a.png")));
}

// ---- Training ------------------------------------------------------------------------------------------------------

TEST_CASE("a clustering run leaves its configuration, log, grid and report, and says how it ended", "[cli][cluster]") {
  std::string run = trained(), log = read_text(run + "/log.jsonl");
  for (const char* file : {"config.toml", "checkpoint.safetensors", "checkpoint.prev.safetensors", "report.html",
                           "samples/step_000009.png"})
    CHECK(fs::exists(run + "/" + file));
  std::vector<int64_t> e_steps, steps;
  std::istringstream lines(log);
  for (std::string line; std::getline(lines, line);) {
    Json record = Json::parse(line);
    (record.contains("e_step") ? e_steps : steps).push_back(record.at("step").get<int64_t>());
    if (!record.contains("e_step")) continue;
    CHECK(record.at("weights").size() == 3);
    CHECK(record.at("accuracy").get<double>() >= 0.5);
    CHECK(record.at("free_energy").is_number());
    CHECK(record.at("free_energy_before").is_null() == (record.at("step") == 3));
  }
  CHECK(e_steps == std::vector<int64_t>{3, 6, 9});
  CHECK(steps == std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9});
  std::string report = read_text(run + "/report.html");
  for (const char* part : {"F_lambda after each E-step", "Against the labels", "data:image/png;base64,", "synthetic:shapes"})
    CHECK(contains(report, part));
  CHECK_FALSE(contains(report, "http"));
}

TEST_CASE("the same clustering run twice gives the same bits, with any number of threads and from its config.toml",
          "[cli][cluster][threads]") {
  test::ScratchFolder folder;
  Args args = train_args("three");
  args[size_t(std::find(args.begin(), args.end(), "--threads") - args.begin()) + 1] = "3";
  done(cluster_in(folder.path(), args));
  CHECK(checkpoint_difference(checkpoint_in(trained()), checkpoint_in(folder.path("three"))) == "");
  done(cluster_in(folder.path(), {"train", "--config", trained() + "/config.toml", "--out", "again", "--quiet",
                                          "--threads", "1"}));
  CHECK(checkpoint_difference(checkpoint_in(trained()), checkpoint_in(folder.path("again"))) == "");
}

TEST_CASE("a run resumed between epochs, inside one and in pretraining is the uninterrupted one", "[cli][cluster]") {
  test::ScratchFolder folder;
  done(cluster_in(folder.path(), train_args("run", {"--save-every", "1"})));
  // Each step's checkpoint in turn, the last one first: resuming leaves a new one of step 9 beside it.
  struct Stop {
    std::string name;
    int epochs, save_every;
    int64_t step;
  };
  for (const Stop& stop : {Stop{"pretraining", 0, 2, 2}, Stop{"epoch", 1, 5, 5}, Stop{"first", 1, 0, 6}}) {
    INFO(stop.name);
    Args args = train_args(stop.name, {"--save-every", std::to_string(stop.save_every)});
    args[size_t(std::find(args.begin(), args.end(), "--epochs") - args.begin()) + 1] = std::to_string(stop.epochs);
    done(cluster_in(folder.path(), args));
    // The last save of a short run is its end; the one before it lies where the run is to be stopped.
    std::string from = folder.path(stop.name) + (stop.save_every > 0 ? "/checkpoint.prev.safetensors" : "/checkpoint.safetensors");
    CHECK(apps::load_cluster_checkpoint(from).step == stop.step);
    Args resume = {"train", "--out", stop.name, "--resume", "--epochs", "2", "--quiet", "--threads", "1"};
    if (stop.save_every > 0) {
      fs::copy_file(from, folder.path(stop.name + ".safetensors"));
      resume.insert(resume.end(), {"--ckpt", folder.path(stop.name + ".safetensors")});
    }
    done(cluster_in(folder.path(), resume));
    CHECK(checkpoint_difference(checkpoint_in(folder.path("run")), checkpoint_in(folder.path(stop.name))) == "");
  }
}

TEST_CASE("resuming with flags that would train something else is refused by name", "[cli][cluster]") {
  test::ScratchFolder folder;
  fs::copy(trained(), folder.path("run"), fs::copy_options::recursive);
  Result result = cluster_in(folder.path(), {"train", "--out", "run", "--resume", "--lambda", "3", "--k", "4", "--seed", "9"});
  CHECK_EXIT(result, 2, "--lambda is 0.1 in this run, 3 was given");
  CHECK(contains(result.err, "--k is 3 in this run, 4 was given"));
  CHECK(contains(result.err, "--seed is 3"));
  CHECK_EXIT(cluster_in(folder.path(), {"train", "--out", "run", "--resume", "--data", "synthetic:stripes"}), 3, "hash");
}

TEST_CASE("bf16, the paper's recipe, the general UNet and an automatic number of clusters all run", "[cli][cluster]") {
  test::ScratchFolder folder;
  auto run = [&](const std::string& name, const Args& more, const Args& without = {}) {
    Args args = train_args(name, more);
    for (const std::string& flag : without) {
      auto at = std::find(args.begin(), args.end(), flag);
      args.erase(at, at + 2);
    }
    args.push_back("--json");
    Result result = cluster_in(folder.path(), args);
    done(result);
    return Json::parse(result.out);
  };
  CHECK(run("bf16", {"--precision", "bf16"}).at("precision") == "bf16");
  CHECK(run("paper", {"--paper-norm", "--schedule", "paper", "--loss", "official", "--view", "sampled", "--damping", "1",
                      "--ema", "0", "--clip", "0"}, {"--ema", "--view"}).at("free_energy").is_number());
  CHECK(apps::load_cluster_checkpoint(checkpoint_in(folder.path("paper"))).buffers.size() > 0);
  CHECK(run("general", {"--net", "tiny", "--view", "uncertain"}, {"--view"}).at("k") == 3);
  Json chosen = run("auto", {"--k", "auto", "--k-max", "5"}, {"--k"});
  std::string curve = read_text(folder.path("auto/bic.csv"));
  CHECK(std::count(curve.begin(), curve.end(), '\n') == 5);   // a head, and 2 to 5 clusters
  CHECK(chosen.at("k").get<int64_t>() >= 2);
  CHECK(chosen.at("k").get<int64_t>() <= 5);
}

// ---- Use -----------------------------------------------------------------------------------------------------------

TEST_CASE("assign writes a line an image whose probabilities sum to one, and a picture a cluster", "[cli][cluster]") {
  test::ScratchFolder folder;
  Result result = cluster_in(folder.path(), {"assign", "--run", trained(), "--out", "a.csv", "--grids", "grids", "--each", "5",
                                             "--quiet", "--json"});
  done(result);
  Json json = Json::parse(result.out);
  std::istringstream lines(read_text(folder.path("a.csv")));
  std::string line;
  std::getline(lines, line);
  CHECK(line == "image,cluster,probability,p0,p1,p2,label");
  std::vector<int64_t> counts(3);
  int64_t images = 0;
  for (; std::getline(lines, line); ++images) {
    std::replace(line.begin(), line.end(), ',', ' ');
    std::istringstream cells(line);
    int64_t image, cluster, label;
    double probability, p[3];
    cells >> image >> cluster >> probability >> p[0] >> p[1] >> p[2] >> label;
    REQUIRE(!cells.fail());
    CHECK(image == images);
    CHECK(label == images % 4);   // the classes of synthetic:shapes take turns
    CHECK(p[0] + p[1] + p[2] == Approx(1).epsilon(1e-6));
    CHECK(probability == p[cluster]);
    CHECK(probability == *std::max_element(p, p + 3));
    ++counts[size_t(cluster)];
  }
  CHECK(images == 48);
  CHECK(json.at("counts").get<std::vector<int64_t>>() == counts);
  for (size_t k = 0; k < 3; ++k) CHECK(fs::exists(folder.path("grids/cluster_0" + std::to_string(k) + ".png")) == (counts[k] > 0));
  done(cluster_in(folder.path(), {"assign", "--run", trained(), "--split", "test", "--limit", "7", "--out", "t.csv"}));
  std::string test = read_text(folder.path("t.csv"));
  CHECK(std::count(test.begin(), test.end(), '\n') == 8);
}

TEST_CASE("sample draws a row a cluster, the same images in any batches, and images like a given one", "[cli][cluster]") {
  test::ScratchFolder folder;
  Args args = {"sample", "--run", trained(), "--each", "4", "--steps", "3", "--seed", "5", "--quiet", "--threads", "1"};
  auto with = [&](const Args& more) {
    Args all = args;
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  done(cluster_in(folder.path(), with({"--out", "a.png"})));
  done(cluster_in(folder.path(), with({"--out", "b.png", "--batch", "5"})));
  Tensor picture = io::load_image(folder.path("a.png"));
  CHECK(picture.size(0) == 3 * 8 + 2 * 2);   // three rows, two pixels between
  CHECK(picture.size(1) == 4 * 8 + 3 * 2);
  CHECK_SAME(io::load_image(folder.path("b.png")), picture);
  Json sidecar = Json::parse(read_text(folder.path("a.png.json")));
  CHECK(sidecar.at("clusters") == Json({0, 1, 2}));
  CHECK(sidecar.at("network_calls") == 3);
  // One cluster by itself, with its own codes and other starting noise where it stands elsewhere.
  done(cluster_in(folder.path(), with({"--cluster", "0", "--out", "c.png"})));
  CHECK_SAME(io::load_image(folder.path("c.png")), picture.rows(0, 8));
  for (const char* sampler : {"ddpm", "heun", "dpmpp-2m", "f-pndm"})
    done(cluster_in(folder.path(), {"sample", "--run", trained(), "--sampler", sampler, "--steps", "5", "--each", "1",
                                            "--quiet", "--out", "s.png"}));
  Tensor square = full({8, 8, 1}, 0, DType::u8);
  for (int64_t row = 2; row < 6; ++row) std::memset(square.data<uint8_t>() + row * 8 + 2, 200, 4);
  io::save_png(folder.path("square.png"), square);
  done(cluster_in(folder.path(), with({"--like", "square.png", "--out", "like.png", "--guidance", "1"})));
  CHECK(Json::parse(read_text(folder.path("like.png.json"))).at("network_calls") == 6);
}

TEST_CASE("eval writes scores beside k-means on pixels, and what a classifier sees in the draws", "[cli][cluster]") {
  test::ScratchFolder folder;
  Result result = cluster_in(folder.path(), {"eval", "--run", trained(), "--out", "eval", "--each", "2", "--steps", "2",
                                             "--tries", "2", "--tsne", "30", "--quiet", "--json"});
  done(result);
  Json json = Json::parse(result.out);
  std::vector<std::string> names;
  for (const Json& row : json.at("rows")) {
    names.push_back(row.at("labels_from"));
    CHECK(row.at("accuracy").get<double>() > 0.25);
    CHECK(row.at("accuracy").get<double>() <= 1);
  }
  CHECK(names[0] == "this run");
  CHECK(contains(names[1], "test images"));
  CHECK(names[2] == "k-means on pixels");
  CHECK(json.at("rows")[2].at("tries") == 2);
  CHECK(names[3] == "PCA to 32, diagonal mixture");
  CHECK(json.at("neighbours").at("codes").size() == 5);   // 1, 3, 5, 10 and 20 of 48 images
  CHECK(json.at("neighbours").at("pixels")[0].at("accuracy") == 1);   // shapes without a shift are easy among pixels
  CHECK(json.at("clusters").size() == 3);
  for (const char* file : {"eval/eval.html", "eval/eval.json", "eval/samples.png", "eval/pca.png",
                           "eval/tsne.png", "eval/tsne-clusters.png"}) CHECK(fs::exists(folder.path(file)));
  CHECK(contains(read_text(folder.path("eval/eval.html")), "Labels were never used"));
}

TEST_CASE("choose keeps the run with the least F_lambda, and refuses runs that cannot be compared", "[cli][cluster]") {
  test::ScratchFolder folder;
  Args other = train_args("other", {"--pretrain-lr", "1e-6"});   // learns next to nothing
  done(cluster_in(folder.path(), other));
  Result result = cluster_in(folder.path(), {"choose", "other", trained(), "--json"});
  done(result);
  Json json = Json::parse(result.out);
  std::vector<double> energy = {json.at("runs")[0].at("free_energy"), json.at("runs")[1].at("free_energy")};
  CHECK(json.at("chosen") == (energy[0] < energy[1] ? "other" : trained()));
  done(cluster_in(folder.path(), train_args("lambda", {"--lambda", "1"})));
  CHECK_EXIT(cluster_in(folder.path(), {"choose", "lambda", trained()}), 2, "not comparable");
}

TEST_CASE("the share of draws in the majority class counts each cluster's own class", "[cluster][apps]") {
  // A classifier of two classes that looks at nothing: all draws are of class 1 by its bias.
  apps::FeatureNet net;
  net.network = std::make_unique<nn::Classifier>(nn::ClassifierConfig{8, 8, 1, 2, 4}, 1);
  for (auto [name, value] : net.network->parameters()) value.fill_(0);
  for (auto [name, value] : net.network->parameters())
    if (name == "out.bias") value.data<float>()[1] = 1;
  Tensor clusters = from({0, 0, 0, 1, 1, 1}, {6}, DType::i64), labels = from({1, 1, 0, 0, 0, 1}, {6}, DType::i64);
  apps::ClusterImagesSeen seen = apps::classify_drawn(net, zeros({6, 8, 8, 1}), 2, clusters, labels, 3);
  CHECK(seen.majority == std::vector<int64_t>{1, 0, -1});
  CHECK(seen.purity[0] == Approx(2.0 / 3));
  CHECK(seen.share[0] == 1);
  CHECK(seen.share[1] == 0);
  CHECK(std::isnan(seen.share[2]));
  CHECK(seen.mean_share == Approx(0.5));
}

TEST_CASE("a scatter picture has a dot of its class's colour where a point lies", "[apps]") {
  Tensor points = from({-1, -1, 1, 1, 1, -1}, {3, 2});
  Tensor picture = apps::scatter_picture(points, from({0, 1, 11}, {3}, DType::i64), 100);
  auto pixel = [&](int64_t row, int64_t column) {
    const uint8_t* at = picture.data<uint8_t>() + (row * 100 + column) * 3;
    return std::vector<int>{at[0], at[1], at[2]};
  };
  CHECK(pixel(88, 12) == std::vector<int>{31, 119, 180});    // low left
  CHECK(pixel(12, 88) == std::vector<int>{255, 127, 14});    // up right
  CHECK(pixel(88, 88) == std::vector<int>{153, 76, 8});      // the eleventh colour is the first one's neighbour, darker
  CHECK(pixel(50, 50) == std::vector<int>{255, 255, 255});
  CHECK_THROWS_AS(apps::scatter_picture(from({NAN, 0}, {1, 2}), {}, 100), Error);
}
