// scratch.h - working memory of a kernel: from the caching allocator, given back at the end of the scope.
#pragma once
#include "tensor/allocator.h"

namespace mote::cpu {

template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count) : bytes_(size_t(count) * sizeof(T)), data_(static_cast<T*>(Allocator::of({}).allocate(bytes_))) {}
  ~Scratch() { Allocator::of({}).release(data_, bytes_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* data() { return data_; }

 private:
  size_t bytes_;
  T* data_;
};

}  // namespace mote::cpu
