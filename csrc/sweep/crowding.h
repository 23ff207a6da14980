// Whether threads find cores to run on.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace onepass {

// A loop on several threads ends when the last of them has done its part. While other processes
// keep all cores busy, as data loaders do, that thread first waits for a core: for a time slice of
// the scheduler, milliseconds, where the calling thread alone would have taken microseconds. So a
// long wait lets loops that are small run on the calling thread for a while; then threads are tried
// again. The bits do not depend on it. Times are in nanoseconds.
class Crowding {
 public:
  // Whether small loops are left to the calling thread.
  bool lasts(std::int64_t now) const { return now < until_.load(std::memory_order_relaxed); }

  // The calling thread has done its part of a loop in `worked`, and then waited for the others.
  void note(std::int64_t now, std::int64_t worked, std::int64_t waited) {
    if (waited < kShortWait || waited < 2 * worked) return;
    until_.store(now + kRests * std::min(waited, kLongestWait), std::memory_order_relaxed);
  }

 private:
  static constexpr std::int64_t kShortWait = 200'000;  // as a thread takes to wake, or to be moved
  static constexpr std::int64_t kLongestWait = 100'000'000;  // longer ones are of a paused process
  static constexpr std::int64_t kRests = 64;                 // so that waits cost 2 % of the time
  std::atomic<std::int64_t> until_ = 0;
};

}  // namespace onepass
