// guidance.h - classifier-free guidance: out = out_null + w (out_class - out_null).         [Ho & Salimans 2022, eq. 6]
// With w' = w - 1 this is the paper's (1 + w') out_class - w' out_null.
#pragma once
#include "diffusion/samplers/sampler.h"

namespace mote {

/// Raw output for x, t and class ids i64 [N].
using ConditionalNetwork = std::function<Tensor(const Tensor& x, double t, const Tensor& class_ids)>;

/// Both halves go through one call of the network with a batch of 2 N: x twice, ids class_ids then null_class. w = 1 is
/// the plain conditional network (one half only), w = 0 the unconditional one; the null class is id `null_class`.
///   class_ids i64 [N], on the device of x; x [N, ...]. Ids are checked by the network.
/// Throws Error unless w is finite and class_ids is i64 [N]; the returned Network throws if x has another N.
Network guided(ConditionalNetwork network, const Tensor& class_ids, int64_t null_class, double w);

}  // namespace mote
