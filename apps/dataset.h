// dataset.h - image data sets behind one SPEC string, batches in an order that is a pure function of (seed, epoch, index),
// and a thread that prepares the next batches.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace mote::apps {

struct DataOptions {
  std::string spec;          // fashion-mnist | idx:DIR | cifar10:DIR | folder:DIR | csv:FILE | synthetic:NAME
  std::string split = "train";
  int64_t size = 0;          // 0: as it is; folder images of mixed sizes need it
  int64_t channels = 0;      // 0: as it is, else 1 or 3
  int64_t limit = 0;         // 0: all
};

struct Dataset {
  std::string name;
  Tensor images;                          // u8 [N, H, W, C]
  Tensor labels;                          // i64 [N], or undefined
  std::vector<std::string> class_names;   // may be empty
  std::string hash;                       // of images and labels
  int64_t count() const { return images.size(0); }
  int64_t classes() const;                // largest label + 1 (or class_names), 0 without labels
};

/// Throws Error(data) naming file and cause; Error(usage) for an unknown SPEC.
Dataset load_dataset(const DataOptions& options);

struct Batch {
  Tensor images;   // f32 [B, H, W, C] in [-1, 1]: v / 127.5 - 1
  Tensor labels;   // i64 [B] or undefined
};

/// Batch number `index` of training: image indices come from the permutation of epoch = index * B / N (each epoch is
/// shuffled by (seed, epoch)); epochs follow each other without a gap, so every batch is full. flip: horizontal, with
/// probability 1/2, a function of (seed, position). Any index can be asked for at once: resuming needs no replay.
class BatchLoader {
 public:
  BatchLoader(const Dataset& data, int64_t batch, uint64_t seed, bool flip, int64_t first_index = 0, int prefetch = 2);
  ~BatchLoader();
  Batch next();   // batches first_index, first_index + 1, ... prepared ahead by a thread; its Errors come out here
  /// The same batch without the thread; the reference in tests.
  static Batch make(const Dataset& data, int64_t batch, uint64_t seed, bool flip, int64_t index);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mote::apps
