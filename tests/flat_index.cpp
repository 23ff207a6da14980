// What part of which tensor lies in a part of the line of all elements, for tests/test_sizes.py.
#include "sweep/flat_index.h"

#include "sweep/task.h"

// Writes (tensor, begin, end) for each piece of [begin, end), and returns how many there are.
extern "C" std::int64_t pieces(const std::int64_t* ends, std::int64_t count, std::int64_t begin,
                               std::int64_t end, std::int64_t* out) {
  std::int64_t found = 0;
  onepass::for_each_piece(
      {ends, static_cast<std::size_t>(count)}, begin, end,
      [task = onepass::Task{}](std::int64_t, std::int64_t place) { return task.cut(place); },
      [&](std::int64_t k, std::int64_t from, std::int64_t to) {
        out[3 * found] = k;
        out[3 * found + 1] = from;
        out[3 * found + 2] = to;
        ++found;
      });
  return found;
}
