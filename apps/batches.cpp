// The order of training: BatchLoader of dataset.h.
#include <algorithm>
#include <array>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <numeric>
#include <thread>

#include "apps/dataset.h"
#include "apps/epoch_order.h"
#include "tensor/error.h"
#include "tensor/random.h"

namespace mote::apps {
namespace {

constexpr uint64_t kFlipKey = 0x666c6970;  // "flip", a stream of the training seed beside kOrderKey

const std::array<float, 256>& pixel_values() {
  static const std::array<float, 256> values = [] {
    std::array<float, 256> table;
    for (size_t byte = 0; byte < 256; ++byte) table[byte] = float(byte) / 127.5f - 1;
    return table;
  }();
  return values;
}

void require_batches(const Dataset& data, int64_t batch, int64_t index) {
  check(data.images.defined() && data.images.ndim() == 4 && data.images.dtype() == DType::u8 &&
            data.images.numel() > 0 && !data.images.is_cuda(),
        "BatchLoader: needs images u8 [N, H, W, C] on the CPU, got ", describe(data.images));
  check(!data.labels.defined() || (data.labels.dtype() == DType::i64 && data.labels.shape() == Shape{data.count()}),
        "BatchLoader: needs labels i64[", data.count(), "] or none, got ", describe(data.labels));
  check(batch > 0 && index >= 0, "BatchLoader: needs batch > 0 and index >= 0, got ", batch, " and ", index);
}

Batch make_batch(const Dataset& data, int64_t batch, uint64_t seed, bool flip, int64_t index, EpochOrder& order) {
  int64_t end;
  check(index < INT64_MAX && !__builtin_mul_overflow(index + 1, batch, &end), "BatchLoader: batch ", index, " of ",
        batch, " images lies beyond position 2^63");
  int64_t H = data.images.size(1), W = data.images.size(2), C = data.images.size(3), B = batch;
  Batch result{empty(Shape{B, H, W, C}), {}};
  if (data.labels.defined()) result.labels = empty(Shape{B}, DType::i64);
  Generator flips = Generator{seed}.fork(kFlipKey);
  const std::array<float, 256>& value = pixel_values();
  float* target = result.images.data<float>();
  for (int64_t n = 0; n < B; ++n) {
    int64_t position = end - B + n, image = order.at(position);
    const uint8_t* from = data.images.data<uint8_t>() + image * H * W * C;
    bool is_flipped = flip && (random_bits(flips, uint64_t(position)) & 1);
    for (int64_t row = 0; row < H; ++row, from += W * C) {
      if (!is_flipped) {
        for (int64_t i = 0; i < W * C; ++i) *target++ = value[from[i]];
      } else {
        for (int64_t x = W - 1; x >= 0; --x)
          for (int64_t c = 0; c < C; ++c) *target++ = value[from[x * C + c]];
      }
    }
    if (data.labels.defined()) result.labels.data<int64_t>()[n] = data.labels.data<int64_t>()[image];
  }
  return result;
}

}  // namespace

struct BatchLoader::State {
  Dataset data;
  int64_t batch;
  uint64_t seed;
  bool flip;
  int64_t index;  // of the batch that is made next
  size_t prefetch;
  EpochOrder order;

  std::mutex mutex;  // guards what follows
  std::condition_variable changed;
  std::deque<Batch> ready;
  std::exception_ptr error;
  bool stopping = false;
  std::thread thread;

  Batch make_next() {
    Batch made = make_batch(data, batch, seed, flip, index, order);
    ++index;
    return made;
  }

  void run() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return stopping || ready.size() < prefetch; });
      if (stopping) return;
      lock.unlock();
      Batch made;
      std::exception_ptr failure;
      try {
        made = make_next();
      } catch (...) {
        failure = std::current_exception();
      }
      lock.lock();
      if (failure) error = failure;
      else ready.push_back(std::move(made));
      changed.notify_all();
      if (failure) return;
    }
  }
};

BatchLoader::BatchLoader(const Dataset& data, int64_t batch, uint64_t seed, bool flip, int64_t first_index,
                         int prefetch) {
  require_batches(data, batch, first_index);
  check(prefetch >= 0, "BatchLoader: prefetch cannot be negative: ", prefetch);
  state_.reset(new State{data,
                         batch,
                         seed,
                         flip,
                         first_index,
                         size_t(prefetch),
                         EpochOrder(seed, data.count()),
                         {},
                         {},
                         {},
                         {},
                         false,
                         {}});
  if (prefetch > 0) state_->thread = std::thread([state = state_.get()] { state->run(); });
}

BatchLoader::~BatchLoader() {
  if (!state_->thread.joinable()) return;
  {
    std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->changed.notify_all();
  state_->thread.join();
}

Batch BatchLoader::next() {
  if (!state_->thread.joinable()) return state_->make_next();
  std::unique_lock lock(state_->mutex);
  state_->changed.wait(lock, [&] { return !state_->ready.empty() || state_->error; });
  if (state_->ready.empty()) std::rethrow_exception(state_->error);
  Batch batch = std::move(state_->ready.front());
  state_->ready.pop_front();
  state_->changed.notify_all();
  return batch;
}

Batch BatchLoader::make(const Dataset& data, int64_t batch, uint64_t seed, bool flip, int64_t index) {
  require_batches(data, batch, index);
  EpochOrder order(seed, data.count());
  return make_batch(data, batch, seed, flip, index, order);
}

}  // namespace mote::apps
