#include "apps/seg_masks.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include "tensor/error.h"
#include "tensor/io/file.h"
#include "tensor/io/image.h"

namespace mote::apps {
namespace {

constexpr int64_t kMostText = int64_t(1) << 20;

/// The words of a line, up to a #.
std::vector<std::string> words_of(const std::string& line) {
  std::istringstream in(line.substr(0, line.find('#')));
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

/// Calls fn(line number from 1, words) for every line with words.
template <class Fn>
void for_lines(const std::string& path, Fn&& fn) {
  io::Bytes text = io::read_file(path, kMostText);
  std::istringstream in(std::string(text.begin(), text.end()));
  int64_t number = 1;
  for (std::string line; std::getline(in, line); ++number)
    if (std::vector<std::string> words = words_of(line); !words.empty()) fn(number, words);
}

/// 0..255, or none.
std::optional<int> byte_of(const std::string& word) {
  int value = -1;
  auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc() || stop != word.data() + word.size() || value < 0 || value > 255) return {};
  return value;
}

std::string known_values(const MaskRule& rule) {
  std::vector<std::pair<int, int>> runs;
  for (int value = 0; value < 256; ++value) {
    if (rule.label[size_t(value)] == MaskRule::kUnknown) continue;
    if (!runs.empty() && runs.back().second == value - 1) runs.back().second = value;
    else runs.push_back({value, value});
  }
  std::string text;
  for (auto [first, last] : runs)
    text += concat_text(text.empty() ? "" : ", ", first, first == last ? "" : concat_text("..", last));
  return text;
}

}  // namespace

MaskRule rule_of_numbers(int64_t classes, int64_t ignore) {
  MaskRule rule;
  rule.classes = classes;
  rule.label.fill(MaskRule::kUnknown);
  int64_t label = 0;
  for (int64_t value = 0; value < 256 && label < classes; ++value)
    if (value != ignore) rule.label[size_t(value)] = int(label++);
  if (ignore >= 0) rule.label[size_t(ignore)] = kIgnored;
  return rule;
}

MaskRule rule_of_two_levels() {
  MaskRule rule;
  rule.classes = 2;
  rule.label.fill(MaskRule::kUnknown);
  rule.label[0] = 0;
  rule.label[255] = 1;
  return rule;
}

MaskRule rule_of_class_file(const std::string& path, int64_t ignore) {
  std::map<int, std::string> names;
  std::set<int> ignored;
  if (ignore >= 0) ignored.insert(int(ignore));
  for_lines(path, [&](int64_t line, const std::vector<std::string>& words) {
    std::optional<int> value = byte_of(words[0]);
    if (!value || words.size() < 2)
      fail(Error::Kind::data, path, ": line ", line, " is not `number name` with a number of 0 to 255");
    std::string name = words[1];
    for (size_t i = 2; i < words.size(); ++i) name += " " + words[i];
    if (!names.emplace(*value, name).second)
      fail(Error::Kind::data, path, ": line ", line, " names class ", *value, " a second time");
    for (const char* word : {"unlabelled", "unlabeled", "void", "ignore"})
      if (ignore < 0 && name == word) ignored.insert(*value);
  });
  MaskRule rule;
  rule.label.fill(MaskRule::kUnknown);
  for (const auto& [value, name] : names) {
    if (ignored.count(value)) continue;
    rule.label[size_t(value)] = int(rule.classes++);
    rule.class_names.push_back(name);
  }
  for (int value : ignored) rule.label[size_t(value)] = kIgnored;
  if (rule.classes < 2)
    fail(Error::Kind::data, path, ": names ", rule.classes, " class(es) that are not ignored; 2 or more are needed");
  return rule;
}

MaskRule rule_of_colours(const std::string& path) {
  MaskRule rule;
  rule.label.fill(MaskRule::kUnknown);
  for_lines(path, [&](int64_t line, const std::vector<std::string>& words) {
    std::array<int, 4> values{};
    bool is_good = words.size() == 4;
    for (size_t i = 0; i < 4 && is_good; ++i) {
      std::optional<int> value = i == 3 && words[i] == "ignore" ? kIgnored : byte_of(words[i]);
      is_good = value.has_value() && (i < 3 || words[i] == "ignore" || *value < kIgnored);
      if (is_good) values[i] = *value;
    }
    if (!is_good)
      fail(Error::Kind::data, path, ": line ", line, " is not `r g b class` with numbers of 0 to 255 and a class of 0 ",
           "to 254 or `ignore`");
    MaskColour colour{uint8_t(values[0]), uint8_t(values[1]), uint8_t(values[2]), uint8_t(values[3])};
    for (const MaskColour& known : rule.colours)
      if (known.red == colour.red && known.green == colour.green && known.blue == colour.blue)
        fail(Error::Kind::data, path, ": line ", line, " gives colour ", values[0], " ", values[1], " ", values[2],
             " a second time");
    rule.colours.push_back(colour);
    if (colour.label != kIgnored) rule.classes = std::max<int64_t>(rule.classes, colour.label + 1);
  });
  if (rule.classes < 2)
    fail(Error::Kind::data, path, ": has colours of ", rule.classes, " class(es); 2 or more are needed");
  return rule;
}

Tensor load_mask_picture(const std::string& path, bool in_colour) {
  io::Bytes file = io::read_file(path, io::kMaxImageFile);
  if (file.size() >= 2 && file[0] == 0xff && file[1] == 0xd8)
    fail(Error::Kind::data, path, ": the mask is a JPEG, which changes the values of pixels; save masks as PNG");
  Tensor picture = io::decode_image(file, path);
  if (in_colour) return io::convert_channels(picture, 3);
  constexpr size_t kDepth = 24, kColourType = 25;   // of a PNG's header chunk, which the decoder has checked
  bool is_png = io::is_png(file);
  if (picture.size(2) != 1)
    fail(Error::Kind::data, path, ": the mask ", is_png && file[kColourType] == 3 ? "has a palette" : "is in colour",
         ", so its values are no class numbers; a colour file (`r g b class` a line) must say which colour is which");
  if (is_png && file[kDepth] != 8 && file[kDepth] != 1)
    fail(Error::Kind::data, path, ": the mask has ", int(file[kDepth]),
         " bits a pixel; class numbers need 8 (or 1 for two classes)");
  return picture;
}

Tensor mask_labels(const Tensor& picture, const MaskRule& rule, const std::string& path) {
  int64_t H = picture.size(0), W = picture.size(1), C = picture.size(2);
  Tensor labels = empty({H, W}, DType::u8);
  const uint8_t* from = picture.data<uint8_t>();
  uint8_t* to = labels.data<uint8_t>();
  std::map<uint32_t, int> of_colour;
  for (const MaskColour& c : rule.colours) of_colour[uint32_t(c.red) << 16 | uint32_t(c.green) << 8 | c.blue] = c.label;
  for (int64_t i = 0; i < H * W; ++i, from += C) {
    int label = MaskRule::kUnknown;
    if (rule.colours.empty()) {
      label = rule.label[*from];
    } else if (auto found = of_colour.find(uint32_t(from[0]) << 16 | uint32_t(from[1]) << 8 | from[2]);
               found != of_colour.end()) {
      label = found->second;
    }
    if (label == MaskRule::kUnknown) {
      std::string what = rule.colours.empty() ? concat_text(int(*from), ", which is no class; known are ",
                                                            known_values(rule))
                                              : concat_text("colour ", int(from[0]), " ", int(from[1]), " ",
                                                            int(from[2]), ", which the colour file does not have");
      fail(Error::Kind::data, path, ": the pixel in row ", i / W, ", column ", i % W, " is ", what);
    }
    to[i] = uint8_t(label);
  }
  return labels;
}

Tensor load_mask(const std::string& path, int64_t classes, int64_t ignore) {
  check(classes >= 2 && classes < kIgnored && ignore >= -1 && ignore <= 255, "load_mask: needs 2 to ", kIgnored - 1,
        " classes and a value of 0..255 to ignore or -1, got ", classes, " and ", ignore);
  MaskRule rule = rule_of_numbers(classes, ignore);
  if (classes == 2 && ignore != 255) rule.label[255] = 1;
  return mask_labels(load_mask_picture(path, false), rule, path);
}

}  // namespace mote::apps
