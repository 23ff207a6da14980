#include "sweep.h"

#include "flat_index.h"
#include "parallel.h"
#include "tile.h"

namespace onepass {
namespace {

// Elements [begin, end) of a task, whose gradient lies `grad_ahead` elements further on, and what
// remains of the parameter before the step.
struct ElementRange {
  std::int64_t begin, end, grad_ahead = 0;
  double keep = 1.0;
};

template <class Real>
void unscale(Real* grad, std::int64_t size, const GradTransform& transform) {
  const Real scale = static_cast<Real>(transform.scale), reciprocal = Real(1) / scale;
  if (transform.divides_exactly()) {
    for (std::int64_t i = 0; i < size; ++i) grad[i] *= reciprocal;
  } else {
    for (std::int64_t i = 0; i < size; ++i) grad[i] /= scale;
  }
}

template <class Real>
void sweep_tiles(const Task& task, const ElementRange& range) {
  const GradTransform& transform = *task.transform;
  const bool is_scaled = transform.is_scaled(), needs_quotient = transform.needs_quotient();
  const double factor = transform.factor();
  Tile<Real> param, grad, states[kMaxStates];
  HashTile<Real> random;
  for (std::int64_t first = range.begin; first < range.end;) {
    const std::int64_t size = tile_size<Real>(task, first, range.end);
    random.fill(task, first, size);
    param.load(task, task.param, first, size);
    grad.load(task, task.grad, first + range.grad_ahead, size);
    for (int k = 0; k < task.state_count; ++k) states[k].load(task, task.states[k], first, size);
    if (needs_quotient) unscale(grad.data, size, transform);
    if (range.keep != 1.0)
      for (std::int64_t i = 0; i < size; ++i) param.data[i] *= static_cast<Real>(range.keep);
    LoopArgs args{task.update, factor, param.data, grad.data, {}, size};
    for (int k = 0; k < task.state_count; ++k) args.states[k] = states[k].data;
    task.tiled(args);
    if (is_scaled && !needs_quotient) unscale(grad.data, size, transform);
    if (is_scaled) grad.store(task, task.grad, first + range.grad_ahead, size, nullptr);
    param.store(task, task.param, first, size, random.hashes);
    for (int k = 0; k < task.state_count; ++k)
      states[k].store(task, task.states[k], first, size, random.hashes);
    first += size;
  }
}

// Small tensors lie scattered: what the processor asks for by itself comes late. Inlined by force,
// as GCC takes it for a function without effects.
[[gnu::always_inline]] inline void prefetch_start(const Task& task) {
  __builtin_prefetch(task.param.data, /*rw=*/1);
  __builtin_prefetch(task.grad.data);
  for (int k = 0; k < task.state_count; ++k) __builtin_prefetch(task.states[k].data, /*rw=*/1);
}

void sweep_in_place(const Task& task, const ElementRange& range) {
  LoopArgs args{task.update,
                task.transform->factor(),
                element(task.param, range.begin),
                element(task.grad, range.begin + range.grad_ahead),
                {},
                range.end - range.begin};
  for (int k = 0; k < task.state_count; ++k) args.states[k] = element(task.states[k], range.begin);
  task.in_place(args);
}

// In place, tile by tile: a tile's gradient is still in the cache when it is divided and written
// back.
template <class Real>
void sweep_scaled_in_place(const Task& task, const ElementRange& range) {
  Tile<Real> grad;
  for (std::int64_t first = range.begin; first < range.end;) {
    const std::int64_t size = tile_size<Real>(task, first, range.end);
    sweep_in_place(task, {first, first + size});
    grad.load(task, task.grad, first, size);
    unscale(grad.data, size, *task.transform);
    grad.store(task, task.grad, first, size, nullptr);
    first += size;
  }
}

template <class Real>
void sweep_range_as(const Task& task, const ElementRange& range) {
  const GradTransform& transform = *task.transform;
  if (task.in_place == nullptr || range.keep != 1.0 || transform.needs_quotient())
    return sweep_tiles<Real>(task, range);
  return transform.is_scaled() ? sweep_scaled_in_place<Real>(task, range)
                               : sweep_in_place(task, range);
}

void sweep_range(const Task& task, const ElementRange& range) {
  return task.arithmetic == Format::kFloat64 ? sweep_range_as<double>(task, range)
                                             : sweep_range_as<float>(task, range);
}

// Multiplies each row of the parameter by what remains of it after the decay that it missed.
template <class Real>
void keep_rows(const Task& task) {
  Tile<Real> param;
  HashTile<Real> random;
  for (std::int64_t row = 0; row * task.row_size < task.size; ++row) {
    const double keep = task.row_keep[row];
    const std::int64_t end = (row + 1) * task.row_size;
    for (std::int64_t first = end - task.row_size; keep != 1.0 && first < end;) {
      const std::int64_t size = tile_size<Real>(task, first, end);
      random.fill(task, first, size);
      param.load(task, task.param, first, size);
      for (std::int64_t i = 0; i < size; ++i)
        param.data[i] = static_cast<Real>(param.data[i] * keep);
      param.store(task, task.param, first, size, random.hashes);
      first += size;
    }
  }
}

}  // namespace

void sweep_task(const Task& task, std::int64_t begin, std::int64_t end) {
  if (task.rows == nullptr) return sweep_range(task, {begin, end});
  for (std::int64_t k = begin / task.row_size; begin < end; ++k) {
    const std::int64_t stop = std::min(end, (k + 1) * task.row_size);
    const std::int64_t grad_ahead = (k - task.rows[k]) * task.row_size;
    sweep_range(task, {begin - grad_ahead, stop - grad_ahead, grad_ahead,
                       task.row_keep == nullptr ? 1.0 : task.row_keep[k]});
    begin = stop;
  }
}

void catch_up(const Task& caught_up) {
  Task task = caught_up;
  task.rounding_key = mixed(task.rounding_key);  // the step that follows rounds by other bits
  return task.arithmetic == Format::kFloat64 ? keep_rows<double>(task) : keep_rows<float>(task);
}

namespace {

// Sweeps part of a task and of those that follow it, in turns.
void sweep_in_turns(const Task& task, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kTurn = 4096;
  while (begin < end) {
    const std::int64_t stop = end - begin > kTurn ? task.cut(begin + kTurn) : end;
    for (const Task* one = &task; one != nullptr; one = one->follower)
      sweep_task(*one, begin, stop);
    begin = stop;
  }
}

}  // namespace

void sweep(std::span<const Task> tasks, std::span<const std::int64_t> ends) {
  constexpr std::int64_t kAhead = 6;
  const auto sweep_part = [&](std::int64_t begin, std::int64_t end) {
    for_each_piece(
        ends, begin, end, [&](std::int64_t k, std::int64_t place) { return tasks[k].cut(place); },
        [&](std::int64_t k, std::int64_t from, std::int64_t to) {
          if (k + kAhead < std::ssize(tasks)) prefetch_start(tasks[k + kAhead]);
          if (tasks[k].follower != nullptr) return sweep_in_turns(tasks[k], from, to);
          sweep_task(tasks[k], from, to);
        });
  };
  const std::int64_t total = ends.empty() ? 0 : ends.back();
  in_parallel(0, total, kParallelThreshold, sweep_part);
}

}  // namespace onepass
