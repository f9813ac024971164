#include "tensor/io/stb.h"

#include <memory>

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_NO_STDIO
#define STBI_ONLY_JPEG
#define STBI_ONLY_BMP
#define STBI_MAX_DIMENSIONS 16384
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#include <stb_image.h>
#pragma GCC diagnostic pop

namespace mote::io {

StbPicture stb_info(const std::vector<uint8_t>& file) {
  StbPicture picture;
  if (!stbi_info_from_memory(file.data(), int(file.size()), &picture.width, &picture.height, &picture.channels))
    picture.error = stbi_failure_reason();
  return picture;
}

StbPicture stb_decode(const std::vector<uint8_t>& file) {
  StbPicture picture = stb_info(file);
  if (!picture.error.empty()) return picture;
  int kept = picture.channels < 3 ? 1 : 3;
  std::unique_ptr<uint8_t, decltype(&stbi_image_free)> pixels(
      stbi_load_from_memory(file.data(), int(file.size()), &picture.width, &picture.height, &picture.channels, kept),
      &stbi_image_free);
  if (pixels)
    picture.pixels.assign(pixels.get(), pixels.get() + size_t(picture.width) * size_t(picture.height) * size_t(kept));
  else picture.error = stbi_failure_reason();
  return picture;
}

}  // namespace mote::io
