#include "diffusion/ot/map.h"

#include <algorithm>
#include <cmath>

#include "diffusion/ot/keys.h"
#include "tensor/error.h"
#include "tensor/kernels.h"

namespace mote::ot {
namespace {

/// x in the dtype of the rows, checked.
Tensor operand_samples(const char* op, const Targets& targets, const Tensor& x) {
  check(x.defined() && x.ndim() == 2 && x.size(1) == targets.width() && !x.is_cuda() &&
            (x.dtype() == DType::f32 || x.dtype() == DType::bf16),
        op, ": needs samples f32 or bf16 [S, ", targets.width(), "] on the CPU, got ", describe(x));
  Tensor wide = x.to(DType::f32);
  const float* values = wide.data<float>();
  for (int64_t i = 0; i < wide.numel(); ++i)
    if (!std::isfinite(values[i]))
      fail(Error::Kind::numeric, op, ": number ", i % x.size(1), " of sample ", i / x.size(1), " is ", values[i]);
  return x.to(targets.dtype());
}

Tensor column(const Tensor& index, int64_t k) {
  Tensor one = empty({index.size(0), 1}, index.dtype());
  kernel::get_box(one, index, {0, k});
  return one.view({index.size(0)});
}

void require_planes(const char* op, const Planes& planes) {
  check(planes.index.defined() && planes.index.ndim() == 2 && planes.index.dtype() == DType::i64 &&
            planes.score.defined() && planes.score.dtype() == DType::f32 &&
            planes.score.shape() == planes.index.shape(),
        op, ": needs planes index i64 [S, k] and score f32 [S, k], got ", describe(planes.index), " and ",
        describe(planes.score));
}

void require_angles(const char* op, const Tensor& angles, const Shape& shape) {
  check(angles.defined() && angles.dtype() == DType::f32 && angles.shape() == shape, op, ": needs angles f32 ", shape,
        ", got ", describe(angles));
}

/// Rows of weights(sample, plane) for planes within the angle, made to sum to 1; plane 0 is always within.
template <class Weight>
Tensor normalised(const Planes& planes, const Tensor& angles, double max_angle, Weight&& weight) {
  int64_t S = planes.index.size(0), k = planes.index.size(1);
  Tensor weights = zeros({S, k});
  for (int64_t s = 0; s < S; ++s) {
    float* row = weights.data<float>() + s * k;
    double sum = 0;
    std::vector<double> raw(size_t(k), 0.0);
    for (int64_t j = 0; j < k; ++j)
      if (j == 0 || double(angles.data<float>()[s * k + j]) <= max_angle) sum += raw[size_t(j)] = weight(s, j);
    for (int64_t j = 0; j < k; ++j) row[j] = float(raw[size_t(j)] / sum);
  }
  return weights;
}

}  // namespace

Tensor assign(const Targets& targets, const Tensor& heights, const Tensor& x) {
  return top_planes(targets, heights, x, 1).index.view({x.size(0)});
}

Tensor assign_in_class(const Targets& targets, const Tensor& heights, const Tensor& labels, const Tensor& x,
                       const Tensor& wanted) {
  require_heights("ot::assign_in_class", targets, heights);
  check(labels.defined() && labels.dtype() == DType::i64 && labels.shape() == Shape{targets.count()},
        "ot::assign_in_class: needs labels i64 [", targets.count(), "], got ", describe(labels));
  check(x.defined() && x.ndim() == 2 && wanted.defined() && wanted.dtype() == DType::i64 &&
            wanted.shape() == Shape{x.size(0)},
        "ot::assign_in_class: needs a wanted class a sample, i64 [S]: samples are ", describe(x), ", wanted is ",
        describe(wanted));
  const int64_t *label = labels.data<int64_t>(), *want = wanted.data<int64_t>();
  std::vector<int64_t> classes(want, want + wanted.numel());
  std::sort(classes.begin(), classes.end());
  classes.erase(std::unique(classes.begin(), classes.end()), classes.end());
  Tensor result = empty({x.size(0)}, DType::i64);
  for (int64_t one : classes) {
    std::vector<int64_t> members, samples;
    for (int64_t i = 0; i < targets.count(); ++i)
      if (label[i] == one) members.push_back(i);
    check(!members.empty(), "ot::assign_in_class: class ", one, " has no target");
    for (int64_t s = 0; s < x.size(0); ++s)
      if (want[s] == one) samples.push_back(s);
    Tensor own_heights = empty({int64_t(members.size())}),
           own_x = empty({int64_t(samples.size()), x.size(1)}, x.dtype());
    for (size_t i = 0; i < members.size(); ++i) own_heights.data<float>()[i] = heights.data<float>()[members[i]];
    for (size_t s = 0; s < samples.size(); ++s)
      own_x.rows(int64_t(s), int64_t(s) + 1).copy_(x.rows(samples[s], samples[s] + 1));
    Tensor own = assign(targets.subset(members), own_heights, own_x);
    for (size_t s = 0; s < samples.size(); ++s)
      result.data<int64_t>()[samples[s]] = members[size_t(own.data<int64_t>()[s])];
  }
  return result;
}

Planes top_planes(const Targets& targets, const Tensor& heights, const Tensor& x, int64_t k) {
  require_heights("ot::top_planes", targets, heights);
  check(k >= 1 && k <= std::min(targets.count(), kMaxTop),
        "ot::top_planes: needs 1 <= k <= ", std::min(targets.count(), kMaxTop), " for ", targets.count(),
        " targets, got ", k);
  Tensor keys = top_keys(targets, heights, operand_samples("ot::top_planes", targets, x), k);
  Planes planes{empty(keys.shape(), DType::i64), empty(keys.shape())};
  for (int64_t i = 0; i < keys.numel(); ++i) {
    planes.index.data<int64_t>()[i] = target_of_key(keys.data<int64_t>()[i]);
    planes.score.data<float>()[i] = score_of_key(keys.data<int64_t>()[i]);
  }
  return planes;
}

Tensor plane_angles(const Targets& targets, const Planes& planes) {
  require_planes("ot::plane_angles", planes);
  int64_t S = planes.index.size(0), k = planes.index.size(1), D = targets.width();
  Tensor angles = zeros({S, k});
  for (int64_t s = 0; s < S; ++s) {
    const int64_t* index = planes.index.data<int64_t>() + s * k;
    for (int64_t j = 0; j < k; ++j) targets.given(index[j]);  // throws for an index outside
    Tensor best = targets.rows(index[0], index[0] + 1).to(DType::f32);
    double norm = targets.score_std()[size_t(index[0])];
    for (int64_t j = 1; j < k; ++j) {
      Tensor other = targets.rows(index[j], index[j] + 1).to(DType::f32);
      double dot = 1, other_norm = targets.score_std()[size_t(index[j])];
      for (int64_t d = 0; d < D; ++d) dot += double(best.data<float>()[d]) * double(other.data<float>()[d]);
      double cosine = dot / std::sqrt((norm * norm + 1) * (other_norm * other_norm + 1));
      angles.data<float>()[s * k + j] = float(std::acos(std::clamp(cosine, -1.0, 1.0)));
    }
  }
  return angles;
}

Tensor accepted(const Tensor& angles, double max_angle) {
  check(angles.defined() && angles.ndim() == 2 && angles.dtype() == DType::f32,
        "ot::accepted: needs angles f32 [S, k], got ", describe(angles));
  int64_t S = angles.size(0), k = angles.size(1);
  std::vector<int64_t> kept;
  for (int64_t s = 0; s < S; ++s) {
    const float* row = angles.data<float>() + s * k;
    if (std::all_of(row, row + k, [&](float angle) { return double(angle) <= max_angle; })) kept.push_back(s);
  }
  Tensor result = empty({int64_t(kept.size())}, DType::i64);
  std::copy(kept.begin(), kept.end(), result.data<int64_t>());
  return result;
}

Tensor softmax_weights(const Planes& planes, const Tensor& angles, double max_angle, double epsilon) {
  require_planes("ot::softmax_weights", planes);
  require_angles("ot::softmax_weights", angles, planes.index.shape());
  check(epsilon > 0, "ot::softmax_weights: needs epsilon > 0, got ", epsilon);
  int64_t k = planes.index.size(1);
  return normalised(planes, angles, max_angle, [&](int64_t s, int64_t j) {
    const float* score = planes.score.data<float>() + s * k;
    return std::exp((double(score[j]) - double(score[0])) / epsilon);
  });
}

Tensor distance_weights(const Planes& planes, const Tensor& angles, double max_angle, const Tensor& x,
                        const Tensor& centres) {
  require_planes("ot::distance_weights", planes);
  require_angles("ot::distance_weights", angles, planes.index.shape());
  int64_t S = planes.index.size(0), k = planes.index.size(1);
  check(x.defined() && x.ndim() == 2 && x.dtype() == DType::f32 && x.size(0) == S && centres.defined() &&
            centres.ndim() == 2 && centres.dtype() == DType::f32 && centres.size(1) == x.size(1),
        "ot::distance_weights: needs samples f32 [", S, ", D] and centres f32 [N, D], got ", describe(x), " and ",
        describe(centres));
  return normalised(planes, angles, max_angle, [&](int64_t s, int64_t j) {
    int64_t i = planes.index.data<int64_t>()[s * k + j], D = x.size(1);
    check(i >= 0 && i < centres.size(0), "ot::distance_weights: there is no centre ", i, " of ", centres.size(0));
    double squares = 0;
    for (int64_t d = 0; d < D; ++d) {
      double apart = double(x.data<float>()[s * D + d]) - double(centres.data<float>()[i * D + d]);
      squares += apart * apart;
    }
    // A cell without a centre is too small for samples to have fallen into it; it takes part only if it is the best.
    if (std::isnan(squares)) return j == 0 ? 1.0 : 0.0;
    return 1 / std::sqrt(std::max(squares, 1e-30));
  });
}

Tensor blend(const Targets& targets, const Planes& planes, const Tensor& weights) {
  require_planes("ot::blend", planes);
  check(weights.defined() && weights.dtype() == DType::f32 && weights.shape() == planes.index.shape(),
        "ot::blend: needs weights f32 ", planes.index.shape(), ", got ", describe(weights));
  int64_t S = planes.index.size(0), k = planes.index.size(1);
  Tensor blended = zeros({S, targets.width()}), one = full({S}, 1, DType::f64);
  for (int64_t j = 0; j < k; ++j) {
    Tensor factor = column(weights, j).to(DType::f64), points = targets.points(column(planes.index, j));
    kernel::combine_rows(blended, blended, points, one, factor);
  }
  return blended;
}

Tensor cell_centres(const Targets& targets, const Tensor& heights, const Source& source, uint64_t iteration,
                    int64_t samples) {
  check(samples >= 1, "ot::cell_centres: needs samples, got ", samples);
  int64_t N = targets.count(), D = targets.width();
  Tensor centres = zeros({N, D});
  std::vector<int64_t> counts(size_t(N), 0);
  int64_t part = samples_at_a_time(targets);
  for (int64_t done = 0; done < samples; done += part) {
    Tensor x = source.samples(iteration, done, std::min(part, samples - done)), index = assign(targets, heights, x);
    for (int64_t s = 0; s < x.size(0); ++s) {
      int64_t i = index.data<int64_t>()[s];
      ++counts[size_t(i)];
      float *sum = centres.data<float>() + i * D, *row = x.data<float>() + s * D;
      for (int64_t d = 0; d < D; ++d) sum[d] += row[d];
    }
  }
  for (int64_t i = 0; i < N; ++i) {
    float factor = counts[size_t(i)] > 0 ? 1 / float(counts[size_t(i)]) : std::numeric_limits<float>::quiet_NaN();
    for (int64_t d = 0; d < D; ++d) centres.data<float>()[i * D + d] *= factor;
  }
  return centres;
}

}  // namespace mote::ot
