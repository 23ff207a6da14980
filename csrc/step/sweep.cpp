// Plan::sweep: the sums over parameters that coefficients wait for, then all elements.
#include "plan.h"

namespace onepass {

void Plan::sweep() {
  if (on_devices_ > 0) devices_.run();
  if (elements() == 0 && !sums_) return;
  if (leading_.has_leader) return sweep_rest();
  if (!overlap_.is_found()) {
    catch_up_rows(0, tasks_.size());
    reduce(0, tasks_.size());
    return onepass::sweep(tasks_, ends_);
  }
  for (std::size_t k = 0; k < tasks_.size(); ++k) {
    if (entries_[k].on_device) continue;
    catch_up_rows(k, k + 1);
    reduce(k, k + 1);
    sweep_task(tasks_[k], 0, tasks_[k].size);
  }
}

// Sweeps the tasks that no other plan has swept. The memory for them is reserved.
void Plan::sweep_rest() {
  leading_.rest_ends.clear();
  std::int64_t end = 0;
  for (std::size_t k = 0; k < tasks_.size(); ++k) {
    if (leading_.is_led[k] || entries_[k].on_device) continue;
    leading_.rest.push_back(tasks_[k]);
    leading_.rest_ends.push_back(end += tasks_[k].size);
  }
  onepass::sweep(leading_.rest, leading_.rest_ends);
}

// Multiplies rows that missed decay before their parameters, in their order, are stepped.
void Plan::catch_up_rows(std::size_t first, std::size_t last) {
  if (!catches_up_) return;
  for (const Task& task : std::span(tasks_).subspan(first, last - first))
    if (task.row_keep != nullptr && task.rows == nullptr) catch_up(task);
}

// Gives coefficients the sums over their parameters that they wait for.
void Plan::reduce(std::size_t first, std::size_t last) {
  if (!sums_) return;
  squares_.add_up(tasks_, first, last);
  for (std::size_t k = first; k < last; ++k)
    if (tasks_[k].sums != nullptr) finish(entries_[k], group_of(k), tasks_[k], squares_.of(k));
}

}  // namespace onepass
