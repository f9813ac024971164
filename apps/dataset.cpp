#include "apps/dataset.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <optional>
#include <tuple>

#include "apps/pictures.h"
#include "apps/vectors.h"
#include "tensor/error.h"
#include "tensor/io/cifar.h"
#include "tensor/io/csv.h"
#include "tensor/io/file.h"
#include "tensor/io/idx.h"
#include "tensor/io/image.h"
#include "tensor/random.h"

namespace mote::apps {
namespace {

namespace fs = std::filesystem;

bool is_test(const DataOptions& options) { return options.split == "test"; }

/// DIR/NAME or DIR/NAME.gz, whichever is there, the plain one first.
std::optional<std::string> find_file(const fs::path& folder, const std::string& name) {
  for (const char* ending : {"", ".gz"}) {
    fs::path path = folder / (name + ending);
    std::error_code ignored;
    if (fs::is_regular_file(path, ignored)) return path.string();
  }
  return {};
}

void require_folder(const std::string& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error))
    fail(Error::Kind::data, folder.empty() ? "the folder's name is empty" : folder + ": there is no such folder");
}

// ---- Files of known layout -----------------------------------------------------------------------------------------

std::string idx_name(const DataOptions& options, const char* content) {
  return concat_text(is_test(options) ? "t10k" : "train", "-", content, "-ubyte");
}
std::string images_name(const DataOptions& options) { return idx_name(options, "images-idx3"); }
std::string labels_name(const DataOptions& options) { return idx_name(options, "labels-idx1"); }

Dataset load_idx_folder(const std::string& folder, const DataOptions& options) {
  require_folder(folder);
  std::optional<std::string> images = find_file(folder, images_name(options)),
                             labels = find_file(folder, labels_name(options));
  if (!images || !labels)
    fail(Error::Kind::data, folder, ": ", images ? labels_name(options) : images_name(options),
         " is missing (with or without .gz)");
  io::LabelledImages set = io::load_idx(*images, *labels);
  return {options.spec, set.images, set.labels, {}, {}};
}

Dataset load_fashion_mnist(const DataOptions& options) {
  std::vector<std::string> folders;
  if (const char* root = std::getenv("MOTE_DATA"); root && *root) folders = {root, concat_text(root, "/fashion-mnist")};
  folders.push_back("/usr/share/datasets/fashion-mnist");  // Debian's dataset-fashion-mnist
  auto found = std::find_if(folders.begin(), folders.end(), [&](const std::string& folder) {
    return find_file(folder, images_name(options)).has_value();
  });
  if (found == folders.end()) {
    std::string looked_in;
    for (const std::string& folder : folders) looked_in += (looked_in.empty() ? "" : ", ") + folder;
    fail(Error::Kind::data, "fashion-mnist: ", images_name(options), ".gz is in none of ", looked_in,
         "; install it with `apt install dataset-fashion-mnist`, or set MOTE_DATA to the folder that has it");
  }
  Dataset set = load_idx_folder(*found, options);
  set.class_names = {"T-shirt/top", "trouser", "pullover", "dress", "coat",
                     "sandal",      "shirt",   "sneaker",  "bag",   "ankle boot"};
  return set;
}

Dataset load_cifar10_folder(const std::string& folder, const DataOptions& options) {
  require_folder(folder);
  std::vector<std::string> paths;
  if (is_test(options)) {
    if (auto path = find_file(folder, "test_batch.bin")) paths.push_back(*path);
  } else {
    constexpr int kMostBatches = 99;
    int last = 0;
    for (int number = 1; number <= kMostBatches; ++number) {
      auto path = find_file(folder, concat_text("data_batch_", number, ".bin"));
      if (!path) continue;
      if (number != last + 1)
        fail(Error::Kind::data, folder, ": data_batch_", last + 1, ".bin is missing, data_batch_", number,
             ".bin is there");
      last = number;
      paths.push_back(*path);
    }
  }
  if (paths.empty())
    fail(Error::Kind::data, folder, ": ", is_test(options) ? "test_batch.bin" : "data_batch_1.bin",
         " is missing (with or without .gz)");
  io::LabelledImages set = io::load_cifar10(paths);
  Dataset data{options.spec, set.images, set.labels, {}, {}};
  if (auto path = find_file(folder, "batches.meta.txt")) data.class_names = io::load_cifar10_names(*path);
  return data;
}

Dataset load_csv_file(const std::string& path, const DataOptions& options) {
  io::LabelledImages set = io::load_digits_csv(path);
  int64_t N = set.labels.numel(), train = N * 4 / 5;
  int64_t begin = is_test(options) ? train : 0, end = is_test(options) ? N : train;
  if (begin == end) fail(Error::Kind::data, path, ": ", N, " lines are too few for a ", options.split, " part");
  return {options.spec, set.images.rows(begin, end), set.labels.rows(begin, end), {}, {}};
}

// ---- Folders of pictures -------------------------------------------------------------------------------------------

struct Pictures {
  std::vector<std::string> paths;
  std::vector<int64_t> labels;  // as many as paths, or none
  std::vector<std::string> class_names;
};

bool has_picture_name(const fs::path& path) {
  std::string ending = path.extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(), [](unsigned char c) { return char(std::tolower(c)); });
  constexpr std::array<std::string_view, 7> kEndings{".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".pnm"};
  return std::find(kEndings.begin(), kEndings.end(), ending) != kEndings.end();
}

/// Names of pictures and of folders in `folder`, each sorted; hidden ones are left out.
std::pair<std::vector<std::string>, std::vector<std::string>> list_folder(const fs::path& folder) {
  require_folder(folder.string());
  std::vector<std::string> pictures, folders;
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    std::string name = entry->path().filename().string();
    std::error_code ignored;
    if (name[0] == '.') continue;
    if (entry->is_directory(ignored)) folders.push_back(name);
    else if (entry->is_regular_file(ignored) && has_picture_name(entry->path())) pictures.push_back(name);
  }
  if (error) fail(Error::Kind::data, folder.string(), ": cannot be listed: ", error.message());
  std::sort(pictures.begin(), pictures.end());
  std::sort(folders.begin(), folders.end());
  return {pictures, folders};
}

/// Whether the folders are splits: "train" beside "car" is a class.
bool has_splits(const std::vector<std::string>& folders) {
  auto is_split = [](const std::string& name) { return name == "train" || name == "test" || name == "val"; };
  return std::count(folders.begin(), folders.end(), "train") == 1 &&
         std::all_of(folders.begin(), folders.end(), is_split);
}

Pictures list_pictures(const std::string& given, const DataOptions& options) {
  fs::path root = given;
  auto [pictures, folders] = list_folder(root);
  if (has_splits(folders)) {
    root /= options.split;
    std::tie(pictures, folders) = list_folder(root);
  } else if (is_test(options)) {
    fail(Error::Kind::usage, "folder:", given, " has no test split; it would be the folder ", given, "/test beside ",
         given, "/train");
  }
  Pictures found;
  for (const std::string& name : pictures) found.paths.push_back((root / name).string());
  for (const std::string& name : folders) {
    std::vector<std::string> members = list_folder(root / name).first;
    if (members.empty())
      fail(Error::Kind::data, (root / name).string(), ": the class folder has no pictures (png, jpg, bmp, pgm, ppm)");
    for (const std::string& member : members) {
      found.paths.push_back((root / name / member).string());
      found.labels.push_back(int64_t(found.class_names.size()));
    }
    found.class_names.push_back(name);
  }
  if (!pictures.empty() && !folders.empty())
    fail(Error::Kind::data, root.string(), ": has pictures (", pictures[0], ", ...) beside class folders (", folders[0],
         ", ...); put all pictures into class folders, or none");
  if (found.paths.empty()) fail(Error::Kind::data, root.string(), ": has no pictures (png, jpg, bmp, pgm, ppm)");

  int64_t N = int64_t(found.paths.size());
  if (options.limit > 0 && options.limit < N) {
    Pictures kept{{}, {}, found.class_names};
    for (int64_t place = 0; place < options.limit; ++place) {
      size_t index = size_t(double(place) * double(N) / double(options.limit));
      kept.paths.push_back(found.paths[index]);
      if (!found.labels.empty()) kept.labels.push_back(found.labels[index]);
    }
    return kept;
  }
  return found;
}

/// The middle square of u8 [H, W, C], resized to size x size.
Tensor fit_square(const Tensor& image, int64_t size) {
  return io::resize_image(middle_part(image, 1, 1), size, size);
}

Tensor load_picture(const std::string& path, const DataOptions& options) {
  Tensor image = io::load_image(path, int(options.channels));
  return options.size > 0 ? fit_square(image, options.size) : image;
}

/// Throws unless `image` can stand in one tensor with `first`.
void require_same_shape(const std::string& path, const Tensor& image, const std::string& first_path,
                        const Shape& first) {
  if (image.shape() == first) return;
  bool same_sides = image.size(0) == first[0] && image.size(1) == first[1];
  fail(Error::Kind::data, path, ": the picture is ", image.shape(), ", but ", first_path, " is ", first,
       " (height, width, channels); ", same_sides ? "--channels 1 or 3 makes them equal" : "--size makes them equal");
}

Dataset load_folder(const std::string& folder, const DataOptions& options) {
  Pictures pictures = list_pictures(folder, options);
  int64_t N = int64_t(pictures.paths.size());
  Tensor first = load_picture(pictures.paths[0], options);
  Tensor images = empty(first.shape().inserted(0, N), DType::u8);
  for (int64_t n = 0; n < N; ++n) {
    Tensor image = n == 0 ? first : load_picture(pictures.paths[size_t(n)], options);
    require_same_shape(pictures.paths[size_t(n)], image, pictures.paths[0], first.shape());
    std::copy_n(image.data<uint8_t>(), image.numel(), images.data<uint8_t>() + n * image.numel());
  }
  Dataset data{options.spec, images, {}, pictures.class_names, {}};
  if (!pictures.labels.empty()) {
    data.labels = empty(Shape{N}, DType::i64);
    std::copy(pictures.labels.begin(), pictures.labels.end(), data.labels.data<int64_t>());
  }
  return data;
}

// ---- Synthetic sets ------------------------------------------------------------------------------------------------

/// Numbers in [0, 1) for one image.
class Draws {
 public:
  Draws(const Generator& generator, int64_t image) : generator_(generator.fork(uint64_t(image))) {}
  double next() { return double(random_bits(generator_, index_++) >> 11) * 0x1p-53; }

 private:
  Generator generator_;
  uint64_t index_ = 0;
};

/// v(x, y, channel) in [0, 1] for pixel centres x, y in [0, 1].
using Painter = std::function<double(double x, double y, int64_t channel)>;

Painter blob_painter(int64_t label, Draws draws) {
  static constexpr double kColours[4][3] = {{1, 0.2, 0.1}, {0.1, 0.9, 0.2}, {0.2, 0.3, 1}, {1, 0.9, 0.1}};
  double centre_x = 0.25 + 0.5 * draws.next(), centre_y = 0.25 + 0.5 * draws.next(), width = 0.1 + 0.1 * draws.next();
  return [=](double x, double y, int64_t channel) {
    double distance = ((x - centre_x) * (x - centre_x) + (y - centre_y) * (y - centre_y)) / (width * width);
    return kColours[label][channel] * std::exp(-0.5 * distance);
  };
}

Painter stripe_painter(int64_t label, Draws draws) {
  static constexpr double kDirections[4][2] = {{0, 1}, {1, 0}, {0.7071, 0.7071}, {0.7071, -0.7071}};
  double waves = 2 + 2 * draws.next(), phase = draws.next();
  return [=](double x, double y, int64_t) {
    double along = waves * (x * kDirections[label][0] + y * kDirections[label][1]) + phase;
    return 0.5 + 0.5 * std::sin(2 * 3.14159265358979323846 * along);
  };
}

/// A bar, an upright bar, a square or a frame on a field of 12 x 12, moved by up to `reach` in x and y, with a
/// brightness in [0.7, 1) and Gaussian noise of 0.05 a pixel: what `mote cluster` is tested on.
Painter shape_painter(int64_t label, Draws draws, double reach) {
  double left = 6 + reach * std::floor(3 * draws.next() - 1), top = 6 + reach * std::floor(3 * draws.next() - 1);
  double brightness = 0.7 + 0.3 * draws.next();
  return [=](double x, double y, int64_t) mutable {
    double across = std::abs(12 * x - left), down = std::abs(12 * y - top);   // from the middle of the shape
    bool inside = false;
    switch (label) {
      case 0: inside = across < 4 && down < 1; break;
      case 1: inside = across < 1 && down < 4; break;
      case 2: inside = across < 2 && down < 2; break;
      default: inside = std::max(across, down) < 3 && std::max(across, down) > 2; break;
    }
    double radius = std::sqrt(-2 * std::log(1 - draws.next())), noise = radius * std::cos(2 * 3.14159265358979323846 * draws.next());
    return std::clamp((inside ? brightness : 0) + 0.05 * noise, 0.0, 1.0);
  };
}
Painter still_painter(int64_t label, Draws draws) { return shape_painter(label, draws, 0); }
Painter shifted_painter(int64_t label, Draws draws) { return shape_painter(label, draws, 1); }

struct Synthetic {
  std::string_view name;
  int64_t side, channels;
  Painter (*painter)(int64_t label, Draws draws);
  std::array<const char*, 4> class_names;
};
constexpr std::array<Synthetic, 4> kSynthetic{
    {{"blobs", 16, 3, blob_painter, {"red", "green", "blue", "yellow"}},
     {"stripes", 16, 1, stripe_painter, {"horizontal", "vertical", "falling", "rising"}},
     {"shapes", 12, 1, still_painter, {"bar", "upright bar", "square", "frame"}},
     {"shifted-shapes", 12, 1, shifted_painter, {"bar", "upright bar", "square", "frame"}}}};

Dataset make_synthetic(const std::string& name, const DataOptions& options) {
  auto kind =
      std::find_if(kSynthetic.begin(), kSynthetic.end(), [&](const Synthetic& known) { return known.name == name; });
  if (kind == kSynthetic.end())
    fail(Error::Kind::usage, "synthetic:", name, " is unknown; known are synthetic:blobs, synthetic:stripes, synthetic:shapes and ",
         "synthetic:shifted-shapes");
  constexpr int64_t kCount = 1024;
  int64_t N = options.limit > 0 ? options.limit : kCount, side = options.size > 0 ? options.size : kind->side,
          C = kind->channels;
  constexpr uint64_t kTrainSeed = 1, kTestSeed = 2;
  Generator generator = Generator{is_test(options) ? kTestSeed : kTrainSeed}.fork(uint64_t(kind - kSynthetic.begin()));
  Dataset data{options.spec, empty(Shape{N, side, side, C}, DType::u8), empty(Shape{N}, DType::i64), {}, {}};
  uint8_t* pixel = data.images.data<uint8_t>();
  for (int64_t n = 0; n < N; ++n) {
    int64_t label = n % int64_t(kind->class_names.size());
    data.labels.data<int64_t>()[n] = label;
    Painter paint = kind->painter(label, Draws(generator, n));
    for (int64_t y = 0; y < side; ++y)
      for (int64_t x = 0; x < side; ++x)
        for (int64_t c = 0; c < C; ++c)
          *pixel++ =
              uint8_t(std::lround(255 * paint((double(x) + 0.5) / double(side), (double(y) + 0.5) / double(side), c)));
  }
  data.class_names.assign(kind->class_names.begin(), kind->class_names.end());
  return data;
}

// ---- All kinds -----------------------------------------------------------------------------------------------------

void require_options(const DataOptions& options) {
  auto wrong = [](const auto&... parts) { fail(Error::Kind::usage, parts...); };
  if (options.split != "train" && options.split != "test")
    wrong("--split is ", io::printable(options.split), "; train and test are known");
  if (options.size < 0 || options.size > io::kMaxImageSide)
    wrong("--size is ", options.size, "; 0 (as it is) to ", io::kMaxImageSide, " are allowed");
  if (options.channels != 0 && options.channels != 1 && options.channels != 3)
    wrong("--channels is ", options.channels, "; 0 (as it is), 1 and 3 are allowed");
  if (options.limit < 0) wrong("--limit is ", options.limit, "; 0 (all) or more is allowed");
}

struct Spec {
  std::string kind, rest;  // what stands before and after the first colon
};

Spec parse_spec(const std::string& spec) {
  size_t colon = spec.find(':');
  return {spec.substr(0, colon), colon == std::string::npos ? "" : spec.substr(colon + 1)};
}

Dataset load_by_kind(const DataOptions& options) {
  auto [kind, rest] = parse_spec(options.spec);
  if (options.spec == "fashion-mnist") return load_fashion_mnist(options);
  if (kind == "idx") return load_idx_folder(rest, options);
  if (kind == "cifar10") return load_cifar10_folder(rest, options);
  if (kind == "folder") return load_folder(rest, options);
  if (kind == "csv") return load_csv_file(rest, options);
  if (kind == "synthetic") return make_synthetic(rest, options);
  if (kind == "pairs")
    fail(Error::Kind::usage, "--data ", options.spec,
         " has images with masks, this command needs images alone; folder:", rest, "/images reads them");
  fail(Error::Kind::usage, "--data ", io::printable(options.spec),
       " is unknown; known are fashion-mnist, idx:DIR, cifar10:DIR, folder:DIR, csv:FILE and synthetic:NAME");
}

void shorten(Dataset& data, int64_t limit) {
  if (limit == 0 || limit >= data.count()) return;
  data.images = data.images.rows(0, limit).clone();  // a clone, so that the rest is given back
  if (data.labels.defined()) data.labels = data.labels.rows(0, limit).clone();
}

void resize_all(Dataset& data, int64_t size) {
  int64_t N = data.count(), H = data.images.size(1), W = data.images.size(2), C = data.images.size(3);
  if (size == 0 || (H == size && W == size)) return;
  Tensor resized = empty(Shape{N, size, size, C}, DType::u8);
  for (int64_t n = 0; n < N; ++n) {
    Tensor image = fit_square(data.images.rows(n, n + 1).view(Shape{H, W, C}), size);
    std::copy_n(image.data<uint8_t>(), image.numel(), resized.data<uint8_t>() + n * image.numel());
  }
  data.images = resized;
}

void relabel(Dataset& data, const std::string& path) {
  Tensor labels = load_labels(path);
  if (labels.numel() != data.count())
    fail(Error::Kind::data, path, " holds ", labels.numel(), " labels, ", data.name, " has ", data.count(), " images");
  for (int64_t n = 0; n < labels.numel(); ++n)
    if (labels.data<int64_t>()[n] < 0)
      fail(Error::Kind::data, path, ": the label of image ", n, " is ", labels.data<int64_t>()[n], "; 0 or more is needed");
  data.labels = labels;
  data.class_names.clear();
}

std::string hash_of(const Dataset& data) {
  io::Hasher hasher;
  std::string shape = concat_text(data.images.shape());
  hasher.update(shape.data(), shape.size());
  hasher.update(data.images.raw(), size_t(data.images.nbytes()));
  if (data.labels.defined()) hasher.update(data.labels.raw(), size_t(data.labels.nbytes()));
  return hasher.hex();
}

}  // namespace

int64_t Dataset::classes() const {
  if (!labels.defined()) return 0;
  const int64_t* label = labels.data<int64_t>();
  int64_t largest = labels.numel() > 0 ? *std::max_element(label, label + labels.numel()) : -1;
  return std::max(largest + 1, int64_t(class_names.size()));
}

Dataset load_dataset(const DataOptions& options) {
  require_options(options);
  Dataset data = load_by_kind(options);
  data.name = options.spec;
  return fit_dataset(std::move(data), options);
}

Dataset fit_dataset(Dataset data, const DataOptions& options) {
  require_options(options);
  shorten(data, options.limit);
  resize_all(data, options.size);
  if (options.channels != 0) data.images = io::convert_channels(data.images, options.channels);
  if (!options.labels.empty()) relabel(data, options.labels);
  data.hash = hash_of(data);
  return data;
}

Tensor to_unit(const Tensor& images) {
  Tensor unit = empty(images.shape());
  const uint8_t* from = images.data<uint8_t>();
  std::transform(from, from + images.numel(), unit.data<float>(), [](uint8_t v) { return float(v) / 127.5f - 1; });
  return unit;
}

Dataset load_square_dataset(const DataOptions& options) {
  Dataset data = load_dataset(options);
  if (data.images.size(1) != data.images.size(2))
    fail(Error::Kind::usage, "--data ", options.spec, ": images are ", data.images.size(1), "x", data.images.size(2),
         ", and training needs square ones; give --size N to make them N x N");
  return data;
}

std::vector<std::string> picture_names(const std::string& folder) { return list_folder(folder).first; }

Tensor middle_part(const Tensor& image, int64_t height, int64_t width) {
  check(image.defined() && image.dtype() == DType::u8 && image.ndim() == 3 && height > 0 && width > 0,
        "middle_part: needs u8 [H, W, C] and a proportion, got ", describe(image), " and ", height, " : ", width);
  int64_t H = image.size(0), W = image.size(1), C = image.size(2);
  bool is_wide = W * height > H * width;
  int64_t rows = is_wide ? H : std::max<int64_t>(1, W * height / width);
  int64_t columns = is_wide ? std::max<int64_t>(1, H * width / height) : W;
  if (rows == H && columns == W) return image;
  Tensor part = empty(Shape{rows, columns, C}, DType::u8);
  const uint8_t* from = image.data<uint8_t>() + ((H - rows) / 2 * W + (W - columns) / 2) * C;
  for (int64_t row = 0; row < rows; ++row)
    std::copy_n(from + row * W * C, columns * C, part.data<uint8_t>() + row * columns * C);
  return part;
}

PictureSet load_pictures(const DataOptions& options) {
  require_options(options);
  auto [kind, rest] = parse_spec(options.spec);
  PictureSet set{options.spec, {}, {}, {}};
  if (kind == "folder") {
    for (const std::string& path : list_pictures(rest, options).paths) {
      set.images.push_back(io::load_image(path, int(options.channels)));
      set.names.push_back(fs::path(path).lexically_relative(rest).replace_extension().generic_string());
      if (set.images.back().size(2) != set.images.front().size(2))
        fail(Error::Kind::data, path, ": the picture has ", set.images.back().size(2), " channels, those before it ",
             set.images.front().size(2), "; --channels 1 or 3 makes them equal");
    }
  } else {
    DataOptions as_they_are = options;
    as_they_are.size = 0;
    Dataset data = load_dataset(as_they_are);
    for (int64_t n = 0; n < data.count(); ++n) {
      char number[24];
      std::snprintf(number, sizeof number, "%06lld", static_cast<long long>(n));
      set.images.push_back(data.images.rows(n, n + 1).view(data.images.shape().without(0)));
      set.names.emplace_back(number);
    }
  }
  io::Hasher hasher;
  for (const Tensor& image : set.images) {
    std::string shape = concat_text(image.shape());
    hasher.update(shape.data(), shape.size());
    hasher.update(image.raw(), size_t(image.nbytes()));
  }
  set.hash = hasher.hex();
  return set;
}

std::vector<std::string> dataset_splits(const std::string& spec) {
  auto [kind, rest] = parse_spec(spec);
  if (kind == "folder" && !has_splits(list_folder(rest).second)) return {"train"};
  return {"train", "test"};
}

DatasetReport check_dataset(const DataOptions& options) {
  DatasetReport report;
  require_options(options);
  auto [kind, rest] = parse_spec(options.spec);
  if (kind != "folder") {
    report.collect([&] { report.count = load_dataset(options).count(); });
    return report;
  }
  Pictures pictures;
  report.collect([&, folder = rest] { pictures = list_pictures(folder, options); });
  std::string first_path, first_misfit;
  Shape first;
  int64_t misfits = 0;  // a folder of photographs may have thousands: they are one problem
  for (const std::string& path : pictures.paths) {
    report.collect([&] {
      Tensor image = load_picture(path, options);
      if (first_path.empty()) {
        first_path = path;
        first = image.shape();
      }
      try {
        require_same_shape(path, image, first_path, first);
        ++report.count;
      } catch (const Error& error) {
        if (misfits++ == 0) first_misfit = error.what();
      }
    });
  }
  if (misfits > 1) first_misfit += concat_text(" (and ", misfits - 1, " more pictures)");
  if (misfits > 0) report.problems.push_back(first_misfit);
  return report;
}

}  // namespace mote::apps
