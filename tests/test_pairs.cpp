// Images with masks: folders as users have them and as they are broken, the synthetic sets, batches and moves.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <set>

#include "apps/pairs.h"
#include "apps/seg_batch.h"
#include "diffusion/metrics/segmentation.h"
#include "tensor/io/image.h"
#include "tensor/random.h"
#include "tests/io_support.h"

using namespace mote;
using namespace mote::apps;
using namespace mote::test;
namespace fs = std::filesystem;

namespace {

void write_text(const std::string& path, const std::string& text) { write_bytes(path, bytes_of(text)); }

Tensor grey(const std::vector<double>& values, int64_t H, int64_t W) { return from(values, {H, W, 1}, DType::u8); }

void save(const std::string& path, const Tensor& picture) {
  fs::create_directories(fs::path(path).parent_path());
  io::save_png(path, picture);
}

/// images/a0, a1, ... of 4 x 6 with the value 10 n (from 0 again at 250), and masks with the value `on` in the first
/// n + 1 pixels of row 1.
void write_pairs(const std::string& root, int64_t count, double on = 255, const std::string& masks = "masks") {
  for (int64_t n = 0; n < count; ++n) {
    std::string name = concat_text("a", n, ".png");
    save(root + "/images/" + name, full({4, 6, 1}, double(10 * n % 250), DType::u8));
    Tensor mask = zeros({4, 6, 1}, DType::u8);
    for (int64_t x = 0; x <= n % 6; ++x) mask.data<uint8_t>()[6 + x] = uint8_t(on);
    save(root + "/" + masks + "/" + name, mask);
  }
}

Pairs load(const std::string& root, const std::string& split = "train", PairOptions options = {}) {
  options.spec = root.find(':') == std::string::npos ? "pairs:" + root : root;
  options.split = split;
  return load_pairs(options);
}

int64_t count_of(const Tensor& mask, uint8_t value) {
  return std::count(mask.data<uint8_t>(), mask.data<uint8_t>() + mask.numel(), value);
}

/// The unpacked bytes of a PNG header's fields that a test changes; the chunk's CRC is made anew.
Bytes with_header(Bytes png, size_t at, uint8_t value) {
  png[at] = value;
  uLong crc = crc32(0, png.data() + 12, 17);
  for (int i = 0; i < 4; ++i) png[size_t(29 + i)] = uint8_t(crc >> (24 - 8 * i));
  return png;
}

}  // namespace

// ---- Folders -------------------------------------------------------------------------------------------------------

TEST_CASE("masks of 0 and 255, or 0 and 1, are two classes", "[pairs]") {
  for (double on : {255.0, 1.0}) {
    ScratchFolder folder;
    write_pairs(folder.path(), 3, on, on == 1 ? "labels" : "masks");
    write_text(folder.path("train.txt"), "a2.png\r\na0\n\n# none\n");   // with ending and without, in this order
    write_text(folder.path("test.txt"), "a1\n");
    Pairs train = load(folder.path());
    CHECK(train.classes == 2);
    CHECK(train.names == std::vector<std::string>{"a0"});   // one of the two is the validation part
    Pairs val = load(folder.path(), "val"), test = load(folder.path(), "test");
    CHECK(val.names == std::vector<std::string>{"a2"});
    CHECK(test.names == std::vector<std::string>{"a1"});
    CHECK_SAME(test.images, full({1, 4, 6, 1}, 10, DType::u8));
    Tensor expected = zeros({1, 4, 6}, DType::u8);
    expected.data<uint8_t>()[6] = expected.data<uint8_t>()[7] = 1;
    CHECK_SAME(test.masks, expected);
    CHECK(pair_splits("pairs:" + folder.path()) == std::vector<std::string>{"train", "val", "test"});
  }
}

TEST_CASE("the hash of pairs follows images, masks and size", "[pairs]") {
  ScratchFolder folder;
  write_pairs(folder.path(), 4);
  std::string before = load(folder.path()).hash;
  CHECK(load(folder.path()).hash == before);
  CHECK(load(folder.path(), "train", {.height = 2, .width = 2}).hash != before);
  Tensor mask = io::load_image(folder.path("masks/a0.png"));
  mask.data<uint8_t>()[23] = 255;
  save(folder.path("masks/a0.png"), mask);
  CHECK(load(folder.path()).hash != before);
}

TEST_CASE("class numbers come from the masks, classes.txt or the caller", "[pairs]") {
  ScratchFolder folder;
  save(folder.path("images/p.png"), zeros({2, 3, 3}, DType::u8));
  save(folder.path("images/q.png"), zeros({2, 3, 3}, DType::u8));
  save(folder.path("masks/p.png"), grey({0, 1, 2, 3, 7, 7}, 2, 3));
  save(folder.path("masks/q.png"), grey({0, 1, 2, 3, 2, 7}, 2, 3));
  std::string root = folder.path();
  CHECK_FAILS(Error::Kind::data, load(root), "masks: class 4 is in no mask of the train part", "8 classes");
  Pairs ignoring = load(root, "train", {.ignore = 7});
  CHECK(ignoring.classes == 4);
  CHECK(count_of(ignoring.masks, kIgnored) == (ignoring.names[0] == "p" ? 2 : 1));
  CHECK_FAILS(Error::Kind::data, load(root, "train", {.classes = 3, .ignore = 7}), "row 1, column 0 is 3", "0..2, 7");
  CHECK_FAILS(Error::Kind::usage, load(root, "train", {.classes = 1}), "--classes is 1");

  write_text(root + "/classes.txt", "0 sky\n1 void\n2 house\n3 road\n7 unlabelled\n");   // two that are ignored
  Pairs named = load(root);
  CHECK(named.class_names == std::vector<std::string>{"sky", "house", "road"});
  CHECK_SAME(named.masks, from({0, 255, 1, 2, 255, 255}, {1, 2, 3}, DType::u8));
  write_text(root + "/classes.txt", "0 sky\n1 tree\n2 house\n3 road\n5 pole\n7 void\n");
  CHECK_FAILS(Error::Kind::data, load(root), "class 4 (pole) is in no mask", "5 classes");
}

TEST_CASE("a class called unlabelled is left out and the others are numbered on", "[pairs]") {
  ScratchFolder folder;
  for (const char* name : {"p", "q"}) {
    save(folder.path(concat_text("images/", name, ".png")), zeros({2, 3, 1}, DType::u8));
    save(folder.path(concat_text("masks/", name, ".png")), grey({0, 1, 2, 3, 1, 0}, 2, 3));
  }
  write_text(folder.path("classes.txt"), "0 sky\n1 unlabelled\n2 tall building\n3 road # hard\n");
  Pairs pairs = load(folder.path());
  CHECK(pairs.classes == 3);
  CHECK(pairs.class_names == std::vector<std::string>{"sky", "tall building", "road"});
  CHECK_SAME(pairs.masks, from({0, 255, 1, 2, 255, 0}, {1, 2, 3}, DType::u8));
  CHECK(load(folder.path(), "train", {.ignore = 3}).class_names[1] == "unlabelled");
  CHECK_FAILS(Error::Kind::usage, load(folder.path(), "train", {.classes = 4}), "--classes is 4", "has 3");
  for (auto [text, part] : {std::pair{"0 sky\n0 road\n", "line 2 names class 0 a second time"},
                            {"sky 0\n", "line 1 is not `number name`"},
                            {"0 sky\n1 void\n", "names 1 class(es)"}}) {
    write_text(folder.path("classes.txt"), text);
    CHECK_FAILS(Error::Kind::data, load(folder.path()), "classes.txt", part);
  }
}

TEST_CASE("values that are no class are an error that names file and pixel", "[pairs]") {
  ScratchFolder folder;
  write_pairs(folder.path(), 4);
  write_text(folder.path("train.txt"), "a0\na1\na2\n");
  write_text(folder.path("test.txt"), "a3\n");
  Tensor soft = zeros({4, 6, 1}, DType::u8);
  soft.data<uint8_t>()[2 * 6 + 5] = 128;
  save(folder.path("masks/a3.png"), soft);
  CHECK_FAILS(Error::Kind::data, load(folder.path(), "test"), "masks/a3.png", "row 2, column 5 is 128", "0, 255");
  save(folder.path("masks/a1.png"), soft);
  CHECK_FAILS(Error::Kind::data, load(folder.path()), "has the value 255", "128", "masks/a1.png", "--ignore 255");
  CHECK(load(folder.path(), "train", {.ignore = 128}).classes == 2);
  save(folder.path("masks/a1.png"), zeros({4, 6, 1}, DType::u8));
  save(folder.path("masks/a0.png"), zeros({4, 6, 1}, DType::u8));
  save(folder.path("masks/a2.png"), zeros({4, 6, 1}, DType::u8));
  CHECK_FAILS(Error::Kind::data, load(folder.path()), "class 1 is in no mask of the train part");
}

TEST_CASE("colour and palette masks need a colour file", "[pairs]") {
  ScratchFolder folder;
  Tensor colours = from({255, 0, 0, 0, 255, 0, 9, 9, 9, 0, 255, 0}, {2, 2, 3}, DType::u8);
  for (const char* name : {"p", "q"}) {
    save(folder.path(concat_text("images/", name, ".png")), zeros({2, 2, 1}, DType::u8));
    save(folder.path(concat_text("masks/", name, ".png")), colours);
  }
  CHECK_FAILS(Error::Kind::data, load(folder.path()), "masks/p.png", "in colour", "`r g b class`");
  std::string file = folder.path("colours.txt");
  write_text(file, "# red, green, blue, class\n255 0 0 0\n0 255 0 1\n9 9 9 ignore\n");
  Pairs pairs = load(folder.path(), "train", {.colours = file});
  CHECK(pairs.classes == 2);
  CHECK_SAME(pairs.masks, from({0, 1, 255, 1}, {1, 2, 2}, DType::u8));
  write_text(file, "255 0 0 0\n0 255 0 1\n");
  CHECK_FAILS(Error::Kind::data, load(folder.path(), "train", {.colours = file}), "row 1, column 0 is colour 9 9 9");
  CHECK_FAILS(Error::Kind::usage, load(folder.path(), "train", {.ignore = 3, .colours = file}), "r g b ignore");
  for (auto [text, part] : {std::pair{"1 2 3\n", "line 1 is not `r g b class`"},
                            {"1 2 3 255\n", "line 1"},
                            {"1 2 300 1\n", "line 1"},
                            {"1 2 3 0\n1 2 3 1\n", "line 2 gives colour 1 2 3 a second time"},
                            {"1 2 3 0\n", "1 class(es)"}}) {
    write_text(file, text);
    CHECK_FAILS(Error::Kind::data, load(folder.path(), "train", {.colours = file}), "colours.txt", part);
  }
}

TEST_CASE("masks whose numbers the format has changed are refused", "[pairs]") {
  ScratchFolder folder;
  write_pairs(folder.path(), 2);
  write_bytes(folder.path("masks/a1.png"), {0xff, 0xd8, 0xff, 0xe0, 0, 16});
  CHECK_FAILS(Error::Kind::data, load(folder.path()), "masks/a1.png", "JPEG", "PNG");
  // 6 pixels of 4 bits are 3 bytes a row, as one of 24 grey pixels of 8 bits would not be: a picture of 12 x 4 x 4 bits
  save(folder.path("masks/a1.png"), zeros({4, 6, 1}, DType::u8));
  Bytes png = io::read_file(folder.path("masks/a1.png"), 1 << 20);
  Bytes four = with_header(with_header(png, 24, 4), 19, 12);   // width 12 at 4 bits has the same bytes
  write_bytes(folder.path("masks/a1.png"), four);
  CHECK_FAILS(Error::Kind::data, load(folder.path()), "masks/a1.png", "4 bits a pixel");
}

TEST_CASE("files that do not belong together are named", "[pairs]") {
  ScratchFolder folder;
  std::string root = folder.path("set");
  CHECK_FAILS(Error::Kind::data, load(root), "no folder images");
  save(root + "/images/a.png", zeros({2, 2, 1}, DType::u8));
  CHECK_FAILS(Error::Kind::data, load(root), "no folder masks or labels");
  fs::remove_all(root);
  write_pairs(root, 3);
  fs::create_directories(root + "/labels");
  CHECK_FAILS(Error::Kind::data, load(root), "both masks and labels");
  fs::remove(root + "/labels");
  fs::remove(root + "/masks/a1.png");
  fs::remove(root + "/masks/a2.png");
  CHECK_FAILS(Error::Kind::data, load(root), "images/a2.png: there is no mask a2");   // a1 is the validation part
  CHECK_FAILS(Error::Kind::data, load(root, "val"), "images/a1.png: there is no mask a1");
  write_pairs(root, 3);
  fs::remove(root + "/images/a0.png");
  fs::remove(root + "/images/a2.png");
  CHECK_FAILS(Error::Kind::data, load(root), "masks/a0.png: there is no image a0", "1 more");
  write_pairs(root, 3);
  save(root + "/masks/a0.png", zeros({4, 5, 1}, DType::u8));
  CHECK_FAILS(Error::Kind::data, load(root), "the mask is 4 x 5", "images/a0.png is 4 x 6");
  write_pairs(root, 3);
  save(root + "/images/a0.png", zeros({8, 6, 1}, DType::u8));
  save(root + "/masks/a0.png", zeros({8, 6, 1}, DType::u8));
  CHECK_FAILS(Error::Kind::data, load(root), "images/a2.png: the picture is [4, 6, 1]", "[8, 6, 1]", "--size");
  CHECK(load(root, "train", {.height = 4, .width = 4}).images.shape() == Shape{2, 4, 4, 1});
  write_pairs(root, 3);
  save(root + "/images/a0.bmp.png", zeros({4, 6, 1}, DType::u8));
  CHECK_FAILS(Error::Kind::data, load(root), "images/a0.bmp.png: there is no mask a0.bmp");
  fs::remove(root + "/images/a0.bmp.png");
  fs::copy_file(root + "/images/a0.png", root + "/images/a0.jpg");
  CHECK_FAILS(Error::Kind::data, load(root), "images/a0.png", "a0.jpg has the same name");
}

TEST_CASE("lists of parts are checked line by line", "[pairs]") {
  ScratchFolder folder;
  write_pairs(folder.path(), 4);
  std::string root = folder.path();
  write_text(root + "/val.txt", "a1\n");
  CHECK_FAILS(Error::Kind::data, load(root), "train.txt: is missing");
  write_text(root + "/train.txt", "a0\n\na9\n");
  CHECK_FAILS(Error::Kind::data, load(root), "train.txt: line 3 names 'a9'");
  write_text(root + "/train.txt", "# none yet\n");
  CHECK_FAILS(Error::Kind::data, load(root), "no image is in the train part");
  write_text(root + "/train.txt", "a0\na1\n");
  CHECK_FAILS(Error::Kind::data, load(root), "a1 is listed twice, in train and val");
  write_text(root + "/train.txt", "a0\na2\n");
  CHECK(load(root).names == std::vector<std::string>{"a0", "a2"});
  CHECK(load(root, "val").names == std::vector<std::string>{"a1"});
  CHECK_FAILS(Error::Kind::usage, load(root, "test"), "has no test part", "test.txt");
  CHECK_FAILS(Error::Kind::usage, load(root, "dev"), "--split is 'dev'");
  for (const char* list : {"/train.txt", "/val.txt"}) fs::remove(root + list);
  for (auto [text, part] : {std::pair{"name,split\na0,train\n", "no column `file`"},
                            {"file,split\na0.png\n", "line 2 has 1 columns, the first line 2"},
                            {"file,split\na0.png,dev\n", "line 2 has the split 'dev'"},
                            {"file,split\na7.png,train\n", "line 2 names 'a7.png'"},
                            {"file,split\na0.png,test\n", "no image is in the train part"}}) {
    write_text(root + "/index.csv", text);
    CHECK_FAILS(Error::Kind::data, load(root), "", part);
  }
  write_text(root + "/index.csv", "file,split\na0.png,train\na3.png,val\na1.png,test\n");
  CHECK(load(root).names == std::vector<std::string>{"a0"});
  CHECK(load(root, "val").names == std::vector<std::string>{"a3"});
}

TEST_CASE("a validation part is cut by group and the same every time", "[pairs]") {
  ScratchFolder folder;
  std::string root = folder.path(), index = "file,split,tile_group\n";
  write_pairs(root, 60);
  for (int n = 0; n < 60; ++n) index += concat_text("a", n, ".png,train,", n / 3, "\n");   // 20 groups of three
  write_text(root + "/index.csv", index);
  Pairs train = load(root), val = load(root, "val");
  CHECK(train.count() == 54);
  CHECK(val.count() == 6);   // two groups of twenty
  auto group = [](const std::string& name) { return std::stoi(name.substr(1)) / 3; };
  std::set<int> of_train, of_val;
  for (const std::string& name : train.names) of_train.insert(group(name));
  for (const std::string& name : val.names) of_val.insert(group(name));
  CHECK(of_val.size() == 2);
  for (int g : of_val) CHECK(of_train.count(g) == 0);
  CHECK(load(root, "val").names == val.names);
  CHECK(load(root, "train", {.limit = 4}).names.size() == 4);
  CHECK(load(root, "train", {.limit = 2}).names[1] == train.names[27]);   // evenly spaced

  std::string one = "file,split,group\n";
  for (int n = 0; n < 60; ++n) one += concat_text("a", n, ".png,train,same\n");
  write_text(root + "/index.csv", one);
  CHECK(load(root).count() == 60);
  CHECK_FAILS(Error::Kind::usage, load(root, "val"), "single group");
}

TEST_CASE("images are averaged and masks take the nearest pixel of the same middle part", "[pairs]") {
  ScratchFolder folder;
  for (const char* name : {"p", "q"}) {
    save(folder.path(concat_text("images/", name, ".png")),
         grey({9, 0, 20, 40, 60, 9, 9, 20, 0, 0, 0, 9, 9, 100, 100, 0, 0, 9, 9, 0, 0, 200, 200, 9}, 4, 6));
    save(folder.path(concat_text("masks/", name, ".png")),
         grey({2, 0, 1, 1, 1, 2, 2, 1, 2, 1, 1, 2, 2, 1, 1, 0, 0, 2, 2, 1, 1, 0, 2, 2}, 4, 6));
  }
  Pairs pairs = load(folder.path(), "train", {.height = 2, .width = 2});   // columns 1 to 4, two by two
  CHECK_SAME(pairs.images, from({10, 25, 50, 100}, {1, 2, 2, 1}, DType::u8));
  CHECK_SAME(pairs.masks, from({2, 1, 1, 2}, {1, 2, 2}, DType::u8));   // the lower right of each two by two
  CHECK(load(folder.path(), "train", {.height = 8, .width = 12}).masks.shape() == Shape{1, 8, 12});
  CHECK(load(folder.path(), "train", {.channels = 3}).images.shape() == Shape{1, 4, 6, 3});
  CHECK_FAILS(Error::Kind::usage, load(folder.path(), "train", {.height = 4}), "--size");
  CHECK_FAILS(Error::Kind::usage, load(folder.path(), "train", {.channels = 2}), "--channels");
  CHECK_FAILS(Error::Kind::usage, load(folder.path(), "train", {.limit = -1}), "--limit");
  int64_t height = 0, width = 0;
  parse_size("--size", "64", height, width);
  CHECK((height == 64 && width == 64));
  parse_size("--size", "96x128", height, width);
  CHECK((height == 96 && width == 128));
  for (const char* text : {"", "x", "64x", "6.4", "-3", "99999", "64y64"})
    CHECK_FAILS(Error::Kind::usage, parse_size("--size", text, height, width), "--size", "96x128");
}

TEST_CASE("a check of pairs reports all that is wrong", "[pairs]") {
  ScratchFolder folder;
  write_pairs(folder.path(), 6);
  std::string list;
  for (int n = 0; n < 6; ++n) list += concat_text("a", n, "\n");
  write_text(folder.path("train.txt"), list);
  write_text(folder.path("val.txt"), "");
  CHECK(check_pairs({.spec = "pairs:" + folder.path()}).problems.empty());
  CHECK(check_pairs({.spec = "pairs:" + folder.path()}).count == 5);
  write_bytes(folder.path("images/a0.png"), bytes_of("nothing"));
  Tensor odd = zeros({4, 6, 1}, DType::u8);
  odd.data<uint8_t>()[3] = 255;
  save(folder.path("masks/extra.png"), odd);
  fs::remove(folder.path("masks/a1.png"));
  save(folder.path("masks/a2.png"), zeros({3, 3, 1}, DType::u8));
  DatasetReport report = check_pairs({.spec = "pairs:" + folder.path()});
  CHECK(report.count == 2);
  REQUIRE(report.problems.size() == 4);
  for (auto [n, part] : {std::pair{0, "extra.png: there is no image"}, {1, "a1.png: there is no mask"},
                         {2, "images/a0.png"}, {3, "the mask is 3 x 3"}})
    CHECK(contains(report.problems[size_t(n)], part));
}

TEST_CASE("single masks are read for scoring", "[pairs]") {
  ScratchFolder folder;
  save(folder.path("m.png"), grey({0, 255, 1, 0}, 2, 2));
  CHECK_SAME(load_mask(folder.path("m.png"), 2, -1), from({0, 1, 1, 0}, {2, 2}, DType::u8));
  CHECK_SAME(load_mask(folder.path("m.png"), 2, 255), from({0, 255, 1, 0}, {2, 2}, DType::u8));
  CHECK_FAILS(Error::Kind::data, load_mask(folder.path("m.png"), 3, -1), "row 0, column 1 is 255", "0..2");
}

// ---- Synthetic sets ------------------------------------------------------------------------------------------------

TEST_CASE("synthetic segmentation examples depend on seed, part and number alone", "[pairs]") {
  for (const char* name : {"fashionseg28", "fashionseg64", "discs28"}) {
    INFO(name);
    std::string spec = concat_text("synthetic:", name);
    PairOptions few{.limit = 3}, more{.limit = 40};
    Pairs a = load(spec, "test", few), b = load(spec, "test", more);
    CHECK_SAME(a.images, b.images.rows(0, 3));
    CHECK_SAME(a.masks, b.masks.rows(0, 3));
    std::set<std::string> hashes = {a.hash, load(spec, "val", few).hash,
                                    load(spec, "test", {.limit = 3, .seed = 1}).hash};
    CHECK(hashes.size() == 3);
    for (int threads : {1, 3}) {
      Threads limited(threads);
      CHECK(load(spec, "test", more).hash == b.hash);
    }
  }
  CHECK(load("synthetic:discs28", "train", {.limit = 3}).hash != load("synthetic:discs28", "val", {.limit = 3}).hash);
  CHECK(is_pair_spec("synthetic:discs28"));
  CHECK_FALSE(is_pair_spec("synthetic:blobs"));
  CHECK_FAILS(Error::Kind::usage, load("synthetic:blobs"), "has no masks", "discs28");
  CHECK_FAILS(Error::Kind::usage, load("synthetic:discs28", "train", {.height = 32, .width = 32}), "28x28");
  CHECK_FAILS(Error::Kind::usage, load("synthetic:discs28", "train", {.classes = 3}), "2 classes");
  CHECK_FAILS(Error::Kind::usage, load("synthetic:discs28:x"), "only synthetic:digits64");
}

TEST_CASE("FashionSeg masks cover the item and its brightness", "[pairs]") {
  Pairs pairs = load("synthetic:fashionseg28", "test", {.limit = 300});
  CHECK(pairs.images.shape() == Shape{300, 28, 28, 1});
  CHECK(pairs.classes == 2);
  double inside = 0, outside = 0, share = double(count_of(pairs.masks, 1)) / double(pairs.masks.numel());
  int64_t count = count_of(pairs.masks, 1);
  for (int64_t i = 0; i < pairs.masks.numel(); ++i)
    (pairs.masks.data<uint8_t>()[i] ? inside : outside) += pairs.images.data<uint8_t>()[i] / 255.0;
  // Items cover about half of 28 x 28 times the mean of s^2 on [0.6, 1], which is 0.653.
  CHECK(share > 0.2);
  CHECK(share < 0.45);
  // 0.3 + 0.7 a is about 0.7 for the mean a of 0.57 inside; the ground's mean is 0.3. Clipping moves both a little.
  CHECK(inside / double(count) == Approx(0.7).margin(0.06));
  CHECK(outside / double(pairs.masks.numel() - count) == Approx(0.3).margin(0.03));
  int64_t holes = 0;   // of a single pixel: closing fills them
  for (int64_t n = 0; n < 300; ++n) {
    const uint8_t* m = pairs.masks.data<uint8_t>() + n * 784;
    for (int64_t y = 1; y < 27; ++y)
      for (int64_t x = 1; x < 27; ++x) {
        bool hole = !m[y * 28 + x] && m[(y - 1) * 28 + x] && m[(y + 1) * 28 + x] && m[y * 28 + x - 1] &&
                    m[y * 28 + x + 1] && m[(y - 1) * 28 + x - 1] && m[(y - 1) * 28 + x + 1] &&
                    m[(y + 1) * 28 + x - 1] && m[(y + 1) * 28 + x + 1];
        holes += hole;
      }
  }
  CHECK(holes == 0);
}

TEST_CASE("the discs' probability is the share of the five truths, whatever the image is", "[pairs]") {
  Pairs pairs = load("synthetic:discs28", "train", {.limit = 1000});
  int64_t pixels = 28 * 28, N = pairs.count();
  REQUIRE(pairs.truths.shape() == Shape{N, 5, 28, 28});
  std::array<int64_t, 5> chosen{};
  for (int64_t n = 0; n < N; ++n) {
    const uint8_t* mask = pairs.masks.data<uint8_t>() + n * pixels;
    const uint8_t* truths = pairs.truths.data<uint8_t>() + 5 * n * pixels;
    int equal = -1, matches = 0;
    for (int u = 0; u < 5; ++u)
      if (std::equal(mask, mask + pixels, truths + u * pixels)) equal = u, ++matches;
    REQUIRE(equal >= 0);
    if (matches == 1) ++chosen[size_t(equal)];
    bool right = true, nested = true;
    for (int64_t i = 0; i < pixels; ++i) {
      int covering = 0;
      for (int u = 0; u < 5; ++u) {
        covering += truths[u * pixels + i];
        nested &= u == 0 || truths[u * pixels + i] >= truths[(u - 1) * pixels + i];
      }
      right &= pairs.probability.data<float>()[n * pixels + i] == float(covering) / 5;
    }
    CHECK((right && nested));
    // Five different radii give five different discs: the area grows by 2 pi r - pi = 12 pixels at least, r >= 4.
    CHECK(matches == 1);
  }
  for (int64_t count : chosen) CHECK(double(count) == Approx(200).margin(4 * std::sqrt(1000 * 0.16)));
  // The image tells r: its sum over the ground is pi r^2 / 2, and the middle truth has about pi r^2 pixels.
  for (int64_t n = 0; n < 50; ++n) {
    double area = 0;
    for (int64_t i = 0; i < pixels; ++i) area += (pairs.images.data<uint8_t>()[n * pixels + i] / 255.0 - 0.25) / 0.5;
    int64_t middle = count_of(pairs.truths.view({N * 5, 28, 28}).rows(5 * n + 2, 5 * n + 3), 1);
    CHECK(area == Approx(double(middle)).margin(8));
  }
}

TEST_CASE("digits64 takes its digits from idx files and names its ground 10", "[pairs]") {
  ScratchFolder folder;
  std::string root = folder.path("mnist");
  fs::create_directories(root);
  auto number = [](uint32_t v) { return Bytes{uint8_t(v >> 24), uint8_t(v >> 16), uint8_t(v >> 8), uint8_t(v)}; };
  for (const char* prefix : {"train", "t10k"}) {
    Bytes images = number(2051) + number(20) + number(28) + number(28), labels = number(2049) + number(20);
    for (uint32_t n = 0; n < 20; ++n) {
      images = images + Bytes(784, 255);
      labels.push_back(uint8_t(n % 10));
    }
    write_bytes(root + "/" + prefix + "-images-idx3-ubyte", images);
    write_bytes(root + "/" + prefix + "-labels-idx1-ubyte", labels);
  }
  Pairs pairs = load("synthetic:digits64:" + root, "test", {.limit = 20});
  CHECK(pairs.images.shape() == Shape{20, 64, 64, 1});
  CHECK(pairs.classes == 11);
  CHECK(pairs.class_names[10] == "background");
  for (int64_t n = 0; n < 20; ++n) {
    std::set<int> classes;
    for (int64_t i = 0; i < 4096; ++i) classes.insert(pairs.masks.data<uint8_t>()[n * 4096 + i]);
    CHECK(classes.count(10) == 1);
    CHECK(classes.size() >= 2);
    CHECK(classes.size() <= 6);
    CHECK(*classes.rbegin() == 10);
  }
  const char* set = std::getenv("MOTE_DATA");
  std::string before = set ? set : "";
  setenv("MOTE_DATA", folder.path().c_str(), 1);
  CHECK(load("synthetic:digits64", "test", {.limit = 20}).hash == pairs.hash);
  unsetenv("MOTE_DATA");
  CHECK_FAILS(Error::Kind::data, load("synthetic:digits64"), "MOTE_DATA is not set", "digits64:DIR");
  if (set) setenv("MOTE_DATA", before.c_str(), 1);
}

// ---- Batches -------------------------------------------------------------------------------------------------------

TEST_CASE("moves mirror, turn and shift as they say", "[pairs]") {
  Tensor x = from({1, 2, 3, 4, 5, 6}, {1, 2, 3, 1});
  CHECK_SAME(moved(x, {}), x);
  CHECK_SAME(moved(x, {.mirror = true}), from({3, 2, 1, 6, 5, 4}, {1, 2, 3, 1}));
  CHECK_SAME(moved(x, {.turns = 1}), from({3, 6, 2, 5, 1, 4}, {1, 3, 2, 1}));
  CHECK_SAME(moved(x, {.turns = 2}), from({6, 5, 4, 3, 2, 1}, {1, 2, 3, 1}));
  CHECK_SAME(moved(x, {.turns = 3}), from({4, 1, 5, 2, 6, 3}, {1, 3, 2, 1}));
  CHECK_SAME(moved(x, {.mirror = true, .turns = 1}), from({1, 4, 2, 5, 3, 6}, {1, 3, 2, 1}));
  CHECK_SAME(moved(x, {.down = 1, .right = -1}), from({2, 3, 3, 2, 3, 3}, {1, 2, 3, 1}));
  CHECK_FAILS(Error::Kind::argument, moved(x, {.turns = 4}), "0 to 3 turns");
  CHECK_FAILS(Error::Kind::argument, moved(x.to(DType::f64), {}), "u8 or f32");
}

TEST_CASE("every symmetry is undone by its inverse, and all are different", "[pairs]") {
  Tensor x = uniform({2, 5, 5, 3}, DType::f32, Generator{1});
  std::vector<Move> square = symmetries(5, 5), other = symmetries(4, 6);
  CHECK(square.size() == 8);
  CHECK(square[0] == Move{});
  CHECK(other.size() == 4);
  for (size_t a = 0; a < square.size(); ++a) {
    CHECK_SAME(moved(moved(x, square[a]), inverse(square[a])), x);
    for (size_t b = 0; b < a; ++b) CHECK(difference(moved(x, square[a]), moved(x, square[b]), 0, 0) != "");
  }
  Tensor wide = uniform({1, 4, 6}, DType::f32, Generator{2});
  for (const Move& move : other) {
    CHECK(moved(wide, move).shape() == wide.shape());
    CHECK_SAME(moved(moved(wide, move), inverse(move)), wide);
  }
  CHECK_FAILS(Error::Kind::argument, inverse({.down = 1}), "cannot be undone");
}

namespace {

/// Eight 6 x 6 images whose pixel i is 7 n + i, masks of the same numbers' parity, and a guess that repeats the images.
std::pair<Pairs, Tensor> numbered() {
  Pairs pairs;
  pairs.images = empty({8, 6, 6, 1}, DType::u8);
  pairs.masks = empty({8, 6, 6}, DType::u8);
  Tensor guess = empty({8, 6, 6, 2});
  for (int64_t i = 0; i < pairs.images.numel(); ++i) {
    auto v = uint8_t(i / 36 * 7 + i % 36);
    pairs.images.data<uint8_t>()[i] = v;
    pairs.masks.data<uint8_t>()[i] = v % 2;
    guess.data<float>()[2 * i] = v;
    guess.data<float>()[2 * i + 1] = -float(v);
  }
  pairs.classes = 2;
  return {pairs, guess};
}

/// Whether image, mask and guess of a batch show the same pixels.
bool agree(const PairBatch& batch) {
  for (int64_t i = 0; i < batch.masks.numel(); ++i) {
    long value = std::lround((double(batch.images.data<float>()[i]) + 1) * 127.5);
    if (batch.masks.data<uint8_t>()[i] != value % 2 || batch.guess.data<float>()[2 * i] != float(value) ||
        batch.guess.data<float>()[2 * i + 1] != -float(value))
      return false;
  }
  return true;
}

}  // namespace

TEST_CASE("image, mask and guess of a batch are moved and cropped together", "[pairs]") {
  auto [pairs, guess] = numbered();
  for (int64_t crop : {0, 4}) {
    BatchOptions options{.batch = 5, .shift = 2, .crop = crop};
    std::set<int64_t> seen;
    for (int64_t step = 0; step < 8; ++step) {
      PairBatch batch = pair_batch(pairs, guess, options, 3, step);
      CHECK(agree(batch));
      CHECK(batch.images.shape() == (crop ? Shape{5, 4, 4, 1} : Shape{5, 6, 6, 1}));
      PairBatch again = pair_batch(pairs, guess, options, 3, step);   // steps can be asked for in any order
      CHECK_SAME(again.images, batch.images);
      CHECK_SAME(again.guess, batch.guess);
      for (int64_t element = 0; element < 5; ++element) {
        if (step * 5 + element < 8) seen.insert(batch.index[size_t(element)]);
      }
    }
    CHECK(seen.size() == 8);   // the first epoch has every image once
    CHECK(difference(pair_batch(pairs, guess, options, 4, 0).images, pair_batch(pairs, guess, options, 3, 0).images, 0,
                     0) != "");
  }
  PairBatch plain = pair_rows(pairs, guess, 2, 5);
  CHECK(agree(plain));
  CHECK(plain.index == std::vector<int64_t>{2, 3, 4});
  CHECK(std::lround((plain.images.data<float>()[0] + 1) * 127.5f) == 14);
  CHECK_FALSE(pair_rows(pairs, {}, 0, 8).guess.defined());
  CHECK_FAILS(Error::Kind::argument, pair_rows(pairs, guess, 5, 9), "there are 8");
  CHECK_FAILS(Error::Kind::argument, pair_batch(pairs, guess.rows(0, 4), {}, 0, 0), "f32[4, 6, 6, 2]");
  CHECK_FAILS(Error::Kind::argument, pair_batch(pairs, guess, {.crop = 7}, 0, 0), "crop of 7", "6 x 6");
  CHECK_FAILS(Error::Kind::argument, pair_batch(pairs, guess, {.batch = 0}, 0, 0), "batch of 1");
  CHECK_FAILS(Error::Kind::argument, pair_batch(pairs, guess, {}, 0, -1), "-1");
}

TEST_CASE("drawn moves use all eight symmetries equally and shifts both ways", "[pairs]") {
  std::array<int, 8> count{};
  std::set<int64_t> downs, rights;
  BatchOptions options{.shift = 2};
  for (int64_t element = 0; element < 1600; ++element) {
    Move move = draw_move(options, 8, 8, 1, element / 32, element % 32);
    ++count[size_t(4 * move.mirror + move.turns)];
    downs.insert(move.down);
    rights.insert(move.right);
    CHECK(draw_move(options, 8, 6, 1, 0, element).turns % 2 == 0);
  }
  for (int c : count) CHECK(double(c) == Approx(200).margin(4 * std::sqrt(1600 * 7.0 / 64)));
  CHECK(downs == std::set<int64_t>{-2, -1, 0, 1, 2});
  CHECK(rights == downs);
  CHECK(draw_move({.mirror = false, .turn = false}, 8, 8, 1, 0, 0) == Move{});
}

TEST_CASE("half of the crops seek the foreground", "[pairs]") {
  Pairs pairs;
  pairs.images = zeros({1, 32, 32, 1}, DType::u8);
  pairs.masks = zeros({1, 32, 32}, DType::u8);
  for (int64_t y = 8; y < 11; ++y)
    for (int64_t x = 20; x < 23; ++x) pairs.masks.data<uint8_t>()[y * 32 + x] = 1;   // 9 pixels of 1024
  BatchOptions options{.batch = 40, .crop = 8};
  int64_t sought = 0, others = 0;
  for (int64_t step = 0; step < 5; ++step) {
    PairBatch batch = pair_batch(pairs, {}, options, 1, step);
    for (int64_t element = 0; element < 40; ++element)
      (element < 20 ? sought : others) += count_of(batch.masks.rows(element, element + 1), 1) > 0;
  }
  // A window of 8 meets the spot at 10 x 10 of its 25 x 25 places: 0.16. One of 16 tries does with 1 - 0.84^16 = 0.94.
  CHECK(double(others) == Approx(16).margin(4 * std::sqrt(100 * 0.16 * 0.84)));
  CHECK(double(sought) == Approx(94).margin(4 * std::sqrt(100 * 0.06 * 0.94)));
}
