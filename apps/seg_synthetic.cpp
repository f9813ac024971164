#include "apps/seg_synthetic.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

#include "apps/dataset.h"
#include "apps/epoch_order.h"
#include "apps/seg_folder.h"
#include "tensor/cpu/parallel.h"
#include "tensor/error.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"
#include "tensor/random.h"

namespace mote::apps {
namespace {

struct Kind {
  const char* name;
  int64_t side;
  int64_t item;                    // side of an item at scale 1; 0: a disc
  int64_t fewest, most;            // items
  bool digits;                     // the class is the item's label, else 1
};
constexpr std::array<Kind, 4> kKinds{{{"fashionseg28", 28, 28, 1, 1, false},
                                      {"fashionseg64", 64, 40, 1, 3, false},
                                      {"discs28", 28, 0, 0, 0, false},
                                      {"digits64", 64, 28, 3, 5, true}}};
constexpr uint8_t kGround = 10;                                  // class of digits64 that is no digit
constexpr int64_t kCounts[] = {10000, 1000, 2000};               // train, val, test
constexpr uint64_t kSetKey = 0x736567, kNoiseKey = 0x6e6f697365;   // "seg", "noise"

struct Spec {
  std::string name, folder;   // synthetic:NAME or synthetic:NAME:FOLDER
};
Spec parse_spec(const std::string& spec) {
  constexpr std::string_view kPrefix = "synthetic:";
  if (!spec.starts_with(kPrefix)) return {};
  std::string rest = spec.substr(kPrefix.size());
  size_t colon = rest.find(':');
  return {rest.substr(0, colon), colon == std::string::npos ? "" : rest.substr(colon + 1)};
}

const Kind* kind_named(const std::string& name) {
  auto found = std::find_if(kKinds.begin(), kKinds.end(), [&](const Kind& kind) { return kind.name == name; });
  return found == kKinds.end() ? nullptr : &*found;
}

/// Numbers in [0, 1) of one example.
class Draws {
 public:
  explicit Draws(const Generator& generator) : generator_(generator) {}
  double next() { return double(random_bits(generator_, index_++) >> 11) * 0x1p-53; }
  double next(double low, double high) { return low + (high - low) * next(); }
  int64_t below(int64_t count) { return bounded(random_bits(generator_, index_++), count); }

 private:
  Generator generator_;
  uint64_t index_ = 0;
};

// ---- Items ---------------------------------------------------------------------------------------------------------

Dataset load_items(const Kind& kind, const PairOptions& o) {
  DataOptions options;
  options.split = o.split == "test" ? "test" : "train";
  options.spec = "fashion-mnist";
  if (kind.digits) {
    std::string folder = parse_spec(o.spec).folder;
    const char* root = std::getenv("MOTE_DATA");
    if (folder.empty() && (!root || !*root))
      fail(Error::Kind::data, o.spec, ": needs the idx files of MNIST in $MOTE_DATA/mnist, and MOTE_DATA is not set; ",
           "synthetic:digits64:DIR reads those in DIR");
    options.spec = "idx:" + (folder.empty() ? std::string(root) + "/mnist" : folder);
  }
  Dataset items = load_dataset(options);
  // Validation has the last sixth of the train files to itself.
  int64_t N = items.count(), train = N - N / 6;
  if (o.split == "test") return items;
  int64_t begin = o.split == "train" ? 0 : train, end = o.split == "train" ? train : N;
  if (begin == end) fail(Error::Kind::data, options.spec, ": ", N, " items are too few for a ", o.split, " part");
  items.images = items.images.rows(begin, end);
  items.labels = items.labels.rows(begin, end);
  return items;
}

/// a in [0, 1] at (y, x) of a picture u8 [H, W, 1], pixel centres at halves, bilinear; 0 outside.
double sample(const uint8_t* pixels, int64_t H, int64_t W, double y, double x) {
  double top = std::floor(y - 0.5), left = std::floor(x - 0.5), down = y - 0.5 - top, right = x - 0.5 - left;
  auto at = [&](double row, double column) {
    if (row < 0 || column < 0 || row >= double(H) || column >= double(W)) return 0.0;
    return double(pixels[int64_t(row) * W + int64_t(column)]) / 255;
  };
  return (1 - down) * ((1 - right) * at(top, left) + right * at(top, left + 1)) +
         down * ((1 - right) * at(top + 1, left) + right * at(top + 1, left + 1));
}

/// Every pixel becomes the most (or least) of its 3 x 3; what lies outside takes no part.
std::vector<uint8_t> spread(const std::vector<uint8_t>& mask, int64_t side, bool most) {
  std::vector<uint8_t> result(mask.size());
  for (int64_t y = 0; y < side; ++y)
    for (int64_t x = 0; x < side; ++x) {
      bool any = false, all = true;
      for (int64_t v = std::max<int64_t>(0, y - 1); v <= std::min(side - 1, y + 1); ++v)
        for (int64_t u = std::max<int64_t>(0, x - 1); u <= std::min(side - 1, x + 1); ++u) {
          bool set = mask[size_t(v * side + u)] != 0;
          any |= set;
          all &= set;
        }
      result[size_t(y * side + x)] = most ? any : all;
    }
  return result;
}

/// image and mask [side, side] of one example.
void draw_items(const Kind& kind, const Dataset& items, const Generator& generator, uint8_t* image, uint8_t* mask) {
  int64_t side = kind.side, H = items.images.size(1), W = items.images.size(2);
  Draws draws(generator);
  // The field: 4 x 4 numbers whose centres are spread evenly, constant beyond the outer ones.
  std::array<double, 16> grid;
  for (double& value : grid) value = 0.6 * draws.next();
  auto field = [&](int64_t pixel, int64_t& first, double& part) {
    double place = std::clamp((double(pixel) + 0.5) * 4 / double(side) - 0.5, 0.0, 3.0);
    first = std::min<int64_t>(2, int64_t(place));
    part = place - double(first);
  };
  std::vector<double> value(size_t(side * side));
  for (int64_t y = 0; y < side; ++y)
    for (int64_t x = 0; x < side; ++x) {
      int64_t row, column;
      double down, right;
      field(y, row, down);
      field(x, column, right);
      const double* corner = &grid[size_t(row * 4 + column)];
      value[size_t(y * side + x)] = (1 - down) * ((1 - right) * corner[0] + right * corner[1]) +
                                    down * ((1 - right) * corner[4] + right * corner[5]);
    }
  std::fill_n(mask, side * side, kind.digits ? kGround : uint8_t(0));

  int64_t count = kind.fewest + draws.below(kind.most - kind.fewest + 1);
  std::vector<double> a(size_t(side * side));
  std::vector<uint8_t> inside(a.size());
  for (int64_t item = 0; item < count; ++item) {
    int64_t chosen = draws.below(items.count());
    double size = double(kind.item) * draws.next(0.6, 1);
    double top = draws.next(0, double(side) - size), left = draws.next(0, double(side) - size);
    const uint8_t* pixels = items.images.data<uint8_t>() + chosen * H * W;
    for (int64_t y = 0; y < side; ++y)
      for (int64_t x = 0; x < side; ++x) {
        size_t i = size_t(y * side + x);
        a[i] = sample(pixels, H, W, (double(y) + 0.5 - top) * double(H) / size,
                      (double(x) + 0.5 - left) * double(W) / size);
        inside[i] = a[i] > 0.1;
      }
    inside = spread(spread(inside, side, true), side, false);
    uint8_t label = kind.digits ? uint8_t(items.labels.data<int64_t>()[chosen]) : uint8_t(1);
    for (size_t i = 0; i < a.size(); ++i) {
      if (!inside[i]) continue;
      value[i] = 0.3 + 0.7 * a[i];
      mask[i] = label;
    }
  }
  double sigma = draws.next(0.05, 0.3);
  Tensor noise = normal({side, side}, DType::f32, generator.fork(kNoiseKey));
  for (size_t i = 0; i < value.size(); ++i)
    image[i] = uint8_t(std::lround(255 * std::clamp(value[i] + sigma * double(noise.data<float>()[i]), 0.0, 1.0)));
}

// ---- Discs ---------------------------------------------------------------------------------------------------------

struct DiscOut {
  uint8_t *image, *mask, *truths;   // [side, side], [side, side], [5, side, side]
  float* probability;               // [side, side]
};

void draw_disc(int64_t side, const Generator& generator, const DiscOut& out) {
  constexpr int kRadii = 5, kFine = 8;   // fine: covered area is counted on a grid of 8 x 8 a pixel
  Draws draws(generator);
  double r = draws.next(5, 10), room = r + 2;
  double middle_y = draws.next(room, double(side) - room), middle_x = draws.next(room, double(side) - room);
  int64_t chosen = draws.below(kRadii);
  auto covers = [&](double radius, double y, double x) {
    return (y - middle_y) * (y - middle_y) + (x - middle_x) * (x - middle_x) <= radius * radius;
  };
  for (int64_t y = 0; y < side; ++y)
    for (int64_t x = 0; x < side; ++x) {
      int64_t i = y * side + x, radii = 0;
      double distance = std::hypot(double(y) + 0.5 - middle_y, double(x) + 0.5 - middle_x);
      int64_t covered = distance < r ? kFine * kFine : 0;
      if (std::abs(distance - r) < 0.75) {   // half a diagonal is 0.707: only here the edge can cross the pixel
        covered = 0;
        for (int fine = 0; fine < kFine * kFine; ++fine)
          covered += covers(r, double(y) + (fine / kFine + 0.5) / kFine, double(x) + (fine % kFine + 0.5) / kFine);
      }
      out.image[i] = uint8_t(std::lround(255 * (0.25 + 0.5 * double(covered) / (kFine * kFine))));
      for (int u = 0; u < kRadii; ++u) {
        bool inside = covers(r + u - 2, double(y) + 0.5, double(x) + 0.5);
        out.truths[u * side * side + i] = inside;
        radii += inside;
      }
      out.mask[i] = out.truths[chosen * side * side + i];
      out.probability[i] = float(radii) / kRadii;
    }
}

}  // namespace

bool is_synthetic_pairs(const std::string& spec) { return kind_named(parse_spec(spec).name) != nullptr; }

Pairs make_synthetic_pairs(const PairOptions& options) {
  const Kind* kind = kind_named(parse_spec(options.spec).name);
  if (!kind)
    fail(Error::Kind::usage, options.spec, " is unknown; known are synthetic:fashionseg28, fashionseg64, discs28 and ",
         "digits64");
  auto part = std::find(std::begin(kParts), std::end(kParts), options.split) - std::begin(kParts);
  if (part == 3)
    fail(Error::Kind::usage, "--split is ", io::printable(options.split), "; train, val and test are known");
  int64_t side = kind->side, classes = kind->digits ? 11 : 2;
  if ((options.height != 0 && options.height != side) || (options.width != 0 && options.width != side))
    fail(Error::Kind::usage, "--size is ", options.height, "x", options.width, "; ", options.spec, " is ", side, "x",
         side, ", leave the flag out");
  if ((options.classes != 0 && options.classes != classes) || options.ignore >= 0 || !options.colours.empty())
    fail(Error::Kind::usage, options.spec, " has ", classes,
         " classes and ignores none: leave --classes, --ignore and the colour file out");
  if (!kind->digits && !parse_spec(options.spec).folder.empty())
    fail(Error::Kind::usage, options.spec, ": only synthetic:digits64:DIR has a folder");
  if (options.channels != 0 && options.channels != 1 && options.channels != 3)
    fail(Error::Kind::usage, "--channels is ", options.channels, "; 0 (as it is), 1 and 3 are allowed");
  if (options.limit < 0) fail(Error::Kind::usage, "--limit is ", options.limit, "; 0 (all) or more is allowed");
  int64_t N = options.limit > 0 ? std::min(options.limit, kCounts[part]) : kCounts[part], pixels = side * side;
  Pairs pairs{options.spec, options.split, empty({N, side, side, 1}, DType::u8), empty({N, side, side}, DType::u8),
              {},           {},            classes,                              {},
              {},           {}};
  Generator set = Generator{options.seed}.fork(kSetKey).fork(uint64_t(kind - kKinds.data())).fork(uint64_t(part));
  uint8_t *image = pairs.images.data<uint8_t>(), *mask = pairs.masks.data<uint8_t>();
  if (kind->item == 0) {
    pairs.probability = empty({N, side, side});
    pairs.truths = empty({N, 5, side, side}, DType::u8);
    uint8_t* truths = pairs.truths.data<uint8_t>();
    float* probability = pairs.probability.data<float>();
    cpu::parallel_for(N, 16, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n)
        draw_disc(side, set.fork(uint64_t(n)), {image + n * pixels, mask + n * pixels, truths + 5 * n * pixels,
                                                probability + n * pixels});
    });
  } else {
    Dataset items = load_items(*kind, options);
    cpu::parallel_for(N, 16, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n)
        draw_items(*kind, items, set.fork(uint64_t(n)), image + n * pixels, mask + n * pixels);
    });
  }
  if (options.channels == 3) pairs.images = io::convert_channels(pairs.images, 3);
  pairs.class_names = kind->item == 0 ? std::vector<std::string>{"background", "disc"}
                                      : std::vector<std::string>{"background", "item"};
  if (kind->digits) {
    pairs.class_names.clear();
    for (int digit = 0; digit < 10; ++digit) pairs.class_names.push_back(std::to_string(digit));
    pairs.class_names.push_back("background");
  }
  for (int64_t n = 0; n < N; ++n) pairs.names.push_back(concat_text(options.split, "_", n));
  pairs.hash = pairs_hash(pairs);
  return pairs;
}

}  // namespace mote::apps
