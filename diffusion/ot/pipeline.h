// pipeline.h - DPM-OT: one jump by an optimal transport map from noise to states of a noise level M of a diffusion
// model, from which an ordinary sampler goes on (SamplerOptions::start). The map is solver.h's and map.h's; here its
// targets are made, and from the ones it chooses the states x_M.                                        [Li 2023]
#pragma once
#include "diffusion/ot/map.h"
#include "diffusion/samplers/sampler.h"

namespace mote::ot {

/// What the heights are solved for, and where the noise of x_M comes from.
///   fresh   targets are the clean images, x_M = a y_i + sigma eps with a new eps each time. The cells are those of any
///           centred and scaled copy of the images, so one map serves every level.
///   stored  targets are the states y_i = a x_i + sigma eps_i themselves, one eps_i an image, as published: x_M = y_i.
/// Data lie in [-1, 1] and the noise is the model's own (variance preserving: a^2 + sigma^2 = 1). A variance exploding
/// level of standard deviation s is the level with u = sigma / a = s, for the same state divided by a: level_of_u.
enum class Latents { fresh, stored };
Latents latents_named(const std::string& name);  // "fresh" or "stored"; Error(usage) otherwise
const char* name_of(Latents latents);

/// The level at which x / a has noise of the standard deviation u > 0; t is what the network is fed there.
Level level_of_u(double u, double t = 0);

/// a x + sigma eps of images first, first + 1, ...; eps is image_noise of `noise`.
///   x f32 [N, ...] in [-1, 1]; the result is like x
Tensor noised(const Level& level, const Tensor& x, const Generator& noise, int64_t first = 0);

/// The targets of the stored kind: noised, with noise that depends only on seed and the number of the image.
Tensor stored_states(const Level& level, const Tensor& images, uint64_t seed);

/// Where a sampler starts.
struct Start {
  Tensor x;      // f32 [S, ...] of the targets' point_shape, states of the level
  Tensor index;  // i64 [S], the targets that the map chose
};

/// States for the samples first, first + 1, ... of a seed: z of the source, i = argmax <z, row_i> + h_i, then x_M as
/// `latents` says. Sample i depends on (seed, i) only, however the samples are split into batches.
///   targets  of the kind that `latents` names, heights f32 [N] for them
///   source   its seed is not read
/// Throws as assign does.
Start start_states(const Targets& targets, const Tensor& heights, const Source& source, Latents latents,
                   const Level& level, uint64_t seed, int64_t first, int64_t count);

/// The targets that the map chooses for these samples, nothing else: i64 [count].
Tensor chosen_targets(const Targets& targets, const Tensor& heights, const Source& source, uint64_t seed, int64_t first,
                      int64_t count);

}  // namespace mote::ot
