// map.h - applying the map: T(x) = y_i, i = argmax <x, row_i> + h_i, the gradient of the Brenier potential
// u_h(x) = max_i(<x, row_i> + h_i); and its neighbours: the k highest planes, the angles between them, blends.
// Heights come from solver.h. Nothing here stores a score matrix.                               [Li 2023; An 2020]
#pragma once
#include <cstdint>

#include "diffusion/ot/targets.h"

namespace mote::ot {

/// The target of each sample, i64 [S]: the smallest index with the largest <x, row_i> + h_i.
///   x f32 or bf16 [S, D], converted to the dtype of the rows; heights f32 [N]
/// The same bits however samples and targets are split. Throws Error(argument) for other shapes or dtypes,
/// Error(numeric) if a height or a sample is not finite.
Tensor assign(const Targets& targets, const Tensor& heights, const Tensor& x);

/// Inside the class of each sample: labels i64 [N] of the targets, wanted i64 [S]. Heights of solve_classes.
/// Throws Error(argument) for a class that has no target.
Tensor assign_in_class(const Targets& targets, const Tensor& heights, const Tensor& labels, const Tensor& x,
                       const Tensor& wanted);

/// The k highest planes of each sample in falling order of score; equal scores in rising order of index.
struct Planes {
  Tensor index;   // i64 [S, k]
  Tensor score;   // f32 [S, k]
};
/// 1 <= k <= min(N, 64).
Planes top_planes(const Targets& targets, const Tensor& heights, const Tensor& x, int64_t k);

/// Angle in radians between the faces of the graph of u_h that meet at x: of the normals (row_i, -1) of plane 0 and of
/// each plane.  f32 [S, k], column 0 is 0. A large angle marks a wall between targets that are far apart, across which
/// T is discontinuous. On scaled rows |row_i| is about 1, and orthogonal targets are pi / 3 apart.  [An 2020, sec. 3.2]
Tensor plane_angles(const Targets& targets, const Planes& planes);

/// Which samples lie in the inside of a cell: the angle to each of the other k - 1 planes is at most max_angle. i64
/// [count of them], rising. With k = 2 this is the rejection of the published method.
Tensor accepted(const Tensor& angles, double max_angle);

/// Weights of the planes of each sample, f32 [S, k], rows sum to 1; planes beyond max_angle get none.
///   softmax:   proportional to e^((score - score_0) / epsilon), the entropic map on k planes; epsilon > 0
///   distance:  proportional to 1 / |x - centre|, centre the mean of the samples of a cell (cell_centres)  [An 2020]
Tensor softmax_weights(const Planes& planes, const Tensor& angles, double max_angle, double epsilon);
Tensor distance_weights(const Planes& planes, const Tensor& angles, double max_angle, const Tensor& x,
                        const Tensor& centres);

/// sum_k weight y_k of the given points, f32 [S, D].
Tensor blend(const Targets& targets, const Planes& planes, const Tensor& weights);

/// Mean of the samples that fall into each cell, f32 [N, D]; a cell without samples has NaN there.
Tensor cell_centres(const Targets& targets, const Tensor& heights, const Source& source, uint64_t iteration,
                    int64_t samples);

}  // namespace mote::ot
