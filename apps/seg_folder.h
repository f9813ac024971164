// seg_folder.h - the files behind pairs:DIR: which images and masks there are, and which part each belongs to. Nothing
// is decoded here. pairs.h says how DIR is laid out and is the front of it.
#pragma once
#include <map>
#include <string>
#include <vector>

namespace mote::apps {

inline constexpr const char* kParts[] = {"train", "val", "test"};

struct PairFolder {
  std::string root, masks_name;                            // masks or labels
  std::map<std::string, std::string> images, masks;        // name without ending -> path
  std::map<std::string, std::vector<std::string>> parts;   // names, in the order of the list
  std::map<std::string, std::string> groups;
  std::vector<std::string> strays;                         // masks without image, a message each
};

/// Lists DIR/images, DIR/masks or DIR/labels, and the parts. Throws Error(data) naming the file: a missing folder, two
/// images of one name, a list that names an image that is not there, or one twice, an index.csv without its columns.
PairFolder open_folder(const std::string& root);

/// Without a val part: every tenth group of train, in the order of the names, so that kinds that sort together are all
/// represented; of fewer groups one. A single group stays as it is.
void cut_validation(PairFolder& folder);

}  // namespace mote::apps
