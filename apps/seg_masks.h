// seg_masks.h - from the values of a mask picture to class numbers: which value is which class, and reading one mask.
// pairs.h is the front of it.
#pragma once
#include <array>
#include <string>
#include <vector>

#include "apps/pairs.h"

namespace mote::apps {

struct MaskColour {
  uint8_t red, green, blue;
  uint8_t label;   // a class, or kIgnored
};

/// What the values of a set of masks mean.
struct MaskRule {
  static constexpr int kUnknown = -1;
  std::array<int, 256> label{};           // of a grey value: a class, kIgnored or kUnknown
  std::vector<MaskColour> colours;        // not empty: masks are read in colour, and `label` is not
  int64_t classes = 0;
  std::vector<std::string> class_names;   // as many as classes, or none
};

/// Values that are classes 0, 1, ... in ascending order: 0 .. count - 1 with `ignore` left out of the numbering (-1:
/// none), so the values go one further if `ignore` lies among them.
MaskRule rule_of_numbers(int64_t classes, int64_t ignore);
/// 0 and 255 as two classes.
MaskRule rule_of_two_levels();
/// From classes.txt, `number name` a line: its numbers in ascending order are the classes; one that is `ignore`, or
/// those called unlabelled, unlabeled, void or ignore where `ignore` is -1, are ignored. Throws Error(data) naming the
/// line.
MaskRule rule_of_class_file(const std::string& path, int64_t ignore);
/// From a colour file, `r g b class` a line, class a number or `ignore`. Throws Error(data) naming the line.
MaskRule rule_of_colours(const std::string& path);

/// The picture of a mask: grey u8 [H, W, 1], or colour u8 [H, W, 3] where the rule has colours. Throws Error(data)
/// naming the file: a JPEG, whose values are not the ones that were saved; a palette or colours without a rule for
/// them; a grey depth other than 1 or 8 bits, whose numbers would be scaled.
Tensor load_mask_picture(const std::string& path, bool in_colour);

/// Class numbers u8 [H, W] of a mask's picture. Throws Error(data) naming `path`, the first row and column whose value
/// the rule does not know, and the values it does.
Tensor mask_labels(const Tensor& picture, const MaskRule& rule, const std::string& path);

}  // namespace mote::apps
