#include "parallel.h"

#include <pthread.h>

#include <chrono>

#include "crowding.h"

namespace onepass {
namespace {

bool forked = false;
const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });
ParallelFor threads = nullptr;
Crowding crowding;

std::int64_t now() {
  return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A loop that remembers when the calling thread had done its own part.
struct TimedWork {
  void (*work)(const void* context, std::int64_t, std::int64_t);
  const void* context;
  pthread_t caller = pthread_self();
  mutable std::int64_t done = 0;

  static void run(const void* timed, std::int64_t begin, std::int64_t end) {
    const auto& [work, context, caller, done] = *static_cast<const TimedWork*>(timed);
    work(context, begin, end);
    if (pthread_equal(pthread_self(), caller) != 0) done = now();
  }
};

}  // namespace

void set_parallel_for(ParallelFor parallel_for) { threads = parallel_for; }

bool has_threads() { return threads != nullptr && !forked; }

bool is_crowded() { return crowding.lasts(now()); }

void parallel_for(std::int64_t begin, std::int64_t end, std::int64_t grain_size,
                  void (*work)(const void* context, std::int64_t, std::int64_t),
                  const void* context) {
  const TimedWork timed{work, context};
  const std::int64_t start = now();
  threads(begin, end, grain_size, &TimedWork::run, &timed);
  const std::int64_t end_of_all = now();
  if (timed.done != 0) crowding.note(end_of_all, timed.done - start, end_of_all - timed.done);
}

}  // namespace onepass
