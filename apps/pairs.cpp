#include "apps/pairs.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>

#include "apps/seg_folder.h"
#include "apps/seg_masks.h"
#include "apps/seg_synthetic.h"
#include "tensor/error.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"

namespace mote::apps {
namespace {

namespace fs = std::filesystem;

void require_options(const PairOptions& o) {
  auto wrong = [](const auto&... parts) { fail(Error::Kind::usage, parts...); };
  if (std::find(std::begin(kParts), std::end(kParts), o.split) == std::end(kParts))
    wrong("--split is ", io::printable(o.split), "; train, val and test are known");
  if (o.height < 0 || o.width < 0 || o.height > io::kMaxImageSide || o.width > io::kMaxImageSide ||
      (o.height == 0) != (o.width == 0))
    wrong("--size is ", o.height, "x", o.width, "; 0 (as it is) or 1 to ", io::kMaxImageSide, " a side are allowed");
  if (o.channels != 0 && o.channels != 1 && o.channels != 3)
    wrong("--channels is ", o.channels, "; 0 (as it is), 1 and 3 are allowed");
  if (o.limit < 0) wrong("--limit is ", o.limit, "; 0 (all) or more is allowed");
  if (o.classes != 0 && (o.classes < 2 || o.classes >= kIgnored))
    wrong("--classes is ", o.classes, "; 0 (as found) or 2 to ", kIgnored - 1, " are allowed");
  if (o.ignore < -1 || o.ignore > 255) wrong("--ignore is ", o.ignore, "; -1 (none) or 0 to 255 is allowed");
  if (o.ignore >= 0 && !o.colours.empty())
    wrong("--ignore is for masks of numbers; in the colour file ", o.colours, " write `r g b ignore`");
}

// ---- Masks ---------------------------------------------------------------------------------------------------------

/// Which values the masks of the train part have, and in which file each was seen first.
struct Seen {
  std::array<std::string, 256> file;   // empty: nowhere
  bool only(std::initializer_list<int> values, int64_t ignore) const {
    for (int value = 0; value < 256; ++value)
      if (!file[size_t(value)].empty() && value != ignore &&
          std::find(values.begin(), values.end(), value) == values.end())
        return false;
    return true;
  }
};

/// Values of grey masks, or classes by the colours of `rule`. With skip_broken, masks that cannot be read are left out.
Seen look_at_masks(const PairFolder& folder, const MaskRule& rule, bool skip_broken) {
  Seen seen;
  bool in_colour = !rule.colours.empty();
  for (const std::string& name : folder.parts.at("train")) {
    auto mask = folder.masks.find(name);
    if (mask == folder.masks.end()) continue;
    try {
      Tensor picture = load_mask_picture(mask->second, in_colour);
      if (in_colour) picture = mask_labels(picture, rule, mask->second);
      std::array<bool, 256> found{};
      for (int64_t i = 0; i < picture.numel(); ++i) found[picture.data<uint8_t>()[i]] = true;
      for (size_t value = 0; value < 256; ++value)
        if (found[value] && seen.file[value].empty()) seen.file[value] = mask->second;
    } catch (const Error& error) {
      if (!skip_broken || error.kind() != Error::Kind::data) throw;
    }
  }
  return seen;
}

/// Without classes.txt, colours or a number of classes: 0 and 255, or numbers from 0.
MaskRule rule_of_values(const PairFolder& folder, const Seen& seen, int64_t ignore) {
  if (seen.only({0, 255}, ignore) && ignore != 255 && !seen.file[255].empty()) {
    MaskRule rule = rule_of_two_levels();
    if (ignore >= 0) rule.label[size_t(ignore)] = kIgnored;
    return rule;
  }
  int64_t largest = 1, middle = -1;
  for (int64_t value = 0; value < 256; ++value) {
    if (value == ignore || seen.file[size_t(value)].empty()) continue;
    largest = std::max(largest, value);
    if (value != 0 && value != 255) middle = value;
  }
  if (largest == 255)
    fail(Error::Kind::data, folder.root, "/", folder.masks_name, ": has the value 255 (", seen.file[255], ") and ",
         middle, " (", seen.file[size_t(middle)],
         "); masks are 0 and 255, or class numbers, where 255 can be the value to ignore (--ignore 255)");
  return rule_of_numbers(largest + 1 - (ignore >= 0 && ignore <= largest ? 1 : 0), ignore);
}

MaskRule rule_for(const PairFolder& folder, const PairOptions& o, bool skip_broken) {
  std::string class_file = folder.root + "/classes.txt";
  MaskRule rule;
  if (!o.colours.empty()) rule = rule_of_colours(o.colours);
  Seen seen = look_at_masks(folder, rule, skip_broken);
  std::array<bool, 256> there{};   // classes
  if (!o.colours.empty()) {
    for (size_t label = 0; label < kIgnored; ++label) there[label] = !seen.file[label].empty();
  } else {
    bool is_declared = true;
    if (fs::exists(class_file)) rule = rule_of_class_file(class_file, o.ignore);
    else if (o.classes > 0) rule = rule_of_numbers(o.classes, o.ignore);
    else is_declared = false;
    if (!is_declared) {
      rule = rule_of_values(folder, seen, o.ignore);
    } else if (rule.classes == 2 && o.ignore != 255 && seen.only({0, 255}, o.ignore) && !seen.file[255].empty()) {
      std::vector<std::string> names = rule.class_names;
      rule = rule_of_values(folder, seen, o.ignore);
      rule.class_names = names;
    }
    for (size_t value = 0; value < 256; ++value)
      if (int label = rule.label[value]; label >= 0) there[size_t(label)] |= !seen.file[value].empty();
  }
  if (o.classes > 0 && o.classes != rule.classes)
    fail(Error::Kind::usage, "--classes is ", o.classes, ", but ", o.colours.empty() ? class_file : o.colours, " has ",
         rule.classes);
  for (int64_t label = 0; label < rule.classes; ++label) {
    if (there[size_t(label)] || skip_broken) continue;
    std::string name = rule.class_names.empty() ? "" : " (" + rule.class_names[size_t(label)] + ")";
    fail(Error::Kind::data, folder.root, "/", folder.masks_name, ": class ", label, name,
         " is in no mask of the train part; each of the ", rule.classes, " classes must be");
  }
  return rule;
}

/// u8 [H, W] at another size: the value of the pixel that covers the middle of the new one.
Tensor resize_nearest(const Tensor& mask, int64_t height, int64_t width) {
  int64_t H = mask.size(0), W = mask.size(1);
  Tensor resized = empty({height, width}, DType::u8);
  for (int64_t y = 0; y < height; ++y)
    for (int64_t x = 0; x < width; ++x)
      resized.data<uint8_t>()[y * width + x] =
          mask.data<uint8_t>()[(2 * y + 1) * H / (2 * height) * W + (2 * x + 1) * W / (2 * width)];
  return resized;
}

struct Pair {
  Tensor image, mask;   // u8 [H, W, C] and [H, W]
};

Pair load_pair(const PairFolder& folder, const std::string& name, const MaskRule& rule, const PairOptions& o) {
  const std::string &image_path = folder.images.at(name), &mask_path = folder.masks.at(name);
  Tensor image = io::load_image(image_path, int(o.channels));
  Tensor mask = mask_labels(load_mask_picture(mask_path, !rule.colours.empty()), rule, mask_path);
  int64_t H = image.size(0), W = image.size(1);
  if (mask.size(0) != H || mask.size(1) != W)
    fail(Error::Kind::data, mask_path, ": the mask is ", mask.size(0), " x ", mask.size(1), ", its image ", image_path,
         " is ", H, " x ", W, " (height, width)");
  if (o.height == 0) return {image, mask};
  image = io::resize_image(middle_part(image, o.height, o.width), o.height, o.width);
  Tensor part = middle_part(mask.view({H, W, 1}), o.height, o.width);
  return {image, resize_nearest(part.view({part.size(0), part.size(1)}), o.height, o.width)};
}

void require_same_shape(const PairFolder& folder, const std::string& name, const Tensor& image,
                        const std::string& first, const Shape& shape) {
  if (image.shape() == shape) return;
  bool same_sides = image.size(0) == shape[0] && image.size(1) == shape[1];
  fail(Error::Kind::data, folder.images.at(name), ": the picture is ", image.shape(), ", but ", folder.images.at(first),
       " is ", shape, " (height, width, channels); ",
       same_sides ? "--channels 1 or 3 makes them equal" : "--size makes them equal");
}

// ---- Parts ---------------------------------------------------------------------------------------------------------

std::string path_of(const std::string& spec) { return spec.substr(spec.find(':') + 1); }

/// The names of the part that is asked for; Error(usage) if there is none.
std::vector<std::string> names_of_part(const PairFolder& folder, const PairOptions& o) {
  auto found = folder.parts.find(o.split);
  if (found != folder.parts.end() && !found->second.empty()) return found->second;
  fail(Error::Kind::usage, o.spec, " has no ", o.split, " part",
       o.split == "val" ? ", and its train part is a single group, which cannot be divided"
                        : concat_text("; it would be listed in ", folder.root, "/", o.split, ".txt"));
}

/// Messages for images of the part that have no mask; one if none has.
std::vector<std::string> missing_masks(const PairFolder& folder, const std::vector<std::string>& names) {
  std::vector<std::string> problems;
  for (const std::string& name : names)
    if (!folder.masks.count(name))
      problems.push_back(concat_text(folder.images.at(name), ": there is no mask ", name, " in ", folder.root, "/",
                                     folder.masks_name));
  return problems;
}

void require_none(const std::vector<std::string>& problems) {
  if (!problems.empty())
    fail(Error::Kind::data, problems[0],
         problems.size() > 1 ? concat_text(" (and ", problems.size() - 1, " more such files)") : "");
}

}  // namespace

Pairs load_pairs(const PairOptions& options) {
  require_options(options);
  if (is_synthetic_pairs(options.spec)) return make_synthetic_pairs(options);
  if (!is_pair_spec(options.spec))
    fail(Error::Kind::usage, "--data ", io::printable(options.spec),
         " has no masks; known are pairs:DIR and synthetic:fashionseg28, fashionseg64, discs28 and digits64");
  PairFolder folder = open_folder(path_of(options.spec));
  require_none(folder.strays);
  MaskRule rule = rule_for(folder, options, false);
  cut_validation(folder);
  std::vector<std::string> names = names_of_part(folder, options);
  require_none(missing_masks(folder, names));
  if (int64_t N = int64_t(names.size()); options.limit > 0 && options.limit < N) {
    std::vector<std::string> kept;
    for (int64_t place = 0; place < options.limit; ++place) kept.push_back(names[size_t(place * N / options.limit)]);
    names = kept;
  }
  Pairs pairs{options.spec, options.split, {}, {}, {}, {}, rule.classes, rule.class_names, names, {}};
  auto N = int64_t(names.size());
  for (int64_t n = 0; n < N; ++n) {
    Pair pair = load_pair(folder, names[size_t(n)], rule, options);
    if (n == 0) {
      pairs.images = empty(pair.image.shape().inserted(0, N), DType::u8);
      pairs.masks = empty(pair.mask.shape().inserted(0, N), DType::u8);
    }
    require_same_shape(folder, names[size_t(n)], pair.image, names[0], pairs.images.shape().without(0));
    std::copy_n(pair.image.data<uint8_t>(), pair.image.numel(), pairs.images.data<uint8_t>() + n * pair.image.numel());
    std::copy_n(pair.mask.data<uint8_t>(), pair.mask.numel(), pairs.masks.data<uint8_t>() + n * pair.mask.numel());
  }
  pairs.hash = pairs_hash(pairs);
  return pairs;
}

bool is_pair_spec(const std::string& spec) { return spec.starts_with("pairs:") || is_synthetic_pairs(spec); }

std::vector<std::string> pair_splits(const std::string& spec) {
  if (is_synthetic_pairs(spec)) return {"train", "val", "test"};
  PairFolder folder = open_folder(path_of(spec));
  cut_validation(folder);
  std::vector<std::string> splits;
  for (const char* part : kParts) {
    const std::vector<std::string>& names = folder.parts[part];
    if (std::any_of(names.begin(), names.end(), [&](const std::string& name) { return folder.masks.count(name) > 0; }))
      splits.push_back(part);
  }
  return splits;
}

DatasetReport check_pairs(const PairOptions& options) {
  require_options(options);
  DatasetReport report;
  if (!options.spec.starts_with("pairs:")) {
    report.collect([&] { report.count = load_pairs(options).count(); });
    return report;
  }
  PairFolder folder;
  MaskRule rule;
  std::vector<std::string> names;
  report.collect([&] {
    folder = open_folder(path_of(options.spec));
    rule = rule_for(folder, options, true);
    cut_validation(folder);
    names = names_of_part(folder, options);
  });
  report.problems.insert(report.problems.end(), folder.strays.begin(), folder.strays.end());
  std::vector<std::string> missing = missing_masks(folder, names);
  report.problems.insert(report.problems.end(), missing.begin(), missing.end());
  std::string first;
  Shape shape;
  for (const std::string& name : names) {
    if (!folder.masks.count(name)) continue;
    report.collect([&] {
      Pair pair = load_pair(folder, name, rule, options);
      if (first.empty()) {
        first = name;
        shape = pair.image.shape();
      }
      require_same_shape(folder, name, pair.image, first, shape);
      ++report.count;
    });
  }
  // What can only be said of the whole, once every file can be read.
  if (report.problems.empty()) report.collect([&] { rule_for(open_folder(path_of(options.spec)), options, false); });
  return report;
}

std::string pairs_hash(const Pairs& pairs) {
  io::Hasher hasher;
  std::string about = concat_text(pairs.images.shape(), " ", pairs.classes);
  hasher.update(about.data(), about.size());
  hasher.update(pairs.images.raw(), size_t(pairs.images.nbytes()));
  hasher.update(pairs.masks.raw(), size_t(pairs.masks.nbytes()));
  return hasher.hex();
}

void parse_size(const std::string& flag, const std::string& text, int64_t& height, int64_t& width) {
  size_t cross = text.find('x');
  auto side = [&](const std::string& digits) {
    int64_t value = -1;
    auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || stop != digits.data() + digits.size() || value < 0 || value > io::kMaxImageSide)
      fail(Error::Kind::usage, flag, ": ", io::printable(text), " is no size; give a side such as 64, or HEIGHTxWIDTH ",
           "such as 96x128, of up to ", io::kMaxImageSide, " pixels");
    return value;
  };
  height = side(text.substr(0, cross));
  width = cross == std::string::npos ? height : side(text.substr(cross + 1));
}

}  // namespace mote::apps
