// idx.h - the idx files of MNIST and its relatives, packed with gzip or not.
#pragma once
#include <string>

#include "tensor/io/image.h"

namespace mote::io {

/// Images: magic 2051, count, rows, columns (big-endian 32-bit), then count x rows x columns bytes.  u8 [N, H, W, 1]
/// Labels: magic 2049, count, then a byte each.                                                      i64 [N]
/// Throws Error(data) naming file and byte: wrong magic, no elements, a size that the counts do not give exactly. The
/// header is read first, so a packed file never unpacks to more than it gives.
Tensor load_idx_images(const std::string& path);
Tensor load_idx_labels(const std::string& path);
/// Both; as many labels as images are needed.
LabelledImages load_idx(const std::string& images_path, const std::string& labels_path);

}  // namespace mote::io
