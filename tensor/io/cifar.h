// cifar.h - the binary files of CIFAR-10, packed with gzip or not.
#pragma once
#include <string>
#include <vector>

#include "tensor/io/image.h"

namespace mote::io {

/// Records of 3073 bytes: a label 0..9, then 1024 red, 1024 green and 1024 blue bytes. The files follow each other in
/// u8 [N, 32, 32, 3]. Throws Error(data) naming file and byte: no records, a part of a record, a label above 9.
LabelledImages load_cifar10(const std::vector<std::string>& paths);

/// The ten class names of batches.meta.txt, one a line; empty lines are skipped. Throws Error(data).
std::vector<std::string> load_cifar10_names(const std::string& path);

}  // namespace mote::io
