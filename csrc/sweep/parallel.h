// One loop on several threads, with the same results as on one.
#pragma once

#include <ATen/Parallel.h>

#include <cstdint>

#include "float_mode.h"

namespace onepass {

// Whether this process was forked from one that had started threads. libgomp's threads do not exist
// in the child, and its first parallel region there would wait for them for ever.
bool is_forked();

// Calls work(begin, end) for parts of [begin, end), on several threads where there are more than
// `threshold` items: fewer are done before another thread wakes. Other threads compute in the
// caller's floating-point mode, so that results do not depend on their number.
template <class Work>
void in_parallel(std::int64_t begin, std::int64_t end, std::int64_t threshold, const Work& work) {
  if (is_forked() || end - begin <= threshold) return work(begin, end);
  const FloatMode mode = FloatMode::current();
  at::parallel_for(begin, end, threshold / 2, [&](std::int64_t first, std::int64_t last) {
    const FloatModeGuard guard(mode);
    work(first, last);
  });
}

}  // namespace onepass
