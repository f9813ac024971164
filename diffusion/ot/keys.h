// keys.h - the largest scores of samples over all targets, wherever the targets lie: what solver.cpp and map.cpp share.
#pragma once
#include "diffusion/ot/targets.h"
#include "tensor/scores.h"

namespace mote::ot {

/// Throws Error(argument) unless heights is f32 [N] on the CPU, Error(numeric) naming the first that is not finite.
void require_heights(const char* op, const Targets& targets, const Tensor& heights);

/// Keys (tensor/scores.h) of the k largest scores of each sample, i64 [S, k], falling. x has the dtype of the rows.
Tensor top_keys(const Targets& targets, const Tensor& heights, const Tensor& x, int64_t k = 1);

/// Samples worked on at a time: they take 64 MiB at most, and are whole groups of score_softmax, so that how a batch is
/// split follows from D alone.
int64_t samples_at_a_time(const Targets& targets);

}  // namespace mote::ot
