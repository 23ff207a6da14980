#include "sweep.h"

#include <ATen/Parallel.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>

#include "../storage/codec.h"
#include "line.h"
#include "versions.h"

namespace onepass {
namespace {

constexpr std::int64_t kTileBytes = 4096;  // four to six tiles stay in the first-level cache

// Where an operand with strides continues: the element's index in every dimension but the last,
// kept as an odometer, so that a long run along the last dimension costs one addition.
class Walk {
 public:
  Walk(const Task& task, const Operand& operand, std::int64_t first)
      : sizes_(task.sizes), strides_(operand.strides), last_(task.dims - 1) {
    for (int dim = last_; dim >= 0; --dim) {
      index_[dim] = first % sizes_[dim];
      offset_ += index_[dim] * strides_[dim];
      first /= sizes_[dim];
    }
  }

  std::int64_t offset() const { return offset_; }
  std::int64_t stride() const { return strides_[last_]; }
  std::int64_t left_in_run() const { return sizes_[last_] - index_[last_]; }

  void advance(std::int64_t count) {
    index_[last_] += count;
    offset_ += count * strides_[last_];
    for (int dim = last_; dim > 0 && index_[dim] == sizes_[dim]; --dim) {
      offset_ += strides_[dim - 1] - index_[dim] * strides_[dim];
      index_[dim] = 0;
      ++index_[dim - 1];
    }
  }

 private:
  const std::int64_t *sizes_, *strides_;
  int last_;
  std::int64_t offset_ = 0;
  std::int64_t index_[kMaxDims];
};

template <class Real>
using Codec = void (*)(const Run<Real>&);

template <class Real>
Codec<Real> decoder(Float type) {
  static constexpr std::array<std::array<Codec<Real>, kVersions>, kFloatCount> table = {
      Versions<&decode_run<Real, float>>::table, Versions<&decode_run<Real, double>>::table,
      Versions<&decode_run<Real, BFloat16>>::table, Versions<&decode_run<Real, Half>>::table};
  return table[static_cast<int>(type)][instruction_set()];
}

template <class Real>
Codec<Real> encoder(Float type) {
  static constexpr std::array<std::array<Codec<Real>, kVersions>, kFloatCount> table = {
      Versions<&encode_run<Real, float>>::table, Versions<&encode_run<Real, double>>::table,
      Versions<&encode_run<Real, BFloat16>>::table, Versions<&encode_run<Real, Half>>::table};
  return table[static_cast<int>(type)][instruction_set()];
}

constexpr std::int64_t bytes_of(Float type) {
  constexpr std::int64_t bytes[] = {4, 8, 2, 2};
  return bytes[static_cast<int>(type)];
}

std::byte* element(const Operand& operand, std::int64_t offset) {
  return static_cast<std::byte*>(operand.data) + offset * bytes_of(operand.type);
}

// Moves `size` elements from `first` on between an operand and a tile, by `codec`.
template <class Real>
void move_run(Codec<Real> codec, const Task& task, const Operand& operand, std::int64_t first,
              Run<Real> run) {
  if (operand.strides == nullptr) {
    run.memory = element(operand, first);
    run.stride = 1;
    codec(run);
    return;
  }
  Walk walk(task, operand, first);
  for (std::int64_t left = run.size; left > 0; left -= run.size) {
    run.memory = element(operand, walk.offset());
    run.stride = walk.stride();
    run.size = std::min(left, walk.left_in_run());
    codec(run);
    run.tile += run.size;
    walk.advance(run.size);
  }
}

// A tile of one operand: a view of its memory where that holds the arithmetic type in order
// already, else a copy.
template <class Real>
struct Tile {
  alignas(64) Real buffer[kTileBytes / sizeof(Real)];
  Real* data;

  void load(const Task& task, const Operand& operand, std::int64_t first, std::int64_t size) {
    if (operand.strides == nullptr && operand.type == task.arithmetic) {
      data = reinterpret_cast<Real*>(element(operand, first));
      return;
    }
    data = buffer;
    move_run<Real>(decoder<Real>(operand.type), task, operand, first, {nullptr, 1, data, size});
  }

  void store(const Task& task, const Operand& operand, std::int64_t first, std::int64_t size) {
    if (data != buffer) return;
    move_run<Real>(encoder<Real>(operand.type), task, operand, first, {nullptr, 1, data, size});
  }
};

// Elements [begin, end) of a task, whose gradient lies `grad_ahead` elements further on, and what
// remains of the parameter before the step.
struct Section {
  std::int64_t begin, end, grad_ahead = 0;
  double keep = 1.0;
};

template <class Real>
void sweep_tiles(const Task& task, const Section& section) {
  constexpr std::int64_t kTile = kTileBytes / sizeof(Real);
  Tile<Real> param, grad, states[kMaxStates];
  for (std::int64_t first = section.begin; first < section.end; first += kTile) {
    const std::int64_t size = std::min(kTile, section.end - first);
    param.load(task, task.param, first, size);
    grad.load(task, task.grad, first + section.grad_ahead, size);
    for (int k = 0; k < task.state_count; ++k) states[k].load(task, task.states[k], first, size);
    if (task.grad_scale != 0.0) {
      for (std::int64_t i = 0; i < size; ++i) grad.data[i] /= static_cast<Real>(task.grad_scale);
      grad.store(task, task.grad, first, size);
    }
    if (section.keep != 1.0)
      for (std::int64_t i = 0; i < size; ++i) param.data[i] *= static_cast<Real>(section.keep);
    Stretch stretch{task.update, task.maximize, param.data, grad.data, {}, size};
    for (int k = 0; k < task.state_count; ++k) stretch.states[k] = states[k].data;
    task.tiled(stretch);
    param.store(task, task.param, first, size);
    for (int k = 0; k < task.state_count; ++k) states[k].store(task, task.states[k], first, size);
  }
}

// Small tensors lie scattered: what the processor asks for by itself comes late. Inlined by force,
// as GCC takes it for a function without effects.
[[gnu::always_inline]] inline void prefetch_start(const Task& task) {
  __builtin_prefetch(task.param.data, /*rw=*/1);
  __builtin_prefetch(task.grad.data);
  for (int k = 0; k < task.state_count; ++k) __builtin_prefetch(task.states[k].data, /*rw=*/1);
}

void sweep_section(const Task& task, const Section& section) {
  if (task.in_place == nullptr || section.keep != 1.0) {
    return task.arithmetic == Float::kFloat64 ? sweep_tiles<double>(task, section)
                                              : sweep_tiles<float>(task, section);
  }
  Stretch stretch{task.update,
                  task.maximize,
                  element(task.param, section.begin),
                  element(task.grad, section.begin + section.grad_ahead),
                  {},
                  section.end - section.begin};
  for (int k = 0; k < task.state_count; ++k)
    stretch.states[k] = element(task.states[k], section.begin);
  task.in_place(stretch);
}

// libgomp's threads do not exist in a forked child, and its first parallel region there would wait
// for them for ever. A child therefore sweeps alone.
bool forked = false;
const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });

}  // namespace

void sweep_task(const Task& task, std::int64_t begin, std::int64_t end) {
  if (task.rows == nullptr) return sweep_section(task, {begin, end});
  for (std::int64_t k = begin / task.row_size; begin < end; ++k) {
    const std::int64_t stop = std::min(end, (k + 1) * task.row_size);
    const std::int64_t grad_ahead = (k - task.rows[k]) * task.row_size;
    sweep_section(task, {begin - grad_ahead, stop - grad_ahead, grad_ahead,
                         task.row_keep == nullptr ? 1.0 : task.row_keep[k]});
    begin = stop;
  }
}

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
    Stretch stretch{task.update, task.maximize, param.data, grad.data, {}, size};
    for (int k = 0; k < task.state_count; ++k) {
      states[k].load(task, task.states[k], first, size);
      stretch.states[k] = states[k].data;
    }
    task.sums(stretch, sums + block * kMaxSquares);
  }
}

}  // namespace

void sum_squares(std::span<const Task> tasks, std::vector<double>& partial, double* squares) {
  std::vector<std::int64_t> ends;
  ends.reserve(tasks.size());
  for (const Task& task : tasks) ends.push_back((ends.empty() ? 0 : ends.back()) + blocks_of(task));
  const std::int64_t blocks = ends.empty() ? 0 : ends.back();
  partial.assign(blocks * kMaxSquares, 0.0);
  const auto start = [&](std::int64_t k) { return k == 0 ? 0 : ends[k - 1]; };
  const auto sum_stretch = [&](std::int64_t begin, std::int64_t end) {
    for_each_piece(ends, begin, end, [&](std::int64_t k, std::int64_t from, std::int64_t to) {
      double* const sums = partial.data() + start(k) * kMaxSquares;
      return tasks[k].arithmetic == Float::kFloat64 ? sum_blocks<double>(tasks[k], from, to, sums)
                                                    : sum_blocks<float>(tasks[k], from, to, sums);
    });
  };
  constexpr std::int64_t kFewBlocks = kParallelThreshold / kSumBlock<float>;
  if (forked || blocks <= kFewBlocks) {
    sum_stretch(0, blocks);
  } else {
    at::parallel_for(0, blocks, kFewBlocks / 2, sum_stretch);
  }
  for (std::int64_t k = 0; k < std::ssize(tasks); ++k)
    for (int which = 0; which < kMaxSquares; ++which)
      squares[k * kMaxSquares + which] = fold(
          std::span(partial).subspan(start(k) * kMaxSquares, (ends[k] - start(k)) * kMaxSquares),
          which);
}

void sweep(std::span<const Task> tasks, std::span<const std::int64_t> ends) {
  constexpr std::int64_t kAhead = 6;
  const auto sweep_stretch = [&](std::int64_t begin, std::int64_t end) {
    for_each_piece(ends, begin, end, [&](std::int64_t k, std::int64_t from, std::int64_t to) {
      if (k + kAhead < std::ssize(tasks)) prefetch_start(tasks[k + kAhead]);
      sweep_task(tasks[k], from, to);
    });
  };
  const std::int64_t total = ends.empty() ? 0 : ends.back();
  if (forked || total <= kParallelThreshold) return sweep_stretch(0, total);
  at::parallel_for(0, total, kParallelThreshold / 2, sweep_stretch);
}

}  // namespace onepass
