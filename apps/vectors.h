// vectors.h - tables of numbers from files: vectors to cluster, labels to score. Arrays of NumPy are tensor/io/npy.h.
#pragma once
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace mote::apps {

/// A text of numbers with commas between, packed with gzip or not. The first line may be a header: it is one if any of
/// its fields is no number.
struct Table {
  std::vector<std::string> names;  // empty without a header
  Tensor values;                   // f64 [rows, columns]
};
/// Throws Error(data) naming file, line and column of what is wrong: a field that is no finite number, a line of
/// another length, no line at all.
Table load_table(const std::string& path);

/// Vectors of a .npy (f32 and f64 as they are, integers as f32; [N, D], more axes are flattened into D) or of a CSV
/// (f64). Throws Error(data) if there are none or a value is not finite.
Tensor load_vectors(const std::string& path);

/// Labels i64 [N] of a .npy of integers [N], or of a CSV: its only column, or the one called cluster, label or class.
/// Throws Error(data) if there are none or one is no whole number.
Tensor load_labels(const std::string& path);

/// Moments of the columns of x [N, D]; a constant column has scale 1.
struct Columns {
  Tensor mean, scale;     // f64 [D]; scale: the standard deviation, of N
  int64_t constant = 0;   // how many are
};
Columns columns_of(const Tensor& x);

/// (x - mean) / scale, f64 [N, D].
Tensor standardized(const Tensor& x, const Columns& columns);

}  // namespace mote::apps
