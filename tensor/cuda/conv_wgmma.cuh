// conv_wgmma.cuh - the products of conv.cuh on sm_90a: bf16, stride 1, channels in whole multiples of 64. The copy engine
// reads the operands, box by box, straight out of the tensors: a box is a rectangle of pixels, times images where it holds
// whole ones, times 64 channels, and what lies outside the image arrives as zeros, which is the padding. One warp starts
// copies into a ring of stages; two warpgroups multiply, 64 rows each.
//
//   forward, dx   a tile is a box of up to 128 output pixels times kN channels; k runs over taps and 64 channels at a time
//   dw            a tile is two groups of 64 input channels under a tap times kN output channels; k runs over boxes of up to
//                 64 pixels, cut into splits as in conv.cuh
#pragma once
#include "tensor/cuda/conv.cuh"
#include "tensor/cuda/hopper.h"
#include "tensor/kernels.h"

namespace mote::MOTE_CUDA_NAMESPACE {

/// Images [images, height, width] cut into boxes of the same size, the last ones of an axis overhanging.
struct Boxes {
  int height, width, images;
  int box_height, box_width, box_images;
  int down, across;   // boxes of an image

  MOTE_HD int volume() const { return box_height * box_width * box_images; }
  MOTE_HD int64_t count() const { return int64_t(down) * across * ((images + box_images - 1) / box_images); }

  /// Boxes of at most `most` pixels, as near to it as whole rows allow.
  static Boxes cut(int64_t images, int64_t height, int64_t width, int most) {
    Boxes b{};
    b.height = int(height), b.width = int(width), b.images = int(images);
    b.box_width = std::min(b.width, most);
    int rows = std::min(b.height, most / b.box_width);
    b.down = (b.height + rows - 1) / rows;
    b.box_height = (b.height + b.down - 1) / b.down;
    b.across = (b.width + b.box_width - 1) / b.box_width;
    bool whole = b.down == 1 && b.across == 1;
    b.box_images = whole ? std::min(b.images, most / (b.box_height * b.box_width)) : 1;
    return b;
  }

  struct At {
    int image, y, x;   // of its first pixel
  };
  MOTE_DEVICE At box(int64_t index) const {
    int each = down * across, rest = int(index % each);
    return {int(index / each) * box_images, rest / across * box_height, rest % across * box_width};
  }
  /// The number among all pixels of pixel `row` of a box; -1 if there is none.
  MOTE_DEVICE int64_t pixel(const At& at, int row) const {
    int area = box_height * box_width, rest = row % area;
    int image = at.image + row / area, y = at.y + rest / box_width, x = at.x + rest % box_width;
    bool inside = row < area * box_images && image < images && y < height && x < width;
    return inside ? (int64_t(image) * height + y) * width + x : -1;
  }
};

/// The ring of stages and the two kinds of threads. Panel p of A begins at stage + p kPanel, those of B after A's.
template <int kN, bool kAKFast, bool kBKFast>
struct WarpgroupProduct {
  static constexpr int kThreads = 3 * 128, kStages = 4, kDepth = 64;
  static constexpr int kPanel = kDepth * 128;                    // bytes of 64 rows of 64
  static constexpr int kStage = 2 * kPanel + kN / 64 * kPanel;   // 128 rows (or two panels) of A, kN of B
  static constexpr size_t kShared = size_t(kStages) * kStage + 1024;   // the start is moved to a multiple of 1024

  /// Runs `load(step, stage, gate)` in one thread, and in two warpgroups multiplies; then `store(row, column, pair)` gets the
  /// sums of two columns. `bytes` a step arrive at the gate. kClear: rows that no copy writes count as zeros.
  template <bool kClear, class Load, class Store>
  MOTE_DEVICE static void run(int64_t steps, int bytes, Load&& load, Store&& store) {
    if constexpr (hw::kHopperCode) work<kClear>(steps, bytes, load, store);
  }

 private:
  template <bool kClear, class Load, class Store>
  MOTE_DEVICE static void work(int64_t steps, int bytes, Load& load, Store& store) {
    MOTE_SHARED(uint64_t, full, kStages);
    MOTE_SHARED(uint64_t, free, kStages);
    hw::Ptr<bf16> stages = hw::dynamic_shared<bf16>();
    stages = stages + int(hw::align_1024(stages) / 2);
    auto stage = [&](int64_t step) { return stages + int64_t(step % kStages) * (kStage / 2); };
    if (hw::thread() == 0) {
      for (int i = 0; i < kStages; ++i) {
        hw::gate_init(full + i, 1);
        hw::gate_init(free + i, 8);   // one for each warp that multiplies
      }
      hw::gates_ready();
    }
    if constexpr (kClear) {
      hw::Vec<bf16, 8> zeros{};
      for (int at = hw::thread() * 8; at < kStages * kStage / 2; at += kThreads * 8) hw::store(stages + at, zeros);
      hw::fence_for_wgmma();
    }
    hw::barrier();

    int group = hw::warp() / 4;   // 0: copies, 1 and 2: products
    if (group == 0) {
      if (hw::thread() == 0) {
        for (int64_t step = 0; step < steps; ++step) {
          int slot = int(step % kStages), round = int(step / kStages);
          hw::gate_wait(free + slot, (round & 1) ^ 1);
          hw::gate_expect(full + slot, bytes);
          load(step, stage(step), full + slot);
        }
      }
      return;
    }
    float sums[kN / 2];
    MOTE_UNROLL
    for (float& sum : sums) sum = 0;
    int half = group - 1;
    for (int64_t step = 0; step < steps; ++step) {
      int slot = int(step % kStages);
      hw::gate_wait(full + slot, int(step / kStages) & 1);
      uint64_t a = hw::operand<kAKFast>(stage(step) + half * (kPanel / 2), kPanel);
      uint64_t b = hw::operand<kBKFast>(stage(step) + kPanel, kPanel);
      hw::wgmma_begin();
      MOTE_UNROLL
      for (int k = 0; k < kDepth / 16; ++k)
        hw::wgmma<kAKFast, kBKFast>(sums, hw::next_k<kAKFast>(a, k), hw::next_k<kBKFast>(b, k));
      hw::wgmma_commit();
      hw::wgmma_wait<0>();   // meanwhile the other warpgroup's products run
      if (hw::lane() == 0) hw::gate_arrive(free + slot);
    }
    hw::wgmma_sums(sums);
    int row = half * 64 + hw::warp() % 4 * 16 + hw::lane() / 4, column = hw::lane() % 4 * 2;
    MOTE_UNROLL
    for (int j = 0; j < kN / 8; ++j) {
      MOTE_UNROLL
      for (int low = 0; low < 2; ++low) {
        float pair[2] = {sums[4 * j + 2 * low], sums[4 * j + 2 * low + 1]};
        store(row + 8 * low, 8 * j + column, pair);
      }
    }
  }
};

/// Forward (kTurned = false) and dx: y = sum over taps of the input at (y + origin_y + tap_step i, x + ...) times weights.
template <int kN, bool kTurned>
struct ConvWarpgroups {
  using Core = WarpgroupProduct<kN, true, kTurned>;
  static constexpr int kThreads = Core::kThreads;
  hw::TensorMap in, w;   // [C, W, H, N] and [K, taps C] of the weights, fast axis first
  Pixels<bf16> out;
  Boxes boxes;
  int origin_y, origin_x, tap_step, tap_rows, tap_columns;
  int inner, outer;      // channels that are summed over, and channels of the output

  MOTE_DEVICE void operator()() const {
    int tiles_n = outer / kN, n0 = int(hw::block().x % tiles_n) * kN;
    Boxes::At at = boxes.box(hw::block().x / tiles_n);
    int chunks = inner / Core::kDepth;
    Core::template run<false>(
        int64_t(tap_rows) * tap_columns * chunks, (boxes.volume() + kN) * 128,
        [&](int64_t step, hw::Ptr<bf16> stage, auto gate) {
          int tap = int(step / chunks), k = int(step % chunks) * Core::kDepth;
          int y = at.y + origin_y + tap_step * (tap / tap_columns), x = at.x + origin_x + tap_step * (tap % tap_columns);
          hw::copy_box(stage, in, gate, k, x, y, at.image);
          hw::Ptr<bf16> b = stage + Core::kPanel;
          if constexpr (kTurned) {   // rows are output channels
            hw::copy_box(b, w, gate, k, tap * outer + n0, 0, 0);
          } else {
            for (int panel = 0; panel < kN / 64; ++panel)
              hw::copy_box(b + panel * (Core::kPanel / 2), w, gate, n0 + 64 * panel, tap * inner + k, 0, 0);
          }
        },
        [&](int row, int column, float(&pair)[2]) {
          int64_t pixel = boxes.pixel(at, row);
          if (pixel >= 0) out.put(out.line(pixel), n0 + column, pair);
        });
  }
};

/// dw: rows are taps times input channels.
template <int kN, class Out>
struct ConvWeightWarpgroups {
  using Core = WarpgroupProduct<kN, false, false>;
  static constexpr int kThreads = Core::kThreads;
  hw::TensorMap x, dy;   // [C, W, H, N] each
  Out out;
  Boxes boxes;
  int origin_y, origin_x, tap_rows, tap_columns;
  int inner, outer;      // C and K
  int64_t per_split;     // boxes

  MOTE_DEVICE void operator()() const {
    int tiles_n = outer / kN, n0 = int(hw::block().x % tiles_n) * kN;
    int groups = inner / 64, taps = tap_rows * tap_columns, first = int(hw::block().x / tiles_n) * 2;
    int64_t box0 = int64_t(hw::block().y) * per_split, left = boxes.count() - box0;
    int rows_of_a = first + 1 < taps * groups ? 2 : 1;
    Out target = out;
    target.begin(hw::block().y);
    Core::template run<true>(
        left < per_split ? (left > 0 ? left : 0) : per_split, (rows_of_a + kN / 64) * boxes.volume() * 128,
        [&](int64_t step, hw::Ptr<bf16> stage, auto gate) {
          Boxes::At at = boxes.box(box0 + step);
          for (int i = 0; i < rows_of_a; ++i) {
            int tap = (first + i) / groups, c = (first + i) % groups * 64;
            hw::copy_box(stage + i * (Core::kPanel / 2), x, gate, c, at.x + origin_x + tap % tap_columns,
                         at.y + origin_y + tap / tap_columns, at.image);
          }
          for (int panel = 0; panel < kN / 64; ++panel)
            hw::copy_box(stage + (Core::kPanel + panel * (Core::kPanel / 2)), dy, gate, n0 + 64 * panel, at.x, at.y, at.image);
        },
        [&](int row, int column, float(&pair)[2]) {
          int64_t line = int64_t(first) * 64 + row;
          if (line < int64_t(taps) * inner) target.put(target.line(line), n0 + column, pair);
        });
  }
};

/// Whether the results of these kernels on this device have been found to be those of conv.cuh (conv.cu).
bool warpgroups_agree();

/// Whether a convolution of `x` [N, H, W, C] goes this way.
inline bool warpgroups_can(const Tensor& x, int64_t inner, int64_t outer, const Conv2dSpec& spec) {
  constexpr int64_t kMost = int64_t(1) << 31;
  return hw::is_hopper() && x.dtype() == DType::bf16 && spec.stride == 1 && inner > 0 && inner % 64 == 0 && outer > 0 &&
         outer % 64 == 0 && x.numel() > 0 && x.size(1) * x.size(2) < kMost && x.size(0) < kMost && warpgroups_agree();
}

inline hw::TensorMap image_map(const char* op, const Tensor& x, const Boxes& boxes) {
  return hw::tensor_map(op, x, {x.size(3), x.size(2), x.size(1), x.size(0)},
                        {64, boxes.box_width, boxes.box_height, boxes.box_images});
}
inline hw::TensorMap weight_map(const char* op, const Tensor& w, int rows) {
  return hw::tensor_map(op, w, {w.size(3), w.size(0) * w.size(1) * w.size(2), 1, 1}, {64, rows, 1, 1});
}

}  // namespace mote::MOTE_CUDA_NAMESPACE
