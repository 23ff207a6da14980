// All elements of all tensors, laid end to end as one line, so that threads take equal stretches of
// it whatever the tensors' sizes. Plain arithmetic: tests run it on sizes that no machine can hold.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

namespace onepass {

// `ends[k]` is where tensor k ends on the line. Calls visit(k, begin, end) for each part of a
// tensor that lies in [begin, end) of the line, with begin and end counted from the tensor's first
// element. cut(k, place) is the last place, up to the given one, at which tensor k may be cut;
// neighbouring stretches of the line agree on it.
template <class Cut, class Visit>
void for_each_piece(std::span<const std::int64_t> ends, std::int64_t begin, std::int64_t end,
                    const Cut& cut, const Visit& visit) {
  auto k = std::upper_bound(ends.begin(), ends.end(), begin) - ends.begin();
  while (begin < end) {
    const std::int64_t start = k == 0 ? 0 : ends[k - 1];
    const std::int64_t stop = std::min(ends[k], end);
    const std::int64_t first = cut(k, begin - start);
    const std::int64_t last = stop == ends[k] ? stop - start : cut(k, stop - start);
    if (first < last) visit(k, first, last);
    begin = stop;
    ++k;
  }
}

}  // namespace onepass
