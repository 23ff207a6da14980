// Sums of squares over parameters and over their gradients.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "../portable.h"
#include "task.h"

namespace onepass {

// What is squared: what the rules of tasks wait for, up to kMaxSquares numbers an element, or the
// gradient as a rule gets it.
enum class Squares { kOfRule, kOfGradient };

// The order of adding depends on a task's size alone. Tasks that are summed over go by index.
class ONEPASS_API SquareSums {
 public:
  explicit SquareSums(Squares squares) : which_(squares) {}

  // Allocates what the sums of these tasks need.
  void prepare(std::span<const Task> tasks);
  // Adds up for the tasks [first, last), without an allocation.
  void add_up(std::span<const Task> tasks, std::size_t first, std::size_t last);
  const double* of(std::size_t task) const { return &squares_[task * kMaxSquares]; }

 private:
  std::int64_t blocks_of(const Task& task) const;
  void add_up_blocks(const Task& task, std::int64_t begin, std::int64_t end, double* sums) const;

  Squares which_;
  std::vector<std::int64_t> ends_;  // where the blocks of each task end, laid end to end
  std::vector<double> partial_;     // kMaxSquares for each block
  std::vector<double> squares_;
};

}  // namespace onepass
