#include "parallel.h"

#include <pthread.h>

namespace onepass {
namespace {

bool forked = false;
const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });
ParallelFor threads = nullptr;

}  // namespace

void set_parallel_for(ParallelFor parallel_for) { threads = parallel_for; }

bool has_threads() { return threads != nullptr && !forked; }

void parallel_for(std::int64_t begin, std::int64_t end, std::int64_t grain_size,
                  void (*work)(const void* context, std::int64_t, std::int64_t),
                  const void* context) {
  threads(begin, end, grain_size, work, context);
}

}  // namespace onepass
