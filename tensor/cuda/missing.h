// missing.h - the kernels of kernels.h that have no CUDA version: the one table. A line is taken out when the .cu file
// that holds the kernel is added; calls of a kernel that is listed throw Error(resource) naming it.
#pragma once

#define MOTE_MISSING_fill ~, nullptr
#define MOTE_MISSING_convert ~, nullptr
#define MOTE_MISSING_permute ~, nullptr
#define MOTE_MISSING_put_box ~, nullptr
#define MOTE_MISSING_get_box ~, nullptr
#define MOTE_MISSING_broadcast ~, nullptr
#define MOTE_MISSING_unary ~, nullptr
#define MOTE_MISSING_unary_backward ~, nullptr
#define MOTE_MISSING_binary ~, nullptr
#define MOTE_MISSING_binary_backward ~, nullptr
#define MOTE_MISSING_accumulate ~, nullptr
#define MOTE_MISSING_combine ~, nullptr
#define MOTE_MISSING_combine_rows ~, nullptr
#define MOTE_MISSING_dropout ~, nullptr
#define MOTE_MISSING_random_uniform ~, nullptr
#define MOTE_MISSING_random_normal ~, nullptr
#define MOTE_MISSING_random_int ~, nullptr
#define MOTE_MISSING_sum_to ~, nullptr
#define MOTE_MISSING_max_axis ~, nullptr
#define MOTE_MISSING_max_axis_backward ~, nullptr
#define MOTE_MISSING_sum_squares ~, nullptr
#define MOTE_MISSING_matmul ~, nullptr
#define MOTE_MISSING_conv2d ~, nullptr
#define MOTE_MISSING_conv2d_dx ~, nullptr
#define MOTE_MISSING_conv2d_dw ~, nullptr
#define MOTE_MISSING_score_top ~, nullptr
#define MOTE_MISSING_score_softmax ~, nullptr
#define MOTE_MISSING_group_norm ~, nullptr
#define MOTE_MISSING_group_norm_backward ~, nullptr
#define MOTE_MISSING_softmax ~, nullptr
#define MOTE_MISSING_softmax_backward ~, nullptr
#define MOTE_MISSING_attention ~, nullptr
#define MOTE_MISSING_attention_backward ~, nullptr
#define MOTE_MISSING_upsample_nearest ~, nullptr
#define MOTE_MISSING_upsample_nearest_backward ~, nullptr
#define MOTE_MISSING_avg_pool ~, nullptr
#define MOTE_MISSING_avg_pool_backward ~, nullptr
#define MOTE_MISSING_max_pool ~, nullptr
#define MOTE_MISSING_max_pool_backward ~, nullptr
#define MOTE_MISSING_gather_rows ~, nullptr
#define MOTE_MISSING_gather_rows_backward ~, nullptr
#define MOTE_MISSING_cross_entropy ~, nullptr
#define MOTE_MISSING_cross_entropy_backward ~, nullptr
#define MOTE_MISSING_timestep_embedding ~, nullptr
#define MOTE_MISSING_adamw ~, nullptr

/// &space::name, or nullptr if the table above has `name`.
#define MOTE_SECOND(first, second, ...) second
#define MOTE_CHOOSE(...) MOTE_SECOND(__VA_ARGS__)
#define MOTE_KERNEL_OR_NULL(space, name) MOTE_CHOOSE(MOTE_MISSING_##name, &space::name, ~)
