// pairs.h - images with masks, for segmentation: folders on disk and synthetic sets (seg_synthetic.h) behind one SPEC.
// A part (train, val, test) is loaded whole, as bytes; masks hold class numbers. Batches and moves are in seg_batch.h.
#pragma once
#include <string>
#include <vector>

#include "apps/dataset.h"
#include "tensor/tensor.h"

namespace mote::apps {

/// In a mask: a pixel that belongs to no class and is left out of losses and scores.
inline constexpr uint8_t kIgnored = 255;

struct PairOptions {
  std::string spec{};            // pairs:DIR | synthetic:fashionseg28|fashionseg64|discs28|digits64
  std::string split = "train";   // train | val | test
  int64_t height = 0, width = 0; // 0: as they are; else the largest middle part of this proportion, resized
  int64_t channels = 0;          // 0: as they are, else 1 or 3
  int64_t limit = 0;             // 0: all, else so many, evenly spaced, so that no kind of picture is lost
  int64_t classes = 0;           // 0: as classes.txt, the colour file or the masks say
  int64_t ignore = -1;           // a mask value; -1: those that classes.txt calls unlabelled, void or ignore
  std::string colours{};         // colour file, for palette and colour masks
  uint64_t seed = 0;             // of synthetic sets; folders do not read it
};

struct Pairs {
  std::string name, split;
  Tensor images;                          // u8 [N, H, W, C]
  Tensor masks;                           // u8 [N, H, W]: 0 <= class < classes, or kIgnored
  Tensor probability;                     // discs28: f32 [N, H, W], the exact P(foreground | image); else undefined
  Tensor truths;                          // discs28: u8 [N, 5, H, W], the five equally likely masks; else undefined
  int64_t classes = 0;                    // 2 or more; with 2, class 1 is the foreground
  std::vector<std::string> class_names;   // as many as classes, or none
  std::vector<std::string> names;         // of the images, without ending
  std::string hash;                       // of images, masks and the number of classes, as loaded
  int64_t count() const { return images.size(0); }
};

/// pairs:DIR        DIR/images/NAME.{png,jpg,bmp,pnm} and DIR/masks/NAME.png (or labels/), equal names.
///   Parts: train.txt, val.txt, test.txt (a name a line, with or without ending), or index.csv with the columns
///   `file` and `split`; without both all is train. Without a validation part, every tenth group of the train part, in
///   the order of the names, is cut out as one; the group is the column `group` or `tile_group` of index.csv, else each
///   image is its own.
///   Masks: grey class numbers, or 0 and 255 for two classes. classes.txt (`number name` a line) names the classes.
///   Masks with a palette or in colour need `colours`, a text file of lines `r g b class`, class a number or `ignore`,
///   # begins a comment.
/// synthetic:NAME   seg_synthetic.h; 10,000 train, 1,000 val, 2,000 test images or the first `limit`
/// Images are resized bilinearly (area average when they shrink), masks by the nearest pixel.
/// Throws Error(data) naming the file for: a missing folder, list or file, an image of this part without mask, a mask
/// without image, sizes that differ, a JPEG mask, a value (with row and column) that is no class, a class that no mask
/// of the train part has, an empty part; Error(usage) for options out of range.
Pairs load_pairs(const PairOptions& options);

/// Whether the SPEC names images with masks.
bool is_pair_spec(const std::string& spec);

/// The parts that have masks; `val` is there even where it is cut from train.
std::vector<std::string> pair_splits(const std::string& spec);

/// Reads all that load_pairs would read and reports all that is wrong, as check_dataset does. Throws Error(usage).
DatasetReport check_pairs(const PairOptions& options);

/// One mask as class numbers, u8 [H, W], for readers of single files (`mote eval seg`). With two classes, 255 stands
/// for 1 unless it is `ignore`; -1: no value is ignored. Throws Error(data) as load_pairs does.
Tensor load_mask(const std::string& path, int64_t classes, int64_t ignore);

/// The hash of images, masks and number of classes, as load_pairs stores it.
std::string pairs_hash(const Pairs& pairs);

/// "64" or "96x128" (height x width) into height and width. Throws Error(usage) naming `flag`.
void parse_size(const std::string& flag, const std::string& text, int64_t& height, int64_t& width);

}  // namespace mote::apps
