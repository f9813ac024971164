// The program as a user meets it: its exit codes, messages and files, and what survives a kill. Runs the binary in
// scratch folders on synthetic data with a network of 45,000 weights, one thread, so that a train step takes milliseconds.
#include <cstring>
#include <map>

#include "apps/checkpoint.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"
#include "tensor/io/safetensors.h"
#include "tests/run_mote.h"

using namespace mote;
namespace fs = std::filesystem;
using namespace mote::test;
using Json = nlohmann::json;

namespace {

/// A run of `steps` steps with everything on that has state: dropout, classes, hidden labels, flips, a cut epoch.
Args train_args(const std::string& out, int steps, const Args& more = {}) {
  Args args = {"train", "--data", "synthetic:blobs", "--size", "8", "--limit", "50", "--unet", "custom", "--base", "8",
               "--mult", "1,2", "--blocks", "1", "--attention", "4", "--dropout", "0.1", "--class-cond", "--flip",
               "--batch", "8", "--lr", "1e-3", "--ema", "0.9", "--seed", "3", "--threads", "1", "--quiet", "--sample-count",
               "4", "--sample-steps", "3", "--log-every", "1", "--steps", std::to_string(steps),
               "--out", out};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

/// One finished run that tests only read: 12 steps, a save every 4.
const std::string& trained() {
  static test::ScratchFolder folder;
  static std::string run = [] {
    Result result = mote_in(folder, train_args("run", 12, {"--save-every", "4", "--sample-every", "6"}));
    if (result.code != 0) FAIL("the run that other tests read could not be made: " + told(result));
    return folder.path("run");
  }();
  return run;
}

void copy_run(const test::ScratchFolder& folder) { fs::copy(trained(), folder.path("run"), fs::copy_options::recursive); }

/// Tensors, and what is resumed from.
std::string checkpoint_difference(const std::string& a, const std::string& b) {
  return test::checkpoint_difference(a, b, {"step", "images", "random", "seed", "unet", "data_hash"});
}

void flip_byte(const std::string& path, int64_t from_end) {
  std::string bytes = read_text(path);
  bytes[bytes.size() - size_t(from_end)] ^= 1;
  write_text(path, bytes);
}

}  // namespace

// What every command says first on stderr: a debug build warns of its speed.
#ifdef MOTE_DEBUG
const std::string kAtStart = "mote: this is a debug build, several times slower than a release build\n";
#else
const std::string kAtStart;
#endif

// ---- Help and usage ------------------------------------------------------------------------------------------------

TEST_CASE("--version and every --help answer on stdout with exit code 0", "[cli]") {
  test::ScratchFolder folder;
  Result version = mote_in(folder, {"--version"});
  done(version);
  for (const char* line : {"mote ", "commit: ", "compiler: ", "instruction sets: ", "AMX: ", "OpenMP threads: ", "CUDA: "})
    CHECK(contains(version.out, line));
  for (const Args& command : {Args{"train"}, {"sample"}, {"data", "info"}, {"data", "check"}, {"data", "grid"},
                              {"ckpt", "info"}, {"ckpt", "verify"}, {"ckpt", "export"}, {"ckpt", "import"}, {"report"}, {"bench"}}) {
    Args args = command;
    args.push_back("--help");
    Result help = mote_in(folder, args);
    done(help);
    INFO(command.front());
    CHECK(contains(help.out, "Example"));
    CHECK(contains(help.out, "--device"));
    CHECK(help.err == kAtStart);
  }
}

TEST_CASE("a wrong command line ends with exit code 2 and says what would be right", "[cli]") {
  test::ScratchFolder folder;
  struct Wrong {
    Args args;
    std::string words;
  };
  for (const Wrong& wrong : std::vector<Wrong>{
           {{"trian"}, "did you mean 'train'"},
           {{"ckpt", "inof"}, "did you mean 'info'"},
           {{"ckpt"}, "mote ckpt --help"},
           {{"train", "--stesp", "5", "--out", "r"}, "did you mean '--steps'"},
           {{"train", "--steps", "many", "--out", "r"}, "--steps"},
           {{"train", "--steps", "2", "--steps", "3", "--out", "r"}, "--steps: is given 2 times"},
           {{"train", "--steps", "0", "--out", "r"}, "--steps: must be 1 or more, got 0"},
           {{"train", "--data", "synthetic:blobs"}, "--out: the run folder is missing"},
           {{"train", "--out", "r", "--batch", "-1"}, "--batch: must be 1 to 65536"},
           {{"train", "--out", "r", "--lr", "nan"}, "--lr: must be a positive number"},
           {{"train", "--out", "r", "--ema", "1"}, "--ema"},
           {{"train", "--out", "r", "--schedule", "sqrt"}, "linear or cosine"},
           {{"train", "--out", "r", "--unet", "huge", "--data", "synthetic:blobs"}, "tiny, fmnist, cifar10"},
           {{"train", "--out", "r", "--base", "8"}, "only with --unet custom"},
           {{"train", "--out", "r", "--groups", "8"}, "only with --unet custom"},
           {{"train", "--out", "r", "--unet", "custom", "--mult", "1,,2", "--data", "synthetic:blobs"}, "--mult"},
           {{"train", "--out", "r", "--data", "nowhere:x"}, "synthetic:"},
           {{"train", "--out", "r", "--data", "synthetic:blobs", "--size", "9", "--unet", "tiny"}, "give --size 10 or --size 8"},
           {{"train", "--out", "r", "--precision", "f16"}, "f32, bf16 and tf32"},
           {{"train", "--device", "cpu", "--out", "r", "--precision", "tf32"}, "tf32 is of GPUs"},
           {{"sample", "--run", trained(), "--out", "a.png", "--precision", "half"}, "f32, bf16 and tf32"},
           {{"bench", "gemm", "--precision", "f64"}, "f32, bf16 and tf32"},
           {{"train", "--out", "r", "--threads", "0"}, "--threads"},
           {{"train", "--out", "r", "--device", "tpu"}, "auto, cpu, cuda and cuda:k"},
           {{"train", "--out", "r", "--resume", "--overwrite"}, "one of them"},
           {{"train", "--out", "r", "--ckpt", "x"}, "--resume"},
           {{"sample", "--out", "a.png"}, "--run DIR or --ckpt FILE"},
           {{"sample", "--run", "r"}, "nothing would be written"},
           {{"sample", "--run", trained(), "--out", "a.png", "--count", "0"}, "--count: must be 1"},
           {{"sample", "--run", trained(), "--out", "a.png", "--steps", "0"}, "--steps: must be 1"},
           {{"sample", "--run", trained(), "--out", "a.png", "--steps", "1001"}, "1000"},
           {{"sample", "--run", trained(), "--out", "a.png", "--sampler", "euler"}, "ddpm, ddim"},
           {{"sample", "--run", trained(), "--out", "a.png", "--grid", "odd"}, "quadratic"},
           {{"sample", "--run", trained(), "--out", "a.png", "--eta", "2"}, "eta"},
           {{"sample", "--run", trained(), "--out", "a.png", "--weights", "best"}, "ema and model"},
           {{"sample", "--run", trained(), "--out", "a.png", "--class", "4"}, "they are 0 to 3 (red, green"},
           {{"sample", "--run", trained(), "--out", "a.png", "--class", "-1"}, "they are 0 to 3"},
           {{"sample", "--run", trained(), "--out", "a.png", "--guidance", "2"}, "--guidance needs --class"},
           {{"ckpt", "info"}, "the checkpoint is missing"},
           {{"ckpt", "export", trained()}, "--out"},
           {{"report"}, "the run is missing"},
       }) {
    INFO(wrong.args[0] + " ... " + wrong.args.back());
    CHECK_EXIT(mote_in(folder, wrong.args), 2, wrong.words);
  }
  CHECK(!fs::exists(folder.path("r")));   // nothing was left behind
}

TEST_CASE("a config file fills in flags, is beaten by flags, and may not have unknown keys", "[cli]") {
  test::ScratchFolder folder;
  // The resolved configuration of a run trains the same run once more.
  fs::copy(trained() + "/config.toml", folder.path("config.toml"));
  done(mote_in(folder, {"train", "--config", "config.toml", "--out", "again", "--threads", "1", "--quiet"}));
  CHECK(checkpoint_difference(folder.path("again") + "/checkpoint.safetensors", trained() + "/checkpoint.safetensors") == "");
  CHECK((read_text(folder.path("again") + "/config.toml") == read_text(folder.path("config.toml"))));

  write_text(folder.path("a.toml"), "seed = 5\n[train]\nsteps = 2\nmult = [1, 2]\n[sample]\ncount = 3\n");
  done(mote_in(folder, train_args("flags", 1, {"--config", "a.toml", "--save-every", "1"})));
  apps::Checkpoint checkpoint = apps::load_checkpoint(folder.path("flags") + "/checkpoint.safetensors");
  CHECK(checkpoint.step == 1);
  CHECK(checkpoint.seed == 3);

  write_text(folder.path("b.toml"), "# a comment\nsteps = 2\nstesp = 3\n");
  CHECK_EXIT(mote_in(folder, train_args("r", 1, {"--config", "b.toml"})), 2, "b.toml:3: unknown key 'stesp'");
  write_text(folder.path("c.toml"), "batch = \"many\"\n");
  CHECK_EXIT(mote_in(folder, {"train", "--out", "r", "--config", "c.toml"}), 2, "c.toml:1: key 'batch'");
  write_text(folder.path("d.toml"), "[trian]\nbatch = 1\n");
  CHECK_EXIT(mote_in(folder, {"train", "--out", "r", "--config", "d.toml"}), 2, "unknown section [trian]");
  CHECK_EXIT(mote_in(folder, {"train", "--out", "r", "--config", "missing.toml"}), 2, "missing.toml");
}

TEST_CASE("a device that is not there is not replaced by another", "[cli]") {
  test::ScratchFolder folder;
  bool has_cuda = true;
  try {
    require_device({Device::cuda, 0});
  } catch (const Error&) {
    has_cuda = false;
  }
  if (has_cuda) {
    CHECK_EXIT(mote_in(folder, train_args("r", 1, {"--device", "cuda:99"})), 5, "cuda:99");
  } else {
    CHECK_EXIT(mote_in(folder, train_args("r", 1, {"--device", "cuda"})), 5, "cuda:0");
    CHECK_EXIT(mote_in(folder, {"sample", "--run", trained(), "--out", "a.png", "--device", "cuda:1"}), 5, "cuda:1");
  }
  // Not every command has a part for a GPU; those say so instead of leaving it idle.
  CHECK_EXIT(mote_in(folder, {"ot", "demo", "--out", "d", "--device", "cuda"}), 2, "this command computes on the CPU");
  CHECK(!fs::exists(folder.path("d")));
  CHECK(!fs::exists(folder.path("r")));
}

// ---- The way through -----------------------------------------------------------------------------------------------

TEST_CASE("training leaves a whole run folder", "[cli]") {
  std::string run = trained();
  for (const char* file : {"config.toml", "checkpoint.safetensors", "checkpoint.prev.safetensors", "log.jsonl",
                           "report.html", "samples/step_000006.png", "samples/step_000012.png"})
    CHECK(fs::exists(run + "/" + file));
  apps::Checkpoint newest = apps::load_checkpoint(run + "/checkpoint.safetensors");
  CHECK(newest.step == 12);
  CHECK(newest.images == 96);
  CHECK(newest.model.size() == newest.ema.size());
  CHECK(newest.model.size() == newest.m.size());
  CHECK(newest.model.size() == newest.v.size());
  CHECK(apps::load_checkpoint(run + "/checkpoint.prev.safetensors").step == 8);

  std::istringstream log(read_text(run + "/log.jsonl"));
  std::string line;
  int64_t records = 0;
  while (std::getline(log, line)) {
    Json record = Json::parse(line);
    CHECK(record["step"] == ++records);
    CHECK(record["images"] == 8 * records);
    for (const char* key : {"loss", "lr", "grad_norm", "images_per_s", "data_ms", "rss_mib"}) {
      INFO(line);
      REQUIRE(record[key].is_number());
      CHECK(record[key].get<double>() >= 0);
    }
  }
  CHECK(records == 12);

  std::string report = read_text(run + "/report.html");
  CHECK(contains(report, "<svg"));
  CHECK(contains(report, "data:image/png;base64,"));
  CHECK(contains(report, "synthetic:blobs"));
  for (const char* outside : {"http:", "https:", "src=\"/", "<script", "<link", "@import", "url("})
    CHECK(!contains(report, outside));
}

TEST_CASE("sampling writes what was asked for and tells how it was made", "[cli]") {
  test::ScratchFolder folder;
  Result result = mote_in(folder, {"sample", "--run", trained(), "--steps", "4", "--count", "5", "--class", "all", "--guidance",
                                   "1.5", "--seed", "2", "--out", "a.png", "--npy", "a.npy", "--dir", "single",
                                   "--trajectory", "t.png", "--threads", "1", "--json"});
  done(result);
  Json told = Json::parse(result.out), sidecar = Json::parse(read_text(folder.path("a.png.json")));
  CHECK(told["files"].size() == 4);
  for (const char* key : {"command", "seed", "sampler", "timesteps", "network_calls", "checkpoint_hash"}) {
    CHECK(sidecar.contains(key));
    CHECK(told[key] == sidecar[key]);
  }
  CHECK(sidecar["timesteps"] == Json({750, 500, 250, 0}));
  CHECK(sidecar["network_calls"] == 4);
  CHECK(sidecar["checkpoint_hash"] == apps::load_checkpoint(trained() + "/checkpoint.safetensors").hash);
  CHECK(io::load_image(folder.path("a.png")).shape() == Shape{2 * 8 + 2, 3 * 8 + 4, 3});   // 3 columns, gaps of 2
  CHECK(io::load_image(folder.path("t.png")).size(1) == 5 * 8 + 4 * 2);                    // noise and 4 states
  CHECK(io::load_image(folder.path("single/000004.png")).shape() == Shape{8, 8, 3});
  CHECK(!fs::exists(folder.path("single/000005.png")));
  CHECK(contains(read_text(folder.path("a.npy")), "'shape': (5, 8, 8, 3, )"));
}

TEST_CASE("a dry run prints steps, coefficients and calls, and writes nothing", "[cli]") {
  test::ScratchFolder folder;
  Args args = {"sample", "--run", trained(), "--sampler", "ddim", "--steps", "2", "--dry-run"};
  Result text = mote_in(folder, args);
  done(text);
  CHECK(contains(text.out, "2 network calls"));
  args.push_back("--json");
  Json plan = Json::parse(mote_in(folder, args).out);
  CHECK(plan["network_calls"] == 2);
  REQUIRE(plan["plan"].size() == 2);
  CHECK(plan["plan"][0]["t"] == 500);
  CHECK(plan["plan"][0]["t_prev"] == 0);
  CHECK(plan["plan"][1]["t_prev"] == -1);
  CHECK(plan["plan"][1]["from_x0"] == 1.0);
  CHECK(fs::is_empty(folder.path()));
  Json all = Json::parse(mote_in(folder, {"sample", "--run", trained(), "--sampler", "ddpm", "--dry-run", "--json"}).out);
  CHECK(all["network_calls"] == 1000);   // ddpm takes every level unless told otherwise
}

TEST_CASE("samples depend neither on the number of threads nor on the batch", "[cli]") {
  test::ScratchFolder folder;
  for (const Args& sampler : {Args{"--sampler", "ddim"}, {"--sampler", "ddim", "--eta", "1"}, {"--sampler", "ddpm"}}) {
    std::vector<std::string> arrays, pictures;
    for (const Args& how : {Args{"--threads", "1", "--batch", "64"}, {"--threads", "2", "--batch", "64"},
                            {"--threads", "1", "--batch", "3"}, {"--threads", "2", "--batch", "1"}}) {
      Args args = {"sample", "--run", trained(), "--steps", "5", "--count", "7", "--seed", "11", "--out", "a.png", "--npy",
                   "a.npy", "--class", "2", "--guidance", "2"};
      args.insert(args.end(), sampler.begin(), sampler.end());
      args.insert(args.end(), how.begin(), how.end());
      done(mote_in(folder, args));
      arrays.push_back(read_text(folder.path("a.npy")));
      pictures.push_back(read_text(folder.path("a.png")));
    }
    for (size_t i = 1; i < arrays.size(); ++i) {
      INFO(sampler.back() << ", way " << i);
      CHECK((arrays[i] == arrays[0]));
      CHECK((pictures[i] == pictures[0]));
    }
  }
}

TEST_CASE("a checkpoint can be looked at, verified, exported and reported", "[cli]") {
  test::ScratchFolder folder;
  copy_run(folder);
  Json info = Json::parse(mote_in(folder, {"ckpt", "info", "run", "--json"}).out);
  CHECK(info["step"] == 12);
  CHECK(info["unet"]["base"] == 8);
  CHECK(info["parts"].size() == 4);
  CHECK(info["train"]["lr"] == 1e-3);
  CHECK(contains(mote_in(folder, {"ckpt", "info", "run"}).out, "synthetic:blobs"));
  Json verified = Json::parse(mote_in(folder, {"ckpt", "verify", "run/checkpoint.prev.safetensors", "--json"}).out);
  CHECK(verified["whole"] == true);
  CHECK(verified["step"] == 8);

  done(mote_in(folder, {"ckpt", "export", "run", "--out", "small.safetensors"}));
  CHECK(fs::file_size(folder.path("small.safetensors")) < fs::file_size(folder.path("run/checkpoint.safetensors")) / 3);
  for (const auto& [name, tensor] : io::load_safetensors(folder.path("small.safetensors")).tensors)
    CHECK(name.starts_with("ema."));
  done(mote_in(folder, {"sample", "--ckpt", "small.safetensors", "--steps", "2", "--count", "2", "--npy", "a.npy"}));
  done(mote_in(folder, {"sample", "--run", "run", "--steps", "2", "--count", "2", "--npy", "b.npy"}));
  CHECK((read_text(folder.path("a.npy")) == read_text(folder.path("b.npy"))));
  CHECK_EXIT(mote_in(folder, {"ckpt", "export", "run", "--out", "small.safetensors"}), 2, "--overwrite");
  CHECK_EXIT(mote_in(folder, {"sample", "--ckpt", "small.safetensors", "--weights", "model", "--npy", "c.npy"}), 4,
             "--weights ema");
  CHECK_EXIT(mote_in(folder, train_args("run", 20, {"--resume", "--ckpt", "small.safetensors"})), 4, "exported");

  fs::remove(folder.path("run/report.html"));
  write_text(folder.path("run/config.toml"), "data = \"<b>&\"\n");
  Json report = Json::parse(mote_in(folder, {"report", "run", "--json"}).out);
  std::string page = read_text(folder.path(report["report"]));
  CHECK(contains(page, "&lt;b&gt;&amp;"));
  CHECK(!contains(page, "<b>&"));
  fs::create_directory(folder.path("empty"));
  CHECK_EXIT(mote_in(folder, {"report", "empty"}), 3, "is not a run");
}

TEST_CASE("a benchmark is a table or JSON, and can be held against an earlier one", "[cli]") {
  test::ScratchFolder folder;
  Args quick = {"bench", "train", "norm", "--unet", "tiny", "--batch", "2", "--runs", "1"};
  auto with = [&](const Args& more) {
    Args args = quick;
    args.insert(args.end(), more.begin(), more.end());
    return args;
  };
  Result result = mote_in(folder, with({"--json"}));
  CHECK_EXIT(result, 0, "");
  Json json = Json::parse(result.out);
  CHECK(json.at("ceilings").at("fma_gflops").get<double>() > 0);
  CHECK(json.at("ceilings").at("bandwidth_gbs").get<double>() > 0);
  CHECK(json["ceilings"].at("bf16_gflops").get<double>() > 0);
  REQUIRE(json.at("results").size() == 1 + 2 * 8);   // a step in f32, four norms forward and backward in f32 and bf16
  Json train = json["results"][0];
  CHECK(train.at("name") == "train step tiny, batch 2 f32");
  CHECK(train.at("unit") == "GFLOP/s of the direct method");
  CHECK(!train.contains("profile"));
  for (const char* key : {"median", "min", "max", "share", "images_per_s", "peak_mib"}) CHECK(train.at(key).get<double>() > 0);
  CHECK(json["results"][16].at("name") == "group_norm+silu 32x16x16x256 bf16 backward");
  write_text(folder.path("base.json"), result.out);
  Result table = mote_in(folder, {"bench", "train", "sample", "--unet", "tiny", "--batch", "2", "--runs", "1", "--against",
                                  "base.json", "--profile"});
  CHECK_EXIT(table, 0, "bench");   // progress
  for (const char* part : {"ceilings of cpu:", "ratio", "conv2d_dw", "all kernels", "* GFLOP/s of the direct method",
                           "only in base.json: group_norm+silu 32x16x16x256 bf16 backward", "is not in base.json"})
    CHECK(contains(table.out, part));
  Result half = mote_in(folder, {"bench", "train", "sample", "--unet", "tiny", "--batch", "2", "--runs", "1", "--precision",
                                 "bf16", "--against", "base.json", "--profile", "--json", "--quiet"});
  CHECK_EXIT(half, 0, "");
  json = Json::parse(half.out);
  CHECK(json["results"][0].at("name") == "train step tiny, batch 2 bf16");
  CHECK(json["results"][0].at("ratio").is_null());   // the earlier run has no such row
  CHECK(json["results"][0].at("profile").size() > 10);
  CHECK(json["results"][0].at("peak_mib") < train.at("peak_mib"));
  CHECK(json["results"][1].at("name") == "noise prediction tiny, batch 2 bf16");
  CHECK(json.at("not_measured").size() == 17);
  write_text(folder.path("broken.json"), "{\"results\": [{}]}");
  CHECK_EXIT(mote_in(folder, with({"--against", "broken.json"})), 3, "broken.json: is not the output of");
  CHECK_EXIT(mote_in(folder, {"bench", "gem"}), 2, "did you mean 'gemm'");
  Result curve = mote_in(folder, {"bench", "ot-curve", "--data", "synthetic:blobs", "--limit", "60", "--samples", "10", "--json"});
  CHECK_EXIT(curve, 0, "10.1 samples a target");   // 3 steps are 96 samples, 19 are 608
  Json chi2 = Json::parse(curve.out);
  CHECK(chi2["curve"].size() == 3);
  CHECK(chi2["curve"][2]["quality"]["chi2"] < chi2["curve"][0]["quality"]["chi2"]);
  CHECK(chi2["solved"]["converged"] == true);
  CHECK_EXIT(mote_in(folder, {"bench", "ot-curve", "--data", "synthetic:blobs", "--method", "newton"}), 2, "sgd or paper");
  CHECK_EXIT(mote_in(folder, {"bench", "train", "--runs", "0"}), 2, "--runs");
  CHECK_EXIT(mote_in(folder, {"bench", "train", "--unet", "huge"}), 2, "tiny, fmnist, cifar10");
}

TEST_CASE("the result of training is one JSON object if asked", "[cli]") {
  test::ScratchFolder folder;
  Result result = mote_in(folder, train_args("r", 2, {"--json"}));
  done(result);
  Json json = Json::parse(result.out);
  CHECK(json["step"] == 2);
  CHECK(json["images"] == 16);
  CHECK(json["checkpoint_hash"] == apps::load_checkpoint(folder.path("r/checkpoint.safetensors")).hash);
  CHECK(result.err == kAtStart);   // --quiet
}

TEST_CASE("the memory plan of a step is what the step takes", "[cli]") {
  test::ScratchFolder folder;
  for (const char* precision : {"f32", "bf16"})
    for (bool recompute : {false, true})
      for (const char* unet : {"tiny", "fmnist"}) {
        Args args = {"train", "--data", "synthetic:blobs", "--size", "28", "--channels", "1", "--limit", "64", "--unet", unet,
                     "--batch", "16", "--steps", "1", "--seed", "3", "--threads", "2", "--sample-count", "0", "--json",
                     "--precision", precision, "--out", "r", "--overwrite"};
        if (recompute) args.push_back("--recompute");
        Result result = mote_in(folder, args);
        done(result);
        CHECK(contains(result.err, "at the peak of a step: weights "));
        CHECK(contains(result.err, "bf16 copy ") == (std::string(precision) == "bf16"));
        Json json = Json::parse(result.out);
        double planned = json["plan_mib"], taken = json["step_mib"];
        INFO(unet << " " << precision << (recompute ? " recompute" : "") << ": planned " << planned << ", taken " << taken);
        CHECK(planned == Approx(taken).epsilon(0.1));
      }
}

TEST_CASE("planning changes neither weights nor random numbers", "[cli]") {
  // The same run in one part and in two: the second part plans again, in the middle of the sequence of dropout.
  test::ScratchFolder folder;
  done(mote_in(folder, train_args("straight", 4)));
  done(mote_in(folder, train_args("parts", 2)));
  done(mote_in(folder, {"train", "--out", "parts", "--resume", "--steps", "4", "--quiet"}));
  CHECK(checkpoint_difference(folder.path("parts/checkpoint.safetensors"), folder.path("straight/checkpoint.safetensors")) == "");
}

TEST_CASE("a run in bf16 knows its precision, resumes bit for bit and samples in both precisions", "[cli]") {
  test::ScratchFolder folder;
  Args bf16 = {"--precision", "bf16", "--json"};
  Result straight = mote_in(folder, train_args("straight", 9, bf16));
  done(straight);
  CHECK(Json::parse(straight.out)["precision"] == "bf16");
  CHECK(contains(read_text(folder.path("straight/config.toml")), "precision = \"bf16\""));
  CHECK(contains(read_text(folder.path("straight/report.html")), "<b>bf16</b><span>precision</span>"));
  done(mote_in(folder, train_args("parts", 4, bf16)));
  CHECK_EXIT(mote_in(folder, {"train", "--out", "parts", "--resume", "--precision", "f32"}), 2,
             "--precision is bf16 in this run, f32 was given");
  done(mote_in(folder, {"train", "--out", "parts", "--resume", "--steps", "9", "--threads", "2", "--quiet"}));
  CHECK(checkpoint_difference(folder.path("parts/checkpoint.safetensors"), folder.path("straight/checkpoint.safetensors")) == "");
  CHECK((read_text(folder.path("parts/samples/step_000009.png")) == read_text(folder.path("straight/samples/step_000009.png"))));
  for (const auto& [name, tensor] : io::load_safetensors(folder.path("straight/checkpoint.safetensors")).tensors)
    CHECK(tensor.dtype() == DType::f32);   // masters

  // Weights that do not fit in 8 bits: the arrays differ, though not by much.
  std::map<std::string, std::string> arrays;
  for (const char* precision : {"f32", "bf16"}) {
    Result sampled = mote_in(folder, {"sample", "--run", "straight", "--steps", "3", "--count", "2", "--seed", "1", "--npy",
                                      "a.npy", "--precision", precision, "--json"});
    done(sampled);
    CHECK(Json::parse(sampled.out)["precision"] == precision);
    CHECK(Json::parse(read_text(folder.path("a.npy.json")))["precision"] == precision);
    arrays[precision] = read_text(folder.path("a.npy"));
  }
  REQUIRE(arrays["f32"].size() == arrays["bf16"].size());
  CHECK((arrays["f32"] != arrays["bf16"]));
  size_t count = 2 * 8 * 8 * 3, header = arrays["f32"].size() - count * 4;
  double squares = 0;
  for (size_t i = 0; i < count; ++i) {
    float a, b;
    std::memcpy(&a, arrays["f32"].data() + header + 4 * i, 4);
    std::memcpy(&b, arrays["bf16"].data() + header + 4 * i, 4);
    squares += double(a - b) * double(a - b);
  }
  CHECK(std::sqrt(squares / double(count)) < 0.05);   // of images in [-1, 1]: a few roundings of 0.4 % a step
}

TEST_CASE("a run from before precision could be chosen is resumed in f32", "[cli]") {
  test::ScratchFolder folder;
  copy_run(folder);
  std::string path = folder.path("run/checkpoint.safetensors");
  io::Safetensors file = io::load_safetensors(path);
  Json train = Json::parse(file.metadata.at("train"));
  REQUIRE(train.at("precision") == "f32");
  train.erase("precision");
  file.metadata["train"] = train.dump();
  io::save_safetensors(path, {file.tensors.begin(), file.tensors.end()}, file.metadata);
  Result resumed = mote_in(folder, {"train", "--out", "run", "--resume", "--steps", "13", "--json", "--quiet"});
  done(resumed);
  CHECK(Json::parse(resumed.out)["precision"] == "f32");
}

// ---- Stopping and going on -----------------------------------------------------------------------------------------

TEST_CASE("a run that was killed and resumed equals the one that was not", "[cli]") {
  test::ScratchFolder folder;
  done(mote_in(folder, train_args("straight", 150, {"--save-every", "20", "--sample-every", "50"})));
  Args args = train_args("killed", 150, {"--save-every", "20", "--sample-every", "50"});
  {
    Process process(folder.path(), args);
    REQUIRE(process.wait_for("killed/checkpoint.safetensors"));
    process.kill(SIGKILL);
    REQUIRE(process.wait().signal == SIGKILL);
  }
  int64_t step = apps::load_checkpoint(folder.path("killed/checkpoint.safetensors")).step;
  CHECK(step >= 20);
  REQUIRE(step < 150);
  done(mote_in(folder, {"train", "--out", "killed", "--resume", "--threads", "2", "--quiet"}));
  CHECK(checkpoint_difference(folder.path("killed/checkpoint.safetensors"), folder.path("straight/checkpoint.safetensors")) == "");
  CHECK((read_text(folder.path("killed/samples/step_000150.png")) == read_text(folder.path("straight/samples/step_000150.png"))));

  // The log has each step once, with the losses of the straight run.
  std::istringstream straight(read_text(folder.path("straight/log.jsonl"))), killed(read_text(folder.path("killed/log.jsonl")));
  std::string one, other;
  int records = 0;
  while (std::getline(straight, one) && std::getline(killed, other)) {
    ++records;
    CHECK(Json::parse(one)["step"] == Json::parse(other)["step"]);
    CHECK(Json::parse(one)["loss"] == Json::parse(other)["loss"]);
  }
  CHECK(records == 150);
  CHECK(!std::getline(killed, other));

  // In two parts, the second longer than was planned.
  done(mote_in(folder, train_args("parts", 61)));
  done(mote_in(folder, {"train", "--out", "parts", "--resume", "--steps", "150", "--quiet"}));
  CHECK(checkpoint_difference(folder.path("parts/checkpoint.safetensors"), folder.path("straight/checkpoint.safetensors")) == "");
}

TEST_CASE("the first signal saves and ends with 130 or 143, the second ends at once", "[cli]") {
  test::ScratchFolder folder;
  for (int signal : {SIGINT, SIGTERM}) {
    std::string run = signal == SIGINT ? "int" : "term";
    Process process(folder.path(), train_args(run, 100000, {"--save-every", "0"}));
    REQUIRE(process.wait_for(run + "/log.jsonl"));
    process.kill(signal);
    Result result = process.wait();
    CHECK_EXIT(result, 128 + signal, "saving");
    apps::Checkpoint saved = apps::load_checkpoint(folder.path(run) + "/checkpoint.safetensors");
    CHECK(saved.step >= 1);
    CHECK(contains(result.out, "--resume"));
    std::string log = read_text(folder.path(run) + "/log.jsonl");
    CHECK(std::count(log.begin(), log.end(), '\n') == saved.step);
  }
  Process process(folder.path(), train_args("twice", 100000, {"--save-every", "5"}));
  REQUIRE(process.wait_for("twice/checkpoint.safetensors"));
  process.kill(SIGINT);
  process.kill(SIGINT);
  CHECK(process.wait().code == 130);
  CHECK(apps::load_checkpoint(folder.path("twice/checkpoint.safetensors")).step >= 5);
}

TEST_CASE("two trainings do not share a run folder", "[cli]") {
  test::ScratchFolder folder;
  Process first(folder.path(), train_args("run", 100000));
  REQUIRE(first.wait_for("run/log.jsonl"));
  for (const char* how : {"--resume", "--overwrite", "--json"})   // --json: nothing special
    CHECK_EXIT(mote_in(folder, train_args("run", 5, {how})), 2, "another training");
  first.kill(SIGKILL);
  first.wait();
  done(mote_in(folder, train_args("run", 2, {"--overwrite"})));   // the lock died with its owner
}

TEST_CASE("a run is not trained over by accident", "[cli]") {
  test::ScratchFolder folder;
  copy_run(folder);
  write_text(folder.path("run/notes.txt"), "mine");
  std::string before = read_text(folder.path("run/checkpoint.safetensors"));
  CHECK_EXIT(mote_in(folder, train_args("run", 2)), 2, "--resume to continue");
  // What is wrong with the data comes out before anything is thrown away.
  CHECK_EXIT(mote_in(folder, {"train", "--out", "run", "--overwrite", "--data", "idx:nowhere"}), 3, "nowhere");
  CHECK((read_text(folder.path("run/checkpoint.safetensors")) == before));
  done(mote_in(folder, train_args("run", 2, {"--overwrite"})));
  CHECK(apps::load_checkpoint(folder.path("run/checkpoint.safetensors")).step == 2);
  CHECK(!fs::exists(folder.path("run/checkpoint.prev.safetensors")));
  CHECK(read_text(folder.path("run/notes.txt")) == "mine");
}

TEST_CASE("resuming refuses flags that would train something else", "[cli]") {
  test::ScratchFolder folder;
  copy_run(folder);
  Result result = mote_in(folder, {"train", "--out", "run", "--resume", "--lr", "1", "--batch", "9", "--seed", "4", "--size", "8"});
  CHECK_EXIT(result, 2, "--lr is 0.001 in this run, 1 was given");
  CHECK(contains(result.err, "--batch is 8 in this run, 9 was given"));
  CHECK(contains(result.err, "--seed is 3 in this run, 4 was given"));
  CHECK(!contains(result.err, "--size"));
  CHECK_EXIT(mote_in(folder, {"train", "--out", "run", "--resume", "--steps", "5"}), 2, "--steps is 12");
  CHECK_EXIT(mote_in(folder, {"train", "--out", "run", "--resume", "--data", "synthetic:stripes"}), 3, "its hash is");
  Result nothing = mote_in(folder, {"train", "--out", "run", "--resume"});
  done(nothing);
  CHECK(contains(nothing.err, "already has its 12 steps"));
}

// ---- What may go wrong ---------------------------------------------------------------------------------------------

TEST_CASE("a full disk costs the new checkpoint, not the old one", "[cli]") {
  test::ScratchFolder folder;
  copy_run(folder);
  std::string before = read_text(folder.path("run/checkpoint.safetensors"));
  std::string previous = read_text(folder.path("run/checkpoint.prev.safetensors"));
  Process process(folder.path(), {"train", "--out", "run", "--resume", "--steps", "16", "--save-every", "2", "--quiet"},
                  int64_t(before.size()) / 2);
  CHECK_EXIT(process.wait(), 5, "checkpoint");
  CHECK((read_text(folder.path("run/checkpoint.safetensors")) == before));
  CHECK((read_text(folder.path("run/checkpoint.prev.safetensors")) == previous));
  int files = 0;
  for (const auto& entry : fs::directory_iterator(folder.path("run"))) files += contains(entry.path().string(), "checkpoint");
  CHECK(files == 2);   // no half-written file is left
  done(mote_in(folder, {"train", "--out", "run", "--resume", "--steps", "16", "--quiet"}));
}

TEST_CASE("places that cannot be written end with exit code 5 before any work", "[cli]") {
  test::ScratchFolder folder;
  write_text(folder.path("file"), "");
  CHECK_EXIT(mote_in(folder, train_args("file", 2)), 5, "is a file");
  CHECK_EXIT(mote_in(folder, train_args("file/run", 2)), 5, "file/run");
  CHECK_EXIT(mote_in(folder, train_args("/proc/run", 2)), 5, "/proc/run");
  CHECK_EXIT(mote_in(folder, {"sample", "--run", trained(), "--out", "missing/a.png"}), 5, "--out: cannot write into missing");
  CHECK_EXIT(mote_in(folder, {"sample", "--run", trained(), "--npy", "missing/a.npy"}), 5, "--npy: cannot write into missing");
  CHECK_EXIT(mote_in(folder, {"sample", "--run", trained(), "--steps", "1", "--count", "1", "--dir", "file"}), 5, "file");
}

TEST_CASE("checkpoints that are missing or damaged end with exit code 4", "[cli]") {
  test::ScratchFolder folder;
  Args sample = {"sample", "--run", "run", "--steps", "1", "--count", "1", "--npy", "a.npy"};
  CHECK_EXIT(mote_in(folder, sample), 4, "there is no run at run");
  CHECK_EXIT(mote_in(folder, {"train", "--out", "run", "--resume"}), 4, "--resume: there is no run");
  fs::create_directory(folder.path("run"));
  CHECK_EXIT(mote_in(folder, {"train", "--out", "run", "--resume"}), 4, "--resume: there is no checkpoint");
  CHECK_EXIT(mote_in(folder, sample), 4, "there is no checkpoint");
  fs::remove_all(folder.path("run"));

  copy_run(folder);
  std::string newest = folder.path("run/checkpoint.safetensors"), whole = read_text(newest);
  fs::remove(folder.path("run/checkpoint.prev.safetensors"));
  struct Damage {
    std::string bytes, words;
  };
  std::string flipped = whole, header = whole;
  flipped[flipped.size() - 1000] ^= 4;
  header[200] ^= 1;
  for (const Damage& damage : std::vector<Damage>{{whole.substr(0, whole.size() / 2), "checkpoint.safetensors"},
                                                  {"", "checkpoint.safetensors"},
                                                  {flipped, "hash"},
                                                  {header, "checkpoint.safetensors"},
                                                  {std::string(16, '\xff'), "checkpoint.safetensors"}}) {
    write_text(newest, damage.bytes);
    for (const Args& args : {sample, Args{"ckpt", "verify", "run"}, Args{"train", "--out", "run", "--resume", "--steps", "20"}})
      CHECK_EXIT(mote_in(folder, args), 4, damage.words);
  }
  CHECK(!fs::exists(folder.path("a.npy")));

  io::Safetensors other;   // whole as a file, but not ours
  io::save_safetensors(folder.path("plain.safetensors"), {{"x", zeros({2})}}, {});
  CHECK_EXIT(mote_in(folder, {"ckpt", "verify", "plain.safetensors"}), 4, "not a checkpoint of mote");
  write_text(newest, whole);
  io::Safetensors file = io::load_safetensors(newest);
  auto rewrite = [&](const std::string& name) {
    io::save_safetensors(folder.path(name), {file.tensors.begin(), file.tensors.end()}, file.metadata);
  };
  std::string weight = "ema.conv_in.weight";
  REQUIRE(file.tensors.count(weight) == 1);
  Tensor good = file.tensors[weight].clone();
  file.tensors[weight].data<float>()[5] = std::nanf("");
  rewrite("nan.safetensors");
  Result nan = mote_in(folder, {"sample", "--ckpt", "nan.safetensors", "--npy", "a.npy"});
  CHECK_EXIT(nan, 4, "conv_in.weight");
  CHECK(contains(nan.err, "element 5 is nan"));
  file.tensors[weight] = zeros({1, 1, 3, 8});
  rewrite("shape.safetensors");
  CHECK_EXIT(mote_in(folder, {"ckpt", "verify", "shape.safetensors"}), 4, weight);
  file.tensors[weight] = good;
  file.metadata["unet"].replace(file.metadata["unet"].find("\"base\":8"), 8, "\"base\":16");
  rewrite("unet.safetensors");
  CHECK_EXIT(mote_in(folder, {"ckpt", "verify", "unet.safetensors"}), 4, "UNet");
  file.metadata["unet"].replace(file.metadata["unet"].find("\"base\":16"), 9, "\"base\":4096");
  rewrite("huge.safetensors");
  CHECK_EXIT(mote_in(folder, {"ckpt", "verify", "huge.safetensors"}), 4, "does not fit in the file");
  file.metadata.erase("unet");
  rewrite("metadata.safetensors");
  CHECK_EXIT(mote_in(folder, {"ckpt", "verify", "metadata.safetensors"}), 4, "metadata 'unet' is missing");
}

TEST_CASE("a damaged newest checkpoint points at the whole one before it", "[cli]") {
  test::ScratchFolder folder;
  copy_run(folder);
  flip_byte(folder.path("run/checkpoint.safetensors"), 100);
  Result sampled = mote_in(folder, {"sample", "--run", "run", "--npy", "a.npy"});
  CHECK_EXIT(sampled, 4, "--ckpt run/checkpoint.prev.safetensors");
  CHECK(contains(sampled.err, "step 8"));
  done(mote_in(folder, {"sample", "--ckpt", "run/checkpoint.prev.safetensors", "--steps", "1", "--count", "1", "--npy", "a.npy"}));
  CHECK_EXIT(mote_in(folder, {"train", "--out", "run", "--resume"}), 4, "add --ckpt run/checkpoint.prev.safetensors");
  done(mote_in(folder, {"train", "--out", "run", "--resume", "--ckpt", "run/checkpoint.prev.safetensors", "--quiet"}));
  CHECK(checkpoint_difference(folder.path("run/checkpoint.safetensors"), trained() + "/checkpoint.safetensors") == "");
  CHECK(apps::load_checkpoint(folder.path("run/checkpoint.prev.safetensors")).step == 8);   // not the damaged one
}

TEST_CASE("data that is missing or wrong ends with exit code 3", "[cli]") {
  test::ScratchFolder folder;
  CHECK_EXIT(mote_in(folder, {"train", "--out", "r", "--data", "idx:nowhere"}), 3, "nowhere");
  CHECK_EXIT(mote_in(folder, {"train", "--out", "r", "--data", "cifar10:nowhere"}), 3, "nowhere");
  CHECK_EXIT(mote_in(folder, {"data", "info", "--data", "folder:nowhere"}), 3, "nowhere");
  std::string idx = folder.path("idx");
  fs::create_directory(idx);
  auto big = [](uint32_t value) {
    return std::string{char(value >> 24), char(value >> 16), char(value >> 8), char(value)};
  };
  std::string labels = big(0x801) + big(3) + std::string("\0\1\2", 3);
  write_text(idx + "/train-labels-idx1-ubyte", labels);
  std::string images = big(0x803) + big(4) + big(8) + big(8) + std::string(4 * 64, '\7');
  write_text(idx + "/train-images-idx3-ubyte", images);
  CHECK_EXIT(mote_in(folder, {"train", "--out", "r", "--data", "idx:idx"}), 3, "4");        // 4 images, 3 labels
  write_text(idx + "/train-images-idx3-ubyte", images.substr(0, 100));
  CHECK_EXIT(mote_in(folder, {"train", "--out", "r", "--data", "idx:idx"}), 3, "train-images-idx3-ubyte");
  CHECK(!fs::exists(folder.path("r")));
}

TEST_CASE("a loss that is not finite names the first bad tensor and keeps the checkpoint", "[cli]") {
  test::ScratchFolder folder;
  Result result = mote_in(folder, {"train", "--data", "synthetic:blobs", "--size", "8", "--unet", "tiny", "--batch", "4",
                                   "--lr", "1e30", "--clip", "0", "--steps", "9", "--save-every", "1", "--sample-count", "0",
                                   "--out", "run", "--threads", "1", "--quiet"});
  CHECK_EXIT(result, 6, "first bad tensor: output of");
  CHECK(contains(result.err, "while running"));   // the path of the module
  apps::Checkpoint kept = apps::load_checkpoint(folder.path("run/checkpoint.safetensors"));
  CHECK(kept.step >= 1);
  CHECK(contains(result.err, "the checkpoint of step " + std::to_string(kept.step)));
  CHECK_EXIT(mote_in(folder, {"sample", "--run", "run", "--steps", "2", "--count", "1", "--npy", "a.npy"}), 6, "not finite");
}
