// winograd.h - 3x3 convolutions of stride 1 by Winograd's F(4x4, 3x3): an output tile of 4x4 pixels costs 36 products of
// matrices where the direct method costs 144.                                       [Winograd 1980; Lavin 2016, sec. 4]
// In f32 only, whatever the tensors hold: the transforms amplify rounding, so f64 and tensor units go the direct way.
// conv.cpp decides when it pays; winograd.cpp holds the transforms.
#pragma once
#include <cstdint>

#include "tensor/cpu/amx.h"
#include "tensor/dtype.h"

namespace mote::cpu {

/// What an output of a convolution starts from; null pointers count as zero.
template <class T, class C>
struct Start {
  const C* bias = nullptr;    // [K], padded to whole panels
  const C* shift = nullptr;   // [N, K padded]
  const T* residual = nullptr;
};

/// y[n, i, j, k] = sum over p, q, c of x[n, i + p - top, j + q - left, c] w[p, q, c, k]; x is zero outside its image.
struct WinogradShape {
  int64_t images, in_height, in_width, in_channels;
  int64_t out_height, out_width, out_channels;
  int64_t top, left;

  int64_t tile_rows() const { return (out_height + 3) / 4; }
  int64_t tile_columns() const { return (out_width + 3) / 4; }
  /// Whether the fewer products are worth the transforms, for tensors of T: the same for any number of images.
  /// With AMX, products of bf16 are so fast that they are not.
  template <class T>
  bool pays() const { return !(std::is_same_v<T, bf16> && amx_enabled()) && pays_in_f32(); }

 private:
  bool pays_in_f32() const;
};

/// The convolution, with w [3, 3, C, K]; or, if `exchanged`, with the kernel turned by half a circle and C and K
/// exchanged (w is then [3, 3, K, C] of this shape): what dx is of dy. Relative error of f32 about 2e-6 at 256 channels.
template <class T>
void winograd_conv(T* y, const T* x, const T* w, bool exchanged, const Start<T, float>& start, const WinogradShape& shape);

/// dw [3, 3, C, K] = gradient of dot(dy, y) with respect to w.
template <class T>
void winograd_dw(T* dw, const T* x, const T* dy, const WinogradShape& shape);

}  // namespace mote::cpu
