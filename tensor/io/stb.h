// stb.h - the one door to stb_image (JPEG and BMP). It is compiled privately in stb.cpp, so that a program that embeds
// Mote can have its own copy. stb_image fills missing data with zeros: image.cpp checks that a file is whole first.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace mote::io {

struct StbPicture {
  int width = 0, height = 0, channels = 0;   // channels as in the file, 1 to 4
  std::vector<uint8_t> pixels;               // [height, width, kept]; kept = 1 if channels < 3, else 3
  std::string error;                         // empty if it was decoded
};

/// Only the sizes are read.
StbPicture stb_info(const std::vector<uint8_t>& file);
StbPicture stb_decode(const std::vector<uint8_t>& file);

}  // namespace mote::io
