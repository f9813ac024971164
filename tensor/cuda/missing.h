// missing.h - the kernels of kernels.h that have no CUDA version: the one table. A line is taken out when the .cu file
// that holds the kernel is added; calls of a kernel that is listed throw Error(resource) naming it.
// A line: #define MOTE_MISSING_name ~, nullptr. There is none at present.
#pragma once

/// &space::name, or nullptr if the table above has `name`.
#define MOTE_SECOND(first, second, ...) second
#define MOTE_CHOOSE(...) MOTE_SECOND(__VA_ARGS__)
#define MOTE_KERNEL_OR_NULL(space, name) MOTE_CHOOSE(MOTE_MISSING_##name, &space::name, ~)
