#include "diffusion/ot/targets.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <numeric>

#include "tensor/error.h"
#include "tensor/io/file.h"
#include "tensor/kernels.h"

namespace mote::ot {

struct Targets::Data {
  int64_t width = 0, chunk = 0;  // chunk: rows asked for at a time
  DType dtype = DType::f32;
  double scale = 1;
  Tensor mean;  // f32 [D]
  std::vector<double> weights, score_std;
  std::vector<int64_t> given;  // number of the given point
  Shape point_shape;
  std::string hash;
  Tensor points;  // in memory: as given, f32 [number given, D]
  Tensor rows;    // in memory: operands [N, D]
  ByteRows file;  // out of core: path is not empty

  int64_t count() const { return int64_t(given.size()); }
  bool in_memory() const { return file.path.empty(); }
};

namespace {

using Data = Targets::Data;

// ---- Given points --------------------------------------------------------------------------------------------------

/// Given points from[0], from[1], ... as f32 [count, D]; neighbours in the file are read together.
Tensor read_points(const ByteRows& file, const int64_t* from, int64_t count) {
  Tensor points = empty({count, file.width});
  std::ifstream in(file.path, std::ios::binary);
  std::vector<char> bytes;
  for (int64_t i = 0; i < count;) {
    int64_t run = 1;
    while (i + run < count && from[i + run] == from[i] + run) ++run;
    int64_t begin = file.offset + from[i] * file.stride, length = (run - 1) * file.stride + file.width;
    bytes.resize(size_t(length));
    in.seekg(begin);
    in.read(bytes.data(), length);
    if (!in)
      fail(Error::Kind::data, "ot: ", file.path, ": bytes ", begin, " .. ", begin + length - 1, " cannot be read; ",
           file.count, " rows of ", file.width, " bytes are needed");
    for (int64_t r = 0; r < run; ++r) {
      const char* row = bytes.data() + r * file.stride;
      float* to = points.data<float>() + (i + r) * file.width;
      for (int64_t d = 0; d < file.width; ++d)
        to[d] = float(file.low + double(uint8_t(row[d])) * (file.high - file.low) / 255);
    }
    i += run;
  }
  return points;
}

Tensor given_points(const Data& data, const int64_t* from, int64_t count) {
  if (!data.in_memory()) return read_points(data.file, from, count);
  Tensor points = empty({count, data.width});
  for (int64_t i = 0; i < count; ++i)
    std::copy_n(data.points.data<float>() + from[i] * data.width, data.width, points.data<float>() + i * data.width);
  return points;
}

/// (y - mean) / scale in the dtype of the operands, from given points f32 [n, D].
Tensor operands(const Data& data, const Tensor& points) {
  Tensor rows = empty(points.shape());
  const float* mean = data.mean.data<float>();
  float factor = float(1 / data.scale);
  for (int64_t i = 0; i < points.size(0); ++i) {
    const float* from = points.data<float>() + i * data.width;
    float* to = rows.data<float>() + i * data.width;
    for (int64_t d = 0; d < data.width; ++d) to[d] = (from[d] - mean[d]) * factor;
  }
  return rows.to(data.dtype);
}

/// fn(first, points f32 [n, D]) for all targets, a chunk at a time.
template <class Fn>
void for_chunks(const Data& data, Fn&& fn) {
  for (int64_t first = 0; first < data.count(); first += data.chunk)
    fn(first, given_points(data, data.given.data() + first, std::min(data.chunk, data.count() - first)));
}

// ---- Checks and statistics -----------------------------------------------------------------------------------------

std::vector<double> checked_weights(const std::vector<double>& given, int64_t count) {
  if (given.empty()) return std::vector<double>(size_t(count), 1.0 / double(count));
  if (int64_t(given.size()) != count)
    fail(Error::Kind::data, "ot::Targets: ", given.size(), " weights for ", count, " targets");
  double sum = 0;
  for (size_t i = 0; i < given.size(); ++i) {
    if (!(std::isfinite(given[i]) && given[i] > 0))
      fail(Error::Kind::data, "ot::Targets: weight ", i, " is ", given[i],
           "; every target needs a positive one (leave out the targets that get nothing)");
    sum += given[i];
  }
  if (std::abs(sum - 1) > 1e-6) fail(Error::Kind::data, "ot::Targets: the weights sum to ", sum, " instead of 1");
  std::vector<double> weights = given;
  for (double& weight : weights) weight /= sum;
  return weights;
}

/// Mean and scale by the weights, in f64.
void find_moments(Data& data, bool centre, bool scale) {
  std::vector<double> mean(size_t(data.width), 0.0);
  for_chunks(data, [&](int64_t first, const Tensor& points) {
    for (int64_t i = 0; i < points.size(0); ++i) {
      const float* row = points.data<float>() + i * data.width;
      double weight = data.weights[size_t(first + i)];
      for (int64_t d = 0; d < data.width; ++d) {
        if (!std::isfinite(row[d]))
          fail(Error::Kind::data, "ot::Targets: number ", d, " of target ", first + i, " is ", row[d]);
        mean[size_t(d)] += weight * double(row[d]);
      }
    }
  });
  data.mean = zeros({data.width});
  if (centre)
    for (int64_t d = 0; d < data.width; ++d) data.mean.data<float>()[d] = float(mean[size_t(d)]);
  if (!scale) return;
  double squares = 0;
  for_chunks(data, [&](int64_t first, const Tensor& points) {
    for (int64_t i = 0; i < points.size(0); ++i) {
      const float* row = points.data<float>() + i * data.width;
      double sum = 0;
      for (int64_t d = 0; d < data.width; ++d) {
        double centred = double(row[d]) - double(data.mean.data<float>()[d]);
        sum += centred * centred;
      }
      squares += data.weights[size_t(first + i)] * sum;
    }
  });
  if (squares > 0) data.scale = std::sqrt(squares);  // 0: all are equal, which is an error or a single target
}

/// Norms and hash of the operands; returns a hash of each row.
std::vector<uint64_t> find_norms(Data& data) {
  std::vector<uint64_t> row_hash;
  io::Hasher all;
  int64_t head[] = {data.count(), data.width, int64_t(data.dtype)};
  all.update(head, sizeof head);
  all.update(data.weights.data(), data.weights.size() * sizeof(double));
  data.score_std.clear();
  auto take = [&](const Tensor& rows) {
    all.update(rows.raw(), size_t(rows.nbytes()));
    for_floating("ot::Targets", rows.dtype(), [&](auto zero) {
      using T = decltype(zero);
      for (int64_t i = 0; i < rows.size(0); ++i) {
        const T* row = rows.data<T>() + i * data.width;
        double squares = 0;
        for (int64_t d = 0; d < data.width; ++d) squares += double(row[d]) * double(row[d]);
        data.score_std.push_back(std::sqrt(squares));
        io::Hasher one;
        one.update(row, size_t(data.width) * sizeof(T));
        row_hash.push_back(one.value());
      }
    });
  };
  if (data.in_memory()) take(data.rows);
  else for_chunks(data, [&](int64_t, const Tensor& points) { take(operands(data, points)); });
  data.hash = all.hex();
  return row_hash;
}

Tensor operand_row(const Data& data, int64_t i) {
  return data.in_memory() ? data.rows.rows(i, i + 1) : operands(data, given_points(data, &data.given[size_t(i)], 1));
}

bool same_row(const Data& data, int64_t i, int64_t j) {
  Tensor a = operand_row(data, i), b = operand_row(data, j);
  return std::equal(static_cast<const char*>(a.raw()), static_cast<const char*>(a.raw()) + a.nbytes(),
                    static_cast<const char*>(b.raw()));
}

/// For each target the smallest one with an equal row.
std::vector<int64_t> first_equal(const Data& data, const std::vector<uint64_t>& row_hash) {
  std::vector<int64_t> first(row_hash.size()), order(row_hash.size());
  std::iota(first.begin(), first.end(), int64_t(0));
  std::iota(order.begin(), order.end(), int64_t(0));
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t i, int64_t j) { return row_hash[size_t(i)] < row_hash[size_t(j)]; });
  for (size_t at = 1; at < order.size(); ++at) {
    // The target before it in the order has the same hash if any before has, and knows the first of its equals.
    int64_t i = order[at], before = order[at - 1];
    if (row_hash[size_t(i)] == row_hash[size_t(before)] && same_row(data, i, before))
      first[size_t(i)] = first[size_t(before)];
  }
  return first;
}

/// Leaves only the targets kept[0], kept[1], ... of those that are there.
void keep_only(Data& data, const std::vector<int64_t>& kept) {
  std::vector<int64_t> given;
  for (int64_t i : kept) given.push_back(data.given[size_t(i)]);
  data.given = std::move(given);
  if (data.in_memory()) data.rows = operands(data, given_points(data, data.given.data(), data.count()));
}

void merge_equal(Data& data, const std::vector<int64_t>& first) {
  std::vector<int64_t> kept;
  std::vector<double> weights = data.weights;
  for (size_t i = 0; i < first.size(); ++i) {
    if (first[i] == int64_t(i)) kept.push_back(int64_t(i));
    else weights[size_t(first[i])] += weights[i];
  }
  data.weights.clear();
  for (int64_t i : kept) data.weights.push_back(weights[size_t(i)]);
  keep_only(data, kept);
}

/// Everything from the given points on.
std::shared_ptr<const Data> build(std::shared_ptr<Data> data, int64_t count, const TargetOptions& options) {
  check(options.dtype == DType::f32 || options.dtype == DType::bf16, "ot::Targets: operands are f32 or bf16, ",
        options.dtype, " was asked for");
  data->dtype = options.dtype;
  data->weights = checked_weights(options.weights, count);
  data->given.resize(size_t(count));
  std::iota(data->given.begin(), data->given.end(), int64_t(0));
  data->chunk = count;
  if (!data->in_memory()) {
    // Whole blocks, so that sums over targets have the bits that they have in memory.
    int64_t fit = options.chunk_bytes / (data->width * size_of(options.dtype)) / kScoreRows;
    data->chunk = std::max<int64_t>(fit, 1) * kScoreRows;
  }
  find_moments(*data, options.centre, options.scale);
  if (data->in_memory()) data->rows = operands(*data, data->points);
  std::vector<int64_t> first = first_equal(*data, find_norms(*data));
  int64_t equal = 0;
  while (equal < count && first[size_t(equal)] == equal) ++equal;
  if (equal == count) return data;
  if (!options.merge_duplicates)
    fail(Error::Kind::data, "ot::Targets: targets ", first[size_t(equal)], " and ", equal, " are equal",
         options.dtype == DType::bf16 ? " in bf16" : "",
         ", so no heights can part their cells; leave one out, or merge equal ones into one with the sum of their "
         "weights");
  merge_equal(*data, first);
  find_norms(*data);
  return data;
}

}  // namespace

// ---- Targets -------------------------------------------------------------------------------------------------------

ByteRows idx_rows(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  unsigned char head[16] = {};
  if (!in.read(reinterpret_cast<char*>(head), sizeof head))
    fail(Error::Kind::data, path, ": cannot be read, or is too short for the 16 bytes of an idx header of images");
  auto number = [&](int at) { return int64_t(head[at]) << 24 | head[at + 1] << 16 | head[at + 2] << 8 | head[at + 3]; };
  if (head[0] == 0x1f && head[1] == 0x8b)
    fail(Error::Kind::data, path, ": is packed with gzip, which cannot be read in the middle; unpack it first");
  if (number(0) != 2051)
    fail(Error::Kind::data, path, ": the magic number is ", number(0), ", idx images begin with 2051");
  ByteRows rows{path, 16, 0, number(4), number(8) * number(12)};
  if (rows.count < 1 || rows.width < 1)
    fail(Error::Kind::data, path, ": its idx header gives ", number(4), " images of ", number(8), " x ", number(12));
  return rows;
}

Targets Targets::in_memory(const Tensor& y, const TargetOptions& options) {
  check(y.defined() && y.dtype() == DType::f32 && y.ndim() >= 1 && y.numel() > 0 && !y.is_cuda(),
        "ot::Targets: needs f32 [N, ...] on the CPU with N D > 0, got ", describe(y));
  auto data = std::make_shared<Data>();
  int64_t count = y.size(0);
  data->width = y.numel() / count;
  std::vector<int64_t> sizes;
  for (int axis = 1; axis < y.ndim(); ++axis) sizes.push_back(y.size(axis));
  data->point_shape = sizes.empty() ? Shape{1} : Shape(sizes);
  data->points = y.detach().view({count, data->width});
  return Targets(build(data, count, options));
}

Targets Targets::out_of_core(const ByteRows& file, const TargetOptions& options) {
  check(!file.path.empty() && file.count >= 1 && file.width >= 1 && file.offset >= 0 &&
            (file.stride == 0 || file.stride >= file.width) && std::isfinite(file.low) && std::isfinite(file.high) &&
            file.low < file.high,
        "ot::Targets: ", file.count, " rows of ", file.width, " bytes, ", file.stride, " apart, from byte ",
        file.offset, " of '", file.path, "' for ", file.low, " .. ", file.high, " make no sense");
  auto data = std::make_shared<Data>();
  data->width = file.width;
  data->point_shape = Shape{file.width};
  data->file = file;
  if (file.stride == 0) data->file.stride = file.width;
  return Targets(build(data, file.count, options));
}

int64_t Targets::count() const { return data_->count(); }
int64_t Targets::width() const { return data_->width; }
DType Targets::dtype() const { return data_->dtype; }
const std::vector<double>& Targets::weights() const { return data_->weights; }
const std::vector<double>& Targets::score_std() const { return data_->score_std; }
const Tensor& Targets::mean() const { return data_->mean; }
double Targets::scale() const { return data_->scale; }
const Shape& Targets::point_shape() const { return data_->point_shape; }
const std::string& Targets::hash() const { return data_->hash; }

int64_t Targets::given(int64_t i) const {
  check(i >= 0 && i < count(), "ot::Targets: there is no target ", i, " of ", count());
  return data_->given[size_t(i)];
}

Tensor Targets::rows(int64_t first, int64_t last) const {
  check(0 <= first && first <= last && last <= count(), "ot::Targets: there are no rows ", first, " .. ", last - 1,
        " of ", count());
  if (data_->in_memory()) return data_->rows.rows(first, last);
  return operands(*data_, given_points(*data_, data_->given.data() + first, last - first));
}

std::vector<Targets::Span> Targets::chunks() const {
  std::vector<Span> spans;
  int64_t chunk = data_->in_memory() ? count() : data_->chunk;
  for (int64_t first = 0; first < count(); first += chunk) spans.push_back({first, std::min(count(), first + chunk)});
  return spans;
}

Tensor Targets::points(const Tensor& index) const {
  check(index.defined() && index.ndim() == 1 && index.dtype() == DType::i64, "ot::Targets: needs indices i64 [S], got ",
        describe(index));
  std::vector<int64_t> from;
  for (int64_t s = 0; s < index.numel(); ++s) from.push_back(given(index.data<int64_t>()[s]));
  return given_points(*data_, from.data(), int64_t(from.size()));
}

Targets Targets::subset(const std::vector<int64_t>& index) const {
  check(!index.empty(), "ot::Targets: a subset needs a target");
  std::vector<char> seen(size_t(count()), 0);
  double sum = 0;
  for (int64_t i : index) {
    check(i >= 0 && i < count(), "ot::Targets: there is no target ", i, " of ", count(), " for a subset");
    check(!seen[size_t(i)], "ot::Targets: target ", i, " is twice in a subset");
    seen[size_t(i)] = 1;
    sum += weights()[size_t(i)];
  }
  auto data = std::make_shared<Data>(*data_);
  data->weights.clear();
  for (int64_t i : index) data->weights.push_back(weights()[size_t(i)] / sum);
  keep_only(*data, index);
  find_norms(*data);
  return Targets(data);
}

}  // namespace mote::ot
