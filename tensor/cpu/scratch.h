// scratch.h - working memory of a kernel: from the caching allocator, given back at the end of the scope.
#pragma once
#include <omp.h>

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

/// `count` elements for each thread, made before the threads start: what a step asks of the allocator does not depend
/// on which threads happen to run at the same time.
template <class T>
class ThreadScratch {
 public:
  explicit ThreadScratch(int64_t count)
      : stride_((count + 63) / 64 * 64), nested_(omp_in_parallel()),
        all_(stride_ * (nested_ ? 1 : omp_get_max_threads())) {}
  T* mine() { return all_.data() + (nested_ ? 0 : omp_get_thread_num()) * stride_; }

 private:
  int64_t stride_;
  bool nested_;
  Scratch<T> all_;
};

}  // namespace mote::cpu
