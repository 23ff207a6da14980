// Plan::commit: what changes before the elements do. Nothing here fails or allocates.
#include "../tensor/prefetch.h"
#include "plan.h"

namespace onepass {

void Plan::commit() {
  for (std::size_t k = 0; k < entries_.size(); ++k) {
    if (const std::size_t later = k + kHeadersAhead; later < entries_.size()) {
      prefetch(entries_[later].count);
      entries_[later].tensors.for_each<prefetch_version_header>(tasks_[later].state_count);
    }
    if (const std::size_t later = k + kPartsAhead; later < entries_.size())
      entries_[later].tensors.for_each<prefetch_version>(tasks_[later].state_count);
    Entry& entry = entries_[k];
    const double step = count_step_of(entry);
    if (group_of(k).rounds_randomly() || entry.tensors.has_codes)
      tasks_[k].rounding_key = rounding_key(first_group_ + entry.group, entry.index, step);
    if (entry.tensors.decay_log.sum != nullptr) note_caught_up(k);
    if (!entry.on_device) {
      entry.coefficients =
          &coefficients_.of(entry, group_of(k), step, tasks_[k].arithmetic, /*own=*/sums_);
      tasks_[k].update = entry.coefficients;
    }
    bump_versions(k);
  }
}

// Counts a step where the host does, and returns its number.
double Plan::count_step_of(const Entry& entry) const {
  const at::TensorBase* const step = entry.tensors.step;
  if (entry.count != nullptr) return ++*entry.count;
  if (step != nullptr && !cuda::number_on_device(*step)) return count_step(*step);
  return entry.tensors.is_new ? 1.0 : 2.0;
}

void Plan::bump_versions(std::size_t k) const {
  const Tensors& tensors = entries_[k].tensors;
  const auto bump = [](const at::TensorBase* tensor) {
    tensor->unsafeGetTensorImpl()->bump_version();
  };
  if (tensors.step != nullptr) bump(tensors.step);
  for (std::size_t n = 0; n < group_of(k).algorithm->numbers.size(); ++n) bump(tensors.numbers[n]);
  if (tensors.decay_log.sum != nullptr) {
    bump(tensors.decay_log.sum);
    bump(tensors.decay_log.at_row);
  }
  bump(tensors.param);
  for (int state = 0; state < tasks_[k].state_count; ++state) {
    bump(tensors.states[state]);
    if (const auto* const exponents = tensors.exponents_of(state)) bump(exponents);
  }
  if (scaler_.scales()) bump(tensors.grad);
}

// Rows with a gradient catch up in the sweep, and all of them before a dense one.
void Plan::note_caught_up(std::size_t k) {
  const Entry& entry = entries_[k];
  const Group& group = group_of(k);
  const DecayLog& log = entry.tensors.decay_log;
  if (entry.rows != nullptr) {
    const double kept = group.algorithm->kept_without_gradient(group.hypers);
    onepass::note_caught_up(*entry.rows, log, kept, entry.keep);
  } else {
    onepass::note_caught_up(log, entry.keep);
    catches_up_ = true;
  }
  tasks_[k].row_keep = entry.keep;
}

}  // namespace onepass
