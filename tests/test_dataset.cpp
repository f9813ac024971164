#include "apps/dataset.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <set>

#include "tensor/io/image.h"
#include "tests/io_support.h"

using namespace mote;
using namespace mote::apps;
using namespace mote::test;
namespace fs = std::filesystem;

namespace {

Dataset load(const std::string& spec, const std::string& split = "train", int64_t size = 0, int64_t channels = 0,
             int64_t limit = 0) {
  return load_dataset({spec, split, size, channels, limit});
}

/// Sets an environment variable for the length of a test.
class Environment {
 public:
  Environment(const char* name, const std::string& value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    setenv(name, value.c_str(), 1);
  }
  ~Environment() {
    if (old_.empty()) unsetenv(name_);
    else setenv(name_, old_.c_str(), 1);
  }

 private:
  const char* name_;
  std::string old_;
};

Bytes big_endian(uint32_t value) {
  return {uint8_t(value >> 24), uint8_t(value >> 16), uint8_t(value >> 8), uint8_t(value)};
}

/// `count` images of 2 x 2 whose pixels are the image's number.
void write_idx_folder(const std::string& folder, const std::string& prefix, uint32_t count,
                      const std::string& ending = "") {
  fs::create_directories(folder);
  Bytes images = big_endian(2051) + big_endian(count) + big_endian(2) + big_endian(2),
        labels = big_endian(2049) + big_endian(count);
  for (uint32_t n = 0; n < count; ++n) {
    images = images + Bytes(4, uint8_t(n));
    labels.push_back(uint8_t(n % 3));
  }
  write_bytes(folder + "/" + prefix + "-images-idx3-ubyte" + ending, ending.empty() ? images : gzip(images));
  write_bytes(folder + "/" + prefix + "-labels-idx1-ubyte" + ending, ending.empty() ? labels : gzip(labels));
}

void write_picture(const std::string& path, int64_t H, int64_t W, int64_t C, double value) {
  fs::create_directories(fs::path(path).parent_path());
  io::save_png(path, full({H, W, C}, value, DType::u8));
}

/// Images [n, 1, 2, 1] with pixels 2 i and 2 i + 1 and label i.
Dataset numbered(int64_t n) {
  Dataset data{"numbered", empty({n, 1, 2, 1}, DType::u8), arange(n), {}, ""};
  for (int64_t i = 0; i < 2 * n; ++i) data.images.data<uint8_t>()[i] = uint8_t(i);
  return data;
}

std::vector<int64_t> labels_of(const Batch& batch) {
  std::vector<int64_t> labels(size_t(batch.labels.numel()));
  std::copy_n(batch.labels.data<int64_t>(), labels.size(), labels.begin());
  return labels;
}

}  // namespace

// ---- Sets ----------------------------------------------------------------------------------------------------------

TEST_CASE("fashion-mnist is found where its package puts it", "[data]") {
  unsetenv("MOTE_DATA");
  for (auto [split, count] : {std::pair<std::string, int64_t>{"train", 60000}, {"test", 10000}}) {
    Dataset data = load("fashion-mnist", split);
    CHECK(data.images.shape() == Shape{count, 28, 28, 1});
    CHECK(data.classes() == 10);
    REQUIRE(data.class_names.size() == 10);
    CHECK(data.class_names[9] == "ankle boot");
    std::vector<int64_t> counts(10);
    for (int64_t n = 0; n < count; ++n) ++counts[size_t(data.labels.data<int64_t>()[n])];
    CHECK(counts == std::vector<int64_t>(10, count / 10));
  }
  Dataset data = load("fashion-mnist");
  CHECK(data.labels.data<int64_t>()[0] == 9);  // the first image is an ankle boot
  double sum = 0;
  for (int64_t i = 0; i < data.images.numel(); ++i) sum += data.images.data<uint8_t>()[i];
  CHECK(sum / double(data.images.numel()) / 255 == Approx(0.2860).margin(5e-5));  // the published mean
}

TEST_CASE("fashion-mnist in MOTE_DATA comes before the installed one, and a broken one is not passed over", "[data]") {
  ScratchFolder folder;
  Environment environment("MOTE_DATA", folder.path());
  CHECK(load("fashion-mnist", "test").count() == 10000);
  write_idx_folder(folder.path("fashion-mnist"), "t10k", 7, ".gz");
  CHECK(load("fashion-mnist", "test").count() == 7);
  write_idx_folder(folder.path(), "t10k", 5);
  CHECK(load("fashion-mnist", "test").count() == 5);
  write_bytes(folder.path("t10k-images-idx3-ubyte"), {});
  CHECK_FAILS(Error::Kind::data, load("fashion-mnist", "test"), folder.path("t10k-images-idx3-ubyte"));
}

TEST_CASE("an idx folder is read by split, with or without gz", "[data]") {
  ScratchFolder folder;
  write_idx_folder(folder.path(), "train", 6, ".gz");
  write_idx_folder(folder.path(), "t10k", 4);
  Dataset train = load("idx:" + folder.path()), test = load("idx:" + folder.path(), "test");
  CHECK(train.images.shape() == Shape{6, 2, 2, 1});
  CHECK(train.images.data<uint8_t>()[4 * 5] == 5);
  CHECK(train.classes() == 3);
  CHECK(test.count() == 4);
  CHECK(train.hash.size() == 16);
  CHECK(train.hash != test.hash);
  CHECK(train.hash == load("idx:" + folder.path()).hash);
  CHECK(load("idx:" + folder.path(), "train", 0, 0, 4).hash == test.hash);  // the hash is of the content
  fs::remove(folder.path("t10k-labels-idx1-ubyte"));
  CHECK_FAILS(Error::Kind::data, load("idx:" + folder.path(), "test"), folder.path(),
              "t10k-labels-idx1-ubyte is missing");
  CHECK_FAILS(Error::Kind::data, load("idx:" + folder.path("none")), "none", "no such folder");
  CHECK_FAILS(Error::Kind::data, load("idx:"), "empty");
}

TEST_CASE("a CIFAR folder is read by split and has its class names", "[data]") {
  ScratchFolder folder;
  Bytes record(3073, 5);
  write_bytes(folder.path("data_batch_1.bin"), record + record);
  write_bytes(folder.path("data_batch_2.bin.gz"), gzip(record));
  write_bytes(folder.path("test_batch.bin"), record);
  Dataset data = load("cifar10:" + folder.path());
  CHECK(data.images.shape() == Shape{3, 32, 32, 3});
  CHECK(data.class_names.empty());
  write_bytes(folder.path("batches.meta.txt"), bytes_of("a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n"));
  CHECK(load("cifar10:" + folder.path(), "test").class_names.size() == 10);
  CHECK(load("cifar10:" + folder.path(), "test").count() == 1);
  write_bytes(folder.path("data_batch_4.bin"), record);
  CHECK_FAILS(Error::Kind::data, load("cifar10:" + folder.path()), "data_batch_3.bin is missing");
  CHECK_FAILS(Error::Kind::data, load("cifar10:" + folder.path("none")), "no such folder");
  fs::remove(folder.path("test_batch.bin"));
  CHECK_FAILS(Error::Kind::data, load("cifar10:" + folder.path(), "test"), "test_batch.bin is missing");
}

TEST_CASE("digits are split after four fifths of the lines", "[data]") {
  ScratchFolder folder;
  std::string text;
  for (int line = 0; line < 11; ++line) {
    for (int pixel = 0; pixel < 64; ++pixel) text += "16,";
    text += std::to_string(line % 10) + "\n";
  }
  write_bytes(folder.path("d.csv"), bytes_of(text));
  Dataset train = load("csv:" + folder.path("d.csv")), test = load("csv:" + folder.path("d.csv"), "test");
  CHECK(train.count() == 8);
  CHECK_SAME(test.labels, from({8, 9, 0}, {3}, DType::i64));
  CHECK(test.images.data<uint8_t>()[0] == 255);
  write_bytes(folder.path("one.csv"), bytes_of(text.substr(0, text.find('\n'))));
  CHECK_FAILS(Error::Kind::data, load("csv:" + folder.path("one.csv")), "1 lines are too few");
}

TEST_CASE("a folder of pictures is read in the order of names, a folder a class", "[data]") {
  ScratchFolder folder;
  std::string spec = "folder:" + folder.path();
  CHECK_FAILS(Error::Kind::data, load(spec), folder.path(), "no pictures");
  write_picture(folder.path("b.PNG"), 4, 4, 1, 2);
  write_picture(folder.path("a.png"), 4, 4, 1, 1);
  write_bytes(folder.path("notes.txt"), bytes_of("no picture"));
  write_bytes(folder.path(".hidden.png"), bytes_of("no picture"));
  Dataset flat = load(spec);
  CHECK(flat.images.shape() == Shape{2, 4, 4, 1});
  CHECK(flat.images.data<uint8_t>()[0] == 1);
  CHECK(!flat.labels.defined());
  CHECK(flat.classes() == 0);

  write_picture(folder.path("train/1.png"), 4, 4, 1, 10);  // a class, since there are other folders
  write_picture(folder.path("car/2.png"), 4, 4, 1, 20);
  CHECK_FAILS(Error::Kind::data, load(spec), "beside class folders");
  fs::remove(folder.path("a.png"));
  fs::remove(folder.path("b.PNG"));
  write_picture(folder.path("car/1.png"), 4, 4, 1, 30);
  Dataset data = load(spec);
  CHECK(data.class_names == std::vector<std::string>{"car", "train"});
  CHECK_SAME(data.labels, from({0, 0, 1}, {3}, DType::i64));
  CHECK(data.images.data<uint8_t>()[0] == 30);
  CHECK_FAILS(Error::Kind::usage, load(spec, "test"), "no test split");
  CHECK(dataset_splits(spec) == std::vector<std::string>{"train"});
  fs::create_directory(folder.path("bus"));
  CHECK_FAILS(Error::Kind::data, load(spec), folder.path("bus"), "no pictures");
}

TEST_CASE("the limit of a folder keeps every class", "[data]") {
  ScratchFolder folder;
  for (std::string name : {"a", "b", "c"})
    for (int i = 0; i < 4; ++i) write_picture(folder.path(name + "/" + std::to_string(i) + ".png"), 2, 2, 1, i);
  CHECK_SAME(load("folder:" + folder.path(), "train", 0, 0, 3).labels, from({0, 1, 2}, {3}, DType::i64));
  CHECK(load("folder:" + folder.path(), "train", 0, 0, 100).count() == 12);
}

TEST_CASE("a folder of the folders train and test has two splits", "[data]") {
  ScratchFolder folder;
  write_picture(folder.path("train/cat/1.png"), 2, 2, 1, 1);
  write_picture(folder.path("test/cat/1.png"), 2, 2, 1, 2);
  CHECK(load("folder:" + folder.path()).images.data<uint8_t>()[0] == 1);
  CHECK(load("folder:" + folder.path(), "test").images.data<uint8_t>()[0] == 2);
  CHECK(dataset_splits("folder:" + folder.path()).size() == 2);
}

TEST_CASE("pictures of mixed sizes need --size, of mixed channels --channels", "[data]") {
  ScratchFolder folder;
  std::string spec = "folder:" + folder.path();
  write_picture(folder.path("1.png"), 4, 4, 1, 1);
  write_picture(folder.path("2.png"), 6, 9, 1, 2);
  CHECK_FAILS(Error::Kind::data, load(spec), "2.png", "[6, 9, 1]", "[4, 4, 1]", "--size");
  CHECK(load(spec, "train", 3).images.shape() == Shape{2, 3, 3, 1});
  write_picture(folder.path("2.png"), 4, 4, 3, 2);
  CHECK_FAILS(Error::Kind::data, load(spec), "2.png", "--channels");
  CHECK(load(spec, "train", 0, 3).images.shape() == Shape{2, 4, 4, 3});
  CHECK(load(spec, "train", 0, 1).images.shape() == Shape{2, 4, 4, 1});
}

TEST_CASE("resizing takes the middle square", "[data]") {
  ScratchFolder folder;
  io::save_png(folder.path("wide.png"), from({1, 10, 20, 3, 2, 30, 40, 4}, {2, 4, 1}, DType::u8));
  CHECK_SAME(load("folder:" + folder.path(), "train", 2).images, from({10, 20, 30, 40}, {1, 2, 2, 1}, DType::u8));
  CHECK_SAME(load("folder:" + folder.path(), "train", 1).images, from({25}, {1, 1, 1, 1}, DType::u8));
  write_idx_folder(folder.path("idx"), "train", 3);
  Dataset grown = load("idx:" + folder.path("idx"), "train", 4, 3, 2);
  CHECK(grown.images.shape() == Shape{2, 4, 4, 3});
  CHECK(grown.labels.shape() == Shape{2});
  CHECK_SAME(grown.images.rows(1, 2), full({1, 4, 4, 3}, 1, DType::u8));
}

TEST_CASE("check_dataset reports every broken picture of a folder", "[data]") {
  ScratchFolder folder;
  DataOptions options{"folder:" + folder.path()};
  for (int i = 0; i < 5; ++i) write_picture(folder.path(std::to_string(i) + ".png"), 2, 2, 1, i);
  CHECK(check_dataset(options).problems.empty());
  CHECK(check_dataset(options).count == 5);
  write_bytes(folder.path("1.png"), {});
  write_bytes(folder.path("3.png"), bytes_of("no PNG"));
  write_picture(folder.path("4.png"), 3, 2, 1, 0);
  write_picture(folder.path("5.png"), 3, 2, 1, 0);
  DatasetReport report = check_dataset(options);
  CHECK(report.count == 2);
  REQUIRE(report.problems.size() == 3);
  CHECK(report.problems[0].find("1.png: is empty") != std::string::npos);
  CHECK(report.problems[1].find("3.png: is not a picture") != std::string::npos);
  CHECK(report.problems[2].find("4.png: the picture is [3, 2, 1]") != std::string::npos);
  CHECK(report.problems[2].find("(and 1 more pictures)") != std::string::npos);
  options.size = 2;
  CHECK(check_dataset(options).problems.size() == 2);
  CHECK(check_dataset({"idx:" + folder.path("none")}).problems.size() == 1);
  CHECK_FAILS(Error::Kind::usage, check_dataset({"folder:" + folder.path(), "test"}), "no test split");
}

TEST_CASE("synthetic sets are the same every time and differ by split, class and image", "[data]") {
  for (std::string name : {"blobs", "stripes"}) {
    CAPTURE(name);
    Dataset data = load("synthetic:" + name);
    CHECK(data.images.shape() == Shape{1024, 16, 16, name == "blobs" ? 3 : 1});
    CHECK(data.classes() == 4);
    CHECK(data.hash == load("synthetic:" + name).hash);
    CHECK(data.hash != load("synthetic:" + name, "test").hash);
    Dataset larger = load("synthetic:" + name, "train", 0, 0, 1500);
    CHECK_SAME(larger.images.rows(0, 1024), data.images);  // image i depends on i alone
    CHECK(load("synthetic:" + name, "train", 9, 3, 5).images.shape() == Shape{5, 9, 9, 3});
    CHECK(load("synthetic:" + name, "train", 9, 1, 5).images.shape() == Shape{5, 9, 9, 1});
    std::set<std::vector<double>> different;
    for (int64_t n = 0; n < 64; ++n) different.insert(data.images.rows(n, n + 1).to_vector());
    CHECK(different.size() == 64);
    auto [low, high] =
        std::minmax_element(data.images.data<uint8_t>(), data.images.data<uint8_t>() + data.images.numel());
    CHECK(*low < 10);
    CHECK(*high > 245);
  }
}

TEST_CASE("options that make no sense are Error(usage)", "[data]") {
  for (std::string spec : {"", "mnist", "synthetic:", "synthetic:x", "fashion-mnist:x", "pairs:d", "blobs"})
    CHECK_FAILS(Error::Kind::usage, load(spec), "");
  CHECK_FAILS(Error::Kind::usage, load("what:x"), "'what:x'", "cifar10:DIR");
  CHECK_FAILS(Error::Kind::usage, load("synthetic:blobs", "val"), "--split", "'val'");
  CHECK_FAILS(Error::Kind::usage, load("synthetic:blobs", "train", -1), "--size");
  CHECK_FAILS(Error::Kind::usage, load("synthetic:blobs", "train", 20000), "--size");
  CHECK_FAILS(Error::Kind::usage, load("synthetic:blobs", "train", 0, 2), "--channels");
  CHECK_FAILS(Error::Kind::usage, load("synthetic:blobs", "train", 0, 0, -5), "--limit");
}

// ---- Batches -------------------------------------------------------------------------------------------------------

TEST_CASE("each epoch is a permutation, epochs differ and follow without a gap", "[data]") {
  for (int64_t N : {1, 2, 7, 64}) {
    Dataset data = numbered(N);
    for (int64_t B : {1, 3, 5, 100}) {
      std::vector<int64_t> order;
      for (int64_t index = 0; int64_t(order.size()) < 3 * N; ++index) {
        Batch batch = BatchLoader::make(data, B, 11, false, index);
        REQUIRE(batch.images.shape() == Shape{B, 1, 2, 1});
        for (int64_t label : labels_of(batch)) order.push_back(label);
      }
      std::vector<std::vector<int64_t>> epochs;
      for (int64_t epoch = 0; epoch < 3; ++epoch) {
        epochs.emplace_back(order.begin() + epoch * N, order.begin() + (epoch + 1) * N);
        std::vector<int64_t> sorted = epochs.back();
        std::sort(sorted.begin(), sorted.end());
        for (int64_t i = 0; i < N; ++i) REQUIRE(sorted[size_t(i)] == i);
      }
      if (N >= 7) CHECK((epochs[0] != epochs[1] && epochs[1] != epochs[2] && epochs[0] != epochs[2]));
    }
  }
}

TEST_CASE("the order depends on the seed and not on the batch size", "[data]") {
  Dataset data = numbered(20);
  auto order = [&](uint64_t seed, int64_t B) { return labels_of(BatchLoader::make(data, B, seed, false, 0)); };
  std::vector<int64_t> whole = order(1, 20), parts;
  for (int64_t index = 0; index < 5; ++index)
    for (int64_t label : labels_of(BatchLoader::make(data, 4, 1, false, index))) parts.push_back(label);
  CHECK(whole == parts);
  CHECK(whole != order(2, 20));
  CHECK(whole == order(1, 20));
}

TEST_CASE("every place of an epoch is equally likely for every image", "[data]") {
  Dataset data = numbered(5);
  constexpr int kSeeds = 5000;
  int64_t counts[5][5] = {};
  for (int seed = 0; seed < kSeeds; ++seed) {
    std::vector<int64_t> order = labels_of(BatchLoader::make(data, 5, uint64_t(seed), false, 0));
    for (size_t place = 0; place < 5; ++place) ++counts[place][order[place]];
  }
  for (auto& row : counts)
    for (int64_t count : row) CHECK(std::abs(count - kSeeds / 5) < 150);  // 5 standard deviations of 28.3
}

TEST_CASE("pixels become v / 127.5 - 1 and keep their labels", "[data]") {
  Dataset data = numbered(100);
  Batch batch = BatchLoader::make(data, 100, 3, false, 0);
  CHECK(batch.images.dtype() == DType::f32);
  for (int64_t n = 0; n < 100; ++n) {
    int64_t label = batch.labels.data<int64_t>()[n];
    CHECK(batch.images.data<float>()[2 * n] == float(2 * label) / 127.5f - 1);
    CHECK(batch.images.data<float>()[2 * n + 1] == float(2 * label + 1) / 127.5f - 1);
  }
  data.labels = {};
  CHECK(!BatchLoader::make(data, 10, 3, false, 0).labels.defined());
  CHECK_SAME(BatchLoader::make(data, 10, 3, false, 0).images, batch.images.rows(0, 10));
}

TEST_CASE("half of the images are flipped, by position, and whole pixels stay together", "[data]") {
  Dataset data{"colour", empty({1, 1, 2, 3}, DType::u8), {}, {}, ""};
  for (int i = 0; i < 6; ++i) data.images.data<uint8_t>()[i] = uint8_t(i);
  Batch batch = BatchLoader::make(data, 1000, 5, true, 0);
  int64_t flipped = 0;
  for (int64_t n = 0; n < 1000; ++n) {
    const float* pixel = batch.images.data<float>() + 6 * n;
    auto value = [](int v) { return float(v) / 127.5f - 1; };
    bool is_flipped = pixel[0] == value(3);
    for (int i = 0; i < 6; ++i) REQUIRE(pixel[i] == value(is_flipped ? (i + 3) % 6 : i));
    flipped += is_flipped;
  }
  CHECK(std::abs(flipped - 500) < 80);  // 5 standard deviations of 15.8
  CHECK_SAME(BatchLoader::make(data, 10, 5, true, 7).images, batch.images.rows(70, 80));
}

TEST_CASE("the thread gives what make gives, from any batch on, with any number prepared", "[data]") {
  Dataset data = load("synthetic:blobs", "train", 8, 0, 37);
  for (int prefetch : {0, 1, 2, 7}) {
    for (int64_t first : {0, 1, 5, 100000}) {
      BatchLoader loader(data, 10, 9, true, first, prefetch);
      for (int64_t index = first; index < first + 12; ++index) {
        Batch got = loader.next(), expected = BatchLoader::make(data, 10, 9, true, index);
        CAPTURE(prefetch, index);
        CHECK_SAME(got.images, expected.images);
        CHECK_SAME(got.labels, expected.labels);
      }
    }
  }
}

TEST_CASE("a loader can be dropped at any time", "[data]") {
  Dataset data = numbered(50);
  for (int taken = 0; taken < 50; ++taken) {
    BatchLoader loader(data, 4, 1, false, 0, 3);
    for (int i = 0; i < taken % 5; ++i) loader.next();
  }
  SUCCEED("no deadlock");
}

TEST_CASE("an Error of the thread comes out of next, after the batches before it", "[data]") {
  Dataset data = numbered(10);
  int64_t last = INT64_MAX / 4 - 1;  // the last batch whose positions fit in 64 bits
  for (int prefetch : {0, 1, 3}) {
    BatchLoader loader(data, 4, 1, false, last - 1, prefetch);
    CHECK(labels_of(loader.next()) == labels_of(BatchLoader::make(data, 4, 1, false, last - 1)));
    CHECK(labels_of(loader.next()) == labels_of(BatchLoader::make(data, 4, 1, false, last)));
    CHECK_FAILS(Error::Kind::argument, loader.next(), "beyond position 2^63");
    CHECK_FAILS(Error::Kind::argument, loader.next(), "beyond position 2^63");
  }
}

TEST_CASE("a loader refuses wrong arguments at once", "[data]") {
  Dataset data = numbered(10);
  CHECK_FAILS(Error::Kind::argument, BatchLoader(data, 0, 1, false), "batch > 0");
  CHECK_FAILS(Error::Kind::argument, BatchLoader(data, 4, 1, false, -1), "index >= 0");
  CHECK_FAILS(Error::Kind::argument, BatchLoader(data, 4, 1, false, 0, -1), "prefetch");
  Dataset mismatched = data;
  mismatched.labels = arange(9);
  CHECK_FAILS(Error::Kind::argument, BatchLoader(mismatched, 4, 1, false), "labels i64[10]", "i64[9]");
  CHECK_FAILS(Error::Kind::argument, BatchLoader({}, 4, 1, false), "images");
}
