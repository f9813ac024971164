// What scoring is made of, below the command line: the classifier, arrays, the choice of rows, names, tables and
// curves.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "apps/compare.h"
#include "apps/feature_net.h"
#include "apps/image_source.h"
#include "autograd/gradcheck.h"
#include "diffusion/metrics/mixture.h"
#include "tensor/io/image.h"
#include "tensor/io/npy.h"
#include "tensor/io/safetensors.h"
#include "tensor/random.h"
#include "tests/io_support.h"

using namespace mote;
using namespace mote::apps;
using namespace mote::test;

namespace {

Dataset blobs(const std::string& split = "train", int64_t limit = 400) {
  return load_dataset({.spec = "synthetic:blobs", .split = split, .size = 8, .channels = 0, .limit = limit});
}

/// Trained anew for each test that asks: a static one would hold tensors while other tests look at the allocator.
FeatureNet blob_net() {
  Dataset test = blobs("test", 200);
  return train_feature_net(blobs(), &test, true);
}

Bytes npy_bytes(const Tensor& tensor) {
  ScratchFolder folder;
  io::save_npy(folder.path("a.npy"), tensor);
  return io::read_file(folder.path("a.npy"), 1 << 20);
}

/// An npy file with this header text.
Bytes npy_with(const std::string& header, const std::string& data, char version = 1) {
  std::string front =
      std::string("\x93NUMPY", 6) + version + '\0' + char(header.size() & 0xff) + char(header.size() >> 8);
  if (version > 1) front += std::string(2, '\0');
  return bytes_of(front + header + data);
}

}  // namespace

// ---- The classifier ------------------------------------------------------------------------------------------------

TEST_CASE("the classifier has the shapes that its images ask for", "[classifier]") {
  struct Case {
    int64_t height, width, channels, stages;
  };
  for (auto [height, width, channels, stages] : {Case{28, 28, 1, 2},
                                                 {32, 32, 3, 2},
                                                 {8, 8, 3, 2},
                                                 {1, 1, 1, 2},
                                                 {7, 13, 2, 2},
                                                 {33, 20, 1, 3},
                                                 {64, 64, 1, 3}}) {
    nn::ClassifierConfig config{.height = height, .width = width, .channels = channels, .classes = 4, .features = 24};
    INFO(height << " x " << width);
    CHECK(config.stages() == stages);
    nn::Classifier net(config, 1);
    Tensor x = normal({3, height, width, channels}, DType::f32, Generator{2});
    Tensor features = net.features(x);
    CHECK((features.shape() == Shape{3, 24}));
    CHECK((net.forward(x).shape() == Shape{3, 4}));
    // An image's features do not depend on what stands beside it.
    CHECK_CLOSE(net.features(x.rows(1, 2)), features.rows(1, 2), 1e-6, 1e-5);
    CHECK(nn::classifier_config_from_json(nn::to_json(config)) == config);
  }
}

TEST_CASE("the gradient of the classifier matches differences", "[classifier][grad]") {
  nn::Classifier net({.height = 6, .width = 5, .channels = 2, .classes = 3, .features = 7},
                     3);  // both sides are filled up
  net.to(DType::f64);
  GradReport report =
      gradcheck([&](In t) { return net.forward(t[0]); }, {normal({2, 6, 5, 2}, DType::f64, Generator{4})});
  INFO(report.where);
  CHECK(report.checked == 120);
  CHECK(report.worst_relative < 1e-8);  // f64, step 1e-5: truncation about 1e-10
}

TEST_CASE("the classifier refuses other images and configurations out of range", "[classifier]") {
  nn::Classifier net({.height = 8, .width = 8, .channels = 1, .classes = 3}, 1);
  CHECK_FAILS(Error::Kind::argument, net.forward(zeros({2, 8, 8, 3})),
              "needs images [N, 8, 8, 1], got f32[2, 8, 8, 3]");
  CHECK_FAILS(Error::Kind::argument, net.forward(zeros({8, 8, 1})), "got f32[8, 8, 1]");
  CHECK_FAILS(Error::Kind::usage, nn::Classifier({.classes = 1}, 1), "classes must be 2 to 100000, got 1");
  CHECK_FAILS(Error::Kind::usage, nn::Classifier({.height = 0}, 1), "pixels a side");
  CHECK_FAILS(Error::Kind::checkpoint, nn::classifier_config_from_json("[]"), "not a json object");
  CHECK_FAILS(Error::Kind::checkpoint, nn::classifier_config_from_json("{\"height\": 2.5}"), "'height'");
  std::string more = nn::to_json(nn::ClassifierConfig{});
  more.insert(1, "\"depth\":3,");
  CHECK_FAILS(Error::Kind::checkpoint, nn::classifier_config_from_json(more), "unknown key 'depth'");
}

TEST_CASE("training the classifier finds the classes of images it has not seen", "[classifier]") {
  FeatureNet net = blob_net();
  CHECK(net.accuracy > 0.95);  // the class of a blob is its colour
  CHECK(net.held_out == 200);
  CHECK(net.data_hash == blobs().hash);
  ImageFeatures seen = image_features(net, blobs("test", 70).images);  // two batches, the second one cut
  CHECK((seen.features.shape() == Shape{70, 128}));
  CHECK((seen.labels.shape() == Shape{70}));
  CHECK_CLOSE(image_features(net, blobs("test", 70).images.rows(3, 4)).features, seen.features.rows(3, 4), 1e-6, 1e-5);
}

TEST_CASE("the same data give the same classifier for any number of threads, other data another one",
          "[classifier][threads]") {
  Dataset few = blobs("train", 60);
  FeatureNet one, three, other;
  {
    Threads set(1);
    one = train_feature_net(few, nullptr, true);
  }
  {
    Threads set(3);
    three = train_feature_net(few, nullptr, true);
  }
  CHECK(one.held_out == 6);  // every tenth of 60
  CHECK(one.hash == three.hash);
  CHECK(one.accuracy == three.accuracy);
  CHECK(one.name() == "LeNet-" + one.hash.substr(0, 6));
  other = train_feature_net(blobs("test", 60), nullptr, true);
  CHECK(other.hash != one.hash);
}

TEST_CASE("a classifier comes back from its file as it was", "[classifier]") {
  ScratchFolder folder;
  std::string path = folder.path("net.safetensors");
  FeatureNet net = blob_net();
  save_feature_net(path, net);
  FeatureNet loaded = load_feature_net(path);
  CHECK(loaded.hash == net.hash);
  CHECK(loaded.accuracy == net.accuracy);
  CHECK(loaded.held_out == net.held_out);
  CHECK(loaded.recipe == net.recipe);
  Tensor images = blobs("test", 20).images;
  CHECK_SAME(image_features(loaded, images).features, image_features(net, images).features);

  CHECK(feature_net(path, {}, true).hash == loaded.hash);
  DataOptions same{.spec = "synthetic:blobs", .split = "test", .size = 8, .channels = 0, .limit = 400};
  CHECK(feature_net(path, same, true).hash == loaded.hash);  // the split is not what it was trained on
  DataOptions other = same;
  other.limit = 300;
  CHECK_FAILS(Error::Kind::checkpoint, feature_net(path, other, true), "was trained on other images",
              net.data_hash);
  CHECK_FAILS(Error::Kind::usage, feature_net(folder.path("none.safetensors"), {}, true), "there is no file");
  CHECK_FAILS(Error::Kind::usage, feature_net("", {}, true), "--classifier FILE");
  CHECK_FAILS(Error::Kind::resource, feature_net(folder.path("none/net.safetensors"), same, true), "cannot write");
  CHECK_FAILS(Error::Kind::data, image_features(loaded, zeros({2, 9, 9, 3}, DType::u8)),
              "trained on images of 8 x 8 x 3");
}

TEST_CASE("files that are no classifier are refused", "[classifier]") {
  ScratchFolder folder;
  std::string path = folder.path("net.safetensors");
  io::save_safetensors(path, {{"a", zeros({2})}}, {});
  CHECK_FAILS(Error::Kind::checkpoint, load_feature_net(path), path, "'format' is missing");
  io::save_safetensors(path, {{"a", zeros({2})}}, {{"format", "mote-checkpoint"}, {"version", "1"}});
  CHECK_FAILS(Error::Kind::checkpoint, load_feature_net(path), "needed is mote-classifier");
  save_feature_net(path, blob_net());
  io::Safetensors file = io::load_safetensors(path);
  std::vector<std::pair<std::string, Tensor>> tensors(file.tensors.begin(), file.tensors.end());
  tensors.pop_back();
  io::save_safetensors(path, tensors, file.metadata);
  CHECK_FAILS(Error::Kind::checkpoint, load_feature_net(path), "missing: '");
}

TEST_CASE("a classifier needs labels, two classes and some images", "[classifier]") {
  Dataset data = blobs("train", 40), unlabelled = data, single = data, few = blobs("train", 8),
          larger = load_dataset({.spec = "synthetic:blobs", .split = "test", .size = 16, .channels = 0, .limit = 40});
  unlabelled.labels = {};
  single.labels = zeros({40}, DType::i64);
  single.class_names = {};
  CHECK_FAILS(Error::Kind::usage, train_feature_net(unlabelled, nullptr, true), "have no labels");
  CHECK_FAILS(Error::Kind::usage, train_feature_net(single, nullptr, true), "of one class");
  CHECK_FAILS(Error::Kind::data, train_feature_net(few, nullptr, true), "8 images are too few");
  CHECK_FAILS(Error::Kind::data, train_feature_net(data, &larger, true), "u8[40, 16, 16, 3]");
}

// ---- Arrays --------------------------------------------------------------------------------------------------------

TEST_CASE("arrays come back from npy as they were saved", "[npy]") {
  ScratchFolder folder;
  for (DType dtype : {DType::f32, DType::f64, DType::i32, DType::i64, DType::u8})
    for (const Shape& shape : {Shape{}, Shape{3}, Shape{0, 4}, Shape{2, 3, 5}, Shape{1, 2, 3, 4}}) {
      Tensor x = arange(std::max<int64_t>(shape.numel(), 1)).rows(0, shape.numel()).clone().to(dtype).view(shape);
      io::save_npy(folder.path("a.npy"), x);
      INFO(describe(x));
      Tensor got = io::load_npy(folder.path("a.npy"));
      CHECK(got.dtype() == dtype);
      CHECK_SAME(got, x);
    }
}

TEST_CASE("npy headers are read as NumPy may write them", "[npy]") {
  ScratchFolder folder;
  std::string path = folder.path("a.npy"), data(8, '\x01');
  auto load = [&](const Bytes& bytes) {
    write_bytes(path, bytes);
    return io::load_npy(path);
  };
  CHECK((load(npy_with("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 4), }     \n", data)).shape() ==
         Shape{2, 4}));
  CHECK((load(npy_with("{'shape':(8,),'fortran_order':False,'descr':'|u1'}", data, 2)).shape() == Shape{8}));
  CHECK((load(npy_with("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n", data, 3)).shape() == Shape{2}));

  auto refused = [&](const std::string& header, const std::string& words) {
    CHECK_FAILS(Error::Kind::data, load(npy_with(header, data)), path, words);
  };
  refused("{'descr': '<f4', 'fortran_order': True, 'shape': (2,), }", "Fortran order");
  refused("{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }", "'>f4'");
  refused("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", "needs 12 bytes, the file has 8");
  refused("{'descr': '|u1', 'fortran_order': False, 'shape': (7,), }", "needs 7 bytes, the file has 8");
  refused("{'descr': '|u1', 'fortran_order': False, 'shape': (8, -1), }", "a size of 0 or more");
  refused("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2, 2, 1, 1), }", "5 axes");
  refused("{'descr': '|u1', 'fortran_order': False, 'shape': (4611686018427387904, 4, 0), }", "ask for more than");
  refused("{'descr': '|u1', 'fortran_order': False, }", "is missing");
  refused("{'descr': '|u1', 'fortran_order': Maybe, 'shape': (8,), }", "'False' is needed");
  refused("{'descr': '|u1', 'fortran_order': False, 'shape': (8,), 'more': 1}", "'more' is not known");
  refused("{'descr': '|u1", "without its closing quote");
  CHECK_FAILS(Error::Kind::data, load(bytes_of("not an array at all")), "is no npy file");
  CHECK_FAILS(Error::Kind::data, load(npy_with("{}", "", 9)), "npy format 9.0");
  CHECK_FAILS(Error::Kind::data, io::load_npy(folder.path("none.npy")), "none.npy");
}

TEST_CASE("damaged npy files are refused or read, never anything else", "[npy][fuzz]") {
  ScratchFolder folder;
  std::string path = folder.path("a.npy");
  Bytes whole = npy_bytes(normal({3, 5}, DType::f32, Generator{1}));
  Mutator mutate(7);
  int refused = 0;
  for (int round = 0; round < 2000; ++round) {
    write_bytes(path, mutate(whole));
    try {
      Tensor read = io::load_npy(path);
      CHECK(read.nbytes() <= int64_t(whole.size()) + 64);
    } catch (const Error& error) {
      INFO(error.what());
      CHECK(error.kind() == Error::Kind::data);
      ++refused;
    }
  }
  CHECK(refused > 1000);  // most of the damage is noticed
}

TEST_CASE("images of an array are rounded to the levels of a picture", "[scores]") {
  Tensor images = normal({4, 5, 6, 3}, DType::f32, Generator{5});  // a third lies outside [-1, 1]
  Tensor bytes = to_bytes(images);
  for (int64_t n = 0; n < 4; ++n)
    CHECK_SAME(bytes.rows(n, n + 1).view({5, 6, 3}), io::image_grid(images.rows(n, n + 1), 1, 0));

  ScratchFolder folder;
  auto load = [&](const Tensor& array, const DataOptions& options = {}) {
    io::save_npy(folder.path("a.npy"), array);
    return load_images(folder.path("a.npy"), options);
  };
  CHECK_SAME(load(images).images, bytes);
  CHECK_SAME(load(images.to(DType::f64)).images, bytes);
  CHECK_SAME(load(bytes).images, bytes);
  CHECK(load(bytes).hash == load(images).hash);
  CHECK((load(images, {.spec = "", .size = 4, .channels = 1, .limit = 2}).images.shape() == Shape{2, 4, 4, 1}));
  CHECK_FAILS(Error::Kind::data, load(images.view({20, 6, 3})), "f32[20, 6, 3]");
  CHECK_FAILS(Error::Kind::data, load(zeros({2, 4, 4, 2})), "1 or 3");
  CHECK_FAILS(Error::Kind::data, load(zeros({2, 4, 4, 1}, DType::i64)), "i64[2, 4, 4, 1]");
  CHECK_FAILS(Error::Kind::data, load(full({2, 4, 4, 1}, 128)), "in size on average");
  Tensor bad = images.clone();
  bad.data<float>()[100] = NAN;
  CHECK_FAILS(Error::Kind::data, load(bad), "image 1 of 4 contains a NaN");
}

TEST_CASE("a folder of saved samples is the array they were saved from", "[scores]") {
  ScratchFolder folder;
  Tensor images = normal({3, 6, 6, 3}, DType::f32, Generator{6});
  std::filesystem::create_directory(folder.path("pictures"));
  for (int64_t n = 0; n < 3; ++n)
    io::save_png(folder.path("pictures") + "/" + std::to_string(n) + ".png",
                 io::image_grid(images.rows(n, n + 1), 1, 0));
  io::save_npy(folder.path("a.npy"), images);
  CHECK_SAME(load_images(folder.path("pictures"), {}).images, load_images(folder.path("a.npy"), {}).images);
  CHECK(!is_data_spec(folder.path("pictures")));
  CHECK(!is_data_spec("a.npy"));
  CHECK(is_data_spec("synthetic:blobs"));
}

TEST_CASE("features come from npy or safetensors", "[scores]") {
  ScratchFolder folder;
  Tensor x = normal({5, 3}, DType::f32, Generator{7});
  io::save_npy(folder.path("x.npy"), x);
  CHECK_SAME(load_features(folder.path("x.npy")), x);
  io::save_safetensors(folder.path("one.safetensors"), {{"anything", x.to(DType::f64)}}, {});
  CHECK_SAME(load_features(folder.path("one.safetensors")), x.to(DType::f64));
  io::save_safetensors(folder.path("two.safetensors"), {{"features", x}, {"labels", zeros({5})}}, {});
  CHECK_SAME(load_features(folder.path("two.safetensors")), x);
  io::save_safetensors(folder.path("none.safetensors"), {{"a", x}, {"b", x}}, {});
  CHECK_FAILS(Error::Kind::data, load_features(folder.path("none.safetensors")), "none of them called 'features'");
  io::save_npy(folder.path("flat.npy"), x.view({15}));
  CHECK_FAILS(Error::Kind::data, load_features(folder.path("flat.npy")), "f32[15]");
  CHECK_FAILS(Error::Kind::usage, load_features("x.csv"), "neither .npy nor .safetensors");
}

TEST_CASE("rows are chosen without replacement, by the seed alone", "[scores]") {
  std::vector<int64_t> chosen = choose_rows(100, 30, 1);
  CHECK(chosen.size() == 30);
  CHECK(std::is_sorted(chosen.begin(), chosen.end()));
  CHECK(std::set<int64_t>(chosen.begin(), chosen.end()).size() == 30);
  CHECK(chosen.front() >= 0);
  CHECK(chosen.back() < 100);
  CHECK(choose_rows(100, 30, 1) == chosen);
  CHECK(choose_rows(100, 30, 2) != chosen);
  std::vector<int64_t> all = choose_rows(5, 9, 3);
  CHECK(all == std::vector<int64_t>{0, 1, 2, 3, 4});

  for (auto [rows, count, each] : {std::array<int64_t, 3>{100, 30, 30}, {101, 80, 50}, {3, 1, 1}, {1, 5, 0}}) {
    auto [one, other] = choose_halves(rows, count, 4);
    CHECK(int64_t(one.size()) == each);
    CHECK(int64_t(other.size()) == each);
    std::set<int64_t> both(one.begin(), one.end());
    both.insert(other.begin(), other.end());
    CHECK(int64_t(both.size()) == 2 * each);
  }
  Tensor x = from({0, 1, 2, 3, 4, 5, 6, 7}, {4, 2}, DType::i32);
  CHECK_SAME(take_rows(x, {3, 0, 3}), from({6, 7, 0, 1, 6, 7}, {3, 2}, DType::i32));
  CHECK_SAME(take_rows(x.rows(1, 4), {2}), from({6, 7}, {1, 2}, DType::i32));  // a slice that starts mid-buffer
}

// ---- Scores and tables ---------------------------------------------------------------------------------------------

TEST_CASE("the name of a score holds its features and its count", "[scores]") {
  const Metric& fd = metric_named("fd");
  CHECK(score_name("LeNet-1a2b3c", fd, 5000) == "LeNet-1a2b3c-FD@5k");
  CHECK(score_name("LeNet-1a2b3c", fd, 50000) == "LeNet-1a2b3c-FD@50k");
  CHECK(score_name("features", metric_named("rec"), 1234) == "features-recall@1234");
  CHECK(score_name("features", fd, 100) == "features-FD@100");
  CHECK(score_name("LeNet-1a2b3c", metric_named("mix0.2"), 5000) == "LeNet-1a2b3c-mixed(0.2)@5k");
  CHECK(score_name("LeNet-1a2b3c", metric_named("near"), 5000) == "nearest-training@5k");   // no features are in it
  CHECK_FAILS(Error::Kind::usage, metric_named("fid"), "'fid' is unknown", "fd, kid, prec, rec", "did you mean 'fd'");
}

TEST_CASE("only the metrics asked for are computed", "[scores]") {
  auto set = [](uint64_t seed) {
    Generator generator{seed};
    Tensor labels = randint(0, 3, {40}, generator);
    return ImageFeatures{normal({40, 6}, DType::f32, generator), labels,
                         softmax(normal({40, 3}, DType::f32, generator))};
  };
  ImageFeatures a = set(1), b = set(2);
  CHECK(score(a, b, 3, {"fd"}, {}).size() == 1);
  CHECK(score(a, b, 3, {"kid"}, {}).size() == 2);  // and its standard deviation
  std::vector<std::string> keys = {"fd", "kid", "rec", "tv"};
  for (const Metric& metric : all_metrics())
    if (metric.key.starts_with("mix")) keys.push_back(metric.key);
  Scores all = score(a, b, 3, keys, {});
  for (const Metric& metric : all_metrics()) CHECK(all.count(metric.key) == (metric.by_pixels ? 0 : 1));
  CHECK(score(a, b, 3, {"mix0.2"}, {}) ==
        Scores{{"mix0.2", metrics::mode_mixture(a.probabilities, {0.2})[0]}});   // of the samples, not of the real ones
  CHECK(score(a, a, 3, {"tv"}, {}).at("tv") == 0);
  CHECK(score({a.features, {}}, {b.features, {}}, 0, {"tv", "mix0.2"}, {}).empty());  // features alone have no classes
  CHECK(settings_text({"fd", "kid"}, {}, 40) == "KID over 100 subsets of 20 images");
  CHECK(settings_text({"fd", "tv"}, {}, 40).empty());
}

namespace {

Cell done_cell(const std::string& sampler, int64_t steps, uint64_t seed, double fd) {
  Cell cell{.sampler = sampler,
            .steps = steps,
            .seed = seed,
            .calls = steps + 1,
            .refused = {},
            .failed = {},
            .scores = {{"fd", fd}, {"kid", fd / 100}}};
  cell.is_done = true;
  cell.seconds = 1.5;
  return cell;
}

Comparison small_comparison() {
  Comparison comparison;
  comparison.cells = {done_cell("ddim", 5, 0, 10), done_cell("ddim", 5, 1, 13), done_cell("ddim", 10, 0, 6),
                      done_cell("ddim", 10, 1, 6)};
  Cell refused{.sampler = "<f&n>", .steps = 3, .refused = "needs \"4\" steps, or more", .failed = {}, .scores = {}};
  comparison.cells.push_back(refused);
  comparison.floor = {"train against test", 2000, true, {{"fd", 0.5}}};
  comparison.metrics = {metric_named("fd"), metric_named("kid")};
  comparison.features = "LeNet-abcdef";
  comparison.count = 5000;
  comparison.title = "a <run>";
  comparison.facts = {{"seed", "0 & 1"}};
  return comparison;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

int count_of(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

}  // namespace

TEST_CASE("the table has a line a sampler and steps, with mean and deviation over the seeds", "[compare]") {
  std::vector<std::string> lines = lines_of(table_text(small_comparison()));
  REQUIRE(lines.size() == 5);
  CHECK(contains(lines[0], "LeNet-abcdef-FD@5k"));
  CHECK(contains(lines[1], "11.5 +- 2.121"));  // 10 and 13: sqrt(4.5)
  CHECK(contains(lines[2], "6 +- 0"));
  CHECK(contains(lines[3], "refused: needs \"4\" steps, or more"));
  CHECK(contains(lines[4], "floor"));
  CHECK(contains(lines[4], "0.5"));
  CHECK(contains(lines[4], "train against test, 2,000 images each"));
}

TEST_CASE("the CSV has a line a cell, its commas and quotes escaped", "[compare]") {
  std::vector<std::string> lines = lines_of(csv_text(small_comparison()));
  REQUIRE(lines.size() == 7);
  CHECK(lines[0].starts_with(
      "sampler,steps,seed,network_calls,images,state,seconds,LeNet-abcdef-FD@5k,LeNet-abcdef-KID@5k,"));
  size_t more = all_metrics().size() - 7;   // columns behind tv, empty here
  CHECK(lines[2] == "ddim,5,1,6,5000,done,1.5,13,0.13" + std::string(7 + more, ','));
  CHECK(lines[5] == "<f&n>,3,0,0,5000,refused,0" + std::string(9 + more, ',') + "\"needs \"\"4\"\" steps, or more\"");
  CHECK(lines[6] == "floor,,,,2000,done,,0.5" + std::string(8 + more, ',') + "train against test");
}

TEST_CASE("the curves are a whole SVG file, with a path for each drawn sampler and the floor", "[compare]") {
  std::string svg = svg_text(small_comparison());
  CHECK(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 640 "));
  CHECK(count_of(svg, "<svg") == 3);
  CHECK(count_of(svg, "</svg>") == 3);
  CHECK(count_of(svg, "<path") == 2 + 2 + 1);  // the legend, FD with its floor, KID, which has none
  CHECK(contains(svg, ">ddim</text>"));
  CHECK(!contains(svg, "f&amp;n"));  // nothing to draw
  Comparison nothing = small_comparison();
  nothing.cells = {nothing.cells.back()};
  CHECK(contains(svg_text(nothing), "nothing to plot yet"));
  CHECK(count_of(svg_text(nothing), "<svg") == 1);
}

TEST_CASE("the page shows all cells and needs no other file", "[compare]") {
  std::string html = html_text(small_comparison());
  CHECK(contains(html, "<title>a &lt;run&gt; - samplers compared - mote</title>"));
  CHECK(contains(html, "<td>11.5 +- 2.121</td>"));
  CHECK(contains(html, "<td>&lt;f&amp;n&gt;</td>"));
  CHECK(contains(html, "refused: needs &quot;4&quot; steps, or more"));
  CHECK(contains(html, "0 &amp; 1"));
  CHECK(count_of(html, "<svg") == 2 + 2);  // two plots, two lines of the legend
  for (const char* outside : {"http:", "https:", "src=", "href=", "@import"}) CHECK(!contains(html, outside));
  nlohmann::ordered_json json = to_json(small_comparison());
  CHECK(json["cells"][4]["state"] == "refused");
  CHECK(json["cells"][1]["values"]["fd"] == 13);
  CHECK(json["metrics"]["fd"] == "LeNet-abcdef-FD@5k");
  CHECK(json["floor"]["values"]["fd"] == 0.5);
}

TEST_CASE("stored cells come back, and other settings are named", "[compare]") {
  ScratchFolder folder;
  CellStore store(folder.path("compare"));
  nlohmann::ordered_json settings = {{"count", 5000}, {"checkpoint", "abc"}, {"classifier", "def"}};
  Cell cell = done_cell("ddim", 5, 7, 10.25), failed = cell, fresh = done_cell("ddim", 6, 7, 0);
  failed.steps = 9;
  failed.failed = "step 3 gave a state that is not finite";
  store.save(cell, settings);
  store.save(failed, settings);
  store.save(Floor{"halves", 2000, true, {{"fd", 0.5}}}, settings);

  Cell again{.sampler = "ddim", .steps = 5, .seed = 7, .refused = {}, .failed = {}, .scores = {}};
  store.load(again, settings);
  CHECK(again.is_done);
  CHECK(again.scores == cell.scores);
  CHECK(again.seconds == 1.5);
  Cell broken{.sampler = "ddim", .steps = 9, .seed = 7, .refused = {}, .failed = {}, .scores = {}};
  store.load(broken, settings);
  CHECK(!broken.is_done);
  CHECK(broken.failed == failed.failed);
  fresh.is_done = false;
  store.load(fresh, settings);
  CHECK(!fresh.is_done);
  Floor floor;
  store.load(floor, settings);
  CHECK(floor.is_done);
  CHECK(floor.count == 2000);
  CHECK(floor.how == "halves");
  CHECK(floor.scores.at("fd") == 0.5);

  nlohmann::ordered_json other = settings;
  other["count"] = 4000;
  other["checkpoint"] = "xyz";
  CHECK_FAILS(Error::Kind::usage, store.load(again, other), "--overwrite", "count: stored 5000, now 4000",
              "checkpoint: stored \"abc\", now \"xyz\"");
  other = settings;
  other.erase("classifier");  // not known yet: not compared
  store.load(again, other);
  other["prediction"] = "v";  // not known then: another setting
  CHECK_FAILS(Error::Kind::usage, store.load(again, other), "prediction: stored null");

  for (const char* damage :
       {"", "{", "[]", "{\"format\":\"mote-compare-1\"}", "{\"format\":3,\"settings\":{},\"scores\":{}}",
        "{\"format\":\"mote-compare-1\",\"settings\":[],\"scores\":{}}"}) {
    write_bytes(folder.path("compare/cells/ddim-5-seed7.json"), bytes_of(damage));
    CHECK_FAILS(Error::Kind::data, store.load(again, settings), "ddim-5-seed7.json", "is no finished cell");
  }
  write_bytes(folder.path("compare/cells/notes.txt"), bytes_of("mine"));
  store.clear();
  CHECK(!std::filesystem::exists(folder.path("compare/cells/floor.json")));
  CHECK(std::filesystem::exists(folder.path("compare/cells/notes.txt")));
}
