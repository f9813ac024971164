// parallel.h - splitting loops over threads. A result never depends on how many there are: threads divide independent
// outputs, and sums over more than one chunk are folded in the order of the chunks.
#pragma once
#include <omp.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace mote::cpu {

/// Calls fn(begin, end) on disjoint ranges that cover 0..n-1, from as many threads as have `grain` items each.
/// Inside a parallel region it runs on the calling thread. fn must not throw.
template <class Fn>
void parallel_for(int64_t n, int64_t grain, Fn&& fn) {
  if (n <= 0) return;
  int64_t threads = omp_in_parallel() ? 1 : std::clamp<int64_t>(n / std::max<int64_t>(grain, 1), 1, omp_get_max_threads());
  if (threads == 1) return fn(int64_t(0), n);
#pragma omp parallel num_threads(int(threads))
  {
    int64_t index = omp_get_thread_num(), count = omp_get_num_threads();
    int64_t begin = n * index / count, end = n * (index + 1) / count;
    if (begin < end) fn(begin, end);
  }
}

/// Elements a thread should have before a second one is worth waking.
inline constexpr int64_t kGrain = 16384;

/// Sum of term(i) over 0..n-1: chunks of kChunk elements in 16 lanes of T, chunk sums folded in order in double.
template <class T, class Term>
double chunked_sum(int64_t n, Term&& term) {
  constexpr int64_t kChunk = 4096, kLanes = 16;
  int64_t chunks = (n + kChunk - 1) / kChunk;
  std::vector<double> partial(size_t(chunks), 0.0);
  parallel_for(chunks, std::max<int64_t>(kGrain / kChunk, 1), [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      int64_t begin = chunk * kChunk, end = std::min(n, begin + kChunk), i = begin;
      T lanes[kLanes] = {};
      for (; i + kLanes <= end; i += kLanes)
        for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
      double sum = 0;
      for (T lane : lanes) sum += double(lane);
      for (; i < end; ++i) sum += double(term(i));
      partial[size_t(chunk)] = sum;
    }
  });
  double total = 0;
  for (double part : partial) total += part;
  return total;
}

}  // namespace mote::cpu
