// `mote ot` as a user meets it, and dpm-ot in `mote sample` and `mote compare`: files, numbers, exit codes, messages,
// and going on after a stop. Runs the binary on a few points and on synthetic images of 8 x 8 pixels with a tiny
// network.
#include <cmath>
#include <set>

#include "apps/image_source.h"
#include "apps/ot_map.h"
#include "apps/read_points.h"
#include "tensor/io/image.h"
#include "tensor/io/npy.h"
#include "tensor/io/safetensors.h"
#include "tests/diffusion_support.h"
#include "tests/run_mote.h"

using namespace mote;
using namespace mote::test;
namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

// ---- Running the program -------------------------------------------------------------------------------------------

/// `mote LINE`, one thread.
Args one_thread(const std::string& line) { return words(line) + Args{"--threads", "1"}; }
Result mote_in(const ScratchFolder& folder, const std::string& line) {
  return test::mote_in(folder, one_thread(line));
}

// ---- What the tests share ------------------------------------------------------------------------------------------

constexpr const char* kTraining =
    "train --data synthetic:blobs --limit 200 --unet custom --base 8 --mult 1,2 --blocks 1 "
    "--batch 8 --ema 0.9 --steps 2 --sample-count 0 --quiet ";

/// Runs of two steps: `run`, the same with another seed (`other`), schedule (`cosine`) and size (`large`); a map of 60
/// targets for `run`, `map.safetensors`, and a classifier beside the run. Tests only read them.
const std::string& shared() {
  static test::ScratchFolder folder;
  static std::string path = [] {
    done(mote_in(folder, std::string(kTraining) + "--size 8 --attention 4 --out run"));
    done(mote_in(folder, std::string(kTraining) + "--size 8 --attention 4 --seed 5 --out other"));
    done(mote_in(folder, std::string(kTraining) + "--size 8 --attention 4 --schedule cosine --out cosine"));
    done(mote_in(folder, std::string(kTraining) + "--size 12 --attention 6 --out large"));
    done(mote_in(folder,
                 "eval kid synthetic:blobs synthetic:blobs --size 8 --limit 200 --classifier net.safetensors --quiet"));
    done(mote_in(folder, "ot fit --run run --targets 60 --level 400 --chi2 0.1 --quiet --out map.safetensors"));
    return folder.path();
  }();
  return path;
}
std::string run_named(const std::string& name) { return shared() + "/" + name; }
std::string shared_map() { return shared() + "/map.safetensors"; }

/// 40 points in three dimensions as text.
std::string cloud() {
  std::ostringstream text;
  text << "x,y,z\n";
  std::vector<double> values = normal({40, 3}, DType::f64, Generator{1}).to_vector();
  for (size_t i = 0; i < values.size(); i += 3)
    text << values[i] << ", " << values[i + 1] << "," << values[i + 2] << "\n";
  return text.str();
}

}  // namespace

// ---- Points --------------------------------------------------------------------------------------------------------

TEST_CASE("points are read from text and arrays, and what is wrong is said with its place", "[ot][io]") {
  test::ScratchFolder folder;
  auto file = [&](const std::string& name, const std::string& text) {
    write_text(folder.path(name), text);
    return folder.path(name);
  };
  CHECK_SAME(apps::load_points(file("a.csv", "1,2\n-3.5, 4e-1\r\n\n5,6")), from({1, 2, -3.5, 0.4, 5, 6}, {3, 2}));
  CHECK_SAME(apps::load_points(file("b.csv", "name,other\n1,2\n")), from({1, 2}, {1, 2}));
  CHECK_SAME(apps::load_points(file("c.csv", "7\n8\n")), from({7, 8}, {2, 1}));
  io::save_npy(folder.path("d.npy"), from({1, 2, 3, 4, 5, 6, 7, 8}, {2, 2, 2}, DType::f64));
  CHECK_SAME(apps::load_points(folder.path("d.npy")), from({1, 2, 3, 4, 5, 6, 7, 8}, {2, 4}));
  auto refusal = [&](const std::string& path) { return caught([&] { apps::load_points(path); }); };
  CHECK(refusal(file("e.csv", "1,2\n3\n")).says("line 2 has 1 numbers, the lines before have 2"));
  CHECK(refusal(file("f.csv", "1,2\n3,x\n")).says("line 2, column 2 is not a number"));
  CHECK(refusal(file("g.csv", "a,b\n")).says("holds no points"));
  CHECK(refusal(file("h.csv", "1,2,\n")).says("line 1, column 3 is not a number"));
  CHECK(refusal(file("i.txt", "1")).kind == Error::Kind::usage);
  CHECK(refusal(folder.path("none.csv")).kind == Error::Kind::data);
}

TEST_CASE("fit and apply carry noise to the points of a file, each as often as its weight says", "[cli][ot]") {
  test::ScratchFolder folder;
  write_text(folder.path("p.csv"), "0,0\n1,0\n0,2\n");
  write_text(folder.path("w.csv"), "0.2\n0.3\n0.5\n");
  Json fitted =
      done(
          mote_in(folder,
                  "ot fit --points p.csv --weights w.csv --chi2 0.02 --max-samples 100000 --seed 3 --out m.safetensors "
                  "--json"))
          .json();
  CHECK(fitted["targets"] == 3);
  CHECK(fitted["converged"] == true);
  CHECK(fitted["chi2_interval"][1] <= 0.02);
  CHECK(fitted["solve_flops"] > 0);
  CHECK(!fs::exists(folder.path("m.safetensors.state")));
  Json applied =
      done(mote_in(folder, "ot apply --map m.safetensors --count 20000 --out y.npy --index i.npy --json")).json();
  CHECK(applied["kept"] == 20000);
  std::vector<double> index = io::load_npy(folder.path("i.npy")).to_vector();
  std::vector<double> y = io::load_npy(folder.path("y.npy")).to_vector(), shares(3, 0);
  const double points[3][2] = {{0, 0}, {1, 0}, {0, 2}};
  for (size_t i = 0; i < index.size(); ++i) {
    REQUIRE(y[2 * i] == points[size_t(index[i])][0]);
    REQUIRE(y[2 * i + 1] == points[size_t(index[i])][1]);
    shares[size_t(index[i])] += 1.0 / double(index.size());
  }
  for (size_t k = 0; k < 3; ++k)
    CHECK(apart(shares[k], std::vector{.2, .3, .5}[k], 0.06) == "");  // chi2 0.02 allows sqrt(0.02 / 5)

  // Given points are carried to the target whose plane is highest; a bounded angle keeps fewer of them.
  write_text(folder.path("x.csv"), "100,0\n0,100\n-100,-100\n");
  done(mote_in(folder, "ot apply --map m.safetensors --in x.csv --out t.npy"));
  CHECK_SAME(io::load_npy(folder.path("t.npy")), from({1, 0, 0, 2, 0, 0}, {3, 2}));
  Json few = done(mote_in(folder, "ot apply --map m.safetensors --k 2 --max-angle 0.8 --out t.npy --json")).json();
  Json all = done(mote_in(folder, "ot apply --map m.safetensors --k 2 --max-angle 3.2 --out t.npy --json")).json();
  CHECK(all["kept"] == 1000);
  CHECK(few["kept"] < 1000);
  CHECK_EXIT(mote_in(folder, "ot apply --map m.safetensors --in p3.csv --out t.npy"), 3, "p3.csv");
  write_text(folder.path("p3.csv"), "1,2,3\n");
  CHECK_EXIT(mote_in(folder, "ot apply --map m.safetensors --in p3.csv --out t.npy"), 3,
             "points of 3 numbers, the map is of 2");
  CHECK_EXIT(mote_in(folder, "ot apply --map m.safetensors"), 2, "nothing would be written");
  CHECK_EXIT(mote_in(folder, "ot apply --map p.csv --out t.npy"), 4, "p.csv");
  CHECK_EXIT(mote_in(folder, "ot apply --map m.safetensors --k 4 --out t.npy"), 2, "the map has 3");
  CHECK_EXIT(mote_in(folder, "ot apply --map m.safetensors --max-angle 1 --out t.npy"), 2, "give --k 2 or more");
}

TEST_CASE("targets that no map can have are refused with exit code 3", "[cli][ot]") {
  test::ScratchFolder folder;
  struct Wrong {
    const char *points, *weights, *words;
  };
  for (const Wrong& wrong : {Wrong{"0,0\n1,0\n", "0.2\n0.3\n", "sum"},
                             {"0,0\n1,0\n", "0\n1\n", "weight"},
                             {"0,0\n1,0\n", "-0.5\n1.5\n", "weight"},
                             {"0,0\n1,0\n", "nan\n1\n", "weight"},
                             {"0,0\n1,0\n", "1\n", "weights"},
                             {"0,0\n1,0\n0,0\n", nullptr, "equal"},
                             {"0,0\nnan,0\n", nullptr, "is nan"},
                             {"0,0\ninf,0\n", nullptr, "is inf"}}) {
    write_text(folder.path("p.csv"), wrong.points);
    if (wrong.weights) write_text(folder.path("w.csv"), wrong.weights);
    INFO(wrong.points << " with " << (wrong.weights ? wrong.weights : "no weights"));
    CHECK_EXIT(mote_in(folder, std::string("ot fit --points p.csv --out m.safetensors") +
                                   (wrong.weights ? " --weights w.csv" : "")),
               3, wrong.words);
    CHECK(!fs::exists(folder.path("m.safetensors")));
  }
}

TEST_CASE("equal targets become one where that is asked for, and a single target is a map", "[cli][ot]") {
  test::ScratchFolder folder;
  write_text(folder.path("p.csv"), "0,0\n1,0\n0,0\n0,1\n");
  done(mote_in(folder,
               "ot fit --points p.csv --merge-duplicates --chi2 0.2 --max-samples 10000 --out m.safetensors --quiet"));
  apps::OtMap map = apps::load_ot_map(folder.path("m.safetensors"));
  CHECK_SAME(map.points, from({0, 0, 1, 0, 0, 1}, {3, 2}));
  CHECK(map.weights == std::vector<double>{0.5, 0.25, 0.25});

  write_text(folder.path("p.csv"), "3,4\n");
  done(mote_in(folder, "ot fit --points p.csv --out one.safetensors --quiet"));
  done(mote_in(folder, "ot apply --map one.safetensors --count 5 --out y.npy"));
  CHECK_SAME(io::load_npy(folder.path("y.npy")), from({3, 4, 3, 4, 3, 4, 3, 4, 3, 4}, {5, 2}));
}

TEST_CASE("a solve that does not converge ends with 6, keeps its heights, and can go on", "[cli][ot]") {
  test::ScratchFolder folder;
  write_text(folder.path("p.csv"), cloud());
  Result short_of = mote_in(folder, "ot fit --points p.csv --chi2 0.02 --max-samples 5 --out m.safetensors --quiet");
  CHECK_EXIT(short_of, 6, "not converged: chi2 ");
  CHECK(contains(short_of.err, "the heights are kept in m.safetensors"));
  apps::OtMap map = apps::load_ot_map(folder.path("m.safetensors"));
  CHECK(!map.result.converged);
  CHECK(map.heights.size(0) == 40);
  REQUIRE(fs::exists(folder.path("m.safetensors.state")));
  Json more =
      done(mote_in(folder, "ot fit --points p.csv --chi2 0.02 --max-samples 20000 --resume --out m.safetensors --json"))
          .json();
  CHECK(more["converged"] == true);
  CHECK(!fs::exists(folder.path("m.safetensors.state")));
  CHECK_EXIT(mote_in(folder, "ot fit --points p.csv --resume --out m.safetensors"), 4, "no unfinished solve");
}

TEST_CASE("an interrupted fit goes on to the same heights", "[cli][ot]") {
  test::ScratchFolder folder;
  write_text(folder.path("p.csv"), cloud());
  std::string fit = "ot fit --points p.csv --chi2 0.01 --max-samples 100000 --quiet --out ";
  {
    Process process(folder.path(), one_thread(fit + "part.safetensors"));
    REQUIRE(process.wait_for("part.safetensors.state"));  // written when the solve begins
    process.kill(SIGINT);
    Result stopped = process.wait();
    INFO(told(stopped));
    REQUIRE((stopped.code == 130 || stopped.code == 0));  // it may just have come to its end
    CHECK(fs::exists(folder.path("part.safetensors.state")) == (stopped.code == 130));
    CHECK(fs::exists(folder.path("part.safetensors")) == (stopped.code == 0));
    if (stopped.code == 130) done(mote_in(folder, fit + "part.safetensors --resume"));
  }
  done(mote_in(folder, fit + "whole.safetensors"));
  apps::OtMap part = apps::load_ot_map(folder.path("part.safetensors")),
              whole = apps::load_ot_map(folder.path("whole.safetensors"));
  CHECK_SAME(part.heights, whole.heights);
  CHECK(part.result.samples == whole.result.samples);
}

TEST_CASE("a state of other targets is not gone on with", "[cli][ot]") {
  test::ScratchFolder folder;
  write_text(folder.path("p.csv"), cloud());
  CHECK_EXIT(mote_in(folder, "ot fit --points p.csv --chi2 0.01 --max-samples 5 --out m.safetensors --quiet"), 6,
             "not converged");
  write_text(folder.path("p.csv"), "1,2\n3,4\n");
  CHECK_EXIT(mote_in(folder, "ot fit --points p.csv --resume --out m.safetensors --quiet"), 4, "m.safetensors.state");
}

// ---- Maps of a network ---------------------------------------------------------------------------------------------

TEST_CASE("a map holds what it is of, and says so when its file is damaged", "[cli][ot]") {
  apps::OtMap map = apps::load_ot_map(shared_map());
  CHECK(map.is_images());
  CHECK(map.count() == 60);
  CHECK(map.points.shape() == Shape{60, 8, 8, 3});
  REQUIRE(map.network.has_value());
  CHECK(map.network->level == 400);
  CHECK(map.network->schedule == "linear");
  CHECK(map.network->T == 1000);
  CHECK(map.network->checkpoint_hash == apps::load_from_run(run_named("run"), "").hash);
  CHECK(map.data == "synthetic:blobs");
  CHECK(map.result.converged);
  test::ScratchFolder folder;
  apps::OtMap copy = map;
  apps::save_ot_map(folder.path("copy.safetensors"), copy);
  CHECK(copy.hash == map.hash);
  CHECK(read_text(folder.path("copy.safetensors")) == read_text(shared_map()));
  std::string bytes = read_text(shared_map());
  bytes[bytes.size() - 5] ^= 1;
  write_text(folder.path("bad.safetensors"), bytes);
  CHECK(caught([&] { apps::load_ot_map(folder.path("bad.safetensors")); }).kind == Error::Kind::checkpoint);
  io::save_safetensors(folder.path("else.safetensors"), {{"heights", zeros({3})}}, {});
  CHECK(caught([&] { apps::load_ot_map(folder.path("else.safetensors")); }).says("not a transport map"));
  copy.heights = zeros({59});
  apps::save_ot_map(folder.path("few.safetensors"), copy);
  CHECK(caught([&] { apps::load_ot_map(folder.path("few.safetensors")); }).says("needs f32 [60]"));
}

TEST_CASE("a map is refused by any network but its own", "[cli][ot]") {
  test::ScratchFolder folder;
  struct Wrong {
    const char *run, *words;
  };
  for (const Wrong& wrong : {Wrong{"other", "fitted for another network"},
                             {"cosine", "linear schedule with T = 1000"},
                             {"large", "images [8, 8, 3]"}}) {
    INFO(wrong.run);
    for (const std::string& command : {std::string("ot sample --out a.png --count 1"), std::string("ot eval --count 1"),
                                       std::string("sample --sampler dpm-ot --out a.png --count 1")})
      CHECK_EXIT(mote_in(folder, command + " --run " + run_named(wrong.run) + " --map " + shared_map()), 4,
                 wrong.words);
    CHECK_EXIT(mote_in(folder, "compare --run " + run_named(wrong.run) + " --samplers dpm-ot --steps 2 --map " +
                                   shared_map() + " --out compare"),
               4, wrong.words);
  }
  write_text(folder.path("p.csv"), cloud());
  done(mote_in(folder, "ot fit --points p.csv --chi2 0.5 --max-samples 10000 --out p.safetensors --quiet"));
  CHECK_EXIT(mote_in(folder, "ot sample --out a.png --map p.safetensors --run " + run_named("run")), 4,
             "fitted to the points of p.csv");
}

TEST_CASE("what mote ot cannot do is said with exit code 2", "[cli][ot]") {
  test::ScratchFolder folder;
  std::string fit = "ot fit --out m.safetensors --run " + run_named("run");
  std::string draw = "ot sample --out a.png --count 1 --run " + run_named("run") + " --map " + shared_map();
  struct Wrong {
    std::string line, words;
  };
  for (const Wrong& wrong :
       {Wrong{fit + " --level 1000", "lies outside the schedule, which has 0 to T - 1 = 999"},
        {fit + " --level -3", "--level"},
        {fit + " --t 1.5", "--t: must be 0 to 1"},
        {fit + " --t 0.5 --level 3", "name the same thing"},
        {fit + " --targets 201", "has 200"},
        {fit + " --source cauchy", "cauchy"},
        {fit + " --recipe theirs", "ours and paper"},
        {fit + " --chi2 0", "--chi2: must be positive"},
        {fit + " --latents old", "choose fresh or stored"},
        {fit + " --points p.csv", "one of them"},
        {"ot fit --out m.safetensors", "one of them"},
        {"ot fit --points p.csv --level 3 --out m.safetensors", "--points: the file is all there is"},
        {fit + " --weights w.csv", "belongs to --points"},
        {"ot fit --run " + run_named("run"), "--out"},
        {draw + " --level 1000", "outside the schedule"},
        {draw + " --finish heun --calls 4", "exactly 4 times"},
        {draw + " --finish fon", "cannot go on from the level"},
        {draw + " --finish unipv", "did you mean 'unipc'"},
        {"ot sample --out a.png --run " + run_named("run"), "--map"},
        {"sample --sampler dpm-ot --out a.png --run " + run_named("run"), "needs a map"},
        {"sample --sampler copy --map " + shared_map() + " --out a.png --run " + run_named("run"), "calls no network"},
        {"sample --map " + shared_map() + " --out a.png --run " + run_named("run"), "only dpm-ot takes a map"},
        {"sample --sampler dpm-ot:x --map " + shared_map() + " --out a.png --run " + run_named("run"), "not a level"},
        {"sample --sampler dpm-ot:1:ddim:2 --map " + shared_map() + " --out a.png --run " + run_named("run"),
         "the form"},
        {"compare --samplers dpm-ot --run " + run_named("run"), "needs a map"},
        {"ot demo --targets 0", "--targets"},
        {"ot", "subcommand"}}) {
    INFO(wrong.line);
    CHECK_EXIT(mote_in(folder, wrong.line), 2, wrong.words);
  }
  CHECK_EXIT(mote_in(folder, "ot sample --out a.png --map none.safetensors --run " + run_named("run")), 3,
             "none.safetensors");
  CHECK_EXIT(mote_in(folder, fit + " --data idx:nowhere"), 3, "nowhere");
}

TEST_CASE("ot sample and sample --sampler dpm-ot draw the same images, whatever the batch", "[cli][ot]") {
  test::ScratchFolder folder;
  std::string common = " --run " + run_named("run") + " --map " + shared_map() + " --count 5 --seed 4 ";
  Json drawn = done(mote_in(folder, "ot sample" + common + "--calls 3 --npy a.npy --out a.png --dir d --json")).json();
  done(mote_in(folder, "sample --sampler dpm-ot --steps 3" + common + "--npy b.npy --batch 2"));
  done(mote_in(folder, "sample --sampler dpm-ot:400:ddim@" + shared_map() + " --steps 3 --run " + run_named("run") +
                           " --count 5 --seed 4 --npy c.npy --batch 1"));
  Tensor a = io::load_npy(folder.path("a.npy"));
  CHECK(a.shape() == Shape{5, 8, 8, 3});
  CHECK_SAME(io::load_npy(folder.path("b.npy")), a);
  CHECK_SAME(io::load_npy(folder.path("c.npy")), a);
  CHECK(drawn["network_calls"] == 3);
  CHECK(drawn["timesteps"][0] == 400);
  CHECK(drawn["honesty"]["level"] == 400);
  CHECK(drawn["honesty"]["nearest_target"]["median"] > 0);
  CHECK(drawn["honesty"]["nearest_training"]["median"] <=
        drawn["honesty"]["nearest_target"]["median"]);  // more of them
  CHECK(drawn["honesty"]["targets_hit"] <= 5);
  CHECK(drawn["map"]["chi2"].is_number());
  CHECK(Json::parse(read_text(folder.path("a.png.json")))["map"]["map_hash"] == drawn["map"]["map_hash"]);
  CHECK(fs::exists(folder.path("d/000004.png")));
  CHECK(fs::exists(folder.path("d/samples.json")));
  Json sidecar = Json::parse(read_text(folder.path("b.npy.json")));
  CHECK(sidecar["dpm_ot"]["map_hash"] == drawn["map"]["map_hash"]);
  CHECK(sidecar["start"] == 400);
  Json dry = done(mote_in(folder, "sample --sampler dpm-ot:300:f-pndm --steps 20 --dry-run --json" + common)).json();
  CHECK(dry["network_calls"] == 20);
  CHECK(dry["plan"][0]["t"] == 300);

  // Stored latents belong to one level, fresh ones to all.
  done(mote_in(
      folder,
      "ot fit --run " + run_named("run") +
          " --targets 20 --level 200 --latents stored --chi2 0.2 --max-samples 10000 --out s.safetensors --quiet"));
  done(mote_in(folder, "ot sample --map s.safetensors --calls 2 --count 2 --out s.png --run " + run_named("run")));
  CHECK_EXIT(
      mote_in(folder, "ot sample --map s.safetensors --level 300 --count 2 --out s.png --run " + run_named("run")), 2,
      "stored states of level 200");
  done(mote_in(folder, "ot sample --level 37 --calls 2 --out s.png" + common));
}

TEST_CASE("ot eval tabulates levels and calls beside the copies and the floor", "[cli][ot]") {
  test::ScratchFolder folder;
  std::string line =
      "ot eval --run " + run_named("run") + " --map " + shared_map() + " --levels 5,400 --calls 2,3 --count 20 --quiet";
  Json json = done(mote_in(folder, line + " --json")).json();
  REQUIRE(json["rows"].size() == 6);
  CHECK(json["rows"][0]["what"] == "dpm-ot:5:ddim");
  CHECK(json["rows"][3]["network_calls"] == 3);
  CHECK(json["rows"][3]["sigma"].get<double>() > json["rows"][0]["sigma"].get<double>());
  // Near the data a network that has learnt nothing cannot do much harm: images are near copies.
  CHECK(json["rows"][0]["nearest_target"]["median"] < json["rows"][2]["nearest_target"]["median"]);
  CHECK(json["rows"][4]["what"] == "copy");
  CHECK(json["rows"][4]["network_calls"] == 0);
  CHECK(json["rows"][4]["nearest_target"]["median"] == 0);
  CHECK(json["rows"][4]["nearest_training"]["copies"] == 20);  // the targets are training images
  CHECK(json["rows"][4]["targets_hit"] == json["rows"][0]["targets_hit"]);
  CHECK(json["rows"][5]["what"] == "floor (test images)");
  CHECK(json["map"]["solve_seconds"].is_number());
  Result text = done(mote_in(folder, line));
  for (const char* part : {"dpm-ot:400:ddim", "copy", "floor", "chi2", "flops", "sigma_M"})
    CHECK(contains(text.out, part));
}

TEST_CASE("compare takes dpm-ot at several levels and the copies, and goes on after a stop", "[cli][ot][compare]") {
  test::ScratchFolder folder;
  std::string line = "compare --run " + run_named("run") + " --classifier " + run_named("net.safetensors") +
                     " --subsets 5 --count 30 --steps 2,4 "
                     "--samplers ddim,dpm-ot,dpm-ot:30:dpmpp-2m,dpm-ot:400:heun,copy --map " +
                     shared_map() + " --metric kid,mix0.2,near,near_target,hit --out out --quiet";
  Json json = done(mote_in(folder, line + " --json")).json();
  REQUIRE(json["cells"].size() == 9);
  auto cell = [&](const std::string& sampler, int64_t steps) {
    for (const Json& each : json["cells"])
      if (each["sampler"] == sampler && each["steps"] == steps) return each;
    return Json();
  };
  for (const char* sampler : {"dpm-ot:400:ddim", "dpm-ot:30:dpmpp-2m"})
    for (int64_t steps : {2, 4}) {
      Json each = cell(sampler, steps);
      INFO(sampler << " " << steps);
      REQUIRE(each["state"] == "done");
      CHECK(each["network_calls"] == steps);
      for (const char* key : {"kid", "mix0.2", "mix0.1", "near", "near_target", "hit"})
        CHECK(each["values"][key].is_number());
      CHECK(each["values"]["near_target"] > 0);
    }
  CHECK(cell("dpm-ot:400:heun", 2)["state"] == "refused");  // heun makes odd numbers of calls
  Json copy = cell("copy", 0);
  CHECK(copy["network_calls"] == 0);
  CHECK(copy["values"]["near_target"] == 0);
  CHECK(copy["values"]["near"] == 0);
  CHECK(copy["values"]["hit"] == cell("dpm-ot:400:ddim", 2)["values"]["hit"]);
  CHECK(!cell("ddim", 2)["values"].contains("hit"));
  CHECK(cell("ddim", 2)["values"]["near"] > 0);
  CHECK(json["floor"]["values"]["near"] > 0);
  CHECK(json["maps"]["copy"]["targets"] == 60);
  CHECK(contains(read_text(folder.path("out/compare.html")), "dpm-ot:400:ddim"));

  // A rerun draws nothing; another map under the same name is another cell.
  auto written = fs::last_write_time(folder.path("out/cells/dpm-ot:400:ddim-2-seed0.json"));
  Result again = done(mote_in(folder, line));
  CHECK(fs::last_write_time(folder.path("out/cells/dpm-ot:400:ddim-2-seed0.json")) == written);
  CHECK(contains(again.out, "nearest-training@30"));
  CHECK(contains(again.out, "mixed(0.2)@30"));
  done(mote_in(folder, "ot fit --seed 9 --run " + run_named("run") +
                           " --targets 60 --level 400 --chi2 0.1 --quiet --out second.safetensors"));
  size_t at = line.find(shared_map());
  std::string second = line;
  second.replace(at, shared_map().size(), "second.safetensors");
  CHECK_EXIT(mote_in(folder, second), 2, "map: stored ");
}

TEST_CASE("compare by network calls gives every sampler the steps that make them", "[cli][compare]") {
  test::ScratchFolder folder;
  Json json = done(mote_in(folder, "compare --run " + run_named("run") +
                                       " --samplers ddim,s-pndm,f-pndm,heun,dpm-ot --calls "
                                       "5,20 --dry-run --json --count 100 --map " +
                                       shared_map()))
                  .json();
  REQUIRE(json["cells"].size() == 10);
  for (const Json& cell : json["cells"]) {
    std::string sampler = cell["sampler"];
    INFO(sampler << " " << cell["steps"]);
    if (cell["state"] == "refused") {
      CHECK(((sampler == "f-pndm" && cell["steps"] == 5) || (sampler == "heun" && cell["steps"] == 20)));
      continue;
    }
    int64_t calls = cell["network_calls"], steps = cell["steps"];
    CHECK((calls == 5 || calls == 20));
    CHECK(steps == (sampler == "s-pndm" ? calls - 1 : sampler == "f-pndm" ? calls - 9 : sampler == "heun" ? 3 : calls));
  }
  CHECK_EXIT(mote_in(folder, "compare --run " + run_named("run") + " --calls 5,0"), 2, "--calls: must be 1 or more");
}

TEST_CASE("the demo draws its pictures and counts fewer points between modes for DPM-OT", "[cli][ot]") {
  test::ScratchFolder folder;
  Json json =
      done(mote_in(folder,
                   "ot demo --out demo --targets 64 --samples 200 --chi2 0.5 --max-samples 50 --seed 2 --quiet --json"))
          .json();
  REQUIRE(json["toys"].size() == 3);
  for (const Json& toy : json["toys"]) {
    INFO(toy["name"]);
    CHECK(toy["pictures"].size() == 5);
    for (const Json& picture : toy["pictures"]) {
      Tensor pixels = io::load_image(folder.path("demo/" + picture["file"].get<std::string>()));
      std::vector<double> values = pixels.to_vector();
      CHECK(std::set<double>(values.begin(), values.end()).size() > 2);  // something is drawn
    }
    int64_t ddim = 0, dpm_ot = 0;
    for (const Json& run : toy["runs"]) {
      if (run["network_calls"] == 5 && run["sampler"] == "ddim") ddim = run["mixed"];
      if (run["network_calls"] == 5 && run["sampler"] == "dpm-ot:ddim" && run["u"] < 0.1) dpm_ot = run["mixed"];
    }
    CHECK(ddim > 20);
    CHECK(dpm_ot <= 4);
  }
  CHECK(contains(read_text(folder.path("demo/index.html")), "data:image/png;base64,"));
}

TEST_CASE("eval mix prints the curve of mode mixture with that of real images", "[cli][scores]") {
  test::ScratchFolder folder;
  Json json =
      done(mote_in(folder, "eval mix synthetic:blobs synthetic:blobs --size 8 --limit 200 --count 100 --classifier " +
                               run_named("net.safetensors") + " --quiet --json"))
          .json();
  double before = 1;
  for (const char* key : {"mix0.1", "mix0.11", "mix0.115", "mix0.13", "mix0.16", "mix0.2", "mix0.3", "mix0.4"}) {
    double share = json["values"][key];
    CHECK(share <= before);
    before = share;
    CHECK(json["floor"]["values"][key].is_number());
  }
}
