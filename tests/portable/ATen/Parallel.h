// Stands in for torch's header where csrc is compiled without torch: the same pieces of work, one
// after the other.
#pragma once

#include <algorithm>
#include <cstdint>

namespace at {

template <class Work>
void parallel_for(std::int64_t begin, std::int64_t end, std::int64_t grain_size, const Work& work) {
  for (; begin < end; begin += grain_size) work(begin, std::min(begin + grain_size, end));
}

}  // namespace at
