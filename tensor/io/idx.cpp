#include "tensor/io/idx.h"

#include <algorithm>
#include <array>

#include "tensor/error.h"

namespace mote::io {
namespace {

constexpr int64_t kImagesMagic = 2051, kLabelsMagic = 2049;  // 0x0803 and 0x0801: bytes in 3 axes and in 1
constexpr int64_t kLargestFile = int64_t(1) << 34;

struct IdxFile {
  std::array<int64_t, 3> sizes{1, 1, 1};  // as many as the magic tells, then ones
  Bytes bytes;                            // with the header
  const uint8_t* data;
};

int64_t big_endian(const Bytes& bytes, size_t at) {
  return int64_t(bytes[at]) << 24 | int64_t(bytes[at + 1]) << 16 | int64_t(bytes[at + 2]) << 8 | bytes[at + 3];
}

IdxFile read_idx(const std::string& path, int64_t magic, const char* content) {
  auto broken = [&](const auto&... parts) { fail(Error::Kind::data, path, ": ", parts...); };
  int64_t axes = magic & 0xff, header = 4 + 4 * axes;
  auto require_header = [&](const Bytes& bytes) {
    if (int64_t(bytes.size()) < header)
      broken("has ", bytes.size(), " bytes, too few for the ", header, " bytes of an idx header of ", content);
  };
  Bytes head = peek_maybe_gzip(path, header);
  if (head.size() >= 4 && big_endian(head, 0) != magic)
    broken("the magic number is ", big_endian(head, 0), ", idx ", content, " begin with ", magic);
  require_header(head);

  IdxFile file;
  int64_t needed = header;
  int64_t elements = 1;
  for (int64_t axis = 0; axis < axes; ++axis) {
    int64_t size = big_endian(head, size_t(4 + 4 * axis));
    if (size < 1 || (axis > 0 && size > kMaxImageSide))
      broken("size ", axis, " of the ", content, " at byte ", 4 + 4 * axis, " is ", size, "; ",
             axis > 0 ? concat_text("1 to ", kMaxImageSide, " are allowed") : "at least 1 is needed");
    file.sizes[size_t(axis)] = size;
    elements *= size;  // at most 2^32 * 2^14 * 2^14
  }
  needed += elements;
  if (needed > kLargestFile)
    broken("its header gives ", elements, " bytes of ", content, "; ", kLargestFile, " are the most that is read");
  file.bytes = read_maybe_gzip(path, needed, "the size that its idx header gives");
  require_header(file.bytes);
  if (int64_t(file.bytes.size()) != needed || !std::equal(head.begin(), head.end(), file.bytes.begin()))
    broken("ends at byte ", file.bytes.size(), ", its idx header gives ", needed, " bytes");
  file.data = file.bytes.data() + header;
  return file;
}

}  // namespace

Tensor load_idx_images(const std::string& path) {
  IdxFile file = read_idx(path, kImagesMagic, "images");
  Tensor images = empty(Shape{file.sizes[0], file.sizes[1], file.sizes[2], 1}, DType::u8);
  std::copy_n(file.data, images.numel(), images.data<uint8_t>());
  return images;
}

Tensor load_idx_labels(const std::string& path) {
  IdxFile file = read_idx(path, kLabelsMagic, "labels");
  Tensor labels = empty(Shape{file.sizes[0]}, DType::i64);
  std::copy_n(file.data, labels.numel(), labels.data<int64_t>());
  return labels;
}

LabelledImages load_idx(const std::string& images_path, const std::string& labels_path) {
  LabelledImages set{load_idx_images(images_path), load_idx_labels(labels_path)};
  if (set.images.size(0) != set.labels.size(0))
    fail(Error::Kind::data, images_path, " has ", set.images.size(0), " images, but ", labels_path, " has ",
         set.labels.size(0), " labels");
  return set;
}

}  // namespace mote::io
