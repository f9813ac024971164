// `mote segment` as a user meets it, on ten discs of 28 x 28 and networks of a few thousand parameters.
#include <cmath>

#include "tensor/io/image.h"
#include "tensor/io/npy.h"
#include "tests/run_mote.h"

using namespace mote;
using namespace mote::test;
namespace fs = std::filesystem;

namespace {

const std::vector<const char*> kKeys = {"step", "images", "random_offset", "best_score", "best_step", "temperature",
                                        "prior_hash", "data_hash"};

Args discs() { return words("--data synthetic:discs28 --limit 10 --quiet --threads 1"); }
Args e2e_args() { return words("segment train-e2e --lr-schedule constant --batch 5 --log-every 1") + discs(); }
Args ddpm_args() {
  return words("segment train-ddpm --net tiny --schedule scaled --T 25 --batch 4 --log-every 1 --warmup 2 "
               "--sample-count 2 --sample-steps 2") + discs();
}

/// One end-to-end run and one residual DDPM that the tests share.
struct Trained {
  ScratchFolder folder;
  nlohmann::json e2e, ddpm;
  Trained() {
    e2e = done(mote_in(folder, e2e_args() + words("--epochs 2 --out e2e --json"))).json();
    ddpm = done(mote_in(folder, ddpm_args() + words("--e2e e2e --steps 6 --out res --json"))).json();
  }
  Result run(const std::string& text) const { return mote_in(folder, words(text)); }
};
const Trained& trained() {
  static Trained once;
  return once;
}

}  // namespace

TEST_CASE("mote segment theory prints the tables of the exact problem", "[segment][cli]") {
  ScratchFolder folder;
  nlohmann::json table = done(mote_in(folder, words("segment theory --json"))).json();
  CHECK(table["samplers"].size() == 6);
  CHECK(table["samplers"][4]["gain"].get<double>() == Approx(0.548667588836).margin(1e-11));
  CHECK(table["samplers"][0]["mse"][2].get<double>() == Approx(0.3823209730).margin(1e-9));
  CHECK(table["error_gain"][2]["white"].get<double>() == Approx(0.0697).margin(5e-5));
  Result text = done(mote_in(folder, words("segment theory")));
  CHECK(contains(text.out, "0.999941885083 1.428542204459 0.7171355521 0.4492838888 0.3823209730"));
  CHECK(contains(text.out, "0.999985470638 0.355235868990"));
}

TEST_CASE("a training of mote segment leaves a whole run folder", "[segment][cli]") {
  const Trained& t = trained();
  CHECK(t.e2e["step"] == 4);   // 10 images in batches of 5 are 2 steps an epoch
  CHECK(t.e2e["parameters"] == 118625);
  CHECK(t.e2e["score"].get<double>() >= 0);
  CHECK(t.e2e["temperature"].get<double>() > 0);
  CHECK(t.ddpm["step"] == 6);
  for (const char* run : {"e2e", "res"})
    for (const char* file : {"config.toml", "checkpoint.safetensors", "log.jsonl", "report.html"})
      CHECK(fs::exists(t.folder.path(std::string(run) + "/" + file)));
  CHECK(io::load_image(t.folder.path("res/samples/step_000006.png")).shape() == Shape{2 * 28 + 2, 6 * 28 + 5 * 2, 3});
  CHECK(contains(read_text(t.folder.path("res/report.html")), "data:image/png;base64"));
  CHECK(contains(read_text(t.folder.path("res/log.jsonl")), "\"score_of_f\""));
  done(t.run("report res"));
}

TEST_CASE("a resumed training of mote segment is the uninterrupted one", "[segment][cli]") {
  const Trained& t = trained();
  const ScratchFolder& folder = t.folder;
  done(mote_in(folder, e2e_args() + words("--epochs 1 --out e2e-cut")));
  done(t.run("segment train-e2e --out e2e-cut --resume --epochs 2 --quiet --threads 1"));
  CHECK(checkpoint_difference(folder.path("e2e-cut/checkpoint.safetensors"), folder.path("e2e/checkpoint.safetensors"),
                              kKeys) == "");
  done(mote_in(folder, ddpm_args() + words("--e2e e2e --steps 3 --out res-cut")));
  done(t.run("segment train-ddpm --out res-cut --resume --steps 6 --quiet --threads 1"));
  CHECK(checkpoint_difference(folder.path("res-cut/checkpoint.safetensors"), folder.path("res/checkpoint.safetensors"),
                              kKeys) == "");
  CHECK_EXIT(t.run("segment train-ddpm --out res-cut --resume --target plain"), 2, "--target is residual in this run");
  CHECK_EXIT(t.run("segment train-ddpm --out e2e-cut --resume"), 4, "is a run of mote segment train-e2e");
  CHECK_EXIT(t.run("segment train-ddpm --out res-cut --resume --e2e e2e-cut --f x"), 2, "give one of them");
  CHECK_EXIT(mote_in(folder, e2e_args() + words("--epochs 1 --out e2e")), 2, "is not empty");
}

TEST_CASE("cross-fitted predictions are made, used, and refused for other data", "[segment][cli]") {
  const Trained& t = trained();
  const ScratchFolder& folder = t.folder;
  Args cache =
      words("segment cache-f --lr-schedule constant --batch 5 --epochs 1 --folds 2 --out folds --json") + discs();
  nlohmann::json made = done(mote_in(folder, cache)).json();
  CHECK(made["mean_residual"]["train"].get<double>() > 0);
  io::Safetensors file = io::load_safetensors(folder.path("folds/f.safetensors"));
  CHECK(file.tensors.at("train").shape() == Shape{10, 28, 28, 1});
  CHECK(file.tensors.at("val").shape() == Shape{10, 28, 28, 1});
  CHECK(file.tensors.at("test").shape() == Shape{10, 28, 28, 1});
  CHECK(done(mote_in(folder, cache)).json()["mean_residual"] ==
        made["mean_residual"]);   // folds that are there are kept
  done(mote_in(folder, ddpm_args() + words("--f folds/f.safetensors --see-f --steps 2 --out res-f")));
  Args other =
      words("segment train-ddpm --net tiny --schedule scaled --T 25 --data synthetic:discs28 --limit 16 --out no");
  CHECK_EXIT(mote_in(folder, other + words("--f folds/f.safetensors")), 3, "belong to other data");
  CHECK_EXIT(mote_in(folder, other + words("--f e2e/checkpoint.safetensors")), 4, "no file of mote segment cache-f");
  CHECK_EXIT(mote_in(folder, other + words("--f nowhere.safetensors")), 4, "there is no file of predictions at");
  CHECK_EXIT(mote_in(folder, words("segment cache-f --out folds") + discs()), 2, "give --folds K");
}

TEST_CASE("mote segment predict writes masks, probabilities and maps", "[segment][cli]") {
  const Trained& t = trained();
  const ScratchFolder& folder = t.folder;
  nlohmann::json made = done(t.run("segment predict --run res --e2e e2e --samples 3 --sampling-steps 3 --limit 2 --out "
                                   "masks --quiet --json"))
                            .json();
  CHECK(made["images"] == 2);
  CHECK(made["files"].size() == 2 * 9);
  for (const char* map : {"probability", "variance", "residual", "estimate"})
    CHECK(io::load_npy(folder.path(std::string("masks/test_0_") + map + ".npy")).shape() == Shape{28, 28, 1});
  Tensor mask = io::load_image(folder.path("masks/test_1_mask.png")),
         y = io::load_npy(folder.path("masks/test_1_estimate.npy"));
  for (int64_t i = 0; i < 28 * 28; ++i) REQUIRE((mask.data<uint8_t>()[i] == 255) == (y.data<float>()[i] > 0));
  // the same again, and with another batch; another seed gives other samples
  std::string again =
      "segment predict --run res --e2e e2e --samples 3 --sampling-steps 3 --limit 2 --quiet --sampler ddpm ";
  done(t.run(again + "--out a"));
  done(t.run(again + "--batch 2 --out b"));
  done(t.run(again + "--seed 1 --out c"));
  CHECK(read_text(folder.path("a/test_0_estimate.npy")) == read_text(folder.path("b/test_0_estimate.npy")));
  CHECK(read_text(folder.path("a/test_0_estimate.npy")) != read_text(folder.path("c/test_0_estimate.npy")));
  // pictures of another size, with one's own probabilities for f
  fs::create_directories(folder.path("photos"));
  fs::create_directories(folder.path("maps"));
  Tensor photo = empty({40, 60, 3}, DType::u8);
  for (int64_t i = 0; i < photo.numel(); ++i) photo.data<uint8_t>()[i] = uint8_t(i % 251);
  io::save_png(folder.path("photos/one.png"), photo);
  io::save_npy(folder.path("maps/one.npy"), full({28, 28}, 0.25));
  done(
      t.run("segment predict --run res --f-dir maps --images photos --samples 1 --sampling-steps 2 --out own --quiet"));
  CHECK(io::load_image(folder.path("own/one_mask.png")).shape() == Shape{40, 60, 1});
  CHECK(io::load_image(folder.path("own/one_overlay.png")).shape() == Shape{40, 60, 3});
  done(t.run("segment predict --e2e e2e --images photos/one.png --tta --out alone --quiet"));
  CHECK(fs::exists(folder.path("alone/one_probability.npy")));
  io::save_npy(folder.path("maps/one.npy"), full({28, 28}, 1.25));
  CHECK_EXIT(t.run("segment predict --run res --f-dir maps --images photos --out own"), 3,
             "a probability lies in [0, 1]");
  io::save_npy(folder.path("maps/one.npy"), full({14, 28}, 0.5));
  CHECK_EXIT(t.run("segment predict --run res --f-dir maps --images photos --out own"), 3,
             "its image needs [28, 28, 1]");
  fs::remove(folder.path("maps/one.npy"));
  CHECK_EXIT(t.run("segment predict --run res --f-dir maps --images photos --out own"), 3,
             "no probability map for image 'one'");
  CHECK_EXIT(t.run("segment predict --run res --images photos --out own"), 2, "needs a prior");
  CHECK_EXIT(t.run("segment predict --run e2e --e2e e2e --out own"), 4, "is of kind e2e");
  CHECK_EXIT(t.run("segment predict --run res --e2e e2e --images nowhere --out own"), 3, "there is nothing at nowhere");
}

TEST_CASE("mote segment eval puts all methods beside each other", "[segment][cli]") {
  const Trained& t = trained();
  const ScratchFolder& folder = t.folder;
  done(mote_in(folder, ddpm_args() + words("--target plain --steps 2 --out plain")));
  done(mote_in(folder, ddpm_args() + words("--target resfusion --e2e e2e --steps 2 --out resfusion")));
  nlohmann::json found =
      done(t.run("segment eval --e2e e2e --ensemble e2e,e2e --run plain=plain --run res=res --run "
                 "resfusion=resfusion --samples 1,2 --sampling-steps 2 --limit 6 --val-limit 4 --out eval "
                 "--quiet --json"))
          .json();
  std::map<std::string, int> families;
  for (const auto& row : found["rows"]) {
    ++families[row["family"].get<std::string>()];
    CHECK(row["iou"].get<double>() >= 0);
    CHECK(row["dice"].get<double>() <= 1);
    if (row["family"] != "otsu") CHECK(row["tuned_dice"].is_number());
    if (row["samples"] == 1) CHECK(row["sample_variance"] == 0);
    if (row["samples"] == 2) CHECK(row["sample_variance"].get<double>() > 0);
    if (row["family"] == "weighted") CHECK(row["weight"].get<double>() >= 0);
  }
  CHECK(families == std::map<std::string, int>{{"otsu", 1}, {"e2e", 1}, {"tta", 1}, {"ensemble", 1}, {"plain", 2},
                                               {"naive", 2}, {"residual", 2}, {"weighted", 2}, {"resfusion", 2}});
  // the ensemble of one model with itself is that model
  CHECK(found["rows"][1]["iou"] == found["rows"][3]["iou"]);
  CHECK(found["rows"][1]["brier"].get<double>() == Approx(found["rows"][3]["brier"].get<double>()).margin(1e-6));
  CHECK(found["comparisons"].size() == 4 * 5);   // residual and weighted, twice, against 3 + plain + naive
  CHECK(found["images"] == 6);
  CHECK(fs::exists(folder.path("eval/eval.json")));
  CHECK(contains(read_text(folder.path("eval/report.html")), "data:image/png;base64"));
  CHECK_EXIT(t.run("segment eval --e2e e2e --run res=res --run res=plain"), 2, "'res' is given twice");
  CHECK_EXIT(t.run("segment eval --run res=res"), 2, "needs a prior");
  CHECK_EXIT(t.run("segment eval"), 2, "give --e2e RUN");
  CHECK_EXIT(t.run("segment eval --e2e e2e --samples 0"), 2, "numbers of 1 or more");
  CHECK_EXIT(t.run("segment eval --e2e e2e --run res=res --sampler fast"), 2, "sampler 'fast' is unknown");
}

TEST_CASE("bad input of mote segment is told before any training", "[segment][cli]") {
  const Trained& t = trained();
  const ScratchFolder& folder = t.folder;
  auto ddpm = [&](const std::string& more) {
    return mote_in(folder, words("segment train-ddpm --out no --net tiny --quiet " + more));
  };
  std::string data = "--data synthetic:discs28 --limit 10 ";
  CHECK_EXIT(ddpm(data + "--e2e e2e --schedule scaled --T 24"), 2, "T = 24 steps, needs 25 or more");
  CHECK_EXIT(ddpm(data + "--e2e e2e --schedule linear"), 2, "choose paper, scaled or cosine");
  CHECK_EXIT(ddpm(data + "--e2e e2e --target residua"), 2, "target 'residua' is unknown");
  CHECK_EXIT(ddpm(data + ""), 2, "needs a prior");
  CHECK_EXIT(ddpm(data + "--target plain --see-f"), 2, "needs a prior");
  CHECK_EXIT(ddpm(data + "--e2e res"), 4, "is of kind ddpm, needed is e2e");
  CHECK_EXIT(ddpm(data + "--e2e nowhere"), 4, "there is no run or checkpoint at nowhere");
  CHECK_EXIT(ddpm("--data fashion-mnist --e2e e2e"), 2, "has no masks");
  CHECK_EXIT(ddpm(data + "--e2e e2e --coding hot"), 2, "choose binary, one-hot or bits");
  CHECK_EXIT(ddpm(data + "--e2e e2e --condition both"), 2, "must be concat or sum");
  CHECK_EXIT(ddpm(data + "--e2e e2e --target-scale 0"), 2, "--target-scale");
  CHECK_EXIT(mote_in(folder, words("segment train-e2e --net e-29 --out no") + discs()), 2, "there are e-28, e-64");
  CHECK_EXIT(mote_in(folder, words("segment train-e2e --folds 3 --fold 3 --out no") + discs()), 2, "--fold");
  CHECK_EXIT(mote_in(folder, words("segment train-e2e --data pairs:nowhere --out no")), 3, "nowhere");
  // a model of another size
  for (int n = 0; n < 4; ++n) {
    std::string name = std::to_string(n) + ".png";
    fs::create_directories(folder.path("set/images"));
    fs::create_directories(folder.path("set/masks"));
    Tensor mask = zeros({16, 16, 1}, DType::u8);
    for (int64_t i = 0; i < 100; ++i) mask.data<uint8_t>()[i] = 255;
    io::save_png(folder.path("set/images/" + name), mask);
    io::save_png(folder.path("set/masks/" + name), mask);
  }
  CHECK_EXIT(ddpm("--data pairs:set --e2e e2e --schedule scaled --T 25"), 4,
             "is for images of 28 x 28 x 1 and 2 classes; these are 16 x 16 x 1");
  CHECK_FALSE(fs::exists(folder.path("no")));
}
