// `mote eval seg`, and `mote data` on images with masks, as a user meets them.
#include "tensor/io/image.h"
#include "tensor/io/npy.h"
#include "tests/run_mote.h"

using namespace mote;
using namespace mote::test;
namespace fs = std::filesystem;

namespace {

Tensor box(int64_t top, int64_t bottom, int64_t left, int64_t right, double value = 255) {
  Tensor mask = zeros({8, 8, 1}, DType::u8);
  for (int64_t y = top; y <= bottom; ++y)
    for (int64_t x = left; x <= right; ++x) mask.data<uint8_t>()[y * 8 + x] = uint8_t(value);
  return mask;
}

void save(const std::string& path, const Tensor& picture) {
  fs::create_directories(fs::path(path).parent_path());
  io::save_png(path, picture);
}

/// truth/a and truth/b, and pred/ with a shifted by one column (IoU 1/2) and an empty b (IoU 0).
void write_two(const ScratchFolder& folder) {
  save(folder.path("truth/a.png"), box(2, 4, 3, 5));
  save(folder.path("truth/b.png"), box(0, 3, 0, 3));
  save(folder.path("pred/a.png"), box(2, 4, 4, 6));
  save(folder.path("pred/b.png"), box(0, -1, 0, 0));
}

/// A bright square on dark ground and its mask, twelve times; of every fourth the mask is empty.
void write_set(const ScratchFolder& folder) {
  std::string train, test;
  for (int n = 0; n < 12; ++n) {
    std::string name = "p" + std::to_string(10 + n);
    save(folder.path("set/images/" + name + ".png"), box(n % 4, n % 4 + 2, 2, 4, 200));
    save(folder.path("set/masks/" + name + ".png"), n % 4 == 3 ? box(0, -1, 0, 0) : box(n % 4, n % 4 + 2, 2, 4));
    (n < 4 ? test : train) += name + ".png\n";
  }
  write_text(folder.path("set/train.txt"), train);
  write_text(folder.path("set/test.txt"), test);
}

}  // namespace

TEST_CASE("mote eval seg scores a folder of masks", "[segmetrics][cli]") {
  ScratchFolder folder;
  write_two(folder);
  Args args = words("eval seg --pred pred --truth truth --csv scores.csv");
  auto json = done(mote_in(folder, args + Args{"--json"})).json();
  CHECK(json["images"] == 2);
  CHECK(json["iou"]["mean"] == Approx(0.25));
  CHECK(json["dice"]["mean"] == Approx(1.0 / 3));
  CHECK(json["iou"]["low"] == 0);   // both drawn images can be the empty one
  CHECK(json["iou"]["high"] == 0.5);
  CHECK(json["pooled"]["tp"] == 6);
  CHECK(json["pooled"]["fp"] == 3);
  CHECK(json["pooled"]["fn"] == 19);
  CHECK(json["pooled"]["iou"] == Approx(6.0 / 28));
  CHECK(json["hd95"]["images_left_out"] == 1);
  CHECK(json["hd95"]["mean"] == 1);
  CHECK(json["threshold"] == 0.5);
  CHECK(contains(read_text(folder.path("scores.csv")), "\na,6,3,3,52,0.5,0.666666"));
  Result text = done(mote_in(folder, args));
  CHECK(contains(text.out, "IoU  0.2500 [0.0000, 0.5000]"));
  CHECK(contains(text.out, "2 images"));

  // The same masks against each other, and a map that needs another threshold.
  auto against = done(mote_in(folder, words("eval seg --pred truth --truth truth --against pred --json"))).json();
  CHECK(against["iou"]["mean"] == 1);
  CHECK(against["calibration"]["ece"] == 0);
  CHECK(against["against"]["iou"]["mean"] == Approx(0.75));
  CHECK(against["against"]["iou"]["low"] == Approx(0.5));
  for (const char* name : {"a", "b"}) {
    Tensor mask = io::load_image(folder.path(std::string("truth/") + name + ".png")), map = empty({8, 8});
    for (int64_t i = 0; i < 64; ++i) map.data<float>()[i] = mask.data<uint8_t>()[i] ? 0.4f : 0.1f;
    fs::create_directories(folder.path("maps"));
    io::save_npy(folder.path(std::string("maps/") + name + ".npy"), map);
  }
  save(folder.path("maps/other.png"), box(0, 0, 0, 0));
  CHECK(done(mote_in(folder, words("eval seg --pred maps --truth truth --json"))).json()["iou"]["mean"] == 0);
  auto tuned = done(mote_in(folder, words("eval seg --pred maps --truth truth --threshold 0.3 --json"))).json();
  CHECK(tuned["iou"]["mean"] == 1);
  CHECK(tuned["predictions_left_over"] == 1);
  CHECK(tuned["calibration"]["brier"].get<double>() == Approx((25 * 0.36 + 103 * 0.01) / 128).epsilon(1e-5));
}

TEST_CASE("mote eval seg scores class numbers with an ignored value", "[segmetrics][cli]") {
  ScratchFolder folder;
  Tensor truth = box(0, 3, 0, 7, 1), predicted = box(0, 3, 0, 7, 1);
  for (int64_t i = 0; i < 8; ++i) {
    truth.data<uint8_t>()[56 + i] = 9;         // ignored
    truth.data<uint8_t>()[48 + i] = 2;
    predicted.data<uint8_t>()[56 + i] = 1;     // wrong, but not seen
    predicted.data<uint8_t>()[48 + i] = i < 4 ? 2 : 0;
  }
  save(folder.path("truth/a.png"), truth);
  save(folder.path("pred/a.png"), predicted);
  auto json = done(mote_in(folder, words("eval seg --pred pred --truth truth --classes 3 --ignore 9 --json"))).json();
  CHECK(json["pooled"]["iou"][0] == Approx(16.0 / 20));
  CHECK(json["pooled"]["iou"][1] == 1);
  CHECK(json["pooled"]["iou"][2] == 0.5);
  CHECK(json["pooled"]["mean_iou"] == Approx((0.8 + 1 + 0.5) / 3));
  CHECK(json["pooled"]["accuracy"] == Approx(52.0 / 56));
  CHECK_EXIT(mote_in(folder, words("eval seg --pred pred --truth truth --classes 3")), 3, "row 7, column 0 is 9");
  CHECK_EXIT(mote_in(folder, words("eval seg --pred pred --truth truth --classes 3 --ignore 9 --csv x.csv")), 2,
             "for two classes");
}

TEST_CASE("mote eval seg tells what is wrong with its input", "[segmetrics][cli]") {
  ScratchFolder folder;
  write_two(folder);
  auto run = [&](const std::string& text) { return mote_in(folder, words("eval seg " + text)); };
  CHECK_EXIT(run("--truth truth"), 2, "--pred DIR");
  CHECK_EXIT(run("--pred pred"), 2, "--truth DIR");
  CHECK_EXIT(run("--pred pred --truth truth --data pairs:x"), 2, "needed once");
  CHECK_EXIT(run("--otsu --truth truth"), 2, "--data pairs:DIR");
  CHECK_EXIT(run("--pred pred --truth truth --threshold 1"), 2, "--threshold is 1");
  CHECK_EXIT(run("--pred pred --truth truth --classes 1"), 2, "--classes is 1");
  CHECK_EXIT(run("--pred nowhere --truth truth"), 3, "nowhere");
  save(folder.path("truth/c.png"), box(0, 0, 0, 0));
  CHECK_EXIT(run("--pred pred --truth truth"), 3, "no prediction for c");
  save(folder.path("pred/c.png"), zeros({4, 8, 1}, DType::u8));
  CHECK_EXIT(run("--pred pred --truth truth"), 3, "pred/c.png: is [4, 8], the truth is [8, 8]");
  save(folder.path("pred/c.png"), zeros({8, 8, 3}, DType::u8));
  CHECK_EXIT(run("--pred pred --truth truth"), 3, "in colour");
  fs::remove(folder.path("pred/c.png"));
  io::save_npy(folder.path("pred/c.npy"), full({8, 8}, 1.5));
  CHECK_EXIT(run("--pred pred --truth truth"), 3, "row 0, column 0 is 1.5");
  io::save_npy(folder.path("pred/c.npy"), full({8, 8}, 1, DType::i32));
  CHECK_EXIT(run("--pred pred --truth truth"), 3, "f32 or f64 [H, W]");
}

TEST_CASE("mote eval seg --otsu is the floor of a set, with and without empty truths", "[segmetrics][cli]") {
  ScratchFolder folder;
  write_set(folder);
  auto all = done(mote_in(folder, words("eval seg --otsu --data pairs:set --split test --json"))).json();
  CHECK(all["images"] == 4);
  CHECK(all["iou"]["mean"] == 0.75);   // the square is found in all four, and one truth is empty
  auto some = done(mote_in(folder, words("eval seg --otsu --data pairs:set --skip-empty --json"))).json();
  CHECK(some["images"] == 3);
  CHECK(some["empty_left_out"] == 1);
  CHECK(some["iou"]["mean"] == 1);
  CHECK(some["truth_hash"] == all["truth_hash"]);
}

TEST_CASE("mote data describes, checks and draws images with masks", "[pairs][cli]") {
  ScratchFolder folder;
  write_set(folder);
  auto info = done(mote_in(folder, words("data info --data pairs:set --split test --json"))).json();
  CHECK(info["count"] == 4);
  CHECK(info["classes"] == 2);
  CHECK(info["class_shares"][1] == Approx(27.0 / 256));
  CHECK(info["ignored_share"] == 0);
  CHECK(contains(done(mote_in(folder, words("data info --data pairs:set"))).out, "7 images of 8 x 8 x 1 with masks"));
  auto check = done(mote_in(folder, words("data check --data pairs:set --json"))).json();
  CHECK(check["count"] == nlohmann::json{{"train", 7}, {"val", 1}, {"test", 4}});
  Args draw = words("data grid --data pairs:set --split test --columns 2 --out g.png --json");
  auto grid = done(mote_in(folder, draw)).json();
  CHECK(grid["width"] == 4 * 8 + 3 * 2);
  CHECK(grid["height"] == 2 * 8 + 2);
  Tensor picture = io::load_image(folder.path("g.png"));
  CHECK(picture.data<uint8_t>()[3 * (2 + 0 * 38)] == 200);        // the image's square
  CHECK(picture.data<uint8_t>()[3 * (2 + 10 + 0 * 38)] == 255);   // and its mask beside it
  CHECK(picture.data<uint8_t>()[3 * (10 + 0 * 38)] == 0);
  auto one = done(mote_in(folder, words("data grid --data pairs:set --shuffle --seed 1 --out h.png --json"))).json();
  CHECK(one["data_hash"] != grid["data_hash"]);
  CHECK(done(mote_in(folder, words("data info --data synthetic:discs28 --limit 5 --json"))).json()["count"] == 5);

  fs::remove(folder.path("set/masks/p11.png"));
  CHECK_EXIT(mote_in(folder, words("data check --data pairs:set")), 3, "1 problem");
  CHECK_EXIT(mote_in(folder, words("data info --data pairs:set --split test")), 3, "there is no mask p11");
  CHECK_EXIT(mote_in(folder, words("data info --data synthetic:blobs --ignore 3")), 2, "for images with masks");
  CHECK_EXIT(mote_in(folder, words("data info --data pairs:set --split dev")), 2, "train, val and test");
}
