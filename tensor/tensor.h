// tensor.h - Tensor: shape, dtype, device and one contiguous row-major buffer. Cheap to copy; copies share storage.
// reshape and slice share storage too; everything else that moves data is a kernel (kernels.h) or an op (autograd/ops.h).
// Gradients are not known here: a Tensor carries an opaque pointer that autograd/ defines.
#pragma once
#include <memory>
#include <ostream>
#include <vector>

#include "tensor/device.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

namespace mote {

struct Node;   // the gradient record, autograd/engine.h

class Tensor {
 public:
  Tensor() = default;   // undefined: no shape, no memory
  bool defined() const { return storage_ != nullptr; }

  const Shape& shape() const { return shape_; }
  int ndim() const { return shape_.ndim(); }
  int64_t size(int axis) const { return shape_.at(axis); }   // axis may count from the end
  int64_t numel() const { return numel_; }
  int64_t nbytes() const { return numel_ * size_of(dtype_); }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  bool is_cuda() const { return device_.is_cuda(); }

  /// Elements as T. Throws Error if T is not the dtype. On a cuda tensor the pointer is a device pointer.
  template <class T> T* data() {
    require_dtype(dtype_of<T>);
    return static_cast<T*>(raw());
  }
  template <class T> const T* data() const {
    require_dtype(dtype_of<T>);
    return static_cast<const T*>(raw());
  }
  void* raw() { return defined() ? static_cast<char*>(base()) + offset_ : nullptr; }
  const void* raw() const { return defined() ? static_cast<const char*>(base()) + offset_ : nullptr; }

  /// Same storage, other shape with as many elements; one size may be -1. Not recorded: see mote::reshape for the op.
  Tensor view(const Shape& shape) const;
  Tensor view(std::initializer_list<int64_t> sizes) const;
  Tensor view(std::vector<int64_t> sizes) const;
  /// Rows begin..end-1 of the first axis; shares storage. Not recorded: see mote::slice for the op.
  Tensor rows(int64_t begin, int64_t end) const;

  Tensor clone() const;                 // fresh storage, same values, no gradient record
  Tensor to(DType dtype) const;         // a copy, or the tensor itself if nothing changes; no gradient record
  Tensor to(Device device) const;
  /// Overwrites this tensor with `source`: same shape; dtype and device are converted.
  Tensor& copy_(const Tensor& source);
  Tensor& fill_(double value);
  /// The value of a one-element tensor of any dtype.
  double item() const;
  /// All elements, converted, in row-major order.
  std::vector<double> to_vector() const;

  // Gradients (defined in autograd/engine.cpp; tensor/ itself never calls them).
  Tensor& requires_grad(bool on = true);   // makes this a leaf whose gradient backward() accumulates
  bool needs_grad() const { return node_ != nullptr; }
  Tensor grad() const;                     // undefined until backward() has reached this leaf
  void set_grad(const Tensor& grad);       // the buffer that backward() adds into; pass {} to drop it
  Tensor detach() const;                   // same storage without the record
  const std::shared_ptr<Node>& node() const { return node_; }
  void set_node(std::shared_ptr<Node> node) { node_ = std::move(node); }

  /// Counts the writes into this storage after it was made; a tensor saved for backward must not change (Saved).
  uint64_t version() const;
  void bump_version();
  /// How many tensors share the storage: 1 means it may be overwritten unseen.
  long use_count() const { return storage_.use_count(); }

 private:
  friend Tensor empty(const Shape&, DType, Device);
  struct Storage;
  void* base() const;
  void require_dtype(DType wanted) const;

  std::shared_ptr<Storage> storage_;
  std::shared_ptr<Node> node_;
  Shape shape_{0};
  int64_t numel_ = 0;
  int64_t offset_ = 0;   // bytes
  DType dtype_ = DType::f32;
  Device device_;
};

// ---- Making tensors ------------------------------------------------------------------------------------------------

Tensor empty(const Shape& shape, DType dtype = DType::f32, Device device = {});   // contents undefined
Tensor zeros(const Shape& shape, DType dtype = DType::f32, Device device = {});
Tensor full(const Shape& shape, double value, DType dtype = DType::f32, Device device = {});
Tensor empty_like(const Tensor& x);
Tensor zeros_like(const Tensor& x);
/// The given values in row-major order. Throws Error unless there are shape.numel() of them.
Tensor from(const std::vector<double>& values, const Shape& shape, DType dtype = DType::f32);
/// [n]: 0, 1, ..., n-1.
Tensor arange(int64_t n, DType dtype = DType::i64);

/// f32[2, 3], for messages.
struct Describe { const Tensor& tensor; };
inline Describe describe(const Tensor& tensor) { return {tensor}; }
std::ostream& operator<<(std::ostream& out, Describe what);

/// Dtype, shape and values; long axes are shortened to three elements at each end.
std::ostream& operator<<(std::ostream& out, const Tensor& tensor);

}  // namespace mote
