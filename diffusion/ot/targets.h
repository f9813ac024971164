// targets.h - the discrete measure sum_i nu_i delta(y_i) that noise is transported to: N points of D numbers, in memory
// or in a file of bytes that is read a chunk at a time. The points are centred and scaled, which changes no cell and
// makes the solver's constants the same for every data set; heights (solver.h) belong to the points so scaled.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "diffusion/ot/source.h"
#include "tensor/tensor.h"

namespace mote::ot {

struct TargetOptions {
  DType dtype = DType::f32;            // of the operands: f32 or bf16. Rounding to bf16 defines slightly other points
  std::vector<double> weights = {};    // nu, sums to 1 within 1e-6 (and is then divided by its sum); empty: 1 / N each
  bool centre = true;                  // y - mean; off only for tests, or points that are centred already
  bool scale = true;                   // divided by the root of the mean of |y - mean|^2: scores get unit variance
  bool merge_duplicates = false;       // equal points become one with the sum of their weights, instead of an error
  int64_t chunk_bytes = 64 << 20;      // out of core: memory for the rows read at a time
};

/// N rows of D bytes in a file: byte b stands for the number low + b (high - low) / 255.
struct ByteRows {
  std::string path;
  int64_t offset = 0;                  // of the first row
  int64_t stride = 0;                  // from one row to the next; 0: width
  int64_t count = 0, width = 0;
  double low = -1, high = 1;           // images of Mote lie in [-1, 1]
};
/// The rows of an idx file of images that is not packed (packed ones cannot be read in the middle). Throws Error(data).
ByteRows idx_rows(const std::string& path);

/// Row i is what kernels see:  row_i = (y_i - mean) / scale.  Copies share what they hold.
class Targets {
 public:
  /// y f32 [N, ...]: N points of D = numel / N numbers, copied. Throws Error(argument) for another dtype or N D = 0,
  /// Error(data) naming the place: a value that is not finite, a weight that is not positive and finite, more or fewer
  /// weights than points, a sum of weights that is not 1, points that are equal (also after rounding).
  static Targets in_memory(const Tensor& y, const TargetOptions& options = {});
  /// The same points as a file of bytes, read three times here (mean, scale, duplicates) and then a chunk at a time.
  /// Throws Error(data) as above, or if the file is too short.
  static Targets out_of_core(const ByteRows& file, const TargetOptions& options = {});

  int64_t count() const;                               // N
  int64_t width() const;                               // D
  DType dtype() const;                                 // of rows()
  const std::vector<double>& weights() const;          // nu
  const std::vector<double>& score_std() const;        // |row_i|, the standard deviation of <x, row_i>
  const Tensor& mean() const;                          // f32 [D]
  double scale() const;
  /// Number of the given point that target i is (the first of equal ones).
  int64_t given(int64_t i) const;
  const Shape& point_shape() const;                    // the given shape without its first axis; {D} from a file

  /// Rows first .. last - 1 as operands [last - first, D]: a view in memory, else read from the file. `chunks` are the
  /// spans in which all of them should be asked for; one span if they are in memory.
  Tensor rows(int64_t first, int64_t last) const;
  struct Span { int64_t first, last; };
  std::vector<Span> chunks() const;

  /// The points as they were given, f32 [S, D], without the rounding of the operands; index i64 [S].
  /// Throws Error(argument) for an index outside 0..N-1.
  Tensor points(const Tensor& index) const;

  /// Some of the targets with their weights made to sum to 1, centred and scaled as they are here, so that scores keep
  /// their meaning; for maps inside a class. Throws Error(argument) for an index outside, twice, or none at all.
  Targets subset(const std::vector<int64_t>& index) const;

  /// Over rows, weights and dtype: heights are worth nothing for other targets. 16 hex digits.
  const std::string& hash() const;

  struct Data;

 private:
  explicit Targets(std::shared_ptr<const Data> data) : data_(std::move(data)) {}
  std::shared_ptr<const Data> data_;
};

/// Targets of the same cells and heights under a Gaussian source in as few dimensions as their span has, at most N - 1
/// when centred: only the products <row_i, row_j> matter to a rotation-invariant source. Pivoted Cholesky of the Gram
/// matrix in f64; exact up to rounding. Returns nothing where that is not fewer than D. Memory 8 N^2 bytes.
/// Not for the cube, which is not invariant, and not for maps: points() of the result are the coordinates.
std::optional<Targets> reduce_rank(const Targets& targets);

}  // namespace mote::ot
