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

template <class Real>
SumLoop gradient_loop() {
  static constexpr auto table = PerInstructionSet<&run_gradient_sum<Real>>::table;
  return table[instruction_set()];
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
void load_gradient(const Task& task, std::int64_t first, std::int64_t size, Tile<Real>& grad) {
  const GradTransform& transform = *task.transform;
  grad.load(task, task.grad, first, size);
  if (!transform.needs_quotient()) return;
  for (std::int64_t i = 0; i < size; ++i)  // it is written back in the sweep, and only there
    grad.buffer[i] = grad.data[i] / static_cast<Real>(transform.scale);
  grad.data = grad.buffer;
}

template <class Real>
void sum_blocks(const Task& task, Squares squares, std::int64_t begin, std::int64_t end,
                double* sums) {
  Tile<Real> param, grad, states[kMaxStates];
  for (std::int64_t block = begin; block < end; ++block, sums += kMaxSquares) {
    const std::int64_t first = block * kSumBlock<Real>;
    const std::int64_t size = std::min(kSumBlock<Real>, task.size - first);
    load_gradient(task, first, size, grad);
    const double factor = task.transform->factor();
    if (squares == Squares::kOfGradient) {
      gradient_loop<Real>()({nullptr, factor, nullptr, grad.data, {}, size}, sums);
      continue;
    }
    param.load(task, task.param, first, size);
    LoopArgs args{task.update, factor, param.data, grad.data, {}, size};
    for (int k = 0; k < task.state_count; ++k) {
      states[k].load(task, task.states[k], first, size);
      args.states[k] = states[k].data;
    }
    task.sums(args, sums);
  }
}

}  // namespace

std::int64_t SquareSums::blocks_of(const Task& task) const {
  if (which_ == Squares::kOfRule && task.sums == nullptr) return 0;
  return task.arithmetic == Format::kFloat64 ? sum_blocks_of<double>(task.size)
                                             : sum_blocks_of<float>(task.size);
}

void SquareSums::add_up_blocks(const Task& task, std::int64_t begin, std::int64_t end,
                               double* sums) const {
  return task.arithmetic == Format::kFloat64 ? sum_blocks<double>(task, which_, begin, end, sums)
                                             : sum_blocks<float>(task, which_, begin, end, sums);
}

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
                for_each_piece(
                    ends_, begin, end, [](std::int64_t, std::int64_t place) { return place; },
                    [&](std::int64_t k, std::int64_t from, std::int64_t to) {
                      add_up_blocks(tasks[k], from, to, &partial_[(start(k) + from) * kMaxSquares]);
                    });
              });
  const int sums = which_ == Squares::kOfGradient ? 1 : kMaxSquares;
  for (std::size_t k = first; k < last; ++k)
    for (int which = 0; which < sums; ++which)
      squares_[k * kMaxSquares + which] = fold(
          std::span(partial_).subspan(start(k) * kMaxSquares, (ends_[k] - start(k)) * kMaxSquares),
          which);
}

}  // namespace onepass
