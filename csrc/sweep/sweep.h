// The sweep on the CPU: every element of every task is loaded once, changed by its rule, stored
// once.
#pragma once

#include <cstdint>
#include <span>

#include "../portable.h"
#include "task.h"

namespace onepass {

// Sweeps the elements [begin, end) of one task.
ONEPASS_API void sweep_task(const Task& task, std::int64_t begin, std::int64_t end);

// Sweeps all tasks in one parallel region. The bits do not depend on the number of threads.
// `ends` holds where each task ends on the line of all elements.
ONEPASS_API void sweep(std::span<const Task> tasks, std::span<const std::int64_t> ends);

// Multiplies all rows of a parameter with a dense gradient by their share that remains.
ONEPASS_API void catch_up(const Task& task);

// Over this many elements a step lets other Python threads run meanwhile.
inline constexpr std::int64_t kReleaseThreshold = 1048576;

// Under this many elements a step is swept by the calling thread: waking others would take longer.
inline constexpr std::int64_t kParallelThreshold = 32768;

}  // namespace onepass
