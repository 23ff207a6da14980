// In blocks, and in an order that the size decides.
#include "reduce.h"

#include <bit>

#include "flat_index.h"
#include "parallel.h"
#include "sweep.h"
#include "tile.h"

namespace onepass {
namespace {

static_assert(kSumBlock<float> * sizeof(float) == kTileBytes);  // a block is a tile

std::int64_t blocks_of(const Task& task) {
  if (task.sums == nullptr) return 0;
  return task.arithmetic == Float::kFloat64 ? sum_blocks_of<double>(task.size)
                                            : sum_blocks_of<float>(task.size);
}

// One of the sums that a task waits for, from those of its blocks.
double fold(std::span<const double> block_sums, int which) {
  const std::int64_t blocks = std::ssize(block_sums) / kMaxSquares;
  double folds[kFolds] = {};
  for (std::int64_t block = 0; block < blocks; ++block)
    folds[block % kFolds] += block_sums[block * kMaxSquares + which];
  // Folds beyond the last block are 0, and adding them changes nothing.
  const auto used = static_cast<std::size_t>(std::clamp<std::int64_t>(blocks, 1, kFolds));
  for (std::size_t width = std::bit_ceil(used) / 2; width > 0; width /= 2)
    for (std::size_t k = 0; k < width; ++k) folds[k] += folds[k + width];
  return folds[0];
}

template <class Real>
void sum_blocks(const Task& task, std::int64_t begin, std::int64_t end, double* sums) {
  Tile<Real> param, grad, states[kMaxStates];
  for (std::int64_t block = begin; block < end; ++block) {
    const std::int64_t first = block * kSumBlock<Real>;
    const std::int64_t size = std::min(kSumBlock<Real>, task.size - first);
    param.load(task, task.param, first, size);
    grad.load(task, task.grad, first, size);
    if (task.grad_scale != 0.0) {  // written back only in the sweep
      for (std::int64_t i = 0; i < size; ++i)
        grad.buffer[i] = grad.data[i] / static_cast<Real>(task.grad_scale);
      grad.data = grad.buffer;
    }
    LoopArgs args{task.update, task.maximize, param.data, grad.data, {}, size};
    for (int k = 0; k < task.state_count; ++k) {
      states[k].load(task, task.states[k], first, size);
      args.states[k] = states[k].data;
    }
    task.sums(args, sums + block * kMaxSquares);
  }
}

}  // namespace

void SquareSums::prepare(std::span<const Task> tasks) {
  ends_.clear();
  std::int64_t end = 0;
  for (const Task& task : tasks) ends_.push_back(end += blocks_of(task));
  partial_.resize(end * kMaxSquares);
  squares_.resize(tasks.size() * kMaxSquares);
}

void SquareSums::add_up(std::span<const Task> tasks, std::size_t first, std::size_t last) {
  const auto start = [&](std::size_t k) { return k == 0 ? 0 : ends_[k - 1]; };
  in_parallel(start(first), last == 0 ? 0 : ends_[last - 1], kParallelThreshold / kSumBlock<float>,
              [&](std::int64_t begin, std::int64_t end) {
                for_each_piece(ends_, begin, end,
                               [&](std::int64_t k, std::int64_t from, std::int64_t to) {
                                 double* const sums = partial_.data() + start(k) * kMaxSquares;
                                 return tasks[k].arithmetic == Float::kFloat64
                                            ? sum_blocks<double>(tasks[k], from, to, sums)
                                            : sum_blocks<float>(tasks[k], from, to, sums);
                               });
              });
  for (std::size_t k = first; k < last; ++k)
    for (int which = 0; which < kMaxSquares; ++which)
      squares_[k * kMaxSquares + which] = fold(
          std::span(partial_).subspan(start(k) * kMaxSquares, (ends_[k] - start(k)) * kMaxSquares),
          which);
}

}  // namespace onepass
