// epoch_order.h - the order in which training goes through its examples: a new permutation every epoch, by (seed, epoch).
#pragma once
#include <numeric>
#include <utility>
#include <vector>

#include "tensor/random.h"

namespace mote::apps {

inline constexpr uint64_t kOrderKey = 0x6f72646572;  // "order": a stream of the training seed

/// A number in [0, count), from 64 random bits; the bias is below count / 2^64.
inline int64_t bounded(uint64_t bits, int64_t count) {
  return int64_t(static_cast<unsigned __int128>(bits) * static_cast<unsigned __int128>(count) >> 64);
}

/// The image at a position of the endless sequence of epochs. The permutation used last is kept.
class EpochOrder {
 public:
  EpochOrder(uint64_t seed, int64_t count) : generator_(Generator{seed}.fork(kOrderKey)), count_(count) {}

  int64_t at(int64_t position) {
    int64_t epoch = position / count_;
    if (epoch != epoch_) shuffle(epoch);
    return order_[size_t(position % count_)];
  }

 private:
  void shuffle(int64_t epoch) {  // [Fisher and Yates; Durstenfeld 1964]
    order_.resize(size_t(count_));
    std::iota(order_.begin(), order_.end(), int64_t(0));
    Generator generator = generator_.fork(uint64_t(epoch));
    for (int64_t last = count_ - 1; last > 0; --last)
      std::swap(order_[size_t(last)], order_[size_t(bounded(random_bits(generator, uint64_t(last)), last + 1))]);
    epoch_ = epoch;
  }

  Generator generator_;
  int64_t count_;
  int64_t epoch_ = -1;
  std::vector<int64_t> order_;
};

}  // namespace mote::apps
