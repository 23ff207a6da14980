// Plan::stage, commit and sweep: all that can fail, then what changes.
#include <algorithm>
#include <cstring>

#include "cuda/place.h"
#include "plan.h"

namespace onepass {
namespace {

bool same_coefficients(const Group& a, const Group& b) {
  if (&a == &b || a.algorithm != b.algorithm || a.present != b.present) return &a == &b;
  // NOLINTNEXTLINE(bugprone-suspicious-memory-comparison): 0 and -0 may count as different
  return std::memcmp(a.hypers, b.hypers, sizeof(a.hypers)) == 0;
}

}  // namespace

void Plan::stage() {
  TORCH_INTERNAL_ASSERT(new_decay_logs_.empty(), "the step was not planned anew");
  stage_on_devices();
  coefficients_.reserve(entries_.size());  // tasks point to its elements
  if (sums_) squares_.prepare(tasks_);
  if (lets_others_run()) hold();
}

// Other threads may let go of tensors or give them other memory. What is held is the memory that
// the tasks point to.
void Plan::hold() {
  for (const Entry& entry : entries_) {
    const Tensors& tensors = entry.tensors;
    held_.push_back(tensors.param->storage());
    held_.push_back(tensors.grad->storage());
    for (int k = 0; k < groups_[entry.group].state_count; ++k)
      held_.push_back(tensors.states[k]->storage());
    for (std::size_t k = 0; k < groups_[entry.group].algorithm->numbers.size(); ++k)
      held_.push_back(tensors.numbers[k]->storage());
  }
}

void Plan::commit() {
  for (std::size_t k = 0; k < entries_.size(); ++k) {
    if (const std::size_t later = k + kHeadersAhead; later < entries_.size()) {
      prefetch(entries_[later].count);
      entries_[later].tensors.for_each<prefetch_version_header>(tasks_[later].state_count);
    }
    if (const std::size_t later = k + kPartsAhead; later < entries_.size())
      entries_[later].tensors.for_each<prefetch_version>(tasks_[later].state_count);
    const Tensors& tensors = entries_[k].tensors;
    Task& task = tasks_[k];
    double step = tensors.is_new ? 1.0 : 2.0;
    if (entries_[k].count != nullptr) {
      step = ++*entries_[k].count;
    } else if (tensors.step != nullptr && !cuda::number_on_device(*tensors.step)) {
      step = count_step(*tensors.step);
    }
    if (tensors.step != nullptr) tensors.step->unsafeGetTensorImpl()->bump_version();
    if (tensors.decay_log.sum != nullptr) catch_up(k);
    if (entries_[k].on_device) {
      for (std::size_t n = 0; n < groups_[entries_[k].group].algorithm->numbers.size(); ++n)
        tensors.numbers[n]->unsafeGetTensorImpl()->bump_version();
    } else {
      entries_[k].coefficients = &coefficients_for(k, step);
      task.update = entries_[k].coefficients;
    }
    tensors.param->unsafeGetTensorImpl()->bump_version();
    for (int state = 0; state < task.state_count; ++state)
      tensors.states[state]->unsafeGetTensorImpl()->bump_version();
    if (scaled_) tensors.grad->unsafeGetTensorImpl()->bump_version();
  }
}

// Rows with a gradient catch up in the sweep, and all of them before a dense one.
void Plan::catch_up(std::size_t k) {
  const Entry& entry = entries_[k];
  const Group& group = groups_[entry.group];
  const DecayLog& log = entry.tensors.decay_log;
  if (entry.rows != nullptr) {
    const double kept = group.algorithm->kept_without_gradient(group.hypers);
    note_caught_up(*entry.rows, log, kept, entry.keep);
  } else {
    note_caught_up(log, entry.keep);
    catches_up_ = true;
  }
  tasks_[k].row_keep = entry.keep;
  log.sum->unsafeGetTensorImpl()->bump_version();
  log.at_row->unsafeGetTensorImpl()->bump_version();
}

// Nearly always the parameters of a group have taken the same number of steps, and then their
// numbers are the same too; and many a group is like the one before.
Coefficients& Plan::coefficients_for(std::size_t k, double step) {
  const Group& group = groups_[entries_[k].group];
  const Float arithmetic = tasks_[k].arithmetic;
  const std::span<const NumberMemory> memory = numbers_of(k);
  if (&group == key_.group && step == key_.step && arithmetic == key_.arithmetic &&
      memory.empty() && !sums_)
    return coefficients_.back();
  Number numbers[kMaxNumbers] = {};
  for (std::size_t n = 0; n < memory.size(); ++n) numbers[n] = memory[n].read();
  const CoefficientKey key{&group, step, arithmetic, {numbers[0], numbers[1]}};
  const bool same = key_.group != nullptr && step == key_.step && arithmetic == key_.arithmetic &&
                    key.numbers == key_.numbers && same_coefficients(group, *key_.group);
  if (!same || sums_) {  // sums make a parameter's coefficients its own
    key_ = key;
    group.variant().coefficients(group.hypers, step, numbers, arithmetic,
                                 coefficients_.emplace_back());
    next_numbers_ = {numbers[0], numbers[1]};
  }
  for (std::size_t n = 0; n < memory.size(); ++n) {
    memory[n].write(next_numbers_[n].value);
    entries_[k].tensors.numbers[n]->unsafeGetTensorImpl()->bump_version();
  }
  return coefficients_.back();
}

// Gives coefficients the sums over their parameters that they wait for.
void Plan::finish_coefficients(std::size_t first, std::size_t last) {
  if (!sums_) return;
  squares_.add_up(tasks_, first, last);
  for (std::size_t k = first; k < last; ++k) {
    if (tasks_[k].sums == nullptr) continue;
    const std::span<const NumberMemory> memory = numbers_of(k);
    Number numbers[kMaxNumbers] = {};
    for (std::size_t n = 0; n < memory.size(); ++n) numbers[n] = memory[n].read();
    groups_[entries_[k].group].variant().finish(squares_.of(k), static_cast<double>(tasks_[k].size),
                                                numbers, tasks_[k].arithmetic,
                                                *entries_[k].coefficients);
    for (std::size_t n = 0; n < memory.size(); ++n) memory[n].write(numbers[n].value);
  }
}

// Multiplies rows that missed decay before their parameters, in their order, are stepped.
void Plan::catch_up_rows(std::size_t first, std::size_t last) {
  if (!catches_up_) return;
  for (const Task& task : std::span(tasks_).subspan(first, last - first))
    if (task.row_keep != nullptr && task.rows == nullptr) onepass::catch_up(task);
}

void Plan::sweep() {
  if (entries_.empty()) return;
  sweep_on_devices();
  if (elements() == 0 && !sums_) return;
  if (!in_order_) {
    catch_up_rows(0, tasks_.size());
    finish_coefficients(0, tasks_.size());
    return onepass::sweep(tasks_, ends_);
  }
  for (std::size_t k = 0; k < tasks_.size(); ++k) {
    if (entries_[k].on_device) continue;
    catch_up_rows(k, k + 1);
    finish_coefficients(k, k + 1);
    sweep_task(tasks_[k], 0, tasks_[k].size);
  }
}

}  // namespace onepass
