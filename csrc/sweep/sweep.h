// The sweep on the CPU: every element of every task is loaded once, changed by its rule, stored
// once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "loop.h"

namespace onepass {

// How the elements of an operand lie in memory, relative to the order in which a task is swept.
// `strides` is null when the operand lies in that very order without gaps.
struct Operand {
  void* data = nullptr;
  const std::int64_t* strides = nullptr;
  Float type = Float::kFloat32;
};

// One parameter in one step: plain memory, already validated.
struct Task {
  std::int64_t size = 0;
  int dims = 0;                         // of the operands that have strides
  const std::int64_t* sizes = nullptr;  // outermost first
  Operand param, grad, states[kMaxStates];
  int state_count = 0;
  bool maximize = false;
  Float arithmetic = Float::kFloat32;  // kFloat32 or kFloat64
  // A sparse gradient has `row_size` elements for each of `rows`, the rows of the other operands;
  // a dense one has null.
  std::int64_t row_size = 0;
  const std::int64_t* rows = nullptr;
  // The share that remains of each row after the decay that it missed, or null: of `rows`, or where
  // the gradient is dense of all rows, which catch_up() multiplies.
  const double* row_keep = nullptr;
  double grad_scale = 0.0;       // the gradient is divided by it and written back; 0: neither
  const void* update = nullptr;  // the rule's coefficients
  Loop in_place = nullptr;       // the loop over these very types, if there is one
  Loop tiled = nullptr;          // the loop over tiles of the arithmetic type
  SumLoop sums = nullptr;        // the loop of sums over such tiles, if the rule waits for any
};

// Sweeps the elements [begin, end) of one task.
void sweep_task(const Task& task, std::int64_t begin, std::int64_t end);

// Sweeps all tasks in one parallel region. The bits do not depend on the number of threads.
// `ends` holds where each task ends on the line of all elements.
void sweep(std::span<const Task> tasks, std::span<const std::int64_t> ends);

// Multiplies all rows of a parameter with a dense gradient by their share that remains.
void catch_up(const Task& task);

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

// Over this many elements a step lets other Python threads run meanwhile.
inline constexpr std::int64_t kReleaseThreshold = 1048576;

// Under this many elements a step is swept by the calling thread: waking others would take longer.
inline constexpr std::int64_t kParallelThreshold = 32768;

}  // namespace onepass
