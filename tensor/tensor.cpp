#include "tensor/tensor.h"

#include <algorithm>
#include <iomanip>

#include "tensor/allocator.h"
#include "tensor/cuda/backend.h"
#include "tensor/kernels.h"
#include "tensor/profile.h"

namespace mote {

struct Tensor::Storage {
  Storage(size_t bytes, Device device) : bytes(bytes), device(device), block(Allocator::of(device).allocate(bytes)) {}
  ~Storage() { Allocator::of(device).release(block, bytes); }
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  size_t bytes;
  Device device;
  void* block;
  uint64_t version = 0;
};

void require_device(Device device) {
  if (device.is_cpu()) return;
  if (std::string why = cuda::backend().unusable(device.index); !why.empty())
    fail(Error::Kind::resource, device, " asked for, but ", why);
}

// ---- Tensor --------------------------------------------------------------------------------------------------------

void* Tensor::base() const { return storage_->block; }

void Tensor::require_dtype(DType wanted) const {
  check(defined(), "Tensor::data: the tensor is undefined");
  check(wanted == dtype_, "Tensor::data: the tensor is ", describe(*this), ", read as ", wanted);
}

Tensor Tensor::view(const Shape& shape) const { return view(shape.to_vector()); }

Tensor Tensor::view(std::initializer_list<int64_t> sizes) const { return view(std::vector<int64_t>(sizes)); }

Tensor Tensor::view(std::vector<int64_t> sizes) const {
  int64_t* unknown = nullptr;
  int64_t known = 1;
  for (int64_t& size : sizes) {
    if (size == -1) {
      check(!unknown, "Tensor::view: only one size may be -1");
      unknown = &size;
    } else {
      known *= size;
    }
  }
  if (unknown) {
    check(known > 0 && numel_ % known == 0, "Tensor::view: ", describe(*this), " does not divide into rows of ", known,
          " elements");
    *unknown = numel_ / known;
  }
  Tensor result = *this;
  result.node_ = nullptr;
  result.shape_ = Shape(sizes);
  check(result.shape_.numel() == numel_, "Tensor::view: ", describe(*this), " has ", numel_, " elements, ",
        result.shape_, " has ", result.shape_.numel());
  return result;
}

Tensor Tensor::rows(int64_t begin, int64_t end) const {
  check(ndim() >= 1, "Tensor::rows: a scalar has no rows");
  check(0 <= begin && begin <= end && end <= shape_[0], "Tensor::rows: ", begin, "..", end, " is outside ",
        describe(*this));
  Tensor result = *this;
  result.node_ = nullptr;
  result.shape_ = shape_.with(0, end - begin);
  result.numel_ = result.shape_.numel();
  result.offset_ = offset_ + begin * shape_.stride(0) * size_of(dtype_);
  return result;
}

Tensor Tensor::clone() const {
  Tensor result = empty_like(*this);
  kernel::convert(result, *this);
  return result;
}

Tensor Tensor::to(DType dtype) const {
  check(defined(), "Tensor::to: the tensor is undefined");
  if (dtype == dtype_) return *this;
  Tensor result = empty(shape_, dtype, device_);
  kernel::convert(result, *this);
  return result;
}

Tensor Tensor::to(Device device) const {
  check(defined(), "Tensor::to: the tensor is undefined");
  if (device == device_) return *this;
  Tensor result = empty(shape_, dtype_, device);
  if (!DryRun::active()) cuda::backend().copy(device, result.raw(), device_, raw(), size_t(nbytes()));
  return result;
}

Tensor& Tensor::copy_(const Tensor& source) {
  check(defined() && source.defined() && shape_ == source.shape_, "Tensor::copy_: shapes differ: ", describe(*this),
        " from ", describe(source));
  kernel::convert(*this, source.to(device_));
  bump_version();
  return *this;
}

Tensor& Tensor::fill_(double value) {
  check(defined(), "Tensor::fill_: the tensor is undefined");
  kernel::fill(*this, value);
  bump_version();
  return *this;
}

double Tensor::item() const {
  check(defined() && numel_ == 1, "Tensor::item: needs one element, got ", describe(*this));
  return to_vector()[0];
}

std::vector<double> Tensor::to_vector() const {
  check(defined(), "Tensor::to_vector: the tensor is undefined");
  Tensor wide = to(Device{}).to(DType::f64);
  const double* values = wide.data<double>();
  return {values, values + numel_};
}

uint64_t Tensor::version() const { return storage_ ? storage_->version : 0; }
void Tensor::bump_version() {
  if (storage_) ++storage_->version;
}

// ---- Making tensors ------------------------------------------------------------------------------------------------

Tensor empty(const Shape& shape, DType dtype, Device device) {
  Tensor result;
  result.shape_ = shape;
  result.numel_ = shape.numel();
  result.dtype_ = dtype;
  result.device_ = device;
  result.storage_ = std::make_shared<Tensor::Storage>(size_t(result.nbytes()), device);
  return result;
}

Tensor full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor result = empty(shape, dtype, device);
  kernel::fill(result, value);
  return result;
}

Tensor zeros(const Shape& shape, DType dtype, Device device) { return full(shape, 0, dtype, device); }
Tensor empty_like(const Tensor& x) { return empty(x.shape(), x.dtype(), x.device()); }
Tensor zeros_like(const Tensor& x) { return zeros(x.shape(), x.dtype(), x.device()); }

Tensor from(const std::vector<double>& values, const Shape& shape, DType dtype) {
  check(int64_t(values.size()) == shape.numel(), "from: ", values.size(), " values for shape ", shape, " of ",
        shape.numel(), " elements");
  Tensor wide = empty(shape, DType::f64);
  std::copy(values.begin(), values.end(), wide.data<double>());   // memcpy may not be given the null of an empty vector
  return wide.to(dtype);
}

Tensor arange(int64_t n, DType dtype) {
  check(n >= 0, "arange: n is ", n, ", needs to be at least 0");
  Tensor result = empty({n}, DType::i64);
  int64_t* values = result.data<int64_t>();
  for (int64_t i = 0; i < n; ++i) values[i] = i;
  return result.to(dtype);
}

// ---- Printing ------------------------------------------------------------------------------------------------------

std::ostream& operator<<(std::ostream& out, Describe what) {
  if (!what.tensor.defined()) return out << "undefined";
  return out << what.tensor.dtype() << what.tensor.shape();
}

namespace {

void print_axis(std::ostream& out, const std::vector<double>& values, const Shape& shape, int axis, int64_t first) {
  constexpr int64_t kEdge = 3;
  if (axis == shape.ndim()) {
    out << values[size_t(first)];
    return;
  }
  bool innermost = axis == shape.ndim() - 1;
  out << '[';
  for (int64_t i = 0; i < shape[axis]; ++i) {
    if (i) out << (innermost ? ", " : ",\n" + std::string(size_t(axis) + 1, ' '));
    if (i == kEdge && shape[axis] > 2 * kEdge) {
      out << (innermost ? "..., " : "...,\n" + std::string(size_t(axis) + 1, ' '));
      i = shape[axis] - kEdge;
    }
    print_axis(out, values, shape, axis + 1, first + i * shape.stride(axis));
  }
  out << ']';
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const Tensor& tensor) {
  out << describe(tensor);
  if (!tensor.defined()) return out;
  if (tensor.device().is_cuda()) out << ' ' << tensor.device();
  out << '\n';
  std::ostringstream text;   // the caller's precision and flags stay untouched
  text << std::setprecision(5);
  print_axis(text, tensor.to_vector(), tensor.shape(), 0, 0);
  return out << text.str();
}

}  // namespace mote
