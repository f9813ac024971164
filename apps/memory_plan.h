// memory_plan.h - what a training step will need, found out before the first one.
#pragma once
#include "nn/optim.h"
#include "nn/unet.h"

namespace mote::apps {

/// Bytes of tensors, as the allocator rounds them.
struct MemoryPlan {
  int64_t weights = 0, gradients = 0, moments = 0, average = 0;
  int64_t working = 0;       // the bf16 copy of the weights
  int64_t others = 0;        // everything else that lives already: the images
  int64_t batches = 0;       // images and noise of a step, and the batches that are being prepared
  int64_t activations = 0;   // what forward and backward hold at their peak
  int64_t workspace = 0;     // what the kernels need beside it
  int64_t peak() const;      // of a step: all of the above
};

/// The plan for steps of `batch` images. Activations are exact: forward and backward run without their kernels, so that
/// memory is asked for and never touched. The workspace is that of a real pass over a few images. Changes neither
/// parameters, optimiser nor random state; gradients are zero afterwards.
MemoryPlan plan_memory(nn::UNet& unet, nn::Arena& arena, nn::Optimizer& optimizer, int64_t batch, Device device);

}  // namespace mote::apps
