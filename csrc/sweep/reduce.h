// The sums over parameters that rules wait for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "task.h"

namespace onepass {

// Sums the squares that tasks wait for, kMaxSquares for each. The order of adding depends on a
// task's size alone.
class SquareSums {
 public:
  // Allocates what the sums of these tasks need.
  void prepare(std::span<const Task> tasks);
  // Adds up for the tasks [first, last), without an allocation.
  void add_up(std::span<const Task> tasks, std::size_t first, std::size_t last);
  const double* of(std::size_t task) const { return &squares_[task * kMaxSquares]; }

 private:
  std::vector<std::int64_t> ends_;  // where the blocks of each task end, laid end to end
  std::vector<double> partial_;     // kMaxSquares for each block
  std::vector<double> squares_;
};

}  // namespace onepass
