// pictures.h - the images of a SPEC in their own sizes, for commands that cut squares out of them or tile them. Read by
// dataset.cpp, which knows the specs; images of one size are a Dataset (dataset.h).
#pragma once
#include <string>
#include <vector>

#include "apps/dataset.h"

namespace mote::apps {

struct PictureSet {
  std::string name;
  std::vector<Tensor> images;        // u8 [H, W, C], all of one C
  std::vector<std::string> names;    // of the files below the folder, without ending; numbers where there are none
  std::string hash;
  int64_t count() const { return int64_t(images.size()); }
};

/// The images of a SPEC, each in its own size: options.size is not read. Throws as load_dataset does, Error(data)
/// naming the first picture of other channels than the one before it.
PictureSet load_pictures(const DataOptions& options);

}  // namespace mote::apps
