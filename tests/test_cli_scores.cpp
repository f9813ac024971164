// `mote eval` and `mote compare` as a user meets them: numbers, files, exit codes, messages, and going on after a stop.
// Runs the binary on synthetic data of 8 x 8 pixels with a network of a few thousand weights, one thread.
#include "apps/compare.h"
#include "apps/dataset.h"
#include "apps/image_source.h"
#include "diffusion/metrics/frechet.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"
#include "tensor/io/npy.h"
#include "tensor/io/safetensors.h"
#include "tensor/random.h"
#include "tests/run_mote.h"

using namespace mote;
namespace fs = std::filesystem;
using namespace mote::test;
using Json = nlohmann::json;

namespace {

// ---- What the tests share ------------------------------------------------------------------------------------------

/// `mote ARGS` on one thread, which these sizes are fastest on.
Result on_one_thread(const ScratchFolder& folder, const Args& args) {
  return mote_in(folder, args + Args{"--threads", "1"});
}

const Args kBlobs = {"--size", "8", "--limit", "200"};

/// Four steps on 200 blobs.
const Args kTinyTraining = words(
    "train --data synthetic:blobs --size 8 --limit 200 --unet custom --base 8 --mult 1,2 --blocks 1 --attention 4 "
    "--batch 8 --ema 0.9 --steps 4 --sample-count 0 --quiet");

/// A run of them, with its classifier beside it; tests copy it or only read it.
const std::string& shared() {
  static test::ScratchFolder folder;
  static std::string path = [] {
    done(on_one_thread(folder, kTinyTraining + Args{"--out", "run"}));
    // the classifier is trained by the first to need it
    done(on_one_thread(folder, Args{"eval", "kid", "synthetic:blobs", "synthetic:blobs", "--classifier",
                              "run/classifier.safetensors", "--quiet"} +
                             kBlobs));
    return folder.path();
  }();
  return path;
}
std::string classifier() { return shared() + "/run/classifier.safetensors"; }

void copy_run(const test::ScratchFolder& folder) {
  fs::copy(shared() + "/run", folder.path("run"), fs::copy_options::recursive);
}

Args compare_args(const std::string& samplers, const std::string& steps, const Args& more = {}) {
  return Args{"compare", "--run", "run", "--samplers", samplers, "--steps", steps, "--subsets", "5", "--quiet"} + more;
}
Args four_cells(const Args& more = {}) { return compare_args("ddim,ddpm", "2,3", Args{"--count", "150"} + more); }

Tensor blob_images(const std::string& split, int64_t limit = 200) {
  return apps::load_dataset({.spec = "synthetic:blobs", .split = split, .size = 8, .channels = 0, .limit = limit})
      .images;
}

}  // namespace

// ---- eval ----------------------------------------------------------------------------------------------------------

TEST_CASE("eval fd scores a set against itself as 0 and prints what real images score", "[cli][eval]") {
  test::ScratchFolder folder;
  Args args =
      Args{"eval", "fd", "synthetic:blobs", "synthetic:blobs", "--classifier", classifier(), "--quiet"} + kBlobs;
  Result text = done(on_one_thread(folder, args));
  Json json = done(on_one_thread(folder, args + Args{"--json"})).json();
  std::string name = json["scores"].begin().key();
  CHECK(name.starts_with("LeNet-" + json["classifier"]["hash"].get<std::string>().substr(0, 6) + "-FD@200"));
  CHECK(contains(text.out, name));
  CHECK(contains(text.out, "floor: synthetic:blobs, train against test, 200 images each"));
  CHECK(json["values"]["fd"].get<double>() < 1e-6);
  CHECK(json["floor"]["values"]["fd"].get<double>() > 1e-3);
  CHECK(json["floor"]["count"] == 200);
  CHECK(json["classifier"]["accuracy"].get<double>() > 0.9);

  // The test images against the training images are the floor itself.
  io::save_npy(folder.path("test.npy"), blob_images("test"));
  Json other = done(on_one_thread(folder, Args{"eval", "fd", "test.npy", "synthetic:blobs", "--classifier", classifier(),
                                         "--json", "--quiet"} +
                                        kBlobs))
                   .json();
  CHECK(other["values"]["fd"] == json["floor"]["values"]["fd"]);
}

TEST_CASE("eval trains its classifier the same way for any number of threads, and keeps it", "[cli][eval]") {
  test::ScratchFolder folder;
  io::save_npy(folder.path("test.npy"), blob_images("test"));
  auto run = [&](const std::string& threads, const std::string& file) {
    return done(Process(folder.path(), Args{"eval", "prdc", "test.npy", "synthetic:blobs", "--classifier", file,
                                            "--json", "--threads", threads} +
                                           kBlobs)
                    .wait());
  };
  Result one = run("1", "one.safetensors"), three = run("3", "three.safetensors"), again = run("2", "one.safetensors");
  CHECK(one.json()["values"] == three.json()["values"]);
  CHECK(one.json()["classifier"] == three.json()["classifier"]);
  CHECK(again.json()["values"] == one.json()["values"]);
  CHECK(contains(one.err, "trained on synthetic:blobs, kept in one.safetensors: finds the class of "));
  CHECK(contains(again.err, " of one.safetensors: finds the class of "));
  CHECK((read_text(folder.path("one.safetensors")) == read_text(folder.path("three.safetensors"))));
  for (const char* key : {"prec", "rec", "density", "coverage"}) CHECK(one.json()["values"][key].get<double>() > 0.3);
}

TEST_CASE("a folder of PNGs scores as the array that mote sample wrote beside it", "[cli][eval]") {
  test::ScratchFolder folder;
  done(on_one_thread(folder, {"sample", "--run", shared() + "/run", "--steps", "2", "--count", "140", "--npy", "s.npy",
                        "--dir", "pictures", "--quiet"}));
  auto run = [&](const std::string& source) {
    return done(on_one_thread(folder, Args{"eval", "fd", source, "synthetic:blobs", "--classifier", classifier(), "--json",
                                     "--quiet"} +
                                    kBlobs))
        .json();
  };
  Json array = run("s.npy"), pictures = run("pictures");
  CHECK(array["values"] == pictures["values"]);
  CHECK(array["count"] == 140);
  CHECK(array["values"]["fd"].get<double>() >
        array["floor"]["values"]["fd"].get<double>());  // four steps teach nothing
  CHECK(array["floor"]["count"] == 140);
}

TEST_CASE("features computed elsewhere are scored as they are", "[cli][eval]") {
  test::ScratchFolder folder;
  Tensor x = normal({40, 5}, DType::f32, Generator{1}), y = normal({60, 5}, DType::f32, Generator{2});
  io::save_npy(folder.path("x.npy"), x);
  io::save_safetensors(folder.path("y.safetensors"), {{"features", y}}, {});
  Json fd = done(on_one_thread(folder, {"eval", "fd", "--features", "x.npy", "y.safetensors", "--json"})).json();
  CHECK(fd["count"] == 40);
  double expected = metrics::frechet_distance(x, apps::take_rows(y, apps::choose_rows(60, 40, 0)));
  CHECK(fd["scores"]["features-FD@40"] == expected);
  CHECK(fd["floor"]["count"] == 30);
  auto [one, other] = apps::choose_halves(60, 40, 0);
  CHECK(fd["floor"]["values"]["fd"] == metrics::frechet_distance(apps::take_rows(y, other), apps::take_rows(y, one)));
  Result text =
      done(on_one_thread(folder, {"eval", "kid", "--features", "x.npy", "--features", "y.safetensors", "--subsets", "7"}));
  CHECK(contains(text.out, "features-KID@40"));
  CHECK(contains(text.out, "KID over 7 subsets of 20 images"));
  CHECK(contains(text.out, "30 images each, not 40: there are no more"));

  // Too few for a floor, but enough for the score.
  io::save_npy(folder.path("six.npy"), y.rows(0, 6).clone());
  Result few = done(on_one_thread(folder, {"eval", "fd", "--features", "x.npy", "six.npy"}));
  CHECK(contains(few.out, "floor -"));
  CHECK(contains(few.out, "missing, because frechet_distance: needs more images than features"));
}

TEST_CASE("eval nearest finds copies and says which", "[cli][eval]") {
  test::ScratchFolder folder;
  Tensor train = blob_images("train"), samples = apps::take_rows(train, {7, 3, 150});
  samples.data<uint8_t>()[8 * 8 * 3] ^= 4;  // the second one is a copy but for 4 levels in one value
  io::save_npy(folder.path("s.npy"), samples);
  Json json = done(on_one_thread(folder, Args{"eval", "nearest", "s.npy", "synthetic:blobs", "--json", "--out", "pairs.png"} +
                                       kBlobs))
                  .json();
  CHECK(json["index"] == Json({7, 3, 150}));
  CHECK(json["distance"][0] == 0);
  CHECK(json["distance"][1].get<double>() == std::sqrt(16.0 / 192));
  CHECK(json["copies"] == 2);
  CHECK(json["min"] == 0);
  CHECK(json["closer_than_1_percent_of_floor"] == 1);
  CHECK(json["floor"]["count"] == 3);
  CHECK(json["floor"]["median"].get<double>() > 1);
  Tensor pairs = io::load_image(folder.path("pairs.png"));
  CHECK((pairs.shape() == Shape{8, 6 * 8 + 5 * 2, 3}));  // three pairs in a row, two white pixels between
  Result text = done(on_one_thread(folder, Args{"eval", "nearest", "s.npy", "synthetic:blobs", "--count", "2"} + kBlobs));
  CHECK(contains(text.out, "nearest of 200 images of synthetic:blobs to each of 2 of s.npy"));

  // Without another split, one half of the reference is compared with the other.
  io::save_npy(folder.path("train.npy"), train);
  Json halves = done(on_one_thread(folder, {"eval", "nearest", "s.npy", "train.npy", "--json"})).json();
  CHECK(halves["index"] == json["index"]);
  CHECK(halves["floor"]["count"] == 100);
  CHECK(halves["floor"]["compares"] == "two halves of train.npy");
}

TEST_CASE("eval refuses what it cannot score, with the exit code of the cause", "[cli][eval]") {
  test::ScratchFolder folder;
  io::save_npy(folder.path("s.npy"), blob_images("test", 150));
  io::save_npy(folder.path("large.npy"), zeros({3, 9, 9, 3}));
  io::save_npy(folder.path("flat.npy"), zeros({3, 9}));
  Tensor bad = normal({40, 5}, DType::f32, Generator{1});
  io::save_npy(folder.path("good.npy"), bad);
  bad = bad.clone();
  bad.data<float>()[12] = NAN;
  io::save_npy(folder.path("nan.npy"), bad);
  io::save_npy(folder.path("few.npy"), normal({5, 5}, DType::f32, Generator{2}));
  io::save_npy(folder.path("wide.npy"), normal({40, 6}, DType::f32, Generator{2}));
  struct Wrong {
    Args args;
    int code;
    std::string words;
  };
  Args net = {"--classifier", classifier()};
  for (const Wrong& wrong : std::vector<Wrong>{
           {{"eval"}, 2, "mote eval --help"},
           {{"eval", "fid", "a", "b"}, 2, "did you mean 'fd'"},
           {{"eval", "fd", "s.npy"}, 2, "two are needed, SAMPLES and then REFERENCE, got 1"},
           {{"eval", "fd", "--features", "good.npy"}, 2, "--features: two are needed"},
           {{"eval", "fd", "s.npy", "s.npy", "--features", "good.npy", "good.npy"}, 2, "not both"},
           {Args{"eval", "fd", "s.npy", "synthetic:blobs", "--count", "151"} + net + kBlobs, 2, "s.npy has 150"},
           {Args{"eval", "fd", "s.npy", "synthetic:blobs", "--count", "-1"} + net + kBlobs, 2,
            "--count: must be 1 or more"},
           {Args{"eval", "fd", "s.npy", "synthetic:blob"} + net, 2, "synthetic:blob is unknown"},
           {Args{"eval", "fd", "s.npy", "nowhere:x"} + net, 2, "synthetic:NAME"},
           {{"eval", "fd", "s.npy", "s.npy"}, 2, "no classifier: give --classifier FILE"},
           {{"eval", "fd", "s.npy", "s.npy", "--classifier", "none.safetensors"},
            2,
            "there is no file none.safetensors"},
           {{"eval", "kid", "s.npy", "s.npy", "--subsets", "0"}, 2, "--subsets"},
           {Args{"eval", "fd", "none.npy", "s.npy"} + net, 3, "none.npy"},
           {Args{"eval", "fd", "flat.npy", "s.npy"} + net, 3, "f32[3, 9]"},
           {Args{"eval", "fd", "large.npy", "s.npy"} + net, 3, "--size and --channels make them equal"},
           {Args{"eval", "fd", "large.npy", "large.npy"} + net, 3, "trained on images of 8 x 8 x 3"},
           {Args{"eval", "fd", "s.npy", "synthetic:blobs", "--count", "128"} + net + kBlobs, 3,
            "needs more images than features: got 128 and 128 images with 128 features each"},
           {Args{"eval", "prdc", "s.npy", "s.npy", "--k", "150"} + net, 3, "the neighbour number 150"},
           {{"eval", "fd", "--features", "nan.npy", "good.npy"}, 3, "row 2, column 2 is nan"},
           {{"eval", "fd", "--features", "few.npy", "good.npy"}, 3, "got 5 and 5 images with 5 features"},
           {{"eval", "fd", "--features", "wide.npy", "good.npy"}, 3, "features of one width"},
           {{"eval", "fd", "--features", "s.npy", "good.npy"}, 3, "features are needed as float32"},
           {{"eval", "nearest", "s.npy", "none.npy"}, 3, "none.npy"},
           {Args{"eval", "fd", "s.npy", "synthetic:blobs", "--data", "synthetic:blobs", "--size", "8"} + net, 4,
            "was trained on other images"},  // without --limit 200 these are others
           {{"eval", "fd", "s.npy", "s.npy", "--classifier", shared() + "/run/checkpoint.safetensors"},
            4,
            "needed is mote-classifier"},
           {Args{"eval", "fd", "s.npy", "s.npy", "--precision", "bf16"} + net, 2, "--precision bf16"},
       }) {
    INFO(wrong.args[0] + " " + (wrong.args.size() > 1 ? wrong.args[1] : "") + " ... " + wrong.args.back());
    CHECK_EXIT(Process(folder.path(), wrong.args).wait(), wrong.code, wrong.words);
  }
}

// ---- compare -------------------------------------------------------------------------------------------------------

TEST_CASE("compare scores every sampler at every number of steps, and shows the ones that are refused",
          "[cli][compare]") {
  test::ScratchFolder folder;
  copy_run(folder);
  Args args = compare_args("ddim,ddpm", "2,2000", {"--count", "150", "--seeds", "2"});
  Json json = done(on_one_thread(folder, args + Args{"--json"})).json();
  CHECK(json["cells"].size() == 8);
  int finished = 0, refused = 0;
  for (const Json& cell : json["cells"]) {
    finished += cell["state"] == "done";
    refused += cell["state"] == "refused";
    if (cell["state"] == "refused") CHECK(contains(cell["reason"], "2000"));
    if (cell["state"] != "done") continue;
    CHECK(cell["network_calls"] == 2);
    for (const char* key : {"fd", "kid", "kid_std", "prec", "rec", "density", "coverage", "tv"})
      CHECK(cell["values"][key].is_number());
    CHECK(cell["values"]["fd"] > json["floor"]["values"]["fd"]);
  }
  CHECK(finished == 4);
  CHECK(refused == 4);
  CHECK(json["cells"][0]["values"] != json["cells"][1]["values"]);  // another seed, another sample
  std::string name = json["metrics"]["fd"];
  CHECK(name.starts_with("LeNet-"));
  CHECK(name.ends_with("-FD@150"));
  for (const char* file : {"compare.csv", "compare.svg", "compare.html"})
    CHECK(contains(read_text(folder.path("run/compare/") + file), name));
  CHECK(contains(read_text(folder.path("run/compare/compare.html")), "refused: "));
  CHECK(fs::exists(folder.path("run/compare/cells/ddpm-2-seed1.json")));
  CHECK(!fs::exists(folder.path("run/compare/cells/ddim-2000-seed0.json")));

  // A rerun draws nothing, and shows other metrics of the same cells.
  auto written = fs::last_write_time(folder.path("run/compare/cells/ddim-2-seed0.json"));
  Result again = done(on_one_thread(folder, args + Args{"--metric", "tv,coverage"}));
  CHECK(fs::last_write_time(folder.path("run/compare/cells/ddim-2-seed0.json")) == written);
  CHECK(contains(again.out, "-coverage@150"));
  CHECK(!contains(again.out, "-FD@150"));
}

TEST_CASE("a cell holds what eval says of the same samples", "[cli][compare]") {
  test::ScratchFolder folder;
  copy_run(folder);
  Args args = {"compare", "--run",   "run", "--samplers", "ddim", "--steps",
               "3",       "--count", "150", "--seed",     "4",    "--quiet"};
  done(on_one_thread(folder, args));
  Json cell = Json::parse(read_text(folder.path("run/compare/cells/ddim-3-seed4.json")));
  done(on_one_thread(folder, {"sample", "--run", "run", "--sampler", "ddim", "--steps", "3", "--count", "150", "--seed", "4",
                        "--npy", "s.npy", "--batch", "7", "--quiet"}));
  for (const char* metric : {"fd", "kid", "prdc"}) {
    Json eval = done(on_one_thread(folder, Args{"eval", metric, "s.npy", "synthetic:blobs", "--classifier",
                                          "run/classifier.safetensors", "--json", "--quiet"} +
                                         kBlobs))
                    .json();
    for (const auto& [key, value] : eval["values"].items()) {
      INFO(key);
      CHECK(cell["scores"][key] == value);
    }
    Json floor = Json::parse(read_text(folder.path("run/compare/cells/floor.json")));
    if (std::string(metric) == "fd") CHECK(floor["scores"]["fd"] != cell["scores"]["fd"]);
  }
}

TEST_CASE("compare --dry-run counts network calls and writes nothing", "[cli][compare]") {
  test::ScratchFolder folder;
  copy_run(folder);
  Json plan = done(on_one_thread(folder, four_cells({"--dry-run", "--json", "--seeds", "2"}))).json();
  CHECK(plan["cells"].size() == 8);
  CHECK(plan["open"] == 8);
  CHECK(plan["network_calls_left"] == 2 * 2 * (2 + 3) * 150);
  CHECK(plan["seconds_left"] > 0);
  CHECK(plan["estimated_from"] == "one network call");
  CHECK(!fs::exists(folder.path("run/compare")));

  done(on_one_thread(folder, four_cells()));
  Json rest = done(on_one_thread(folder, four_cells({"--dry-run", "--json", "--seeds", "2"}))).json();
  CHECK(rest["open"] == 4);
  CHECK(rest["estimated_from"] == "finished cells");
  Result text = done(on_one_thread(folder, four_cells({"--dry-run"})));
  CHECK(contains(text.out, "0 of 4 cells to draw"));
}

TEST_CASE("a sampler of compare can have its own number of steps", "[cli][compare]") {
  test::ScratchFolder folder;
  copy_run(folder);
  Args args = compare_args("ddim,ddim=7,ddpm=7", "2,3", {"--dry-run", "--json", "--count", "150"});
  for (const Args& by : {Args{}, Args{"--calls", "2,3"}}) {
    Json plan = done(on_one_thread(folder, args + by)).json();
    std::vector<std::string> cells;
    for (const Json& cell : plan["cells"])
      cells.push_back(cell["sampler"].get<std::string>() + " " + cell["network_calls"].dump());
    CHECK(cells == std::vector<std::string>{"ddim 2", "ddim 3", "ddim 7", "ddpm 7"});
  }
}

TEST_CASE("compare goes on after a stop and ends with the same numbers", "[cli][compare]") {
  test::ScratchFolder whole, folder;
  copy_run(whole);
  copy_run(folder);
  done(on_one_thread(whole, four_cells()));

  // Stopped once the first cell stands; the steps of the second one are long enough to be met by the signal.
  Args args = four_cells({"--threads", "1"});
  Process process(folder.path(), args);
  REQUIRE(process.wait_for("run/compare/cells/ddim-2-seed0.json"));
  process.kill(SIGINT);
  Result stopped = process.wait();
  INFO(told(stopped));
  CHECK((stopped.code == 130 || stopped.code == 0));  // 0: all was done before the signal came
  std::string first = read_text(folder.path("run/compare/cells/ddim-2-seed0.json"));
  fs::remove(folder.path("run/compare/cells/ddpm-3-seed0.json"));  // open in any case

  done(on_one_thread(folder, four_cells()));
  CHECK((read_text(folder.path("run/compare/cells/ddim-2-seed0.json")) == first));  // not drawn again
  for (const char* cell : {"ddim-2-seed0", "ddim-3-seed0", "ddpm-2-seed0", "ddpm-3-seed0", "floor"}) {
    std::string name = std::string("run/compare/cells/") + cell + ".json";
    INFO(cell);
    CHECK(Json::parse(read_text(folder.path(name)))["scores"] == Json::parse(read_text(whole.path(name)))["scores"]);
  }
}

TEST_CASE("compare goes on inside a cell from the images that were drawn before", "[cli][compare]") {
  test::ScratchFolder folder;
  copy_run(folder);
  Args args = compare_args("ddim", "2", {"--count", "150", "--seed", "4"});
  done(mote_in(folder, args));
  std::string path = folder.path("run/compare/cells/ddim-2-seed4.json");
  Json whole = Json::parse(read_text(path));

  // What a killed run leaves: the first 70 images, made here by `mote sample`.
  done(mote_in(folder, {"sample", "--run", "run", "--sampler", "ddim", "--steps", "2", "--count", "70", "--seed", "4",
                        "--npy", "drawn.npy", "--out", "grid.png", "--quiet"}));
  apps::CellStore store(folder.path("run/compare"));
  apps::Cell cell;
  cell.sampler = "ddim";
  cell.steps = 2;
  cell.seed = 4;
  Tensor images = apps::load_images(folder.path("drawn.npy"), {}).images;
  std::string part = folder.path("run/compare/cells/ddim-2-seed4.part.safetensors");
  auto scores_with_part = [&](const Tensor& drawn) {
    fs::remove(path);
    store.save_part(cell, {drawn, 1000}, whole["settings"]);
    done(mote_in(folder, args));
    CHECK(!fs::exists(part));
    Json json = Json::parse(read_text(path));
    CHECK(json["seconds"] > 1000);
    return json["scores"];
  };
  CHECK(scores_with_part(images) == whole["scores"]);
  CHECK(scores_with_part(zeros_like(images)) != whole["scores"]);  // they are taken as they are

  fs::remove(path);
  Json other = whole["settings"];
  other["count"] = 151;
  store.save_part(cell, {images, 1000}, other);
  CHECK_EXIT(mote_in(folder, args), 2, "count: stored 151, now 150");
  std::ofstream(part) << "{";
  CHECK_EXIT(mote_in(folder, args), 4, "part.safetensors");
}

TEST_CASE("cells of other settings are not mixed", "[cli][compare]") {
  test::ScratchFolder folder;
  copy_run(folder);
  done(on_one_thread(folder, compare_args("ddim", "2", {"--count", "150"})));
  Args args = compare_args("ddim", "2", {"--count", "151"});
  CHECK_EXIT(on_one_thread(folder, args), 2, "count: stored 150, now 151");
  CHECK_EXIT(on_one_thread(folder, args + Args{"--dry-run"}), 2, "--overwrite");
  done(on_one_thread(folder, args + Args{"--overwrite"}));
  CHECK_EXIT(on_one_thread(folder, args + Args{"--no-clip"}), 2, "clip: stored \"by sampler\", now \"off\"");
  done(on_one_thread(folder, args + Args{"--no-clip", "--out", "elsewhere"}));
  CHECK(fs::exists(folder.path("elsewhere/compare.csv")));

  // Another classifier, other images, another checkpoint.
  done(on_one_thread(folder, Args{"eval", "kid", "synthetic:blobs", "synthetic:blobs", "--size", "8", "--limit", "60",
                            "--classifier", "other.safetensors", "--quiet"}));
  CHECK_EXIT(on_one_thread(folder, args + Args{"--classifier", "other.safetensors"}), 2, "classifier: stored");
  CHECK_EXIT(on_one_thread(folder, args + Args{"--data", "synthetic:blobs", "--classifier", "run/classifier.safetensors"}), 2,
             "reference: stored");  // all 1024 of them
  done(on_one_thread(folder, {"train", "--out", "run", "--resume", "--steps", "5", "--quiet"}));
  CHECK_EXIT(on_one_thread(folder, args), 2, "checkpoint: stored");

  test::ScratchFolder damaged;
  copy_run(damaged);
  fs::create_directories(damaged.path("run/compare/cells"));
  std::ofstream(damaged.path("run/compare/cells/ddim-2-seed0.json")) << "{";
  CHECK_EXIT(on_one_thread(damaged, four_cells()), 3, "is no finished cell of mote compare");
}

TEST_CASE("compare says what is wrong before it draws", "[cli][compare]") {
  test::ScratchFolder folder;
  copy_run(folder);
  struct Wrong {
    Args args;
    int code;
    std::string words;
  };
  for (const Wrong& wrong : std::vector<Wrong>{
           {{}, 2, "--run: the run folder is missing"},
           {{"--run", "none"}, 4, "there is no run at none"},
           {{"--run", "."}, 4, "there is no checkpoint"},
           {{"--run", "run", "--samplers", "ddin"}, 2, "'ddin' is unknown: choose from ddpm, ddim"},
           {{"--run", "run", "--samplers", "ddim,ddim"}, 2, "a repeated entry"},
           {{"--run", "run", "--samplers", "ddin=7"}, 2, "'ddin' is unknown"},
           {{"--run", "run", "--samplers", "ddim=0"}, 2, "'ddim=0' is not NAME=STEPS with 1 step or more"},
           {{"--run", "run", "--samplers", "ddim=3,4"}, 2, "'4' is unknown"},
           {{"--run", "run", "--samplers", "ddim="}, 2, "'ddim=' is not NAME=STEPS"},
           {{"--run", "run", "--samplers", "copy=3"}, 2, "'copy=3' is unknown"},
           {{"--run", "run", "--samplers", "dpm-ot=3"}, 2, "'dpm-ot=3' is unknown"},
           {{"--run", "run", "--samplers", "ddim=few"}, 2, "not a list of whole numbers"},
           {{"--run", "run", "--samplers", "ddim,ddim=5", "--steps", "5"}, 2, "ddim with 5 steps is asked for twice"},
           {{"--run", "run", "--samplers", ""}, 2, "--samplers"},
           {{"--run", "run", "--steps", "5,x"}, 2, "not a list of whole numbers"},
           {{"--run", "run", "--steps", "0"}, 2, "--steps: must be 1 or more, got 0"},
           {{"--run", "run", "--metric", "fd,fid"}, 2, "--metric: 'fid' is unknown: choose from fd, kid"},
           {{"--run", "run", "--count", "9"}, 2, "--count: must be 10"},
           {{"--run", "run", "--count", "128"}, 2, "fd compares 128 features and needs 129 images or more, got 128"},
           {{"--run", "run", "--count", "201"}, 2, "synthetic:blobs has 200"},
           {{"--run", "run", "--seeds", "0"}, 2, "--seeds: must be 1 to 1000"},
           {{"--run", "run", "--weights", "best"}, 2, "ema and model"},
           {{"--run", "run", "--grid", "odd", "--count", "150", "--steps", "2"}, 0, ""},  // refused cell by cell
           {{"--run", "run", "--count", "150", "--data", "synthetic:blobs"}, 4, "was trained on other images"},
           {{"--run", "run", "--count", "150", "--data", "nowhere:x"}, 2, "nowhere:x"},
       }) {
    INFO((wrong.args.empty() ? "no arguments" : wrong.args.back()));
    CHECK_EXIT(on_one_thread(folder, Args{"compare", "--quiet"} + wrong.args), wrong.code, wrong.words);
  }
  CHECK(!fs::exists(folder.path("run/compare/cells/ddim-2-seed0.json")));
}

TEST_CASE("fewer images than features leave out the Frechet distance alone", "[cli][compare]") {
  test::ScratchFolder folder;
  copy_run(folder);
  Json json = done(on_one_thread(folder, {"compare", "--run", "run", "--samplers", "ddim", "--steps", "2", "--count", "20",
                                    "--metric", "kid,prec", "--json", "--quiet"}))
                  .json();
  CHECK(json["cells"][0]["values"].contains("kid"));
  CHECK(json["cells"][0]["values"].contains("prec"));
  CHECK(!json["cells"][0]["values"].contains("fd"));
}

TEST_CASE("a conditional network draws without a class, or every class in turn", "[cli][compare]") {
  test::ScratchFolder folder;
  done(on_one_thread(folder, kTinyTraining + Args{"--class-cond", "--out", "run"}));
  fs::copy(classifier(), folder.path("run/classifier.safetensors"));
  Args args = compare_args("ddim", "2", {"--count", "20", "--metric", "kid,tv"});
  done(on_one_thread(folder, args));
  CHECK_EXIT(on_one_thread(folder, args + Args{"--all-classes"}), 2, "class: stored \"none\", now \"all\"");
  done(on_one_thread(folder, args + Args{"--all-classes", "--out", "all"}));
  Json none = Json::parse(read_text(folder.path("run/compare/cells/ddim-2-seed0.json")));
  Json all = Json::parse(read_text(folder.path("all/cells/ddim-2-seed0.json")));
  CHECK(none["scores"] != all["scores"]);
}

TEST_CASE("eval and compare answer --help with an example", "[cli][eval]") {
  test::ScratchFolder folder;
  for (const Args& command :
       {Args{"eval", "fd"}, {"eval", "kid"}, {"eval", "prdc"}, {"eval", "nearest"}, {"compare"}}) {
    Result help = done(Process(folder.path(), command + Args{"--help"}).wait());
    CHECK(contains(help.out, "Example"));
    CHECK(contains(help.out, "--device"));
  }
}
