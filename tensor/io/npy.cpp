#include "tensor/io/npy.h"

#include "tensor/io/file.h"

namespace mote::io {
namespace {

const char* numpy_name(DType dtype) {
  switch (dtype) {
    case DType::f32: return "<f4";
    case DType::f64: return "<f8";
    case DType::i32: return "<i4";
    case DType::i64: return "<i8";
    case DType::u8: return "|u1";
    case DType::bf16: break;
  }
  fail(Error::Kind::argument, "save_npy: NumPy has no dtype ", dtype, "; convert to f32 first");
}

}  // namespace

void save_npy(const std::string& path, const Tensor& tensor) {
  Tensor host = tensor.to(Device{});
  std::string shape;
  for (int64_t size : host.shape()) shape += std::to_string(size) + ", ";   // (3, ) is a tuple too, (3) is not
  std::string header = concat_text("{'descr': '", numpy_name(host.dtype()), "', 'fortran_order': False, 'shape': (",
                                   shape, "), }");
  // Magic, version and length take 10 bytes; the data begins at a multiple of 64, after a newline.
  header.append(63 - (10 + header.size()) % 64, ' ');
  header += '\n';
  std::string front = std::string("\x93NUMPY\x01\x00", 8) + char(header.size() & 0xff) + char(header.size() >> 8) + header;
  write_file_atomic(path, [&](const Append& append) {
    append(front.data(), front.size());
    append(host.raw(), size_t(host.nbytes()));
  });
}

}  // namespace mote::io
