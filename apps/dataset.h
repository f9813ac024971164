// dataset.h - image data sets behind one SPEC string, batches in an order that is a pure function of (seed, epoch, index),
// and a thread that prepares the next batches (batches.cpp). File formats are in tensor/io/.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "tensor/error.h"
#include "tensor/tensor.h"

namespace mote::apps {

struct DataOptions {
  std::string spec;              // fashion-mnist | idx:DIR | cifar10:DIR | folder:DIR | csv:FILE | synthetic:NAME
  std::string split = "train";   // train | test
  int64_t size = 0;              // 0: as it is, else the middle square is resized; folder images of mixed sizes need it
  int64_t channels = 0;          // 0: as it is, else 1 or 3
  int64_t limit = 0;             // 0: all, else the first ones (folder: evenly spaced ones, so that no class is lost)
  std::string labels = {};       // a file (load_labels) of one label an image that is used, in place of the set's own
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

/// fashion-mnist    idx files in $MOTE_DATA, $MOTE_DATA/fashion-mnist or where Debian's package puts them
/// idx:DIR          {train,t10k}-images-idx3-ubyte and {train,t10k}-labels-idx1-ubyte, with .gz or not
/// cifar10:DIR      data_batch_1.bin, data_batch_2.bin, ... or test_batch.bin, with .gz or not; batches.meta.txt for names
/// folder:DIR       PNG, JPEG, BMP, PNM by name; either all in DIR (no labels) or in one folder a class, classes and files
///                  in the order of their names. If DIR has just the folders train, test (and val), they are the
///                  splits; otherwise all is train.
/// csv:FILE         8x8 digits; the first 4/5 of the lines are train, the others test
/// synthetic:NAME   blobs (Gaussian spots, the class is the colour), stripes (the class is the direction), shapes (bars, a
///                  square, a frame) or shifted-shapes (moved by up to a pixel), no files: 1024 images (or `limit`) of
///                  16 x 16, shapes 12 x 12 (or `size`), a function of split and number only
/// Throws Error(data) naming file and cause, also where options.labels has another number of labels than there are images
/// or one below 0; Error(usage) for an unknown SPEC or split.
Dataset load_dataset(const DataOptions& options);

/// Images that are in memory already, shortened, resized and converted as `options` says, with their hash: what
/// load_dataset does after reading. Throws Error(usage) for options out of range.
Dataset fit_dataset(Dataset data, const DataOptions& options);

/// u8 images as training batches are: f32 in [-1, 1], v / 127.5 - 1.
Tensor to_unit(const Tensor& images);

/// load_dataset of images that a network is trained on: Error(usage) naming --size unless they are square.
Dataset load_square_dataset(const DataOptions& options);

/// Names of the pictures (png, jpg, bmp, pgm, ppm, pnm) right in a folder, sorted; hidden ones are left out. Throws
/// Error(data) if the folder is missing or cannot be read.
std::vector<std::string> picture_names(const std::string& folder);

/// The largest middle part of u8 [H, W, C] whose sides are in the proportion height : width; the image itself
/// if that is all of it.
Tensor middle_part(const Tensor& image, int64_t height, int64_t width);

/// The splits that a SPEC has: train and test, or train alone for a folder without such folders.
std::vector<std::string> dataset_splits(const std::string& spec);

struct DatasetReport {
  int64_t count = 0;                   // images that can be used
  std::vector<std::string> problems;   // one text each, naming the file; empty if all is well

  /// Runs work(); an Error(data) that it throws becomes a problem.
  template <class Work>
  void collect(const Work& work) {
    try {
      work();
    } catch (const Error& error) {
      if (error.kind() != Error::Kind::data) throw;
      problems.push_back(error.what());
    }
  }
};
/// Reads everything that load_dataset would read and reports all that is wrong: a folder is read on after a broken
/// picture. Throws Error(usage) as load_dataset does.
DatasetReport check_dataset(const DataOptions& options);

struct Batch {
  Tensor images;   // f32 [B, H, W, C] in [-1, 1]: v / 127.5 - 1
  Tensor labels;   // i64 [B] or undefined
};

/// Batch number `index` of training: image indices come from the permutation of epoch = index * B / N (each epoch is
/// shuffled by (seed, epoch)); epochs follow each other without a gap, so every batch is full. flip: horizontal, with
/// probability 1/2, a function of (seed, position). Any index can be asked for at once: resuming needs no replay.
/// Throws Error(argument) for a batch < 1, an empty set, a negative index or one whose position does not fit in 64 bits.
class BatchLoader {
 public:
  BatchLoader(const Dataset& data, int64_t batch, uint64_t seed, bool flip, int64_t first_index = 0, int prefetch = 2);
  ~BatchLoader();
  /// Batches first_index, first_index + 1, ... prepared ahead by a thread (none if prefetch is 0). An Error of the thread
  /// comes out here once the batches before it are taken, and again on every later call.
  Batch next();
  /// The same batch without the thread; the reference in tests.
  static Batch make(const Dataset& data, int64_t batch, uint64_t seed, bool flip, int64_t index);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mote::apps
