// One loop on several threads, with the same results as on one.
#pragma once

#include <cstdint>

#include "../portable.h"
#include "float_mode.h"

namespace onepass {

// Runs work(context, begin, end) for parts of [begin, end) of about `grain_size` items or more, on
// threads of its own.
using ParallelFor = void (*)(std::int64_t begin, std::int64_t end, std::int64_t grain_size,
                             void (*work)(const void* context, std::int64_t, std::int64_t),
                             const void* context);

// Gives the loops their threads. They are torch's, so that torch.set_num_threads reaches us, and
// this library knows no torch. Before, loops run on the calling thread alone.
ONEPASS_API void set_parallel_for(ParallelFor parallel_for);

// Whether this process may start threads: it was given some, and it was not forked from one that
// had. libgomp's threads do not exist in the child, and its first parallel region there would wait
// for them for ever.
bool has_threads();

// Whether threads of late had to wait for a core (crowding.h).
bool is_crowded();

// Calls work in those threads, and notes how long the calling one waited for the others.
void parallel_for(std::int64_t begin, std::int64_t end, std::int64_t grain_size,
                  void (*work)(const void* context, std::int64_t, std::int64_t),
                  const void* context);

// A loop of so many thresholds takes a thread less time than the scheduler may let it wait.
inline constexpr std::int64_t kSmallLoop = 32;

// Calls work(begin, end) for parts of [begin, end), on several threads where there are more than
// `threshold` items: fewer are done before another thread wakes. Other threads compute in the
// caller's floating-point mode, so that results do not depend on their number.
template <class Work>
void in_parallel(std::int64_t begin, std::int64_t end, std::int64_t threshold, const Work& work) {
  if (end - begin <= threshold || !has_threads()) return work(begin, end);
  if (end - begin <= kSmallLoop * threshold && is_crowded()) return work(begin, end);
  const auto in_mode = [&work, mode = FloatMode::current()](std::int64_t first, std::int64_t last) {
    const FloatModeGuard guard(mode);
    work(first, last);
  };
  using InMode = decltype(in_mode);
  const auto call = [](const void* context, std::int64_t first, std::int64_t last) {
    (*static_cast<const InMode*>(context))(first, last);
  };
  parallel_for(begin, end, threshold / 2, call, &in_mode);
}

}  // namespace onepass
